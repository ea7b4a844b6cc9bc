# SPDX-License-Identifier: Apache-2.0
"""Waiting until what hosts were told is in force there."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from overlay.hoststate import HostState
from overlay.lab_agents import agent_tell, desired_read
from overlay.lab_record import LabPaths, LabRecord

_POLL_SECONDS: Final = 0.05


def hosts_concerned(paths: LabPaths, record: LabRecord, what: str | None) -> list[str]:
    """The hosts of a lab that need an object, by what they are told; None: all."""
    if what is None:
        return list(record.hosts)
    wanted = what.strip("/")
    found = []
    for host in record.hosts:
        state = desired_read(paths, host)
        if state is not None and (host == wanted or any(_is(name, wanted) for name in _names(state))):
            found.append(host)
    return found


def _names(state: HostState) -> Iterator[str]:
    """Everything that has a name in a host's state. A policy: by the paths of its rules."""
    yield from (vnic.name for vnic in state.vnics)
    yield from (segment.name for segment in state.segments)
    yield from state.gateways
    yield from (item.name for item in state.sets if item.name)
    for rule in state.rules:
        yield rule.path
        yield rule.policy
        yield rule.path.rpartition("/rules/")[0]


def _is(name: str, wanted: str) -> bool:
    """An object is called by its whole name, or by the end of it after a `/`."""
    whole = name.strip("/")
    return whole == wanted or whole.endswith(f"/{wanted}")


def wait_hosts(paths: LabPaths, revision: int, hosts: Sequence[str], seconds: float) -> dict[str, str]:
    """Until these hosts have realized everything up to a revision. Returns those that have not in time, and why."""
    deadline = time.monotonic() + seconds
    missing: dict[str, str] = dict.fromkeys(hosts, "not asked")
    while True:
        missing = dict(_missing(paths, revision, missing))
        if not missing or time.monotonic() > deadline:
            return missing
        time.sleep(_POLL_SECONDS)


def _missing(paths: LabPaths, revision: int, hosts: Iterable[str]) -> Iterator[tuple[str, str]]:
    for host in hosts:
        why = lacking(agent_tell(paths, host), revision)
        if why is not None:
            yield host, why


def lacking(status: Mapping[str, Any], revision: int) -> str | None:
    """Why an agent, by its status (empty: silent), has not realized a revision; None where it has."""
    if not status:
        return "its agent is silent"
    realized = int(status.get("revision_realized") or 0)
    if realized < revision:
        return f"revision {realized} of {revision} is in force" + (
            f": {status['error']}" if status.get("error") else ""
        )
    problems = status.get("problems") or {}
    return "; ".join(f"{name}: {text}" for name, text in problems.items()) or None
