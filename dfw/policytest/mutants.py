# SPDX-License-Identifier: Apache-2.0
"""Which mutations of a policy no test notices.

Every assertion of the session is asked again of each mutated policy: only the changed rule's column is made anew
(judge.py), and only what it touches is decided again. Tests that replay captures, or ask about packets that rules alone
do not decide about, are run again where the assertions notice nothing. What is left is held against a packet of each
kind (corners.py): a mutation that changes no packet's fate is equivalent, and no test could notice it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from dfw.model import Alg, EffectiveRule, Tier
from dfw.packetdiff import BudgetError, policies_differ
from dfw.policytest.corners import Corners, Kinds
from dfw.policytest.judge import NOBODY, Answers, Judge, Numbers, Verdicts, answers_of
from dfw.policytest.mutations import Mutation, mutate, mutations_of
from dfw.policytest.question import probe_is_plain
from dfw.policytest.rules import shown_file
from dfw.policytest.verdict import Kind, by_number, evaluate
from dfw.policytest.worlds import Asked, Subject, packet_text
from dfw.reach_walk import ALLOWED, DENIED, Codes

_WORK: Final = 4_000_000  # comparisons that one mutation is worth

Rerun = Callable[[Subject, set[str]], bool]
"""Run these tests of a policy again, as it now is: do they all pass?"""


class Mutant(NamedTuple):
    """`noticed_by`: a test; empty where none. `equivalent`: no packet's fate changes. `witness`: a packet whose does;
    empty where that is not known."""

    mutation: Mutation
    noticed_by: str = ""
    equivalent: bool = False
    witness: str = ""


def mutants_run(subject: Subject, rerun: Rerun) -> Iterator[Mutant]:
    """Every mutation of a policy, and who notices it."""
    asked = _Assertions(subject)
    proof = _Proof(subject)
    for mutation in mutations_of(subject.base):
        test = asked.noticed_by(mutation)
        if not test and subject.opaque:
            subject.mutant = mutate(subject.base, mutation)
            try:
                test = "" if rerun(subject, subject.opaque) else min(subject.opaque)
            finally:
                subject.mutant = None
        yield Mutant(mutation, test) if test else proof.of(mutation)


class _Words:
    """What becomes of packets, in words, made when asked for."""

    def __init__(self, rules: Sequence[EffectiveRule], answers: Answers) -> None:
        self._rules = rules
        self._answers = answers

    def __getitem__(self, at: int) -> str:
        code, by = int(self._answers.codes[at]), int(self._answers.decided[at])
        if code != DENIED:
            return "allowed" if code == ALLOWED else "unknown"
        return f"denied ({self._rules[by].rule.action.value})" if by >= 0 else "denied"


class Found(NamedTuple):
    """The answers under a mutation, and the packets that some filter judges otherwise. `is_kept_otherwise`: a packet
    that passes is passed by another kind of rule (stateless, strict, or with an ALG)."""

    rules: Sequence[EffectiveRule]
    answers: Answers
    packets: Numbers
    is_kept_otherwise: bool


class _Changed:
    """A policy over some packets, and again with some rules changed."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.verdicts: Verdicts = judge.verdicts()
        self.answers: Answers = answers_of(judge.points, self.verdicts)
        self._numbers = {item.rule.path: number for number, item in enumerate(judge.rules)}

    def changed(self, mutation: Mutation) -> Found | None:
        """What a mutation changes; None: nothing."""
        rules: list[EffectiveRule] = list(self.judge.rules)
        columns: list[Codes] = list(self.judge.columns)
        touched = np.zeros(self.judge.points.count, np.bool_)
        numbers = [self._numbers[path] for path in mutation.rules]
        for number, new in zip(numbers, mutation.rules.values(), strict=True):
            old = columns[number]
            if new is None:
                columns[number] = np.zeros_like(old)
            else:
                # On a wire a rule's direction is not looked at.
                rules[number] = EffectiveRule(new.policy, new.rule, self._direction(rules[number], new))
                columns[number] = self.judge.column(rules[number])
            acts = new is None or new.rule.action is not self.judge.rules[number].rule.action
            touched |= ((old != 0) | (columns[number] != 0)) if acts else old != columns[number]
        # What a rule above has decided for certain stays so.
        touched &= (self.verdicts.rules < 0) | (self.verdicts.rules >= min(numbers))
        at = np.flatnonzero(touched)
        if not len(at):
            return None
        found = self.judge.decide(rules, columns, at)
        differs = (found.codes != self.verdicts.codes[at]) | (found.rules != self.verdicts.rules[at])
        if not differs.any():
            return None
        codes, by = self.verdicts.codes.copy(), self.verdicts.rules.copy()
        codes[at], by[at] = found.codes, found.rules
        packets = np.unique(self.judge.points.probe[at[differs]])
        pairs = np.unique(np.stack([self.verdicts.rules[at], found.rules], axis=1)[differs], axis=0)
        kept = any(_kind_of(self.judge.rules, old) != _kind_of(rules, new) for old, new in pairs.tolist())
        return Found(rules, answers_of(self.judge.points, Verdicts(codes, by, {})), packets, kept)

    def _direction(self, old: EffectiveRule, new: EffectiveRule) -> Any:
        is_wire = bool(len(self.judge.points.port)) and self.judge.points.port[0] == NOBODY
        return old.direction if is_wire else new.direction


