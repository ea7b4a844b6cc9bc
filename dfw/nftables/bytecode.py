# SPDX-License-Identifier: Apache-2.0
"""A rule's expressions as the kernel takes them (linux/netfilter/nf_tables.h), byte by byte what libnftables makes of
the same JSON: a header's protocol is asked for before a field in it, and neighbouring fields are one load. Pure.

Only what rules of a vNIC's table consist of; ValueError for anything else, which is libnftables' work then.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from dfw.model import PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP, PROTO_TCP, PROTO_UDP
from dfw.nftables.attributes import NESTED, attribute_make, number_make, text_make
from dfw.nftables.ruleset import Expression

_LINK, _NETWORK, _TRANSPORT = 0, 1, 2  # NFT_PAYLOAD_LL_HEADER, …_NETWORK_HEADER, …_TRANSPORT_HEADER
_MARK, _NFPROTO, _L4PROTO = 3, 15, 16  # NFT_META_MARK, NFT_META_NFPROTO, NFT_META_L4PROTO
_FAMILIES: Final = {"ipv4": 2, "ipv6": 10}
_OPERATORS: Final = {"==": 0, "!=": 1, "<": 2, "<=": 3, ">": 4, ">=": 5}
_VERDICTS: Final = {"drop": 0, "accept": 1, "jump": -3, "goto": -4}
COUNTER, CT_HELPER = 1, 3  # NFT_OBJECT_COUNTER, NFT_OBJECT_CT_HELPER


class _Field(NamedTuple):
    """Where a field is: `family` and `protocol` that a packet must be of, None for any."""

    base: int
    offset: int
    size: int
    family: int | None
    protocol: int | None


_FIELDS: Final = {
    # In a table of family bridge, where each frame has such a header.
    ("ether", "daddr"): _Field(_LINK, 0, 6, None, None),
    ("ether", "saddr"): _Field(_LINK, 6, 6, None, None),
    ("ether", "type"): _Field(_LINK, 12, 2, None, None),
    ("ip", "saddr"): _Field(_NETWORK, 12, 4, 2, None),
    ("ip", "daddr"): _Field(_NETWORK, 16, 4, 2, None),
    ("ip6", "saddr"): _Field(_NETWORK, 8, 16, 10, None),
    ("ip6", "daddr"): _Field(_NETWORK, 24, 16, 10, None),
    ("icmp", "type"): _Field(_TRANSPORT, 0, 1, 2, PROTO_ICMP),
    ("icmp", "code"): _Field(_TRANSPORT, 1, 1, 2, PROTO_ICMP),
    ("icmpv6", "type"): _Field(_TRANSPORT, 0, 1, 10, PROTO_ICMPV6),
    ("icmpv6", "code"): _Field(_TRANSPORT, 1, 1, 10, PROTO_ICMPV6),
    ("tcp", "flags"): _Field(_TRANSPORT, 13, 1, None, PROTO_TCP),
    **{
        (name, field): _Field(_TRANSPORT, offset, 2, None, protocol)
        for name, protocol in (("tcp", PROTO_TCP), ("udp", PROTO_UDP), ("sctp", PROTO_SCTP))
        for field, offset in (("sport", 0), ("dport", 2))
    },
}


def verdict_make(word: str, chain: str | None) -> bytes:
    """NFTA_DATA_VERDICT."""
    code = attribute_make(1, struct.pack(">i", _VERDICTS[word]))
    return attribute_make(NESTED | 2, code + (b"" if chain is None else text_make(2, chain)))


def rule_encode(expressions: Iterable[Expression]) -> bytes:
    """NFTA_RULE_EXPRESSIONS' content. Raises ValueError for what no vNIC's table has."""
    writer = _Writer()
    for expression in expressions:
        ((kind, value),) = expression.items()
        writer.add(kind, value)
    return writer.finish()


class _Writer:
    """One rule. `_held`: a field that must have one value; if the next one follows it in the packet, both are one."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._known: dict[int, int] = {}  # family and protocol that are asked for already, by meta key
        self._held: tuple[_Field, bytes] | None = None

    def add(self, kind: str, value: Any) -> None:
        if kind == "match":
            self._match(value["op"], value["left"], value["right"])
            return
        self._flush()
        match kind, value:
            case "counter", str():
                self._reference(COUNTER, value)
            case "ct helper", str():
                self._reference(CT_HELPER, value)
            case "log", {"prefix": prefix, "group": group} if len(value) == 2:
                self._add("log", attribute_make(1, struct.pack(">H", group)) + text_make(2, prefix))
            case (("drop" | "accept"), None):
                self._add("immediate", number_make(1, 0) + attribute_make(NESTED | 2, verdict_make(kind, None)))
            case (("jump" | "goto"), {"target": str(chain)}):
                self._add("immediate", number_make(1, 0) + attribute_make(NESTED | 2, verdict_make(kind, chain)))
            case _:
                raise ValueError(f"a statement {kind}")

    def finish(self) -> bytes:
        self._flush()
        return b"".join(self._parts)

    def _match(self, operator: str, left: Mapping[str, Any], right: Any) -> None:
        ((kind, value),) = left.items()
        if kind == "payload":
            self._payload(_field(value), operator, right)
        elif kind == "&" and operator == "==" and set(value[0]) == {"payload"} and isinstance(right, int):
            field = _field(value[0]["payload"])
            self._flush()
            self._load(field)
            masked = number_make(1, 1) + number_make(2, 1) + number_make(3, field.size)
            both = _data(4, value[1].to_bytes(field.size, "big")) + _data(5, bytes(field.size))
            self._add("bitwise", masked + both)
            self._compare(operator, right.to_bytes(field.size, "big"))
        elif kind == "meta" and value["key"] == "mark" and isinstance(right, int):
            self._flush()
            self._meta(_MARK)
            swapped = number_make(1, 1) + number_make(2, 1) + number_make(3, 1) + number_make(4, 4) + number_make(5, 4)
            if operator not in ("==", "!="):
                self._add("byteorder", swapped)
            self._compare(operator, struct.pack("=I" if operator in ("==", "!=") else ">I", right))
        elif kind == "meta" and value["key"] in ("nfproto", "l4proto") and operator == "==":
            number = _FAMILIES[right] if isinstance(right, str) else right
            self._flush()
            self._is(_NFPROTO if value["key"] == "nfproto" else _L4PROTO, number)
        else:
            raise ValueError(f"a match {operator} on {kind}")

    def _payload(self, field: _Field, operator: str, right: Any) -> None:
        if isinstance(right, int) and operator == "==":
            octets = right.to_bytes(field.size, "big")
            before = self._held
            if (
                before is not None
                and before[0].base == field.base
                and before[0].offset + before[0].size == field.offset
            ):
                self._held = before[0]._replace(size=before[0].size + field.size), before[1] + octets
                return
            self._flush()
            self._require(field)
            self._held = field, octets
            return
        self._flush()
        self._load(field)
        if isinstance(right, str) and right.startswith("@") and operator in ("==", "!="):
            self._add("lookup", text_make(1, right[1:]) + number_make(2, 1) + _flags(operator))
        elif isinstance(right, Mapping) and set(right) == {"range"} and operator == "==":
            for bound, number in zip((">=", "<="), right["range"], strict=True):
                self._compare(bound, number.to_bytes(field.size, "big"))
        else:
            raise ValueError(f"a field {operator} {right!r}")

    def _flush(self) -> None:
        if self._held is not None:
            (field, octets), self._held = self._held, None
            self._fetch(field)
            self._compare("==", octets)

    def _load(self, field: _Field) -> None:
        self._require(field)
        self._fetch(field)

    def _require(self, field: _Field) -> None:
        for key, wanted in ((_NFPROTO, field.family), (_L4PROTO, field.protocol)):
            if wanted is not None and self._known.get(key) != wanted:
                self._is(key, wanted)

    def _is(self, key: int, number: int) -> None:
        self._known[key] = number
        self._meta(key)
        self._compare("==", bytes((number,)))

    def _meta(self, key: int) -> None:
        self._add("meta", number_make(2, key) + number_make(1, 1))

    def _fetch(self, field: _Field) -> None:
        where = number_make(2, field.base) + number_make(3, field.offset) + number_make(4, field.size)
        self._add("payload", number_make(1, 1) + where)

    def _compare(self, operator: str, octets: bytes) -> None:
        self._add("cmp", number_make(1, 1) + number_make(2, _OPERATORS[operator]) + _data(3, octets))

    def _reference(self, kind: int, name: str) -> None:
        self._add("objref", number_make(1, kind) + text_make(2, name))

    def _add(self, name: str, data: bytes) -> None:
        self._parts.append(attribute_make(NESTED | 1, text_make(1, name) + attribute_make(NESTED | 2, data)))


def _field(payload: Mapping[str, Any]) -> _Field:
    try:
        return _FIELDS[payload["protocol"], payload["field"]]
    except KeyError as error:
        raise ValueError(f"a field {payload}") from error


def _data(kind: int, octets: bytes) -> bytes:
    return attribute_make(NESTED | kind, attribute_make(1, octets))


def _flags(operator: str) -> bytes:
    return number_make(5, 1) if operator == "!=" else b""
