# SPDX-License-Identifier: Apache-2.0
"""NSX PolicyExcludeList documents -> the ports at which there is no firewall."""

from __future__ import annotations

from collections.abc import Mapping

from dfw.fields import Cursor, Field, listed, mapping, reference
from dfw.model import NOBODY, GroupMember, Peers, Term
from dfw.nsx.common import COMMON, Context, is_read_only
from dfw.nsx.group import member_read

MAXIMUM_GROUPS = 100
EXCLUDE_LIST: Mapping[str, Field] = {
    **COMMON,
    "members": Field(listed(reference), required=True, default=()),
}


def exclude_list_read(context: Context, cursor: Cursor, address_only: frozenset[str]) -> Peers:
    """The members: groups, segments and ports, by path or bare id. Groups without ports are refused, as NSX does."""
    values = mapping(cursor, EXCLUDE_LIST, ignore=is_read_only)
    terms: list[Term] = []
    for written in () if values is None else values["members"]:
        term = member_read(context, written)
        if isinstance(term, GroupMember) and term.path in address_only:
            context.problem(written, f"the group {written.text} holds only addresses: only ports can be excluded")
        elif term is not None:
            terms.append(term)
    groups = sum(isinstance(term, GroupMember) for term in terms)
    if groups > MAXIMUM_GROUPS:
        context.warn("nsx-limit", cursor, f"{groups} groups are more than NSX takes ({MAXIMUM_GROUPS})")
    return Peers(tuple(terms)) if terms else NOBODY
