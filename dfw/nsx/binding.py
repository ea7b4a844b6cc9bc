# SPDX-License-Identifier: Apache-2.0
"""NSX binding maps: profiles bound to groups.

A map lives under its group, `…/groups/<group>/<collection>/<id>`; a document says so by `path` or `parent_path`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from dfw.fields import Cursor, Field, Written, integer, mapping, reference, text
from dfw.model import GroupMember, Peers
from dfw.nsx.common import COMMON, Context, is_read_only


class Binding(NamedTuple):
    """A profile (by path) for the ports of a group."""

    path: str
    number: int
    peers: Peers
    profile: str


def binding_table(profile_field: str) -> Mapping[str, Field]:
    """The fields of a binding map; `profile_field` names the profile."""
    return {
        **COMMON,
        "parent_path": Field(text()),
        profile_field: Field(reference, required=True),
        "sequence_number": Field(integer(0, (1 << 31) - 1, "a sequence number"), default=0),
    }


def binding_path(cursor: Cursor, collection: str) -> str | None:
    """`path`, else `parent_path`/collection/id; None after reporting that the group is not said."""
    values = {key: cursor.node.get(key) for key in ("path", "parent_path", "id")}
    texts = {key: node.value for key, node in values.items() if node is not None and isinstance(node.value, str)}
    group = f"/infra/domains/default/groups/<group>/{collection}/<id>"
    if "path" in texts:
        parts = texts["path"].split("/")
        if len(parts) > 4 and parts[-2] == collection and parts[-4] == "groups" and parts[-1] and parts[-3]:
            return str(texts["path"])
        cursor.member("path").problem(f"{texts['path']!r} is not a path such as {group}")
    elif "parent_path" in texts:
        if "id" in texts:
            return f"{texts['parent_path'].rstrip('/')}/{collection}/{texts['id']}"
        if values["id"] is None:
            cursor.problem("the field id is missing")
    elif not values["path"] and not values["parent_path"]:
        cursor.problem(f"which group? Give path ({group}), or parent_path and id")
    return None


def profile_everywhere(profiles: Mapping[str, Cursor], bindings: Iterable[Binding], what: str) -> str | None:
    """The profile (by path) that no map names, which holds wherever none is bound; a second one is a problem."""
    bound = {item.profile for item in bindings}
    unbound = [path for path in profiles if path not in bound]
    for path in unbound[1:]:
        first = profiles[unbound[0]].place
        message = f"there is already a {what} profile at {first.file}:{first.line}"
        profiles[path].problem(f"{message} that is bound to no group and so holds for all vNICs; bind one of them")
    return unbound[0] if unbound else None


def bindings_read(
    context: Context,
    cursors: Mapping[str, Cursor],
    table: Mapping[str, Field],
    profile_field: str,
    profiles: Iterable[str],
    root: str,
    address_only: frozenset[str],
) -> list[Binding]:
    """All bindings of one kind. Problems: no such group, no such profile, a group without ports."""
    known = frozenset(profiles)
    found: list[Binding] = []
    for path, cursor in cursors.items():
        values: dict[str, Any] | None = mapping(cursor, table, ignore=is_read_only)
        if values is None or "\0" in path or values[profile_field] is None:
            continue
        written: Written = values[profile_field]
        profile = written.text if written.text.startswith("/") else root + written.text
        if profile not in known:
            context.problem(written, f"there is no profile {written.text!r}")
        group = context.group_path(Written(path.rsplit("/", 2)[0], cursor.place))
        if group in address_only:
            cursor.problem(f"the group {group} holds only addresses: a profile is bound to ports")
        elif group is not None and profile in known:
            found.append(Binding(path, values["sequence_number"], Peers((GroupMember(group),)), profile))
    return found
