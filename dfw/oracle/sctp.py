# SPDX-License-Identifier: Apache-2.0
"""The SCTP tracker (docs/packet-path.md section 7; RFC 9260): states and verification tags."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from dfw.oracle.packet import Packet
from dfw.oracle.transport import (
    SCTP_ABORT,
    SCTP_COOKIE_ACK,
    SCTP_COOKIE_ECHO,
    SCTP_INIT,
    SCTP_INIT_ACK,
    SCTP_SHUTDOWN,
    SCTP_SHUTDOWN_ACK,
    SCTP_SHUTDOWN_COMPLETE,
)
from dfw.oracle.verdict import ACCEPTED, PASSED_OVER, REOPENED


class SctpState(Enum):
    """Names as in the specification."""

    COOKIE_WAIT = "COOKIE_WAIT"
    COOKIE_ECHOED = "COOKIE_ECHOED"
    ESTABLISHED = "ESTABLISHED"
    SHUTDOWN = "SHUTDOWN"
    SHUTDOWN_ACK = "SHUTDOWN_ACK"
    CLOSED = "CLOSED"


_OPENING = (SctpState.COOKIE_WAIT, SctpState.COOKIE_ECHOED)


@dataclass(slots=True)
class SctpTracker:
    """State of one association. `tags[d]`: what packets in direction d must carry; None: not known."""

    state: SctpState = SctpState.COOKIE_WAIT
    tags: list[int | None] = field(default_factory=lambda: [None, None])


def may_begin(packet: Packet) -> bool:
    """Only INIT begins an association."""
    return packet.chunk == SCTP_INIT


def tracker_begin(packet: Packet) -> SctpTracker:
    """The tracker after an INIT."""
    tracker = SctpTracker()
    tracker.tags[1] = packet.initiate_tag
    return tracker


def track(tracker: SctpTracker, direction: int, packet: Packet) -> str:
    """Judge one packet and change the tracker. Returns ACCEPTED, PASSED_OVER, REOPENED, or the reason of refusal."""
    chunk = packet.chunk
    if chunk != SCTP_INIT:  # its tag is 0, tested at parse
        reflected = packet.chunk_t_bit and chunk in (SCTP_ABORT, SCTP_SHUTDOWN_COMPLETE)
        expected = tracker.tags[1 - direction if reflected else direction]
        if expected is not None and packet.vtag != expected:
            return "sctp-vtag"
    state = tracker.state
    result = ACCEPTED
    match chunk:
        case _ if chunk == SCTP_INIT:
            if state is SctpState.CLOSED:
                result = REOPENED
            elif direction == 0 and state is SctpState.COOKIE_WAIT:
                tracker.tags = [None, packet.initiate_tag]
            else:
                result = PASSED_OVER
        case _ if chunk == SCTP_INIT_ACK:
            if direction == 1 and state is SctpState.COOKIE_WAIT:
                tracker.tags[0] = packet.initiate_tag
            else:
                result = "sctp-state"
        case _ if chunk == SCTP_COOKIE_ECHO:
            if direction == 0 and state in _OPENING:
                tracker.state = SctpState.COOKIE_ECHOED
        case _ if chunk == SCTP_COOKIE_ACK:
            if direction == 1 and state is SctpState.COOKIE_ECHOED:
                tracker.state = SctpState.ESTABLISHED
        case _ if chunk == SCTP_ABORT:
            tracker.state = SctpState.CLOSED
        case _ if chunk == SCTP_SHUTDOWN:
            if state in _OPENING:
                result = "sctp-state"
            elif state is SctpState.ESTABLISHED:
                tracker.state = SctpState.SHUTDOWN
        case _ if chunk == SCTP_SHUTDOWN_ACK:
            if state in _OPENING:
                result = "sctp-state"
            elif state in (SctpState.ESTABLISHED, SctpState.SHUTDOWN):
                tracker.state = SctpState.SHUTDOWN_ACK
        case _ if chunk == SCTP_SHUTDOWN_COMPLETE:
            if state is SctpState.SHUTDOWN_ACK:
                tracker.state = SctpState.CLOSED
            else:
                result = "sctp-state"
        case _:
            if state is SctpState.COOKIE_WAIT:
                result = "sctp-state"
    return result
