# SPDX-License-Identifier: Apache-2.0
"""Staged policies beside the rules in force in one ruleset of the kernel's: what both said of captured packets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from dfw.core import REASONS
from dfw.model import PolicySet
from dfw.oracle.replay import Ends, Judgement
from dfw.staged_judgements import StagedJudgements

NOT_DELIVERED: Final = "not-delivered"
NOT_JUDGED: Final = "not-judged"
_WORDS: Final = (NOT_DELIVERED, NOT_JUDGED, "invalid")
Both = tuple[list[Judgement], list[Judgement]]
"""A packet's judgements by the rules in force, and by the staged ones."""


class StagedKernel(StagedJudgements):
    """A flow is a conversation, by its ends and ports, from its first packet that passes: what the kernel refuses in
    force it has no connection of."""

    def __init__(self, world: PolicySet, files: Sequence[str], *, vnics: bool) -> None:
        super().__init__(world, files, vnics=vnics, reasons=(*REASONS, *_WORDS))
        self._base = 0  # packets of the runs before

    def take(self, frames: Iterable[Both | None]) -> None:
        """All packets of a run, in order; None for one that nothing judged."""
        worlds: tuple[dict[Any, int], dict[Any, int]] = {}, {}
        base = self._base
        judged: Both = [], []
        for both in frames:
            if both is None:
                self._join(judged)
                self.said.append((("staged", None),))
                continue
            for items, flows, found in zip(both, worlds, judged, strict=True):
                found += [_in_flow(item, base, flows) for item in items]
        self._join(judged)

    def _join(self, judged: Both) -> None:
        self.join(*judged)
        self._base = max(self._base, max((item.order for item in judged[0]), default=0))
        for items in judged:
            items.clear()


def _in_flow(item: Judgement, base: int, flows: dict[Any, int]) -> Judgement:
    order = item.order + base
    flow = 0
    if item.verdict == "ALLOW" and item.ends is not None and item.ends.ip_version:
        flow = flows.setdefault((item.vnic, _conversation(item.ends)), order)
    return item._replace(order=order, flow=flow)


def _conversation(ends: Ends) -> Any:
    both = ((ends.source, ends.source_port), (ends.destination, ends.destination_port))
    if ends.protocol in (1, 58):  # the port is the query's identifier and type, whichever way it goes
        both = ((ends.source, None), (ends.destination, None))
    return ends.ip_version, ends.protocol, frozenset(both), ends.source_port if ends.protocol in (1, 58) else None