def _kind_of(rules: Sequence[EffectiveRule], number: int) -> object:
    """What a rule that lets a connection begin says of what follows."""
    if number < 0:
        return None
    item = rules[number]
    algs = {entry.alg for service in item.rule.services for entry in service.entries} - {Alg.NONE}
    return item.stateful, item.tcp_strict, item.rule.persist, frozenset(algs)


class _Assertions:
    """All assertions of a policy's tests as one list of packets."""

    def __init__(self, subject: Subject) -> None:
        self.asked: list[Asked] = [item for item in subject.asked if item.question.is_plain]
        probes = [probe for item in self.asked for probe in item.question.probes]
        self._world = _Changed(Judge(subject.resolved, probes))
        sizes = np.array([len(item.question.probes) for item in self.asked], np.int64)
        self._ends = np.cumsum(sizes)
        self._starts = self._ends - sizes
        self._by = [by_number(item.question, self._world.judge.rules) for item in self.asked]

    def noticed_by(self, mutation: Mutation) -> str:
        """A test with an assertion that does not hold under the mutation; empty where there is none."""
        found = self._world.changed(mutation)
        if found is None:
            return ""
        for number in np.unique(np.searchsorted(self._ends, found.packets, side="right")).tolist():
            asked = self.asked[int(number)]
            own = found.answers.part(int(self._starts[number]), int(self._ends[number]))
            outcome = evaluate(asked.question, own, self._by[number])
            if outcome.kind is not Kind.HOLDS:
                return asked.test
        return ""


class _Proof:
    """Does a mutation change any packet's fate? One list of packets for all mutations, where it can be complete; else
    one for each, of what the changed rules match."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._rules = subject.resolved.rules
        self._kinds: Kinds | None = None
        self._whole: _Changed | None = None

    def of(self, mutation: Mutation) -> Mutant:
        """The mutation, equivalent or with a packet that shows that it is not."""
        if self._kinds is None:
            self._kinds = Kinds(self._subject.resolved)
            self._whole = self._over(self._kinds.corners()) if self._kinds.are_few else None
        over, is_complete = self._whole, True
        if over is None:
            old = [item for item in self._rules if item.rule.path in mutation.rules]
            corners = self._kinds.corners([*old, *(item for item in mutation.rules.values() if item is not None)])
            over, is_complete = self._over(corners), corners.complete
        found = over.changed(mutation)
        if found is None:
            return Mutant(mutation, equivalent=True) if is_complete else self._exactly(mutation)
        probes = over.judge.points.probes
        was, will = _Words(over.judge.rules, over.answers), _Words(found.rules, found.answers)
        changed = [at for at in found.packets.tolist() if was[at] != will[at]]
        if changed:
            at = next((number for number in changed if probe_is_plain(probes[number])), changed[0])
            return Mutant(mutation, witness=f"{packet_text(probes[at])} is {was[at]}, and would be {will[at]}")
        if not is_complete:
            return self._exactly(mutation)
        # All first packets fare alike. What follows them may not, where another kind of rule let them pass.
        return Mutant(mutation, equivalent=not found.is_kept_otherwise)

    def _exactly(self, mutation: Mutation) -> Mutant:
        """By sets of packets, where there are too many kinds to try each: of all packets at all vNICs."""
        world = self._subject.base
        if any(policy.tier is Tier.ETHERNET for policy in world.policies):
            return Mutant(mutation)  # those sets are of layer 3
        try:
            found = policies_differ(world, mutate(world, mutation), tap=not self._subject.has_inventory, most=_WORK)
        except BudgetError:
            return Mutant(mutation)
        return Mutant(mutation, equivalent=found is None, witness="" if found is None else f"judged otherwise: {found}")

    def _over(self, corners: Corners) -> _Changed:
        return _Changed(Judge(self._subject.resolved, corners.probes))


@dataclass(slots=True)
class MutationReport:
    """What came of all mutations of all policies."""

    made: int = 0
    noticed: int = 0
    seconds: float = 0.0
    unnoticed: list[dict[str, Any]] | None = None
    equivalent: list[dict[str, Any]] | None = None

    def add(self, subject: Subject, mutant: Mutant) -> None:
        """One more."""
        self.made += 1
        if mutant.noticed_by:
            self.noticed += 1
            return
        path = mutant.mutation.path
        rule = subject.rules.get(path)
        place = rule.place if rule is not None else None
        row = {
            "rule_path": path,
            "file": None if place is None else shown_file(place.file),
            "line": None if place is None else place.line,
            "kind": mutant.mutation.kind,
            "change": mutant.mutation.change,
            "witness": mutant.witness or None,
        }
        rows = self.equivalent if mutant.equivalent else self.unnoticed
        assert rows is not None
        rows.append(row)

    def as_json(self) -> dict[str, Any]:
        """As the report has it."""
        return {
            "made": self.made,
            "noticed": self.noticed,
            "seconds": round(self.seconds, 3),
            "unnoticed": self.unnoticed,
            "equivalent": self.equivalent,
        }
