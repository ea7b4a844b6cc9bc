# SPDX-License-Identifier: Apache-2.0
"""What a scrape gets, read again by Prometheus' own parser."""

from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from dfw.core import EngineStats
from dfw.core.live import CardCounts, LiveStats, WorkerCounts
from overlay.bfd_packet import State
from overlay.metrics import HostCounters, render_metrics
from overlay.teps import TepCounts


def samples_of(text: str) -> dict[Any, float]:
    """Values by name and labels."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_counters_come_out_with_their_labels() -> None:
    engine = EngineStats({("DROP", "spoof"): 3, ("ALLOW", "state"): 9}, 12, 0, 0, 0, 0, 4, 2, 1, 1, 100)
    card = CardCounts(1, 2, 300, 4, 5, 600, {"queue-full": 7})
    live = LiveStats({5: card}, card, (WorkerCounts(1, 1, 1, 0, 0, 2_500_000_000),), {"no-card": 1})
    teps = TepCounts({"esx-2": (State.UP, 2), "esx-3": (State.DOWN, 5)}, 20, 21, {"control-malformed": 4})
    text = render_metrics(HostCounters("esx-1", engine, live, {5: 'we"b'}, 8, 7, teps))
    samples = samples_of(text)
    host = ("host", "esx-1")
    assert samples["palisade_agent_judgements_total", host, ("reason", "spoof"), ("verdict", "DROP")] == 3
    assert samples["palisade_agent_connections", host] == 3
    assert samples["palisade_agent_revision_realized", host] == 7
    assert samples["palisade_agent_card_packets_total", ("card", 'we"b'), ("direction", "tx"), host] == 5
    assert samples["palisade_agent_card_bytes_total", ("card", "uplink"), ("direction", "rx"), host] == 300
    assert samples["palisade_agent_card_drops_total", ("card", ""), host, ("reason", "no-card")] == 1
    assert samples["palisade_agent_worker_cpu_seconds_total", host, ("worker", "0")] == 2.5
    remote = [("remote_host", name) for name in ("esx-2", "esx-3")]
    assert [samples["palisade_agent_tep_up", host, name] for name in remote] == [1, 0]
    assert [samples["palisade_agent_tep_changes_total", host, name] for name in remote] == [2, 5]
    assert samples["palisade_agent_control_packets_total", ("direction", "tx"), host] == 21
    assert samples["palisade_agent_control_drops_total", host, ("reason", "control-malformed")] == 4
