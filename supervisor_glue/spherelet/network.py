# SPDX-License-Identifier: Apache-2.0
"""Whether a pod's vNIC is there: the agent puts eth0 into the pod's network namespace and gives it the address."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from overlay.enter import run_in
from supervisor_glue.spherelet.attachments import Attachments

CARD: Final = "eth0"
AGENT_SECONDS: Final = 1.0
"""For so long the packet agent's word for a vNIC is waited for; an older pod may have its vNIC from an agent that is
not there now."""
_CARD_PAUSES: Final = (0.005, 0.25)
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


class VnicWait:
    """Of one pod: whether its vNIC is there with all that belongs to it. The packet agent says so; where it does not
    (`has_agent`, or for long), addresses are looked at."""

    def __init__(
        self,
        port: str,
        netns: Path,
        attachments: Attachments,
        has_agent: bool,
        blocking: Callable[[Callable[[], CardWatch]], Awaitable[CardWatch]],
    ) -> None:
        self._port, self._netns, self._attachments = port, netns, attachments
        self._has_agent, self._blocking = has_agent, blocking
        self._card: CardWatch | None = None

    async def is_there(self, waited: float, pauses: list[float]) -> bool:
        """`waited`: for how many seconds so far; `pauses`: gets when to look again. Raises OSError."""
        if self._attachments.is_done(self._port, str(self._netns)):
            return True
        if self._has_agent and waited < AGENT_SECONDS:
            pauses.append(AGENT_SECONDS - waited)  # its word calls the pod's worker
            return False
        if self._card is None:
            self._card = await self._blocking(lambda: CardWatch(self._netns))
        if self._card.has_address():
            return True
        pauses.append(min(max(waited / 20, _CARD_PAUSES[0]), _CARD_PAUSES[1]))
        return False

    def close(self) -> None:
        if self._card is not None:
            self._card.close()
            self._card = None
