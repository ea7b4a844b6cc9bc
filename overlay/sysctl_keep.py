# SPDX-License-Identifier: Apache-2.0
"""Kernel settings as they were before an agent changed them, so that `agent uninstall` can put them back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from dfw.logs import get_logger
from overlay.hoststate import StateError, file_replace
from overlay.uplink import UplinkStep

BEFORE: Final = "before.json"
VERSION: Final = 1
_SYSCTLS: Final = Path("/proc/sys/net")


class Before(msgspec.Struct):
    """Values of settings under /proc/sys/net, by name, as they were found."""

    sysctls: dict[str, str] = {}
    version: int = VERSION


def read_before(path: Path) -> Before:
    """What was found; nothing where nothing was kept. Raises StateError: it cannot be read."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Before)
    except FileNotFoundError:
        return Before()
    except (OSError, msgspec.DecodeError) as error:
        raise StateError(f"{path} cannot be read: {error}") from error
    if found.version != VERSION:
        raise StateError(f"{path} is of version {found.version}; this agent reads version {VERSION}")
    return found


def keep_sysctls(path: Path, steps: Iterable[UplinkStep]) -> None:
    """Keep the values of what these steps will set; what was kept already stays, also where it cannot be read: what is
    there now is no longer as it was. Raises OSError."""
    try:
        before = read_before(path)
    except StateError as error:
        get_logger("sysctl").warning("settings as they were are not kept", error=str(error))
        return
    missing = [step.interface for step in steps if step.what == "sysctl" and step.interface not in before.sysctls]
    if not missing:
        return
    for name in missing:
        with contextlib.suppress(OSError):  # it comes with an interface that is not there yet, and goes with it
            before.sysctls[name] = (_SYSCTLS / name).read_text(encoding="ascii").strip()
    file_replace(path, msgspec.json.encode(before))


def restore_sysctls(path: Path) -> list[str]:
    """Put back what was kept, in reverse order. Returns a line for each that was changed or cannot be."""
    try:
        kept = read_before(path).sysctls
    except StateError as error:
        return [f"kernel settings stay as they are: {error}"]
    lines = []
    for name, value in reversed(kept.items()):
        file = _SYSCTLS / name
        try:
            if file.exists() and file.read_text(encoding="ascii").strip() != value:
                file.write_text(value, encoding="ascii")
                lines.append(f"net.{name.replace('/', '.')} is {value} again")
        except OSError as error:
            lines.append(f"net.{name.replace('/', '.')} stays: {error.strerror}")
    return lines
