# SPDX-License-Identifier: Apache-2.0
"""The policies under test, each read once a session, and what their tests asked.

`confirm` holds what judge.py said of the rules against the packet core: every packet that a test asked about (up to
MAXIMUM_CONFIRMED of a policy) through the policy, and every denied one through the policy whose rules all say ALLOW.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from dfw.model import Action, Policy, PolicySet, Rule
from dfw.policytest.errors import PolicyTestError
from dfw.policytest.judge import Answers, Judge, Resolved, answers_of
from dfw.policytest.question import Question, ports_of
from dfw.policytest.rules import shown_file
from dfw.policytest.settings import Sources
from dfw.probe import EPHEMERAL_PORT, DisagreementError, Probe, Verdict, inventory_of, judge_both, judge_core
from dfw.reach_walk import ALLOWED

if TYPE_CHECKING:
    from dfw.policytest.conversations import Captured

MAXIMUM_CONFIRMED: Final = 5_000


class Asked(NamedTuple):
    """One assertion of one test that held."""

    test: str
    question: Question


@dataclass
class Subject:
    """A policy under test. `mutant`: what stands in its place while tests are run again (mutants.py).

    `decided`: for each rule path the tests with an assertion that it decided, and how many; `opaque`: tests that asked
    what only running them again can ask another policy. `replays`: captures that were judged already.
    """

    sources: Sources
    base: PolicySet
    has_inventory: bool
    mutant: PolicySet | None = None
    asked: list[Asked] = field(default_factory=list)
    decided: dict[str, dict[str, int]] = field(default_factory=dict)
    opaque: set[str] = field(default_factory=set)
    replays: dict[object, Captured] = field(default_factory=dict)
    confirmed: int = 0

    @property
    def world(self) -> PolicySet:
        """The policy that tests see."""
        return self.base if self.mutant is None else self.mutant

    @cached_property
    def _resolved(self) -> Resolved:
        return Resolved(self.base, self.has_inventory)

    @property
    def resolved(self) -> Resolved:
        """What the rules resolve to of the policy that tests see."""
        return self._resolved if self.mutant is None else Resolved(self.mutant, self.has_inventory)

    @cached_property
    def rules(self) -> dict[str, Rule]:
        """All rules by path, the default section's too."""
        return {rule.path: rule for rule in _rules(self.base)}

    def count(self, test: str, paths: Collection[str]) -> None:
        """One more assertion of this test, decided by these rules."""
        for path in paths:
            tests = self.decided.setdefault(path, {})
            tests[test] = tests.get(test, 0) + 1

    def confirm(self) -> None:
        """Ask the packet core what it says of the packets asked about since the last time. Raises DisagreementError."""
        probes = [
            probe for item in self.asked[self.confirmed :] if item.question.is_plain for probe in item.question.probes
        ]
        self.confirmed = len(self.asked)
        step = -(-len(probes) // MAXIMUM_CONFIRMED) or 1
        chosen = probes[::step]
        if not chosen:
            return
        judge = Judge(self.resolved, chosen)
        answers = answers_of(judge.points, judge.verdicts())
        at = inventory_of(self.base, list(ports_of(chosen).values())) if self.has_inventory else None
        for number, found in enumerate(judge_core(self.base, chosen, at)):
            _agree(self, judge, answers, number, found)
        denied = [probe for probe, code in zip(chosen, answers.codes, strict=True) if code != ALLOWED]
        for probe, found in zip(denied, judge_core(allow_all(self.base), denied, at), strict=True):
            if not arrives(found):
                text = packet_text(probe)
                raise DisagreementError(f"{text}: refused where every rule says ALLOW; please report this")


def _agree(subject: Subject, judge: Judge, answers: Answers, number: int, found: tuple[Verdict, ...]) -> None:
    at = int(answers.decided[number])
    path = None if at < 0 else judge.rules[at].rule.path
    last = found[-1]
    if last.dir is None or at < -1:
        return  # no filter judged it, or it depends on addresses that nobody gave
    if (arrives(found), last.rule_path) != (bool(answers.codes[number] == ALLOWED), path):
        raise DisagreementError(
            f"{packet_text(judge.points.probes[number])}: the model leads to {path}, the packet core to "
            f"{last.verdict} by {last.rule_path} ({last.reason}); please report this"
        )


class Worlds:
    """All policies under test in one session."""

    def __init__(self) -> None:
        self.subjects: dict[Sources, Subject] = {}
        self.recording = True
        self.bad_input = False  # a policy could not be read

    def subject(self, sources: Sources) -> Subject:
        """The policy of these files. Raises PolicyError, and PolicyTestError for what cannot be read as asked."""
        found = self.subjects.get(sources)
        if found is None:
            found = self.subjects[sources] = subject_load(sources)
        return found

    def confirm(self) -> None:
        """As Subject.confirm, of all policies."""
        for subject in self.subjects.values():
            subject.confirm()


class UnderTest:
    """What a fixture knows: the policy, which test asks, and the folder of its file."""

    def __init__(self, worlds: Worlds, subject: Subject, test: str, folder: Path) -> None:
        self._worlds = worlds
        self._subject = subject
        self._test = test
        self._folder = folder

    def __repr__(self) -> str:
        return f"<{', '.join(map(shown_file, self._subject.sources.files))}>"

    def _count(self, paths: Collection[str]) -> None:
        """One more assertion, decided by these rules."""
        if self._worlds.recording:
            self._subject.count(self._test, paths)

    def _is_opaque(self) -> None:
        """Only running the test again says what it makes of another policy."""
        if self._worlds.recording:
            self._subject.opaque.add(self._test)


def subject_load(sources: Sources) -> Subject:
    """Read a policy. Raises PolicyError, and PolicyTestError for what cannot be read as asked."""
    from dfw.endpoint import EndpointError
    from dfw.load import load
    from dfw.moment import world_at

    action = sources.default_action
    loaded = load(sources.files, default_action=Action(action) if action else None)
    try:
        world = world_at(loaded.world, sources.at)
    except EndpointError as error:
        raise PolicyTestError(str(error).replace("--at: ", "at: ")) from None
    return Subject(sources, world.what_if if sources.staged else world, loaded.has_inventory)


def _rules(world: PolicySet) -> Iterator[Rule]:
    for policy in world.ordered:
        yield from policy.rules


def mapped(world: PolicySet, change: Callable[[Policy, Rule], Rule | None]) -> PolicySet:
    """The policy with every rule, the default section's too, changed by a function; None: it is left out."""

    def policy_mapped(policy: Policy) -> Policy:
        return replace(policy, rules=tuple(rule for old in policy.rules if (rule := change(policy, old)) is not None))

    return replace(world, policies=tuple(map(policy_mapped, world.policies)), default=policy_mapped(world.default))


def allow_all(world: PolicySet) -> PolicySet:
    """The policy with every rule replaced by ALLOW: what it still refuses, no rule refuses."""
    return mapped(world, lambda _, rule: replace(rule, action=Action.ALLOW))


def arrives(found: tuple[Verdict, ...]) -> bool:
    """Did every filter on the way let it pass?"""
    return all(verdict.verdict == "ALLOW" for verdict in found)


def packet_text(probe: Probe) -> str:
    """`web-1 (10.1.1.11) -> db-1 (10.1.3.11), tcp/3306`; with the source port where it is not just any."""
    sport = f" from port {probe.sport}" if not probe.is_icmp and probe.sport not in (0, EPHEMERAL_PORT) else ""
    return f"{probe.source} -> {probe.destination}, {probe.service}{sport}"


def judged_singly(subject: Subject, world: PolicySet, probes: tuple[Probe, ...]) -> list[tuple[Verdict, ...]]:
    """Packets that rules alone do not decide about, by the model and the packet core, which must agree."""
    at = inventory_of(world, list(ports_of(probes).values())) if subject.has_inventory else None
    return judge_both(world, probes, at)
