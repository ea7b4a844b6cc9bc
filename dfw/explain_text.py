# SPDX-License-Identifier: Apache-2.0
"""The answer of `palisade explain` for people. Pure: the JSON's data in, text out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

_COLORS = {"ALLOW": "green", "DROP": "red", "REJECT": "red"}
_LABELS = {
    "order": "order",
    "schedule": "schedule",
    "disabled": "disabled",
    "applied_to": "Applied-To",
    "direction": "direction",
    "family": "family",
    "source": "source",
    "destination": "destination",
    "service": "service",
}


def render_explanation(data: dict[str, Any], color: bool = False) -> str:
    """A headline, then a paragraph for each vNIC."""
    ends = [_end_text(data[name]) for name in ("from", "to")]
    outcome = _painted("arrives", "ALLOW", color) if _arrives(data) else _painted("does not arrive", "DROP", color)
    lines = [f"{ends[0]} -> {ends[1]}, {data['packet']['service']}: {outcome}"]
    pairs = data["pairs"]
    if pairs["judged"] > 1:
        rest = f"{pairs['allowed']} of {pairs['judged']} pairs arrive"
        lines.append(f"{rest}; this is the first that does{'' if pairs['allowed'] == pairs['judged'] else ' not'}")
    if "staged" in data:
        lines += _staged_lines(data["staged"], color)
    for step in data["steps"]:
        lines.append("")
        lines += _step_lines(step, color)
    return "\n".join(lines)


def _staged_lines(staged: dict[str, Any], color: bool) -> Iterator[str]:
    would = _painted("arrive", "ALLOW", color) if staged["arrives"] else _painted("not arrive", "DROP", color)
    yield f"with the staged policies in force it would {would}"
    pairs, first = staged["pairs"], staged["first_changed"]
    if pairs["judged"] > 1 and first is not None:
        ends = " -> ".join(_end_text(first[name]) for name in ("from", "to"))
        yield f"{pairs['changed']} of {pairs['judged']} pairs would differ; the first is {ends}"


def _arrives(data: dict[str, Any]) -> bool:
    return all(step["verdict"] == "ALLOW" for step in data["steps"] if step["reached"])


def _painted(text: str, verdict: str, color: bool) -> str:
    return click.style(text, fg=_COLORS.get(verdict), bold=True) if color else text


def _end_text(end: dict[str, Any]) -> str:
    assumed = ", assumed" if end["assumed"] else ""
    return f"{end['vnic']} ({end['address']}{assumed})" if end["vnic"] else str(end["address"])


def rule_name(path: str) -> str:
    """A rule's path without what all NSX paths have in common."""
    return path.removeprefix("/infra/domains/default/security-policies/")


def _step_lines(step: dict[str, Any], color: bool) -> Iterator[str]:
    if step["dir"] is None:
        yield "neither end is a vNIC here: no filter judges it"
        return
    where = "on the wire" if step["dir"] == "IN_OUT" else f"{step['dir']} at {step['vnic']}"
    host = f", host {step['host']}" if step["host"] else ""
    said = _painted(step["verdict"], step["verdict"], color)
    yield f"{where}{host}: {said}" if step["reached"] else f"{where}{host}: not reached; it would have been {said}"
    if step["rule_path"] is None:
        yield f"  no rule decided: {_reason_text(step['reason'])}"
    else:
        yield f"  rule         {rule_name(step['rule_path'])}  ({_rule_facts(step)})"
        if step["reason"] not in ("match", "state"):
            yield f"  but          {_reason_text(step['reason'])}"
        yield from _matched_lines(step["matched"])
    if step.get("staged"):
        yield f"  staged       {_staged_text(step, color)}"
    for passed in step["passed"]:
        yield f"  after        {rule_name(passed['rule_path'])}  {passed['action']}"
        yield from ("  " + line for line in _matched_lines(passed["matched"]))
    if step["skipped"] and step["reached"]:
        yield "  not by"
        for item in step["skipped"]:
            near = "  (only this kept it out)" if item["near"] else ""
            place = f"  {item['place']}" if item["place"] else ""
            yield f"    {item['tier']:<14} {rule_name(item['rule_path'])}  {item['action']}{place}{near}"
            for name, text in item["why"].items():
                yield f"      {_LABELS[name]:<12} {text}"


def _staged_text(step: dict[str, Any], color: bool) -> str:
    staged = step["staged"]
    if all(staged[name] == step[name] for name in ("verdict", "reason", "rule_path")):
        return "the same"
    said = _painted(staged["verdict"], staged["verdict"], color)
    if staged["rule_path"] is None:
        return f"{said}, {_reason_text(staged['reason'])}"
    return f"{said} by {rule_name(staged['rule_path'])}  (id {staged['rule']}, {staged['tier']}, {staged['action']})"


def _reason_text(reason: str) -> str:
    from dfw.core import REASON_TEXTS, REASONS

    text = dict(zip(REASONS, REASON_TEXTS, strict=True)).get(reason, "")
    return f"{reason}: {text}" if text else reason


def _rule_facts(step: dict[str, Any]) -> str:
    facts = [f"id {step['rule']}", step["tier"], step["action"]]
    facts += [*(["logged"] if step["logged"] else []), *(["the default"] if step["default"] else [])]
    return ", ".join(facts) + (f"; {step['place']}" if step["place"] else "")


def _matched_lines(matched: dict[str, Any]) -> Iterator[str]:
    for name in ("source", "destination"):
        side = matched[name]
        groups = " > ".join(path.rpartition("/")[2] for path in side["groups"])
        yield f"  {name:<12} {f'group {groups}: ' if groups else ''}{side['because']}"
    yield f"  service      {matched['service']}"
