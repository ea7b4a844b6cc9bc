# SPDX-License-Identifier: Apache-2.0
"""Real packets between pods of two hosts, over uplinks of all tiers, through native/io under ASan and UBSan.

The switch between the cards is native/tests/live_main.c's; firewall and forwarding have their own tests.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from overlay.enter import run_in
from tests.conftest import LONG, ROOT
from tests.support.patience import PATIENCE, until
from tests.support.pcap import pcap_write
from tests.support.two_hosts import PODS, UNDERLAY_MTU, LiveProgram, TwoHosts, build_program, netns_path, run, two_hosts

TIERS = ("A", "B", "C")
BYTES = 64 << 20 if LONG else 3 << 20
SOL_UDP, UDP_SEGMENT = 17, 103
ETH_ALL = 3

pytestmark = [
    pytest.mark.needs_netns(),
    pytest.mark.needs_tun(),
    pytest.mark.needs_ipv6(),
    pytest.mark.needs_tool("gcc", "ip"),
]


@pytest.fixture(scope="module")
def program() -> Path:
    """live_main.c under sanitizers."""
    return build_program(ROOT / "build" / "sanitize" / "live")


@contextlib.contextmanager
def up(program: Path, tier: str, **options: Any) -> Iterator[TwoHosts]:
    """Two hosts on this tier; skips where the kernel lacks it."""
    try:
        with two_hosts(program, tier, **options) as hosts:
            yield hosts
    except AssertionError as error:
        if "the program ended with 2" in str(error) and tier != "C":
            pytest.skip(f"needs uplink tier {tier}: the kernel has none")
        raise


def transfer(hosts: TwoHosts, family: int, sender: int, size: int = BYTES) -> None:
    """`size` random bytes over TCP from pod `sender` to the other: what arrives is what was sent."""
    receiver = 1 - sender
    data = random.Random(size).randbytes(1 << 20) * (size >> 20)
    with hosts.socket(receiver, socket.SOCK_STREAM, family) as listener:
        listener.bind((PODS[family][receiver], 5001))
        listener.listen()
        with hosts.socket(sender, socket.SOCK_STREAM, family) as client:
            client.connect((PODS[family][receiver], 5001))
            server, _ = listener.accept()
            with server:
                server.settimeout(PATIENCE)
                thread = threading.Thread(
                    target=lambda: (client.sendall(data), client.shutdown(socket.SHUT_WR)), daemon=True
                )
                thread.start()
                digest = hashlib.sha1(usedforsecurity=False)
                while block := server.recv(1 << 20):
                    digest.update(block)
                thread.join(timeout=PATIENCE)
    assert digest.digest() == hashlib.sha1(data, usedforsecurity=False).digest()


def echo(hosts: TwoHosts, family: int, size: int) -> None:
    """A UDP datagram there and back; said again where it is lost, as it is in a queue that is full still."""
    with hosts.socket(0, socket.SOCK_DGRAM, family) as one, hosts.socket(1, socket.SOCK_DGRAM, family) as two:
        two.bind((PODS[family][1], 5002))
        data = os.urandom(size)
        one.settimeout(2)
        two.settimeout(2)

        def answered() -> bool:
            one.sendto(data, (PODS[family][1], 5002))
            try:
                got, sender = two.recvfrom(65536)
                two.sendto(got, sender)
                return one.recv(65536) == data
            except TimeoutError:
                return False

        until(answered, f"{size} bytes do not come back")


def datagrams(hosts: TwoHosts, family: int, count: int, size: int) -> None:
    """`count` datagrams as one super-packet (USO): each arrives, whole and in order."""
    with hosts.socket(0, socket.SOCK_DGRAM, family) as one, hosts.socket(1, socket.SOCK_DGRAM, family) as two:
        two.bind((PODS[family][1], 5003))
        one.setsockopt(SOL_UDP, UDP_SEGMENT, size)
        data = os.urandom(count * size - 1)
        one.sendto(data, (PODS[family][1], 5003))
        assert [two.recv(65536) for _ in range(count)] == [data[at : at + size] for at in range(0, len(data), size)]


def singles(hosts: TwoHosts, family: int, count: int, size: int) -> None:
    """`count` short datagrams of three flows, one a call: each arrives, those of a flow in order."""
    with contextlib.ExitStack() as stack:
        two = stack.enter_context(hosts.socket(1, socket.SOCK_DGRAM, family))
        two.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE: room for all of them
        two.bind((PODS[family][1], 5004))
        flows = [stack.enter_context(hosts.socket(0, socket.SOCK_DGRAM, family)) for _ in range(3)]
        for flow in flows:
            flow.connect((PODS[family][1], 5004))
        sent: dict[int, list[bytes]] = {flow.getsockname()[1]: [] for flow in flows}
        for number in range(count):
            flow = flows[number // 5 % 3]
            data = number.to_bytes(4, "big") + os.urandom(size - 4 - (number % 50 == 49))
            sent[flow.getsockname()[1]].append(data)
            flow.send(data)
        received: dict[int, list[bytes]] = {port: [] for port in sent}
        for _ in range(count):
            data, peer = two.recvfrom(65536)
            received[peer[1]].append(data)
        assert received == sent


def ping(hosts: TwoHosts, family: int) -> None:
    """An ICMP echo there and back."""
    protocol, kind, answer = (socket.IPPROTO_ICMP, 8, 0) if family == 4 else (socket.IPPROTO_ICMPV6, 128, 129)
    domain = socket.AF_INET if family == 4 else socket.AF_INET6
    raw = run_in(netns_path(hosts.pods[0]), lambda: socket.socket(domain, socket.SOCK_RAW, protocol))
    message = struct.pack("!BBHHH", kind, 0, 0, 7, 1) + b"palisade"
    if family == 4:
        message = struct.pack("!BBHHH", kind, 0, ones_complement(message), 7, 1) + b"palisade"
    with raw:
        raw.settimeout(0.5)
        for _ in range(
            2 * int(PATIENCE)
        ):  # the first ones may find the hosts' kernels still asking for each other (ND, after DAD)
            raw.sendto(message, (PODS[family][1], 0))
            with contextlib.suppress(TimeoutError):
                while True:
                    got, sender = raw.recvfrom(2000)
                    body = got[20:] if family == 4 else got
                    if sender[0] == PODS[family][1] and body[0] == answer:
                        assert body[4:] == message[4:]
                        return
    raise AssertionError("no answer")


def ones_complement(data: bytes) -> int:
    """RFC 1071 of an even number of bytes."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def counts_at_rest(hosts: TwoHosts) -> list[dict[str, Any]]:
    """What both hosts have counted, of a moment in which nothing was under way: a segment that is sent while they are
    asked one after the other counts for one of them only."""

    def asked() -> list[dict[str, Any]] | None:
        first, again = ([live.stats() for live in hosts.live] for _ in range(2))
        cards = ("uplink", "0")
        at_rest = all(one[card] == other[card] for one, other in zip(first, again, strict=True) for card in cards)
        return first if at_rest else None

    found = until(asked, "the hosts never rest")
    assert found is not None
    return found


