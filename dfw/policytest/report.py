# SPDX-License-Identifier: Apache-2.0
"""The report of a run of policy tests: what `palisade schema test` describes, as JSON, HTML or text. Pure."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from dfw.policytest.coverage import coverage_merge, place_of, render_html, render_text, summary

if TYPE_CHECKING:
    from dfw.policytest.session import Seen


def report_make(seen: Seen | None, status: int) -> dict[str, Any]:
    """The report; `seen` None: pytest did not come to running tests."""
    outcomes = {} if seen is None else seen.outcomes
    policies = [] if seen is None else coverage_merge(seen.parts)
    counts = Counter(outcomes.values())
    return {
        "status": status,
        "tests": {name: counts[word] for name, word in _COUNTS.items()},
        "outcomes": [
            {"test": test, "outcome": outcome, "message": None if seen is None else seen.messages.get(test)}
            for test, outcome in outcomes.items()
        ],
        "coverage": summary(policies),
        "policies": policies,
        "mutations": None if seen is None else seen.mutations,
    }


_COUNTS = {"passed": "passed", "failed": "failed", "errors": "error", "skipped": "skipped"}


def report_text(path: str, report: dict[str, Any]) -> str:
    """The report in the format that the file's name ends in."""
    if path.endswith(".json"):
        return json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    if path.endswith(".html"):
        return render_html(report)
    lines = [", ".join(f"{count} {name}" for name, count in report["tests"].items())]
    lines.append(render_text(report["policies"], every=True))
    for row in (report["mutations"] or {}).get("unnoticed", ()):
        lines.append(f"no test notices: {place_of(row)} {row['rule_path']}: {row['change']}")
    return "\n".join(lines) + "\n"
