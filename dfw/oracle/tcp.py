# SPDX-License-Identifier: Apache-2.0
"""The TCP tracker (docs/packet-path.md section 6): RFC 9293 states, windows with RFC 7323 scaling, RFC 5961."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, StrEnum

from dfw.oracle.packet import ACK, FIN, RST, SYN, Packet
from dfw.oracle.verdict import ACCEPTED, PASSED_OVER, REOPENED

_CIRCLE = 0xFFFFFFFF
_SLACK = 66_000
_UNITS_MAXIMUM = 65_535


class TcpState(StrEnum):
    """Names as in the specification; the value is what flow records show."""

    SYN_SENT = "SYN_SENT"
    SYN_SENT2 = "SYN_SENT2"
    SYN_RECEIVED = "SYN_RECEIVED"
    ESTABLISHED = "ESTABLISHED"
    FIN_WAIT = "FIN_WAIT"
    CLOSING = "CLOSING"
    TIME_WAIT = "TIME_WAIT"
    CLOSED = "CLOSED"


class Event(StrEnum):
    """What a segment is, by its flags."""

    SYN = "SYN"
    SYN_ACK = "SYN_ACK"
    FIN = "FIN"
    ACK = "ACK"
    RST = "RST"


class _Step(Enum):
    """What the state table says about an event."""

    SYN_ORIGINAL = "the original half begins (again)"
    SYN_REPLY = "the reply half begins: simultaneous open"
    SYN_ACK = "answers a SYN"
    UPDATE = "window tests, update, next state by the FIN flags"
    ESTABLISH = "window tests, update, ESTABLISHED"
    STAY = "window tests, update, no other state"
    OVER = "passed over"
    RESET = "RST"
    REOPEN = "the 5-tuple is used again"
    REFUSE = "does not fit"


_OPENING = (TcpState.SYN_SENT, TcpState.SYN_SENT2)
_TABLE_COLUMNS = (Event.SYN, Event.SYN_ACK, Event.FIN, Event.ACK, Event.RST)
_S = _Step
_SYN_SENT_REPLY = (_S.SYN_REPLY, _S.SYN_ACK, _S.REFUSE, _S.OVER, _S.RESET)
_OPEN = (
    (_S.OVER, _S.REFUSE, _S.UPDATE, _S.UPDATE, _S.RESET),
    (_S.REFUSE, _S.OVER, _S.UPDATE, _S.UPDATE, _S.RESET),
)
_SHUT = (
    (_S.REOPEN, _S.REFUSE, _S.STAY, _S.STAY, _S.RESET),
    (_S.REOPEN, _S.OVER, _S.STAY, _S.STAY, _S.RESET),
)
_ROWS = {
    TcpState.SYN_SENT: ((_S.SYN_ORIGINAL, _S.REFUSE, _S.REFUSE, _S.REFUSE, _S.RESET), _SYN_SENT_REPLY),
    TcpState.SYN_SENT2: ((_S.SYN_ORIGINAL, _S.SYN_ACK, _S.REFUSE, _S.REFUSE, _S.RESET), _SYN_SENT_REPLY),
    TcpState.SYN_RECEIVED: (
        (_S.OVER, _S.SYN_ACK, _S.UPDATE, _S.ESTABLISH, _S.RESET),
        (_S.REFUSE, _S.OVER, _S.UPDATE, _S.STAY, _S.RESET),
    ),
    TcpState.ESTABLISHED: _OPEN,
    TcpState.FIN_WAIT: _OPEN,
    TcpState.CLOSING: _OPEN,
    TcpState.TIME_WAIT: _SHUT,
    TcpState.CLOSED: _SHUT,
}
_TABLE = {
    (state, direction, event): step
    for state, rows in _ROWS.items()
    for direction, row in enumerate(rows)
    for event, step in zip(_TABLE_COLUMNS, row, strict=True)
}


def before(a: int, b: int) -> bool:
    """Is sequence number a before b (RFC 9293 section 3.4)?"""
    return (a - b) & _CIRCLE > 0x7FFFFFFF


def after(a: int, b: int) -> bool:
    """Is sequence number a after b?"""
    return (b - a) & _CIRCLE > 0x7FFFFFFF


def _units(size: int, scale: int) -> int:
    """Bytes in units of 2^scale, rounded up, at most what a header can say."""
    return min(_UNITS_MAXIMUM, (size + (1 << scale) - 1) >> scale)


@dataclass(slots=True)
class Half:
    """What is known of one end. `window`, `edge`: in units of 2^scale of this end, which advertises them."""

    seen: bool = False
    end: int = 0  # sequence number after the last that this end sent
    isn1: int = 0  # its initial sequence number + 1
    offered: int | None = None  # window scale in its SYN
    scale: int = 0  # in force
    window: int = 0  # the largest that it ever advertised
    edge: int = 0  # right edge of what it accepts, counted from ack
    ack: int = 0
    ack_known: bool = False
    acked: bool = False  # ack is its own word, not only the offer of its SYN
    fin: bool = False
    fin_acked: bool = False

    def right(self) -> int:
        """First sequence number beyond what this end accepts."""
        return (self.ack + (self.edge << self.scale)) & _CIRCLE

    def rescale(self, scale: int) -> None:
        """Put another scale in force, converting what is kept."""
        self.window = _units(self.window << self.scale, scale)
        self.edge = _units(self.edge << self.scale, scale)
        self.scale = scale

    def acknowledge(self, ack: int, window: int) -> None:
        """Take over an acknowledgement number and the window (bytes) that came with it."""
        if not self.ack_known:
            self.ack, self.edge, self.ack_known = ack, 0, True
        elif not before(ack, self.ack):
            self.edge = max(0, self.edge - (((ack - self.ack) & _CIRCLE) >> self.scale))
            self.ack = ack
        self.edge = max(self.edge, _units(max(0, window - ((self.ack - ack) & _CIRCLE)), self.scale))
        self.acked = True


@dataclass(frozen=True, slots=True)
class Memo:
    """A packet that was passed over by the state table."""

    direction: int
    event: Event
    end: int
    ack: int
    window: int
    offered: int | None


@dataclass(slots=True)
class TcpTracker:
    """State of one TCP connection; direction 0 is the original one."""

    state: TcpState = TcpState.SYN_SENT
    halves: list[Half] = field(default_factory=lambda: [Half(), Half()])
    liberal: bool = False  # picked up in mid-stream: no window tests
    simultaneous: bool = False
    memo: Memo | None = None
    resync: list[int] | None = None  # taken over: segments heard of each end since


def event_of(flags: int) -> Event:
    """Flags decide, in this order."""
    if flags & RST:
        return Event.RST
    if flags & SYN:
        return Event.SYN_ACK if flags & ACK else Event.SYN
    return Event.FIN if flags & FIN else Event.ACK


def sequence_end(packet: Packet) -> int:
    """Sequence number after the segment: payload, SYN and FIN count."""
    flags = packet.flags
    length = packet.payload_length + bool(flags & SYN) + bool(flags & FIN)
    return (packet.sequence + length) & _CIRCLE


def may_begin(packet: Packet) -> bool:
    """Can this segment be the first of a connection? Row "none" of the table."""
    return event_of(packet.flags) in (Event.SYN, Event.ACK)


def is_bare_syn(packet: Packet) -> bool:
    """A SYN that is no SYN+ACK."""
    return event_of(packet.flags) is Event.SYN


def tracker_begin(packet: Packet) -> TcpTracker:
    """The tracker after its first segment, for which `may_begin` holds."""
    tracker = TcpTracker()
    if is_bare_syn(packet):
        _begin(tracker, 0, packet)
    else:
        tracker.state = TcpState.ESTABLISHED
        tracker.liberal = True
        _update(tracker, 0, packet)
    return tracker


def track(tracker: TcpTracker, direction: int, packet: Packet) -> str:
    """Judge one segment and change the tracker. Returns ACCEPTED, PASSED_OVER, REOPENED, or the reason of refusal."""
    event = event_of(packet.flags)
    step = _TABLE[tracker.state, direction, event]
    match step:
        case _Step.REFUSE:
            return "tcp-state"
        case _Step.REOPEN:
            return REOPENED
        case _Step.OVER:
            result = _pass_over(tracker, direction, event, packet)
        case _Step.RESET:
            result = _reset(tracker, direction, packet)
        case _Step.SYN_ORIGINAL | _Step.SYN_REPLY:
            _begin(tracker, direction, packet)
            if step is _Step.SYN_REPLY:
                tracker.state = TcpState.SYN_SENT2
                tracker.simultaneous = True
            result = ACCEPTED
        case _Step.SYN_ACK:
            result = _answer(tracker, direction, packet)
        case _:
            result = _segment(tracker, direction, step, packet)
    if result == ACCEPTED:
        tracker.memo = None
    return result


def _segment(tracker: TcpTracker, direction: int, step: _Step, packet: Packet) -> str:
    """A FIN or ACK."""
    result = window_test(tracker, direction, packet)
    if result != ACCEPTED:
        return result
    if tracker.resync is not None:
        _relearn(tracker, tracker.resync, direction, packet)
    _update(tracker, direction, packet)
    if step is _Step.ESTABLISH or (
        step is _Step.STAY and tracker.simultaneous and tracker.state is TcpState.SYN_RECEIVED
    ):
        tracker.state = TcpState.ESTABLISHED
    elif step is _Step.UPDATE:
        tracker.state = _state_by_fins(tracker)
    return ACCEPTED


def _state_by_fins(tracker: TcpTracker) -> TcpState:
    first, second = tracker.halves
    if first.fin and second.fin:
        return TcpState.TIME_WAIT if first.fin_acked and second.fin_acked else TcpState.CLOSING
    return TcpState.FIN_WAIT if first.fin or second.fin else TcpState.ESTABLISHED


def _begin(tracker: TcpTracker, direction: int, packet: Packet) -> None:
    """A SYN begins its sender's half, and tells the least that the other end can acknowledge."""
    known, other = tracker.halves[direction], tracker.halves[1 - direction]
    fresh = tracker.halves[direction] = _half_begin(packet)
    fresh.ack, fresh.ack_known = known.ack, known.ack_known
    other.ack, other.ack_known = fresh.isn1, True


