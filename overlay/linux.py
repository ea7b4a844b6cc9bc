# SPDX-License-Identifier: Apache-2.0
"""The system calls for namespaces and mounts that Python 3.11 does not offer, and what /proc says of a process.

Standard library only: the launcher (overlay/launch.py) starts with nothing else.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000
MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18
MS_SHARED: Final = 1 << 20
MNT_DETACH: Final = 2
_SYS_MOUNT_SETATTR: Final = 442  # the same on every architecture but alpha
_MOUNT_ATTR_RDONLY, _AT_RECURSIVE, _AT_FDCWD = 1, 0x8000, -100
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCGIFMTU, _IFF_UP = 0x8913, 0x8914, 0x8921, 1

_LIBC = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """This thread gets namespaces of its own (unshare(2)). Raises OSError."""
    _checked(_LIBC.unshare(flags), "unshare")


def setns(descriptor: int, kind: int) -> None:
    """This thread enters the namespace behind a descriptor (setns(2)). Raises OSError."""
    _checked(_LIBC.setns(descriptor, kind), "setns")


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2). Raises OSError."""
    arguments = (source.encode(), os.fsencode(target), kind.encode() if kind else None)
    _checked(_LIBC.mount(*arguments, ctypes.c_ulong(flags), data.encode() if data else None), f"mount {target}")


def umount(target: str, flags: int = 0) -> None:
    """umount2(2). Raises OSError."""
    _checked(_LIBC.umount2(os.fsencode(target), flags), f"umount {target}")


def mount_read_only(target: str) -> None:
    """A mount and all below it cannot be written through (mount_setattr(2), Linux 5.12). Raises OSError."""
    attributes = struct.pack("QQQQ", _MOUNT_ATTR_RDONLY, 0, 0, 0)
    arguments = (ctypes.c_int(_AT_FDCWD), os.fsencode(target), ctypes.c_uint(_AT_RECURSIVE), attributes)
    result = _LIBC.syscall(ctypes.c_long(_SYS_MOUNT_SETATTR), *arguments, ctypes.c_size_t(len(attributes)))
    _checked(result, f"mount_setattr {target}")


def root_change(directory: str) -> None:
    """A mount becomes the root of this process's mount namespace, and nothing else is left in it (pivot_root(2)).

    Raises OSError.
    """
    os.chdir(directory)
    _checked(_LIBC.pivot_root(b".", b"."), f"pivot_root {directory}")
    umount(".", MNT_DETACH)
    os.chdir("/")


def interface_up(name: str) -> None:
    """Set a link up in the network namespace that this thread lives in. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh14x", name.encode(), 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(sock, _SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", name.encode(), flags | _IFF_UP))


def interface_mtu(name: str) -> int:
    """Bytes of an IP packet that a link of this thread's network namespace carries. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        found = fcntl.ioctl(sock, _SIOCGIFMTU, struct.pack("16si12x", name.encode(), 0))
    return int(struct.unpack_from("i", found, 16)[0])


def process_control(option: int, value: int) -> None:
    """prctl(2) of one value. Raises OSError."""
    _checked(_LIBC.prctl(ctypes.c_int(option), ctypes.c_ulong(value), *[ctypes.c_ulong(0)] * 3), "prctl")


class Process(NamedTuple):
    """A process that cannot be mistaken for another: its id, and when it started (clock ticks since boot)."""

    pid: int
    start: int


def process_start(pid: int) -> int | None:
    """When a process started, in clock ticks since boot (proc(5), stat, field 22); None where it has ended.

    A zombie has ended.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if len(fields) < 20 or fields[0] in (b"Z", b"X") else int(fields[19])


def process_self() -> Process:
    """This one."""
    start = process_start(os.getpid())
    assert start is not None
    return Process(os.getpid(), start)


def boot_id() -> str:
    """This start of the machine; another one after the next (random(4), boot_id). Raises OSError."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def process_lives(process: Process) -> bool:
    """Whether it is still there: the same process, not another with its number."""
    return process_start(process.pid) == process.start


def process_signal(process: Process, number: signal.Signals) -> bool:
    """Send a signal to exactly this process; False where it has ended. Raises PermissionError."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        if not process_lives(process):  # after the descriptor is open, the number cannot be given away any more
            return False
        signal.pidfd_send_signal(descriptor, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)


def processes_marked(mark: str) -> Iterator[Process]:
    """Living processes in whose environment `mark` (NAME=VALUE) stands. It is inherited, and only we put it there."""
    wanted = mark.encode()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                found = wanted in file.read().split(b"\0")
        except OSError:
            continue
        start = process_start(int(name)) if found else None
        if start is not None:
            yield Process(int(name), start)
