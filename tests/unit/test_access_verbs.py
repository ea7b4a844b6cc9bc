# SPDX-License-Identifier: Apache-2.0
"""The verbs by which hosts and people come in, and the one that enables, against a server in memory behind real TLS."""

from __future__ import annotations

import asyncio
import json
import shlex
import socket
import stat
from base64 import b64encode
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
from click.testing import CliRunner, Result

from dfw.errors import EnvironmentLacksError, PolicyError
from dfw.schema import schema_files
from supervisor_glue import access_verb
from supervisor_glue.access_verb import kubeconfig, token
from supervisor_glue.api.client import Resource
from supervisor_glue.api.status import ApiError
from supervisor_glue.auth.approval import JOINED
from supervisor_glue.auth.caller import Caller
from supervisor_glue.auth.kubeconfig import kubeconfig_read, kubeconfig_write
from supervisor_glue.calling import config_of
from supervisor_glue.controllers.certificates import CertificateController
from supervisor_glue.controllers.resources import CONFIG_MAPS, HOST_STATUSES, HOSTS, NAMESPACES, NODES, SECRETS
from supervisor_glue.enable_verb import enable
from supervisor_glue.join_verb import join
from supervisor_glue.prechecks.compatibility import Facts, HostFacts
from supervisor_glue.prechecks.compatibility import Path as Measured
from supervisor_glue.status_verb import read_status, render_status, status
from tests.conftest import ROOT
from tests.support.api_served import Api
from tests.support.controlling import running
from tests.support.served_world import World, with_world

SUPERVISORS = Resource("palisade.internal", "v1alpha1", "supervisors")
EXAMPLE = str(ROOT / "examples" / "supervisor" / "supervisor.yaml")
Verb = Callable[..., Awaitable[Result]]


def with_server(tmp_path: Path, work: Callable[[Api, Verb], Awaitable[None]]) -> None:
    """Runs `work` with a server, and with what runs a verb as its administrator."""
    api = Api(tmp_path)
    admin = tmp_path / "admin.kubeconfig"

    async def run() -> None:
        def controllers(client: Any, views: Any) -> list[Any]:
            return [CertificateController(client, views, api.authority)]

        async def verb(command: click.Command, *words: str) -> Result:
            env = {"KUBECONFIG": str(admin)}
            return await asyncio.to_thread(CliRunner().invoke, command, list(words), env=env, standalone_mode=False)

        async with running(api.twin, controllers), api.serving():
            for name in ("kube-system", "shop", "other"):
                await api.twin.create(NAMESPACES, {"metadata": {"name": name}})
            kubeconfig_write(admin, api.administrator())
            await work(api, verb)

    asyncio.run(run())


def test_a_token_is_made_and_a_host_joins_by_the_printed_line(tmp_path: Path) -> None:
    async def work(api: Api, verb: Verb) -> None:
        made = await verb(token, "create", "--ttl", "30m", "--host", "esx-1", "--description", "rack 7")
        assert made.exception is None
        words = shlex.split(made.output)
        assert words[:3] == ["palisade", "agent", "join"] and words[words.index("--ca-hash") + 1] == api.pin
        secret = words[words.index("--token") + 1].partition(".")[2]
        stored = json.dumps([item for (of, *_), item in api.twin.objects.items() if of == SECRETS])
        assert secret not in stored and "bootstrap-token-" in stored
        joined = await verb(join, *words[3:], "--config", str(tmp_path / "etc"))
        assert joined.exception is None and "esx-1 has joined" in joined.output
        assert kubeconfig_read(tmp_path / "etc" / "agent.kubeconfig").user == "system:node:esx-1"
        assert (await api.twin.get(HOSTS, "esx-1"))["metadata"]["uid"]
        other = await verb(join, *words[3:-2], "--host", "esx-2", "--config", str(tmp_path / "other"))
        assert isinstance(other.exception, click.ClickException) and "is for esx-1" in other.exception.message

    with_server(tmp_path, work)


def test_a_token_as_data_is_what_the_line_says(tmp_path: Path) -> None:
    async def work(api: Api, verb: Verb) -> None:
        schema = json.loads(schema_files()["supervisor-token-create"].read_text(encoding="utf-8"))
        for host in ("esx-1", None):
            made = await verb(token, "create", "-o", "json", *(["--host", host] if host else []))
            assert made.exception is None
            data = json.loads(made.output)
            jsonschema.Draft202012Validator(schema).validate(data)
            assert (data["host"], data["ca_hash"], data["server"]) == (host, api.pin, api.server)
            secrets = [item for (of, *_), item in api.twin.objects.items() if of == SECRETS]
            assert b64encode(data["expires"].encode()).decode() in [item["data"].get("expiration") for item in secrets]
            joined = await verb(
                join, *data["command"][3:], *([] if host else ["--host", "esx-2"]), "--config", str(tmp_path / "etc")
            )
            assert joined.exception is None and f"{host or 'esx-2'} has joined" in joined.output

    with_server(tmp_path, work)


