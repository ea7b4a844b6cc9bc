# SPDX-License-Identifier: Apache-2.0
"""What README says: its commands exist, its policy is a policy, and the output that it shows is the output."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PALISADE = [sys.executable, "-m", "dfw"]
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def find_block(language: str, begin: str) -> str:
    """The block of a language that has a line beginning so."""
    found = [text for tongue, text in BLOCKS if tongue == language and re.search(rf"^{begin}", text, re.MULTILINE)]
    assert len(found) == 1, begin
    return found[0]


def run(command: list[str], directory: Path) -> str:
    """Run a command in the directory, with the checkout's packages; returns what it printed."""
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def without_speed(text: str) -> list[str]:
    """Lines without the one figure that wanders."""
    return [re.sub(r"; \d.* a second\)", "", line).rstrip() for line in text.strip().splitlines()]


def test_two_commands_first() -> None:
    begin = README.split("## ")[0]
    assert begin.index("apt-get install -y git make") < begin.index("make demo") < begin.index("make test")
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for target in re.findall(r"\bmake ([a-z-]+)\b", " ".join(re.findall(r"`[^`]+`", README)) + BLOCKS[0][1]):
        assert target in targets or target == "git", target


@pytest.mark.parametrize("line", sorted(set(re.findall(r"^(?:\.venv/bin/)?palisade .*", README, re.MULTILINE))))
def test_commands_exist(line: str, tmp_path: Path) -> None:
    words = line.split("#")[0].split()
    told = run([*PALISADE, words[1], "--help"], tmp_path)
    if words[1] in ("bench", "lab", "supervisor"):
        told += run([*PALISADE, words[1], words[2], "--help"], tmp_path)
    for option in (word for word in words if word.startswith("--")):
        assert option in told, option


def test_links() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_first_policy(tmp_path: Path) -> None:
    policy = find_block("yaml", "resource_type: Group")
    assert len(policy.splitlines()) == 15
    (tmp_path / "first.yaml").write_text(policy, encoding="utf-8")
    assert "no errors, 0 warnings" in run([*PALISADE, "check", "first.yaml"], tmp_path)
    run([sys.executable, "-m", "scripts.demo.synthetic", "."], tmp_path)
    told = run([*PALISADE, "replay", "shop.pcap", "--policy", "first.yaml"], tmp_path)
    shown = find_block("", "REASON ")
    assert without_speed(told) == without_speed(shown)
    assert without_speed(shown)[0].endswith("1 capture")
