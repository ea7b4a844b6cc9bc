# SPDX-License-Identifier: Apache-2.0
"""Is a host well? The rows of `palisade show health`, from facts that its agent has gathered. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

Rows = list[dict[str, Any]]
FULL_SHARE: Final = 0.8  # of a connection table: from here on it is said


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of a host. `tables`: connections and room of IPv4 and IPv6; `stalled`: workers that burn the
    processor and finish nothing; `behind`: commits that a worker's burst has not seen, for longer than a look;
    `problems`: of cards, by vNIC; `log`: what is wrong with the firewall log;
    `has_workers`: the packet core runs there, with workers and a holder of its cards; `mended`: where it does not, what
    was done about others who changed its rules."""

    wanted: int
    realized: int
    error: str | None
    tables: Mapping[str, tuple[int, int]]
    stalled: Sequence[int] = ()
    behind: Mapping[int, int] = field(default_factory=dict)
    holder_lives: bool = True
    problems: Mapping[str, str] = field(default_factory=dict)
    log: str | None = None
    has_workers: bool = True
    mended: str | None = None
    unmended: str | None = None


def show_health(facts: Health) -> Rows:
    """One row a check: is it ok, and what there is to say."""
    rows = [
        _row(
            "revision",
            facts.wanted == facts.realized and facts.error is None,
            facts.error or f"{facts.realized} of {facts.wanted}",
        )
    ]
    shares = {name: used / room if room else 0.0 for name, (used, room) in facts.tables.items()}
    tables = ", ".join(f"{name} {used} of {room}" for name, (used, room) in facts.tables.items())
    rows.append(_row("table", all(share <= FULL_SHARE for share in shares.values()), f"connections: {tables}"))
    if facts.has_workers:
        rows += _workers(facts)
    rows.append(_row("log", facts.log is None, facts.log or "no line is missing"))
    if facts.mended is not None:
        rows.append(_row("rules", facts.unmended is None, facts.unmended or facts.mended))
    problems = [_row("card", False, f"{name}: {text}") for name, text in facts.problems.items()]
    return rows + (problems or [_row("card", True, "all are there")])


def _workers(facts: Health) -> Rows:
    stalled = ", ".join(map(str, facts.stalled))
    late = ", ".join(f"worker {worker} by {commits}" for worker, commits in facts.behind.items())
    holder = "holds the cards" if facts.holder_lives else "has ended: when the agent does, the pods' cards go with it"
    return [
        _row("workers", not facts.stalled, f"stalled: {stalled}" if stalled else "all run"),
        _row("epoch", not facts.behind, f"behind: {late}" if late else "every worker has the last commit"),
        _row("holder", facts.holder_lives, holder),
    ]


def _row(check: str, is_ok: bool, says: str) -> dict[str, Any]:
    return {"check": check, "ok": is_ok, "says": says}
