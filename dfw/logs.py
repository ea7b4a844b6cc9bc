# SPDX-License-Identifier: Apache-2.0
"""Log lines on stderr: text for people, JSON for machines.

structlog is imported when the first logger is asked for, so that a command that logs nothing does not pay for it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import structlog

WARNING: Final = 30  # as in logging, which need not be imported to know it
INFO: Final = 20
DEBUG: Final = 10


@dataclass(slots=True)
class LogSettings:
    """What the command line asked for: `level` as in logging, `log_format` text or json."""

    level: int = WARNING
    log_format: str = "text"
    applied: bool = False


_settings = LogSettings()


def configure(verbosity: int = 0, log_format: str = "text") -> None:
    """Remember how to log: verbosity 0 shows warnings, 1 information, 2 everything."""
    _settings.level = {0: WARNING, 1: INFO}.get(verbosity, DEBUG)
    _settings.log_format = log_format
    _settings.applied = False


def configure_more(verbosity: int) -> None:
    """Show more than was asked for until now, by so many steps."""
    _settings.level = max(DEBUG, _settings.level - 10 * verbosity)
    _settings.applied = False


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """A logger whose lines carry `logger: name`."""
    import structlog

    if not _settings.applied:
        apply_settings()
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger().bind(logger=name)
    return logger


class _Stderr:
    """sys.stderr as it is when something is written: loggers stay, and whoever runs a command in a process of their own
    (a test) may exchange it and close it."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def apply_settings() -> None:
    """Hand the remembered settings to structlog."""
    import os

    import structlog

    renderer: Any
    if _settings.log_format == "json":
        renderer = structlog.processors.JSONRenderer(sort_keys=False)
    else:
        colors = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
        renderer = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([_tracebacks()] if _settings.log_format == "json" else []),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_settings.level),
        logger_factory=structlog.PrintLoggerFactory(_Stderr()),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )
    _settings.applied = True


def _tracebacks() -> structlog.typing.Processor:
    """Tracebacks as data, without the values of variables: a key may be among them."""
    from structlog.processors import ExceptionRenderer
    from structlog.tracebacks import ExceptionDictTransformer

    return ExceptionRenderer(ExceptionDictTransformer(show_locals=False))
