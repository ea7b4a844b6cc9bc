# SPDX-License-Identifier: Apache-2.0
"""`palisade replay --backend nftables`: the kernel's verdicts line by line, its answers, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dfw import cli
from dfw.compile import compile_policy
from dfw.load import load
from dfw.model import Action, PolicySet, PortRange, ServiceEntry
from dfw.nftables import render_ruleset, render_wire, vnic_mark
from dfw.nftables.judge import KernelJudge, decisions_logged
from dfw.nftables.load import RulesetLink
from dfw.nftables.namespace import PrivateNamespace
from tests.support.oracle_bench import A6, ACK, B6, RST, SYN, TCP, A, B, policies, rule, tcp, udp
from tests.support.replaying import (
    BACK,
    CLIENT,
    INVENTORY,
    POLICY,
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
from tests.support.wire import End, fragments
from tests.support.wire import Path as WirePath

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_netns,
    pytest.mark.needs_tun,
    pytest.mark.needs_ipv6,
    pytest.mark.needs_tool("nft", "ip"),
    pytest.mark.needs_kernel_judge,
]
WIRE = vnic_mark(1, 0)


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in a folder of its own."""
    return replayer(capfd, tmp_path, monkeypatch)


def judge_of(world: PolicySet) -> KernelJudge:
    compiled = compile_policy(world)
    return KernelJudge(decisions_logged(render_wire(compiled.rules, compiled.sets, compiled.tap).ruleset))


@pytest.fixture
def rejecting() -> Iterator[KernelJudge]:
    """A kernel that allows TCP to port 80 and rejects the rest."""
    web = ServiceEntry(protocol=TCP, destination_ports=(PortRange(80, 80),))
    with judge_of(policies(rule("web", Action.ALLOW, web), rule("no", Action.REJECT))) as found:
        yield found


def shown(name: str) -> list[tuple[object, ...]]:
    keys = ("n", "vnic", "dir", "verdict", "reason", "ct", "reply")
    return [(*(line[key] for key in keys), (line["rule_path"] or "").rpartition("/")[2]) for line in lines(name)]


def test_lines_at_a_tap(run: Run) -> None:
    many = WirePath(CLIENT, End("224.0.0.9", "01:00:5e:00:00:09"))
    capture(
        "cap.pcap",
        [*conversation()[:3], *refused(), frame(many.udp(1, 53), many), frame(THERE.tcp(9, 80, 1, 1, ACK, 5))],
    )
    done = run("cap.pcap", "--backend", "nftables", "--verdicts", "v.jsonl", "-o", "json")
    assert done.status == 0, done.err
    check_schema(done)
    tap = ("tap", "IN_OUT")
    assert shown("v.jsonl") == [
        (1, *tap, "ALLOW", "match", "new", False, "web"),
        (2, *tap, "ALLOW", "state", "established", True, ""),
        (3, *tap, "ALLOW", "state", "established", False, ""),
        (4, *tap, "REJECT", "match", "new", False, "mysql"),
        (5, *tap, "DROP", "match", "new", False, "rest"),
        (6, *tap, "ALLOW", "non-ip", "untracked", False, ""),
        (7, *tap, None, "not-judged", None, False, ""),
        (8, *tap, "DROP", "tcp-strict", "new", False, "web"),
    ]
    assert done.json["verdicts"] == {"ALLOW": 4, "DROP": 2, "REJECT": 1}
    hits = {row["rule_path"].rpartition("/")[2]: row["hits"] for row in done.json["rules"]}
    assert (hits["web"], hits["mysql"], hits["rest"]) == (2, 1, 1)


def test_lines_at_vnics(run: Run) -> None:
    capture("cap.pcap", [*conversation()[:2], *refused()[:2]])
    assert run("cap.pcap", "--inventory", "i.yaml", "--backend", "nftables", "--verdicts", "v.jsonl").status == 0
    assert shown("v.jsonl") == [
        (1, "client", "OUT", "ALLOW", "match", "new", False, "web"),
        (1, "server", "IN", "ALLOW", "match", "new", False, "web"),
        (2, "server", "OUT", "ALLOW", "state", "established", True, ""),
        (2, "client", "IN", "ALLOW", "state", "established", True, ""),
        (3, "client", "OUT", "REJECT", "match", "new", False, "mysql"),
        (4, "client", "OUT", "DROP", "match", "new", False, "rest"),
    ]


