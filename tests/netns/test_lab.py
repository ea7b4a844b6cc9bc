# SPDX-License-Identifier: Apache-2.0
"""The lab in real namespaces, with a stand-in for the agents: it comes up, changes, goes, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import pytest

from overlay.underlay import read_links
from tests.support.lab_command import SMALL, Lab
from tests.support.leftovers import list_leftovers, list_processes
from tests.support.patience import until, until_inside
from tests.support.stub_agent import RUN

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_netns,
    pytest.mark.needs_mount,
    pytest.mark.needs_tun,
    pytest.mark.needs_tool("nsenter", "unshare"),
]
STALLED = """\
---
resource_type: SecurityPolicy
id: p
category: Application
rules: [{id: STALL, services: [SSH], action: DROP}]
"""  # which the stand-in never realizes


def test_lab_comes_up_and_goes(lab: Lab) -> None:
    before = list_leftovers(lab.run)
    assert "2 hosts, 8 pods, revision 1" in lab("up")
    status = lab.status()
    assert [host["revision_realized"] for host in status["hosts"]] == [1, 1]
    assert {pod["state"] for pod in status["pods"]} == {"running"}
    assert [item["vni"] for item in status["segments"]] == [5001, 5002]
    assert list_leftovers(lab.run)["links"] == before["links"]  # nothing in our own namespace
    for host in status["hosts"]:
        links = list(read_links(Path(host["netns"])))
        assert ("ul0", True, 1700) in [(link["name"], link["up"], link["mtu"]) for link in links]
    # A second time: nothing changes, not even a process.
    pids = lab.pids()
    assert "as it was" in lab("up")
    assert lab.pids() == pids
    assert lab("up", "--dry-run") == "nothing to do\n"
    done = lab.exec("web-1", "sh", "-c", "hostname; exit 7")
    assert (done.returncode, done.stdout) == (7, "web-1\n")
    assert "has no pod" in (lab("exec", "nobody", "--", "true", status=2) + lab.errors)
    assert "segment front, VNI 5001" in lab("graph")
    assert "down in" in lab("down")
    assert list_leftovers(lab.run) == before
    assert "no lab is there" in lab("down")


def test_a_changed_file_changes_only_the_difference(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(SMALL)
    lab("up", file)
    before = lab.pids()
    moved = SMALL.replace("name: two, host: b", "name: two, host: a")
    file.write_text(moved + "  - {name: three, host: b, segment: s}\n")
    lines = lab("up", file, "--dry-run").splitlines()
    assert [line for line in lines if "agent" in line or "interface" in line or "pod one" in line] == []
    assert {"- pod two", "+ pod two on a", "+ pod three on b", "~ what the hosts are told"} <= set(lines)
    assert lab.pids() == before  # a dry run
    lab("up", file)
    after = lab.pids()
    assert after["one"] == before["one"] and after["two"] != before["two"] and after["three"]
    assert lab.status()["revision"] == 2
    file.write_text(SMALL.replace("  - {name: two, host: b, segment: s, ips: [10.1.1.12]}\n", ""))
    lab("up", file)
    assert list(lab.pids()) == ["one"]
    # Two agents; the pod's shell and what it waits for.
    until(lambda: len(list_processes(lab.run)) == 4, "others are there, or some are not")


def test_agents_that_know_nothing_of_migrations_leave_a_pod_where_it_is(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(SMALL)
    lab("up", file)
    before = lab.status()["pods"]
    lab("migrate", "one", "b", status=1)
    assert "its agent's answer to bulk lacks rules, count, parts" in lab.errors
    assert lab.status()["pods"] == before
    assert "no host 'c'" in lab("migrate", "one", "c", status=2) + lab.errors
    assert "no pod 'x'" in lab("migrate", "x", "b", status=2) + lab.errors
    assert "is on a already" in lab("migrate", "one", "a")


def test_what_was_killed_is_started_again_or_taken_away(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(SMALL)
    lab("up", file)
    before = lab.pids()
    os.kill(before["one"], signal.SIGKILL)
    until(lambda: lab.status()["pods"][0]["state"] == "ended", "it goes on")
    lab("up", file)
    after = lab.pids()
    assert after["one"] not in (None, before["one"]) and after["two"] == before["two"]
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"PALISADE_LAB={lab.run}/labs/lab".encode() in (folder / "environ").read_bytes():
                os.kill(int(folder.name), signal.SIGKILL)
    lab("down")
    assert not lab.run.exists()


def test_a_lost_record_is_no_excuse(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(SMALL)
    lab("up", file)
    (lab.run / "labs" / "lab" / "lab.json").write_text("{")
    lab("down")
    assert not lab.run.exists()


def test_interrupted_it_cleans_up(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(SMALL + STALLED)  # else it may be up before it is interrupted
    with lab.begin("up", file) as process:
        until((lab.run / "labs" / "lab" / "ns").exists, "it does not begin")
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert process.returncode == 130
    assert not lab.run.exists()


def test_killed_half_way_it_can_be_taken_down(lab: Lab) -> None:
    with lab.begin("up") as process:
        until(lambda: list_processes(lab.run), "nothing is started")
        process.kill()
    lab("down")
    assert list_processes(lab.run) == []
    assert not lab.run.exists()


def test_labs_side_by_side(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(SMALL)
    lab("up", file, "--name", "x")
    lab("up", file, "--name", "x-y")
    assert "say --name" in lab("status", status=2) + lab.errors
    assert len(lab.status("--name", "x")["pods"]) == 2
    lab("down", "--name", "x")
    assert {pod["state"] for pod in lab.status()["pods"]} == {"running"}
    lab("down", "--all")
    assert not lab.run.exists()


def test_a_pod_runs_its_command_and_ends_with_all_its_processes(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "pods.yaml"
    out = tmp_path / "out"
    file.write_text(f"""\
