# SPDX-License-Identifier: Apache-2.0
"""The firewall log of a live host: which packets leave a record, what the lines say, and what is missing."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.l2 import ARP

from dfw.core.live import Live
from dfw.core.watch import end_flows, log_counts, read_flows, read_log
from dfw.firewall_log import LoggedRule, filter_hash
from overlay.host_log import HostLog, LogNames
from overlay.log_file import LogFile
from tests.support.small_fabric import A, B, SmallHost, all_but_ssh, ether, ip4, ip6

RULES = {0: LoggedRule(1024, "/p/rules/any", "shop front"), 1: LoggedRule(1025, "/p/rules/no")}


class Logged:
    """A host whose rules are logged, and its log."""

    def __init__(self, folder: Path, logged: tuple[int, ...] = (0, 1)) -> None:
        self.folder = folder
        self.host = SmallHost(0, all_but_ssh())
        self.log_rules(*logged)
        self.log = HostLog(Live(self.host.host), folder, ("dfwpktlogs", "json"))
        self.log.names = LogNames({self.host.engine.incarnation(w.number): w.name for w in (A, B)}, RULES)

    def log_rules(self, *numbers: int) -> None:
        self.host.engine.stage_logged(numbers)
        self.host.engine.commit()

    def lines(self) -> list[str]:
        """NSX's, without their times."""
        self.log.drain()
        text = (self.folder / "dfwpktlogs.log").read_text()
        return [line.partition(" ")[2] for line in text.splitlines()]

    def objects(self) -> list[dict[str, object]]:
        self.log.drain()
        return [json.loads(line) for line in (self.folder / "dfwpktlogs.jsonl").read_text().splitlines()]


@pytest.fixture
def logged(tmp_path: Path) -> Logged:
    return Logged(tmp_path)


OUT, IN = filter_hash("a"), filter_hash("b")


def test_a_flow_has_a_line_for_its_first_packet_and_one_for_its_end(logged: Logged) -> None:
    to, back = ether(A, B.mac) / ip4(A, B.v4), ether(B, A.mac) / ip4(B, A.v4)
    logged.host.send((A, to / TCP(sport=1000, dport=80, flags="S", seq=1)))
    logged.host.send((B, back / TCP(sport=80, dport=1000, flags="SA", seq=1, ack=2)))
    logged.host.send((A, to / TCP(sport=1000, dport=80, flags="A", seq=2, ack=2) / b"xyz"))
    ends = f"{A.v4}/1000->{B.v4}/80"
    begun = [f"{OUT} INET match PASS 1024 OUT 40 TCP {ends} S shop front"]
    begun += [f"{IN} INET match PASS 1024 IN 40 TCP {ends} S shop front"]
    assert logged.lines() == begun
    assert logged.objects()[0]["rule_path"] == "/p/rules/any" and logged.objects()[0]["tcp_flags"] == "S"
    live = logged.log.live
    assert end_flows(live, 0, read_flows(live, 0)["number"]) == 2
    end = f"INET TERM 1024 {{}} TCP TIMEOUT {ends} {{}} shop front"
    assert sorted(logged.lines()[2:]) == sorted(
        [f"{OUT} {end.format('OUT', '1/2 40/83')}", f"{IN} {end.format('IN', '2/1 83/40')}"]
    )
    assert [row["reason"] for row in logged.objects()[2:]] == ["cleared", "cleared"]


def test_what_is_refused_has_a_line_a_packet(logged: Logged) -> None:
    frame = ether(A, B.mac) / ip6(A, B.v6) / TCP(sport=1000, dport=22, flags="S")
    logged.host.send((A, frame), (A, frame))
    line = f"{OUT} INET6 match DROP 1025 OUT 60 TCP {A.v6}/1000->{B.v6}/22 S"
    assert logged.lines() == [line, line]


