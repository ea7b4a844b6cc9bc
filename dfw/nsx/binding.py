# SPDX-License-Identifier: Apache-2.0
"""NSX binding maps: profiles bound to groups.

A map lives under its group, `…/groups/<group>/<collection>/<id>`; a document says so by `path` or `parent_path`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from dfw.fields import Cursor, Field, Written, integer, mapping, reference, text
from dfw.model import GroupMember, Peers
from dfw.nsx.common import COMMON, Context, is_read_only

_Profile = TypeVar("_Profile")


class Binding(NamedTuple):
    """A profile (by path) for the ports of a group."""

    path: str
    number: int
    peers: Peers
    profile: str


@dataclass(frozen=True, slots=True)
class ProfileKind(Generic[_Profile]):
    """What tells kinds of profiles apart. `table`: the fields of its binding maps; `field`: which of them names
    the profile; `root`: where profiles live; `read` reports what is wrong and then may give None."""

    name: str
    root: str
    field: str
    table: Mapping[str, Field]
    read: Callable[[Cursor], _Profile | None]


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


def profiles_load(
    context: Context,
    profiles: Mapping[str, Cursor],
    maps: Mapping[str, Cursor],
    address_only: frozenset[str],
    kind: ProfileKind[_Profile],
) -> tuple[_Profile | None, list[tuple[Binding, _Profile]]]:
    """The profile that holds wherever none is bound (None: no document says), and those that are bound to groups.

    A profile that a map names holds at the vNICs of the map's group; one that no map names holds everywhere else, and a
    second one of those is a problem.
    """
    read = {path: kind.read(cursor) for path, cursor in profiles.items()}
    bindings = bindings_read(context, maps, kind.table, kind.field, profiles, kind.root, address_only)
    bound = {item.profile for item in bindings}
    unbound = [path for path in profiles if path not in bound]
    for path in unbound[1:]:
        first = profiles[unbound[0]].place
        message = f"there is already a {kind.name} profile at {first.file}:{first.line}"
        profiles[path].problem(f"{message} that is bound to no group and so holds for all vNICs; bind one of them")
    found = [(item, profile) for item in bindings if (profile := read[item.profile]) is not None]
    return read[unbound[0]] if unbound else None, found
