# SPDX-License-Identifier: Apache-2.0
"""The errors that reach a user, and their exit statuses (CONTRACT section 3)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from dfw.model.place import Place


class Problem(NamedTuple):
    """One thing that is wrong with an input: where, and what would be right."""

    place: Place
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class PolicyError(Exception):
    """Bad input: all problems of it at once; nothing of it is applied. Exit status 2.

    `file`, `line`, `column`, `path` and `message` are those of the first problem; `str()` is one line a problem:
    `shop.yaml:12:17: service_entries[1].destination_ports[0]: 70000 is not a port (0-65535)`.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        if not self.problems:
            raise ValueError("a PolicyError needs at least one problem")
        super().__init__("\n".join(str(problem) for problem in self.problems))

    @classmethod
    def at(cls, file: str, line: int, column: int, path: str, message: str) -> PolicyError:
        """The error with this one problem."""
        return cls([Problem(Place(file, line, column, path), message)])

    @property
    def file(self) -> str:
        """File of the first problem; `-` is standard input."""
        return self.problems[0].place.file

    @property
    def line(self) -> int:
        """Line of the first problem, from 1."""
        return self.problems[0].place.line

    @property
    def column(self) -> int:
        """Column of the first problem, in characters from 1."""
        return self.problems[0].place.column

    @property
    def path(self) -> str:
        """Path of the first problem inside its document; empty for the document itself."""
        return self.problems[0].place.path

    @property
    def message(self) -> str:
        """What is wrong, and what would be right."""
        return self.problems[0].message


class UnsupportedError(Exception):
    """An enforcer cannot express a feature of the policy; it never enforces a weaker one instead. Exit status 2."""

    def __init__(self, enforcer: str, feature: str) -> None:
        self.enforcer = enforcer
        self.feature = feature
        super().__init__(f"the enforcer {enforcer} does not support {feature}")


class EnvironmentLacksError(Exception):
    """This machine lacks something: `what`, and `remedy` says how to get it. Exit status 3."""

    def __init__(self, what: str, remedy: str) -> None:
        self.what = what
        self.remedy = remedy
        super().__init__(f"{what}: {remedy}")
