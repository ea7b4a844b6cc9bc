# SPDX-License-Identifier: Apache-2.0
"""The demo's last part: `python -m scripts.demo.supervisor LAB KUBECTL`, a lab with a Supervisor, by real kubectl.

Two Namespaces get networks; pods in them talk; one is isolated by a NetworkPolicy; what changed is seen by connections
that pods make every 10 ms, and when. The lab is taken down by whoever calls this.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

PATIENCE = 90.0
PYTHON = os.path.realpath(sys.executable)  # not the checkout's link to it: that may lie in /tmp, and a pod has its own
PORT = 8080
SERVER = f"""
import socket
server = socket.create_server(("0.0.0.0", {PORT}), backlog=64)
while True:
    server.accept()[0].close()
"""
PROBE = f"""
import socket, sys, time
last = None
while True:
    begun = time.time()
    try:
        socket.create_connection((sys.argv[1], {PORT}), timeout=0.1).close()
        now = "allowed"
    except OSError:
        now = "denied"
    if now != last:
        print(f"{{begun:.4f}} {{now}}", flush=True)
        last = now
    time.sleep(0.01)
"""
ISOLATED = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: isolated, namespace: shop}
spec:
  podSelector: {}
  ingress:
  - from: [{podSelector: {}}]
"""


class Cluster:
    """kubectl with the lab's kubeconfig."""

    def __init__(self, kubectl: str, folder: Path) -> None:
        """`folder`: of the lab."""
        self.command = [kubectl, "--kubeconfig", str(folder / "supervisor" / "kubeconfig")]

    def log(self, namespace: str, name: str) -> str:
        """What a pod has said."""
        return self("logs", name, "-n", namespace, say=False)

    def __call__(self, *arguments: str, given: str = "", say: bool = True) -> str:
        if say:
            print(f"   $ kubectl {' '.join(arguments)}", flush=True)
        done = subprocess.run([*self.command, *arguments], input=given, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"kubectl {' '.join(arguments)}: {done.stderr or done.stdout}")
        return done.stdout


def pod(namespace: str, name: str, host: str, *command: str) -> dict[str, object]:
    container = {"name": "main", "image": "host", "command": list(command)}
    metadata = {"name": name, "namespace": namespace, "labels": {"app": name}}
    spec = {
        "nodeSelector": {"kubernetes.io/hostname": host},
        "containers": [container],
        "terminationGracePeriodSeconds": 1,
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def applied(cluster: Cluster, *objects: dict[str, object]) -> None:
    document = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    cluster("apply", "-f", "-", given=json.dumps(document))


def ready(cluster: Cluster, *pods: tuple[str, str]) -> None:
    for namespace, name in pods:
        told = f"--timeout={PATIENCE:.0f}s"
        cluster("wait", "--for=condition=Ready", f"pod/{name}", "-n", namespace, told, say=False)


def turn(cluster: Cluster, namespace: str, name: str, wanted: str, after: float) -> float:
    """When a pod's own connections first went this way after a moment."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        lines = [line.split() for line in cluster.log(namespace, name).splitlines()]
        times = [float(moment) for moment, way in lines if way == wanted and float(moment) >= after]
        if times:
            return times[0]
        if lines and lines[-1][1] == wanted:
            return after  # it went so already
        time.sleep(0.1)
    raise SystemExit(f"{namespace}/{name} did not see its connections {wanted} within {PATIENCE:.0f} s")


def main(lab: str, kubectl: str) -> None:
    begun = time.monotonic()
    up = [sys.executable, "-m", "dfw", "lab", "up", "--supervisor", "--name", lab, "--quiet"]
    subprocess.run(up, check=True, stdout=subprocess.DEVNULL)
    from overlay.lab_record import lab_paths

    cluster = Cluster(kubectl, Path(lab_paths(lab).folder))
    print(f"   two hosts under a Supervisor, joined by token: {time.monotonic() - begun:.1f} s")
    cluster("create", "namespace", "shop")
    cluster("create", "namespace", "guests")
    applied(cluster, pod("shop", "web", "esx-1", PYTHON, "-c", SERVER))
    ready(cluster, ("shop", "web"))
    address = cluster("get", "pod", "web", "-n", "shop", "-o", "jsonpath={.status.podIP}", say=False)
    probe = (PYTHON, "-c", PROBE, address)
    begun = time.time()
    applied(cluster, pod("shop", "clerk", "esx-1", *probe), pod("guests", "visitor", "esx-2", *probe))
    ready(cluster, ("shop", "clerk"), ("guests", "visitor"))
    for namespace, name in (("shop", "clerk"), ("guests", "visitor")):
        turn(cluster, namespace, name, "allowed", begun)
    print(cluster("get", "pods", "-A", "-o", "wide", say=False))
    print("   all may talk: shop/clerk and guests/visitor reach shop/web, a connection every 10 ms")
    asked = time.time()
    cluster("apply", "-f", "-", given=ISOLATED)
    answered = time.time()
    denied = turn(cluster, "guests", "visitor", "denied", asked)
    print(
        f"   shop is isolated: guests/visitor is denied {1000 * (denied - asked):.0f} ms after kubectl began"
        f" (which itself took {1000 * (answered - asked):.0f} ms); shop/clerk is not"
    )
    last = cluster.log("shop", "clerk").splitlines()[-1].split()[1]
    if last != "allowed":
        raise SystemExit("shop/clerk lost its connections: the policy allows them")
    asked = time.time()
    cluster("delete", "networkpolicy", "isolated", "-n", "shop")
    allowed = turn(cluster, "guests", "visitor", "allowed", asked)
    print(f"   and no more: guests/visitor is allowed {1000 * (allowed - asked):.0f} ms after kubectl began")
    begun = time.monotonic()
    cluster("delete", "namespace", "shop", "guests")
    print(f"   both Namespaces and all that was made for them are gone: {time.monotonic() - begun:.1f} s")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main(*sys.argv[1:3])
