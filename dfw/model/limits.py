# SPDX-License-Identifier: Apache-2.0
"""Budgets at each filter (docs/packet-path.md section 11): split between the vNIC's own workload and others."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """`own`: what the workload of a vNIC sends (OUT), `others`: what comes to it (IN); a tap has both budgets together.
    `prefix`: of others, one source's /24 or /56. 0 is no limit for half_open and misses, and the default for the rest.

    half_open: unanswered connections; half_open_prefixes: prefixes that a worker keeps account of; misses: packets a
    second for which the rules are asked; rejects: answers a second; fragments: datagrams that wait to be whole."""

    half_open_own: int = 0
    half_open_others: int = 0
    half_open_prefix: int = 0
    half_open_prefixes: int = 65_536
    misses_own: int = 0
    misses_others: int = 0
    rejects_own: int = 50
    rejects_others: int = 50
    rejects_prefix: int = 25
    rejects_peer: int = 10
    fragments_own: int = 128
    fragments_others: int = 128
    fragments_prefix: int = 96
    fragments_source: int = 64


LIVE_LIMITS = Limits(
    half_open_own=16_384,
    half_open_others=16_384,
    half_open_prefix=4_096,
    misses_own=100_000,
    misses_others=100_000,
)
"""What a live vNIC has; a replay has no limit for unanswered connections and misses unless it is asked for these."""
