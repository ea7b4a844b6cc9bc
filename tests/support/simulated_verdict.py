# SPDX-License-Identifier: Apache-2.0
"""Whether simulated hosts have what a compile from nothing gives, and how large their tables are."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from dfw.model import prefix_parse
from overlay.fabric import render_fabric
from overlay.hoststate import HostState, state_encode
from overlay.span_parts import parts_assemble
from supervisor_glue.api.http_client import HttpClient
from supervisor_glue.controllers.intent import LOOKED_AT
from supervisor_glue.controllers.settings import Settings
from supervisor_glue.controllers.span import Span
from tests.support.simulated_hosts import SimulatedHost
from tests.support.simulated_objects import Load


def state_of(host: SimulatedHost) -> HostState:
    return parts_assemble(host.name, host.reader.parts, host.revision)


def tables_bytes(state: HostState) -> tuple[int, int]:
    """Of what the packet core is given: rules with their sets, and what it forwards by."""
    rules = sum(len(table.entries) + len(table.refs) for table in state.tables)
    rules += sum(len(item.ranges) for item in state.sets)
    fabric = render_fabric(state, {vnic.name: number for number, vnic in enumerate(state.vnics)})
    arrays = (getattr(fabric, name) for name in fabric.__dataclass_fields__)
    return rules, sum(item.nbytes for item in arrays if isinstance(item, np.ndarray))


def sizes_of(hosts: Sequence[SimulatedHost]) -> dict[str, Any]:
    """Bytes of tables in the packet core, and of the state in an agent's file; what was sent as a share of each."""
    found: dict[str, Any] = {}
    shares, file_shares, rules, forwarding = [], [], [], []
    for host in hosts:
        state = state_of(host)
        if not state.vnics:
            continue  # it has no tables
        own, shared = tables_bytes(state)
        rules.append(own)
        forwarding.append(shared)
        shares.append(host.bytes / (own + shared))
        file_shares.append(host.bytes / len(state_encode(state)))
    found["hosts_with_vnics"] = f"{len(rules)} of {len(hosts)}"
    found["table_rules"] = sum(rules) // len(rules)
    found["table_forwarding"] = sum(forwarding) // len(rules)
    found["parts"] = max(len(host.reader.parts) for host in hosts)
    found["worst_share_of_tables"] = round(max(shares), 3)
    found["worst_share_of_state_file"] = round(max(file_shares), 3)
    return found


async def verdict(
    client: HttpClient, load: Load, hosts: Sequence[SimulatedHost], compared: Sequence[SimulatedHost]
) -> dict[str, Any]:
    """The parts of some hosts against those of a Span that is made now of what the API lists; all hosts' vNICs."""
    span = Span(Settings(pod_cidrs=(prefix_parse(load.cidr),)))
    for resource in LOOKED_AT:
        for item in (await client.list(resource)).items:
            span.intent.change(resource, None, item)
    await span.compile()
    different = [
        host.name
        for host in compared
        if {key: part.data for key, part in span.parts(host.name).items()} != host.reader.parts
    ]
    vnics = sum(key.startswith("vnic/") for host in hosts for key in host.reader.parts.own())
    for host in random.Random(2).sample(list(compared), min(5, len(compared))):
        state_of(host)  # it is whole
    found = {"hosts": len(hosts), "compared": len(compared), "different": len(different), "first": different[:3]}
    return found | {"vnics": vnics}
