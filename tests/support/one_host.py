# SPDX-License-Identifier: Apache-2.0
"""One host with an agent, in a namespace, with an underlay that leads nowhere; and namespaces for its workloads."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from dfw.load import load
from overlay.ask import AskError, agent_ask
from overlay.enter import run_in
from overlay.host_install import apply_end
from overlay.hoststate import state_write
from overlay.namespace import apply_namespace, apply_namespace_end
from overlay.span import resolve_span
from tests.support.patience import PATIENCE

INVENTORY = """
apiVersion: palisade.internal/v1alpha1
kind: Inventory
hosts: [{name: h1, tep: 172.16.0.1}, {name: h2, tep: 172.16.0.2}]
segments: [{name: s, vni: 5001, subnets: [10.0.1.0/24]}]
ports: [{name: a, host: h1, segment: s, ips: [10.0.1.10]}, {name: b, host: h2, segment: s, ips: [10.0.1.11]}]
"""


class OneHost:
    """A host in a namespace, with an underlay that leads nowhere."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run, self.state = folder, folder / "run", folder / "state"
        self.netns = folder / "ns-host"
        self.pods = {name: folder / f"ns-{name}" for name in ("a", "c", "d")}
        self.agent: subprocess.Popen[bytes] | None = None

    def build(self) -> None:
        for path in (self.netns, *self.pods.values()):
            apply_namespace(path)
        self.command("ip link add ul0 mtu 1700 type veth peer name far mtu 1700")
        self.command("ip link set far up")
        self.command("ip addr add 192.0.2.7/24 dev ul0")
        self.command("ip link set ul0 up")
        (self.folder / "i.yaml").write_text(INVENTORY)

    def command(self, words: str) -> str:
        done = subprocess.run(
            ["nsenter", f"--net={self.netns}", *words.split()], capture_output=True, text=True, check=True
        )
        return done.stdout

    def tell(self, revision: int, files: str = INVENTORY) -> None:
        (self.folder / "i.yaml").write_text(files)
        world = load([str(self.folder / "i.yaml")]).world
        state = resolve_span(world, revision, {"a": str(self.pods["a"])})["h1"]
        state_write(self.folder / "desired.json", state)

    def begin(self, tier: str = "auto") -> None:
        """Start its agent."""
        words = [sys.executable, "-m", "dfw", "-v", "agent", "run", "--host", "h1", "--underlay", "ul0"]
        words += ["--netns", str(self.netns), "--desired", str(self.folder / "desired.json"), "--uplink", tier]
        words += ["--run", str(self.run), "--state", str(self.state), "--connections", "4096"]
        with (self.folder / "agent.log").open("ab") as log:
            self.agent = subprocess.Popen(words, stdout=log, stderr=log)

    def start(self, tier: str = "auto") -> dict[str, Any]:
        """Start its agent and wait for what it was told."""
        self.begin(tier)
        return self.wait(1)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        return agent_ask(self.run / "agent.sock", request, PATIENCE)

    def wait(self, revision: int) -> dict[str, Any]:
        deadline, status = time.monotonic() + PATIENCE, {}
        while time.monotonic() < deadline:
            with contextlib.suppress(AskError):
                status = self.ask({"do": "apply"})
                if status["revision_realized"] >= revision and not status["problems"]:
                    return status
            time.sleep(0.05)
        raise AssertionError(f"{status}\n{(self.folder / 'agent.log').read_text()[-3000:]}")

    def seen(self) -> dict[str, str]:
        """Everything in the host's namespace that an agent could change."""
        looks = (
            "link show",
            "route show",
            "-6 route show",
            "rule show",
            "neigh show nud permanent",
            "-6 neigh show proxy",
        )
        found = {what: self.command(f"ip {what}") for what in looks}
        found["addresses"] = " ".join(re.findall(r"inet6? (\S+)", self.command("ip addr show")))  # without DAD's flags
        names = ("conf/all/forwarding", "conf/all/rp_filter", "conf/ul0/proxy_arp", "conf/ul0/rp_filter")

        def read() -> str:
            return " ".join(Path(f"/proc/sys/net/ipv4/{name}").read_text().strip() for name in names)

        return found | {"sysctls": run_in(str(self.netns), read)}

    def end(self) -> None:
        if self.agent is not None:
            agent_end(self.agent, self.run)
        for path in (self.netns, *self.pods.values()):
            apply_namespace_end(path)


def agent_end(keeper: subprocess.Popen[bytes], run: Path) -> None:
    """End an agent with its keeper, else that would start another one, and then what holds its cards."""
    keeper.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        keeper.wait(30)
    keeper.kill()
    keeper.wait()
    apply_end(run)
