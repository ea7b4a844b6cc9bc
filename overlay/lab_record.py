# SPDX-License-Identifier: Apache-2.0
"""What was made of a lab: `lab.json` in the lab's private directory, and the paths in there.

The record is written before a thing is made and after, so that whoever comes later can take it away; a process stands
in it with its start time, so that no other is ever mistaken for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from dfw.errors import EnvironmentLacksError
from overlay.holder import HOLDER_SOCKET
from overlay.hoststate import file_replace
from overlay.linux import Process
from overlay.pod import PodSpec
from overlay.underlay import Bridge, Interface, host_namespace

VERSION: Final = 1
_SOCKET_NAME_MAX: Final = 107  # unix(7): sun_path has 108 bytes, with a zero at the end
_TRIES: Final = 100
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?", re.ASCII)


class RecordError(ValueError):
    """A record that this version cannot read: the message is a sentence."""


class InputRecord(msgspec.Struct):
    """A file that the lab was made from. `copy`: its content then, in the lab's directory. `workloads_only`: its
    policies do not count, others have been applied over them."""

    file: str
    copy: str
    workloads_only: bool = False


class PodRecord(msgspec.Struct):
    """A pod. `process` None: it is to be started. `unlimited`: limits that cannot be set on this machine."""

    host: str
    netns: str
    spec: PodSpec
    process: Process | None = None
    groups: list[str] = []
    unlimited: list[str] = []


class HostRecord(msgspec.Struct):
    """A host. `agent` None: none runs, or it is to be started."""

    agent: Process | None = None
    enforcer: str = "native"


class MoveRecord(msgspec.Struct):
    """A pod that was migrated: from where the files say it is, to where it is."""

    written: str
    host: str


class PendingRecord(msgspec.Struct):
    """A change that waits to be confirmed: the revision that comes back if it is not, when (seconds of CLOCK_BOOTTIME),
    and the process that sees to it (overlay/timer.py), both of one start of the machine (`boot`)."""

    base: int
    deadline: float
    timer: Process
    boot: str = ""


class LabRecord(msgspec.Struct):
    """All of a lab. `intent`: a hash of what its files say."""

    name: str
    version: int = VERSION
    revision: int = 0
    intent: str = ""
    mtu: int = 0
    inputs: list[InputRecord] = []
    namespaces: list[str] = []
    bridges: dict[str, Bridge] = {}
    interfaces: dict[str, Interface] = {}
    hosts: dict[str, HostRecord] = {}
    pods: dict[str, PodRecord] = {}
    moved: dict[str, MoveRecord] = {}
    pending: PendingRecord | None = None


class _Head(msgspec.Struct):
    version: int


@dataclass(frozen=True, slots=True)
class LabPaths:
    """Where a lab's things are."""

    folder: Path

    @property
    def name(self) -> str:
        """The lab's name."""
        return self.folder.name

    @property
    def record(self) -> Path:
        """What was made."""
        return self.folder / "lab.json"

    @property
    def room(self) -> Path:
        """The namespaces."""
        return self.folder / "ns"

    @property
    def inputs(self) -> Path:
        """Copies of the files that it was made from."""
        return self.folder / "inputs"

    @property
    def revisions(self) -> Path:
        """What it was made from at earlier revisions."""
        return self.folder / "revisions"

    @property
    def logs(self) -> Path:
        """What pods print."""
        return self.folder / "pods"

    @property
    def mark(self) -> str:
        """What stands in the environment of every process of the lab."""
        return f"PALISADE_LAB={self.folder}"

    def host(self, name: str) -> Path:
        """A host's own directory."""
        return self.folder / "hosts" / name

    def host_netns(self, name: str) -> Path:
        """A host's namespace."""
        return self.room / host_namespace(name)

    def socket(self, host: str) -> Path:
        """Where a host's agent answers."""
        return self.host(host) / "run" / "agent.sock"


def labs_folder() -> Path:
    """Where labs live: PALISADE_RUN, or /run/palisade, and in it `labs`."""
    return Path(os.path.abspath(os.environ.get("PALISADE_RUN") or "/run/palisade")) / "labs"


def lab_paths(name: str) -> LabPaths:
    """The paths of a lab. Raises ValueError for a name that none can have."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a lab: 1 to 20 of a-z, 0-9 and -, not - at an end")
    return LabPaths(labs_folder() / name)


def labs_list() -> list[LabPaths]:
    """All labs, by name."""
    folder = labs_folder()
    return [LabPaths(path) for path in sorted(folder.iterdir()) if path.is_dir()] if folder.is_dir() else []


def record_read(paths: LabPaths) -> LabRecord | None:
    """The record; None where there is none. Raises RecordError."""
    try:
        data = paths.record.read_bytes()
    except FileNotFoundError:
        return None
    try:
        version = msgspec.json.decode(data, type=_Head).version
        if version != VERSION:
            raise RecordError(f"{paths.record} is of version {version}; this Palisade reads version {VERSION}")
        return msgspec.json.decode(data, type=LabRecord)
    except msgspec.DecodeError as error:
        raise RecordError(f"{paths.record} cannot be read: {error}") from None


def record_write(paths: LabPaths, record: LabRecord) -> None:
    """Replace the record, in one step. Raises OSError."""
    file_replace(paths.record, msgspec.json.encode(record))


def sockets_check(paths: LabPaths, hosts: Iterable[str]) -> None:
    """Raises EnvironmentLacksError where the name of a host's socket would be too long for the kernel."""
    longest = max((os.fsencode(paths.socket(host).with_name(HOLDER_SOCKET)) for host in hosts), key=len, default=b"")
    if len(longest) > _SOCKET_NAME_MAX:
        raise EnvironmentLacksError(
            f"{os.fsdecode(longest)} is too long for a socket's name ({_SOCKET_NAME_MAX} bytes)",
            "a shorter PALISADE_RUN, or shorter names of lab and hosts",
        )


@contextlib.contextmanager
def lab_locked(paths: LabPaths) -> Iterator[None]:
    """One command at a time changes a lab. Makes its directory where there is none. Raises EnvironmentLacksError."""
    tries = 0
    while True:
        try:
            paths.folder.mkdir(parents=True, exist_ok=True, mode=0o755)
            descriptor = os.open(paths.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            tries += 1
            if isinstance(error, FileNotFoundError) and tries < _TRIES:
                continue  # taken down between the two; or it is a place such as /proc, where none can be made
            remedy = "run as root, or set PALISADE_RUN"
            raise EnvironmentLacksError(f"no directory {paths.folder} ({error.strerror})", remedy) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if paths.folder.exists() and os.path.samestat(os.fstat(descriptor), paths.folder.stat()):
                yield
                return
        finally:
            os.close(descriptor)


def folder_remove(paths: LabPaths) -> None:
    """Take the lab's directory away, and those above it that only labs needed. Nothing may be mounted in it."""
    shutil.rmtree(paths.folder, ignore_errors=True)
    for folder in (paths.folder.parent, paths.folder.parent.parent):
        with contextlib.suppress(OSError):
            folder.rmdir()
