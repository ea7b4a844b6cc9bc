# SPDX-License-Identifier: Apache-2.0
"""What else happens to a host whose kernel enforces: somebody changes its rules, one thing after the other; connections
are forgotten; it is told what it cannot take; its agent is killed while rules change. All is found, put right, said."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from dfw import cli
from dfw.nftables import ruleset_sorted
from dfw.nftables.conntrack import ConntrackSocket
from dfw.nftables.load import RulesetLink
from overlay.ask import AskError, agent_ask
from overlay.hoststate import HostState, state_read, state_write
from overlay.lab_record import LabPaths
from overlay.namespace import namespace_entered
from tests.netns.test_lab_nftables import connected, lab_test, pod_socket, shop_by_kernel, shown
from tests.netns.test_lab_probe import run  # noqa: F401 (a fixture)
from tests.support.patience import PATIENCE, until
from tests.unit.test_metrics import samples_of

HOST = "esx-1"
BRIDGE_FRAMES = """\
---
resource_type: SecurityPolicy
id: frames
category: Ethernet
rules:
  - {id: lldp, service_entries: [{resource_type: EtherTypeServiceEntry, ether_type: 0x88cc}], action: DROP}
---
resource_type: SecurityPolicy
id: nowhere
category: Emergency
rules:
  - {id: prefix, source_groups: [192.0.2.0/24], action: DROP}
