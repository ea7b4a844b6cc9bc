# SPDX-License-Identifier: Apache-2.0
"""Changing a host that is no lab's: what `palisade apply`, `rollback` and `wait` do where an agent runs by itself.

The files are those of all hosts; this one's part of them is compiled here and written where its agent looks. A change
that the agent refuses is taken back, one that is not confirmed in time goes back by itself (overlay/host_timer.py), and
the last sixteen revisions are kept beside the agent's state.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from overlay.ask import AskError, agent_ask
from overlay.hoststate import HostState, StateError, file_replace, state_read, state_write
from overlay.lab_change import ChangeError, PendingError
from overlay.lab_inputs import InputFile, Inputs, inputs_over, inputs_parse
from overlay.lab_record import PendingRecord
from overlay.lab_revision import RevisionError, revision_keep, revision_numbers, revision_read
from overlay.lab_wait import lacking
from overlay.linux import Process
from overlay.pod import importing
from overlay.span import UNDERLAY_MTU, resolve_span
from overlay.state_diff import plan_state_changes
from overlay.timer import (
    PENDING,
    TimerError,
    boot_seconds,
    pending_read,
    timer_adopt,
    timer_begin,
    timer_end,
    timer_lives,
)

APPLY_SECONDS: Final = 60.0
REVISIONS: Final = "revisions"
_POLL_SECONDS: Final = 0.1


class NoHostError(ValueError):
    """What is to be changed is none of ours: a sentence."""


@dataclass(slots=True)
class HostPlace:
    """A host as a change sees it. `mtu`: of its underlay now; `revision`: the last that it was told."""

    name: str
    socket: Path
    desired: Path
    folder: Path
    mtu: int
    revision: int
    told: HostState | None = None
    problems: dict[str, str] = field(default_factory=dict)

    @property
    def revisions(self) -> Path:
        """Where its revisions are kept."""
        return self.folder / REVISIONS

    @property
    def pending(self) -> PendingRecord | None:
        """The change that waits to be confirmed."""
        return pending_read(self.folder)

    def pend(self, pending: PendingRecord) -> None:
        """This one waits now. Raises OSError."""
        file_replace(self.folder / PENDING, msgspec.json.encode(pending))


@dataclass(frozen=True, slots=True)
class HostApplied:
    """What was done, or would be (`lines`). `pending`: it waits to be confirmed."""

    name: str
    revision: int
    lines: tuple[str, ...]
    problems: dict[str, str] = field(default_factory=dict)
    pending: PendingRecord | None = None


def read_place(socket: Path) -> HostPlace:
    """The host whose agent answers at this socket. Raises AskError; NoHostError: it is a lab's,
    and the lab's to change."""
    lab = socket.parent.parent.parent.parent
    if (lab / "lab.json").exists():
        raise NoHostError(f"{socket.parent.parent.name} is a host of lab {lab.name}: say --lab {lab.name}")
    status, places = agent_ask(socket, {"do": "status"}), agent_ask(socket, {"do": "places"})
    desired, folder = Path(places["desired"]), Path(places["state"])
    told = None
    with contextlib.suppress(OSError, StateError):
        told = state_read(desired)
    mtu = places["mtu"] or (told.underlay_mtu if told is not None else UNDERLAY_MTU)
    place = HostPlace(status["host"], socket, desired, folder, mtu, 0, told, status["problems"])
    known = [status["revision_realized"], *revision_numbers(place), *([told.revision] if told is not None else [])]
    place.revision = max(known)
    return place


def apply(socket: Path, names: Sequence[str], *, dry_run: bool, confirm: float | None) -> HostApplied:
    """Change a host to what files say of it: its policy, whole; what they do not say of hosts, networks and workloads
    stays. Raises AskError, NoHostError, PendingError, ChangeError, PolicyError, RevisionError, OSError."""
    with _changing(socket, dry_run) as place:
        inputs = inputs_over(names, _kept(place))
        state = _state(place, inputs)
        lines = plan_state_changes(place.told, state)
        if dry_run or not lines:
            return HostApplied(place.name, place.revision, lines)
        _pending_refuse(place)
        base, pending = place.revision, None
        if confirm is not None:
            revision_read(place, base)  # there must be something to go back to
            pending = _begin(place, base, confirm)
        try:
            problems = _put(place, inputs, state, "apply")
        except BaseException:
            _settle(place)
            raise
        if pending is not None and confirm is not None:
            pending.deadline = boot_seconds() + confirm
            place.pend(pending)
        return HostApplied(place.name, place.revision, lines, problems, pending)


def rollback(socket: Path, number: int, *, dry_run: bool) -> HostApplied:
    """Go back to what a revision said, as a new one; a change that waits is decided by that. Raises as `apply`."""
    with _changing(socket, dry_run) as place:
        inputs = inputs_parse(revision_read(place, number).files)
        state = _state(place, inputs)
        lines = plan_state_changes(place.told, state)
        if dry_run:
            return HostApplied(place.name, place.revision, lines)
        problems = _put(place, inputs, state, f"rollback to {number}") if lines else {}
        _settle(place)
        return HostApplied(place.name, place.revision, lines, problems)


def confirm_change(socket: Path) -> HostApplied:
    """Say that a change is well. Raises AskError, PendingError: none waits."""
    with _changing(socket) as place:
        if place.pending is None:
            raise PendingError(f"no change of host {place.name} waits to be confirmed; revision {place.revision} stays")
        _settle(place)
        return HostApplied(place.name, place.revision, ())


