# SPDX-License-Identifier: Apache-2.0
"""Layer-2 rules as a table of family bridge: its exact text; loaded and read back it is the same; changed in the
ruleset's own transactions; what it says of frames through this machine's kernel, and how a replay shows it."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from dfw.compile import compile_policy
from dfw.load import load
from dfw.model import (
    Action,
    Direction,
    Inventory,
    MacAddresses,
    Machine,
    Peers,
    Policy,
    PolicySet,
    Port,
    PortMember,
    Rule,
    Segment,
    Service,
    ServiceEntry,
    Tier,
    mac_packed,
)
from dfw.nftables import load as kernel
from dfw.nftables import plan_update, render_ruleset, render_wire, ruleset_sorted, vnic_mark
from dfw.nftables.batch import BRIDGE, update_messages
from dfw.nftables.frame_judge import FrameJudge
from dfw.nftables.frames import frames_parse, frames_replaced
from dfw.nftables.namespace import PrivateNamespace
from dfw.nftables.render import Rendered
from dfw.nftables.ruleset import Chain, ChainRule
from tests.conftest import LONG
from tests.support.oracle_bench import policies
from tests.support.replaying import CLIENT, THERE, Run, capture, check_schema, frame, lines, replayer
from tests.support.wire import End, arp, fragments
from tests.support.wire import Path as WirePath
from tests.unit.test_nftables import HERE, in_kernel, namespace  # noqa: F401 (a fixture)
from tests.unit.test_nftables_batch import RuleReader

GOLDEN = HERE / "ether.yaml"
EXPECTED = HERE / "expected-ether.json"
MACS = tuple(f"02:00:00:00:00:{at:02x}" for at in range(1, 7))


def rendered(world: PolicySet, before: Rendered | None = None) -> Rendered:
    """The ruleset of all vNICs; what is taken over from the one before comes to the same as from nothing."""
    compiled, vnics = compile_policy(world), [port.name for port in world.inventory]
    found = render_ruleset(compiled, vnics, before=before)
    assert found == render_ruleset(compiled, vnics, names=None if before is None else before.names)
    return found


def golden() -> Rendered:
    return rendered(load([str(GOLDEN)]).world)


def frames_text() -> str:
    """One command a line."""
    return "".join(json.dumps(command) + "\n" for command in frames_replaced("palisade", golden().ruleset.frames))


# The text


def test_the_text_of_what_frames_are_asked() -> None:
    # To write it anew: PYTHONPATH=. python -m tests.unit.test_nftables_ether
    assert frames_text() == EXPECTED.read_text()


def test_counters_name_the_rules_that_drop() -> None:
    found = golden()
    assert found.ruleset.frames is not None
    paths = {name: found.rule_of[name].path.rpartition("/")[2] for name in found.ruleset.frames.counters}
    assert sorted(paths.values()) == ["lldp", "no-v6", "strangers"]
    assert not set(found.ruleset.counters) & set(found.ruleset.frames.counters)
    assert set(found.rule_of) <= {*found.ruleset.counters, *found.ruleset.frames.counters}


def test_without_layer_2_rules_there_is_no_such_table() -> None:
    assert rendered(load([str(HERE / "in.yaml")]).world).ruleset.frames is None
    compiled = compile_policy(policies())
    assert render_wire(compiled.rules, compiled.sets, compiled.tap, compiled.ether.tap).ruleset.frames is None


# Loaded, read back, changed


def random_world(draw: random.Random) -> PolicySet:
    """A few vNICs and layer-2 rules."""
    ports = {
        f"v{at}": Port(f"v{at}", "h", "s", f"v{at}", mac)
        for at, mac in enumerate(MACS)
        if at < 2 or draw.random() < 0.7
    }
    inventory = Inventory(
        segments={"s": Segment("s", 1)}, machines={name: Machine(name) for name in ports}, ports=ports
    )

    def peers() -> Peers:
        if draw.random() < 0.4:
            return Peers(None)
        terms: list[PortMember | MacAddresses] = [
            PortMember(name) for name in draw.sample(sorted(ports), draw.randint(0, 2))
        ]
        return Peers((*terms, MacAddresses(tuple(draw.sample(MACS, draw.randint(1, 3))))))

    rules = []
    for number in draw.sample(range(6), draw.randint(0, 5)):
        types = draw.sample([0x0800, 0x86DD, 0x0806, 0x0608, 0x88CC, 0x8100, 0x88A8, 0x0600], draw.randint(0, 2))
        rules.append(
            Rule(
                f"/l2/rules/{number}",
                str(number),
                9000 + number,
                draw.choice([Action.ALLOW, Action.DROP]),
                peers(),
                peers(),
                draw.random() < 0.3,
                draw.random() < 0.3,
                (Service("", tuple(ServiceEntry(ether_type=kind) for kind in types)),) if types else (),
                draw.choice(list(Direction)),
                logged=draw.random() < 0.3,
                applied_to=Peers(None) if draw.random() < 0.5 else Peers((PortMember(draw.choice(sorted(ports))),)),
            )
        )
    layer2 = Policy("/l2", Tier.ETHERNET, 0, rules=tuple(rules), stateful=False, tcp_strict=False)
    return PolicySet((layer2,), inventory=inventory)


@in_kernel
def test_any_series_of_changes_is_in_the_kernel_as_rendered(namespace: PrivateNamespace) -> None:  # noqa: F811
    draw = random.Random("layer 2")
    seen = {"none": 0, "changed": 0}
    with namespace.run(lambda: kernel.RulesetLink("palisade")) as link:
        last = golden()
        link.apply(last.ruleset)
        assert ruleset_sorted(link.read()) == ruleset_sorted(last.ruleset)
        for step in range(200 if LONG else 25):
            now = rendered(random_world(draw), last)
            if step % 10 == 9:
                link.apply(now.ruleset)
            else:
                link.update(plan_update(last.ruleset, now.ruleset))
            assert ruleset_sorted(link.read()) == ruleset_sorted(now.ruleset), step
            frames = now.ruleset.frames
            assert set(link.counters()) == {*now.ruleset.counters, *(() if frames is None else frames.counters)}
            seen["none" if frames is None else "changed"] += 1
            last = now
        link.delete()
        assert link.counters() == {}
    assert all(seen.values()), seen


def sides_of(item: Rendered) -> set[str]:
    """At which ends something is asked."""
    return {verdicts.name for verdicts in item.ruleset.frames.maps} if item.ruleset.frames else set()


def rules_in(inside: PrivateNamespace) -> dict[str, list[tuple[bytes, bytes]]]:
    """Of the table for frames, chain by chain, as the kernel has them."""
    reader = inside.run(RuleReader)
    try:
        return reader.rules(BRIDGE)
    finally:
        reader.close()


@in_kernel
@pytest.mark.parametrize("seed", range(40 if LONG else 4))
def test_changes_by_netlink_are_those_of_libnftables(seed: int) -> None:
    draw = random.Random(seed)
    last, by_netlink = golden(), 0
    with (
        PrivateNamespace() as inside,
        PrivateNamespace() as other,
        inside.run(lambda: kernel.RulesetLink("palisade")) as link,
    ):
        link.apply(last.ruleset)
        for _ in range(6):
            now = rendered(random_world(draw), last)
            update = plan_update(last.ruleset, now.ruleset)
            link.update(update)
            assert ruleset_sorted(link.read()) == ruleset_sorted(now.ruleset)
            if sides_of(now) == sides_of(last):  # else maps and base chains are libnftables' work
                by_netlink += len(update_messages(update))
            other.run(partial(kernel.apply_ruleset, now.ruleset))
            assert rules_in(inside) == rules_in(other)
            last = now
    assert by_netlink


@in_kernel
def test_what_is_refused_changes_neither_table(namespace: PrivateNamespace) -> None:  # noqa: F811
    good = golden().ruleset
    assert good.frames is not None
    with namespace.run(lambda: kernel.RulesetLink("palisade")) as link:
        link.apply(good)
        wrong = Chain("new", (ChainRule(({"counter": "none"}, {"drop": None})),))
        frames = replace(good.frames, chains=(*good.frames.chains, wrong))
        bad = replace(good, counters=("more", *good.counters), frames=frames)
        with pytest.raises(kernel.LoadError, match=r"nftables refused the change: No such file or directory"):
            link.update(plan_update(good, bad))
        with pytest.raises(kernel.LoadError, match=r"^nftables refused the ruleset: .*No such file or directory"):
            link.apply(bad)
        assert ruleset_sorted(link.read()) == ruleset_sorted(good)


@in_kernel
def test_a_member_that_comes_is_one_element(namespace: PrivateNamespace) -> None:  # noqa: F811
    world = load([str(GOLDEN)]).world
    first = rendered(world)
    group = next(path for path in world.groups if path.endswith("/known"))
    more = replace(world.groups[group], expression=MacAddresses(MACS[:4]))
    now = rendered(replace(world, groups={**world.groups, group: more}), first)
    update = plan_update(first.ruleset, now.ruleset)
    commands = update.after
    assert [list(command) for command in commands] == [["delete"], ["add"]]
    assert all("element" in thing for command in commands for thing in command.values())
    with namespace.run(lambda: kernel.RulesetLink("palisade")) as link:
        link.apply(first.ruleset)
        assert update_messages(update)
        link.update(update)
        assert ruleset_sorted(link.read()) == ruleset_sorted(now.ruleset)


def test_what_is_no_such_table_is_refused() -> None:
    for text in ("", "{}", '{"nftables": [{"set": {"table": "t", "family": "bridge"}}]}'):
        with pytest.raises(ValueError, match=r"^not a list of nftables objects"):
            frames_parse(text, "t")
    strange = {"set": {"family": "bridge", "table": "t", "name": "f", "type": "mark"}}
    with pytest.raises(ValueError, match="the table t for frames has a set, which we never make"):
        frames_parse(json.dumps({"nftables": [strange]}), "t")


# Frames through a kernel

judged = [
    pytest.mark.needs_root,
    pytest.mark.needs_netns,
    pytest.mark.needs_tun,
    pytest.mark.needs_tool("nft", "ip"),
    pytest.mark.needs_kernel_judge,
]


def by_kernel(test: object) -> object:
    """The marks of a test whose frames go through this kernel."""
    for mark in judged:
        test = mark(test)
    return test


def bare(receiver: int, sender: int, kind: int) -> bytes:
    """A frame between two of the golden policy's vNICs, by number; 0 is everybody, 9 a stranger."""
    ends = [b"\xff" * 6 if at == 0 else mac_packed(f"02:00:00:00:00:{at:02x}") for at in (receiver, sender)]
    return b"".join(ends) + kind.to_bytes(2, "big") + bytes(46)