"""


class Outside:
    """The host as somebody sees it who has its namespace, and nothing to do with its agent."""

    def __init__(self, paths: LabPaths) -> None:
        self.paths, self.netns = paths, str(paths.host_netns(HOST))

    def nft(self, *words: str) -> Any:
        done = subprocess.run(
            ["nsenter", f"--net={self.netns}", "nft", "-j", *words], capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)["nftables"] if done.stdout else None

    def rules(self) -> tuple[Any, ...]:
        """All that is in our tables."""
        with namespace_entered(self.netns), RulesetLink("palisade") as link:
            ends = [link.other_read(family, "palisade-ends") for family in ("bridge", "inet")]
            return ruleset_sorted(link.read()), *ends

    def asked(self, **what: object) -> Any:
        return agent_ask(self.paths.socket(HOST), what, PATIENCE)

    def mended(self) -> float:
        return samples_of(self.asked(do="metrics")["text"])["palisade_agent_rules_mended_total", ("host", HOST)]

    def health(self) -> dict[str, dict[str, Any]]:
        return {row["check"]: row for row in self.asked(do="show", what="health")["rows"]}


def talk(one: socket.socket, other: socket.socket) -> None:
    for end, to in ((one, other), (other, one)):
        end.sendall(b"going on")
        assert to.recv(8) == b"going on"


@lab_test
def test_whatever_somebody_does_to_the_rules_is_found_put_right_and_said(
    run: Path,  # noqa: F811
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    files = shop_by_kernel(tmp_path)
    with Path(files[1]).open("a") as file:
        file.write(BRIDGE_FRAMES)
    assert cli.run(["lab", "up", "-q", *files]) == 0
    host = Outside(LabPaths(run / "labs" / "lab"))
    good, mended = host.rules(), host.mended()
    assert (mended, host.health()["rules"]["says"]) == (0, "nobody else has changed them")
    sets = [item["set"] for item in host.nft("list", "table", "inet", "palisade") if "set" in item]
    group = next(item for item in sets if item.get("elem") and item["type"] == "ipv4_addr" and "flags" not in item)
    ranges = next(item["name"] for item in sets if "interval" in item.get("flags", ()))
    member = f"{group['name']} {{ {group['elem'][0]} }}"
    for words in (
        f"delete element inet palisade {member}",
        "insert rule inet palisade out accept",
        "add chain inet palisade foreign",
        "delete table bridge palisade",
        "insert rule bridge palisade frame-out drop",
        "insert rule bridge palisade-ends forward accept",
        "delete table inet palisade-ends",
        f"flush set inet palisade {group['name']}",
        f"flush set inet palisade {ranges}",
        "flush map inet palisade out",
        "add set inet palisade foreign { type ipv4_addr ; }",
        "add quota inet palisade foreign 10 mbytes",
        "add chain inet palisade forward-in { policy accept ; }",
        "add chain bridge palisade-ends forward { policy drop ; }",
        "add table inet palisade { flags dormant ; }",
        "add table bridge palisade { flags dormant ; }",
        "add table bridge palisade-ends { flags dormant ; }",
        "flush ruleset",
    ):
        host.nft(*words.split())
        until(lambda before=mended: host.mended() > before, f"not found: {words}")
        assert host.rules() == good, words
        mended = host.mended()
        assert f"put right {mended:g} times" in host.health()["rules"]["says"]
    # What is no rule of ours is nobody's business, and nothing is put right for it.
    host.nft("add", "table", "inet", "foreign")
    with ExitStack() as opened:
        kept = connected(opened, "ops-1", "web-1", "10.1.1.11", 80)
        talk(*kept)
        before = state_read(host.paths.host(HOST) / "desired.json")
        refused(host, before, good)
        talk(*kept)
        assert host.mended() == mended and any("foreign" in str(item) for item in host.nft("list", "tables"))
        killed(host)
        until(lambda: host.rules() == good, "what was changed meanwhile is not put right")
        talk(*kept)
        # Somebody forgets all connections: they are over, as TCP strict wants it, and new ones begin.
        with namespace_entered(host.netns):
            conntrack = ConntrackSocket()
        try:
            conntrack.end(conntrack.connections())
        finally:
            conntrack.close()
        kept[0].sendall(b"lost")

        def strict() -> object:
            return {row["reason"]: row["judgements"] for row in shown(capfd, "stats", "--host", HOST)}["tcp-strict"]

        until(strict, "what follows a forgotten connection is not refused")
        assert shown(capfd, "flows", "--host", HOST, "--match", "vnic=web-1,dport=80") == []
        opened.enter_context(pod_socket("ops-1")).connect(("10.1.1.11", 80))


def refused(host: Outside, before: HostState, good: Any) -> None:
    """States that cannot be: a sentence each, nothing in force is another one; then a good one is taken."""
    vnic, *others = before.vnics
    data = b"\xff" * len(before.tables[0].entries)
    one, other = [item for item in before.neighbours if item.vnic in ("web-1", "app-1") and "." in (item.ip or "")]
    twice = replace(other, ip=one.ip, segment=one.segment)
    for number, (bad, words) in enumerate(
        (
            (replace(before, vnics=(replace(vnic, mac="02:zz"), *others)), "'02:zz' is no MAC address"),
            (replace(before, gateway_mac="x drop; }}; flush ruleset"), "'x drop; }}; flush ruleset' is no MAC address"),
            (replace(before, neighbours=(*before.neighbours, twice)), "who the ends are: nftables refused"),
            (
                replace(before, tables=(replace(before.tables[0], entries=data), *before.tables[1:])),
                "table 0: a rule is 4294967295",
            ),
            (replace(before, tep="nowhere"), "does not appear to be"),
        ),
        1,
    ):
        state_write(host.paths.host(HOST) / "desired.json", replace(bad, revision=before.revision + number))
        status = host.asked(do="apply")
        assert words in (status["error"] or ""), status
        assert (status["revision_wanted"], status["revision_realized"]) == (before.revision + number, before.revision)
        assert host.rules() == good and not host.health()["revision"]["ok"]
    state_write(host.paths.host(HOST) / "desired.json", replace(before, revision=before.revision + number + 1))
    assert host.asked(do="apply")["error"] is None and host.health()["revision"]["ok"]


def killed(host: Outside) -> None:
    """The agent is killed, half of its rules go, and another one begins."""
    agent = host.asked(do="status")["pid"]
    os.kill(agent, signal.SIGKILL)
    host.nft("delete", "table", "inet", "palisade-ends")
    host.nft("insert", "rule", "inet", "palisade", "in", "drop")

    def is_another() -> bool:
        with suppress(AskError):
            return bool(host.asked(do="status")["pid"] != agent)
        return False

    until(is_another, "no other agent begins")
