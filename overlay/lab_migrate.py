# SPDX-License-Identifier: Apache-2.0
"""A running pod's move to another host with its connections: bulk copy, freeze, difference, switch (DESIGN, 4).

the target learns the vNIC's rules, and that it is still elsewhere     (plan_arriving)
its connections are copied while packets run
its card is handed from holder to holder: the pod keeps its interface, addresses and sockets
freeze: its packets wait in the card; what has changed since the copy follows; the target takes the vNIC
the source learns where it is, and sends on what still arrives; then the others learn it
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from dfw.model import PolicySet
from dfw.output import counted
from overlay.ask import AskError, agent_ask
from overlay.cards import VNIC
from overlay.holder import HOLDER_SOCKET, HolderClient, HolderError, close_all
from overlay.hoststate import HostState, TepState, VnicState, state_write
from overlay.lab_agents import READY_SECONDS, AgentError, desired_states, desired_write, wait_realized
from overlay.lab_record import LabPaths, LabRecord, MoveRecord, record_write
from overlay.lab_signals import uninterrupted

ROUNDS: Final = 4
FEW: Final = 500  # changes that are told within 5 ms
LATE_SECONDS: Final = 1.0  # for packets of hosts that have not heard yet
_ANSWERS: Final[Mapping[str, tuple[str, ...]]] = {
    "bulk": ("rules", "count", "parts"),
    "again": ("count", "parts"),
    "freeze": ("at", "count", "parts"),
    "thaw": (),
    "import": ("refused",),
    "since": ("at",),
}
"""What each step's answer has (overlay/move.py)."""
FREEZE_SECONDS: Final = 3.0  # below overlay/move.py's FROZEN_SECONDS: two hosts must never both have the card


@dataclass(frozen=True, slots=True)
class Migrated:
    """What a migration did. `connections`: copied before the freeze; `changes`: told in it; `refused`: for which the
    target had no room; `frozen`: seconds in which the pod's packets waited."""

    source: str
    connections: int
    changes: int
    refused: int
    frozen: float


def render_migrated(pod: str, host: str, moved: Migrated, seconds: float) -> list[str]:
    """What the command says."""
    told = f"{counted(moved.connections, 'connection')} copied while packets ran, {moved.changes} changes after that"
    lines = [
        f"pod {pod} moved from {moved.source} to {host} in {seconds:.1f} s",
        f"  {told}; its packets waited {moved.frozen * 1000:.0f} ms",
    ]
    return lines + ([f"  {moved.refused} found no room on {host}"] if moved.refused else [])


def plan_arriving(state: HostState, vnic: str, source: TepState) -> HostState:
    """The target's state before the switch: `state` is the one after it; the vNIC is still behind `source`."""
    state, tep = _with_tep(state, source)
    segment = next(item.segment for item in state.vnics if item.name == vnic)

    def waiting(item: VnicState) -> VnicState:
        return replace(item, netns=None, arriving=tep) if item.name == vnic else item

    return _replicated(replace(state, vnics=tuple(map(waiting, state.vnics))), segment, tep)


def plan_leaving(state: HostState, vnic: str, target: TepState) -> HostState:
    """The source's state after the switch: `state` is the one before it; the vNIC is behind `target`.

    The source may have no other on these segments, and would otherwise not know them any more.
    """
    state, tep = _with_tep(state, target)
    segment = next(item.segment for item in state.vnics if item.name == vnic)
    vnics = tuple(item for item in state.vnics if item.name != vnic)
    neighbours = tuple(replace(n, vnic=None, tep=tep) if n.vnic == vnic else n for n in state.neighbours)
    return _replicated(replace(state, vnics=vnics, neighbours=neighbours), segment, tep)


def _with_tep(state: HostState, tep: TepState) -> tuple[HostState, int]:
    """The state with that TEP in it, and its number."""
    known = [item.ip for item in state.teps]
    if tep.ip in known:
        return state, known.index(tep.ip)
    return replace(state, teps=(*state.teps, tep)), len(known)


def _replicated(state: HostState, segment: int, tep: int) -> HostState:
    """The state with that TEP among those that get a segment's broadcasts."""
    segments = list(state.segments)
    before = segments[segment]
    segments[segment] = replace(before, replicas=tuple(dict.fromkeys((*before.replicas, tep))))
    return replace(state, segments=tuple(segments))


def apply_move(
    paths: LabPaths, record: LabRecord, pod: str, move: MoveRecord, worlds: tuple[PolicySet, PolicySet]
) -> Migrated:
    """Have another host carry a pod's vNIC. `worlds`: with the pod where it is, and where it is to be.

    What fails before the switch leaves the pod where it was. Raises AgentError, OSError.
    """
    done = _Move(paths, record, pod, move)
    intent, record.intent = record.intent, ""  # interrupted from here on, `lab up` tells the hosts again
    try:
        migrated = done.run(*worlds)
    except BaseException:
        if not done.switched:
            with uninterrupted():
                done.go_back(worlds[0])
        raise
    record.intent = intent
    record_write(paths, record)
    return migrated