apiVersion: v1
kind: Pod
metadata: {{name: talker, namespace: shop}}
spec:
  hostname: talk
  containers:
    - name: main
      image: nobody/asks
      command: [sh, -c]
      args:
        - (sleep 1000 &);
          echo $(hostname) $GREETING $$ $(ls {lab.run}/labs/lab/ns | wc -l) > {out};
          exec sleep 1001
      env: [{{name: GREETING, value: hello}}]
""")
    lab("up", file)
    until(lambda: out.exists() and out.read_text().endswith("\n"), "it says nothing")
    assert out.read_text() == "talk hello 1 0\n"  # its first process; and it sees no names of namespaces
    assert any("sleep 1000" in command for command in list_processes(lab.run))
    os.kill(lab.pids()["shop/talker"], signal.SIGKILL)
    until(lambda: not any("sleep" in command for command in list_processes(lab.run)), "its processes go on")


def test_a_command_that_is_not_there(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "pods.yaml"
    file.write_text(
        "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: n}, "
        "spec: {containers: [{name: c, command: [/no/such/program]}]}}"
    )
    lab("up", file, status=2)
    assert "the pod n/p does not start" in lab.errors and "/no/such/program" in lab.errors
    assert not lab.run.exists()


def test_strangers_are_left_alone(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(SMALL)
    lab("up", file)
    netns = lab.status()["hosts"][0]["netns"]
    with subprocess.Popen(["nsenter", f"--net={netns}", "sleep", "600"]) as stranger:
        until_inside(stranger.pid, netns)
        lab("down")
        assert f"process {stranger.pid} is not the lab's" in lab.errors
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.needs_tool("setpriv")
def test_without_capabilities(lab: Lab) -> None:
    lowered = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
    done = subprocess.run([*lowered, *RUN, "lab", "up"], capture_output=True, text=True, env=lab.environment)
    assert done.returncode == 3
    assert "CAP_NET_ADMIN" in done.stderr
    assert not lab.run.exists()
