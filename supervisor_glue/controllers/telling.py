# SPDX-License-Identifier: Apache-2.0
"""What one host is told of the groups of parts that concern it: its own, and those of its routing domains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, TypeAlias

from overlay.span_parts import SetChange, marks_split
from supervisor_glue.controllers.groups import Group, Part
from supervisor_glue.span_wire import Known

OWN: Final = "own"
"""The name of a host's own group."""


class HostChange(NamedTuple):
    """What a host has to know, to be as of `revision`: parts by key; the keys of parts that are gone; `sets`: how sets
    that it has have changed; `packed`: parts of a domain that is new to it, as parts_pack has them; `unknown`: marks of
    what it said that it knows, which is not so any more."""

    revision: int
    parts: dict[str, Part]
    gone: tuple[str, ...]
    sets: dict[str, tuple[SetChange, ...]]
    packed: tuple[bytes, ...] = ()
    unknown: tuple[bytes, ...] = ()

    @property
    def is_news(self) -> bool:
        """More than a revision."""
        return bool(self.parts or self.gone or self.sets or self.packed or self.unknown)


Steps: TypeAlias = dict[str, tuple[Group, int]]
"""Up to which step a host was told which group."""


def change_first(groups: Mapping[str, Group], revision: int, known: Known, steps: Steps) -> HostChange | None:
    """For a host that says what it knows; up to which steps it is told. None: it has to say it in marks."""
    steps.update((name, (group, group.told())) for name, group in groups.items())
    own = groups[OWN].parts if OWN in groups else {}
    own_marks = marks_split(known.marks)
    parts = {key: part for key, part in own.items() if part.mark not in own_marks} if own_marks else dict(own)
    unknown = own_marks - {part.mark for part in own.values()}
    domains = {name: group for name, group in groups.items() if name != OWN}
    if known.sum:
        if len(domains) != 1:
            return None
        ((name, group),) = domains.items()
        step = group.step_of(int.from_bytes(known.sum, "big"))
        since = None if step is None else change_since(domains, revision, {name: (group, step)})
        if since is None:
            return None
        return since._replace(parts=parts | since.parts, unknown=tuple(sorted(unknown)))
    packed: tuple[bytes, ...] = ()
    if not known.shared:  # those of a domain all get the same, which is made once
        packed = tuple(group.packed() for group in domains.values())
    else:
        compared = [group.compared(known.shared) for group in domains.values()]
        for one in compared:
            parts.update(one.parts)
            packed += one.packed
        nowhere = [one.unknown for one in compared] or [marks_split(known.shared)]
        unknown |= nowhere[0].intersection(*nowhere[1:])
    return HostChange(revision, parts, (), {}, packed, tuple(sorted(unknown)))


def change_since(groups: Mapping[str, Group], revision: int, steps: Steps) -> HostChange | None:
    """For a host that was told these groups up to these steps, which are set to now. None: so much has changed that
    what it has is not known."""
    parts: dict[str, Part] = {}
    sets: dict[str, tuple[SetChange, ...]] = {}
    packed: list[bytes] = []
    gone: set[str] = set()
    for name in [name for name in steps if groups.get(name) is not steps[name][0]]:
        group, step = steps.pop(name)
        if step < group.first:
            return None
        gone |= group.parts.keys() | {change.key for change in group.after(step)}
    for name, group in groups.items():
        if name not in steps and name != OWN:
            packed.append(group.packed())
        elif name not in steps:
            parts.update(group.parts)
        elif steps[name][1] < group.first:
            return None
        else:
            for key, part, changes in group.after(steps[name][1]):
                if part is None:
                    gone.add(key)
                elif changes:
                    sets[key] = changes
                else:
                    parts[key] = part
        steps[name] = (group, group.told())
    # Another domain may have the same tunnel endpoint.
    left = sorted(key for key in gone if not any(key in group.parts for group in groups.values()))
    return HostChange(revision, parts, tuple(left), sets, tuple(packed))
