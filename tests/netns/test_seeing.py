# SPDX-License-Identifier: Apache-2.0
"""What is seen of two live hosts while real connections run between workloads on them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dfw import cli
from dfw.schema import schema_files
from tests.netns.test_agent import IPS, TwoHosts
from tests.support.patience import PATIENCE, until
from tests.support.pcapng import read_pcapng

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_netns, pytest.mark.needs_tun, pytest.mark.needs_ipv6]

POLICY = """
resource_type: Group
id: db
expression: [{resource_type: IPAddressExpression, ip_addresses: [10.0.1.11, "2001:db8:1::11"]}]
---
resource_type: SecurityPolicy
id: p
category: Application
rules:
  - {id: web, destination_groups: [db], services: [HTTP], action: ALLOW, logged: true, tag: "shop front"}
  - {id: refused, services: [SSH], action: REJECT, logged: true}
  - {id: silent, services: [MySQL], action: DROP}
"""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoHosts]:
    """Running; and a lab's directory through which the command line finds the two."""
    found = TwoHosts(tmp_path_factory.mktemp("seeing"))
    lab = found.folder / "run" / "labs" / "one"
    lab.mkdir(parents=True)
    (lab / "lab.json").touch()
    for host in ("h1", "h2"):
        (lab / "hosts" / host).mkdir(parents=True)
        (lab / "hosts" / host / "run").symlink_to(found.folder / host)
    try:
        found.build()
        found.tell(POLICY)
        found.start()
        yield found
    finally:
        found.end()


Command = Callable[..., Any]


@pytest.fixture
def palisade(hosts: TwoHosts, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """A verb with `-o json`, its answer checked by the verb's schema."""
    monkeypatch.setenv("PALISADE_RUN", str(hosts.folder / "run"))

    def command(*arguments: str, status: int = 0) -> Any:
        capfd.readouterr()
        assert cli.run([*arguments, "-o", "json"]) == status, capfd.readouterr()
        data = json.loads(capfd.readouterr().out)
        jsonschema.validate(data, json.loads(schema_files()[arguments[0]].read_text()))
        return data

    return command


def test_connections_are_shown_and_ended(hosts: TwoHosts, palisade: Command) -> None:
    with hosts.listen("b", socket.AF_INET, 80) as listener:
        client = hosts.connect("a", IPS["b"][0], 80)
        server = listener.accept()[0]
        client.sendall(b"x" * 1000)
        server.recv(1000)
        port = client.getsockname()[1]
        rows = palisade("show", "flows", "--match", f"sport={port},proto=tcp")
        assert [(row["host"], row["vnic"], row["dir"]) for row in rows] == [("h1", "a", "OUT"), ("h2", "b", "IN")]
        for row in rows:
            assert (row["src"], row["dst"], row["dport"], row["state"]) == ("10.0.1.10", "10.0.1.11", 80, "ESTABLISHED")
            assert row["rule_path"].endswith("/p/rules/web") and row["bytes"] > 1000
            assert 3600 < row["expires"] <= 43200
        assert len(palisade("show", "flows", "--limit", "1", "--host", "h1")) == 1
        assert palisade("show", "flows", "--kill", f"sport={port},proto=tcp") == [
            {"host": "h1", "ended": 1},
            {"host": "h2", "ended": 1},
        ]
        assert palisade("show", "flows", "--match", f"sport={port},proto=tcp") == []
        client.close()
        server.close()


def test_groups_counters_and_health(hosts: TwoHosts, palisade: Command) -> None:
    groups = {row["host"]: row for row in palisade("show", "groups")}
    assert groups["h2"]["addresses"] == ["10.0.1.11", "2001:db8:1::11"] and groups["h2"]["vnics"] == ["b"]
    assert groups["h1"]["vnics"] == []

    def hits(*options: str) -> dict[str, int]:
        rows = palisade("show", "rules", "--counters", *options)
        return {row["host"]: row["hits"] for row in rows if row["rule_path"].endswith("/p/rules/refused")}

    hits("--reset")
    assert hits() == {"h1": 0, "h2": 0}
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            hosts.connect("a", IPS["c"][0], 22)
    counted = hits()
    assert counted["h1"] >= 2 and counted["h2"] == 0, "refused where it was sent; on a busy machine SYN comes twice"
    assert hits("--reset") == counted
    assert hits() == {"h1": 0, "h2": 0}
    health = palisade("show", "health")
    assert {row["check"] for row in health} >= {"revision", "table", "workers", "epoch", "holder", "card"}


def test_logged_rules_are_logged_on_each_host_and_the_files_may_be_moved_away(
    hosts: TwoHosts, palisade: Command
) -> None:
    def lines(host: str, name: str = "dfwpktlogs.jsonl") -> list[str]:
        path = hosts.folder / host / name
        return path.read_text().splitlines() if path.exists() else []

    def of_port(host: str, port: int) -> list[dict[str, Any]]:
        return [row for row in map(json.loads, lines(host)) if row["sport"] == port]

    with hosts.listen("b", socket.AF_INET6, 80) as listener:
        client = hosts.connect("a", IPS["b"][1], 80)
        port = client.getsockname()[1]
        listener.accept()[0].close()
        client.close()
    for host, vnic, direction in (("h1", "a", "OUT"), ("h2", "b", "IN")):
        (first,) = until(lambda host=host: of_port(host, port), "no line")  # type: ignore[misc]
        assert (first["event"], first["vnic"], first["dir"]) == ("packet", vnic, direction)
        assert (first["verdict"], first["tcp_flags"], first["label"]) == ("ALLOW", "S", "shop front")
        nsx = [line for line in lines(host, "dfwpktlogs.log") if f"/{port}->" in line]
        assert nsx[0].endswith(
            f"match PASS {first['rule']} {direction} 80 TCP 2001:db8:1::10/{port}->2001:db8:1::11/80 S shop front"
        )
    moved = hosts.folder / "h1" / "dfwpktlogs.jsonl"
    moved.rename(moved.with_suffix(".1"))
    with pytest.raises(ConnectionRefusedError):
        hosts.connect("a", IPS["c"][0], 22)
    refused = until(lambda: [row for row in map(json.loads, lines("h1")) if row["dport"] == 22], "no line")[0]
    assert (refused["verdict"], refused["rule_path"].rpartition("/")[2]) == ("REJECT", "refused")
    palisade("show", "flows", "--kill", f"sport={port}")
    first, end = until(lambda: found if len(found := of_port("h2", port)) == 2 else None, "no end")
    assert end["event"] == "end" and end["packets"] > 2 and end["reason"] in ("cleared", "fin", "rst")
    assert {row["ok"] for row in palisade("show", "health") if row["check"] == "log"} == {True}


def capture_begin(hosts: TwoHosts, *arguments: str) -> subprocess.Popen[bytes]:
    """The command, which runs until it is told."""
    environment = {**os.environ, "PALISADE_RUN": str(hosts.folder / "run")}
    return subprocess.Popen([sys.executable, "-m", "dfw", "capture", *arguments], env=environment, stdout=-1, stderr=-1)


class Traffic(threading.Thread):
    """Connections from a to b, which are refused, until it is left."""

    def __init__(self, hosts: TwoHosts) -> None:
        super().__init__(daemon=True)
        self.hosts, self.ended = hosts, threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.02):
            with contextlib.suppress(OSError):
                self.hosts.connect("a", IPS["b"][0], 22, 1).close()
            with contextlib.suppress(OSError):
                self.hosts.connect("a", IPS["b"][0], 80, 1).close()

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.join()


