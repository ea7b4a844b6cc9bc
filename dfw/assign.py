# SPDX-License-Identifier: Apache-2.0
"""Filling in what an inventory leaves out, and checking what refers to what.

What is missing is assigned from the name alone (a hash, with linear probing in name order), so that adding an object
does not change the others' assignments unless their hashes collide.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from zlib import crc32

from dfw.errors import Problem
from dfw.fields import Cursor, nearest
from dfw.findings import Finding
from dfw.model import (
    Address,
    AddressRange,
    Family,
    Gateway,
    Host,
    Inventory,
    Machine,
    Port,
    Segment,
    Tag,
    prefix_parse,
)

VNI_POOL = range(65536, 1 << 20)  # NSX's default pool begins at 65536
TEP_POOL = prefix_parse("172.16.0.0/16")
SUBNET_POOL = prefix_parse("10.128.0.0/9")  # /24s for segments that name no subnet
IMPLICIT_HOST = "host-1"
IMPLICIT_SEGMENT = "segment-1"
PODS_SEGMENT = "pods"  # of pods whose addresses lie in no listed segment
PODS_SUBNET = prefix_parse("100.64.0.0/10")  # for pods whose manifests name no address (RFC 6598: nobody else's)


class Draft(NamedTuple):
    """An object as written: its fields, and where."""

    values: dict[str, Any]
    cursor: Cursor

    @property
    def where(self) -> str:
        """File and line, for messages about others."""
        return f"{self.cursor.place.file}:{self.cursor.place.line}"


def _number(salt: str, name: str, size: int, is_taken: Callable[[int], bool]) -> int | None:
    """A number below `size` that depends on the name alone, unless taken; None where all are."""
    start = (crc32(f"{salt}\0{name}".encode()) << 32 | crc32(f"{name}\0{salt}".encode())) % size
    for step in range(min(size, 1 << 20)):
        candidate = (start + step) % size
        if not is_taken(candidate):
            return candidate
    return None


def _implicit_segment(name: str) -> dict[str, Any]:
    subnets = (PODS_SUBNET,) if name == PODS_SEGMENT else None
    return {"vni": None, "subnets": subnets, "gateway": None, "tags": ()}


def _blocks(subnet: AddressRange) -> range:
    """Which /24s of the pool a subnet touches, by number."""
    if subnet.family is not SUBNET_POOL.family:
        return range(0)
    first, last = max(subnet.first, SUBNET_POOL.first), min(subnet.last, SUBNET_POOL.last)
    return range((first - SUBNET_POOL.first) >> 8, ((last - SUBNET_POOL.first) >> 8) + 1 if first <= last else 0)


def usual_mac(name: str) -> str:
    """The MAC address of a port as long as nobody else has it."""
    return _mac(crc32(f"{name}\0mac".encode()))  # where _number begins to look


def usual_macs(names: Sequence[str]) -> list[str]:
    """`usual_mac` of many."""
    numbers = array("I", [crc32(f"{name}\0mac".encode()) for name in names])
    if sys.byteorder == "little":
        numbers.byteswap()
    text = numbers.tobytes().hex(":")
    return [f"02:50:{text[at : at + 11]}" for at in range(0, 12 * len(names), 12)]


def free_mac(name: str, macs: Mapping[str, str]) -> str:
    """A MAC address that depends on the port's name alone, unless another port has it. `macs`: names by address."""

    first = usual_mac(name)
    if macs.get(first, name) == name:
        return first
    return _mac(_number("mac", name, 1 << 32, lambda number: macs.get(_mac(number), name) != name) or 0)


def _mac(number: int) -> str:
    return "02:50:" + number.to_bytes(4, "big").hex(":")  # locally administered (IEEE 802)


