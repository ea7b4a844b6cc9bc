# SPDX-License-Identifier: Apache-2.0
"""Real kubectl, four versions: what people type every day, and what they then see."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from supervisor_glue.auth.signing import SIGNER_CLIENT, request_make
from tests.support.kubectl import Kubectl
from tests.support.much_pod import MUCH

POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 3306}]
"""
POD = """
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers:
  - {name: main, image: host, command: [sleep, "1000"], ports: [{name: http, containerPort: 80}]}
"""
CLUSTER_POLICY = """
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: NAME}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {}}
  ingress:
  - {name: none, action: Deny, from: [{namespaces: {}}]}
"""


@pytest.fixture
def namespace(kubectl: Kubectl) -> Iterator[str]:
    name = f"test-{secrets.token_hex(4)}"
    assert kubectl("create", "namespace", name).out == f"namespace/{name} created\n"
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.mark.every_version
def test_apply_get_describe_delete(kubectl: Kubectl, namespace: str) -> None:
    there = ("-n", namespace)
    told = kubectl("apply", *there, "-f", "-", given=f"{POLICY}---{POD}").out
    assert told == "networkpolicy.networking.k8s.io/db created\npod/web created\n"
    assert kubectl("apply", *there, "-f", "-", given=POD).out == "pod/web unchanged\n"
    lines = kubectl("get", "pods,networkpolicies", *there).out.splitlines()
    assert lines[0].split() == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert lines[1].split()[:4] == ["pod/web", "0/1", "Pending", "0"]
    assert lines[4].split()[:2] == ["networkpolicy.networking.k8s.io/db", "app=db"]
    assert kubectl("get", "pods", *there, "-l", "app=web,missing notin (x)", "-o", "name").out == "pod/web\n"
    assert kubectl("get", "pods", *there, "-l", "app=other", "-o", "name").out == ""
    assert ["Namespace:", namespace] in [
        line.split() for line in kubectl("describe", "pod", "web", *there).out.splitlines()
    ]
    assert "To Port: 3306/TCP" in kubectl("describe", "networkpolicy", "db", *there).out
    assert "web" in kubectl("get", "pods", "-A", "-o", "wide").out
    assert kubectl("delete", "-f", "-", *there, given=POLICY).code == 0
    assert kubectl("get", "networkpolicy", "db", *there, code=1).err.strip() == (
        'Error from server (NotFound): networkpolicies.networking.k8s.io "db" not found'
    )


def test_apply_changes_and_diff_shows_it(kubectl: Kubectl, namespace: str) -> None:
    there = ("-n", namespace)
    kubectl("apply", *there, "-f", "-", given=POLICY)
    assert kubectl("diff", *there, "-f", "-", given=POLICY).out == ""
    other = POLICY.replace("3306", "5432")
    told = kubectl("diff", *there, "-f", "-", given=other, code=1).out
    assert "-    - port: 3306" in told and "+    - port: 5432" in told
    assert kubectl("apply", *there, "-f", "-", given=other).out == "networkpolicy.networking.k8s.io/db configured\n"
    port = kubectl("get", "netpol", "db", *there, "-o", "jsonpath={.spec.ingress[0].ports[0]}").out
    assert json.loads(port) == {"port": 5432, "protocol": "TCP"}
    kubectl("apply", *there, "-f", "-", "--dry-run=server", given=POLICY)
    assert "5432" in kubectl("get", "netpol", "db", *there, "-o", "yaml").out


@pytest.mark.every_version
def test_server_side_apply_and_its_conflicts(kubectl: Kubectl, namespace: str) -> None:
    there = ("-n", namespace)
    kubectl("apply", *there, "--server-side", "-f", "-", given=POD)
    labelled = POD.replace("app: web", "app: other")
    told = kubectl("apply", *there, "--server-side", "--field-manager=me", "-f", "-", given=labelled, code=1).err
    assert 'Apply failed with 1 conflict: conflict with "kubectl": .metadata.labels.app' in told
    forced = ("apply", *there, "--server-side", "--field-manager=me", "--force-conflicts", "-f", "-")
    assert kubectl(*forced, given=labelled).out == "pod/web serverside-applied\n"
    assert kubectl("get", "pods", *there, "-l", "app=other", "-o", "name").out == "pod/web\n"


