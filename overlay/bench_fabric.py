# SPDX-License-Identifier: Apache-2.0
"""What `bench lab` compares: two pods on two hosts, joined by Palisade or by a peer, each in namespaces of its own.

Here is what they have in common, Palisade itself and the floor; the peers are in bench_kernel and bench_ovs.

All have the same shape: an underlay of one veth pair with MTU 1700, pods with `eth0`, MTU 1500, and the same 1,000
rules: 999 that never match, and one that refuses TCP port 9 in silence, by which it is seen that they are in force.
Offloads are as the kernel makes them, but for Open vSwitch's ports, which have none.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from overlay.namespace import apply_namespace

RULES: Final = 1000
UNDERLAY_MTU: Final = 1700
POD_MTU: Final = 1500
DENIED_PORT: Final = 9
ADDRESSES: Final = ("10.244.0.11", "10.244.0.12")
TEPS: Final = ("192.168.77.1", "192.168.77.2")
VNI: Final = 77


class MissingError(RuntimeError):
    """A peer cannot be set up here: what is missing, in a sentence."""


@dataclass(frozen=True, slots=True)
class Pods:
    """The two pods' network namespaces, by path."""

    sender: str
    receiver: str


class Fabric(ABC):
    """One way from pod to pod. `has_rules`: the 1,000 are in force on it."""

    name: str
    has_rules = True

    def __init__(self, room: Path, folder: Path) -> None:
        self.room, self.folder = room, folder

    @abstractmethod
    def up(self) -> Pods:
        """Make it. Raises MissingError."""

    def down(self) -> None:  # noqa: B027 - most have nothing of the kind
        """End what does not end with its namespaces."""

    def note(self) -> str:
        """What is to be known about the figures."""
        return ""

    def namespace(self, name: str) -> Path:
        """A new network namespace of this fabric."""
        path = self.room / f"{self.name}-{name}"
        apply_namespace(path)
        return path


def run(command: Sequence[str], netns: Path | None = None, text: str | None = None) -> str:
    """Run a command in a namespace. Raises MissingError with what it said, or where there is no such command."""
    words = [*(["nsenter", f"--net={netns}", "--"] if netns is not None else []), *command]
    if shutil.which(command[0]) is None:
        raise MissingError(f"no command {command[0]}")
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().split("\n", 1)[0]
        raise MissingError(f"{' '.join(command[:6])}: {said}")
    return done.stdout


def ip(netns: Path, words: str) -> None:
    """`ip WORDS` in a namespace."""
    run(["ip", *words.split()], netns)


def pod_address(netns: Path, number: int) -> None:
    """A pod's interface and address."""
    ip(netns, f"link set eth0 mtu {POD_MTU} up")
    ip(netns, f"addr add {ADDRESSES[number]}/24 dev eth0")


def plan_denied() -> list[tuple[str, int]]:
    """Source and TCP port of the 999 rules that never match."""
    return [(f"172.16.{number >> 8}.{number & 255}", 10000 + number) for number in range(RULES - 1)]


class Veth(Fabric):
    """A veth pair from pod to pod: the floor, without hosts, tunnel or rules."""

    name = "veth"
    has_rules = False

    def up(self) -> Pods:
        one, two = self.namespace("p1"), self.namespace("p2")
        ip(one, f"link add eth0 type veth peer name eth0 netns {two}")
        pod_address(one, 0)
        pod_address(two, 1)
        return Pods(str(one), str(two))


def plan_pair(fabric: Fabric) -> tuple[list[Path], list[Path]]:
    """Two hosts, joined by their underlay `ul0`, and two pods."""
    hosts = [fabric.namespace(f"h{number}") for number in (1, 2)]
    pods = [fabric.namespace(f"p{number}") for number in (1, 2)]
    ip(hosts[0], f"link add ul0 mtu {UNDERLAY_MTU} type veth peer name ul0 mtu {UNDERLAY_MTU} netns {hosts[1]}")
    for host in hosts:
        ip(host, "link set ul0 up")
    return hosts, pods


class Palisade(Fabric):
    """Palisade itself: a lab of two hosts with their agents."""

    name = "palisade"

    def up(self) -> Pods:
        from overlay import lab_up
        from overlay.lab_record import LabPaths, record_read
        from overlay.progress import Steps

        self.paths = LabPaths(self.folder / "labs" / "bench")
        file = self.folder / "bench.yaml"
        file.write_text(render_policy(), encoding="ascii")
        lab_up.up(self.paths, [str(file)], mtu=UNDERLAY_MTU, dry_run=False, steps=Steps(quiet=True))
        record = record_read(self.paths)
        assert record is not None
        return Pods(*(str(self.paths.room / record.pods[name].netns) for name in ("sender", "receiver")))

    def down(self) -> None:
        from overlay import lab_up
        from overlay.progress import Steps

        if self.paths.folder.is_dir():
            lab_up.down(self.paths, Steps(quiet=True))

    def note(self) -> str:
        from overlay.lab_agents import agent_status

        tiers = {str((agent_status(self.paths, host) or {}).get("tier")) for host in ("one", "two")}
        return f"uplink tier {'/'.join(sorted(tiers))}, one worker a host"


def render_policy() -> str:
    """The lab's file: two hosts, two pods, the 1,000 rules. JSON is YAML too."""
    rules: list[dict[str, object]] = [
        {"id": f"r{number}", "source_groups": [source], "service_entries": [_tcp(port)], "action": "DROP"}
        for number, (source, port) in enumerate(plan_denied())
    ]
    rules.append({"id": "denied", "service_entries": [_tcp(DENIED_PORT)], "action": "DROP"})
    inventory = {
        "apiVersion": "palisade.internal/v1alpha1",
        "kind": "Inventory",
        "hosts": [{"name": name, "tep": tep} for name, tep in zip(("one", "two"), TEPS, strict=True)],
        "segments": [{"name": "bench", "vni": VNI, "subnets": ["10.244.0.0/24"]}],
        "ports": [
            {"name": name, "host": host, "segment": "bench", "ips": [address]}
            for name, host, address in zip(("sender", "receiver"), ("one", "two"), ADDRESSES, strict=True)
        ],
    }
    policy = {"resource_type": "SecurityPolicy", "id": "bench", "category": "Application", "rules": rules}
    return "\n---\n".join(json.dumps(item) for item in (inventory, policy)) + "\n"


def _tcp(port: int) -> dict[str, object]:
    return {"resource_type": "L4PortSetServiceEntry", "l4_protocol": "TCP", "destination_ports": [str(port)]}
