# SPDX-License-Identifier: Apache-2.0
"""A control plane as `palisade supervisor up` starts it, with room for many Namespaces; run as a program.

`python -m tests.support.simulated_control DATA PORT KUBECONFIG POD_CIDR [span]`. With `span`, of the controllers those
alone that compute what hosts are told, and what they have realized. Simulated hosts renew no Lease: a host's
silence is not looked at.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from pathlib import Path

import supervisor_glue.controlling as controlling_module
from dfw.logs import configure
from dfw.model import prefix_parse
from supervisor_glue.api.client import Client
from supervisor_glue.api.process import Settings as ApiSettings
from supervisor_glue.auth.pki import Authority
from supervisor_glue.controllers.controller import controllers_run
from supervisor_glue.controllers.informer import Views
from supervisor_glue.controllers.realized import RealizedController
from supervisor_glue.controllers.run import Serve
from supervisor_glue.controllers.settings import Settings
from supervisor_glue.controllers.span import Span
from supervisor_glue.controlling import Controlling
from supervisor_glue.serve import serve

NO_SILENCE = 1e9  # seconds
LEASE = 15.0  # seconds for which a leader that was killed is believed


async def span_work(client: Client, settings: Settings, authority: Authority | None, serve: Serve) -> None:
    """As controllers_work, without those that make Namespaces' networks and place pods."""
    views = Views(client)
    span = Span(settings)
    span.connect(views)
    with serve(span):
        async with asyncio.TaskGroup() as group:
            group.create_task(controllers_run(views, [RealizedController(client, views, span)]))
            group.create_task(span.run(views))


def main() -> None:
    gc.set_threshold(50_000, 20, 20)  # as dfw.cli.main has it: Python's own is a tenth of the work here
    data, port, kubeconfig, pods, *only = sys.argv[1:]
    if only == ["span"]:
        controlling_module.controllers_work = span_work
    configure()
    settings = Settings(pod_cidrs=(prefix_parse(pods),), silence=NO_SILENCE)
    controlling = Controlling(lease=LEASE, settings=settings)
    asyncio.run(serve(ApiSettings(Path(data), (("127.0.0.1", int(port)),)), controlling, Path(kubeconfig)))


if __name__ == "__main__":
    main()
