# SPDX-License-Identifier: Apache-2.0
"""What a policy test raises when it could not decide: it errors, it does not fail."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class PolicyTestError(Exception):
    """An assertion that proves nothing, or cannot be understood; the message says which. pytest reports an error."""

    palisade_errors = True  # how dfw/pytest_plugin.py knows, without importing this


def options_check(given: Mapping[str, object], known: Iterable[str], what: str) -> None:
    """Raises PolicyTestError for an option that `what` does not know."""
    __tracebackhide__ = True
    known = list(known)
    unknown = sorted(given.keys() - set(known))
    if unknown:
        raise PolicyTestError(f"{unknown[0]}= is nothing that {what} knows; there are {', '.join(known)}")


def assertion(message: str) -> AssertionError:
    """A failed assertion with our message."""
    return AssertionError(message)
