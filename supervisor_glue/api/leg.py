# SPDX-License-Identifier: Apache-2.0
"""The control plane's leg in the pods' network: where pods reach the API."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Final

from overlay.enter import run_in

LEG: Final = "supervisor-api"
"""The Port by which the control plane is in the pods' network, and its segment; those of Namespaces begin otherwise."""
LEG_PORT: Final = 6443


@dataclass(frozen=True, slots=True)
class Leg:
    """A network namespace (its path) on a host, which gives it the vNIC of the Port `supervisor-api`."""

    host: str
    netns: str


def leg_listen(leg: Leg) -> socket.socket:
    """A socket that listens there: whatever address the namespace is given is the API's, and sockets stay where they
    were made. Raises OSError."""

    def opened() -> socket.socket:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("::", LEG_PORT), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", LEG_PORT))

    return run_in(leg.netns, opened)
