# SPDX-License-Identifier: Apache-2.0
"""Pods and the control plane, live: they reach the API as whom they are, and nothing else of it; and whoever may asks
the hosts through it.

Real packets: a lab of two hosts under a Supervisor, the control plane's leg on one of them, pods on both.
"""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from dfw import cli
from overlay.enter import run_in
from overlay.linux import processes_marked
from supervisor_glue.auth.kubeconfig import kubeconfig_read, kubeconfig_write
from supervisor_glue.controllers.resources import PODS, PORTS
from supervisor_glue.lab_supervisor import leg_netns
from tests.support.kube import namespace
from tests.support.patience import PATIENCE, until
from tests.support.pcapng import read_pcapng
from tests.support.supervisor_lab import SupervisorLab, holds, supervisor_lab

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_netns, pytest.mark.needs_mount, pytest.mark.needs_tun]
OTHER_PORT = 7443
TRACE = ("trace", "--from", "mine/near", "--to", "mine/far", "--dport", "80")
LISTS = """\
from kubernetes import client, config
config.load_incluster_config()
pods = client.CoreV1Api()
print(sorted(item.metadata.name for item in pods.list_namespaced_pod("mine").items))
try:
    pods.list_namespaced_pod("other")
except client.ApiException as error:
    print(error.status, error.reason)
"""
CONNECTS = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3]))"


@pytest.fixture(scope="module")
def lab() -> Iterator[SupervisorLab]:
    """Two Namespaces of which one is isolated, pods on both hosts."""
    with supervisor_lab() as running:
        isolated = namespace("mine")
        isolated["metadata"]["annotations"] = {"palisade.internal/isolation": "isolated"}
        role = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": "r", "namespace": "mine"},
        }
        role["rules"] = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]
        binding = {**role, "kind": "RoleBinding"}
        del binding["rules"]
        binding["roleRef"] = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}
        binding["subjects"] = [{"kind": "ServiceAccount", "name": "default", "namespace": "mine"}]
        running.apply([isolated, namespace("other"), role, binding])
        running.apply(
            [
                _pod("mine", "near", "esx-1"),
                _pod("mine", "far", "esx-2"),
                _pod("other", "lone", "esx-2", automountServiceAccountToken=False),
            ]
        )
        running.reaches(PODS, lambda items: len(items) == 3 and all(holds(item, "Ready") for item in items))
        assert cli.run(["wait", "--realized", "--lab", running.paths.name]) == cli.DONE
        yield running


