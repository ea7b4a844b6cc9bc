# SPDX-License-Identifier: Apache-2.0
"""What a Spherelet is told when it is started."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from overlay.cgroup import Hierarchies


@dataclass(frozen=True, slots=True)
class Settings:
    """`run`: its records, logs and volumes; `room`: where pods' network namespaces have their names; `netns`: the
    host's (None: this process's); `mark`: NAME=VALUE, in the environment of all that it starts; `hide`: what containers
    on the host's own root do not see; `network`: whether pods wait for their vNIC; `address`: the host's own; `agent`:
    the packet agent's run directory, and `desired` the file that it is told by (None: it is told by somebody else);
    `log_bytes`, `log_files`: how large a container's log may be, and how many of that size are kept (kubelet's
    defaults); `attached`: network namespaces of vNICs that are no pod's, by their Ports."""

    host: str
    run: Path
    room: Path
    netns: Path | None = None
    mark: str = ""
    hide: tuple[Path, ...] = ()
    network: bool = True
    address: str = ""
    agent: Path | None = None
    desired: Path | None = None
    log_bytes: int = 10 << 20
    log_files: int = 5
    attached: tuple[tuple[str, str], ...] = ()
    hierarchies: Hierarchies = field(default_factory=Hierarchies)

    def folder(self, uid: str) -> Path:
        """Of a pod."""
        return self.run / "pods" / uid

    def namespace(self, uid: str) -> Path:
        """The name of a pod's network namespace."""
        return self.room / namespace_name(uid)


def namespace_name(uid: str) -> str:
    """A pod's network namespace in the room, by the pod's uid."""
    return f"pod-{uid}"
