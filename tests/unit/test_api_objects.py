# SPDX-License-Identifier: Apache-2.0
"""The verbs that change objects, over a real store."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from supervisor_glue.api.kinds import NAMESPACES, PODS
from supervisor_glue.api.objects import Deletion, Objects
from supervisor_glue.api.status import ApiError, Object
from tests.support.api_objects import CONFIG_MAPS, config_map, made, run, unchanged

POD = {"spec": {"containers": [{"name": "c", "image": "host"}]}}


def counted(old: Object | None) -> Object:
    assert old is not None
    old["data"]["n"] = str(int(old["data"]["n"]) + 1)
    return old


def test_changes_at_once_all_count(tmp_path: Path) -> None:
    async def work(objects: Objects) -> str:
        await objects.create(CONFIG_MAPS, "x", config_map("a"), unchanged)
        await asyncio.gather(*(objects.change(CONFIG_MAPS, "x", "a", counted, unchanged) for _ in range(25)))
        entry = objects.cache.get(CONFIG_MAPS, "x", "a")
        assert entry is not None
        return str(entry.item["data"]["n"])

    assert run(tmp_path, work) == "25"


def test_a_change_of_a_revision_that_has_passed_is_refused(tmp_path: Path) -> None:
    async def work(objects: Objects) -> ApiError:
        first = await objects.create(CONFIG_MAPS, "x", config_map("a"), unchanged)
        stale = first.copy()
        await objects.change(CONFIG_MAPS, "x", "a", counted, unchanged)
        with pytest.raises(ApiError) as caught:
            await objects.change(CONFIG_MAPS, "x", "a", lambda old: stale, unchanged)
        return caught.value

    error = run(tmp_path, work)
    assert (error.code, error.reason) == (409, "Conflict")
    assert error.message == (
        'Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes to'
        " the latest version and try again"
    )


def test_the_same_again_changes_no_revision(tmp_path: Path) -> None:
    async def work(objects: Objects) -> None:
        first = await objects.create(CONFIG_MAPS, "x", config_map("a"), unchanged)
        again, _ = await objects.change(CONFIG_MAPS, "x", "a", lambda old: old or {}, unchanged)
        assert again.revision == first.revision

    run(tmp_path, work)


def test_one_of_many_makes_it(tmp_path: Path) -> None:
    async def work(objects: Objects) -> list[object]:
        tries = [objects.create(CONFIG_MAPS, "x", config_map("a"), unchanged) for _ in range(10)]
        return list(await asyncio.gather(*tries, return_exceptions=True))

    outcomes = run(tmp_path, work)
    refused = [item for item in outcomes if isinstance(item, ApiError)]
    assert len(refused) == 9 and {(error.code, error.reason) for error in refused} == {(409, "AlreadyExists")}


def test_generated_names_are_all_different(tmp_path: Path) -> None:
    async def work(objects: Objects) -> set[str]:
        item = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"generateName": "many-"}}
        made_now = [
            objects.create(CONFIG_MAPS, "x", {**item, "metadata": dict(item["metadata"])}, unchanged) for _ in range(50)
        ]  # type: ignore[call-overload]
        return {entry.name for entry in await asyncio.gather(*made_now)}

    names = run(tmp_path, work)
    assert len(names) == 50 and all(name.startswith("many-") for name in names)


def test_finalizers_keep_an_object_until_they_are_gone(tmp_path: Path) -> None:
    async def work(objects: Objects) -> None:
        item = config_map("a")
        item["metadata"]["finalizers"] = ["example.com/keep"]
        await objects.create(CONFIG_MAPS, "x", item, unchanged)
        kept, gone = await objects.delete(CONFIG_MAPS, "x", "a", Deletion())
        assert not gone and "deletionTimestamp" in kept["metadata"]

        def more(old: Object | None) -> Object:
            assert old is not None
            old["metadata"]["finalizers"].append("example.com/late")
            return old

        with pytest.raises(ApiError, match="no new finalizers can be added if the object is being deleted"):
            await objects.change(CONFIG_MAPS, "x", "a", more, unchanged)

        def none(old: Object | None) -> Object:
            assert old is not None
            del old["metadata"]["finalizers"]
            return old

        await objects.change(CONFIG_MAPS, "x", "a", none, unchanged)
        assert objects.cache.get(CONFIG_MAPS, "x", "a") is None

    run(tmp_path, work)


def test_a_namespace_that_ends_takes_no_new_object(tmp_path: Path) -> None:
    async def work(objects: Objects) -> ApiError:
        await objects.delete(NAMESPACES, "", "x", Deletion())
        with pytest.raises(ApiError) as caught:
            await objects.create(CONFIG_MAPS, "x", config_map("a"), unchanged)
        return caught.value

    error = run(tmp_path, work)
    assert (error.code, error.details["causes"][0]["reason"]) == (403, "NamespaceTerminating")


def test_no_object_is_made_in_a_namespace_that_is_deleted_meanwhile(tmp_path: Path) -> None:
    """Whichever is first: an object that was made has its Namespace, which is told that it has one."""

    async def work(objects: Objects) -> None:
        for number in range(20):
            name = f"n{number}"
            await objects.create(NAMESPACES, "", made("Namespace", name), unchanged)
            tries = (
                objects.create(CONFIG_MAPS, name, config_map("a"), unchanged),
                objects.delete(NAMESPACES, "", name, Deletion()),
            )
            await asyncio.gather(*tries, return_exceptions=True)
            namespace, item = objects.cache.get(NAMESPACES, "", name), objects.cache.get(CONFIG_MAPS, name, "a")
            assert namespace is not None
            assert item is None or item.revision < namespace.revision

    run(tmp_path, work)


@pytest.mark.parametrize(("node", "grace", "stays"), [("", None, False), ("esx-1", None, True), ("esx-1", 0, False)])
def test_a_pod_has_its_time_of_grace_where_it_runs(tmp_path: Path, node: str, grace: int | None, stays: bool) -> None:
    async def work(objects: Objects) -> bool:
        item = made("Pod", "a", spec={**POD["spec"], **({"nodeName": node} if node else {})})
        await objects.create(PODS, "x", item, unchanged)
        last, gone = await objects.delete(PODS, "x", "a", Deletion(grace=grace))
        assert last["metadata"]["deletionGracePeriodSeconds"] == (30 if stays else 0)
        return not gone

    assert run(tmp_path, work) is stays


def test_dry_run_changes_nothing(tmp_path: Path) -> None:
    async def work(objects: Objects) -> None:
        before = await objects.store.revision()
        entry = await objects.create(CONFIG_MAPS, "x", config_map("a"), unchanged, dry_run=True)
        assert "resourceVersion" not in entry.item["metadata"] and b"resourceVersion" not in entry.body
        assert await objects.store.revision() == before
        await objects.create(CONFIG_MAPS, "x", config_map("a"), unchanged)
        after = await objects.store.revision()
        await objects.change(CONFIG_MAPS, "x", "a", counted, unchanged, dry_run=True)
        await objects.delete(CONFIG_MAPS, "x", "a", Deletion(dry_run=True))
        assert await objects.store.revision() == after

    run(tmp_path, work)


def test_what_was_made_is_there_after_a_restart(tmp_path: Path) -> None:
    async def work(objects: Objects) -> str:
        entry = await objects.create(CONFIG_MAPS, "x", config_map("a"), unchanged)
        return str(entry.item["metadata"]["uid"])

    uid = run(tmp_path, work)

    async def later(objects: Objects) -> str:
        entry = objects.cache.get(CONFIG_MAPS, "x", "a")
        assert entry is not None
        return str(entry.item["metadata"]["uid"])

    assert run(tmp_path, later) == uid
