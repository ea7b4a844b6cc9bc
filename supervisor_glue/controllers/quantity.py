# SPDX-License-Identifier: Apache-2.0
"""Kubernetes quantities (`100m`, `128Mi`, `1e3`) as exact numbers.

https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Final

_FORM: Final = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d{1,3})|([KMGTPE]i|[numkMGTPE]))?")
_SUFFIXES: Final = {
    **{name: Fraction(1024) ** power for power, name in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
    **{name: Fraction(10) ** power for name, power in (("n", -9), ("u", -6), ("m", -3), ("k", 3), ("M", 6))},
    **{name: Fraction(10) ** power for name, power in (("G", 9), ("T", 12), ("P", 15), ("E", 18))},
}


@lru_cache(maxsize=4096)
def quantity(text: str | int | float) -> Fraction:
    """The number. Raises ValueError."""
    found = _FORM.fullmatch(str(text))
    if found is None:
        raise ValueError(f"{text!r} is not a quantity")
    number, exponent, suffix = found.groups()
    if exponent:
        return Fraction(number) * Fraction(10) ** int(exponent[1:])
    return Fraction(number) * (_SUFFIXES[suffix] if suffix else 1)


def milli(text: str | int | float) -> int:
    """In thousandths, rounded up, as schedulers count processors."""
    return -int(-quantity(text) * 1000 // 1)


def whole(text: str | int | float) -> int:
    """In units, rounded up, as bytes are counted."""
    return -int(-quantity(text) // 1)
