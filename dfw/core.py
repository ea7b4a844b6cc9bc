# SPDX-License-Identifier: Apache-2.0
"""The packet core, as Python sees it. This is the only module that imports `_palisade_core`.

A call crosses once a batch, never once a packet; what C declares is native/include/palisade_core.h. Arrays are numpy
arrays of the dtypes in dfw.layout, and are not copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import _palisade_core
import numpy as np
import numpy.typing as npt

from dfw.layout import (
    FLOW_DTYPE,
    FRAME_DTYPE,
    GENERATED_DTYPE,
    RECORD_DTYPE,
    RULE_COUNT_DTYPE,
    KeyArray,
    RangeArray,
    RuleArray,
    U32Array,
)

ffi: Final[Any] = _palisade_core.ffi
lib: Final[Any] = _palisade_core.lib

_ERROR_BYTES: Final = 512
NO_FILTER: Final = 0xFFFF
NO_RULE: Final = 0xFFFFFFFF


class CoreError(RuntimeError):
    """The core refused: the message is its sentence."""


def build_info() -> dict[str, str]:
    """What the core was built with: `compiler`, `target`, and `layout`, a hash of the declarations shared with C."""
    return {
        "compiler": _text(lib.pal_build_compiler()),
        "target": _text(lib.pal_build_target()),
        "layout": _text(lib.pal_build_layout()),
    }


def _text(pointer: Any) -> str:
    return str(ffi.string(pointer).decode())


def _words(function: Any, *arguments: int) -> tuple[str, ...]:
    found: list[str] = []
    while (pointer := function(*arguments, len(found))) != ffi.NULL:
        found.append(_text(pointer))
    return tuple(found)


REASONS: Final = _words(lib.pal_word_reason)
"""Log words of reasons.def, by number."""
REASONS_NSX: Final = _words(lib.pal_word_reason_nsx)
REASON_TEXTS: Final = _words(lib.pal_word_reason_text)
VERDICTS: Final = _words(lib.pal_word_verdict)
CTS: Final = _words(lib.pal_word_ct)


def _array(array: npt.NDArray[Any], kind: str) -> Any:
    """A C pointer to an array's items; the array must outlive the call."""
    if not array.flags.c_contiguous:
        raise ValueError("the core takes contiguous arrays")
    return ffi.cast(kind, ffi.from_buffer(array)) if array.size else ffi.cast(kind, 0)


_CLS_ERRORS: Final = {
    -1: "an address range whose end is before its beginning, or of an unknown family",
    -2: "a rule with a field out of its bounds, or a reference to a set that is not in the list",
    -3: "a range to be removed was never a member",
    -4: "more entries than one rule set may have (200,000)",
}


def _checked(code: int) -> None:
    if code != 0:
        raise CoreError(_CLS_ERRORS.get(code, f"error {code}"))


class Ruleset:
    """A built rule set: immutable, shared by content. Holds one reference until `release`."""

    def __init__(self, classifier: Classifier, handle: Any, entries: int) -> None:
        self._classifier = classifier
        self.handle = handle
        self.entries = entries

    def lookup(self, keys: KeyArray, batch: int = 256) -> U32Array:
        """Index of the first matching entry for each key; dfw.layout.NO_MATCH for none."""
        return self.lookup_timed(keys, batch)[0]

    def lookup_timed(self, keys: KeyArray, batch: int = 256) -> tuple[U32Array, int]:
        """As `lookup`, with the nanoseconds that the core took."""
        found = np.empty(len(keys), dtype=np.uint32)
        spent = lib.pal_cls_lookup(
            self._classifier.handle,
            self.handle,
            _array(keys, "pal_key *"),
            len(keys),
            batch,
            _array(found, "uint32_t *"),
        )
        return found, int(spent)

    def replace(self, at: int, rule: RuleArray, refs: U32Array) -> Ruleset:
        """The rule set with entry `at` replaced by the one entry of `rule`; this one stays as it is."""
        out = ffi.new("pal_ruleset **")
        _checked(
            lib.pal_cls_ruleset_replace(
                self._classifier.handle,
                self.handle,
                at,
                _array(rule, "pal_rule *"),
                _array(refs, "uint32_t *"),
                len(refs),
                out,
            )
        )
        return Ruleset(self._classifier, out[0], self.entries)

    @property
    def bytes(self) -> int:
        """Memory, with the rows it uses (rows shared with other rule sets counted in full)."""
        return int(lib.pal_cls_ruleset_bytes(self.handle))

    def release(self) -> None:
        """Give the reference back. The object must not be used afterwards."""
        lib.pal_cls_ruleset_release(self._classifier.handle, self.handle)
        self.handle = ffi.NULL


