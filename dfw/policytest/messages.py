# SPDX-License-Identifier: Apache-2.0
"""What a test says when an assertion does not hold: the packet, the rule that decided and where it stands, and why.

The why is `palisade explain`'s answer for the first packet concerned.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from dfw.model import EffectiveRule
from dfw.policytest.judge import NOBODY
from dfw.policytest.question import Question
from dfw.policytest.rules import shown_rule
from dfw.policytest.verdict import Answered, Outcome
from dfw.policytest.worlds import Subject, packet_text
from dfw.probe import Probe

_SHOWN = 5


def outcome_text(subject: Subject, question: Question, found: Answered, outcome: Outcome) -> str:
    """The message of a failed assertion, or of an error."""
    first, *others = outcome.at
    probe = question.probes[first]
    lines = [f"{packet_text(probe)}: {_said(question, found, outcome, first)}"]
    count = len(question.probes)
    lines.append(f"in {question.text}" + (f": {len(outcome.at)} of its {count} packets" if count > 1 else ""))
    for at in others[: _SHOWN - 1]:
        lines.append(f"  also {packet_text(question.probes[at])}: {observed_text(found, at)}")
    if len(others) >= _SHOWN:
        lines.append(f"  and {len(others) - _SHOWN + 1} more")
    if outcome.why not in ("no-route", "unknown"):
        lines += ["", explanation(subject, probe)]
    return "\n".join(lines)


def _said(question: Question, found: Answered, outcome: Outcome, at: int) -> str:
    expected = "allowed" if question.allowed else "denied"
    seen = observed_text(found, at)
    match outcome.why:
        case "by":
            return f"expected {expected} by {_wanted(found.rules, question)}, but it is {seen}"
        case "unknown":
            return (
                "it cannot be known: a rule looks at an address that no manifest gives "
                "(write status.podIP, or an inventory with ips)"
            )
        case "no-route":
            return (
                "its denial proves nothing: no gateway joins their segments, so that it would not arrive if every rule "
                "said ALLOW"
            )
        case "before-rules":
            return (
                f"its denial proves nothing: it is refused if every rule says ALLOW, too: {reason_text(outcome.reason)}"
            )
        case _:
            return f"expected {expected}, but it is {seen}"


def reason_text(word: str) -> str:
    """A reason with its meaning (docs/reasons.md)."""
    from dfw.core import REASON_TEXTS, REASONS

    meaning = dict(zip(REASONS, REASON_TEXTS, strict=True)).get(word, "")
    return f"{word} ({meaning})" if meaning else word


def _wanted(rules: Sequence[EffectiveRule], question: Question) -> str:
    """The rule named with `by=`."""
    rule = next((item.rule for item in rules if item.rule.path == question.by), None)
    return shown_rule(rule) if rule is not None else f"{question.by} (which is disabled)"


def observed_text(found: Answered, at: int) -> str:
    """`allowed by shop/rules/web-to-app (policy.yaml:96)`, `REJECT by ...`."""
    codes, decided, before = (column[at] for column in found.answers)
    rule, earlier = found.rule(int(decided)), found.rule(int(before))
    if rule is None:
        if found.reasons and int(codes) == 0:
            return f"dropped before any rule: {reason_text(found.reasons[at])}"
        if int(codes) == 1 and int(decided) == NOBODY:
            return "allowed: neither end is a vNIC, so no filter judges it"
        return f"{'allowed' if int(codes) == 1 else 'denied'}, by which rule is not known"
    if int(codes) == 1:
        also = f" after {shown_rule(earlier.rule)}" if earlier is not None and earlier.rule != rule.rule else ""
        return f"allowed by {shown_rule(rule.rule)}{also}"
    return f"denied ({rule.rule.action.value}) by {shown_rule(rule.rule)}"


def explanation(subject: Subject, probe: Probe, at_vnics: bool | None = None) -> str:
    """Why, as `palisade explain` has it, files relative to the working directory. `at_vnics`: else on a wire."""
    from dfw.explain_run import explain_pairs
    from dfw.explain_text import render_explanation

    vnics = subject.has_inventory if at_vnics is None else at_vnics
    text = render_explanation(explain_pairs(subject.world, [probe], vnics, 2))
    return text.replace(f"{os.getcwd()}/", "")


def table_text(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side, two blanks apart."""
    lines = [[column.upper() for column in columns], *map(list, rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
