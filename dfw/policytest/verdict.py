# SPDX-License-Identifier: Apache-2.0
"""Whether an assertion holds, fails or errors, from the answers about its packets (CONTRACT section 4). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

import numpy as np

from dfw.model import EffectiveRule, Inventory, Port
from dfw.policytest.judge import NOBODY, UNSURE, Answers, Judge, answers_of
from dfw.policytest.question import Question
from dfw.policytest.worlds import Subject, allow_all, arrives, judged_singly
from dfw.probe import Probe
from dfw.reach_walk import ALLOWED, DENIED, UNKNOWN


class Kind(Enum):
    """How an assertion ends."""

    HOLDS = "holds"
    FAILS = "fails"
    ERRORS = "errors"


class Outcome(NamedTuple):
    """`why`: arrives, refused, by, unknown, before-rules or no-route; `at`: the numbers of the packets concerned;
    `reason`: with before-rules, why the packet core refuses the first of them."""

    kind: Kind
    why: str = ""
    at: tuple[int, ...] = ()
    reason: str = ""


class Answered(NamedTuple):
    """Answers about a question's packets, and the rules that their numbers mean.

    `paths`: the rules that decided, and those that handed on. `reasons`: why the packet core refused what no rule did,
    by packet; empty where rules alone decide.
    """

    rules: Sequence[EffectiveRule]
    answers: Answers
    paths: frozenset[str]
    reasons: tuple[str, ...] = ()

    def rule(self, number: int) -> EffectiveRule | None:
        """A rule by number; None where none decided, or it is not known which."""
        return None if number < 0 else self.rules[number]


def ask(subject: Subject, questions: Sequence[Question]) -> list[tuple[Answered, Outcome]]:
    """Judge questions, all at once, and say of each whether it holds. Raises DisagreementError."""
    plain = [question for question in questions if question.is_plain]
    found = dict(zip(map(id, plain), _answer_together(subject, plain), strict=True))
    results = []
    for question in questions:
        answered = found[id(question)] if question.is_plain else _answer_singly(subject, question)
        outcome = evaluate(question, answered.answers, by_number(question, answered.rules))
        if not question.allowed and outcome.kind is not Kind.FAILS:
            proof = vacuous(subject, question)
            outcome = outcome if proof.kind is Kind.HOLDS else proof
        results.append((answered, outcome))
    return results


def _answer_together(subject: Subject, questions: Sequence[Question]) -> list[Answered]:
    probes = [probe for question in questions for probe in question.probes]
    judge = Judge(subject.resolved, probes)
    verdicts = judge.verdicts()
    answers = answers_of(judge.points, verdicts)
    handed_on = [(number, set(judge.points.probe[mask].tolist())) for number, mask in verdicts.passed.items()]
    found = []
    start = 0
    for question in questions:
        end = start + len(question.probes)
        own = answers.part(start, end)
        numbers = {*own.decided.tolist(), *own.before.tolist()} - {NOBODY, UNSURE}
        numbers |= {number for number, at in handed_on if not at.isdisjoint(range(start, end))}
        found.append(Answered(judge.rules, own, frozenset(judge.rules[number].rule.path for number in numbers)))
        start = end
    return found


def _answer_singly(subject: Subject, question: Question) -> Answered:
    """For packets that rules alone do not decide about: each by itself, with no connection before it."""
    rules = subject.resolved.rules
    numbers = {item.rule.path: number for number, item in enumerate(rules)}
    found = judged_singly(subject, subject.world, question.probes)
    codes = np.array([ALLOWED if arrives(item) else DENIED for item in found], np.uint8)
    decided = np.array([numbers.get(item[-1].rule_path or "", NOBODY) for item in found], np.int64)
    firsts = [numbers.get(item[0].rule_path or "", NOBODY) if len(item) > 1 else NOBODY for item in found]
    before = np.array(firsts, np.int64)
    paths = frozenset(verdict.rule_path for item in found for verdict in item if verdict.rule_path)
    return Answered(rules, Answers(codes, decided, before), paths, tuple(item[-1].reason for item in found))


def evaluate(question: Question, answers: Answers, by: int | None) -> Outcome:
    """Does the assertion hold? `by`: the number of the rule that is to decide."""
    passing, unknown = answers.codes == ALLOWED, answers.codes == UNKNOWN
    if question.allowed and (answers.codes == DENIED).any():
        return Outcome(Kind.FAILS, "refused", _at(answers.codes == DENIED))
    if not question.allowed and passing.any():
        return Outcome(Kind.FAILS, "arrives", _at(passing))
    if unknown.any():
        return Outcome(Kind.ERRORS, "unknown", _at(unknown))
    if by is not None:
        wrong = answers.decided != by
        if question.allowed:
            wrong &= answers.before != by
        if wrong.any():
            return Outcome(Kind.FAILS if question.allowed else Kind.ERRORS, "by", _at(wrong))
    return Outcome(Kind.HOLDS)


def _at(mask: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> tuple[int, ...]:
    return tuple(np.flatnonzero(mask).tolist())


def by_number(question: Question, rules: Sequence[EffectiveRule]) -> int | None:
    """The number of the rule named with `by=`; NOBODY - 2, which no answer has, for one that is disabled."""
    if question.by is None:
        return None
    return next((number for number, item in enumerate(rules) if item.rule.path == question.by), NOBODY - 2)


def vacuous(subject: Subject, question: Question) -> Outcome:
    """Would the packets of a denial be refused by no rule at all? Then it proves nothing: spoofguard, address family
    and routing stay where every rule says ALLOW. The rules' part of that is worlds.py's `confirm`."""
    cut = [at for at, probe in enumerate(question.probes) if is_unrouted(subject.world.inventory, probe)]
    if cut:
        return Outcome(Kind.ERRORS, "no-route", tuple(cut))
    if not question.is_plain:
        open_world = judged_singly(subject, allow_all(subject.world), question.probes)
        refused = tuple(at for at, item in enumerate(open_world) if not arrives(item))
        if refused:
            return Outcome(Kind.ERRORS, "before-rules", refused, open_world[refused[0]][-1].reason)
    return Outcome(Kind.HOLDS)


def is_unrouted(inventory: Inventory, probe: Probe) -> bool:
    """Is there no way between the two vNICs' segments, whatever the rules say?

    Segments are joined by one gateway, or by Tier-1s at one Tier-0. Where the inventory lists no gateway at all, or a
    segment was only implied, routing was not described, and is not judged.
    """
    ends = probe.source.port, probe.destination.port
    if not inventory.gateways or ends[0] is None or ends[1] is None or ends[0].segment == ends[1].segment:
        return False
    segments = [inventory.segment_of(end) for end in ends if isinstance(end, Port)]
    if any(segment.place is None for segment in segments):
        return False
    tops = [None if item.gateway is None else inventory.gateways[item.gateway] for item in segments]
    names = [None if top is None else top.uplink_gateway or top.name for top in tops]
    return names[0] is None or names[0] != names[1]