@by_kernel
def test_what_the_kernel_says_of_frames() -> None:
    found = golden()
    assert found.ruleset.frames is not None
    names = {name: rule.path.rpartition("/")[2] for name, rule in found.rule_of.items()} | {"": ""}
    with FrameJudge(found.ruleset.frames, "palisade") as judge:

        def said(receiver: int, sender: int, kind: int) -> tuple[str, str, bool]:
            answer = judge.judge(bare(receiver, sender, kind), vnic_mark(sender if sender < 4 else 0, receiver))
            assert answer.judged
            return names[answer.out_refused], names[answer.in_refused], answer.delivered

        assert said(1, 9, 0x0800) == ("", "", True)  # known
        assert said(1, 8, 0x0800) == ("", "strangers", False)
        assert said(1, 2, 0x0800) == ("", "strangers", False)
        assert said(1, 2, 0x0806) == ("", "", True)
        assert said(1, 2, 0x0608) == ("", "", True)
        assert said(2, 3, 0x86DD) == ("", "no-v6", False)
        assert said(3, 2, 0x86DD) == ("", "", True)
        assert said(2, 3, 0x88CC) == ("", "", True)
        assert said(0, 2, 0x88CC) == ("lldp", "", False)
        # A group may not send, and a bridge keeps what is said to bridges.
        group = bare(2, 3, 0x0800)
        assert not judge.judge(group[:6] + b"\x03" + group[7:], vnic_mark(3, 2)).judged
        assert not judge.judge(bytes.fromhex("0180c2000001") + group[6:], vnic_mark(3, 2)).judged


