# SPDX-License-Identifier: Apache-2.0
"""Ports of NetworkPolicy and of nsx-operator's SecurityPolicy: `protocol`, `port` (number or name), `endPort`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dfw.fields import Cursor, Field, Read, choice, integer, mapping, shown_value, text
from dfw.model import PROTO_SCTP, PROTO_TCP, PROTO_UDP, PortRange, ServiceEntry

PROTOCOLS = {"TCP": PROTO_TCP, "UDP": PROTO_UDP, "SCTP": PROTO_SCTP}
_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*", re.ASCII)
port_number = integer(1, 65535, "a port")


def port_name(cursor: Cursor) -> str | None:
    """A port's name (RFC 6335 section 5.1): at most 15 lower-case letters, digits and single hyphens, one letter."""
    found = text()(cursor)
    if found is not None and (len(found) > 15 or not _NAME.fullmatch(found)):
        cursor.problem(f"{found!r} is not a port's name: at most 15 lower-case letters, digits and single hyphens")
        return None
    return None if found is None else str(found)


def port(cursor: Cursor) -> int | str | None:
    """A number or a name."""
    if isinstance(cursor.value, str):
        if cursor.value.isdigit():
            cursor.problem(f"{shown_value(cursor.value)} is not a port's name; write the number without quotes")
            return None
        return port_name(cursor)
    found: int | None = port_number(cursor)
    return found


def port_table(*protocols: str) -> Mapping[str, Field]:
    """The fields of one port; the first protocol is the default."""
    known = {name: PROTOCOLS[name] for name in protocols}
    return {
        "protocol": Field(choice(known), default=known[protocols[0]]),
        "port": Field(port),
        "endPort": Field(port_number),
    }


def ports(table: Mapping[str, Field]) -> Read:
    """Reads one port as a service entry; without `port` it is every port of its protocol."""

    def read(cursor: Cursor) -> ServiceEntry | None:
        before = len(cursor.problems)
        fields: dict[str, Any] | None = mapping(cursor, table)
        if fields is None or len(cursor.problems) > before:
            return None
        protocol, first, last = fields["protocol"], fields["port"], fields["endPort"]
        if last is not None and not isinstance(first, int):
            cursor.member("endPort").problem("endPort needs a numeric port, which it ends the range of")
            return None
        if isinstance(first, str):
            return ServiceEntry(protocol=protocol, destination_port_name=first)
        if first is None:
            return ServiceEntry(protocol=protocol)
        if last is not None and last < first:
            cursor.member("endPort").problem(f"endPort {last} is less than port {first}")
            return None
        return ServiceEntry(protocol=protocol, destination_ports=(PortRange(first, first if last is None else last),))

    return read
