# SPDX-License-Identifier: Apache-2.0
"""What the fixture `palisade_policy` gives: assertions about first packets of connections, by policy.

An assertion that does not hold raises AssertionError with the packet, the rule that decided and the reasons; one that
proves nothing, or cannot be understood, raises PolicyTestError, and pytest reports an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict, Unpack

from dfw.policytest.errors import PolicyTestError, assertion, options_check
from dfw.policytest.messages import outcome_text
from dfw.policytest.question import Ends, Question, question_make
from dfw.policytest.verdict import Answered, Kind, ask
from dfw.policytest.worlds import Asked, UnderTest


class Options(TypedDict, total=False):
    """What may be said beside the ends and the service. `by`: a rule's path, or an unambiguous end of it; `family`: 4
    or 6, else both; `sport`: the source port, else 49152."""

    by: str | None
    except_from: Ends
    except_to: Ends
    family: int | None
    sport: int | None


class PolicyUnderTest(UnderTest):
    """A policy, as one test sees it. Ends: `ns/name` of a pod, a vNIC's name, an address, a CIDR, `group:ID`, `any`,
    `outside:ADDRESS`, or a list of these. Services: `tcp/443`, `udp/53`, `icmp`, `gre`, a port's name, or several."""

    def assert_allowed(self, source: Ends, destination: Ends, service: Ends, **options: Unpack[Options]) -> None:
        """Every packet from `source` to `destination` arrives: each pair of ends, in each address family of both.

        With `by` that rule decides at one of the vNICs on the way.
        """
        __tracebackhide__ = True
        self._ask(True, source, destination, service, options)

    def assert_denied(self, source: Ends, destination: Ends, service: Ends, **options: Unpack[Options]) -> None:
        """No packet from `source` to `destination` arrives.

        Holds only where a rule is what stops it: both ends are workloads (or `outside:`), and the packet would arrive
        if every rule said ALLOW; with `by` that rule decides. Otherwise it errors.
        """
        __tracebackhide__ = True
        self._ask(False, source, destination, service, options)

    def assert_matrix(self, file: str | Path) -> None:
        """Every row of a matrix file (docs/policy-tests.md) is as it says; those that differ are shown side by side."""
        __tracebackhide__ = True
        from dfw.policytest.matrix_file import matrix_check

        try:
            matrix_check(self._subject, self._folder / file, self._held)
        except (AssertionError, PolicyTestError) as error:
            self._is_opaque()  # should the test expect that, only it can say
            raise error.with_traceback(None) from None

    def explain(self, source: str, destination: str, service: str) -> str:
        """What `palisade explain` says, for a test that is being written."""
        from dfw.policytest.messages import explanation

        question = question_make(
            self._subject.world, allowed=True, source=source, destination=destination, service=service
        )
        return "\n\n".join(explanation(self._subject, probe) for probe in question.probes[:4])

    def _ask(self, allowed: bool, source: Ends, destination: Ends, service: Ends, options: Options) -> None:
        __tracebackhide__ = True
        options_check(options, Options.__annotations__, "an assertion")
        try:
            question = question_make(
                self._subject.world,
                allowed=allowed,
                source=source,
                destination=destination,
                service=service,
                **options,
            )
        except PolicyTestError as error:
            self._is_opaque()  # as below
            raise error.with_traceback(None) from None
        ((found, outcome),) = ask(self._subject, [question])
        if outcome.kind is Kind.HOLDS:
            self._held(question, found)
            return
        self._is_opaque()  # should the test expect that, only it can say
        message = outcome_text(self._subject, question, found, outcome)
        raise assertion(message) if outcome.kind is Kind.FAILS else PolicyTestError(message)

    def _held(self, question: Question, found: Answered) -> None:
        """Keep what held, for rule coverage and for mutations."""
        self._count(found.paths)
        if self._worlds.recording:
            self._subject.asked.append(Asked(self._test, question))
        if not question.is_plain:
            self._is_opaque()
