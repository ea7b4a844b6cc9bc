# SPDX-License-Identifier: Apache-2.0
"""The firewall log: NSX's line to the letter, the same as JSON, and what a replay writes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from dfw.firewall_log import (
    EndEntry,
    LoggedRule,
    PacketEntry,
    filter_hash,
    flags_text,
    render_end,
    render_line,
    render_packet,
)
from dfw.model import Address, address_parse
from dfw.replay import replay
from tests.support.capture_mutations import pcap_write
from tests.support.pcap import Captured
from tests.support.replaying import check_lines
from tests.support.wire import ACK, FIN, RST, End, ethernet, fragments
from tests.support.wire import SYN as SYN_FLAG
from tests.support.wire import Path as WirePath

RULE = LoggedRule(1024, "/infra/domains/default/security-policies/p/rules/r")


def v4(text: str) -> Address:
    return address_parse(text)


SYN = PacketEntry(
    ts_ns=1530647049_749_000_000,
    vnic="web-1",
    rule=RULE,
    reason="match",
    nsx_reason="match",
    verdict="ALLOW",
    dir="IN",
    length=52,
    protocol=6,
    source=v4("192.168.4.3"),
    destination=v4("192.168.4.4"),
    sport=49627,
    dport=49153,
    tcp_flags=0xC2,
)
END = EndEntry(
    ts_ns=1530647070_585_999_999,
    vnic="web-1",
    rule=RULE,
    reason="rst",
    dir="OUT",
    protocol=6,
    source=v4("192.168.4.3"),
    destination=v4("192.168.4.4"),
    sport=49627,
    dport=49153,
    packets=16,
    bytes=76308,
    reply_packets=20,
    reply_bytes=1718,
)
HASH = filter_hash("web-1")


def test_nsx_lines_to_the_letter() -> None:
    ends = "192.168.4.3/49627->192.168.4.4/49153"
    assert render_packet(SYN) == f"2018-07-03T19:44:09.749Z {HASH} INET match PASS 1024 IN 52 TCP {ends} SEW"
    assert render_end(END) == f"2018-07-03T19:44:30.585Z {HASH} INET TERM 1024 OUT TCP RST {ends} 20/16 1718/76308"
    igmp = replace(SYN, protocol=2, verdict="DROP", length=36, source=v4("0.0.0.0"), destination=v4("224.0.0.1"))
    assert render_packet(igmp).endswith("INET match DROP 1024 IN 36 PROTO 2 0.0.0.0->224.0.0.1")
    ping = replace(SYN, protocol=1, dir="OUT", length=84, sport=8, dport=0, tcp_flags=0)
    assert render_packet(ping).endswith("INET match PASS 1024 OUT 84 ICMP 192.168.4.3->192.168.4.4")
    six = replace(SYN, source=v4("fd00::1"), destination=v4("fd00::2"), protocol=17, verdict="REJECT", dir="IN_OUT")
    assert render_packet(six).endswith("INET6 match REJECT 1024 IN 52 UDP fd00::1/49627->fd00::2/49153")


def test_in_and_out_are_the_workloads() -> None:
    assert render_end(replace(END, dir="IN")).endswith("16/20 76308/1718")
    assert " IN UDP TIMEOUT " in render_end(replace(END, dir="IN", protocol=17, reason="rst"))
    assert " TCP FIN " in render_end(replace(END, reason="fin"))
    assert " TCP TIMEOUT " in render_end(replace(END, reason="policy"))


def test_labels() -> None:
    labelled = replace(SYN, rule=replace(RULE, label="x" * 40))
    assert render_packet(labelled).endswith(" SEW " + "x" * 32)
    assert json.loads(render_line(labelled, "json"))["label"] == "x" * 40
    # A label is the policy's text; it cannot begin a line of its own.
    assert "\n" not in render_packet(replace(SYN, rule=replace(RULE, label="a\nb\u2028c")))
    assert "\n" not in render_line(replace(SYN, rule=replace(RULE, label="a\nb")), "json")


@pytest.mark.parametrize(
    ("flags", "text"),
    [(0x02, "S"), (0x12, "SA"), (0x11, "FA"), (0x14, "RA"), (0x18, "PA"), (0x00, "-"), (0xFF, "SFRPAUEW")],
)
def test_flags(flags: int, text: str) -> None:
    assert flags_text(flags) == text


def test_json_says_the_same() -> None:
    packet, end = (json.loads(render_line(entry, "json")) for entry in (SYN, END))
    assert (packet["event"], packet["ts"], packet["verdict"], packet["tcp_flags"]) == (
        *("packet", "2018-07-03T19:44:09.749Z", "ALLOW"),
        "SEW",
    )
    assert (end["event"], end["reason"], end["packets"], end["reply_packets"]) == ("end", "rst", 16, 20)
    ping = json.loads(render_line(replace(SYN, protocol=1, sport=8, dport=0), "json"))
    check_lines([packet, end, ping])
    assert (ping["icmp_type"], ping["icmp_code"], ping["sport"], ping["tcp_flags"]) == (8, 0, None, None)


# -- through replay

POLICY = """
apiVersion: palisade.internal/v1alpha1
kind: Inventory
segments: [{name: lan, vni: 1, subnets: [10.0.0.0/24]}]
ports:
  - {name: a, segment: lan, mac: "02:00:00:00:00:01", ips: [10.0.0.1]}
  - {name: b, segment: lan, mac: "02:00:00:00:00:02", ips: [10.0.0.2]}
