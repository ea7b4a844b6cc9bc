# SPDX-License-Identifier: Apache-2.0
"""A capture from an agent to whoever asked for it, over the agent's socket.

The request is a line of JSON as any; so is the first answer: `{"tep", "offset_ns"}`, or `{"error"}`. Then come
messages, a letter, four bytes of length and a payload: `N` names by number (JSON), `P` captured packets, `S` at the
end: `{"lost", "why"}`. The client sends a line, or goes away, to end it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

from dfw.core import CoreError
from dfw.core.live import Live
from dfw.core.live_capture import SNAP_MAX, UPLINK_POINT, CaptureOptions, LiveCapture
from overlay.host_log import clock_offset
from overlay.hoststate import HostState, RuleState

HEAD: Final = struct.Struct("!cI")
UPLINK: Final = "uplink"
PAUSE_SECONDS: Final = 0.05  # between two looks into a ring that was empty

Names = tuple[dict[int, str], dict[int, str]]


def capture_names(
    rules: Mapping[str, RuleState], rule_numbers: Mapping[str, int], filters: Mapping[str, tuple[int, int]]
) -> Names:
    """What packets' comments say for the numbers of rules and of filters."""
    paths = {number: path for path, number in rule_numbers.items() if path in rules}
    texts = {
        number: f'"rule": {rules[path].rule_id}, "rule_path": {json.dumps(path)}' for number, path in paths.items()
    }
    return texts, {number: f'"vnic": {json.dumps(name)}' for name, (number, _) in filters.items()}


def capture_options(request: Mapping[str, Any], number: int) -> CaptureOptions:
    """The options that a request says. Raises TypeError, ValueError."""
    port, protocol = request.get("port"), request.get("proto")
    address = request.get("address")
    return CaptureOptions(
        vnic=number,
        address=None if address is None else str(address),
        protocol=None if protocol is None else int(protocol),
        port=None if port is None else int(port),
        refused=bool(request.get("refused")),
        snap=int(request.get("snap") or SNAP_MAX),
    )


async def serve_capture(
    live: Live,
    request: Mapping[str, Any],
    number_of: Callable[[str], int | None],
    state_of: Callable[[], HostState | None],
    names_of: Callable[[], Names],
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    """Capture until the client says a line or goes away, or the vNIC does. Raises ConnectionError."""
    where = str(request.get("at"))
    state = state_of()
    number = UPLINK_POINT if where == UPLINK else number_of(where)
    if state is None or number is None:
        _line(writer, {"error": f"there is no vNIC {where!r} on this host"})
        return
    try:
        capture = LiveCapture(live, capture_options(request, number))
    except (CoreError, TypeError, ValueError, OverflowError) as error:
        _line(writer, {"error": str(error)})
        return
    ending = asyncio.create_task(_ended(reader))
    try:
        _line(writer, {"tep": state.tep, "offset_ns": clock_offset()})
        named: HostState | None = None
        why = None
        while True:
            is_last = ending.done()
            packets = capture.read()
            if packets:
                if named is not state_of():
                    named = state_of()
                    _message(writer, b"N", json.dumps(names_of()).encode())
                _message(writer, b"P", packets)
                await writer.drain()
                continue
            if is_last or (why := _gone(where, number, number_of)):
                break
            await asyncio.wait([ending], timeout=PAUSE_SECONDS)
        _message(writer, b"S", json.dumps({"lost": capture.lost, "why": why}).encode())
        await writer.drain()
    finally:
        capture.close()
        ending.cancel()


def _gone(where: str, number: int, number_of: Callable[[str], int | None]) -> str | None:
    if where == UPLINK or number_of(where) == number:
        return None
    return f"vNIC {where} is not on this host any more"


async def _ended(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError, ValueError):
        await reader.readline()


def _line(writer: asyncio.StreamWriter, answer: Mapping[str, Any]) -> None:
    writer.write(json.dumps(answer).encode() + b"\n")


def _message(writer: asyncio.StreamWriter, kind: bytes, payload: bytes) -> None:
    writer.write(HEAD.pack(kind, len(payload)) + payload)
