# SPDX-License-Identifier: Apache-2.0
"""The systemd unit of a host's agent. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

UNIT: Final = "palisade-agent.service"

_UNIT: Final = """\
# SPDX-License-Identifier: Apache-2.0
# Written by `palisade agent install`; `palisade agent uninstall` takes it away.
[Unit]
Description=Palisade host agent (distributed firewall and Geneve overlay)
After=network.target
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={command}
Restart=always
RestartSec=100ms
# The holder of the vNICs' descriptors stays when the agent is stopped: pods keep their carrier for the next agent.
KillMode=process
TimeoutStopSec=10s
RuntimeDirectory=palisade-agent
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=yes
StateDirectory=palisade
StateDirectoryMode=0700
LogsDirectory=palisade
LogsDirectoryMode=0750
UMask=0077
LimitNOFILE=65536

# Links, addresses, routes and TAPs; and to enter pods' network namespaces. The agent gives up all others itself, too.
CapabilityBoundingSet=CAP_NET_ADMIN CAP_SYS_ADMIN
AmbientCapabilities=
NoNewPrivileges=yes
RestrictNamespaces=net
RestrictAddressFamilies=AF_UNIX AF_NETLINK AF_INET AF_INET6 AF_PACKET
DevicePolicy=closed
DeviceAllow=/dev/net/tun rw
ProtectSystem=strict
# A change that nobody confirmed goes back: what the host is told is then written here (palisade apply --confirm).
ReadWritePaths={told}
ProtectHome=read-only
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""


def render_unit(command: Sequence[str], told: str) -> str:
    """The unit's text. `command`: program (its path) and arguments; `told`: the directory of the desired state."""
    return _UNIT.format(command=" ".join(map(_word, command)), told=_quoted(f"-{told}"))


def _word(word: str) -> str:
    """A word of ExecStart= as systemd.service(5) reads it: $ is no variable."""
    return _quoted(word.replace("$", "$$"))


def _quoted(word: str) -> str:
    """A word of a setting as systemd.syntax(7) reads it: quoted where it must be; % is no specifier."""
    escaped = word.replace("\\", "\\\\").replace("%", "%%").replace('"', '\\"')
    return f'"{escaped}"' if not word or set(word) & set(" \t\"'\\;") else escaped
