# SPDX-License-Identifier: Apache-2.0
"""The machine's clock is set to another time: what lasts is measured by the monotonic clock, and certificates are made
anew for the time that it is now. (Nodes' and leaders' Leases: test_node_controllers.py, test_controllers.py.)"""

from __future__ import annotations

import asyncio
import ssl
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import pytest
from cryptography import x509

from supervisor_glue.api import process as api_process
from supervisor_glue.controllers.objects import object_made
from supervisor_glue.controllers.resources import NAMESPACES
from supervisor_glue.store import LeaseError, Put, SqliteStore
from tests.support.api_process import served
from tests.support.patience import PATIENCE


@pytest.mark.parametrize("seconds", [1e7, -1e7])
def test_a_store_s_leases_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    async def body() -> None:
        store = await SqliteStore.open(tmp_path / "s.db")
        await store.commit([], [Put("/long", b"", await store.lease(1000))])
        is_put = False
        while not is_put:
            with suppress(LeaseError):  # on a machine that had no time for us
                is_put = (await store.commit([], [Put("/short", b"", await store.lease(0.5))])).succeeded
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + seconds)
        while await store.get("/short") is not None:
            await asyncio.sleep(0.05)
        assert await store.get("/long") is not None
        await store.close()

    asyncio.run(asyncio.wait_for(body(), PATIENCE))


def test_a_server_s_certificate_fits_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A jump past two thirds of its life, and one back to before it was made: connections that are open stay."""

    class Clock(datetime):
        jump = timedelta()

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + cls.jump

    async def body() -> None:
        async with served(tmp_path) as (process, client):

            async def shown() -> x509.Certificate:
                """Of a new connection."""
                pem = await asyncio.to_thread(ssl.get_server_certificate, process.addresses[0], timeout=PATIENCE)
                return x509.load_pem_x509_certificate(pem.encode())

            made, seen = await shown(), asyncio.Event()

            async def watch() -> None:
                async for event in client.watch(NAMESPACES, "0"):
                    seen.set()
                    if event.object["metadata"]["name"] == "later":
                        return

            watching = asyncio.create_task(watch())
            await seen.wait()
            for days in (300, -30):
                Clock.jump = timedelta(days=days)
                now = datetime.now(UTC) + Clock.jump
                while (found := await shown()) == made:
                    await asyncio.sleep(0.02)
                life = found.not_valid_after_utc - found.not_valid_before_utc
                assert found.not_valid_before_utc <= now < found.not_valid_before_utc + life / 3
                made = found
            await client.create(NAMESPACES, object_made(NAMESPACES, "later"))
            await watching

    monkeypatch.setattr(api_process, "RENEW_SECONDS", 0.02)
    monkeypatch.setattr(api_process, "datetime", Clock)
    asyncio.run(asyncio.wait_for(body(), PATIENCE))
