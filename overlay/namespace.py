# SPDX-License-Identifier: Apache-2.0
"""Network namespaces by name: bind mounts in a directory of ours, so that a missing /run/netns does not matter.

The names lie in a room: a small tmpfs of its own. It is a shared mount, as /run/netns is, so that what is unmounted
here is unmounted too in the mount namespaces that others made meanwhile; else those would keep namespaces alive.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from overlay import linux

_OWN = "/proc/thread-self/ns/net"


@contextmanager
def namespace_entered(path: Path) -> Iterator[None]:
    """Let the calling thread live in a network namespace; sockets made there stay there. Raises OSError."""
    own = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        wanted = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            linux.setns(wanted, linux.CLONE_NEWNET)
        finally:
            os.close(wanted)
        try:
            yield
        finally:
            linux.setns(own, linux.CLONE_NEWNET)
    finally:
        os.close(own)


def namespace_exists(path: Path) -> bool:
    """Whether a network namespace is mounted there, and not just a file lying around."""
    try:
        return os.stat(path).st_dev == os.stat(_OWN).st_dev
    except OSError:
        return False


def apply_namespace(path: Path) -> None:
    """Make a network namespace with `lo` up, named by a bind mount at `path`.

    Raises FileExistsError where that is the name of one; OSError: then there is none.
    """
    if namespace_exists(path):
        raise FileExistsError(errno.EEXIST, "there is a namespace of that name", str(path))
    own = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o444))
        try:
            linux.unshare(linux.CLONE_NEWNET)
            try:
                linux.mount(_OWN, str(path), None, linux.MS_BIND)
                linux.interface_up("lo")
            finally:
                linux.setns(own, linux.CLONE_NEWNET)
        except BaseException:
            apply_namespace_end(path)
            raise
    finally:
        os.close(own)


def apply_namespace_name(path: Path, source: Path) -> None:
    """Another name for the network namespace at `source`, by a bind mount.

    Raises FileExistsError where that is the name of one; OSError: then there is none.
    """
    if namespace_exists(path):
        raise FileExistsError(errno.EEXIST, "there is a namespace of that name", str(path))
    os.close(os.open(path, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o444))
    try:
        linux.mount(str(source), str(path), None, linux.MS_BIND)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def apply_namespace_end(path: Path) -> None:
    """Take the name away; the namespace ends with its last process. No error where there is none."""
    while namespace_exists(path):
        linux.umount(str(path), linux.MNT_DETACH)
    path.unlink(missing_ok=True)


def apply_room(directory: Path, label: str) -> None:
    """Make the room for names at `directory`, unless it is there. `label`: its name in the list of mounts."""
    directory.mkdir(parents=True, exist_ok=True)
    if os.path.ismount(directory):
        return
    flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    linux.mount(label, str(directory), "tmpfs", flags, "mode=0755,size=1m")
    linux.mount("none", str(directory), None, linux.MS_SHARED)


def apply_room_end(directory: Path) -> None:
    """Take all names away, and the room. No error where there is none."""
    while os.path.ismount(directory):
        for path in directory.iterdir():
            apply_namespace_end(path)
        linux.umount(str(directory), linux.MNT_DETACH)
    if directory.is_dir():
        directory.rmdir()


def mounts_end(folder: Path) -> None:
    """Take away what is mounted below a folder: pods' volumes in memory. Raises OSError."""
    points = []
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        place = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), line.split()[4]))
        if folder in place.parents:
            points.append(place)
    for place in sorted(points, reverse=True):
        linux.umount(str(place), linux.MNT_DETACH)


def namespace_ids(directory: Path) -> dict[int, str]:
    """The namespaces of a room: name by inode number, which is what /proc/PID/ns/net shows."""
    found = {}
    if directory.is_dir():
        for path in directory.iterdir():
            if namespace_exists(path):
                found[path.stat().st_ino] = path.name
    return found
