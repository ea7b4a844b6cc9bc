# SPDX-License-Identifier: Apache-2.0
"""The set-up: what it does where it may not install, its lock, and the licences of what it brings."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# What scripts/setup.sh calls; a PATH with these and no more shows what it does on a bare machine.
COMMANDS = "sh dirname mkdir flock id ls sed sort dpkg-query cat cut sha256sum rm mv chmod tail touch comm python3 make"
SET_UP_FILES = ("scripts", "requirements", "pyproject.toml", "setup.py", "dfw/__init__.py", "Makefile")


@pytest.fixture
def checkout(root_folder: Path, tmp_path: Path) -> Path:
    """A copy of what the set-up reads, in a path with a space, beside a folder `bin` of commands."""
    copy = tmp_path / "a checkout"
    for name in SET_UP_FILES:
        source, target = root_folder / name, copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in COMMANDS.split():
        found = os.path.realpath(sys.executable) if name == "python3" else shutil.which(name)
        assert found is not None, name
        (folder / name).symlink_to(found)
    return copy


def add_command(checkout: Path, name: str, script: str) -> None:
    """Put a shell script into the PATH of `run_set_up`, over a command of that name."""
    path = checkout.parent / "bin" / name
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def run_set_up(
    checkout: Path, *command: str, prefix: tuple[str, ...] = (), **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the set-up (or another command) of the copy, with its own PATH."""
    environment = {"PATH": str(checkout.parent / "bin"), "HOME": str(checkout.parent), **variables}
    return subprocess.run(
        [*prefix, *(command or ("scripts/setup.sh", "build"))],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_no_install_stops_with_the_line_for_debian_packages(checkout: Path) -> None:
    add_command(checkout, "apt-get", f"echo called >'{checkout}/apt-called'")
    done = run_set_up(checkout, PALISADE_NO_INSTALL="1")
    assert done.returncode == 3
    assert "apt-get install -y --no-install-recommends gcc" in done.stderr.splitlines()[-1]
    assert not (checkout / "apt-called").exists()
    assert not (checkout / ".venv").exists()


def test_no_root_stops_with_the_line_for_debian_packages(checkout: Path) -> None:
    add_command(checkout, "apt-get", f"echo called >'{checkout}/apt-called'")
    add_command(checkout, "id", "echo 1000")
    done = run_set_up(checkout)
    assert done.returncode == 3
    assert "not root" in done.stderr
    assert "apt-get install -y --no-install-recommends gcc" in done.stderr
    assert not (checkout / "apt-called").exists()


def test_no_install_stops_with_the_line_for_python_packages(checkout: Path) -> None:
    add_command(checkout, "gcc", "exit 0")
    done = run_set_up(checkout, PALISADE_NO_INSTALL="1")
    assert done.returncode == 3
    line = done.stderr.splitlines()[-1]
    assert f"cd '{checkout}'" in line
    assert "pip install --require-hashes" in line
    assert not (checkout / ".venv").exists()


def test_make_reports_2_when_the_set_up_stops(checkout: Path) -> None:
    add_command(checkout, "apt-get", "exit 100")
    done = run_set_up(checkout, "make", "setup-build", PALISADE_NO_INSTALL="1")
    assert done.returncode == 2
    assert "--no-install-recommends gcc" in done.stderr


def test_wrong_interpreter_is_named(checkout: Path) -> None:
    add_command(checkout, "gcc", "exit 0")
    done = run_set_up(checkout, PALISADE_PYTHON="/nonexistent/python9")
    assert done.returncode == 3
    assert "/nonexistent/python9 is not a Python >= 3.11" in done.stderr


def test_unknown_profile_is_a_usage_error(checkout: Path) -> None:
    assert run_set_up(checkout, "scripts/setup.sh", "everything").returncode == 2


@pytest.mark.needs_root
@pytest.mark.needs_mount
@pytest.mark.parametrize("kept", [None, "#!/bin/sh\nexit 104\n"])
def test_no_service_may_start_while_packages_are_installed(checkout: Path, tmp_path: Path, kept: str | None) -> None:
    """apt-get is called with a policy-rc.d that forbids starting, and the system's own is there again afterwards."""
    sbin = tmp_path / "sbin"  # mounted over /usr/sbin, in a mount namespace of this test only
    sbin.mkdir()
    if kept is not None:
        (sbin / "policy-rc.d").write_text(kept)
        (sbin / "policy-rc.d").chmod(0o755)
    log = checkout / "apt-called"
    script = f"echo \"$@\" >>'{log}'\n/usr/sbin/policy-rc.d x start\necho $? >>'{log}'\nexit 100"
    add_command(checkout, "apt-get", script)
    for tool in ("unshare", "mount"):
        (checkout.parent / "bin" / tool).symlink_to(shutil.which(tool) or "/missing")
    script = f"mount --bind '{sbin}' /usr/sbin && exec scripts/setup.sh build"
    done = run_set_up(checkout, "sh", "-c", script, prefix=("unshare", "--mount"))
    assert done.returncode == 3, done.stderr
    called = log.read_text().splitlines()
    assert called == ["update -q", "101", "install -q -y --no-install-recommends gcc", "101"]
    left = sorted(path.name for path in sbin.iterdir())
    assert left == ([] if kept is None else ["policy-rc.d"])
    if kept is not None:
        assert (sbin / "policy-rc.d").read_text() == kept


def test_second_run_installs_nothing(root_folder: Path) -> None:
    if Path(sys.prefix) != root_folder / ".venv":
        pytest.skip("not run from the checkout's own .venv")
    environment = {**os.environ, "PALISADE_NO_INSTALL": "1"}
    done = subprocess.run(
        [root_folder / "scripts/setup.sh", "build"], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def locked(root: Path) -> dict[str, str]:
    """Version by distribution in the lock; every line must carry hashes."""
    entries = re.split(r"\n(?=[a-zA-Z])", (root / "requirements/dev.txt").read_text().partition("\n\n")[0])
    found = {}
    for entry in entries:
        match = re.match(r"([A-Za-z0-9._-]+)==(\S+)", entry)
        if match:
            assert "--hash=sha256:" in entry, entry
            found[canonicalize_name(match.group(1))] = match.group(2)
    return found


def test_lock_holds_what_the_project_asks_for(root_folder: Path) -> None:
    tables = tomllib.loads((root_folder / "pyproject.toml").read_text())
    project, extras = tables["project"], tables["project"]["optional-dependencies"]
    lock = locked(root_folder)
    for line in (
        project["dependencies"]
        + extras["oracle"]
        + extras["parquet"]
        + extras["etcd"]
        + tables["dependency-groups"]["dev"]
    ):
        requirement = Requirement(line)
        version = lock[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{line}, but {version} is locked: run scripts/lock.sh"


def test_lock_names_no_index(root_folder: Path) -> None:
    assert "://" not in (root_folder / "requirements/dev.txt").read_text()


def test_packages_table_is_well_formed(root_folder: Path) -> None:
    rows = [line.split() for line in (root_folder / "scripts/packages.txt").read_text().splitlines()]
    rows = [row for row in rows if row and not row[0].startswith("#")]
    assert rows
    for row in rows:
        assert len(row) == 3, row
        assert row[0] in {"build", "demo", "test", "bench"}


def runtime_distributions(
    name: str = "palisade-dfw", extras: tuple[str, ...] = ("oracle", "parquet", "etcd")
) -> set[str]:
    """Names of what a distribution needs to run, all the way down, without itself."""
    found: set[str] = set()
    open_names = [(name, extras)]
    while open_names:
        current, wanted = open_names.pop()
        for line in metadata.requires(current) or []:
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in ("", *wanted)):
                continue
            key = canonicalize_name(requirement.name)
            if key not in found:
                found.add(key)
                open_names.append((key, tuple(requirement.extras)))
    return found


def licences(name: str) -> Iterator[str]:
    """What a distribution's metadata says of its licence. A text of many lines counts by its first."""
    data = metadata.metadata(name)
    yield from data.get_all("License-Expression") or []
    for text in data.get_all("License") or []:
        yield text.strip().partition("\n")[0]
    for classifier in data.get_all("Classifier") or []:
        if classifier.startswith("License ::"):
            yield classifier


def is_gpl(licence: str) -> bool:
    """Whether a licence is the GNU GPL or AGPL without the exception for run-time libraries (GCC's).

    Of alternatives (`A OR B`, SPDX) one may choose: all of them must be.
    """
    alternatives = re.split(r"\s+OR\s+", licence)
    if len(alternatives) > 1:
        return all(map(is_gpl, alternatives))
    text = re.sub(r"GPL-3\.0(-or-later|-only)?[- ]with[- ]GCC-exception(-3\.1)?", "", licence, flags=re.IGNORECASE)
    return bool(re.search(r"(?<![L])A?GPL|GNU (Affero )?General Public", text))


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("GPL-2.0-only", True),
        ("AGPL-3.0", True),
        ("License :: OSI Approved :: GNU General Public License v2 (GPLv2)", True),
        ("GNU Affero General Public License v3", True),
        ("LGPL-2.1-or-later", False),
        ("GNU Lesser General Public License", False),
        ("BSD-3-Clause AND GPL-3.0-or-later WITH GCC-exception-3.1", False),
        ("Apache-2.0", False),
        ("GPL-2.0-or-later OR Apache-2.0", False),
        ("GPL-2.0-or-later OR AGPL-3.0", True),
    ],
)
def test_is_gpl(licence: str, expected: bool) -> None:
    assert is_gpl(licence) is expected


