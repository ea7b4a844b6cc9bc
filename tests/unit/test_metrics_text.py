# SPDX-License-Identifier: Apache-2.0
"""Several hosts' metrics as one text: each family once, every sample as it was."""

from __future__ import annotations

from overlay.metrics_text import metric_rows, render_merged
from tests.unit.test_metrics import samples_of

ONE = """\
# HELP palisade_agent_judgements_total Packets judged.
# TYPE palisade_agent_judgements_total counter
palisade_agent_judgements_total{host="a",reason="match",verdict="DROP"} 3.0
# HELP palisade_agent_connections Open connections.
# TYPE palisade_agent_connections gauge
palisade_agent_connections{family="ipv4",host="a"} 7.0
"""


def test_a_family_stands_there_once_and_every_sample_is_kept() -> None:
    other = ONE.replace('host="a"', 'host="b"').replace("3.0", "4.0")
    merged = render_merged([ONE, other])
    assert render_merged([ONE]) == ONE
    assert [merged.count(f"# TYPE palisade_agent_{name}") for name in ("judgements_total", "connections")] == [1, 1]
    assert samples_of(merged) == samples_of(ONE) | samples_of(other)
    assert len(samples_of(merged)) == 4
    labels = {"host": "b", "reason": "match", "verdict": "DROP"}
    assert metric_rows(other)[0] == {"metric": "palisade_agent_judgements_total", "labels": labels, "value": 4.0}
