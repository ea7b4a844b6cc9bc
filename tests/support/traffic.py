# SPDX-License-Identifier: Apache-2.0
"""A seeded generator of traffic for differential tests: many conversations at once, on a clock of their own.

`Traffic(Scenario(seed)).batches(count)` yields lists of events: packets with their times, and commits of policies
between them (traffic_policies.POLICIES by number). Conversations (talk_tcp.py, talk.py, talk_alg.py) are simulated
ends, so that most packets are legal; on the way packets are doubled, delayed, cut, changed, wrapped and fragmented,
and hostile ones (hostile.py) are mixed in. Sleeping conversations come back on the last tick on which they are
remembered, or on the first on which they are not; every so often the clock jumps to the next of them.

The same scenario gives the same events. Nothing is kept but what is alive: memory is bounded.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from dfw.model import FloodLimits, Limits, Timers
from tests.support import hostile, talk, talk_alg
from tests.support.talk_tcp import Said, Talk, tcp_life
from tests.support.wire import End, Path, arp, ethernet, fragments

TICK = 10_000_000
ETHERNET, NULL, RAW, LOOP, LINUX_SLL, LINUX_SLL2 = 1, 0, 101, 108, 113, 276
LINKS = (ETHERNET, ETHERNET, ETHERNET, RAW, LINUX_SLL, LINUX_SLL2, NULL, LOOP)


class Packet(NamedTuple):
    """One captured packet: time, bytes present, length on the wire (>= the bytes), pcap link type."""

    ts_ns: int
    data: bytes
    wire: int
    link: int


class Commit(NamedTuple):
    """Policy `number` of traffic_policies.POLICIES comes into force."""

    number: int


class TakeOver(NamedTuple):
    """Another process goes on with the table of connections, under policy `number` (packet-path.md section 14)."""

    number: int


Event = Packet | Commit | TakeOver


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is drawn once for a run. `vnics`: judged at the inventory's vNICs, else on a tap. `capacity`: of the
    connection table, None for plenty. `epoch`: the first, for engines that can be given one. `calm`: no bursts and no
    floods. `takeovers`: now and then another process goes on; what lists of connections are in order of, and flow
    records, are the old one's then. `limits`: budgets at each filter. `flood`: flood protection."""

    seed: int
    link: int = ETHERNET
    vnics: bool = False
    verify: bool = False
    decap: bool = False
    capacity: int | None = None
    short_timers: bool = False
    no_default: bool = False
    begin_empty: bool = False
    epoch: int = 1
    width: int = 96
    commits: int = 4000
    stopped: bool = False
    calm: bool = False
    takeovers: bool = False
    limits: Limits = field(default_factory=Limits)
    flood: FloodLimits = field(default_factory=FloodLimits)

    @property
    def timers(self) -> Timers:
        """The timers in force (traffic_policies._TIMERS)."""
        return SHORT_TIMERS if self.short_timers else Timers()


SHORT_TIMERS = Timers(12, 10, 120, 14, 11, 10, 13, 10, 15, 12, 10)
# By kind of run: at vNICs, and on a tap.
TIGHT_LIMITS = {
    5: Limits(1, 20, 9, 6, 14, 20, 4, 8, 5, 3, 6, 10, 7, 4),
    6: Limits(14, 14, 8, 3, 55, 55, fragments_own=5, fragments_others=5, fragments_prefix=6, fragments_source=3),
}
# On a tap, with more connections than any vNIC: one kind at a time.
TIGHT_FLOODS = (FloodLimits(tcp_half_open=12), FloodLimits(udp_active=10, icmp_active=4), FloodLimits(other_active=5))


