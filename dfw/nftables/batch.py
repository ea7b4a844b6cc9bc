# SPDX-License-Identifier: Apache-2.0
"""An update as netlink messages (linux/netfilter/nf_tables.h). Pure.

libnftables reads all chains, sets and counters of the namespace before it adds a rule, and all elements of an interval
set before it adds one: with 10,000 counters that is 20 ms a change. The kernel needs none of it. What stands only in
rulesets that are loaded as a whole (base chains, helpers) stays libnftables' work.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from dfw.model import Family
from dfw.nftables.attributes import NESTED, attribute_make, number_make, text_make
from dfw.nftables.bytecode import COUNTER, rule_encode, verdict_make
from dfw.nftables.frames import FRAME_FAMILY
from dfw.nftables.ruleset import FAMILY, Ranges, set_parse
from dfw.nftables.update import Update

_NEW_CHAIN, _DELETE_CHAIN, _NEW_RULE, _DELETE_RULE, _NEW_SET, _DELETE_SET = 3, 5, 6, 8, 9, 11
_NEW_ELEMENT, _DELETE_ELEMENT, _NEW_OBJECT, _DELETE_OBJECT = 12, 14, 18, 20
_CREATE, _APPEND = 0x400, 0x800
INET, BRIDGE = 1, 7  # NFPROTO_INET, NFPROTO_BRIDGE
FAMILIES: Final = {FAMILY: INET, FRAME_FAMILY: BRIDGE}
_INTERVAL: Final = 4  # NFT_SET_INTERVAL
_INTERVAL_END: Final = number_make(3, 1)
_TYPES: Final = {None: (13, 2), Family.IPV4: (7, 4), Family.IPV6: (8, 16)}
"""libnftables' number of a set's type, and octets of an element: inet_service, ipv4_addr, ipv6_addr."""
_MAC_TYPE, _MAC_OCTETS = 9, 6  # ether_addr
_BIG_ENDIAN: Final = struct.pack("=BBI", 0, 4, 2)  # NFTNL_UDATA_SET_KEYBYTEORDER
_ELEMENTS_A_MESSAGE: Final = 1000  # an attribute is shorter than 64 KiB
_COMMENT: Final = 0  # NFTNL_UDATA_RULE_COMMENT


class Message(NamedTuple):
    """One request of a transaction: what for (NFT_MSG_*), flags, attributes, and the table's family (NFPROTO_*)."""

    kind: int
    flags: int
    body: bytes
    family: int = INET


def update_messages(update: Update) -> list[Message]:
    """The transaction, in order. Raises ValueError where something in it is libnftables' work."""
    found: list[Message] = []
    for number, command in enumerate(update.before):
        found += _command(update.table, command, number)
    for change in update.sets:
        for kind, flags, ranges in ((_DELETE_ELEMENT, 0, change.removed), (_NEW_ELEMENT, _CREATE, change.added)):
            found += _elements(update.table, change.name, change.family, change.is_interval, kind, flags, ranges)
    for number, command in enumerate(update.after, len(update.before)):
        found += _command(update.table, command, number)
    return found


def _command(table: str, command: Mapping[str, Any], number: int) -> Iterator[Message]:
    ((verb, thing),) = command.items()
    ((kind, value),) = thing.items()
    family = FAMILIES[value["family"]]
    yield from (message._replace(family=family) for message in _request(table, verb, kind, value, number))


def _request(table: str, verb: str, kind: str, value: Mapping[str, Any], number: int) -> Iterator[Message]:
    name = value.get("name", "")
    match verb, kind:
        case "add", "rule":
            yield _rule(table, value)
        case "flush", "chain":
            yield Message(_DELETE_RULE, 0, text_make(1, table) + text_make(2, name))
        case ("add", "chain") if "hook" not in value:
            yield Message(_NEW_CHAIN, _CREATE, text_make(1, table) + text_make(3, name))
        case "delete", "chain":
            yield Message(_DELETE_CHAIN, 0, text_make(1, table) + text_make(3, name))
        case "add", "counter":
            body = text_make(1, table) + text_make(2, name) + number_make(3, COUNTER)
            yield Message(_NEW_OBJECT, _CREATE, body + attribute_make(NESTED | 4, b""))
        case "delete", "counter":
            yield Message(_DELETE_OBJECT, 0, text_make(1, table) + text_make(2, name) + number_make(3, COUNTER))
        case ("add", "set") if value["type"] == "ether_addr":
            yield _mac_set(table, name, number)
            yield from _macs(table, name, value["elem"], is_new=True)
        case "add", "set":
            yield from _set(table, value, number)
        case "delete", ("set" | "map"):
            yield Message(_DELETE_SET, 0, text_make(1, table) + text_make(2, name))
        case (("add" | "delete"), "element") if isinstance(value["elem"][0], str):
            yield from _macs(table, name, value["elem"], is_new=verb == "add")
        case (("add" | "delete"), "element"):
            yield _verdicts(table, name, value["elem"], is_new=verb == "add")
        case _:
            raise ValueError(f"{verb} {kind}")


