# SPDX-License-Identifier: Apache-2.0
"""Installing the agent touches what docs/host-footprint.md lists, and uninstalling leaves the host as it was."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dfw import cli
from overlay import privilege
from overlay.host_install import InstallError, agent_command, plan_install, read_manifest
from overlay.host_unit import UNIT, render_unit
from tests.conftest import ROOT

GOLDEN = Path(__file__).parent / "golden" / UNIT
OPTIONS = ("--host", "esx-1", "--underlay", "eth0")


@pytest.fixture(autouse=True)
def _capabilities_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """`agent run` gives up capabilities first of all: here it would be the test process's."""
    monkeypatch.setattr(privilege, "privileges_drop", lambda *_: None)


def run(*arguments: str | Path, status: int = 0) -> None:
    assert cli.run(["agent", *map(str, arguments)]) == status


def tree(root: Path) -> dict[str, tuple[int, str]]:
    """Everything below a directory: mode, and content or where it leads."""
    found = {}
    for path in root.rglob("*"):
        text = os.readlink(path) if path.is_symlink() else path.read_text() if path.is_file() else ""
        found[f"/{path.relative_to(root)}"] = (path.lstat().st_mode, text)
    return found


def listed() -> set[str]:
    """The paths of the document's table."""
    text = (ROOT / "docs" / "host-footprint.md").read_text(encoding="utf-8")
    table = text.partition("<!-- footprint")[2].partition("<!-- end of footprint")[0]
    return set(re.findall(r"^\| `(/[^`]+)`", table, re.MULTILINE))


