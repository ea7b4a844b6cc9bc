# SPDX-License-Identifier: Apache-2.0
"""An API server's process, with controllers in it or apart, from its start to TERM."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supervisor_glue.api.kinds import SPAN
from supervisor_glue.api.process import ApiProcess
from supervisor_glue.api.process import Settings as ApiSettings
from supervisor_glue.auth.tls import buffers_limit
from supervisor_glue.ending import ending_signals
from supervisor_glue.span_forward import SpanForward

if TYPE_CHECKING:
    from supervisor_glue.controlling import Controlling


async def serve(api: ApiSettings, controlling: Controlling | None, kubeconfig: Path | None) -> None:
    """Serve until TERM or INT. `controlling`: the controllers'; None: they run elsewhere. The kubeconfig is written
    when the API answers. Raises as ApiProcess.start."""
    buffers_limit()
    ended = ending_signals()
    process = await ApiProcess.start(api)
    try:
        async with SpanForward(process.cache, process.authority) as forward:
            process.server.extensions[SPAN] = forward.answer
            try:
                await _serve(process, forward, controlling, kubeconfig, ended)
            finally:
                process.server.end()  # what is being passed on, before what passes it on
    finally:
        await process.stop()


async def _serve(
    process: ApiProcess,
    forward: SpanForward,
    controlling: Controlling | None,
    kubeconfig: Path | None,
    ended: asyncio.Event,
) -> None:
    waiting = asyncio.create_task(ended.wait())
    working: asyncio.Task[Any] = waiting
    following = asyncio.create_task(process.cache.follow())
    if controlling is not None:
        from supervisor_glue.controlling import controllers_serve  # an API alone needs none of it

        controllers = controllers_serve(process.authority, process.url, controlling, forward.here)
        working = asyncio.create_task(controllers)
    try:
        if kubeconfig is not None:
            process.kubeconfig(kubeconfig)
        print(f"serving at {process.url}" + (f", kubeconfig {kubeconfig}" if kubeconfig else ""), file=sys.stderr)
        await asyncio.wait({waiting, working, following}, return_when=asyncio.FIRST_COMPLETED)
        if following.done() and (failed := following.result()) is not None:
            raise failed  # whoever keeps this process begins anew
        if not ended.is_set():
            working.result()  # it never ends by itself: say why it did
    finally:
        for task in (waiting, following, working):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await working