---
resource_type: SecurityPolicy
id: p
category: Application
rules:
  - {id: web, services: [HTTP], action: ALLOW, logged: true, tag: shop web, rule_id: 4000}
  - {id: dns, services: [DNS], action: ALLOW}
  - {id: ping, services: [ICMP-ALL], action: REJECT, logged: true, rule_id: 4001}
---
resource_type: SecurityPolicy
id: default-layer3-section
rules: [{id: default-layer3-rule, action: DROP, logged: true}]
"""


A = End("10.0.0.1", "02:00:00:00:00:01")
B = End("10.0.0.2", "02:00:00:00:00:02")
OUTSIDE = End("192.0.2.9", "02:00:00:00:09:09")
THERE, FROM_OUTSIDE = WirePath(A, B), WirePath(OUTSIDE, B)


def capture(folder: Path, packets: list[tuple[float, bytes]]) -> str:
    """A pcap file of these frames at these seconds."""
    path = folder / "cap.pcap"
    path.write_bytes(pcap_write([Captured(round(at * 1e9), frame, len(frame), 1) for at, frame in packets]))
    return str(path)


def log(folder: Path, packets: list[tuple[float, bytes]], *options: str) -> list[str]:
    """The log's lines without their time's date: the same from the core and from the oracle."""
    (folder / "policy.yaml").write_text(POLICY)
    file = capture(folder, packets)
    found = []
    for backend in ("native", "oracle"):
        out = folder / f"{backend}.log"
        arguments = [file, "--policy", str(folder / "policy.yaml"), "--backend", backend, "--log", str(out), *options]
        done = CliRunner().invoke(replay, arguments, standalone_mode=False)
        assert done.exception is None and done.return_value == 0, done.output
        found.append(out.read_text().splitlines())
    assert found[0] == found[1]
    return [line.removeprefix("1970-01-01T00:0") for line in found[0]]


def handshake(at: float) -> list[tuple[float, bytes]]:
    """A connection that ends with FIN on both sides."""
    back = THERE.back
    steps = [
        THERE.tcp(1000, 80, 100, 0, SYN_FLAG, 1000),
        back.tcp(80, 1000, 500, 101, SYN_FLAG | ACK, 1000),
        THERE.tcp(1000, 80, 101, 501, ACK, 1000, b"GET /"),
        back.tcp(80, 1000, 501, 106, FIN | ACK, 1000),
        THERE.tcp(1000, 80, 106, 502, FIN | ACK, 1000),
        back.tcp(80, 1000, 502, 107, ACK, 1000),
    ]
    return [(at + number, ethernet(THERE, packet)) for number, packet in enumerate(steps)]


def test_first_packet_and_end_of_a_flow_at_both_vnics(tmp_path: Path) -> None:
    a, b = filter_hash("a"), filter_hash("b")
    flow = "10.0.0.1/1000->10.0.0.2/80"
    assert log(tmp_path, handshake(10)) == [
        f"0:10.000Z {a} INET match PASS 4000 OUT 40 TCP {flow} S shop web",
        f"0:10.000Z {b} INET match PASS 4000 IN 40 TCP {flow} S shop web",
        f"0:15.000Z {a} INET TERM 4000 OUT TCP FIN {flow} 3/3 120/125 shop web",
        f"0:15.000Z {b} INET TERM 4000 IN TCP FIN {flow} 3/3 125/120 shop web",
    ]


def test_what_is_refused_and_what_is_not_logged(tmp_path: Path) -> None:
    dns = ethernet(THERE, THERE.udp(5000, 53, b"?"))
    other = ethernet(THERE, THERE.udp(5000, 99, b"?"))
    ping = ethernet(THERE, THERE.icmp(8, 0, 1, 1))
    strict = ethernet(FROM_OUTSIDE, FROM_OUTSIDE.tcp(9, 80, 1, 1, ACK, 100))
    lines = log(tmp_path, [(1, dns), (2, other), (3, ping), (4, strict)])
    a, b = filter_hash("a"), filter_hash("b")
    assert lines == [
        f"0:02.000Z {a} INET match DROP 5 OUT 29 UDP 10.0.0.1/5000->10.0.0.2/99",
        f"0:03.000Z {a} INET match REJECT 4001 OUT 28 ICMP 10.0.0.1->10.0.0.2",
        f"0:04.000Z {b} INET state-mismatch DROP 4000 IN 40 TCP 192.0.2.9/9->10.0.0.2/80 A shop web",
    ]


def test_a_timeout_and_fragments_and_a_wire(tmp_path: Path) -> None:
    half_open = ethernet(THERE, THERE.tcp(1000, 80, 100, 0, SYN_FLAG, 1000))
    later = ethernet(THERE, THERE.udp(5000, 53, b"?"))
    lines = log(tmp_path, [(1, half_open), (200, later)], "--tap")
    assert lines == [
        f"0:01.000Z {filter_hash('tap')} INET match PASS 4000 IN 40 TCP 10.0.0.1/1000->10.0.0.2/80 S shop web",
        f"0:01.000Z {filter_hash('tap')} INET TERM 4000 IN TCP TIMEOUT 10.0.0.1/1000->10.0.0.2/80 1/0 40/0 shop web",
    ]
    pieces = fragments(THERE.udp(5000, 99, b"x" * 32), [16], 7)
    lines = log(tmp_path, [(1 + number, ethernet(THERE, piece)) for number, piece in enumerate(pieces)], "--tap")
    assert lines == [f"0:01.000Z {filter_hash('tap')} INET match DROP 2 IN 36 UDP 10.0.0.1/5000->10.0.0.2/99"]


def test_an_rst_ends_a_flow_and_json_has_its_reason(tmp_path: Path) -> None:
    packets = [*handshake(1)[:3], (5.0, ethernet(THERE, THERE.back.tcp(80, 1000, 501, 106, RST | ACK, 0)))]
    lines = [json.loads(line) for line in log(tmp_path, packets, "--log-format", "json", "--tap")]
    assert [(line["event"], line["reason"], line["dir"]) for line in lines] == [
        ("packet", "match", "IN_OUT"),
        ("end", "rst", "IN_OUT"),
    ]


def test_nothing_is_collected_without_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cost when not asked for: nothing is kept, and the log's modules are not even imported."""
    import sys

    import dfw.replay_run

    options: list[bool] = []
    made = dfw.replay_run.Replay

    def watched(engine: object, given: dfw.replay_run.ReplayOptions, *rest: object) -> object:
        options.append(given.collect)
        return made(engine, given, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(dfw.replay_run, "Replay", watched)
    monkeypatch.delitem(sys.modules, "dfw.log_run", raising=False)
    (tmp_path / "policy.yaml").write_text(POLICY)
    done = CliRunner().invoke(replay, [capture(tmp_path, handshake(1)), "--policy", str(tmp_path / "policy.yaml")])
    assert done.exit_code == 0
    assert options == [False]
    assert "dfw.log_run" not in sys.modules
