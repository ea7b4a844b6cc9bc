# SPDX-License-Identifier: Apache-2.0
"""`palisade classify RULES TRACE`: the bare classifier on ClassBench text, without connections."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from dfw.classbench import RuleTable, rule_table, rules_read, trace_read
from dfw.cli import DONE
from dfw.errors import PolicyError
from dfw.layout import NO_MATCH, KeyArray
from dfw.output import emit, output_option, outputs_check, render_table


def first_matches(table: RuleTable, keys: KeyArray) -> tuple[npt.NDArray[np.int64], float, float]:
    """The number of each header's first matching rule, -1 for none, asked of the packet core.

    Also the seconds to build the rule set and to look all headers up.
    """
    from dfw.core import Classifier

    begun = time.perf_counter()
    classifier = Classifier()
    for number, ranges in enumerate(table.sets):
        classifier.put_set(number, ranges)
    ruleset = classifier.build(table.rules, table.refs)
    built = time.perf_counter()
    found = ruleset.lookup(keys)
    done = time.perf_counter()
    matches = found.astype(np.int64)
    matches[found == NO_MATCH] = -1
    return matches, built - begun, done - built


def matches_write(path: str, matches: npt.NDArray[np.int64]) -> None:
    """One line a header; `-` is standard output. Raises PolicyError where the file cannot be written."""
    text = "\n".join(map(str, matches.tolist()))
    if path == "-":
        click.echo(text, nl=bool(text))
        return
    try:
        Path(path).write_text(text + "\n" if text else "", encoding="ascii")
    except OSError as error:
        raise PolicyError.at(path, 1, 1, "", f"cannot be written: {error.strerror}") from None


def render_classify(data: dict[str, Any]) -> str:
    """The summary for people."""
    return render_table(("what", "value"), [(name.replace("_", " "), value) for name, value in data.items()])


@click.command(
    epilog="""\b
Example:
  palisade classify acl1_1000.rules acl1_1000.trace --out matches.txt"""
)
@click.argument("rules")
@click.argument("trace")
@click.option("--out", metavar="F", help="Write the 0-based number of each header's first match, -1 for none.")
@output_option
def classify(rules: str, trace: str, out: str | None, output: str) -> int:
    """Look ClassBench headers up in a ClassBench rule set.

    RULES and TRACE may be gzipped; one of them may be `-`. Only the five fields count: flags and further columns are
    ignored, host bits are masked.
    """
    if rules == trace == "-":
        raise click.UsageError("only one of RULES and TRACE can be standard input")
    outputs_check({"--out": out}, (rules, trace))
    table, keys = rule_table(rules_read(rules)), trace_read(trace)
    matches, build, lookup = first_matches(table, keys)
    if out is not None:
        matches_write(out, matches)
    if out != "-":
        matched = int(np.count_nonzero(matches >= 0))
        data = {
            "rules": len(table.rules),
            "headers": len(keys),
            "matched": matched,
            "unmatched": len(keys) - matched,
            "build_seconds": round(build, 6),
            "lookup_seconds": round(lookup, 6),
        }
        emit(data, output, render_classify)
    return DONE