def _rule(table: str, value: Mapping[str, Any]) -> Message:
    body = text_make(1, table) + text_make(2, value["chain"]) + attribute_make(NESTED | 4, rule_encode(value["expr"]))
    if "comment" in value:
        comment = value["comment"].encode() + b"\0"
        body += attribute_make(7, struct.pack("=BB", _COMMENT, len(comment)) + comment)
    return Message(_NEW_RULE, _CREATE | _APPEND, body)


def _set(table: str, value: Mapping[str, Any], number: int) -> Iterator[Message]:
    item = set_parse(value)
    kind, size = _TYPES[item.family]
    body = text_make(1, table) + text_make(2, item.name) + number_make(3, _INTERVAL if item.is_interval else 0)
    body += number_make(4, kind) + number_make(5, size) + number_make(10, number + 1)
    yield Message(_NEW_SET, _CREATE, body + attribute_make(13, _BIG_ENDIAN))
    yield from _elements(table, item.name, item.family, item.is_interval, _NEW_ELEMENT, _CREATE, item.ranges)


def _mac_set(table: str, name: str, number: int) -> Message:
    body = text_make(1, table) + text_make(2, name) + number_make(3, 0)
    body += number_make(4, _MAC_TYPE) + number_make(5, _MAC_OCTETS) + number_make(10, number + 1)
    return Message(_NEW_SET, _CREATE, body + attribute_make(13, _BIG_ENDIAN))


def _macs(table: str, name: str, macs: Sequence[str], *, is_new: bool) -> Iterator[Message]:
    """Elements that are MAC addresses."""
    kind, flags = (_NEW_ELEMENT, _CREATE) if is_new else (_DELETE_ELEMENT, 0)
    for at in range(0, len(macs), _ELEMENTS_A_MESSAGE):
        parts = [_element(bytes.fromhex(mac.replace(":", ""))) for mac in macs[at : at + _ELEMENTS_A_MESSAGE]]
        where = text_make(1, table) + text_make(2, name)
        yield Message(kind, flags, where + attribute_make(NESTED | 3, b"".join(parts)))


def _elements(
    table: str, name: str, family: Family | None, is_interval: bool, kind: int, flags: int, ranges: Ranges
) -> Iterator[Message]:
    """Single elements; in an interval set where a range begins and where it has ended."""
    size = _TYPES[family][1]
    top = (1 << size * 8) - 1
    for at in range(0, len(ranges), _ELEMENTS_A_MESSAGE):
        parts = []
        for first, last in ranges[at : at + _ELEMENTS_A_MESSAGE]:
            parts.append(_element(first.to_bytes(size, "big")))
            if is_interval and last < top:
                parts.append(_element((last + 1).to_bytes(size, "big"), _INTERVAL_END))
        where = text_make(1, table) + text_make(2, name)
        yield Message(kind, flags, where + attribute_make(NESTED | 3, b"".join(parts)))


def _verdicts(table: str, name: str, pairs: list[Any], *, is_new: bool) -> Message:
    """Elements of a verdict map: a mark, and the chain to go to."""
    parts = []
    for mark, verdict in pairs:
        data = attribute_make(NESTED | 2, verdict_make("goto", verdict["goto"]["target"])) if is_new else b""
        parts.append(_element(struct.pack("=I", mark), data))
    where = text_make(1, table) + text_make(2, name) + attribute_make(NESTED | 3, b"".join(parts))
    return Message(_NEW_ELEMENT, _CREATE, where) if is_new else Message(_DELETE_ELEMENT, 0, where)


def _element(key: bytes, more: bytes = b"") -> bytes:
    return attribute_make(NESTED | 1, attribute_make(NESTED | 1, attribute_make(1, key)) + more)
