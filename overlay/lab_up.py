# SPDX-License-Identifier: Apache-2.0
"""`lab up` and `lab down` from beginning to end: read, plan, apply; and what happens when that is interrupted."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from dfw.documents import STDIN, Document, documents_parse, documents_read
from dfw.errors import PolicyError, Problem
from dfw.load import load_documents
from dfw.model import PolicySet
from overlay.lab_apply import apply_changes, apply_down, apply_move, read_ipv6, read_lacks, record_verify
from overlay.lab_plan import Changes, intent_hash, lab_world, plan_changes, plan_lab, world_moved
from overlay.lab_record import (
    InputRecord,
    LabPaths,
    LabRecord,
    MoveRecord,
    RecordError,
    lab_locked,
    record_read,
    record_write,
)
from overlay.pod import PodSpec
from overlay.pod_spec import pod_specs
from overlay.progress import Steps


class Inputs(NamedTuple):
    """What a lab is made from: files with their contents, and what they say."""

    files: tuple[tuple[str, bytes], ...]
    world: PolicySet
    specs: dict[str, PodSpec]
    intent: str


class Result(NamedTuple):
    """What `lab up` did, or would do."""

    record: LabRecord
    changes: Changes


@contextmanager
def example_files() -> Iterator[tuple[str, ...]]:
    """The built-in example: an inventory and one policy of its own, and the policy of examples/shop."""
    with (
        as_file(files("overlay") / "example" / "inventory.yaml") as inventory,
        as_file(files("overlay") / "example" / "neighbours.yaml") as neighbours,
        as_file(files("dfw") / "example" / "policy.yaml") as policy,
    ):
        yield str(inventory), str(neighbours), str(policy)


def inputs_read(names: Sequence[str]) -> Inputs:
    """Read files (`-`: standard input; none: the built-in example). Raises PolicyError."""
    if not names:
        with example_files() as found:
            return inputs_read(found)
    contents = []
    problems: list[Problem] = []
    for name in dict.fromkeys(names):
        try:
            contents.append((name, sys.stdin.buffer.read() if name == STDIN else Path(name).read_bytes()))
        except OSError:
            try:
                documents_read([name])  # says in the house's words why it cannot be read
            except PolicyError as error:
                problems += error.problems
    if problems:
        raise PolicyError(problems)
    return inputs_parse(contents)


def inputs_parse(contents: Sequence[tuple[str, bytes]]) -> Inputs:
    """What the contents of files say. Raises PolicyError."""
    documents: list[Document] = []
    problems: list[Problem] = []
    for name, data in contents:
        try:
            documents += documents_parse(data, name)
        except PolicyError as error:
            problems += error.problems
    if problems:
        raise PolicyError(problems)
    world = lab_world(load_documents(documents).world)
    absolute = [(name if name == STDIN else str(Path(name).absolute()), data) for name, data in contents]
    return Inputs(tuple(absolute), world, pod_specs(documents), intent_hash(absolute))


def inputs_kept(paths: LabPaths, record: LabRecord) -> Inputs:
    """What the lab was last made from, from its own copies. Raises PolicyError, OSError."""
    return inputs_parse([(item.file, (paths.inputs / item.copy).read_bytes()) for item in record.inputs])


def inputs_keep(paths: LabPaths, record: LabRecord, inputs: Inputs) -> None:
    """Copy what the lab is made from into its directory."""
    paths.inputs.mkdir(exist_ok=True)
    record.inputs = []
    for number, (name, data) in enumerate(inputs.files):
        copy = f"{number}-{'stdin.yaml' if name == STDIN else Path(name).name}"
        (paths.inputs / copy).write_bytes(data)
        record.inputs.append(InputRecord(name, copy))


class InterruptedCommand(KeyboardInterrupt):
    """Somebody ended this command.

    A type of its own, because of a KeyboardInterrupt that has passed an `exec` (as in every class that dataclasses or
    namedtuple make) Python remembers, and kills itself by SIGINT in the end although it was dealt with.
    """


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP end a command as Ctrl-C does, so that it cleans up. Raises InterruptedCommand."""
    told: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        told.append(number)
        raise InterruptedCommand

    before: dict[int, Any] = {}
    try:
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            before[one] = signal.signal(one, stop)
    except ValueError:  # not the main thread: whoever called has signals of its own
        pass
    try:
        yield
    except Exception as error:
        if told:  # some code, a class that is being made for one, makes an error of its own of what it did not expect
            raise InterruptedCommand from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """What is done in here is not interrupted by Ctrl-C and the like: cleaning up."""
    before: dict[int, Any] = {}
    try:
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            before[one] = signal.signal(one, signal.SIG_IGN)
    except ValueError:
        pass
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def up(paths: LabPaths, names: Sequence[str], *, mtu: int, dry_run: bool, steps: Steps) -> Result:
    """Bring a lab up, or change it to what the files now say; with `dry_run` only plan.

    Interrupted or failed: a lab that was not there before is taken away again; one that was keeps what its record says,
    and the next `lab up` goes on from there. Raises PolicyError, EnvironmentLacksError, OSError, AgentError.
    """
    inputs = inputs_read(names)
    if dry_run:
        record = record_read(paths) or LabRecord(paths.name)
        record_verify(paths, record)
        return Result(record, _planned(record, inputs, mtu)[1])
    lacks = read_lacks()
    if lacks is not None:
        raise lacks
    with lab_locked(paths), interruptible():
        known = record_read(paths)
        record = known or LabRecord(paths.name)
        try:
            record_verify(paths, record)
            plan, changes = _planned(record, inputs, mtu)
            if changes:
                with steps.shown():
                    inputs_keep(paths, record, inputs)
                    world = world_moved(inputs.world, record.moved)
                    apply_changes(paths, record, plan, changes, world, steps)
            return Result(record, changes)
        except BaseException:
            with uninterrupted():
                if known is None:
                    steps.say("taking away what was made")
                    apply_down(paths, record, Steps(quiet=True))
                else:
                    record_write(paths, record)
            raise


def _planned(record: LabRecord, inputs: Inputs, mtu: int) -> tuple[Any, Changes]:
    world = world_moved(inputs.world, record.moved)
    plan = plan_lab(record.name, world, inputs.specs, inputs.intent, mtu=mtu, ipv6=read_ipv6())
    return plan, plan_changes(record, plan)


def migrate(paths: LabPaths, pod: str, host: str) -> str | None:
    """Move a running pod's vNIC to another host. Returns the host that it left; None where it was there already.

    Raises ValueError with a sentence: no such pod, or host; AgentError, OSError.
    """
    with lab_locked(paths), interruptible():
        record = record_read(paths)
        known = None if record is None else record.pods.get(pod)
        if record is None or known is None:
            raise ValueError(f"lab {paths.name} has no pod {pod!r}; it has {', '.join(record.pods if record else ())}")
        if host not in record.hosts:
            raise ValueError(f"lab {paths.name} has no host {host!r}; it has {', '.join(record.hosts)}")
        before = known.host
        if before == host:
            return None
        record_verify(paths, record)
        written = inputs_kept(paths, record).world
        record.moved[pod] = MoveRecord(written.inventory.ports[pod].host, host)
        apply_move(paths, record, pod, host, world_moved(written, record.moved))
        return before


def down(paths: LabPaths, steps: Steps) -> list[str]:
    """Take a lab away. Returns sentences about what could not be, or was not ours to take."""
    with lab_locked(paths), uninterrupted(), steps.shown():
        try:
            record = record_read(paths)
        except RecordError as error:
            steps.say(f"{error}; what is marked as the lab's is taken away")
            record = None
        return apply_down(paths, record, steps)
