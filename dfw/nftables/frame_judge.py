# SPDX-License-Identifier: Apache-2.0
"""The running kernel as the judge of frames: through a bridge in a network namespace of our own.

A frame goes in by a virtual cable, with the mark that says who its ends are, and comes out by a TAP. As in judge.py,
rules that log say what they decided, and a second frame, which only has to be logged, says that the kernel is done.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final

from dfw.errors import EnvironmentLacksError
from dfw.nftables.ether import FRAME_IN, FRAME_OUT
from dfw.nftables.frame_staged import FRAME_SUMS, STAGED_IN, STAGED_OUT
from dfw.nftables.frames import FrameRules
from dfw.nftables.judge import (
    IFF_TAP,
    MTU,
    SECONDS,
    chain_logged,
    judge_listener,
    links_make,
    log_to_judge,
    ruleset_put,
    settings_write,
    tun_came_out,
    tun_open,
)
from dfw.nftables.namespace import PrivateNamespace
from dfw.nftables.ruleset import Chain, ChainRule, Expression, Hook, Ruleset
from dfw.nftables.staged import STAGED

_SO_MARK: Final = 36  # asm-generic/socket.h
_BARRIER: Final = bytes.fromhex("02504c000011 02504c000012 88b5") + bytes(46)
_BARRIER_MARKS: Final = 0xFFFF0000  # with a number; no vNIC is a sender of that
_QUIET_SECONDS, _TRIES = 2.0, 3
_THROUGH: Final = "through"
_QUIET: Final = tuple(f"net/ipv6/conf/{which}/disable_ipv6" for which in ("all", "default"))
_BRIDGED: Final = tuple(f"net/bridge/bridge-nf-call-{tool}" for tool in ("iptables", "ip6tables", "arptables"))
"""What hands a bridge's packets to other rules, where there is br_netfilter."""
# Nothing is learned: each frame goes from the one port to the other. Of the group addresses that bridges keep, those
# are passed on that may be.
_LINKS: Final = f"""\
link add br0 address 02:50:4c:00:00:13 type bridge stp_state 0 forward_delay 0 mcast_snooping 0 group_fwd_mask 0xfff8
link add from0 mtu {MTU} type veth peer name to0 mtu {MTU}
link set to0 master br0
link set out0 mtu {MTU} master br0
link set to0 type bridge_slave learning off
link set out0 type bridge_slave learning off
link set br0 up
link set from0 up
link set to0 up
link set out0 up
"""


@dataclass(frozen=True, slots=True)
class FrameAnswer:
    """What became of a frame. `refused`: the counter of the rule that dropped it going `out` or coming `in`, empty for
    none; `staged`: likewise of the staged rule that would have, without the word that says so. `judged` False: the
    bridge itself has thrown it away."""

    judged: bool
    out_refused: str
    in_refused: str
    delivered: bool
    out_staged: str = ""
    in_staged: str = ""


class FrameJudge:
    """A namespace with a bridge that asks these rules, until closed. Raises EnvironmentLacksError, OSError."""

    def __init__(self, frames: FrameRules, table: str) -> None:
        with ExitStack() as opened:
            self._namespace = opened.enter_context(PrivateNamespace())
            self._socket, self._out = self._namespace.run(_devices)
            opened.callback(os.close, self._out)
            opened.callback(self._socket.close)
            self._log = opened.enter_context(self._namespace.run(judge_listener))
            logged = replace(frames, chains=tuple(map(chain_logged, frames.chains)))
            self._namespace.run(lambda: ruleset_put(Ruleset(table, frames=logged)))
            self._opened = opened.pop_all()
        self._number = 0

    def judge(self, frame: bytes, mark: int) -> FrameAnswer:
        """Hand over one frame. Raises TimeoutError where the kernel stops answering, OSError."""
        # What a bridge throws away, and what was lost, say nothing.
        said = next(filter(None, (self._asked(frame, mark) for _ in range(_TRIES))), [])
        side, refused = "", dict.fromkeys((FRAME_OUT, FRAME_IN, STAGED_OUT, STAGED_IN), "")
        for text in said:
            if text in refused:
                side = text
            elif text != _THROUGH and text not in FRAME_SUMS:
                refused[side] = text
        in_force = refused[FRAME_OUT], refused[FRAME_IN]
        would = (refused[name].removeprefix(STAGED) for name in (STAGED_OUT, STAGED_IN))
        is_through = _THROUGH in said
        delivered = frame in tun_came_out(self._out)
        return FrameAnswer(is_through or any(in_force), *in_force, delivered, *would)

    def _asked(self, frame: bytes, mark: int) -> list[str]:
        """What the kernel says of a frame. A cable's frames wait with those of all other devices for the processor's
        time, and are lost where too many wait."""
        self._number = self._number + 1 & 0xFFFF
        said: list[tuple[str, int]] = []
        barrier = "barrier", _BARRIER_MARKS | self._number
        for _ in range(int(SECONDS / _QUIET_SECONDS)):
            with _one_processor():  # a cable has a queue at each, and the second frame must not overtake
                self._send(frame, mark)
                self._send(_BARRIER, barrier[1])
            with suppress(TimeoutError):
                while barrier not in said:
                    said += self._log.marked(_QUIET_SECONDS)
                return [text for text, _ in said if text != barrier[0]]
        raise TimeoutError(f"the kernel has not said anything for {SECONDS:g} s")

    def _send(self, frame: bytes, mark: int) -> None:
        self._socket.sendmsg([frame], [(socket.SOL_SOCKET, _SO_MARK, struct.pack("=I", mark))])

    def inside(self) -> PrivateNamespace:
        """The namespace, for whoever wants to look into it."""
        return self._namespace

    def close(self) -> None:
        """Everything goes."""
        self._opened.close()

    def __enter__(self) -> FrameJudge:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


@contextmanager
def _one_processor() -> Iterator[None]:
    """This thread stays on one processor."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _devices() -> tuple[socket.socket, int]:
    """Where frames go in and come out, in the namespace of this thread."""
    wanted = dict.fromkeys(_QUIET, "1") | dict.fromkeys(_BRIDGED, "0")
    settings_write({name: value for name, value in wanted.items() if Path("/proc/sys", name).exists()})
    with ExitStack() as opened:
        out = tun_open("out0", IFF_TAP)
        opened.callback(os.close, out)
        try:
            links_make(_LINKS)
        except OSError as error:
            raise EnvironmentLacksError(str(error), "it takes bridges and veth") from error
        ruleset_put(_observer())
        into = opened.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC))
        into.bind(("from0", 0))
        opened.pop_all()
        return into, out


def _observer() -> Ruleset:
    """Says what has come through, and what is a barrier."""
    barrier: Expression = {
        "match": {"op": "==", "left": {"&": [{"meta": {"key": "mark"}}, _BARRIER_MARKS]}, "right": _BARRIER_MARKS}
    }
    chains = (
        Chain(
            "barrier",
            (ChainRule((barrier, log_to_judge("barrier"), {"drop": None})),),
            Hook("prerouting", -400, "accept"),
        ),
        Chain("through", (ChainRule((log_to_judge(_THROUGH),)),), Hook("postrouting", 10, "accept")),
    )
    return Ruleset("palisade-judge", frames=FrameRules(chains=chains))