def test_from_client_side_apply_to_server_side(kubectl: Kubectl, namespace: str) -> None:
    """No conflict of kubectl with itself, as long as nobody else has changed what it applied."""
    there = ("-n", namespace)
    kubectl("apply", *there, "-f", "-", given=POLICY)
    other = POLICY.replace("3306", "5432")
    kubectl("apply", *there, "--server-side", "-f", "-", given=other)
    assert '"port":5432' in kubectl("get", "netpol", "db", *there, "-o", "json").out.replace(" ", "")
    kubectl("apply", *there, "-f", "-", given=POLICY.replace("name: db", "name: later"))
    patch = '{"spec":{"ingress":[{"ports":[{"port":9999}]}]}}'
    kubectl("patch", "netpol", "later", *there, "--type=merge", "-p", patch)
    later = other.replace("name: db", "name: later")
    assert "conflict" in kubectl("apply", *there, "--server-side", "-f", "-", given=later, code=1).err


@pytest.mark.parametrize(
    ("kind", "patch"),
    [
        ("json", '[{"op":"add","path":"/metadata/labels/x","value":"1"}]'),
        ("merge", '{"metadata":{"labels":{"x":"1"}}}'),
        ("strategic", '{"metadata":{"labels":{"x":"1"}}}'),
    ],
)
def test_patches(kubectl: Kubectl, namespace: str, kind: str, patch: str) -> None:
    there = ("-n", namespace)
    kubectl("create", *there, "-f", "-", given=POD)
    kubectl("patch", "pod", "web", *there, f"--type={kind}", "-p", patch)
    assert json.loads(kubectl("get", "pod", "web", *there, "-o", "json").out)["metadata"]["labels"]["x"] == "1"


def test_label_annotate_edit(kubectl: Kubectl, namespace: str) -> None:
    there = ("-n", namespace)
    kubectl("create", *there, "-f", "-", given=POD)
    assert kubectl("label", "pod", "web", *there, "tier=front").out == "pod/web labeled\n"
    assert "already has a value" in kubectl("label", "pod", "web", *there, "tier=back", code=1).err
    kubectl("label", "pod", "web", *there, "tier-")
    kubectl("annotate", "pod", "web", *there, "note=hello world")
    found = json.loads(kubectl("get", "pod", "web", *there, "-o", "json").out)["metadata"]
    assert found["labels"] == {"app": "web"} and found["annotations"]["note"] == "hello world"


@pytest.mark.every_version
def test_what_kubectl_makes_itself(kubectl: Kubectl, namespace: str) -> None:
    """Some of these go as protobuf from 1.32 on."""
    there = ("-n", namespace)
    kubectl("create", "serviceaccount", "robot", *there)
    kubectl("create", "configmap", "settings", *there, "--from-literal=a=b")
    kubectl("create", "secret", "generic", "password", *there, "--from-literal=p=geheim")
    kubectl("create", "role", "reader", *there, "--verb=get,list", "--resource=pods")
    kubectl("create", "rolebinding", "reader", *there, "--role=reader", f"--serviceaccount={namespace}:robot")
    kubectl("run", "shell", *there, "--image=host", "--restart=Never", "--command", "--", "sleep", "1")
    assert kubectl("get", "secret", "password", *there, "-o", "jsonpath={.data.p}").out == "Z2VoZWlt"
    assert kubectl("get", "cm", "settings", *there, "-o", "jsonpath={.data.a}").out == "b"
    assert kubectl("auth", "can-i", "delete", "pods", *there).out == "yes\n"


def test_a_token_may_what_its_role_says(kubectl: Kubectl, namespace: str, tmp_path: Path) -> None:
    there = ("-n", namespace)
    kubectl("create", "serviceaccount", "robot", *there)
    kubectl("create", "role", "reader", *there, "--verb=get,list", "--resource=pods")
    kubectl("create", "rolebinding", "reader", *there, "--role=reader", f"--serviceaccount={namespace}:robot")
    token = kubectl("create", "token", "robot", *there).out.strip()
    config = json.loads(kubectl("config", "view", "--raw", "-o", "json").out)
    config["users"][0]["user"] = {"token": token}
    path = tmp_path / "robot"
    path.write_text(json.dumps(config))
    robot = Kubectl(kubectl.version, kubectl.path, path, kubectl.home)
    assert robot("auth", "can-i", "list", "pods", *there).out == "yes\n"
    assert robot("auth", "can-i", "list", "secrets", *there, code=1).out == "no\n"
    assert "No resources found" in robot("get", "pods", *there).err
    refused = robot("get", "secrets", *there, code=1).err.strip()
    assert refused == (
        f'Error from server (Forbidden): secrets is forbidden: User "system:serviceaccount:{namespace}:robot"'
        f' cannot list resource "secrets" in API group "" in the namespace "{namespace}"'
    )


