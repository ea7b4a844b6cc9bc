# SPDX-License-Identifier: Apache-2.0
"""The API and its controllers as processes of their own: one leads, another takes over, hosts go on with what they
know; and nobody but an API server is believed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import click
import pytest

from dfw.errors import EnvironmentLacksError
from supervisor_glue.api.http_client import HttpClient
from supervisor_glue.api.status import ApiError
from supervisor_glue.auth.kubeconfig import kubeconfig_read
from supervisor_glue.auth.pki import authority_open, client_issue
from supervisor_glue.auth.tls import client_context
from supervisor_glue.auth.user import CONTROLLERS, FRONT_PROXY, MASTERS
from supervisor_glue.controllers.objects import object_made, status_of
from supervisor_glue.controllers.resources import HOSTS, NAMESPACES, PODS
from supervisor_glue.span_service import PATH
from supervisor_glue.supervisor_verb import controllers
from tests.support.control_plane import ControlPlane, control_plane
from tests.support.controllers_apart import (
    Controllers,
    Listener,
    controllers_apart,
    host_config,
    host_make,
    leading_address,
)
from tests.support.nodes import pod
from tests.support.patience import PATIENCE


def test_another_leads_and_hosts_go_on(tmp_path: Path) -> None:
    with control_plane(tmp_path / "plane", "--no-controllers") as plane, ExitStack() as stack:

        def start() -> list[Controllers]:
            return stack.enter_context(controllers_apart(plane, tmp_path, 2))

        running = asyncio.run(asyncio.wait_for(_another_leads(plane, start), 3 * PATIENCE))
        (left,) = (one for one in running if one.process.poll() is None)
        assert left.stop() == 0, left.log.read_text()
        assert plane.stop() == 0, plane.log.read_text()


async def _another_leads(plane: ControlPlane, start: Callable[[], list[Controllers]]) -> list[Controllers]:
    async with HttpClient.of_file(plane.kubeconfig, "test") as client:
        uid = await host_make(client, "h1", "172.16.0.1")
        config = host_config(plane.data, kubeconfig_read(plane.kubeconfig), "h1", uid)
        async with HttpClient(config, "test-host") as asking:
            with pytest.raises(ApiError, match="no controllers lead"):
                await asking.request("GET", PATH)
        running = await asyncio.to_thread(start)
        host = Listener(config)
        listening = asyncio.create_task(host.run())
        try:
            await client.create(NAMESPACES, object_made(NAMESPACES, "shop"))
            await _pod(client, "p0")
            await _until(lambda: _so("vnic/shop/p0" in host.reader.parts), "the host is not told of its pod")
            async with HttpClient(config, "test-host") as asking:
                assert set((await asking.request("GET", PATH))["parts"]) == set(host.reader.parts)
            first = await leading_address(client)
            (leader,) = (one for one in running if one.address == first)
            await _only_api_servers(plane, first)

            leader.kill()
            asked = len(host.told)
            known = dict(host.reader.parts)
            await client.patch(HOSTS, "h1", {"spec": {"tep": "172.16.0.9"}})  # while nobody leads
            await _until(lambda: _so(len(host.told) > asked), "the host is told nothing by another leader")
            (other,) = (one for one in running if one is not leader)
            assert await leading_address(client) == other.address
            await _until(lambda: _so(host.reader.parts["host/h1"] != known["host/h1"]), "the change does not arrive")
            since = [change for changes in host.told[asked:] for change in changes]
            assert {key for change in since for key in change.changed} <= {"host/h1", "tep/h1"}
            assert host.reader.parts.keys() == known.keys()  # nothing is gone

            await _pod(client, "p1")  # what was half done by one is done by the other
            await _until(lambda: _so("vnic/shop/p1" in host.reader.parts), "the host is not told of another pod")
            await client.delete(HOSTS, "h1")  # who is revoked is told no more, though the leader knows nothing of it
            await _until(lambda: _refused(config), "a deleted Host is still answered")
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
    return running


async def _only_api_servers(plane: ControlPlane, address: str) -> None:
    """Who says whose the request is has an API server's certificate; no certificate that is given away is one."""
    authority = authority_open(plane.data / "pki", datetime.now(UTC))
    admin = kubeconfig_read(plane.kubeconfig)
    identity = host_config(plane.data, admin, "h1", "0").identity
    masters = client_issue(authority, "palisade:api-server", (MASTERS, CONTROLLERS), now=datetime.now(UTC))
    claims = {"X-Remote-User": "system:node:h1", "X-Remote-Group": "system:nodes"}
    async with aiohttp.ClientSession() as session:
        for shown in (admin.identity, identity, masters):
            context = client_context(authority.pem, shown)
            async with session.get(address + PATH, ssl=context, headers=claims) as answer:
                assert answer.status == 401, await answer.text()
        with pytest.raises(aiohttp.ClientError):  # without a certificate not even the handshake succeeds
            async with session.get(address + PATH, ssl=client_context(authority.pem), headers=claims) as answer:
                raise AssertionError(await answer.text())
        proxy = client_issue(authority, "any", (FRONT_PROXY,), now=datetime.now(UTC))
        context = client_context(authority.pem, proxy)
        async with session.get(address + PATH, ssl=context, headers=claims) as answer:
            assert answer.status == 200 and "host/h1" in (await answer.json())["parts"]
        async with session.get(address + PATH, ssl=context) as answer:  # on whose behalf?
            assert answer.status == 401


async def _pod(client: HttpClient, name: str) -> None:
    made = pod(name)
    del made["metadata"]["uid"]
    made["spec"]["containers"][0]["image"] = "none"
    await client.create(PODS, made, "shop")

    async def addressed() -> Any:
        return status_of(await client.get(PODS, name, "shop")).get("podIP")

    await _until(addressed, f"pod {name} has no address")


async def _refused(config: Any) -> bool:
    async with HttpClient(config, "test-host") as asking:
        try:
            await asking.request("GET", PATH)
        except ApiError as error:
            return error.code == 401
    return False


async def _so(value: bool) -> bool:
    return value


async def _until(is_so: Callable[[], Awaitable[Any]], what: str) -> None:
    end = asyncio.get_running_loop().time() + PATIENCE
    while not await is_so():
        assert asyncio.get_running_loop().time() < end, what
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (("--server", "http://127.0.0.1:1"), "is no https:// URL"),
        (("--server", "https://127.0.0.1:1", "--listen", "0.0.0.0:0"), "is no address that API servers could ask"),
        (("--server", "https://127.0.0.1:1"), "is no Supervisor's data directory"),
    ],
)
def test_wrong_options_are_told(tmp_path: Path, arguments: tuple[str, ...], wrong: str) -> None:
    with pytest.raises((click.BadParameter, EnvironmentLacksError), match=wrong):
        controllers.main(["--data", str(tmp_path), *arguments], standalone_mode=False)
