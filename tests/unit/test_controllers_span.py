# SPDX-License-Identifier: Apache-2.0
"""What hosts are told by increments is what a compile from nothing gives, whatever changed; and little is sent."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from msgspec.json import encode

from overlay.hoststate import StateError
from overlay.span import resolve_span
from overlay.span_parts import TYPES, VERSION, MemberPart, SetPart, part_encode, parts_assemble
from supervisor_glue.api.http_client import HttpClient
from supervisor_glue.auth.kubeconfig import Kubeconfig
from supervisor_glue.controllers.informer import Views
from supervisor_glue.controllers.objects import object_made
from supervisor_glue.controllers.resources import HOSTS, NAMESPACES, NETWORK_POLICIES, PODS, PORTS, SEGMENTS
from supervisor_glue.controllers.span import Span
from supervisor_glue.controllers.telling import HostChange
from supervisor_glue.span_reader import SpanReader, Told
from supervisor_glue.span_service import change_line, known_read
from supervisor_glue.span_wire import Known, line_read
from supervisor_glue.spherelet.attachments import Attachments
from supervisor_glue.spherelet.realize import Realizer
from tests.conftest import LONG
from tests.support.api_twin import ApiTwin
from tests.support.api_world import NAMES, SETTINGS, World
from tests.support.controlling import until_async
from tests.support.host_states import meaning
from tests.support.patience import PATIENCE
from tests.support.random_clusters import a_network_policy


def run(work: Callable[[], Awaitable[Any]]) -> None:
    asyncio.run(asyncio.wait_for(work(), PATIENCE))


class Mirror(SpanReader):
    """What an agent has, by the changes that it was told, over the wire."""

    def __init__(self, host: str) -> None:
        super().__init__()
        self.host, self.revision, self.changes = host, 0, 0

    def told(self, change: HostChange) -> None:
        for key, part in change.parts.items():
            # Nothing is sent twice, but for what a segment's new routing domain says again.
            assert self.parts.get(key) != part.data or key.startswith(("tep/", "segment/", "gateway/"))
        self.changes += len(change.sets)
        self.take(line_read(b"".join(change_line(change))))
        assert change.revision >= self.revision
        self.revision = change.revision


@pytest.mark.parametrize("stages", [False, True], ids=["in force", "staged"])
@pytest.mark.parametrize("seed", range(40 if LONG else 2))
def test_increments_are_what_a_compile_from_nothing_gives(seed: int, stages: bool) -> None:
    async def body() -> None:
        world, counted = World(Random(seed), stages=stages), 0
        world.begin()
        span = world.span
        await span.compile()
        mirrors = {host: Mirror(host) for host in ("h1", "h2", "h3", "h4")}
        watches = {host: span.watch(host) for host in mirrors}
        for _ in range(30):
            for _ in range(world.random.choice([1, 1, 5])):
                world.step()
            told = await span.compile()
            expected = resolve_span(world.world(), world.revision, {})
            for host, mirror in mirrors.items():
                now = {key: part.data for key, part in span.parts(host).items()}
                while mirror.parts != now:
                    mirror.told(await anext(watches[host]))
                    assert host in told or mirror.revision == span.revision
                state = parts_assemble(host, mirror.parts, world.revision)
                assert meaning(state) == meaning(expected[host])
                counted += state.staged is not None and bool(state.vnics)
            fresh = World(Random(0))
            for (resource, _), item in world.objects.items():
                fresh.span.intent.change(resource, None, item)
            await fresh.span.compile()
            for host in mirrors:  # after a change of leader an agent has what it needs: names and hashes are the same
                assert fresh.span.parts(host) == span.parts(host)
        for watch in watches.values():
            await watch.aclose()  # type: ignore[attr-defined]
        assert (counted > 5) == stages

    run(body)


def test_an_agent_that_comes_back_gets_what_differs_only() -> None:
    async def body() -> None:
        world = World(Random(3))
        world.begin()
        for number in range(6):
            for name in NAMES:
                world.pod(name, number)
        await world.span.compile()
        mirror = Mirror("h1")
        watch = world.span.watch("h1")
        mirror.told(await anext(watch))
        await watch.aclose()  # type: ignore[attr-defined]
        world.put(NETWORK_POLICIES, a_network_policy(Random(1), 1))
        world.remove(PODS, "x/p0")
        world.remove(PORTS, "x.p0")
        await world.span.compile()
        everything = world.span.parts("h1")
        known = {key for key, part in everything.items() if mirror.parts.get(key) == part.data}
        lost = len(mirror.parts) - len(known)
        again = world.span.watch("h1", known_read(encode(mirror.known_marks())))
        change = await anext(again)
        await again.aclose()  # type: ignore[attr-defined]
        assert set(change.parts) == set(everything) - known and 0 < len(change.parts) < len(everything)
        assert len(change.unknown) == lost > 0 and not change.packed
        mirror.told(change)
        assert mirror.parts == {key: part.data for key, part in everything.items()}

    run(body)


def test_a_burst_is_one_compile_and_a_label_sends_what_it_changes_to_whom_it_concerns() -> None:
    async def body() -> None:
        world = World(Random(7))
        world.begin()
        for number in range(6):
            world.pod("x", number)
        policy = {"podSelector": {}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "new"}}}]}]}
        world.put(NETWORK_POLICIES, object_made(NETWORK_POLICIES, "n", "x", spec=policy))
        span = world.span
        await span.compile()
        before = {host: span.parts(host) for host in ("h1", "h2", "h3", "h4")}
        item = copy.deepcopy(world.objects[PODS, "x/p1"])
        item["metadata"]["labels"] = {"app": "new"}
        world.put(PODS, item)
        compiles = span.compiles
        told = await span.compile()
        assert span.compiles == compiles + 1
        with_pods = {item["spec"]["nodeName"] for (resource, _), item in world.objects.items() if resource == PODS}
        assert told == with_pods
        for host in with_pods:
            changed = {key for key, part in span.parts(host).items() if before[host].get(key) != part}
            assert len(changed) == 1 and all(key.startswith("set/") for key in changed)
        assert span.touched["np/x/n"] == world.revision
        world.objects[PODS, "x/p1"]["status"]["conditions"] = []  # a status says nothing
        span.intent.change(PODS, item, world.objects[PODS, "x/p1"])
        assert not span.intent.is_dirty

    run(body)


def test_hosts_are_told_the_revision_of_what_is_gone() -> None:
    """Not that of its last change: who waits for a deletion to be in force waits for the deletion's."""

    async def body() -> None:
        server = ApiTwin()
        views = Views(server)
        span = Span(SETTINGS)
        span.connect(views)
        policy = object_made(NETWORK_POLICIES, "n", "x", spec={"podSelector": {}, "policyTypes": ["Ingress"]})
        await server.create(NAMESPACES, object_made(NAMESPACES, "x"))
        await server.create(NETWORK_POLICIES, policy, "x")
        watching = asyncio.create_task(views[NETWORK_POLICIES].run())
        await views[NETWORK_POLICIES].synced.wait()
        await span.compile()
        await server.delete(NETWORK_POLICIES, "n", "x")
        await until_async(lambda: span.intent.is_dirty, "the deletion is not seen")
        await span.compile()
        assert span.revision == server.revision
        watching.cancel()

    run(body)


