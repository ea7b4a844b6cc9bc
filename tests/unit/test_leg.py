# SPDX-License-Identifier: Apache-2.0
"""The control plane's leg: a Port that names a host gets a network, and all of it goes with the Port."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import yaml

from dfw.documents import document_of
from dfw.load import load_documents
from dfw.matrix import Matrix, ports_parse
from dfw.model import address_parse, prefix_parse
from dfw.reach import Reachability
from supervisor_glue.api.client import Client
from supervisor_glue.api.leg import LEG
from supervisor_glue.controllers.collector import CollectorController
from supervisor_glue.controllers.controller import Controller
from supervisor_glue.controllers.informer import Views
from supervisor_glue.controllers.leg import LegController, settings_with_leg
from supervisor_glue.controllers.namespaces import NamespaceController
from supervisor_glue.controllers.objects import object_made
from supervisor_glue.controllers.postures import posture_policy, system_policies
from supervisor_glue.controllers.resources import (
    ALLOCATIONS,
    CONFIG_MAPS,
    GATEWAYS,
    NAMESPACES,
    PODS,
    PORTS,
    SEGMENTS,
    SERVICE_ACCOUNTS,
)
from supervisor_glue.controllers.settings import Settings
from supervisor_glue.spherelet.access import PLACE, access_given, access_mounted, api_variables
from supervisor_glue.spherelet.sources import Sources
from tests.support.api_twin import ApiTwin
from tests.support.controlling import names, running, until_async
from tests.support.patience import PATIENCE

SETTINGS = Settings(pod_cidrs=(prefix_parse("10.244.0.0/26"),), tier0="t0")


def _all(client: Client, views: Views) -> Sequence[Controller]:
    return [
        LegController(client, views, SETTINGS, b"a CA"),
        NamespaceController(client, views, SETTINGS),
        CollectorController(client, views),
    ]


def test_a_leg_gets_a_block_a_segment_and_an_address_and_they_go_with_it() -> None:
    async def body() -> None:
        server = ApiTwin()
        for name in ("kube-public", "x", "y", "z"):  # of the CIDR's four blocks three are taken
            await server.create(NAMESPACES, object_made(NAMESPACES, name))
        async with running(server, _all) as settled:
            await settled()
            await server.create(PORTS, object_made(PORTS, LEG, spec={"host": "h1"}))
            await settled()
            spec = server.objects[PORTS, "", LEG]["spec"]
            segment = server.objects[SEGMENTS, "", LEG]["spec"]
            assert spec["host"] == "h1" and spec["segment"] == LEG and segment["gateway"] == "supervisor"
            subnet = prefix_parse(segment["subnets"][0])
            assert subnet.first < address_parse(spec["ips"][0]).value < subnet.last
            blocks = [item["spec"]["subnets"][0] for key, item in server.objects.items() if key[0] == SEGMENTS]
            assert len(set(blocks)) == 4
            assert server.objects[GATEWAYS, "", "supervisor"]["spec"] == {"tier": 1, "tier0": "t0"}
            written = server.objects[CONFIG_MAPS, "kube-public", "cluster-info"]["data"]["kubeconfig"]
            assert yaml.safe_load(written)["clusters"][0]["cluster"]["server"] == f"https://{spec['ips'][0]}:6443"
            before = server.revision
            changed = {**server.objects[SEGMENTS, "", LEG], "spec": {**segment, "vni": 5}}
            await server.update(SEGMENTS, changed)
            await settled()
            assert server.objects[SEGMENTS, "", LEG]["spec"] == segment  # changed back
            assert server.revision == before + 2  # and nothing else was written
            await server.delete(PORTS, LEG)
            await settled()
            assert LEG not in names(server, PORTS, SEGMENTS) and "supervisor" not in names(server, GATEWAYS)
            assert len(names(server, ALLOCATIONS)) == 3 and "cluster-info" not in names(server, CONFIG_MAPS)

    asyncio.run(asyncio.wait_for(body(), PATIENCE))


def test_what_is_anothers_stays() -> None:
    """A gateway of that name that is somebody's own is no leg's: nothing is made of it, and the log says so."""

    async def body() -> None:
        server = ApiTwin()
        await server.create(NAMESPACES, object_made(NAMESPACES, "kube-public"))
        foreign = {"tier": 1, "tier0": "theirs"}
        await server.create(GATEWAYS, object_made(GATEWAYS, "supervisor", spec=foreign))
        async with running(server, _all) as settled:
            await server.create(PORTS, object_made(PORTS, LEG, spec={"host": "h1"}))
            await until_async(lambda: names(server, ALLOCATIONS), "no block is taken")
            await asyncio.sleep(0.1)
            assert server.objects[GATEWAYS, "", "supervisor"]["spec"] == foreign
            assert LEG not in names(server, SEGMENTS) and "ips" not in server.objects[PORTS, "", LEG]["spec"]
            await server.delete(GATEWAYS, "supervisor")
            await until_async(lambda: "ips" in server.objects[PORTS, "", LEG]["spec"], "the leg has no network")
            await settled()
            assert server.objects[GATEWAYS, "", "supervisor"]["spec"] == {"tier": 1, "tier0": "t0"}

    asyncio.run(asyncio.wait_for(body(), PATIENCE))


def test_pods_are_kept_from_it_but_for_the_api() -> None:
    port: dict[str, Any] = object_made(PORTS, LEG, spec={"host": "h1", "ips": ["10.244.0.2"]})
    told = settings_with_leg(SETTINGS, [port])
    assert [str(address) for address in told.api] == ["10.244.0.2"]
    assert [str(cidr) for cidr in told.protected] == ["10.244.0.2"]
    assert settings_with_leg(SETTINGS, [object_made(PORTS, LEG, spec={"host": "h1"})]) == SETTINGS


def test_who_reaches_what_and_by_which_rule() -> None:
    """The system's rules refuse at both ends, each by itself; whether the API is reached others decide."""
    port = {"name": LEG, "host": "h", "segment": "s", "mac": "02:00:00:00:00:02", "ips": ["10.244.0.2"]}
    pods = [
        {**port, "name": name, "mac": f"02:00:00:00:00:{mac}", "ips": [f"10.244.0.{mac}"], "namespace": namespace}
        for name, mac, namespace in (("near", "11", "mine"), ("far", "12", "other"))
    ]
    inventory = {"apiVersion": "palisade.internal/v1alpha1", "kind": "Inventory", "hosts": [{"name": "h"}]}
    inventory |= {"segments": [{"name": "s", "vni": 5, "subnets": ["10.244.0.0/24"]}], "ports": [port, *pods]}
    told = settings_with_leg(SETTINGS, [object_made(PORTS, LEG, spec=port)])
    world = load_documents([document_of(inventory, "test")]).world
    world = replace(world, policies=(*system_policies(told), posture_policy("mine", told)))
    rows = {
        (row["from"], row["to"], row["port"]): (row["egress"], row["ingress"], row["by"])
        for row in Matrix(Reachability(world), ports_parse("tcp/6443,tcp/7443")).rows()
        if LEG in (row["from"], row["to"]) and row["from"] != row["to"]
    }
    assert rows == {
        ("near", LEG, 6443): (True, True, "system/leg-api"),
        ("far", LEG, 6443): (True, True, "system/leg-api"),
        ("near", LEG, 7443): (False, False, "system/control-plane"),
        ("far", LEG, 7443): (False, False, "system/control-plane"),
        (LEG, "near", 6443): (False, False, "system/leg-egress"),
        (LEG, "near", 7443): (False, False, "system/leg-egress"),
        (LEG, "far", 6443): (False, True, "system/leg-egress"),
        (LEG, "far", 7443): (False, True, "system/leg-egress"),
    }


