# SPDX-License-Identifier: Apache-2.0
"""Do packets of a size get from this host to another's TEP? Measured, not configured: a BFD packet with its Poll bit,
padded to that size (RFC 9764), on the way that all others take, with DF. Who gets it answers with a Final.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from dfw import __version__
from overlay.bfd_packet import State, frame_size
from overlay.hoststate import HostState
from overlay.teps import TepWatch

LEAST: Final = 1280
MOST: Final = 2048  # what the packet core takes of a control packet, without the outer headers
SMALLER: Final = (1700, 1600, 1550, 1500, 1450, 1400, LEAST)  # what is tried where the size asked for does not arrive
ATTEMPTS: Final = 3
LEAST_SECONDS: Final = 0.5  # for the first answer; twice that for the second


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
    session = teps.sessions.get(tep)
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
