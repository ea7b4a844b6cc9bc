# SPDX-License-Identifier: Apache-2.0
"""Which TEPs are known only because the way to them is measured, and for how long. With packets: tests/netns."""

from __future__ import annotations

import asyncio
from pathlib import Path
from unittest.mock import Mock

import pytest

from dfw.core import CoreError
from overlay import path_mtu
from overlay.agent import Agent
from overlay.agent_base import AgentOptions
from overlay.hoststate import HostState, TepState

STATE = HostState(host="h1", revision=1, tep="172.16.0.1", teps=(TepState("h2", "172.16.0.2"),))


def test_asked_teps_are_known_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(path_mtu.time, "monotonic", lambda: now)
    state = STATE
    asked = path_mtu.AskedTeps()
    asked.take(
        {"teps": [{"host": f"h{n}", "ip": f"172.16.0.{n}"} for n in (1, 2, 3)] + [{"host": "six", "ip": "fd00::1"}]}
    )
    assert [tep.ip for tep in asked.over(state).teps] == ["172.16.0.2", "172.16.0.3"]
    now += path_mtu.KNOWN_SECONDS - 1
    assert not asked.is_over()
    asked.take({"teps": [{"host": "h4", "ip": "172.16.0.4"}]})
    now += path_mtu.KNOWN_SECONDS - 1
    assert not asked.is_over()
    now += 2
    assert asked.is_over()
    asked.forget()
    assert asked.over(state) == state and not asked.is_over()


def test_an_agent_lives_on_where_it_cannot_forget_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: HostState) -> None:
        raise CoreError("no room")

    agent = Agent(AgentOptions(host="h1", desired=tmp_path / "desired.json", run=tmp_path, underlay="ul0"))
    agent.watch, agent.teps = Mock(), Mock(dead=Mock(return_value=frozenset()))
    agent.told = STATE
    monkeypatch.setattr(agent, "_apply", refuse)
    agent.asked.take({"teps": [{"host": "h3", "ip": "172.16.0.3"}]})
    monkeypatch.setattr(agent.asked, "_until", 0.0)
    asyncio.run(agent._tick())
    assert agent.asked.over(STATE) == STATE
    with pytest.raises(CoreError):
        asyncio.run(agent._again())