def test_what_arrives_in_any_order_is_the_same() -> None:
    """A Port before its pod, its segment, its host, its gateway: nothing is told of it until it is whole."""

    async def body() -> None:
        world = World(Random(4))
        world.begin()
        world.pod("x", 1)
        await world.span.compile()
        host = world.objects[PODS, "x/p1"]["spec"]["nodeName"]
        for seed in range(6):
            other = Span(SETTINGS)
            objects = list(world.objects.items())
            Random(seed).shuffle(objects)
            for (resource, _), item in objects:
                other.intent.change(resource, None, item)
                await other.compile()
                for at in other.own:
                    parts = {key: part.data for key, part in other.parts(at).items()}
                    parts_assemble(at, parts, 1)
            assert other.parts(host) == world.span.parts(host)
        segment = world.objects[SEGMENTS, "seg-x-0"]
        world.remove(SEGMENTS, "seg-x-0")
        await world.span.compile()
        assert not [key for key in world.span.parts(host) if key.startswith("vnic/")]
        world.put(SEGMENTS, segment)
        await world.span.compile()
        assert world.span.parts(host) == other.parts(host)

    run(body)


def test_who_has_not_looked_yet_does_not_say_that_nothing_is_there() -> None:
    """Another that leads now: a host that asks waits, and keeps what it knows."""

    async def body() -> None:
        span = Span(SETTINGS)
        span.intent.change(HOSTS, None, object_made(HOSTS, "h1", spec={"tep": "172.16.0.1"}))
        watching = asyncio.ensure_future(anext(span.watch("h1", Known(b"0" * 12))))  # type: ignore[arg-type]
        await asyncio.sleep(0.05)
        assert not watching.done()
        await span.compile()
        told = await watching
        assert set(told.parts) == {"host/h1"} and not told.gone

    run(body)


