# SPDX-License-Identifier: Apache-2.0
"""A pod's own /etc/hosts and /etc/hostname, as kubelet writes them, in place of those of its containers' roots."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from overlay.container_root import Mount
from supervisor_glue.api.status import Object
from supervisor_glue.controllers.objects import name_of, spec_of, status_of
from supervisor_glue.spherelet.environment import pod_hostname
from supervisor_glue.spherelet.runtime import root_of

HOSTS, HOSTNAME = "/etc/hosts", "/etc/hostname"


def hosts_text(pod: Object) -> str:
    """Of /etc/hosts."""
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
    for address in status_of(pod).get("podIPs") or ():
        lines.append(f"{address['ip']}\t{name_of(pod)}")
    for alias in spec_of(pod).get("hostAliases") or ():
        lines.append("\t".join([alias["ip"], *(alias.get("hostnames") or ())]))
    return "\n".join(lines) + "\n"


def apply_names(pod: Object, container: Object, mounts: Sequence[Mount], folder: Path) -> list[Mount]:
    """The files, written into the pod's folder, and their mounts beside those that the container has; its own go first.
    A root without /etc/hostname stays without. Raises OSError."""
    taken = {mount["target"].rstrip("/") for mount in mounts}
    return [*mounts, *(mount for mount in _files(pod, container, folder) if mount["target"] not in taken)]


def _files(pod: Object, container: Object, folder: Path) -> Iterator[Mount]:
    (folder / "hosts").write_text(hosts_text(pod), encoding="utf-8")
    yield Mount(source=str(folder / "hosts"), target=HOSTS, read_only=False)
    if os.path.isfile(root_of(container) + HOSTNAME):
        (folder / "hostname").write_text(pod_hostname(pod) + "\n", encoding="utf-8")
        yield Mount(source=str(folder / "hostname"), target=HOSTNAME, read_only=False)
