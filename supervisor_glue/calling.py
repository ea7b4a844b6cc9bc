# SPDX-License-Identifier: Apache-2.0
"""What verbs that ask an API server share: which server, and how its refusals are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dfw.errors import EnvironmentLacksError

if TYPE_CHECKING:
    from supervisor_glue.auth.kubeconfig import Kubeconfig


def kubeconfig_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--kubeconfig`: which server, and as whom."""
    text = "The server, and who asks; default: the file that $KUBECONFIG names, or the only lab's with a Supervisor."
    kind = click.Path(path_type=Path, dir_okay=False)
    return click.option("--kubeconfig", type=kind, envvar="KUBECONFIG", help=text)(function)


def config_of(path: Path | None, lab: str | None = None) -> Kubeconfig:
    """What the file says: that of a lab, else this one, else that of the only lab with a Supervisor. Raises
    click.UsageError."""
    from supervisor_glue.auth.kubeconfig import KubeconfigError, kubeconfig_read

    if lab is not None or path is None:
        path = _of_lab(lab)
    try:
        return kubeconfig_read(path)
    except KubeconfigError as error:
        raise click.UsageError(str(error)) from None
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror or error}") from None


def _of_lab(name: str | None) -> Path:
    """Of an administrator of a lab's Supervisor; None: of the only one."""
    from overlay.lab_record import labs_folder

    found = {path.parent.parent.name: path for path in sorted(labs_folder().glob("*/supervisor/kubeconfig"))}
    if name is not None and name not in found:
        with_one = f"; those with one: {', '.join(found)}" if found else ""
        raise click.UsageError(f"there is no lab {name!r} with a Supervisor{with_one}")
    if name is None and len(found) != 1:
        several = f", or --lab {' or '.join(found)}" if found else ""
        text = f"which server? --kubeconfig FILE, as `palisade supervisor up --kubeconfig` writes it{several}"
        raise click.UsageError(text)
    return found[name] if name is not None else next(iter(found.values()))


@contextmanager
def calling() -> Iterator[None]:
    """Exit status 1 and the server's sentence where it refuses; 3 where it does not answer."""
    from supervisor_glue.api.status import ApiError
    from supervisor_glue.auth.signing import SigningError

    try:
        yield
    except ApiError as error:
        raise click.ClickException(f"the server refuses: {error.message} ({error.code})") from None
    except (SigningError, TimeoutError) as error:
        raise click.ClickException(str(error)) from None
    except ConnectionError as error:
        raise EnvironmentLacksError(str(error), "palisade supervisor up, or another --kubeconfig") from None
