# SPDX-License-Identifier: Apache-2.0
"""`palisade replay`, sentence by sentence as CONTRACT section 3 has it: records and options."""

from __future__ import annotations

import csv
import io
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from dfw import cli
from dfw.flows import COLUMNS
from dfw.records import json_line, seconds
from tests.support.capture_mutations import pcap_write
from tests.support.pcap import Captured, pcap_read
from tests.support.replaying import (
    BACK,
    CLIENT,
    ETHERNET,
    INVENTORY,
    NOW,
    POLICY,
    RAW,
    SERVER,
    THERE,
    Run,
    capture,
    check_schema,
    conversation,
    frame,
    lines,
    refused,
    replayer,
)
from tests.support.wire import RST, SYN, End, ethernet, fragments
from tests.support.wire import Path as WirePath


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in a folder of its own."""
    return replayer(capfd, tmp_path, monkeypatch)


# Verdicts


def test_a_line_a_judgement_at_a_tap(run: Run) -> None:
    capture("cap.pcap", [*conversation()[:3], *refused()])
    assert run("cap.pcap", "--verdicts", "v.jsonl", "-o", "json").status == 0
    found = lines("v.jsonl")
    keys = ["n", "ts", "file", "vnic", "dir", "verdict", "reason", "rule", "rule_path", "ct", "reply"]
    assert all(list(line) == keys for line in found)
    path = "/infra/domains/default/security-policies/p/rules/"
    assert [tuple(line[key] for key in keys if key not in ("ts", "file")) for line in found] == [
        (1, "tap", "IN_OUT", "ALLOW", "match", 1001, f"{path}web", "new", False),
        (2, "tap", "IN_OUT", "ALLOW", "state", 1001, f"{path}web", "established", True),
        (3, "tap", "IN_OUT", "ALLOW", "state", 1001, f"{path}web", "established", False),
        (4, "tap", "IN_OUT", "REJECT", "match", 1002, f"{path}mysql", "new", False),
        (5, "tap", "IN_OUT", "DROP", "match", 1004, f"{path}rest", "new", False),
        (6, "tap", "IN_OUT", "ALLOW", "non-ip", None, None, "untracked", False),
    ]


def test_times_are_exact_to_the_nanosecond(run: Run) -> None:
    capture("cap.pcap", conversation(), step_ns=1)
    run("cap.pcap", "--verdicts", "v.jsonl", "--flows", "f.csv")
    assert '"ts": 1700000000.123456789, ' in Path("v.jsonl").read_text().splitlines()[0]
    assert '"ts": 1700000000.12345679, ' in Path("v.jsonl").read_text().splitlines()[1]
    assert ",1700000000.123456789,1700000000.123456795," in Path("f.csv").read_text()


@pytest.mark.parametrize(
    ("ns", "text"),
    [(0, "0.0"), (1, "0.000000001"), (10**9, "1.0"), (1_250_000_000, "1.25"), (2**64 - 1, "18446744073.709551615")],
)
def test_seconds_as_text(ns: int, text: str) -> None:
    assert seconds(ns) == text
    assert json_line([("ts", seconds(ns)), ("file", "ä")]) == f'{{"ts": {text}, "file": "\\u00e4"}}\n'


def test_both_backends_write_the_same_bytes(run: Run) -> None:
    pieces = fragments(THERE.udp(5000, 53, b"x" * 64), [16, 32], 7)
    packets = [frame(pieces[0]), *conversation(), *refused(), frame(pieces[2]), frame(pieces[1])]
    capture("cap.pcap", [*packets, frame(fragments(THERE.udp(5001, 53, b"y" * 64), [16], 8)[0])], step_ns=3)
    for where in (["--tap"], ["--inventory", "i.yaml"]):
        for backend in ("native", "oracle"):
            for ending in ("jsonl", "csv"):
                arguments = ["--verdicts", f"{backend}.v", "--flows", f"{backend}.{ending}", "--backend", backend]
                for name in ("allowed", "dropped", "generated"):
                    arguments += [f"--{name}", f"{backend}.{name}"]
                done = run("cap.pcap", *where, *arguments, "-o", "json")
                assert done.status == 0
                check_schema(done)
        for ending in ("v", "jsonl", "csv", "allowed", "dropped", "generated"):
            assert Path(f"native.{ending}").read_bytes() == Path(f"oracle.{ending}").read_bytes()
        summaries = [run("cap.pcap", *where, "--backend", name, "-o", "json").json for name in ("native", "oracle")]
        for key in ("packets", "bytes", "verdicts", "rules", "captures", "generated"):
            assert summaries[0][key] == summaries[1][key], key


def test_at_vnics_out_comes_before_in(run: Run) -> None:
    stranger = WirePath(End("198.51.100.1", "02:00:00:00:00:77"), End("198.51.100.2", "02:00:00:00:00:78"))
    capture("cap.pcap", [*conversation()[:2], *refused()[:2], frame(stranger.udp(1, 2), stranger)])
    run("cap.pcap", "--inventory", "i.yaml", "--verdicts", "v.jsonl")
    assert [(line["n"], line["vnic"], line["dir"], line["verdict"], line["reason"]) for line in lines("v.jsonl")] == [
        (1, "client", "OUT", "ALLOW", "match"),
        (1, "server", "IN", "ALLOW", "match"),
        (2, "server", "OUT", "ALLOW", "state"),
        (2, "client", "IN", "ALLOW", "state"),
        (3, "client", "OUT", "REJECT", "match"),
        (4, "client", "OUT", "DROP", "match"),
        (5, None, None, "ALLOW", "no-filter"),
    ]


def test_numbers_restart_with_each_file_and_state_carries_over(run: Run) -> None:
    packets = conversation()
    capture("a.pcap", packets[:2])
    capture("b.pcap", packets[2:])
    run("a.pcap", "b.pcap", "--verdicts", "v.jsonl", "--flows", "f.jsonl")
    found = lines("v.jsonl")
    assert [(line["file"], line["n"]) for line in found] == [
        *(("a.pcap", n) for n in (1, 2)),
        *(("b.pcap", n) for n in range(1, 6)),
    ]
    assert {line["reason"] for line in found[1:]} == {"state"}
    assert len(lines("f.jsonl")) == 1
    done = run("a.pcap", "b.pcap", "--each", "--verdicts", "v.jsonl", "--flows", "f.jsonl", "-o", "json")
    assert [line["reason"] for line in lines("v.jsonl")][2] == "tcp-strict"
    assert done.json["packets"] == 7 and sum(done.json["verdicts"].values()) == 7
    assert [flow["file"] for flow in lines("f.jsonl")] == ["a.pcap"]


def test_a_held_fragment_has_its_line_at_its_place(run: Run) -> None:
    """The first piece comes first and the last after more packets than any chunk has; one datagram is never whole."""
    whole = fragments(THERE.udp(5000, 53, b"x" * 64), [16, 32], 7)
    never = fragments(THERE.udp(5001, 53, b"x" * 64), [16], 8)[0]
    filler = conversation() * 700
    packets = [frame(whole[1]), *filler, frame(never), frame(whole[0]), *filler, frame(whole[2]), *filler[:7]]
    capture("cap.pcap", packets, step_ns=1000)
    outputs = ["--verdicts", "v.jsonl", "--allowed", "a.pcapng", "--dropped", "d.pcapng"]
    assert run("cap.pcap", *outputs).status == 0
    found = lines("v.jsonl")
    assert [line["n"] for line in found] == list(range(1, len(packets) + 1))
    at = {line["n"]: (line["verdict"], line["reason"]) for line in found}
    places = (1, 2 + len(filler) + 1, len(packets) - 7)
    assert {at[place] for place in places} == {("ALLOW", "match")}
    assert at[2 + len(filler)] == ("DROP", "frag-incomplete")
    assert [item.data for item in pcap_read(Path("d.pcapng"))] == [frame(never)]
    assert [item.data for item in pcap_read(Path("a.pcapng"))] == [data for data in packets if data != frame(never)]
    expected = Path("v.jsonl").read_bytes()
    for arguments in (["--batch", "1"], ["--batch", "7"], ["--batch", "256"], ["--workers", "2"]):
        run("cap.pcap", "--verdicts", "v.jsonl", *arguments)
        assert Path("v.jsonl").read_bytes() == expected


def test_held_at_vnics_both_ends_have_their_lines(run: Run) -> None:
    whole = fragments(THERE.udp(5000, 53, b"x" * 64), [16], 7)
    capture("cap.pcap", [frame(whole[1]), *conversation() * 200, frame(whole[0])], step_ns=1000)
    run("cap.pcap", "--inventory", "i.yaml", "--verdicts", "v.jsonl")
    found = [(line["n"], line["vnic"], line["dir"], line["reason"]) for line in lines("v.jsonl")]
    ends = [("client", "OUT", "match"), ("server", "IN", "match")]
    assert found[:2] == [(1, *end) for end in ends]
    assert found[-2:] == [(1402, *end) for end in ends]


def test_rules_reach_the_line_however_long_their_names_are(run: Run) -> None:
    name = "f" * 200 + ".pcap"
    folder = Path("d" * 200, "e" * 200)
    folder.mkdir(parents=True)
    capture(str(folder / name), conversation()[:1])
    run(str(folder / name), "--verdicts", "v.jsonl")
    assert [line["file"] for line in lines("v.jsonl")] == [str(folder / name)]


# Flows


def flow_files(run: Run) -> list[list[dict[str, Any]]]:
    capture('a "b", c.pcap', [*conversation(), *refused(), frame(THERE.udp(1002, 53, b"q")), *conversation(1009)[:2]])
    for ending in ("jsonl", "csv", "parquet"):
        assert run('a "b", c.pcap', "--flows", f"f.{ending}").status == 0
    table = pytest.importorskip("pyarrow.parquet").read_table("f.parquet")
    return [lines("f.jsonl"), list(csv.DictReader(io.StringIO(Path("f.csv").read_text()))), table.to_pylist()]


def test_a_record_a_connection_in_three_formats(run: Run) -> None:
    as_json, as_csv, as_parquet = flow_files(run)
    assert len(as_json) == 3
    first = as_json[0]
    assert tuple(first) == COLUMNS
    assert (first["file"], first["proto"], first["src"], first["dport"]) == ('a "b", c.pcap', 6, "10.0.0.1", 80)
    assert (first["packets"], first["reply_packets"], first["bytes"], first["reply_bytes"]) == (4, 3, 163, 123)
    assert (first["state"], first["history"], first["end_reason"]) == ("TIME_WAIT", "ShDdFfA", "open")
    assert [flow["state"] for flow in as_json] == ["TIME_WAIT", "FIRST", "SYN_RECEIVED"]
    assert [{name: str(value) for name, value in row.items()} for row in as_csv] == [
        {name: str(value) for name, value in row.items()} | {name: row_text(row, name) for name in ("start", "end")}
        for row in map(dict, as_json)
    ]
    assert as_parquet == [{**row, "start": float(row["start"]), "end": float(row["end"])} for row in as_json]


def row_text(row: dict[str, Any], name: str) -> str:
    """The text of a time in the JSON lines, which json.loads has rounded."""
    for line in Path("f.jsonl").read_text().splitlines():
        if json.loads(line) == row:
            return line.partition(f'"{name}": ')[2].partition(",")[0]
    raise AssertionError(row)


# Packets


def comments(path: str) -> list[str]:
    """The comments of a pcapng file's packets, read by hand."""
    data, at, found = Path(path).read_bytes(), 0, []
    while at < len(data):
        kind, total = struct.unpack_from("<II", data, at)
        if kind == 6:
            (present,) = struct.unpack_from("<I", data, at + 20)
            option = at + 28 + (present + 3 & ~3)
            code, size = struct.unpack_from("<HH", data, option)
            assert code == 1
            found.append(data[option + 4 : option + 4 + size].decode())
        at += total
    return found


