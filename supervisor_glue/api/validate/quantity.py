# SPDX-License-Identifier: Apache-2.0
"""Amounts of resources (https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/)."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

_FORM: Final = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))([eE][+-]?\d{1,3}|[numkMGTPE]|[KMGTPE]i)?\Z")
_SUFFIX: Final = {
    "": Fraction(1),
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    **{name: Fraction(1000 ** (place + 1)) for place, name in enumerate("kMGTPE")},
    **{f"{name}i": Fraction(1024 ** (place + 1)) for place, name in enumerate("KMGTPE")},
}


def quantity_of(text: str | int | float) -> Fraction | None:
    """An amount in its unit (cores, bytes); None: it is no quantity."""
    match = _FORM.match(str(text))
    if match is None:
        return None
    number, suffix = match.groups()
    if suffix and suffix not in _SUFFIX:
        return Fraction(number) * Fraction(10) ** int(suffix[1:])
    return Fraction(number) * _SUFFIX[suffix or ""]