def test_a_user_works_in_one_namespace(tmp_path: Path) -> None:
    async def work(api: Api, verb: Verb) -> None:
        out = tmp_path / "shop.kubeconfig"
        made = await verb(kubeconfig, "--namespace", "shop", "--role", "edit", "--out", str(out))
        assert made.exception is None and stat.S_IMODE(out.stat().st_mode) == 0o600
        config = kubeconfig_read(out)
        assert (config.namespace, config.user, config.server) == ("shop", "shop-edit", api.server)
        item = {"metadata": {"name": "x"}, "data": {}}
        async with Caller(config) as client:
            await client.create(CONFIG_MAPS, item, "shop")
            for namespace, resource in (("other", CONFIG_MAPS), ("kube-system", SECRETS)):
                with pytest.raises(ApiError) as refused:
                    await client.create(resource, item, namespace)
                assert refused.value.code == 403
            binding = {
                "kind": "RoleBinding",
                "metadata": {"name": "mine", "namespace": "shop"},
                "roleRef": {"kind": "ClusterRole", "name": "cluster-admin"},
                "subjects": [{"kind": "User", "name": "shop-edit"}],
            }
            with pytest.raises(ApiError) as refused:
                await client.create(Resource("rbac.authorization.k8s.io", "v1", "rolebindings"), binding, "shop")
            assert refused.value.code == 403
        again = await verb(kubeconfig, "--namespace", "shop", "--role", "edit")
        assert again.exception is None and again.output.startswith("apiVersion: v1")
        missing = await verb(kubeconfig, "--namespace", "ghost")
        assert isinstance(missing.exception, click.ClickException) and "ghost" in missing.exception.message

    with_server(tmp_path, work)


def test_the_server_is_that_of_the_only_lab_or_of_the_one_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PALISADE_RUN", str(tmp_path))
    api = Api(tmp_path)

    def lab(name: str) -> None:
        folder = tmp_path / "labs" / name / "supervisor"
        folder.mkdir(parents=True)
        kubeconfig_write(folder / "kubeconfig", replace(api.administrator(), server=f"https://{name}:1"))

    def refused(path: Path | None, name: str | None = None) -> str:
        with pytest.raises(click.UsageError) as caught:
            config_of(path, name)
        return caught.value.message

    assert refused(None).startswith("which server?")
    (tmp_path / "labs" / "plain").mkdir(parents=True)
    lab("one")
    kubeconfig_write(tmp_path / "file", replace(api.administrator(), server="https://file:1"))
    assert config_of(None).server == config_of(tmp_path / "file", "one").server == "https://one:1"
    assert config_of(tmp_path / "file").server == "https://file:1"
    lab("two")
    assert refused(None).endswith(", or --lab one or two")
    assert config_of(None, "two").server == "https://two:1"
    assert refused(None, "plain") == "there is no lab 'plain' with a Supervisor; those with one: one, two"


@pytest.mark.parametrize("command", [(status,), (token, "create"), (kubeconfig, "--namespace", "shop")])
def test_a_server_that_does_not_answer_is_what_the_environment_lacks(
    tmp_path: Path, command: tuple[click.Command, *tuple[str, ...]]
) -> None:
    api = Api(tmp_path)
    with socket.socket() as taken:  # bound and not listened at: nobody answers there
        taken.bind(("127.0.0.1", 0))
        server = f"https://127.0.0.1:{taken.getsockname()[1]}"
        kubeconfig_write(tmp_path / "admin", replace(api.administrator(), server=server))
        verb, *words = command
        asked = CliRunner().invoke(verb, words, env={"KUBECONFIG": str(tmp_path / "admin")}, standalone_mode=False)
    assert isinstance(asked.exception, EnvironmentLacksError)
    assert f"{server} does not answer: " in str(asked.exception) and " object at " not in str(asked.exception)


def facts(*_: Any) -> Facts:
    teps = {f"esx-{number}": f"172.16.0.1{number}" for number in (1, 2, 3)}
    hosts = {
        name: HostFacts(
            "", "0.1.0", tep, 0, tuple(Measured(other, there) for other, there in teps.items() if other != name)
        )
        for name, tep in teps.items()
    }
    return Facts("0.1.0", hosts)


