# SPDX-License-Identifier: Apache-2.0
"""One BFD session (RFC 5880) in asynchronous mode: what it becomes, and what it says. Pure: time is an argument.

Times are nanoseconds of any clock that does not go back; intervals are microseconds, as in the packets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from overlay.bfd_packet import BfdError, BfdPacket, Diagnostic, State

SLOW: Final = 1_000_000  # RFC 5880 section 6.8.3: until a session is Up, at most one packet a second


@dataclass(frozen=True, slots=True)
class Timers:
    """What one end wants: to send every `transmit`, to be sent to at most every `receive`, both at least 1."""

    transmit: int = 1_000_000
    receive: int = 1_000_000
    multiplier: int = 3


@dataclass(frozen=True, slots=True)
class Remote:
    """What the other end has said last. `own`: its discriminator, 0 while it is not known."""

    own: int = 0
    state: State = State.DOWN
    diagnostic: int = 0
    transmit: int = 0
    receive: int = 1
    multiplier: int = 0
    is_demand: bool = False


@dataclass(frozen=True, slots=True)
class Session:
    """`own`: our discriminator; `since`: when its state began; `has_been_up`: ever; `heard`: when the last packet came,
    None: none within the detection time; `sends`: when the next packet is to go out, `may_send`: from when on it may;
    `transmit`, `receive`: the intervals in use, which follow `timers` as section 6.8.3 has it; `is_polling`: a Poll
    Sequence is under way."""

    own: int
    timers: Timers
    since: int
    sends: int
    may_send: int
    state: State = State.DOWN
    diagnostic: int = Diagnostic.NONE
    has_been_up: bool = False
    heard: int | None = None
    remote: Remote = Remote()
    transmit: int = SLOW
    receive: int = SLOW
    is_polling: bool = False


def session_new(own: int, timers: Timers, now: int) -> Session:
    """A session that knows nothing of the other end, and speaks at once."""
    return _adjusted(Session(own, timers, now, now, now), now)


def session_resume(session: Session, now: int) -> Session:
    """A session that a process before this one had, which may have said nothing for a while: heard a moment ago, for
    all that we know, and to speak at once."""
    return replace(session, heard=None if session.remote.own == 0 else now, sends=now, may_send=now)


def session_configure(session: Session, timers: Timers, now: int) -> Session:
    """Other timers, negotiated by a Poll Sequence where the session is Up (section 6.8.3)."""
    if timers == session.timers:
        return session
    is_polling = session.state is State.UP
    return _adjusted(replace(session, timers=timers, is_polling=is_polling, sends=min(session.sends, now)), now)


def session_admin(session: Session, *, is_down: bool, now: int) -> Session:
    """Switched off, or on again (section 6.8.16)."""
    if is_down and session.state is not State.ADMIN_DOWN:
        return _moved(session, State.ADMIN_DOWN, Diagnostic.ADMIN_DOWN, now)
    if not is_down and session.state is State.ADMIN_DOWN:
        return _moved(session, State.DOWN, Diagnostic.NONE, now)
    return session


def desired(session: Session) -> int:
    """bfd.DesiredMinTxInterval: what we say, and at most how often we shall speak."""
    return session.timers.transmit if session.state is State.UP else max(session.timers.transmit, SLOW)


def interval(session: Session) -> int:
    """How often it sends (section 6.8.7), before jitter."""
    return max(session.transmit, session.remote.receive)


def detection(session: Session) -> int:
    """After how long a silence the other end is gone (section 6.8.4); 0 while it has never spoken."""
    return session.remote.multiplier * max(session.receive, session.remote.transmit)


def expires(session: Session) -> int | None:
    """When, if nothing comes until then."""
    return None if session.heard is None else session.heard + detection(session) * 1000


def is_dead(session: Session) -> bool:
    """Was there once and is not: nothing is to be sent there that others can have. An end that has switched BFD off is
    not dead (RFC 5882 section 3.2), nor is one that never spoke it."""
    is_silent = session.state in (State.DOWN, State.INIT)
    return session.has_been_up and is_silent and session.remote.state is not State.ADMIN_DOWN


def is_late(session: Session, now: int) -> bool:
    """Should it be Up by now?"""
    return now - session.since > desired(session) * session.timers.multiplier * 1000


def session_packet(session: Session, *, is_final: bool = False) -> BfdPacket:
    """What it says now."""
    return BfdPacket(
        state=session.state,
        own=session.own,
        yours=session.remote.own,
        transmit=desired(session),
        receive=session.timers.receive,
        multiplier=session.timers.multiplier,
        diagnostic=session.diagnostic,
        is_poll=session.is_polling and not is_final,
        is_final=is_final,
    )


def session_receive(session: Session, packet: BfdPacket, now: int) -> tuple[Session, BfdPacket | None]:
    """A packet of the other end, and what is answered at once: a Final to a Poll, or our new state.

    Raises BfdError where it is meant for another session than this one.
    """
    if packet.yours not in (0, session.own):
        raise BfdError(f"a discriminator of ours that is not there: {packet.yours:#x}")
    remote, before = session.remote, session.state
    if packet.state is remote.state is before is State.UP and not (packet.is_poll or packet.is_final):
        same = (remote.own, remote.transmit, remote.receive, remote.multiplier, remote.is_demand, remote.diagnostic)
        if same == (
            packet.own,
            packet.transmit,
            packet.receive,
            packet.multiplier,
            packet.is_demand,
            packet.diagnostic,
        ):
            return replace(session, heard=now), None  # nothing new, as nearly always
    remote = Remote(
        packet.own,
        packet.state,
        packet.diagnostic,
        packet.transmit,
        packet.receive,
        packet.multiplier,
        packet.is_demand,
    )
    session = replace(session, remote=remote, heard=now)
    if session.is_polling and packet.is_final:
        session = replace(session, is_polling=False)
    session = _adjusted(session, now)
    if session.state is State.ADMIN_DOWN:
        return session, None
    session = _heard_state(session, packet.state, now)
    if packet.is_poll:
        return session, session_packet(session, is_final=True)
    return session, session_packet(session) if session.state is not before else None


def _heard_state(session: Session, theirs: State, now: int) -> Session:
    """Section 6.2's table."""
    if theirs is State.ADMIN_DOWN:
        if session.state is not State.DOWN:
            return _moved(session, State.DOWN, Diagnostic.NEIGHBOUR_DOWN, now)
    elif session.state is State.DOWN:
        if theirs is State.DOWN:
            return _moved(session, State.INIT, session.diagnostic, now)
        if theirs is State.INIT:
            return _moved(session, State.UP, Diagnostic.NONE, now)
    elif session.state is State.INIT:
        if theirs in (State.INIT, State.UP):
            return _moved(session, State.UP, Diagnostic.NONE, now)
    elif theirs is State.DOWN:
        return _moved(session, State.DOWN, Diagnostic.NEIGHBOUR_DOWN, now)
    return session


