# SPDX-License-Identifier: Apache-2.0
"""Quantities (`500m`, `1Gi`) in the one form that an API server stores.

Source: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/: the largest suffix of the same
family with which no fraction is left; nothing finer than a nano.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Context, Decimal
from functools import lru_cache

_FORM = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E|[eE][+-]?\d{1,3}|)\Z", re.ASCII)
_BINARY = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_CONTEXT = Context(prec=400, Emax=9999, Emin=-9999)
_MOST = Decimal((1 << 63) - 1)
_SAID = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
_MOST_DIGITS = 100


@lru_cache(maxsize=4096)
def quantity_canonical(text: str) -> str:
    """`0.5` -> `500m`, `1024Mi` -> `1Gi`, `1000` -> `1k`. Raises ValueError with apimachinery's words."""
    value, suffix = _parse(text)
    if suffix in _BINARY and suffix:
        if value == value.to_integral_value(context=_CONTEXT) and abs(value) >= 1024:
            return _binary(int(value))
        suffix = ""  # a fraction of a byte, or less than a Ki, is written as decimals
    if suffix[:1] in ("e", "E") and len(suffix) > 1:
        return _suffixed(value, {f"e{power}": power for power in range(-9, 19, 3) if power} | {"": 0})
    return _suffixed(value, _DECIMAL)


def quantity_value(text: str) -> Decimal:
    """The number. Raises ValueError."""
    return _parse(text)[0]


def _parse(text: str) -> tuple[Decimal, str]:
    found = _FORM.match(text) if len(text) <= _MOST_DIGITS else None
    if found is None:
        raise ValueError(_SAID)
    sign, digits, suffix = found.groups()
    number = Decimal(sign + digits)
    if suffix in _BINARY:
        number = _CONTEXT.multiply(number, Decimal(1024 ** _BINARY.index(suffix)))
    else:
        power = _DECIMAL[suffix] if suffix in _DECIMAL else int(suffix[1:])
        number = _CONTEXT.scaleb(number, power)
    if abs(number) > _MOST:
        number = _MOST.copy_sign(number)
    nano = number.quantize(Decimal("1e-9"), rounding=ROUND_CEILING if number > 0 else "ROUND_FLOOR", context=_CONTEXT)
    return nano, suffix


def _binary(value: int) -> str:
    power = 0
    while value and value % 1024 == 0 and power < len(_BINARY) - 1:
        value //= 1024
        power += 1
    return f"{value}{_BINARY[power]}"


def _suffixed(value: Decimal, suffixes: dict[str, int]) -> str:
    if not value:
        return "0"
    for suffix, power in sorted(suffixes.items(), key=lambda item: -item[1]):
        scaled = _CONTEXT.scaleb(value, -power)
        if scaled == scaled.to_integral_value(context=_CONTEXT):
            return f"{int(scaled)}{suffix}"
    raise AssertionError("nothing is finer than a nano")
