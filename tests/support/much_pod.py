# SPDX-License-Identifier: Apache-2.0
"""A Pod that says as much as a Pod may."""

from __future__ import annotations

from typing import Any, Final

_PROBE: Final = {"initialDelaySeconds": 1, "timeoutSeconds": 2, "periodSeconds": 3, "failureThreshold": 4}
_TERM: Final = {
    "labelSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]},
    "topologyKey": "kubernetes.io/hostname",
}
_NODES: Final = {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}
MUCH: Final[dict[str, Any]] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "labels": {"app": "web"}, "annotations": {"note": "x"}},
    "spec": {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 7,
        "activeDeadlineSeconds": 600,
        "nodeSelector": {"no": "such"},
        "automountServiceAccountToken": False,
        "hostname": "w",
        "subdomain": "s",
        "shareProcessNamespace": False,
        "securityContext": {"runAsUser": 5, "runAsNonRoot": True, "fsGroup": 6, "supplementalGroups": [7, 8]},
        "imagePullSecrets": [{"name": "pull"}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [_NODES]},
                "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 5, "preference": _NODES}],
            },
            "podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [_TERM],
                "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 5, "podAffinityTerm": _TERM}],
            },
        },
        "tolerations": [{"key": "k", "operator": "Equal", "value": "v", "effect": "NoExecute", "tolerationSeconds": 9}],
        "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["a", "b"]}],
        "dnsConfig": {"nameservers": ["10.0.0.2"], "searches": ["x"], "options": [{"name": "ndots", "value": "2"}]},
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}
        ],
        "initContainers": [{"name": "first", "image": "host", "command": ["true"]}],
        "containers": [
            {
                "name": "main",
                "image": "host",
                "command": ["sleep"],
                "args": ["1000"],
                "workingDir": "/tmp",
                "ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"}],
                "env": [
                    {"name": "A", "value": "b"},
                    {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "C", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "0"}}},
                    {"name": "D", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k", "optional": True}}},
                    {"name": "E", "valueFrom": {"secretKeyRef": {"name": "m", "key": "k", "optional": False}}},
                ],
                "envFrom": [{"prefix": "X_", "configMapRef": {"name": "m"}}, {"secretRef": {"name": "s"}}],
                "resources": {"limits": {"cpu": "1", "memory": "64Mi"}, "requests": {"cpu": "100m"}},
                "volumeMounts": [
                    {"name": "empty", "mountPath": "/e", "subPath": "x"},
                    {"name": "map", "mountPath": "/m", "readOnly": True},
                ],
                "livenessProbe": {**_PROBE, "exec": {"command": ["true"]}},
                "readinessProbe": {**_PROBE, "httpGet": {"path": "/", "port": "http"}},
                "startupProbe": {**_PROBE, "tcpSocket": {"port": 80}},
                "lifecycle": {"preStop": {"exec": {"command": ["true"]}}},
                "securityContext": {
                    "capabilities": {"drop": ["ALL"]},
                    "privileged": False,
                    "readOnlyRootFilesystem": True,
                    "allowPrivilegeEscalation": False,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "stdin": True,
            }
        ],
        "volumes": [
            {"name": "empty", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "map", "configMap": {"name": "m", "items": [{"key": "k", "path": "p", "mode": 256}]}},
            {"name": "secret", "secret": {"secretName": "s", "defaultMode": 256, "optional": True}},
            {"name": "down", "downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}},
            {
                "name": "all",
                "projected": {
                    "sources": [
                        {"configMap": {"name": "m"}},
                        {"secret": {"name": "s"}},
                        {"serviceAccountToken": {"path": "t", "audience": "a", "expirationSeconds": 3600}},
                    ]
                },
            },
        ],
    },
}