def test_one_object_that_is_wrong_keeps_what_it_said_and_stops_nobody_else() -> None:
    async def body() -> None:
        world = World(Random(9))
        world.begin()
        world.pod("x", 1)
        good = object_made(NETWORK_POLICIES, "n", "x", spec={"podSelector": {}})
        world.put(NETWORK_POLICIES, good)
        await world.span.compile()
        host = world.objects[PODS, "x/p1"]["spec"]["nodeName"]
        before = world.span.parts(host)
        bad = {"podSelector": {}, "ingress": [{"ports": [{"port": 700000}]}]}
        world.put(NETWORK_POLICIES, object_made(NETWORK_POLICIES, "n", "x", spec=bad))
        world.put(NETWORK_POLICIES, object_made(NETWORK_POLICIES, "m", "x", spec={"podSelector": {}}))
        await world.span.compile()
        assert "700000" in world.span.intent.refused[NETWORK_POLICIES, "x/n"]
        assert world.span.policies_on[host].keys() > {"np/x/n", "np/x/m"}
        assert world.span.parts(host) != before
        world.put(NETWORK_POLICIES, good)
        world.remove(NETWORK_POLICIES, "x/m")
        await world.span.compile()
        assert world.span.parts(host) == before and not world.span.intent.refused

    run(body)


def test_hosts_are_told_what_judges_and_what_their_tunnels_speak() -> None:
    async def body() -> None:
        world = World(Random(1))
        world.begin()
        specs = {
            "h1": {"enforcer": "nftables"},
            "h2": {},
            "h3": {"enforcer": "nftables", "encapsulation": "geneve"},
        }
        for host, spec in specs.items():
            known = world.objects[HOSTS, host]
            world.put(HOSTS, {**known, "spec": {**known["spec"], **spec}})
        for number in range(1, 30):
            world.pod("x", number)
        await world.span.compile()
        assert not world.span.intent.refused
        found = {}
        for host in specs:
            state = parts_assemble(host, {key: part.data for key, part in world.span.parts(host).items()}, 1)
            found[host] = (state.enforcer, {tep.host: (tep.encap, tep.bfd) for tep in state.teps if tep.host in specs})
        assert found == {
            "h1": ("nftables", {"h2": ("vxlan", False), "h3": ("vxlan", False)}),
            "h2": ("native", {"h1": ("vxlan", False), "h3": ("geneve", False)}),
            "h3": ("nftables", {"h1": ("vxlan", False), "h2": ("geneve", False)}),
        }

    run(body)


def test_a_part_that_this_version_does_not_know_is_refused() -> None:
    async def body() -> None:
        world = World(Random(1))
        world.begin()
        world.pod("x", 1)
        await world.span.compile()
        host = world.objects[PODS, "x/p1"]["spec"]["nodeName"]
        parts = {key: part.data for key, part in world.span.parts(host).items()}
        parts_assemble(host, parts, 1)
        key = next(key for key in parts if key.startswith("vnic/"))
        for spoiled in (
            {**parts, "novelty/x": b"{}"},
            {**parts, key: parts[key][:-1] + b',"novelty":1}'},
            {name: data for name, data in parts.items() if not name.startswith("table/")},
        ):
            with pytest.raises(StateError):
                parts_assemble(host, spoiled, 1)

        sent = msgspec.json.decode(parts[f"host/{host}"])
        for version in (VERSION - 1, VERSION + 1):
            other = {**parts, f"host/{host}": msgspec.json.encode({**sent, "version": version}), key: b'{"novelty":1}'}
            with pytest.raises(StateError, match=f"parts of version {version}; this agent reads version {VERSION}"):
                parts_assemble(host, other, 1)
        del sent["version"]
        with pytest.raises(StateError, match="version"):
            parts_assemble(host, {**parts, f"host/{host}": msgspec.json.encode(sent)}, 1)

    run(body)


def test_another_wire_has_another_version() -> None:
    """What hosts are told by this version: whoever changes a field here makes it another version."""
    told = {kind: " ".join(field.name for field in msgspec.structs.fields(made)) for kind, made in TYPES.items()}
    assert (VERSION, told) == (
        5,
        {
            "host": "tep version bfd enforcer encapsulation",
            "tep": "ip enforcer encapsulation",
            "gateway": "tier uplink",
            "segment": "vni subnets gateway ports",
            "vnic": "segment mac ips table timers ether flood staged staged_ether",
            "table": "entries rules refs",
            "ether": "entries macs rules",
            "set": "name ranges",
        },
    )
    assert [field.name for field in msgspec.structs.fields(MemberPart)] == ["host", "mac", "ips"]


