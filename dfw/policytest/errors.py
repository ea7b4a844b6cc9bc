# SPDX-License-Identifier: Apache-2.0
"""What a policy test raises when it could not decide: it errors, it does not fail."""

from __future__ import annotations


class PolicyTestError(Exception):
    """An assertion that proves nothing, or cannot be understood; the message says which. pytest reports an error."""

    palisade_errors = True  # how dfw/pytest_plugin.py knows, without importing this


def assertion(message: str) -> AssertionError:
    """A failed assertion with our message."""
    return AssertionError(message)
