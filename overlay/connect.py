# SPDX-License-Identifier: Apache-2.0
"""Many real connections between network namespaces, from one process: a socket stays in the namespace it was made in.

So there is nothing to start in the pods and nothing to stop, and when this process ends, however it does, its listeners
have ended too. Concurrency is bounded by the file limit and by how many neighbours one machine may have.
"""

from __future__ import annotations

import errno
import os
import resource
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from dfw.errors import EnvironmentLacksError
from dfw.model import PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP, PROTO_TCP, PROTO_UDP, Family
from overlay.connect_echo import echo_request, echo_socket, echo_token
from overlay.connect_sctp import (
    INIT,
    INIT_ACK,
    sctp_abort,
    sctp_heard,
    sctp_init,
    sctp_init_ack,
    sctp_port,
    sctp_socket,
)
from overlay.namespace import namespace_entered

CONCURRENCY: Final = 256
NEIGHBOURS: Final = 300  # pairs that ask for each other's MAC address between two flushes; gc_thresh3 is 1,024 for all
_SPARE: Final = 32  # file descriptors for everything else
_FAMILIES: Final = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
_ECHOES: Final = (PROTO_ICMP, PROTO_ICMPV6)
_ANYWHERE: Final = {Family.IPV4: "0.0.0.0", Family.IPV6: "::"}
_NUD_KEPT: Final = 0xC0  # linux/neighbour.h: NUD_NOARP, NUD_PERMANENT
_ABORT: Final = struct.pack("ii", 1, 0)  # SO_LINGER: closed by RST, so that no TIME_WAIT stays behind
# The machine is short of something: ask again, later. Everything else that connect(2) says is the network's answer.
_SHORT: Final = (errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN, errno.EADDRNOTAVAIL, errno.EMFILE, errno.ENFILE)


_Item = TypeVar("_Item")


class Listener(NamedTuple):
    """Where somebody listens. ICMP: where the kernel answers, and somebody looks on; port 0."""

    netns: Path
    family: Family
    protocol: int
    port: int


@dataclass(eq=False, slots=True)
class Attempt:
    """One connection to be tried, and what came of it.

    `near`: both ends are on one segment, so that they ask for each other's MAC address. `arrived`: the other end got
    what was sent. `answered`: and so did this end. `said`: the error that the network gave, 0 for silence. `from_port`:
    of the sender, where we speak SCTP ourselves.
    """

    sender: Path
    receiver: Path
    family: Family
    protocol: int
    port: int
    address: str
    near: bool = True
    arrived: bool = False
    answered: bool = False
    said: int = 0
    short: bool = False
    token: bytes = field(default_factory=lambda: os.urandom(16))
    from_port: int = field(default_factory=sctp_port)

    @property
    def listener(self) -> Listener:
        """Who has to listen for it."""
        return Listener(self.receiver, self.family, self.protocol, self.port)


def file_budget() -> int:
    """Descriptors that this process may still open; the limit is never raised."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(16, min(soft, 1 << 20) - len(os.listdir("/proc/self/fd")) - _SPARE)


def apply_attempts(
    attempts: Sequence[Attempt], timeout: float, told: Callable[[], None], concurrency: int = CONCURRENCY
) -> None:
    """Try all connections; what came of each stands in it. `timeout`: seconds until silence counts.

    `told` is called for each. Raises EnvironmentLacksError where the kernel lacks a protocol, OSError.
    """
    budget = file_budget()
    at_once = max(1, min(concurrency, budget // 4))
    by_listener: dict[Listener, list[Attempt]] = {}
    for attempt in attempts:
        by_listener.setdefault(attempt.listener, []).append(attempt)
    pairs: set[tuple[Path, Path]] = set()
    for group in _chunks(list(by_listener), max(1, budget // 4)):
        with ExitStack() as stack:
            servers = {item: _listening(stack, item) for item in group}
            todo = sorted((item for key in group for item in by_listener[key]), key=lambda item: str(item.sender))
            for batch in _chunks(_spread(todo), at_once):
                near = {(item.sender, item.receiver) for item in batch if item.near and item.sender != item.receiver}
                if pairs and len(pairs | near) > NEIGHBOURS:
                    _forget({netns for pair in pairs for netns in pair})
                    pairs = set()
                pairs |= near
                _Batch(batch, servers, timeout).run()
                for _ in batch:
                    told()


def _chunks(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _spread(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Interleaved by sender, a few of each at a time: no vNIC's budget for new connections is used up at once."""
    lanes = [list(items) for _, items in groupby(attempts, key=lambda item: item.sender)]
    found: list[Attempt] = []
    while lanes:
        for lane in lanes:
            found += lane[:4]
            del lane[:4]
        lanes = [lane for lane in lanes if lane]
    return found