def test_fragments_get_their_datagrams_verdict(run: Run) -> None:
    whole, other = (
        fragments(THERE.udp(5000, 53, b"x" * 64), [16, 32], 7),
        fragments(THERE.udp(5, 9, b"x" * 64), [16], 8),
    )
    never = fragments(BACK.udp(5000, 53, b"x" * 64), [16], 9)[0]
    capture("cap.pcap", [frame(item) for item in (whole[0], other[1], whole[2], never, whole[1], other[0])])
    assert run("cap.pcap", "--backend", "nftables", "--verdicts", "v.jsonl").status == 0
    assert [(line["n"], line["verdict"], line["reason"]) for line in lines("v.jsonl")] == [
        *((1, "ALLOW", "match"), (2, "DROP", "match"), (3, "ALLOW", "match")),
        *((4, "DROP", "frag-incomplete"), (5, "ALLOW", "match"), (6, "DROP", "match")),
    ]


def test_files_share_connections_unless_each_is_alone(run: Run) -> None:
    capture("a.pcap", conversation()[:2])
    capture("b.pcap", conversation()[2:4])
    for option, expected in (((), 4), (("--each",), 2)):
        done = run("a.pcap", "b.pcap", *option, "--backend", "nftables", "-o", "json")
        assert (done.status, done.json["verdicts"]["ALLOW"]) == (0, expected), option


def test_a_capture_that_is_not_there_does_not_stop_the_others(run: Run) -> None:
    capture("a.pcap", conversation()[:2])
    done = run("none.pcap", "a.pcap", "--backend", "nftables", "-o", "json")
    assert done.status == cli.BAD_INPUT and done.json["packets"] == 2 and done.json["captures"][0]["error"]


STAGED = POLICY.replace("category: Application", "category: Application\nstaged: true").replace(
    "{id: web, services: [HTTP], action: ALLOW}", "{id: web, services: [HTTP], action: DROP}"
)


@pytest.mark.parametrize("where", [[], ["--inventory", "i.yaml"]], ids=["tap", "vnics"])
def test_staged_policies_are_judged_beside_as_by_the_core(run: Run, where: list[str]) -> None:
    allowed = STAGED.replace("services: [MySQL], action: REJECT", "services: [MySQL], action: ALLOW")
    Path("s.yaml").write_text(f"{POLICY}---\n{allowed}")
    many = WirePath(CLIENT, End("224.0.0.9", "01:00:5e:00:00:09"))
    capture("cap.pcap", [*conversation(), *refused(), frame(many.udp(1, 53), many)])
    found = {}
    for backend in ("native", "nftables"):
        done = run(
            "cap.pcap", *where, "--backend", backend, "--verdicts", f"{backend}.jsonl", "-o", "json", policy="s.yaml"
        )
        assert done.status == 0, done.err
        found[backend] = check_schema(done)["staged"]
    assert found["nftables"] == found["native"]
    assert (found["native"]["cut"]["packets"], found["native"]["pass"]["packets"]) == (7, 1)
    said = {
        backend: [
            [line.get(name) for name in ("n", "vnic", "staged", "staged_then")]
            for line in lines(f"{backend}.jsonl")
            if line["n"] < 10
        ]
        for backend in found
    }
    assert said["nftables"] == said["native"]
    plain = run("cap.pcap", *where, "--backend", "nftables", "--verdicts", "plain.jsonl")
    assert plain.status == 0
    without = [{name: line[name] for name in line if not name.startswith("staged")} for line in lines("nftables.jsonl")]
    assert without == lines("plain.jsonl")
    assert lines("nftables.jsonl")[-1]["staged"] is None  # nothing judged it