def test_a_capture_of_so_many_packets(hosts: TwoHosts, palisade: Command, tmp_path: Path) -> None:
    file = tmp_path / "a.pcapng"
    with Traffic(hosts):
        assert cli.run(["capture", "a", "--count", "12", "--proto", "tcp", "-w", str(file)]) == 0
    packets = read_pcapng(file)
    assert len(packets) == 12
    assert all(abs(packet.ts_ns - time.time_ns()) < 60 * 10**9 for packet in packets)
    comments = {packet.comment for packet in packets}
    rejected = [comment for comment in comments if comment.startswith("REJECT match by ")]
    assert len(rejected) == 1 and rejected[0].endswith('/p/rules/refused", "vnic": "a", OUT')
    assert any(comment.startswith("made by this host") for comment in comments), "the RST"
    web = [comment for comment in comments if '/p/rules/web", "vnic": "a", OUT' in comment]
    assert web and {packet.direction for packet in packets} == {1, 2}


def test_an_uplink_until_interrupted_and_a_client_that_goes_away(
    hosts: TwoHosts, palisade: Command, tmp_path: Path
) -> None:
    with Traffic(hosts):
        capture = capture_begin(hosts, "uplink", "--host", "h2")
        assert capture.stdout is not None and capture.stderr is not None
        data = capture.stdout.read(2000)
        capture.send_signal(signal.SIGINT)
        data += capture.stdout.read()
        assert capture.wait(PATIENCE) == 0, capture.stderr.read()
        assert b" packets\n" in capture.stderr.read()
        (tmp_path / "up.pcapng").write_bytes(data)
        packets = read_pcapng(tmp_path / "up.pcapng")
        one, two = (socket.inet_aton(f"172.16.0.{n}") for n in (1, 2))
        assert {bytes(packet.data[12:20]) for packet in packets} == {one + two, two + one}
        assert {packet.linktype for packet in packets} == {101}
        for pipe in (capture.stdout, capture.stderr):
            pipe.close()
        # Four at a time; those whose client is gone are ended.
        clients = [capture_raw(hosts, "h2", "b") for _ in range(4)]
        with capture_raw(hosts, "h2", "b") as fifth:
            assert b"4 captures run already" in fifth.makefile("rb").readline()
        for client in clients:
            assert client.makefile("rb").readline().startswith(b'{"tep": "172.16.0.2"')
            client.close()

        def begins() -> bool:
            return cli.run(["capture", "b", "--count", "1", "-w", str(tmp_path / "b.pcapng")]) == 0

        until(begins, "no capture is free")


def capture_raw(hosts: TwoHosts, host: str, at: str) -> socket.socket:
    """A client that has asked for a capture, and says no more."""
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    found.settimeout(PATIENCE)
    found.connect(str(hosts.folder / host / "agent.sock"))
    found.sendall(json.dumps({"do": "capture", "at": at}).encode() + b"\n")
    return found


def test_captures_that_cannot_be(hosts: TwoHosts, palisade: Command, capfd: pytest.CaptureFixture[str]) -> None:
    for arguments, says in (
        (["nobody", "-w", "/dev/null"], "no host has a vNIC"),
        (["uplink", "-w", "/dev/null"], "the uplink of which host?"),
        (["a", "--port", "http", "-w", "/dev/null"], "--port"),
        (["a", "--address", "10.0", "-w", "/dev/null"], "--address"),
        (["a", "-w", "/nowhere/a.pcapng"], "/nowhere/a.pcapng: No such file or directory\n"),
    ):
        assert cli.run(["capture", *arguments]) == 2
        assert says in capfd.readouterr().err