def _socket(family: Family, protocol: int, *, asks: bool) -> socket.socket:
    if protocol in _ECHOES:
        return echo_socket(family, protocol, requests=not asks)
    kind = socket.SOCK_DGRAM if protocol == PROTO_UDP else socket.SOCK_STREAM
    try:
        return socket.socket(_FAMILIES[family], kind | socket.SOCK_NONBLOCK, protocol)
    except OSError as error:
        if error.errno == errno.EPROTONOSUPPORT and protocol == PROTO_SCTP:
            return sctp_socket(family)  # a kernel without SCTP: we say its first words ourselves
        if error.errno == errno.EAFNOSUPPORT:
            raise EnvironmentLacksError("no IPv6 in this kernel", "boot without ipv6.disable=1") from None
        raise


def _listening(stack: ExitStack, wanted: Listener) -> socket.socket | None:
    """A listener; None where a program of the pod listens there itself. Raises OSError where that cannot serve."""
    with namespace_entered(wanted.netns):
        sock = stack.enter_context(_socket(wanted.family, wanted.protocol, asks=False))
    if sock.type == socket.SOCK_RAW:
        return sock
    if wanted.family is Family.IPV6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        if wanted.protocol != PROTO_UDP:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((_ANYWHERE[wanted.family], wanted.port))
        if wanted.protocol != PROTO_UDP:
            sock.listen(1024)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or wanted.protocol == PROTO_UDP:
            raise OSError(error.errno, f"{wanted.netns.name}, port {wanted.port}: {error.strerror}") from None
        return None
    return sock


def _forget(namespaces: Iterable[Path]) -> None:
    """Let these namespaces forget whom they asked for: the kernel has one table for all."""
    from pyroute2 import IPRoute

    for netns in sorted(namespaces):
        with namespace_entered(netns), IPRoute() as netlink:
            for family in _FAMILIES.values():
                for known in netlink.neigh("dump", family=family):
                    if not known["state"] & _NUD_KEPT:
                        netlink.neigh("del", dst=known.get("dst"), ifindex=known["ifindex"], family=family)


def _said(attempt: Attempt) -> bytes:
    """The datagram of an attempt."""
    if attempt.protocol == PROTO_SCTP:
        return sctp_init(attempt.from_port, attempt.port, attempt.token)
    return echo_request(attempt.protocol, attempt.token) if attempt.protocol in _ECHOES else attempt.token


def _is_accepted(sock: socket.socket) -> bool:
    """Whether somebody accepts what it asks for; otherwise it says and hears datagrams."""
    return sock.type == socket.SOCK_STREAM


