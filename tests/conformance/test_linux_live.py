# SPDX-License-Identifier: Apache-2.0
"""What the recorded captures lack, asked of this machine's kernel: related packets, and fragments.

Small conversations go through the kernel (tests/support/kernel_tracking.py) and through the oracle with the same ALGs;
both must say the same of each packet, but for the differences named here.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from dfw.model import Action, Alg, PortRange, ServiceEntry
from tests.support import kernel_tracking
from tests.support.engines import Rules, replay
from tests.support.oracle_bench import (
    A6,
    ACK,
    B6,
    FIN,
    RAW,
    RST,
    SYN,
    TCP,
    UDP,
    A,
    B,
    C,
    Tap,
    icmp,
    ip,
    policies,
    rule,
    tcp,
    udp,
)  # fmt: skip
from tests.support.pcap import pcap_write

PORTS, BACK = (1000, 80), (80, 1000)
MORE = 0x2000

ALGS = Rules(
    policies(
        rule("ftp", Action.ALLOW, ServiceEntry(protocol=TCP, destination_ports=(PortRange(21, 21),), alg=Alg.FTP)),
        rule("tftp", Action.ALLOW, ServiceEntry(protocol=UDP, destination_ports=(PortRange(69, 69),), alg=Alg.TFTP)),
        rule("any"),
    ),
    """\
resource_type: SecurityPolicy
id: algs
category: Emergency
sequence_number: 0
tcp_strict: false
rules:
  - {id: ftp, source_groups: [ANY], destination_groups: [ANY], services: [FTP], action: ALLOW}
  - {id: tftp, source_groups: [ANY], destination_groups: [ANY], services: [TFTP], action: ALLOW}
  - {id: any, source_groups: [ANY], destination_groups: [ANY], services: [ANY], action: ALLOW}
""",
)


def handshake(client: str = A, server: str = B, ports: tuple[int, int] = PORTS) -> list[bytes]:
    """Both ends at sequence numbers 101 and 501."""
    back = ports[::-1]
    return [
        tcp(client, server, ports, SYN, 100),
        tcp(server, client, back, SYN | ACK, 500, 101),
        tcp(client, server, ports, ACK, 101, 501),
    ]


def ftp(client: str, server: str, who: int, text: bytes, data: tuple[int, int]) -> list[bytes]:
    """A control connection, one announcement by the client (0) or server (1), and the data connection it opens."""
    there, back = (40_000, 21), (21, 40_000)
    # The kernel's helper believes a line only after another that ended where this one begins.
    greeting, user = b"220 hello\r\n", b"USER me\r\n"
    at, back_at = 101 + len(user), 501 + len(greeting)
    control = [
        *handshake(client, server, there),
        tcp(server, client, back, ACK, 501, 101, payload=greeting),
        tcp(client, server, there, ACK, 101, back_at, payload=user),
    ]
    if who == 0:
        control.append(tcp(client, server, there, ACK, at, back_at, payload=text))
        opener, listener = server, client
    else:
        control.append(tcp(server, client, back, ACK, back_at, at, payload=text))
        opener, listener = client, server
    return [
        *control,
        tcp(opener, listener, data, SYN, 900),
        tcp(opener, listener, data, SYN, 900),
        tcp(listener, opener, data[::-1], SYN | ACK, 300, 901),
        tcp(opener, listener, data, ACK, 901, 301),
    ]


def pieces(packet: bytes, *cuts: int, ident: int = 7) -> list[bytes]:
    """An IP packet in fragments, cut at these offsets of its payload."""
    version = packet[0] >> 4
    header = 20 if version == 4 else 40
    payload = packet[header:]
    edges = [0, *cuts, len(payload)]
    found = []
    for first, last in itertools.pairwise(edges):
        found.append(fragment(packet, first, payload[first:last], last < len(payload), ident))
    return found


def fragment(packet: bytes, first: int, content: bytes, more: bool, ident: int = 7) -> bytes:
    """One fragment with the packet's addresses."""
    if packet[0] >> 4 == 4:
        field = first // 8 | (MORE if more else 0)
        return ip(_v4(packet[12:16]), _v4(packet[16:20]), packet[9], content, fragment=field, ident=ident)
    header = bytes((packet[6], 0)) + (first | more).to_bytes(2, "big") + ident.to_bytes(4, "big")
    return ip(A6, B6, 44, header + content)


def _v4(packed: bytes) -> str:
    return ".".join(map(str, packed))


