# SPDX-License-Identifier: Apache-2.0
"""Asking a host's agent: one line of JSON each way on its Unix socket."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

ANSWER_SECONDS: Final = 10.0


class AskError(RuntimeError):
    """The agent does not answer, or says why it cannot: the message is a sentence."""


def agent_ask(path: str | Path, request: Mapping[str, Any], timeout: float = ANSWER_SECONDS) -> dict[str, Any]:
    """The agent's answer to one request. Raises AskError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(str(path))
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as answers:
                line = answers.readline()
        except OSError as error:
            raise AskError(f"the agent at {path} does not answer: {error.strerror or error}") from error
    try:
        answer = json.loads(line)
    except ValueError:
        raise AskError(f"the agent at {path} ended before it answered") from None
    if not isinstance(answer, dict):
        raise AskError(f"the agent at {path} answered with something else than an object")
    if set(answer) == {"error"}:
        raise AskError(str(answer["error"]))
    return answer