def drops(hosts: TwoHosts) -> dict[str, Any]:
    """What was dropped anywhere, but for what happens while hosts come up: a pod said something to all, and the other's
    interface was still down; the kernel told our TEP (ICMP) that it did not find the other one yet."""
    found = {}
    for number, live in enumerate(hosts.live):
        for card, counts in live.stats().items():
            if card != "workers" and set(counts["drops"]) - {"link-down", "underlay-icmp"}:
                found[f"{number} {card}"] = counts["drops"]
    return found


@pytest.mark.parametrize("underlay", [4, 6])
@pytest.mark.parametrize("tier", TIERS)
def test_everything_crosses(program: Path, tier: str, underlay: int) -> None:
    with up(program, tier, underlay=underlay) as hosts:
        assert [live.tier for live in hosts.live] == [tier, tier]
        for family in (4, 6):
            ping(hosts, family)
            echo(hosts, family, 1)
            echo(hosts, family, 1472 if family == 4 else 1452)
            echo(hosts, family, 9000)  # in fragments
            datagrams(hosts, family, 40, 700)
            for sender in (0, 1):
                transfer(hosts, family, sender)
        assert drops(hosts) == {}
        one, two = counts_at_rest(hosts)
        for sender, receiver in ((one, two), (two, one)):  # but for the first, while the kernels asked for each other
            lost = sender["uplink"]["tx_segments"] - receiver["uplink"]["rx_segments"]
            assert 0 <= lost < 20
        pod = one["0"]
        assert pod["rx_segments"] > 4 * pod["rx_frames"]  # the pod's kernel hands over super-packets
        if tier == "A":  # and they cross whole, short ones together
            assert one["uplink"]["tx_frames"] <= pod["rx_frames"]
            assert 0 <= one["uplink"]["tx_frames"] - two["uplink"]["rx_frames"] < 20
        elif tier == "B":  # many datagrams a message, and super-packets again for the pod
            assert one["uplink"]["tx_segments"] > 4 * one["uplink"]["tx_frames"]
            assert two["uplink"]["rx_segments"] > 4 * two["uplink"]["rx_frames"]
            assert two["0"]["tx_segments"] > 4 * two["0"]["tx_frames"]
        else:
            assert one["uplink"]["tx_segments"] == one["uplink"]["tx_frames"]


