# SPDX-License-Identifier: Apache-2.0
"""Which vNICs of a host have a place: the pods' network namespaces, by the names of their Ports."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping


class Attachments:
    """Whoever runs pods says where; whoever tells the packet agent reads it, and hears of changes."""

    def __init__(self) -> None:
        self._paths: dict[str, str] = {}
        self.changed = asyncio.Event()

    def put(self, port: str, netns: str) -> None:
        """A Port's interface belongs into the network namespace at this path."""
        if self._paths.get(port) != netns:
            self._paths[port] = netns
            self.changed.set()

    def remove(self, port: str) -> None:
        """It has no place here any more."""
        if self._paths.pop(port, None) is not None:
            self.changed.set()

    @property
    def paths(self) -> Mapping[str, str]:
        """All of them."""
        return self._paths
