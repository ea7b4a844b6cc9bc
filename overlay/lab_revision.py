# SPDX-License-Identifier: Apache-2.0
"""Earlier revisions of a lab, or of a host that is none's: what it was made from, a file each, the last sixteen."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

import msgspec

from overlay.hoststate import file_replace
from overlay.lab_inputs import InputFile, Inputs

VERSION: Final = 1
KEPT: Final = 16


class Revision(msgspec.Struct):
    """What it was made from as of one revision. `at`: when that was realized, in UTC. `what`: which command."""

    revision: int
    what: str
    at: datetime
    intent: str
    mtu: int
    files: list[InputFile]
    version: int = VERSION


class Keeps(Protocol):
    """Whose revisions they are, and where they are."""

    @property
    def name(self) -> str: ...

    @property
    def revisions(self) -> Path: ...


class IsMade(Protocol):
    """What is in force: the revision's number, and the underlay's MTU."""

    revision: int
    mtu: int


class RevisionError(ValueError):
    """There is no such revision, or it cannot be read: the message is a sentence."""


def revision_keep(paths: Keeps, record: IsMade, inputs: Inputs, what: str) -> None:
    """Keep what it is made from now under its revision; the oldest go. Raises OSError."""
    paths.revisions.mkdir(exist_ok=True)
    made = Revision(record.revision, what, datetime.now(UTC), inputs.intent, record.mtu, list(inputs.files))
    file_replace(paths.revisions / f"{record.revision}.json", msgspec.json.encode(made))
    for number in revision_numbers(paths)[:-KEPT]:
        (paths.revisions / f"{number}.json").unlink(missing_ok=True)


def revision_numbers(paths: Keeps) -> list[int]:
    """The revisions that are kept, the oldest first."""
    if not paths.revisions.is_dir():
        return []
    found = (re.fullmatch(r"([0-9]+)\.json", path.name) for path in paths.revisions.iterdir())
    return sorted(int(match[1]) for match in found if match)


def revision_read(paths: Keeps, number: int) -> Revision:
    """What it was made from as of this revision. Raises RevisionError."""
    try:
        found = msgspec.json.decode((paths.revisions / f"{number}.json").read_bytes(), type=Revision)
    except FileNotFoundError:
        kept = ", ".join(map(str, revision_numbers(paths))) or "none"
        raise RevisionError(f"{paths.name} keeps no revision {number}; it keeps {kept}") from None
    except (OSError, msgspec.DecodeError) as error:
        raise RevisionError(f"revision {number} of {paths.name} cannot be read: {error}") from None
    if found.version != VERSION:
        raise RevisionError(f"revision {number} is of version {found.version}; this Palisade reads {VERSION}")
    return found
