# SPDX-License-Identifier: Apache-2.0
"""A Supervisor in pieces, each of which can be killed at any moment and started again: the API, controllers, a host's
Spherelet behind a line that can be cut."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from overlay import linux
from overlay.namespace import apply_room_end
from supervisor_glue.api.http_client import HttpClient
from supervisor_glue.auth.kubeconfig import kubeconfig_read, kubeconfig_write
from supervisor_glue.controllers.objects import object_made
from supervisor_glue.controllers.resources import HOSTS
from tests.support import clocked
from tests.support.control_plane import PALISADE, PATIENCE, control_plane_start
from tests.support.controllers_apart import host_config

HOST = "h1"


@dataclass(slots=True)
class Piece:
    """A process that comes again."""

    name: str
    command: Sequence[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(self.command, stdout=out, stderr=out)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> int:
        """TERM, and its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


@dataclass(slots=True)
class Line:
    """Connections to a port pass through it; while it is cut nothing does, and nobody is told so."""

    port: int
    whole: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    server: asyncio.Server | None = None

    async def open(self) -> int:
        """Its own port."""
        self.whole.set()
        self.server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return int(self.server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        assert self.server is not None
        self.server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        await self.whole.wait()
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            writer.close()
            return
        for ends in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._carry(*ends))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _carry(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                await self.whole.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


@dataclass(slots=True)
class Pieces:
    """All of them."""

    kubeconfig: Path
    clock: Path
    of: dict[str, Piece]
    line: Line
    host_started: Callable[[], None]

    def jump(self, seconds: float) -> None:
        """The wall clock of the API and of controllers, for as long as nothing else is said."""
        clocked.offset_write(self.clock, seconds)

    def kill(self, name: str) -> None:
        """It begins anew at once."""
        self.of[name].kill()
        self.of[name].start()

    def told(self) -> str:
        """The end of what each has said."""
        return "\n".join(
            f"== {piece.name}\n{piece.log.read_text(errors='replace')[-1500:]}" for piece in self.of.values()
        )


@contextmanager
def supervisor_in_pieces(folder: Path, lease: float = 3) -> Iterator[Pieces]:
    """For a `with`: the API and one process of controllers run; `host_started` once the line is open."""
    clock = folder / "clock"
    clocked.offset_write(clock, 0)
    jumping = (sys.executable, clocked.__file__, str(clock))
    plane = control_plane_start(folder / "plane", "--no-controllers", within=jumping)
    server = kubeconfig_read(plane.kubeconfig).server
    port = urlsplit(server).port
    assert port is not None
    api = ["-v", "supervisor", "up", "--no-controllers", "--listen", f"127.0.0.1:{port}", "--data", str(plane.data)]
    controllers = ["-v", "supervisor", "controllers", "--server", server, "--data", str(plane.data)]
    controllers += ["--lease", str(lease)]
    run, room, mark = folder / "run", folder / "room", f"PALISADE_TEST={folder}"
    kubeconfig = folder / "host-kubeconfig"
    host = [*PALISADE, "-v", "spherelet", "run", "--host", HOST, "--kubeconfig", str(kubeconfig), "--run", str(run)]
    host += ["--room", str(room), "--mark", mark, "--address", "127.0.0.1", "--no-network"]
    pieces = {
        "api": Piece("api", [*jumping, *PALISADE, *api], plane.log, plane.process),
        "controllers": Piece("controllers", [*jumping, *PALISADE, *controllers], folder / "controllers.log"),
    }
    line = Line(port)

    def host_started() -> None:
        pieces["host"] = Piece("host", host, folder / "host.log")
        pieces["host"].start()

    pieces["controllers"].start()
    try:
        yield Pieces(plane.kubeconfig, clock, pieces, line, host_started)
    finally:
        for piece in pieces.values():
            piece.kill()
        for process in linux.processes_marked(mark):
            linux.process_signal(process, signal.SIGKILL)
        apply_room_end(room)


async def host_begin(pieces: Pieces, client: HttpClient, folder: Path) -> None:
    """Make the host, open its line, and start it."""
    made = await client.create(HOSTS, object_made(HOSTS, HOST, spec={"tep": "172.16.0.1"}))
    port = await pieces.line.open()
    config = host_config(folder / "plane" / "data", kubeconfig_read(pieces.kubeconfig), HOST, made["metadata"]["uid"])
    kubeconfig_write(folder / "host-kubeconfig", replace(config, server=f"https://127.0.0.1:{port}"))
    pieces.host_started()
