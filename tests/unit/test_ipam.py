# SPDX-License-Identifier: Apache-2.0
"""Which block and which address: never the same twice, all of them until none is left, the same for who asks again."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from dfw.model import prefix_parse
from supervisor_glue.controllers.ipam import (
    address_choice,
    block_at,
    block_choices,
    block_count,
    single_choices,
    usable,
    usable_count,
)

NETWORKS = st.builds(
    lambda number, length: ipaddress.ip_network(((number << 8) & ~((1 << (32 - length)) - 1), length), strict=False),
    st.integers(0x0A0000, 0x0AFFFF),
    st.integers(20, 26),
)


@given(st.lists(NETWORKS, min_size=1, max_size=3), st.integers(27, 30), st.text(max_size=12), st.text(max_size=12))
def test_blocks_are_what_the_standard_library_cuts_and_each_asker_sees_all_of_them(
    networks: list[ipaddress.IPv4Network], prefix: int, asker: str, other: str
) -> None:
    pools = [prefix_parse(str(network)) for network in networks]
    cut = [str(block) for network in networks for block in network.subnets(new_prefix=prefix)]
    assert [str(block_at(pools, prefix, index)) for index in range(block_count(pools, prefix))] == cut
    choices = list(block_choices(pools, prefix, asker, ()))
    assert sorted(choices) == list(range(len(cut))) and choices == list(block_choices(pools, prefix, asker, ()))
    taken = set(choices[: len(choices) // 2])
    assert set(block_choices(pools, prefix, other, taken)) == set(range(len(cut))) - taken


@given(NETWORKS, st.integers(26, 32), st.lists(st.text(max_size=8), min_size=40, max_size=40, unique=True))
def test_a_subnet_gives_every_workload_another_address_until_it_is_full(
    network: ipaddress.IPv4Network, prefix: int, askers: list[str]
) -> None:
    subnet = next(network.subnets(new_prefix=prefix))
    block = prefix_parse(str(subnet))
    hosts = {str(address) for address in list(subnet.hosts())[1:]} if prefix < 31 else set()  # the first: the gateway's
    assert usable_count(block) == len(hosts) and (usable(block) is None) == (not hosts)
    taken = set()
    for asker in askers:
        address = address_choice(block, asker, taken)
        assert (address is None) == (len(taken) == len(hosts))
        if address is not None:
            assert str(address) in hosts and address not in taken
            assert address_choice(block, asker, taken) == address
            taken.add(address)


def test_single_addresses_come_from_all_pools() -> None:
    pools = [prefix_parse("10.9.0.0/30"), prefix_parse("10.9.8.0/31")]
    every = [str(address) for address in single_choices(pools, "a", set())]
    assert sorted(every) == [*(f"10.9.0.{n}" for n in range(4)), "10.9.8.0", "10.9.8.1"]
    assert [str(address) for address in single_choices(pools, "a", set(every[:5]))] == every[5:]
    assert list(single_choices([], "a", set())) == []
