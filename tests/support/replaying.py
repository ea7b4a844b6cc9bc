# SPDX-License-Identifier: Apache-2.0
"""`palisade replay` in tests: small captures, a policy and an inventory for them, and what the command came to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest

from dfw import cli
from dfw.schema import schema_files
from tests.support.capture_mutations import pcap_write
from tests.support.pcap import Captured
from tests.support.wire import ACK, FIN, SYN, End, arp, ethernet
from tests.support.wire import Path as WirePath

ETHERNET, RAW, WLAN = 1, 101, 105
CLIENT, SERVER = End("10.0.0.1", "02:00:00:00:00:01"), End("10.0.0.2", "02:00:00:00:00:02")
THERE = WirePath(CLIENT, SERVER)
BACK = THERE.back
NOW = 1_700_000_000_123_456_789

POLICY = """\
resource_type: SecurityPolicy
id: p
category: Application
rules:
  - {id: web, services: [HTTP], action: ALLOW}
  - {id: mysql, services: [MySQL], action: REJECT}
  - {id: names, services: [DNS-UDP], action: ALLOW}
  - {id: rest, action: DROP}
"""
INVENTORY = """\
apiVersion: palisade.internal/v1alpha1
kind: Inventory
hosts: [{name: h}]
segments: [{name: s, vni: 5001, subnets: [10.0.0.0/24]}]
ports:
  - {name: client, host: h, segment: s, mac: "02:00:00:00:00:01", ips: [10.0.0.1]}
  - {name: server, host: h, segment: s, mac: "02:00:00:00:00:02", ips: [10.0.0.2]}
"""


class Done(NamedTuple):
    """What a command line came to."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What `-o json` printed."""
        return json.loads(self.out)


Run = Callable[..., Done]


def replayer(capfd: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run("cap.pcap", …)`: `palisade replay` with POLICY, in this folder, which has INVENTORY too."""
    monkeypatch.chdir(folder)
    Path("p.yaml").write_text(POLICY)
    Path("i.yaml").write_text(INVENTORY)

    def replay(*arguments: str, policy: str = "p.yaml") -> Done:
        capfd.readouterr()
        status = cli.run(["replay", *arguments, "--policy", policy])
        return Done(status, *capfd.readouterr())

    return replay


def frame(packet: bytes, path: WirePath = THERE) -> bytes:
    """The Ethernet frame of an IP packet."""
    return ethernet(path, packet)


def capture(name: str, frames: Iterable[bytes], link: int = ETHERNET, step_ns: int = 1_000_001) -> str:
    """Write a capture, nanoseconds, from NOW on; its name again."""
    Path(name).write_bytes(
        pcap_write([Captured(NOW + number * step_ns, data, len(data), link) for number, data in enumerate(frames)])
    )
    return name


def conversation(sport: int = 1000) -> list[bytes]:
    """A connection to the web server from SYN to the last ACK."""
    syn_ack = BACK.tcp(80, sport, 500, 101, SYN | ACK, 9000)
    return [
        frame(THERE.tcp(sport, 80, 100, 0, SYN, 9000)),
        frame(syn_ack, BACK),
        frame(THERE.tcp(sport, 80, 101, 501, ACK, 9000, b"GET")),
        frame(BACK.tcp(80, sport, 501, 104, ACK, 9000, b"200"), BACK),
        frame(THERE.tcp(sport, 80, 104, 504, FIN | ACK, 9000)),
        frame(BACK.tcp(80, sport, 504, 105, FIN | ACK, 9000), BACK),
        frame(THERE.tcp(sport, 80, 105, 505, ACK, 9000)),
    ]


def refused() -> list[bytes]:
    """What the policy rejects, what it drops, and what is not IP."""
    return [frame(THERE.tcp(1001, 3306, 7, 0, SYN, 9000)), frame(THERE.udp(1002, 99, b"x")), arp(THERE)]


def lines(name: str) -> list[dict[str, Any]]:
    """A file of JSON lines, after asserting that they are as their schema says."""
    found = [json.loads(line) for line in Path(name).read_text().splitlines()]
    check_lines(found)
    return found


_CHECKED = 100  # lines of a file: a schema takes longer than a replay
_KIND_OF_KEY = {"ct": "replay-verdicts", "history": "replay-flows", "event": "replay-log"}


def check_lines(found: Sequence[Mapping[str, Any]]) -> None:
    """Assert that verdicts, flows or log lines are as their schema says."""
    for key, kind in _KIND_OF_KEY.items():
        if found and key in found[0]:
            schema = json.loads(schema_files()[kind].read_text(encoding="utf-8"))
            validator = jsonschema.Draft202012Validator(schema)
            for line in found[:_CHECKED]:
                validator.validate(line)
            return
    assert not found, f"lines of no known kind: {found[0]}"


def check_schema(done: Done) -> Any:
    """What `-o json` printed, after asserting that it is as its schema says."""
    schema = json.loads(schema_files()["replay"].read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(done.json)
    return done.json
