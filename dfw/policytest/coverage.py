# SPDX-License-Identifier: Apache-2.0
"""Which rules decided at least one assertion, and which never: as data, as text, as HTML. Pure."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from dfw.explain_text import rule_name
from dfw.model import PolicyKind, PolicySet
from dfw.policytest.rules import shown_file
from dfw.policytest.worlds import Subject

Data = dict[str, Any]


def coverage_data(subjects: Iterable[Subject]) -> list[Data]:
    """For each policy under test its files and rules, in order of judgement; JSON types only."""
    return [
        {
            "files": [shown_file(file) for file in subject.sources.files],
            "rules": [_row(subject, row) for row in _rows(subject.base)],
        }
        for subject in subjects
    ]


def _rows(world: PolicySet) -> Iterator[Data]:
    for policy in world.ordered:
        for rule in policy.rules:
            yield {
                "rule_path": rule.path,
                "rule": rule.number,
                "file": None if rule.place is None else shown_file(rule.place.file),
                "line": None if rule.place is None else rule.place.line,
                "tier": policy.tier.name.capitalize(),
                "action": rule.action.value,
                "disabled": rule.disabled,
                "default": policy.kind is PolicyKind.DEFAULT,
            }


def _row(subject: Subject, row: Data) -> Data:
    tests = subject.decided.get(row["rule_path"], {})
    return {**row, "assertions": sum(tests.values()), "tests": sorted(tests)}


def coverage_merge(parts: Iterable[list[Data]]) -> list[Data]:
    """The same of several processes (pytest-xdist), as one."""
    merged: dict[str, Data] = {}
    for policy in (policy for part in parts for policy in part):
        key = repr((policy["files"], [row["rule_path"] for row in policy["rules"]]))
        if key not in merged:
            merged[key] = policy
            continue
        for mine, theirs in zip(merged[key]["rules"], policy["rules"], strict=True):
            mine["assertions"] += theirs["assertions"]
            mine["tests"] = sorted({*mine["tests"], *theirs["tests"]})
    return list(merged.values())


def counted(policy: Mapping[str, Any]) -> list[Data]:
    """The rules that coverage is about: written, and not disabled."""
    return [row for row in policy["rules"] if not row["default"] and not row["disabled"]]


def summary(policies: Iterable[Data]) -> Data:
    """`{"rules": 12, "covered": 11, "percent": 91.7}` of all policies."""
    rows = [row for policy in policies for row in counted(policy)]
    covered = sum(row["assertions"] > 0 for row in rows)
    return {"rules": len(rows), "covered": covered, "percent": round(100 * covered / len(rows), 1) if rows else None}


def place_of(row: Mapping[str, Any]) -> str:
    """`policy.yaml:98`."""
    return f"{row['file']}:{row['line']}" if row["file"] is not None else ""


def render_text(policies: Iterable[Data], every: bool = False) -> str:
    """Lines for a terminal: how many rules of each policy, and those that never decided; `every`: all with counts."""
    lines: list[str] = []
    for policy in policies:
        rows = counted(policy)
        total = summary([policy])
        never = [row for row in rows if not row["assertions"]]
        share = "" if total["percent"] is None else f" ({total['percent']:.0f} %)"
        lines.append(
            f"{', '.join(policy['files'])}: {total['covered']} of {total['rules']} rules decided an assertion{share}"
        )
        wide = max((len(place_of(row)) for row in rows), default=0)
        if every:
            defaults = [row for row in policy["rules"] if row["default"] and row["assertions"]]
            lines += [
                f"  {row['assertions']:>6}  {place_of(row):<{wide}}  {rule_name(row['rule_path'])}  {row['action']}"
                for row in (*rows, *defaults)
            ]
        elif never:
            lines.append("never decided:")
            lines += [f"  {place_of(row):<{wide}}  {rule_name(row['rule_path'])}  {row['action']}" for row in never]
        disabled = [row for row in policy["rules"] if row["disabled"]]
        if disabled:
            lines.append(f"disabled: {', '.join(rule_name(row['rule_path']) for row in disabled)}")
    return "\n".join(lines)


_STYLE: Final = (
    "body{font:15px/1.4 sans-serif;margin:2em;max-width:70em}table{border-collapse:collapse;width:100%}"
    "td,th{padding:.25em .7em;text-align:left;vertical-align:top;border-bottom:1px solid #ddd}"
    "td.n{text-align:right}tr.never{background:#fde8e8}tr.off{color:#888}code{font-size:13px}"
    "@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}tr.never{background:#4a2020}"
    "td,th{border-color:#444}}"
)


def render_html(report: Mapping[str, Any]) -> str:
    """One page that needs nothing else: the rules with the tests that reached them, and the mutations that none did."""
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Rule coverage</title>',
        f"<style>{_STYLE}</style></head><body><h1>Rule coverage</h1>",
    ]
    for policy in report["policies"]:
        total = summary([policy])
        parts.append(f"<h2>{html.escape(', '.join(policy['files']))}</h2>")
        parts.append(f"<p>{total['covered']} of {total['rules']} rules decided at least one assertion.</p>")
        parts.append("<table><tr><th>assertions<th>rule<th>action<th>place<th>tests</tr>")
        for row in policy["rules"]:
            if row["default"] and not row["assertions"]:
                continue
            kind = "off" if row["disabled"] else "" if row["assertions"] or row["default"] else "never"
            tests = "<br>".join(html.escape(name.rpartition("::")[2]) for name in row["tests"])
            cells = (rule_name(row["rule_path"]), row["action"], place_of(row))
            shown = "".join(f"<td><code>{html.escape(cell)}</code>" for cell in cells)
            parts.append(f'<tr class="{kind}"><td class="n">{row["assertions"]}{shown}<td>{tests}</tr>')
        parts.append("</table>")
    if report["mutations"] is not None:
        parts.append("<h2>Mutations that no test notices</h2><table><tr><th>rule<th>place<th>what<th>shown by</tr>")
        for item in report["mutations"]["unnoticed"]:
            place = place_of(item)
            what = (rule_name(item["rule_path"]), place, item["change"], item["witness"] or "")
            parts.append("<tr>" + "".join(f"<td>{html.escape(text)}" for text in what) + "</tr>")
        parts.append("</table>")
    return "".join([*parts, "</body></html>\n"])
