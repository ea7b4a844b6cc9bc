# SPDX-License-Identifier: Apache-2.0
"""A lab under a Supervisor, by real kubectl: Namespaces become networks, policies decide about real connections."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.kubectl import kubectl_path
from tests.support.leftovers import list_leftovers

ROOT = Path(__file__).resolve().parent.parent.parent
LAB = "sup"


@pytest.fixture
def run() -> Iterator[Path]:
    """A lab's run directory with a short name, of which nothing is left."""
    with tempfile.TemporaryDirectory(prefix="pal-", dir="/tmp") as folder:
        found = Path(folder) / "run"
        before = list_leftovers(found)
        yield found
        down = subprocess.run(palisade("lab", "down", "--all"), env=environment(found), capture_output=True, text=True)
        assert down.returncode == 0, down.stderr
        assert list_leftovers(found) == before | {"files": list_leftovers(found)["files"]}


def palisade(*words: str) -> list[str]:
    return [sys.executable, "-m", "dfw", *words]


def environment(run: Path) -> dict[str, str]:
    return {**os.environ, "PALISADE_RUN": str(run)}


@pytest.mark.needs_netns
@pytest.mark.needs_tun
def test_namespaces_policies_and_pods_by_kubectl(run: Path) -> None:
    command = [sys.executable, "-m", "scripts.demo.supervisor", LAB, str(kubectl_path("1.37"))]
    done = subprocess.run(command, env=environment(run), cwd=ROOT, capture_output=True, text=True, timeout=300)
    logs = "\n".join(
        f"== {path}\n{path.read_text(errors='replace')[-2500:]}"
        for path in sorted(run.rglob("*.log"))
        if done.returncode
    )
    assert done.returncode == 0, done.stdout + done.stderr + logs
    for said in ("all may talk", "shop is isolated", "shop/clerk is not", "and no more", "are gone"):
        assert said in done.stdout