def expire(socket: Path, timer: Process) -> float:
    """What the timer does: go back, if nobody has confirmed until the deadline. Returns seconds that it has to wait
    still, 0 where all is done. Raises as `apply`."""
    with _changing(socket) as place:
        pending = place.pending
        if pending is None or pending.timer != timer:
            return 0
        if (left := pending.deadline - boot_seconds()) > 0:
            return left
        inputs = inputs_parse(revision_read(place, pending.base).files)
        _put(place, inputs, _state(place, inputs), f"back to {pending.base}: not confirmed")
        _settle(place)
        return 0


def adopt(socket: Path) -> float | None:
    """This process sees from now on to a change whose timer is gone. Returns the deadline; None: there is none such.
    Raises AskError, NoHostError, OSError."""
    with _changing(socket) as place:
        pending = place.pending
        if pending is None or timer_lives(pending):
            return None
        adopted = timer_adopt(pending)
        place.pend(adopted)
        return adopted.deadline


def wait(socket: Path, seconds: float) -> tuple[HostPlace, str | None]:
    """Until the host has realized what it was told; why it has not, in time. Raises AskError."""
    deadline = time.monotonic() + seconds
    while True:
        place = read_place(socket)
        wanted = place.revision if place.told is None else place.told.revision
        why = lacking(agent_ask(socket, {"do": "apply"}), wanted)
        if why is None or time.monotonic() > deadline:
            return place, why
        time.sleep(_POLL_SECONDS)


@contextlib.contextmanager
def _changing(socket: Path, dry_run: bool = False) -> Iterator[HostPlace]:
    """One command at a time changes a host."""
    place = read_place(socket)
    if dry_run:
        yield place
        return
    lock = os.open(place.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield read_place(socket)
    finally:
        os.close(lock)


def read_inputs(socket: Path) -> tuple[str, Inputs]:
    """The host's name, and what it was last made from. Raises AskError, NoHostError, RevisionError, PolicyError."""
    place = read_place(socket)
    return place.name, inputs_parse(_kept(place))


def _kept(place: HostPlace) -> list[InputFile]:
    """What the host was last made from; nothing where its state came from somewhere else."""
    numbers = revision_numbers(place)
    if place.told is None or place.told.revision not in numbers:
        return []
    return revision_read(place, place.told.revision).files


def _state(place: HostPlace, inputs: Inputs) -> HostState:
    """This host's part of what the files say. Raises PolicyError, UnsupportedError; NoHostError: it has none."""
    found = resolve_span(inputs.world, place.revision + 1, {}, underlay_mtu=place.mtu)
    if place.name not in found:
        raise NoHostError(f"the files have no host {place.name}; they have {', '.join(found) or 'none'}")
    return found[place.name]


def _put(place: HostPlace, inputs: Inputs, state: HostState, what: str) -> dict[str, str]:
    """Tell the agent, and keep that as a revision. Returns the problems that are new.

    Raises ChangeError: it refused, and what is in force.
    """
    before = place.told
    try:
        status = _tell(place, state)
    except (AskError, OSError, ChangeError) as error:
        raise ChangeError(f"{error}\n{_go_back(place, before, state.revision + 1)}") from error
    place.told, place.revision = state, state.revision
    revision_keep(place, place, inputs, what)
    return {name: text for name, text in status["problems"].items() if name not in place.problems}


def _tell(place: HostPlace, state: HostState) -> dict[str, Any]:
    """Write a state, and have the agent put it in force. Raises ChangeError: it refused; AskError, OSError."""
    state_write(place.desired, state)
    deadline = time.monotonic() + APPLY_SECONDS
    while True:
        status = agent_ask(place.socket, {"do": "apply"}, APPLY_SECONDS)
        if status["revision_realized"] >= state.revision:
            return status
        if status["error"] and status["revision_wanted"] == state.revision:
            raise ChangeError(f"host {place.name} refused revision {state.revision}: {status['error']}")
        if time.monotonic() > deadline:
            raise ChangeError(f"host {place.name} has not realized revision {state.revision} in time")
        time.sleep(_POLL_SECONDS)


def _go_back(place: HostPlace, before: HostState | None, revision: int) -> str:
    """After a change that failed: what was before it, again, as a new revision. A sentence about what is in force."""
    if before is None:
        place.desired.unlink(missing_ok=True)
        return "nothing was in force before, and the file with its state is gone"
    kept = None
    with contextlib.suppress(RevisionError):
        kept = inputs_parse(revision_read(place, before.revision).files)
    try:
        _tell(place, msgspec.structs.replace(before, revision=revision))
    except (AskError, OSError, ChangeError) as error:
        return f"going back failed too ({error})"
    place.revision = revision
    if kept is not None:
        revision_keep(place, place, kept, "went back")
    return f"what revision {before.revision} said is in force again, as revision {revision}"


def _begin(place: HostPlace, base: int, seconds: float) -> PendingRecord:
    program = ("-m", "overlay.host_timer", str(place.socket))
    try:
        pending = timer_begin(program, base, seconds, place.folder / "timer.log", importing(os.environ))
    except TimerError as error:
        raise ChangeError(str(error)) from None
    place.pend(pending)
    return pending


def _pending_refuse(place: HostPlace) -> None:
    if place.pending is not None:
        raise PendingError(
            f"revision {place.revision} of host {place.name} waits to be confirmed: `palisade apply --confirmed`, or "
            f"`palisade rollback {place.pending.base}`"
        )


def _settle(place: HostPlace) -> None:
    """Nothing waits any more; the timer ends."""
    if place.pending is not None:
        timer_end(place.pending)
        (place.folder / PENDING).unlink(missing_ok=True)