class Classifier:
    """Address sets by number and rule sets over them. `engine`: its classifier instead of one of our own."""

    def __init__(self, engine: Any = None) -> None:
        if engine is None:
            self.handle = ffi.gc(lib.pal_cls_new(), lib.pal_cls_free)
        else:
            self.handle = lib.pal_engine_classifier(engine)
        if self.handle == ffi.NULL:
            raise MemoryError("no memory for a classifier")

    def put_set(self, set_id: int, ranges: RangeArray) -> None:
        """Define a set or replace its members. Staged until `commit` (or the engine's)."""
        _checked(lib.pal_cls_set_put(self.handle, set_id, _array(ranges, "pal_range *"), len(ranges)))

    def change_set(self, set_id: int, add: RangeArray, remove: RangeArray) -> None:
        """Remove, then add, ranges of a set. Staged until `commit`."""
        _checked(
            lib.pal_cls_set_change(
                self.handle,
                set_id,
                _array(add, "pal_range *"),
                len(add),
                _array(remove, "pal_range *"),
                len(remove),
            )
        )

    def commit(self) -> None:
        """Put what was staged in force for look-ups, in one step."""
        lib.pal_cls_commit(self.handle)

    def build(self, rules: RuleArray, refs: U32Array) -> Ruleset:
        """The rule set of these entries, in order. Commits staged sets. Raises CoreError."""
        lib.pal_cls_commit(self.handle)
        return self.build_staged(rules, refs)

    def build_staged(self, rules: RuleArray, refs: U32Array) -> Ruleset:
        """As `build`, leaving staged sets staged: the engine's commit puts both in force together."""
        out = ffi.new("pal_ruleset **")
        _checked(
            lib.pal_cls_ruleset_build(
                self.handle, _array(rules, "pal_rule *"), len(rules), _array(refs, "uint32_t *"), len(refs), out
            )
        )
        return Ruleset(self, out[0], len(rules))

    @property
    def bytes(self) -> int:
        """Memory of everything: sets, classes, rule sets."""
        return int(lib.pal_cls_bytes(self.handle))


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Sizes and switches of an engine. `capacity4`, `capacity6`: connections of each family, a worker; `filters`,
    `rules`: numbers below these may be used; `checksums`: off, count, verify; `sanity`: off, count, drop;
    `seed`: six 64-bit numbers for tests, else drawn from the kernel."""

    capacity4: int = 1 << 20
    capacity6: int = 1 << 18
    filters: int = 1
    rules: int = 65536
    workers: int = 1
    checksums: str = "count"
    decap: bool = False
    sanity: str = "count"
    flows: bool = False
    name_rules: bool = True
    huge_pages: bool = False
    seed: tuple[int, ...] = (0, 0, 0, 0, 0, 0)
    path: str | None = None


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counters since the engine was made or cleared. `counts`: (verdict, reason) -> judgements."""

    counts: dict[tuple[str, str], int]
    received: int
    released: int
    bad_ip_sums: int
    bad_l4_sums: int
    odd: int
    created: int
    connections4: int
    connections6: int
    table_bytes: int
    table_capacity: int


