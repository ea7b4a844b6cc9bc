# SPDX-License-Identifier: Apache-2.0
"""One capture file, packet by packet, for the backends that judge in Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dfw.capture import CaptureError, open_capture
from dfw.core import Capture, CoreError, linktype_name
from dfw.replay_run import CaptureResult, RunResult


def feed_capture(
    entry: CaptureResult,
    result: RunResult,
    one: Callable[[Any, bytes], None],
    progress: Callable[[int], None],
    begin: Callable[[memoryview], None] = lambda _: None,
    end: Callable[[], None] = lambda: None,
) -> None:
    """Call `one` with each frame (FRAME_DTYPE) of the file and its bytes, up to its end, to where it is damaged, or to
    the frame of which `one` raises CoreError: `entry` says why. `begin` is told the file before, `end` comes after."""
    try:
        with open_capture(entry.file) as source:
            capture = Capture(source.view)
            try:
                base = capture.base
                begin(source.view)
                while len(frames := capture.frames()):
                    for frame in frames:
                        at = int(frame["data"]) - base
                        one(frame, bytes(source.view[at : at + int(frame["caplen"])]))
                        entry.packets += 1
                        result.bytes += int(frame["wirelen"])
                        progress(entry.packets)
                entry.warning = source.warning or capture.warning
            finally:
                capture.close()
                end()
    except CaptureError as error:
        entry.error = error.message
    except CoreError as error:
        entry.error = str(error)
    finally:
        result.packets += entry.packets


def unread_link(frame: Any) -> CoreError:
    """What is said of a frame whose link type nobody reads, in the core's words."""
    number, link = int(frame["number"]), int(frame["linktype"])
    return CoreError(f"packet {number}: link type {link} ({linktype_name(link)}) is not one that we read")