def session_tick(session: Session, now: int, roll: float, early: int = 0) -> tuple[Session, BfdPacket | None]:
    """Time has passed: what has run out, and what is to be said. `roll`: chance, from 0 up to 1, for the jitter.
    `early`: what is to go out within this time may go out now, as far as the jitter permits: together with others."""
    at = expires(session)
    if at is not None and now >= at:
        # Section 6.8.1: its discriminator is forgotten, and here its wishes too: it may come back as another one.
        session = replace(session, heard=None, remote=Remote(state=session.remote.state))
        if session.state in (State.INIT, State.UP):
            session = _moved(session, State.DOWN, Diagnostic.DETECTION_EXPIRED, now)
    if now < session.sends and (now < session.may_send or now + early < session.sends):
        return session, None
    # Section 6.8.7: 75 to 100 %; 90 % where one packet that is missing is missed.
    spread = 0.15 if session.timers.multiplier == 1 else 0.25
    wait = interval(session) * 1000
    session = replace(session, sends=now + int(wait * (0.75 + spread * roll)), may_send=now + wait * 3 // 4)
    return session, session_packet(session) if _speaks(session) else None


def session_due(session: Session) -> int:
    """When `session_tick` has something to do next."""
    at = expires(session)
    return session.sends if at is None else min(session.sends, at)


def _speaks(session: Session) -> bool:
    """Does it send of its own accord? Not to who wants nothing (section 6.8.1), nor to who asks by Polls (6.6)."""
    remote = session.remote
    if remote.own and remote.receive == 0:
        return False
    is_up = session.state is State.UP and remote.state is State.UP
    return not (remote.is_demand and is_up and not session.is_polling)


def _moved(session: Session, state: State, diagnostic: int, now: int) -> Session:
    before = desired(session)
    session = replace(session, state=state, diagnostic=diagnostic, since=now)
    if state is State.UP:
        session = replace(session, has_been_up=True, is_polling=desired(session) != before)
    else:
        session = replace(session, is_polling=False)
    return _adjusted(session, now)


def _adjusted(session: Session, now: int) -> Session:
    """The intervals in use, and the next packet no later than they say. While the session is Up, slower sending and a
    shorter detection wait for the Poll Sequence's end: the other end must know first."""
    transmit, receive = desired(session), session.timers.receive
    if session.state is State.UP and session.is_polling:
        transmit, receive = min(transmit, session.transmit), max(receive, session.receive)
    session = replace(session, transmit=transmit, receive=receive)
    sends = min(session.sends, now + interval(session) * 1000)
    return replace(session, sends=sends, may_send=min(session.may_send, sends))
