# SPDX-License-Identifier: Apache-2.0
"""`/readyz` and the like say what is wrong; a client notices a server that is gone."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from supervisor_glue.api import health
from supervisor_glue.api.health import Health
from supervisor_glue.api.kinds import NAMESPACES
from supervisor_glue.auth.tls import kept_alive
from supervisor_glue.store import UnavailableError
from tests.support.api_process import served


class Store:
    """Answers as it is told to, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked, self.fails, self.waits = 0, False, 0.0

    async def revision(self) -> int:
        self.asked += 1
        await asyncio.sleep(self.waits)
        if self.fails:
            raise UnavailableError("etcd at 10.0.0.1 cannot be reached")
        return 1


def _answers(store: Store, *paths: str, failed: object = None, closing: bool = False) -> list[tuple[int, str]]:
    cache: Any = SimpleNamespace(store=store, failed=failed)

    async def run() -> list[tuple[int, str]]:
        asked = Health(cache, lambda: closing)
        found = await asyncio.gather(*(asked.answer(make_mocked_request("GET", path)) for path in paths))
        return [(answer.status, str(answer.text)) for answer in found]

    return asyncio.run(run())


def test_who_is_well_says_so() -> None:
    told = _answers(Store(), "/readyz", "/livez", "/healthz", "/readyz?verbose", "/livez?verbose&exclude=cache")
    assert told[:3] == [(200, "ok")] * 3
    assert told[3] == (200, "[+]ping ok\n[+]store ok\n[+]cache ok\n[+]shutdown ok\nreadyz check passed\n")
    assert told[4] == (200, "[+]ping ok\n[+]cache excluded: ok\nlivez check passed\n")


def test_who_has_no_store_is_not_ready_but_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said of where the store is: nobody has to say who he is here."""
    store = Store()
    store.fails = True
    ready, live, excluded = _answers(store, "/readyz", "/livez", "/readyz?exclude=store")
    assert ready == (
        500,
        "[+]ping ok\n[-]store failed: the store cannot be reached\n[+]cache ok\n[+]shutdown ok\nreadyz check failed\n",
    )
    assert live == excluded == (200, "ok")
    monkeypatch.setattr(health, "STORE_SECONDS", 0.01)
    store.fails, store.waits = False, 60.0
    assert "[-]store failed: the store has not answered" in _answers(store, "/healthz")[0][1]


def test_a_failed_cache_and_an_end() -> None:
    assert "[-]cache failed" in _answers(Store(), "/livez", failed=UnavailableError("x"))[0][1]
    ready, live = _answers(Store(), "/readyz", "/livez", closing=True)
    assert ready[0] == 500 and "[-]shutdown failed: the server ends" in ready[1] and live == (200, "ok")


def test_the_store_is_asked_no_more_often_than_it_bears() -> None:
    store = Store()
    store.waits = 0.01
    assert _answers(store, *["/readyz"] * 50) == [(200, "ok")] * 50
    assert store.asked == 1


def test_connections_are_kept_alive(tmp_path: Path) -> None:
    made = kept_alive((socket.AF_INET, socket.SOCK_STREAM, 0, "", None))
    with made:
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30

    async def run() -> list[str]:
        async with served(tmp_path) as (process, client):
            await client.list(NAMESPACES.resource)
            port = f":{process.addresses[0][1]:04X}"
            rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
            return [row[5].partition(":")[0] for row in rows if row[2].endswith(port) and row[3] == "01"]

    timers = asyncio.run(run())
    assert timers == ["02"]  # proc(5): a keep-alive timer is set
