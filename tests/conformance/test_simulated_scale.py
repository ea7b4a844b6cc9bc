# SPDX-License-Identifier: Apache-2.0
"""A control plane with simulated hosts: each has what a compile from nothing gives, after changes, a cut and another
leader; and is sent little for it. Seconds and megabytes are written down, not judged: they are this machine's."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.support.simulated import simulate
from tests.support.simulated_objects import Load

RESULT = Path(__file__).parents[2] / "build" / "simulated.json"


@pytest.mark.long
def test_simulated_hosts_have_what_a_compile_from_nothing_gives_and_are_sent_little(tmp_path: Path) -> None:
    load = Load(1000, 2500, 10_000)
    found = asyncio.run(simulate(load, tmp_path, 100, direct=True))
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(found, indent=2) + "\n")
    assert found["verdict"]["hosts"] == load.hosts and found["verdict"]["vnics"] == load.count
    assert found["verdict"]["different"] == 0, found["verdict"]
    assert found["first_bytes"]["worst_share_of_tables"] <= 2, found["first_bytes"]
    assert found["cut"]["worst_share"] <= 1 and found["leader"]["worst_share"] <= 1, found