@pytest.mark.parametrize("tier", TIERS)
def test_short_datagrams(program: Path, tier: str) -> None:
    """Those that leave, or arrive, as one are what they were."""
    with up(program, tier) as hosts:
        for family in (4, 6):
            ping(hosts, family)
            singles(hosts, family, 300, 18)
            singles(hosts, family, 200, 1200)
        assert drops(hosts) == {}


def capture(hosts: TwoHosts, stop: threading.Event, frames: list[bytes]) -> threading.Thread:
    """Every frame on the first host's underlay interface, as it leaves or comes.

    The socket's protocol comes with the interface: one that has it before hears the namespace's other interfaces, too,
    and on tier A's TAP sums are still left to a card."""
    packets = run_in(netns_path(hosts.hosts[0]), lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
    packets.bind(("ul0", ETH_ALL))
    packets.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
    packets.settimeout(0.1)

    def work() -> None:
        with packets:
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    while True:  # what is there already is read, too, when it is over
                        frames.append(packets.recv(70000))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@pytest.mark.needs_tool("tshark")
@pytest.mark.parametrize("tier", TIERS)
def test_the_wire(program: Path, tier: str, tmp_path: Path) -> None:
    """Cards of the underlay can do nothing: no packet is longer than its MTU; tshark finds Geneve with good sums."""
    frames: list[bytes] = []
    stop = threading.Event()
    with up(program, tier, offloads=False) as hosts:
        thread = capture(hosts, stop, frames)
        for family in (4, 6):
            echo(hosts, family, 300)
            datagrams(hosts, family, 20, 1000)
            transfer(hosts, family, 0, 1 << 20)
        stop.set()
        thread.join()
        assert drops(hosts) == {}
    assert max(map(len, frames)) <= 14 + UNDERLAY_MTU
    path = tmp_path / "wire.pcap"
    pcap_write(path, frames, 1)
    sums = ("ip.check_checksum", "udp.check_checksum", "tcp.check_checksum")
    command = [
        "tshark",
        "-r",
        str(path),
        "-T",
        "fields",
        "-E",
        "separator=;",
        "-e",
        "geneve.vni",
        "-e",
        "udp.checksum.status",
    ]
    command += [
        "-e",
        "tcp.checksum.status",
        "-e",
        "ip.checksum.status",
        *(word for name in sums for word in ("-o", f"{name}:TRUE")),
    ]
    lines = [
        line.split(";")
        for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    ]
    tunnelled = [line for line in lines if line[0]]
    assert len(tunnelled) > 1000
    for vni, *statuses in tunnelled:
        assert int(vni, 0) == 4096
        found = [status for field in statuses for status in field.split(",") if status]
        assert "1" in found and "0" not in found, statuses  # 1 is good, 0 is bad


@pytest.mark.parametrize("tier", ["A", "B"])
def test_lies_in_the_virtio_header(program: Path, tier: str) -> None:
    """A pod that says what it likes of its frames: others are unaffected, and nothing is read outside a frame."""
    rnd = random.Random(7)
    with up(program, tier) as hosts:
        packets = run_in(netns_path(hosts.pods[0]), lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        packets.setsockopt(263, 15, 1)  # SOL_PACKET, PACKET_VNET_HDR
        packets.bind(("eth0", 0))
        accepted = 0
        with packets:
            for _ in range(3000 if LONG else 400):
                size = rnd.choice((60, 100, 1500, 9000))
                head = bytes.fromhex("020000005002020000005001") + rnd.choice((b"\x08\x00", b"\x86\xdd", b"\x81\x00"))
                version = rnd.choice((0x45, 0x4F, 0x60))
                body = bytes([version]) + rnd.randbytes(8) + bytes([rnd.choice((6, 17))]) + rnd.randbytes(size - 10)
                kind = rnd.choice((0, 1, 3, 4, 5, 0x81, 0x21, 0x41))
                words = (
                    rnd.choice((0, 54, 66, 9000)),
                    rnd.choice((0, 1, 500, 65535)),
                    rnd.choice((0, 14, 34, 54, 65000)),
                    rnd.choice((0, 6, 16, 65000)),
                )
                with contextlib.suppress(OSError):  # much of it the pod's own kernel refuses
                    accepted += (
                        packets.send(struct.pack("<BB4H", rnd.choice((0, 1, 2, 4)), kind, *words) + head + body) > 0
                    )
        assert accepted > 20
        echo(hosts, 4, 100)
        transfer(hosts, 6, 0, 1 << 20)
        counts = hosts.live[0].stats()["0"]
        assert counts["rx_frames"] > accepted / 2


def test_a_full_queue(program: Path) -> None:
    """While the host does not read, the pod's queue fills up and the rest is lost there; then it goes on."""
    with up(program, "B") as hosts:
        echo(hosts, 4, 100)
        hosts.live[0].process.send_signal(signal.SIGSTOP)
        with hosts.socket(0, socket.SOCK_DGRAM) as flood:
            for _ in range(3000):
                with contextlib.suppress(OSError):
                    flood.sendto(b"x" * 100, (PODS[4][1], 9))
        hosts.live[0].process.send_signal(signal.SIGCONT)
        echo(hosts, 4, 100)
        dropped = int(run("cat", "/sys/class/net/eth0/statistics/tx_dropped", netns=hosts.pods[0]))
        assert dropped > 0
        assert drops(hosts) == {}


@pytest.mark.parametrize("tier", ["A", "B"])
def test_ports_come_and_go_under_load(program: Path, tier: str) -> None:
    """A port and an uplink are there or not between two bursts; connections that wait for them go on."""
    with up(program, tier) as hosts:
        thread = threading.Thread(target=transfer, args=(hosts, 4, 0, 24 << 20), daemon=True)
        thread.start()
        for _ in range(20):
            assert hosts.live[1].ask("remove 0") == "0"
            assert hosts.live[1].ask("remove 0") == "-1"
            assert hosts.live[1].ask("add 0") == "0"
            assert hosts.live[0].ask("stop") == "0"
            assert hosts.live[0].ask("start") == "0"
        thread.join(timeout=PATIENCE)
        assert not thread.is_alive()
        echo(hosts, 6, 100)


@pytest.mark.parametrize("tier", TIERS)
def test_two_workers(program: Path, tier: str) -> None:
    """Queues of their own for each; what arrives at the wrong one is handed to its owner."""
    with up(program, tier, workers=2, queues=2) as hosts:
        for family in (4, 6):
            echo(hosts, family, 1000)
            transfer(hosts, family, 0, 1 << 20)
            transfer(hosts, family, 1, 1 << 20)
        assert drops(hosts) == {}
        for live in hosts.live:

            def taken(live: LiveProgram = live) -> bool:
                workers = live.stats()["workers"]
                return sum(one["handed"] for one in workers) == sum(one["taken"] for one in workers)

            until(taken, "frames were handed over and not taken")  # one may be on its way just now
            assert sum(worker["frames"] for worker in live.stats()["workers"]) > 0


def test_auto_takes_the_best(program: Path) -> None:
    with up(program, "auto") as hosts:
        assert hosts.live[0].tier == hosts.live[1].tier in TIERS