class Engine:
    """Filters with their configuration, and workers with their connection tables."""

    def __init__(self, options: EngineOptions) -> None:
        self.options = options
        given = ffi.new("pal_engine_options *")
        for name in ("capacity4", "capacity6", "filters", "rules", "workers"):
            setattr(given, name, getattr(options, name))
        given.sums = ("off", "count", "verify").index(options.checksums)
        given.sanity = ("off", "count", "drop").index(options.sanity)
        given.decap, given.flows, given.name_rules = options.decap, options.flows, options.name_rules
        given.huge_pages = options.huge_pages
        given.seed = list(options.seed)
        error = ffi.new("char[]", _ERROR_BYTES)
        path = ffi.NULL if options.path is None else options.path.encode()
        handle = lib.pal_engine_new(given, path, error, _ERROR_BYTES)
        if handle == ffi.NULL:
            raise CoreError(_text(error))
        self.handle = ffi.gc(handle, lib.pal_engine_free)
        self.classifier = Classifier(self.handle)

    def stage(self, number: int, ruleset: Ruleset | None, timers: Sequence[int], *, tap: bool = False) -> None:
        """Stage filter `number`: its rule set (None: nothing passes) and session timers in seconds, in the order of
        PAL_TIMERS. The engine takes the rule set over. In force after `commit`."""
        handle = ffi.NULL if ruleset is None else ruleset.handle
        if lib.pal_engine_stage(self.handle, number, handle, ffi.new("uint32_t[]", list(timers)), tap) != 0:
            raise CoreError(f"filter {number}: out of bounds, or no memory")

    def remove(self, number: int) -> None:
        """Stage the end of filter `number` and of all its connections."""
        if lib.pal_engine_remove(self.handle, number) != 0:
            raise CoreError(f"filter {number}: out of bounds, or no memory")

    def commit(self, *, every_filter: bool = False) -> int:
        """Put what is staged in force, in one step. Returns the epoch."""
        epoch = int(lib.pal_engine_commit(self.handle, every_filter))
        if epoch == 0:
            raise MemoryError("no memory for a configuration")
        return epoch

    def set_epoch(self, epoch: int) -> None:
        """Wind the epoch on: for tests of its wrap."""
        lib.pal_engine_epoch_set(self.handle, epoch)

    def clear(self) -> None:
        """End every connection; forget counters and clock. Configuration stays."""
        lib.pal_engine_clear(self.handle)

    def stats(self) -> EngineStats:
        """All counters, summed over the workers."""
        raw = ffi.new("pal_engine_stats *")
        lib.pal_engine_stats_read(self.handle, raw)
        counts = {
            (verdict, reason): int(raw.count[v * 64 + r])
            for v, verdict in enumerate(VERDICTS)
            for r, reason in enumerate(REASONS)
            if raw.count[v * 64 + r]
        }
        names = [name for name in EngineStats.__dataclass_fields__ if name not in ("counts",)]
        fields = {"bad_l4_sums": "bad_l4_sums"}
        return EngineStats(counts, **{name: int(getattr(raw, fields.get(name, name))) for name in names})

    def rule_counts(self, rules: int) -> npt.NDArray[np.void]:
        """Hits, packets and bytes of the first `rules` rules, connections still open included."""
        found = np.zeros(rules, dtype=RULE_COUNT_DTYPE)
        lib.pal_engine_rules_read(self.handle, _array(found, "pal_rule_count *"), rules)
        return found


