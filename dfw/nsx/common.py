# SPDX-License-Identifier: Apache-2.0
"""What all NSX Policy objects have in common: identity, read-only fields, references by path or bare id."""

from __future__ import annotations

from collections.abc import Mapping

from dfw.errors import Problem
from dfw.fields import Cursor, Field, Written, boolean, identifier, ignored, nearest, text
from dfw.findings import Finding
from dfw.inventory import tags
from dfw.model import Group, Inventory

DOMAIN_ROOT = "/infra/domains/default"
GROUPS_ROOT = f"{DOMAIN_ROOT}/groups/"
POLICIES_ROOT = f"{DOMAIN_ROOT}/security-policies/"
TIMER_PROFILES_ROOT = "/infra/firewall-session-timer-profiles/"
TIMER_BINDINGS = "firewall-session-timer-profile-binding-maps"
FLOOD_PROFILES_ROOT = "/infra/flood-protection-profiles/"
FLOOD_BINDINGS = "firewall-flood-protection-profile-binding-maps"
SCHEDULERS_ROOT = "/infra/firewall-schedulers/"
EXCLUDE_LIST_ROOT = "/infra/settings/firewall/security/"
EXCLUDE_LIST_ID = "exclude-list"

# Set by the server and sent back by clients (reference, Part B 1): accepted everywhere, whatever they hold.
_READ_ONLY = frozenset(
    {
        *("relative_path", "parent_path", "remote_path", "unique_id", "realization_id", "owner_id", "origin_site_id"),
        *("overridden", "is_default", "rule_count", "internal_sequence_number", "default_rule_id"),
        *("lock_modified_by", "lock_modified_time", "locked", "reference", "state"),
    }
)


def is_read_only(key: str) -> bool:
    """True for fields that only a server sets."""
    return key.startswith("_") or key in _READ_ONLY


def _not_marked(cursor: Cursor) -> None:
    if boolean(cursor):
        cursor.problem("an object marked for deletion has no place in a file; leave the document out")


COMMON: Mapping[str, Field] = {
    "resource_type": Field(text()),
    "id": Field(identifier),
    "path": Field(text()),
    "display_name": Field(text(255)),
    "description": Field(text(4096, empty=True)),
    "tags": Field(tags, default=()),
    "marked_for_delete": Field(_not_marked),
    "children": Field(ignored),
}


class Context:
    """What the reading of one set of documents shares: known names, and where problems and findings go.

    `group_paths`, `service_documents`, `policy_paths` are filled by a first pass, so that references may point
    forward; `groups` by the second.
    """

    def __init__(self, inventory: Inventory, problems: list[Problem], findings: list[Finding]) -> None:
        self.inventory = inventory
        self.problems = problems
        self.findings = findings
        self.group_paths: dict[str, Cursor] = {}
        self.service_documents: dict[str, Cursor] = {}
        self.policy_paths: dict[str, Cursor] = {}
        self.groups: dict[str, Group] = {}
        self.used: set[str] = set()
        self._ids: dict[str, list[str]] | None = None

    def problem(self, written: Written, message: str) -> None:
        """Report a problem with a reference."""
        self.problems.append(Problem(written.place, message))

    def warn(self, kind: str, cursor: Cursor, message: str) -> None:
        """Report something legal but odd."""
        self.findings.append(Finding(kind, cursor.place, message))

    def _group_ids(self) -> dict[str, list[str]]:
        """Paths of groups by their last part; complete once the first pass is over, so made once."""
        if self._ids is None:
            self._ids = {}
            for path in self.group_paths:
                self._ids.setdefault(path.rpartition("/")[2], []).append(path)
        return self._ids

    def groups_called(self, name: str) -> list[str]:
        """Paths meant by a path or bare id: exactly that, else the default domain's, else any with this last part."""
        if name.startswith("/"):
            return [name] if name in self.group_paths else []
        if GROUPS_ROOT + name in self.group_paths:
            return [GROUPS_ROOT + name]
        return self._group_ids().get(name, [])

    def group_path(self, written: Written) -> str | None:
        """The path of the group that is meant, by path or bare id; None after reporting that there is none."""
        found = self.groups_called(written.text)
        if len(found) == 1:
            self.used.add(found[0])
            return found[0]
        if found:
            self.problem(written, f"the group {written.text!r} could be {' or '.join(found)}; write the path")
        else:
            self.problem(
                written, f"there is no group {written.text!r}{nearest(written.text, self._group_ids(), self.problems)}"
            )
        return None


def path_of(cursor: Cursor, root: str, only: str | None = None) -> str | None:
    """Where an object lives: its `path`, else root + `id` (or `display_name`). None after reporting a problem.

    Reads only these fields, and leaves complaints about their types to the table. `only`: the id of the only object of
    its kind, which may be left out.
    """

    def plain(key: str) -> str | None:
        node = cursor.node.get(key)
        value = node.value if node else None
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            return None
        return str(value)

    path, name = plain("path"), plain("id")
    collection = root.rstrip("/").rpartition("/")[2]
    if path is not None:
        parts = path.split("/")
        if not path.startswith("/") or len(parts) < 4 or parts[-2] != collection or not parts[-1]:
            cursor.member("path").problem(f"{path!r} is not a path such as {root}{name or 'web'}")
            return None
        if name is not None and parts[-1] != name:
            cursor.member("path").problem(f"the path ends in {parts[-1]!r} but the id is {name!r}")
            return None
        return path
    if only is not None and cursor.node.get("id") is None:
        return root + only
    if name is None and cursor.node.get("id") is None:
        name = plain("display_name")
        if name is None or "/" in name:
            cursor.problem("the field id is missing")
    return None if name is None or "/" in name else root + name
