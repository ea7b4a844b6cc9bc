# SPDX-License-Identifier: Apache-2.0
"""What `palisade diff` does, without the command line: from two policies to the answer as JSON shows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dfw.compile import Compiled, compile_policy
from dfw.endpoint import protocol_name
from dfw.judge_batch import BatchJudge, keys_of, packet_of
from dfw.model import EffectiveRule, Peers, PolicySet, ether_rules_for_tap
from dfw.packetdiff import Change, Comparison, policies_compare
from dfw.packettext import set_json
from dfw.probe import DisagreementError

MAXIMUM_CONFIRMED = 64  # vNICs whose samples are judged by the core as well


def diff_worlds(old: PolicySet, new: PolicySet, tap: bool) -> dict[str, Any]:
    """The answer without recorded flows.

    Raises UnsupportedError, CoreError, and DisagreementError where the packet core does not judge a sample as the sets
    say.
    """
    compared = policies_compare(old, new, tap=tap)
    compiled = tuple(compile_policy(world) for world in (old, new))
    _confirm(compared, compiled, tap)
    others = [
        what
        for what, of in (
            ("layer-2 rules", _ether),
            ("session timers", lambda world: (world.timers, world.timer_bindings_ordered)),
        )
        if of(old) != of(new)
    ]
    changes = [_change_json(change, compared.vnics) for change in compared.changes]
    equal = compared.complete and not (changes or others or compared.added or compared.removed)
    return {
        "equal": equal,
        "complete": compared.complete,
        "filter": "tap" if tap else "vnics",
        "vnics": {"compared": len(compared.vnics), "added": list(compared.added), "removed": list(compared.removed)},
        "others": others,
        "changes": changes,
        "flows": None,
    }


def _change_json(change: Change, vnics: Sequence[str]) -> dict[str, Any]:
    sets = [
        {**set_json(change.space, box, vnics), "sample": sample.as_json(), "sample_text": str(sample)}
        for box, sample in zip(change.boxes, change.samples, strict=True)
    ]
    return {"change": change.kind, "old": _rule_json(change.old), "new": _rule_json(change.new), "sets": sets}


def _rule_json(item: EffectiveRule | None) -> dict[str, Any]:
    if item is None:
        return {"verdict": "DROP", "rule_path": None, "policy": None, "tier": None}
    return {
        "verdict": item.rule.action.value,
        "rule_path": item.rule.path,
        "policy": item.policy.path,
        "tier": item.tier.name.capitalize(),
    }


def _confirm(compared: Comparison, compiled: Sequence[Compiled], tap: bool) -> None:
    """Every sample again, by the packet core under both policies."""
    by_vnic: dict[str | None, list[tuple[Change, int]]] = {}
    for change in compared.changes:
        for at, sample in enumerate(change.samples):
            by_vnic.setdefault(sample.vnic, []).append((change, at))
    for vnic in list(by_vnic)[:MAXIMUM_CONFIRMED]:
        items = by_vnic[vnic]
        keys = keys_of(packet_of(change.samples[at]) for change, at in items)
        for side, policy in enumerate(compiled):
            judge = BatchJudge(policy, None if tap else vnic)
            for (change, at), entry in zip(items, judge.entry_of(keys).tolist(), strict=True):
                wanted = (change.old, change.new)[side]
                found = judge.rule_of(entry)
                if (None if found is None else found.path) != (None if wanted is None else wanted.rule.path):
                    raise DisagreementError(
                        f"{change.samples[at]}: the sets lead to {wanted and wanted.rule.path}, the packet core to "
                        f"{found and found.path}; please report this"
                    )


def _ether(world: PolicySet) -> list[object]:
    """The layer-2 rules, resolved."""
    members: Callable[[Peers], object] = lambda peers: None if peers.is_any else sorted(world.macs(peers))  # noqa: E731
    return [
        (
            item.rule.action,
            item.rule.direction,
            members(item.rule.sources),
            members(item.rule.destinations),
            (item.rule.sources_excluded, item.rule.destinations_excluded),
            sorted(entry.ether_type or 0 for service in item.rule.services for entry in service.entries),
            sorted(port.name for port in world.members(item.applied_to)),
        )
        for item in ether_rules_for_tap(world)
    ]


def render_diff(data: dict[str, Any]) -> str:
    """For people: each change with its rules, its sets and a sample of each."""
    lines: list[str] = []
    for change in data["changes"]:
        old, new = change["old"], change["new"]
        lines.append(f"{_WORDS[change['change']]}: {_side(old)} -> {_side(new)}")
        for item in change["sets"]:
            lines += [f"  {item['text']}", f"    for example {item['sample_text']}"]
    vnics = data["vnics"]
    for word in ("added", "removed"):
        if vnics[word]:
            lines.append(f"vNICs {word}, not compared: {_few(vnics[word])}")
    lines += [f"{what} differ, and are not compared by packets" for what in data["others"]]
    if not data["complete"]:
        lines.append("not complete: to find or list everything would take more work than is allowed")
    if data["flows"] is not None:
        lines += _flow_lines(data["flows"])
    sets = sum(len(change["sets"]) for change in data["changes"])
    where = "at one filter on a wire" if data["filter"] == "tap" else f"at {vnics['compared']} vNICs"
    verdict = f"{sets} sets of packets are judged otherwise"
    if sets < 2:
        verdict = "1 set of packets is judged otherwise" if sets else "no packet is judged otherwise"
    lines.append(f"{verdict} {where}" + ("" if data["complete"] or sets else ", as far as was compared"))
    return "\n".join(lines)


_WORDS = {
    "passes": "newly passes",
    "refused": "newly refused",
    "refusal": "refused otherwise",
    "state": "passes with another state",
}


def _side(side: dict[str, Any]) -> str:
    return f"{side['verdict']} {side['rule_path'] or '(no rule)'}"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names if len(names) <= 5 else [*names[:5], f"{len(names) - 5} more"])


def _flow_lines(flows: dict[str, Any]) -> list[str]:
    lines = []
    for item in flows["changed"]:
        ends = f"{item['src']} port {item['sport']} to {item['dst']} port {item['dport']}"
        where = "" if item["vnic"] is None else f", {item['dir']} at {item['vnic']}"
        name = protocol_name(item["proto"])
        protocol = f"protocol {name}" if name.isdigit() else name
        lines.append(f"flow {_WORDS[item['change']]}: {protocol} {ends}{where}: {item['packets']} packets")
    lines.append(f"{len(flows['changed'])} of {flows['examined']} recorded flows change")
    if flows["unknown"]:
        lines.append(f"{flows['unknown']} recorded flows are of vNICs that are not in both policies")
    return lines
