# SPDX-License-Identifier: Apache-2.0
"""The holder: a small process that keeps the TAPs' file descriptors, so that the pods' carrier outlives the agent.

It knows nothing of packets. An agent gives it descriptors under a name with a few words of what they are; the next
agent asks for all of them (DESIGN section 4). The program imports nothing but Python's own library, and is run as a
file.

One request a packet on a SOCK_SEQPACKET Unix socket, JSON, descriptors beside it:
`{"do": "put", "name": N, "about": {…}}` + descriptors, `{"do": "get", "name": N}` -> descriptors,
`{"do": "drop", "name": N}`, `{"do": "list"}`, `{"do": "end"}`. Each is answered with one packet, `{"error": sentence}`
where it could not be done.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

HOLDER_SOCKET = "holder.sock"  # beside the agent's, in its run directory
MESSAGE_BYTES = 65536
DESCRIPTORS = 64  # beside one message
WAIT_SECONDS = 20.0  # a machine that is busy is slow, and who gives up has no cards


def send(connection: socket.socket, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """One message and its descriptors."""
    beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    connection.sendmsg([json.dumps(message).encode()], beside)


def receive(connection: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """One message and its descriptors; None when the other side has gone."""
    data, beside, _, _ = connection.recvmsg(MESSAGE_BYTES, socket.CMSG_SPACE(DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, payload in beside:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    if not data:
        return None, list(fds)
    try:
        message = json.loads(data)
    except ValueError:
        message = {}
    return message if isinstance(message, dict) else {}, list(fds)


def close_all(fds: Sequence[int]) -> None:
    """Close these descriptors."""
    for number in fds:
        with contextlib.suppress(OSError):
            os.close(number)


class Holder:
    """What is held: descriptors and what was said about them, by name."""

    def __init__(self) -> None:
        self.fds: dict[str, list[int]] = {}
        self.about: dict[str, Any] = {}
        self.ended = False

    def answer(self, connection: socket.socket, message: dict[str, Any], fds: list[int]) -> None:
        """Do what a message asks, and say so."""
        what, name = message.get("do"), str(message.get("name"))
        if what == "put" and fds:
            close_all(self.fds.pop(name, []))
            self.fds[name], self.about[name] = fds, message.get("about")
            send(connection, {})
            return
        close_all(fds)
        if what == "get" and name in self.fds:
            send(connection, {"about": self.about[name]}, self.fds[name])
        elif what == "drop":
            close_all(self.fds.pop(name, []))
            self.about.pop(name, None)
            send(connection, {})
        elif what == "list":
            send(connection, {"held": self.about, "pid": os.getpid()})
        elif what == "end":
            self.ended = True
            send(connection, {})
        else:
            send(connection, {"error": f"nothing is held under the name {name!r}" if what == "get" else "bad request"})


def serve(path: str) -> None:
    """Hold until told to end. The socket is there when this process can be asked."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    old = os.umask(0o177)
    listener.bind(path)
    os.umask(old)
    listener.listen(4)
    holder = Holder()
    signal.signal(signal.SIGTERM, lambda *_: setattr(holder, "ended", True))
    clients: dict[int, socket.socket] = {}
    while not holder.ended:
        ready, _, _ = select.select([listener, *clients.values()], [], [])
        for one in ready:
            if one is listener:
                client, _ = listener.accept()
                clients[client.fileno()] = client
                continue
            with contextlib.suppress(OSError):
                message, fds = receive(one)
                if message is not None:
                    holder.answer(one, message, fds)
                    continue
            del clients[one.fileno()]
            one.close()
    os.unlink(path)


class HolderError(RuntimeError):
    """The holder refused, or cannot be reached: the message is a sentence."""


class HolderClient:
    """The agent's end."""

    def __init__(self, path: str) -> None:
        """Connect. Raises OSError where no holder listens."""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self.socket.settimeout(WAIT_SECONDS)
        try:
            self.socket.connect(path)
        except OSError:
            self.socket.close()
            raise

    def ask(self, message: dict[str, Any], fds: Sequence[int] = ()) -> tuple[dict[str, Any], list[int]]:
        """One request, and its answer. Raises HolderError."""
        send(self.socket, message, fds)
        answer, beside = receive(self.socket)
        if answer is None or "error" in answer:
            close_all(beside)
            raise HolderError("the holder has ended" if answer is None else str(answer["error"]))
        return answer, beside

    def put(self, name: str, fds: Sequence[int], about: dict[str, Any]) -> None:
        """Have descriptors held; whatever was held under the name is let go."""
        self.ask({"do": "put", "name": name, "about": about}, fds)

    def get(self, name: str) -> list[int]:
        """Descriptors of one's own for what is held under a name. Raises HolderError."""
        return self.ask({"do": "get", "name": name})[1]

    def take(self, name: str) -> tuple[list[int], dict[str, Any]]:
        """The same, and what was said about it. Raises HolderError."""
        answer, fds = self.ask({"do": "get", "name": name})
        return fds, dict(answer["about"])

    def drop(self, name: str) -> None:
        """Let go what is held under a name."""
        self.ask({"do": "drop", "name": name})

    def held(self) -> dict[str, dict[str, Any]]:
        """What is held, by name: what was said about it."""
        return dict(self.ask({"do": "list"})[0]["held"])

    def pid(self) -> int:
        """The holder's process."""
        return int(self.ask({"do": "list"})[0]["pid"])

    def end(self) -> None:
        """The holder lets everything go and ends."""
        self.ask({"do": "end"})

    def close(self) -> None:
        """Leave; the holder goes on."""
        self.socket.close()


def holder_open(path: str) -> HolderClient:
    """The holder at this socket, started where none listens. Raises HolderError where it does not start."""
    with contextlib.suppress(OSError):
        return HolderClient(path)
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", os.path.abspath(__file__), path],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # signals to the agent's group are not for it
        cwd="/",
    )
    until = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            return HolderClient(path)
        if process.poll() is not None:
            break
        time.sleep(0.01)
    raise HolderError(f"the holder of TAP descriptors does not answer at {path}")


if __name__ == "__main__":
    serve(sys.argv[1])
