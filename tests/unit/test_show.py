# SPDX-License-Identifier: Apache-2.0
"""What agents show of what is in force, and how it is asked for."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner

from dfw.core import EngineStats, HostStats
from dfw.load import load
from dfw.schema import schema_files
from overlay import realized
from overlay.ask import AskError, agent_ask
from overlay.health import Health, show_health
from overlay.hoststate import HostState
from overlay.show import show
from overlay.span import resolve_span

FRAMES = HostStats(9, 5, 8, 2, 0, {"spoof-mac": 3, "match": 1}, 0, 0, 0, 0)
SHOP = Path(__file__).resolve().parents[2] / "examples" / "shop"


@pytest.fixture(scope="module")
def state() -> HostState:
    world = load([str(SHOP / "inventory.yaml"), str(SHOP / "policy.yaml")]).world
    return resolve_span(world, 4, {})["esx-1"]


def test_tables_of_the_shop(state: HostState) -> None:
    macs = {(row["segment"], row["mac"]): row for row in realized.show_mac_table(state)}
    assert len(macs) == 9
    assert macs["web", "02:00:00:00:01:11"]["vnic"] == "web-1"
    assert (
        macs["web", "02:00:00:00:01:12"] | {"behind": "esx-2", "tep": "172.16.0.12"} == macs["web", "02:00:00:00:01:12"]
    )
    arp = {row["ip"]: row for row in realized.show_arp_table(state)}
    assert arp["10.1.3.1"]["of"] == "t1-shop"
    assert arp["2001:db8:3::11"]["mac"] == "02:00:00:00:03:11"
    tep = {"remote_host": "esx-2", "tep": "172.16.0.12", "encapsulation": "geneve", "segments": ["web", "app", "db"]}
    no_session_yet = dict.fromkeys(realized.NO_SESSION)
    assert realized.show_tep_table(state, {}) == [tep | no_session_yet]
    said = {"bfd": "UP", "dead": False}
    assert realized.show_tep_table(state, {"172.16.0.12": said}) == [tep | no_session_yet | said]
    segments = {row["segment"]: row for row in realized.show_segments(state)}
    assert (segments["ops"]["vnics_here"], segments["ops"]["replicated_to"]) == (3, [])
    assert {row["prefix"] for row in realized.show_gateways(state)} >= {"10.1.1.0/24", "2001:db8:4::/64"}
    sets = {row["set"]: row["members"] for row in realized.show_addrsets(state)}
    assert sets["/infra/domains/default/groups/db"] == ["10.1.3.11", "2001:db8:3::11"]


def test_rules_of_each_vnic_in_their_order_with_counters(state: HostState) -> None:
    path = next(rule.path for rule in state.rules if rule.path.endswith("shop/rules/anyone-to-web"))
    rows = realized.show_rules(state, {path: (1, 2, 300)})
    mine = [row for row in rows if row["vnic"] == "web-1"]
    assert [row["order"] for row in mine] == list(range(1, len(mine) + 1))
    assert mine[-1]["rule_path"].startswith("default/")
    # In the words of `explain` and of the policy's own field `category`.
    assert [*dict.fromkeys(row["tier"] for row in mine)] == ["Infrastructure", "Application", "Default"]
    assert {row["tier"] for row in realized.show_counters(state, {}, None)} >= {"Infrastructure", "Default"}
    (row,) = (row for row in mine if row["rule_path"] == path)
    assert (row["host_hits"], row["host_packets"], row["host_bytes"], row["action"]) == (1, 2, 300, "ALLOW")
    vnics = realized.show_vnics(state, {"web-1": 3}, {"ops-1": "no room"})
    assert {row["vnic"]: row["filter"] for row in vnics}["web-1"] == 3
    assert {row["vnic"]: row["problem"] for row in vnics}["ops-1"] == "no room"


def test_health_says_what_is_not_well() -> None:
    stats = EngineStats({("DROP", "no-ruleset"): 2, ("ALLOW", "state"): 9}, 11, 0, 0, 0, 0, 5, 900, 0, 1, 1000)
    rows = realized.show_stats(stats, FRAMES)
    assert [row["reason"] for row in rows if "verdict" in row] == ["state", "no-ruleset"]
    frames = {(row["frames"], row["reason"]): row["count"] for row in rows if "frames" in row}
    assert frames["dropped", "spoof-mac"] == 3
    received = frames["from_vnics", None] + frames["from_uplink", None]
    assert received == sum(count for (what, _), count in frames.items() if not what.startswith("from"))
    tables = {"IPv4": (5, 1000), "IPv6": (9, 10)}
    well = Health(3, 3, None, {"IPv4": (800, 1000)})
    assert {row["check"] for row in show_health(well)} == {
        "revision",
        "table",
        "workers",
        "epoch",
        "holder",
        "card",
        "log",
    }
    assert all(row["ok"] for row in show_health(well))
    ill = Health(4, 3, None, tables, [1], {0: 2}, holder_lives=False, problems={"web-1": "no namespace"}, log="lost")
    assert not any(row["ok"] for row in show_health(ill))
    says = {row["check"]: row["says"] for row in show_health(ill)}
    assert says["revision"] == "3 of 4" and "IPv6 9 of 10" in says["table"] and "worker 0 by 2" in says["epoch"]
    assert says["card"] == "web-1: no namespace"
    assert show_health(Health(4, 3, "it was refused", tables))[0]["says"] == "it was refused"
    for unmended in (None, "changed by somebody else"):
        rules = {row["check"]: row for row in show_health(replace(well, mended="never", unmended=unmended))}["rules"]
        assert (rules["ok"], rules["says"]) == (unmended is None, unmended or "never")


def test_groups_and_counters_of_the_shop(state: HostState) -> None:
    groups = {row["group"].rpartition("/")[2]: row for row in realized.show_groups(state)}
    assert groups["db"]["addresses"] == ["10.1.3.11", "2001:db8:3::11"]
    assert groups["web"]["vnics"] == ["web-1"], "web-2 is on the other host"
    assert all(row["rules"] for row in groups.values())
    path = next(rule.path for rule in state.rules if rule.path.endswith("shop/rules/anyone-to-web"))
    rows = {row["rule_path"]: row for row in realized.show_counters(state, {path: (1, 2, 300)}, None)}
    assert (rows[path]["hits"], rows[path]["packets"], rows[path]["bytes"], rows[path]["since"]) == (1, 2, 300, None)
    assert 0 < rows[path]["vnics"] <= len(state.vnics)
    assert len(rows) == len(realized.show_counters(state, {}, datetime.now(UTC)))


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, bytes | None], None]]:
    """Stand-ins for agents: each answers every request with the same bytes (None: with nothing)."""
    monkeypatch.setenv("PALISADE_RUN", str(tmp_path))
    folder = tmp_path / "labs" / "one"
    listeners: list[socket.socket] = []

    def agent(host: str, answer: bytes | None) -> None:
        run = folder / "hosts" / host / "run"
        run.mkdir(parents=True)
        (folder / "lab.json").touch()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(run / "agent.sock"))
        listener.listen()
        listeners.append(listener)

        def serve() -> None:
            try:
                while True:
                    client, _ = listener.accept()
                    client.makefile("rb").readline()
                    client.sendall(answer or b"")
                    client.close()
            except OSError:
                pass

        threading.Thread(target=serve, daemon=True).start()

    yield agent
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def rows_of(*rows: dict[str, Any]) -> bytes:
    return json.dumps({"rows": rows}).encode() + b"\n"


def test_rows_of_all_hosts_stand_together(lab: Callable[[str, bytes | None], None]) -> None:
    lab("h1", rows_of({"vnic": "a", "ips": ["10.0.0.1", "::1"]}))
    lab("h2", rows_of({"vnic": "b", "ips": []}))
    found = CliRunner().invoke(show, ["vnics", "-o", "json"])
    assert found.exit_code == 0
    assert [(row["host"], row["vnic"]) for row in json.loads(found.stdout)] == [("h1", "a"), ("h2", "b")]
    assert "10.0.0.1, ::1" in CliRunner().invoke(show, ["vnics", "--host", "h1"]).stdout
    assert CliRunner().invoke(show, ["vnics", "--host", "h3"]).exit_code == 2


def test_no_problems_are_an_empty_cell(lab: Callable[[str, bytes | None], None]) -> None:
    lab("h1", rows_of({"pid": 7, "problems": {}}))
    lab("h2", rows_of({"pid": 8, "problems": {"web-1": "no card", "web-2": "no MAC"}}))
    lines = [line.split(None, 2) for line in CliRunner().invoke(show, ["hosts"]).stdout.splitlines()[1:]]
    assert lines == [["h1", "7"], ["h2", "8", "web-1: no card, web-2: no MAC"]]


def test_a_host_that_is_silent_is_named_and_the_others_are_shown(lab: Callable[[str, bytes | None], None]) -> None:
    lab("h1", rows_of({"vnic": "a"}))
    lab("h2", None)
    lab("h3", b'{"error": "no such thing"}\n')
    found = CliRunner().invoke(show, ["vnics", "-o", "json"])
    assert found.exit_code == 1
    assert [row["host"] for row in json.loads(found.stdout)] == ["h1"]
    assert "h2: " in found.stderr and "h3: no such thing" in found.stderr


def test_bad_health_is_a_no(lab: Callable[[str, bytes | None], None]) -> None:
    lab("h1", rows_of({"check": "table", "ok": False, "says": "full"}))
    assert CliRunner().invoke(show, ["health"]).exit_code == 1


def test_what_is_ended_is_counted_by_host(lab: Callable[[str, bytes | None], None]) -> None:
    lab("h1", b'{"ended": 3}\n')
    lab("h2", b'{"ended": 0}\n')
    found = CliRunner().invoke(show, ["flows", "--kill", "proto=tcp,dport=80"])
    assert found.exit_code == 0 and found.stdout == "3 connections ended: 3 on h1, 0 on h2\n"
    found = CliRunner().invoke(show, ["flows", "--kill", "all", "-o", "json"])
    assert json.loads(found.stdout) == [{"host": "h1", "ended": 3}, {"host": "h2", "ended": 0}]


def test_what_is_left_out_is_said(lab: Callable[[str, bytes | None], None]) -> None:
    lab("h1", b'{"rows": [{"vnic": "a"}], "total": 3}\n')
    found = CliRunner().invoke(show, ["flows", "--limit", "1"])
    assert found.exit_code == 0 and "h1: 1 of 3 connections" in found.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["vnics", "--kill", "all"], "are for `show flows`"),
        (["flows", "--reset"], "are for `show rules`"),
        (["flows", "--kill", "all", "--match", "all"], "leave out --match"),
        (["flows", "--kill", "dport"], "a term is NAME=VALUE"),
        (["flows", "--match", "dport=http"], "is not a port"),
    ],
)
def test_options_that_do_not_fit(arguments: list[str], says: str) -> None:
    found = CliRunner().invoke(show, arguments)
    assert found.exit_code == 2 and says in found.stderr


def test_no_agent_and_no_json(tmp_path: Path, lab: Callable[[str, bytes | None], None]) -> None:
    with pytest.raises(AskError, match="does not answer"):
        agent_ask(tmp_path / "nobody", {"do": "status"})
    lab("h1", b"not json\n")
    with pytest.raises(AskError, match="ended before"):
        agent_ask(tmp_path / "labs/one/hosts/h1/run/agent.sock", {"do": "status"})


def test_every_row_is_what_the_schema_says(state: HostState) -> None:
    validator = jsonschema.Draft202012Validator(json.loads(schema_files()["show"].read_text(encoding="utf-8")))
    stats = EngineStats({("DROP", "no-ruleset"): 2}, 2, 0, 0, 0, 0, 0, 0, 0, 1, 1000)
    tables = [show_one(state) for show_one in realized.STATE_SHOWS.values()]
    tables += [realized.show_vnics(state, {}, {}), realized.show_rules(state, {}), realized.show_stats(stats, FRAMES)]
    tables += [realized.show_counters(state, {}, None), realized.show_counters(state, {}, datetime.now(UTC))]
    tables += [show_health(Health(1, 1, None, {})), [{"ended": 3}]]
    for rows in tables:
        assert rows
        validator.validate([{"host": "esx-1"} | row for row in rows])
    assert not validator.is_valid([{"host": "esx-1", "something": "else"}])


def test_what_is_typed_says_more_than_a_setting(tmp_path: Path) -> None:
    """`--run` with PALISADE_LAB_NAME in the environment is that host; both typed contradict each other."""

    def says(*words: str) -> str:
        environment = {"PALISADE_LAB_NAME": "shop", "PALISADE_RUN": str(tmp_path)}
        done = CliRunner().invoke(show, ["vnics", *words], env=environment, standalone_mode=False)
        return str(done.exception)

    host = str(tmp_path / "host")
    assert "there is no lab 'shop'" in says()
    assert "there is no lab 'other'" in says("--lab", "other")
    assert str(Path(host) / "agent.sock") in says("--run", host)
    assert "give one of them" in says("--run", host, "--lab", "shop")
