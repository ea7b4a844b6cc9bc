# SPDX-License-Identifier: Apache-2.0
"""Keeping an agent alive: a parent that has everything imported already and forks the agent anew when it is killed.

Python and its modules take half a second to start, a fork of a process that has them milliseconds: that is how long a
killed agent's packets wait in the TAPs' queues. Where systemd keeps services alive, it keeps this one.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Final

from dfw.logs import get_logger

ENDING: Final = (signal.SIGTERM, signal.SIGINT)
LIVED_SECONDS: Final = 0.5  # one that lived shorter died at once
SHORT_LIVES: Final = 5  # so many in a row are killed by somebody; more are a defect, and wait
PAUSE_SECONDS: Final = 1.0


def keep(work: Callable[[], int]) -> int:
    """Run `work` in a child process until it ends by itself, and again whenever it is killed by a signal.

    Returns its status. TERM and INT are handed on to the child, and end both.
    """
    log = get_logger("keeper")
    waited = {*ENDING, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    gc.freeze()  # a child's collector would write to, and so copy, all that it shares with us
    short = 0
    while True:
        begun = time.monotonic()
        child = _fork(work, waited)
        status = _wait(child, waited)
        if status is None or os.WIFEXITED(status):
            return 0 if status is None else os.WEXITSTATUS(status)
        log.warning("agent killed", pid=child, signal=os.WTERMSIG(status))
        # One that dies at once again and again: not in a busy loop.
        short = short + 1 if time.monotonic() - begun < LIVED_SECONDS else 0
        if signal.sigtimedwait(ENDING, PAUSE_SECONDS if short > SHORT_LIVES else 0) is not None:
            return 0


def _fork(work: Callable[[], int], blocked: set[signal.Signals]) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    status = 70  # EX_SOFTWARE
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
        status = work()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)


def _wait(child: int, waited: set[signal.Signals]) -> int | None:
    """The child's status when it has ended; None when both were told to end and it has done so."""
    told = False
    while True:
        number = signal.sigwait(waited)
        if number in ENDING:
            told = True
            os.kill(child, signal.SIGTERM)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended == child:
            return None if told and not os.WIFEXITED(status) else status