def scenario_draw(seed: int) -> Scenario:
    """A scenario by seed; among any eight consecutive seeds there is each kind of run."""
    rng = random.Random(f"scenario {seed}")
    kind = seed % 8
    return Scenario(
        seed=seed,
        link=LINKS[seed // 8 % len(LINKS)] if kind in (2, 6) else ETHERNET,
        vnics=kind in (1, 5),
        verify=kind == 3,
        decap=kind == 4,
        capacity=(24, 240, 120)[seed // 8 % 3] if kind == 7 else None,
        short_timers=kind in (0, 3, 5, 7),
        no_default=kind == 3 and seed % 16 == 3,
        begin_empty=kind in (1, 2, 3),
        epoch=(1 << 32) - 3 if kind in (0, 1) else 1,
        width=48 if kind == 7 else rng.choice((48, 96, 200)),
        commits=rng.choice((800, 2500, 6000)),
        takeovers=seed % 16 in (2, 8, 9),
        limits=TIGHT_LIMITS[kind] if kind in TIGHT_LIMITS else Limits(),
        flood=TIGHT_FLOODS[seed // 8 % 3] if kind == 3 else FloodLimits(),
    )


# Conversations and how often each kind begins.
TALKS: tuple[tuple[Callable[[World], Talk], int], ...] = (
    (tcp_life, 48),
    (talk.udp_talk, 14),
    (talk.icmp_talk, 8),
    (talk.icmp_error_talk, 8),
    (talk.sctp_talk, 8),
    (talk_alg.ftp_talk, 4),
    (talk_alg.tftp_talk, 2),
    (talk.fragment_talk, 5),
    (talk.protocol_talk, 3),
    (talk.multicast_talk, 2),
)
_RARE = ((talk.fragment_flood, 0.0006), (talk.reject_burst, 0.003))
COMMIT_ORDER = (0, 2, 3, 0, 2, 1)  # drawn from: most traffic should meet rules that let connections be


class World:
    """What conversations share: chance, time, addresses and ports, and packets seen of late."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.random = random.Random(f"traffic {scenario.seed}")
        self.rnd = self.random.random
        self.timers = scenario.timers
        self.now = 1_700_000_000 * 1_000_000_000
        self._recent: list[Said] = []
        self._make_ends()

    def _make_ends(self) -> None:
        router = "02:00:00:00:ff:01"
        ports = (("1", "11", "01:01"), ("1", "12", "01:02"), ("2", "11", "02:01"), ("2", "12", "02:02"))
        self._servers = [
            [End(f"10.1.{net}.{host}", f"02:00:00:00:{mac}") for net, host, mac in ports]
            + [End(f"10.1.3.{i}", router) for i in range(1, 9)],
            [End(f"fd00:1:{net}::{host}", f"02:00:00:00:{mac}") for net, host, mac in ports]
            + [End(f"fd00:1:3::{i}", router) for i in range(1, 5)],
        ]
        self._clients = [
            [End(f"10.{9 - i % 2}.0.{i + 1}", router) for i in range(24)]
            + [End("10.6.6.6", router), End("192.0.2.1", router)],
            [End(f"fd00:9::{i + 1:x}", router) for i in range(10)]
            + [End("fd00:6::6", router), End("2001:db8::1", router)],
        ]
        groups = ("224.0.0.251", "255.255.255.255", "239.1.2.3"), ("ff02::1", "ff02::fb")
        self._groups = [[End(address, "01:00:5e:00:00:fb") for address in addresses] for addresses in groups]
        self._paths: dict[tuple[End, End], Path] = {}
        self._tunnels = [
            Path(End("172.16.0.11", router), End("172.16.0.12", router)),
            Path(End("172.16.0.12", router), End("172.16.0.11", router)),
            Path(End("fd10::11", router), End("fd10::12", router)),
        ]

    # What conversations ask for

    def port(self) -> int:
        """A client's port; three in ten of a few, so that 5-tuples are used again."""
        return 40000 + int(self.rnd() * 8) if self.rnd() < 0.3 else 1024 + int(self.rnd() * 64000)

    def path_between(self, source: End, destination: End) -> Path:
        """The one path between two ends."""
        found = self._paths.get((source, destination))
        if found is None:
            found = self._paths[source, destination] = Path(source, destination)
            self._paths[destination, source] = found.back
        return found

    def path(self) -> Path:
        """From a client to a server, or between servers."""
        rnd = self.rnd
        family = rnd() < 0.3
        servers, clients = self._servers[family], self._clients[family]
        if rnd() < 0.25:
            source = servers[int(rnd() * len(servers))]
        else:
            source = clients[int(rnd() * len(clients))]
        known = self.scenario.vnics and rnd() < 0.85
        target = servers[int(rnd() * (4 if known else len(servers)))]
        if target is source:
            target = clients[0] if rnd() < 0.7 else target  # at a vNIC a packet to itself is judged only as it leaves
        return self.path_between(source, target)

    def group_path(self) -> Path:
        """To a multicast group or to everybody."""
        family = self.rnd() < 0.4
        source, groups = self._servers[family], self._groups[family]
        return self.path_between(source[int(self.rnd() * len(source))], groups[int(self.rnd() * len(groups))])

    def router_path(self, path: Path) -> Path:
        """To the sender of a path, from a router in between."""
        family = path.family == 6
        address = "fd00:fe::1" if family else "10.254.0.1"
        return Path(End(address, "02:00:00:00:ff:01"), _end_of(path))

    def tcp_ends(self) -> tuple[Path, int, int]:
        """Path and ports of a new TCP connection."""
        rnd = self.rnd
        chance = rnd()
        service = (80, 443, 8000, 8443, 8200, 8300, 3306, 22, 9000, 5000)[int(rnd() * 10)]
        if chance < 0.04:
            service = (23, 445, 3306, 0)[int(rnd() * 4)]
        elif chance < 0.1:
            service = 1 + int(rnd() * 65535)
        return self.path(), self.port(), service

    def udp_ends(self) -> tuple[Path, int, int]:
        """Path and ports of a new UDP flow."""
        rnd = self.rnd
        service = (53, 443, 500, 6000, 123)[int(rnd() * 5)] if rnd() < 0.9 else (137, 69, 7)[int(rnd() * 3)]
        return self.path(), 123 if service == 123 and rnd() < 0.5 else self.port(), service

    def sctp_ends(self) -> tuple[Path, int, int]:
        """Path and ports of a new association."""
        return self.path(), self.port(), 3868 if self.rnd() < 0.9 else 38412

    def recent_packet(self) -> Said | None:
        """One of the last IP packets, as it was sent."""
        return self._recent[int(self.rnd() * len(self._recent))] if self._recent else None

    def until(self, ts: int, timer: str) -> int:
        """A time on the last tick of a timer that was set at `ts`, or on the first after it; 0: not worth waiting."""
        seconds: int = getattr(self.timers, timer)
        if seconds > 1000 and self.rnd() < 0.5:
            return 0
        return self._edge(ts // TICK + seconds * 100)

    def expiry(self, ts: int) -> int:
        """The same for an expectation."""
        return self._edge(ts // TICK + 6000)

    def _edge(self, tick: int) -> int:
        return (tick + int(self.rnd() * 2)) * TICK + int(self.rnd() * (TICK - 1))

    def remember(self, said: Said) -> None:
        """Keep a packet for errors, delays and changes."""
        if len(self._recent) < 64:
            self._recent.append(said)
        else:
            self._recent[int(self.rnd() * 64)] = said


def _end_of(path: Path) -> End:
    return End(".".join(map(str, path.src)) if path.family == 4 else _text6(path.src), path.smac.hex(":"))


def _text6(address: bytes) -> str:
    return ":".join(address[i : i + 2].hex() for i in range(0, 16, 2))


class Traffic:
    """The events of one scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.world = World(scenario)
        self._rnd = self.world.rnd
        self._sleepers: list[tuple[int, int, Talk]] = []
        self._number = 0
        self._late: list[bytes] = []
        self._policy = -1  # in force
        self._events: list[Event] = []
        self._kinds = [maker for maker, weight in TALKS for _ in range(weight)]

    def batches(self, count: int, size: int = 4096) -> Iterator[list[Event]]:
        """`count` packets or a few more, in lists of about `size` events."""
        left = count
        for batch in self._run(size):
            yield batch
            left -= sum(1 for event in batch if len(event) > 1)
            if left <= 0:
                return

    def _fresh(self) -> list[Talk | int | None]:
        rnd = self._rnd
        for maker, share in () if self.scenario.calm else _RARE:
            if rnd() < share:
                return [maker(self.world), 200, None]
        return [self._kinds[int(rnd() * len(self._kinds))](self.world), 4, None]

    def _run(self, size: int) -> Iterator[list[Event]]:
        rnd, world, sleepers = self._rnd, self.world, self._sleepers
        pool = [self._fresh() for _ in range(self.scenario.width)]
        empty = 100 if self.scenario.begin_empty else 0  # turns without any policy
        while True:
            if empty >= 0:
                if empty == 0:
                    self._commit()
                empty -= 1
            if sleepers and sleepers[0][0] <= world.now:
                until, _, conversation = heapq.heappop(sleepers)
                world.now = max(world.now, until)
                slot: list[Talk | int | None] = [conversation, 3, until]
            else:
                index = int(rnd() * len(pool))
                slot = pool[index]
                if slot[0] is None:
                    slot = pool[index] = self._fresh()
            self._turn(slot)
            if len(self._events) >= size:
                full, self._events = self._events, []
                yield full
            chance = rnd()
            if chance < 1 / self.scenario.commits:
                self._commit()
            elif chance > 0.999 and self.scenario.takeovers and self._policy >= 0:
                self._events.append(TakeOver(self._policy))
            elif chance < 0.003 + 1 / self.scenario.commits and sleepers:
                self._jump()

    def _commit(self) -> None:
        self._policy = COMMIT_ORDER[int(self._rnd() * len(COMMIT_ORDER))]
        self._events.append(Commit(self._policy))

    def _turn(self, slot: list[Talk | int | None]) -> None:
        """A few packets of one conversation."""
        rnd, world, sleepers = self._rnd, self.world, self._sleepers
        conversation, turns, sent = slot
        assert conversation is not None and not isinstance(conversation, int) and isinstance(turns, int)
        for _ in range(1 + int(rnd() * turns)):
            try:
                said = conversation.send(sent)  # type: ignore[arg-type]
            except StopIteration:
                slot[0] = None
                return
            if isinstance(said, int):
                self._number += 1
                heapq.heappush(sleepers, (said, self._number, conversation))
                slot[0] = None
                return
            sent = slot[2] = world.now
            self._send(said)
            self._advance()

    def _advance(self) -> None:
        chance = self._rnd()
        if chance < 0.8:
            step = int(chance * 400_000)
        elif chance < 0.98:
            step = int((chance - 0.8) * 50_000_000)
        else:
            step = int((chance - 0.98) * 5_000_000_000)
        then = self.world.now + step + 1000
        # Whoever sleeps wakes in his own tick, not in a later one.
        if self._sleepers and self._sleepers[0][0] < then:
            then = max(self.world.now, self._sleepers[0][0])
        self.world.now = then

    def _jump(self) -> None:
        """To the next sleeper, or to any; seldom far away."""
        index = int(self._rnd() * len(self._sleepers)) if self._rnd() < 0.12 else 0
        then = self._sleepers[index][0]
        if then - self.world.now < 300 * 1_000_000_000 or self._rnd() < 0.2:
            self.world.now = max(self.world.now, then)

    # From packets to events

    def _send(self, said: Said) -> None:
        rnd, world = self._rnd, self.world
        path, packet = said
        chance = rnd()
        if chance < 0.93:
            self._emit(path, packet)
            if chance < 0.3:
                world.remember(said)
        elif chance < 0.94:
            self._emit(path, packet)
            self._emit(path, packet)
        elif chance < 0.95:
            self._emit(path, packet)
            self._late.append(self._frame(path, packet))
            if len(self._late) > 20:
                self._put(self._late.pop(int(rnd() * 20)))
        elif chance < 0.96:
            self._put(hostile.bits_flipped(world, self._frame(path, packet)))
        elif chance < 0.97:  # cut by the capture
            frame = self._frame(path, packet)
            self._put(frame[: int(rnd() * len(frame))], len(frame))
        elif chance < 0.98:
            header = 40 if path.family == 6 else (packet[0] & 15) * 4
            inside = len(packet) - header
            if inside > 16 and packet[6] not in (0, 43, 44, 51, 60):
                pieces = fragments(packet, [8 * (1 + int(rnd() * ((inside - 1) // 8)))], int(rnd() * 65536))
                for piece in pieces if rnd() < 0.5 else reversed(pieces):
                    self._emit(path, piece)
            else:
                self._emit(path, packet)
        elif chance < 0.985:
            self._emit(path, hostile.ip6_extended(world, packet) if path.family == 6 else packet + b"\0" * 6)
        elif chance < 0.995:
            self._emit(path, packet)
            self._emit(*hostile.ip_malformed(world))
        else:
            self._emit(path, packet)
            if self.scenario.link != ETHERNET:
                self._put(hostile.noise(world, int(rnd() * 60)))
            elif rnd() < 0.1:
                self._put(arp(path) if path.family == 4 else hostile.noise(world, 14 + int(rnd() * 80)))
            else:
                self._put(hostile.ethernet_odd(world, path, ethernet(path, packet)))

    def _frame(self, path: Path, packet: bytes) -> bytes:
        """Below IP: the scenario's link header, now and then tags or a tunnel."""
        link = self.scenario.link
        rnd = self._rnd
        six = packet[:1] >= b"\x60"
        if link == ETHERNET:
            if rnd() < 0.02:
                tag = 0x8100, int(rnd() * 4096)
                return ethernet(path, packet, (tag,) if rnd() < 0.6 else ((0x88A8, 7), tag))
            frame = ethernet(path, packet)
            if self.scenario.decap and rnd() < 0.4:
                outer = self.world._tunnels[(path.src[-1] ^ path.dst[-1]) % 3]
                return ethernet(outer, hostile.tunnelled(self.world, outer, frame))
            return frame
        if link == RAW:
            return packet
        if link == LINUX_SLL:
            return b"\0\0\0\1\0\6" + path.smac + b"\0\0" + (b"\x86\xdd" if six else b"\x08\0") + packet
        if link == LINUX_SLL2:
            return (b"\x86\xdd" if six else b"\x08\0") + b"\0\0\0\0\0\2\0\1\0\6" + path.smac + b"\0\0" + packet
        family = (10, 24, 28, 30)[int(rnd() * 4)] if six else 2
        return family.to_bytes(4, "little" if link == NULL and rnd() < 0.7 else "big") + packet

    def _emit(self, path: Path, packet: bytes) -> None:
        frame = self._frame(path, packet)
        self._put(frame)

    def _put(self, data: bytes, wire: int = 0) -> None:
        ts = self.world.now
        if self._rnd() < 0.002:
            ts -= int(self._rnd() * 3_000_000_000)
        self._events.append(Packet(ts, data, wire or len(data), self.scenario.link))
