# SPDX-License-Identifier: Apache-2.0
"""Layer-2 rules on live hosts: what a kernel does with frames is what the core does, for IP, for all else, and for
connections that are there."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from dfw import cli
from overlay.kernel_tunnels import bridge_name
from overlay.lab_record import LabPaths, labs_folder, record_read
from overlay.namespace import namespace_entered
from tests.netns.test_lab_nftables import EXAMPLE, SHOP, connected, lab_test, shown
from tests.netns.test_lab_probe import probe, run  # noqa: F401 (a fixture)
from tests.support.patience import PATIENCE, until
from tests.support.wire import End, arp
from tests.support.wire import Path as WirePath

MACS = {
    "web-1": "02:00:00:00:01:11",
    "web-2": "02:00:00:00:01:12",
    "ops-1": "02:00:00:00:01:21",
    "app-1": "02:00:00:00:02:11",
    "app-2": "02:00:00:00:02:12",
    "dns-1": "02:00:00:00:02:53",
}
EVERYBODY = "ff:ff:ff:ff:ff:ff"
SECRET, OPEN = 0x88B5, 0x88B6  # for local experiments (IEEE 802)
LAYER_2 = """\
resource_type: SecurityPolicy
id: frames
category: Ethernet
rules:
  - {id: no-v6, service_entries: [{resource_type: EtherTypeServiceEntry, ether_type: 0x86dd}], action: DROP, scope: [app-1-port], logged: true}
  - {id: to-web, source_groups: [ops-1-port], service_entries: [{resource_type: EtherTypeServiceEntry, ether_type: 0x88b5}], action: DROP, direction: IN, scope: [web-1-port]}
  - {id: from-app, service_entries: [{resource_type: EtherTypeServiceEntry, ether_type: 0x88b5}], action: DROP, direction: OUT, scope: [app-1-port]}
"""  # noqa: E501
CUT = """\
---
resource_type: SecurityPolicy
id: cut
category: Ethernet
rules:
  - {id: all, action: DROP, scope: [web-1-port], direction: IN, logged: true}
  - {id: arp, service_entries: [{resource_type: EtherTypeServiceEntry, ether_type: 0x806}], action: DROP, direction: IN, scope: [dns-1-port]}
"""  # noqa: E501
STAGED = """\
---
resource_type: SecurityPolicy
id: frames
category: Ethernet
staged: true
rules:
  - {id: no-open, service_entries: [{resource_type: EtherTypeServiceEntry, ether_type: 0x88b6}], action: DROP, direction: OUT, scope: [ops-1-port]}
  - {id: no-ip, service_entries: [{resource_type: EtherTypeServiceEntry, ether_type: 0x800}], action: DROP, direction: OUT, scope: [app-1-port]}
  - {id: to-ops, source_groups: [web-1-port], action: DROP, direction: IN, scope: [ops-1-port]}
"""  # noqa: E501
PORT = """\
---
resource_type: Group
id: {name}-port
expression: [{{resource_type: PathExpression, paths: [/infra/segments/{segment}/ports/{name}]}}]
"""


def groups() -> str:
    """A group for each port that rules name."""
    segments = {"app-1": "back", "dns-1": "back", "ops-1": "front", "web-1": "front"}
    return "".join(PORT.format(name=name, segment=segment) for name, segment in segments.items())


def wire_of(pod: str) -> socket.socket:
    """A pod's wire: frames as they are."""
    paths = LabPaths(labs_folder() / "lab")
    record = record_read(paths)
    assert record is not None
    with namespace_entered(paths.room / record.pods[pod].netns):
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        made.bind(("eth0", 3))
    made.settimeout(PATIENCE)
    return made


def router_wire(host: str, vni: int) -> socket.socket:
    """What comes to the host itself off one segment."""
    with namespace_entered(LabPaths(labs_folder() / "lab").host_netns(host)):
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        made.bind((bridge_name(vni), 3))
    made.settimeout(PATIENCE)
    return made


def frame(sender: str, receiver: str, kind: int, text: bytes) -> bytes:
    """A frame between two pods, or for everybody."""
    macs = (MACS.get(receiver, EVERYBODY), MACS[sender])
    return (
        b"".join(bytes.fromhex(mac.replace(":", "")) for mac in macs) + kind.to_bytes(2, "big") + text.ljust(46, b".")
    )


def everything(wire: socket.socket, last: bytes) -> list[bytes]:
    """The frames that came to a pod, up to one of our EtherTypes with this text."""
    found: list[bytes] = []
    while not found or kind_of(found[-1]) not in (SECRET, OPEN) or not found[-1][14:].startswith(last):
        data, (_, _, direction, *_) = wire.recvfrom(2048)
        if direction != socket.PACKET_OUTGOING:
            found.append(data)
    return found


def heard(wire: socket.socket, last: bytes) -> list[bytes]:
    """The texts of the frames of our EtherTypes among them."""
    return [data[14:].rstrip(b".") for data in everything(wire, last) if kind_of(data) in (SECRET, OPEN)]


def kind_of(data: bytes) -> int:
    return int.from_bytes(data[12:14], "big")


