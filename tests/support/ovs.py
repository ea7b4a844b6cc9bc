# SPDX-License-Identifier: Apache-2.0
"""Open vSwitch as a host of the overlay: its userspace datapath and a database of its own, in a network namespace.

No service, nothing in /var or /etc: database, sockets and logs are in a directory of the test.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

SCHEMA: Final = Path("/usr/share/openvswitch/vswitch.ovsschema")


@dataclass
class OpenVswitch:
    """`netns`: the path of the host's namespace; `folder`: for everything that it writes, with a short name."""

    netns: str
    folder: Path
    pids: list[int] = field(default_factory=list)

    def _run(self, *command: str) -> str:
        names = ("OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR", "OVS_SYSCONFDIR")
        environment = {**os.environ, **dict.fromkeys(names, str(self.folder))}
        done = subprocess.run(
            ["nsenter", f"--net={self.netns}", *command],
            env=environment, text=True, capture_output=True, check=False, timeout=200,
        )  # fmt: skip
        if done.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def start(self) -> None:
        """Both daemons; nothing is configured."""
        self.folder.mkdir(parents=True, exist_ok=True)
        database = str(self.folder / "conf.db")
        self._run("ovsdb-tool", "create", database, str(SCHEMA))
        common = ["--detach", "--no-chdir"]
        socket = f"--remote=punix:{self.folder}/db.sock"
        pid, log = f"--pidfile={self.folder}/db.pid", f"--log-file={self.folder}/db.log"
        self._run("ovsdb-server", socket, pid, log, *common, database)
        self.pids.append(int((self.folder / "db.pid").read_text()))
        self.vsctl("--no-wait", "init")
        pid, log = f"--pidfile={self.folder}/vs.pid", f"--log-file={self.folder}/vs.log"
        self._run("ovs-vswitchd", pid, log, *common, f"unix:{self.folder}/db.sock")
        self.pids.append(int((self.folder / "vs.pid").read_text()))

    def vsctl(self, *words: str) -> str:
        """`ovs-vsctl`."""
        return self._run("ovs-vsctl", f"--db=unix:{self.folder}/db.sock", "--timeout=180", *words)

    def ofctl(self, command: str, bridge: str, *words: str) -> str:
        """`ovs-ofctl COMMAND BRIDGE …`."""
        return self._run("ovs-ofctl", "-O", "OpenFlow15", command, f"unix:{self.folder}/{bridge}.mgmt", *words)

    def appctl(self, *words: str) -> str:
        """`ovs-appctl` to the switch."""
        pid = (self.folder / "vs.pid").read_text().strip()
        return self._run("ovs-appctl", "-t", f"{self.folder}/ovs-vswitchd.{pid}.ctl", *words)

    def ip(self, *words: str) -> str:
        """`ip` in the host's namespace."""
        return self._run("ip", *words)

    def end(self) -> None:
        """End both daemons, which are ours."""
        for pid in reversed(self.pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
