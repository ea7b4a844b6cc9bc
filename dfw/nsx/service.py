# SPDX-License-Identifier: Apache-2.0
"""NSX Service documents and service entries -> model services."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import chain
from typing import Any

from dfw.catalogue import SERVICES_ROOT, catalogue_find, catalogue_ids
from dfw.fields import (
    Cursor,
    Field,
    Written,
    choice,
    ignored,
    integer,
    listed,
    mapping,
    nearest,
    reference,
    shown_value,
)
from dfw.model import (
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_IGMP,
    PROTO_TCP,
    PROTO_UDP,
    Alg,
    Family,
    PortRange,
    Service,
    ServiceEntry,
)
from dfw.nsx.common import COMMON, Context, is_read_only
from dfw.nsx.nesting import MAXIMUM_NESTING

ETHER_TYPE_LEAST = 0x0600  # below, the field is a length (IEEE 802.3 section 3.2.6)
MAXIMUM_ENTRIES = 1 << 20  # of all services together, nested ones written out
MAXIMUM_PORTS = 15  # of one side of an L4PortSetServiceEntry; a range counts two
_PORTS = re.compile(r"([0-9]{1,10})(?:\s*-\s*([0-9]{1,10}))?", re.ASCII)
_ALG_PROTOCOLS = {Alg.FTP: PROTO_TCP, Alg.TFTP: PROTO_UDP}


def _port_range(cursor: Cursor) -> PortRange | None:
    value = cursor.value
    written = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    found = _PORTS.fullmatch(written.strip())
    if not found:
        cursor.problem(f'{shown_value(value)} is not a port or range such as "443" or "8000-8100"')
        return None
    first, last = int(found[1]), int(found[2] or found[1])
    for port in (first, last):
        if port > 65535:
            cursor.problem(f"{port} is not a port (0-65535)")
            return None
    if last < first:
        cursor.problem(f"{written!r} ends before it begins; did you mean {last}-{first}?")
        return None
    return PortRange(first, last)


_ENTRY: Mapping[str, Field] = {key: COMMON[key] for key in COMMON}
_PORT_FIELDS = {
    "source_ports": Field(listed(_port_range), default=()),
    "destination_ports": Field(listed(_port_range), default=()),
}
TABLES: Mapping[str, Mapping[str, Field]] = {
    "L4PortSetServiceEntry": {
        **_ENTRY,
        "l4_protocol": Field(choice({"TCP": PROTO_TCP, "UDP": PROTO_UDP}), required=True),
        **_PORT_FIELDS,
    },
    "ICMPTypeServiceEntry": {
        **_ENTRY,
        "protocol": Field(
            choice({"ICMPv4": (PROTO_ICMP, Family.IPV4), "ICMPv6": (PROTO_ICMPV6, Family.IPV6)}), required=True
        ),
        "icmp_type": Field(integer(0, 255, "an ICMP type")),
        "icmp_code": Field(integer(0, 255, "an ICMP code")),
    },
    "IPProtocolServiceEntry": {
        **_ENTRY,
        "protocol_number": Field(integer(0, 255, "an IP protocol number"), required=True),
    },
    "IGMPTypeServiceEntry": _ENTRY,
    "ALGTypeServiceEntry": {
        **_ENTRY,
        "alg": Field(choice({alg.value: alg for alg in Alg if alg is not Alg.NONE}), required=True),
        **_PORT_FIELDS,
    },
    "EtherTypeServiceEntry": {
        **_ENTRY,
        "ether_type": Field(integer(ETHER_TYPE_LEAST, 0xFFFF, "an EtherType"), required=True),
    },
    "NestedServiceServiceEntry": {**_ENTRY, "nested_service_path": Field(reference, required=True)},
}
SERVICE: Mapping[str, Field] = {
    **COMMON,
    "service_type": Field(ignored),
    "service_entries": Field(listed(lambda item: item, empty=False), required=True, default=()),
}


class Services:
    """All services by path: those of documents, resolved when first asked for, and the built-in ones."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.found: dict[str, Service | None] = {}
        self.open: dict[str, None] = {}  # of what is being resolved, outermost first
        self.depths: dict[str, int] = {}
        self.count = 0  # entries of what was found

    def load_all(self) -> dict[str, Service]:
        """Every service that a document defines."""
        for path, cursor in self.context.service_documents.items():
            if catalogue_find(path):
                self.context.warn("hides-built-in", cursor, f"this document replaces the built-in service {path}")
            self._document(path)
        return {path: service for path, service in self.found.items() if service is not None}

    def find(self, written: Written) -> Service | None:
        """The service meant by a path, id or built-in name; None after reporting that there is none."""
        paths = self.context.service_documents
        path = written.text if written.text.startswith("/") else SERVICES_ROOT + written.text
        if path in paths:
            self.context.used.add(path)
            return self._document(path)
        built_in = catalogue_find(written.text)
        if built_in is None:
            known = chain((item.rpartition("/")[2] for item in paths), catalogue_ids())
            self.context.problem(
                written, f"there is no service {written.text!r}{nearest(written.text, known, self.context.problems)}"
            )
        return built_in

    def _document(self, path: str) -> Service | None:
        if path not in self.found:
            self.found[path] = None
            self.open[path] = None
            self.depths[path] = 1
            cursor = self.context.service_documents[path]
            values = mapping(cursor, SERVICE, ignore=is_read_only)
            if values is not None:
                entries = self.entries(values["service_entries"] or ())
                self.count += len(entries)
                if self.count > MAXIMUM_ENTRIES >= self.count - len(entries):
                    cursor.problem(f"with this service, services have more than {MAXIMUM_ENTRIES} entries")
                if self.count <= MAXIMUM_ENTRIES:
                    self.found[path] = Service(path, entries, cursor.place)
            del self.open[path]
        return self.found[path]

    def entries(self, cursors: tuple[Cursor, ...]) -> tuple[ServiceEntry, ...]:
        """Service entries in order, nested services written out, each once."""
        found: dict[ServiceEntry, None] = {}
        for cursor in cursors:
            for entry in self._entry(cursor):
                found[entry] = None
        return tuple(found)

    def _entry(self, cursor: Cursor) -> tuple[ServiceEntry, ...]:
        node = cursor.node.get("resource_type")
        kind = node.value if node else None
        if not isinstance(kind, str) or kind not in TABLES:
            shown = shown_value(kind)
            what = "the field resource_type is missing" if node is None else f"{shown} is not a service entry"
            near = nearest(kind, TABLES, cursor.problems) if isinstance(kind, str) else ""
            cursor.problem(f"{what}; one of {', '.join(TABLES)}{near}")
            return ()
        values = mapping(cursor, TABLES[kind], ignore=is_read_only)
        if values is None:
            return ()
        made = getattr(self, f"_make_{kind}")(cursor, values)
        return made if isinstance(made, tuple) else ()

    def _make_L4PortSetServiceEntry(self, cursor: Cursor, values: dict[str, Any]) -> tuple[ServiceEntry, ...]:
        for side in ("source_ports", "destination_ports"):
            count = sum(1 if item.first == item.last else 2 for item in values[side])
            if count > MAXIMUM_PORTS:
                message = f"{count} ports in {side} are more than NSX takes ({MAXIMUM_PORTS}, a range counts two)"
                self.context.warn("nsx-limit", cursor, message)
        return (
            ServiceEntry(
                protocol=values["l4_protocol"],
                source_ports=values["source_ports"],
                destination_ports=values["destination_ports"],
            ),
        )

    def _make_ICMPTypeServiceEntry(self, cursor: Cursor, values: dict[str, Any]) -> tuple[ServiceEntry, ...]:
        if values["icmp_code"] is not None and values["icmp_type"] is None:
            cursor.member("icmp_code").problem("a code needs a type: icmp_type is missing")
        if values["protocol"] is None:
            return ()
        protocol, family = values["protocol"]
        families = frozenset({family})
        return (
            ServiceEntry(
                protocol=protocol,
                icmp_type=values["icmp_type"],
                icmp_code=values["icmp_code"],
                families=families,
            ),
        )

    def _make_IPProtocolServiceEntry(self, cursor: Cursor, values: dict[str, Any]) -> tuple[ServiceEntry, ...]:
        return (ServiceEntry(protocol=values["protocol_number"]),)

    def _make_IGMPTypeServiceEntry(self, cursor: Cursor, values: dict[str, Any]) -> tuple[ServiceEntry, ...]:
        return (ServiceEntry(protocol=PROTO_IGMP),)

    def _make_EtherTypeServiceEntry(self, cursor: Cursor, values: dict[str, Any]) -> tuple[ServiceEntry, ...]:
        kind = values["ether_type"]
        return () if kind is None else (ServiceEntry(ether_type=kind),)

    def _make_ALGTypeServiceEntry(self, cursor: Cursor, values: dict[str, Any]) -> tuple[ServiceEntry, ...]:
        alg, ports = values["alg"], values["destination_ports"]
        if alg is not None and alg not in _ALG_PROTOCOLS:
            names = " and ".join(item.value for item in _ALG_PROTOCOLS)
            cursor.member("alg").problem(
                f"the ALG {alg.value} is not supported ({names} are); use an L4PortSetServiceEntry"
            )
            return ()
        if len(ports) != 1 or ports[0].first != ports[0].last:
            cursor.problem("an ALG entry has exactly one destination port")
            return ()
        if alg is None:
            return ()
        return (
            ServiceEntry(
                protocol=_ALG_PROTOCOLS[alg], source_ports=values["source_ports"], destination_ports=ports, alg=alg
            ),
        )

    def _make_NestedServiceServiceEntry(self, cursor: Cursor, values: dict[str, Any]) -> tuple[ServiceEntry, ...]:
        written = values["nested_service_path"]
        if written is None:
            return ()
        path = written.text if written.text.startswith("/") else SERVICES_ROOT + written.text
        if path in self.open:
            self.context.problem(written, f"the service {path} nests itself")
            return ()
        is_deep = len(self.open) >= MAXIMUM_NESTING  # no deeper: the walk is a recursion
        service = None if is_deep else self.find(written)
        if self.open:  # nothing is where a rule's own entries are read
            depth = 1 + self.depths.get(path, 1)  # of what was resolved before too, so that order is no matter
            if is_deep or depth > MAXIMUM_NESTING:
                self.context.problem(written, f"services nest more than {MAXIMUM_NESTING} levels deep")
                return ()
            above = next(reversed(self.open))
            self.depths[above] = max(self.depths[above], depth)
        return service.entries if service and self.count <= MAXIMUM_ENTRIES else ()
