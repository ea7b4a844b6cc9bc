# SPDX-License-Identifier: Apache-2.0
"""A host's counters in Prometheus' text format: base units, reasons as labels (CONTRACT section 5).

The agent opens no port: whoever scrapes asks on its socket, or lets node_exporter read the file that it writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client.core import CollectorRegistry, CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from dfw.core import EngineStats
from dfw.core.live import CardCounts, LiveStats
from dfw.core.watch import LogCounts
from overlay.bfd_packet import State
from overlay.teps import TepCounts

PREFIX: Final = "palisade_agent"
NONE_MISSING: Final = LogCounts(0, 0)


@dataclass(frozen=True, slots=True)
class HostCounters:
    """Everything that is counted on one host, at one moment. `vnics`: names by filter number."""

    host: str
    engine: EngineStats
    live: LiveStats
    vnics: Mapping[int, str]
    revision_wanted: int
    revision_realized: int
    teps: TepCounts
    log_missing: LogCounts = NONE_MISSING


def render_metrics(counters: HostCounters) -> str:
    """The text that a scrape gets."""
    registry = CollectorRegistry()
    registry.register(_Collected(counters))
    return generate_latest(registry).decode()


class _Collected(Collector):
    def __init__(self, counters: HostCounters) -> None:
        self.counters = counters

    def collect(self) -> Iterable[Metric]:
        c = self.counters
        judged = counter_family("judgements", "Verdicts at vNICs' filters", "verdict", "reason")
        for (verdict, reason), count in c.engine.counts.items():
            judged.add_metric([c.host, verdict, reason], count)
        yield judged
        yield gauge_family("connections", "Connections tracked", c.host, c.engine.connections4 + c.engine.connections6)
        yield gauge_family("connections_capacity", "Connections that fit", c.host, c.engine.table_capacity)
        created = counter_family("connections_created", "Connections that began")
        created.add_metric([c.host], c.engine.created)
        yield created
        yield gauge_family("revision_wanted", "Revision of the desired state", c.host, c.revision_wanted)
        yield gauge_family("revision_realized", "Revision in force", c.host, c.revision_realized)
        missing = counter_family("log_lines_missing", "Lines that the firewall log lacks", "cause")
        for cause in ("lost", "refused"):
            missing.add_metric([c.host, cause], getattr(c.log_missing, cause))
        yield missing
        yield from self._cards()
        yield from self._teps()
        cpu = counter_family("worker_cpu_seconds", "Processor time of packet workers", "worker")
        for number, worker in enumerate(c.live.workers):
            cpu.add_metric([c.host, str(number)], worker.cpu_ns / 1e9)
        yield cpu

    def _cards(self) -> Iterable[Metric]:
        c = self.counters
        packets = counter_family("card_packets", "Wire packets through a card", "card", "direction")
        octets = counter_family("card_bytes", "Bytes of frames through a card", "card", "direction")
        drops = counter_family("card_drops", "Frames dropped at a card", "card", "reason")
        cards: dict[str, CardCounts] = {
            c.vnics.get(number, f"filter-{number}"): card for number, card in c.live.ports.items()
        }
        if c.live.uplink is not None:
            cards["uplink"] = c.live.uplink
        for name, card in cards.items():
            for direction in ("rx", "tx"):
                packets.add_metric([c.host, name, direction], getattr(card, f"{direction}_segments"))
                octets.add_metric([c.host, name, direction], getattr(card, f"{direction}_bytes"))
            for reason, count in card.drops.items():
                drops.add_metric([c.host, name, reason], count)
        for reason, count in c.live.lost.items():
            drops.add_metric([c.host, "", reason], count)
        yield from (packets, octets, drops)

    def _teps(self) -> Iterable[Metric]:
        c = self.counters
        is_up = GaugeMetricFamily(f"{PREFIX}_tep_up", "Whether BFD to a host is Up", labels=["host", "remote_host"])
        changes = counter_family("tep_changes", "Changes of a BFD session's state", "remote_host")
        for remote, (state, changed) in c.teps.sessions.items():
            is_up.add_metric([c.host, remote], float(state is State.UP))
            changes.add_metric([c.host, remote], changed)
        packets = counter_family("control_packets", "BFD packets", "direction")
        packets.add_metric([c.host, "rx"], c.teps.received)
        packets.add_metric([c.host, "tx"], c.teps.sent)
        drops = counter_family("control_drops", "Control packets dropped", "reason")
        for reason, count in c.teps.dropped.items():
            drops.add_metric([c.host, reason], count)
        yield from (is_up, changes, packets, drops)


def counter_family(name: str, text: str, *labels: str) -> CounterMetricFamily:
    """A counter of a host, with more labels."""
    return CounterMetricFamily(f"{PREFIX}_{name}", text, labels=["host", *labels])


def gauge_family(name: str, text: str, host: str, value: float) -> GaugeMetricFamily:
    """A host's gauge, with its value."""
    found = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=["host"])
    found.add_metric([host], value)
    return found
