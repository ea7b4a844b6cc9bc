# SPDX-License-Identifier: Apache-2.0
"""What a host says that it knows, and what it is told for it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from random import Random

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from overlay.hoststate import StateError
from overlay.span_parts import MARK_BYTES, SetPart, marks_sum, part_encode, set_change, set_compare, sum_with
from supervisor_glue.api.http_client import HttpClient, error_of, lines_read
from supervisor_glue.api.server import refusal
from supervisor_glue.api.status import ApiError
from supervisor_glue.auth.kubeconfig import Kubeconfig
from supervisor_glue.auth.user import User
from supervisor_glue.controllers.groups import Group, parts_pack
from supervisor_glue.controllers.informer import Views
from supervisor_glue.controllers.intent import LOOKED_AT
from supervisor_glue.controllers.resources import PODS, PORTS
from supervisor_glue.controllers.span import Span
from supervisor_glue.controllers.telling import OWN, change_first
from supervisor_glue.span_reader import SpanReader
from supervisor_glue.span_service import change_line, known_read, span_extension
from supervisor_glue.span_wire import Known, line_read
from tests.support.api_twin import ApiTwin
from tests.support.api_world import SETTINGS, World
from tests.support.patience import PATIENCE
from tests.support.simulated_reader import Shared, SharingReader


def groups_of(number: int) -> dict[str, Group]:
    """A host's own group, and a routing domain's."""
    groups = {OWN: Group(), "domain d": Group()}
    groups[OWN].put("host/h", b'{"tep":"1"}')
    groups[OWN].put("vnic/a", b'"a"')
    for at in range(number):
        groups["domain d"].put(f"segment/{at}", b'{"vni":%d}' % at)
    return groups


def told(reader: SpanReader, groups: Mapping[str, Group], known: Known) -> int | None:
    """Bytes of what a reader is told that says this; None: it has to say it in marks."""
    change = change_first(groups, 1, known_read(msgspec.json.encode(known)), {})
    if change is None:
        return None
    line = b"".join(change_line(change))
    reader.take(line_read(line))
    return len(line)


def parts_of(groups: Mapping[str, Group]) -> dict[str, bytes]:
    return {key: part.data for group in groups.values() for key, part in group.parts.items()}


@pytest.fixture(params=[SpanReader, lambda: SharingReader(Shared())], ids=["reader", "sharing"])
def reader(request: pytest.FixtureRequest) -> SpanReader:
    made: SpanReader = request.param()
    return made


def test_the_sum_of_marks_says_what_is_known_in_whatever_order_it_came() -> None:
    group, other = Group(), Group()
    for at in range(5):
        group.put(f"tep/{at}", b"%d" % at)
    group.put("tep/2", b"9")
    group.remove("tep/0")
    for at, data in ((4, b"4"), (2, b"9"), (1, b"1"), (3, b"3")):
        other.put(f"tep/{at}", data)
    marks = [part.mark for part in group.parts.values()]
    assert group.sum == other.sum == marks_sum(marks) == marks_sum(reversed(marks))
    assert sum_with(sum_with(0, None, marks[0]), marks[0], None) == 0
    assert group.sum != marks_sum(marks[1:])


def test_who_was_told_a_step_that_is_remembered_says_so_in_a_few_bytes(reader: SpanReader) -> None:
    groups = groups_of(300)
    first = told(reader, groups, reader.known())
    assert first and dict(reader.parts) == parts_of(groups)
    groups["domain d"].put("segment/7", b'{"vni":7000}')
    groups["domain d"].remove("segment/8")
    groups[OWN].remove("vnic/a")
    groups[OWN].put("vnic/b", b'"b"')
    known = reader.known()
    assert len(known.sum) == MARK_BYTES and len(known.marks) == 2 * MARK_BYTES and not known.shared
    again = told(reader, groups, known)
    assert again is not None and again < 200 < first and dict(reader.parts) == parts_of(groups)


def test_a_sum_that_says_nothing_here_has_to_be_said_in_marks(reader: SpanReader) -> None:
    groups = groups_of(300)
    told(reader, groups, Known())
    leads = groups_of(300)  # another leader, which has told nobody anything: what has not changed is known all the same
    assert leads["domain d"].step_of(groups["domain d"].sum) is not None
    leads["domain d"].put("segment/7", b'{"vni":7000}')
    leads["domain d"].remove("segment/8")
    assert told(reader, leads, reader.known()) is None
    size = told(reader, leads, reader.known_marks())
    assert size is not None and size < 200 and dict(reader.parts) == parts_of(leads)
    assert reader.known().sum == leads["domain d"].sum.to_bytes(MARK_BYTES, "big")


def test_who_knows_little_of_what_there_is_gets_all_of_it_packed(reader: SpanReader) -> None:
    groups = groups_of(3)
    told(reader, groups, Known())
    for at in range(3, 300):
        groups["domain d"].put(f"segment/{at}", b'{"vni":%d}' % at)
    groups["domain d"].remove("segment/0")
    leads = {OWN: groups[OWN], "domain d": Group()}
    for key, part in groups["domain d"].parts.items():
        leads["domain d"].put(key, part.data)
    change = change_first(leads, 1, reader.known_marks(), {})
    assert change is not None and change.packed == (parts_pack(leads["domain d"].parts),) and len(change.unknown) == 1
    told(reader, leads, reader.known_marks())
    assert dict(reader.parts) == parts_of(leads)


def test_who_moved_to_other_domains_says_what_it_knows_in_marks(reader: SpanReader) -> None:
    groups = groups_of(10)
    told(reader, groups, Known())
    two: dict[str, Group] = {OWN: groups[OWN], "domain d": groups["domain d"], "domain e": Group()}
    two["domain e"].put("tep/x", b"1")
    for there in (two, {OWN: groups[OWN]}):  # one more, and none
        assert told(reader, there, reader.known()) is None
        assert told(reader, there, reader.known_marks()) is not None
        assert dict(reader.parts) == parts_of(there)


def test_what_was_forgotten_is_not_told_as_known() -> None:
    group = Group()
    group.put("segment/0", b"0")
    known, group.log_entries = group.sum, 64
    group.told()
    for at in range(200):
        group.put("segment/0", b"%d" % (at + 1))
        if at < 100:
            group.told()
            last = group.sum
    assert group.step_of(known) is None and group.step_of(last) is None and group.step_of(group.sum) == group.step
    group.told()
    assert len(group._told) <= group.step - group.first + 1


def test_marks_of_another_length_are_refused() -> None:
    for known in (Known(b"123"), Known(b"", b"123"), Known(b"", b"", b"123")):
        with pytest.raises(ApiError) as caught:
            known_read(msgspec.json.encode(known))
        assert caught.value.code == 400


class HttpHost:
    """A client of a Span behind HTTP. `asked`: how often."""

    def __init__(self, reader: SpanReader) -> None:
        self.reader, self.url, self.asked = reader, "", 0

    async def once(self, span: Span) -> int:
        """Be told what there is; how many requests it took."""
        self.asked = 0
        with span_extension(span) as extension:

            async def handle(request: web.Request) -> web.StreamResponse:
                try:
                    return await extension(request, "parts", User("system:node:h1", ("system:nodes",)))
                except ApiError as error:
                    return refusal(error)

            application = web.Application()
            application.router.add_route("*", "/{path:.*}", handle)
            async with TestServer(application) as server:
                self.url = str(server.make_url("/")).rstrip("/")
                async with aclosing(self.reader.watch(self)) as changes:  # type: ignore[type-var]
                    await anext(changes)
        return self.asked

    async def lines(self, method: str, path: str, body: object, *, query: dict[str, str]) -> AsyncIterator[bytes]:
        self.asked += 1
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.url + path, json=body, params=query) as response,
        ):
            if response.status >= 400:
                raise error_of(response.status, await response.read())
            async for line in response.content:
                yield line


def test_a_host_that_comes_back_has_what_there_is_now_from_whoever_leads() -> None:
    async def body() -> None:
        world = World(Random(3))
        world.begin()
        for number in range(6):
            for name in ("x", "y"):  # of one routing domain
                world.pod(name, number)
        await world.span.compile()
        host = HttpHost(SpanReader())
        asked = [await host.once(world.span)]
        assert dict(host.reader.parts) == {key: part.data for key, part in world.span.parts("h1").items()}
        world.remove(PODS, "x/p0")
        world.remove(PORTS, "x.p0")
        await world.span.compile()
        asked.append(await host.once(world.span))
        assert dict(host.reader.parts) == {key: part.data for key, part in world.span.parts("h1").items()}
        world.pod("x", 9)
        leads = World(Random(0))
        for (resource, _), item in world.objects.items():
            leads.span.intent.change(resource, None, item)
        await leads.span.compile()
        asked.append(await host.once(leads.span))
        assert dict(host.reader.parts) == {key: part.data for key, part in leads.span.parts("h1").items()}
        assert asked == [1, 1, 2]  # another leader has to be told in marks

    asyncio.run(asyncio.wait_for(body(), PATIENCE))


class Chunks:
    """What an answer's content is to who reads lines of it."""

    def __init__(self, text: bytes, size: int) -> None:
        self.text, self.size = text, size

    async def iter_any(self) -> AsyncIterator[bytes]:
        for at in range(0, len(self.text), self.size):
            yield self.text[at : at + self.size]


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_lines_are_whole_however_they_come(size: int) -> None:
    async def body() -> list[bytes]:
        text = b"one\n\n" + b"x" * 7000 + b"\ntwo\nthis is cut off"
        return [line async for line in lines_read(Chunks(text, size))]  # type: ignore[arg-type]

    assert asyncio.run(body()) == [b"one", b"x" * 7000, b"two"]


