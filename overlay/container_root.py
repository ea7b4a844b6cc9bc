# SPDX-License-Identifier: Apache-2.0
"""What a container sees as its file system: a directory (or this host's own root) that it cannot write to, with
volumes, and folders of its own for what is temporary.

The root is a tmpfs in which every entry of the directory is mounted, read only. Nothing is written into the directory:
where a volume's mount point is missing there, the folder that it would be in is shown in the same way, entry by entry.
Everything happens in the calling process's mount namespace, which must be its own. Standard library only.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Final, TypedDict

from overlay import linux

TEMPORARY: Final = ("tmp", "run", "var/tmp")
"""A container's own, empty at first and gone with it."""
_KERNEL: Final = ("proc", "sys")
"""Always the pod's, also where the root is a directory."""
_DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS: Final = {"ptmx": "pts/ptmx", "fd": "/proc/self/fd"} | {
    name: f"/proc/self/fd/{number}" for number, name in enumerate(("stdin", "stdout", "stderr"))
}
_MOST_LINKS: Final = 40


class Mount(TypedDict):
    """`source`: a file or folder outside; `target`: where the container sees it."""

    source: str
    target: str
    read_only: bool


def root_build(
    stage: str,
    root: str,
    hidden: Iterable[str],
    mounts: Iterable[Mount],
    *,
    directory: str = "/",
    read_only: bool = False,
    devices: bool = False,
) -> None:
    """Build it at `stage`, a folder that is there. `hidden`: what of the host's own root is not shown; `directory`:
    made where it is missing; `read_only`: also what is temporary; `devices`: all of the host's, and not the few that
    every container has.

    Raises OSError.
    """
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    opened = [(mount, os.open(mount["source"], os.O_PATH | os.O_CLOEXEC)) for mount in mounts]
    linux.mount("palisade-root", stage, "tmpfs", 0, "mode=0755")
    _mirror(root, stage, (*_KERNEL, "dev"))
    for name in _KERNEL:
        os.makedirs(os.path.join(stage, name), exist_ok=True)
        linux.mount(f"/{name}", os.path.join(stage, name), None, linux.MS_BIND | linux.MS_REC)
    _devices_show(os.path.join(stage, "dev"), is_whole=devices)
    flags = linux.MS_NOSUID | linux.MS_NODEV
    for name in (*TEMPORARY, "dev/shm"):
        place = inside(stage, name)
        if name == "tmp" or os.path.isdir(place):
            os.makedirs(place, exist_ok=True)
            linux.mount("palisade-temporary", place, "tmpfs", flags, "mode=1777")
    if root == "/":
        for path in hidden:
            _hide(inside(stage, path))
    for mount, descriptor in sorted(opened, key=lambda item: PurePosixPath(item[0]["target"]).parts):
        source = f"/proc/self/fd/{descriptor}"
        place = point_make(stage, mount["target"], is_folder=os.path.isdir(source))
        linux.mount(source, place, None, linux.MS_BIND | linux.MS_REC)
        if mount["read_only"]:
            linux.mount_read_only(place)
        os.close(descriptor)
    point_make(stage, directory, is_folder=True)
    if read_only:
        again = linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY
        linux.mount("none", stage, None, again)
        for name in TEMPORARY:
            place = inside(stage, name)
            if os.path.ismount(place) and not any(inside(stage, mount["target"]) == place for mount, _ in opened):
                linux.mount("none", place, None, again | flags)


def _devices_show(place: str, *, is_whole: bool) -> None:
    """/dev: container runtimes' usual devices, terminals of its own; nothing that is made there is a device."""
    os.makedirs(place, exist_ok=True)
    if is_whole:
        linux.mount("/dev", place, None, linux.MS_BIND | linux.MS_REC)
        return
    linux.mount("palisade-devices", place, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=0755,size=64k")
    for name in _DEVICES:
        point = os.path.join(place, name)
        os.close(os.open(point, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        linux.mount(f"/dev/{name}", point, None, linux.MS_BIND)
    for name, target in _LINKS.items():
        os.symlink(target, os.path.join(place, name))
    for name in ("pts", "shm"):
        os.mkdir(os.path.join(place, name))
    kept = linux.MS_NOSUID | linux.MS_NOEXEC
    linux.mount("devpts", os.path.join(place, "pts"), "devpts", kept, "newinstance,ptmxmode=0666,mode=0620,gid=5")


def inside(stage: str, path: str) -> str:
    """A path as seen with `stage` as the root: links lead nowhere else. Its last parts may be missing.

    Raises OSError where links lead in a circle.
    """
    done: list[str] = []
    waiting = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    links = 0
    while waiting:
        part = waiting.pop()
        if part == "..":
            del done[-1:]
            continue
        here = os.path.join(stage, *done, part)
        if not os.path.islink(here):
            done.append(part)
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        target = os.readlink(here)
        if target.startswith("/"):
            done.clear()
        waiting += [part for part in reversed(target.split("/")) if part not in ("", ".")]
    return os.path.join(stage, *done)


def point_make(stage: str, path: str, *, is_folder: bool) -> str:
    """Where something can be mounted so that `path` is it; made where it is missing. Raises OSError."""
    place = inside(stage, path)
    if os.path.exists(place):
        return place
    parent = os.path.dirname(place)
    missing = []
    while not os.path.isdir(parent):
        missing.append(os.path.basename(parent))
        parent = os.path.dirname(parent)
    if not _writable(parent):
        held = os.open(parent, os.O_PATH | os.O_CLOEXEC)
        try:
            mode = os.stat(parent).st_mode & 0o7777
            linux.mount("palisade-folder", parent, "tmpfs", 0, f"mode={mode:o}")
            _mirror(f"/proc/self/fd/{held}", parent, ())
        finally:
            os.close(held)
    for part in reversed(missing):
        parent = os.path.join(parent, part)
        os.mkdir(parent, 0o755)
    if is_folder:
        os.mkdir(place, 0o755)
    else:
        os.close(os.open(place, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    return place


def _writable(folder: str) -> bool:
    return not os.statvfs(folder).f_flag & os.ST_RDONLY and os.access(folder, os.W_OK)


def _mirror(source: str, target: str, without: Iterable[str]) -> None:
    """Show every entry of a folder in another, so that nothing can be written through it."""
    left_out = set(without)
    for entry in os.scandir(source):
        if entry.name in left_out:
            continue
        place = os.path.join(target, entry.name)
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), place)
            continue
        if entry.is_dir():
            os.mkdir(place)
        else:
            os.close(os.open(place, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        try:
            linux.mount(entry.path, place, None, linux.MS_BIND | linux.MS_REC)
            linux.mount_read_only(place)
        except FileNotFoundError:
            continue  # it has gone meanwhile


def _hide(place: str) -> None:
    if os.path.isdir(place):
        linux.mount("palisade-hidden", place, "tmpfs", linux.MS_RDONLY, "mode=0000")
    elif os.path.exists(place):
        linux.mount("/dev/null", place, None, linux.MS_BIND)
