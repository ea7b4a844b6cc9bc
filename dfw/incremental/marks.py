# SPDX-License-Identifier: Apache-2.0
"""Marks in a policy's template, and what stands in their places in one instance of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dfw.incremental.selections import Meaning
from dfw.model import Addresses, AddressRange, AnyOf, LabelSelector, Term, WorkloadMember


class Hole:
    """What stands for a mark in one instance. Made once for each distinct value, so that it is known by identity.

    `meaning`: of a block of addresses alone, the usual destination of an egress rule."""

    __slots__ = ("meaning", "value")

    def __init__(self, value: LabelSelector | AddressRange) -> None:
        self.value = value
        self.meaning: Meaning | None = None


class Marks:
    """Values that cannot occur in a policy and stand for what differs between instances, by their numbers."""

    def __init__(self, marks: Sequence[LabelSelector | AddressRange]) -> None:
        self._numbers: dict[object, int] = {mark: number for number, mark in enumerate(marks)}

    def within(self, term: object) -> tuple[int, ...]:
        """Which marks a term holds."""
        found: list[int] = []
        if isinstance(term, WorkloadMember):
            found = [self._numbers[item] for item in (term.namespaces, term.labels) if item in self._numbers]
        elif isinstance(term, Addresses):
            found = [self._numbers[item] for item in term.items if item in self._numbers]
        elif isinstance(term, AnyOf):
            found = [number for inner in term.terms for number in self.within(inner)]
        return tuple(dict.fromkeys(found))

    def filled(self, term: Term, holes: Sequence[Hole]) -> Term:
        """The term with an instance's values in the places of the marks."""

        def value(item: Any) -> Any:
            number = self._numbers.get(item)
            return item if number is None else holes[number].value

        if isinstance(term, WorkloadMember):
            return replace(term, namespaces=value(term.namespaces), labels=value(term.labels))
        if isinstance(term, Addresses):
            return Addresses(tuple(map(value, term.items)))
        if isinstance(term, AnyOf):
            return AnyOf(tuple(self.filled(inner, holes) for inner in term.terms))
        return term


NO_MARKS = Marks(())
