# SPDX-License-Identifier: Apache-2.0
"""What the fixture `palisade_replay` gives: captures through the policy, and assertions about what became of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from dfw.endpoint import Peer
from dfw.model import PROTO_ICMP, PROTO_ICMPV6, Address, Direction, PolicySet
from dfw.policytest.conversations import Captured, Conversation, PacketSeen, captures_judge
from dfw.policytest.errors import PolicyTestError, assertion
from dfw.policytest.messages import explanation, table_text
from dfw.policytest.question import Ends, ends_cover, probe_is_plain, services_parse
from dfw.policytest.rules import rule_find, shown_rule
from dfw.policytest.worlds import UnderTest
from dfw.probe import Probe
from dfw.replay_run import RunOptions

_SHOWN = 5


class ReplayUnderTest(UnderTest):
    """Call it with captures (relative to the test's file): they are judged as `palisade replay` judges them."""

    def __call__(
        self,
        *captures: str | Path,
        tap: bool = False,
        decap: bool = False,
        each: bool = False,
        checksums: str = "ignore",
        live_sanity: bool = False,
        live_limits: bool = False,
    ) -> ReplayedCaptures:
        """Judge captures, state carried over from file to file (`each`: cleared between). The options are replay's."""
        __tracebackhide__ = True
        if not captures:
            raise PolicyTestError("palisade_replay(...) needs a capture")
        if checksums not in ("ignore", "verify"):
            raise PolicyTestError(f"checksums={checksums!r}: ignore or verify")
        files = tuple(str(self._folder / name) for name in captures)
        options = RunOptions(
            vnics=self._subject.has_inventory and not tap,
            decap=decap,
            each=each,
            verify=checksums == "verify",
            live_sanity=live_sanity,
            live_limits=live_limits,
        )
        self._is_opaque()
        return ReplayedCaptures(self, self._judged(files, options))

    def _judged(self, files: tuple[str, ...], options: RunOptions) -> Captured:
        __tracebackhide__ = True
        world = self._subject.world
        known = self._subject.replays
        if world is not self._subject.base:
            return captures_judge(world, files, options)
        if (files, options) not in known:
            known[files, options] = captures_judge(world, files, options)
        return known[files, options]

    def count(self, paths: Iterable[str | None]) -> None:
        """One more assertion that these rules decided."""
        self._count({path for path in paths if path})

    def why(self, packet: PacketSeen) -> list[str]:
        """An empty line and what `palisade explain` says of a packet that began a connection; nothing of another."""
        last = packet.last
        if last is None or last.rule_path is None or last.reason != "match" or packet.source is None:
            return []
        assert packet.destination is not None
        inventory = self.world.inventory
        ends = [Peer(next(iter(inventory.ports_at(ip)), None), ip) for ip in (packet.source, packet.destination)]
        ports = (packet.sport, packet.dport)
        if packet.protocol in (PROTO_ICMP, PROTO_ICMPV6):
            ports = (packet.dport >> 8, packet.dport & 255)
        probe = Probe(ends[0], ends[1], packet.protocol, *ports)
        is_plain = probe_is_plain(probe) and last.ct == "new"
        return ["", explanation(self._subject, probe, last.dir != Direction.IN_OUT.name)] if is_plain else []

    @property
    def world(self) -> PolicySet:
        """The policy."""
        return self._subject.world

    def rule(self, path: str | None) -> str:
        """A rule with its place."""
        return shown_rule(self._subject.rules.get(path)) if path else "no rule"


class ReplayedCaptures:
    """Captures that were judged. `packets`, `conversations`, `hits` (by rule path) and `drops` (by reason) are there
    for assertions of one's own."""

    def __init__(self, owner: ReplayUnderTest, captured: Captured) -> None:
        self._owner = owner
        self.packets = captured.packets
        self.conversations = captured.conversations
        self.hits = captured.hits
        self.drops = captured.drops

    def packet(self, n: int, file: str | Path | None = None) -> PacketSeen:
        """A packet by its number, as tshark's frame.number; `file` where there are several captures."""
        found = [packet for packet in self.packets if packet.n == n]
        if file is not None:
            found = [packet for packet in found if Path(packet.file).match(str(file))]
        __tracebackhide__ = True
        if len(found) != 1:
            why = "there is no such packet" if not found else "several captures have one; say file="
            raise PolicyTestError(f"packet {n}: {why}")
        return found[0]

    def assert_packet(
        self,
        n: int,
        verdict: str,
        *,
        by: str | None = None,
        reason: str | None = None,
        file: str | Path | None = None,
    ) -> None:
        """Packet `n` ends as ALLOW, DROP or REJECT, decided by this rule, for this reason (docs/reasons.md)."""
        __tracebackhide__ = True
        if verdict not in ("ALLOW", "DROP", "REJECT"):
            raise PolicyTestError(f"{verdict!r} is no verdict: ALLOW, DROP or REJECT")
        packet = self.packet(n, file)
        path = None if by is None else rule_find(self._owner.world, by)
        last = packet.last
        if last is None:
            raise PolicyTestError(f"{packet}: never judged")
        wanted = [(verdict, last.verdict), (path, last.rule_path), (reason, last.reason)]
        if any(given is not None and given != seen for given, seen in wanted):
            parts = (verdict, path and f"by {self._owner.rule(path)}", reason and f"({reason})")
            expected = " ".join(filter(None, parts))
            why = "\n".join(self._owner.why(packet))
            raise assertion(f"{packet}: expected {expected}, but it is {self._seen(packet)}\n{why}".rstrip())
        self._owner.count([last.rule_path])

    def assert_pass(self, source: Ends, destination: Ends, service: Ends) -> None:
        """Every conversation from `source` to `destination` passes whole, answers too. Without one it errors."""
        __tracebackhide__ = True
        found = self.select(source, destination, service)
        call = f"assert_pass({source!r}, {destination!r}, {service!r})"
        wrong = [next(packet for packet in item.packets if not packet.passes) for item in found if not item.passes]
        self._settle(found, wrong, "to pass", call)

    def assert_cut(self, source: Ends, destination: Ends, service: Ends, *, by: str | None = None) -> None:
        """Every conversation from `source` to `destination` is refused at its first packet. Without one it errors."""
        __tracebackhide__ = True
        found = self.select(source, destination, service)
        path = None if by is None else rule_find(self._owner.world, by)
        call = f"assert_cut({source!r}, {destination!r}, {service!r})"
        self._settle(found, [item.first for item in found if not item.is_cut], "to be cut", call)
        for first in (item.first for item in found):
            if path is not None and first.last is not None and first.last.rule_path != path:
                seen = self._seen(first)
                raise PolicyTestError(
                    f"{first}: expected to be cut by {self._owner.rule(path)}, but it is {seen}\nin {call}"
                )

    def assert_hits(self, rule: str, count: int | None = None) -> None:
        """The rule decided this often, as replay counts hits; without `count`, at least once."""
        __tracebackhide__ = True
        path = rule_find(self._owner.world, rule)
        seen = self.hits.get(path, 0)
        if seen != count if count is not None else seen == 0:
            wanted = "at least one hit" if count is None else f"{count} hits"
            raise assertion(f"{self._owner.rule(path)}: expected {wanted}, but it has {seen}")
        self._owner.count([path] if seen else [])

    def assert_drops(self, expected: Mapping[str, int]) -> None:
        """What was refused, by reason, is exactly this: `{"match": 24, "tcp-state": 2}`."""
        __tracebackhide__ = True
        from dfw.core import REASONS

        unknown = [reason for reason in expected if reason not in REASONS]
        if unknown:
            raise PolicyTestError(f"{', '.join(unknown)}: no such reason (docs/reasons.md has them all)")
        wanted = {reason: count for reason, count in expected.items() if count}
        if wanted != self.drops:
            rows = [
                (reason, str(wanted.get(reason, 0)), str(self.drops.get(reason, 0)))
                for reason in sorted({*wanted, *self.drops})
                if wanted.get(reason, 0) != self.drops.get(reason, 0)
            ]
            odd = {reason for reason, _, _ in rows}
            refused = (
                packet for packet in self.packets if packet.last and not packet.passes and packet.last.reason in odd
            )
            shown = "".join(f"\n\nfor example {packet}: {self._seen(packet)}" for packet in islice(refused, 1))
            raise assertion(f"refusals differ\n\n{table_text(('reason', 'expected', 'observed'), rows)}{shown}")
        self._owner.count(item.rule_path for packet in self.packets for item in packet.judgements if not packet.passes)

    def select(self, source: Ends, destination: Ends, service: Ends) -> list[Conversation]:
        """The conversations that began from `source` to `destination` with this service. Raises PolicyTestError."""
        covers = [ends_cover(self._owner.world, ends) for ends in (source, destination)]
        services = services_parse(service)
        named = [item.name for item in services if item.name]
        if named:
            raise PolicyTestError(f"{named[0]}: name the port by its number, such as tcp/80")
        wanted = {(item.protocol, item.dport) if item.family is None else (item.protocol, None) for item in services}

        def fits(packet: PacketSeen) -> bool:
            ends: list[tuple[Any, Address | None]] = list(zip(covers, (packet.source, packet.destination), strict=True))
            if not all(address is not None and cover(address) for cover, address in ends):
                return False
            return bool({(packet.protocol, packet.dport), (packet.protocol, None)} & wanted)

        found = [item for item in self.conversations if fits(item.first)]
        __tracebackhide__ = True
        if not found:
            raise PolicyTestError(f"no conversation in the captures goes from {source} to {destination} with {service}")
        return found

    def _settle(self, found: list[Conversation], wrong: list[PacketSeen], expected: str, call: str) -> None:
        __tracebackhide__ = True
        if wrong:
            lines = [f"{packet}: expected {expected}, but it is {self._seen(packet)}" for packet in wrong[:_SHOWN]]
            more = [f"and {len(wrong) - _SHOWN} more"] if len(wrong) > _SHOWN else []
            why = self._owner.why(wrong[0])
            raise assertion("\n".join([lines[0], f"in {call}: {len(wrong)} of {len(found)}", *lines[1:], *more, *why]))
        self._owner.count(judged.rule_path for item in found for judged in item.first.judgements)

    def _seen(self, packet: PacketSeen) -> str:
        last = packet.last
        if last is None:
            return "never judged"
        where = f" at {last.vnic} ({last.dir})" if last.vnic else ""
        return f"{last.verdict} by {self._owner.rule(last.rule_path)}{where}: {last.reason}"
