# SPDX-License-Identifier: Apache-2.0
"""Which lab a command means, and what its errors are called on the command line."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from overlay.lab_record import LabPaths, LabRecord

Function = TypeVar("Function", bound=Callable[..., Any])


def name_option(function: Function) -> Function:
    """`--name`: which lab."""
    text = "Which lab; default: the only one there is."
    return click.option("--name", "--lab", "name", metavar="NAME", envvar="PALISADE_LAB_NAME", help=text)(function)


@contextmanager
def lab_reported() -> Iterator[None]:
    """What can go wrong with a lab, as messages with their exit statuses."""
    from dfw.errors import EnvironmentLacksError
    from overlay.lab_agents import AgentError
    from overlay.lab_apply import PodError
    from overlay.lab_change import ChangeError, PendingError
    from overlay.lab_record import RecordError
    from overlay.lab_revision import RevisionError

    try:
        yield
    except (PodError, RecordError, RevisionError, PendingError) as error:
        raise click.UsageError(str(error)) from None
    except (AgentError, ChangeError) as error:  # as `wait` that timed out
        raise click.ClickException(str(error)) from None
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.EROFS):
            raise
        remedy = "this machine or container does not let us have that, or has no more of it"
        raise EnvironmentLacksError(str(error), remedy) from error


def lab_named(name: str) -> LabPaths:
    """The paths of a lab. Raises click.UsageError for a name that none can have."""
    from overlay.lab_record import lab_paths

    try:
        return lab_paths(name)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def lab_only(otherwise: str = "") -> LabPaths:
    """The only lab that is there. `otherwise`: what else could be meant if there is none. Raises click.UsageError."""
    from overlay.lab_record import labs_list

    found = labs_list()
    if not found:
        raise click.UsageError(f"no lab is there; `palisade lab up` brings one up{otherwise}")
    if len(found) > 1:
        raise click.UsageError(f"there are several labs: {', '.join(item.name for item in found)}; say --name NAME")
    return found[0]


def lab_known(name: str | None, otherwise: str = "") -> tuple[LabPaths, LabRecord]:
    """A lab that is there; `otherwise` as in `lab_only`. Raises click.UsageError."""
    from overlay.lab_record import RecordError, record_read

    paths = lab_only(otherwise) if name is None else lab_named(name)
    try:
        record = record_read(paths)
    except RecordError as error:
        raise click.UsageError(str(error)) from None
    if record is None:
        raise click.UsageError(f"there is no lab {paths.name}; `palisade lab up --name {paths.name}` brings one up")
    return paths, record


def files_say(paths: LabPaths) -> None:
    """Raises click.UsageError where a lab's files do not say what runs in it: its Supervisor does."""
    from overlay.lab_view import has_supervisor

    if has_supervisor(paths):
        raise click.UsageError(
            f"lab {paths.name} has a Supervisor, whose API says what runs there: kubectl apply, "
            f"or palisade lab up --supervisor --name {paths.name} FILE"
        )
