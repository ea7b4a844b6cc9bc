# SPDX-License-Identifier: Apache-2.0
"""Where the control plane's nodes go: apart from each other, on the hosts with the least to do. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from supervisor_glue.prechecks.addresses import management_address
from supervisor_glue.prechecks.spec import SupervisorSpec


@dataclass(frozen=True, slots=True)
class Placed:
    """A node of the control plane: its host, its management address. The first holds the floating address, too."""

    name: str
    host: str
    address: str
    floating: str = ""

    def as_object(self) -> dict[str, Any]:
        """As `-o json` and the Supervisor's status show it."""
        found = {"name": self.name, "host": self.host, "address": self.address}
        return found | ({"floating_address": self.floating} if self.floating else {})


def plan_placement(spec: SupervisorSpec, load: Mapping[str, int]) -> tuple[Placed, ...]:
    """The nodes, none where there are too few hosts or addresses. `load`: of each host that can be used."""
    start = spec.management.start if spec.management else None
    hosts = sorted(load, key=lambda name: (load[name], name))[: spec.nodes]
    if start is None or len(hosts) < spec.nodes:
        return ()
    addresses = [management_address(start, number) for number in range(spec.nodes + 1)]
    if None in addresses:
        return ()
    return tuple(
        Placed(f"{spec.name}-{number}", host, str(addresses[number]), str(addresses[0]) if number == 1 else "")
        for number, host in enumerate(hosts, 1)
    )
