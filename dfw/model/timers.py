# SPDX-License-Identifier: Apache-2.0
"""Session timers in seconds, with NSX's names, defaults and bounds (PolicyFirewallSessionTimerProfile)."""

from __future__ import annotations

from dataclasses import dataclass

TIMER_MAXIMUM = 4_320_000
TIMER_MINIMUM = 10
TIMER_MINIMUM_ESTABLISHED = 120


@dataclass(frozen=True, slots=True)
class Timers:
    """first_packet: after the first packet (TCP: the SYN); opening: after the second; closing: after the first FIN;
    finwait: after both; closed: after RST. udp_single: only the initiator sent more than once; udp_multiple: both
    sent. Protocols without timers of their own use the udp ones, ICMP errors icmp_error_reply."""

    tcp_first_packet: int = 120
    tcp_opening: int = 30
    tcp_established: int = 43200
    tcp_closing: int = 120
    tcp_finwait: int = 45
    tcp_closed: int = 20
    udp_first_packet: int = 60
    udp_single: int = 30
    udp_multiple: int = 60
    icmp_first_packet: int = 20
    icmp_error_reply: int = 10


def timer_bounds(name: str) -> tuple[int, int]:
    """Smallest and largest value of a timer, in seconds."""
    return (TIMER_MINIMUM_ESTABLISHED if name == "tcp_established" else TIMER_MINIMUM), TIMER_MAXIMUM
