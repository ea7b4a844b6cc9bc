# SPDX-License-Identifier: Apache-2.0
"""Peers of `bench lab`: Open vSwitch's userspace datapath, over AF_XDP and over AF_PACKET."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Final

from overlay.bench_fabric import (
    DENIED_PORT,
    POD_MTU,
    TEPS,
    UNDERLAY_MTU,
    VNI,
    Fabric,
    MissingError,
    Pods,
    ip,
    plan_denied,
    plan_pair,
    pod_address,
    run,
)


class Ovs(Fabric):
    """Open vSwitch's userspace datapath, Geneve, `ct()` and 1,000 flows. `port`: what its ports are."""

    port: str
    SCHEMA: Final = Path("/usr/share/openvswitch/vswitch.ovsschema")
    OFF: Final = "tx off tso off gso off gro off"
    COMMANDS: Final = ("ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl", "ovs-ofctl", "ethtool")

    def up(self) -> Pods:
        lacking = [name for name in self.COMMANDS if not shutil.which(name)]
        if lacking or not self.SCHEMA.exists():
            line = "apt-get install -y --no-install-recommends openvswitch-switch ethtool"
            raise MissingError(f"no {', '.join(lacking) or self.SCHEMA}: {line}")
        hosts, pods = plan_pair(self)
        for number, (host, pod) in enumerate(zip(hosts, pods, strict=True)):
            ip(host, f"link add vif0 mtu {POD_MTU} type veth peer name eth0 netns {pod}")
            ip(host, "link set vif0 up")
            pod_address(pod, number)
            for netns, interface in ((pod, "eth0"), (host, "vif0"), (host, "ul0")):
                run(["ethtool", "-K", interface, *self.OFF.split()], netns)
            self._switch(number, host)
        return Pods(*map(str, pods))

    def _switch(self, number: int, host: Path) -> None:
        here = self.folder / f"{self.name}{number}"
        here.mkdir()
        run(["ovsdb-tool", "create", str(here / "conf.db"), str(self.SCHEMA)])
        database = f"unix:{here}/db.sock"
        where = ["env", f"OVS_RUNDIR={here}", f"OVS_LOGDIR={here}", f"OVS_DBDIR={here}"]
        run([*where, "ovsdb-server", str(here / "conf.db"), f"--remote=p{database}", f"--pidfile={here}/db.pid",
             f"--unixctl={here}/db.ctl", "--detach", f"--log-file={here}/db.log"], host)  # fmt: skip
        run(["ovs-vsctl", f"--db={database}", "--no-wait", "init"])
        run([*where, "ovs-vswitchd", database, f"--pidfile={here}/vs.pid", f"--unixctl={here}/vs.ctl", "--detach",
             f"--log-file={here}/vs.log"], host)  # fmt: skip
        userspace = "datapath_type=netdev"
        protocols = "protocols=OpenFlow10,OpenFlow13,OpenFlow14,OpenFlow15"
        geneve = f"type=geneve options:remote_ip={TEPS[1 - number]} options:key={VNI}"
        for words in (
            f"add-br br-phy -- set bridge br-phy {userspace}",
            f"add-port br-phy ul0 -- set interface ul0 {self.port}",
            f"add-br br-int -- set bridge br-int {userspace} fail-mode=secure {protocols}",
            f"add-port br-int vif0 -- set interface vif0 {self.port}",
            f"add-port br-int gnv0 -- set interface gnv0 {geneve}",
        ):
            run(["ovs-vsctl", f"--db={database}", "--timeout=20", *words.split()])
        ip(host, f"addr add {TEPS[number]}/24 dev br-phy")
        ip(host, f"link set br-phy mtu {UNDERLAY_MTU} up")
        ip(host, "link set br-int up")
        flows = here / "flows"
        flows.write_text(render_flows())
        run(["env", f"OVS_RUNDIR={here}", "ovs-ofctl", "-O", "OpenFlow13", "replace-flows",
             f"unix:{here}/br-int.mgmt", str(flows)])  # fmt: skip

    def down(self) -> None:
        for pid_file in self.folder.glob(f"{self.name}*/*.pid"):
            end_by_file(pid_file)


class OvsAfxdp(Ovs):
    """Over AF_XDP."""

    name = "ovs-afxdp"
    port = "type=afxdp-nonpmd options:xdp-mode=generic"

    def note(self) -> str:
        return "AF_XDP in generic mode has no offloads: they are off on its ports"


class OvsAfpacket(Ovs):
    """Over AF_PACKET, what Open vSwitch calls a system port."""

    name = "ovs-afpacket"
    port = "type=system"

    def note(self) -> str:
        return "a system port of the userspace datapath takes no super-packets: offloads are off on its ports"


def end_by_file(pid_file: Path) -> None:
    """End the daemon that has written its number there, and wait for it."""
    try:
        pid = int(pid_file.read_text(encoding="ascii"))
        descriptor = os.pidfd_open(pid)
    except (OSError, ValueError):
        return
    try:
        if str(pid_file.parent) in Path(f"/proc/{pid}/cmdline").read_text():  # it is that daemon, and no other
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)
            deadline = time.monotonic() + 10
            while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def render_flows() -> str:
    """The 1,000 rules as OpenFlow, with connection tracking."""
    head = [
        "table=0,priority=100,arp,actions=NORMAL",
        "table=0,priority=50,ip,ct_state=-trk,actions=ct(table=1,zone=7)",
        "table=1,priority=100,ip,ct_state=+trk+est,actions=NORMAL",
        "table=1,priority=90,ip,ct_state=+trk+rel,actions=NORMAL",
        "table=1,priority=80,ip,ct_state=+trk+new,actions=resubmit(,2)",
    ]
    rules = [
        f"table=2,priority={2000 - number},tcp,nw_src={source},tp_dst={port},actions=drop"
        for number, (source, port) in enumerate(plan_denied())
    ]
    tail = [
        f"table=2,priority=2,tcp,tp_dst={DENIED_PORT},actions=drop",
        "table=2,priority=1,ip,actions=ct(commit,zone=7),NORMAL",
    ]
    return "\n".join([*head, *rules, *tail]) + "\n"