def test_what_is_compatible_is_enabled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor_glue.prechecks.facts.read_facts", facts)

    async def work(api: Api, verb: Verb) -> None:
        checked = await verb(enable, EXAMPLE, "--check-only", "-o", "json")
        assert checked.return_value == 0 and json.loads(checked.output)["compatible"] is True
        schema = json.loads(schema_files()["supervisor-enable"].read_text(encoding="utf-8"))
        jsonschema.Draft202012Validator(schema).validate(json.loads(checked.output))
        assert not [key for key in api.twin.objects if key[0] == SUPERVISORS]
        for _ in range(2):
            done = await verb(enable, EXAMPLE, "-o", "json")
            assert done.return_value == 0
            stored = await api.twin.get(SUPERVISORS, "supervisor")
            assert stored["spec"]["pod_cidrs"] == ["10.244.0.0/20"]
            nodes = stored["status"]["controlPlane"]
            assert [node["host"] for node in nodes] == ["esx-1", "esx-2", "esx-3"]
            assert nodes == json.loads(done.output)["control_plane"]

    with_server(tmp_path, work)


def test_what_is_not_compatible_is_told_and_not_enabled(tmp_path: Path) -> None:
    async def work(api: Api, verb: Verb) -> None:
        refused = await verb(enable, EXAMPLE, "--run", str(tmp_path / "nowhere"))
        assert refused.return_value == 1
        assert "not compatible, for 3 reasons" in refused.output
        assert (
            "Host esx-1 is not prepared: no agent of this name is known. [vcenter.wcp.host.not_prepared]"
            in refused.output
        )
        assert not [key for key in api.twin.objects if key[0] == SUPERVISORS]

    with_server(tmp_path, work)


def invoked(command: click.Command, *words: str) -> BaseException | None:
    return CliRunner().invoke(command, list(words), env={"KUBECONFIG": None}, standalone_mode=False).exception


def test_wrong_uses_say_what_would_be_right(tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_text("{}")
    for command, words, told in (
        (token, ["create"], "--kubeconfig FILE"),
        (token, ["create", "--ttl", "1x"], "30m, 24h or 7d"),
        (token, ["create", "--ttl", "9999d"], "ten years"),
        (token, ["create", "--kubeconfig", str(bad)], "no kubeconfig"),
        (token, ["create", "--kubeconfig", str(tmp_path / "none")], "No such file"),
        (kubeconfig, ["-n", "x", "--user", "system:node:x", "--kubeconfig", str(bad)], "no kubeconfig"),
        (enable, [EXAMPLE], "--kubeconfig FILE"),
        (join, ["--server", "x", "--token", "x", "--ca-hash", "x"], "64 hexadecimal"),
        (join, ["--server", "x", "--token", "x", "--ca-hash", f"sha256:{'0' * 64}"], "six letters"),
        (join, ["--server", "x", "--token", f"abcdef.{'0' * 16}", "--ca-hash", f"sha256:{'0' * 64}"], "https:// URL"),
    ):
        error = invoked(command, *words)
        assert isinstance(error, click.UsageError) and told in error.format_message(), words
    error = invoked(enable, str(bad), "--check-only")
    assert isinstance(error, PolicyError)
    nobody = ["--server", "https://127.0.0.1:1", "--token", f"abcdef.{'0' * 16}", "--ca-hash", f"sha256:{'0' * 64}"]
    assert isinstance(invoked(join, *nobody, "--config", str(tmp_path)), EnvironmentLacksError)
    assert access_verb.ROLES == ("view", "edit", "admin")


def test_status_shows_hosts_and_what_they_have_come_to(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
        await world.admin.patch(NODES, "esx-1", ready, subresource="status")
        joined = {"metadata": {"annotations": {JOINED: "csr-1"}}, "spec": {"tep": "172.16.0.11"}}
        await world.admin.patch(HOSTS, "esx-1", joined)
        await world.admin.create(HOST_STATUSES, {"metadata": {"name": "esx-1"}})
        reported = {"status": {"realizedRevision": 7}}
        await world.admin.patch(HOST_STATUSES, "esx-1", reported, subresource="status")
        found = await read_status(world.admin.config)
        schema = json.loads(schema_files()["supervisor-status"].read_text(encoding="utf-8"))
        jsonschema.Draft202012Validator(schema).validate(found)
        assert found["hosts"] == [
            {"name": "esx-1", "tep": "172.16.0.11", "joined": True, "ready": True, "realized_revision": 7},
            {"name": "esx-2", "tep": None, "joined": False, "ready": False, "realized_revision": None},
        ]
        assert found["pods"] == {"Pending": 2} and found["supervisors"] == []
        shown = render_status(found).splitlines()
        assert shown[1].endswith("pods: 2 Pending") and shown[-2].split() == ["esx-1", "172.16.0.11", "yes", "yes", "7"]

    with_world(tmp_path, work)
