# SPDX-License-Identifier: Apache-2.0
"""With TCP strict on, no connection begins in mid-stream: on captures of others, many of which do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import LONG, SHARED_DATA
from tests.support.capture_mutations import capture_paths

TCP = 6
BYTES = 1 << 30 if LONG else 20_000
POLICY = """\
resource_type: SecurityPolicy
id: all
category: Application
sequence_number: 1
tcp_strict: {strict}
rules:
  - {{id: all, source_groups: [ANY], destination_groups: [ANY], services: [ANY], action: ALLOW}}
"""


def _beginnings(folder: Path, strict: bool) -> tuple[set[str], int]:
    """First letters of the TCP connections' histories, and how many connections there were."""
    policy, flows = folder / "policy.yaml", folder / "flows.jsonl"
    policy.write_text(POLICY.format(strict=str(strict).lower()))
    captures = [str(path) for path in capture_paths(SHARED_DATA) if path.stat().st_size <= BYTES]
    command = [sys.executable, "-m", "dfw", "replay", "--each", "--tap", "--policy", str(policy), "--flows", str(flows)]
    done = subprocess.run([*command, *captures], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 2), done.stderr  # some are no captures
    begun = [row["history"][:1] for row in map(json.loads, flows.read_text().splitlines()) if row["proto"] == TCP]
    return set(begun), len(begun)


@pytest.mark.needs_shared_data()
def test_connections_begin_with_a_syn(tmp_path: Path) -> None:
    begun, connections = _beginnings(tmp_path, strict=True)
    assert begun == {"S"} and connections > 100


@pytest.mark.needs_shared_data()
def test_without_strict_some_begin_later(tmp_path: Path) -> None:
    begun, _ = _beginnings(tmp_path, strict=False)
    assert begun > {"S"}
