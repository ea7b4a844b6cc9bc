# SPDX-License-Identifier: Apache-2.0
"""Pods of a Supervisor's lab that talk while something is done to what they depend on; and somebody who tries what is
denied."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from overlay.enter import run_in
from supervisor_glue.controllers.resources import NETWORK_POLICIES, PODS
from tests.support.patience import PATIENCE
from tests.support.supervisor_lab import SupervisorLab, holds

NAMESPACE = "shop"
PORT = 8080
PLACES = {"client": "esx-1", "server": "esx-2", "stranger": "esx-1"}
SECONDS_DENIED = 0.2  # after which a connection is taken for denied


def talkers_make(lab: SupervisorLab) -> None:
    """The three pods; the client alone may reach the server."""
    lab.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}])
    lab.apply([_pod(name, host) for name, host in PLACES.items()])
    lab.reaches(PODS, lambda items: len(items) == len(PLACES) and all(holds(item, "Ready") for item in items))
    lab.apply([only("client")])
    lab.reaches(NETWORK_POLICIES, lambda items: all(holds(item, "Realized") for item in items))


def _pod(name: str, host: str) -> dict[str, Any]:
    meta = {"name": name, "namespace": NAMESPACE, "labels": {"app": name}}
    spec = {
        "nodeSelector": {"kubernetes.io/hostname": host},
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "main", "image": "host"}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def only(name: str) -> dict[str, Any]:
    """The policy by which this pod alone reaches the server."""
    chosen = {"podSelector": {"matchLabels": {"app": "server"}}, "policyTypes": ["Ingress"]}
    return policy("only", chosen | {"ingress": [{"from": [{"podSelector": {"matchLabels": {"app": name}}}]}]})


def policy(name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    meta = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta, "spec": dict(spec)}


class Talk:
    """One connection that compares every byte that comes back, and somebody who tries what is denied."""

    def __init__(self, lab: SupervisorLab) -> None:
        pods = lab.view().pods
        self.netns = {name: str(pods[f"{NAMESPACE}/{name}"].netns) for name in PLACES}
        server = next(item for item in lab.reaches(PODS, bool) if item["metadata"]["name"] == "server")
        self.address = (str(server["status"]["podIP"]), PORT)
        self.ending, self.errors = threading.Event(), list[str]()
        self.echoed = self.tried = 0
        self.longest = 0.0  # seconds from one answer to the next
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
        before = time.monotonic()
        while not self.ending.is_set():
            data = random.randbytes(random.choice((10, 1000, 30_000)))
            for one, other in ((self.client, self.server), (self.server, self.client)):
                one.sendall(data)
                found = bytearray()
                while len(found) < len(data):
                    found += other.recv(65536) or b"\0" * len(data)
                assert found == data, "other bytes came than were sent"
            self.echoed += 1
            self.longest, before = max(self.longest, time.monotonic() - before), time.monotonic()

    def _try(self) -> None:
        while not self.ending.is_set():
            assert not self.connects("stranger"), "the stranger came through"
            self.tried += 1

    def connects(self, pod: str, seconds: float = SECONDS_DENIED) -> bool:
        """Whether a new connection of this pod comes to the server."""
        with self._socket(pod, seconds) as asking, suppress(TimeoutError, ConnectionRefusedError):
            asking.connect(self.address)
            return True
        return False

    def progress(self) -> None:
        """Returns when more bytes have come back."""
        before, end = self.echoed, time.monotonic() + PATIENCE
        while self.echoed < before + 2:
            assert not self.errors, self.errors
            assert time.monotonic() < end, "nothing comes through any more"
            time.sleep(0.005)

    def end(self) -> None:
        """Nothing more is said or tried."""
        self.ending.set()
        for thread in self.threads:
            thread.join()

    def close(self) -> None:
        self.end()
        for one in (self.client, self.server, self.listener):
            one.close()


def agent_kill(lab: SupervisorLab, host: str) -> bool:
    """Whether there was one: its successor may not have said yet who it is. Another begins by itself."""
    pids = json.loads(Path(lab.paths.host(host), "run", "pids.json").read_bytes())
    with suppress(ProcessLookupError):
        os.kill(int(pids["agent"][0]), signal.SIGKILL)
        return True
    return False
