# SPDX-License-Identifier: Apache-2.0
"""`lab up`, `lab migrate` and `lab down` from beginning to end: read, plan, apply; and what happens when that fails."""

from __future__ import annotations

from collections.abc import Sequence

from dfw.model import NFTABLES
from overlay.kernel_host import kernel_needed
from overlay.kernel_show import unable_sentence
from overlay.lab_apply import apply_changes, apply_down, read_lacks, record_verify
from overlay.lab_change import Applied, change, pending_refuse, plan_change
from overlay.lab_inputs import Inputs, inputs_keep, inputs_kept, inputs_read
from overlay.lab_migrate import Migrated, apply_move
from overlay.lab_plan import Changes, world_moved
from overlay.lab_record import LabPaths, LabRecord, MoveRecord, RecordError, lab_locked, record_read, sockets_check
from overlay.lab_revision import revision_keep
from overlay.lab_signals import interruptible, uninterrupted
from overlay.progress import Steps


def up(paths: LabPaths, names: Sequence[str], *, mtu: int, dry_run: bool, steps: Steps) -> Applied:
    """Bring a lab up, or change it to what the files now say; with `dry_run` only plan.

    Interrupted or failed: a lab that was not there before is taken away again; one that was goes back to what it was
    (overlay/lab_change.py). Raises PolicyError, EnvironmentLacksError, OSError, AgentError, PodError; ChangeError and
    PendingError of a lab that is there.
    """
    inputs = inputs_read(names)
    if dry_run:
        record = record_read(paths) or LabRecord(paths.name)
        record_verify(paths, record)
        return Applied(record, plan_change(paths, record, inputs, mtu, told=True).changes)
    lacks = read_lacks()
    if lacks is not None:
        raise lacks
    if any(host.enforcer == NFTABLES for host in inputs.world.inventory.hosts.values()):
        kernel_needed()
    with lab_locked(paths), interruptible():
        known = record_read(paths)
        if known is None:
            return Applied(*_up(paths, inputs, mtu, steps))
        record_verify(paths, known)
        if plan_change(paths, known, inputs, mtu).changes:
            pending_refuse(paths, known)
        return Applied(known, change(paths, known, inputs, mtu, "lab up", steps))


def _up(paths: LabPaths, inputs: Inputs, mtu: int, steps: Steps) -> tuple[LabRecord, Changes]:
    record, plan = LabRecord(paths.name), None
    try:
        plan = plan_change(paths, record, inputs, mtu)
        sockets_check(paths, plan.lab.hosts)
        with steps.shown():
            inputs_keep(paths, record, inputs)
            apply_changes(paths, record, plan.lab, plan.changes, plan.states, steps)
        revision_keep(paths, record, inputs, "lab up")
    except BaseException:
        with uninterrupted():
            if plan is not None:
                steps.say("taking away what was made")
            apply_down(paths, record, Steps(quiet=True))
        raise
    return record, plan.changes


def migrate(paths: LabPaths, pod: str, host: str) -> Migrated | None:
    """Move a running pod's vNIC to another host, with its connections. None where it is there already.

    Raises ValueError with a sentence: no such pod, or host; AgentError, OSError.
    """
    with lab_locked(paths), interruptible():
        record = record_read(paths)
        known = None if record is None else record.pods.get(pod)
        if record is None or known is None:
            raise ValueError(f"lab {paths.name} has no pod {pod!r}; it has {', '.join(record.pods if record else ())}")
        if host not in record.hosts:
            raise ValueError(f"lab {paths.name} has no host {host!r}; it has {', '.join(record.hosts)}")
        if known.host == host:
            return None
        record_verify(paths, record)
        inputs = inputs_kept(paths, record)
        for name in (known.host, host):  # asked before a card is taken away: both ends must be able to
            if (known_host := inputs.world.inventory.hosts.get(name)) and known_host.enforcer == NFTABLES:
                raise ValueError(f"host {name}: {unable_sentence('move')}")
        move = MoveRecord(inputs.world.inventory.ports[pod].host, host)
        worlds = (world_moved(inputs.world, record.moved), world_moved(inputs.world, record.moved | {pod: move}))
        what = f"lab migrate {pod} {host}"
        try:
            moved = apply_move(paths, record, pod, move, worlds)
        except BaseException:
            with uninterrupted():  # the hosts were told this revision, and the next change may have to go back to it
                revision_keep(paths, record, inputs, f"{what}, which failed")
            raise
        revision_keep(paths, record, inputs, what)
        return moved


def down(paths: LabPaths, steps: Steps) -> list[str]:
    """Take a lab away. Returns sentences about what could not be, or was not ours to take."""
    with lab_locked(paths), uninterrupted(), steps.shown():
        try:
            record = record_read(paths)
        except RecordError as error:
            steps.say(f"{error}; what is marked as the lab's is taken away")
            record = None
        return apply_down(paths, record, steps)
