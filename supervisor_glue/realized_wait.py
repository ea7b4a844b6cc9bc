# SPDX-License-Identifier: Apache-2.0
"""`palisade wait --realized` in a lab with a Supervisor: what is in force is what the API's objects say of themselves
(their condition Realized), since the lab's own files hold nothing but its hosts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import click

from supervisor_glue.api.client import Client, Resource
from supervisor_glue.api.http_client import HttpClient
from supervisor_glue.api.status import Object
from supervisor_glue.calling import calling, config_of
from supervisor_glue.controllers.intent import POLICY_PREFIX
from supervisor_glue.controllers.namespace_plan import needs_address
from supervisor_glue.controllers.objects import condition_of, object_key
from supervisor_glue.controllers.realized import REALIZED
from supervisor_glue.controllers.resources import KIND_OF, NAMESPACES, PODS

_POLL_SECONDS: Final = 0.1
_MANAGER: Final = "palisade-wait"
_PREFIX: Final[Mapping[Resource, str]] = {**POLICY_PREFIX, NAMESPACES: "namespace", PODS: "pod"}


def wait_realized(kubeconfig: Path, what: str | None, seconds: float) -> dict[str, str] | None:
    """Until these objects, or all, are in force as they are now. Returns those that are not in time, and why; None
    where no object is meant. Raises ApiError, ConnectionError."""
    return asyncio.run(_wait(kubeconfig, what, seconds))


def wait_reported(kubeconfig: Path, what: str | None, seconds: float) -> dict[str, str]:
    """The same for a command: raises click.UsageError where no object is meant, click.ClickException where the server
    refuses, EnvironmentLacksError where it does not answer."""
    config_of(kubeconfig)
    with calling():
        found = wait_realized(kubeconfig, what, seconds)
    if found is None:
        raise click.UsageError(f"the API has no object {what!r} that is in force or not")
    return found


async def _wait(kubeconfig: Path, what: str | None, seconds: float) -> dict[str, str] | None:
    deadline = time.monotonic() + seconds
    async with HttpClient.of_file(kubeconfig, _MANAGER) as client:
        while True:
            found = await read_behind(client, what)
            if not found or time.monotonic() > deadline:
                return found
            await asyncio.sleep(_POLL_SECONDS)


async def read_behind(client: Client, what: str | None) -> dict[str, str] | None:
    """The objects that are not in force as they are now, by `KIND NAME`, and why; None where no object is meant."""
    lists = await asyncio.gather(*(client.list(resource) for resource in _PREFIX))
    meant = [
        (resource, item)
        for resource, found in zip(_PREFIX, lists, strict=True)
        for item in found.items
        if what is None or is_meant(resource, item, what)
    ]
    return dict(_behind(meant)) if meant or what is None else None


def is_meant(resource: Resource, item: Object, what: str) -> bool:
    """`NAME`, `NS/NAME`, `KIND/NAME` as kubectl has it, the path of a policy's rules or the path of one of them."""
    key = object_key(item)
    path = f"{_PREFIX[resource]}/{key}"
    kind = KIND_OF[resource].lower()
    names = {key, path, key.rpartition("/")[2]}
    names |= {f"{kind}/{name}" for name in (key, key.rpartition("/")[2])}
    wanted = what.strip("/")
    first, slash, rest = wanted.partition("/")
    return wanted in names or f"{first.lower()}{slash}{rest}" in names or wanted.startswith(f"{path}/")


def _behind(items: Sequence[tuple[Resource, Object]]) -> Iterator[tuple[str, str]]:
    for resource, item in items:
        condition = condition_of(item, REALIZED)
        name = f"{KIND_OF[resource]} {object_key(item)}"
        if condition is None:
            if _concerns_hosts(resource, item):
                yield name, "nothing is said of it yet"
        elif condition.get("status") != "True":
            yield name, str(condition.get("message") or condition.get("reason") or "not yet")
        elif condition.get("observedGeneration") != item["metadata"].get("generation"):
            yield name, "it has changed since it was in force"


def _concerns_hosts(resource: Resource, item: Object) -> bool:
    """A Namespace without a network, and a pod without a card, are told to nobody."""
    return resource != NAMESPACES and (resource != PODS or needs_address(item))
