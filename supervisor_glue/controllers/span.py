# SPDX-License-Identifier: Apache-2.0
"""What every host is told, kept up to date with the API's objects, and told to whoever watches: the span group.

A burst of changes is one compile, and there is never more than one to come. What hosts share is made once for all.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Set
from contextlib import suppress
from typing import Final

from dfw.incremental import collector_paused, collector_spared
from dfw.logs import get_logger
from dfw.model import Port, Segment
from overlay.hoststate import BfdState
from overlay.span_parts import VERSION, GatewayPart, HostPart, MemberPart, SegmentPart, TepPart, part_encode
from supervisor_glue.controllers.groups import (
    OWN_LOG_ENTRIES,
    Group,
    HeldSets,
    Part,
    counted_add,
    left_behind,
    looking_count,
    part_made,
)
from supervisor_glue.controllers.informer import Views
from supervisor_glue.controllers.intent import LOOKED_AT, Changed, Intent, place_of
from supervisor_glue.controllers.settings import Settings
from supervisor_glue.controllers.staged_rules import StagedRules
from supervisor_glue.controllers.telling import OWN, HostChange, Steps, change_first, change_since
from supervisor_glue.controllers.vnic_rules import VnicRules
from supervisor_glue.span_wire import NOTHING, Known

GATHER: Final = 0.002  # seconds: what comes together is compiled together
REST: Final = 4  # times as long as a compile took: till then none, so that whoever changes things is not held up,
MOST_REST: Final = 0.1  # but no longer than this (seconds)
MANY: Final = 1000  # changed ports from which on the garbage collector waits
TELL_REVISION: Final = 1.0  # seconds: so often a host for which nothing changed is told how far this is,
TELL_HOSTS: Final = 25  # but no more than so many hosts a second


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
        self._hosts_at: dict[str, Counter[str]] = {}  # by segment, as counted in its domain
        self._hosts_with: dict[str, set[str]] = {}  # by policy path
        self._hosts_with_pods: dict[str, Counter[str]] = {}  # by Namespace
        self._of_vnic: dict[str, dict[str, frozenset[int]]] = {}
        self._staged = StagedRules(self.intent)
        self._held = HeldSets()
        self._looking: dict[int, Counter[str]] = {}  # by set: paths of policies that look at it, and on how many hosts
        self._touched: set[str] = set()  # since the last compile
        self._dirty = asyncio.Event()
        self._first = asyncio.Event()
        self._watching: dict[str, set[asyncio.Event]] = {}  # who is told, by host
        self._due: dict[str, int] = {}  # by host: the revision that it has to be told at once
        self._log = get_logger("span")

    def connect(self, views: Views) -> None:
        """Let the views say what changes."""
        for resource in LOOKED_AT:

            def changed(old: dict[str, object] | None, new: dict[str, object] | None, of: object = resource) -> None:
                at = views[of].revision  # type: ignore[index]
                self.intent.change(of, old, new, int(at) if at.isdecimal() else 0)  # type: ignore[arg-type]
                if self.intent.is_dirty:
                    self._dirty.set()

            views[resource].handle(changed)

    async def run(self, views: Views) -> None:
        """Compile what changes until cancelled; first when all views have been listed."""
        for resource in LOOKED_AT:
            await views[resource].synced.wait()
        with collector_paused():
            await self.compile()
        with collector_spared():
            loop, rested = asyncio.get_running_loop(), 0.0
            while True:
                await self._dirty.wait()
                await asyncio.sleep(max(GATHER, rested - loop.time()))
                begun = loop.time()
                await self.compile()
                rested = loop.time() + min(REST * (loop.time() - begun), MOST_REST)

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
        self._wake(hosts, keys)
        self._first.set()
        return frozenset(hosts)

    # Telling.

    async def computed(self) -> None:
        """Until it has looked once: before, a host would be told that nothing is there."""
        await self._first.wait()

    def parts(self, host: str) -> dict[str, Part]:
        """All that a host is told now."""
        found: dict[str, Part] = {}
        for group in self._groups(host).values():
            found.update(group.parts)
        return found

    async def watch(self, host: str, known: Known = NOTHING) -> AsyncIterator[HostChange]:
        """What a host has to know, as it changes; first what differs from what it knows. Without a change it is told
        the revision now and then: all that concerns it up to there it has. Nothing is told before the first compile.
        Ends where what the host has is not known: it asks again, with marks."""
        await self.computed()
        wake = asyncio.Event()
        self._watching.setdefault(host, set()).add(wake)
        try:
            steps: Steps = {}
            revision, loop = self.revision, asyncio.get_running_loop()
            change = change_first(self._groups(host), revision, known, steps)
            if change is None:
                return
            yield change
            told = loop.time()
            while True:
                wake.clear()
                change = change_since(self._groups(host), self.revision, steps)
                if change is None:
                    return
                is_due = self._due.get(host, 0) > revision or loop.time() - told >= self._pace()
                if change.is_news or (is_due and self.revision > revision):
                    revision, told = self.revision, loop.time()
                    yield change
                    continue
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._pace()):
                        await wake.wait()
        finally:
            self._watching[host].discard(wake)
            if not self._watching[host]:
                del self._watching[host]

    def _pace(self) -> float:
        """So often (seconds) a host that nothing concerns is told the revision: each answers by writing its status."""
        return max(TELL_REVISION, len(self._watching) / TELL_HOSTS)

    def _wake(self, hosts: Set[str], touched: Set[str]) -> None:
        """Those for which something changed, and those that have nothing to do for what was touched, but to say so."""
        concerned = self._watching.keys() if len(touched) > MANY else set().union(*map(self._hosts_for, touched))
        for host in concerned & self._watching.keys():
            self._due[host] = self.revision
        for host in (hosts | concerned) & self._watching.keys():
            for wake in self._watching[host]:
                wake.set()

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
                moved = old is None or new is None or place_of(old) != place_of(new)
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
            dirty_hosts |= self._staged.follow(delta.what_if)
            told |= self._sets(delta.sets.keys(), revision) | self._staged.sets_changed(delta.what_if, self.own)
            told.update(host for host in dirty_hosts if self._host(host, revision))
        return told

    def _touch(self, key: str, revision: int) -> None:
        self.touched[key] = revision
        self._touched.add(key)

    def hosts_of(self, key: str) -> set[str]:
        """The hosts that have to put in force what `touched` has under this key."""
        return set(self._hosts_for(key))

    def _hosts_for(self, key: str) -> Iterable[str]:
        kind, _, name = key.partition("/")
        if kind == "vnic":
            port = self.intent.ports.get(name)
            return () if port is None else (port.host,)
        return self._hosts_with_pods.get(name, ()) if kind == "namespace" else self._hosts_with.get(key, ())

    def _place(self, name: str, old: Port | None, new: Port | None) -> None:
        for port, more in ((old, -1), (new, 1)):
            if port is None:
                continue
            if more < 0:
                self.ports_on.get(port.host, {}).pop(name, None)
                self._ports_of.get(port.segment, {}).pop(name, None)
            else:
                self.ports_on.setdefault(port.host, {})[name] = port
                self._ports_of.setdefault(port.segment, {})[name] = port
            if port.namespace is not None:
                counted_add(self._hosts_with_pods.setdefault(port.namespace, Counter()), {port.host: more})
                if not self._hosts_with_pods[port.namespace]:
                    del self._hosts_with_pods[port.namespace]

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
        steps: dict[str, int] = {}  # of the domains that may be different, as they were
        gateways = {domain for name in changed.gateways for domain in self._domains_with(name)}
        for name in segments:
            found = self.intent.segments.get(name)
            before, now = self._domain_of.pop(name, None), None if found is None else self._top(found)
            if found is not None and now is not None:
                if now not in self.domains:
                    self.domains[now], self._hosts_of[now] = Group(), Counter()
                    gateways.add(now)
                self._domain_of[name] = now
            for domain in {before, now} - {None}:
                steps.setdefault(domain, self.domains[domain].step)  # type: ignore[arg-type, index]
            if before is not None and before != now:
                self.domains[before].remove(f"segment/{name}")
            if found is not None and now is not None:
                self.domains[now].put(f"segment/{name}", self._segment(found))
            told |= self._counted(name, before, now)
        for domain in gateways:
            steps.setdefault(domain, self.domains[domain].step)
            self._gateways(domain)
        for domain, step in steps.items():
            if self.domains[domain].step != step or changed.ports:
                told |= self._hosts_of[domain].keys()
            if not any(key.startswith("segment/") for key in self.domains[domain].parts):
                del self.domains[domain], self._hosts_of[domain]
        for host in changed.hosts:
            for domain, hosts in self._hosts_of.items():
                if host in hosts:
                    self._tep(domain, host)
                    told |= hosts.keys()
        return told

    def _counted(self, segment: str, before: str | None, now: str | None) -> set[str]:
        """Which hosts have how many ports in a domain, and with them its tunnel endpoints; those that came or went."""
        was = self._hosts_at.pop(segment, Counter())
        there = Counter(port.host for port in self._ports_of.get(segment, {}).values())
        moved: set[str] = set()
        if now is not None:
            self._hosts_at[segment] = there
            moved |= there.keys() - self._hosts_of[now].keys()
            counted_add(self._hosts_of[now], there)
            for host in there:
                self._tep(now, host)
        if before is not None:
            counted_add(self._hosts_of[before], {host: -count for host, count in was.items()})
            for host in was.keys() - self._hosts_of[before].keys():
                self.domains[before].remove(f"tep/{host}")
                moved.add(host)
        return moved

    def _domains_with(self, gateway: str) -> Iterable[str]:
        key = f"gateway/{gateway}"
        return [name for name, group in self.domains.items() if name == gateway or key in group.parts] + [
            top
            for top in [self.intent.gateways[gateway].uplink_gateway if gateway in self.intent.gateways else None]
            if top is not None and top in self.domains
        ]

    def _gateways(self, domain: str) -> None:
        """The gateways of a domain."""
        wanted = {}
        if not domain.startswith("segment "):
            for name, gateway in self.intent.gateways.items():
                if name == domain or gateway.uplink_gateway == domain:
                    part = GatewayPart(gateway.tier, self._gateway(gateway.uplink_gateway))
                    wanted[f"gateway/{name}"] = part_encode(part)
        group = self.domains[domain]
        for key in [key for key in group.parts if key.startswith("gateway/") and key not in wanted]:
            group.remove(key)
        for key, data in wanted.items():
            group.put(key, data)

    def _tep(self, domain: str, host: str) -> None:
        known = self.intent.hosts.get(host)
        if known is not None:
            self.domains[domain].put(
                f"tep/{host}", part_encode(TepPart(str(known.tep), known.enforcer, known.encapsulation))
            )

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
        for number in frozenset(numbers) & self.intent.state.sets.of.keys():
            if hosts := self._held.on.get(number):
                key, part, change = self.rules.set_changed(number)
                having = [host for host in hosts if self.own[host].put_part(key, part, change)]
                told.update(having)
                for path in self._looking.get(number, ()) if having else ():
                    self._touch(path, revision)
        return told

    def _host(self, host: str, revision: int) -> bool:
        """Make a host's own parts anew."""
        known = self.intent.hosts.get(host)
        sets: set[int] = set()
        policies: dict[str, frozenset[int]] = {}
        parts: dict[str, Part] = {}

        if known is not None:
            bfd = BfdState(known.bfd_interval, known.bfd_multiple)
            own = HostPart(str(known.tep), VERSION, bfd, known.enforcer, known.encapsulation)
            parts[f"host/{host}"] = part_made(f"host/{host}", part_encode(own))
        for name, port in self.ports_on.get(host, {}).items() if known is not None else ():
            if port.segment not in self.intent.segments:
                continue  # until there is a segment, nothing can be at it
            table, ether = self.rules.table(name), self.rules.ether(name)
            parts[table.key] = table.part
            if ether is not None:
                parts[ether[0]] = part_made(*ether)
            key = f"vnic/{name}"
            parts[key] = part_made(
                key, self.rules.vnic(port, ether and ether[0], self._staged.tell(known, name, parts))
            )
            sets.update(table.sets)
            self._compared(name, table.policies, revision)
            for path, looked_at in table.policies.items():
                policies[path] = policies.get(path, frozenset()) | looked_at
        for number in sets:
            parts[self.rules.set_key(number)] = self.rules.set_part(number)
        self._held.hold(host, sets)
        self._staged.told(host, parts)
        left_behind(self._hosts_with, self.policies_on.get(host, {}).keys() - policies.keys(), host)
        for path in policies:
            self._hosts_with.setdefault(path, set()).add(host)
        looking_count(self._looking, self.policies_on.get(host, {}), policies)
        self.policies_on[host] = policies
        group = self.own.setdefault(host, Group(log_entries=OWN_LOG_ENTRIES))
        is_changed = group.replace(parts)
        if known is None:
            del self.own[host], self.policies_on[host]
        return is_changed

    def _compared(self, vnic: str, policies: dict[str, frozenset[int]], revision: int) -> None:
        """Policies that came to a vNIC, or left it, have changed what they resolve to."""
        before = self._of_vnic.get(vnic)
        if before is policies:
            return
        self._of_vnic[vnic] = policies
        for path in (before or {}).keys() ^ policies.keys():
            self._touch(path, revision)
