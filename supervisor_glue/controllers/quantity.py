# SPDX-License-Identifier: Apache-2.0
"""Kubernetes quantities as schedulers count them: whole numbers, rounded up."""

from __future__ import annotations

from decimal import ROUND_CEILING

from supervisor_glue.api.quantity import quantity_value


def milli(text: str | int | float) -> int:
    """In thousandths, as processors are counted. Raises ValueError."""
    return int((quantity_value(str(text)) * 1000).to_integral_value(ROUND_CEILING))


def whole(text: str | int | float) -> int:
    """In units, as bytes are counted. Raises ValueError."""
    return int(quantity_value(str(text)).to_integral_value(ROUND_CEILING))
