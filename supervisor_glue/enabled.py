# SPDX-License-Identifier: Apache-2.0
"""The Supervisor that is enabled, and what its controllers are told by it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Final

from dfw.documents import document_of
from dfw.errors import PolicyError
from dfw.logs import get_logger
from supervisor_glue.api.client import Client, Resource
from supervisor_glue.api.leg import LEG
from supervisor_glue.api.status import Object
from supervisor_glue.controllers.informer import Informer
from supervisor_glue.controllers.leg import settings_with_leg
from supervisor_glue.controllers.resources import PORTS
from supervisor_glue.controllers.settings import Settings
from supervisor_glue.prechecks.spec import SupervisorSpec, spec_read

SUPERVISORS: Final = Resource("palisade.internal", "v1alpha1", "supervisors")


def settings_of(items: Iterable[Object], base: Settings) -> Settings:
    """The settings by the first Supervisor (by name) that can be read; `base` has what it does not say."""
    for item in sorted(items, key=lambda item: str(item["metadata"]["name"])):
        try:
            return settings_by(spec_read([document_of(item, item["metadata"]["name"])]), base)
        except PolicyError as error:
            get_logger("supervisor").warning("supervisor.unreadable", name=item["metadata"]["name"], error=str(error))
    return base


def settings_by(spec: SupervisorSpec, base: Settings) -> Settings:
    """What a Supervisor's spec says to controllers. Its management network is kept from pods."""
    management = spec.management.cidr if spec.management else None
    protected = base.protected if management is None else (*base.protected, management)
    return replace(
        base,
        pod_cidrs=spec.pod_cidrs or base.pod_cidrs,
        egress_cidrs=spec.egress_cidrs or base.egress_cidrs,
        namespace_prefix=spec.namespace_prefix,
        tier0=spec.tier0 or base.tier0,
        isolated=spec.is_isolated,
        protected=tuple(dict.fromkeys(protected)),
    )


async def enabled_work(client: Client, base: Settings, work: Callable[[Settings], Awaitable[None]]) -> None:
    """Do the work with the settings of the Supervisor that is enabled, and of where pods reach the API, and begin anew
    with others when they change, until cancelled or the work ends."""
    changed = asyncio.Event()
    view, legs = Informer(client, SUPERVISORS), Informer(client, PORTS, fields=f"metadata.name={LEG}")
    for informer in (view, legs):
        informer.handle(lambda old, new: changed.set())
    following = [asyncio.create_task(informer.run()) for informer in (view, legs)]

    def current() -> Settings:
        return settings_with_leg(settings_of(view, base), legs)

    try:
        for informer in (view, legs):
            await informer.synced.wait()
        while True:
            settings = current()
            get_logger("supervisor").info("supervisor.settings", pod_cidrs=[str(cidr) for cidr in settings.pod_cidrs])
            if await _worked(work, settings, current, changed):
                return
    finally:
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)


async def _worked(
    work: Callable[[Settings], Awaitable[None]],
    settings: Settings,
    current: Callable[[], Settings],
    changed: asyncio.Event,
) -> bool:
    """Until the work ends (true) or other settings hold."""
    working = asyncio.ensure_future(work(settings))
    try:
        while current() == settings:
            changed.clear()
            waiting = asyncio.create_task(changed.wait())
            try:
                await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()
            if working.done():
                working.result()
                return True
        return False
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
