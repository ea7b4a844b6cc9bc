# SPDX-License-Identifier: Apache-2.0
"""What the oracle's replay writes of packets: those that passed, those that did not, and the answers of REJECT."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from dfw.core import LINKTYPE_RAW, PacketFile
from dfw.layout import FRAME_DTYPE
from dfw.oracle import Replay
from dfw.oracle.replay import Judgement
from dfw.replay_run import RunOptions, output_create


class _Kept(NamedTuple):
    frame: np.void
    data: bytes


class OraclePackets:
    """Keeps the packets of a run until it is known what became of them, if any of the three files is wanted."""

    def __init__(self, options: RunOptions, outputs: ExitStack) -> None:
        self._kept: dict[int, _Kept] = {}
        self._answered: list[int] = []  # for each packet that was generated in this run: the file it belongs to
        self._file = 0
        self._passed, self._refused, self._answers = (
            None if path is None else _opened(path, outputs)
            for path in (options.allowed, options.dropped, options.generated)
        )

    def begin_file(self) -> None:
        """What follows is another file's."""
        self._file += 1

    def keep(self, run: Replay, frame: np.void, data: bytes) -> None:
        """A packet that the run was just given."""
        if self._passed or self._refused:
            self._kept[run.fed] = _Kept(frame.copy(), data)
        self._answered += [self._file] * (len(run.generated) - len(self._answered))

    def end(self, run: Replay, judgements: Iterable[Judgement]) -> None:
        """The run has ended, and these are all its judgements, a packet's together. Raises OSError."""
        for order, items in groupby(judgements, lambda item: item.order):
            lines = list(items)
            target = self._passed if lines[-1].verdict == "ALLOW" else self._refused
            if target is not None:
                target.write(*self._kept[order], " | ".join(map(_comment, lines)))
        if self._answers is not None:
            self._answered += [self._file] * (len(run.generated) - len(self._answered))
            found = zip(self._answered, run.generated, strict=True)
            for _, item in sorted(found, key=lambda pair: (pair[0], pair[1].n)):
                self._answers.write(_raw(item.ts_ns, len(item.data)), item.data, f"answers packet {item.n}")
        self._kept.clear()
        self._answered.clear()


def _opened(path: str, outputs: ExitStack) -> PacketFile:
    file = PacketFile(output_create(path, outputs))
    outputs.callback(file.close)
    return file


def _comment(item: Judgement) -> str:
    where = "" if item.dir is None else f", {item.dir}"
    rule = f'"rule": {json.dumps(item.rule)}, "rule_path": {json.dumps(item.rule_path)}'
    return f'{item.verdict} {item.reason} by {rule}, "vnic": {json.dumps(item.vnic)}{where}'


def _raw(ts_ns: int, length: int) -> Any:
    frame = np.zeros(1, dtype=FRAME_DTYPE)[0]
    frame["ts_ns"], frame["wirelen"], frame["linktype"] = ts_ns, length, LINKTYPE_RAW
    return frame
