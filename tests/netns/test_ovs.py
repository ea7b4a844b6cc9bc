# SPDX-License-Identifier: Apache-2.0
"""Open vSwitch as another host of the segment: what each sends, the other takes. BFD, ping, TCP, options both ways."""

from __future__ import annotations

import hashlib
import random
import re
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlay.enter import run_in
from tests.conftest import LONG
from tests.netns.test_agent import IPS, POLICY, TwoHosts
from tests.netns.test_teps import FAST, dropped, tep
from tests.support.ovs import SCHEMA, OpenVswitch
from tests.support.patience import PATIENCE, until
from tests.support.ping import ping
from tests.support.two_hosts import switch_off_offloads

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_netns,
    pytest.mark.needs_tun,
    pytest.mark.needs_ipv6,
    pytest.mark.needs_tool("ovs-vswitchd", "ovsdb-server", "ip"),
]

B_MAC, MTU, VNI = "02:00:00:00:00:0b", 1500, 5001
X_MAC, X_IP = "02:00:00:00:00:0e", "10.0.1.99"
WORLD = FAST.replace("hosts: [", "hosts: [{name: h3, tep: 172.16.0.3}, ") + (
    f'  - {{name: x, host: h3, segment: one, mac: "{X_MAC}", ips: [{X_IP}]}}\n'
)
FLOWS = (
    f"in_port=podb,actions=set_field:{VNI}->tun_id,output:gnv",
    f"in_port=gnv,tun_id={VNI},actions=output:podb",
)


class Mixed:
    """Pod `a` on our host h1, pod `b` on h2, which is Open vSwitch's."""

    def __init__(self, folder: Path) -> None:
        self.hosts = TwoHosts(folder)
        self.ovs_folder = Path(tempfile.mkdtemp(prefix="pal-ovs-", dir="/tmp"))  # paths of Unix sockets are short
        self.ovs = OpenVswitch(self.hosts.netns("h2"), self.ovs_folder)

    def up(self, tier: str) -> None:
        hosts, ovs = self.hosts, self.ovs
        hosts.inventory = WORLD
        hosts.build()
        hosts.tell(POLICY)
        # The switch reads frames from the wire one by one: cards that cut and sum nothing, on both sides of it.
        switch_off_offloads(hosts.netns("h1"), "ul0")
        # The card's frames reach the kernel too, which would answer ARP for br-phy's addresses with the card's own MAC.
        sysctl = "echo 8 > /proc/sys/net/ipv4/conf/ul0/arp_ignore"
        subprocess.run(["nsenter", f"--net={hosts.netns('h2')}", "sh", "-c", sysctl], check=True)
        ovs.start()
        netdev = "datapath_type=netdev"
        ovs.vsctl("add-br", "br-phy", "--", "set", "bridge", "br-phy", netdev)
        ovs.vsctl("add-br", "br-int", "--", "set", "bridge", "br-int", netdev, "fail-mode=secure")
        ovs.vsctl("add-port", "br-phy", "ul0", "--", "set", "interface", "br-phy", "mtu_request=1700")
        ovs.ip("address", "add", "172.16.0.2/24", "dev", "br-phy")
        ovs.ip("address", "add", "172.16.0.3/24", "dev", "br-phy")
        ovs.ip("link", "set", "br-phy", "mtu", "1700", "up")
        ovs.ip("link", "set", "ul0", "up")
        peer = ["peer", "name", "eth0", "address", B_MAC, "netns", hosts.netns("b")]
        ovs.ip("link", "add", "podb", "type", "veth", *peer)
        ovs.ip("link", "set", "podb", "up")
        switch_off_offloads(hosts.netns("b"), "eth0")
        inside = ["nsenter", f"--net={hosts.netns('b')}", "ip"]
        for words in (
            ["link", "set", "eth0", "up"],
            ["link", "set", "lo", "up"],
            ["address", "add", f"{IPS['b'][0]}/24", "dev", "eth0"],
            ["address", "add", f"{IPS['b'][1]}/64", "dev", "eth0", "nodad"],
            ["neighbour", "add", X_IP, "lladdr", X_MAC, "dev", "eth0"],
        ):
            subprocess.run([*inside, *words], check=True)
        ovs.vsctl("add-port", "br-int", "podb")
        tunnel = ["type=geneve", "options:remote_ip=172.16.0.1", "options:key=flow", "options:csum=true"]
        # A port for each of its two TEPs: BFD is a port's.
        for port, local in (("gnv", "172.16.0.2"), ("gnv3", "172.16.0.3")):
            own = f"options:local_ip={local}"
            ovs.vsctl("add-port", "br-int", port, "--", "set", "interface", port, *tunnel, own)
        tlv = "{class=0x0104,type=0x01,len=4}->tun_metadata0,{class=0x0104,type=0x81,len=4}->tun_metadata1"
        ovs.ofctl("add-tlv-map", "br-int", tlv + ",{class=0xff5a,type=0x01,len=8}->tun_metadata2")
        self.flows(*FLOWS)
        hosts.start("--uplink", tier, only="h1")

    def flows(self, *flows: str) -> None:
        self.ovs.ofctl("del-flows", "br-int")
        for flow in flows:
            self.ovs.ofctl("add-flow", "br-int", flow)

    def packets(self, match: str) -> int:
        """How many packets have met the flow of this match."""
        found = re.findall(r"n_packets=(\d+)", self.ovs.ofctl("dump-flows", "br-int", match))
        return sum(map(int, found))

    def ping(self, source: str, target: str, size: int = 56) -> bool:
        return ping(self.hosts.netns(source), target, size)

    def transfer(self, source: str, target: str, ip: str, size: int = 1 << 20) -> None:
        """Bytes over TCP: what arrives is what was sent."""
        data = random.Random(size).randbytes(size)
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        with self.hosts.listen(target, family, 5001) as listener:
            client = self.hosts.connect(source, ip, 5001)
            server = listener.accept()[0]
            server.settimeout(PATIENCE)
            thread = threading.Thread(target=lambda: (client.sendall(data), client.close()), daemon=True)
            thread.start()
            digest = hashlib.sha1(usedforsecurity=False)
            while block := server.recv(1 << 20):
                digest.update(block)
            thread.join(PATIENCE)
            server.close()
        assert digest.digest() == hashlib.sha1(data, usedforsecurity=False).digest()

    def end(self) -> None:
        self.ovs.end()
        self.hosts.end()
        shutil.rmtree(self.ovs_folder)