def _half_begin(packet: Packet) -> Half:
    """A SYN or SYN+ACK begins the half of its sender. Its window is unscaled (RFC 7323 section 2.2)."""
    return Half(
        seen=True,
        end=sequence_end(packet),
        isn1=(packet.sequence + 1) & _CIRCLE,
        window=packet.window,
        offered=packet.scale,
    )


def _settle_scaling(tracker: TcpTracker) -> None:
    """Both SYNs were seen: scaling holds for both ends where both offered it, else for neither."""
    first, second = tracker.halves
    both = first.offered is not None and second.offered is not None
    for half in tracker.halves:
        half.rescale(half.offered or 0 if both else 0)


def _answer(tracker: TcpTracker, direction: int, packet: Packet) -> str:
    """A SYN+ACK of X = `own` for the SYN of Y = `other`."""
    own, other = tracker.halves[direction], tracker.halves[1 - direction]
    if own.acked:
        result = window_test(tracker, direction, packet)
        if result == ACCEPTED:
            _update(tracker, direction, packet)
        return result
    if before(packet.acknowledgement, other.isn1) or after(packet.acknowledgement, other.end):
        return "tcp-ack"
    if not own.seen:
        own = tracker.halves[direction] = _half_begin(packet)
    if tracker.state is not TcpState.SYN_RECEIVED:
        _settle_scaling(tracker)
    tracker.state = TcpState.SYN_RECEIVED
    own.ack, own.ack_known, own.acked = packet.acknowledgement, True, True
    own.edge = _units(packet.window, own.scale)
    if not other.acked:
        other.ack, other.ack_known = own.isn1, True
        other.edge = other.window
    return ACCEPTED


