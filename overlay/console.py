# SPDX-License-Identifier: Apache-2.0
"""`python -m overlay.console SPECIFICATION EXIT SOCKET`: runs a container that has standard input or a terminal, and
holds the other end of that as long as the container lives, whatever becomes of the Spherelet.

It stands where WAITER (overlay/container.py) stands for containers without: begins the command, waits for it, and
writes its exit code to EXIT. What a terminal shows goes into the container's log, which is this process's output; who
attaches reads that. Input comes through SOCKET (SOCK_SEQPACKET): a message is its kind (1 byte) and data. INPUT: for
the command, also when it is empty: who has said that has standard input, and closes it by leaving. SIZE: rows and
columns of the terminal (2 bytes each).

Nothing is read from a client while much of what came before waits for the command, nor from a terminal while the log
takes nothing: then whoever sends or says it waits. Standard library only.
Source: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/ (stdin, stdinOnce, tty).
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import struct
import sys
import termios
from contextlib import suppress
from pathlib import Path
from typing import Final

from overlay.container import FAILED, ContainerSpec, exit_code
from overlay.container import main as container_main

INPUT, SIZE = 0, 4
MESSAGE_BYTES: Final = 65536
MOST_WAITING: Final = 65536
"""Bytes of input that wait for the command; while there are more, no client is read."""
MOST_CLIENTS: Final = 64
_SIZE: Final = struct.Struct(">HH")
_PIECE: Final = 4096  # so much a pipe that can be written to takes at once
_PATIENCE_MS: Final = 5000


def size_message(rows: int, columns: int) -> bytes:
    """A terminal's new size, as it is told. Raises struct.error."""
    return bytes([SIZE]) + _SIZE.pack(rows, columns)


def terminal_size(terminal: int, rows: int, columns: int) -> None:
    """Give a terminal another size; its processes are told (SIGWINCH). Raises OSError, struct.error."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


class Console:
    """What passes between clients, the command and its log.

    `inward`: where input goes, -1: nowhere; `terminal`: its outer end, which also says what the log gets, -1: none;
    `log`: a pipe or file; `once`: the first client that had input and leaves closes the command's. `inward` and
    `terminal` do not block.
    """

    def __init__(self, listener: socket.socket, inward: int, terminal: int, log: int, *, once: bool) -> None:
        self.listener, self.inward, self.terminal, self.log, self.once = listener, inward, terminal, log, once
        self._clients: dict[int, socket.socket] = {}
        self._feeding: set[int] = set()
        self._waiting = bytearray()
        self._said = b""
        self._closes = False

    def turn(self, beside: int = -1, patience: int = -1) -> bool:
        """Wait until there is something to do, and do it: whether `beside` can be read. `patience`: milliseconds, -1:
        for ever."""
        poll = select.poll()
        for descriptor, events in self._wanted().items():
            poll.register(descriptor, events)
        if beside >= 0:
            poll.register(beside, select.POLLIN)
        ready = dict(poll.poll(patience))
        if self._said and self.log in ready:
            self._say()
        if not self._said and ready.get(self.terminal, 0) & select.POLLIN:
            self._hear()
        if ready.get(self.inward, 0) & (select.POLLOUT | select.POLLERR):
            self._feed()
        for descriptor in [number for number in self._clients if number in ready]:
            if len(self._waiting) < MOST_WAITING:
                self._take(descriptor)
        if self.listener.fileno() in ready:
            with suppress(OSError):
                client, _ = self.listener.accept()
                self._clients[client.fileno()] = client
        return beside in ready

    def _wanted(self) -> dict[int, int]:
        found = {self.listener.fileno(): select.POLLIN} if len(self._clients) < MOST_CLIENTS else {}
        if len(self._waiting) < MOST_WAITING:
            found |= dict.fromkeys(self._clients, select.POLLIN)
        if self._said:
            found[self.log] = select.POLLOUT
        elif self.terminal >= 0:
            found[self.terminal] = select.POLLIN
        if self._waiting:
            found[self.inward] = found.get(self.inward, 0) | select.POLLOUT
        return found

    def drain(self) -> None:
        """The command has ended: what its terminal still holds."""
        poll = select.poll()
        poll.register(self.log, select.POLLOUT)
        while self._said or self._hear():
            if not poll.poll(_PATIENCE_MS):
                return  # who writes the log is away
            self._say()

    def _hear(self) -> bool:
        with suppress(OSError):
            self._said = os.read(self.terminal, _PIECE) if self.terminal >= 0 else b""
        return bool(self._said)

    def _say(self) -> None:
        self._said = self._said[os.write(self.log, self._said) :]

    def _feed(self) -> None:
        try:
            del self._waiting[: os.write(self.inward, self._waiting)]
        except BlockingIOError:
            return
        except OSError:  # the command does not want to read any more
            self._waiting.clear()
            self._closes = True
        self._close_maybe()

    def _take(self, descriptor: int) -> None:
        client = self._clients[descriptor]
        try:
            message = client.recv(MESSAGE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            del self._clients[descriptor]
            client.close()
            if descriptor in self._feeding:
                self._feeding.discard(descriptor)
                self._closes |= self.once
                self._close_maybe()
        elif message[0] == INPUT:
            self._feeding.add(descriptor)
            if self.inward >= 0 and not self._closes:
                self._waiting += message[1:]
        elif message[0] == SIZE and self.terminal >= 0:
            with suppress(OSError, struct.error):
                terminal_size(self.terminal, *_SIZE.unpack(message[1:]))

    def _close_maybe(self) -> None:
        """The command's input ends once it has all that came before."""
        if self._closes and not self._waiting and self.inward >= 0 and self.inward != self.terminal:
            os.close(self.inward)
            self.inward = -1


