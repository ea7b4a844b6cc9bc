# SPDX-License-Identifier: Apache-2.0
"""A control plane in one process: the API, and controllers that are its clients over the loopback; from its start to
TERM."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from dfw.logs import get_logger
from supervisor_glue.api.http_client import HttpClient
from supervisor_glue.api.kinds import SPAN
from supervisor_glue.api.process import ApiProcess
from supervisor_glue.api.process import Settings as ApiSettings
from supervisor_glue.auth.kubeconfig import Kubeconfig
from supervisor_glue.auth.pki import client_issue
from supervisor_glue.auth.user import CONTROLLERS
from supervisor_glue.controllers.leader import Leader, LeaderOptions
from supervisor_glue.controllers.run import controllers_work
from supervisor_glue.controllers.settings import Settings
from supervisor_glue.controllers.span import Span
from supervisor_glue.enabled import enabled_work
from supervisor_glue.span_service import span_extension

CONTROLLER: Final = "palisade:controller"


async def serve(api: ApiSettings, settings: Settings | None, kubeconfig: Path | None) -> None:
    """Serve until TERM or INT. `settings`: the controllers'; None: they run elsewhere. The kubeconfig is written when
    the API answers. Raises as ApiProcess.start."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    process = await ApiProcess.start(api)
    controlling = asyncio.create_task(ended.wait() if settings is None else controllers_serve(process, settings))
    try:
        if kubeconfig is not None:
            process.kubeconfig(kubeconfig)
        print(f"serving at {process.url}" + (f", kubeconfig {kubeconfig}" if kubeconfig else ""), file=sys.stderr)
        waiting = asyncio.create_task(ended.wait())
        await asyncio.wait({waiting, controlling}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not ended.is_set():
            controlling.result()  # it never ends by itself: say why it did
    finally:
        controlling.cancel()
        with suppress(asyncio.CancelledError):
            await controlling
        await process.stop()


async def controllers_serve(process: ApiProcess, settings: Settings) -> None:
    """Controllers beside their API server, until cancelled."""
    identity = client_issue(process.authority, CONTROLLER, (CONTROLLERS,), now=datetime.now(UTC))
    config = Kubeconfig(process.url, process.authority.pem, CONTROLLER, identity)
    name = f"{socket.gethostname()}-{os.getpid()}"
    async with HttpClient(config, "palisade-controllers") as client:
        leader = Leader(client, LeaderOptions(name))

        @contextmanager
        def served(span: Span) -> Iterator[None]:
            process.server.extensions[SPAN] = span_extension(span)
            try:
                yield
            finally:
                del process.server.extensions[SPAN]

        async def work(told: Settings) -> None:
            await controllers_work(client, told, process.authority, served)

        while True:
            try:
                await leader.lead(lambda: enabled_work(client, settings, work))
            except Exception as error:
                get_logger("controllers").error(
                    "controllers.failed", error=f"{type(error).__name__}: {error}", exc_info=True
                )
                await asyncio.sleep(1)
