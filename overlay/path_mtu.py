# SPDX-License-Identifier: Apache-2.0
"""Do packets of a size get from this host to another's TEP? Measured, not configured: a BFD packet with its Poll bit,
padded to that size (RFC 9764), on the way that all others take, with DF. Who gets it answers with a Final.

Hosts that share no segment do not know each other's TEPs. Who wants to know about such a way asks both ends, and each
knows the other for a minute: packets from it are no stranger's then, and find none of its segments.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any, Final

import msgspec

from dfw import __version__
from dfw.errors import PolicyError
from dfw.model import GENEVE, address_parse
from overlay.bfd import Session
from overlay.bfd_packet import State, frame_size
from overlay.hoststate import HostState, TepState
from overlay.teps import TepWatch

LEAST: Final = 1280
MOST: Final = 2048  # what the packet core takes of a control packet, without the outer headers
SMALLER: Final = (1700, 1600, 1550, 1500, 1450, 1400, LEAST)  # what is tried where the size asked for does not arrive
ATTEMPTS: Final = 3
LEAST_SECONDS: Final = 0.5  # for the first answer; twice that for the second
MOST_ASKED: Final = 64  # TEPs that the state does not know, at a time
KNOWN_SECONDS: Final = 60.0  # after they were asked about last: the other end measures, too
COMES_UP_SECONDS: Final = 12.0  # a session, which begins with a packet a second (RFC 5880 section 6.8.3), at both ends


class AskedError(Exception):
    """What was asked cannot be measured. The text is one sentence."""


class AskedTeps:
    """TEPs that the desired state does not know, for as long as somebody measures the ways to them."""

    def __init__(self) -> None:
        self._known: dict[str, TepState] = {}
        self._until = 0.0

    def take(self, request: dict[str, Any]) -> None:
        """Know those that a request names (`teps`, each with its `host` and `ip`) for a minute. Raises AskedError."""
        asked = request.get("teps", [])
        if not isinstance(asked, list) or len(asked) > MOST_ASKED:
            raise AskedError(f"teps is a list of at most {MOST_ASKED}, each with host and ip")
        found = [_tep(item) for item in asked]
        if found:
            self._known |= {tep.ip: tep for tep in found}
            self._until = time.monotonic() + KNOWN_SECONDS
        if len(self._known) > 2 * MOST_ASKED:
            self.forget()
            raise AskedError(f"more than {2 * MOST_ASKED} TEPs are asked about within {KNOWN_SECONDS:.0f} seconds")

    def forget(self) -> None:
        """Know none of them."""
        self._known.clear()

    def is_over(self) -> bool:
        """There are some, and their time is over."""
        return bool(self._known) and time.monotonic() > self._until

    def over(self, state: HostState) -> HostState:
        """The state with them added; numbers of its own TEPs stay."""
        family = address_parse(state.tep).family
        own = {state.tep, *(tep.ip for tep in state.teps)}
        more = [tep for ip, tep in self._known.items() if ip not in own and address_parse(ip).family is family]
        return msgspec.structs.replace(state, teps=(*state.teps, *more)) if more else state


def _tep(item: Any) -> TepState:
    """Raises AskedError."""
    with contextlib.suppress(PolicyError, ValueError):
        if isinstance(item, dict) and isinstance(item.get("host"), str) and isinstance(item.get("ip"), str):
            return TepState(item["host"], str(address_parse(item["ip"])), GENEVE)
    raise AskedError(f"{str(item)[:80]!r} is no TEP with host and ip")


async def paths_answer(teps: TepWatch, state: HostState | None, request: dict[str, Any]) -> dict[str, Any]:
    """What an agent says to `{"do": "paths", "mtu": 1600}`: its version, and for each other TEP whether packets of so
    many bytes (outer IP header included) arrive, with `problem` where they do not."""
    mtu = request.get("mtu")
    if not isinstance(mtu, int) or not LEAST <= mtu <= MOST:
        return {"error": f"mtu is a number of bytes, {LEAST} to {MOST}"}
    known = [] if state is None else [(tep.host, tep.ip) for tep in state.teps]
    problems = await asyncio.gather(*(path_problem(teps, tep, mtu) for _, tep in known))
    rows = [
        {"host": host, "tep": tep, "bytes": mtu, "problem": problem}
        for (host, tep), problem in zip(known, problems, strict=True)
    ]
    return {"version": __version__, "rows": rows}


async def path_problem(teps: TepWatch, tep: str, mtu: int) -> str:
    """Why packets of a size do not arrive; empty: they do."""
    session = await _session(teps, tep)
    if session is None or State.ADMIN_DOWN in (session.state, session.remote.state):
        return "BFD is switched off, and nothing else can measure it"
    if session.state is not State.UP:
        return f"its BFD session is {session.state.name}"
    if await _arrives(teps, tep, mtu):
        return ""
    for size in SMALLER:
        if size < mtu and await _arrives(teps, tep, size):
            return f"no answer to {mtu} bytes, while {size} arrive"
    return f"no answer to {mtu} bytes, nor to fewer"


async def _session(teps: TepWatch, tep: str) -> Session | None:
    """The session with a TEP, which has some time to come up while it is new; None: there is none."""
    until = time.monotonic() + COMES_UP_SECONDS
    while (session := teps.sessions.get(tep)) is not None and time.monotonic() < until:
        if session.state in (State.UP, State.ADMIN_DOWN) or session.has_been_up:
            break
        await asyncio.sleep(LEAST_SECONDS / 5)
    return session


async def _arrives(teps: TepWatch, tep: str, size: int) -> bool:
    """More than once: a packet may be lost for another reason, and the other end looks only now and then."""
    wait = max(LEAST_SECONDS, 3 * teps.pause)
    for number in range(ATTEMPTS):
        answered = teps.poll(tep, padding=size - frame_size(tep))
        try:
            await asyncio.wait_for(answered, wait * 2**number)
        except TimeoutError:
            continue
        return True
    return False
