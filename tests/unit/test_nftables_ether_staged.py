# SPDX-License-Identifier: Apache-2.0
"""Staged layer-2 rules under nftables: the exact text; loaded and read back it is the same, changed in the ruleset's
own transactions; what is counted, that nothing in force changes by it, and how a replay shows it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace as with_fields

from dfw.compile import compile_policy
from dfw.layout import ETHER_DTYPE
from dfw.load import load
from dfw.model import NFTABLES, Address, Family, Host, Policy, PolicySet
from dfw.nftables import load as kernel
from dfw.nftables import plan_update, refuse_unsupported, render_ruleset, ruleset_sorted, vnic_mark
from dfw.nftables.batch import update_messages
from dfw.nftables.frame_judge import FrameJudge
from dfw.nftables.frame_staged import FRAMES_CUT, FRAMES_PASS_TOO, FRAMES_WOULD_PASS
from dfw.nftables.frames import FrameRules, frames_replaced
from dfw.nftables.judge import KernelJudge, decisions_logged
from dfw.nftables.namespace import PrivateNamespace
from dfw.nftables.nflog import LogRecord
from dfw.nftables.render import Rendered
from dfw.nftables.shared import KNOWN_MARK, REFUSED_MARK
from dfw.nftables.staged import CUT, STAGED
from overlay.hoststate import HostState, StagedState, StateError, state_decode, state_encode
from overlay.kernel_ends import render_ends
from overlay.kernel_log import log_entry
from overlay.kernel_staged import show_staged, staged_sums
from overlay.kernel_tables import host_tables, staged_tables
from overlay.span import resolve_span
from overlay.span_parts import (
    VERSION,
    EtherPart,
    HostPart,
    SegmentPart,
    TablePart,
    VnicPart,
    part_encode,
    parts_assemble,
)
from tests.conftest import LONG
from tests.support.oracle_bench import A, B, udp
from tests.support.replaying import THERE, Run, capture, check_schema, frame, lines, replayer
from tests.support.wire import arp
from tests.unit.test_nftables import HERE, in_kernel, namespace  # noqa: F401 (a fixture)
from tests.unit.test_nftables_ether import LAYER_2, bare, by_kernel, random_world, rules_in

FILES = [str(HERE / "ether.yaml"), str(HERE / "ether-staged.yaml")]
EXPECTED = HERE / "expected-ether-staged.json"


def rendered(world: PolicySet, before: Rendered | None = None) -> Rendered:
    """With the staged policies; what is taken over from the one before comes to the same as from nothing."""
    refuse_unsupported(world)
    compiled, vnics = compile_policy(world), [port.name for port in world.inventory]
    staged = compile_policy(world.what_if) if world.staged else None
    found = render_ruleset(compiled, vnics, before=before, staged=staged)
    names = None if before is None else before.names
    assert found == render_ruleset(compiled, vnics, names=names, staged=staged)
    return found


def golden() -> Rendered:
    return rendered(load(FILES).world)


def frames_of(item: Rendered) -> FrameRules:
    assert item.ruleset.frames is not None
    return item.ruleset.frames


def frames_text() -> str:
    """One command a line."""
    return "".join(json.dumps(command) + "\n" for command in frames_replaced("palisade", golden().ruleset.frames))


# The text


def test_the_text_of_what_frames_are_asked() -> None:
    # To write it anew: PYTHONPATH=. python -m tests.unit.test_nftables_ether_staged
    assert frames_text() == EXPECTED.read_text()


def test_what_is_in_force_is_written_as_without() -> None:
    world = load(FILES).world
    beside, alone = (frames_of(rendered(item)) for item in (world, replace(world, staged=())))
    for name in ("sets", "maps", "chains"):
        assert [item for item in getattr(beside, name) if STAGED not in item.name] == list(getattr(alone, name))
    assert [name for name in beside.counters if STAGED not in name] == list(alone.counters)


def test_counters_name_the_staged_rules() -> None:
    found = golden()
    counters = {name for name in frames_of(found).counters if name.startswith(STAGED)}
    paths = {found.staged_of[name].path.rpartition("/")[2] for name in counters & found.staged_of.keys()}
    assert paths == {"no-arp", "no-ip"}  # one-way would be gone, and what allows does not count
    assert counters - found.staged_of.keys() == {FRAMES_CUT, FRAMES_PASS_TOO, FRAMES_WOULD_PASS}
    assert not set(found.ruleset.counters) & set(frames_of(found).counters)


def acts(frames: FrameRules) -> Iterator[Any]:
    """What staged chains do beyond looking, counting and remembering."""
    bits = [{"|": [{"meta": {"key": "mark"}}, bit]} for bit in (0x8000, 0x80000000)]
    for chain in frames.chains:
        if not chain.name.startswith(STAGED):
            continue
        assert chain.hook is None or chain.hook.policy == "accept"
        for item in (item for rule in chain.rules for item in rule.expressions):
            ((kind, value),) = item.items()
            is_ours = kind == "goto" and value["target"].startswith(STAGED)
            if not (kind in ("match", "counter", "accept", "vmap") or is_ours or value.get("value") in bits):
                yield item


@pytest.mark.parametrize("seed", range(200 if LONG else 20))
def test_no_staged_rule_can_act(seed: int) -> None:
    world = drawn(random.Random(seed))
    frames = rendered(world).ruleset.frames
    assert frames is None or list(acts(frames)) == []


# Loaded, read back, changed


def drawn(draw: random.Random) -> PolicySet:
    """Layer-2 rules, in force, staged, or both."""
    world, other = random_world(draw), random_world(draw)
    (policy,) = other.policies
    staged = replace(policy, rules=tuple(replace(rule, number=rule.number + 50) for rule in policy.rules), staged=True)
    kept = world.policies if draw.random() < 0.8 else ()
    return replace(world, policies=kept, staged=(staged,) if draw.random() < 0.8 else ())


@in_kernel
def test_any_series_of_changes_is_in_the_kernel_as_rendered(namespace: PrivateNamespace) -> None:  # noqa: F811
    draw = random.Random("staged layer 2")
    by_netlink = 0
    with (
        PrivateNamespace() as other,
        namespace.run(lambda: kernel.RulesetLink("palisade")) as link,
    ):
        last = golden()
        link.apply(last.ruleset)
        assert ruleset_sorted(link.read()) == ruleset_sorted(last.ruleset)
        for step in range(100 if LONG else 12):
            now = rendered(drawn(draw), last)
            update = plan_update(last.ruleset, now.ruleset)
            link.update(update)
            assert ruleset_sorted(link.read()) == ruleset_sorted(now.ruleset), step
            other.run(partial(kernel.apply_ruleset, now.ruleset))
            assert rules_in(namespace) == rules_in(other)
            frames = now.ruleset.frames
            assert set(link.counters()) == {*now.ruleset.counters, *(() if frames is None else frames.counters)}
            last = now
        # A staged rule that changes is a chain of its own, by netlink itself.
        world = load(FILES).world
        first = rendered(world, last)
        link.update(plan_update(last.ruleset, first.ruleset))
        now = rendered(replace(world, staged=tuple(map(_one_less, world.staged))), first)
        update = plan_update(first.ruleset, now.ruleset)
        assert update and all(STAGED in str(command) for command in (*update.before, *update.after))
        by_netlink += len(update_messages(update))
        link.update(update)
        assert ruleset_sorted(link.read()) == ruleset_sorted(now.ruleset)
    assert by_netlink


def _one_less(policy: Policy) -> Policy:
    return replace(policy, rules=policy.rules[1:]) if policy.path.endswith("/both-ways") else policy


# What is counted


def counted(judge: FrameJudge | KernelJudge) -> dict[str, int]:
    with judge.inside().run(lambda: kernel.RulesetLink("palisade")) as link:
        return {name: packets for name, (packets, _) in link.counters().items() if packets and STAGED in name}


def sums(counts: dict[str, int]) -> dict[str, int]:
    return staged_sums({name: (packets, 0) for name, packets in counts.items()})


@by_kernel
def test_what_would_have_been_is_counted() -> None:
    found = golden()
    names = {name: rule.path.rpartition("/")[2] for name, rule in {**found.rule_of, **found.staged_of}.items()}
    with FrameJudge(frames_of(found), "palisade") as judge:

        def said(receiver: int, sender: int, kind: int, *, mark: int = 0) -> tuple[Any, ...]:
            """What is refused in force and by the staged rules, whether it was delivered, and the sums' change."""
            before = sums(counted(judge))
            answer = judge.judge(bare(receiver, sender, kind), vnic_mark(sender if sender < 4 else 0, receiver) | mark)
            after = sums(counted(judge))
            staged = answer.out_staged or answer.in_staged
            return (
                names.get(answer.out_refused or answer.in_refused, ""),
                names[f"{STAGED}{staged}"] if staged else "",
                answer.delivered,
                {name: after[name] - before[name] for name in after},
            )

        nothing = {"cut": 0, "pass": 0}
        assert said(1, 9, 0x0800) == ("", "", True, nothing)
        assert said(1, 2, 0x0800) == ("strangers", "", False, {"cut": 0, "pass": 1})
        assert said(1, 9, 0x0806) == ("", "no-arp", True, {"cut": 1, "pass": 0})
        assert said(0, 2, 0x88CC) == ("lldp", "", False, {"cut": 0, "pass": 1})
        # IP going out is layer 3's to count.
        assert said(2, 3, 0x0800) == ("", "no-ip", True, nothing)
        assert said(2, 3, 0x86DD) == ("no-v6", "", False, {"cut": 0, "pass": 1})
        # What would have been refused before is not asked about again, and counts once.
        assert said(1, 9, 0x0806, mark=REFUSED_MARK) == ("", "", True, {"cut": 1, "pass": 0})
        by_rule = {names[name]: packets for name, packets in counted(judge).items() if name in names}
        assert by_rule == {"no-arp": 1, "no-ip": 1}


