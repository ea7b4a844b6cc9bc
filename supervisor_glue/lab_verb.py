# SPDX-License-Identifier: Apache-2.0
"""`palisade lab up --supervisor`: what it prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from dfw.errors import EnvironmentLacksError

if TYPE_CHECKING:
    from overlay.lab_record import LabPaths
    from overlay.progress import Steps


def lab_up_supervisor(paths: LabPaths, names: Sequence[str], mtu: int, steps: Steps) -> None:
    """Bring a lab with a Supervisor up, and say what to do next."""
    from supervisor_glue.api.status import ApiError
    from supervisor_glue.lab_supervisor import up

    try:
        made = up(paths, names, mtu=mtu, steps=steps)
    except ApiError as error:
        raise click.UsageError(f"the Supervisor refuses: {error.message}") from None
    except ConnectionError as error:
        raise EnvironmentLacksError(str(error), "palisade lab down, then again") from None
    parts = ", ".join(f"{part} {seconds:.1f} s" for part, seconds in made.seconds.items())
    click.echo(f"lab {paths.name} with a Supervisor: {len(made.hosts)} hosts, {made.objects} objects applied ({parts})")
    click.echo(
        f"\n  export KUBECONFIG={made.kubeconfig}\n  kubectl create namespace demo\n  kubectl get nodes,namespaces\n"
    )
