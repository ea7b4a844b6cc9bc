# SPDX-License-Identifier: Apache-2.0
"""A lab's directory: where it cannot be, and says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfw.errors import EnvironmentLacksError, PolicyError
from overlay.lab_change import plan_change
from overlay.lab_inputs import inputs_read
from overlay.lab_record import LabPaths, LabRecord, lab_locked, sockets_check


def test_where_no_directory_can_be_made_nobody_waits_for_it() -> None:
    paths = LabPaths(Path("/proc/nowhere/labs/lab"))
    with pytest.raises(EnvironmentLacksError, match=f"no directory {paths.folder}"), lab_locked(paths):
        pass


def test_a_socket_has_a_name_of_107_bytes() -> None:
    rest = "/labs/lab/hosts/esx-1/run/holder.sock"
    for spare in (0, 1):
        paths = LabPaths(Path("/" + "r" * (106 - len(rest) + spare)) / "labs" / "lab")
        if spare:
            with pytest.raises(EnvironmentLacksError, match=f"{rest} is too long for a socket's name"):
                sockets_check(paths, ["e", "esx-1"])
        else:
            sockets_check(paths, ["e", "esx-1"])


def test_without_hosts_and_workloads_the_file_is_named(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("resource_type: SecurityPolicy\nid: p\ncategory: Application\nrules: []\n")
    paths = LabPaths(tmp_path / "lab")
    with pytest.raises(PolicyError, match=r"policy\.yaml:1:1: there are no hosts and no workloads"):
        plan_change(paths, LabRecord("lab"), inputs_read([str(policy)]), 1700)
