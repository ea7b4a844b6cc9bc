# SPDX-License-Identifier: Apache-2.0
"""Changing a running lab: the difference only, and every way back (with a stand-in for the agents)."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dfw.schema import schema_files
from overlay import lab_agents
from overlay.enter import run_in
from overlay.lab_record import lab_locked, record_read
from tests.support.lab_command import SMALL, Lab
from tests.support.leftovers import list_processes
from tests.support.patience import until

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_netns,
    pytest.mark.needs_mount,
    pytest.mark.needs_tun,
    pytest.mark.needs_tool("nsenter", "unshare"),
]
REAL_AGENT = lab_agents.AGENT  # as it is before a test has its stand-in
POLICY = """\
---
resource_type: SecurityPolicy
id: p
category: Application
rules: [{id: NAME, services: [SSH], action: DROP}]
"""


def policy(folder: Path, name: str) -> Path:
    """A policy with one rule of this name."""
    path = folder / f"{name}.yaml"
    path.write_text(POLICY.replace("NAME", name))
    return path


@pytest.fixture
def begun(lab: Lab, tmp_path: Path) -> Lab:
    """A lab of two hosts; its only file has the inventory and a rule `first`."""
    file = tmp_path / "lab.yaml"
    file.write_text(SMALL + POLICY.replace("NAME", "first"))
    lab("up", file)
    return lab


def told(lab: Lab) -> list[dict[str, Any]]:
    """What the hosts are told, without the revision."""
    found = []
    for path in sorted((lab.run / "labs" / "lab" / "hosts").glob("*/desired.json")):
        state = json.loads(path.read_bytes())
        del state["revision"]
        found.append(state)
    return found


def rules(lab: Lab) -> set[str]:
    """Names of the rules that the hosts are told, the default's left out."""
    paths = {rule["path"] for state in told(lab) for rule in state["rules"]}
    return {path.rpartition("/")[2] for path in paths if "/p/" in path}


def gone_back(lab: Lab, wanted: set[str]) -> None:
    """Wait until the hosts are told these rules and nothing waits to be confirmed."""
    until(lambda: rules(lab) == wanted and lab.status()["pending"] is None, "it does not go back")


def test_a_policy_alone_leaves_workloads_as_they_are(begun: Lab, tmp_path: Path) -> None:
    before, pids = told(begun), begun.pids()
    second = policy(tmp_path, "second")
    lines = begun.verb("apply", second, "--dry-run").splitlines()
    assert "    host a: + rule /infra/domains/default/security-policies/p/rules/second" in lines
    assert "    host b: - rule /infra/domains/default/security-policies/p/rules/first" in lines
    assert "    host a: ~ vNIC one: rules" in lines and not any("pod" in line for line in lines)
    assert told(begun) == before
    assert "revision 2 is in force" in begun.verb("apply", second)
    assert rules(begun) == {"second"} and begun.pids() == pids
    assert "as it was, revision 2" in begun.verb("apply", second)
    assert begun.verb("apply", second, "--dry-run") == "nothing to do\n"
    # And back, as a new revision.
    assert "- rule /infra/domains/default/security-policies/p/rules/second" in begun.verb("rollback", "1", "--dry-run")
    assert "revision 3 is in force" in begun.verb("rollback", "1")
    assert told(begun) == before and begun.pids() == pids
    assert "as it was" in begun.verb("rollback", "1")
    listed = begun.verb("rollback", "--list")
    assert "rollback to 1" in listed and "3 (now)" in listed
    rows = json.loads(begun.verb("rollback", "--list", "-o", "json"))
    jsonschema.validate(rows, json.loads(schema_files()["rollback"].read_text(encoding="utf-8")))
    assert [row["revision"] for row in rows if row["now"]] == [3]
    assert "keeps no revision 9; it keeps 1, 2, 3" in begun.verb("rollback", "9", status=2) + begun.errors


def test_what_runs_under_a_supervisor_is_not_the_files_to_say(begun: Lab, tmp_path: Path) -> None:
    before = told(begun)
    supervisor = begun.paths().folder / "supervisor"
    supervisor.mkdir()
    for words in (
        ("apply", policy(tmp_path, "second")),
        ("apply", "--confirmed"),
        ("rollback", "1"),
        ("lab", "up"),
        ("lab", "migrate", "one", "b"),
    ):
        begun.verb(*words, status=2)
        assert "has a Supervisor, whose API says what runs there" in begun.errors
    assert "lab up" in begun.verb("rollback", "--list")
    supervisor.rmdir()
    assert told(begun) == before


def test_a_change_that_a_host_refuses_is_taken_back(begun: Lab, tmp_path: Path) -> None:
    before, pids = told(begun), begun.pids()
    begun.verb("apply", policy(tmp_path, "REFUSE"), status=1)
    assert "refused revision 2: told to refuse" in begun.errors
    assert "what revision 1 said is in force again, as revision 3" in begun.errors
    assert told(begun) == before and begun.pids() == pids
    assert [host["revision_realized"] for host in begun.status()["hosts"]] == [3, 3]


def test_a_pod_that_does_not_start_takes_the_change_back(begun: Lab, tmp_path: Path) -> None:
    before, pids = told(begun), begun.pids()
    file = tmp_path / "pods.yaml"
    file.write_text(
        SMALL + "---\n{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: n}, "
        "spec: {containers: [{name: c, command: [/no/such/program]}]}}\n"
    )
    begun("up", file, status=1)
    assert "the pod n/p does not start" in begun.errors and "is in force again" in begun.errors
    assert told(begun) == before and begun.pids() == pids