def test_variables_of_an_ipv6_address_and_of_what_is_no_kubeconfig() -> None:
    told = api_variables(b'{"clusters": [{"cluster": {"server": "https://[fd00::2]:6443"}}]}')
    assert told["KUBERNETES_SERVICE_HOST"] == "fd00::2" and told["KUBERNETES_PORT"] == "tcp://[fd00::2]:6443"
    for wrong in (b"", b"{", b"[]", b"clusters: []", b"clusters: [{cluster: {server: https://a:x}}]", b"\xff"):
        assert api_variables(wrong) == {}


def test_whose_token_is_mounted() -> None:
    """As the pod says, else as its account does; a mount of its own at that place stays."""

    async def body() -> list[bool]:
        server = ApiTwin()
        await server.create(NAMESPACES, object_made(NAMESPACES, "x"))
        account: dict[str, Any] = object_made(SERVICE_ACCOUNTS, "shy", "x")
        await server.create(SERVICE_ACCOUNTS, {**account, "automountServiceAccountToken": False}, "x")
        sources = Sources(server)
        pods = [
            object_made(PODS, "p", "x", spec={"serviceAccountName": name, **said})
            for name in ("shy", "default")
            for said in ({}, {"automountServiceAccountToken": True}, {"automountServiceAccountToken": False})
        ]
        return [await access_given(pod, sources) for pod in pods]

    assert asyncio.run(asyncio.wait_for(body(), PATIENCE)) == [False, True, False, True, True, False]
    own = {"name": "c", "volumeMounts": [{"name": "v", "mountPath": f"{PLACE}/"}]}
    assert access_mounted(own) == own
    assert access_mounted({"name": "c"})["volumeMounts"] == [
        {"name": "kube-api-access.pod", "mountPath": PLACE, "readOnly": True}
    ]
