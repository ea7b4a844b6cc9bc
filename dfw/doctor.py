# SPDX-License-Identifier: Apache-2.0
"""`palisade doctor`: what this machine has of what Palisade needs, for which verb, and how to get the rest."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any, Final

import click

from dfw.cli import DONE, LACKING
from dfw.output import emit, output_option, render_table

CAP_NET_ADMIN: Final = 12  # linux/capability.h
CAP_SYS_ADMIN: Final = 21


@dataclass(frozen=True, slots=True)
class Requirement:
    """One thing that something of ours needs. `found` is what there is, None when it is missing."""

    requirement: str
    found: str | None
    needed_by: str
    get: str
    required: bool = False


def read_python() -> str | None:
    """This interpreter's version when it is recent enough."""
    return platform.python_version() if sys.version_info >= (3, 11) else None


def read_packages(names: list[str]) -> str | None:
    """Versions of these distributions; None unless all are there."""
    try:
        return ", ".join(f"{name} {installed_version(name)}" for name in names)
    except PackageNotFoundError:
        return None


def runtime_packages() -> list[str]:
    """Names of the distributions that Palisade cannot run without, from its own metadata."""
    names = []
    for line in requires("palisade-dfw") or []:
        if "extra ==" not in line:
            match = re.match(r"[A-Za-z0-9._-]+", line)
            if match:
                names.append(match.group())
    return names


def read_core() -> str | None:
    """What compiled the packet core, when it can be loaded."""
    try:
        from dfw import core
    except ImportError:
        return None
    info = core.build_info()
    return f"{info['compiler']}, {info['target']}"


def read_capability(bit: int) -> str | None:
    """Whether this process has a capability (capabilities(7)) in effect."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    match = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return "in effect" if match and int(match.group(1), 16) >> bit & 1 else None


def read_file(path: str) -> str | None:
    """Whether a file exists and can be read and written."""
    return path if os.access(path, os.R_OK | os.W_OK) else None


def read_ipv6() -> str | None:
    """Whether the kernel of this network namespace speaks IPv6."""
    try:
        disabled = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").read_text(encoding="ascii").strip()
    except OSError:
        return None
    return "on" if disabled == "0" else None


def read_requirements() -> list[Requirement]:
    """Look at this machine."""
    apt = "apt-get install -y --no-install-recommends"
    pip = "pip install"
    rows = [
        Requirement("Python >= 3.11", read_python(), "everything", f"{apt} python3", required=True),
        Requirement("packet core", read_core(), "replay, classify, bench", "make build, or pip install .", True),
    ]
    for name in runtime_packages():
        found = read_packages([name])
        rows.append(Requirement(f"Python package {name}", found, "everything", "make setup, or pip install .", True))
    rows += [
        Requirement("numba", read_packages(["numba"]), "replay --backend oracle", f"{pip} 'palisade-dfw[oracle]'"),
        Requirement("pyarrow", read_packages(["pyarrow"]), "replay --flows .parquet", f"{pip} 'palisade-dfw[parquet]'"),
        Requirement("pytest", read_packages(["pytest"]), "test", f"{pip} 'palisade-dfw[test]'"),
        Requirement("CAP_NET_ADMIN", read_capability(CAP_NET_ADMIN), "lab, make demo", "run as root"),
        Requirement("CAP_SYS_ADMIN", read_capability(CAP_SYS_ADMIN), "lab, make demo", "run as root"),
        Requirement("/dev/net/tun", read_file("/dev/net/tun"), "lab", "modprobe tun, run as root"),
        Requirement("IPv6", read_ipv6(), "tests of real packets over IPv6", "sysctl net.ipv6.conf.all.disable_ipv6=0"),
        Requirement("ip (iproute2)", shutil.which("ip"), "make demo", f"{apt} iproute2"),
        Requirement("gcc", shutil.which("gcc"), "make build, make test", f"{apt} gcc libc6-dev"),
        Requirement("nft", shutil.which("nft"), "replay --backend nftables, tests against Linux", f"{apt} nftables"),
        Requirement("nsenter (util-linux)", shutil.which("nsenter"), "lab exec", f"{apt} util-linux"),
        Requirement("dot (graphviz)", shutil.which("dot"), "lab graph --format svg", f"{apt} graphviz"),
        Requirement("tshark", shutil.which("tshark"), "tests of capture files", f"{apt} tshark"),
        Requirement("clang", shutil.which("clang"), "make fuzz, make test", f"{apt} clang libclang-rt-14-dev"),
    ]
    return rows


def render_doctor(data: dict[str, Any]) -> str:
    """One row a requirement; what is there needs no advice."""
    rows = []
    for row in data["requirements"]:
        found = row["found"] or ("MISSING" if row["required"] else "missing")
        rows.append((row["requirement"], found, row["needed_by"], "" if row["found"] else row["get"]))
    return render_table(["requirement", "found", "needed by", "how to get it"], rows)


@click.command
@output_option
def doctor(output: str) -> int:
    """List what Palisade needs: requirement, found, needed by, how to get it.

    Exit status 3 when something is missing without which nothing runs.

    \b
    Example:
      palisade doctor -o json
    """
    rows = read_requirements()
    ok = all(row.found is not None for row in rows if row.required)
    emit({"ok": ok, "requirements": [asdict(row) for row in rows]}, output, render_doctor)
    return DONE if ok else LACKING
