# SPDX-License-Identifier: Apache-2.0
"""Agents' metrics as one text for Prometheus, and as rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client.core import CollectorRegistry, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector


def metric_rows(text: str) -> list[dict[str, Any]]:
    """A row for each sample of a host's text."""
    return [
        {"metric": sample.name, "labels": dict(sample.labels), "value": sample.value}
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def render_merged(texts: Iterable[str]) -> str:
    """The texts of several hosts as one: a family stands there once, as the format wants it."""
    registry = CollectorRegistry()
    registry.register(_Merged(texts))
    return generate_latest(registry).decode()


class _Merged(Collector):
    def __init__(self, texts: Iterable[str]) -> None:
        self.families: dict[str, Metric] = {}
        for text in texts:
            for family in text_string_to_metric_families(text):
                known = self.families.setdefault(family.name, family)
                if known is not family:
                    known.samples += family.samples

    def collect(self) -> Iterator[Metric]:
        yield from self.families.values()
