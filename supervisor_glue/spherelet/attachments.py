# SPDX-License-Identifier: Apache-2.0
"""Which vNICs of a host have a place: the pods' network namespaces, by the names of their Ports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping


class Attachments:
    """Whoever runs pods says where; whoever tells the packet agent reads it, hears of changes, and says which are there
    with all that belongs to them."""

    def __init__(self) -> None:
        self._paths: dict[str, str] = {}
        self._done: dict[str, str] = {}
        self._told: dict[str, Callable[[], None]] = {}
        self.changed = asyncio.Event()

    def put(self, port: str, netns: str, told: Callable[[], None] | None = None) -> None:
        """A Port's interface belongs into the network namespace at this path. `told` is called when it is there."""
        if told is not None:
            self._told[port] = told
        if self._paths.get(port) != netns:
            self._paths[port] = netns
            self._done.pop(port, None)
            self.changed.set()

    def remove(self, port: str) -> None:
        """It has no place here any more."""
        self._done.pop(port, None)
        self._told.pop(port, None)
        if self._paths.pop(port, None) is not None:
            self.changed.set()

    def done(self, there: Iterable[tuple[str, str]]) -> None:
        """These Ports' interfaces are set up in these network namespaces."""
        for port, netns in there:
            if self._paths.get(port) == netns and self._done.get(port) != netns:
                self._done[port] = netns
                told = self._told.get(port)
                if told is not None:
                    told()

    def is_done(self, port: str, netns: str) -> bool:
        """Whether the packet agent has said so."""
        return self._done.get(port) == netns

    @property
    def paths(self) -> Mapping[str, str]:
        """All of them."""
        return self._paths