def test_install_touches_what_the_document_lists_and_uninstall_takes_it_away(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for folder in ("etc", "var/lib"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "etc" / "hostname").write_text("esx-1\n")
    before = tree(tmp_path)
    run("install", *OPTIONS, "--root", tmp_path, "--dry-run")
    assert tree(tmp_path) == before
    printed = set(re.findall(r"^\+ \w+ (\S+)", capfd.readouterr().out, re.MULTILINE))
    assert printed | {"/var/lib/palisade/installed.json"} == listed()
    run("install", *OPTIONS, "--root", tmp_path)
    after = tree(tmp_path)
    assert set(after) - set(before) - {"/etc/systemd"} == listed()
    assert {path: after[path] for path in before} == before
    capfd.readouterr()
    run("install", *OPTIONS, "--root", tmp_path)
    assert "as it was" in capfd.readouterr().out and tree(tmp_path) == after
    # Other options: the unit only.
    run("install", "--host", "esx-2", "--underlay", "eth1", "--root", tmp_path)
    changed = tree(tmp_path)
    assert {path for path in after if after[path] != changed[path]} == {
        f"/etc/systemd/system/{UNIT}", "/var/lib/palisade/installed.json"
    }  # fmt: skip
    # What others have put there meanwhile stays, and so do their folders.
    other = tmp_path / "etc" / "systemd" / "system" / "other.service"
    other.write_text("")
    (tmp_path / "etc" / "palisade" / "desired.json").write_text("{}")
    run("uninstall", "--root", tmp_path)
    assert {path for path in tree(tmp_path) if "palisade" in path} == {
        "/etc/palisade", "/etc/palisade/desired.json", "/var/lib/palisade", "/var/lib/palisade/installed.json"
    }  # fmt: skip
    other.unlink()
    run("uninstall", "--purge", "--root", tmp_path)
    assert tree(tmp_path) == before
    capfd.readouterr()
    run("uninstall", "--purge", "--root", tmp_path)
    assert "no agent is installed" in capfd.readouterr().out


def test_what_was_there_before_stays(tmp_path: Path) -> None:
    for folder in ("etc/palisade", "etc/systemd/system/multi-user.target.wants", "var/lib"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "etc" / "palisade" / "palisade.toml").write_text("")
    before = tree(tmp_path)
    run("install", *OPTIONS, "--root", tmp_path)
    run("uninstall", "--purge", "--root", tmp_path)
    assert tree(tmp_path) == before


def test_a_file_of_somebody_else_is_not_replaced(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    wants = tmp_path / "etc" / "systemd" / "system" / "multi-user.target.wants"
    wants.mkdir(parents=True)
    (wants / UNIT).write_text("mine")
    run("install", *OPTIONS, "--root", tmp_path, status=2)
    assert "is there and not ours" in capfd.readouterr().err
    (tmp_path / "var" / "lib" / "palisade" / "installed.json").write_text("{")
    with pytest.raises(InstallError, match="cannot be read"):
        read_manifest(tmp_path)
    run("uninstall", "--root", tmp_path, status=2)


def test_what_is_not_there_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for arguments, says in (
        (("install", "--host", "h", "--underlay", "nosuch0", "--dry-run"), "has no interface 'nosuch0'; it has "),
        (("install", "--host", "h", "--underlay", "nosuch0"), "has no interface 'nosuch0'; it has "),
        (
            ("install", "--host", "h", "--underlay", "a name/", "--root", tmp_path),
            "'a name/' is no name of an interface",
        ),
        (("install", *OPTIONS, "--root", tmp_path / "nosuch"), "nosuch' does not exist"),
        (("uninstall", "--root", tmp_path / "nosuch"), "nosuch' does not exist"),
        (("run", "--host", "h", "--run", tmp_path, "--desired", tmp_path, "--underlay", "ul0"), "is a directory"),
        (
            ("run", "--host", "h", "--run", tmp_path, "--desired", "d", "--underlay", "x" * 16),
            "is no name of an interf",
        ),
    ):
        run(*arguments, status=2)
        assert says in capfd.readouterr().err
    assert [*tmp_path.iterdir()] == []


def test_join_is_a_command_that_the_supervisor_brings(capfd: pytest.CaptureFixture[str]) -> None:
    run("join", status=2)
    assert "--server" in capfd.readouterr().err


def test_the_unit_is_as_it_was_agreed() -> None:
    command = ["/usr/bin/palisade", "agent", "run", "--host", "100% a$b", "--desired", '/etc/my "files"/x.json']
    assert render_unit(command, '/etc/my "files"') == GOLDEN.read_text(encoding="utf-8")


@pytest.mark.needs_tool("systemd-analyze")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """Without complaint; whether systemd runs this machine does not matter for that."""
    told = "/etc/pali $ade/x"
    (step,) = (step for step in plan_install(agent_command("h", "eth0", told, "auto"), told) if step.what == "file")
    path = tmp_path / UNIT
    path.write_text(step.text)
    done = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")
    path.write_text(step.text.replace("KillMode=process", "KillMode=nonsense"))
    bad = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False)
    assert "kill mode" in bad.stderr  # it would have complained


def test_root_needs_no_more_where_folders_are_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "closed" / "run"
    inner.mkdir(parents=True)
    assert not privilege.needs_override([inner])
    (tmp_path / "closed").chmod(0o700)
    monkeypatch.setattr(privilege.os, "geteuid", lambda: os.getuid() + 1)
    assert privilege.needs_override([inner])


@pytest.mark.needs_root
@pytest.mark.needs_tool("python3")
def test_what_is_given_up_is_gone(root_folder: Path, tmp_path: Path) -> None:
    owned = tmp_path / "owned"
    owned.touch()
    program = (
        "from overlay.privilege import *; privileges_drop(); import pathlib, os\n"
        "print(*[line for line in pathlib.Path('/proc/self/status').read_text().splitlines()"
        " if line.startswith(('Cap', 'NoNew'))], sep='\\n')\n"
        f"try: os.chown({str(owned)!r}, 1, 1); print('changed')\n"
        "except PermissionError: print('refused')\n"
    )
    python = shutil.which("python3")
    assert python is not None
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True, cwd=root_folder)
    words = dict(line.split(":\t") for line in done.stdout.splitlines() if ":\t" in line)
    mask = sum(1 << number for number in privilege.NEEDED)
    held = {name: int(words[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    assert held["CapPrm"] | mask == mask and held["CapEff"] == held["CapPrm"] and held["CapInh"] == held["CapAmb"] == 0
    assert words["NoNewPrivs"] == "1" and "refused" in done.stdout
