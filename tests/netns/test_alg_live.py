# SPDX-License-Identifier: Apache-2.0
"""FTP and TFTP across two hosts of two workers each: what they announce passes both firewalls, and no more."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from overlay.enter import run_in
from tests.netns.test_agent import IPS, TwoHosts
from tests.support.patience import PATIENCE, until

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_netns, pytest.mark.needs_tun, pytest.mark.needs_ipv6]
POLICY = """
resource_type: SecurityPolicy
id: p
category: Application
rules:
  - {id: files, services: [FTP, TFTP], action: ALLOW}
  - {id: rest, services: [all], action: DROP}
---
resource_type: Service
id: all
service_entries:
  - {resource_type: L4PortSetServiceEntry, l4_protocol: TCP, destination_ports: ["0-65535"]}
  - {resource_type: L4PortSetServiceEntry, l4_protocol: UDP, destination_ports: ["0-65535"]}
"""
ROUNDS = 6  # with other ports each: their connections are another worker's than those that announce them


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[TwoHosts]:
    found = TwoHosts(tmp_path)
    try:
        found.build()
        found.tell(POLICY)
        found.start("--workers", "2")
        yield found
    finally:
        found.end()


def listen(hosts: TwoHosts, name: str, address: str, port: int = 0) -> socket.socket:
    """A listener there, on any port."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = run_in(hosts.netns(name), lambda: socket.create_server((address, port), family=family))
    made.settimeout(PATIENCE)
    return made


def crosses(hosts: TwoHosts, name: str, listener: socket.socket) -> None:
    """A connection from there comes about, and carries bytes both ways."""
    address, port = listener.getsockname()[:2]
    with hosts.connect(name, address, port) as client, listener.accept()[0] as server:
        server.settimeout(PATIENCE)
        client.sendall(b"data")
        assert server.recv(16) == b"data"
        server.sendall(b"more")
        assert client.recv(16) == b"more"


def refused(hosts: TwoHosts, name: str, listener: socket.socket) -> None:
    """It does not, as far as can be told in a moment."""
    with pytest.raises(TimeoutError):
        hosts.connect(name, *listener.getsockname()[:2], 0.3)


def commas(address: str, port: int) -> str:
    """As FTP has it (RFC 959)."""
    return ",".join(map(str, (*ip_address(address).packed, port >> 8, port & 255)))


@pytest.mark.parametrize("number", [0, 1], ids=["ipv4", "ipv6"])
def test_ftp_in_both_modes(hosts: TwoHosts, number: int) -> None:
    near, far = IPS["a"][number], IPS["c"][number]
    with listen(hosts, "c", far, 21) as listener:
        control = hosts.connect("a", far, 21)
        server = listener.accept()[0]
    server.settimeout(PATIENCE)

    def say(sender: socket.socket, receiver: socket.socket, line: str) -> None:
        """It has arrived, and so the firewalls of both hosts have read it."""
        sender.sendall(f"{line}\r\n".encode())
        assert receiver.recv(256) == f"{line}\r\n".encode()

    say(server, control, "220 ready")
    for _ in range(ROUNDS):
        with listen(hosts, "a", near) as active, listen(hosts, "c", far) as passive:
            here, there = active.getsockname()[1], passive.getsockname()[1]
            if number == 0:
                say(control, server, f"PORT {commas(near, here)}")
                crosses(hosts, "c", active)
                say(server, control, f"227 Entering Passive Mode ({commas(far, there)}).")
            else:
                say(control, server, f"EPRT |2|{near}|{here}|")
                crosses(hosts, "c", active)
                say(server, control, f"229 Entering Extended Passive Mode (|||{there}|)")
            crosses(hosts, "a", passive)
    with listen(hosts, "a", near) as active, listen(hosts, "c", far) as passive:  # which nobody has announced
        refused(hosts, "c", active)
        refused(hosts, "a", passive)
    say(control, server, "QUIT")
    for one in (control, server):
        one.close()
    rows = [hosts.ask(host, {"do": "show", "what": "health"})["rows"] for host in ("h1", "h2")]
    assert all(row["ok"] for found in rows for row in found if row["check"] in ("workers", "table", "revision"))


def datagram(hosts: TwoHosts, name: str, address: str, port: int = 0) -> socket.socket:
    """A socket there."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = run_in(hosts.netns(name), lambda: socket.socket(family, socket.SOCK_DGRAM))
    made.bind((address, port))
    made.settimeout(1.0)
    return made


def arrives(sender: socket.socket, receiver: socket.socket, data: bytes) -> tuple[str, int]:
    """A datagram gets there; from whom. Datagrams may be lost: it is said again."""
    to = receiver.getsockname()

    def got() -> tuple[bytes, tuple[str, int]] | None:
        sender.sendto(data, to)
        try:
            return receiver.recvfrom(256)
        except TimeoutError:
            return None

    found = until(got, f"{data!r} does not arrive")
    assert found is not None and found[0] == data
    return found[1]


def test_tftp_answers_from_another_port(hosts: TwoHosts) -> None:
    for number in (0, 1):
        near, far = IPS["a"][number], IPS["c"][number]
        with datagram(hosts, "c", far, 69) as server:
            for _ in range(ROUNDS):
                with datagram(hosts, "a", near) as client, datagram(hosts, "c", far) as answers:
                    arrives(client, server, b"\0\1file\0octet\0")
                    arrives(answers, client, b"\0\3\0\1data")
                    arrives(client, answers, b"\0\4\0\1")
        with datagram(hosts, "a", near) as client, datagram(hosts, "c", far) as stranger:  # that nobody has asked
            stranger.sendto(b"\0\3\0\1data", client.getsockname())
            with pytest.raises(TimeoutError):
                client.recv(16)
