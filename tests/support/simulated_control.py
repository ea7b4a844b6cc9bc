# SPDX-License-Identifier: Apache-2.0
"""A control plane as `palisade supervisor up` starts it, with room for many Namespaces; run as a program.

`python -m tests.support.simulated_control DATA PORT KUBECONFIG POD_CIDR`. Simulated hosts renew no Lease: a host's
silence is not looked at.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from dfw.logs import configure
from dfw.model import prefix_parse
from supervisor_glue.api.process import Settings as ApiSettings
from supervisor_glue.controllers.settings import Settings
from supervisor_glue.controlling import Controlling
from supervisor_glue.serve import serve

NO_SILENCE = 1e9  # seconds
LEASE = 15.0  # seconds for which a leader that was killed is believed


def main() -> None:
    data, port, kubeconfig, pods = sys.argv[1:]
    configure()
    settings = Settings(pod_cidrs=(prefix_parse(pods),), silence=NO_SILENCE)
    controlling = Controlling(lease=LEASE, settings=settings)
    asyncio.run(serve(ApiSettings(Path(data), (("127.0.0.1", int(port)),)), controlling, Path(kubeconfig)))


if __name__ == "__main__":
    main()
