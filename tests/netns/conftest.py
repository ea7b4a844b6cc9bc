# SPDX-License-Identifier: Apache-2.0
"""What tests with labs share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfw import cli
from overlay import lab_agents
from tests.support.lab_command import Lab
from tests.support.leftovers import list_leftovers
from tests.support.stub_agent import AGENT


@pytest.fixture
def lab(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """A directory for labs with a short name (Unix sockets), and a look at the machine before and after."""
    run = Path(tempfile.mkdtemp(prefix="pal-", dir="/tmp")) / "run"
    monkeypatch.setenv("PALISADE_RUN", str(run))
    monkeypatch.setattr(lab_agents, "AGENT", AGENT)
    before = list_leftovers(run)
    try:
        yield Lab(run, capfd)
    finally:
        cli.run(["lab", "down", "--all"])
        after = list_leftovers(run)
        shutil.rmtree(run.parent)
    assert after == before
