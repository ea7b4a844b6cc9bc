# SPDX-License-Identifier: Apache-2.0
"""The slow, obvious twin of the packet core: judges packets by the model itself, one at a time.

Written from docs/packet-path.md alone. It imports dfw.model and nothing else of ours; nobody optimises it beyond what
makes a run of ten million packets bearable. `Replay` is the face that replay, tests and explain use.
"""

from dfw.oracle.flow import Flow
from dfw.oracle.parse import parse
from dfw.oracle.replay import AmbiguousVnicError, Generated, Judgement, Options, Replay, RuleStatistics
from dfw.oracle.worker import Decision

__all__ = [
    "AmbiguousVnicError",
    "Decision",
    "Flow",
    "Generated",
    "Judgement",
    "Options",
    "Replay",
    "RuleStatistics",
    "parse",
]
