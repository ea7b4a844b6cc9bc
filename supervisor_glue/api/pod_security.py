# SPDX-License-Identifier: Apache-2.0
"""What a pod may ask of its host: Kubernetes' Pod Security Standard `baseline`, unless its Namespace is labelled
`pod-security.kubernetes.io/enforce: privileged`, which only who may change Namespaces can do.

Kubernetes' own default is the other way round; here a pod shares the host's kernel and files, and who may create pods
in a Namespace is nobody on the host.
Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from supervisor_glue.api.status import Object, error_forbidden

ENFORCE: Final = "pod-security.kubernetes.io/enforce"
PRIVILEGED: Final = "privileged"
_HOSTS_OWN: Final = ("hostNetwork", "hostPID", "hostIPC")
_CAPABILITIES: Final = frozenset(
    (
        *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP"),
        *("SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
    )
)


def pod_security_check(pod: Object, namespace: Object | None) -> None:
    """Of a pod that is to be made. Raises ApiError 403 with everything that goes too far."""
    labels = {} if namespace is None else namespace["metadata"].get("labels") or {}
    if labels.get(ENFORCE) == PRIVILEGED:
        return
    found = list(violations(pod.get("spec") or {}))
    if found:
        name = str(pod["metadata"].get("name") or pod["metadata"].get("generateName") or "")
        raise error_forbidden("pods", "", name, f'violates PodSecurity "baseline:latest": {", ".join(found)}')


def violations(spec: dict[str, Any]) -> Iterator[str]:
    """What of a pod's spec the standard forbids."""
    asked = [field for field in _HOSTS_OWN if spec.get(field)]
    if asked:
        yield f"host namespaces ({', '.join(f'{field}=true' for field in asked)})"
    paths = [volume["name"] for volume in spec.get("volumes") or () if volume.get("hostPath") is not None]
    if paths:
        yield f"hostPath volumes ({', '.join(paths)})"
    for field in ("initContainers", "containers"):
        for container in spec.get(field) or ():
            name, context = container.get("name"), container.get("securityContext") or {}
            if context.get("privileged"):
                yield f'privileged (container "{name}" must not set securityContext.privileged=true)'
            added = {str(item) for item in (context.get("capabilities") or {}).get("add") or ()}
            beyond = sorted(item for item in added if item.upper().removeprefix("CAP_") not in _CAPABILITIES)
            if beyond:
                told = ", ".join(f'"{item}"' for item in beyond)
                yield f'non-default capabilities (container "{name}" must not include {told} in capabilities.add)'
            if any(port.get("hostPort") for port in container.get("ports") or ()):
                yield f'hostPort (container "{name}" uses host ports)'