@lab_test
def test_frames_by_kernel_and_core(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    text = (EXAMPLE / "inventory.yaml").read_text().replace("{name: esx-1", "{enforcer: nftables, name: esx-1")
    files = [tmp_path / "inventory.yaml", tmp_path / "frames.yaml"]
    files[0].write_text(text)
    files[1].write_text(LAYER_2 + groups())
    up = ["lab", "up", "-q", *map(str, files), str(EXAMPLE / "neighbours.yaml"), str(SHOP / "policy.yaml")]
    assert cli.run(up) == 0
    six = probe(capfd, "--family", "6", "--ports", "tcp/80,icmp")
    assert all(
        row["observed"] == "denied" for row in six if "app-1" in (row["from"], row["to"]) and row["from"] != row["to"]
    )
    with ExitStack() as opened:
        wires = {name: opened.enter_context(wire_of(name)) for name in MACS}
        router = opened.enter_context(router_wire("esx-1", 5001))
        # What is not IP passes, but where a rule drops it: coming in at one, going out at another; to other hosts too.
        for sender, kind, receiver in (
            ("ops-1", SECRET, "web-1"),
            ("ops-1", SECRET, "all"),
            ("web-2", SECRET, "web-1"),
            ("app-1", SECRET, "dns-1"),
            ("app-1", OPEN, "dns-1"),
            ("ops-1", OPEN, "all"),
        ):
            wires[sender].send(frame(sender, receiver, kind, f"{sender} {kind:x} {receiver}".encode()))
        # The last one may overtake on its way between the hosts.
        assert set(heard(wires["web-1"], b"web-2")) - {b"ops-1 88b6 all"} == {b"web-2 88b5 web-1"}
        assert heard(wires["web-2"], b"ops-1 88b6")[-2:] == [b"ops-1 88b5 all", b"ops-1 88b6 all"]
        assert heard(wires["dns-1"], b"app-1") == [b"app-1 88b6 dns-1"]
        # The host itself sees none of it.
        wires["ops-1"].send(arp(WirePath(End("10.1.1.21", MACS["ops-1"]), End("10.1.1.1", EVERYBODY))))
        came = set()
        while 0x0806 not in came:
            came.add(kind_of(router.recv(2048)))
        assert not came & {SECRET, OPEN}
        hits = {
            str(row["rule_path"]).rpartition("/")[2]: row["packets"]
            for row in shown(capfd, "rules", "--counters", "--host", "esx-1")
        }
        assert (hits["to-web"], hits["from-app"]) == (2, 1) and hits["no-v6"]
        log = LabPaths(run / "labs" / "lab").host("esx-1") / "run" / "dfwpktlogs.jsonl"

        def refused(rule: str) -> set[tuple[str, str]]:
            lines = map(json.loads, log.read_text().splitlines() if log.exists() else ())
            return {(line["vnic"], line["dir"]) for line in lines if line["rule_path"].endswith(f"/{rule}")}

        until(lambda: refused("no-v6") == {("app-1", "IN"), ("app-1", "OUT")}, "what layer 2 refuses is not logged")
        # A rule of layer 2 comes before connections, and ends none.
        one, other = connected(opened, "ops-1", "web-1", "10.1.1.11", 80)
        files[1].write_text(LAYER_2 + CUT + groups())
        assert cli.run(up) == 0
        one.sendall(b"waits")
        other.settimeout(1)
        with pytest.raises(TimeoutError):
            other.recv(5)
        until(lambda: refused("all"), "what layer 2 refuses of a connection is not logged")
        assert refused("all") == {("web-1", "IN")}
        # What the host itself says is asked about as well.
        for name, address in (("app-1", "10.1.2.11"), ("dns-1", "10.1.2.53")):
            wires[name].send(arp(WirePath(End(address, MACS[name]), End("10.1.2.1", EVERYBODY))))
            wires["app-2"].send(frame("app-2", name, OPEN, b"end"))
            answers = [data for data in everything(wires[name], b"end") if data[12:14] == b"\x08\x06"]
            assert bool(answers) is (name == "app-1")
        files[1].write_text(LAYER_2 + groups())
        assert cli.run(up) == 0
        other.settimeout(PATIENCE)
        assert other.recv(5) == b"waits"
        later = {
            str(row["rule_path"]).rpartition("/")[2]: row["packets"]
            for row in shown(capfd, "rules", "--counters", "--host", "esx-1")
        }
        assert later["to-web"] == 2 and "all" not in later
        # Staged rules are asked and counted, and nothing of it acts: what comes is what came.
        far = connected(opened, "app-1", "web-2", "10.1.1.12", 80)
        files[1].write_text(LAYER_2 + STAGED + groups())
        assert cli.run(up) == 0

        def counted() -> dict[object, int]:
            sums = shown(capfd, "stats", "--host", "esx-1")
            return {row["reason"]: int(str(row["judgements"])) for row in sums if str(row["reason"])[:6] == "staged"}

        sums = counted()
        for kind in (SECRET, OPEN):
            wires["ops-1"].send(frame("ops-1", "web-1", kind, b"staged"))
        wires["web-2"].send(frame("web-2", "web-1", OPEN, b"end"))
        assert heard(wires["web-1"], b"end")[-2:] == [b"staged", b"end"]
        assert {word: count - sums[word] for word, count in counted().items()} == {"staged-cut": 1, "staged-pass": 1}
        for client, server in ((one, other), far):  # across a bridge, coming in; routed to another host, going out
            before = counted()["staged-cut"]
            client.settimeout(PATIENCE)
            for end, to in ((client, server), (server, client)):
                end.sendall(b"staged")
                assert to.recv(6) == b"staged"
            assert counted()["staged-cut"] > before
        staged = {
            str(row["rule_path"]).rpartition("/")[2]: row["packets"]
            for row in shown(capfd, "rules", "--counters", "--host", "esx-1")
            if row["staged"]
        }
        assert staged["no-open"] == 1 and staged["no-ip"] and staged["to-ops"]