@pytest.mark.every_version
def test_what_there_is(kubectl: Kubectl) -> None:
    rows = [line.split() for line in kubectl("api-resources", "--no-headers").out.splitlines()]
    names = {row[0] for row in rows}
    assert {"pods", "namespaces", "networkpolicies", "clusternetworkpolicies", "securitypolicies", "hosts"} <= names
    assert "networking.k8s.io/v1" in kubectl("api-versions").out.split()
    told = kubectl("explain", "networkpolicy.spec.ingress.from.ipBlock").out
    assert "cidr" in told and "except" in told
    assert "starting_address" in kubectl("explain", "supervisor.spec.management_network").out
    told = json.loads(kubectl("version", "-o", "json").out)
    assert (told["serverVersion"]["major"], told["serverVersion"]["minor"]) == ("1", "37")


def test_wrong_objects_are_told_all_that_is_wrong(kubectl: Kubectl, namespace: str) -> None:
    there = ("-n", namespace)
    wrong = POLICY.replace("3306", "70000").replace("podSelector: {matchLabels: {app: web}}", "ipBlock: {cidr: x}")
    told = kubectl("create", *there, "-f", "-", given=wrong, code=1).err
    assert 'The NetworkPolicy "db" is invalid:' in told
    assert "spec.ingress[0].ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive" in told
    assert 'spec.ingress[0].from[0].ipBlock.cidr: Invalid value: "x"' in told
    told = kubectl("create", *there, "-f", "-", given=POLICY.replace("ports:", "porst:"), code=1).err
    assert "porst" in told
    kubectl("create", *there, "--validate=false", "-f", "-", given=POLICY.replace("ports:", "porst:"))


def test_a_custom_kind(kubectl: Kubectl) -> None:
    name = f"test-{secrets.token_hex(4)}"
    kubectl("apply", "-f", "-", given=CLUSTER_POLICY.replace("NAME", name))
    row = kubectl("get", "cnp", name, "--no-headers").out.split()
    assert row[:3] == [name, "Admin", "10"]
    kubectl("apply", "-f", "-", given=CLUSTER_POLICY.replace("NAME", name).replace("priority: 10", "priority: 20"))
    assert kubectl("get", "cnp", name, "-o", "jsonpath={.spec.priority}").out == "20"
    kubectl("delete", "cnp", name)


def test_wait(kubectl: Kubectl, namespace: str) -> None:
    there = ("-n", namespace)
    kubectl("create", *there, "-f", "-", given=POD)
    kubectl("wait", *there, "--for=jsonpath={.status.phase}=Pending", "pod/web", "--timeout=60s")
    kubectl("delete", "pod", "web", *there)
    assert "NotFound" in kubectl("get", "pod", "web", *there, code=1).err


@pytest.mark.every_version
def test_port_forward_is_refused_in_a_sentence(kubectl: Kubectl, namespace: str) -> None:
    """Also by versions that try WebSocket first and SPDY then."""
    there = ("-n", namespace)
    kubectl("create", *there, "-f", "-", given=POD)
    status = '{"status": {"phase": "Running"}}'
    kubectl("patch", "pod", "web", *there, "--subresource=status", "--type=merge", "-p", status)
    told = kubectl("port-forward", *there, "pod/web", ":80", code=1).err
    assert "port-forward is not served here: pods are reached by their own addresses" in told