@by_kernel
@pytest.mark.parametrize("lost", [(0,), (1,), (0, 1), (0, 1, 2), (1, 3)])
def test_frames_that_a_busy_machine_has_lost_are_handed_over_again(
    lost: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = golden().ruleset.frames
    assert frames is not None
    monkeypatch.setattr("dfw.nftables.frame_judge._QUIET_SECONDS", 0.1)
    with FrameJudge(frames, "palisade") as judge:
        send, sent = judge._send, iter(range(100))
        with monkeypatch.context() as patched:
            patched.setattr(judge, "_send", lambda *item: None if next(sent) in lost else send(*item))
            first = judge.judge(bare(2, 3, 0x86DD), vnic_mark(3, 2))
        later = judge.judge(bare(3, 2, 0x86DD), vnic_mark(2, 3))
    assert (bool(first.in_refused), first.delivered, first.judged) == (True, False, True)
    assert (later.out_refused, later.in_refused, later.delivered) == ("", "", True)


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in a folder of its own."""
    return replayer(capfd, tmp_path, monkeypatch)


def shown(name: str) -> list[tuple[object, ...]]:
    keys = ("n", "vnic", "dir", "verdict", "reason", "ct")
    return [(*(line[key] for key in keys), (line["rule_path"] or "").rpartition("/")[2]) for line in lines(name)]


LAYER_2 = """\
---
resource_type: SecurityPolicy
id: l2
category: Ethernet
rules:
  - {id: arp, service_entries: [{resource_type: EtherTypeServiceEntry, ether_type: 0x806}], action: DROP, direction: IN}
  - {id: back, source_groups: [server], destination_groups: [client], action: DROP, direction: IN}
---
resource_type: Group
id: server
expression: [{resource_type: MACAddressExpression, mac_addresses: ["02:00:00:00:00:02"]}]
---
resource_type: Group
id: client
expression: [{resource_type: MACAddressExpression, mac_addresses: ["02:00:00:00:00:01"]}]
"""


@by_kernel
@pytest.mark.needs_ipv6
def test_a_replay_shows_layer_2(run: Run) -> None:
    with Path("p.yaml").open("a") as file:
        file.write(LAYER_2)
    many = WirePath(CLIENT, End("255.255.255.255", "ff:ff:ff:ff:ff:ff"))
    tagged, tagged_arp = (
        item[:12] + bytes.fromhex("81000005") + item[12:] for item in (frame(THERE.udp(1, 53)), arp(THERE))
    )
    back = [frame(item, THERE.back) for item in fragments(THERE.back.udp(53, 1, b"x" * 64), [24], 7)]
    capture("cap.pcap", [frame(THERE.udp(1, 53)), *back, arp(THERE), arp(many), tagged, tagged_arp])
    done = run("cap.pcap", "--inventory", "i.yaml", "--backend", "nftables", "--verdicts", "v.jsonl", "-o", "json")
    assert done.status == 0, done.err
    check_schema(done)
    assert shown("v.jsonl") == [
        (1, "client", "OUT", "ALLOW", "match", "new", "names"),
        (1, "server", "IN", "ALLOW", "match", "new", "names"),
        (2, "server", "OUT", "ALLOW", "state", "established", ""),
        (2, "client", "IN", "DROP", "match", "untracked", "back"),
        (3, "server", "OUT", "ALLOW", "state", "established", ""),
        (3, "client", "IN", "DROP", "match", "untracked", "back"),
        (4, "client", "OUT", "ALLOW", "non-ip", "untracked", ""),
        (4, "server", "IN", "DROP", "match", "untracked", "arp"),
        (5, "client", "OUT", "ALLOW", "non-ip", "untracked", ""),
        (5, "server", "IN", "DROP", "match", "untracked", "arp"),
        (6, "client", "OUT", "ALLOW", "state", "established", ""),
        (6, "server", "IN", "ALLOW", "state", "established", ""),
        (7, "client", "OUT", "ALLOW", "non-ip", "untracked", ""),
        (7, "server", "IN", "DROP", "match", "untracked", "arp"),
    ]
    hits = {row["rule_path"].rpartition("/")[2]: row["hits"] for row in done.json["rules"]}
    assert (hits["arp"], hits["back"]) == (3, 2)
    # On a wire each frame is asked once.
    assert run("cap.pcap", "--backend", "nftables", "--verdicts", "v.jsonl").status == 0
    assert [row[3:] for row in shown("v.jsonl")][3:5] == [("DROP", "match", "untracked", "arp")] * 2
    assert [row[3] for row in shown("v.jsonl")] == ["ALLOW", "DROP", "DROP", "DROP", "DROP", "ALLOW", "DROP"]


if __name__ == "__main__":
    EXPECTED.write_text(frames_text())
