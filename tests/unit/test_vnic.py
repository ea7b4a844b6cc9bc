# SPDX-License-Identifier: Apache-2.0
"""What has to be done to a workload's interface and to a TEP's wires, before anything is done."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from overlay.hoststate import VnicState
from overlay.uplink import own_address, plan_uplink
from overlay.vnic import VnicSeen, VnicStep, plan_vnic

VNIC = VnicState(
    "web-1",
    "02:00:00:00:01:11",
    ("10.1.1.11/24", "2001:db8:1::11/64"),
    0,
    0,
    (0,) * 11,
    gateways=("10.1.1.1", "2001:db8:1::1"),
)
DONE = VnicSeen(
    2,
    1500,
    True,
    frozenset({"10.1.1.11/24", "2001:db8:1::11/64"}),
    frozenset({"10.1.1.1", "2001:db8:1::1"}),
)


def steps(vnic: VnicState, seen: VnicSeen) -> list[tuple[str, str]]:
    return [(step.what, step.value) for step in plan_vnic(vnic, seen)]


def test_nothing_is_to_do_where_all_is_so() -> None:
    assert plan_vnic(VNIC, DONE) == ()


def test_a_new_interface_gets_all_of_it_addresses_before_routes() -> None:
    assert steps(VNIC, VnicSeen(2, 1500)) == [
        ("up", ""),
        ("ip-add", "10.1.1.11/24"),
        ("ip-add", "2001:db8:1::11/64"),
        ("gateway-add", "10.1.1.1"),
        ("gateway-add", "2001:db8:1::1"),
    ]


def test_without_ipv6_the_v4_part_comes_up() -> None:
    assert steps(VNIC, VnicSeen(2, 1500, has_ipv6=False)) == [
        ("up", ""),
        ("ip-add", "10.1.1.11/24"),
        ("gateway-add", "10.1.1.1"),
    ]


def test_a_moved_address_takes_the_old_one_away_first_and_brings_its_route_back() -> None:
    moved = msgspec.structs.replace(VNIC, ips=("10.1.1.12/24", "2001:db8:1::11/64"))
    assert steps(moved, DONE) == [
        ("ip-remove", "10.1.1.11/24"),
        ("ip-add", "10.1.1.12/24"),
        ("gateway-add", "10.1.1.1"),
        ("gateway-add", "2001:db8:1::1"),
    ]


def test_a_gateway_that_is_no_more() -> None:
    assert steps(msgspec.structs.replace(VNIC, gateways=("2001:db8:1::1",)), DONE) == [("gateway-remove", "10.1.1.1")]
    assert VnicStep("mtu", "1400") in plan_vnic(msgspec.structs.replace(VNIC, mtu=1400), DONE)
    assert steps(VNIC, replace(DONE, is_up=False))[0] == ("up", "")


@pytest.mark.parametrize(
    ("tep", "own"),
    [("172.16.0.11", "169.254.1.11/32"), ("172.16.254.9", "169.254.1.9/32"), ("fd00::12", "fe80::12/64")],
)
def test_a_kernel_asks_for_teps_with_a_link_local_address(tep: str, own: str) -> None:
    assert own_address(tep) == own


def test_tier_a_leaves_the_tep_to_the_tap_and_answers_for_it() -> None:
    rows = {
        (step.what, step.interface, step.value)
        for step in plan_uplink("A", "ul0", "172.16.0.11", ["172.16.0.12"], 1700)
    }
    assert ("route", "tep0", "172.16.0.11/32") in rows
    assert ("neighbour", "tep0", "172.16.0.11") in rows
    assert ("sysctl", "ipv4/conf/ul0/proxy_arp", "1") in rows
    assert ("onlink", "ul0", "172.16.0.12/32") in rows
    assert not any(what == "address" and value.startswith("172.") for what, _, value in rows)
    v6 = {(step.what, step.interface, step.value) for step in plan_uplink("A", "ul0", "fd00::11", ["fd00::12"], 1700)}
    assert ("proxy", "ul0", "fd00::11") in v6
    assert ("onlink", "ul0", "fd00::12/128") in v6


@pytest.mark.parametrize("tier", ["B", "C"])
def test_a_socket_has_the_tep_on_the_underlay_interface(tier: str) -> None:
    rows = [(step.what, step.interface, step.value) for step in plan_uplink(tier, "ul0", "172.16.0.11", (), 1700)]
    assert rows == [("address", "ul0", "172.16.0.11/32"), ("up", "ul0", "")]


ON_LINK = msgspec.structs.replace(VNIC, ips=("10.0.0.1/32", "fd00::1/128"), gateways=("0.0.0.0", "::"))


def test_where_everybody_is_on_the_link_a_default_route_needs_no_gateway() -> None:
    assert steps(ON_LINK, VnicSeen(2, 1500))[-2:] == [("gateway-add", "0.0.0.0"), ("gateway-add", "::")]
    seen = VnicSeen(2, 1500, True, frozenset(ON_LINK.ips), frozenset({"0.0.0.0", "::"}))
    assert steps(ON_LINK, seen) == []


def test_a_default_route_without_a_gateway_is_replaced_and_never_taken_away() -> None:
    seen = VnicSeen(2, 1500, True, frozenset(VNIC.ips), frozenset({"0.0.0.0", "::"}))
    assert steps(VNIC, seen) == [("gateway-add", "10.1.1.1"), ("gateway-add", "2001:db8:1::1")]
    assert steps(msgspec.structs.replace(VNIC, gateways=()), seen) == []
