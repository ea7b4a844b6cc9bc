# SPDX-License-Identifier: Apache-2.0
"""Wrong inputs of `palisade attach`: a sentence each, before any agent is asked."""

from __future__ import annotations

from errno import EACCES
from pathlib import Path

import pytest

from dfw import cli

NAMED = ("--segment", "s", "--name", "v")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give --netns, --pid or --tap"),
        (("--pid", "1", "--tap", "t"), "give --netns, --pid or --tap"),
        (("--pid", str(1 << 30)), f"there is no process {1 << 30}"),
        (("--netns", "/dev/null/x"), "there is nothing at /dev/null/x"),
        (("--netns", "/" + "x" * 5000), "there is nothing at /xxx"),
        (("--netns", "/dev/null"), "/dev/null is no network namespace"),
        (("--netns", "/proc/self/ns/net", "--run", "/nowhere", "--host", "h"), "give one of them"),
        (("--netns", "/proc/self/ns/net", "--run", "/nowhere", "--lab", "l"), "give one of them"),
    ],
)
def test_what_cannot_be_meant(words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["attach", *NAMED, *words]) == 2
    assert said in capsys.readouterr().err


def test_a_namespace_that_may_not_be_seen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen = Path.stat

    def stat(path: Path, **options: bool) -> object:
        if str(path) == "/proc/7/ns/net":
            raise PermissionError(EACCES, "Permission denied", str(path))
        return seen(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    assert cli.run(["attach", *NAMED, "--pid", "7"]) == 3
    assert "/proc/7/ns/net: Permission denied" in capsys.readouterr().err
