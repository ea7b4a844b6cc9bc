# SPDX-License-Identifier: Apache-2.0
"""Who may reach whom, as a file: what `assert_matrix` reads. Three shapes, told apart by the file itself.

Rows (CSV), `by` may be left out:          A grid (CSV) for each service, senders down, receivers across;
    from,to,service,expected,by                tcp/3306,web-1,app-1,db-1
    web-1,db-1,tcp/3306,denied,rest            web-1,,X,X
    group:app,db-1,tcp/3306,allowed,           app-1,X,,.
`.` or `allowed`, `X` or `denied`; an empty cell asserts nothing; a blank line ends a grid; `#` begins a comment line.
JSON: what `palisade matrix -o json` and `palisade lab probe -o json` print.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from dfw.policytest.errors import PolicyTestError, assertion
from dfw.policytest.messages import explanation, observed_text, outcome_text, table_text
from dfw.policytest.question import Question, question_make
from dfw.policytest.rules import shown_file
from dfw.policytest.verdict import Answered, Kind, Outcome, ask
from dfw.policytest.worlds import Subject

_WORDS: Final = {"allowed": True, "allow": True, ".": True, "denied": False, "deny": False, "x": False}
_NEEDED: Final = ("from", "to", "service", "expected")
_SHOWN: Final = 20


class Row(NamedTuple):
    """One line of the matrix: `where` is `matrix.csv:12`."""

    where: str
    source: str
    destination: str
    service: str
    allowed: bool
    by: str | None = None


class Result(NamedTuple):
    """A row, what it asks, and what came of it."""

    row: Row
    question: Question
    found: Answered
    outcome: Outcome


def matrix_check(subject: Subject, path: Path, held: Callable[[Question, Answered], None]) -> None:
    """Raise AssertionError where rows differ, PolicyTestError where they prove nothing; `held` is told of the rest."""
    __tracebackhide__ = True
    rows = matrix_read(path)
    questions = [_question(subject, row) for row in rows]
    results = [Result(*item) for item in zip(rows, questions, *zip(*ask(subject, questions), strict=True), strict=True)]
    for item in results:
        if item.outcome.kind is Kind.HOLDS:
            held(item.question, item.found)
    wrong = [item for item in results if item.outcome.kind is Kind.FAILS]
    if wrong:
        raise assertion(_differences(subject, path, len(rows), wrong))
    for item in results:
        if item.outcome.kind is Kind.ERRORS:
            message = outcome_text(subject, item.question, item.found, item.outcome)
            raise PolicyTestError(f"{item.row.where}: {message}")


def _question(subject: Subject, row: Row) -> Question:
    try:
        return question_make(
            subject.world,
            allowed=row.allowed,
            source=row.source,
            destination=row.destination,
            service=row.service,
            by=row.by,
        )
    except PolicyTestError as error:
        raise PolicyTestError(f"{row.where}: {error}") from None


def _differences(subject: Subject, path: Path, count: int, wrong: Sequence[Result]) -> str:
    """Expected and observed side by side, then why for the first."""
    lines = []
    for row, _, found, outcome in wrong[:_SHOWN]:
        expected = ("allowed" if row.allowed else "denied") + (f" by {row.by}" if row.by else "")
        observed = observed_text(found, outcome.at[0])
        lines.append((row.where.rpartition(":")[2], row.source, row.destination, row.service, expected, observed))
    head = f"{shown_file(str(path))}: {len(wrong)} of its {count} rows differ"
    shown = table_text(("line", "from", "to", "service", "expected", "observed"), lines)
    more = f"\nand {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    first = wrong[0]
    return f"{head}\n\n{shown}{more}\n\n{explanation(subject, first.question.probes[first.outcome.at[0]])}"


def matrix_read(path: Path) -> list[Row]:
    """The rows of a matrix file. Raises PolicyTestError: unreadable, not understood, or without a row."""
    name = shown_file(str(path))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyTestError(f"{name}: {getattr(error, 'strerror', None) or error}") from None
    rows = list(_json_rows(name, text) if text.lstrip().startswith("[") else _csv_rows(name, text))
    if not rows:
        raise PolicyTestError(f"{name}: expands to no pairs: it has no rows")
    return rows


def _csv_rows(name: str, text: str) -> Iterator[Row]:
    head: list[str] = []
    for line, cells in _lines(text):
        where = f"{name}:{line}"
        if not any(cells):
            head = []
        elif not head:
            head = cells
            if cells[0].lower() == "from":
                head = [cell.lower() for cell in cells]
                missing = [column for column in _NEEDED if column not in head]
                if missing:
                    raise PolicyTestError(f"{where}: the columns {', '.join(missing)} are missing; rows have {_NEEDED}")
        elif len(cells) > len(head):
            raise PolicyTestError(f"{where}: {len(cells)} cells under {len(head)} columns")
        elif head[0] == "from":
            found = dict(zip(head, cells, strict=False))
            ends = (found["from"], found.get("to", ""), found.get("service", ""))
            yield Row(where, *ends, _expected(where, found.get("expected", "")), found.get("by") or None)
        else:
            for receiver, cell in zip(head[1:], cells[1:], strict=False):
                if cell:
                    yield Row(where, cells[0], receiver, head[0], _expected(where, cell))


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    for line, raw in enumerate(text.splitlines(), 1):
        if not raw.lstrip().startswith("#"):
            yield line, [cell.strip() for cell in next(csv.reader([raw]), [])]


def _expected(where: str, word: str) -> bool:
    found = _WORDS.get(word.lower())
    if found is None:
        raise PolicyTestError(f"{where}: {word!r} is neither allowed (.) nor denied (X)")
    return found


def _json_rows(name: str, text: str) -> Iterator[Row]:
    try:
        items = json.loads(text)
    except ValueError as error:
        raise PolicyTestError(f"{name}: {error}") from None
    for number, item in enumerate(items, 1):
        where = f"{name}:[{number}]"
        try:
            row = _json_row(where, item)
        except (KeyError, TypeError, AttributeError):
            raise PolicyTestError(
                f"{where}: a row has from, to, protocol, port, and allowed or expected, as `palisade matrix -o json`"
            ) from None
        # A workload's packets to itself never meet a filter, and `matrix` says so of each.
        if row is not None and not (row.source == row.destination and row.allowed):
            yield row


def _json_row(where: str, item: Any) -> Row | None:
    allowed = item["allowed"] if "expected" not in item else _expected(where, item["expected"])
    if allowed is None:
        return None  # matrix does not know
    return Row(where, item["from"], item["to"], f"{item['protocol'].lower()}/{item['port']}", bool(allowed))
