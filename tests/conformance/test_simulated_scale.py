# SPDX-License-Identifier: Apache-2.0
"""A control plane with simulated hosts: each has what a compile from nothing gives, after changes, a cut and another
leader; and is sent little for it. Seconds and megabytes are written down, not judged: they are this machine's."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.simulated import simulate
from tests.support.simulated_objects import Load

SCALE = int(os.environ.get("PALISADE_SCALE", "1"))  # of 10, it needs an hour, 16 GB and 20,000 descriptors
CHANGES = 100 if SCALE == 1 else 20
NAME = "simulated.json" if SCALE == 1 else f"simulated-{SCALE}.json"
RESULT = Path(__file__).parents[2] / "build" / NAME  # as far as it is


@pytest.mark.long
def test_simulated_hosts_have_what_a_compile_from_nothing_gives_and_are_sent_little(tmp_path: Path) -> None:
    load = Load(1000 * SCALE, 2500 * SCALE, 10_000 * SCALE)
    judged(asyncio.run(simulate(load, tmp_path, CHANGES, direct=True, out=RESULT)), load, load.count)


@pytest.mark.long
def test_the_same_with_all_controllers_and_a_store_that_was_filled_through_the_api(tmp_path: Path) -> None:
    load = Load(100, 250, 1000)
    found = asyncio.run(simulate(load, tmp_path, 20, direct=False, out=RESULT.with_stem("simulated-all")))
    judged(found, load, load.count + 1)  # a pod comes while hosts are cut off


def judged(found: dict[str, Any], load: Load, vnics: int) -> None:
    assert found["verdict"]["hosts"] == load.hosts and found["verdict"]["vnics"] == vnics
    assert found["verdict"]["different"] == 0, found["verdict"]
    assert found["first_bytes"]["worst_share_of_tables"] <= 2, found["first_bytes"]
    assert found["cut"]["worst_share"] <= 1 and found["leader"]["worst_share"] <= 1, found
