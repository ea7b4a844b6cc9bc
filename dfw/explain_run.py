# SPDX-License-Identifier: Apache-2.0
"""What `palisade explain` does, without the command line: from what was asked to the answer as JSON shows it."""

from __future__ import annotations

from typing import Any

from dfw.endpoint import EndpointError, Peer, endpoint_parse, port_parse, protocol_parse
from dfw.explanation import Match, explain_at
from dfw.model import (
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTOCOLS_WITH_PORTS,
    Direction,
    EffectiveRule,
    Family,
    Inventory,
    PolicySet,
)
from dfw.probe import EPHEMERAL_PORT, DisagreementError, Probe, Verdict, inventory_of, judge_both

MAXIMUM_PAIRS = 3000
PACKET_OPTIONS = ("source", "destination", "proto", "dport", "sport", "icmp_type", "icmp_code", "family")


def probes_of(
    world: PolicySet,
    *,
    source: str,
    destination: str,
    proto: str,
    dport: str | None,
    sport: str | None,
    icmp_type: int | None,
    icmp_code: int,
    family: str | None,
) -> list[Probe]:
    """The packets that were asked for: one for each pair of ends. Raises EndpointError."""
    protocol = protocol_parse(proto)
    is_icmp = protocol in (PROTO_ICMP, PROTO_ICMPV6)
    if protocol in PROTOCOLS_WITH_PORTS:
        if dport is None:
            raise EndpointError(f"{proto} has ports: --dport is missing")
        first, second = EPHEMERAL_PORT if sport is None else port_parse(sport), port_parse(dport)
    else:
        if dport is not None or sport is not None:
            raise EndpointError(f"{proto} has no ports: leave out --dport and --sport")
        first, second = 0, 0
    if is_icmp:
        first, second = (8 if protocol == PROTO_ICMP else 128) if icmp_type is None else icmp_type, icmp_code
    elif icmp_type is not None:
        raise EndpointError(f"--icmp-type is for icmp and icmpv6, not for {proto}")
    wanted = {"4": Family.IPV4, "6": Family.IPV6, None: None}[family]
    if is_icmp:
        own = Family.IPV4 if protocol == PROTO_ICMP else Family.IPV6
        if wanted not in (None, own):
            raise EndpointError(f"{proto} belongs to {own.name}: leave out --family")
        wanted = own
    ends = [endpoint_parse(text, world) for text in (source, destination)]
    for choice in (Family.IPV4, Family.IPV6) if wanted is None else (wanted,):
        senders, receivers = (list(end.peers(choice)) for end in ends)
        probes = [
            Probe(sender, receiver, protocol, first, second)
            for sender in senders
            for receiver in receivers
            if sender.address != receiver.address
        ]
        if len(senders) * len(receivers) > MAXIMUM_PAIRS:
            pairs = len(senders) * len(receivers)
            raise EndpointError(f"{pairs} pairs are too many to explain (at most {MAXIMUM_PAIRS}); use matrix")
        if probes:
            return probes
    if source == destination:
        raise EndpointError("both ends are the same: no packet leaves it")
    which = "a common family" if wanted is None else wanted.name
    raise EndpointError(f"{source} and {destination} have no addresses of {which}")


def explain_pairs(world: PolicySet, probes: list[Probe], has_inventory: bool, above: int = 3) -> dict[str, Any]:
    """The answer as `-o json` shows it: for the first pair that does not arrive, else for the first.

    Raises DisagreementError, UnsupportedError, AmbiguousVnicError, CoreError.
    """
    ports = [peer.port for probe in probes for peer in (probe.source, probe.destination) if peer.port is not None]
    at = inventory_of(world, ports) if has_inventory else None
    verdicts = judge_both(world, probes, at)
    arrives = [all(verdict.verdict == "ALLOW" for verdict in found) for found in verdicts]
    index = arrives.index(False) if False in arrives else 0
    probe = probes[index]
    steps = _steps(world, probe, verdicts[index], at, above)
    result = {
        "allowed": all(arrives),
        "from": _end(probe.source),
        "to": _end(probe.destination),
        "packet": {
            "protocol": probe.protocol,
            "service": probe.service,
            "sport": None if probe.is_icmp else probe.sport,
            "dport": None if probe.is_icmp else probe.dport,
            "icmp_type": probe.sport if probe.is_icmp else None,
            "icmp_code": probe.dport if probe.is_icmp else None,
        },
        "pairs": {"judged": len(probes), "allowed": sum(arrives)},
        "steps": steps,
    }
    if world.staged:
        _add_staged(result, world, probes, index, arrives, at)
    return result