@pytest.mark.every_version
def test_apply_prunes_what_is_on_its_list(kubectl: Kubectl, namespace: str) -> None:
    """kubectl's own list has kinds that are not served, which it says."""
    there = ("-n", namespace)
    maps = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"a": "b"}}} for name in "xy"
    ]
    both = json.dumps({"apiVersion": "v1", "kind": "List", "items": maps})
    kubectl("apply", *there, "-f", "-", given=both)
    allowed = ("--prune", "-l", "a=b", "--prune-allowlist=core/v1/ConfigMap")
    told = kubectl("apply", *there, *allowed, "-f", "-", given=json.dumps(maps[0])).out
    assert "configmap/x unchanged" in told and "configmap/y pruned" in told
    assert kubectl("get", "configmaps", *there, "-l", "a=b", "-o", "name").out.split() == ["configmap/x"]
    refused = kubectl("apply", *there, "--prune", "-l", "a=b", "-f", "-", given=json.dumps(maps[0]), code=1).err
    assert "no matches for kind" in refused


@pytest.mark.every_version
def test_apply_prunes_what_is_of_its_set(kubectl: Kubectl, namespace: str) -> None:
    """An ApplySet remembers its kinds itself: no list of kubectl's is asked for."""

    def apply(given: object) -> str:
        named = ("-n", namespace, "--prune", "--applyset=mine", "-f", "-")
        return kubectl("apply", *named, given=json.dumps(given), KUBECTL_APPLYSET="true").out

    maps = [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}} for name in "xy"]
    apply({"apiVersion": "v1", "kind": "List", "items": maps})
    told = apply(maps[0])
    assert "configmap/x unchanged" in told and "configmap/y pruned" in told
    assert kubectl("get", "configmap", "-n", namespace, "-o", "name", "x", "y", code=1).out.split() == ["configmap/x"]


def test_a_debug_pod_is_a_copy(kubectl: Kubectl, namespace: str) -> None:
    """`kubectl debug` sends a Pod as protobuf from 1.32 on: all that it was is in it."""
    there = ("-n", namespace)
    kubectl("create", *there, "-f", "-", given=json.dumps(MUCH))
    kubectl(
        "debug",
        *there,
        "web",
        "--copy-to=copy",
        "--image=host",
        "--container=extra",
        "--profile=baseline",
        "--",
        "sleep",
        "1",
    )
    first, copy = (
        json.loads(kubectl("get", "pod", name, *there, "-o", "json").out)["spec"] for name in ("web", "copy")
    )
    (extra,) = (item for item in copy["containers"] if item["name"] == "extra")
    assert extra["command"] == ["sleep", "1"]
    copy["containers"].remove(extra)
    for container in (*first["containers"], *copy["containers"]):
        for probe in ("livenessProbe", "readinessProbe", "startupProbe"):  # some versions leave them out
            container.pop(probe, None)
    assert copy == first


@pytest.mark.every_version
def test_debugging_in_a_pod_is_refused_in_a_sentence(kubectl: Kubectl, namespace: str) -> None:
    """It ended in kubectl's panic."""
    kubectl("create", "-n", namespace, "-f", "-", given=POD)
    told = kubectl("debug", "-n", namespace, "web", "--image=host", "--", "sleep", "1", code=1).err
    assert "ephemeral containers are disabled for this cluster" in told


def test_a_certificate_is_approved(kubectl: Kubectl) -> None:
    """From 1.32 on what is approved comes back as protobuf, managedFields and all."""
    name = f"test-{secrets.token_hex(4)}"
    request = request_make(ec.generate_private_key(ec.SECP256R1()), "alice")
    spec = {"request": base64.b64encode(request).decode(), "signerName": SIGNER_CLIENT, "usages": ["client auth"]}
    item = {"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name}}
    kubectl("create", "-f", "-", given=json.dumps({**item, "spec": spec}))
    assert "approved" in kubectl("certificate", "approve", name).out
    assert "Approved" in kubectl("get", "csr", name, "--no-headers").out
    kubectl("delete", "csr", name)


def test_roles_are_reconciled(kubectl: Kubectl, namespace: str) -> None:
    metadata = {"name": "r", "namespace": namespace}
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata}
    for verbs in (["get"], ["list"]):
        rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": verbs}]
        kubectl("auth", "reconcile", "-f", "-", given=json.dumps({**role, "rules": rules}))
    found = json.loads(kubectl("get", "role", "r", "-n", namespace, "-o", "json").out)["rules"]
    assert sorted(verb for rule in found for verb in rule["verbs"]) == ["get", "list"]
