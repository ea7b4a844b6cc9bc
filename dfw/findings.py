# SPDX-License-Identifier: Apache-2.0
"""What `check` warns of: legal input that hardly means what it says."""

from __future__ import annotations

from typing import NamedTuple

from dfw.model import Place


class Finding(NamedTuple):
    """One warning. `kind` is a stable slug; `witness` describes a packet that shows it, where there is one."""

    kind: str
    place: Place | None
    message: str
    rule_path: str = ""
    witness: str = ""

    def __str__(self) -> str:
        where = f"{self.place}: " if self.place else ""
        shown = f" (for example {self.witness})" if self.witness else ""
        return f"{where}warning: {self.message}{shown} [{self.kind}]"
