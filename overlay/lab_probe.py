# SPDX-License-Identifier: Apache-2.0
"""`lab probe`: real connections between all pods, beside what the policy says of them.

`expected` is `palisade matrix`'s answer from the same code, and denied where the lab's gateways do not join the two
segments, which no rule can change. A connection-oriented one is allowed when it was accepted
and an answer came back, a datagram or an echo request when it arrived. Where a connection that is expected does not
come about, it is tried again alone, with more patience: a busy machine loses packets too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from dfw.matrix import Asked, Matrix
from dfw.model import PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP, PROTO_TCP, PROTO_UDP, Family, Inventory, PolicySet, Port
from dfw.output import render_table
from dfw.reach import Reachability
from overlay.connect import Attempt, apply_attempts
from overlay.lab_view import LabView, PodPlace
from overlay.progress import Steps
from overlay.service_router import service_routers

ALLOWED: Final = "allowed"
DENIED: Final = "denied"
_NUMBERS: Final = {"TCP": PROTO_TCP, "UDP": PROTO_UDP, "SCTP": PROTO_SCTP}
_PINGS: Final = {Family.IPV4: PROTO_ICMP, Family.IPV6: PROTO_ICMPV6}
_FAMILIES: Final = {"4": Family.IPV4, "6": Family.IPV6}
_AGAIN: Final = 3  # how often what is missing is tried again
_SHOWN: Final = 30
_SIGNS: Final = {ALLOWED: ".", DENIED: "X"}
_DIFFERS: Final = "!"


def probe_lab(
    view: LabView, asked: Sequence[Asked], *, family: str, timeout: float, steps: Steps
) -> list[dict[str, Any]]:
    """A row for every pair of pods and port, in the order of `palisade matrix`.

    `family`: "4", "6", or any: the sender's first that the receiver has too. Ends that run on none of the lab's hosts
    (`not_here`) have no rows. Raises as apply_attempts does.
    """
    world = view.world
    if family in _FAMILIES:
        world = _of_family(world, _FAMILIES[family])
    ports = world.inventory.ports
    rows = []
    attempts: list[tuple[dict[str, Any], Attempt]] = []
    for row in Matrix(Reachability(world), asked).rows():
        if row["allowed"] is None:  # a workload without any address
            continue
        if row["from"] not in view.pods or row["to"] not in view.pods:
            continue
        sender, receiver = ports[row["from"]], ports[row["to"]]
        joined = _is_joined(world.inventory, sender, receiver)
        made = {
            "from": row["from"],
            "to": row["to"],
            "protocol": row["protocol"],
            "port": row["port"],
            "expected": ALLOWED if row["allowed"] and joined else DENIED,
            "observed": DENIED,
            "family": None,
            "by": row["by"] if joined else None,
        }
        rows.append(made)
        attempt = _attempt(view.pods, sender, receiver, row)
        if attempt is not None and (joined or not _is_others(world.inventory, sender, attempt.address)):
            made["family"] = "IPv4" if attempt.family is Family.IPV4 else "IPv6"
            attempts.append((made, attempt))
    with steps.shown():
        _try(attempts, timeout, steps)
    return rows


def not_here(view: LabView) -> list[str]:
    """What the policy knows and no host of the lab runs: with a Supervisor, a Port of somebody else's, or a pod that is
    still bound to a host that is gone."""
    return [name for name in view.world.inventory.ports if name not in view.pods]


def _of_family(world: PolicySet, family: Family) -> PolicySet:
    ports = {
        name: replace(port, ips=tuple(ip for ip in port.ips if ip.family is family))
        for name, port in world.inventory.ports.items()
    }
    return replace(world, inventory=replace(world.inventory, ports=ports))


def _is_joined(inventory: Inventory, sender: Port, receiver: Port) -> bool:
    """Do hosts route between the two? By one gateway, by Tier-1s at one Tier-0, or by two Tier-0s' service routers."""
    if sender.segment == receiver.segment:
        return True
    gateways = [inventory.segment_of(port).gateway for port in (sender, receiver)]
    near, far = [None if name is None else inventory.gateways[name].uplink_gateway or name for name in gateways]
    if near is None or far is None:
        return False
    outside = {router.gateway for router in service_routers(inventory)}
    return near == far or {near, far} <= outside


