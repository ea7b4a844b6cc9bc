# SPDX-License-Identifier: Apache-2.0
"""Who is in the demo's network: the ports of examples/shop/inventory.yaml, and a client outside."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
SHOP = ROOT / "examples" / "shop"
POLICY, INVENTORY = SHOP / "policy.yaml", SHOP / "inventory.yaml"
OPEN = SHOP / "open.yaml"  # everything may begin


class Host(NamedTuple):
    """One end of the demo's traffic, with the address of its gateway (router) in each family."""

    name: str
    segment: str
    mac: str
    v4: str
    v6: str
    gateway4: str
    gateway6: str


# Nobody's vNIC: addresses for documentation (RFC 5737, RFC 3849).
OUTSIDE = Host(
    "outside", "outside", "02:00:00:00:ff:10", "198.51.100.10", "2001:db8:ff::10", "198.51.100.1", "2001:db8:ff::1"
)


def read_hosts() -> dict[str, Host]:
    """The hosts by name. Gateways are the first address of each segment."""
    inventory = next(iter(yaml.safe_load_all(INVENTORY.read_text(encoding="utf-8"))))
    hosts = {OUTSIDE.name: OUTSIDE}
    for port in inventory["ports"]:
        v4, v6 = port["ips"]
        gateways = (v4.rsplit(".", 1)[0] + ".1", v6.rsplit("::", 1)[0] + "::1")
        hosts[port["name"]] = Host(port["name"], port["segment"], port["mac"], v4, v6, *gateways)
    return hosts