class Assignment:
    """Fills in what was left out, and checks what refers to what."""

    def __init__(self, drafts: dict[str, dict[str, Draft]], findings: list[Finding]) -> None:
        self.drafts = drafts
        self.findings = findings
        self.ports = {name: drafts["ports"][name] for name in sorted(drafts["ports"])}
        self.full: set[AddressRange] = set()  # pools without a free address: not searched again for the next name

    def inventory(self) -> Inventory:
        """The complete inventory; objects that others' mistakes leave without a place are left out."""
        hosts = self._hosts()
        gateways = self._gateways()
        self._place_ports(hosts)
        segments = self._segments()
        ports = self._ports(segments)
        machines = self._machines(ports)
        return Inventory(hosts, gateways, segments, machines, ports)

    def _known(self, draft: Draft, field: str, plural: str) -> str | None:
        """The name that a reference field holds, if it exists."""
        written = draft.values[field]
        if written is None:
            return None
        name = str(written.text).rpartition("/")[2]
        if name in self.drafts[plural]:
            return name
        message = f"there is no {plural[:-1]} {name!r}{nearest(name, self.drafts[plural], draft.cursor.problems)}"
        draft.cursor.problems.append(Problem(written.place, message))
        return None

    def _hosts(self) -> dict[str, Host]:
        drafts = self.drafts["hosts"]
        teps: dict[Address, str] = {}
        for name, draft in drafts.items():
            tep = draft.values["tep"]
            if tep is not None and teps.setdefault(tep, name) != name:
                draft.cursor.problem(f"the TEP {tep} is already that of host {teps[tep]!r}")
        hosts: dict[str, Host] = {}
        for name in sorted(drafts) or ([IMPLICIT_HOST] if self.ports else []):
            values: dict[str, Any] = drafts[name].values if name in drafts else {"tep": None}
            tep = values["tep"] or self._free(TEP_POOL, "tep", name, teps)
            if tep is None:
                drafts[name].cursor.problem(f"no address of {TEP_POOL} is left for host {name!r}; give tep")
            else:
                teps[tep] = name
                place = drafts[name].cursor.place if name in drafts else None
                keys = ("tags", "bfd_interval", "bfd_multiple", "enforcer", "encapsulation")
                rest = {key: values[key] for key in keys if key in values}
                hosts[name] = Host(name, tep, place=place, **rest)
        return {name: hosts[name] for name in drafts if name in hosts} or hosts

    def _free(self, pool: AddressRange, salt: str, name: str, taken: Mapping[Address, object]) -> Address | None:
        """An unused address of a subnet; network, gateway (the first) and broadcast addresses are left out."""
        if pool in self.full:
            return None
        size = pool.last - pool.first + 1
        low, high = (2, size - 2) if size > 4 else (0, size - 1)
        if pool.family is Family.IPV6 and size > 4:
            high = min(size - 1, (1 << 64) - 1)

        def is_taken(number: int) -> bool:
            return Address(pool.family, pool.first + low + number) in taken

        number = _number(salt, name, high - low + 1, is_taken)
        if number is None:
            self.full.add(pool)
            return None
        return Address(pool.family, pool.first + low + number)

    def _gateways(self) -> dict[str, Gateway]:
        gateways = {}
        for name, draft in self.drafts["gateways"].items():
            values = draft.values
            above = self._known(draft, "tier0", "gateways")
            if above is not None and (values["tier"] == 0 or self.drafts["gateways"][above].values["tier"] != 0):
                draft.cursor.problem("tier0 connects a Tier-1 gateway (tier: 1) to a Tier-0 gateway (tier: 0)")
            gateways[name] = Gateway(name, values["tier"], above, values["tags"], draft.cursor.place)
        return gateways

    def _place_ports(self, hosts: Mapping[str, Host]) -> None:
        """Decide each port's host and segment."""
        names = sorted(hosts)
        for name, draft in self.ports.items():
            values = draft.values
            if values["host"] is not None:
                values["host"] = self._known(draft, "host", "hosts")
            elif values.get("node") in hosts:
                values["host"] = values["node"]
            elif names:
                values["host"] = names[_number("host", name, len(names), lambda _: False) or 0]
            if values["machine"] is not None:
                values["machine"] = self._known(draft, "machine", "machines")
            if values["segment"] is not None:
                values["segment"] = self._known(draft, "segment", "segments")
            else:
                values["segment"] = self._only_segment(draft)

    def _only_segment(self, draft: Draft) -> str | None:
        segments = self.drafts["segments"]
        is_pod = "named_ports" in draft.values
        if len(segments) <= 1 and not is_pod:
            return next(iter(segments), IMPLICIT_SEGMENT)
        ips = draft.values["ips"] or ()
        fitting = [
            name
            for name, segment in segments.items()
            if any(subnet.contains(ip) for subnet in segment.values["subnets"] or () for ip in ips)
        ]
        if len(fitting) == 1:
            return fitting[0]
        if is_pod:
            return PODS_SEGMENT
        draft.cursor.problem(f"the field segment is missing; which of {', '.join(list(segments)[:5])}?")
        return None

    def _segments(self) -> dict[str, Segment]:
        drafts = self.drafts["segments"]
        used = {draft.values["segment"] for draft in self.ports.values()}
        with_ips = {draft.values["segment"] for draft in self.ports.values() if draft.values["ips"]}
        vnis: dict[int, str] = {}
        for name, draft in drafts.items():
            vni = draft.values["vni"]
            if vni is not None and vnis.setdefault(vni, name) != name:
                draft.cursor.problem(f"the VNI {vni} is already that of segment {vnis[vni]!r}")
            self._check_subnets(draft)
        taken = {n for draft in drafts.values() for subnet in draft.values["subnets"] or () for n in _blocks(subnet)}
        segments: dict[str, Segment] = {}
        implicit = [name for name in (IMPLICIT_SEGMENT, PODS_SEGMENT) if name in used and name not in drafts]
        for name in (*sorted(drafts), *implicit):
            values: dict[str, Any] = drafts[name].values if name in drafts else _implicit_segment(name)
            number = values["vni"] or VNI_POOL[_number("vni", name, len(VNI_POOL), lambda n: VNI_POOL[n] in vnis) or 0]
            vnis[number] = name
            subnets = values["subnets"]
            if subnets is None:
                subnets = () if name in with_ips else self._free_subnet(name, taken)
                if not subnets and name not in with_ips:
                    drafts[name].cursor.problem(f"no /24 of {SUBNET_POOL} is left for segment {name!r}; give subnets")
                taken.update(*map(_blocks, subnets))
            gateway = self._known(drafts[name], "gateway", "gateways") if name in drafts else None
            place = drafts[name].cursor.place if name in drafts else None
            segments[name] = Segment(name, number, subnets, gateway, values["tags"], place)
        return {name: segments[name] for name in (*drafts, *implicit)}

    @staticmethod
    def _check_subnets(draft: Draft) -> None:
        families = [subnet.family for subnet in draft.values["subnets"] or ()]
        if len(families) != len(set(families)):
            draft.cursor.problem("a segment has at most one subnet of each family")

    @staticmethod
    def _free_subnet(name: str, taken: set[int]) -> tuple[AddressRange, ...]:
        size = (SUBNET_POOL.last - SUBNET_POOL.first + 1) >> 8
        number = _number("subnet", name, size, taken.__contains__) if len(taken) < size else None
        if number is None:
            return ()
        first = SUBNET_POOL.first + (number << 8)
        return (AddressRange(Family.IPV4, first, first | 255),)

    def _ports(self, segments: Mapping[str, Segment]) -> dict[str, Port]:
        macs: dict[str, str] = {}
        bound: dict[str, dict[Address, str]] = {name: {} for name in segments}
        for name, draft in self.drafts["ports"].items():
            self._check_bindings(name, draft, segments, macs, bound)
        ports: dict[str, Port] = {}
        for name, draft in self.ports.items():
            values = draft.values
            if values["host"] is None or values["segment"] not in segments:
                continue
            segment = segments[values["segment"]]
            mac = values["mac"] or free_mac(name, macs)
            macs[mac] = name
            ips = values["ips"]
            if ips is None:
                ips = self._free_ips(name, draft, segment, bound[segment.name])
            machine = values["machine"] or name
            ports[name] = Port(
                name=name,
                host=values["host"],
                segment=segment.name,
                machine=machine,
                mac=mac,
                ips=tuple(dict.fromkeys(ips)),
                tags=values["tags"],
                labels=values["labels"],
                namespace=values["namespace"],
                external_id=values["external_id"],
                named_ports=values.get("named_ports", ()),
                ips_assumed=values["ips"] is None and "named_ports" in values,
                place=draft.cursor.place,
            )
        return {name: ports[name] for name in self.drafts["ports"] if name in ports}

    def _check_bindings(
        self,
        name: str,
        draft: Draft,
        segments: Mapping[str, Segment],
        macs: dict[str, str],
        bound: dict[str, dict[Address, str]],
    ) -> None:
        segment = segments.get(draft.values["segment"])
        mac = draft.values["mac"]
        if mac is not None:
            if int(mac[1], 16) & 1:
                draft.cursor.problem(f"{mac} is a multicast MAC address; the second digit must be even")
            other = self.drafts["ports"].get(macs.setdefault(mac, name))
            if other is not None and other is not draft and other.values["segment"] == draft.values["segment"]:
                draft.cursor.problem(f"the MAC {mac} is already that of port {macs[mac]!r} on this segment")
        if segment is None:
            return
        for ip in draft.values["ips"] or ():
            owner = bound[segment.name].setdefault(ip, name)
            if owner != name:
                draft.cursor.problem(f"the address {ip} is already that of port {owner!r} on this segment")
            same_family = [subnet for subnet in segment.subnets if subnet.family is ip.family]
            if segment.name == PODS_SEGMENT:
                continue
            if same_family and not any(subnet.contains(ip) for subnet in same_family):
                message = f"the address {ip} of port {name} lies outside its segment's subnet {same_family[0]}"
                self.findings.append(Finding("outside-subnet", draft.cursor.place, message))

    def _free_ips(self, name: str, draft: Draft, segment: Segment, bound: dict[Address, str]) -> tuple[Address, ...]:
        found = []
        for subnet in segment.subnets:
            ip = self._free(subnet, "ip", name, bound)
            if ip is None:
                draft.cursor.problem(f"no address of {subnet} is left for port {name!r}; give ips")
            else:
                bound[ip] = name
                found.append(ip)
        return tuple(found)

    def _machines(self, ports: Mapping[str, Port]) -> dict[str, Machine]:
        on_ports: dict[str, list[Tag]] = {}
        for port in ports.values():
            on_ports.setdefault(port.machine, []).extend(port.tags)
        machines: dict[str, Machine] = {}
        for name, draft in self.drafts["machines"].items():
            values = draft.values
            merged = tuple(dict.fromkeys((*values["tags"], *on_ports.pop(name, ()))))
            machines[name] = Machine(
                name, values["os_name"], values["computer_name"], merged, values["external_id"], draft.cursor.place
            )
        for name, port_tags in on_ports.items():
            machines[name] = Machine(name, tags=tuple(dict.fromkeys(port_tags)))
        return machines
