# SPDX-License-Identifier: Apache-2.0
"""What `check` warns of: legal input that hardly means what it says."""

from __future__ import annotations

from typing import Any, NamedTuple

from dfw.model import Place


class Finding(NamedTuple):
    """One warning. `kind` is a stable slug; `witness` describes a packet that shows it, where there is one.

    `rules`: paths of the rules that decide instead, or that are meant, in their order; `packet`: the witness's fields;
    `staged`: it is so only with the staged policies in force.
    """

    kind: str
    place: Place | None
    message: str
    rule_path: str = ""
    witness: str = ""
    rules: tuple[str, ...] = ()
    packet: dict[str, Any] | None = None
    staged: bool = False

    def __str__(self) -> str:
        where = f"{self.place}: " if self.place else ""
        shown = f" (for example {self.witness})" if self.witness else ""
        return f"{where}warning: {self.message}{shown} [{self.kind}]"
