# SPDX-License-Identifier: Apache-2.0
"""Logs: where they go when who runs a command in its own process exchanges what it writes to."""

from __future__ import annotations

import io

import pytest

from dfw.logs import apply_settings, get_logger


def test_a_logger_writes_to_what_stderr_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = io.StringIO(), io.StringIO()
    monkeypatch.setattr("sys.stderr", first)
    apply_settings()
    log = get_logger("somebody")
    log.warning("one", n=1)
    first.close()
    monkeypatch.setattr("sys.stderr", second)
    log.warning("two", n=2)
    get_logger("another").warning("three")
    assert "two" in second.getvalue() and "n=2" in second.getvalue() and "three" in second.getvalue()
    assert "one" not in second.getvalue()
