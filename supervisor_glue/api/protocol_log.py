# SPDX-License-Identifier: Apache-2.0
"""What aiohttp has to say about connections, in our log's form. What a client sent that is no HTTP is refused (400) and
mentioned at the level of debugging only: anybody who reaches the port can send it, and it may hold what is secret."""

from __future__ import annotations

import logging
from typing import Any, Final

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestPayloadError

from dfw.logs import get_logger


class ProtocolLog(logging.Logger):
    """For aiohttp's `logger`."""

    def exception(self, msg: object, *args: object, exc_info: Any = True, **more: Any) -> None:
        """An error that no handler has answered."""
        log = get_logger("http")
        if isinstance(exc_info, (HttpProcessingError, RequestPayloadError)):
            log.debug("request.malformed", error=type(exc_info).__name__)
        else:
            log.error("request.failed", what=str(msg) % args if args else str(msg), exc_info=exc_info)


PROTOCOL_LOG: Final = ProtocolLog("palisade.http")
PROTOCOL_LOG.disabled = True  # but for what is above: what else aiohttp says is for its own debugging