def test_packets_with_verdict_and_rule_as_comments(run: Run) -> None:
    capture("cap.pcap", [*conversation()[:1], *refused()])
    done = run(
        *("cap.pcap", "--allowed", "a.pcapng", "--dropped", "d.pcapng", "--generated", "g.pcapng", "-o", "json"),
        *("--inventory", "i.yaml"),
    )
    assert [item.data for item in pcap_read(Path("a.pcapng"))] == [conversation()[0], refused()[2]]
    assert [item.data for item in pcap_read(Path("d.pcapng"))] == refused()[:2]
    web, mysql = comments("a.pcapng")[0], comments("d.pcapng")[0]
    assert "ALLOW match" in web and "rules/web" in web and "client" in web and "server" in web
    assert "REJECT match" in mysql and "rules/mysql" in mysql and "client" in mysql and "OUT" in mysql
    (answer,) = pcap_read(Path("g.pcapng"))
    assert answer.link == RAW and answer.data[12:20] == SERVER.ip + CLIENT.ip
    assert answer.data[33] & RST and done.json["generated"] == 1
    assert comments("g.pcapng") == ["answers packet 2"]


# Options


def test_the_summary_says_everything(run: Run) -> None:
    bad = bytearray(conversation()[2])
    bad[-1] ^= 1
    odd = WirePath(End("127.0.0.1", "02:00:00:00:00:01"), SERVER)
    capture("cap.pcap", [*conversation(), bytes(bad), *refused(), frame(odd.udp(1, 53), odd)])
    done = run("cap.pcap", "-o", "json")
    data = check_schema(done)
    assert (data["packets"], data["bytes"]) == (12, sum(len(item.data) for item in pcap_read(Path("cap.pcap"))))
    assert data["verdicts"] == {"ALLOW": 10, "DROP": 1, "REJECT": 1}
    assert data["reasons"] == {"state": 7, "match": 4, "non-ip": 1}
    assert data["connections"]["created"] == 2
    assert data["bad_checksums"] == {"ip": 0, "transport": 1} and data["odd_addresses"] == 1
    hits = {row["rule_path"].rpartition("/")[2]: (row["hits"], row["packets"]) for row in data["rules"]}
    assert (hits["web"], hits["mysql"], hits["names"], hits["rest"]) == ((1, 8), (1, 1), (1, 1), (1, 1))
    table = run("cap.pcap").out
    for word in ("12 packets", "1 capture", "rules/web", "rules/rest", "REJECT", "state", "non-ip", "1 bad transport"):
        assert word in table