class _Batch:
    """Connections that are tried at the same time."""

    def __init__(
        self, attempts: Sequence[Attempt], servers: dict[Listener, socket.socket | None], timeout: float
    ) -> None:
        self._selector = selectors.DefaultSelector()
        self._by_token = {attempt.token: attempt for attempt in attempts}
        self._clients: dict[Attempt, socket.socket] = {}
        self._accepted: set[socket.socket] = set()
        self._servers = servers
        self._timeout = timeout
        self._attempts = attempts

    def run(self) -> None:
        """Until all are decided, or the time is over."""
        try:
            self._listen()
            self._open()
            begun = time.monotonic()
            again = [begun + self._timeout * share for share in (0.3, 0.65)]  # datagrams may be lost without any policy
            while self._clients and (now := time.monotonic()) < begun + self._timeout:
                until = min([begun + self._timeout, *again])
                for key, _ in self._selector.select(max(0.0, until - now)):
                    key.data()
                if again and time.monotonic() >= again[0]:
                    again.pop(0)
                    self._repeat()
        finally:
            for sock in (*self._clients.values(), *self._accepted):
                sock.close()
            self._selector.close()

    def _listen(self) -> None:
        for key in {attempt.listener for attempt in self._attempts}:
            server = self._servers[key]
            if server is not None:
                ready = self._accept if _is_accepted(server) else self._datagram
                self._selector.register(
                    server, selectors.EVENT_READ, lambda ready=ready, server=server, key=key: ready(server, key)
                )

    def _open(self) -> None:
        by_sender = sorted(self._attempts, key=lambda item: str(item.sender))
        for netns, items in groupby(by_sender, lambda item: item.sender):
            with namespace_entered(netns):
                opened = [(item, _socket(item.family, item.protocol, asks=True)) for item in items]
            for attempt, sock in opened:
                self._clients[attempt] = sock
                try:
                    sock.connect((attempt.address, 0 if sock.type == socket.SOCK_RAW else attempt.port))
                    if not _is_accepted(sock):
                        sock.send(_said(attempt))
                except BlockingIOError:
                    pass
                except OSError as error:
                    self._refused(attempt, error.errno or 0)
                    continue
                event = selectors.EVENT_WRITE if _is_accepted(sock) else selectors.EVENT_READ
                self._selector.register(sock, event, lambda attempt=attempt: self._ready(attempt))

    def _repeat(self) -> None:
        for attempt, sock in list(self._clients.items()):
            if not _is_accepted(sock) and not attempt.arrived:
                try:
                    sock.send(_said(attempt))
                except OSError as error:
                    self._refused(attempt, error.errno or 0)

    def _refused(self, attempt: Attempt, said: int) -> None:
        attempt.said, attempt.short = said, said in _SHORT
        self._end(attempt)

    def _end(self, attempt: Attempt) -> None:
        sock = self._clients.pop(attempt)
        if sock in self._selector.get_map():
            self._selector.unregister(sock)
        if attempt.protocol == PROTO_TCP:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        sock.close()

    def _ready(self, attempt: Attempt) -> None:
        sock = self._clients.get(attempt)
        if sock is None:
            return
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._refused(attempt, error)
            return
        try:
            if self._selector.get_key(sock).events == selectors.EVENT_WRITE:  # connected
                if self._servers[attempt.listener] is None:  # the pod's own program: it may not answer to us
                    attempt.arrived = attempt.answered = True
                    self._end(attempt)
                    return
                sock.send(attempt.token)
                self._selector.modify(sock, selectors.EVENT_READ, self._selector.get_key(sock).data)
                return
            if self._is_answer(attempt, sock, sock.recv(128)):
                self._heard(attempt.listener)
                attempt.answered = attempt.arrived  # else somebody else answers to that address
            elif sock.type == socket.SOCK_RAW:  # another's answer: a raw socket gets those too
                return
            self._end(attempt)
        except BlockingIOError:
            pass
        except OSError as problem:
            self._refused(attempt, problem.errno or 0)

    @staticmethod
    def _is_answer(attempt: Attempt, sock: socket.socket, data: bytes) -> bool:
        if attempt.protocol in _ECHOES:
            return echo_token(attempt.protocol, data) == attempt.token
        if sock.type != socket.SOCK_RAW:
            return data == attempt.token
        heard = sctp_heard(attempt.family, data)
        if heard is None or heard.kind != INIT_ACK or heard.token != attempt.token:
            return False
        sock.send(sctp_abort(heard))
        return True

    def _heard(self, listener: Listener) -> None:
        """The kernel answers pings, before it is our turn to have seen the request."""
        server = self._servers[listener]
        if server is not None and not _is_accepted(server):
            self._datagram(server, listener)

    def _datagram(self, server: socket.socket, listener: Listener) -> None:
        protocol = listener.protocol
        try:
            while True:
                data, sender = server.recvfrom(128)
                answer = data
                if protocol in _ECHOES:
                    token, answer = echo_token(protocol, data), b""  # the kernel answers
                elif protocol == PROTO_SCTP:
                    heard = sctp_heard(listener.family, data)
                    if heard is None or heard.kind != INIT or heard.dport != listener.port:
                        continue
                    token, answer = heard.token, sctp_init_ack(heard)
                else:
                    token = data
                if self._has_arrived(token, listener) and answer:
                    server.sendto(answer, sender)
        except OSError:  # no more, or the way back is refused
            pass

    def _has_arrived(self, token: bytes | None, listener: Listener) -> bool:
        """At another that has the same address nothing has arrived, and it gets no answer."""
        attempt = self._by_token.get(token) if token is not None else None
        if attempt is None or attempt.listener != listener:
            return False
        attempt.arrived = True
        return True

    def _accept(self, server: socket.socket, listener: Listener) -> None:
        try:
            while True:
                sock, _ = server.accept()
                sock.setblocking(False)
                self._accepted.add(sock)
                self._selector.register(sock, selectors.EVENT_READ, lambda sock=sock: self._echo(sock, listener))
        except OSError:
            pass

    def _echo(self, sock: socket.socket, listener: Listener) -> None:
        try:
            token = sock.recv(64)
            if self._has_arrived(token, listener):
                sock.send(token)
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._selector.unregister(sock)
        self._accepted.discard(sock)
        sock.close()
