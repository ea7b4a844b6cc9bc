# SPDX-License-Identifier: Apache-2.0
"""Service routers: which there are, what hosts are told of them, and how a lab shows them."""

from __future__ import annotations

import numpy as np

from dfw.layout import RULE_DTYPE
from dfw.model import PolicySet
from overlay.hoststate import GUARDS, HostState
from overlay.lab_graph import graph_dot, graph_text
from overlay.lab_inputs import InputFile, inputs_parse
from overlay.service_router import service_routers
from overlay.span import resolve_span
from overlay.vnic import VnicSeen, VnicStep, plan_vnic
from tests.netns.test_edge import TOPOLOGY


def world(text: str = TOPOLOGY) -> PolicySet:
    return inputs_parse([InputFile("x.yaml", text.encode())]).world


def routes(state: HostState) -> set[tuple[str, str, str, str | None]]:
    """Gateway, prefix, kind, next hop."""
    return {(state.gateways[row.gateway], row.prefix, row.kind, row.next_hop) for row in state.routes}


def test_each_host_hands_what_a_tier_0_does_not_know_to_its_service_router() -> None:
    states = resolve_span(world(), 1, {"sr:t0": "/there"})
    for name in ("a", "b", "e"):
        state = states[name]
        ways = {row for row in routes(state) if row[1] in ("0.0.0.0/0", "::/0")}
        assert {row for row in ways if row[0] == "t0"} == {
            ("t0", "0.0.0.0/0", "via", "100.64.0.2"),
            ("t0", "::/0", "via", "fd64::2"),
        }
        assert not any(row[0] == "alone" for row in ways), "a Tier-1 by itself has no way out"
        router = next(item for item in state.neighbours if item.ip == "100.64.0.2")
        assert state.segments[router.segment].vni == (1 << 24) - 1
        assert (router.vnic, router.tep) == (
            ("sr:t0", None) if name == "e" else (None, [tep.host for tep in state.teps].index("e"))
        )
    here = {vnic.name: vnic for vnic in states["e"].vnics}
    assert list(here) == ["sr:t0"]
    assert here["sr:t0"].netns == "/there" and here["sr:t0"].guards == () and here["sr:t0"].gateways == ()
    assert here["sr:t0"].routes == ("10.1.1.0/24 via 100.64.0.1", "2001:db8:1::/64 via fd64::1")
    assert all(vnic.guards == GUARDS and vnic.routes == () for vnic in states["b"].vnics)
    # The distributed firewall is not there: one rule, which allows everything.
    (table,) = states["e"].tables
    rules = np.frombuffer(table.entries, RULE_DTYPE)["rule"].tolist()
    assert {states["e"].rules[number].path for number in rules} == {"system/exclude-list"}
    assert "system/exclude-list" not in {rule.path for rule in states["a"].rules}


def test_without_an_edge_host_there_is_none() -> None:
    plain = world(TOPOLOGY.replace("role, tag: edge", "role, tag: spare"))
    assert service_routers(plain.inventory) == ()
    assert not any(row[2] == "via" for state in resolve_span(plain, 1, {}).values() for row in routes(state))
    assert "outside" not in graph_text("x", plain) + graph_dot("x", plain)


def test_graphs_show_the_way_out() -> None:
    assert "Tier-0 t0, to the outside by e" in graph_text("x", world()).splitlines()
    assert "-- outside;" in graph_dot("x", world())


def test_a_vnic_that_routes_gets_its_routes_once_and_its_kernel_forwards() -> None:
    vnic = resolve_span(world(), 1, {})["e"].vnics[0]
    steps = plan_vnic(vnic, VnicSeen(7))
    assert {step.value for step in steps if step.what == "route-add"} == set(vnic.routes)
    assert VnicStep("forward") in steps and not any(step.what == "gateway-add" for step in steps)
    made = VnicSeen(7, vnic.mtu, True, frozenset(vnic.ips), routes=frozenset(vnic.routes), forwards=True)
    assert plan_vnic(vnic, made) == ()
    stale = VnicSeen(
        7, vnic.mtu, True, frozenset(vnic.ips), routes=frozenset((*vnic.routes, "10.9.0.0/24 via 100.64.0.1"))
    )
    assert plan_vnic(vnic, stale) == (VnicStep("route-remove", "10.9.0.0/24 via 100.64.0.1"), VnicStep("forward"))
