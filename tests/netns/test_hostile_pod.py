# SPDX-License-Identifier: Apache-2.0
"""A pod that lies, against live hosts while others talk: what it sends is counted by reason, and the others go on."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from scapy.layers.dhcp import BOOTP
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_RA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from overlay.enter import run_in
from overlay.hoststate import GATEWAY_MAC, state_read, state_write
from overlay.limits import OWN_SHARE
from tests.netns.test_agent import IPS, POLICY, TwoHosts, two_agents
from tests.netns.test_teps import dropped
from tests.support.patience import PATIENCE, until

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_netns,
    pytest.mark.needs_tun,
    pytest.mark.needs_ipv6,
    pytest.mark.needs_tool("nft"),
]
MAC = {name: f"02:00:00:00:00:0{name}" for name in IPS}
(D4, D6), (C4, C6) = IPS["d"], IPS["c"]
SOL_UDP, UDP_SEGMENT = 17, 103
CONNECTIONS = 4096  # an agent of TwoHosts has room for
OWN = CONNECTIONS // OWN_SHARE
SILENT = 7777  # a port at which pod c says nothing at all


class Talk:
    """Pods a and c exchange bytes, all the time."""

    def __init__(self, hosts: TwoHosts) -> None:
        self.hosts, self.rounds, self.error = hosts, 0, ""
        self.stop = threading.Event()
        self.listener = hosts.listen("c", socket.AF_INET, 8080)
        self.near = hosts.connect("a", C4, 8080)
        self.far = self.listener.accept()[0]
        self.far.settimeout(PATIENCE)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            while not self.stop.is_set():
                mark = struct.pack("!Q", self.rounds)
                self.near.sendall(mark)
                assert self.far.recv(8, socket.MSG_WAITALL) == mark
                self.far.sendall(mark)
                assert self.near.recv(8, socket.MSG_WAITALL) == mark
                self.rounds += 1
                time.sleep(0.005)
        except (OSError, AssertionError) as error:
            self.error = repr(error)

    def goes_on(self) -> None:
        """It has not ended, and goes on from here; and others can still begin."""
        at = self.rounds
        until(lambda: self.error or self.rounds > at + 3, "nobody talks any more")
        assert self.error == ""
        with self.hosts.connect("a", C4, 8080) as again:
            self.listener.accept()[0].close()
            assert again.recv(1) == b""

    def end(self) -> None:
        self.stop.set()
        self.thread.join(PATIENCE)
        for one in (self.near, self.far, self.listener):
            one.close()


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[TwoHosts]:
    with two_agents(tmp_path, POLICY) as found:
        yield found


@contextlib.contextmanager
def wire(hosts: TwoHosts) -> Iterator[socket.socket]:
    """Pod d's interface, for frames of any kind; with a virtio header before each (PACKET_VNET_HDR)."""
    made = run_in(hosts.netns("d"), lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
    with made:
        made.setsockopt(263, 15, 1)
        made.bind(("eth0", 0))
        yield made


def frame(payload: Packet, *, src: str = MAC["d"], dst: str = GATEWAY_MAC) -> bytes:
    return bytes(10) + bytes(Ether(src=src, dst=dst) / payload)


def lies() -> Iterator[tuple[str, bytes]]:
    """What pod d says, and the reason why it is refused."""
    ping = IP(src=D4, dst=C4) / ICMP()
    yield "spoof-mac", frame(ping, src=MAC["c"])
    yield "spoof-ip", frame(IP(src=IPS["a"][0], dst=C4) / ICMP())
    yield "spoof-ip", frame(IPv6(src=IPS["a"][1], dst=C6) / UDP(dport=9))
    every = "ff:ff:ff:ff:ff:ff"
    yield "spoof-arp", frame(ARP(op=2, hwsrc=MAC["d"], psrc=C4, hwdst=MAC["c"], pdst=C4), dst=every)
    yield "spoof-arp", frame(ARP(op=1, hwsrc=MAC["c"], psrc=D4, pdst=C4), dst=every)
    advertised = ICMPv6ND_NA(tgt=C6, S=0, O=1) / ICMPv6NDOptDstLLAddr(lladdr=MAC["d"])
    yield "spoof-nd", frame(IPv6(src=D6, dst="ff02::1", hlim=255) / advertised, dst="33:33:00:00:00:01")
    router = IPv6(src="fe80::ff:fe00:d", dst="ff02::1", hlim=255) / ICMPv6ND_RA()
    yield "ra-guard", frame(router, dst="33:33:00:00:00:01")
    yield "dhcp-guard", frame(IP(src=D4, dst="255.255.255.255") / UDP(sport=67, dport=68) / BOOTP(op=2), dst=every)
    yield "vlan-guest", bytes(10) + bytes(Ether(src=MAC["d"], dst=GATEWAY_MAC) / Dot1Q(vlan=5) / ping)
    inner = Ether(src=MAC["c"], dst=MAC["a"]) / IP(src=C4, dst=IPS["a"][0]) / ICMP()
    geneve = bytes.fromhex("0000655800138900") + bytes(inner)
    # Another host's TEP; its own host's is an address that the router does not know.
    for reason, tep in (("underlay", "172.16.0.2"), ("no-route", "172.16.0.1")):
        yield reason, frame(IP(src=D4, dst=tep) / UDP(sport=50000, dport=6081) / Raw(geneve))


def test_a_pod_that_lies_about_itself(hosts: TwoHosts) -> None:
    talk = Talk(hosts)
    with wire(hosts) as out:
        for reason, data in lies():
            before = dropped(hosts, "h1", reason)
            for _ in range(20):
                out.send(data)
            until(lambda reason=reason, before=before: dropped(hosts, "h1", reason) >= before + 20, reason)  # type: ignore[misc]
        talk.goes_on()
        # Super-packets that are none, in a virtio header: some the pod's own kernel refuses, the rest we do.
        rnd, before, passed = random.Random(3), dropped(hosts, "h1", "offload"), 0
        for _ in range(300):
            words = map(rnd.choice, ((0, 54, 9000), (0, 1, 500), (0, 14, 34, 50), (0, 6, 16)))
            transport = rnd.choice((TCP(dport=8080), UDP(dport=9)))
            packet = frame(IP(src=D4, dst=C4) / transport / Raw(bytes(rnd.choice((9, 999)))))
            head = struct.pack("=BB4H", rnd.choice((0, 1)), rnd.choice((1, 3, 4, 5, 0x81)), *words)
            with contextlib.suppress(OSError):
                passed += out.send(head + packet[10:]) > 0
        assert passed > 20
        with run_in(hosts.netns("d"), lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as tiny:
            tiny.setsockopt(SOL_UDP, UDP_SEGMENT, 16)
            tiny.sendto(bytes(160), (C4, 9))
        until(lambda: dropped(hosts, "h1", "offload") > before, "nothing was refused for its offload header")
    talk.goes_on()
    talk.end()
    assert dropped(hosts, "h2", "unknown-tep") == 0  # nothing of it came to the underlay


def test_a_pod_that_floods(hosts: TwoHosts) -> None:
    """Connections that nobody answers, and datagrams that are never whole."""
    chain = "{ type filter hook input priority 0; }"
    rule = f"add table inet t; add chain inet t c {chain}; add rule inet t c tcp dport {SILENT} drop"
    subprocess.run(["nsenter", f"--net={hosts.netns('c')}", "nft", rule], check=True)
    talk = Talk(hosts)
    with wire(hosts) as out:
        syn = bytearray(frame(IP(src=D4, dst=C4) / TCP(sport=1024, dport=SILENT, flags="S")))

        def half_open() -> bool:
            """8,000 SYNs from as many ports; the checksum is adjusted (RFC 1624)."""
            at = 10 + 14 + 20
            for port in range(1024, 9024):
                old, check = struct.unpack_from("!H", syn, at)[0], struct.unpack_from("!H", syn, at + 16)[0]
                total = (~check & 0xFFFF) + (~old & 0xFFFF) + port
                while total >> 16:
                    total = (total & 0xFFFF) + (total >> 16)
                struct.pack_into("!H", syn, at, port)
                struct.pack_into("!H", syn, at + 16, ~total & 0xFFFF)
                with contextlib.suppress(OSError):
                    out.send(syn)
            return hosts.ask("h1", {"do": "status"})["connections"] >= OWN

        until(half_open, "no half-open connections")
        assert half_open()
        # What nobody has answered has a part of the table, and pushes out its like.
        assert hosts.ask("h1", {"do": "status"})["connections"] < OWN + 64
        talk.goes_on()

        def in_pieces() -> bool:
            piece = bytearray(frame(IP(src=D4, dst=C4, flags="MF") / UDP(dport=9, len=2000) / Raw(bytes(64))))
            base = IP(bytes(piece[24:]))
            for number in range(4000):
                base.id, base.chksum = number, None
                piece[24:44] = bytes(base)[:20]
                out.send(piece)
            return dropped(hosts, "h1", "frag-limit") > 100

        until(in_pieces, "datagrams in pieces without end")
        # Somebody else's datagrams in pieces arrive.
        with hosts.listen("c", socket.AF_INET, 9000, socket.SOCK_DGRAM) as far:
            far.settimeout(PATIENCE)
            with run_in(hosts.netns("a"), lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as near:
                near.sendto(bytes(4000), (C4, 9000))
                assert far.recv(8192) == bytes(4000)
    talk.goes_on()
    talk.end()


def test_an_address_that_two_pods_have_is_refused(hosts: TwoHosts) -> None:
    """Said by the agent with the address' place; what was in force stays so, and everybody goes on."""
    talk = Talk(hosts)
    path = hosts.folder / "h1" / "desired.json"
    state = state_read(path)
    twice = [replace(one, ip=C4) if one.ip == D4 else one for one in state.neighbours]
    vnics = [replace(one, ips=(f"{C4}/24",)) if one.name == "d" else one for one in state.vnics]
    state_write(path, replace(state, revision=state.revision + 1, neighbours=tuple(twice), vnics=tuple(vnics)))
    status = hosts.ask("h1", {"do": "apply"})
    assert "address is that of another one on segment" in status["error"]
    assert (status["revision_wanted"], status["revision_realized"]) == (state.revision + 1, state.revision)
    health = {row["check"]: row for row in hosts.ask("h1", {"do": "show", "what": "health"})["rows"]}
    assert not health["revision"]["ok"]
    talk.goes_on()
    talk.end()
