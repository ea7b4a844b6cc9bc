# SPDX-License-Identifier: Apache-2.0
"""Which connections are meant: `vnic=web-1,proto=tcp,dport=443`, as `palisade show flows --match` and `--kill` take it.

Terms are separated by commas, and all of them must hold; `all` is every connection. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dfw.endpoint import EndpointError, port_parse, protocol_parse
from dfw.model import AddressRange, Family, range_parse

ALL: Final = "all"
TERMS: Final = ("vnic", "dir", "proto", "src", "dst", "addr", "sport", "dport", "port", "rule")
_DIRECTIONS: Final = {"IN": 1, "OUT": 2}

Flows = npt.NDArray[np.void]
Mask = npt.NDArray[np.bool_]


class FlowFilterError(ValueError):
    """What was written is no filter: the message is a sentence."""


@dataclass(frozen=True, slots=True)
class FlowFilter:
    """What is asked of a connection; None: nothing. `src` and `dst` are those of its first packet, `addr` and `port`
    either end's. `rule`: the rule's path or its end, from a `/` on."""

    vnic: str | None = None
    rule: str | None = None
    numbers: Mapping[str, int] = field(default_factory=dict)
    ranges: Mapping[str, AddressRange] = field(default_factory=dict)


def flow_filter_parse(text: str) -> FlowFilter:
    """The filter that a text says. Raises FlowFilterError."""
    if text.strip() == ALL:
        return FlowFilter()
    words: dict[str, str] = {}
    for term in text.split(","):
        name, equals, value = (part.strip() for part in term.partition("="))
        if not equals or name not in TERMS or not value:
            raise FlowFilterError(f"{term.strip()!r}: a term is NAME=VALUE with one of {', '.join(TERMS)}; or `{ALL}`")
        if name in words:
            raise FlowFilterError(f"{name} stands there twice")
        words[name] = value
    numbers: dict[str, int] = {}
    ranges: dict[str, AddressRange] = {}
    for name, value in words.items():
        try:
            if name in ("sport", "dport", "port"):
                numbers[name] = port_parse(value)
            elif name == "proto":
                numbers[name] = protocol_parse(value)
            elif name == "dir":
                numbers[name] = _DIRECTIONS[value.upper()]
            elif name in ("src", "dst", "addr"):
                ranges[name] = range_parse(value)
        except (EndpointError, ValueError, KeyError) as error:
            said = "IN or OUT" if isinstance(error, KeyError) else error
            raise FlowFilterError(f"{name}={value}: {said}") from error
    return FlowFilter(words.get("vnic"), words.get("rule"), numbers, ranges)


def flow_filter_match(asked: FlowFilter, flows: Flows, vnic_of: Mapping[int, str], path_of: Mapping[int, str]) -> Mask:
    """Which of the connections (FLOW_DTYPE, from `dfw.core.watch.read_flows`) are meant.

    `vnic_of`: by incarnation of the filter; connections of others are nobody's, and never meant. `path_of`: of the
    rules, by number.
    """
    wanted = [number for number, name in vnic_of.items() if asked.vnic in (None, name)]
    mask: Mask = np.isin(flows["file"], np.array(wanted, dtype=np.uint32))
    if asked.rule is not None:
        rules = [number for number, path in path_of.items() if path == asked.rule or path.endswith(f"/{asked.rule}")]
        mask &= np.isin(flows["rule"], np.array(rules, dtype=np.uint32))
    for name, value in asked.numbers.items():
        if name == "port":
            mask &= (flows["sport"] == value) | (flows["dport"] == value)
        else:
            mask &= flows[name] == value
    for name, range_ in asked.ranges.items():
        if name == "addr":
            mask &= _within(flows, "src", range_) | _within(flows, "dst", range_)
        else:
            mask &= _within(flows, name, range_)
    return mask


def _within(flows: Flows, end: str, wanted: AddressRange) -> Mask:
    words = np.ascontiguousarray(flows[end]).view(">u8").reshape(-1, 2)
    low, high = (_words(wanted.family, value) for value in (wanted.first, wanted.last))
    above = (words[:, 0] > low[0]) | ((words[:, 0] == low[0]) & (words[:, 1] >= low[1]))
    below = (words[:, 0] < high[0]) | ((words[:, 0] == high[0]) & (words[:, 1] <= high[1]))
    family: Any = flows["family"] == (1 if wanted.family is Family.IPV4 else 2)
    found: Mask = above & below & family
    return found


def _words(family: Family, value: int) -> tuple[int, int]:
    """As in pal_range: an IPv4 address stands in the first four bytes."""
    packed = value.to_bytes(family.bits // 8, "big").ljust(16, b"\0")
    return int.from_bytes(packed[:8], "big"), int.from_bytes(packed[8:], "big")
