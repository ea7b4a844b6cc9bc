# SPDX-License-Identifier: Apache-2.0
"""What a scrape gets, read again by Prometheus' own parser."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from dfw.core import EngineStats
from dfw.core.live import CardCounts, LiveStats, WorkerCounts
from overlay.metrics import HostCounters, render_metrics


def test_counters_come_out_with_their_labels() -> None:
    engine = EngineStats({("DROP", "spoof"): 3, ("ALLOW", "state"): 9}, 12, 0, 0, 0, 0, 4, 2, 1, 1, 100)
    card = CardCounts(1, 2, 300, 4, 5, 600, {"queue-full": 7})
    live = LiveStats({5: card}, card, (WorkerCounts(1, 1, 1, 0, 0, 2_500_000_000),), {"no-card": 1})
    text = render_metrics(HostCounters("esx-1", engine, live, {5: 'we"b'}, 8, 7))
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    host = ("host", "esx-1")
    assert samples["palisade_agent_judgements_total", host, ("reason", "spoof"), ("verdict", "DROP")] == 3
    assert samples["palisade_agent_connections", host] == 3
    assert samples["palisade_agent_revision_realized", host] == 7
    assert samples["palisade_agent_card_packets_total", ("card", 'we"b'), ("direction", "tx"), host] == 5
    assert samples["palisade_agent_card_bytes_total", ("card", "uplink"), ("direction", "rx"), host] == 300
    assert samples["palisade_agent_card_drops_total", ("card", ""), host, ("reason", "no-card")] == 1
    assert samples["palisade_agent_worker_cpu_seconds_total", host, ("worker", "0")] == 2.5
