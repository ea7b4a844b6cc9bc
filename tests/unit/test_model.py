# SPDX-License-Identifier: Apache-2.0
"""Addresses, ranges and MAC addresses: against the standard library's."""

from __future__ import annotations

import ipaddress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfw.model import (
    Address,
    AddressRange,
    Family,
    address_parse,
    mac_packed,
    mac_parse,
    prefix_parse,
    range_parse,
    ranges_merge,
)

ADDRESSES = st.ip_addresses()
SMALL = st.builds(
    lambda family, a, b: AddressRange(family, min(a, b), max(a, b)),
    st.sampled_from(Family),
    st.integers(0, 30),
    st.integers(0, 30),
)


@given(ADDRESSES)
def test_addresses(value: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    found = address_parse(str(value))
    assert (found.value, found.packed, found.family.bits) == (int(value), value.packed, value.max_prefixlen)
    assert address_parse(str(found)) == found
    assert address_parse(value.exploded) == found


@given(ADDRESSES, st.integers(0, 128))
def test_prefixes(value: ipaddress.IPv4Address | ipaddress.IPv6Address, length: int) -> None:
    length = min(length, value.max_prefixlen)
    network = ipaddress.ip_network(f"{value}/{length}", strict=False)
    found = prefix_parse(str(network))
    assert (found.first, found.last) == (int(network.network_address), int(network.broadcast_address))
    assert found.prefix_length == length
    assert range_parse(str(found)) == found
    assert prefix_parse(f"{value}/{length}", host_bits=True) == found
    if int(value) != found.first:
        with pytest.raises(ValueError, match="the prefix would be"):
            prefix_parse(f"{value}/{length}")


@given(SMALL, st.integers(0, 31))
def test_ranges(item: AddressRange, value: int) -> None:
    assert range_parse(str(item)) == item
    assert item.contains(Address(item.family, value)) is (item.first <= value <= item.last)
    assert not item.contains(Address(Family(3 - item.family), value))


@given(st.lists(SMALL, max_size=8))
def test_merging_keeps_the_set_and_is_canonical(items: list[AddressRange]) -> None:
    merged = ranges_merge(items)

    def members(ranges: list[AddressRange]) -> set[tuple[Family, int]]:
        return {(item.family, value) for item in ranges for value in range(item.first, item.last + 1)}

    assert members(list(merged)) == members(items)
    for left, right in pairwise(merged):
        assert left.family < right.family or left.last + 1 < right.first


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1.2.3",
        "1.2.3.4.5",
        "256.1.1.1",
        "01.2.3.4",
        "1.2.3.4 ",
        "0x1.2.3.4",
        "::g",
        ":::",
        "1::2::3",
        "fe80::1%1",
        "\0",
    ],
)
def test_no_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="not an IPv4 or IPv6 address"):
        address_parse(text)


@pytest.mark.parametrize(
    "text", ["1.2.3.4/33", "1.2.3.4/", "1.2.3.4/-1", "1.2.3.0/024", "::/129", "1.2.3.0/٢٤", "x/24"]
)
def test_no_prefixes(text: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        prefix_parse(text)


@pytest.mark.parametrize(
    "text", ["10.0.0.2-10.0.0.1", "10.0.0.1-::1", "10.0.0.1-", "-10.0.0.1", "1.1.1.1-2.2.2.2-3.3.3.3"]
)
def test_no_ranges(text: str) -> None:
    with pytest.raises(ValueError, match=r"ends before|mixes|is not an"):
        range_parse(text)


def test_macs() -> None:
    assert mac_parse("02-00-00-AB-cd-EF") == "02:00:00:ab:cd:ef"
    assert mac_packed("02:00:00:ab:cd:ef") == bytes.fromhex("020000abcdef")
    for text in ("", "02:00:00:00:00", "02:00-00:00:00:00", "0200.0000.0001", "02:00:00:00:00:0g", "2:0:0:0:0:1"):
        with pytest.raises(ValueError, match="not a MAC"):
            mac_parse(text)
