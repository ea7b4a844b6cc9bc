# SPDX-License-Identifier: Apache-2.0
"""The C structs of native/include/palisade_live.h as numpy dtypes: the fabric that a host forwards by, frames.

As in dfw.layout: addresses in network byte order, IPv4 in the first four bytes and the rest zero, everything else in
host byte order. The sizes are asserted here and in the header.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from dfw.layout import FLOW_DTYPE

NO_INDEX: Final = 0xFFFFFFFF
UPLINK: Final = 0xFFFFFFFE
"""Where a vNIC's number stands: from, or to, another host."""
CONTROL: Final = 0xFFFFFFFD
"""Where a vNIC's number stands in what left: for the host itself (BFD in Geneve)."""

GUARD_SPOOF: Final = 1
GUARD_DHCP: Final = 2
GUARD_RA: Final = 4

ROUTE_CONNECTED: Final = 0
ROUTE_VIA: Final = 1
ROUTE_GATEWAY: Final = 2
ROUTE_BLACKHOLE: Final = 3

ENCAP_GENEVE: Final = 0
ENCAP_VXLAN: Final = 1

ADDRESS_DTYPE: Final = np.dtype([("addr", "u1", (16,)), ("family", "=u4")])
VNIC_DTYPE: Final = np.dtype(
    [
        ("filter", "=u4"),
        ("segment", "=u4"),
        ("addr_off", "=u4"),
        ("addr_n", "=u4"),
        ("guards", "=u4"),
        ("mac", "u1", (6,)),
        ("mtu", "=u2"),
    ]
)
SEGMENT_DTYPE: Final = np.dtype(
    [("vni", "=u4"), ("gateway", "=u4"), ("tep_off", "=u4"), ("tep_n", "=u4"), ("learn", "=u4")]
)
NEIGHBOUR_DTYPE: Final = np.dtype(
    [
        ("addr", "u1", (16,)),
        ("family", "=u4"),
        ("segment", "=u4"),
        ("vnic", "=u4"),
        ("tep", "=u4"),
        ("mac", "u1", (6,)),
        ("reserved", "=u2"),
    ]
)
INTERFACE_DTYPE: Final = np.dtype([("addr", "u1", (16,)), ("family", "=u4"), ("gateway", "=u4"), ("segment", "=u4")])
ROUTE_DTYPE: Final = np.dtype(
    [
        ("addr", "u1", (16,)),
        ("next_hop", "u1", (16,)),
        ("family", "=u4"),
        ("length", "=u4"),
        ("gateway", "=u4"),
        ("kind", "=u4"),
        ("target", "=u4"),
    ]
)
TEP_DTYPE: Final = np.dtype([("addr", "u1", (16,)), ("family", "=u4"), ("dead", "=u2"), ("encap", "=u2")])
HOST_FRAME_DTYPE: Final = np.dtype(
    [
        ("at", "=u8"),
        ("now_ns", "=u8"),
        ("len", "=u4"),
        ("vnic", "=u4"),
        ("outer", ADDRESS_DTYPE),
        ("port", "=u2"),
        ("inner", "=u2"),
        ("hdr_len", "=u2"),
        ("gso_size", "=u2"),
        ("csum_start", "=u2"),
        ("csum_offset", "=u2"),
        ("gso_type", "u1"),
        ("flags", "u1"),
        ("tos", "u1"),
        ("encap", "u1"),
        ("burst", "=u4"),
    ]
)
TRACE_DTYPE: Final = np.dtype(
    [
        ("ts_ns", "=u8"),
        ("mark", "=u4"),
        ("rule", "=u4"),
        ("segment", "=u4"),
        ("tep", "=u4"),
        ("gateway", "=u4"),
        ("prefix", "u1", (16,)),
        ("filter", "=u2"),
        ("family", "u1"),
        ("length", "u1"),
        ("stage", "u1"),
        ("kind", "u1"),
        ("dir", "u1"),
        ("verdict", "u1"),
        ("reason", "u1"),
        ("reserved", "u1", (3,)),
    ]
)
assert TRACE_DTYPE.itemsize == 56
LOG_END: Final = 1
"""`event` of a record of the log: a flow's end; else a packet."""
LOG_DTYPE: Final = np.dtype(
    [
        ("flow", FLOW_DTYPE),
        ("length", "=u4"),
        ("event", "u1"),
        ("verdict", "u1"),
        ("reason", "u1"),
        ("tcp_flags", "u1"),
    ]
)
assert LOG_DTYPE.itemsize == 136
assert ADDRESS_DTYPE.itemsize == 20 and VNIC_DTYPE.itemsize == 28 and SEGMENT_DTYPE.itemsize == 20
assert NEIGHBOUR_DTYPE.itemsize == 40 and INTERFACE_DTYPE.itemsize == 28 and ROUTE_DTYPE.itemsize == 52
assert TEP_DTYPE.itemsize == 24 and HOST_FRAME_DTYPE.itemsize == 64
