# SPDX-License-Identifier: Apache-2.0
"""The summary of a replay for people: what was judged, by which rules, what was dropped and why, how fast."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from dfw.output import counted, render_table

RULES_SHOWN: Final = 20
FLOWS_SHOWN: Final = 20
_PROTOCOLS: Final = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}
_WITH_PORTS: Final = (6, 17, 132)


def render_summary(data: dict[str, Any]) -> str:
    """`replay -o json` as text: a headline, rules, reasons, and captures where there is more than one or an error."""
    parts = [_headline(data), *_rules(data["rules"])]
    if "staged" in data:
        parts += _staged(data["staged"])
    parts.append(render_table(("reason", "judgements", "meaning"), list(_reason_rows(data["reasons"])), numbers=(1,)))
    captures = data["captures"]
    if len(captures) > 1 or any(row["error"] for row in captures):
        rows = [(row["file"], f"{row['packets']:,}", row["error"] or row["warning"] or "") for row in captures]
        parts.append(render_table(("capture", "packets", "note"), rows, numbers=(1,)))
    return "\n\n".join(parts)


def _headline(data: dict[str, Any]) -> str:
    verdicts = ", ".join(f"{count:,} {verdict}" for verdict, count in data["verdicts"].items()) or "nothing judged"
    speed = ""
    if data["ns_per_packet"]:
        core = f"{data['ns_per_packet']} ns a packet in the core ({data['mpps']} million a second)"
        speed = f"; {data['seconds']:.2f} s in all, {core}"
    sums = data["bad_checksums"]
    notes = [
        f"{count:,} {text}"
        for count, text in (
            (sums["ip"], "bad IPv4 header checksums"),
            (sums["transport"], "bad transport checksums"),
            (data["odd_addresses"], "source addresses that no live workload may have"),
            (data["generated"], "answers that REJECT would have sent"),
        )
        if count
    ]
    captures = counted(len(data["captures"]), "capture")
    connections = data["connections"]
    lines = [
        f"{counted(data['packets'], 'packet')}, {counted(data['bytes'], 'byte')} in {captures}{speed}",
        f"{verdicts}; {counted(connections['created'], 'connection')}, {connections['open']:,} of them open at the end",
    ]
    return "\n".join([*lines, *(f"noticed: {note}" for note in notes)])


def _rules(rules: list[dict[str, Any]]) -> Iterator[str]:
    """Rules that decided something, the busiest first; how many did not."""
    used = sorted((row for row in rules if row["packets"] or row["hits"]), key=lambda row: -row["packets"])
    if not used:
        return
    rows = [
        (row["rule_path"], row["action"], *(f"{row[name]:,}" for name in ("hits", "packets", "bytes")))
        for row in used[:RULES_SHOWN]
    ]
    table = render_table(("rule", "action", "hits", "packets", "bytes"), rows, numbers=(2, 3, 4))
    rest = used[RULES_SHOWN:]
    more = [f"{len(rest):,} more with {sum(row['packets'] for row in rest):,} packets (-o json)"] if rest else []
    if unused := len(rules) - len(used):
        more.append(f"{unused:,} rules matched nothing")
    yield table + (f"\n{'; '.join(more)}" if more else "")


def _staged(staged: dict[str, Any]) -> Iterator[str]:
    """What the staged policies would change: how much, and the first flows."""
    policies = len(staged["policies"])
    head = f"{policies} staged polic{'y' if policies == 1 else 'ies'}: "
    parts = []
    for change, would in (("cut", "would be cut"), ("pass", "would newly pass")):
        sums = staged[change]
        if sums["packets"]:
            flows, packets = sums["flows"], sums["packets"]
            count = f"{flows:,} flow{'' if flows == 1 else 's'} ({packets:,} packet{'' if packets == 1 else 's'})"
            parts.append(f"{count} {would}")
    yield head + (", ".join(parts) or "nothing would change")
    rows = [
        (
            flow["change"],
            _flow_text(flow),
            f"{flow['packets']:,}",
            flow["staged"]["rule_path"] or flow["staged"]["reason"],
        )
        for flow in staged["flows"][:FLOWS_SHOWN]
    ]
    if rows:
        rest = sum(staged[change]["flows"] for change in ("cut", "pass")) - len(rows)
        more = f"\n{rest:,} more (-o json)" if rest else ""
        yield render_table(("would", "flow", "packets", "by"), rows, numbers=(2,)) + more


def _flow_text(flow: dict[str, Any]) -> str:
    ends = [
        f"{address} {port}" if flow["proto"] in _WITH_PORTS and port is not None else address
        for address, port in ((flow["src"], flow["sport"]), (flow["dst"], flow["dport"]))
    ]
    return f"{_PROTOCOLS.get(flow['proto'], flow['proto'])} {ends[0]} > {ends[1]}"


def _reason_rows(reasons: dict[str, int]) -> Iterator[tuple[str, str, str]]:
    from dfw.core import REASON_TEXTS, REASONS

    texts = dict(zip(REASONS, REASON_TEXTS, strict=True))
    for reason, count in reasons.items():
        yield reason, f"{count:,}", texts.get(reason, "")