@by_kernel
def test_what_layer_2_would_refuse_going_out_is_cut_at_layer_3_and_asked_no_more() -> None:
    with KernelJudge(decisions_logged(golden().ruleset)) as judge:
        passed = judge.judge(udp(A, B, (1, 9)), vnic_mark(3, 2))
        assert passed.delivered and counted(judge).get(CUT) is None
        cut = judge.judge(udp(A, B, (2, 9)), vnic_mark(3, 2) | REFUSED_MARK)
        assert cut.delivered and not [text for text in cut.said if "rule" in text and text.startswith(STAGED)]
        assert counted(judge)[CUT] == 1


# A replay


STAGED_2 = """\
---
resource_type: SecurityPolicy
id: l2
category: Ethernet
staged: true
rules:
  - {id: arp, service_entries: [{resource_type: EtherTypeServiceEntry, ether_type: 0x806}], action: ALLOW}
  - {id: there, source_groups: [client], destination_groups: [server], action: DROP, direction: OUT}
"""


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in a folder of its own."""
    return replayer(capfd, tmp_path, monkeypatch)


@by_kernel
@pytest.mark.needs_ipv6
@pytest.mark.parametrize("backend", ["native", "nftables"])
def test_a_replay_shows_what_would_become_of_frames(run: Run, backend: str) -> None:
    with Path("p.yaml").open("a") as file:
        file.write(LAYER_2 + STAGED_2)
    capture("cap.pcap", [frame(THERE.udp(1, 53)), frame(THERE.back.udp(53, 1), THERE.back), arp(THERE)])
    done = run("cap.pcap", "--inventory", "i.yaml", "--backend", backend, "--verdicts", "v.jsonl", "-o", "json")
    assert done.status == 0, done.err
    check_schema(done)
    there = "/infra/domains/default/security-policies/l2/rules/there"
    found = [
        (line["n"], line["dir"], line["verdict"], line["staged"], line.get("staged_then")) for line in lines("v.jsonl")
    ]
    assert [item[:3] for item in found] == [
        (1, "OUT", "ALLOW"),
        (1, "IN", "ALLOW"),
        (2, "OUT", "ALLOW"),
        (2, "IN", "DROP"),
        (3, "OUT", "ALLOW"),
        (3, "IN", "DROP"),
    ]
    assert (found[0][3]["verdict"], found[0][3]["rule_path"]) == ("DROP", there) and found[1][3] is None
    # The answer belongs to nothing: in that world its question went nowhere.
    assert found[2][3]["rule_path"].endswith("/p/rules/rest") and found[3][3] is None
    assert [item[3]["verdict"] for item in found[4:]] == ["ALLOW", "ALLOW"]
    assert [done.json["staged"][name]["packets"] for name in ("cut", "pass")] == [1, 1]
    if backend == "nftables":
        # On a wire, where layer 3 is not asked about what layer 2 refuses in force.
        assert run("cap.pcap", "--backend", "nftables", "--verdicts", "v.jsonl").status == 0
        assert [(line["verdict"], line["staged"]["verdict"]) for line in lines("v.jsonl")] == [
            ("ALLOW", "DROP"),
            ("DROP", "ALLOW"),
            ("DROP", "ALLOW"),
        ]


# A host

LOGGED = udp("10.0.0.1", "10.0.0.2", (1, 9))


def test_the_log_names_the_receiver_whatever_staged_rules_have_said() -> None:
    found = golden()
    (counter,) = (name for name, rule in found.rule_of.items() if rule.path.endswith("/no-v6"))
    for more in (0, REFUSED_MARK, REFUSED_MARK | KNOWN_MARK, KNOWN_MARK):
        entry = log_entry(LogRecord(f"palisade {counter} 1", vnic_mark(0, 2) | more, 0, LOGGED), found)
        assert entry is not None and (entry.vnic, entry.dir) == ("db", "IN")
        entry = log_entry(LogRecord(f"palisade {counter} 1", vnic_mark(3, 2) | more, 0, LOGGED), found)
        assert entry is not None and (entry.vnic, entry.dir) == ("free", "OUT")


def state_of() -> HostState:
    world = load(FILES).world
    host = Host("h", Address(Family.IPV4, 0xAC100001), enforcer=NFTABLES)
    return resolve_span(replace(world, inventory=replace(world.inventory, hosts={"h": host})), 7, {})["h"]


def test_a_host_is_told_and_renders_the_same() -> None:
    state = state_of()
    assert state_decode(state_encode(state)) == state and state.staged is not None
    staged = staged_tables(state)
    found = render_ruleset(host_tables(state), [vnic.name for vnic in state.vnics], staged=staged)
    assert frames_of(found).chains == frames_of(golden()).chains
    rows = {str(row["rule_path"]).rpartition("/")[2]: row for row in show_staged(state, {}, None)}
    assert (rows["no-arp"]["vnics"], rows["no-ip"]["vnics"], "lldp" in rows) == (1, 1, False)
    for changed, words in (
        ({"ether_of": (0,)}, "1 staged layer-2 tables for 3 vNICs"),
        ({"ether_of": (0, None, 9)}, "the staged layer-2 table of vNIC free is 9, of 2"),
    ):
        bad = with_fields(state, staged=with_fields(state.staged, **changed))
        with pytest.raises(StateError, match=words):
            state_decode(state_encode(bad))


def test_a_host_under_a_supervisor_is_told_the_same() -> None:
    state = state_of()
    assert state.staged is not None
    rules = tuple(state.staged.rules)
    table = TablePart(state.staged.tables[0].entries, rules)
    parts = {
        "host/h": HostPart("172.16.0.1", VERSION, enforcer=NFTABLES),
        "segment/s": SegmentPart(5001, ("10.0.0.0/24",)),
        "table/t": table,
        **{f"ether/{at}": EtherPart(item.entries, item.macs, rules) for at, item in enumerate(state.staged.ether)},
    }
    for vnic, number in zip(state.vnics, state.staged.ether_of, strict=True):
        ether = None if number is None else f"ether/{number}"
        ips = (vnic.ips[0].partition("/")[0],)
        part = VnicPart("s", vnic.mac, ips, "table/t", vnic.timers, staged="table/t", staged_ether=ether)
        parts[f"vnic/{vnic.name}"] = part
    found = parts_assemble("h", {key: part_encode(part) for key, part in parts.items()}, 1).staged
    assert found is not None

    def meant(of: StagedState, names: list[str]) -> dict[str, object]:
        rows = [
            None if number is None else np.frombuffer(of.ether[number].entries, ETHER_DTYPE)["rule"]
            for number in of.ether_of
        ]
        paths = (None if item is None else [of.rules[row].path for row in item] for item in rows)
        return dict(zip(names, paths, strict=True))

    told = meant(found, sorted(vnic.name for vnic in state.vnics))
    assert told == meant(state.staged, [vnic.name for vnic in state.vnics])
    assert sum(item is not None for item in told.values()) == 2


def test_who_the_ends_are_leaves_what_layer_2_has_said() -> None:
    state = state_of()
    text = render_ends(state, {vnic.name: at for at, vnic in enumerate(state.vnics, 1)})
    assert "meta mark set meta mark & 0xffff8000 | 1" in text and "meta mark & 0x7fff != 0 accept" in text


if __name__ == "__main__":
    EXPECTED.write_text(frames_text())