def test_a_member_more_is_told_as_such_and_what_does_not_fit_is_asked_for_again() -> None:
    """An address set's change says who came and went, and what the set is then; who has another set forgets it."""

    async def body() -> None:
        world = World(Random(7))
        world.begin()
        for number in range(40):
            world.pod("x", number)
        policy = {"podSelector": {}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "new"}}}]}]}
        world.put(NETWORK_POLICIES, object_made(NETWORK_POLICIES, "n", "x", spec=policy))

        def labelled(*numbers: int) -> None:
            for number in numbers:
                item = copy.deepcopy(world.objects[PODS, f"x/p{number}"])
                item["metadata"]["labels"] = {"app": "new"}
                world.put(PODS, item)

        labelled(*range(0, 40, 2))  # no two addresses adjacent
        span = world.span
        await span.compile()
        host = world.objects[PODS, "x/p1"]["spec"]["nodeName"]
        mirror, watch = Mirror(host), span.watch(host)
        mirror.told(await anext(watch))
        other = Mirror(host)
        other.parts = dict(mirror.parts)
        labelled(1)
        await span.compile()
        change = await anext(watch)
        ((key, (told,)),) = change.sets.items()
        assert not change.parts and len(told.added) == 36 and len(told.removed) == 72  # .10, .12 are now .10 to .12
        mirror.told(change)
        now = {key: part.data for key, part in span.parts(host).items()}
        assert mirror.parts == now
        other.parts[key] = part_encode(SetPart("", b""))
        with pytest.raises(StateError, match="not those that have changed"):
            other.told(change)
        assert key not in other.parts
        again = span.watch(host, other.known_marks())
        other.told(await anext(again))
        assert other.parts == now
        await again.aclose()  # type: ignore[attr-defined]
        await watch.aclose()  # type: ignore[attr-defined]

    run(body)


def test_who_has_nothing_to_do_for_a_change_that_concerns_it_is_told_the_revision_at_once() -> None:
    """A policy that decides as before is in force with its new revision: nobody waits for the next round."""

    async def body() -> None:
        world = World(Random(7))
        world.begin()
        world.pod("x", 1)
        policy = {"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}
        world.put(NETWORK_POLICIES, object_made(NETWORK_POLICIES, "n", "x", spec=policy))
        span = world.span
        await span.compile()
        host = world.objects[PODS, "x/p1"]["spec"]["nodeName"]
        watch = span.watch(host)
        await anext(watch)
        span._pace = lambda: 1e6  # type: ignore[method-assign]
        world.put(
            NETWORK_POLICIES, object_made(NETWORK_POLICIES, "n", "x", spec={**policy, "policyTypes": ["Ingress"]})
        )
        await span.compile()
        told = await anext(watch)
        assert told.revision == world.revision == span.touched["np/x/n"] and not told.is_news
        await watch.aclose()  # type: ignore[attr-defined]

    run(body)


def test_who_refused_what_it_was_told_does_not_say_that_a_later_revision_is_in_force(tmp_path: Path) -> None:
    async def body() -> None:
        world = World(Random(1))
        world.begin()
        world.pod("x", 1)
        await world.span.compile()
        host = world.objects[PODS, "x/p1"]["spec"]["nodeName"]
        config = Kubeconfig("https://127.0.0.1:1", b"", "nobody")
        files = tmp_path / "desired", tmp_path / "socket"
        realizer = Realizer(HttpClient(config, "test"), host, *files, Attachments())
        realizer._reader.parts = {key: part.data for key, part in world.span.parts(host).items()}
        realizer._take(Told(5, frozenset(realizer._reader.parts), 0))
        assert realizer.wanted is not None and realizer.wanted.revision == 5
        realizer._reader.parts["novelty/x"] = b"{}"
        realizer._take(Told(6, frozenset(["novelty/x"]), 0))
        realizer._take(Told(7, frozenset(), 0))
        assert realizer.wanted.revision == 5 and "novelty" in realizer.report.error
        del realizer._reader.parts["novelty/x"]
        realizer._take(Told(8, frozenset(["novelty/x"]), 0))
        assert realizer.wanted.revision == 8

    run(body)