def _steps(
    world: PolicySet, probe: Probe, verdicts: tuple[Verdict, ...], at: Inventory | None, above: int
) -> list[dict[str, Any]]:
    """What each vNIC says of a packet; the receiver's too where the packet does not come so far."""
    steps = [_step(world, probe, verdict, above, True) for verdict in verdicts]
    receiver = probe.destination.port
    is_alone = receiver is None or probe.source.port is None or receiver.name == probe.source.port.name
    arrives = all(verdict.verdict == "ALLOW" for verdict in verdicts)
    if at is not None and not arrives and len(steps) == 1 and not is_alone:
        assert receiver is not None
        (beyond,) = judge_both(world, [probe], inventory_of(world, [receiver]))
        steps += [_step(world, probe, verdict, above, False) for verdict in beyond]
    return steps


_STAGED = ("reached", "verdict", "reason", "tier", "policy", "rule_path", "rule", "action")


def _add_staged(
    result: dict[str, Any],
    world: PolicySet,
    probes: list[Probe],
    index: int,
    arrives: list[bool],
    at: Inventory | None,
) -> None:
    """What the staged policies would say: of all pairs, and at each step of the one that is explained."""
    verdicts = judge_both(world.what_if, probes, at)
    would = [all(verdict.verdict == "ALLOW" for verdict in found) for found in verdicts]
    steps = _steps(world.what_if, probes[index], verdicts[index], at, 0)
    beside = {(step["vnic"], step["dir"]): {name: step[name] for name in _STAGED} for step in steps}
    for step in result["steps"]:
        step["staged"] = beside.get((step["vnic"], step["dir"]))
    changed = [number for number, pair in enumerate(zip(arrives, would, strict=True)) if pair[0] != pair[1]]
    first = probes[changed[0]] if changed else None
    result["staged"] = {
        "policies": [policy.path for policy in world.staged],
        "allowed": all(would),
        "arrives": would[index],
        "pairs": {"judged": len(probes), "allowed": sum(would), "changed": len(changed)},
        "first_changed": None if first is None else {"from": _end(first.source), "to": _end(first.destination)},
    }


def _end(peer: Peer) -> dict[str, Any]:
    port = peer.port
    is_assumed = port is not None and port.ips_assumed
    return {"vnic": None if port is None else port.name, "address": str(peer.address), "assumed": is_assumed}


def _step(world: PolicySet, probe: Probe, verdict: Verdict, above: int, reached: bool) -> dict[str, Any]:
    """One filter's judgement with its reasons. Raises DisagreementError where they lead to another rule."""
    step: dict[str, Any] = {"vnic": verdict.vnic, "host": None, "dir": verdict.dir, "reached": reached}
    step |= {"verdict": verdict.verdict, "reason": verdict.reason}
    if verdict.dir is None:
        return {**step, **_rule(None), "matched": None, "passed": [], "skipped": [], "default": False}
    port = world.inventory.ports.get(verdict.vnic or "")
    found = explain_at(world, port, Direction[verdict.dir], probe, above)
    path = None if found.match is None else found.match.effective.rule.path
    # Some packets are refused before any rule is asked.
    if verdict.rule_path != path and not (verdict.rule_path is None and verdict.verdict == "DROP"):
        raise DisagreementError(
            f"the explanation leads to {path}, the engines to {verdict.rule_path}; please report this"
        )
    match = found.match if verdict.rule_path is not None else None
    return {
        **step,
        "host": None if port is None else port.host,
        **_rule(match.effective if match else None),
        "matched": _matched(match),
        "passed": [{**_rule(item.effective), "matched": _matched(item)} for item in found.passed],
        "skipped": [{**_rule(item.effective), "why": item.why, "near": item.near} for item in found.skipped],
        "default": match is not None and found.is_default,
    }


def _rule(item: EffectiveRule | None) -> dict[str, Any]:
    if item is None:
        return dict.fromkeys(("tier", "policy", "rule_path", "rule", "action", "place"), None) | {"logged": False}
    return {
        "tier": item.tier.name.capitalize(),
        "policy": item.policy.path,
        "rule_path": item.rule.path,
        "rule": item.rule.number,
        "action": item.rule.action.value,
        "place": None if item.rule.place is None else f"{item.rule.place.file}:{item.rule.place.line}",
        "logged": item.rule.logged,
    }


def _matched(match: Match | None) -> dict[str, Any] | None:
    if match is None:
        return None
    sides = {
        name: {"because": reason.text, "groups": list(reason.groups)}
        for name, reason in (("source", match.source), ("destination", match.destination))
    }
    return {**sides, "service": match.service}
