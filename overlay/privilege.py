# SPDX-License-Identifier: Apache-2.0
"""Giving up what an agent does not need: capabilities(7), and gaining any by exec. Standard library only.

To be called before there is a second thread: what is given up is the calling thread's, and those get it that it starts.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

CAP_DAC_OVERRIDE: Final = 1
CAP_NET_ADMIN: Final = 12  # links, addresses, routes, TAPs, large socket buffers, sysctls of the network
CAP_SYS_ADMIN: Final = 21  # setns: a pod's card is opened and set up in the pod's namespace
NEEDED: Final = frozenset({CAP_NET_ADMIN, CAP_SYS_ADMIN})

_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_VERSION: Final = 0x20080522  # _LINUX_CAPABILITY_VERSION_3: two words of 32 bits each
_LIBC = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, *values: int) -> None:
    words = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    if _LIBC.prctl(option, *words) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl {option}: {os.strerror(number)}")


def privileges_held() -> int:
    """The permitted capabilities of this thread, a bit each (proc(5), status)."""
    for line in Path("/proc/thread-self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("CapPrm:"):
            return int(line.split()[1], 16)
    return 0


def privileges_drop(keep: Iterable[int] = NEEDED) -> None:
    """Give up all capabilities but these, and ever getting others. Raises OSError where the kernel refuses.

    Where this process may not change its bounding set (no CAP_SETPCAP), that stays: with no_new_privs nothing is gained
    by it.
    """
    kept = set(keep)
    bounding_drop(kept)
    with contextlib.suppress(OSError):
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    mask = privileges_held() & sum(1 << number for number in kept)
    header = (ctypes.c_uint32 * 2)(_VERSION, 0)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    sets = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)  # effective, permitted, inheritable
    if _LIBC.capset(header, sets) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"capset: {os.strerror(number)}")
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def bounding_drop(keep: Iterable[int]) -> None:
    """No program that is run from now on gets other capabilities than these; nothing where this process may not say
    so (no CAP_SETPCAP)."""
    kept = set(keep)
    with contextlib.suppress(OSError):
        for number in range(64):
            if number not in kept:
                _prctl(_PR_CAPBSET_DROP, number)  # EINVAL after the last that this kernel knows


def needs_override(paths: Iterable[Path]) -> bool:
    """Whether root gets at one of these only by overriding permissions: a folder on the way that is another user's and
    closed to others."""
    folders = {folder for path in paths for folder in Path(os.path.abspath(path)).parents}
    folders |= {path for path in paths if path.is_dir()}
    return any(_is_closed(folder) for folder in folders)


def _is_closed(folder: Path) -> bool:
    try:
        found = folder.stat()
    except OSError:
        return False
    return found.st_uid != os.geteuid() and not found.st_mode & stat.S_IXOTH
