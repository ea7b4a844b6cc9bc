# SPDX-License-Identifier: Apache-2.0
"""Watches, lists and pages against a slow twin: every state that there was, kept whole."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from supervisor_glue.api import watch_cache
from supervisor_glue.api.kinds import STORED
from supervisor_glue.api.listing import Listing
from supervisor_glue.api.objects import Deletion, Objects
from supervisor_glue.api.request import Options
from supervisor_glue.api.selectors import EVERYTHING, FIELDS, Selector, field_value, selectable, selector_parse
from supervisor_glue.api.status import ApiError, Object
from supervisor_glue.api.watch_cache import WatchCache, WatchEvent
from supervisor_glue.store.records import UnavailableError
from tests.support.api_objects import CONFIG_MAPS, config_map, run, unchanged

State = dict[str, str]


async def changed_at_random(objects: Objects, dice: random.Random, steps: int) -> dict[int, dict[str, Object]]:
    """Objects come, change and go; all of them at each revision."""
    history: dict[int, dict[str, Object]] = {objects.cache.revision: {}}
    for _ in range(steps):
        name = f"c{dice.randrange(8)}"
        there = objects.cache.get(CONFIG_MAPS, "x", name)
        if there is None:
            await objects.create(CONFIG_MAPS, "x", config_map(name, app=dice.choice("ab")), unchanged)
        elif dice.random() < 0.3:
            await objects.delete(CONFIG_MAPS, "x", name, Deletion())
        else:

            def other(old: Object | None) -> Object:
                assert old is not None
                old["metadata"]["labels"]["app"] = dice.choice("ab")
                old["data"]["n"] = str(dice.randrange(1000))
                return old

            await objects.change(CONFIG_MAPS, "x", name, other, unchanged)
        history[objects.cache.revision] = {entry.name: entry.item for entry in objects.cache.list(CONFIG_MAPS, "x")}
    return history


async def watched(cache: WatchCache, selector: Selector, after: int | None, initial: bool = False) -> list[WatchEvent]:
    """What a watch has told when the store has nothing new."""
    events = []
    async for event in cache.watch(CONFIG_MAPS, "x", selector, after, initial=initial, progress=0.01, seconds=30):
        events.append(event)
        if event.type == "BOOKMARK":
            break
    return events


def replayed(start: State, events: list[WatchEvent], *, initial: bool = False) -> State:
    """What a client knows that began with a list and heard these. An event that cannot be is an error. `initial`: they
    begin with what was there, in the order of names."""
    known, last = dict(start), 0
    for event in events:
        if event.entry is None:
            continue
        assert initial or event.revision >= last
        last = event.revision
        name = event.entry.name
        assert (name in known) is (event.type != "ADDED"), (event.type, name)
        if event.type == "DELETED":
            del known[name]
        else:
            known[name] = event.entry.item["data"]["n"]
    return known


def state_of(items: dict[str, Object], selector: Selector) -> State:
    return {name: item["data"]["n"] for name, item in items.items() if selector.matches(item)}


@pytest.mark.parametrize("seed", range(4))
def test_a_watch_from_any_revision_tells_what_happened_since(tmp_path: Path, seed: int) -> None:
    async def work(objects: Objects) -> None:
        dice = random.Random(seed)
        history = await changed_at_random(objects, dice, 120)
        last = history[max(history)]
        for text in ("", "app=a", "app!=a"):
            selector = selector_parse(CONFIG_MAPS, text, "") if text else EVERYTHING
            for revision in dice.sample(sorted(history), 12):
                events = await watched(objects.cache, selector, revision)
                assert replayed(state_of(history[revision], selector), events) == state_of(last, selector)
            assert replayed({}, await watched(objects.cache, selector, None), initial=True) == state_of(last, selector)

    run(tmp_path, work)


def test_initial_events_end_with_a_bookmark(tmp_path: Path) -> None:
    async def work(objects: Objects) -> list[WatchEvent]:
        await changed_at_random(objects, random.Random(1), 30)
        return await watched(objects.cache, EVERYTHING, None, initial=True)

    events = run(tmp_path, work)
    kinds = [event.type for event in events]
    assert kinds[-2:] == ["INITIAL", "BOOKMARK"] and set(kinds[:-2]) == {"ADDED"}


@pytest.mark.parametrize("bound, most", [("KEPT", 10), ("KEPT_BYTES", 2000)])
def test_what_is_forgotten_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, most: int) -> None:
    monkeypatch.setattr(watch_cache, bound, most)

    async def work(objects: Objects) -> None:
        history = await changed_at_random(objects, random.Random(2), 40)
        with pytest.raises(ApiError) as caught:
            await watched(objects.cache, EVERYTHING, min(history))
        assert (caught.value.code, caught.value.reason) == (410, "Expired")
        recent = sorted(history)[-5]
        events = await watched(objects.cache, EVERYTHING, recent)
        assert replayed(state_of(history[recent], EVERYTHING), events) == state_of(history[max(history)], EVERYTHING)

    run(tmp_path, work)


def test_what_is_there_and_what_has_passed_is_kept_as_its_json_alone(tmp_path: Path) -> None:
    """And is told whole, also to who began to watch before."""

    async def work(objects: Objects) -> None:
        made = await objects.create(CONFIG_MAPS, "x", config_map("c", app="a"), unchanged)
        before = objects.cache.get(CONFIG_MAPS, "x", "c")
        assert before is not None and before.item == made.item and before.item is not before.item

        def other(old: Object | None) -> Object:
            assert old is not None
            return {**old, "data": {"n": "1"}}

        await objects.change(CONFIG_MAPS, "x", "c", other, unchanged)
        await objects.delete(CONFIG_MAPS, "x", "c", Deletion())
        events = await watched(objects.cache, selector_parse(CONFIG_MAPS, "app=a", ""), made.revision - 1)
        told = [(event.type, event.entry) for event in events if event.entry is not None]
        assert [(kind, entry.item["data"]["n"]) for kind, entry in told] == [
            ("ADDED", "0"),
            ("MODIFIED", "1"),
            ("DELETED", "1"),
        ]
        assert not any(entry.item is entry.item for _, entry in told) and before.item == made.item

    run(tmp_path, work)


def test_a_selector_sees_as_much_of_what_has_passed() -> None:
    item: Object = {"metadata": {"name": "n", "namespace": "x", "labels": {"app": "a"}, "annotations": {"k": "v"}}}
    for kind in STORED:
        paths = FIELDS.get((kind.group, kind.kind), ())
        full = {**item, "data": {"k": "v"}, "spec": {"more": 1}, "reportingComponent": "r"}
        for number, path in enumerate(paths):
            head, _, leaf = path.partition(".")
            value: Object | str = {"component": "c"} if path == "source" else f"v{number}"
            full[head] = {**full.get(head, {}), leaf: value} if leaf else value
        small = selectable(kind, full)
        assert "data" not in small and small["metadata"].keys() == {"name", "namespace", "labels"}
        for path in (*paths, "metadata.name", "metadata.namespace"):
            assert field_value(small, path) == field_value(full, path) != "", path


def test_a_watch_after_a_restart_goes_on(tmp_path: Path) -> None:
    async def first(objects: Objects) -> dict[int, State]:
        history = await changed_at_random(objects, random.Random(3), 60)
        return {revision: state_of(items, EVERYTHING) for revision, items in history.items()}

    history = run(tmp_path, first)

    async def later(objects: Objects) -> None:
        for revision in sorted(history)[::7]:
            events = await watched(objects.cache, EVERYTHING, revision)
            assert replayed(history[revision], events) == history[max(history)]

    run(tmp_path, later)


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_pages_are_of_one_revision(tmp_path: Path, limit: int) -> None:
    async def work(objects: Objects) -> None:
        dice = random.Random(limit)
        await changed_at_random(objects, dice, 60)
        wanted = [entry.item for entry in objects.cache.list(CONFIG_MAPS, "x")]
        listing, found = Listing(objects.cache), []
        options = Options(limit=limit)
        while True:
            page = await listing.page(CONFIG_MAPS, "x", EVERYTHING, options)
            found += [entry.item for entry in page.entries]
            await changed_at_random(objects, dice, 5)  # others go on meanwhile
            if "continue" not in page.metadata:
                break
            assert len(page.entries) == limit
            assert page.metadata["remainingItemCount"] == len(wanted) - len(found)
            options = Options(limit=limit, continued=page.metadata["continue"])
        assert found == wanted

    run(tmp_path, work)


def test_a_continue_word_of_elsewhere_is_refused(tmp_path: Path) -> None:
    async def work(objects: Objects) -> None:
        await changed_at_random(objects, random.Random(5), 20)
        listing = Listing(objects.cache)
        word = (await listing.page(CONFIG_MAPS, "x", EVERYTHING, Options(limit=1))).metadata["continue"]
        for wrong in ("nonsense", "e30", word[:-4], ""):
            if wrong:
                with pytest.raises(ApiError, match="continue key is not valid"):
                    await listing.page(CONFIG_MAPS, "x", EVERYTHING, Options(limit=1, continued=wrong))
        with pytest.raises(ApiError, match="continue key is not valid"):
            await listing.page(CONFIG_MAPS, "other", EVERYTHING, Options(limit=1, continued=word))
        await objects.store.compact(await objects.store.revision())
        await changed_at_random(objects, random.Random(6), 5)
        await objects.store.compact(await objects.store.revision())
        with pytest.raises(ApiError) as caught:
            await listing.page(CONFIG_MAPS, "x", EVERYTHING, Options(limit=1, continued=word))
        assert caught.value.code == 410

    run(tmp_path, work)


def test_a_slow_watch_is_ended_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_cache, "MOST_WAITING", 5)

    async def work(objects: Objects) -> None:
        events = objects.cache.watch(CONFIG_MAPS, "x", EVERYTHING, objects.cache.revision, seconds=30)
        first = asyncio.ensure_future(anext(events))
        await changed_at_random(objects, random.Random(7), 20)
        await first
        with pytest.raises(ApiError) as caught:
            async for _ in events:
                pass
        assert caught.value.code == 429

    run(tmp_path, work)


def test_a_cache_that_is_behind_is_waited_for_while_it_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(objects: Objects) -> None:
        cache, steps = objects.cache, [3, 1, 4, 0]

        async def a_little_more(_: object, timeout: float) -> None:
            assert timeout == watch_cache.MOST_SECONDS
            cache.revision += steps.pop(0)
            cache._wake()

        monkeypatch.setattr(asyncio, "wait", a_little_more)
        await cache.wait(cache.revision + 8)
        with pytest.raises(UnavailableError, match=f"it has reached revision {cache.revision + 1}, and does not tell"):
            await cache.wait(cache.revision + 1)
        assert not steps
        cache._wake()
        assert not cache._waiters  # who gave up is forgotten
        monkeypatch.undo()

    run(tmp_path, body)
