# SPDX-License-Identifier: Apache-2.0
"""What one user may use up of the API server: bytes of a body, requests a second, watches at a time. Time is an
argument (seconds of a clock that never goes back)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from supervisor_glue.api.status import error_too_many
from supervisor_glue.auth.user import ADMINISTRATORS, CONTROLLERS, MASTERS, User

BODY_BYTES: Final = 3 * 1024 * 1024
"""Of a request, as Kubernetes has it."""
HEADER_BYTES: Final = 65536
"""Of a request's line and headers: a token may be long."""
HEADER_SECONDS: Final = 32.0
"""Until a connection has sent its first request's headers, as Kubernetes has it."""
BODY_SECONDS: Final = 60.0
"""Until a request's body is there."""
CONNECTIONS: Final = 100_000
"""At a time, all users together; fewer where a process may not open so many descriptors. A host has two or three."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """Requests: `rate` a second in the long run, `burst` at once; `watches` at a time."""

    rate: float
    burst: float
    watches: int


NODE_ALLOWANCE: Final = Allowance(100, 500, 1000)
"""A host watches each ConfigMap and each Secret in its pods' volumes."""
USER_ALLOWANCE: Final = Allowance(200, 1000, 500)
SYSTEM_ALLOWANCE: Final = Allowance(5000, 20_000, 20_000)


def allowance_of(user: User) -> Allowance:
    """A host's, an administrator's or controller's, or anybody's."""
    if user.host:
        return NODE_ALLOWANCE
    if not {MASTERS, ADMINISTRATORS, CONTROLLERS}.isdisjoint(user.groups):
        return SYSTEM_ALLOWANCE
    return USER_ALLOWANCE


class Limits:
    """Of all users. A bucket that is full again is forgotten, so that memory is bounded by who asked lately."""

    def __init__(self, most: int = 10_000) -> None:
        """`most`: users at a time whose buckets are not full."""
        self._most = most
        self._spent: dict[str, tuple[float, float]] = {}  # tokens gone, and when that was
        self._watches: Counter[str] = Counter()

    def request(self, user: User, now: float) -> None:
        """One more request. Raises ApiError 429, which says when there is room again."""
        allowed = allowance_of(user)
        gone, since = self._spent.get(user.name, (0.0, now))
        gone = max(0.0, gone - max(0.0, now - since) * allowed.rate)
        if gone + 1 > allowed.burst:
            wait = (gone + 1 - allowed.burst) / allowed.rate
            raise error_too_many("Too many requests, please try again later.", math.ceil(wait))
        if user.name not in self._spent and len(self._spent) >= self._most:
            self._forget(now)
        self._spent[user.name] = (gone + 1, max(now, since))

    @contextmanager
    def watch(self, user: User) -> Iterator[None]:
        """One more watch, as long as it is open. Raises ApiError 429."""
        if self._watches[user.name] >= allowance_of(user).watches:
            raise error_too_many("Too many watches, please close some or try again later.", 10)
        self._watches[user.name] += 1
        try:
            yield
        finally:
            self._watches[user.name] -= 1
            if not self._watches[user.name]:
                del self._watches[user.name]

    def _forget(self, now: float) -> None:
        """Those whose buckets are full again; where there are none, the half that has asked for longest nothing."""
        slowest = NODE_ALLOWANCE.rate
        kept = {name: spent for name, spent in self._spent.items() if spent[0] > (now - spent[1]) * slowest}
        if len(kept) >= self._most:
            by_age = sorted(kept.items(), key=lambda item: item[1][1])
            kept = dict(by_age[len(by_age) // 2 :])
        self._spent = kept

    def __len__(self) -> int:
        """Users that are remembered."""
        return len(self._spent) + len(self._watches)
