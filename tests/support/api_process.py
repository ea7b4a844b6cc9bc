# SPDX-License-Identifier: Apache-2.0
"""An API server in the test's own process, over HTTPS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from supervisor_glue.api.http_client import HttpClient
from supervisor_glue.api.process import ApiProcess, Settings
from supervisor_glue.store.choice import IN_A_FILE, StoreChoice


@asynccontextmanager
async def served(folder: Path, store: StoreChoice = IN_A_FILE) -> AsyncIterator[tuple[ApiProcess, HttpClient]]:
    """It, and an administrator's client of it."""
    process = await ApiProcess.start(Settings(folder / "data", (("127.0.0.1", 0),), (), store))
    try:
        path = folder / f"kubeconfig-{process.addresses[0][1]}"
        process.kubeconfig(path)
        async with HttpClient.of_file(path, "test") as client:
            yield process, client
    finally:
        await process.stop()
