# SPDX-License-Identifier: Apache-2.0
"""Changing a running lab: a change that fails goes back, one that is not confirmed in time goes back by itself, and
`rollback` goes back to an earlier revision. A revision's number is never used again: going back makes a new one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from overlay.hoststate import HostState
from overlay.lab_agents import AgentError, agent_status, desired_read, plan_states
from overlay.lab_apply import PodError, apply_changes, read_ipv6, record_verify
from overlay.lab_inputs import Inputs, contents_kept, inputs_keep, inputs_over, inputs_parse
from overlay.lab_plan import Changes, LabPlan, plan_changes, plan_lab, world_moved
from overlay.lab_record import LabPaths, LabRecord, PendingRecord, lab_locked, record_read, record_write
from overlay.lab_revision import Revision, RevisionError, revision_keep, revision_read
from overlay.lab_signals import interruptible, uninterrupted
from overlay.linux import Process
from overlay.pod import importing
from overlay.progress import Steps
from overlay.state_diff import plan_state_changes
from overlay.timer import TimerError, boot_seconds, timer_begin, timer_end


class ChangeError(RuntimeError):
    """A change was not made: why, and what is in force now."""


class PendingError(RuntimeError):
    """A change waits to be confirmed, or none does: the message is a sentence."""


class Plan(NamedTuple):
    """A lab as it shall be, what has to be done for it, and what its hosts will be told (nothing: as before)."""

    lab: LabPlan
    changes: Changes
    states: Mapping[str, HostState]


class Applied(NamedTuple):
    """What was done, or would be. `pending`: it waits to be confirmed."""

    record: LabRecord
    changes: Changes
    pending: PendingRecord | None = None


def plan_change(paths: LabPaths, record: LabRecord, inputs: Inputs, mtu: int, *, told: bool = False) -> Plan:
    """What makes a lab what its files say. `record` has been verified. `told`: host by host, too.

    Raises PolicyError, UnsupportedError, EnvironmentLacksError: then nothing has been touched.
    """
    world = world_moved(inputs.world, record.moved)
    file = inputs.files[0].file
    lab = plan_lab(record.name, world, inputs.specs, inputs.intent, mtu=mtu, ipv6=read_ipv6(), file=file)
    changes = plan_changes(record, lab)
    if not changes.intent:
        return Plan(lab, changes, {})
    states = plan_states(paths, lab, world, record.revision + 1)
    if told:
        changes = replace(changes, told=tuple(_told(paths, record, states)))
    return Plan(lab, changes, states)


def _told(paths: LabPaths, record: LabRecord, states: Mapping[str, HostState]) -> Iterator[str]:
    for host, state in states.items():
        before = desired_read(paths, host) if host in record.hosts else None
        for line in plan_state_changes(before, state) or ("nothing but the number of the revision",):
            yield f"host {host}: {line}"


def change(paths: LabPaths, record: LabRecord, inputs: Inputs, mtu: int, what: str, steps: Steps) -> Changes:
    """Make a lab that is there what `inputs` say, and keep that as a revision. The lab is locked, `record` verified.

    Raises ChangeError: it failed, and what is in force; InterruptedCommand, after going back; PolicyError and the like
    before anything was touched.
    """
    base = record.revision
    plan = plan_change(paths, record, inputs, mtu)
    if not plan.changes:
        return plan.changes
    try:
        with steps.shown():
            inputs_keep(paths, record, inputs)
            apply_changes(paths, record, plan.lab, plan.changes, plan.states, steps)
        revision_keep(paths, record, inputs, what)
    except BaseException as error:  # an interruption may come as any error (overlay/lab_signals.py)
        said = _go_back(paths, record, base)
        if isinstance(error, AgentError | PodError | OSError):
            raise ChangeError(f"{error}\n{said}") from error
        steps.say(said)
        raise
    return plan.changes


def _go_back(paths: LabPaths, record: LabRecord, base: int) -> str:
    """After a change that failed: what was before it, again. Returns a sentence about what is in force."""
    record_write(paths, record)
    try:
        restore(paths, record, revision_read(paths, base), "went back", Steps(quiet=True))
    except RevisionError as error:
        return f"it cannot go back ({error}); {in_force(paths, record)}"
    except Exception as error:
        record_write(paths, record)
        return f"going back to revision {base} failed too ({error}); {in_force(paths, record)}"
    if record.revision == base:
        return f"revision {base} is in force, as before"
    return f"what revision {base} said is in force again, as revision {record.revision}"


def restore(paths: LabPaths, record: LabRecord, revision: Revision, what: str, steps: Steps) -> Changes:
    """Make the lab what an earlier revision said. Pods that were migrated stay where they are.

    Raises as apply_changes does: then the lab is somewhere between.
    """
    record_verify(paths, record)
    inputs = inputs_parse(revision.files)
    plan = plan_change(paths, record, inputs, revision.mtu)
    inputs_keep(paths, record, inputs)
    if plan.changes:
        with steps.shown():
            apply_changes(paths, record, plan.lab, plan.changes, plan.states, steps)
        revision_keep(paths, record, inputs, what)
    record_write(paths, record)
    return plan.changes


def in_force(paths: LabPaths, record: LabRecord) -> str:
    """Which revision each host says it has realized."""
    said = {host: agent_status(paths, host) for host in record.hosts}
    told = (
        f"host {host}: {'its agent is silent' if status is None else status.get('revision_realized')}"
        for host, status in said.items()
    )
    return f"the hosts were told revision {record.revision}, and have in force: {', '.join(told) or 'nothing'}"


def apply(paths: LabPaths, names: Sequence[str], *, dry_run: bool, confirm: float | None, steps: Steps) -> Applied:
    """Change a running lab to what files say (overlay/lab_inputs.py, inputs_over). `confirm`: seconds for somebody to
    say that all is well; else it goes back by itself.

    Raises PendingError, ChangeError, PolicyError, EnvironmentLacksError, OSError.
    """
    if dry_run:
        record = _known(paths)
        inputs = inputs_over(names, contents_kept(paths, record))
        record_verify(paths, record)
        return Applied(record, plan_change(paths, record, inputs, record.mtu, told=True).changes)
    with lab_locked(paths), interruptible():
        record = _known(paths)
        record_verify(paths, record)
        inputs = inputs_over(names, contents_kept(paths, record))
        changes = plan_change(paths, record, inputs, record.mtu).changes
        if not changes:
            return Applied(record, changes, record.pending)
        pending_refuse(paths, record)
        if confirm is not None:
            revision_read(paths, record.revision)  # there must be something to go back to
            record.pending = _begin_timer(paths, record.revision, confirm)
            record_write(paths, record)
        try:
            changes = change(paths, record, inputs, record.mtu, "apply", steps)
        except BaseException:
            with uninterrupted():
                pending_end(record)
                record_write(paths, record)
            raise
        if record.pending is not None and confirm is not None:
            record.pending.deadline = boot_seconds() + confirm
            record_write(paths, record)
        return Applied(record, changes, record.pending)


def rollback(paths: LabPaths, number: int, *, dry_run: bool, steps: Steps) -> Applied:
    """Go back to what a revision said. A change that waits to be confirmed is decided by that.

    Raises RevisionError, ChangeError, OSError.
    """
    if dry_run:
        record = _known(paths)
        revision = revision_read(paths, number)
        record_verify(paths, record)
        return Applied(
            record, plan_change(paths, record, inputs_parse(revision.files), revision.mtu, told=True).changes
        )
    with lab_locked(paths), interruptible():
        record = _known(paths)
        revision = revision_read(paths, number)
        record_verify(paths, record)
        what = f"rollback to {number}"
        changes = change(paths, record, inputs_parse(revision.files), revision.mtu, what, steps)
        pending_end(record)
        record_write(paths, record)
        return Applied(record, changes)


def confirm_change(paths: LabPaths) -> int:
    """Say that a change is well. Returns its revision. Raises PendingError: none waits."""
    with lab_locked(paths):
        record = _known(paths)
        if record.pending is None:
            raise PendingError(f"no change of lab {paths.name} waits to be confirmed; revision {record.revision} stays")
        pending_end(record)
        record_write(paths, record)
        return record.revision


def expire(paths: LabPaths, timer: Process) -> float:
    """What the timer does: go back, if nobody has confirmed until the deadline. Returns seconds that it has to wait
    still, 0 where all is done. Raises as restore does, and RevisionError."""
    if not paths.folder.is_dir():
        return 0
    with lab_locked(paths):
        record = record_read(paths)
        if record is None or record.pending is None or record.pending.timer != timer:
            return 0
        left = record.pending.deadline - boot_seconds()
        if left > 0:
            return left
        base = record.pending.base
        restore(paths, record, revision_read(paths, base), f"back to {base}: not confirmed", Steps(quiet=True))
        record.pending = None
        record_write(paths, record)
        return 0


def pending_refuse(paths: LabPaths, record: LabRecord) -> None:
    """Raises PendingError where a change waits: what comes on top would not be in force when it goes back."""
    if record.pending is not None:
        raise PendingError(
            f"revision {record.revision} of lab {paths.name} waits to be confirmed: `palisade apply --confirmed`, or "
            f"`palisade rollback {record.pending.base}`"
        )


def pending_end(record: LabRecord) -> None:
    """Nothing waits any more; the timer ends."""
    if record.pending is not None:
        timer_end(record.pending)
    record.pending = None


def _begin_timer(paths: LabPaths, base: int, seconds: float) -> PendingRecord:
    """Start the process that outlives this one. Raises ChangeError where it does not start."""
    name, _, value = paths.mark.partition("=")
    program = ("-m", "overlay.lab_timer", str(paths.folder))
    environment = {**importing(os.environ), name: value}
    try:
        return timer_begin(program, base, seconds, paths.folder / "timer.log", environment)
    except TimerError as error:
        raise ChangeError(str(error)) from None


def _known(paths: LabPaths) -> LabRecord:
    record = record_read(paths) if paths.folder.is_dir() else None
    if record is None:
        raise PendingError(f"there is no lab {paths.name}; `palisade lab up --name {paths.name}` brings one up")
    return record
