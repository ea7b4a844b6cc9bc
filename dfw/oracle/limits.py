# SPDX-License-Identifier: Apache-2.0
"""Who shares a budget with whom (docs/packet-path.md section 11); budgets of misses and unanswered connections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dfw.model import Direction, Limits
from dfw.oracle.packet import IPV4

if TYPE_CHECKING:
    from dfw.oracle.flow import Connection

OWN, OTHERS = "own", "others"
_TICKS_PER_SECOND = 100

Prefix = tuple[int, int]
# filter, side, prefix; without one: all of the own side, or what others' prefixes without an account share
AccountKey = tuple[str, str, Prefix | None]


def side_of(direction: int) -> str:
    """Whose budget a packet in this direction uses. On a tap everybody is another."""
    return OWN if direction == Direction.OUT else OTHERS


def share_of(own: int, others: int, direction: int) -> int:
    """The limit for packets in this direction: one side's, on a tap both together; 0 is none."""
    if direction == Direction.IN_OUT:
        return own + others if own and others else 0
    return own if direction == Direction.OUT else others


def prefix_of(ip_version: int, address: int) -> Prefix:
    """The /24 or /56 of an address."""
    return ip_version, address >> (8 if ip_version == IPV4 else 72)


@dataclass(slots=True)
class MissBudget:
    """A bucket for each side of a filter: a second's worth, given back tick by tick. Counts in hundredths."""

    limits: Limits
    _left: dict[str, tuple[int, int]] = field(default_factory=dict)

    def take(self, direction: int, now: int) -> bool:
        """May the rules be asked once more at tick `now`? It counts if so."""
        rate = share_of(self.limits.misses_own, self.limits.misses_others, direction)
        if not rate:
            return True
        side = side_of(direction)
        most = rate * _TICKS_PER_SECOND
        left, since = self._left.get(side, (most, now))
        left = min(most, left + rate * (now - since))
        enough = left >= _TICKS_PER_SECOND
        self._left[side] = (left - _TICKS_PER_SECOND if enough else left), now
        return enough


@dataclass(slots=True)
class HalfOpen:
    """Accounts of unanswered connections of one worker. `end` takes a connection out of the table, with a reason."""

    limits: Limits
    end: Callable[[Connection, str], None]
    timeout_reason: Callable[[Connection], str]
    _accounts: dict[AccountKey, dict[int, Connection]] = field(default_factory=dict)  # by number: in order of creation
    _turns: dict[str, list[AccountKey]] = field(default_factory=dict)

    def room(self, filter_name: str, direction: int, ip_version: int, source: int, now: int) -> bool:
        """Make room for one more; False where nothing may be given up."""
        limits = self.limits
        limit = share_of(limits.half_open_own, limits.half_open_others, direction)
        side = side_of(direction)
        self._reap(now)
        key = self._key(filter_name, side, ip_version, source)
        account_limit = limit if side == OWN else limits.half_open_prefix
        if account_limit and len(self._accounts.get(key, ())) >= account_limit and not self._give_up(key):
            return False
        if side == OTHERS and limit and sum(map(len, self._of_others(filter_name))) >= limit:
            turns = self._turns.get(filter_name, [])
            if not turns:
                return False
            turns.append(turns.pop(0))
            self._give_up(turns[-1])
        return True

    def enter(self, connection: Connection) -> None:
        """A new connection is put on its account."""
        key = self._key(connection.filter_name, side_of(connection.direction), connection.ip_version, connection.source)
        connection.account = key
        self._accounts.setdefault(key, {})[connection.number] = connection
        turns = self._turns.setdefault(connection.filter_name, [])
        if key[1] == OTHERS and connection.parent is None and key not in turns:
            turns.append(key)

    def leave(self, connection: Connection) -> None:
        """It is answered, or it ends."""
        key = connection.account
        if key is None:
            return
        connection.account = None
        account = self._accounts[key]
        del account[connection.number]
        if key[1] == OTHERS and connection.parent is None and next(_movable(account), None) is None:
            self._turns[connection.filter_name].remove(key)
        if not account:
            del self._accounts[key]

    def _key(self, filter_name: str, side: str, ip_version: int, source: int) -> AccountKey:
        if side == OWN:
            return filter_name, OWN, None
        key = filter_name, OTHERS, prefix_of(ip_version, source)
        with_prefix = sum(1 for account in self._accounts if account[2] is not None)
        if key in self._accounts or with_prefix < self.limits.half_open_prefixes:
            return key
        return filter_name, OTHERS, None

    def _of_others(self, filter_name: str) -> Iterator[dict[int, Connection]]:
        return (account for key, account in self._accounts.items() if key[:2] == (filter_name, OTHERS))

    def _give_up(self, key: AccountKey) -> bool:
        oldest = next(_movable(self._accounts[key]), None)
        if oldest is not None:
            self.end(oldest, "evicted")
        return oldest is not None

    def _reap(self, now: int) -> None:
        """What is past its deadline counts for nothing, and holds no place."""
        for account in list(self._accounts.values()):
            for connection in list(account.values()):
                if now > connection.deadline:
                    self.end(connection, self.timeout_reason(connection))


def _movable(account: dict[int, Connection]) -> Iterator[Connection]:
    """Those that may be given up: an ALG's children are let be."""
    return (connection for connection in account.values() if connection.parent is None)
