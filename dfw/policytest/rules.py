# SPDX-License-Identifier: Apache-2.0
"""Rules as tests name and show them: a path or a suffix of it, and the place in a file. Pure."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable

from dfw.explain_text import rule_name
from dfw.model import PolicySet, Rule
from dfw.policytest.errors import PolicyTestError


def rule_find(world: PolicySet, text: str) -> str:
    """The path of the rule that `text` means: its path, or an unambiguous suffix at a `/` (CONTRACT section 2).

    Raises PolicyTestError.
    """
    __tracebackhide__ = True
    paths = [rule.path for policy in world.ordered for rule in policy.rules]
    if text in paths:
        return text
    found = [path for path in paths if path.endswith(f"/{text.lstrip('/')}")]
    if len(found) == 1:
        return found[0]
    if found:
        raise PolicyTestError(f"by={text!r} could be {' or '.join(map(rule_name, found[:4]))}; write more of the path")
    near = difflib.get_close_matches(text, [*map(rule_name, paths), *_suffixes(paths)], n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise PolicyTestError(f"by={text!r}: the policy has no such rule{hint}")


def _suffixes(paths: Iterable[str]) -> list[str]:
    return [path.rpartition("/")[2] for path in paths]


def shown_file(file: str) -> str:
    """A file's path relative to the working directory where it lies below."""
    try:
        relative = os.path.relpath(file)
    except (OSError, ValueError):
        return file
    return file if relative.startswith("..") else relative


def shown_place(rule: Rule) -> str:
    """`policy.yaml:98`; empty for rules that stand in no file."""
    return f"{shown_file(rule.place.file)}:{rule.place.line}" if rule.place is not None else ""


def shown_rule(rule: Rule | None) -> str:
    """`shop/rules/rest (policy.yaml:99)`."""
    if rule is None:
        return "no rule"
    place = shown_place(rule)
    return f"{rule_name(rule.path)} ({place})" if place else rule_name(rule.path)
