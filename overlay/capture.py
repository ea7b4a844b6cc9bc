# SPDX-License-Identifier: Apache-2.0
"""`palisade capture`: live packets of a vNIC or of a host's uplink to a pcapng file."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, Final

import click

from dfw.cli import LACKING
from dfw.output import counted
from overlay.show import read_hosts
from overlay.which_agents import kubeconfig_option, lab_option, run_option, sockets_meant

UPLINK: Final = "uplink"
_NO_END: Final = 1 << 62


@dataclass(slots=True)
class _Tally:
    packets: int = 0
    lost: int = 0
    why: str | None = None


@click.command
@click.argument("at", metavar="VNIC|UPLINK")
@click.option(
    "-w", "--write", "target", default="-", show_default=True, help="The pcapng file; `-` is standard output."
)
@lab_option
@run_option
@kubeconfig_option
@click.option("--host", "only", help="Of which host; needed for `uplink` where there are several.")
@click.option("--count", type=click.IntRange(1), help="End after so many packets.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="End after so many seconds.")
@click.option("--proto", help="Only this protocol.")
@click.option("--port", help="Only to or from this port.")
@click.option("--address", help="Only to or from this address.")
@click.option("--refused", is_flag=True, help="Only what did not pass; of a vNIC.")
@click.option("--snap", type=click.IntRange(64, 66000), default=66000, show_default=True, help="Bytes of a packet.")
@click.pass_context
def capture(
    ctx: click.Context,
    at: str,
    target: str,
    lab: str | None,
    run: Path | None,
    kubeconfig: Path | None,
    only: str | None,
    count: int | None,
    seconds: float | None,
    proto: str | None,
    port: str | None,
    address: str | None,
    refused: bool,
    snap: int,
) -> None:
    """Capture live packets until ctrl-C: a vNIC's, with verdict and rule as comments, or (`uplink`) those of a host.

    A vNIC's packets are what it sends, and what it gets or would get, as super-packets and with unfinished checksums
    where it has them so; the uplink's are Geneve with an outer header. Packets for which the ring had no room are
    counted and told.

    \b
    Examples:
      palisade capture web-1 --port 443 --count 100 -w web.pcapng
      palisade capture uplink --host esx-1 --seconds 5 | tshark -r -
    """
    filters = _filters(proto, port, address)
    sockets = sockets_meant(lab, run, only, kubeconfig)
    path = _where(at, sockets)
    if target == "-" and sys.stdout.isatty():
        raise click.UsageError("a capture is no text: give a file with -w, or a pipe")
    request = {"do": "capture", "at": at, "refused": refused, "snap": snap, **filters}
    tally = _Tally()
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(str(path))
        connection.sendall(json.dumps(request).encode() + b"\n")
        stream = connection.makefile("rb")
        head = json.loads(stream.readline() or b'{"error": "the agent has ended"}')
    except (OSError, ValueError) as error:
        head = {"error": str(error)}
    if "error" in head:
        connection.close()
        raise click.UsageError(str(head["error"]))
    descriptor = 1 if target == "-" else os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        with _Ending(connection, seconds) as ending:
            _receive(stream, descriptor, head, count or _NO_END, tally, ending.end)
    except BrokenPipeError:
        tally.why = "nobody reads any more"
    finally:
        connection.close()
        if descriptor != 1:
            os.close(descriptor)
    lost = f", {tally.lost} more were lost: the ring was full" if tally.lost else ""
    click.echo(f"{counted(tally.packets, 'packet')}{lost}" + (f"; {tally.why}" if tally.why else ""), err=True)
    if tally.why is not None:
        ctx.exit(LACKING)


def _filters(proto: str | None, port: str | None, address: str | None) -> dict[str, int | str | None]:
    from dfw.endpoint import EndpointError, port_parse, protocol_parse
    from dfw.model import address_parse

    name = ""
    found: dict[str, int | str | None] = {}
    try:
        for name, value, parse in (("proto", proto, protocol_parse), ("port", port, port_parse)):
            found[name] = None if value is None else parse(value)
        name = "address"
        found[name] = None if address is None else str(address_parse(address))
    except (EndpointError, ValueError) as error:
        raise click.BadParameter(str(error), param_hint=f"--{name}") from error
    return found


def _where(at: str, sockets: Mapping[str, Path]) -> Path:
    """The socket of the agent to ask. Raises click.UsageError."""
    if at == UPLINK:
        if len(sockets) != 1:
            raise click.UsageError(f"the uplink of which host? --host {' or '.join(sockets)}")
        return next(iter(sockets.values()))
    answers = read_hosts(dict(sockets), {"do": "show", "what": "vnics"})
    found = [host for host, answer in answers.items() if any(row["vnic"] == at for row in answer.get("rows", ()))]
    if not found:
        raise click.UsageError(f"no host has a vNIC {at!r}; `palisade show vnics` lists them")
    return sockets[found[0]]


class _Ending:
    """Says to the agent that it is enough: on a signal, or after so many seconds."""

    def __init__(self, connection: socket.socket, seconds: float | None) -> None:
        self.connection = connection
        self.timer = None if seconds is None else threading.Timer(seconds, self.end)
        self.before: dict[signal.Signals, Any] = {}

    def end(self) -> None:
        """Once or more."""
        with suppress(OSError):
            self.connection.sendall(b"\n")

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self.end()

    def __enter__(self) -> _Ending:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._signalled)
        if self.timer is not None:
            self.timer.daemon = True
            self.timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.timer is not None:
            self.timer.cancel()
        for number, handler in self.before.items():
            signal.signal(number, handler)


def _receive(
    stream: BinaryIO, descriptor: int, head: Mapping[str, Any], most: int, tally: _Tally, enough: Callable[[], None]
) -> None:
    """What the agent sends, into the file, until it says that this was all. Raises OSError."""
    from dfw.core.live_capture import SeenFile
    from overlay.capture_stream import HEAD

    file = SeenFile(descriptor, head["tep"])
    try:
        while True:
            kind, size = HEAD.unpack(stream.read(HEAD.size).ljust(HEAD.size, b"\0"))
            payload = stream.read(size)
            if len(payload) < size or kind == b"\0":
                tally.why = "the agent has ended"
                return
            if kind == b"N":
                file.name(*({int(number): text for number, text in names.items()} for names in json.loads(payload)))
            elif kind == b"P" and tally.packets < most:
                tally.packets += file.write(payload, most - tally.packets, head["offset_ns"])
                if tally.packets == most:
                    enough()
            elif kind == b"S":
                said = json.loads(payload)
                tally.lost, tally.why = said["lost"], said["why"]
                return
    finally:
        file.close()