def _is_others(inventory: Inventory, sender: Port, address: str) -> bool:
    """Is that the address of somebody whom the sender reaches? Then it cannot ask for the one that is apart."""
    return any(
        str(ip) == address and _is_joined(inventory, sender, port)
        for port in inventory.ports.values()
        for ip in port.ips
    )


def _attempt(pods: Mapping[str, PodPlace], sender: Port, receiver: Port, row: dict[str, Any]) -> Attempt | None:
    """The connection for a row; None where the two have no family in common: nothing can be sent."""
    for ip in sender.ips:
        theirs = next((item for item in receiver.ips if item.family is ip.family), None)
        if theirs is not None:
            return Attempt(
                pods[sender.name].netns,
                pods[receiver.name].netns,
                ip.family,
                _NUMBERS.get(row["protocol"], _PINGS[ip.family]),
                row["port"] or 0,
                str(theirs),
                near=sender.segment == receiver.segment,
            )
    return None


def _try(attempts: list[tuple[dict[str, Any], Attempt]], timeout: float, steps: Steps) -> None:
    todo = attempts
    for round_ in range(_AGAIN + 1):
        text = "connections" if round_ == 0 else "once more, of those expected"
        with steps.step(text, len(todo)) as step:
            patience = timeout * (1 + round_)
            apply_attempts([item for _, item in todo], patience, step.advance, 256 if round_ == 0 else 32)
        for row, attempt in todo:
            row["observed"] = ALLOWED if attempt.arrived else DENIED
        todo = [
            (row, replace(attempt, short=False, said=0))
            for row, attempt in todo
            if attempt.short or (row["expected"] == ALLOWED and row["observed"] == DENIED)
        ]
        if not todo:
            return


def render_probe(rows: list[dict[str, Any]]) -> str:
    """For people: how many are as expected, and those that are not."""
    wrong = [row for row in rows if row["expected"] != row["observed"]]
    passed = sum(row["observed"] == ALLOWED for row in rows)
    text = f"{len(rows):,} connections tried: {passed:,} allowed, {len(rows) - passed:,} denied"
    if not wrong:
        return f"{text}; all as the policy says"
    columns = ["from", "to", "protocol", "port", "expected", "observed", "by"]
    cells = [["-" if row[key] is None else row[key] for key in columns] for row in wrong[:_SHOWN]]
    more = f"\n… and {len(wrong) - _SHOWN:,} more" if len(wrong) > _SHOWN else ""
    return f"{text}; {len(wrong):,} differ from the policy:\n\n{render_table(columns, cells)}{more}"


def render_grids(rows: list[dict[str, Any]]) -> str:
    """For people: for each port a grid of what was observed, rows are senders, columns receivers; then the summary."""
    names = list(dict.fromkeys(row["from"] for row in rows))
    wide = len(str(len(names)))
    left = max(map(len, names), default=0) + wide + 1
    seen: dict[str, dict[tuple[str, str], str]] = {}
    for row in rows:
        asked = row["protocol"].lower() + (f"/{row['port']}" if row["port"] else "")
        sign = _SIGNS[row["observed"]] if row["expected"] == row["observed"] else _DIFFERS
        seen.setdefault(asked, {})[row["from"], row["to"]] = sign
    lines = []
    for asked, cells in seen.items():
        lines.append(f"{asked}   (. allowed, X denied, {_DIFFERS} not what the policy says)")
        lines.append(" " * left + "".join(f" {number:>{wide}}" for number in range(1, len(names) + 1)))
        for number, sender in enumerate(names, 1):
            grid = "".join(f" {cells.get((sender, receiver), ''):>{wide}}" for receiver in names)
            lines.append((f"{number:>{wide}} {sender}".ljust(left) + grid).rstrip())
        lines.append("")
    return "\n".join([*lines, render_probe(rows)])
