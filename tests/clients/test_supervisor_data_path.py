# SPDX-License-Identifier: Apache-2.0
"""Packet agents of a Supervisor's hosts are killed at random moments while pods talk over TCP and policies change: no
connection breaks, no byte is lost, nothing passes that is denied, and what was asked for last is in force."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from overlay.enter import run_in
from supervisor_glue.controllers.resources import HOST_STATUSES, NETWORK_POLICIES, PODS
from tests.support.patience import PATIENCE
from tests.support.supervisor_lab import SupervisorLab, holds, supervisor_lab

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_netns,
    pytest.mark.needs_mount,
    pytest.mark.needs_tun,
    pytest.mark.long,
]
KILLS = 200
PORT = 8080
HOSTS = ("esx-1", "esx-2")
PLACES = {"client": "esx-1", "server": "esx-2", "stranger": "esx-1"}


@pytest.fixture(scope="module")
def lab() -> Iterator[SupervisorLab]:
    with supervisor_lab() as found:
        found.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}])
        found.apply([_pod(name, host) for name, host in PLACES.items()])
        found.reaches(PODS, lambda items: len(items) == len(PLACES) and all(holds(item, "Ready") for item in items))
        only = {"podSelector": {"matchLabels": {"app": "client"}}}
        chosen = {"podSelector": {"matchLabels": {"app": "server"}}, "policyTypes": ["Ingress"]}
        found.apply([_policy("only-client", chosen | {"ingress": [{"from": [only]}]})])
        found.reaches(NETWORK_POLICIES, lambda items: all(holds(item, "Realized") for item in items))
        yield found


def _pod(name: str, host: str) -> dict[str, Any]:
    meta = {"name": name, "namespace": "shop", "labels": {"app": name}}
    spec = {
        "nodeSelector": {"kubernetes.io/hostname": host},
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "main", "image": "host"}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def _policy(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    meta = {"name": name, "namespace": "shop"}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta, "spec": spec}


class Talk:
    """One connection that compares every byte that comes back, and somebody who tries what is denied."""

    def __init__(self, lab: SupervisorLab) -> None:
        pods = lab.view().pods
        self.netns = {name: str(pods[f"shop/{name}"].netns) for name in PLACES}
        server = next(item for item in lab.reaches(PODS, bool) if item["metadata"]["name"] == "server")
        self.address = (str(server["status"]["podIP"]), PORT)
        self.ending, self.errors = threading.Event(), list[str]()
        self.echoed = self.tried = 0
        self.listener = run_in(self.netns["server"], lambda: socket.create_server(("", PORT)))
        self.client = self._socket("client", PATIENCE)
        self.client.connect(self.address)
        self.server = self.listener.accept()[0]
        self.threads = [threading.Thread(target=self._guarded, args=(one,)) for one in (self._talk, self._try)]
        for thread in self.threads:
            thread.start()

    def _socket(self, pod: str, seconds: float) -> socket.socket:
        found = run_in(self.netns[pod], lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        found.settimeout(seconds)
        return found

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except Exception as error:
            self.errors.append(f"{work.__name__}: {error!r}")

    def _talk(self) -> None:
        self.server.settimeout(PATIENCE)
        while not self.ending.is_set():
            data = random.randbytes(random.choice((10, 1000, 30_000)))
            for one, other in ((self.client, self.server), (self.server, self.client)):
                one.sendall(data)
                found = bytearray()
                while len(found) < len(data):
                    found += other.recv(65536) or b"\0" * len(data)
                assert found == data, "other bytes came than were sent"
            self.echoed += 1

    def _try(self) -> None:
        while not self.ending.is_set():
            with self._socket("stranger", 0.2) as stranger, suppress(TimeoutError, ConnectionRefusedError):
                stranger.connect(self.address)
                raise AssertionError("the stranger came through")
            self.tried += 1

    def progress(self) -> None:
        """Returns when more bytes have come back."""
        before, end = self.echoed, time.monotonic() + PATIENCE
        while self.echoed < before + 2:
            assert not self.errors, self.errors
            assert time.monotonic() < end, "nothing comes through any more"
            time.sleep(0.005)

    def end(self) -> None:
        self.ending.set()
        for thread in self.threads:
            thread.join()
        for one in (self.client, self.server, self.listener):
            one.close()


def _agent(lab: SupervisorLab, host: str) -> int:
    return int(json.loads(Path(lab.paths.host(host), "run", "pids.json").read_bytes())["agent"][0])


def test_pods_do_not_notice_that_agents_are_killed(lab: SupervisorLab) -> None:
    before = {item["metadata"]["name"]: item["metadata"]["uid"] for item in lab.reaches(PODS, bool)}
    talk = Talk(lab)
    spec = {"podSelector": {"matchLabels": {"app": "stranger"}}, "policyTypes": ["Ingress"]}
    killed = 0
    try:
        talk.progress()
        for number in range(KILLS):
            time.sleep(random.uniform(0, 0.3))
            with suppress(ProcessLookupError):  # its successor has not said who it is yet
                os.kill(_agent(lab, random.choice(HOSTS)), signal.SIGKILL)
                killed += 1
            if number % 10 == 3:
                lab.apply([_policy("changes", spec)])
            elif number % 10 == 8:
                lab.delete([_policy("changes", spec)])
            if random.random() < 0.8:  # else another one at once
                talk.progress()
        lab.apply([_policy("last", spec)])
        lab.reaches(NETWORK_POLICIES, lambda items: all(holds(item, "Realized") for item in items))
        talk.progress()
        assert not talk.errors and talk.tried and killed > KILLS // 2
    finally:
        talk.end()
    assert not talk.errors, talk.errors
    after = lab.reaches(PODS, bool)
    assert {item["metadata"]["name"]: item["metadata"]["uid"] for item in after} == before
    assert all(item["status"]["containerStatuses"][0]["restartCount"] == 0 for item in after)
    assert not any((item["status"] or {}).get("problems") for item in lab.reaches(HOST_STATUSES, bool))
