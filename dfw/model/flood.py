# SPDX-License-Identifier: Apache-2.0
"""Flood protection: how many connections one vNIC may have at a time (NSX's DistributedFloodProtectionProfile)."""

from __future__ import annotations

from dataclasses import dataclass

FLOOD_MAXIMUM = 1_000_000


@dataclass(frozen=True, slots=True)
class FloodLimits:
    """Connections of a kind at a time, both directions together; 0 is no limit (NSX's default).

    tcp_half_open: TCP until its handshake is done; udp_active and icmp_active: as long as they live; other_active: of
    every other protocol.
    """

    tcp_half_open: int = 0
    udp_active: int = 0
    icmp_active: int = 0
    other_active: int = 0
