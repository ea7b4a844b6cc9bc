# SPDX-License-Identifier: Apache-2.0
"""Commands that are interrupted: they clean up, and cleaning up is not interrupted."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class InterruptedCommand(KeyboardInterrupt):
    """Somebody ended this command.

    A type of its own, because of a KeyboardInterrupt that has passed an `exec` (as in every class that dataclasses or
    namedtuple make) Python remembers, and kills itself by SIGINT in the end although it was dealt with.
    """


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP end a command as Ctrl-C does, so that it cleans up. Raises InterruptedCommand."""
    told: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        told.append(number)
        raise InterruptedCommand

    before: dict[int, Any] = {}
    try:
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            before[one] = signal.signal(one, stop)
    except ValueError:  # not the main thread: whoever called has signals of its own
        pass
    try:
        yield
    except Exception as error:
        if told:  # some code, a class that is being made for one, makes an error of its own of what it did not expect
            raise InterruptedCommand from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """What is done in here is not interrupted by Ctrl-C and the like: cleaning up."""
    before: dict[int, Any] = {}
    try:
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            before[one] = signal.signal(one, signal.SIG_IGN)
    except ValueError:
        pass
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
