# SPDX-License-Identifier: Apache-2.0
"""Cards of a live host, and the threads that carry packets between them (native/io/live.h).

Everything here may be called while packets run. A worker learns of a change between two bursts, and has learned of it
when the call returns.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final, Protocol

from dfw.core.binding import ERROR_BYTES, REASONS, CoreError, ffi, lib, text

TIERS: Final = ("auto", "A", "B", "C")
"""By number. A: a TAP with UDP-tunnel GSO; B: UDP sockets with UDP_SEGMENT and UDP_GRO; C: UDP sockets with neither."""

UPLINK_MAC: Final = "02:50:56:00:00:01"
"""Our end of tier A's TAP: what the kernel's neighbour entry for the TEP must say."""
UPLINK_PEER_MAC: Final = "02:50:56:00:00:02"
"""The TAP's own address, which is the kernel's end."""


_CONTROL: Final = struct.Struct("=16sIHH")  # pal_live_control
_CONTROL_BYTES: Final = _CONTROL.size + 2048


class HasHandle(Protocol):
    """A host of the core (pal_host)."""

    handle: Any


@dataclass(frozen=True, slots=True)
class CardCounts:
    """What went through a card since it was added. Frames: a super-packet is one; segments: the packets that it stands
    for; bytes: of frames. `drops`: reason -> frames that did not, by the words of reasons.def."""

    rx_frames: int
    rx_segments: int
    rx_bytes: int
    tx_frames: int
    tx_segments: int
    tx_bytes: int
    drops: dict[str, int]


@dataclass(frozen=True, slots=True)
class WorkerCounts:
    """One worker since it was made. `bursts` with frames in them; `frames` of those; `sleeps`: times that it waited;
    `handed`, `taken`: frames given to and got from other workers; `cpu_ns`: processor time from the last start."""

    bursts: int
    frames: int
    sleeps: int
    handed: int
    taken: int
    cpu_ns: int


@dataclass(frozen=True, slots=True)
class LiveStats:
    """Counters of everything. `ports`: by filter number; `lost`: frames that were to leave by a card that is not there,
    or that no worker had room for, by reason."""

    ports: dict[int, CardCounts]
    uplink: CardCounts | None
    workers: tuple[WorkerCounts, ...]
    lost: dict[str, int]


@dataclass(frozen=True, slots=True)
class ControlPacket:
    """A Geneve packet with the O bit (RFC 8926 section 3.4) between hosts themselves, such as BFD (RFC 9521).

    `tep`: the host that sent it, or that it goes to; `data`: Geneve header, which has `header` bytes, and what follows.
    """

    tep: str
    data: bytes
    header: int


def tap_open(
    netns: str | None, name: str, mac: str | None = None, queues: int = 1, *, tunnel: bool = False
) -> tuple[list[int], int]:
    """Open the TAP `name` in the network namespace at this path (None: here); this thread stays where it is.

    Returns a file descriptor for each queue, which are the caller's to close, and the offloads that the kernel took
    (TUN_F_*), for `add_port`. The interface goes when the last descriptor is closed. `mac` None: the kernel's choice,
    or what it has. `tunnel`: for an uplink of tier A. Raises CoreError with the sentence why not.
    """
    found = ffi.new("pal_tap *")
    error = ffi.new("char[]", ERROR_BYTES)
    path = ffi.NULL if netns is None else netns.encode()
    address = ffi.NULL if mac is None else mac_bytes(mac)
    if lib.pal_tap_open(path, name.encode(), address, queues, tunnel, found, error, ERROR_BYTES) != 0:
        raise CoreError(text(error))
    return [int(found.fd[i]) for i in range(found.queues)], int(found.offloads)


def mac_bytes(mac: str) -> bytes:
    """The six bytes of a MAC address written with colons. Raises ValueError."""
    packed = bytes(int(part, 16) for part in mac.split(":"))
    if len(packed) != 6:
        raise ValueError(f"{mac!r} is no MAC address")
    return packed


class Live:
    """Ports, an uplink and `workers` threads that carry packets between them through `host`. Stopped at first."""

    def __init__(self, host: HasHandle, workers: int = 1) -> None:
        error = ffi.new("char[]", ERROR_BYTES)
        handle = lib.pal_live_new(host.handle, workers, error, ERROR_BYTES)
        if handle == ffi.NULL:
            raise CoreError(text(error))
        self.host = host
        self.workers = workers
        self.ports: set[int] = set()
        self.handle = ffi.gc(handle, lib.pal_live_free)

    def start(self) -> None:
        """Begin to carry packets; running already, do nothing. Raises CoreError without threads."""
        self._call(lib.pal_live_start)

    def stop(self) -> None:
        """No packet is carried from here on; ports and uplink stay, and `start` goes on."""
        lib.pal_live_stop(self.handle)

    def close(self) -> None:
        """Stop, and let go of every card. The object is of no use afterwards."""
        ffi.release(self.handle)

    def add_port(self, filter_number: int, fds: Sequence[int], offloads: int) -> None:
        """The vNIC with this filter has this TAP: `fds`, `offloads` as from `tap_open`. The descriptors stay the
        caller's, who may close them. Worker w reads queue w. Raises CoreError: it has one already, a bad descriptor."""
        numbers = ffi.new("int32_t[]", list(fds))
        self._call(lib.pal_live_port_add, filter_number, numbers, len(fds), offloads)
        self.ports.add(filter_number)

    def remove_port(self, filter_number: int) -> None:
        """No worker uses the vNIC's TAP any more when this returns. Raises CoreError: there is none."""
        self._call(lib.pal_live_port_remove, filter_number)
        self.ports.discard(filter_number)

    def set_uplink(
        self,
        tier: str,
        address: str,
        *,
        netns: str | None = None,
        name: str = "tep0",
        mac: str = UPLINK_MAC,
        peer_mac: str = UPLINK_PEER_MAC,
        mtu: int = 1600,
        zero_sums: bool = False,
        vxlan: bool = False,
        fds: Sequence[int] = (),
        offloads: int = 0,
    ) -> str:
        """Send and receive Geneve and VXLAN as TEP `address` in the network namespace at this path (None: here).

        `tier`: one of TIERS; the tier in force is returned. A: the TAP `name` is made, with MAC address `peer_mac`, and
        nothing is wired: the caller routes `address` to it, with the neighbour `mac`. `fds`, `offloads`: it is open
        already (`tap_open` with `tunnel`), a queue for each worker. B and C: the kernel must have the address already.
        `mtu`: of the underlay. `zero_sums`: tier A sends outer UDP checksums of 0. `vxlan`: tiers B
        and C hear VXLAN too; A always does.
        What was the uplink before is closed. Raises CoreError with the sentence why not; then nothing has changed.
        """
        options = ffi.new("pal_uplink_options *")
        path = ffi.NULL if netns is None else ffi.new("char[]", netns.encode())
        label = ffi.new("char[]", name.encode())
        options.netns, options.name = path, label
        local = ip_address(address)
        options.local.addr = local.packed.ljust(16, b"\0")
        options.local.family = lib.PAL_FAMILY_V4 if local.version == 4 else lib.PAL_FAMILY_V6
        options.tier, options.mtu = TIERS.index(tier), mtu
        options.zero_sums, options.vxlan = zero_sums, vxlan
        options.mac, options.peer_mac = mac_bytes(mac), mac_bytes(peer_mac)
        options.fds, options.offloads = len(fds), offloads
        for number, fd in enumerate(fds):
            options.fd[number] = fd
        return TIERS[self._call(lib.pal_live_uplink_set, options)]

    def remove_uplink(self) -> None:
        """No uplink from here on."""
        self._call(lib.pal_live_uplink_set, ffi.NULL)

    def control_fd(self) -> int:
        """What to wait at for `read_control`. It stays ours."""
        return int(lib.pal_live_control_fd(self.handle))

    def read_control(self) -> ControlPacket | None:
        """The next control packet that another host sent to this one; None: there is none now."""
        try:
            data = os.read(self.control_fd(), _CONTROL_BYTES)
        except BlockingIOError:
            return None
        address, family, _, inner = _CONTROL.unpack_from(data)
        packed = address[:4] if family == lib.PAL_FAMILY_V4 else address
        return ControlPacket(str(ip_address(packed)), data[_CONTROL.size :], inner)

    def send_control(self, packet: ControlPacket, port: int = 49152) -> None:
        """Send it to the TEP `packet.tep`, from this outer source port where the tier has a choice.

        Raises BlockingIOError: too many are waiting; ValueError: it is too long, or its header longer than it.
        """
        if len(packet.data) > _CONTROL_BYTES - _CONTROL.size or packet.header > len(packet.data):
            raise ValueError("no control packet")
        tep = ip_address(packet.tep)
        family = lib.PAL_FAMILY_V4 if tep.version == 4 else lib.PAL_FAMILY_V6
        os.write(self.control_fd(), _CONTROL.pack(tep.packed, family, port, packet.header) + packet.data)

    def stats(self) -> LiveStats:
        """All counters; nothing stops for it."""
        raw = ffi.new("pal_live_counts *")
        ports = {}
        for number in sorted(self.ports):
            if lib.pal_live_port_read(self.handle, number, raw) == 0:
                ports[number] = _counts(raw)
        uplink = _counts(raw) if lib.pal_live_uplink_read(self.handle, raw) == 0 else None
        lib.pal_live_lost_read(self.handle, raw)
        return LiveStats(ports, uplink, self.worker_counts(), _drops(raw))

    def worker_counts(self) -> tuple[WorkerCounts, ...]:
        """The workers' alone, which cost nothing to speak of."""
        workers = []
        seen = ffi.new("pal_live_worker *")
        for number in range(self.workers):
            lib.pal_live_worker_read(self.handle, number, seen)
            workers.append(
                WorkerCounts(**{name: int(getattr(seen, name)) for name in WorkerCounts.__dataclass_fields__})
            )
        return tuple(workers)

    def _call(self, function: Any, *arguments: Any) -> int:
        """Call it with our handle before and room for a sentence behind. Raises CoreError with that where it fails."""
        error = ffi.new("char[]", ERROR_BYTES)
        result = int(function(self.handle, *arguments, error, ERROR_BYTES))
        if result < 0:
            raise CoreError(text(error))
        return result


def _drops(raw: Any) -> dict[str, int]:
    return {word: int(raw.drop[number]) for number, word in enumerate(REASONS) if raw.drop[number]}


def _counts(raw: Any) -> CardCounts:
    names = [name for name in CardCounts.__dataclass_fields__ if name != "drops"]
    return CardCounts(**{name: int(getattr(raw, name)) for name in names}, drops=_drops(raw))