def test_checksums_live_sanity_and_clock(run: Run) -> None:
    bad = bytearray(conversation()[0])
    bad[-1] ^= 1
    odd = WirePath(End("127.0.0.1", "02:00:00:00:00:01"), SERVER)
    capture("cap.pcap", [bytes(bad), frame(odd.udp(1, 53), odd)])
    assert run("cap.pcap", "-o", "json").json["reasons"] == {"match": 2}
    assert run("cap.pcap", "-o", "json", "--checksums", "verify").json["reasons"] == {"l4-checksum": 1, "match": 1}
    assert run("cap.pcap", "-o", "json", "--live-sanity").json["reasons"] == {"bad-address": 1, "match": 1}
    cut = [Captured(NOW, bytes(bad)[:60], len(bad), ETHERNET)]
    Path("cut.pcap").write_bytes(pcap_write([cut[0]._replace(data=bytes(bad)[:54], wire=58)]))
    assert run("cut.pcap", "-o", "json").json["bad_checksums"]["transport"] in (0, 1)
    # An hour later the question's entry is gone, unless the clock stands.
    capture("late.pcap", [frame(THERE.udp(1, 53)), frame(BACK.udp(53, 1), BACK)], step_ns=3600 * 10**9)
    assert run("late.pcap", "-o", "json").json["reasons"] == {"match": 2}
    assert run("late.pcap", "-o", "json", "--clock", "stopped").json["reasons"] == {"match": 1, "state": 1}


