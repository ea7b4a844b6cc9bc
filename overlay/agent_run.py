# SPDX-License-Identifier: Apache-2.0
"""Running a host agent until it is told to end."""

from __future__ import annotations

import asyncio
import contextlib

from dfw.model import NFTABLES
from overlay.agent_base import AgentOptions
from overlay.enter import namespace_enter


def agent_run(options: AgentOptions) -> None:
    """Run an agent until it is told to end. Raises EnvironmentLacksError, OSError (its namespace cannot be entered)."""
    if options.netns is not None:
        namespace_enter(options.netns)  # before there is any thread: they all belong there
    asyncio.run(_run(options))


async def _run(options: AgentOptions) -> None:
    from overlay.agent import Agent
    from overlay.kernel_agent import KernelAgent

    agent = KernelAgent(options) if options.enforcer == NFTABLES else Agent(options)
    try:
        await asyncio.to_thread(agent.start)
        await agent.serve()
    finally:
        with contextlib.suppress(AttributeError):
            agent.close()
