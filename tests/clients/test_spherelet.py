# SPDX-License-Identifier: Apache-2.0
"""The Spherelet with real processes: pods that are bound to its host run, end, are restarted, are shown, are gone.

The API and the Spherelet are processes; kubectl is real. Pods are bound by the tests, and wait for no network.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from base64 import b64decode
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from overlay import linux
from overlay.cgroup import Limits, groups_named, plan_groups, read_hierarchies
from tests.support.control_plane import PATIENCE, ControlPlane
from tests.support.kubectl import Kubectl, kubectl_path
from tests.support.patience import until
from tests.support.spherelet import Spherelet, host_alone, read
from tests.support.spherelet_pods import Put, events, is_ready, namespace_made, phase, put_made, reaches, shell

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_netns]
HOST = "esx-1"
LATEST = "1.37"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ControlPlane, Spherelet]]:
    with host_alone(tmp_path_factory.mktemp("host"), HOST) as found:
        yield found


@pytest.fixture
def kubectl(host: tuple[ControlPlane, Spherelet], tmp_path: Path) -> Kubectl:
    return Kubectl(LATEST, kubectl_path(LATEST), host[0].kubeconfig, tmp_path)


@pytest.fixture
def namespace(kubectl: Kubectl) -> str:
    return namespace_made(kubectl)


@pytest.fixture
def put(kubectl: Kubectl, namespace: str) -> Put:
    return put_made(kubectl, namespace, HOST)


def test_the_host_is_a_node(kubectl: Kubectl, host: tuple[ControlPlane, Spherelet]) -> None:
    until(lambda: kubectl("get", "lease", "-n", "kube-node-lease", HOST, code=None).code == 0, "no lease")
    row = kubectl("get", "node", HOST, "--no-headers").out.split()
    assert row[:2] == [HOST, "Ready"]
    node = json.loads(kubectl("get", "node", HOST, "-o", "json").out)
    assert node["metadata"]["labels"]["kubernetes.io/hostname"] == HOST
    assert node["status"]["capacity"]["cpu"] == str(os.cpu_count())
    assert {item["type"] for item in node["status"]["conditions"]} >= {"Ready", "MemoryPressure", "DiskPressure"}


def test_a_second_one_in_its_place_is_refused(kubectl: Kubectl, host: tuple[ControlPlane, Spherelet]) -> None:
    """While the first lives; killed, it leaves nothing that stops the next, as a test further down has it."""
    until(lambda: kubectl("get", "node", HOST, code=None).code == 0, "the first does not begin")
    done = subprocess.run(host[1].command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 3 and f"another Spherelet has {host[1].run}" in done.stderr


def test_a_pod_runs_and_goes(kubectl: Kubectl, namespace: str, put: Put, host: tuple[ControlPlane, Spherelet]) -> None:
    spec = {"containers": [shell("echo hello; exec sleep 1000"), {"name": "idle", "image": "host"}]}
    pod = put("web", spec, is_ready)
    assert pod["status"]["phase"] == "Running" and len(pod["status"]["containerStatuses"]) == 2
    folder = host[1].run / "pods" / pod["metadata"]["uid"]
    assert folder.is_dir() and (host[1].room / f"pod-{pod['metadata']['uid']}").exists()
    processes = list(linux.processes_marked(f"PALISADE_SANDBOX={pod['metadata']['uid']}"))
    assert processes
    kubectl("delete", "pod", "web", "-n", namespace, "--grace-period=1")
    until(lambda: not folder.exists(), "the pod's folder stays")
    assert not (host[1].room / f"pod-{pod['metadata']['uid']}").exists()
    assert not any(linux.process_lives(process) for process in processes)


def test_its_names_in_files(kubectl: Kubectl, namespace: str, put: Put) -> None:
    aliases = [{"ip": "192.0.2.7", "hostnames": ["other", "o"]}]
    put("named", {"hostAliases": aliases, "containers": [shell("cd /etc; cat hosts hostname")]}, phase("Running"))
    said = until(lambda: kubectl("logs", "named", "-n", namespace).out.splitlines(), "it says nothing")
    assert "192.0.2.7\tother\to" in said
    assert not Path("/etc/hostname").is_file() or said[-1] == "named"  # it was the host's


def test_init_containers_environment_and_volumes(kubectl: Kubectl, namespace: str, put: Put) -> None:
    there = ("-n", namespace)
    kubectl("create", "configmap", "settings", *there, "--from-literal=color=blue", "--from-literal=b=2")
    kubectl("create", "secret", "generic", "password", *there, "--from-literal=p=geheim")
    environment = [
        {"name": "A", "value": "1"},
        {"name": "B", "value": "$(A)-$$(A)-$(NONE)"},
        {"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "color"}}},
        {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "password", "key": "p"}}},
        {"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    ]
    mounts = [
        {"name": "shared", "mountPath": "/shared"},
        {"name": "settings", "mountPath": "/etc/palisade-test/settings"},
        {"name": "secret", "mountPath": "/run/secrets/word", "subPath": "p"},
    ]
    script = (
        '_f=/shared/told; echo "$B $COLOR $WORD $ME" >$_f;'
        " cat /etc/palisade-test/settings/color /run/secrets/word >>$_f;"
        " cat /shared/first >>/shared/told; touch /usr/x /shared/ok && exit 3; test -e /shared/ok"
    )
    spec = {
        "restartPolicy": "Never",
        "initContainers": [
            {**shell("echo one >/shared/first", volumeMounts=mounts), "name": "one"},
            {**shell("echo two >>/shared/first", volumeMounts=mounts), "name": "two"},
        ],
        "containers": [shell(script + "; cat /shared/told >&2; exit 7", env=environment, volumeMounts=mounts)],
        "volumes": [
            {"name": "shared", "emptyDir": {}},
            {"name": "settings", "configMap": {"name": "settings"}},
            {"name": "secret", "secret": {"secretName": "password"}},
        ],
    }
    pod = put("job", spec, phase("Failed"))
    (status,) = pod["status"]["containerStatuses"]
    assert status["state"]["terminated"]["exitCode"] == 7
    assert [item["state"]["terminated"]["reason"] for item in pod["status"]["initContainerStatuses"]] == [
        "Completed",
        "Completed",
    ]
    assert not any(item["type"] == "Ready" and item["status"] == "True" for item in pod["status"]["conditions"])


def test_a_killed_spherelet_finds_its_pods_again(
    kubectl: Kubectl, namespace: str, put: Put, host: tuple[ControlPlane, Spherelet]
) -> None:
    """Neither restarted nor lost; and how a container ended meanwhile is known."""
    running = host[1]
    stays = put("stays", {"containers": [shell("exec sleep 1000")]}, is_ready)
    gate = {"name": "gate", "mountPath": "/gate"}
    script = "while ! test -e /gate/open; do sleep 0.05; done; exit 5"
    ending = {
        "restartPolicy": "Never",
        "containers": [shell(script, volumeMounts=[gate])],
        "volumes": [{"name": "gate", "emptyDir": {}}],
    }
    ends = put("ends", ending, is_ready)
    put("goes", {"containers": [shell("exec sleep 1000")]}, is_ready)
    uid = stays["metadata"]["uid"]
    before = sorted(linux.processes_marked(f"PALISADE_CONTAINER={uid}/main/1"))
    running.kill()
    folder = running.run / "pods" / ends["metadata"]["uid"]
    (folder / "volumes" / "gate" / "open").touch()
    until(lambda: (folder / "containers" / "main" / "1.exit").exists(), "it does not end without the Spherelet")
    kubectl("delete", "pod", "goes", "-n", namespace, "--grace-period=1", "--wait=false")
    running.start()
    ended = reaches(kubectl, namespace, "ends", phase("Failed"))
    assert ended["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 5
    until(lambda: kubectl("get", "pod", "goes", "-n", namespace, code=None).code != 0, "a deleted pod stays")
    after = sorted(linux.processes_marked(f"PALISADE_CONTAINER={uid}/main/1"))
    assert before and after == before
    assert read(kubectl, namespace, "stays")["status"]["containerStatuses"][0]["restartCount"] == 0


def test_restarts_and_probes(kubectl: Kubectl, namespace: str, put: Put) -> None:
    spec = {"containers": [shell("exit 1")]}

    def backs_off(pod: dict[str, Any]) -> bool:
        (status,) = pod["status"].get("containerStatuses") or [{}]
        return status.get("state", {}).get("waiting", {}).get("reason") == "CrashLoopBackOff"

    pod = put("crash", spec, backs_off)
    (status,) = pod["status"]["containerStatuses"]
    assert status["restartCount"] == 1 and status["lastState"]["terminated"]["exitCode"] == 1
    probe = {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1}
    script = "sleep 1; touch /tmp/ready; exec sleep 1000"
    pod = put("slow", {"containers": [shell(script, readinessProbe=probe)]}, phase("Running"))
    assert is_ready(reaches(kubectl, namespace, "slow", is_ready))
    missing = put("missing", {"containers": [{"name": "main", "image": "host", "command": ["no-such"]}]}, backs_off)
    told = missing["status"]["containerStatuses"][0]["lastState"]["terminated"]
    assert told["exitCode"] == 128 and "no-such" in told["message"]
    until(lambda: "Failed" in events(kubectl, namespace, "missing"), "no Event")


def test_volumes_of_all_kinds_and_their_changes(kubectl: Kubectl, namespace: str, put: Put) -> None:
    there = ("-n", namespace)
    kubectl("create", "configmap", "settings", *there, "--from-literal=a=first", "--from-literal=b=other")
    own = {"serviceAccountToken": {"path": "token", "audience": "somebody"}}
    limit = {"path": "memory", "resourceFieldRef": {"containerName": "main", "resource": "limits.memory"}}
    fields = {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}, limit]}}
    mode = {"key": "a", "path": "in/a", "mode": 0o400}
    volumes = [
        {"name": "some", "configMap": {"name": "settings", "items": [mode]}},
        {"name": "all", "projected": {"sources": [own, fields, {"configMap": {"name": "settings"}}]}},
        {"name": "none", "secret": {"secretName": "nobody", "optional": True}},
        {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "empty", "emptyDir": {}},
    ]
    mounts = [{"name": volume["name"], "mountPath": f"/v/{volume['name']}"} for volume in volumes]
    mounts.append({"name": "empty", "mountPath": "/v/part", "subPathExpr": "of-$(ME)"})
    script = """
        echo dir $(pwd) who $(id -u):$(id -g):$(id -G | tr ' ' ,) host $HOST
        echo file $(cat /v/some/in/a) $(stat -Lc %a /v/some/in/a) $(ls /v/some) none $(ls /v/none | wc -l)
        echo token $(cut -d. -f2 /v/all/token | tr _- /+)
        echo fields $(cat /v/all/labels) $(($(cat /v/all/memory) > 1000000))
        head -c 2000000 /dev/zero >/v/memory/much 2>/dev/null; echo much $(stat -c %s /v/memory/much)
        touch /v/part/x && echo part $(ls /v/empty/*) $(stat -c %g /v/part/x)
        touch /x /tmp/x 2>/dev/null || echo read-only; echo x >/dev/null && echo device
        until [ "$(cat /v/all/a)" = second ]; do sleep 0.05; done
        until [ "$(cat /v/some/in/a)" = second ]; do sleep 0.05; done
        echo changed; printf bye >/dev/termination-log; exit 3
    """
    environment = [
        {"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
    ]
    more: dict[str, Any] = {"volumeMounts": mounts, "env": environment, "workingDir": "/srv/not/there"}
    more["securityContext"] = {"readOnlyRootFilesystem": True, "runAsNonRoot": True}
    pod = {
        "restartPolicy": "Never",
        "containers": [shell(script, **more)],
        "volumes": volumes,
        "securityContext": {"runAsUser": 1234, "runAsGroup": 5678, "fsGroup": 4321},
    }
    put("reader", pod, is_ready)
    patch = json.dumps({"data": {"a": "second"}})
    until(lambda: "device" in kubectl("logs", "reader", *there).out, "it does not get through")
    kubectl("patch", "configmap", "settings", *there, "--type=merge", "-p", patch)
    ended = reaches(kubectl, namespace, "reader", phase("Failed"))
    lines = [line.split() for line in kubectl("logs", "reader", *there).out.splitlines()]
    said = {words[0]: words[1:] for words in lines}
    assert said["dir"] == ["/srv/not/there", "who", "1234:5678:5678,4321", "host", "127.0.0.1"]
    assert said["file"] == ["first", "440", "in", "none", "0"]  # its group may read it, too
    claims = json.loads(b64decode(said["token"][0] + "=="))
    assert claims["sub"] == f"system:serviceaccount:{namespace}:default" and claims["aud"] == ["somebody"]
    assert said["fields"] == ['app="reader"', "1"] and said["much"] == [str(1 << 20)]
    assert said["part"] == ["x", "4321"] and "read-only" in said and "device" in said
    assert "changed" in said
    last = ended["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (last["exitCode"], last["message"]) == (3, "bye")


def test_a_pod_that_holds_more_than_it_may_is_evicted(kubectl: Kubectl, namespace: str, put: Put) -> None:
    volumes = [{"name": "small", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "large", "emptyDir": {"sizeLimit": "1Gi"}}]
    mounts = [{"name": volume["name"], "mountPath": f"/v/{volume['name']}"} for volume in volumes]
    fills = "head -c 3000000 /dev/zero >/v/large/x; head -c 3000000 /dev/zero >/v/small/x; exec sleep 1000"
    spec = {"containers": [shell(fills, volumeMounts=mounts)], "volumes": volumes, "terminationGracePeriodSeconds": 600}
    status = put("greedy", spec, phase("Failed"))["status"]
    told = 'Usage of EmptyDir volume "small" exceeds the limit "1Mi". '
    assert (status["reason"], status["message"]) == ("Evicted", told)
    assert status["containerStatuses"][0]["state"]["terminated"]["exitCode"] in (137, 143)
    conditions = {item["type"]: item for item in status["conditions"]}
    assert conditions["DisruptionTarget"]["reason"] == "TerminationByKubelet"
    assert conditions["Ready"]["status"] == "False"
    assert events(kubectl, namespace, "greedy")["Evicted"] == (1, told)


def test_a_pod_in_its_hosts_network(kubectl: Kubectl, namespace: str, put: Put) -> None:
    """It sees the host's own namespace, and has the host's address; only where the Namespace allows it."""
    seen = "echo $(readlink /proc/self/ns/net) $ADDRESS; exec sleep 1000"
    own = [{"name": "ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]
    spec = {"hostNetwork": True, "containers": [shell(seen, env=own)]}
    refused = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "host"}, "spec": spec}
    told = kubectl("create", "-n", namespace, "-f", "-", given=json.dumps(refused), code=1).err
    assert "hostNetwork" in told and "Forbidden" in told
    kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=privileged")
    pod = put("host", spec, is_ready)
    assert pod["status"]["podIP"] == pod["status"]["hostIP"] == "127.0.0.1"
    told = until(lambda: kubectl("logs", "host", "-n", namespace).out, "it says nothing")
    assert told.split() == [os.readlink("/proc/self/ns/net"), "127.0.0.1"]
    kubectl("delete", "pod", "host", "-n", namespace, "--grace-period=1")
    assert os.path.exists("/proc/self/ns/net") and not kubectl("get", "pods", "-n", namespace, "-o", "name").out


def test_what_begins_and_ends_beside_a_container(
    kubectl: Kubectl, namespace: str, put: Put, host: tuple[ControlPlane, Spherelet]
) -> None:
    """A sidecar is started before and ended after the others; hooks run; who fails says why."""
    mount = {"name": "shared", "mountPath": "/shared"}
    order = "/shared/order"
    hooks = {
        "postStart": {"exec": {"command": ["sh", "-c", f"until grep main {order}; do :; done; echo post >>{order}"]}},
        "preStop": {"exec": {"command": ["sh", "-c", f"echo never >>{order}"]}},
    }
    beside = (
        f"trap 'echo term >>{order}; exit 0' TERM; echo beside >>{order}; touch /tmp/up; while :; do sleep 0.05; done"
    )
    main = f"echo main >>{order}; until grep -q post {order}; do sleep 0.05; done; echo the end; exit 1"
    up = {"exec": {"command": ["test", "-e", "/tmp/up"]}, "periodSeconds": 1}
    before = {"exec": {"command": ["sh", "-c", "echo pre >>/shared/order"]}}
    spec = {
        "restartPolicy": "Never",
        "initContainers": [
            {**shell("echo first >>/shared/order", volumeMounts=[mount]), "name": "first"},
            {
                **shell(beside, volumeMounts=[mount], startupProbe=up, lifecycle={"preStop": before}),
                "name": "beside",
                "restartPolicy": "Always",
            },
            {**shell("echo second >>/shared/order", volumeMounts=[mount]), "name": "second"},
        ],
        "containers": [
            shell(
                main,
                volumeMounts=[mount],
                lifecycle=hooks,
                terminationMessagePolicy="FallbackToLogsOnError",
            )
        ],
        "volumes": [{"name": "shared", "emptyDir": {}}],
    }
    pod = put("beside", spec, phase("Failed"))
    assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"] == "the end\n"
    states = {item["name"]: item["state"]["terminated"] for item in pod["status"]["initContainerStatuses"]}
    assert {name: state["exitCode"] for name, state in states.items()} == {"first": 0, "beside": 0, "second": 0}
    found = (host[1].run / "pods" / pod["metadata"]["uid"] / "volumes/shared/order").read_text().split()
    assert found == ["first", "beside", "second", "main", "post", "pre", "term"]


def test_unhealthy_containers_and_what_cannot_be_done(kubectl: Kubectl, namespace: str, put: Put) -> None:
    """Each failure of a probe counts in one Event; what takes too much memory is told from what fails."""
    probe = {"tcpSocket": {"port": 1}, "periodSeconds": 1, "failureThreshold": 3, "timeoutSeconds": 30}
    alive = {"name": "main", "image": "host", "livenessProbe": probe}
    watched = {"containers": [alive], "terminationGracePeriodSeconds": 0}
    put("ill", watched, lambda pod: pod["status"].get("containerStatuses", [{}])[0].get("restartCount"))
    until(lambda: events(kubectl, namespace, "ill").get("Unhealthy", (0, ""))[0] >= 3, "failures are not counted")
    told = until(lambda: "Killing" in (found := events(kubectl, namespace, "ill")) and found, "no Event")
    assert told["Killing"][1] == "Container main failed liveness probe, will be restarted"
    assert told["Unhealthy"][1].startswith("Liveness probe failed: ")
    grpc = {"name": "main", "image": "host", "readinessProbe": {"grpc": {"port": 1}}}
    put("asks", {"containers": [grpc]}, lambda pod: "readinessProbe.grpc" in json.dumps(pod["status"]))
    greedy = shell("head -c 300m /dev/zero | tail", resources={"limits": {"memory": "30Mi"}})
    if "memory" in plan_groups("", Limits(1), read_hierarchies())[1]:
        put("greedy", {"containers": [shell("sleep 1000", resources=greedy["resources"])]}, is_ready)
        until(lambda: "LimitNotEnforced" in events(kubectl, namespace, "greedy"), "no Event")
        return
    once = {"containers": [greedy], "restartPolicy": "Never"}
    pod = put("greedy", once, lambda pod: phase("Failed")(pod) or phase("Succeeded")(pod))
    has_swap = len(Path("/proc/swaps").read_text().splitlines()) > 1
    if groups_named(f"palisade-{pod['metadata']['uid']}-", read_hierarchies()) and not has_swap:
        ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
        assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)


TALKER = "for i in 1 2 3; do echo line $i; done; echo oops >&2; while [ ! -e /tmp/end ]; do sleep 0.05; done; echo last"


@pytest.mark.parametrize("version", ["1.31", "1.33", "1.37"])
def test_logs_and_commands(
    version: str, kubectl: Kubectl, namespace: str, put: Put, host: tuple[ControlPlane, Spherelet], tmp_path: Path
) -> None:
    put("talker", {"containers": [shell(TALKER)], "restartPolicy": "Never"}, is_ready)
    user = Kubectl(version, kubectl_path(version), host[0].kubeconfig, tmp_path)
    there = ("-n", namespace)
    until(lambda: "oops" in user("logs", "talker", *there).out, "the log does not have what the pod has said")
    assert user("logs", "talker", *there, "--tail=2").out == "line 3\noops\n"
    assert user("logs", "talker", *there, "--limit-bytes=6").out == "line 1"
    done = user("exec", "talker", *there, "--", "sh", "-c", "echo out; echo err >&2; exit 3", code=3)
    assert (done.out, done.err) == ("out\n", "err\ncommand terminated with exit code 3\n")
    assert user("exec", "-i", "talker", *there, "--", "cat", given="from afar\n").out == "from afar\n"
    much = user("exec", "talker", *there, "--", "sh", "-c", "yes 0123456789 | head -c 3000000").out
    assert len(much) == 3_000_000  # three times what may be under way
    following = user("exec", "talker", *there, "--", "touch", "/tmp/end")
    assert following.out == ""
    assert user("logs", "-f", "talker", *there).out.endswith("last\n")  # it ends when the container has
    reaches(kubectl, namespace, "talker", phase("Succeeded"))
    assert "completed pod" in user("exec", "talker", *there, "--", "true", code=1).err
    assert user("logs", "talker", *there, "-c", "other", code=1).err.startswith("error: container other is not valid")


def test_logs_by_time_and_of_the_start_before(
    kubectl: Kubectl, namespace: str, put: Put, host: tuple[ControlPlane, Spherelet], tmp_path: Path
) -> None:
    """A shell may open its own output again, which cuts a file short; nothing is lost while no Spherelet is there."""
    gate = {"name": "gate", "mountPath": "/gate"}
    script = (
        "n=$(cat /gate/n 2>/dev/null || echo 0); echo $((n + 1)) >/gate/n; echo start $n; echo again >/dev/stderr;"
        " [ $n = 0 ] && exit 1; until [ -e /gate/go ]; do sleep 0.05; done; echo late; touch /gate/said; sleep 1000"
    )
    spec = {
        "containers": [shell(script, volumeMounts=[gate])],
        "volumes": [{"name": "gate", "emptyDir": {}}],
        "terminationGracePeriodSeconds": 0,
    }
    pod = put("teller", spec, lambda pod: is_ready(pod) and pod["status"]["containerStatuses"][0]["restartCount"] == 1)
    there = ("-n", namespace)

    def log(*more: str) -> list[str]:
        return kubectl("logs", "teller", *there, *more).out.splitlines()

    assert log("--previous") == ["start 0", "again"]
    until(lambda: log() == ["start 1", "again"], "what it said is not there")
    (first, _), (second, _) = (line.split(" ", 1) for line in log("--timestamps"))
    begun = pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
    assert begun[:-1] <= first <= second and len(first) == 30
    host[1].kill()
    gate_folder = host[1].run / "pods" / pod["metadata"]["uid"] / "volumes" / "gate"
    time.sleep(max(0.0, datetime.fromisoformat(second[:19] + "Z").timestamp() + 1.0 - time.time()))  # the next second
    (gate_folder / "go").touch()
    until(lambda: (gate_folder / "said").exists(), "it does not go on")
    until(lambda: b"late" in (gate_folder.parent.parent / "containers/main/2.log").read_bytes(), "it is not written")
    host[1].start()
    until(lambda: kubectl("logs", "teller", *there, code=None).code == 0, "the Spherelet does not come back")
    assert log() == ["start 1", "again", "late"]
    late = log("--timestamps")[-1].split()[0]
    assert log(f"--since-time={late[:19]}Z") == ["late"] and log("--since=1h", "--tail=2") == ["again", "late"]
    api = f"/api/v1/namespaces/{namespace}/pods/teller/log"
    refused = kubectl("get", "--raw", f"{api}?sinceSeconds=0&tailLines=-1", code=1).err
    assert "sinceSeconds: Invalid value: 0: must be greater than 0" in refused and "tailLines" in refused


def test_an_older_kubectls_exec_is_told_what_is_spoken(
    kubectl: Kubectl, namespace: str, put: Put, host: tuple[ControlPlane, Spherelet], tmp_path: Path
) -> None:
    put("talker", {"containers": [shell("sleep 1000")], "terminationGracePeriodSeconds": 0}, is_ready)
    old = Kubectl("1.27", kubectl_path("1.27"), host[0].kubeconfig, tmp_path)
    assert "only WebSocket is spoken here" in old("exec", "talker", "-n", namespace, "--", "true", code=1).err


def test_the_python_clients_terminal(namespace: str, put: Put, host: tuple[ControlPlane, Spherelet]) -> None:
    kubernetes = pytest.importorskip("kubernetes", reason="needs kubernetes: Python's client")
    from kubernetes.stream import stream

    put("talker", {"containers": [shell("sleep 1000")], "terminationGracePeriodSeconds": 0}, is_ready)
    with kubernetes.config.new_client_from_config(str(host[0].kubeconfig)) as client:
        core = kubernetes.client.CoreV1Api(client)
        command = ["sh", "-c", "test -t 0 && echo a terminal; read word; echo got $word; exit 4"]
        running = stream(
            core.connect_get_namespaced_pod_exec,
            "talker",
            namespace,
            command=command,
            stdin=True,
            stdout=True,
            stderr=True,
            tty=True,
            _preload_content=False,
        )
        running.write_stdin("hello\n")
        said, end = "", time.monotonic() + PATIENCE
        while running.is_open():
            assert time.monotonic() < end, said
            running.update(timeout=1)
            said += running.read_stdout() if running.peek_stdout() else ""
        assert "a terminal" in said and "got hello" in said
        assert running.returncode == 4