def test_who_leads_no_more_leaves_nothing_behind() -> None:
    async def body() -> None:
        views = Views(ApiTwin())  # type: ignore[arg-type]
        running = asyncio.create_task(Span(SETTINGS).run(views))
        for resource in LOOKED_AT:
            views[resource].synced.set()
        while not gc.get_freeze_count():
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert not gc.get_freeze_count()

    asyncio.run(asyncio.wait_for(body(), PATIENCE))


def test_what_a_host_alone_is_told_is_remembered_for_a_while_only() -> None:
    world = World(Random(3))
    world.begin()
    world.pod("x", 1)
    asyncio.run(world.span.compile())
    (own,) = (group for group in world.span.own.values() if len(group.parts) > 1)
    step = own.step
    for number in range(1000):
        own.put("set/s", b"%d" % number)
    assert own.first > step and own.step - own.first < 300


@pytest.mark.parametrize("seed", range(3))
def test_a_set_after_changes_is_the_set_that_has_these_members(seed: int) -> None:
    """Against sets of rows, in the order of pal_range's: by family, then by first and last address."""
    random = Random(seed)

    def part(rows: set[bytes]) -> bytes:
        ordered = sorted(rows, key=lambda row: (row[32:], row[:32]))
        return part_encode(SetPart("s", b"".join(ordered)))

    pool = [random.randbytes(32) + bytes([random.choice((1, 2)), 0, 0, 0]) for _ in range(60)]
    for _ in range(40):
        rows = set(random.sample(pool, random.randrange(50)))
        before, changes = part(rows), []
        for _ in range(random.randrange(1, 6)):
            after = set(random.sample(pool, random.randrange(50)))
            changes.append(set_compare(part(rows), part(after)))
            rows = after
        assert set_change(before, changes) == part(rows)
        assert set_change(before, ()) == before
        lost = part(set(pool) - rows)  # another content than what has changed
        if changes[-1].removed != changes[-1].added and lost != before:
            with pytest.raises(StateError):
                set_change(lost, [set_compare(before, part(rows | {random.randbytes(36)}))])


class Silent:
    """A session whose requests come to nothing, and say nothing about it."""

    def request(self, *_: object, **__: object) -> Silent:
        return self

    async def __aenter__(self) -> None:
        raise TimeoutError

    async def __aexit__(self, *_: object) -> None:
        pass


def test_a_request_that_came_to_nothing_says_how() -> None:
    client = HttpClient(Kubeconfig("https://there:1", b"", "user"), "test")
    client._session = Silent()  # type: ignore[assignment]

    async def body() -> None:
        with pytest.raises(ConnectionError, match="https://there:1 does not answer: TimeoutError"):
            await client.request("GET", "/version")
        with pytest.raises(ConnectionError, match="https://there:1 does not answer: TimeoutError"):
            await anext(client.lines("GET", "/version"))

    asyncio.run(body())
