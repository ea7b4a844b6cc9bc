# SPDX-License-Identifier: Apache-2.0
"""All controllers of a Supervisor, in one process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeAlias

from supervisor_glue.api.client import Client
from supervisor_glue.auth.pki import Authority
from supervisor_glue.controllers.accounts import AccountController
from supervisor_glue.controllers.certificates import CertificateController, JoinTokenController
from supervisor_glue.controllers.collector import CollectorController
from supervisor_glue.controllers.controller import Controller, controllers_run
from supervisor_glue.controllers.informer import Views
from supervisor_glue.controllers.leg import LegController
from supervisor_glue.controllers.namespaces import NamespaceController
from supervisor_glue.controllers.nodes import NodeController, ReplacementController
from supervisor_glue.controllers.realized import RealizedController
from supervisor_glue.controllers.scheduler import SchedulerController
from supervisor_glue.controllers.settings import Settings
from supervisor_glue.controllers.span import Span
from supervisor_glue.controllers.vnics import VnicController

Serve: TypeAlias = Callable[[Span], AbstractContextManager[None]]


async def controllers_work(client: Client, settings: Settings, authority: Authority | None, serve: Serve) -> None:
    """Run until cancelled. `authority`: signs hosts' certificates; None: others do. `serve`: is told what computes what
    hosts are told, as long as this process leads."""
    views = Views(client)
    span = Span(settings)
    span.connect(views)
    known = b"" if authority is None else authority.pem
    controllers: list[Controller] = [
        NamespaceController(client, views, settings),
        AccountController(client, views, known),
        LegController(client, views, settings, known),
        SchedulerController(client, views),
        VnicController(client, views),
        JoinTokenController(client, views),
        NodeController(client, views, settings),
        ReplacementController(client, views),
        CollectorController(client, views),
        RealizedController(client, views, span),
    ]
    if authority is not None:
        controllers.append(CertificateController(client, views, authority, longest=settings.certificates))
    with serve(span):
        async with asyncio.TaskGroup() as group:
            group.create_task(controllers_run(views, controllers))
            group.create_task(span.run(views))
