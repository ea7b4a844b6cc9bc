# SPDX-License-Identifier: Apache-2.0
"""BFD: sessions over a wire that loses packets, as RFC 5880 has them; packets against scapy's; and hostile bytes."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.contrib.bfd import BFD
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from overlay import bfd
from overlay.bfd_packet import (
    BfdError,
    BfdPacket,
    Diagnostic,
    State,
    frame_decode,
    frame_encode,
    packet_decode,
    packet_encode,
)

MS = 1_000_000
SECOND = 1000 * MS
ENDS = {4: ("172.16.0.1", "172.16.0.2"), 6: ("fd00::1", "fd00::2")}
PACKETS = st.builds(
    BfdPacket,
    state=st.sampled_from(State),
    own=st.integers(1, 2**32 - 1),
    yours=st.integers(1, 2**32 - 1),
    transmit=st.integers(0, 2**32 - 1),
    receive=st.integers(0, 2**32 - 1),
    multiplier=st.integers(1, 255),
    diagnostic=st.integers(0, 31),
    is_poll=st.booleans(),
    is_final=st.booleans(),
    is_demand=st.booleans(),
    echo=st.integers(0, 2**32 - 1),
)


@dataclass
class Wire:
    """Two ends and what is between them; packets take 1 ms. `lost`: whether one from end 0 or 1 is."""

    ends: list[bfd.Session]
    now: int = 0
    chance: random.Random = field(default_factory=lambda: random.Random(5))
    lost: tuple[float, float] = (0.0, 0.0)
    flying: list[tuple[int, int, BfdPacket]] = field(default_factory=list)
    sent: list[tuple[int, int, BfdPacket]] = field(default_factory=list)
    moves: list[tuple[int, int, State]] = field(default_factory=list)

    def send(self, end: int, packet: BfdPacket | None) -> None:
        if packet is not None:
            self.sent.append((self.now, end, packet))
            if self.chance.random() >= self.lost[end]:
                again = packet_decode(packet_encode(packet))
                assert again == packet
                self.flying.append((self.now + MS, 1 - end, again))

    def become(self, end: int, session: bfd.Session) -> None:
        if session.state is not self.ends[end].state:
            self.moves.append((self.now, end, session.state))
        self.ends[end] = session

    def run(self, seconds: float, *, silent: int | None = None) -> None:
        """Time passes. `silent`: an end that does nothing meanwhile."""
        until = self.now + int(seconds * SECOND)
        while True:
            due = [(bfd.session_due(s), 0, end) for end, s in enumerate(self.ends) if end != silent]
            due += [(at, 1, end) for at, end, _ in self.flying]
            at, what, end = min(due)
            if at > until:
                break
            self.now = max(self.now, at)
            if what:
                flight = next(item for item in self.flying if item[:2] == (at, end))
                self.flying.remove(flight)
                if end != silent:
                    session, answer = bfd.session_receive(self.ends[end], flight[2], self.now)
                    self.become(end, session)
                    self.send(end, answer)
            else:
                session, packet = bfd.session_tick(self.ends[end], self.now, self.chance.random())
                self.become(end, session)
                self.send(end, packet)
        self.now = until


def wire(*timers: bfd.Timers, seed: int = 5) -> Wire:
    given_timers = timers if len(timers) == 2 else (timers or (bfd.Timers(),)) * 2
    ends = [bfd.session_new(100 + end, item, 0) for end, item in enumerate(given_timers)]
    return Wire(ends, chance=random.Random(seed))


def states(w: Wire) -> list[State]:
    return [end.state for end in w.ends]


@settings(max_examples=15)
@given(st.integers(0, 10**6))
def test_two_ends_come_up_and_speak_once_a_second(seed: int) -> None:
    w = wire(seed=seed)
    w.run(1.1)
    assert states(w) == [State.UP, State.UP]
    assert [end.remote.own for end in w.ends] == [101, 100]
    w.sent.clear()
    w.run(60)
    for end in (0, 1):
        times = [at for at, who, _ in w.sent if who == end]
        gaps = [b - a for a, b in pairwise(times)]
        assert all(0.75 * SECOND <= gap <= SECOND for gap in gaps)  # section 6.8.7
        assert len(set(gaps)) > 10
    assert not any(bfd.is_dead(end) for end in w.ends)


@settings(max_examples=15)
@given(st.integers(0, 10**6))
def test_a_silent_end_is_dead_after_three_seconds(seed: int) -> None:
    w = wire(seed=seed)
    w.run(5)
    heard, w.moves = w.ends[0].heard, []
    assert heard is not None
    w.run(10, silent=1)
    at, end, state = w.moves[0]
    assert (end, state) == (0, State.DOWN)
    heard = max(heard, at - 3 * SECOND)
    assert at - heard <= 3 * SECOND
    assert w.ends[0].diagnostic == Diagnostic.DETECTION_EXPIRED
    assert bfd.is_dead(w.ends[0])
    assert w.ends[0].remote.own == 0  # section 6.8.1
    w.ends[1] = bfd.session_new(555, w.ends[1].timers, w.now)  # another process, which knows nothing
    w.run(2)
    assert states(w) == [State.UP, State.UP]
    assert w.ends[0].remote.own == 555
    assert not bfd.is_dead(w.ends[0])
    assert w.ends[0].diagnostic == Diagnostic.NONE


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 2 * SECOND), st.integers(0, 500 * MS))
def test_what_goes_out_early_goes_out_within_the_jitter(roll: float, wait: int, early: int) -> None:
    session, packet = bfd.session_tick(bfd.session_new(1, bfd.Timers(), 0), 0, roll)
    assert packet is not None
    after, packet = bfd.session_tick(session, wait, roll, early)
    assert (packet is not None) == (wait >= session.sends or (wait >= 0.75 * SECOND and wait + early >= session.sends))
    assert (after is session) == (packet is None)


def test_a_wire_cut_one_way_is_down_at_both_ends() -> None:
    w = wire()
    w.run(5)
    w.lost = (0.0, 1.0)
    w.run(4)
    assert states(w) == [State.DOWN, State.INIT]  # it hears that the other one does not hear it
    assert [end.diagnostic for end in w.ends] == [Diagnostic.DETECTION_EXPIRED, Diagnostic.NEIGHBOUR_DOWN]
    assert all(bfd.is_dead(end) for end in w.ends)
    w.lost = (0.0, 0.0)
    w.run(3)
    assert states(w) == [State.UP, State.UP]


@pytest.mark.parametrize("away", [0.0, 1.5, 1.9])
def test_an_end_that_goes_on_within_the_detection_time_is_not_missed(away: float) -> None:
    w = wire()
    w.run(5)
    w.moves = []
    w.run(away, silent=1)
    w.ends[1] = bfd.session_resume(w.ends[1], w.now)
    w.run(10)
    assert w.moves == []


def test_an_end_that_goes_on_too_late_comes_up_again() -> None:
    w = wire()
    w.run(5)
    w.run(30, silent=1)
    w.ends[1] = bfd.session_resume(w.ends[1], w.now)
    w.run(3)
    assert states(w) == [State.UP, State.UP]


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.floats(0, 0.9))
def test_after_any_loss_both_come_up(seed: int, lost: float) -> None:
    w = wire(bfd.Timers(300_000, 300_000, 3), bfd.Timers(1_000_000, 500_000, 2), seed=seed)
    w.lost = (lost, lost)
    w.run(60)
    w.lost = (0.0, 0.0)
    w.run(20)
    assert states(w) == [State.UP, State.UP]


def test_each_end_heeds_what_the_other_wants() -> None:
    """Sections 6.8.4 and 6.8.7; faster than a second only when Up, and announced by a Poll."""
    w = wire(bfd.Timers(100_000, 400_000, 5), bfd.Timers(200_000, 300_000, 4))
    w.run(0.9)
    assert all(p.transmit == 1_000_000 for _, _, p in w.sent if p.state is not State.UP)
    w.run(10)
    assert states(w) == [State.UP, State.UP]
    assert any(p.is_poll for _, _, p in w.sent) and any(p.is_final for _, _, p in w.sent)
    assert not any(p.is_poll and p.is_final for _, _, p in w.sent)
    assert [end.is_polling for end in w.ends] == [False, False]
    assert [bfd.interval(end) for end in w.ends] == [300_000, 400_000]
    assert [bfd.detection(end) for end in w.ends] == [4 * 400_000, 5 * 300_000]
    w.moves = []
    w.run(60)
    assert w.moves == []


def test_slower_timers_wait_for_the_poll_to_end() -> None:
    w = wire(bfd.Timers(100_000, 100_000, 3))
    w.run(10)
    assert [state for _, _, state in w.moves] == [State.INIT] * 2 + [State.UP] * 2
    w.moves = []
    w.lost = (1.0, 0.0)  # the Poll is lost
    w.ends[0] = bfd.session_configure(w.ends[0], bfd.Timers(2_000_000, 50_000, 3), w.now)
    w.run(0.15)
    assert (w.ends[0].is_polling, w.ends[0].transmit, w.ends[0].receive) == (True, 100_000, 100_000)
    w.lost = (0.0, 0.0)
    w.run(1)
    assert (w.ends[0].is_polling, w.ends[0].transmit, w.ends[0].receive) == (False, 2_000_000, 50_000)
    w.run(60)
    assert w.moves == []


def test_switched_off_is_not_dead() -> None:
    """RFC 5882 section 3.2: the path may be well."""
    w = wire()
    w.run(5)
    w.ends[1] = bfd.session_admin(w.ends[1], is_down=True, now=w.now)
    w.run(20)
    assert states(w) == [State.DOWN, State.ADMIN_DOWN]
    assert w.ends[0].diagnostic == Diagnostic.NEIGHBOUR_DOWN
    assert w.ends[1].diagnostic == Diagnostic.ADMIN_DOWN
    assert not any(bfd.is_dead(end) for end in w.ends)
    w.run(20, silent=1)
    assert not bfd.is_dead(w.ends[0])
    w.ends[1] = bfd.session_admin(w.ends[1], is_down=False, now=w.now)
    w.run(3)
    assert states(w) == [State.UP, State.UP]


def test_who_wants_nothing_is_sent_nothing() -> None:
    """Section 6.8.7: RequiredMinRxInterval 0; Demand mode, but for Polls."""
    w = wire()
    w.run(5)
    for remote in (replace(w.ends[0].remote, receive=0), replace(w.ends[0].remote, is_demand=True)):
        quiet = replace(w.ends[0], remote=remote)
        assert bfd.session_tick(quiet, quiet.sends, 0.5)[1] is None
    polls = replace(quiet, is_polling=True)
    packet = bfd.session_tick(polls, polls.sends, 0.5)[1]
    assert packet is not None and packet.is_poll


def test_another_sessions_packet_is_refused() -> None:
    session = bfd.session_new(7, bfd.Timers(), 0)
    packet = BfdPacket(State.UP, 1, 8, 1, 1, 3)
    with pytest.raises(BfdError, match="0x8"):
        bfd.session_receive(session, packet, 0)


@given(PACKETS)
def test_packets_are_what_scapy_makes_of_them(packet: BfdPacket) -> None:
    data = packet_encode(packet)
    assert packet_decode(data) == packet
    seen = BFD(data)
    assert (seen.version, seen.diag, seen.sta, seen.detect_mult, seen.len) == (
        1,
        packet.diagnostic,
        packet.state,
        packet.multiplier,
        24,
    )
    assert (seen.my_discriminator, seen.your_discriminator) == (packet.own, packet.yours)
    assert (seen.min_tx_interval, seen.min_rx_interval, seen.echo_rx_interval) == (
        packet.transmit,
        packet.receive,
        packet.echo,
    )
    assert ("P" in seen.flags, "F" in seen.flags, "D" in seen.flags) == (
        packet.is_poll,
        packet.is_final,
        packet.is_demand,
    )


@pytest.mark.parametrize("version", [4, 6])
def test_frames_are_what_scapy_makes_of_them(version: int) -> None:
    source, destination = map(ip_address, ENDS[version])
    packet = BfdPacket(State.UP, 1, 2, 3, 4, 5)
    data = frame_encode(packet, source, destination, 5001, 50000)
    assert data[:8] == bytes([0, 0x80, 0x65, 0x58, 0, 0x13, 0x89, 0])
    frame = Ether(data[8:])
    ip = frame[IP] if version == 4 else frame[IPv6]
    assert (ip.src, ip.dst, ip.ttl if version == 4 else ip.hlim) == (*ENDS[version], 255)
    assert (frame[UDP].sport, frame[UDP].dport) == (50000, 3784)
    again = Ether(data[8:])
    for layer, name in ((UDP, "chksum"), (IP, "chksum")) if version == 4 else ((UDP, "chksum"),):
        delattr(again[layer], name)
    assert bytes(again) == data[8:]
    assert frame_decode(data, 8, destination) == packet
    with pytest.raises(BfdError, match="not here"):
        frame_decode(data, 8, source)


@pytest.mark.parametrize("version", [4, 6])
def test_what_does_not_fit_is_refused(version: int) -> None:
    """Every bit changed, and every length."""
    source, destination = map(ip_address, ENDS[version])
    packet = BfdPacket(State.UP, 1, 2, 3, 4, 5)
    data = frame_encode(packet, source, destination, 5001, 50000)
    for length in range(len(data)):
        with pytest.raises(BfdError):
            frame_decode(data[:length], min(8, length), destination)
    for at in (2, 3, *range(20, len(data))):  # not the MAC addresses
        for bit in range(8):
            changed = bytearray(data)
            changed[at] ^= 1 << bit
            if version == 6 and at in (22, 23, 24, 25) and changed[22] >> 4 == 6:
                assert (
                    frame_decode(bytes(changed), 8, destination) == packet
                )  # traffic class, flow label: in no checksum
                continue
            with pytest.raises(BfdError):
                frame_decode(bytes(changed), 8, destination)


@given(st.binary(max_size=120), st.integers(0, 40))
def test_hostile_bytes(data: bytes, header: int) -> None:
    with pytest.raises(BfdError):
        frame_decode(data, header, ip_address("172.16.0.2"))


@given(st.binary(min_size=20, max_size=40))
def test_hostile_packets(data: bytes) -> None:
    """What is taken can be said again, byte for byte but for what we do not heed (C bit, what follows)."""
    try:
        packet = packet_decode(data)
    except BfdError:
        return
    again = bytearray(packet_encode(packet))
    again[1] |= data[1] & 0x08
    again[3] = data[3]
    assert bytes(again) == data[:24]


@given(st.lists(st.one_of(PACKETS, st.integers(0, 5 * SECOND)), max_size=40))
def test_whatever_a_known_tep_says_the_session_stays_one(events: list[BfdPacket | int]) -> None:
    """Any packets at any time: a state, a time to look again, and never more said than one packet a packet."""
    now, session = 0, bfd.session_new(9, bfd.Timers(), 0)
    for event in events:
        if isinstance(event, int):
            now += event
            session, _ = bfd.session_tick(session, now, 0.999)
            assert bfd.session_due(session) > now or bfd.session_due(session) == session.sends
        else:
            session, answer = bfd.session_receive(session, replace(event, yours=9), now)
            assert answer is None or answer.is_final == event.is_poll
        assert session.own == 9
        assert struct.pack("!I", bfd.session_packet(session).transmit)
