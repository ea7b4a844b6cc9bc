# SPDX-License-Identifier: Apache-2.0
"""A stand-in for a host's agent: it has realized whatever it is told, and moves no packets.

For tests of the lab itself: namespaces, wires, pods. `AGENT` is its command, `RUN` runs the command line with it.
A state in which a rule is called REFUSE is refused, one with STALL is never realized, and after one with BREAK all are
refused.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
AGENT = (sys.executable, "-S", __file__)
RUN = [
    sys.executable,
    "-c",
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); from overlay import lab_agents;"
    f"lab_agents.AGENT = (sys.executable, '-S', {__file__!r}); from dfw.cli import main; main()",
]


def main() -> None:
    """Answer status until SIGTERM."""
    options = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    path = Path(options["--run"], "agent.sock")
    path.unlink(missing_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(8)
    answer = {"revision_realized": 0, "vnics": 0, "tier": "B", "connections": 0, "drops": 0}
    broken = False
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            data = Path(options["--desired"]).read_bytes()
            state = json.loads(data)
            broken |= b"BREAK" in data
            answer |= {"revision_wanted": state["revision"], "error": None}
            if broken or b"REFUSE" in data:
                answer["error"] = "told to refuse"
            elif b"STALL" not in data:
                answer |= {"revision_realized": state["revision"], "vnics": len(state["vnics"])}
            with contextlib.suppress(ConnectionError):  # who asked was interrupted
                connection.sendall(json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
