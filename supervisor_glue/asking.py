# SPDX-License-Identifier: Apache-2.0
"""What may be asked of a host's packet agent through the API: `GET …/hosts/NAME/agent?request=JSON`, as a WebSocket.

The request is the line of JSON that the agent itself takes (overlay/ask.py); what it answers comes as standard output,
and what a capture is told comes as standard input. Reading needs the verb `get`; what changes something, or sends a
packet, `create`: a WebSocket is always a GET, so that the method alone would say nothing.
"""

from __future__ import annotations

import json
from typing import Any, Final

READS: Final = frozenset({"status", "show", "flows", "capture", "metrics", "trace-read"})
CHANGES: Final = frozenset({"kill", "reset", "trace"})
LINE_BYTES: Final = 16 * 1024


class AskingError(ValueError):
    """It may not be asked: a sentence."""


def asked_read(text: str) -> dict[str, Any]:
    """A request for an agent. Raises AskingError."""
    try:
        request = json.loads(text) if len(text) <= LINE_BYTES else None
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict) or not isinstance(request.get("do"), str):
        raise AskingError(f"request: an object with the member do, as JSON of at most {LINE_BYTES} bytes")
    if request["do"] not in READS | CHANGES:
        what = ", ".join(sorted(READS | CHANGES))
        raise AskingError(f"request: {request['do']!r} is not asked through the API; what is: {what}")
    return request


def verb_of(request: dict[str, Any]) -> str:
    """The verb that one must be allowed for it."""
    return "create" if request["do"] in CHANGES else "get"
