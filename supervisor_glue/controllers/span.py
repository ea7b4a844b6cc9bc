# SPDX-License-Identifier: Apache-2.0
"""What every host is told, kept up to date with the API's objects, and told to whoever watches: the span group.

A burst of changes is one compile, and there is never more than one to come. What hosts share is made once for all.
"""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Set
from typing import Final

from dfw.incremental import collector_paused
from dfw.logs import get_logger
from dfw.model import Port, Segment
from overlay.hoststate import BfdState
from overlay.span_parts import (
    GatewayPart,
    HostPart,
    MemberPart,
    SegmentPart,
    TepPart,
    part_encode,
)
from supervisor_glue.controllers.groups import Group, Part, part_made
from supervisor_glue.controllers.informer import Views
from supervisor_glue.controllers.intent import LOOKED_AT, Changed, Intent
from supervisor_glue.controllers.settings import Settings
from supervisor_glue.controllers.telling import OWN, HostChange, change_first, change_since
from supervisor_glue.controllers.vnic_rules import VnicRules

GATHER: Final = 0.002  # seconds: what comes together is compiled together
MANY: Final = 1000  # changed ports from which on the garbage collector waits
TELL_REVISION: Final = 1.0  # seconds: so often a host for which nothing changed is told how far this is


class Span:
    """The computed state of all hosts. `policies_on`: by host, the paths of policies in force there; `touched`: by
    policy path, vNIC or Namespace, the revision of the last change of anything it resolves to."""

    def __init__(self, settings: Settings) -> None:
        self.intent = Intent(settings)
        self.revision = 0
        self.compiles = 0
        self.rules = VnicRules(self.intent.state)
        self.own: dict[str, Group] = {}
        self.domains: dict[str, Group] = {}
        self.policies_on: dict[str, dict[str, frozenset[int]]] = {}
        self.ports_on: dict[str, dict[str, Port]] = {}
        self.touched: dict[str, int] = {}
        self.listeners: list[Callable[[Iterable[str]], None]] = []  # told which of these a compile has touched
        self._ports_of: dict[str, dict[str, Port]] = {}  # by segment
        self._segments_of: dict[str, set[str]] = {}  # by gateway
        self._hosts_of: dict[str, Counter[str]] = {}  # by domain
        self._domain_of: dict[str, str] = {}  # by segment, as it was last made
        self._of_vnic: dict[str, dict[str, frozenset[int]]] = {}
        self._sets_on: dict[int, set[str]] = {}  # hosts by set
        self._sets_of: dict[str, frozenset[int]] = {}  # sets by host
        self._touched: set[str] = set()  # since the last compile
        self._dirty = asyncio.Event()
        self._told = asyncio.Condition()
        self._log = get_logger("span")

    def connect(self, views: Views) -> None:
        """Let the views say what changes."""
        for resource in LOOKED_AT:

            def changed(old: dict[str, object] | None, new: dict[str, object] | None, of: object = resource) -> None:
                self.intent.change(of, old, new)  # type: ignore[arg-type]
                if self.intent.is_dirty:
                    self._dirty.set()

            views[resource].handle(changed)

    async def run(self, views: Views) -> None:
        """Compile what changes until cancelled; first when all views have been listed."""
        for resource in LOOKED_AT:
            await views[resource].synced.wait()
        with collector_paused():
            await self.compile()
        gc.freeze()  # what was listed stays: the collector need not look through it again and again
        while True:
            await self._dirty.wait()
            await asyncio.sleep(GATHER)
            await self.compile()

    async def compile(self) -> frozenset[str]:
        """Put all that was noted in force; the hosts for which something changed."""
        self._dirty.clear()
        revision = self.intent.revision
        changed = self.intent.apply()
        self.compiles += 1
        hosts = self._taken(changed, revision)
        self.rules.forget_unused()
        self.revision = max(self.revision, revision)
        keys, self._touched = self._touched, set()
        for listener in self.listeners:
            listener(keys)
        self._log.debug("compiled", revision=revision, hosts=len(hosts), ports=len(changed.ports))
        async with self._told:
            self._told.notify_all()
        return frozenset(hosts)

    # Telling.

    async def computed(self) -> None:
        """Until it has looked once: before, a host would be told that nothing is there."""
        async with self._told:
            await self._told.wait_for(lambda: self.compiles > 0)

    def parts(self, host: str) -> dict[str, Part]:
        """All that a host is told now."""
        found: dict[str, Part] = {}
        for group in self._groups(host).values():
            found.update(group.parts)
        return found

    async def watch(self, host: str, known: Set[bytes] = frozenset()) -> AsyncIterator[HostChange]:
        """What a host has to know, as it changes; first what differs from what it knows (marks of parts). Without a
        change it is told the revision now and then: all that concerns it up to there it has. Nothing is told before the
        first compile: a host that comes back to a leader that has just begun is not told that all it knows is gone.
        Ends where so much has changed that what the host has is not known: it asks again."""
        await self.computed()
        steps = {name: (group, group.step) for name, group in self._groups(host).items()}
        revision = self.revision
        yield change_first(self._groups(host), self.revision, known)
        del known
        loop = asyncio.get_running_loop()
        told = loop.time()
        while True:
            change = change_since(self._groups(host), self.revision, steps)
            if change is None:
                return
            if change.is_news or self._is_due(revision, loop.time() - told):
                revision, told = self.revision, loop.time()
                yield change
                continue
            wait = None if self.revision == revision else max(0.0, told + TELL_REVISION - loop.time())
            before = self.compiles
            async with self._told:
                if self.compiles == before:
                    try:
                        await asyncio.wait_for(self._told.wait(), wait)
                    except TimeoutError:
                        pass

    def _is_due(self, revision: int, seconds: float) -> bool:
        return self.revision > revision and seconds >= TELL_REVISION

    def _groups(self, host: str) -> dict[str, Group]:
        found = {OWN: self.own[host]} if host in self.own else {}
        segments = {port.segment for port in self.ports_on.get(host, {}).values()}
        for domain in sorted({self._domain_of[name] for name in segments if name in self._domain_of}):
            found[f"domain {domain}"] = self.domains[domain]
        return found

    # Taking in.

    def _taken(self, changed: Changed, revision: int) -> set[str]:
        """Make the parts anew that depend on the changes; the hosts that are told."""
        delta = changed.delta
        dirty_segments = set(changed.segments)
        dirty_hosts = set(changed.hosts)
        with collector_paused(len(changed.ports) > MANY):
            for name, old in changed.ports.items():
                new = self.intent.ports.get(name)
                self._place(name, old, new)
                self._touch(f"vnic/{name}", revision)
                moved = old is None or new is None or _place_of(old) != _place_of(new)
                for port in (old, new):
                    if port is not None:
                        dirty_hosts.add(port.host)
                        if moved:
                            dirty_segments.add(port.segment)
                        if moved and port.namespace is not None:
                            self._touch(f"namespace/{port.namespace}", revision)
                if new is None:
                    self.touched.pop(f"vnic/{name}", None)
                    for path in self._of_vnic.pop(name, ()):
                        self._touch(path, revision)
            for name in changed.segments:
                dirty_hosts.update(port.host for port in self._ports_of.get(name, {}).values())
            for host in changed.hosts:
                dirty_segments.update(port.segment for port in self.ports_on.get(host, {}).values())
            if changed.gateways:
                dirty_segments.update(self._routed(changed))
            told = self._shared(dirty_segments, changed)
            for name in (*delta.tables, *delta.profiles):
                port = self.intent.ports.get(name)
                if port is not None:
                    dirty_hosts.add(port.host)
                    self._touch(f"vnic/{name}", revision)
            if delta.layer2:
                dirty_hosts.update(self.intent.hosts)
            for path in changed.policies:
                self._touch(path, revision)
                if path.startswith("posture/"):
                    self._touch(f"namespace/{path.partition('/')[2]}", revision)
            told |= self._sets(delta.sets.keys(), revision)
            for host in dirty_hosts:
                if self._host(host, revision):
                    told.add(host)
        return told

    def _touch(self, key: str, revision: int) -> None:
        self.touched[key] = revision
        self._touched.add(key)

    def hosts_of(self, key: str) -> set[str]:
        """The hosts that have to put in force what `touched` has under this key."""
        kind, _, name = key.partition("/")
        if kind == "vnic":
            port = self.intent.ports.get(name)
            return set() if port is None else {port.host}
        if kind == "namespace":
            return {host for host, ports in self.ports_on.items() if any(p.namespace == name for p in ports.values())}
        return {host for host, policies in self.policies_on.items() if key in policies}

    def _place(self, name: str, old: Port | None, new: Port | None) -> None:
        if old is not None:
            self.ports_on.get(old.host, {}).pop(name, None)
            self._ports_of.get(old.segment, {}).pop(name, None)
        if new is not None:
            self.ports_on.setdefault(new.host, {})[name] = new
            self._ports_of.setdefault(new.segment, {})[name] = new

    # What hosts of a routing domain share.

    def _gateway(self, name: str | None) -> str | None:
        return name if name in self.intent.gateways else None

    def _top(self, segment: Segment) -> str:
        gateway = self._gateway(segment.gateway)
        if gateway is None:
            return f"segment {segment.name}"
        return self._gateway(self.intent.gateways[gateway].uplink_gateway) or gateway

    def _routed(self, changed: Changed) -> Iterable[str]:
        """The segments whose routing may be another with these gateways."""
        below = {
            name
            for name, gateway in self.intent.gateways.items()
            if name in changed.gateways or gateway.uplink_gateway in changed.gateways
        }
        for name in below | changed.gateways.keys():
            yield from self._segments_of.get(name, ())

    def _shared(self, segments: Iterable[str], changed: Changed) -> set[str]:
        told: set[str] = set()
        for name, old in changed.segments.items():
            for segment, add in ((old, False), (self.intent.segments.get(name), True)):
                if segment is not None and segment.gateway is not None:
                    there = self._segments_of.setdefault(segment.gateway, set())
                    there.add(name) if add else there.discard(name)
        domains: set[str] = set()
        for name in segments:
            found = self.intent.segments.get(name)
            before, now = self._domain_of.get(name), None if found is None else self._top(found)
            if before is not None and before != now:
                self.domains[before].remove(f"segment/{name}")
                domains.add(before)
                del self._domain_of[name]
            if found is not None and now is not None:
                self.domains.setdefault(now, Group()).put(f"segment/{name}", self._segment(found))
                self._domain_of[name] = now
                domains.add(now)
        for name in changed.gateways:
            for domain in self._domains_with(name):
                domains.add(domain)
        members: dict[str, set[str]] = {domain: set() for domain in domains}
        for name, domain in self._domain_of.items():
            if domain in members:
                members[domain].add(name)
        for domain in domains:
            told |= self._domain(domain, members[domain], changed)
        for host in changed.hosts:
            for domain, hosts in self._hosts_of.items():
                if hosts[host]:
                    self._tep(domain, host)
                    told.update(name for name, count in hosts.items() if count)
        return told

    def _domains_with(self, gateway: str) -> Iterable[str]:
        key = f"gateway/{gateway}"
        return [name for name, group in self.domains.items() if name == gateway or key in group.parts] + [
            top
            for top in [self.intent.gateways[gateway].uplink_gateway if gateway in self.intent.gateways else None]
            if top is not None and top in self.domains
        ]

    def _domain(self, domain: str, segments: set[str], changed: Changed) -> set[str]:
        """The gateways and tunnel endpoints of a domain; the hosts that have to know."""
        group = self.domains[domain]
        before = group.step
        hosts: Counter[str] = Counter()
        for name in segments:
            hosts.update(port.host for port in self._ports_of.get(name, {}).values())
        old = self._hosts_of.get(domain, Counter())
        self._hosts_of[domain] = hosts
        for host in hosts.keys() | old.keys():
            if hosts[host]:
                self._tep(domain, host)
            else:
                group.remove(f"tep/{host}")
        wanted = {}
        if not domain.startswith("segment "):
            for name, gateway in self.intent.gateways.items():
                if name == domain or gateway.uplink_gateway == domain:
                    part = GatewayPart(gateway.tier, self._gateway(gateway.uplink_gateway))
                    wanted[f"gateway/{name}"] = part_encode(part)
        for key in [key for key in group.parts if key.startswith("gateway/") and key not in wanted]:
            group.remove(key)
        for key, data in wanted.items():
            group.put(key, data)
        if not segments:
            del self.domains[domain], self._hosts_of[domain]
        return set(hosts) | set(old) if group.step != before or hosts != old or changed.ports else set()

    def _tep(self, domain: str, host: str) -> None:
        known = self.intent.hosts.get(host)
        if known is not None:
            self.domains[domain].put(f"tep/{host}", part_encode(TepPart(str(known.tep), known.enforcer)))

    def _segment(self, segment: Segment) -> bytes:
        ports = sorted(self._ports_of.get(segment.name, {}).values(), key=lambda port: port.name)
        members = tuple(
            MemberPart(port.host, port.mac, tuple(map(str, port.ips)))
            for port in ports
            if port.host in self.intent.hosts
        )
        subnets = tuple(map(str, segment.subnets))
        return part_encode(SegmentPart(segment.vni, subnets, self._gateway(segment.gateway), members))

    # What is a host's own.

    def _sets(self, numbers: Iterable[int], revision: int) -> set[str]:
        """Address sets whose members changed, on the hosts that have them."""
        told: set[str] = set()
        changed = frozenset(numbers)
        sets = self.intent.state.sets.of
        for number in changed & sets.keys():
            hosts = self._sets_on.get(number)
            if hosts:
                key, part, change = self.rules.set_changed(number)
                for host in hosts:
                    if self.own[host].put_part(key, part, change):
                        told.add(host)
        if told:
            for host in told:
                for path, looked_at in self.policies_on[host].items():
                    if not changed.isdisjoint(looked_at):
                        self._touch(path, revision)
        return told

    def _host(self, host: str, revision: int) -> bool:
        """Make a host's own parts anew."""
        known = self.intent.hosts.get(host)
        sets: set[int] = set()
        policies: dict[str, frozenset[int]] = {}
        parts: dict[str, Part] = {}

        def add(key: str, data: bytes) -> None:
            parts[key] = part_made(key, data)

        if known is not None:
            bfd = BfdState(known.bfd_interval, known.bfd_multiple)
            add(f"host/{host}", part_encode(HostPart(str(known.tep), bfd, known.enforcer)))
        for name, port in self.ports_on.get(host, {}).items() if known is not None else ():
            if port.segment not in self.intent.segments:
                continue  # until there is a segment, nothing can be at it
            table, ether = self.rules.table(name), self.rules.ether(name)
            parts[table.key] = table.part
            if ether is not None:
                add(*ether)
            add(f"vnic/{name}", self.rules.vnic(port, None if ether is None else ether[0]))
            sets.update(table.sets)
            self._compared(name, table.policies, revision)
            for path, looked_at in table.policies.items():
                policies[path] = policies.get(path, frozenset()) | looked_at
        for number in sets:
            parts[self.rules.set_key(number)] = self.rules.set_part(number)
        for number in self._sets_of.get(host, frozenset()) - sets:
            self._sets_on[number].discard(host)
            if not self._sets_on[number]:
                del self._sets_on[number]
        for number in sets:
            self._sets_on.setdefault(number, set()).add(host)
        self._sets_of[host] = frozenset(sets)
        self.policies_on[host] = policies
        group = self.own.setdefault(host, Group())
        is_changed = group.replace(parts)
        if known is None:
            del self.own[host], self.policies_on[host], self._sets_of[host]
        return is_changed

    def _compared(self, vnic: str, policies: dict[str, frozenset[int]], revision: int) -> None:
        """Policies that came to a vNIC, or left it, have changed what they resolve to."""
        before = self._of_vnic.get(vnic)
        if before is policies:
            return
        self._of_vnic[vnic] = policies
        for path in (before or {}).keys() ^ policies.keys():
            self._touch(path, revision)


def _place_of(port: Port) -> tuple[object, ...]:
    """What others have to know of a port."""
    return port.host, port.segment, port.mac, port.ips
