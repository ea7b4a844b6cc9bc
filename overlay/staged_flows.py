# SPDX-License-Identifier: Apache-2.0
"""What staged policies would do to the connections that are open on live hosts. Pure.

A connection is judged anew by its first packet, as it is when rules change; what the rules in force refuse already,
such as what an ALG has let in, is none of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dfw.diff_flows import flows_judged
from dfw.endpoint import protocol_parse
from dfw.model import PolicySet

REFUSED = "refused"


def staged_refused(world: PolicySet, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those rows of `show flows` whose connections would be cut if the staged policies were in force, with `staged`."""
    records = [{**row, "proto": protocol_parse(str(row["proto"])), "at": at} for at, row in enumerate(rows)]
    changed, _ = flows_judged(world, world.what_if, False, records)
    return [rows[item["at"]] | {"staged": REFUSED} for item in changed if item["change"] == REFUSED]