def test_other_protocols_fragments_and_what_is_no_ip(logged: Logged) -> None:
    ping = ether(A, B.mac) / ip4(A, B.v4) / ICMP(id=1, seq=1)
    logged.host.send((A, ping), (A, ether(A, B.mac) / ARP(psrc=A.v4, hwsrc=A.mac, pdst=B.v4)))
    assert [line.split(" ", 5)[-1] for line in logged.lines()] == [
        f"OUT 28 ICMP {A.v4}->{B.v4} shop front",
        f"IN 28 ICMP {A.v4}->{B.v4} shop front",
    ]
    assert (logged.objects()[0]["icmp_type"], logged.objects()[0]["icmp_code"]) == (8, 0)
    whole = IP(src=A.v4, dst=B.v4, id=9) / UDP(sport=5, dport=6) / bytes(1000)
    logged.host.send(*((A, ether(A, B.mac) / piece) for piece in fragment(whole, 504)))
    assert [line.split(" ", 5)[-1] for line in logged.lines()[2:]] == [
        f"OUT 1028 UDP {A.v4}/5->{B.v4}/6 shop front",
        f"IN 1028 UDP {A.v4}/5->{B.v4}/6 shop front",
    ]


def test_rules_that_are_not_logged_say_nothing(tmp_path: Path) -> None:
    logged = Logged(tmp_path, (1,))
    frame = ether(A, B.mac) / ip4(A, B.v4) / UDP(sport=5, dport=6)
    logged.host.send((A, frame))
    assert len(read_log(logged.log.live)) == 0
    logged.log_rules(0)
    logged.host.send((A, ether(A, B.mac) / ip4(A, B.v4) / UDP(sport=7, dport=6)))
    assert len(read_log(logged.log.live)) == 2
    logged.log_rules()
    end_flows(logged.log.live, 0, read_flows(logged.log.live, 0)["number"])
    assert len(read_log(logged.log.live)) == 0


def test_budget_and_bound_are_counted_and_one_vnic_leaves_the_other_its_lines(logged: Logged) -> None:
    frame = ether(A, B.mac) / ip4(A, B.v4) / TCP(sport=1000, dport=22, flags="S")
    for _ in range(30):
        logged.host.send(*[(A, frame)] * 50)
    assert log_counts(logged.log.live).refused == 500
    assert logged.log.says() is None
    logged.host.send((B, ether(B, A.mac) / ip4(B, A.v4) / TCP(sport=1, dport=22, flags="S")))
    assert len(logged.lines()) == 1001
    says = logged.log.says()
    assert says is not None and "500 beyond the budget" in says
    # Ten seconds, for whose lines there is no room.
    for _ in range(10):
        logged.host.now_ns += 10**9
        for _ in range(20):
            logged.host.send(*[(A, frame)] * 50)
    assert log_counts(logged.log.live).lost == 10000 - 8192
    assert len(logged.lines()) == 1001 + 8192


def test_a_file_that_was_moved_away_is_made_anew(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "log")
    file.write(["one"])
    (tmp_path / "log").rename(tmp_path / "log.1")
    file.write(["two"])
    (tmp_path / "log").unlink()
    file.write(["three"])
    assert [(tmp_path / name).read_text() for name in ("log.1", "log")] == ["one\n", "three\n"]
    file.close()


def test_a_line_that_cannot_be_written_is_counted(logged: Logged) -> None:
    logged.log.files = {"json": LogFile(logged.folder / "nowhere" / "log")}
    logged.host.send((A, ether(A, B.mac) / ip4(A, B.v4) / UDP(sport=5, dport=6)))
    assert logged.log.drain() == 2
    assert "2 not written" in (logged.log.says() or "")


def test_times_are_of_the_day(logged: Logged) -> None:
    logged.host.now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    logged.host.send((A, ether(A, B.mac) / ip4(A, B.v4) / UDP(sport=5, dport=6)))
    assert str(logged.objects()[0]["ts"])[:10] in time.strftime("%Y-%m-%d", time.gmtime())