@pytest.fixture(params=["A", "B", "C"] if LONG else ["A", "B"])
def mixed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mixed]:
    if not SCHEMA.exists():
        pytest.skip("needs ovs-vswitchd: its database's schema is not there")
    found = Mixed(tmp_path)
    try:
        found.up(request.param)
        yield found
    finally:
        found.end()


def test_open_vswitch_is_another_host(mixed: Mixed) -> None:
    hosts, ovs = mixed.hosts, mixed.ovs
    for family in (0, 1):
        for source, target in (("a", "b"), ("b", "a")):
            ip = IPS[target][family]
            assert mixed.ping(source, ip), f"no answer to a ping from {source} to {ip}"
            assert mixed.ping(source, ip, MTU - (28, 48)[family])  # as long as they get
            mixed.transfer(source, target, ip)
    with hosts.listen("b", socket.AF_INET, 22), pytest.raises(ConnectionRefusedError):
        hosts.connect("a", IPS["b"][0], 22)

    # Options that nobody must understand are passed over ...
    option = "set_field:0xdeadbeef->tun_metadata{}"
    mixed.flows(f"in_port=podb,actions=set_field:{VNI}->tun_id,{option.format(0)},output:gnv", FLOWS[1])
    until(lambda: mixed.ping("b", IPS["a"][0]) and "0xdeadbeef" in ovs.appctl("dpctl/dump-flows"), "no ping with it")
    mixed.transfer("b", "a", IPS["a"][0])
    # ... a critical one is refused, with what it came with ...
    mixed.flows(f"in_port=podb,actions=set_field:{VNI}->tun_id,{option.format(1)},output:gnv", FLOWS[1])

    def refused() -> bool:
        return not ping(hosts.netns("b"), IPS["a"][0], seconds=1) and dropped(hosts, "h1", "tunnel-malformed") > 0

    until(refused, "a critical option is passed over")
    # ... and ours is what docs/geneve-options.md says: x is behind a third TEP, but b sends to our host.
    ours = f"in_port=gnv3,tun_id={VNI},dl_dst={X_MAC},tun_metadata2=0xfffffffe02000000"
    mixed.flows(*FLOWS, f"priority=40000,{ours},actions=drop")

    def onward() -> bool:
        with run_in(hosts.netns("b"), lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
            sender.sendto(b"x", (X_IP, 9))
        return mixed.packets(ours) > 0

    until(onward, "a frame for a workload that has moved is not sent on with our option")

    # Open vSwitch's BFD, as it comes, marked as OAM (RFC 9521): up, and missed when it ends.
    ovs.vsctl("set", "interface", "gnv", "bfd:enable=true", "bfd:oam=true", "bfd:min_tx=300", "bfd:min_rx=300")
    until(lambda: tep(hosts, "h1")["bfd"] == "UP", "BFD with Open vSwitch does not come up")
    until(lambda: "Forwarding: true" in ovs.appctl("bfd/show", "gnv"), "Open vSwitch does not think so")
    until(lambda: tep(hosts, "h1")["detection_ms"] == 900, "its timers do not arrive")
    ovs.vsctl("set", "interface", "gnv", "bfd:enable=false")
    until(lambda: tep(hosts, "h1")["dead"], "nobody misses it")
