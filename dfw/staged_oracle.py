# SPDX-License-Identifier: Apache-2.0
"""Staged policies beside the oracle: a second oracle, whose rules are as those policies would have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dfw.model import PolicySet
from dfw.oracle import Replay
from dfw.oracle.flow import Flow
from dfw.oracle.replay import Judgement
from dfw.staged_judgements import StagedJudgements


class StagedOracle(StagedJudgements):
    """`run` judges beside the enforced one, packet by packet; `end` joins what both said."""

    run: Replay

    def __init__(self, world: PolicySet, files: Sequence[str], *, vnics: bool) -> None:
        super().__init__(world, files, vnics=vnics)
        self._base = 0  # packets of the runs before

    def end(self, now: Sequence[Judgement], flows: Sequence[Flow]) -> tuple[list[Judgement], list[Flow]]:
        """The input of this run has ended. Returns what was given, counted on from the runs before."""
        base = self._base
        found, then = (
            [item._replace(order=item.order + base, flow=item.flow + base if item.flow else 0) for item in judgements]
            for judgements in (now, self.run.finish())
        )
        self.join(found, then)
        self._base = max((item.order for item in found), default=base)
        return found, [replace(flow, begun=flow.begun + base) for flow in flows]
