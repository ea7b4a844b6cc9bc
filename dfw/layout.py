# SPDX-License-Identifier: Apache-2.0
"""The C structs of native/include/palisade_core.h as numpy dtypes, and ways to fill them in bulk.

Addresses stand in network byte order, IPv4 in the first four bytes and the rest zero; everything else is in host byte
order, as C has it. The sizes are asserted here and in the header.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

FAMILY_V4: Final = 1
FAMILY_V6: Final = 2
DIR_IN: Final = 1
DIR_OUT: Final = 2
DIR_ANY: Final = 3
ACTION_ALLOW: Final = 0
ACTION_DROP: Final = 1
ACTION_REJECT: Final = 2
RULE_STATEFUL: Final = 1
RULE_TCP_STRICT: Final = 2
RULE_LOGGED: Final = 4
RULE_SRC_NEGATED: Final = 8
RULE_DST_NEGATED: Final = 16
RULE_PERSIST: Final = 32
ALG_NONE: Final = 0
ALG_FTP: Final = 1
ALG_TFTP: Final = 2
PROTO_ANY: Final = 256
NO_MATCH: Final = 0xFFFFFFFF
"""What a look-up answers where no rule matches (PAL_NONE)."""

RULE_DTYPE: Final = np.dtype(
    [
        ("rule", "=u4"),
        ("src_off", "=u4"),
        ("src_n", "=u4"),
        ("dst_off", "=u4"),
        ("dst_n", "=u4"),
        ("sport_lo", "=u2"),
        ("sport_hi", "=u2"),
        ("dport_lo", "=u2"),
        ("dport_hi", "=u2"),
        ("proto", "=u2"),
        ("tcp_mask", "u1"),
        ("tcp_value", "u1"),
        ("action", "u1"),
        ("dir", "u1"),
        ("family", "u1"),
        ("flags", "u1"),
        ("alg", "u1"),
        ("tier", "u1"),
        ("resume", "u1"),
        ("reserved", "u1"),
    ]
)
ETHER_DTYPE: Final = np.dtype(
    [
        ("rule", "=u4"),
        ("src_off", "=u4"),
        ("src_n", "=u4"),
        ("dst_off", "=u4"),
        ("dst_n", "=u4"),
        ("ether_type", "=u2"),
        ("action", "u1"),
        ("dir", "u1"),
        ("flags", "u1"),
        ("reserved", "u1", (3,)),
    ]
)
MAXIMUM_ETHER_RULES: Final = 128  # of one filter (native/core/ether.h)
RANGE_DTYPE: Final = np.dtype([("lo", "u1", (16,)), ("hi", "u1", (16,)), ("family", "=u4")])
KEY_DTYPE: Final = np.dtype(
    [
        ("src", "u1", (16,)),
        ("dst", "u1", (16,)),
        ("sport", "=u2"),
        ("dport", "=u2"),
        ("proto", "u1"),
        ("tcp_flags", "u1"),
        ("family", "u1"),
        ("dir", "u1"),
    ]
)
FRAME_DTYPE: Final = np.dtype(
    [
        ("data", "=u8"),
        ("caplen", "=u4"),
        ("wirelen", "=u4"),
        ("ts_ns", "=u8"),
        ("number", "=u8"),
        ("linktype", "=u4"),
        ("interface", "=u4"),
        ("direction", "=u4"),
        ("reserved", "=u4"),
    ]
)
RECORD_DTYPE: Final = np.dtype(
    [
        ("number", "=u8"),
        ("ts_ns", "=u8"),
        ("file", "=u4"),
        ("rule", "=u4"),
        ("filter", "=u2"),
        ("dir", "u1"),
        ("verdict", "u1"),
        ("reason", "u1"),
        ("ct", "u1"),
        ("reply", "u1"),
        ("reserved", "u1"),
    ]
)
GENERATED_DTYPE: Final = np.dtype(
    [
        ("number", "=u8"),
        ("ts_ns", "=u8"),
        ("file", "=u4"),
        ("len", "=u4"),
        ("at", "=u8"),
        ("filter", "=u2"),
        ("dir", "u1"),
        ("reserved", "u1", (5,)),
    ]
)
FLOW_DTYPE: Final = np.dtype(
    [
        ("src", "u1", (16,)),
        ("dst", "u1", (16,)),
        ("number", "=u8"),
        ("start_ns", "=u8"),
        ("end_ns", "=u8"),
        ("packets", "=u8"),
        ("bytes", "=u8"),
        ("reply_packets", "=u8"),
        ("reply_bytes", "=u8"),
        ("file", "=u4"),
        ("rule", "=u4"),
        ("dropped", "=u4"),
        ("sport", "=u2"),
        ("dport", "=u2"),
        ("filter", "=u2"),
        ("proto", "u1"),
        ("family", "u1"),
        ("dir", "u1"),
        ("state", "u1"),
        ("end_reason", "u1"),
        ("kind", "u1"),
        ("history", "S12"),
        ("reserved", "=u4"),
    ]
)
CHANGE_DTYPE: Final = np.dtype(
    [
        ("number", "=u8"),
        ("ts_ns", "=u8"),
        ("flow", "=u8"),
        ("file", "=u4"),
        ("bytes", "=u4"),
        ("rule", "=u4"),
        ("staged_rule", "=u4"),
        ("filter", "=u2"),
        ("sport", "=u2"),
        ("dport", "=u2"),
        ("dir", "u1"),
        ("verdict", "u1"),
        ("reason", "u1"),
        ("staged_verdict", "u1"),
        ("staged_reason", "u1"),
        ("change", "u1"),
        ("marks", "u1"),
        ("proto", "u1"),
        ("family", "u1"),
        ("reserved", "u1"),
        ("src", "u1", (16,)),
        ("dst", "u1", (16,)),
    ]
)
STAGED_FLOW_DTYPE: Final = np.dtype(
    [
        ("packets", "=u8"),
        ("passes", "=u8"),
        ("rule", "=u4"),
        ("verdict", "u1"),
        ("reason", "u1"),
        ("reserved", "u1", (2,)),
    ]
)
BENCH_FRAME_DTYPE: Final = np.dtype(
    [("at", "=u8"), ("clock_ns", "=u8"), ("len", "=u4"), ("filter", "=u2"), ("dir", "u1"), ("reserved", "u1")]
)
BINDING_DTYPE: Final = np.dtype([("addr", "u1", (16,)), ("family", "=u4"), ("vrf", "=u4"), ("filter", "=u4")])
SEGMENT: Final = 255
"""`family` of a binding that says which segment (1 + VNI) a filter is on: PAL_SEGMENT."""
RULE_COUNT_DTYPE: Final = np.dtype([("hits", "=u8"), ("packets", "=u8"), ("bytes", "=u8")])
assert FRAME_DTYPE.itemsize == 48 and RECORD_DTYPE.itemsize == 32 and GENERATED_DTYPE.itemsize == 40
assert BENCH_FRAME_DTYPE.itemsize == 24 and FLOW_DTYPE.itemsize == 128 and BINDING_DTYPE.itemsize == 28
assert ETHER_DTYPE.itemsize == 28 and CHANGE_DTYPE.itemsize == 88 and STAGED_FLOW_DTYPE.itemsize == 24
assert RULE_DTYPE.itemsize == 40 and RANGE_DTYPE.itemsize == 36 and KEY_DTYPE.itemsize == 40

RuleArray = npt.NDArray[np.void]
RangeArray = npt.NDArray[np.void]
KeyArray = npt.NDArray[np.void]
U32Array = npt.NDArray[np.uint32]
U64Array = npt.NDArray[np.uint64]


def rules_empty(count: int) -> RuleArray:
    """`count` rules that match everything, stateful ALLOW, numbered 0, 1, ..."""
    rules = np.zeros(count, RULE_DTYPE)
    rules["rule"] = np.arange(count, dtype=np.uint32)
    rules["sport_hi"] = rules["dport_hi"] = 0xFFFF
    rules["proto"] = PROTO_ANY
    rules["dir"] = DIR_ANY
    rules["family"] = FAMILY_V4 | FAMILY_V6
    rules["flags"] = RULE_STATEFUL
    return rules


def addresses_v4(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Host-order IPv4 addresses as rows of 16 bytes."""
    out = np.zeros((len(values), 16), np.uint8)
    out[:, :4] = values.astype(">u4").view(np.uint8).reshape(-1, 4)
    return out


def addresses_v6(high: U64Array, low: U64Array) -> npt.NDArray[np.uint8]:
    """IPv6 addresses, given as their upper and lower 64 bits in host order, as rows of 16 bytes."""
    out = np.empty((len(high), 16), np.uint8)
    out[:, :8] = high.astype(">u8").view(np.uint8).reshape(-1, 8)
    out[:, 8:] = low.astype(">u8").view(np.uint8).reshape(-1, 8)
    return out
