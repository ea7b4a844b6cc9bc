# SPDX-License-Identifier: Apache-2.0
"""Many connections between namespaces from one process: what arrives, what is refused, what stays silent."""

from __future__ import annotations

import resource
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfw.model import PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP, PROTO_TCP, PROTO_UDP, Family
from overlay.connect import Attempt, Listener, apply_attempts
from overlay.namespace import (
    apply_namespace,
    apply_namespace_end,
    apply_room,
    apply_room_end,
    namespace_entered,
    namespace_exists,
    namespace_ids,
)
from overlay.underlay import OUTSIDE, UNDERLAY, Bridge, Interface, apply_bridges, apply_interfaces

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_netns, pytest.mark.needs_mount]
ENDS = ("a", "b", "c")


@pytest.fixture
def room() -> Iterator[Path]:
    """Three namespaces on one network; c has no address there, only a wire."""
    place = Path(tempfile.mkdtemp(prefix="pal-room-"))
    room = place / "ns"
    try:
        apply_room(room, "pal-test")
        for name in (UNDERLAY, *ENDS):
            apply_namespace(room / name)
        apply_bridges(room, [Bridge(OUTSIDE, ("10.9.0.1/24", "fd00:9::1/64"))], 1500)
        wires = [
            Interface(name, "eth0", OUTSIDE, (f"10.9.0.{number}/24", f"fd00:9::{number}/64"))
            for number, name in enumerate(ENDS[:2], 10)
        ]
        apply_interfaces(room, [*wires, Interface("c", "eth0", OUTSIDE)], 1500, lambda key: None)
        yield room
    finally:
        apply_room_end(room)
        place.rmdir()


def attempt(room: Path, sender: str, receiver: str, protocol: int, address: str, port: int = 80) -> Attempt:
    family = Family.IPV6 if ":" in address else Family.IPV4
    if protocol == PROTO_ICMP:
        protocol, port = PROTO_ICMP if family is Family.IPV4 else PROTO_ICMPV6, 0
    return Attempt(room / sender, room / receiver, family, protocol, port, address)


@pytest.mark.needs_ipv6
def test_what_comes_of_connections(room: Path) -> None:
    assert set(namespace_ids(room).values()) == {UNDERLAY, *ENDS}
    own = Path("/proc/thread-self/ns/net").stat().st_ino
    good = [
        attempt(room, sender, receiver, protocol, address)
        for sender in ENDS[:2]
        for receiver, address in (("a", "10.9.0.10"), ("b", "10.9.0.11"), ("a", "fd00:9::10"), ("b", "fd00:9::11"))
        for protocol in (PROTO_TCP, PROTO_UDP, PROTO_SCTP, PROTO_ICMP)
    ]
    protocols = (PROTO_TCP, PROTO_UDP, PROTO_ICMP, PROTO_SCTP)
    silent = [attempt(room, "a", "b", protocol, "10.9.0.77") for protocol in protocols]
    nowhere = attempt(room, "c", "a", PROTO_TCP, "10.9.0.10")
    closed = attempt(room, "a", "c", PROTO_TCP, "10.9.0.11", 81)  # b has no listener there: it answers with RST
    told: list[None] = []
    everything = [*good, *silent, nowhere, closed]
    apply_attempts(everything, 2.0, lambda: told.append(None))
    assert [item for item in good if not (item.arrived and item.answered)] == []
    assert [item for item in (*silent, nowhere, closed) if item.arrived] == []
    assert silent[1].said == 0 and nowhere.said == 101 and closed.said == 111  # ENETUNREACH, ECONNREFUSED
    assert len(told) == len(everything)
    assert Path("/proc/thread-self/ns/net").stat().st_ino == own


@pytest.mark.needs_ipv6
def test_what_somebody_else_with_that_address_gets_has_not_arrived(room: Path) -> None:
    protocols = (PROTO_TCP, PROTO_UDP, PROTO_SCTP, PROTO_ICMP)
    for address in ("10.9.0.11", "fd00:9::11"):  # b's; c has the same on a network that a does not reach
        right = [attempt(room, "a", "b", protocol, address) for protocol in protocols]
        astray = [attempt(room, "a", "c", protocol, address) for protocol in protocols]
        apply_attempts([*right, *astray], 0.5, lambda: None)
        assert [item for item in right if not item.arrived] == []
        assert [item for item in astray if item.arrived or item.answered] == []


def test_a_low_file_limit_only_takes_longer(room: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    attempts = [attempt(room, "a", "b", PROTO_TCP, "10.9.0.11", 1000 + number) for number in range(60)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        apply_attempts(attempts, 2.0, lambda: None)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [item for item in attempts if not item.answered] == []


def test_a_pods_own_program_is_a_listener_too(room: Path) -> None:
    with namespace_entered(room / "b"):
        server = socket.create_server(("10.9.0.11", 80))
    with server:
        one = attempt(room, "a", "b", PROTO_TCP, "10.9.0.11")
        assert one.listener == Listener(room / "b", Family.IPV4, PROTO_TCP, 80)
        apply_attempts([one], 2.0, lambda: None)
        assert one.arrived


def test_a_name_is_a_name_only_while_it_is_mounted(room: Path) -> None:
    path = room / "late"
    path.touch()
    assert not namespace_exists(path)
    apply_namespace(path)
    assert namespace_exists(path)
    with pytest.raises(FileExistsError):
        apply_namespace(path)
    assert namespace_exists(path)
    apply_namespace_end(path)
    apply_namespace_end(path)
    assert not path.exists()
