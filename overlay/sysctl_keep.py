# SPDX-License-Identifier: Apache-2.0
"""Kernel settings as they were before an agent changed them, so that `agent uninstall` can put them back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from overlay.hoststate import file_replace
from overlay.uplink import UplinkStep

BEFORE: Final = "before.json"
VERSION: Final = 1
_SYSCTLS: Final = Path("/proc/sys/net")


class Before(msgspec.Struct):
    """Values of settings under /proc/sys/net, by name, as they were found."""

    sysctls: dict[str, str] = {}
    version: int = VERSION


def read_before(path: Path) -> Before:
    """What was found; nothing where nothing was kept, or it cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Before)
    except (OSError, msgspec.DecodeError):
        return Before()


def keep_sysctls(path: Path, steps: Iterable[UplinkStep]) -> None:
    """Keep the values of what these steps will set; what was kept already stays. Raises OSError."""
    before = read_before(path)
    missing = [step.interface for step in steps if step.what == "sysctl" and step.interface not in before.sysctls]
    if not missing:
        return
    for name in missing:
        with contextlib.suppress(OSError):  # it comes with an interface that is not there yet, and goes with it
            before.sysctls[name] = (_SYSCTLS / name).read_text(encoding="ascii").strip()
    file_replace(path, msgspec.json.encode(before))


def restore_sysctls(path: Path) -> list[str]:
    """Put back what was kept, in reverse order. Returns a line for each that was changed or cannot be."""
    lines = []
    for name, value in reversed(read_before(path).sysctls.items()):
        file = _SYSCTLS / name
        try:
            if file.exists() and file.read_text(encoding="ascii").strip() != value:
                file.write_text(value, encoding="ascii")
                lines.append(f"net.{name.replace('/', '.')} is {value} again")
        except OSError as error:
            lines.append(f"net.{name.replace('/', '.')} stays: {error.strerror}")
    return lines
