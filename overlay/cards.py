# SPDX-License-Identifier: Apache-2.0
"""A host's cards: TAPs of its vNICs and its uplink, opened once, kept by the holder, and handed to the packet core.

A TAP belongs to the network namespace in which it was opened and to whoever has its descriptors. An agent that starts
finds what its predecessor left at the holder and goes on with it: the pods' carrier never drops.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dfw.core import CoreError
from dfw.core.live import Live, tap_open
from dfw.model import VXLAN
from overlay.holder import HolderClient, HolderError, close_all
from overlay.hoststate import HostState, VnicState
from overlay.sysctl_keep import keep_sysctls
from overlay.uplink import (
    TEP_INTERFACE,
    TEP_KERNEL_MAC,
    TEP_MAC,
    UplinkStep,
    apply_uplink,
    plan_uplink,
    read_address_interface,
    read_mtu,
    remove_uplink,
)
from overlay.vnic import VnicSetup, apply_vnic, vnic_setup

UPLINK = "uplink"
VNIC = "vnic/"


@dataclass(slots=True)
class Card:
    """An open TAP. `about`: what it is, as the holder was told."""

    fds: list[int]
    about: dict[str, Any]
    number: int | None = None  # of the filter, once the packet core has it
    since: float = 0.0  # when packets began to run (time.monotonic)
    settled: VnicSetup | None = None  # what its interface was made to be


class Cards:
    """All TAPs of a host. `live`: the packet core's workers. `before`: the file for kernel settings as they were."""

    def __init__(self, live: Live, holder: HolderClient, underlay: str, queues: int, before: Path) -> None:
        self.live, self.holder, self.underlay, self.queues, self.before = live, holder, underlay, queues, before
        self.cards: dict[str, Card] = {}
        self.problems: dict[str, str] = {}
        self.tier: str | None = None
        self.uplink: tuple[str, int] | None = None  # TEP and MTU of the one in force
        self.vxlan = False  # it hears those who speak VXLAN
        self.wires: tuple[UplinkStep, ...] = ()

    def restore(self) -> None:
        """Take back what an agent before this one has left at the holder."""
        for name, about in self.holder.held().items():
            try:
                self.cards[name] = Card(self.holder.get(name), about)
            except HolderError:
                continue

    def apply(self, state: HostState, number_of: Callable[[str], int | None]) -> None:
        """Open what is missing and let go what is too much: packets run when this returns.

        What cannot be done for one vNIC stands in `problems` under its name, and does not stop the others.
        """
        wanted = {vnic.name: vnic for vnic in state.vnics if vnic.netns is not None}
        for name in [name for name in self.cards if name.startswith(VNIC) and name.removeprefix(VNIC) not in wanted]:
            self._let_go(name)
        self.problems = {}
        for vnic in wanted.values():
            self._try_port(vnic, number_of(vnic.name))

    def retry(self, state: HostState, number_of: Callable[[str], int | None], tier: str) -> None:
        """Try again what stands in `problems`, and nothing else. It stands there until it is done: whoever asks
        meanwhile must not believe that all is well."""
        failed = dict(self.problems)
        vnics = [vnic for vnic in state.vnics if vnic.name in failed and vnic.netns is not None]
        for vnic in vnics:
            self._try_port(vnic, number_of(vnic.name))
        if UPLINK in failed:
            self.apply_uplink(state, tier)
        self.apply_interfaces(vnics, failed)
        for name, text in failed.items():
            if self.problems.get(name) is text:
                del self.problems[name]

    def _try_port(self, vnic: VnicState, number: int | None) -> None:
        if number is None:
            return
        try:
            self._vnic(vnic, number)
        except (CoreError, OSError) as error:
            self._problem(vnic, error)

    def apply_interfaces(self, vnics: Iterable[VnicState], before: Mapping[str, str] = MappingProxyType({})) -> None:
        """Set up every interface that is to be another than before. After ports and uplink: netlink takes milliseconds
        for each, and after a restart all of it is so already, while packets wait. `before`: problems
        that are being looked into just now."""
        for vnic in vnics:
            card = self.cards.get(VNIC + vnic.name)
            setup, is_new = vnic_setup(vnic), self.problems.get(vnic.name) is not before.get(vnic.name)
            if vnic.netns is None or is_new or card is None or card.settled == setup or card.about.get("tap"):
                continue
            try:
                apply_vnic(vnic.netns, vnic)
                card.settled = setup
            except OSError as error:
                self._problem(vnic, error)

    def _problem(self, vnic: VnicState, error: Exception) -> None:
        self.problems[vnic.name] = f"{vnic.interface} in {vnic.netns}: {error}"

    def apply_uplink(self, state: HostState, tier: str) -> None:
        """Bring up the TEP: `tier` A, B or C, or the best that this machine has (auto).

        Once it is up it stays, and only new TEPs are wired. What is wrong stands in `problems` under `uplink`.
        """
        wanted = (state.tep, state.underlay_mtu)
        vxlan = any(tep.encap == VXLAN for tep in state.teps)
        try:
            if self.uplink != wanted or (vxlan and not self.vxlan):
                remove_uplink(self.wires)
                self.wires = ()
                self.tier = self._uplink(state, tier, vxlan)
                self.uplink, self.vxlan = wanted, vxlan or self.tier == "A"
            assert self.tier is not None
            peers = [tep.ip for tep in state.teps]
            wires = plan_uplink(self.tier, self.underlay, state.tep, peers, state.underlay_mtu)
            if wires != self.wires:
                remove_uplink(step for step in self.wires if step not in wires)
                keep_sysctls(self.before, wires)
                apply_uplink(wires)
                self.wires = wires
            mtu = read_mtu(self.underlay)
            if mtu is not None and mtu < state.underlay_mtu:
                self.problems[UPLINK] = f"{self.underlay} carries {mtu} bytes, the hosts are told {state.underlay_mtu}"
        except (CoreError, OSError) as error:
            self.problems[UPLINK] = str(error)

    def rewire(self) -> None:
        """Lay the TEP's wires once more: an interface that was taken down has lost its routes. Whether it is up is not
        ours to say here: somebody has taken it down."""
        with contextlib.suppress(OSError):
            apply_uplink(step for step in self.wires if step.what != "up")

    def _uplink(self, state: HostState, tier: str, vxlan: bool) -> str:
        """The tier in force. Raises CoreError with what the last one tried says, OSError."""
        if tier in ("auto", "A"):
            try:
                if stands_on := read_address_interface(state.tep):
                    told = f"{state.tep} is an address of {stands_on}"
                    raise CoreError(
                        f"{told}: tier A needs a TEP that is nobody's yet; --uplink auto takes another tier"
                    )
                return self._uplink_tap(state)
            except CoreError:
                if tier == "A":
                    raise
        # An ordinary socket: the kernel must have the address before it can be bound.
        apply_uplink(plan_uplink("B", self.underlay, state.tep, (), state.underlay_mtu))
        for last in ("B", "C") if tier == "auto" else (tier,):
            try:
                return self.live.set_uplink(last, state.tep, mtu=state.underlay_mtu, vxlan=vxlan)
            except CoreError:
                if last in (tier, "C"):
                    raise
        raise AssertionError("one of them has returned or raised")

    def _uplink_tap(self, state: HostState) -> str:
        card = self.cards.get(UPLINK)
        if card is None:
            fds, offloads = tap_open(None, TEP_INTERFACE, TEP_KERNEL_MAC, self.queues, tunnel=True)
            card = Card(fds, {"offloads": offloads})
        found = self.live.set_uplink(
            "A",
            state.tep,
            name=TEP_INTERFACE,
            mac=TEP_MAC,
            peer_mac=TEP_KERNEL_MAC,
            mtu=state.underlay_mtu,
            fds=card.fds,
            offloads=card.about["offloads"],
        )
        if UPLINK not in self.cards:
            self.holder.put(UPLINK, card.fds, card.about)
            self.cards[UPLINK] = card
        return found

    def _vnic(self, vnic: VnicState, number: int) -> None:
        name = VNIC + vnic.name
        about = {"netns": vnic.netns, "inode": _inode(vnic.netns), "interface": vnic.interface, "mac": vnic.mac}
        card = self.cards.get(name) or self._handed(name)
        if card is not None and card.about.get("tap"):
            del about["mac"]  # its machine has that
        if card is not None and {key: card.about.get(key) for key in about} != about:
            self._let_go(name)
            card = None
        if card is None:
            fds, offloads = tap_open(vnic.netns, vnic.interface, vnic.mac, self.queues)
            card = Card(fds, about | {"offloads": offloads})
            self.holder.put(name, fds, card.about)
            self.cards[name] = card
        if card.number != number:
            if card.number is not None:
                self.live.remove_port(card.number)
            self._run(card, number)

    def _handed(self, name: str) -> Card | None:
        """A card that another host has handed over to our holder: its pod has moved here, and keeps it."""
        try:
            fds, about = self.holder.take(name)
        except HolderError:
            return None
        self.cards[name] = Card(fds, about)
        return self.cards[name]

    def freeze(self, vnic: str) -> None:
        """The vNIC's packets wait in its card from here on. Raises KeyError: it has none; CoreError."""
        card = self.cards[VNIC + vnic]
        if card.number is not None:
            self.live.remove_port(card.number)
            card.number = None

    def thaw(self, vnic: str, number: int) -> None:
        """They go on; so they do after any `apply`. Raises KeyError, CoreError."""
        card = self.cards[VNIC + vnic]
        if card.number is None:
            self._run(card, number)

    def _run(self, card: Card, number: int) -> None:
        self.live.add_port(number, card.fds, card.about["offloads"])
        card.number, card.since = number, time.monotonic()

    def _let_go(self, name: str) -> None:
        card = self.cards.pop(name)
        if card.number is not None:
            self.live.remove_port(card.number)
        close_all(card.fds)
        self.holder.drop(name)

    def attached(self) -> dict[str, int]:
        """The filter's number of each vNIC that has a card."""
        return {
            name.removeprefix(VNIC): card.number
            for name, card in self.cards.items()
            if name.startswith(VNIC) and card.number is not None
        }

    def close(self) -> None:
        """Close this process's descriptors; the holder keeps its own."""
        for card in self.cards.values():
            close_all(card.fds)
        self.cards.clear()


def _inode(netns: str | None) -> int:
    """Which namespace is at this path now: another one there means another pod."""
    return 0 if netns is None else os.stat(netns).st_ino