def test_what_this_backend_does_not_have_is_refused(run: Run) -> None:
    capture("cap.pcap", conversation())
    for option in (["--decap"], ["--checksums", "verify"], ["--log", "l"], ["--workers", "2"], ["--live-limits"]):
        done = run("cap.pcap", "--backend", "nftables", *option)
        assert done.status == cli.BAD_INPUT, option
        assert done.err == f"palisade replay: the enforcer nftables does not support {' '.join(option[:1])}" + (
            " verify\n" if "verify" in option else "\n"
        )
    twice = (
        Path("i.yaml").read_text()
        + '  - {name: other, host: h, segment: s, mac: "02:00:00:00:00:03", ips: [10.0.0.2]}\n'
    )
    Path("i.yaml").write_text(
        twice.replace('segment: s, mac: "02:00:00:00:00:03"', "segment: t").replace(
            "segments: [", "segments: [{name: t, vni: 5002, subnets: [10.0.0.0/24]}, "
        )
    )
    done = run("cap.pcap", "--inventory", "i.yaml", "--backend", "nftables")
    assert done.status == cli.BAD_INPUT and "two vNICs have 10.0.0.2 (server, other)" in done.err


# The judge itself


def test_reject_answers(rejecting: KernelJudge) -> None:
    for packet in (tcp(A, B, (1, 81), SYN, 5), udp(A, B, (1, 2)), tcp(A6, B6, (1, 81), SYN, 5), udp(A6, B6, (1, 2))):
        answer = rejecting.judge(packet, WIRE)
        assert (answer.delivered, answer.made, answer.said[0]) == (0, 1, "out")
    assert rejecting.judge(tcp(A, B, (1, 82), RST, 5), WIRE).made == 0


def test_an_invalid_packet_ends_no_connection(rejecting: KernelJudge) -> None:
    there, back = (1000, 80), (80, 1000)
    rejecting.judge(tcp(A, B, there, SYN, 100), WIRE)
    assert rejecting.judge(tcp(B, A, back, SYN | ACK, 500, 101), WIRE).delivered == 1
    assert rejecting.judge(tcp(A, B, there, ACK, 101, 501), WIRE).delivered == 1
    # By the rules, what comes from port 80 is refused with an RST; this one acknowledges what was never sent.
    forged = rejecting.judge(tcp(B, A, back, ACK, 501, 90_000), WIRE)
    assert (forged.state, forged.delivered, forged.made) == ("invalid", 0, 0)
    assert rejecting.judge(tcp(B, A, back, ACK, 501, 101, payload=b"go on"), WIRE).delivered == 1


def test_counters_count_what_the_rules_decided(rejecting: KernelJudge) -> None:
    said: list[str] = []
    for number in range(5):
        said += rejecting.judge(tcp(A, B, (2000 + number, 80), SYN, 5), WIRE).said
        said += rejecting.judge(udp(A, B, (2000 + number, 7)), WIRE).said
    with rejecting.inside().run(lambda: RulesetLink("palisade")) as link:
        counters = link.counters()
    assert {name: packets for name, (packets, _) in counters.items() if packets} == {"rule0": 5, "rule1": 5}
    assert (said.count("rule0"), said.count("rule1")) == (5, 5)


def test_a_mark_without_rules_passes_nothing(tmp_path: Path) -> None:
    Path(tmp_path, "i.yaml").write_text(INVENTORY)
    world = load([str(tmp_path / "i.yaml")]).world
    names = [port.name for port in world.inventory]
    ruleset = decisions_logged(render_ruleset(compile_policy(world), names).ruleset)
    syn = tcp(A, B, (1, 80), SYN, 5)
    with KernelJudge(ruleset) as judge:
        assert judge.judge(syn, vnic_mark(3, 0)).said == ("out", "no-ruleset")
        out, rule, *refused = judge.judge(syn, vnic_mark(1, 3)).said
        assert out == "out" and rule.startswith("rule") and refused == ["in", "no-ruleset"]
        assert judge.judge(syn, vnic_mark(1, 3)).delivered == 0
        assert judge.judge(syn, 0).delivered == 1
        # Whoever is nobody has not judged, and does when he is somebody.
        assert judge.judge(syn, vnic_mark(1, 2)).said[1].startswith("rule")


def interfaces() -> set[str]:
    return {word for word in Path("/proc/thread-self/net/dev").read_text().split() if word.endswith(":")}


def test_devices_and_rules_are_in_their_own_namespace_only() -> None:
    with judge_of(policies(rule("any"))) as judge:
        assert judge.inside().run(interfaces) >= {"in0:", "out0:"}
        assert not interfaces() & {"in0:", "out0:"}
        with PrivateNamespace() as other:
            assert other.run(interfaces) & {"in0:", "out0:"} == set()
