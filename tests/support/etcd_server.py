# SPDX-License-Identifier: Apache-2.0
"""An etcd of a test's own: in a directory of its own, on a Unix socket, without a port that others could have."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from aetcd import rpc

from supervisor_glue.store.etcd import EtcdStore
from tests.support.patience import until


class EtcdServer:
    """Use: `with EtcdServer() as server: … server.endpoint`. `addresses`: of a cluster's members, this one's first; it
    is then at port 2379 there, and begun with `begin`, as it answers only together with others."""

    def __init__(self, *options: str, scheme: str = "unix", addresses: Sequence[str] = ()) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="palisade-etcd-"))  # short: a socket's path has 107 characters
        self._options, self._scheme, self._addresses = options, scheme, addresses
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"{self._addresses[0]}:2379" if self._addresses else f"unix:{self._folder}/client:0"

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text()

    def __enter__(self) -> EtcdServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()

    def end(self) -> None:
        """With all that it had."""
        self.kill()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Until it answers on its socket."""
        self.begin()
        until(self._answers, f"etcd does not listen: {self.log[-2000:]}")

    def begin(self) -> None:
        """A short heartbeat: leases may have one second, elections are at once."""
        client, peer = f"{self._scheme}://client:0", "unix://peer:0"
        members = {"one": peer}
        name = "one"
        if self._addresses:
            name, client, peer = (
                form.format(self._addresses[0]) for form in ("{}", "http://{}:2379", "http://{}:2380")
            )
            members = {address: f"http://{address}:2380" for address in self._addresses}
        command = ["etcd", f"--name={name}", "--data-dir=data", f"--listen-client-urls={client}"]
        command += [f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}"]
        command += [f"--initial-advertise-peer-urls={peer}"]
        command += [f"--initial-cluster={','.join(f'{member}={url}' for member, url in members.items())}"]
        command += ["--heartbeat-interval=10", "--election-timeout=100", *self._options]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log)

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, self.log[-2000:]
        with socket.socket(socket.AF_UNIX) as tried:
            return tried.connect_ex(self.endpoint.removeprefix("unix:")) == 0

    def kill(self, number: int = signal.SIGKILL) -> None:
        """At once, whatever it does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait()
            self._process = None
            for name in ("client:0", "peer:0"):
                (self._folder / name).unlink(missing_ok=True)

    def forget(self) -> None:
        """All that it had; it is not running."""
        shutil.rmtree(self._folder / "data")

    def halt(self, *, going: bool) -> None:
        """It answers no more, and its connections stay; or it goes on."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT if going else signal.SIGSTOP)
        if not going:  # a signal's sender does not wait for it
            until(self._is_halted, "etcd does not stop")

    def _is_halted(self) -> bool:
        assert self._process is not None
        threads = Path(f"/proc/{self._process.pid}/task").glob("*/stat")
        try:
            return all(thread.read_text().rpartition(") ")[2].startswith("T") for thread in threads)
        except OSError:  # one has ended
            return False


async def emptied(server: EtcdServer) -> EtcdStore:
    """A store there without keys; its revision goes on."""
    store = await EtcdStore.open([server.endpoint])
    await store._client.call(store._client.kv.DeleteRange, rpc.DeleteRangeRequest(key=b"\0", range_end=b"\0"))
    return store
