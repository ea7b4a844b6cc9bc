# SPDX-License-Identifier: Apache-2.0
"""Captured frames through an engine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dfw.core.binding import ERROR_BYTES, CoreError, array, copied, ffi, lib, text
from dfw.core.engine import Engine
from dfw.layout import CHANGE_DTYPE, FLOW_DTYPE, FRAME_DTYPE, GENERATED_DTYPE, RECORD_DTYPE


class Capture:
    """An open capture, read in place. `view` must stay as it is until `close`."""

    def __init__(self, view: memoryview) -> None:
        error = ffi.new("char[]", ERROR_BYTES)
        self._buffer = ffi.from_buffer(view)
        handle = lib.pal_capture_open(ffi.cast("uint8_t *", self._buffer), view.nbytes, error, ERROR_BYTES)
        if handle == ffi.NULL:
            ffi.release(self._buffer)
            raise CoreError(text(error))
        self.handle = handle

    def frames(self, most: int = 4096) -> npt.NDArray[np.void]:
        """The next frames, at most `most`; none at the end. `data` is an address inside the view."""
        found = np.zeros(most, dtype=FRAME_DTYPE)
        count = lib.pal_capture_next(self.handle, array(found, "pal_frame *"), most)
        return found[:count]

    @property
    def warning(self) -> str | None:
        """Why reading ended before the end of the file, or None."""
        pointer = lib.pal_capture_warning(self.handle)
        return None if pointer == ffi.NULL else text(pointer)

    @property
    def base(self) -> int:
        """The address of the view's first byte: frames' `data` minus this is an offset."""
        return int(ffi.cast("uintptr_t", self._buffer))

    def close(self) -> None:
        """Let go of the view."""
        if self.handle is not None:
            lib.pal_capture_close(self.handle)
            ffi.release(self._buffer)
            self.handle = None


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """How to replay. `vnics`: OUT at the sender's filter, then IN at the receiver's, by the bindings; else one filter,
    number 0. File descriptors are -1 where an output is not wanted; `collect` keeps records in memory."""

    vnics: bool = False
    stopped: bool = False
    realtime: bool = False
    collect: bool = False
    batch: int = 32
    verdict_fd: int = -1
    allowed_fd: int = -1
    dropped_fd: int = -1
    generated_fd: int = -1


@dataclass(frozen=True, slots=True)
class StagedRules:
    """The rules as staged policies would have them, in an engine of their own with as many filters and workers.

    `rule_json`: of its rules, as Replay's; `note_flows`: `changes` tells of every connection's first packet.
    """

    engine: Engine
    rule_json: Sequence[str]
    note_flows: bool = False


@dataclass(frozen=True, slots=True)
class ReplayTotals:
    """`core_ns`: time in the packet core alone; `unfiltered`: packets that concern no filter."""

    packets: int
    bytes: int
    core_ns: int
    unfiltered: int
    generated: int


class Replay:
    """Frames through an engine. `rule_json` and `filter_json` are what verdict lines say of a rule and a filter, by
    number; captures given must stay open until `finish`."""

    def __init__(
        self,
        engine: Engine,
        options: ReplayOptions,
        bindings: npt.NDArray[np.void],
        rule_json: Sequence[str] = (),
        filter_json: Sequence[str] = (),
        staged: StagedRules | None = None,
    ) -> None:
        self.engine = engine
        self.staged = staged
        self._error = ffi.new("char[]", ERROR_BYTES)
        self._names = [ffi.new("char[]", text.encode()) for text in (*rule_json, *filter_json)]
        self._rules = ffi.new("char *[]", self._names[: len(rule_json)] or [ffi.NULL])
        self._filters = ffi.new("char *[]", self._names[len(rule_json) :] or [ffi.NULL])
        self._files: list[Any] = []
        given = ffi.new("pal_replay_options *")
        for name in ReplayOptions.__dataclass_fields__:
            setattr(given, name, getattr(options, name))
        given.rule_json, given.filter_json = self._rules, self._filters
        given.rules, given.filters = len(rule_json), len(filter_json)
        if staged is not None:
            self._staged_names = [ffi.new("char[]", text.encode()) for text in staged.rule_json]
            self._staged_rules = ffi.new("char *[]", self._staged_names or [ffi.NULL])
            given.staged, given.staged_rule_json = staged.engine.handle, self._staged_rules
            given.staged_rules, given.note_flows = len(staged.rule_json), staged.note_flows
        handle = lib.pal_replay_new(
            engine.handle, given, array(bindings, "pal_binding *"), len(bindings), self._error, ERROR_BYTES
        )
        if handle == ffi.NULL:
            raise CoreError(text(self._error))
        self.handle = handle

    def _checked(self, code: int) -> None:
        if code < 0:
            raise OSError(-code, text(self._error))
        if code != 0:
            raise CoreError(text(self._error))

    def begin_file(self, json_name: str) -> int:
        """The packets that follow are of this file, a JSON string with its quotes. Returns the file's number."""
        self._files.append(ffi.new("char[]", json_name.encode()))
        return len(self._files) - 1

    def capture(self, capture: Capture, file: int, most: int) -> bool:
        """Judge the next `most` frames of a capture. True when it is at its end. Raises CoreError when a frame cannot
        be judged, OSError when an output cannot be written."""
        done = ffi.new("int *")
        self._checked(
            lib.pal_replay_capture(
                self.handle, capture.handle, most, file, self._files[file], done, self._error, ERROR_BYTES
            )
        )
        return bool(done[0])

    def frames(self, frames: npt.NDArray[np.void], file: int) -> None:
        """Judge frames whose `data` are addresses of bytes that stay until `finish`. Raises as `capture`."""
        self._checked(
            lib.pal_replay_frames(
                self.handle,
                array(frames, "pal_frame *"),
                len(frames),
                file,
                self._files[file],
                self._error,
                ERROR_BYTES,
            )
        )

    def finish(self, *, flush: bool = True) -> None:
        """The input has ended: fragments still held are decided; with `flush` open connections become flow records."""
        self._checked(lib.pal_replay_finish(self.handle, flush, self._error, ERROR_BYTES))

    def mute(self) -> None:
        """Write nothing from here on: for repetitions."""
        lib.pal_replay_mute(self.handle)

    def totals(self) -> ReplayTotals:
        """Sums since the replay was made."""
        raw = ffi.new("pal_replay_totals *")
        lib.pal_replay_totals_read(self.handle, raw)
        return ReplayTotals(*(int(getattr(raw, name)) for name in ReplayTotals.__dataclass_fields__))

    def records(self) -> npt.NDArray[np.void]:
        """What was judged, in order (with `collect`); a copy."""
        count = ffi.new("uint64_t *")
        return copied(lib.pal_replay_records(self.handle, count), int(count[0]), RECORD_DTYPE)

    def generated(self) -> list[tuple[np.void, bytes]]:
        """Packets that would have been sent (with `collect`): what answers which frame, and the bytes from IP up."""
        count, data = ffi.new("uint64_t *"), ffi.new("const uint8_t **")
        pointer = lib.pal_replay_generated(self.handle, count, data)
        found = copied(pointer, int(count[0]), GENERATED_DTYPE)
        return [(row, bytes(ffi.buffer(data[0] + int(row["at"]), int(row["len"])))) for row in found]

    def flows(self) -> npt.NDArray[np.void]:
        """Records of ended connections, in order of their first packets; a copy."""
        count = ffi.new("uint64_t *")
        return copied(lib.pal_replay_flows(self.handle, count), int(count[0]), FLOW_DTYPE)

    def changes(self) -> npt.NDArray[np.void]:
        """What the staged rules would have changed since this was last asked, in the packets' order; a copy."""
        count = ffi.new("uint64_t *")
        found = copied(lib.pal_replay_changes(self.handle, count), int(count[0]), CHANGE_DTYPE)
        lib.pal_replay_changes_forget(self.handle)
        return found

    def write_flows(
        self,
        descriptor: int,
        files: Sequence[str],
        filters: Sequence[str],
        rules: Sequence[str],
        *,
        csv: bool,
        staged: npt.NDArray[np.void] | None = None,
        staged_rules: Sequence[str] = (),
    ) -> None:
        """The flow records as JSON lines or CSV; `files`, `filters`, `rules`: what a line says of each, by number.

        `staged` (STAGED_FLOW_DTYPE): one for each of `flows`, with the texts of the staged rules, the last for none.
        Raises OSError.
        """
        assert len(files) == len(self._files)
        texts = [
            [ffi.new("char[]", item.encode("utf-8", "surrogateescape")) for item in items]
            for items in (files, filters, rules, staged_rules)
        ]
        arrays = [ffi.new("char *[]", items or [ffi.NULL]) for items in texts]
        beside = ffi.NULL if staged is None else array(staged, "pal_staged_flow *")
        code = int(lib.pal_replay_flows_write(self.handle, descriptor, csv, *arrays[:3], beside, arrays[3]))
        if code != 0:
            raise OSError(-code, f"flow records cannot be written: {os.strerror(-code)}")

    def forget(self) -> None:
        """Drop what was collected and the totals."""
        lib.pal_replay_forget(self.handle)

    def restart(self) -> None:
        """Begin anew with no connection, as `Engine.clear`; what was collected stays, flow records too."""
        lib.pal_replay_restart(self.handle)

    def close(self) -> None:
        """Flush the output files. Raises OSError where one could not be written."""
        if self.handle is None:
            return
        code = int(lib.pal_replay_close(self.handle))
        self.handle = None
        if code != 0:
            raise OSError(-code, f"cannot write the output: {os.strerror(-code)}")


def flow_words(flows: npt.NDArray[np.void]) -> tuple[list[str], list[str]]:
    """State and end reason of each flow record, in words."""
    raw = array(np.ascontiguousarray(flows), "pal_flow *")
    states = [text(lib.pal_word_state(raw[i].kind, raw[i].state)) for i in range(len(flows))]
    return states, [text(lib.pal_word_end(raw + i)) for i in range(len(flows))]


def linktype_name(linktype: int) -> str:
    """The name of a link type in the registry of tcpdump.org, without LINKTYPE_."""
    return text(lib.pal_linktype_name(linktype))