class Capture:
    """An open capture, read in place. `view` must stay as it is until `close`."""

    def __init__(self, view: memoryview) -> None:
        error = ffi.new("char[]", _ERROR_BYTES)
        self._buffer = ffi.from_buffer(view)
        handle = lib.pal_capture_open(ffi.cast("uint8_t *", self._buffer), view.nbytes, error, _ERROR_BYTES)
        if handle == ffi.NULL:
            ffi.release(self._buffer)
            raise CoreError(_text(error))
        self.handle = handle

    def frames(self, most: int = 4096) -> npt.NDArray[np.void]:
        """The next frames, at most `most`; none at the end. `data` is an address inside the view."""
        found = np.zeros(most, dtype=FRAME_DTYPE)
        count = lib.pal_capture_next(self.handle, _array(found, "pal_frame *"), most)
        return found[:count]

    @property
    def warning(self) -> str | None:
        """Why reading ended before the end of the file, or None."""
        pointer = lib.pal_capture_warning(self.handle)
        return None if pointer == ffi.NULL else _text(pointer)

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
    ) -> None:
        self.engine = engine
        self._error = ffi.new("char[]", _ERROR_BYTES)
        self._names = [ffi.new("char[]", text.encode()) for text in (*rule_json, *filter_json)]
        self._rules = ffi.new("char *[]", self._names[: len(rule_json)] or [ffi.NULL])
        self._filters = ffi.new("char *[]", self._names[len(rule_json) :] or [ffi.NULL])
        self._files: list[Any] = []
        given = ffi.new("pal_replay_options *")
        for name in ReplayOptions.__dataclass_fields__:
            setattr(given, name, getattr(options, name))
        given.rule_json, given.filter_json = self._rules, self._filters
        handle = lib.pal_replay_new(
            engine.handle, given, _array(bindings, "pal_binding *"), len(bindings), self._error, _ERROR_BYTES
        )
        if handle == ffi.NULL:
            raise CoreError(_text(self._error))
        self.handle = handle

    def _checked(self, code: int) -> None:
        if code != 0:
            raise CoreError(_text(self._error))

    def begin_file(self, json_name: str) -> int:
        """The packets that follow are of this file, a JSON string with its quotes. Returns the file's number."""
        self._files.append(ffi.new("char[]", json_name.encode()))
        return len(self._files) - 1

    def capture(self, capture: Capture, file: int, most: int) -> bool:
        """Judge the next `most` frames of a capture. True when it is at its end. Raises CoreError."""
        done = ffi.new("int *")
        self._checked(
            lib.pal_replay_capture(
                self.handle, capture.handle, most, file, self._files[file], done, self._error, _ERROR_BYTES
            )
        )
        return bool(done[0])

    def frames(self, frames: npt.NDArray[np.void], file: int) -> None:
        """Judge frames whose `data` are addresses of bytes that stay until `finish`. Raises CoreError."""
        self._checked(
            lib.pal_replay_frames(
                self.handle, _array(frames, "pal_frame *"), len(frames), file, self._files[file], self._error, _ERROR_BYTES
            )
        )

    def finish(self, *, flush: bool = True) -> None:
        """The input has ended: fragments still held are decided; with `flush` open connections become flow records."""
        self._checked(lib.pal_replay_finish(self.handle, flush, self._error, _ERROR_BYTES))

    def totals(self) -> ReplayTotals:
        """Sums since the replay was made."""
        raw = ffi.new("pal_replay_totals *")
        lib.pal_replay_totals_read(self.handle, raw)
        return ReplayTotals(*(int(getattr(raw, name)) for name in ReplayTotals.__dataclass_fields__))

    def records(self) -> npt.NDArray[np.void]:
        """What was judged, in order (with `collect`); a copy."""
        count = ffi.new("uint64_t *")
        return _copied(lib.pal_replay_records(self.handle, count), int(count[0]), RECORD_DTYPE)

    def generated(self) -> list[tuple[np.void, bytes]]:
        """Packets that would have been sent (with `collect`): what answers which frame, and the bytes from IP up."""
        count, data = ffi.new("uint64_t *"), ffi.new("const uint8_t **")
        pointer = lib.pal_replay_generated(self.handle, count, data)
        found = _copied(pointer, int(count[0]), GENERATED_DTYPE)
        return [(row, bytes(ffi.buffer(data[0] + int(row["at"]), int(row["len"])))) for row in found]

    def flows(self) -> npt.NDArray[np.void]:
        """Records of ended connections, in order of their first packets; a copy."""
        count = ffi.new("uint64_t *")
        return _copied(lib.pal_replay_flows(self.handle, count), int(count[0]), FLOW_DTYPE)

    def write_flows(self, descriptor: int) -> None:
        """The flow records as JSON lines. Raises OSError."""
        files = ffi.new("char *[]", self._files or [ffi.NULL])
        code = int(lib.pal_replay_flows_write(self.handle, descriptor, files))
        if code != 0:
            raise OSError(-code, "flow records cannot be written")

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
            raise OSError(-code, "an output file cannot be written")


def _copied(pointer: Any, count: int, dtype: np.dtype[np.void]) -> npt.NDArray[np.void]:
    if count == 0:
        return np.zeros(0, dtype=dtype)
    return np.frombuffer(ffi.buffer(pointer, count * dtype.itemsize), dtype=dtype).copy()


def flow_words(flows: npt.NDArray[np.void]) -> tuple[list[str], list[str]]:
    """State and end reason of each flow record, in words."""
    raw = _array(np.ascontiguousarray(flows), "pal_flow *")
    states = [_text(lib.pal_word_state(raw[i].kind, raw[i].state)) for i in range(len(flows))]
    return states, [_text(lib.pal_word_end(raw + i)) for i in range(len(flows))]
