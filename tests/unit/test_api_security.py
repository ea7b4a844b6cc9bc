# SPDX-License-Identifier: Apache-2.0
"""A real API server, asked by those who may not: what is served is taken from its own discovery, so that a kind that is
added later is asked for, too."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from cryptography import x509

from dfw.logs import configure
from supervisor_glue.api.http_client import HttpClient
from supervisor_glue.api.status import ApiError
from supervisor_glue.controllers.events import Recorder
from supervisor_glue.controllers.resources import CONFIG_MAPS, EVENTS, HOSTS, PODS, SECRETS
from tests.support.patience import PATIENCE
from tests.support.served_world import World, with_world

WRITES = {"create": "POST", "update": "PUT", "patch": "PATCH", "delete": "DELETE", "deletecollection": "DELETE"}


class Served(NamedTuple):
    """A resource as discovery has it."""

    base: str
    name: str
    namespaced: bool
    verbs: tuple[str, ...]


async def discovered(client: HttpClient) -> list[Served]:
    """All resources and subresources."""
    bases = ["/api/v1"]
    for group in (await client.request("GET", "/apis"))["groups"]:
        bases += [f"/apis/{version['groupVersion']}" for version in group["versions"]]
    found = []
    for base in bases:
        for item in (await client.request("GET", base))["resources"]:
            found.append(Served(base, item["name"], item["namespaced"], tuple(item["verbs"])))
    return found


async def code(client: HttpClient, method: str, path: str, body: Any = None, **query: str) -> int:
    """The answer's HTTP status."""
    try:
        await client.request(
            method,
            path,
            body,
            query=query,
            media="application/merge-patch+json" if method == "PATCH" else "application/json",
        )
    except ApiError as error:
        return error.code
    return 200


def requests_of(item: Served, name: str, namespace: str) -> list[tuple[str, str, dict[str, str]]]:
    """Every verb of a resource, on an object of this name and on the collection."""
    plural, _, part = item.name.partition("/")
    place = f"{item.base}/namespaces/{namespace}/{plural}" if item.namespaced else f"{item.base}/{plural}"
    one = f"{place}/{name}" + (f"/{part}" if part else "")
    found: list[tuple[str, str, dict[str, str]]] = []
    for verb in item.verbs:
        if verb in ("get", "update", "patch", "delete") or part:
            found.append((WRITES.get(verb, "GET"), one, {}))
        elif verb in ("list", "watch"):
            watch = {"watch": "true", "timeoutSeconds": "1"} if verb == "watch" else {}
            found.append(("GET", place, watch))
            found.append(("GET", place, {"fieldSelector": f"metadata.name={name}"} | watch))
        else:
            found.append((WRITES[verb], place, {}))
    return found


NAMES = {"pods": "on-esx-2", "secrets": "of-esx-2"}