def test_no_runtime_dependency_is_gpl() -> None:
    names = runtime_distributions()
    assert {"cffi", "numpy", "numba", "pyarrow", "click"} <= names
    assert "scapy" not in names
    for name in sorted(names):
        said = list(licences(name))
        assert said, f"{name} does not say its licence"
        assert not any(is_gpl(licence) for licence in said), f"{name}: {said}"


def test_own_licence_is_apache() -> None:
    assert list(licences("palisade-dfw")) == ["Apache-2.0"]


def test_installed_entry_points_are_those_of_the_tree(root_folder: Path) -> None:
    project = tomllib.loads((root_folder / "pyproject.toml").read_text())["project"]
    installed = metadata.distribution("palisade-dfw").entry_points
    for group, rows in {**project["entry-points"], "console_scripts": project["scripts"]}.items():
        assert {point.name: point.value for point in installed.select(group=group)} == rows


@pytest.mark.long
def test_wheel_holds_everything(root_folder: Path, tmp_path: Path) -> None:
    """`pip install .` without make: one wheel with the packages, their data and the compiled core."""
    copy = tmp_path / "a source"
    shutil.copytree(
        root_folder, copy, ignore=shutil.ignore_patterns(".git", ".venv", ".setup", "build", "__pycache__", "*.so")
    )
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "out"), str(copy)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = (tmp_path / "out").iterdir()
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"_palisade_core.abi3.so", "dfw/cli.py", "dfw/py.typed", "overlay/__init__.py"} <= names
    assert {f"dfw/schemas/{path.name}" for path in (root_folder / "dfw/schemas").glob("*.json")} <= names
    example = {path.name for path in (root_folder / "examples/shop").iterdir() if path.is_file()}
    assert {f"dfw/example/{name}" for name in example} <= names  # what `palisade init` writes
    assert not any(name.startswith(("tests/", "native/", "benchmarks/")) for name in names)
