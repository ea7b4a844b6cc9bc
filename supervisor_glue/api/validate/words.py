# SPDX-License-Identifier: Apache-2.0
"""Causes and syntax that all kinds share (k8s.io/apimachinery/pkg/util/validation and …/field)."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from supervisor_glue.api.status import Cause

_LABEL: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN: Final = rf"{_LABEL}(\.{_LABEL})*"
_QUALIFIED: Final = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_VALUE: Final = f"({_QUALIFIED})?"
_KEY: Final = "[-._a-zA-Z0-9]+"
_ENVIRONMENT: Final = "[ -<>-~]+"

LABEL_TOLD: Final = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with"
    f" an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{_LABEL}')"
)
SUBDOMAIN_TOLD: Final = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and"
    " end with an alphanumeric character (e.g. 'example.com', regex used for validation is"
    f" '{_SUBDOMAIN}')"
)
_QUALIFIED_TOLD: Final = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric"
    f" character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{_QUALIFIED}')"
)
_VALUE_TOLD: Final = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and"
    " end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is"
    f" '{_VALUE}')"
)
KEY_TOLD: Final = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or"
    f" 'key-name', regex used for validation is '{_KEY}')"
)


def quoted(value: Any) -> str:
    """A value as messages show it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def invalid(field: str, value: Any, why: str) -> Cause:
    return Cause("FieldValueInvalid", f"Invalid value: {quoted(value)}: {why}", field)


def required(field: str, why: str = "") -> Cause:
    return Cause("FieldValueRequired", "Required value" + (f": {why}" if why else ""), field)


def forbidden(field: str, why: str) -> Cause:
    return Cause("FieldValueForbidden", f"Forbidden: {why}", field)


def duplicate(field: str, value: Any) -> Cause:
    return Cause("FieldValueDuplicate", f"Duplicate value: {quoted(value)}", field)


def not_found(field: str, value: Any) -> Cause:
    return Cause("FieldValueNotFound", f"Not found: {quoted(value)}", field)


def unsupported(field: str, value: Any, known: Iterable[str]) -> Cause:
    told = ", ".join(quoted(item) for item in known)
    return Cause("FieldValueNotSupported", f"Unsupported value: {quoted(value)}: supported values: {told}", field)


def too_long(field: str, most: int) -> Cause:
    return Cause("FieldValueTooLong", f"Too long: may not be more than {most} bytes", field)


def label_wrong(text: str) -> list[str]:
    """What is wrong with a DNS label (RFC 1123)."""
    return _wrong(text, _LABEL, LABEL_TOLD, 63)


def subdomain_wrong(text: str) -> list[str]:
    return _wrong(text, _SUBDOMAIN, SUBDOMAIN_TOLD, 253)


def value_wrong(text: str) -> list[str]:
    """What is wrong with a label's value."""
    return _wrong(text, _VALUE, _VALUE_TOLD, 63)


def key_wrong(text: str) -> list[str]:
    """What is wrong with a key of a ConfigMap or Secret."""
    if text == ".":
        return ["must not be '.'"]
    if text.startswith(".."):
        return ["must not be '..'" if text == ".." else "must not start with '..'"]
    return _wrong(text, _KEY, KEY_TOLD, 253)


def qualified_wrong(text: str) -> list[str]:
    """What is wrong with a label's key: a name, perhaps with a prefix."""
    prefix, slash, name = text.rpartition("/")
    found = []
    if slash:
        found = ["prefix part " + ("must be non-empty" if not prefix else why) for why in subdomain_wrong(prefix)][:1]
        if "/" in prefix:
            return [
                "a qualified name "
                + _QUALIFIED_TOLD.removeprefix("name part ")
                + " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            ]
    if not name:
        return [*found, "name part must be non-empty", _QUALIFIED_TOLD]
    if len(name) > 63:
        found.append("name part must be no more than 63 bytes")
    if not re.fullmatch(_QUALIFIED, name):
        found.append(_QUALIFIED_TOLD)
    return found


def port_wrong(number: int) -> list[str]:
    return [] if 1 <= number <= 65535 else ["must be between 1 and 65535, inclusive"]


def port_name_wrong(name: str) -> list[str]:
    """What is wrong with a port's name (RFC 6335)."""
    found = []
    if len(name) > 15:
        found.append("must be no more than 15 bytes")
    if not re.fullmatch("[-a-z0-9]+", name):
        found.append("must contain only alphanumeric characters (a-z, 0-9), and hyphens (-)")
    if not re.search("[a-z]", name):
        found.append("must contain at least one letter (a-z)")
    if "--" in name:
        found.append("must not contain consecutive hyphens")
    if name and (name[0] == "-" or name[-1] == "-"):
        found.append("must not begin or end with a hyphen")
    return found


def environment_wrong(name: str) -> list[str]:
    """What is wrong with an environment variable's name."""
    return (
        []
        if re.fullmatch(_ENVIRONMENT, name)
        else ["a valid environment variable name must consist only of printable ASCII characters other than '='"]
    )


def network_of(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """A CIDR as the API takes it: host bits are allowed, zeros in front are not. None: it is none."""
    address, slash, length = text.partition("/")
    if not slash or not length.isdecimal() or (len(length) > 1 and length[0] == "0") or "%" in address:
        return None
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def selector_check(selector: dict[str, Any] | None, field: str) -> list[Cause]:
    """A label selector of an object (`matchLabels`, `matchExpressions`)."""
    found: list[Cause] = []
    if not selector:
        return found
    for key, value in (selector.get("matchLabels") or {}).items():
        found += [invalid(f"{field}.matchLabels", key, why) for why in qualified_wrong(key)]
        found += [invalid(f"{field}.matchLabels", value, why) for why in value_wrong(value or "")]
    for place, term in enumerate(selector.get("matchExpressions") or ()):
        at = f"{field}.matchExpressions[{place}]"
        operator, values = term.get("operator", ""), term.get("values") or []
        if operator in ("In", "NotIn"):
            if not values:
                found.append(required(f"{at}.values", "must be specified when `operator` is 'In' or 'NotIn'"))
        elif operator in ("Exists", "DoesNotExist"):
            if values:
                found.append(
                    forbidden(f"{at}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
                )
        else:
            found.append(invalid(f"{at}.operator", operator, "not a valid selector operator"))
        key = term.get("key", "")
        found += [invalid(f"{at}.key", key, why) for why in qualified_wrong(key)]
        for number, value in enumerate(values):
            found += [invalid(f"{at}.values[{number}]", value, why) for why in value_wrong(value)]
    return found


def _wrong(text: str, pattern: str, told: str, most: int) -> list[str]:
    found = []
    if len(text) > most:
        found.append(f"must be no more than {most} bytes")
    if not re.fullmatch(pattern, text):
        found.append(told)
    return found


def objects(value: Any) -> Sequence[dict[str, Any]]:
    """The members of a list of objects; none where there is no list."""
    return value or ()
