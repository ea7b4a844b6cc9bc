# SPDX-License-Identifier: Apache-2.0
"""Write docs/reasons.md from native/core/reasons.def: every reason for a verdict, in the order of their numbers.

`python scripts/reasons_doc.py` writes the file; the tests compare it with what this module renders.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "native" / "core" / "reasons.def"
TARGET = ROOT / "docs" / "reasons.md"

HEAD = """\
<!-- SPDX-License-Identifier: Apache-2.0 -->
<!-- Made by scripts/reasons_doc.py from native/core/reasons.def; change that file, then run the script. -->
# Reasons

Each judgement has one reason: `reason` in verdict files, a counter, and a word in the log. PASS reasons carry the
rule's action or let the packet by; DROP reasons refuse it; HELD waits for a decision. NSX's word is the one that NSX's
own firewall log would use.

| number | reason | NSX's word | kind | meaning |
|---|---|---|---|---|
"""


class Reason(NamedTuple):
    """One line of reasons.def."""

    name: str
    word: str
    nsx: str
    kind: str
    meaning: str


def read_reasons(text: str) -> list[Reason]:
    """The reasons in the order of their numbers. Raises ValueError for a line that is not understood."""
    reasons = []
    for line in re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL).splitlines():
        if not line.strip():
            continue
        match = re.fullmatch(r'REASON\((\w+),\s*"([^"]+)",\s*"([^"]+)",\s*(\w+),\s*"([^"]+)"\)', line.strip())
        if match is None:
            raise ValueError(f"{SOURCE.name}: {line}")
        reasons.append(Reason(*match.groups()))
    return reasons


def render_reasons(reasons: list[Reason]) -> str:
    """The page."""
    rows = [
        f"| {number} | `{reason.word}` | {reason.nsx} | {reason.kind} | {reason.meaning} |"
        for number, reason in enumerate(reasons)
    ]
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    TARGET.write_text(render_reasons(read_reasons(SOURCE.read_text(encoding="utf-8"))), encoding="utf-8")