QUERY, ANSWER = udp(A, B, (1000, 53)), udp(B, A, (53, 1000))
QUERY6, ANSWER6 = udp(A6, B6, (1000, 53)), udp(B6, A6, (53, 1000))
LONG, LONG6 = udp(A, B, (1000, 53), bytes(range(200))), udp(A6, B6, (1000, 53), bytes(range(200)))
DATA = tcp(A, B, PORTS, ACK, 101, 501, payload=bytes(100))

CONVERSATIONS: dict[str, list[bytes]] = {
    "errors about UDP": [
        QUERY,
        *[icmp(B, A, kind, payload=QUERY[:28]) for kind in (3, 4, 11, 12)],
        icmp(C, A, 3, 4, payload=QUERY),
        ANSWER,
        icmp(A, B, 3, 3, payload=ANSWER),
        icmp(B, A, 3, 3, payload=QUERY),
    ],
    "errors about nothing": [icmp(B, A, 3, 3, payload=QUERY), icmp(B, A, 11, payload=DATA)],
    "errors with a quote that says nothing": [QUERY, icmp(B, A, 3, payload=QUERY[:19]), icmp(B, A, 3)],
    "errors about TCP": [
        *handshake(),
        DATA,
        icmp(B, A, 3, 4, payload=DATA),
        icmp(C, A, 11, payload=DATA[:28]),
        icmp(A, B, 3, 1, payload=tcp(B, A, BACK, ACK, 501, 101)),
    ],
    "errors about a SYN": [handshake()[0], icmp(B, A, 3, 3, payload=handshake()[0])],
    "errors about pings": [
        icmp(A, B, 8),
        icmp(C, A, 11, payload=icmp(A, B, 8)),
        icmp(B, A, 0),
        icmp(A, B, 3, 3, payload=icmp(B, A, 0)),
        icmp(C, A, 11, payload=icmp(A, B, 8, ident=99)),
    ],
    "ICMPv6 errors": [
        QUERY6,
        *[icmp(B6, A6, kind, payload=QUERY6) for kind in (1, 2, 3, 4)],
        ANSWER6,
        icmp(A6, B6, 1, 4, payload=ANSWER6),
        icmp(B6, A6, 1, payload=udp(A6, B6, (1, 2))),
        icmp(B6, A6, 1, payload=icmp(A6, B6, 128)),
    ],
    "ICMPv6 errors about TCP and pings": [
        *handshake(A6, B6),
        icmp(B6, A6, 2, payload=tcp(A6, B6, PORTS, ACK, 101, 501)),
        icmp(A6, B6, 128),
        icmp(B6, A6, 1, payload=icmp(A6, B6, 128)),
        icmp(B6, A6, 129),
    ],
    "pings with codes": [icmp(A, B, 8, 5), icmp(A, B, 13), icmp(B, A, 14), icmp(B, A, 0, ident=50)],
    "FTP, PORT": ftp(A, B, 0, b"PORT 10,0,0,1,195,80\r\n", (20, 50_000)),
    "FTP, EPRT": ftp(A, B, 0, b"EPRT |1|10.0.0.1|50000|\r\n", (20, 50_000)),
    "FTP, 227": ftp(A, B, 1, b"227 Entering Passive Mode (10,0,0,2,195,80).\r\n", (40_001, 50_000)),
    "FTP, 229": ftp(A, B, 1, b"229 Entering Extended Passive Mode (|||50000|)\r\n", (40_001, 50_000)),
    "FTP, EPRT over IPv6": ftp(A6, B6, 0, b"EPRT |2|fd00::1|50000|\r\n", (20, 50_000)),
    "FTP, 229 over IPv6": ftp(A6, B6, 1, b"229 Extended (|||50000|)\r\n", (40_001, 50_000)),
    "FTP, another's address": ftp(A, B, 0, b"PORT 10,0,0,9,195,80\r\n", (20, 50_000)),
    "FTP, nothing announced": ftp(A, B, 1, b"220 hello\r\n", (40_001, 50_000)),
    "TFTP": [
        udp(A, B, (3000, 69), b"\0\1file\0octet\0"),
        udp(B, A, (4000, 3000), b"\0\3\0\1data"),
        udp(A, B, (3000, 4000), b"\0\4\0\1"),
        udp(B, A, (4001, 3000), b"\0\3\0\2data"),
    ],
    "FTP ends": [
        *ftp(A, B, 1, b"229 (|||50000|)\r\n", (40_001, 50_000)),
        tcp(A, B, (40_001, 50_000), FIN | ACK, 901, 301),
        tcp(B, A, (50_000, 40_001), FIN | ACK, 301, 902),
        tcp(A, B, (40_001, 50_000), ACK, 902, 302),
        tcp(A, B, (40_000, 21), RST, 110),
    ],
    "fragments in order": [*pieces(LONG, 64, 128), ANSWER],
    "fragments backwards": [*reversed(pieces(LONG, 64, 128)), ANSWER],
    "fragments of TCP": [*handshake(), *pieces(DATA, 24, 64)],
    "fragments of a ping": [*pieces(icmp(A, B, 8, payload=bytes(100)), 48), icmp(B, A, 0)],
    "fragments that start no connection": pieces(tcp(A, B, PORTS, RST, 1, payload=bytes(64)), 24),
    "fragments, one twice": [*pieces(LONG, 64, 128)[:2], *pieces(LONG, 64, 128)[1:]],
    "fragments that never end": pieces(LONG, 64, 128)[:2],
    "fragments of IPv6": [*pieces(LONG6, 64, 128), ANSWER6],
    "fragments of IPv6 backwards": [*reversed(pieces(LONG6, 64, 128)), ANSWER6],
    "fragments that overlap": [
        pieces(LONG, 64)[0], fragment(LONG, 56, LONG[76:140], True), pieces(LONG, 64)[1],
    ],
    "fragments of IPv6 that overlap": [
        pieces(LONG6, 64)[0], fragment(LONG6, 56, LONG6[96:160], True), pieces(LONG6, 64)[1],
    ],
    "errors about TCP outside its window": [
        *handshake(),
        DATA,
        icmp(B, A, 3, 4, payload=tcp(A, B, PORTS, ACK, 5000, 501)),
        icmp(B, A, 3, 4, payload=tcp(A, B, PORTS, ACK, 90, 501)),
    ],
    "an RST that answers nothing": [
        handshake()[0],
        tcp(B, A, BACK, RST | ACK, 0, 100),
        handshake()[1],
    ],
    "an atomic fragment": [fragment(QUERY6, 0, QUERY6[40:], False), ANSWER6],
    "two datagrams at once": [
        x for pair in zip(pieces(LONG, 64, ident=1), pieces(LONG, 64, ident=2), strict=True) for x in pair
    ],
}  # fmt: skip

