# SPDX-License-Identifier: Apache-2.0
"""A firewall for one test: the packet core with a policy in force, an empty connection table and a clock of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from dfw.core import CTS, NO_FILTER, NO_RULE, REASONS, VERDICTS, EngineOptions, Replay, ReplayOptions
from dfw.enforcer import NativeEnforcer
from dfw.layout import FRAME_DTYPE
from dfw.model import Direction, PolicySet
from dfw.policytest.conversations import Judged
from dfw.policytest.errors import PolicyTestError
from dfw.policytest.worlds import Subject
from dfw.probe import ETHERNET

_CONNECTIONS: Final = 1024


class Firewall:
    """Judges at the inventory's vNICs, or where there is none on a wire. `now_ns`: its clock, which never goes back.

    Raises UnsupportedError and CoreError for a policy that the packet core cannot express.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.now_ns = 0
        inventory = self.world.inventory if subject.has_inventory else None
        self._enforcer = NativeEnforcer(inventory, EngineOptions(_CONNECTIONS, _CONNECTIONS, checksums="verify"))
        self._enforcer.commit(self.world)
        options = ReplayOptions(vnics=inventory is not None, collect=True)
        self._replay = Replay(self._enforcer.engine, options, self._enforcer.bindings())
        self._file = self._replay.begin_file('"traffic"')
        self._number = 0
        self._held: list[npt.NDArray[np.uint8]] = []  # fragments are read where they lie, when the last one comes

    @property
    def world(self) -> PolicySet:
        """The policy in force."""
        return self.subject.world

    def change(self, subject: Subject) -> None:
        """Put another policy in force; connections stay. Raises PolicyTestError where the vNICs are others."""
        if self.subject.has_inventory:
            before, after = (
                {port.name: (port.mac, port.ips) for port in item.world.inventory} for item in (self.subject, subject)
            )
            other = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
            if other:
                raise PolicyTestError(
                    f"{other[0]} is not as it was: a change keeps all vNICs, their MACs and their addresses"
                )
        self.subject = subject
        self._enforcer.commit(self.world)

    def judge(self, frames: Sequence[bytes]) -> tuple[Judged, ...]:
        """What each filter on the way makes of these frames, now. Of a datagram they are all its fragments."""
        data = np.frombuffer(b"".join(frames), np.uint8)
        lengths = [len(frame) for frame in frames]
        rows = np.zeros(len(frames), FRAME_DTYPE)
        rows["data"] = data.ctypes.data + np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.uint64)
        rows["caplen"] = rows["wirelen"] = lengths
        rows["number"] = np.arange(self._number + 1, self._number + 1 + len(frames))
        rows["ts_ns"], rows["linktype"] = self.now_ns, ETHERNET
        self._number += len(frames)
        self._held.append(data)
        self._replay.frames(rows, self._file)
        records = self._replay.records()
        self._replay.forget()
        return tuple(map(self._judged, records))

    def _judged(self, record: np.void) -> Judged:
        is_filtered, rule = int(record["filter"]) != NO_FILTER, int(record["rule"])
        return Judged(
            self._enforcer.filters[int(record["filter"])] if is_filtered else None,
            Direction(int(record["dir"])).name if is_filtered else None,
            VERDICTS[record["verdict"]],
            REASONS[record["reason"]],
            None if rule == NO_RULE else self._enforcer.rules[rule].path,
            CTS[record["ct"]],
        )

    def close(self) -> None:
        """Free its memory."""
        self._replay.close()
