# SPDX-License-Identifier: Apache-2.0
"""TERM and INT, as the Supervisor's processes take them."""

from __future__ import annotations

import asyncio
import signal


def ending_signals() -> asyncio.Event:
    """Set when this process is told to end."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    return ended
