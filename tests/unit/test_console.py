# SPDX-License-Identifier: Apache-2.0
"""A container's input and terminal: how much waits where, when the input ends, what the log gets."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from overlay.console import INPUT, MESSAGE_BYTES, MOST_CLIENTS, MOST_WAITING, Console, listen, size_message

Made = Callable[..., "Held"]


class Held:
    """A console with pipes or a terminal of the test's own. `command`: what a container would have as its input."""

    def __init__(self, place: Path, *, once: bool, is_terminal: bool) -> None:
        self.place = place
        self.told, self.log = os.pipe()
        inward, self.command = os.openpty() if is_terminal else reversed(os.pipe())
        os.set_blocking(inward, False)
        os.set_blocking(self.command, False)
        self.console = Console(listen(str(place)), inward, inward if is_terminal else -1, self.log, once=once)
        self.inward = inward

    def client(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        made.setblocking(False)
        made.connect(self.place.name)  # `listen` has gone to its folder
        return made

    def turns(self, count: int = 20) -> None:
        for _ in range(count):
            self.console.turn(patience=0)

    def read(self) -> bytes | None:
        """What the command reads; None: nothing yet."""
        try:
            return os.read(self.command, 1 << 20)
        except BlockingIOError:
            return None


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    monkeypatch.chdir(tmp_path)  # and back afterwards
    held: list[Held] = []

    def make(*, once: bool = False, is_terminal: bool = False) -> Held:
        held.append(Held(tmp_path / "console", once=once, is_terminal=is_terminal))
        return held[-1]

    yield make
    for one in held:
        one.console.listener.close()
        for number in (one.command, one.told, one.log, one.console.inward):
            if number >= 0:
                os.close(number)


def test_a_command_that_does_not_read_is_sent_a_bounded_amount(made: Made) -> None:
    """Whatever a client sends; once it reads, all arrives, in order."""
    held = made()
    client = held.client()
    sent, refused = bytearray(), 0
    while refused < 3:
        piece = len(sent).to_bytes(8, "big") * 1024
        try:
            client.send(bytes([INPUT]) + piece)
            sent += piece
            refused = 0
        except BlockingIOError:
            refused += 1
            held.turns()
        assert len(sent) < 4 << 20, "it takes without end"
        assert len(held.console._waiting) < MOST_WAITING + MESSAGE_BYTES
    got = bytearray()
    while len(got) < len(sent):
        held.turns(2)
        got += held.read() or b""
    assert got == sent


def test_input_that_is_there_once_ends_with_its_first_client_and_after_all_it_sent(made: Made) -> None:
    held = made(once=True)
    with held.client() as silent:
        silent.send(size_message(1, 1))  # who has no input ends none
        held.turns()
    held.turns()
    with held.client() as first:
        first.send(bytes([INPUT]) + b"a" * 60000)
        first.send(bytes([INPUT]) + b"b" * 60000)
    held.turns()
    got = b""
    for _ in range(100):
        data = held.read()
        if data == b"":
            break
        got += data or b""
        held.turns(2)
    assert data == b"" and got == b"a" * 60000 + b"b" * 60000
    with held.client() as late:  # what comes later goes nowhere
        late.send(bytes([INPUT]) + b"late")
        held.turns()
    assert held.read() == b""


def test_input_stays_open_where_it_is_not_there_once(made: Made) -> None:
    held = made()
    for word in (b"one", b"two"):
        with held.client() as client:
            client.send(bytes([INPUT]) + word)
        held.turns()
        assert held.read() == word
    assert held.read() is None


def test_a_command_that_has_closed_its_input_stops_nobody(made: Made) -> None:
    held = made()
    os.close(held.command)
    client = held.client()
    for _ in range(100):
        client.send(bytes([INPUT]) + bytes(60000))
        held.turns(3)
    held.command = -1


def test_a_terminal_waits_for_its_log_and_loses_nothing(made: Made) -> None:
    held = made(is_terminal=True)
    said, refused = 0, 0
    while refused < 3:
        try:
            said += os.write(held.command, b"x" * 1000)
            refused = 0
        except BlockingIOError:
            refused += 1
            held.turns()
        assert said < 4 << 20, "it goes on while its log takes nothing"
    os.set_blocking(held.told, False)
    got = 0
    while got < said:
        held.turns(2)
        try:
            got += len(os.read(held.told, 65536))
        except BlockingIOError:
            continue
    assert got == said


def test_a_terminals_size_and_what_it_holds_at_the_end(made: Made) -> None:
    held = made(is_terminal=True)
    with held.client() as client:
        client.send(size_message(33, 77))
        held.turns()
    assert struct.unpack("HHHH", fcntl.ioctl(held.command, termios.TIOCGWINSZ, bytes(8)))[:2] == (33, 77)
    os.write(held.command, b"last words\n")
    held.console.drain()
    os.set_blocking(held.told, False)
    assert os.read(held.told, 100) == b"last words\r\n"


def test_clients_are_bounded(made: Made) -> None:
    held = made()
    clients = []
    with pytest.raises(BlockingIOError):
        for _ in range(4 * MOST_CLIENTS):
            clients.append(held.client())
            held.turns(2)
    assert MOST_CLIENTS <= len(clients) < 2 * MOST_CLIENTS
    clients.pop(0).close()
    held.turns(3)
    held.client().close()
    for client in clients:
        client.close()