class _Move:
    """One migration. `switched`: the pod belongs to the target from here on, whatever happens."""

    def __init__(self, paths: LabPaths, record: LabRecord, pod: str, move: MoveRecord) -> None:
        self.paths, self.record, self.pod, self.move = paths, record, pod, move
        self.source, self.target = record.pods[pod].host, move.host
        self.moved_before = record.moved.get(pod)
        self.agents = {name: item.agent for name, item in record.hosts.items() if item.agent is not None}
        self.refused = 0
        self.switched = False

    def run(self, before: PolicySet, after: PolicySet) -> Migrated:
        teps = {name: TepState(name, str(before.inventory.hosts[name].tep)) for name in (self.source, self.target)}
        arriving = self._states(after)[self.target]
        desired_write(self.paths, {self.target: plan_arriving(arriving, self.pod, teps[self.source])})
        self._wait(self.target)
        copied = self._ask(self.source, "bulk")
        self._bring(copied, rules=copied["rules"])
        self._catch_up()
        leaving = self._states(before)[self.source]
        arrived = replace(arriving, revision=leaving.revision)
        state_write(self._prepared(self.source), plan_leaving(leaving, self.pod, teps[self.target]))
        state_write(self._prepared(self.target), _with_tep(arrived, teps[self.source])[0])  # which sends packets on
        self.record.pods[self.pod].host = self.target
        self.record.moved[self.pod] = self.move
        record_write(self.paths, self.record)
        self._hand_over()
        self._catch_up()
        changed = self._ask(self.source, "freeze")
        self._bring(changed)
        if time.monotonic() - changed["at"] > FREEZE_SECONDS:
            raise AgentError(f"{self.pod} stays on {self.source}: the hosts took too long to hand it over")
        with uninterrupted():  # it cannot go back, and hosts that were told half of it would stay so until `lab up`
            frozen = self._switch(after) - changed["at"]
        return Migrated(self.source, copied["count"], changed["count"], self.refused, frozen)

    def _switch(self, after: PolicySet) -> float:
        """The pod belongs to the target, and all hosts learn it. Returns when the target had it in force."""
        self.switched = True
        for host in (self.target, self.source):
            os.replace(self._prepared(host), self.paths.host(host) / "desired.json")
        self._wait(self.target)
        since = float(self._ask(self.target, "since")["at"])
        self._wait(self.source)
        self._settle(after)
        return since

    def _catch_up(self) -> None:
        """What changes while packets run is told again, until it is little: the freeze is as long as the rest takes."""
        for _ in range(ROUNDS):
            changed = self._ask(self.source, "again")
            self._bring(changed)
            if changed["count"] <= FEW:
                return

    def _settle(self, after: PolicySet) -> None:
        """The others learn where the pod is, and the two, when nobody's packets are late any more, that it is over."""
        states = self._states(after)
        both = {name: states.pop(name) for name in (self.source, self.target)}
        desired_write(self.paths, states)
        self._wait(*states)
        time.sleep(LATE_SECONDS)
        desired_write(self.paths, both)
        self._wait(*both)

    def go_back(self, before: PolicySet) -> None:
        """The pod stays where it is: its packets go on there, and the target forgets what it was told."""
        with contextlib.suppress(AgentError):  # it has no such card, or a successor that has it in use already
            self._ask(self.source, "thaw")
        self.record.pods[self.pod].host = self.source
        self.record.moved.pop(self.pod, None)
        if self.moved_before is not None:
            self.record.moved[self.pod] = self.moved_before
        desired_write(self.paths, self._states(before))

    def _prepared(self, host: str) -> Path:
        return self.paths.host(host) / "desired.next"

    def _states(self, world: PolicySet) -> dict[str, HostState]:
        """What the hosts are told next: a revision of its own."""
        self.record.revision += 1
        record_write(self.paths, self.record)
        return desired_states(self.paths, self.record, world)

    def _wait(self, *hosts: str) -> None:
        agents = {name: self.agents[name] for name in hosts if name in self.agents}
        wait_realized(self.paths, agents, self.record.revision, lambda name: None, READY_SECONDS)

    def _ask(self, host: str, step: str, **more: Any) -> dict[str, Any]:
        try:
            answer = agent_ask(self.paths.socket(host), {"do": "move", "step": step, "vnic": self.pod, **more})
        except AskError as error:
            raise AgentError(f"host {host}: {error}") from error
        lacking = [name for name in _ANSWERS[step] if name not in answer]
        if lacking:
            raise AgentError(f"host {host}: its agent's answer to {step} lacks {', '.join(lacking)}: another version?")
        return answer

    def _bring(self, told: dict[str, Any], **more: Any) -> None:
        """What the source has told, to the target."""
        for part in told["parts"]:
            self.refused += int(self._ask(self.target, "import", data=part, **more)["refused"])
            more = {}

    def _hand_over(self) -> None:
        """The target's holder gets the card too: it is open there before it is closed here."""
        holders = [self.paths.socket(host).with_name(HOLDER_SOCKET) for host in (self.source, self.target)]
        try:
            here, there = HolderClient(str(holders[0])), HolderClient(str(holders[1]))
            try:
                fds, about = here.take(VNIC + self.pod)
                there.put(VNIC + self.pod, fds, about)
                close_all(fds)
            finally:
                here.close()
                there.close()
        except (HolderError, OSError) as error:
            raise AgentError(f"the card of {self.pod} cannot be handed over: {error}") from error
