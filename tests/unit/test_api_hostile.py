# SPDX-License-Identifier: Apache-2.0
"""Clients that mean ill, or speak something else: each is answered or hung up on, and others are served meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import re
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from supervisor_glue.api import server
from supervisor_glue.api.server import TUNNEL
from supervisor_glue.api.status import ApiError
from supervisor_glue.auth import limits
from supervisor_glue.auth.limits import Allowance
from supervisor_glue.auth.tls import identity_load
from supervisor_glue.controllers.resources import CONFIG_MAPS, NAMESPACES, PODS, ROLE_BINDINGS
from supervisor_glue.tunnel import CHUNK, END, OPEN, STDOUT, TAKEN, WINDOW, frame_read, frame_write
from tests.support.patience import PATIENCE
from tests.support.served_world import World, with_world

SPEC = {"containers": [{"name": "c", "image": "i"}]}
SECRET = b"geheim-7f3a"
HEAD = b"Host: x\r\nAuthorization: Bearer " + SECRET + b"\r\n"
NO_HTTP = [
    b"GET /api/v1/pods/ x HTTP/1.1\r\n" + HEAD + b"\r\n",
    b"GET /\xff\xe9 HTTP/1.1\r\n" + HEAD + b"\r\n",
    b"GET / HTTP/1.1\r\n" + HEAD + b"".join(b"X-%d: y\r\n" % n for n in range(20_000)) + b"\r\n",
    b"GET / HTTP/1.1\r\n" + HEAD + b"X: " + b"y" * 200_000 + b"\r\n\r\n",
    b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n" + HEAD + b"\r\n",
    b"GET / HTTP/1.1\r\n" + HEAD + b"X\x00Y: z\r\n\r\n",
    b"GET / HTTP/9.9\r\n" + HEAD + b"\r\n",
    b"POST / HTTP/1.1\r\n" + HEAD + b"Content-Length: -1\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"\x16\x03\x01" + SECRET + b"\r\n\r\n",
]


async def _said(world: World, sent: bytes, *, admin: bool = False) -> bytes:
    """The beginning of what a raw connection is answered, until the server has nothing to say or hangs up."""
    place = urlsplit(world.process.url)
    context = ssl.create_default_context(cadata=world.process.authority.pem.decode())
    if admin:
        assert world.admin.config.identity is not None
        identity_load(context, world.admin.config.identity)
    reader, writer = await asyncio.open_connection(place.hostname, place.port, ssl=context)
    try:
        writer.write(sent)
        return await reader.read(100)
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


def test_what_is_no_http_is_refused_and_in_no_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    async def work(world: World) -> None:
        for sent in NO_HTTP:
            said = await _said(world, sent)
            assert not said or said.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400", b"HTTP/1.1 401")), (sent[:60], said)
        assert (await _said(world, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")).startswith(b"HTTP/1.1 200")

    with_world(tmp_path, work)
    told = "".join(capfd.readouterr()) + caplog.text
    assert "Traceback" not in told and SECRET.decode() not in told


@pytest.mark.parametrize("header", ["Impersonate-User", "User-Agent", "Accept", "Content-Type", "Content-Encoding"])
def test_headers_and_bodies_of_bytes_that_are_no_text(tmp_path: Path, header: str) -> None:
    async def work(world: World) -> None:
        for value in (b"\xff", b"deflate", b"gzip"):
            body = b'{"metadata": {"generateName": "x"}}'
            head = f"Host: x\r\nContent-Length: {len(body)}\r\n{header}: ".encode() + value
            path = CONFIG_MAPS.path("shop").encode()
            said = await _said(world, b"POST " + path + b" HTTP/1.1\r\n" + head + b"\r\n\r\n" + body, admin=True)
            assert said[:12] in {b"HTTP/1.1 " + code for code in (b"201", b"400", b"403", b"406", b"415")}, (
                value,
                said,
            )
        assert world.process.cache.failed is None
        await world.admin.list(CONFIG_MAPS, "shop")

    with_world(tmp_path, work)


def test_a_body_that_grows_when_it_is_unpacked_is_too_large(tmp_path: Path) -> None:
    packed = gzip.compress(b'{"metadata": {"name": "x"}, "data": {"a": "' + b"a" * (64 << 20) + b'"}}')

    async def work(world: World) -> None:
        assert world.admin._session is not None
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        path = CONFIG_MAPS.path("shop")
        async with world.admin._session.post(path, data=packed, headers=headers) as answer:
            assert answer.status == 413
        small = gzip.compress(b'{"metadata": {"name": "x"}, "data": {"a": "b"}}')
        async with world.admin._session.post(path, data=small, headers=headers) as answer:
            assert answer.status == 201

    with_world(tmp_path, work)


def test_a_body_that_does_not_come_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "BODY_SECONDS", 0.1)

    async def work(world: World) -> None:
        assert world.admin._session is not None

        async def never() -> object:
            yield b"{"  # type: ignore[misc]
            await asyncio.Event().wait()

        async with world.admin._session.post(CONFIG_MAPS.path("shop"), data=never()) as answer:
            assert answer.status == 408

    with_world(tmp_path, work)


def test_who_has_as_many_watches_as_he_may_gets_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "USER_ALLOWANCE", Allowance(200, 1000, 3))

    async def work(world: World) -> None:
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}
        for name in ("a", "b"):
            subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}
            item = {"metadata": {"name": name}, "roleRef": role, "subjects": [subject]}
            await world.admin.create(ROLE_BINDINGS, item, "shop")
        async with world.client("a") as greedy, world.client("b") as other:
            revision = (await greedy.list(PODS, "shop")).revision
            watches = [greedy.watch(PODS, revision, "shop") for _ in range(4)]
            waiting = [asyncio.ensure_future(anext(watch)) for watch in watches]
            done, left = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            (refused,) = done
            error = refused.exception()
            assert isinstance(error, ApiError) and error.code == 429
            await world.admin.create(PODS, {"metadata": {"name": "p"}, "spec": SPEC}, "shop")
            for task in left:
                assert (await task).object["metadata"]["name"] == "p"
            async for event in other.watch(PODS, revision, "shop"):
                assert event.object["metadata"]["name"] == "p"
                break

    with_world(tmp_path, work)


def test_requests_may_come_before_the_answers_to_those_before(tmp_path: Path) -> None:
    """HTTP/1.1's pipelining: all are answered, in their order, whatever they were."""

    async def work(world: World) -> None:
        place = urlsplit(world.process.url)
        context = ssl.create_default_context(cadata=world.process.authority.pem.decode())
        reader, writer = await asyncio.open_connection(place.hostname, place.port, ssl=context)
        paths = [("healthz", b"200"), ("livez", b"200"), ("nothing", b"401")] * 30
        paths.sort(key=lambda item: item[1])  # a refusal for want of a name ends the connection
        for path, _ in paths[:61]:
            writer.write(f"GET /{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        said = await reader.read()
        found = re.findall(rb"HTTP/1\.1 (\d+)", said)
        assert found == [status for _, status in paths[:61]]
        writer.transport.abort()
        await world.admin.get(NAMESPACES, "shop")

    with_world(tmp_path, work)


@pytest.mark.parametrize("answer", [b"\xff", b"[]", b"null", b"x" * 100_000, b'{"status": "Failure"}', b""])
def test_a_host_that_answers_nonsense_is_refused_as_a_sentence(tmp_path: Path, answer: bytes) -> None:
    async def work(world: World) -> None:
        async with world.host("esx-1") as host, host.websocket(TUNNEL, heartbeat=20.0) as socket:

            async def respond() -> None:
                async for message in socket:
                    frame = frame_read(message.data)
                    await socket.send_bytes(frame_write(frame.session + 1, STDOUT, b"to nobody"))
                    await socket.send_bytes(frame_write(frame.session, TAKEN, b""))
                    await socket.send_bytes(frame_write(frame.session, END, answer))

            responding = asyncio.create_task(respond())
            assert world.admin._session is not None
            async with world.admin._session.get(PODS.path("shop", "on-esx-1", "log")) as said:
                assert said.status in (200, 400), await said.text()
            responding.cancel()

    with_world(tmp_path, work)


def test_a_host_that_sends_more_than_was_taken_is_hung_up_on(tmp_path: Path) -> None:
    """Its output would wait in the API server's memory for a reader that does not read."""

    async def work(world: World) -> None:
        async with world.host("esx-1") as host, host.websocket(TUNNEL, heartbeat=20.0) as socket:
            assert world.admin._session is not None
            asking = asyncio.ensure_future(world.admin._session.get(PODS.path("shop", "on-esx-1", "log")))
            asked = frame_read((await socket.receive()).data)
            assert asked.channel == OPEN
            with contextlib.suppress(ConnectionError):
                for _ in range(64 * WINDOW // CHUNK):
                    await socket.send_bytes(frame_write(asked.session, STDOUT, bytes(CHUNK)))
            async with asyncio.timeout(PATIENCE):
                async for _ in socket:
                    pass  # what was taken until then
            assert socket.close_code == aiohttp.WSCloseCode.PROTOCOL_ERROR
            asking.cancel()

    with_world(tmp_path, work)
