# SPDX-License-Identifier: Apache-2.0
"""What this machine's kernel says of captured frames: the layer-2 rules of `replay --backend nftables`.

They look at a frame's header only and keep no state, so they are asked apart, on a bridge; what they say of a packet
goes with it to where the rules of layer 3 are asked.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from dfw.nftables import Ruleset, vnic_mark
from dfw.nftables.frame_judge import FrameAnswer, FrameJudge
from dfw.nftables.frame_staged import FRAME_SUMS
from dfw.nftables.judge import MTU
from dfw.oracle.packet import Packet

_TAGS: Final = (b"\x81\x00", b"\x88\xa8", b"\x91\x00")
_HEADER: Final = 14
PASSED: Final = FrameAnswer(True, "", "", True)


class FrameRun:
    """The frames of one run; without layer-2 rules all pass. Raises EnvironmentLacksError, OSError."""

    def __init__(self, ruleset: Ruleset) -> None:
        self._judge = None if ruleset.frames is None else FrameJudge(ruleset.frames, ruleset.table)
        self._staged = ruleset.frames is not None and any(item in FRAME_SUMS for item in ruleset.frames.counters)

    def ask(self, packet: Packet, sender: int, receiver: int) -> FrameAnswer:
        """Of a frame from one vNIC to another, by number, 0 for none. What the parser refused, or what has no Ethernet
        header, is not asked about. Raises TimeoutError, OSError."""
        if self._judge is None or packet.refusal is not None or packet.ether_type is None:
            return PASSED
        frame = frame_bytes(packet.data)
        answer = self._judge.judge(frame, vnic_mark(sender, receiver))
        if answer.out_refused and receiver and self._staged:
            # It never came to where the receiver's staged rules are asked.
            return replace(answer, in_staged=self._judge.judge(frame, vnic_mark(0, receiver)).in_staged)
        return answer

    def close(self) -> None:
        """Everything goes."""
        if self._judge is not None:
            self._judge.close()


def frame_bytes(data: bytes) -> bytes:
    """The frame for the kernel: without VLAN tags, and no longer than devices are."""
    at = 12
    while data[at : at + 2] in _TAGS:
        at += 4
    return (data[:12] + data[at:])[: MTU + _HEADER]
