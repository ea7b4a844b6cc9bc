# SPDX-License-Identifier: Apache-2.0
"""What controllers are told by whoever enabled the Supervisor."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from dfw.assign import VNI_POOL
from dfw.model import Address, AddressRange, prefix_parse
from supervisor_glue.api.leg import LEG_PORT
from supervisor_glue.api.validate.namespace import ISOLATION as ISOLATION  # whoever reads settings asks for it here
from supervisor_glue.auth.signing import LONGEST

NAMESPACE_PREFIX: Final = 28


@dataclass(frozen=True, slots=True)
class Settings:
    """`pod_cidrs`: where Namespaces' subnets come from. `egress_cidrs`: one address of them a Namespace. `tier0`: the
    gateway that all Tier-1s are connected to. `isolated`: the posture of a Namespace that does not say. `api`: the
    addresses at which pods reach the API, and the port. `protected`: the control plane's networks, which no pod reaches
    but at those. `silence`: seconds after which a host that says nothing is not ready. `quarantine`: seconds
    for which a deleted Node may come back, before its pods are replaced. `certificates`: how long those
    that are signed are valid at most."""

    pod_cidrs: tuple[AddressRange, ...] = field(default_factory=lambda: (prefix_parse("10.244.0.0/20"),))
    egress_cidrs: tuple[AddressRange, ...] = ()
    namespace_prefix: int = NAMESPACE_PREFIX
    first_vni: int = VNI_POOL.start
    tier0: str = "t0-supervisor"
    isolated: bool = False
    api: tuple[Address, ...] = ()
    api_port: int = LEG_PORT
    protected: tuple[AddressRange, ...] = ()
    silence: float = 40.0
    quarantine: float = 40.0
    certificates: timedelta = LONGEST
