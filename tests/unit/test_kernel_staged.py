# SPDX-License-Identifier: Apache-2.0
"""What a host whose kernel enforces is told of staged policies, what it says of open connections, and what it shows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace as with_fields

from dfw.compile import compile_policy
from dfw.load import load
from dfw.model import NATIVE, NFTABLES, Address, Family, Host, PolicySet, address_parse
from dfw.nftables import render_ruleset
from dfw.nftables.conntrack import EXPECTED, Connection
from dfw.nftables.staged import CUT, PASSES_TOO, WOULD_PASS
from overlay.agent_base import AgentOptions
from overlay.hoststate import HostState, StateError, state_decode, state_encode
from overlay.kernel_agent import KernelAgent
from overlay.kernel_connections import connections_refused, vnic_owners
from overlay.kernel_show import KernelCounters, render_metrics, show_stats
from overlay.kernel_staged import connections_would, show_staged, staged_counts, staged_sums
from overlay.kernel_tables import host_tables, staged_tables, unenforced_vnics
from overlay.rule_counts import RuleCounts
from overlay.span import resolve_span
from tests.unit.test_metrics import samples_of
from tests.unit.test_nftables_staged import FILES

SQL = "/infra/domains/default/security-policies/shop/rules/sql"
WEB, DB = (address_parse(text) for text in ("10.0.0.1", "10.0.0.2"))


def state_of(enforcer: str, *, staged: bool = True) -> HostState:
    world: PolicySet = load(FILES if staged else FILES[:1]).world
    host = Host("h", Address(Family.IPV4, 0xAC100001), enforcer=enforcer)
    world = replace(world, inventory=replace(world.inventory, hosts={"h": host}))
    return resolve_span(world, 7, {})["h"]


def connection(sport: int, dport: int, mark: int, status: int = 0) -> Connection:
    """From the web server's vNIC to the database's, both of which are here."""
    key = f"{sport} {dport}".encode()
    return Connection(WEB, DB, 6, sport, dport, mark, 0, status, 60, "", (0, 0), (0, 0), key)


def test_only_a_host_that_counts_is_told() -> None:
    assert state_of(NATIVE).staged is None and state_of(NFTABLES, staged=False).staged is None
    state = state_of(NFTABLES)
    assert state_decode(state_encode(state)) == state and state.staged is not None
    beside, mine = staged_tables(state), host_tables(state)
    assert beside is not None and beside.table_of.keys() == mine.table_of.keys()
    assert {rule.path for rule in beside.rules} - {rule.path for rule in mine.rules} == {SQL.replace("sql", "files")}
    # What is in force is what it is without.
    assert with_fields(state, staged=None) == state_of(NFTABLES, staged=False)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"table_of": (0,)}, "1 staged tables for 2 vNICs"),
        ({"table_of": (0, 99)}, "the staged table of vNIC db is 99, of"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(changed: dict[str, object], words: str) -> None:
    state = state_of(NFTABLES)
    assert state.staged is not None
    bad = with_fields(state, staged=with_fields(state.staged, **changed))
    with pytest.raises(StateError, match=words):
        state_decode(state_encode(bad))
    rules = (with_fields(state.staged.rules[0], action="PERHAPS"), *state.staged.rules[1:])
    with pytest.raises(StateError, match=r"staged\.rules\[0\]\.action is 'PERHAPS'"):
        state_decode(state_encode(with_fields(state, staged=with_fields(state.staged, rules=rules))))


def test_open_connections_are_marked_as_staged_rules_would_have_allowed_them() -> None:
    state = state_of(NFTABLES)
    staged = staged_tables(state)
    assert staged is not None
    found = [
        connection(1, 3306, 0b0011),  # allowed at both ends; staged, it would be rejected
        connection(2, 3306, 0b1111),  # and said otherwise
        connection(3, 9999, 0b0001),  # allowed going out by the default rules, in both worlds
        connection(4, 9999, 0b0101),
        connection(5, 3306, 0b1111, EXPECTED),
        connection(6, 3306, 0b1101),  # a stateless rule let it in
    ]
    would = connections_would(found, vnic_owners(state), staged)
    assert [(item.sport, mark, mask) for item, mark, mask in would] == [
        (2, 0, 0b1100),
        (3, 0b0100, 0b0100),
        (6, 0, 0b0100),
    ]


def test_what_is_shown() -> None:
    state = state_of(NFTABLES)
    world = load(FILES).world
    names = [port.name for port in world.inventory]
    rendered = render_ruleset(compile_policy(world), names, staged=compile_policy(world.what_if))
    (name,) = (name for name, rule in rendered.staged_of.items() if rule.path == SQL)
    counts = {name: (7, 700), WOULD_PASS: (20, 1), PASSES_TOO: (15, 1), CUT: (3, 1)}
    assert staged_sums(counts) == {"cut": 3, "pass": 5} and staged_sums({PASSES_TOO: (1, 1)})["pass"] == 0
    found = staged_counts(rendered, counts)
    reset = RuleCounts()
    rows = {row["rule_path"]: row for row in show_staged(state, reset.shown(found), None)}
    assert (rows[SQL]["action"], rows[SQL]["packets"], rows[SQL]["bytes"], rows[SQL]["vnics"]) == ("REJECT", 7, 700, 2)
    # A rule in force of the same path counts for itself.
    reset.reset(rows.values(), found)
    (again,) = (row for row in show_staged(state, reset.shown(found), datetime.now(UTC)) if row["rule_path"] == SQL)
    assert (again["packets"], reset.shown({SQL: (1, 1, 1)})[SQL]) == (0, (1, 1, 1))
    assert show_stats({("DROP", "match"): 1}, staged_sums(counts))[1:] == [
        {"verdict": "ALLOW", "reason": "staged-cut", "judgements": 3},
        {"verdict": "DROP", "reason": "staged-pass", "judgements": 5},
    ]
    metrics = samples_of(render_metrics(KernelCounters("k", {}, 0, 0, {}, 1, 1, staged_sums(counts))))
    assert metrics["palisade_agent_staged_packets_total", ("change", "cut"), ("host", "k")] == 3


def test_a_state_that_cannot_be_rendered_is_refused_and_the_agent_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Kernel:
        """Renders and no more."""

        def apply(self, state: HostState) -> None:
            render_ruleset(host_tables(state), [vnic.name for vnic in state.vnics])

    agent = KernelAgent(AgentOptions("h", tmp_path / "desired", tmp_path, "eth0", enforcer=NFTABLES))
    monkeypatch.setattr(agent, "kernel", Kernel(), raising=False)
    monkeypatch.setattr("dfw.nftables.names.MOST_VNICS", 1)
    agent._take(state_encode(state_of(NFTABLES)))
    assert (agent.error, agent.realized, agent.wanted) == ("2 vNICs (at most 1)", 0, 7)


def test_what_a_kernel_does_not_enforce_is_named_by_vnic() -> None:
    state = state_of(NFTABLES)
    web, db = state.vnics
    changed = with_fields(state, vnics=(with_fields(web, flood=(0, 5, 0, 0)), db))
    assert unenforced_vnics(state) == {}
    assert unenforced_vnics(changed) == {
        "web": "it passes nothing: the enforcer nftables does not support flood protection"
    }
    tables = host_tables(changed)
    assert len(tables.tables[tables.table_of["web"]].entries) == 0 < len(tables.tables[tables.table_of["db"]].entries)
    item = connection(1, 9999, 0b0001)
    owners = vnic_owners(state)
    assert connections_refused([item], owners, host_tables(state)) == []
    assert connections_refused([item], owners, tables) == [item]