def test_where_nothing_can_be_taken_back_it_says_what_is_in_force(begun: Lab, tmp_path: Path) -> None:
    begun.verb("apply", policy(tmp_path, "BREAK"), status=1)
    assert "going back to revision 1 failed too" in begun.errors
    assert "the hosts were told revision 3, and have in force: host a: 1, host b: " in begun.errors
    begun.verb("wait", "--realized", "--timeout", "100ms", status=1)
    assert "host a: revision 1 of 3 is in force: told to refuse" in begun.errors


def test_what_is_not_confirmed_goes_back(begun: Lab, tmp_path: Path) -> None:
    before = told(begun)
    out = begun.verb("apply", policy(tmp_path, "second"), "--confirm", "4s")
    with lab_locked(begun.paths()):  # the timer waits, and has not begun to go back
        record = record_read(begun.paths())
        assert record is not None and record.pending is not None
        timer = record.pending.timer.pid
        os.kill(timer, signal.SIGSTOP)  # a slow machine may look for longer than that
        # Not before it stands still: it may wait for the lock, and would have it while it stands.
        until(lambda: ") T " in Path(f"/proc/{timer}/stat").read_text(), "the timer does not stop")
    assert "revision 1 comes back in" in out and "palisade apply --confirmed" in out
    assert rules(begun) == {"second"}
    pending = begun.status()["pending"]
    assert pending["base"] == 1 and pending["timer"] == "runs"
    # Nothing else may come on top.
    for again in (begun.verb("apply", policy(tmp_path, "third"), status=2), begun("up", status=2)):
        assert "waits to be confirmed" in again + begun.errors
    os.kill(timer, signal.SIGCONT)
    gone_back(begun, {"first"})
    assert told(begun) == before
    assert "back to 1: not confirmed" in begun.verb("rollback", "--list")
    assert begun.verb("wait", "--realized", "one") == "realized: revision 3 on a\n"


def test_what_is_confirmed_stays(begun: Lab, tmp_path: Path) -> None:
    begun.verb("apply", policy(tmp_path, "second"), "--confirm", "600s")
    processes = [command for command in list_processes(begun.run) if "lab_timer" in command]
    assert len(processes) == 1
    assert "revision 2 stays" in begun.verb("apply", "--confirmed")
    assert rules(begun) == {"second"} and begun.status()["pending"] is None
    until(lambda: not any("lab_timer" in command for command in list_processes(begun.run)), "the timer goes on")
    begun.verb("apply", "--confirmed", status=2)
    assert "no change of lab lab waits" in begun.errors


def test_it_goes_back_although_its_command_was_killed_half_way(begun: Lab, tmp_path: Path) -> None:
    before = told(begun)
    with begun.begin(policy(tmp_path, "STALL"), "--confirm", "1s", verb="apply") as process:
        until(lambda: rules(begun) == {"STALL"}, "it does not begin")
        assert begun.status()["pending"]["timer"] == "runs"
        process.send_signal(signal.SIGKILL)
    gone_back(begun, {"first"})
    assert told(begun) == before


def test_a_command_that_is_interrupted_takes_its_change_back(begun: Lab, tmp_path: Path) -> None:
    before = told(begun)
    with begun.begin(policy(tmp_path, "STALL"), verb="apply") as process:
        until(lambda: rules(begun) == {"STALL"}, "it does not begin")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert told(begun) == before
    assert [host["revision_realized"] for host in begun.status()["hosts"]] == [3, 3]


def test_down_ends_the_timer_too(begun: Lab, tmp_path: Path) -> None:
    begun.verb("apply", policy(tmp_path, "second"), "--confirm", "600s")
    begun("down")
    assert list_processes(begun.run) == [] and not begun.run.exists()


def reached(source: str, target: str, address: str) -> bool:
    """Whether a TCP connection to port 22 comes about between two pods' namespaces, as far as can be told in 0.3 s."""

    def listen() -> socket.socket:
        return socket.create_server(("", 22))

    with run_in(target, listen), run_in(source, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as client:
        client.settimeout(0.3)
        return client.connect_ex((address, 22)) == 0


def test_packets_follow_a_change_and_its_way_back(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_agents, "AGENT", REAL_AGENT)
    file = tmp_path / "lab.yaml"
    file.write_text(SMALL)
    lab("up", file)
    one, two = (pod["netns"] for pod in lab.status()["pods"])
    until(lambda: reached(one, two, "10.1.1.12"), "nothing arrives")
    lab.verb("apply", policy(tmp_path, "ssh"), "--confirm", "1s")
    if lab.status()["pending"] is not None:
        assert not reached(one, two, "10.1.1.12") or lab.status()["pending"] is None
    until(lambda: lab.status()["revision"] == 3 and reached(one, two, "10.1.1.12"), "it does not go back")


@pytest.mark.parametrize(
    "arguments", [[], ["--confirmed", "--dry-run"], ["x.yaml", "--confirmed"], ["x.yaml", "--confirm", "0s"]]
)
def test_wrong_arguments(begun: Lab, arguments: list[str]) -> None:
    begun.verb("apply", *arguments, status=2)


def test_without_a_lab(lab: Lab) -> None:
    lab.verb("apply", "x.yaml", status=2)
    assert "no lab is there" in lab.errors