def _pass_over(tracker: TcpTracker, direction: int, event: Event, packet: Packet) -> str:
    """Accept without believing; remember what may turn out to be true."""
    memo = tracker.memo
    if event is Event.SYN_ACK:
        answers_memo = (
            memo is not None
            and memo.event is Event.SYN
            and memo.direction != direction
            and memo.end == packet.acknowledgement
        )
        if memo is None or not answers_memo:
            return PASSED_OVER
        # The receiver agreed to the new SYN: the old connection is gone on both sides.
        tracker.halves[memo.direction] = Half(
            seen=True, end=memo.end, isn1=memo.end, window=memo.window, offered=memo.offered
        )
        tracker.halves[direction] = Half()
        tracker.liberal = tracker.simultaneous = False
        tracker.resync = None
        tracker.state = TcpState.SYN_SENT
        return _answer(tracker, direction, packet)
    opening = tracker.state in _OPENING
    if event is Event.SYN or (event is Event.ACK and opening):
        tracker.memo = Memo(direction, event, sequence_end(packet), packet.acknowledgement, packet.window, packet.scale)
    return PASSED_OVER


def window_test(tracker: TcpTracker, direction: int, packet: Packet) -> str:
    """The four window tests of section 6. Returns ACCEPTED, PASSED_OVER or the reason of refusal."""
    if tracker.liberal:
        return ACCEPTED
    sender, receiver = tracker.halves[direction], tracker.halves[1 - direction]
    end = sequence_end(packet)
    flags = packet.flags
    ack = packet.acknowledgement
    # Many stacks send RST+ACK with an empty acknowledgement.
    has_ack = bool(flags & ACK) and not (flags & RST and ack == 0)
    if tracker.resync is not None:
        return _resync_test(tracker, direction, packet, has_ack)
    if receiver.seen and tracker.state not in _OPENING:
        right = receiver.right()
        if after(packet.sequence, right) or after(end, (right + _SLACK) & _CIRCLE):
            return "tcp-window"
    if has_ack and receiver.seen and after(ack, receiver.end):
        return "tcp-ack"
    if sender.seen and receiver.seen:
        if before(end, (sender.end - max(receiver.window << receiver.scale, 1)) & _CIRCLE):
            return PASSED_OVER
        if has_ack and before(ack, (receiver.end - max(sender.window << sender.scale, _SLACK)) & _CIRCLE):
            return PASSED_OVER
    return ACCEPTED


