# SPDX-License-Identifier: Apache-2.0
"""What one host is told of the groups of parts that concern it: its own, and those of its routing domains."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Final, NamedTuple

from overlay.span_parts import SetChange
from supervisor_glue.controllers.groups import Group, Part

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


def change_first(groups: Mapping[str, Group], revision: int, known: Set[bytes]) -> HostChange:
    """For a host that knows the parts with these marks."""
    if not known:  # those of a domain all get the same, which is made once
        own = groups[OWN].parts if OWN in groups else {}
        packed = tuple(group.packed() for name, group in groups.items() if name != OWN)
        return HostChange(revision, dict(own), (), {}, packed)
    now = {key: part for group in groups.values() for key, part in group.parts.items()}
    news = {key: part for key, part in now.items() if part.mark not in known}
    unknown = known - {part.mark for part in now.values()}
    return HostChange(revision, news, (), {}, (), tuple(sorted(unknown)))


def change_since(groups: Mapping[str, Group], revision: int, steps: dict[str, tuple[Group, int]]) -> HostChange | None:
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
        steps[name] = (group, group.step)
    # Another domain may have the same tunnel endpoint.
    left = sorted(key for key in gone if not any(key in group.parts for group in groups.values()))
    return HostChange(revision, parts, tuple(left), sets, tuple(packed))