def test_real_speed_waits_as_the_capture_did(run: Run) -> None:
    capture("cap.pcap", conversation(), step_ns=30_000_000)
    assert run("cap.pcap", "--speed", "real", "-o", "json").json["seconds"] >= 0.18


def geneve(inner: bytes, protocol: int, vni: int = 5001) -> bytes:
    outer = WirePath(End("172.16.0.1", "06:00:00:00:00:01"), End("172.16.0.2", "06:00:00:00:00:02"))
    return ethernet(outer, outer.udp(50000, 6081, struct.pack("!HHI", 0, protocol, vni << 8) + inner))


@pytest.mark.parametrize("backend", ["native", "oracle"])
def test_decap_judges_inside_tunnels(run: Run, backend: str) -> None:
    # An IP packet without Ethernet, whose first bytes would be the MAC addresses of the two traps.
    ends = End("fd00::2", "02:00:00:00:00:02"), End("fd00::1", "02:00:00:00:00:01")
    bare = WirePath(*ends).tcp(4, 80, 1, 0, SYN, 9000)
    traps = "".join(
        f"  - {{name: trap-{number}, host: h, segment: s, mac: '{mac.hex(':')}', ips: [10.0.0.{20 + number}]}}\n"
        for number, mac in enumerate((bare[:6], bare[6:12]))
    )
    known = INVENTORY.replace("[10.0.0.0/24]", "[10.0.0.0/24, 'fd00::/64']")
    for number in (1, 2):
        known = known.replace(f"[10.0.0.{number}]", f"[10.0.0.{number}, 'fd00::{number}']")
    Path("i.yaml").write_text(known + traps)
    capture("cap.pcap", [geneve(conversation()[0], 0x6558), geneve(bare, 0x86DD), geneve(b"", 0x6558)])
    done = run("cap.pcap", "--decap", "--inventory", "i.yaml", "--backend", backend, "--verdicts", "v.jsonl")
    assert done.status == 0, done.err
    assert [(line["n"], line["vnic"], line["dir"], line["verdict"]) for line in lines("v.jsonl")] == [
        *((1, "client", "OUT", "ALLOW"), (1, "server", "IN", "ALLOW")),
        *((2, "server", "OUT", "ALLOW"), (2, "client", "IN", "ALLOW")),
        (3, None, None, "ALLOW"),
    ]