# conversation: {packet: (Linux, we)}
DIFFERENCES: dict[str, dict[int, tuple[str, str]]] = {
    # What an error quotes must be outstanding (RFC 5927 section 4.1); the kernel looks at addresses and ports only.
    "errors about TCP outside its window": {5: ("related/reply", "invalid"), 6: ("related/reply", "invalid")},
    # An RST beside the window, and one before anything was acknowledged that the SYN did not send.
    "an RST that answers nothing": {2: ("established/reply", "invalid"), 3: ("invalid", "established/reply")},
}


def ask_kernel(packets: list[bytes]) -> list[list[str]]:
    """States of what the kernel forwards, after each packet."""
    done = subprocess.run(
        ["unshare", "--net", sys.executable, str(Path(kernel_tracking.__file__))],
        input=json.dumps([packet.hex() for packet in packets]),
        text=True,
        capture_output=True,
        check=True,
    )
    answers: list[list[str]] = json.loads(done.stdout)
    return answers


def ask_oracle(packets: list[bytes]) -> list[list[str]]:
    """The same of the oracle. Fragments that were refused on their own are nothing, as in the kernel."""
    tap = Tap(ALGS.model)
    answers = []
    for packet in packets:
        lines = [line for line in tap.feed(packet) if not line.reason.startswith("frag-")]
        answers.append([line.ct + ("/reply" if line.reply and line.ct != "invalid" else "") for line in lines])
    return answers


@pytest.mark.parametrize("engine", ["native"])
def test_the_engines_say_the_same(engine: str, tmp_path: Path) -> None:
    captures = {name: tmp_path / f"{n}.pcap" for n, name in enumerate(CONVERSATIONS)}
    for name, path in captures.items():
        pcap_write(path, CONVERSATIONS[name], RAW)
    found = replay(engine, captures.values(), ALGS)
    oracle = replay("oracle", captures.values(), ALGS)
    for name, path in captures.items():
        assert found[path].lines == oracle[path].lines, name
        assert sorted(map(repr, found[path].flows)) == sorted(map(repr, oracle[path].flows)), name


@pytest.mark.needs_root
@pytest.mark.needs_netns
@pytest.mark.needs_tun
@pytest.mark.needs_tool("nft", "ip", "unshare")
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_kernel_says_the_same(name: str) -> None:
    packets = CONVERSATIONS[name]
    kernel, ours = ask_kernel(packets), ask_oracle(packets)
    assert any(kernel) == (name != "fragments that never end" and "overlap" not in name)
    found = {
        n: (" ".join(theirs), " ".join(mine))
        for n, (theirs, mine) in enumerate(zip(kernel, ours, strict=True), 1)
        if theirs != mine
    }
    assert found == DIFFERENCES.get(name, {})