def _far(a: int, b: int, reach: int) -> bool:
    return min((a - b) & _CIRCLE, (b - a) & _CIRCLE) > reach


def take_over(tracker: TcpTracker) -> None:
    """Another process goes on with this connection, and does not know what passed in between (section 14)."""
    known = all(half.seen and half.acked for half in tracker.halves)
    tracker.resync = [0, 0] if known and not tracker.liberal and tracker.state not in _OPENING else None


def _most(half: Half) -> int:  # the most that it can ever have advertised, in bytes
    return _UNITS_MAXIMUM << half.scale


def is_quotable(tracker: TcpTracker, direction: int, sequence: int) -> bool:
    """May an ICMP error quote this number of a packet in `direction` (RFC 5927 section 4.1)?"""
    sender, receiver = tracker.halves[direction], tracker.halves[1 - direction]
    if tracker.resync is not None:
        return not _far(sequence, sender.end, _most(receiver))
    oldest = receiver.ack if receiver.acked else (sender.end - _SLACK) & _CIRCLE
    return sender.seen and not after(sequence, sender.end) and not before(sequence, oldest)


def _resync_test(tracker: TcpTracker, direction: int, packet: Packet, has_ack: bool) -> str:
    """Within one maximum window of what was known last."""
    sender, receiver = tracker.halves[direction], tracker.halves[1 - direction]
    reach = _most(receiver)
    if _far(packet.sequence, sender.end, reach) or _far(sequence_end(packet), sender.end, reach):
        return "tcp-window"
    if has_ack and _far(packet.acknowledgement, sender.ack, _most(sender)):
        return "tcp-ack"
    return ACCEPTED


def _relearn(tracker: TcpTracker, heard: list[int], direction: int, packet: Packet) -> None:
    """What an accepted segment acknowledges was sent, though nobody saw it. Two segments of each end are enough."""
    receiver = tracker.halves[1 - direction]
    if packet.flags & ACK and after(packet.acknowledgement, receiver.end):
        receiver.end = packet.acknowledgement
    heard[direction] += 1
    if min(heard) >= 2:
        tracker.resync = None


def _update(tracker: TcpTracker, direction: int, packet: Packet) -> None:
    """Learn from an accepted FIN or ACK."""
    sender, receiver = tracker.halves[direction], tracker.halves[1 - direction]
    end = sequence_end(packet)
    if not sender.seen:
        sender.seen = True
        sender.end = end
        if not tracker.liberal and not receiver.acked:  # as its SYN would have told
            receiver.ack, receiver.ack_known = packet.sequence, True
    size = packet.window if packet.flags & SYN else packet.window << sender.scale
    sender.window = max(sender.window, _units(size, sender.scale))
    if after(end, sender.end):
        sender.end = end
    if packet.flags & ACK:
        sender.acknowledge(packet.acknowledgement, size)
        if receiver.fin and packet.acknowledgement == receiver.end:
            receiver.fin_acked = True
    if packet.flags & FIN:
        sender.fin = True


def _reset(tracker: TcpTracker, direction: int, packet: Packet) -> str:
    """RST (RFC 5961 section 3): exact, or it is for the receiver to challenge."""
    sender, receiver = tracker.halves[direction], tracker.halves[1 - direction]
    opening = tracker.state in _OPENING
    if tracker.state is TcpState.SYN_SENT and direction == 1:
        ack = packet.acknowledgement
        if not packet.flags & ACK or before(ack, receiver.isn1) or after(ack, receiver.end):
            return "tcp-rst"
        tracker.state = TcpState.CLOSED
        return ACCEPTED
    keeps_state = False
    if opening and direction == 0:
        memo = tracker.memo
        if memo is not None and memo.event is Event.ACK and memo.ack == packet.sequence:
            tracker.state = TcpState.CLOSED
            return ACCEPTED
    elif receiver.acked:
        if before(packet.sequence, receiver.ack):
            return "tcp-rst"
        exact = packet.sequence == receiver.ack or (sender.seen and packet.sequence == sender.end)
        keeps_state = tracker.state is TcpState.ESTABLISHED and not exact
    result = window_test(tracker, direction, packet)
    if result not in (ACCEPTED, PASSED_OVER):
        return "tcp-rst"
    if result == PASSED_OVER or keeps_state:
        return PASSED_OVER
    tracker.state = TcpState.CLOSED
    return ACCEPTED
