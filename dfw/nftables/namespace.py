# SPDX-License-Identifier: Apache-2.0
"""A network namespace of our own, in which rulesets and devices touch nothing of this machine.

It has no name and no process: an open file keeps it, and it goes with the last one. Work in it is done by threads that
enter it and end, so that nobody else's namespace ever changes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, TypeVar

from dfw.errors import EnvironmentLacksError

_CLONE_NEWNET: Final = 0x40000000
_Result = TypeVar("_Result")


class PrivateNamespace:
    """A fresh network namespace until closed. Use it in a `with` statement. Raises EnvironmentLacksError where this
    process may not make one."""

    def __init__(self) -> None:
        self._file = -1
        self._file = _run_in_thread(_namespace_new)

    def run(self, function: Callable[[], _Result]) -> _Result:
        """What `function` returns when it runs inside, in a thread; what it opens there stays usable outside.
        Raises whatever it raises."""

        return namespace_entered(self._file, function)

    @property
    def path(self) -> str:
        """A path to it, for other processes too, as long as it is open here."""
        return f"/proc/{os.getpid()}/fd/{self._file}"

    def close(self) -> None:
        """Let go of it. Devices that others hold open keep it alive."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> PrivateNamespace:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def namespace_entered(namespace: int, function: Callable[[], _Result]) -> _Result:
    """What `function` returns when it runs in the network namespace behind a descriptor, in a thread of its own. Raises
    whatever it raises, OSError."""

    def inside() -> _Result:
        _call("setns", namespace, _CLONE_NEWNET)
        return function()

    return _run_in_thread(inside)


def _namespace_new() -> int:
    """This thread into a new namespace; a descriptor of it."""
    try:
        _call("unshare", _CLONE_NEWNET)
    except PermissionError as error:
        raise EnvironmentLacksError("no right to make a network namespace (CAP_SYS_ADMIN)", "run as root") from error
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _call(name: str, *arguments: int) -> None:
    """A function of the C library (os.setns and os.unshare are there from Python 3.12 on). Raises OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) != 0:
        number = ctypes.get_errno() or errno.EINVAL
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _run_in_thread(function: Callable[[], _Result]) -> _Result:
    results: list[_Result] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="namespace")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