def test_a_hosts_certificate_is_refused_everything_of_another_host(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        asked = 0
        async with world.host("esx-1") as host:
            (event,) = (await world.admin.list(EVENTS, fields="involvedObject.name=on-esx-2")).items
            names = NAMES | {"events": event["metadata"]["name"]}
            for item in await discovered(host):
                plural = item.name.partition("/")[0]
                if plural.startswith("self"):
                    continue  # anybody may ask about himself
                name = names.get(plural, "esx-2")
                for method, path, query in requests_of(item, name, "shop"):
                    body = {"metadata": {"name": name}} if method in ("POST", "PUT", "PATCH") else None
                    if method == "POST" and plural == "certificatesigningrequests":
                        continue  # its own is allowed: what is inside decides (test_node_authorizer.py)
                    assert await code(host, method, path, body, **query) == 403, (method, path, query)
                    asked += 1
            for secret, wanted in (("of-esx-1", 200), ("of-esx-2", 403), ("ghost", 403)):
                assert await code(host, "GET", f"/api/v1/namespaces/shop/secrets/{secret}") == wanted
            assert await code(host, "GET", "/api/v1/pods", fieldSelector="spec.nodeName=esx-1") == 200
            assert await code(host, "GET", "/api/v1/namespaces/shop/pods/on-esx-1") == 200
            lease = {"metadata": {"name": "esx-1"}, "spec": {}}
            leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
            assert await code(host, "POST", leases, {"metadata": {"name": "esx-2"}, "spec": {}}) == 403
            assert await code(host, "POST", leases, lease) == 200
            assert await code(host, "PUT", f"{leases}/esx-1", lease) == 200
        assert asked > 150

    with_world(tmp_path, work)


def test_a_hosts_repeated_events_count_up(tmp_path: Path) -> None:
    """Also those of a process that has told nothing yet: what was told before it began counts."""

    async def work(world: World) -> None:
        pod = await world.admin.get(PODS, "on-esx-1", "shop")
        async with world.host("esx-1") as host:
            for moments in ((1000.0, 2000.0, 3000.0), (4000.0,)):
                clock = iter(moments)
                recorder = Recorder(host, "spherelet", lambda clock=clock: next(clock))  # type: ignore[misc]
                for _ in moments:
                    await recorder.record(PODS, pod, "Warning", "BackOff", "once more")

            async def told() -> list[dict[str, Any]]:
                found = (await world.admin.list(EVENTS, "shop", fields="involvedObject.name=on-esx-1")).items
                return [item for item in found if item["reason"] == "BackOff"]

            (event,) = await told()
            assert (event["count"], event["firstTimestamp"]) == (4, "1970-01-01T00:16:40Z")
            assert event["lastTimestamp"] == "1970-01-01T01:06:40Z"
            await world.admin.delete(EVENTS, event["metadata"]["name"], "shop")  # events are kept for a while only
            recorder = Recorder(host, "spherelet", lambda: 5000.0)
            recorder._counts["shop", event["metadata"]["name"]] = 4
            await recorder.record(PODS, pod, "Warning", "BackOff", "once more")
            assert [item["count"] for item in await told()] == [1]

    with_world(tmp_path, work)


def test_a_hosts_certificate_ends_with_its_host(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        async with world.host("esx-1") as host:
            assert await code(host, "GET", "/api/v1/nodes/esx-1") == 200
            await world.admin.delete(HOSTS, "esx-1")
            async with asyncio.timeout(PATIENCE):
                while await code(host, "GET", "/api/v1/nodes/esx-1") != 401:
                    await asyncio.sleep(0.01)
            await world.admin.create(HOSTS, {"metadata": {"name": "esx-1"}, "spec": {}})
            assert await code(host, "GET", "/api/v1/nodes/esx-1") == 401

    with_world(tmp_path, work)


def test_a_renewed_certificate_is_shown_by_the_next_connection(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        async def whoami(client: HttpClient) -> str:
            path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
            return str((await client.request("POST", path, {}))["status"]["userInfo"]["username"])

        old, new = world.client("old"), world.client("new")
        async with old:
            assert await whoami(old) == "old"
            await old.renew(new.config)
            assert await whoami(old) == "old"  # the connection is there still
            assert old.config.identity is not None
            first = x509.load_pem_x509_certificate(world.identities["old"])
            world.process.server.authenticator.revocations.serials.add(first.serial_number)
            with pytest.raises(ApiError) as refused:
                await whoami(old)
            assert refused.value.code == 401
            assert await whoami(old) == "new"

    with_world(tmp_path, work)


def test_a_watch_ends_for_who_may_no_longer(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        listed = await world.admin.list(PODS, fields="spec.nodeName=esx-1")

        async def watched(client: HttpClient, seen: asyncio.Event) -> None:
            async for event in client.watch(PODS, listed.revision, fields="spec.nodeName=esx-1"):
                assert event.object["metadata"]["name"] == "on-esx-1"
                seen.set()

        async with world.host("esx-1") as host:
            ended, kept = (asyncio.Event(), asyncio.Event())
            watches = [asyncio.create_task(watched(*each)) for each in ((host, ended), (world.admin, kept))]
            await world.admin.patch(PODS, "on-esx-1", {"metadata": {"labels": {"a": "b"}}}, "shop")
            async with asyncio.timeout(PATIENCE):
                await ended.wait()
                await kept.wait()
                world.process.server.recheck()
                await world.admin.delete(HOSTS, "esx-1")
                while not watches[0].done():
                    world.process.server.recheck()
                    await asyncio.sleep(0.01)
            assert not watches[1].done()
            watches[1].cancel()
            await asyncio.gather(*watches, return_exceptions=True)

    with_world(tmp_path, work)


def test_a_deleted_hosts_watches_end_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without waiting for the next look at all that is open."""
    monkeypatch.setattr("supervisor_glue.api.process.RECHECK_SECONDS", 1e6)

    async def work(world: World) -> None:
        listed = await world.admin.list(PODS, fields="spec.nodeName=esx-1")

        async def watched(client: HttpClient, seen: asyncio.Event) -> None:
            async for _ in client.watch(PODS, listed.revision, fields="spec.nodeName=esx-1"):
                seen.set()

        async with world.host("esx-1") as host:
            seen = asyncio.Event()
            watching = asyncio.create_task(watched(host, seen))
            await world.admin.patch(PODS, "on-esx-1", {"metadata": {"labels": {"a": "b"}}}, "shop")
            async with asyncio.timeout(PATIENCE):
                await seen.wait()
                await world.admin.delete(HOSTS, "esx-1")
                await asyncio.wait({watching})
            with pytest.raises(ApiError) as refused:
                await host.get(HOSTS, "esx-1")
            assert refused.value.code == 401
            await asyncio.gather(watching, return_exceptions=True)

    with_world(tmp_path, work)


def test_nobody_is_answered_without_saying_who_he_is(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        context = ssl.create_default_context(cadata=world.process.authority.pem.decode())
        paths = ["/", "/version", "/metrics", "/api", "/openapi/v2", "/nothing"]
        paths += [f"{item.base}/{item.name}" for item in await discovered(world.admin)]
        async with aiohttp.ClientSession(world.process.url) as session:
            asked: list[tuple[str, str, dict[str, str]]] = [("GET", path, {}) for path in paths]
            for path in ("/readyz/x", "/version", "/api/v1/namespaces/shop/secrets/of-esx-1"):
                for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"):
                    for headers in ({}, {"Authorization": "Bearer x"}, {"Impersonate-User": "admin"}):
                        asked.append((method, path, headers))
            for method, path, headers in asked:
                async with session.request(method, path, headers=headers, ssl=context) as answer:
                    assert answer.status == 401, (method, path, headers)
            for path in ("/readyz", "/livez", "/healthz"):
                async with session.get(path, ssl=context) as answer:
                    assert (answer.status, await answer.text()) == (200, "ok")

    with_world(tmp_path, work)


def test_a_namespaces_editor_stays_in_it(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/shop/rolebindings"
        binding = {
            "metadata": {"name": "jane"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}],
        }
        await world.admin.request("POST", bindings, binding)
        async with world.client("jane") as jane:
            assert await code(jane, "GET", "/api/v1/namespaces/shop/secrets") == 200
            assert await code(jane, "GET", "/api/v1/namespaces/shop") == 200
            for item in await discovered(jane):
                if item.name.startswith("self"):
                    continue
                name = NAMES.get(item.name.partition("/")[0], "esx-2")
                for method, path, query in requests_of(item, name, "other"):
                    body = {"metadata": {"name": name}} if method in ("POST", "PUT", "PATCH") else None
                    assert await code(jane, method, path, body, **query) == 403, (method, path, query)
            for role in ("cluster-admin", "system:node"):
                escalated = {**binding, "metadata": {"name": "more"}, "roleRef": {**binding["roleRef"], "name": role}}
                assert await code(jane, "POST", bindings, escalated) == 403
            wide = {"metadata": {"name": "wide"}, "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]}
            assert await code(jane, "POST", bindings.replace("rolebindings", "roles"), wide) == 403
            assert await code(jane, "GET", "/metrics") == 403

    with_world(tmp_path, work)


def test_an_apply_of_what_is_not_there_needs_create(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/shop"
        rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "patch", "update"]}
        await world.admin.request("POST", f"{rbac}/roles", {"metadata": {"name": "patcher"}, "rules": [rule]})
        binding = {
            "metadata": {"name": "jane"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "patcher"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}],
        }
        await world.admin.request("POST", f"{rbac}/rolebindings", binding)
        item = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "shop"}}
        async with world.client("jane") as jane:
            with pytest.raises(ApiError) as refused:
                await jane.apply(CONFIG_MAPS, item, "jane")
            assert refused.value.code == 403 and "cannot create" in refused.value.message
            await world.admin.create(CONFIG_MAPS, item, "shop")
            await jane.apply(CONFIG_MAPS, item, "jane")

    with_world(tmp_path, work)


def test_asking_as_somebody_else_is_a_permission(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        context = world.admin

        async def whoami(client: HttpClient, **headers: str) -> tuple[int, Any]:
            assert client._session is not None
            named = {f"Impersonate-{key.replace('_', '-')}": value for key, value in headers.items()}
            url = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
            async with client._session.post(url, json={}, headers=named) as answer:
                return answer.status, await answer.json()

        status, found = await whoami(context, User="jane", Group="team", Uid="7", Extra_scopes="view")
        assert status == 201 and found["status"]["userInfo"] == {
            "username": "jane",
            "uid": "7",
            "groups": ["team", "system:authenticated"],
            "extra": {"scopes": ["view"]},
        }
        status, found = await whoami(context, User="system:serviceaccount:shop:robot")
        assert "system:serviceaccounts:shop" in found["status"]["userInfo"]["groups"]
        assert (await whoami(context, Group="team"))[0] == 400
        async with world.client("joe") as joe:
            status, found = await whoami(joe, User="jane")
            assert status == 403 and found["message"] == (
                'users "jane" is forbidden: User "joe" cannot impersonate resource "users" in API group "" at the '
                "cluster scope"
            )

    with_world(tmp_path, work)


def test_what_is_secret_is_in_no_log_and_no_refusal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """At the most talkative level: Secrets that are stored, refused, patched wrongly; tokens; keys."""
    hidden = "aGlkZGVuLXZhbHVl"
    said: list[str] = []

    async def work(world: World) -> None:
        async def ask(method: str, path: str, body: Any, **headers: str) -> None:
            assert world.admin._session is not None
            async with world.admin._session.request(method, path, json=body, headers=headers) as answer:
                if answer.status >= 400:
                    said.append(await answer.text())

        secrets = "/api/v1/namespaces/shop/secrets"
        await world.admin.create(SECRETS, {"metadata": {"name": "s"}, "data": {"k": hidden}}, "shop")
        for body in (
            {"metadata": {"name": "s"}, "data": {"k": hidden}},
            {"metadata": {"name": "t"}, "data": {"k": [hidden]}},
            {"metadata": {"name": "t"}, "data": {"k k": hidden}},
            {"metadata": {"name": "t"}, "data": hidden},
            {"metadata": {"name": "t"}, "stringData": {"k": {"deep": hidden}}},
            {"metadata": {"name": "T T"}, "data": {"k": hidden}},
        ):
            await ask("POST", secrets, body)
            await ask("PUT", f"{secrets}/s", body)
            merge = {"Content-Type": "application/merge-patch+json"}
            await ask("PATCH", f"{secrets}/s", body, **merge)
        await ask("GET", secrets, None, Authorization=f"Bearer {hidden}")
        made = await world.admin.request(
            "POST", "/api/v1/namespaces/shop/serviceaccounts", {"metadata": {"name": "robot"}}
        )
        assert made["metadata"]["name"] == "robot"
        token = await world.admin.request("POST", "/api/v1/namespaces/shop/serviceaccounts/robot/token", {"spec": {}})
        written = capfd.readouterr()
        logged = written.out + written.err
        assert token["status"]["token"] not in logged and "PRIVATE KEY" not in logged
        assert "api.listening" in logged and hidden not in logged and len(said) > 5

    configure(3)
    try:
        with_world(tmp_path, work)
    finally:
        configure(0)
    assert [text for text in said if hidden in text] == []
