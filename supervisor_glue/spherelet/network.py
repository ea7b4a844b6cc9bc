# SPDX-License-Identifier: Apache-2.0
"""Whether a pod's vNIC is there: the agent puts eth0 into the pod's network namespace and gives it the address."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from pathlib import Path
from typing import Final

from overlay.enter import run_in

CARD: Final = "eth0"
_SIOCGIFADDR: Final = 0x8915
_TENTATIVE: Final = 0x40  # IFA_F_TENTATIVE
_LINK_SCOPE: Final = 0x20


class CardWatch:
    """Looks into a network namespace without entering it again: what is opened there stays there."""

    def __init__(self, netns: Path) -> None:
        """Raises OSError."""

        def opened() -> tuple[socket.socket, int]:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            try:
                return sock, os.open("/proc/thread-self/net/if_inet6", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return sock, -1  # a kernel without IPv6

        self._socket, self._file = run_in(str(netns), opened)

    def has_address(self) -> bool:
        """Whether the card is there and has an address that others reach."""
        try:
            fcntl.ioctl(self._socket, _SIOCGIFADDR, struct.pack("256s", CARD.encode()))
            return True
        except OSError:
            pass
        if self._file < 0:
            return False
        for line in os.pread(self._file, 65536, 0).decode("ascii").splitlines():
            _, _, _, scope, flags, name = line.split()
            if name == CARD and int(scope, 16) != _LINK_SCOPE and not int(flags, 16) & _TENTATIVE:
                return True
        return False

    def close(self) -> None:
        self._socket.close()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
