# SPDX-License-Identifier: Apache-2.0
"""Seconds that pass when told."""

from __future__ import annotations


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


CLOCK = Clock()
