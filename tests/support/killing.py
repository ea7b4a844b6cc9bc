# SPDX-License-Identifier: Apache-2.0
"""A lab's Supervisor in pieces, each of which can be killed at any moment and comes again: the API, controllers, the
Spherelets (one of them behind a line that can be cut), the packet agents."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from overlay.linux import process_signal, processes_marked
from overlay.pod import importing
from supervisor_glue.auth.joining import KUBECONFIG
from supervisor_glue.auth.kubeconfig import kubeconfig_read, kubeconfig_write
from supervisor_glue.lab_supervisor import leg_netns, supervisor_paths
from tests.support import clocked
from tests.support.control_plane import PALISADE
from tests.support.patience import PATIENCE
from tests.support.pods_talk import agent_kill
from tests.support.supervisor_lab import SupervisorLab

HOSTS = ("esx-1", "esx-2")
CUT = HOSTS[1]  # whose Spherelet is behind the line
AGENT = "agent "


@dataclass(slots=True)
class Piece:
    """A process that comes again. `by_itself`: the statuses with which it ended otherwise than killed."""

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None
    by_itself: list[int] = field(default_factory=list)

    def start(self) -> None:
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(self.command, stdout=out, stderr=out, env=self.environment)

    def kill(self) -> None:
        if self.process is None:
            return
        if (status := self.process.poll()) is not None:
            self.by_itself.append(status)
        else:
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

    lab: SupervisorLab
    clock: Path
    of: dict[str, Piece]
    line: Line

    @property
    def names(self) -> list[str]:
        """What can be killed."""
        return [*self.of, *(AGENT + host for host in HOSTS)]

    def jump(self, seconds: float) -> None:
        """The wall clock of the API and of controllers, for as long as nothing else is said."""
        clocked.offset_write(self.clock, seconds)

    def kill(self, name: str) -> bool:
        """It begins anew at once. False: there was none, since it was killed a moment ago."""
        if name.startswith(AGENT):
            return agent_kill(self.lab, name.removeprefix(AGENT))
        self.of[name].kill()
        self.of[name].start()
        return True

    async def line_begin(self) -> None:
        """From now on the Spherelet that can be cut off comes through the line."""
        port = await self.line.open()
        file = self.lab.paths.host(CUT) / "spherelet" / KUBECONFIG
        kubeconfig_write(file, replace(kubeconfig_read(file), server=f"https://127.0.0.1:{port}"))
        self.kill(CUT)

    def told(self) -> str:
        """The end of what each has said."""
        logs = [piece.log for piece in self.of.values()]
        logs += [self.lab.paths.host(host) / "run" / "agent.log" for host in HOSTS]
        return "\n".join(f"== {log}\n{log.read_text(errors='replace')[-1500:]}" for log in logs)


@contextmanager
def supervisor_in_pieces(lab: SupervisorLab, folder: Path, lease: float = 3) -> Iterator[Pieces]:
    """For a `with`: what has run of the lab's Supervisor has been killed, and runs as pieces."""
    clock = folder / "clock"
    clocked.offset_write(clock, 0)
    jumping = (sys.executable, clocked.__file__, str(clock))
    where = supervisor_paths(lab.paths)
    server = kubeconfig_read(where.kubeconfig).server
    port = urlsplit(server).port
    assert port is not None
    name, _, value = lab.paths.mark.partition("=")
    environment = {**importing(os.environ), "OPENBLAS_NUM_THREADS": "1", name: value}
    api = ["-v", "supervisor", "up", "--no-controllers", "--listen", f"127.0.0.1:{port}", "--data", str(where.data)]
    api += ["--leg", f"{HOSTS[0]}={leg_netns(lab.paths)}"]
    controllers = ["-v", "supervisor", "controllers", "--server", server, "--data", str(where.data)]
    controllers += ["--lease", str(lease)]
    pieces = {
        "api": Piece("api", [*jumping, *PALISADE, *api], folder / "api.log", environment),
        "controllers": Piece(
            "controllers", [*jumping, *PALISADE, *controllers], folder / "controllers.log", environment
        ),
    }
    for process in processes_marked(lab.paths.mark):
        command = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode().split("\0")[:-1]
        if "spherelet" in command:
            host = command[command.index("--host") + 1]
            pieces[host] = Piece(host, command, folder / f"{host}.log", environment)
        elif "supervisor" not in command:
            continue
        process_signal(process, signal.SIGKILL)
    assert pieces.keys() == {"api", "controllers", *HOSTS}
    for piece in pieces.values():
        piece.start()
    try:
        yield Pieces(lab, clock, pieces, Line(port))
    finally:
        for piece in pieces.values():
            piece.kill()
