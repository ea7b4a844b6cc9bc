# SPDX-License-Identifier: Apache-2.0
"""What a host says of itself where its kernel enforces: statistics and metrics by the names that the packet core's
have, as far as the kernel counts. Pure but for `read_cards`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from prometheus_client.core import CollectorRegistry, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from dfw.model import NFTABLES, Action
from dfw.nftables import Rendered
from dfw.nftables.shared import OWN_COUNTERS
from overlay.metrics import counter_family, gauge_family

UNABLE: Final = {
    "capture": "captures",
    "trace": "traces",
    "trace-read": "traces",
    "paths": "measuring of what the underlay carries",
    "move": "migration",
    "attach": "attaching",
    "detach": "attaching",
}
"""What only the packet core can, by what an agent is asked."""
_DEVICES: Final = Path("/proc/thread-self/net/dev")
_VERDICTS: Final = (Action.ALLOW.value, Action.DROP.value, Action.REJECT.value)
Counts = Mapping[str, tuple[int, int]]


def unable_sentence(what: str) -> str:
    """Why an agent does not do that."""
    if what in UNABLE:
        return f"no {UNABLE[what]} on a host whose enforcer is {NFTABLES}"
    return f"{what!r} is nothing that an agent does"


def judgements(rendered: Rendered, counts: Counts) -> dict[tuple[str, str], int]:
    """Packets by verdict and reason. `match`: of all that a rule was asked about; what a connection's state let pass is
    not counted, and of a REJECT beyond its budgets the reason stands once more."""
    found = {("DROP", name): counts.get(name, (0, 0))[0] for name in OWN_COUNTERS}
    for verdict in _VERDICTS:
        names = (name for name, rule in rendered.rule_of.items() if rule.action.value == verdict)
        found[verdict, "match"] = sum(counts.get(name, (0, 0))[0] for name in names)
    return found


def refusals(judged: Mapping[tuple[str, str], int]) -> int:
    """How many of these packets were refused: a REJECT beyond its budgets counts once."""
    return sum(count for (verdict, reason), count in judged.items() if verdict != "ALLOW" and reason != "reject-rate")


def show_stats(judged: Mapping[tuple[str, str], int], staged: Mapping[str, int] | None = None) -> list[dict[str, Any]]:
    """Rows of `show stats`: the most first; behind them the packets of which `staged` policies would say otherwise."""
    rows = [(*key, count) for key, count in sorted(judged.items(), key=lambda item: -item[1])]
    if staged is not None:
        rows += [("ALLOW", "staged-cut", staged["cut"]), ("DROP", "staged-pass", staged["pass"])]
    return [{"verdict": verdict, "reason": reason, "judgements": count} for verdict, reason, count in rows]


class CardTotals(NamedTuple):
    """Of an interface, as the kernel counts it: received is what comes out of a workload, or off the wire."""

    rx_bytes: int
    rx_packets: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_dropped: int


def read_cards(text: str | None = None) -> dict[str, CardTotals]:
    """By interface, of this thread's namespace (proc_pid_net(5)). Raises OSError."""
    found = {}
    for line in (_DEVICES.read_text(encoding="ascii") if text is None else text).splitlines()[2:]:
        name, _, rest = line.partition(":")
        values = [int(word) for word in rest.split()]
        found[name.strip()] = CardTotals(values[0], values[1], values[3], values[8], values[9], values[11])
    return found


@dataclass(frozen=True, slots=True)
class KernelCounters:
    """Everything that is counted on one host, at one moment. `cards`: by the vNIC's name, and `uplink`. `staged`: what
    staged policies would change; None where there are none. `mended`: how often rules were put right."""

    host: str
    judged: Mapping[tuple[str, str], int]
    connections: int
    capacity: int
    cards: Mapping[str, CardTotals]
    revision_wanted: int
    revision_realized: int
    staged: Mapping[str, int] | None = None
    mended: int = 0


def mended_sentence(times: int, last: float) -> str:
    """What an agent has done about others who changed its rules; `last`: seconds of the epoch."""
    if not times:
        return "nobody else has changed them"
    at = datetime.fromtimestamp(last, UTC).isoformat(timespec="seconds")
    return f"changed by somebody else and put right {times} times since the agent began, last at {at}"


def render_metrics(counters: KernelCounters) -> str:
    """The text that a scrape gets: the names of overlay/metrics.py."""
    registry = CollectorRegistry()
    registry.register(_Collected(counters))
    return generate_latest(registry).decode()


class _Collected(Collector):
    def __init__(self, counters: KernelCounters) -> None:
        self.counters = counters

    def collect(self) -> Iterable[Metric]:
        c = self.counters
        judged = counter_family("judgements", "Verdicts at vNICs' filters", "verdict", "reason")
        for (verdict, reason), count in c.judged.items():
            judged.add_metric([c.host, verdict, reason], count)
        yield judged
        if c.staged is not None:
            staged = counter_family("staged_packets", "Packets of which staged policies would say otherwise", "change")
            for change, count in c.staged.items():
                staged.add_metric([c.host, change], count)
            yield staged
        mended = counter_family("rules_mended", "Times that rules which somebody else had changed were put right")
        mended.add_metric([c.host], c.mended)
        yield mended
        yield gauge_family("connections", "Connections tracked", c.host, c.connections)
        yield gauge_family("connections_capacity", "Connections that fit", c.host, c.capacity)
        yield gauge_family("revision_wanted", "Revision of the desired state", c.host, c.revision_wanted)
        yield gauge_family("revision_realized", "Revision in force", c.host, c.revision_realized)
        packets = counter_family("card_packets", "Wire packets through a card", "card", "direction")
        octets = counter_family("card_bytes", "Bytes of frames through a card", "card", "direction")
        drops = counter_family("card_drops", "Frames dropped at a card", "card", "reason")
        for name, card in c.cards.items():
            for direction in ("rx", "tx"):
                packets.add_metric([c.host, name, direction], getattr(card, f"{direction}_packets"))
                octets.add_metric([c.host, name, direction], getattr(card, f"{direction}_bytes"))
                drops.add_metric([c.host, name, f"{direction}-dropped"], getattr(card, f"{direction}_dropped"))
        yield from (packets, octets, drops)