def test_usage(run: Run) -> None:
    capture("cap.pcap", conversation())
    for arguments, message in (
        (["--backend", "nftables", "--flows", "f.csv"], "the enforcer nftables does not support --flows"),
        (["--vantage", "vnics"], "needs an inventory"),
        (["-", "--policy", "-"], "standard input, which can be read once"),
        (["--inventory", "i.yaml", "--tap", "--vantage", "vnics"], "exclude each other"),
        (["--batch", "257"], "257"),
        (["--checksums", "perhaps"], "perhaps"),
    ):
        done = run("cap.pcap", *arguments)
        assert (done.status, done.out) == (cli.BAD_INPUT, "") and message in done.err, arguments
    Path("bad.yaml").write_text(POLICY.replace("DROP", "DORP"))
    done = run("cap.pcap", policy="bad.yaml")
    assert done.status == cli.BAD_INPUT and done.err.startswith("bad.yaml:8:")


def test_what_an_inventory_would_tell_is_said(run: Run) -> None:
    capture("cap.pcap", conversation())
    group = "resource_type: Group\nid: {}\nexpression: [{}]\n---\n"
    tagged = "{resource_type: Condition, member_type: SegmentPort, key: Tag, value: a}"
    fixed = "{resource_type: IPAddressExpression, ip_addresses: [10.0.0.1]}"
    scoped = POLICY.replace("services: [MySQL]", "scope: [nobody], services: [MySQL]")
    Path("groups.yaml").write_text(group.format("nobody", tagged) + group.format("fixed", fixed) + scoped)
    done = run("cap.pcap", policy="groups.yaml")
    assert done.status == cli.DONE and done.err.splitlines() == [
        "without an inventory nobody is in the group nobody",
        "without an inventory one filter on a wire judges, whatever the Applied-To of the rule p/rules/mysql",
    ]
    assert run("cap.pcap", "--inventory", "i.yaml", policy="groups.yaml").err == ""
    assert run("cap.pcap").err == ""
