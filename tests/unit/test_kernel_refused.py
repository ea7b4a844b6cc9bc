# SPDX-License-Identifier: Apache-2.0
"""A state that a host whose kernel enforces cannot take: a sentence, and what was in force goes on; what may be
possible later is tried again."""

from __future__ import annotations

import errno
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace as with_fields

from dfw.core import CoreError
from dfw.errors import EnvironmentLacksError
from dfw.layout import ETHER_DTYPE, RULE_DTYPE
from dfw.model import NFTABLES
from dfw.nftables import render_ruleset
from dfw.nftables.load import LoadError
from overlay.agent_base import AgentOptions
from overlay.hoststate import HostState, StateError, state_encode
from overlay.kernel_agent import KernelAgent
from overlay.kernel_tables import host_tables, staged_tables
from overlay.rule_counts import RuleCounts
from tests.unit.test_kernel_staged import state_of as layer_3
from tests.unit.test_nftables_ether_staged import state_of as layer_2


class Kernel:
    """Does what it is told to do with a state; has taken some."""

    def __init__(self, does: Callable[[HostState], None]) -> None:
        self.does, self.rendered, self.state, self.problems = does, None, None, {}
        self.taken: list[int] = []

    def apply(self, state: HostState) -> None:
        self.does(state)
        self.taken.append(state.revision)


def agent_of(tmp_path: Path, does: Callable[[HostState], None]) -> KernelAgent:
    agent = KernelAgent(AgentOptions("h", tmp_path / "desired", tmp_path, "eth0", enforcer=NFTABLES))
    agent.kernel = Kernel(does)  # type: ignore[assignment]
    agent.since_reset = RuleCounts()
    return agent


LATER = [
    LoadError("nftables refused the change: Device or resource busy"),
    OSError(errno.ENOBUFS, "netfilter: No buffer space available"),
    FileNotFoundError(errno.ENOENT, "No such file or directory", "ip"),
    subprocess.TimeoutExpired("ip", 60),
    EnvironmentLacksError("no command nft", "apt-get install nftables"),
    CoreError("the table has no room"),
]
NEVER = [
    ValueError("2 vNICs (at most 1)"),
    StateError("two routes"),
    KeyError("pod"),
    IndexError("list index out of range"),
    TypeError("'NoneType' object is not subscriptable"),
    OverflowError("int too big to convert"),
    struct.error("argument out of range"),
    AssertionError(),
    RecursionError("maximum recursion depth exceeded"),
]


@pytest.mark.parametrize("error", [*LATER, *NEVER], ids=lambda item: type(item).__name__)
def test_whatever_is_raised_is_a_sentence_and_the_agent_goes_on(tmp_path: Path, error: Exception) -> None:
    fails = [error]

    def does(state: HostState) -> None:
        if fails:
            raise fails[0]

    agent = agent_of(tmp_path, does)
    agent._take(state_encode(layer_3(NFTABLES)))
    assert agent.error and agent.realized == 0 and not (tmp_path / "state.json").exists()
    assert str(error).strip("'") in agent.error and "\n" not in agent.error
    # What is worth another try is tried again, until it is done or another state comes.
    fails.clear()
    assert (agent.retry.left() is not None) == (error in LATER)
    agent._try_again()
    assert (agent.realized, agent.error) == ((7, None) if error in LATER else (0, agent.error))
    assert agent.retry.left() is None
    assert (tmp_path / "state.json").exists() is (error in LATER)


def test_a_state_that_another_follows_is_not_tried_again(tmp_path: Path) -> None:
    fails = [LATER[0]]

    def does(state: HostState) -> None:
        if fails:
            raise fails.pop()

    agent = agent_of(tmp_path, does)
    agent._take(state_encode(layer_3(NFTABLES)))
    agent._take(state_encode(with_fields(layer_3(NFTABLES), revision=8)))
    agent._try_again()
    assert agent.kernel.taken == [8] and agent.realized == 8  # type: ignore[attr-defined]


def with_row(data: bytes, dtype: np.dtype, name: str, value: int) -> bytes:  # type: ignore[type-arg]
    rows = np.frombuffer(data, dtype).copy()
    rows[name][0] = value
    return rows.tobytes()


@pytest.mark.parametrize("name", ["rule", "src_off", "dst_n"])
@pytest.mark.parametrize("world", ["table", "layer-2 table", "staged", "staged layer 2"])
def test_entries_of_what_is_not_there_are_refused(name: str, world: str) -> None:
    state = layer_3(NFTABLES) if world in ("table", "staged") else layer_2()
    assert state.staged is not None
    of = state if world in ("table", "layer-2 table") else state.staged
    kind, dtype = ("tables", RULE_DTYPE) if world in ("table", "staged") else ("ether", ETHER_DTYPE)
    tables = getattr(of, kind)
    changes = {name: 9999, **({"src_n": 1} if name == "src_off" else {})}
    data = tables[0].entries
    for field, value in changes.items():
        data = with_row(data, dtype, field, value)
    bad = with_fields(of, **{kind: (with_fields(tables[0], entries=data), *tables[1:])})
    state = bad if of is state else with_fields(state, staged=bad)
    with pytest.raises(StateError, match=r"(table|layer-2 table) 0: (a rule|what a rule refers to) is \d+, of \d+"):
        render_ruleset(host_tables(state), [vnic.name for vnic in state.vnics], staged=staged_tables(state))