def main(arguments: list[str]) -> int:
    """Run a container to its end."""
    path, told, place = arguments
    spec: ContainerSpec = json.loads(Path(path).read_text(encoding="utf-8"))
    try:
        code = run(spec, path, place)
    except OSError as error:
        Path(spec["error"]).write_text(f"its terminal: {error}", encoding="utf-8")
        code = FAILED
    Path(told).write_text(f"{code}\n", encoding="ascii")
    with suppress(OSError):
        os.unlink(os.path.basename(place))
    return 0


def run(spec: ContainerSpec, path: str, place: str) -> int:
    """The same: its exit code. `path`: of its specification; `place`: of the socket. Raises OSError."""
    has_input, is_terminal = spec.get("input", False), spec.get("terminal", False)
    listener = listen(place)
    ours, theirs = os.openpty() if is_terminal else (-1, -1)
    reading, writing = os.pipe() if has_input and not is_terminal else (-1, -1)
    for descriptor in (theirs, reading):
        if descriptor >= 0:
            os.fchown(descriptor, spec["user"], -1)  # so that the command may open /dev/stdin
    child = os.fork()
    if child == 0:
        try:
            for descriptor in (0, 1, 2) if is_terminal else (0,):
                os.dup2(theirs if is_terminal else reading, descriptor)
            code = container_main([path])
        except BaseException:
            code = FAILED
        os._exit(code)
    with suppress(OSError):  # where memory is short, the command goes first
        Path("/proc/self/oom_score_adj").write_text("-998", encoding="ascii")
    if reading >= 0:
        os.close(reading)
    for descriptor in (ours, writing):
        if descriptor >= 0:
            os.set_blocking(descriptor, False)
    # The terminal's inner end stays open here: without it the outer one would tell again and again that a command
    # has closed it.
    inward = ours if is_terminal and has_input else writing
    console = Console(listener, inward, ours, 1, once=spec.get("input_once", False) and not is_terminal)
    ended = os.pidfd_open(child)
    while not console.turn(ended):
        pass
    code = exit_code(os.waitpid(child, 0)[1])
    with suppress(OSError):
        os.killpg(child, signal.SIGKILL)  # what the command left running ends with it
    console.drain()
    return code


def listen(place: str) -> socket.socket:
    """Where clients come, from now on in that folder: a socket's whole path may be too long for it. Raises OSError."""
    os.chdir(os.path.dirname(place))
    name = os.path.basename(place)
    with suppress(FileNotFoundError):
        os.unlink(name)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    old = os.umask(0o177)
    listener.bind(name)
    os.umask(old)
    listener.listen(8)
    listener.setblocking(False)
    return listener


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
