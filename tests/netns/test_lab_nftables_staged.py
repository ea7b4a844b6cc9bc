# SPDX-License-Identifier: Apache-2.0
"""Staged policies in a lab whose kernels enforce: nothing that pods do is another thing by them, and what they would
cut is counted, of connections that are open already, too."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest
from msgspec.structs import replace

from dfw import cli
from overlay.ask import agent_ask
from overlay.hoststate import HostState, state_read, state_write
from overlay.lab_record import LabPaths
from tests.netns.test_lab_ether import OPEN, frame, heard, wire_of
from tests.netns.test_lab_nftables import connected, lab_test, pod_socket, shop_by_kernel, shown
from tests.netns.test_lab_probe import run  # noqa: F401 (a fixture)
from tests.support.patience import PATIENCE
from tests.unit.test_metrics import samples_of

HOSTS = ("esx-1", "esx-2")


def staged_of(policy: str, before: str, after: str) -> str:
    """The policies once more, staged, with one rule of them another one."""
    changed = policy.replace(before, after)
    assert changed != policy
    documents = [text for text in changed.split("---\n") if "resource_type: SecurityPolicy" in text and after in text]
    (document,) = documents
    return "---\n" + document.replace("rules:", "staged: true\nrules:", 1)


def sums(capfd: pytest.CaptureFixture[str]) -> dict[object, int]:
    """Of all hosts: how many packets would be cut, and newly pass."""
    found: dict[object, int] = {}
    for row in shown(capfd, "stats"):
        if str(row["reason"]).startswith("staged"):
            found[row["reason"]] = found.get(row["reason"], 0) + int(str(row["judgements"]))
    return found


@lab_test
def test_staged_policies_are_counted_and_never_act(
    run: Path,  # noqa: F811
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    files = shop_by_kernel(tmp_path)
    policy = Path(files[1])
    text = policy.read_text()
    mysql = "services: [MySQL], action: ALLOW"
    assert cli.run(["lab", "up", "-q", *files]) == 0
    assert sums(capfd) == {} and not any(row["staged"] for row in shown(capfd, "rules", "--counters"))
    with ExitStack() as opened:
        listener = opened.enter_context(pod_socket("db-1", listens=3306))

        def begin() -> tuple[socket.socket, socket.socket]:
            one = opened.enter_context(pod_socket("app-1"))
            one.connect(("10.1.3.11", 3306))
            other = opened.enter_context(listener.accept()[0])
            other.settimeout(PATIENCE)
            return one, other

        client, server = begin()

        def talk() -> None:
            for end, other in ((client, server), (server, client)):
                end.sendall(b"going on")
                assert other.recv(8) == b"going on"

        talk()
        # A staged policy that allows this connection as the one in force does: nothing of it would be cut.
        policy.write_text(
            text + staged_of(text, "services: [DNS-UDP], action: ALLOW", "services: [DNS-UDP], action: DROP")
        )
        assert cli.run(["lab", "up", "-q", *files]) == 0
        talk()
        assert sums(capfd) == {"staged-cut": 0, "staged-pass": 0}
        assert shown(capfd, "flows", "--staged") == []
        # One that does not: what follows of it would be cut, and is not.
        policy.write_text(text + staged_of(text, mysql, mysql.replace("ALLOW", "DROP")))
        assert cli.run(["lab", "up", "-q", *files]) == 0
        before = sums(capfd)["staged-cut"]
        talk()
        cut = sums(capfd)["staged-cut"]
        assert cut >= before + 4, (before, cut)
        assert {row["dport"] for row in shown(capfd, "flows", "--staged")} == {3306}
        # A new connection is asked about, by the rule as it would be.
        begin()
        staged = [row for row in shown(capfd, "rules", "--counters") if row["staged"]]
        assert {row["host"] for row in staged} == set(HOSTS)
        asked = {(str(row["rule_path"]).rpartition("/")[2], row["action"]) for row in staged if row["packets"]}
        assert ("app-to-db", "DROP") in asked, asked
        answer = agent_ask(LabPaths(run / "labs" / "lab").host("esx-1") / "run" / "agent.sock", {"do": "metrics"})
        samples = samples_of(answer["text"])
        assert ("palisade_agent_staged_packets_total", ("change", "cut"), ("host", "esx-1")) in samples
    policy.write_text(text)
    assert cli.run(["lab", "up", "-q", *files]) == 0
    assert sums(capfd) == {}


@lab_test
def test_what_a_kernel_cannot_enforce_stops_one_vnic_by_name_and_no_other(
    run: Path,  # noqa: F811
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    files = shop_by_kernel(tmp_path)
    assert cli.run(["lab", "up", "-q", *files]) == 0
    paths = LabPaths(run / "labs" / "lab")
    desired = paths.host("esx-1") / "desired.json"
    before = state_read(desired)
    (app,) = (vnic.name for vnic in before.vnics if vnic.name == "app-1")

    def told(state: HostState) -> list[object]:
        """What is wrong on that host, when it has been told."""
        state_write(desired, state)
        agent_ask(paths.socket("esx-1"), {"do": "apply"}, PATIENCE)
        rows = agent_ask(paths.socket("esx-1"), {"do": "show", "what": "health"}, PATIENCE)["rows"]
        return [row["says"] for row in rows if not row["ok"] and row["check"] != "log"]

    with ExitStack() as opened:
        cut = connected(opened, app, "db-1", "10.1.3.11", 3306)
        kept = connected(opened, "ops-1", "web-1", "10.1.1.11", 80)
        changed = [
            replace(vnic, flood=(5, 0, 0, 0), timers=(1, *vnic.timers[1:])) if vnic.name == app else vnic
            for vnic in before.vnics
        ]
        words = "flood protection and session timers other than the default"
        assert told(replace(before, revision=before.revision + 1, vnics=tuple(changed))) == [
            f"{app}: it passes nothing: the enforcer nftables does not support {words}"
        ]
        cut[0].sendall(b"lost")
        wires = [opened.enter_context(wire_of(name)) for name in (app, "app-2")]
        wires[0].send(frame(app, "app-2", OPEN, b"lost"))
        for end, other in (kept, kept[::-1]):
            end.sendall(b"kept")
            assert other.recv(4) == b"kept"
        assert shown(capfd, "flows", "--host", "esx-1", "--match", f"vnic={app}") == []
        assert told(replace(before, revision=before.revision + 2)) == []
        wires[0].send(frame(app, "app-2", OPEN, b"again"))
        assert heard(wires[1], b"again") == [b"again"]
        again = opened.enter_context(pod_socket(app))
        again.connect(("10.1.1.11", 80))
