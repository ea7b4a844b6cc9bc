# SPDX-License-Identifier: Apache-2.0
"""Standard input and terminals of containers (overlay/console.py), for whoever attaches."""

from __future__ import annotations

import os
import socket
from asyncio import get_running_loop
from contextlib import suppress
from pathlib import Path

from overlay.console import INPUT, size_message
from supervisor_glue.spherelet.session import Session


def console_connect(place: Path) -> socket.socket:
    """A client of a container's console. Raises OSError: it has ended, or has as many clients as it may."""
    folder = os.open(place.parent, os.O_PATH | os.O_CLOEXEC)
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    client.setblocking(False)
    try:
        client.connect(f"/proc/self/fd/{folder}/{place.name}")  # its whole path may be too long
    except OSError as error:
        client.close()
        if isinstance(error, BlockingIOError):
            raise OSError(error.errno, "the container's input has as many clients as it may") from None
        raise
    finally:
        os.close(folder)
    return client


def console_resize(place: Path, rows: int, columns: int) -> None:
    """Its terminal gets another size. Raises OSError, struct.error."""
    with console_connect(place) as client:
        client.send(size_message(rows, columns))


async def console_feed(client: socket.socket, session: Session) -> None:
    """Pass on what is typed until there is no more; what the container does not take any more is dropped.
    The client is closed then, or when this is cancelled: that is how a console knows of the end."""
    loop = get_running_loop()
    kind = bytes([INPUT])
    with client:
        with suppress(ConnectionError):
            await loop.sock_sendall(client, kind)
            while (data := await session.input()) is not None:
                await loop.sock_sendall(client, kind + data)
            return
        while await session.input() is not None:
            pass