def _pod(where: str, name: str, host: str, **spec: Any) -> dict[str, Any]:
    spec = {"nodeName": host, "containers": [{"name": "main", "image": "host"}], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": where}, "spec": spec}


def _api(lab: SupervisorLab) -> str:
    (port,) = (item for item in lab.reaches(PORTS, len) if item["metadata"]["name"] == "supervisor-api")
    return str(port["spec"]["ips"][0])


def _python(lab: SupervisorLab, where: str, name: str, code: str, *words: str, status: int | None = 0) -> str:
    if sys.prefix.startswith(("/tmp", "/run", "/var/tmp")):
        pytest.skip("a pod has these folders of its own: it does not see this Python")
    done = lab.kubectl("-n", where, "exec", name, "--", sys.executable, "-c", code, *words, code=status)
    return done.out if status == 0 else done.err


@pytest.mark.parametrize("name", ["near", "far"])
def test_a_client_in_a_pod_works_by_its_own_account(lab: SupervisorLab, name: str) -> None:
    """Kubernetes' own in-cluster configuration; also under the posture `isolated`, from both hosts."""
    assert _python(lab, "mine", name, LISTS).splitlines() == ["['far', 'near']", "403 Forbidden"]


def test_what_kubelet_says_of_the_api_is_said(lab: SupervisorLab) -> None:
    address = _api(lab)
    told = _python(lab, "mine", "far", "import json, os; print(json.dumps(dict(os.environ)))")
    found = {key: value for key, value in json.loads(told).items() if key.startswith("KUBERNETES_")}
    assert found == {
        "KUBERNETES_SERVICE_HOST": address,
        "KUBERNETES_SERVICE_PORT": "6443",
        "KUBERNETES_SERVICE_PORT_HTTPS": "6443",
        "KUBERNETES_PORT": f"tcp://{address}:6443",
        "KUBERNETES_PORT_6443_TCP": f"tcp://{address}:6443",
        "KUBERNETES_PORT_6443_TCP_PROTO": "tcp",
        "KUBERNETES_PORT_6443_TCP_PORT": "6443",
        "KUBERNETES_PORT_6443_TCP_ADDR": address,
    }


def test_no_token_where_none_is_wanted(lab: SupervisorLab) -> None:
    place = "/var/run/secrets"
    assert "No such file" in lab.kubectl("-n", "other", "exec", "lone", "--", "ls", place, code=2).err


def test_a_pod_in_its_hosts_network_is_in_the_labs_host(lab: SupervisorLab) -> None:
    """And not in this machine's namespace, where the control plane listens too."""
    lab.kubectl("label", "namespace", "other", "pod-security.kubernetes.io/enforce=privileged")
    lab.apply([_pod("other", "host", "esx-2", hostNetwork=True)])
    lab.kubectl("wait", "-n", "other", "--for=condition=Ready", "pod/host", "--timeout=60s")
    seen = lab.kubectl("-n", "other", "exec", "host", "--", "readlink", "/proc/self/ns/net").out.strip()
    assert seen == f"net:[{os.stat(lab.paths.host_netns('esx-2')).st_ino}]"
    port = kubeconfig_read(lab.kubectl.kubeconfig).server.rpartition(":")[2]
    assert "refused" in _python(lab, "other", "host", CONNECTS, "127.0.0.1", port, "5", status=1)
    lab.kubectl("delete", "pod", "host", "-n", "other", "--grace-period=0")


def test_up_again_starts_what_is_missing_and_nothing_else(lab: SupervisorLab) -> None:
    """Also after the control plane was killed: hosts and pods find it where it was."""

    def running() -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for process in processes_marked(lab.paths.mark):
            words = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
            if b"supervisor" in words:
                found.setdefault("supervisor", []).append(process.pid)
            elif b"spherelet" in words:
                found.setdefault(words[words.index(b"--host") + 1].decode(), []).append(process.pid)
        return found

    before = running()
    assert {name: len(pids) for name, pids in before.items()} == {"supervisor": 1, "esx-1": 1, "esx-2": 1}
    assert cli.run(["lab", "up", "--supervisor", "-q"]) == 0
    assert running() == before
    os.kill(before["supervisor"][0], signal.SIGKILL)
    assert cli.run(["lab", "up", "--supervisor", "-q"]) == 0
    after = running()
    assert after.pop("supervisor") != before.pop("supervisor") and after == before
    until(lambda: lab.kubectl("-n", "mine", "exec", "far", "--", "true", code=None).code == 0, "no tunnel")
    assert _python(lab, "mine", "far", LISTS).splitlines() == ["['far', 'near']", "403 Forbidden"]


def test_nothing_else_of_the_control_plane_is_reached(lab: SupervisorLab, capfd: pytest.CaptureFixture[str]) -> None:
    """Somebody listens there, and no pod gets to it; nor does anybody there get to a pod. The rules count it."""

    def hits() -> dict[str, int]:
        capfd.readouterr()
        assert cli.run(["show", "rules", "--counters", "-o", "json"]) == 0
        found: dict[str, int] = {}
        for row in json.loads(capfd.readouterr().out):
            found[row["rule_path"]] = found.get(row["rule_path"], 0) + row["hits"]
        return found

    before = hits()
    address, place = _api(lab), str(leg_netns(lab.paths))
    with run_in(place, lambda: socket.create_server(("", OTHER_PORT))):
        assert run_in(place, lambda: socket.create_connection((address, OTHER_PORT), 5)).close() is None
        for where, name in (("mine", "near"), ("other", "lone")):
            _python(lab, where, name, CONNECTS, address, "6443", "20")
            assert "timed out" in _python(lab, where, name, CONNECTS, address, str(OTHER_PORT), "0.5", status=1)
    pods = lab.reaches(PODS, len)
    (target,) = (item["status"]["podIP"] for item in pods if item["metadata"]["name"] == "lone")
    with run_in(str(lab.view().pods["other/lone"].netns), lambda: socket.create_server(("", OTHER_PORT))):
        with pytest.raises(TimeoutError):
            run_in(place, lambda: socket.create_connection((target, OTHER_PORT), 0.5))
        refused = {path: count - before.get(path, 0) for path, count in hits().items()}
        assert refused["system/control-plane"] >= 2 and refused["system/leg-egress"] >= 1
        assert (
            refused["system/leg-api"] >= 2 and refused["system/leg-ingress"] == 0
        )  # what pods send does not get there
        assert "timed out" in _python(lab, "mine", "near", CONNECTS, target, str(OTHER_PORT), "0.5", status=1)


@dataclass(frozen=True, slots=True)
class Told:
    """How a command ended."""

    code: int
    out: str
    err: str


def _asked(elsewhere: Path, config: Path, *words: str) -> Told:
    """A command of ours where no lab is known: only this file says which hosts are meant."""
    out, err = io.StringIO(), io.StringIO()
    with mock.patch.dict(os.environ, {"PALISADE_RUN": str(elsewhere)}), redirect_stdout(out), redirect_stderr(err):
        code = cli.run([*words, "--kubeconfig", str(config)])
    return Told(code, out.getvalue(), err.getvalue())


def _capturing(config: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dfw", "capture", *words, "--kubeconfig", str(config)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_hosts_are_asked_through_the_api(lab: SupervisorLab, tmp_path: Path) -> None:
    """What they show, a traced packet, connections that are ended, a capture: as beside them."""
    config = lab.kubectl.kubeconfig

    def rows(*words: str) -> list[dict[str, Any]]:
        done = _asked(tmp_path, config, *words, "-o", "json")
        assert done.code == 0 and not done.err, done.err
        found: list[dict[str, Any]] = json.loads(done.out)
        return found

    assert {("esx-1", "mine/near"), ("esx-2", "mine/far")} <= {
        (row["host"], row["vnic"]) for row in rows("show", "vnics")
    }
    traced = _asked(tmp_path, config, *TRACE, "-o", "json")
    assert traced.code == 0 and {row["host"] for row in json.loads(traced.out)["observations"]} == {
        "esx-1",
        "esx-2",
    }
    assert _asked(tmp_path, config, "wait", "--realized", "pod/mine/near").code == 0

    with run_in(str(lab.view().pods["mine/far"].netns), lambda: socket.create_server(("", OTHER_PORT))):
        target = rows("show", "vnics", "--host", "esx-2")
        (address,) = (row["ips"][0] for row in target if row["vnic"] == "mine/far")
        file = tmp_path / "seen.pcapng"
        words = ("--port", str(OTHER_PORT), "--count", "3", "-w", str(file), "--seconds", "60")
        with _capturing(config, "mine/far", *words) as capturing:
            until(file.exists, "no capture")
            near = str(lab.view().pods["mine/near"].netns)
            with run_in(near, lambda: socket.create_connection((address, OTHER_PORT), 5)):
                assert capturing.communicate(timeout=PATIENCE)[1] == "3 packets\n"
                (open_there,) = rows("show", "flows", "--match", f"vnic=mine/far,port={OTHER_PORT}")
                assert open_there["state"] == "ESTABLISHED"
                ended = {row["host"]: row["ended"] for row in rows("show", "flows", "--kill", f"port={OTHER_PORT}")}
                assert ended == {"esx-1": 1, "esx-2": 1}
        assert len(read_pcapng(file)) == 3
    assert not list(Path(tempfile.gettempdir()).glob(f"palisade-{os.getpid()}-*")), "the sockets are left"


def test_whoever_may_only_read_ends_nothing(lab: SupervisorLab, tmp_path: Path) -> None:
    """Whoever asks needs hosts/agent, with the verb create for what changes something."""
    group = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "hosts-seen"}}
    rule = {"apiGroups": ["palisade.internal"], "resources": ["hosts", "hosts/agent"], "verbs": ["get", "list"]}
    subject = {"kind": "ServiceAccount", "name": "seer", "namespace": "mine"}
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "seer", "namespace": "mine"}}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "hosts-seen"}
    binding = {**group, "kind": "ClusterRoleBinding", "roleRef": reference, "subjects": [subject]}
    lab.apply([account, {**group, "rules": [rule]}])
    admin = kubeconfig_read(lab.kubectl.kubeconfig)
    token = lab.kubectl("-n", "mine", "create", "token", "seer").out.strip()
    config = tmp_path / "seer"
    kubeconfig_write(config, replace(admin, user="seer", identity=None, token=token))

    def asked(*words: str) -> tuple[int, str]:
        done = _asked(tmp_path, config, *words)
        return done.code, done.err

    code, told = asked("show", "vnics")
    assert code == 1 and 'cannot list resource "hosts"' in told
    lab.apply([binding])
    assert asked("show", "vnics") == (0, "")
    for words in (
        ("show", "flows", "--kill", "all"),
        ("show", "rules", "--reset"),
        TRACE,
    ):
        code, told = asked(*words)
        assert code != 0 and 'cannot create resource "hosts/agent"' in told
    file = tmp_path / "seen.pcapng"
    with _capturing(config, "mine/far", "-w", str(file)) as capturing:
        until(file.exists, "no capture")
        lab.delete([binding])
        assert capturing.communicate(timeout=PATIENCE)[1].endswith("; the agent has ended\n")
    assert capturing.returncode == cli.LACKING
