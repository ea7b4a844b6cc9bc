# SPDX-License-Identifier: Apache-2.0
"""What differs between what a host is told and what it would be told: lines for `--dry-run`. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from dfw.layout import ETHER_DTYPE, RULE_DTYPE
from overlay.hoststate import HostState, SetState, VnicState
from overlay.realized import show_addrsets

_MEMBERS = 8  # of a group that are named


def plan_state_changes(old: HostState | None, new: HostState | None) -> tuple[str, ...]:
    """From one state of a host to the next, a line a thing: `+` comes, `-` goes, `~` changes. None: there is none."""
    return tuple(_lines(_view(old), _view(new)))


@dataclass(slots=True)
class _View:
    """A state with names instead of numbers. `vnics`: by name, what each aspect of it is."""

    vnics: dict[str, dict[str, Hashable]] = field(default_factory=dict)
    rules: dict[str, Hashable] = field(default_factory=dict)
    groups: dict[str, list[str]] = field(default_factory=dict)
    segments: dict[str, Hashable] = field(default_factory=dict)
    teps: dict[str, Hashable] = field(default_factory=dict)
    neighbours: set[Hashable] = field(default_factory=set)
    routes: set[Hashable] = field(default_factory=set)
    host: Hashable = None


def _view(state: HostState | None) -> _View:
    if state is None:
        return _View()
    return _View(
        vnics={vnic.name: _vnic(state, vnic) for vnic in state.vnics},
        rules={rule.path: (rule.action, rule.tier, rule.logged, rule.tag) for rule in state.rules},
        groups={
            row["set"]: row["members"] for item, row in zip(state.sets, show_addrsets(state), strict=True) if item.name
        },
        segments={
            item.name: (item.vni, _name(state.gateways, item.gateway), frozenset(_teps(state, item.replicas)))
            for item in state.segments
        },
        teps={tep.host: tep.ip for tep in state.teps},
        neighbours={
            (state.segments[item.segment].name, item.mac, item.ip, item.vnic, *_teps(state, (item.tep,)))
            for item in state.neighbours
        },
        routes={
            (
                state.gateways[item.gateway],
                item.prefix,
                item.kind,
                item.next_hop,
                None
                if item.kind == "blackhole"
                else state.gateways[item.target]
                if item.kind == "gateway"
                else state.segments[item.target].name,
            )
            for item in state.routes
        },
        host=(state.tep, state.underlay_mtu),
    )


def _name(names: tuple[str, ...], number: int | None) -> str | None:
    return None if number is None else names[number]


def _teps(state: HostState, numbers: Iterable[int | None]) -> list[str]:
    return [state.teps[number].host for number in numbers if number is not None]


def _vnic(state: HostState, vnic: VnicState) -> dict[str, Hashable]:
    return {
        "MAC address": vnic.mac,
        "addresses": vnic.ips,
        "segment": state.segments[vnic.segment].name,
        "rules": _entries(state, vnic),
        "layer-2 rules": _ether(state, vnic),
        "timers": vnic.timers,
        "flood limits": vnic.flood,
        "gateways": vnic.gateways,
        "MTU": vnic.mtu,
        "place": (vnic.netns, vnic.interface),
        "guards": vnic.guards,
    }


def _entries(state: HostState, vnic: VnicState) -> Hashable:
    """A vNIC's rules, in order: a named group counts by its name, whatever its members are."""
    table = state.tables[vnic.table]
    rows = np.frombuffer(table.entries, RULE_DTYPE).copy()
    refs = np.frombuffer(table.refs, np.uint32)
    paths = [state.rules[number].path for number in rows["rule"].tolist()]
    sides: list[list[Hashable]] = []
    for side in ("src", "dst"):
        spans = zip(rows[f"{side}_off"].tolist(), rows[f"{side}_n"].tolist(), strict=True)
        sides.append([tuple(_set(state.sets[ref]) for ref in refs[start : start + count]) for start, count in spans])
        rows[f"{side}_off"] = 0
    rows["rule"] = 0
    return tuple(zip(paths, *sides, [row.tobytes() for row in rows], strict=True))


def _set(item: SetState) -> Hashable:
    return item.name or item.ranges


def _ether(state: HostState, vnic: VnicState) -> Hashable:
    if vnic.ether is None:
        return None
    table = state.ether[vnic.ether]
    rows = np.frombuffer(table.entries, ETHER_DTYPE).copy()
    paths = tuple(state.rules[number].path for number in rows["rule"].tolist())
    rows["rule"] = 0
    return (paths, rows.tobytes(), table.macs)


def _lines(old: _View, new: _View) -> Iterator[str]:
    if old.host != new.host and old.host is not None and new.host is not None:
        yield f"~ TEP and underlay MTU: {new.host}"
    yield from _named("segment", old.segments, new.segments)
    yield from _named("TEP of host", old.teps, new.teps)
    yield from (f"- vNIC {name}" for name in old.vnics if name not in new.vnics)
    for name, vnic in new.vnics.items():
        before = old.vnics.get(name)
        if before is None:
            yield f"+ vNIC {name} in segment {vnic['segment']}"
        elif before != vnic:
            yield f"~ vNIC {name}: {', '.join(what for what, value in vnic.items() if before[what] != value)}"
    yield from _named("rule", old.rules, new.rules)
    for name, members in new.groups.items():
        if name in old.groups and old.groups[name] != members:
            yield f"~ group {name}: {_members(old.groups[name], members)}"
    yield from _counted("addresses of workloads", old.neighbours, new.neighbours)
    yield from _counted("routes", old.routes, new.routes)


def _named(what: str, old: Mapping[str, Hashable], new: Mapping[str, Hashable]) -> Iterator[str]:
    yield from (f"- {what} {name}" for name in old if name not in new)
    for name, value in new.items():
        if name not in old:
            yield f"+ {what} {name}"
        elif old[name] != value:
            yield f"~ {what} {name}"


def _members(old: list[str], new: list[str]) -> str:
    changes = [f"+{item}" for item in new if item not in set(old)] + [
        f"-{item}" for item in old if item not in set(new)
    ]
    more = f" and {len(changes) - _MEMBERS} more" if len(changes) > _MEMBERS else ""
    return " ".join(changes[:_MEMBERS]) + more


def _counted(what: str, old: set[Hashable], new: set[Hashable]) -> Iterator[str]:
    if old != new:
        yield f"~ {what}: +{len(new - old)} -{len(old - new)}"
