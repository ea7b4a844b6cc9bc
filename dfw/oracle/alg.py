# SPDX-License-Identifier: Apache-2.0
"""Application-level gateways (docs/packet-path.md section 9): what FTP and TFTP announce, and what is then expected."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dfw.model import Alg
from dfw.oracle.packet import IPV4, TCP, UDP, Packet

if TYPE_CHECKING:
    from dfw.oracle.flow import Connection

EXPECTATION_TICKS = 6_000
_PER_PARENT = 8
_PER_WORKER = 1_024
_EXAMINED = 128
_PARENTHESES = 8

# filter, VRF, IP version, protocol, source, destination, destination port
ExpectationKey = tuple[str, int, int, int, int, int, int]

_NUMBER = rb"([01]?\d?\d|2[0-4]\d|25[0-5])"
_SIX_NUMBERS = re.compile(rb"(?<!\d)" + rb",".join([_NUMBER] * 6) + rb"(?!\d)")
_LINE_END = re.compile(rb"[\r\n]")
_EXTENDED = re.compile(rb"([!-~])([12])\1([0-9A-Fa-f:.]{2,45}?)\1(\d{1,5})\1")
_EXTENDED_PASSIVE = re.compile(rb"\(([!-~])\1\1(\d{1,5})\1\)")


@dataclass(slots=True, eq=False)
class Expectation:
    """A connection that a parent announced. `deadline`: in ticks."""

    key: ExpectationKey
    parent: Connection
    deadline: int


@dataclass(slots=True)
class Expectations:
    """All expectations of one worker, oldest first."""

    _by_key: dict[ExpectationKey, Expectation] = field(default_factory=dict)

    def add(self, key: ExpectationKey, parent: Connection, now: int, is_alive: Callable[[Connection], bool]) -> None:
        """Expect `key` for a minute. The parent's oldest goes if it has eight; beyond 1,024 it is not noted."""
        for old in list(self._by_key.values()):
            if old.deadline < now or not is_alive(old.parent):
                self._remove(old)
        if key in self._by_key:
            self._remove(self._by_key[key])
        if len(parent.expectations) >= _PER_PARENT:
            self._remove(parent.expectations[0])
        if len(self._by_key) >= _PER_WORKER:
            return
        expectation = Expectation(key, parent, now + EXPECTATION_TICKS)
        self._by_key[key] = expectation
        parent.expectations.append(expectation)

    def take(self, key: ExpectationKey, now: int, is_alive: Callable[[Connection], bool]) -> Connection | None:
        """The parent that expects `key`; the expectation is consumed."""
        found = self._by_key.get(key)
        if found is None:
            return None
        self._remove(found)
        return found.parent if found.deadline >= now and is_alive(found.parent) else None

    def forget(self, parent: Connection) -> None:
        """All of a parent's, whose rule no longer has the ALG."""
        for expectation in list(parent.expectations):
            self._remove(expectation)

    def _remove(self, expectation: Expectation) -> None:
        del self._by_key[expectation.key]
        expectation.parent.expectations.remove(expectation)


def announced(connection: Connection, direction: int, packet: Packet) -> ExpectationKey | None:
    """What an accepted packet of a connection announces, if its rule has the ALG. FTP segments must be in order."""
    payload = packet.data[packet.payload : min(packet.end, packet.payload + packet.payload_length)]
    if not payload:
        return None
    client, server = connection.source, connection.destination
    start = connection.filter_name, connection.vrf, connection.ip_version
    if connection.rule.alg is Alg.TFTP and connection.protocol == UDP:
        # RRQ and WRQ (RFC 1350 section 5); the server answers from a port of its own choice.
        is_request = direction == 0 and payload[:2] in (b"\0\1", b"\0\2")
        return (*start, UDP, server, client, packet.source_port) if is_request else None
    if connection.rule.alg is Alg.FTP and connection.protocol == TCP:
        line_end = _LINE_END.search(payload[:_EXAMINED])
        if line_end is None:
            return None
        line = payload[: line_end.start()]
        if direction == 0:
            port = _active_port(line, connection.ip_version, client)
            return None if port is None else (*start, TCP, server, client, port)
        port = _passive_port(line, connection.ip_version, server)
        return None if port is None else (*start, TCP, client, server, port)
    return None


def _active_port(line: bytes, ip_version: int, own: int) -> int | None:
    """PORT (RFC 959) and EPRT (RFC 2428), from the client."""
    command, argument = line[:5].upper(), line[5:]
    if command == b"PORT ":
        return _port_of_six(_SIX_NUMBERS.match(argument), ip_version, own)
    if command == b"EPRT ":
        found = _EXTENDED.match(argument)
        if found is None or (found[2] == b"1") != (ip_version == IPV4):
            return None
        try:
            address = socket.inet_pton(socket.AF_INET if ip_version == IPV4 else socket.AF_INET6, found[3].decode())
        except OSError:
            return None
        return _port(int(found[4])) if int.from_bytes(address, "big") == own else None
    return None


def _passive_port(line: bytes, ip_version: int, own: int) -> int | None:
    """227 (RFC 959) and 229 (RFC 2428), from the server."""
    code, text = line[:4], line[4:]
    if code == b"227 ":
        return _port_of_six(_SIX_NUMBERS.search(text), ip_version, own)
    if code == b"229 ":
        for opening in [place for place, byte in enumerate(text) if byte == ord("(")][:_PARENTHESES]:
            passive = _EXTENDED_PASSIVE.match(text, opening)
            if passive is not None and int(passive[2]) <= 65_535:
                return _port(int(passive[2]))
    return None


def _port_of_six(found: re.Match[bytes] | None, ip_version: int, own: int) -> int | None:
    if found is None or ip_version != IPV4:
        return None
    numbers = [int(number) for number in found.groups()]
    if int.from_bytes(bytes(numbers[:4]), "big") != own:
        return None
    return _port(numbers[4] * 256 + numbers[5])


def _port(number: int) -> int | None:
    return number if 0 < number <= 65_535 else None
