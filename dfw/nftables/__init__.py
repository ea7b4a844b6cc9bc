# SPDX-License-Identifier: Apache-2.0
"""The enforcer `nftables`: a compiled policy as one table of the Linux kernel's packet filter.

`render_ruleset` is pure; `dfw.nftables.load` puts it into a network namespace; docs/decisions says why it is as it is.
"""

from dfw.nftables.capabilities import refuse_unsupported, unsupported_features
from dfw.nftables.names import Names
from dfw.nftables.render import WIRE, Rendered, render_ruleset, render_wire, vnic_mark, wire_tables
from dfw.nftables.ruleset import Ruleset, ruleset_parse, ruleset_sorted, ruleset_text
from dfw.nftables.update import Update, plan_update, update_text

__all__ = [
    "WIRE",
    "Names",
    "Rendered",
    "Ruleset",
    "Update",
    "plan_update",
    "refuse_unsupported",
    "render_ruleset",
    "render_wire",
    "ruleset_parse",
    "ruleset_sorted",
    "ruleset_text",
    "unsupported_features",
    "update_text",
    "vnic_mark",
    "wire_tables",
]
