# SPDX-License-Identifier: Apache-2.0
"""Probes: is a container started, alive, ready? They run inside the pod's network namespace.

Source: https://kubernetes.io/docs/tasks/configure-pod-container/configure-liveness-readiness-startup-probes/.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from overlay.enter import run_in
from supervisor_glue.api.status import Object

Run = Callable[[list[str]], Awaitable[tuple[int, bytes]]]
"""Runs a command in the container: its exit code, and the beginning of what it said."""
_MOST: Final = 10 * 1024


class ProbeError(Exception):
    """It failed: a sentence."""


async def handler_run(handler: Mapping[str, Any], container: Object, netns: Path, address: str, run: Run) -> None:
    """Do what a lifecycle hook says. Raises ProbeError, OSError, ValueError."""
    if handler.get("sleep"):
        await asyncio.sleep(float(handler["sleep"].get("seconds") or 0))
    elif any(handler.get(kind) for kind in ("exec", "httpGet", "tcpSocket")):
        await _asked(handler, container, netns, address, run)


async def probe_once(probe: Mapping[str, Any], container: Object, netns: Path, address: str, run: Run) -> None:
    """Ask once. Raises ProbeError."""
    try:
        async with asyncio.timeout(float(probe.get("timeoutSeconds") or 1)):
            await _asked(probe, container, netns, address, run)
    except TimeoutError:
        raise ProbeError(f"timeout: no answer within {probe.get('timeoutSeconds') or 1} s") from None
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:
        raise ProbeError(str(error) or type(error).__name__) from None


async def _asked(probe: Mapping[str, Any], container: Object, netns: Path, address: str, run: Run) -> None:
    if probe.get("exec"):
        code, said = await run(list(probe["exec"].get("command") or ()))
        if code:
            raise ProbeError(said.decode("utf-8", "replace").strip() or f"command ended with {code}")
        return
    for kind in ("httpGet", "tcpSocket"):
        if probe.get(kind):
            action = probe[kind]
            host = action.get("host") or address or "127.0.0.1"
            sock = await _connected(netns, host, port_of(container, action["port"]))
            if kind == "httpGet":
                await _get(sock, action, host)
            else:
                sock.close()
            return
    raise ProbeError("grpc is not supported here")


def port_of(container: Object, port: int | str) -> int:
    """A port by number or by name. Raises ValueError."""
    for known in container.get("ports") or ():
        if known.get("name") == port:
            return int(known["containerPort"])
    return int(port)


async def _connected(netns: Path, host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = await asyncio.to_thread(run_in, str(netns), lambda: socket.socket(family, socket.SOCK_STREAM))
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (host, port))
    except BaseException:
        sock.close()
        raise
    return sock


async def _get(sock: socket.socket, action: Mapping[str, Any], host: str) -> None:
    try:
        if action.get("scheme") == "HTTPS":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # as Kubernetes: nobody is verified
            reader, writer = await asyncio.open_connection(sock=sock, ssl=context, server_hostname=host)
        else:
            reader, writer = await asyncio.open_connection(sock=sock)
    except BaseException:
        sock.close()
        raise
    try:
        headers = {"Host": host, "User-Agent": "kube-probe/1.37", "Accept": "*/*", "Connection": "close"}
        headers |= {item["name"]: item["value"] for item in action.get("httpHeaders") or ()}
        lines = [f"GET {action.get('path') or '/'} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        if any("\r" in line or "\n" in line for line in lines):
            raise ValueError("a header or path with a line break")
        writer.write("\r\n".join([*lines, "", ""]).encode())
        status = (await reader.readline()).split(None, 2)
        if len(status) < 2 or not status[0].startswith(b"HTTP/"):
            raise ProbeError("the answer is no HTTP")
        if not 200 <= int(status[1]) < 400:
            raise ProbeError(f"HTTP probe failed with statuscode: {int(status[1])}")
    finally:
        writer.close()


class Prober:
    """One probe of one container, until cancelled. `told`: called with whether it holds, as often as that is certain,
    and with why; `failed`: called with why, each time that it fails."""

    def __init__(
        self,
        probe: Mapping[str, Any],
        ask: Callable[[], Awaitable[None]],
        told: Callable[[bool, str], None],
        failed: Callable[[str], None],
    ):
        self.probe, self.ask, self.told, self.failed = probe, ask, told, failed

    async def run(self) -> None:
        """Raises nothing but CancelledError."""
        period = max(1.0, float(self.probe.get("periodSeconds") or 10))
        await asyncio.sleep(float(self.probe.get("initialDelaySeconds") or 0))
        good = bad = 0
        while True:
            why = ""
            try:
                await self.ask()
                good, bad = good + 1, 0
            except ProbeError as error:
                good, bad, why = 0, bad + 1, str(error)
                self.failed(why)
            if good >= int(self.probe.get("successThreshold") or 1):
                self.told(True, "")
            elif bad >= int(self.probe.get("failureThreshold") or 3):
                self.told(False, why)
            await asyncio.sleep(period)
