# SPDX-License-Identifier: Apache-2.0
"""Kernel settings as they were: kept once, put back, and never overwritten by what an agent itself has set."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlay import sysctl_keep
from overlay.sysctl_keep import keep_sysctls, restore_sysctls
from overlay.uplink import UplinkStep

NAME = "ipv4/conf/all/forwarding"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kernel's, one of them."""
    monkeypatch.setattr(sysctl_keep, "_SYSCTLS", tmp_path / "net")
    file = tmp_path / "net" / NAME
    file.parent.mkdir(parents=True)
    file.write_text("0\n")
    return file


def test_what_was_found_first_comes_back(settings: Path, tmp_path: Path) -> None:
    steps = [UplinkStep("sysctl", NAME, "1")]
    for _ in range(2):  # the second finds what the first agent has set
        keep_sysctls(tmp_path / "before.json", steps)
        settings.write_text("1")
    assert restore_sysctls(tmp_path / "before.json") == ["net.ipv4.conf.all.forwarding is 0 again"]
    assert settings.read_text() == "0"
    assert restore_sysctls(tmp_path / "before.json") == restore_sysctls(tmp_path / "none.json") == []


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ('{"sysctls": {"ipv4/conf/all/forwarding": "0"}, "version": 9}', "is of version 9; this agent reads version 1"),
        ('{"sysctls": {', "before.json cannot be read: Input data was truncated"),
    ],
)
def test_what_cannot_be_read_is_left_and_told(settings: Path, tmp_path: Path, kept: str, said: str) -> None:
    path = tmp_path / "before.json"
    path.write_text(kept)
    settings.write_text("1")
    keep_sysctls(path, [UplinkStep("sysctl", NAME, "1")])
    assert path.read_text() == kept
    (line,) = restore_sysctls(path)
    assert said in line and line.startswith("kernel settings stay as they are") and settings.read_text() == "1"
