# SPDX-License-Identifier: Apache-2.0
"""The running kernel as the judge of packets: in by a TAP, out by a TUN, in a network namespace of our own.

The sender's MAC address of a frame carries the packet's mark. Rules that log say what they decided, and a chain before
them what conntrack says. A write to the TAP returns when the kernel is done with the packet; all the same a second
packet follows, which only has to be logged, so that nothing here depends on time.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final

from dfw.errors import EnvironmentLacksError
from dfw.nftables.load import LoadError, apply_ruleset
from dfw.nftables.namespace import PrivateNamespace
from dfw.nftables.nflog import LogListener
from dfw.nftables.ruleset import Chain, ChainRule, Expression, Hook, Ruleset

JUDGE_GROUP: Final = 6082
"""The log group by which rules tell the judge what they decided."""
MTU: Final = 65_521  # a TAP's largest
STATES: Final = ("new", "established", "related", "invalid", "untracked")
_TAP_MAC: Final = bytes.fromhex("02504c000001")
_MAC_HEAD, _DROPPED_HEAD = bytes.fromhex("0200"), bytes.fromhex("0201")
_LAYER_2: Final = "layer 2"
BARRIER_MARK: Final = 0xFFFFFFFF
_OWN_ADDRESS: Final = "198.18.255.254"
_BARRIER_ENDS: Final = bytes((198, 18, 255, 252, 198, 18, 255, 253))
SECONDS: Final = 60.0
IFF_TUN, IFF_TAP = 1, 2
_TUNSETIFF, _IFF_NO_PI = 0x400454CA, 0x1000
_SETTINGS: Final = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/in0/rp_filter": "0",
    "net/ipv6/conf/all/disable_ipv6": "0",
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv6/conf/all/accept_ra": "0",
    "net/netfilter/nf_conntrack_checksum": "0",
    "net/netfilter/nf_conntrack_tcp_be_liberal": "0",
    "net/netfilter/nf_conntrack_tcp_loose": "1",
}
# Addresses of ours would hear and say things; IPv6 is switched on when these are settled.
_EARLY_SETTINGS: Final = {
    "net/ipv6/conf/default/addr_gen_mode": "1",
    "net/ipv6/conf/default/router_solicitations": "0",
}
_LINKS: Final = f"""\
link set lo up
link set in0 address {_TAP_MAC.hex(":")} mtu {MTU} up
link set out0 mtu {MTU} up
addr add {_OWN_ADDRESS}/32 dev out0
route add default dev out0
route add ::/0 dev out0
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a packet. `said`: what the rules logged, in order; `delivered`: packets that came out with its
    addresses; `made`: packets that the kernel made of it (RST, ICMP). `state` None: it was not forwarded, so
    nothing judged it. `dropped`: it came to where its receiver's layer-2 rules drop it."""

    state: str | None
    is_reply: bool
    said: tuple[str, ...]
    delivered: int
    made: int
    dropped: bool = False


class KernelJudge:
    """A namespace with this ruleset in force, until closed. Raises EnvironmentLacksError, OSError."""

    def __init__(self, ruleset: Ruleset) -> None:
        with ExitStack() as opened:
            self._namespace = opened.enter_context(PrivateNamespace())
            self._in, self._out = self._namespace.run(_devices)
            opened.callback(os.close, self._in)
            opened.callback(os.close, self._out)
            self._log = opened.enter_context(self._namespace.run(judge_listener))
            self._namespace.run(lambda: ruleset_put(ruleset))
            self._opened = opened.pop_all()
        self._barrier = _frame(BARRIER_MARK, _barrier_packet())

    def judge(self, packet: bytes, mark: int, *, dropped: bool = False) -> Answer:
        """Hand over one IP packet. `dropped`: if the rules let it pass, its receiver's layer-2 rules drop it.
        Raises TimeoutError where the kernel stops answering, OSError."""
        os.write(self._in, _frame(mark, packet, _DROPPED_HEAD if dropped else _MAC_HEAD))
        os.write(self._in, self._barrier)
        said: list[str] = []
        while not said or said[-1] != "barrier":
            said += self._log.prefixes(SECONDS)
        said.pop()
        states = [text.removeprefix("ct ") for text in said if text.startswith("ct ")]
        state, _, reply = states[-1].partition("/") if states else ("", "", "")
        delivered, made = 0, 0
        for found in tun_came_out(self._out):
            if _ends(found) == _ends(packet):
                delivered += 1
            elif not _is_multicast(found):
                made += 1
        rules = tuple(text for text in said if text != _LAYER_2 and not text.startswith("ct "))
        return Answer(state or None, bool(reply), rules, delivered, made, _LAYER_2 in said)

    def connections(self) -> int:
        """How many connections the kernel has now."""
        return int(self._namespace.run(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text))

    def inside(self) -> PrivateNamespace:
        """The namespace, for whoever wants to look into it."""
        return self._namespace

    def close(self) -> None:
        """Everything goes."""
        self._opened.close()

    def __enter__(self) -> KernelJudge:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def tun_came_out(descriptor: int) -> list[bytes]:
    """All that a TUN or TAP, which must not block, has to give now. Raises OSError."""
    found: list[bytes] = []
    while True:
        try:
            found.append(os.read(descriptor, 1 << 17))
        except BlockingIOError:
            return found


def _devices() -> tuple[int, int]:
    """The TAP and the TUN, up, with routes and settings, in the namespace of this thread."""
    settings_write(_EARLY_SETTINGS)
    with ExitStack() as opened:
        files = []
        for name, kind in (("in0", IFF_TAP), ("out0", IFF_TUN)):
            files.append(tun_open(name, kind))
            opened.callback(os.close, files[-1])
        links_make(_LINKS)
        # Conntrack begins with the first rule that asks for it, and its settings are there from then on.
        ruleset_put(_observer())
        settings_write(_SETTINGS)
        opened.pop_all()
        return files[0], files[1]


def tun_open(name: str, kind: int) -> int:
    """A new device in the namespace of this thread, not up yet; it goes with its descriptor. `kind`: IFF_TUN or
    IFF_TAP. Raises EnvironmentLacksError, OSError."""
    file = -1
    try:
        file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(file, _TUNSETIFF, struct.pack("16sH22x", name.encode(), kind | _IFF_NO_PI))
    except OSError as error:
        if file >= 0:
            os.close(file)
        if error.errno in (errno.ENOENT, errno.EPERM, errno.EACCES, errno.ENODEV):
            raise EnvironmentLacksError("no /dev/net/tun", "modprobe tun, and run as root") from error
        raise
    return file


def links_make(lines: str) -> None:
    """Lines of `ip -batch`, in the namespace of this thread. Raises EnvironmentLacksError, OSError."""
    if shutil.which("ip") is None:
        raise EnvironmentLacksError("no command ip", "apt-get install iproute2")
    done = subprocess.run(["ip", "-batch", "-"], input=lines, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise OSError(errno.EIO, f"the namespace's devices: {done.stderr.strip()}")


def judge_listener() -> LogListener:
    """Hears what rules tell the judge, in the namespace of this thread. Raises EnvironmentLacksError."""
    try:
        return LogListener(JUDGE_GROUP)
    except OSError as error:
        raise EnvironmentLacksError(f"no NFLOG in this kernel ({error.strerror})", "it takes nfnetlink_log") from error


def ruleset_put(ruleset: Ruleset) -> None:
    """Into the namespace of this thread. Raises EnvironmentLacksError."""
    try:
        apply_ruleset(ruleset)
    except LoadError as error:
        raise EnvironmentLacksError(str(error), "it takes nf_tables, nf_conntrack and nfnetlink_log") from error


def settings_write(settings: Mapping[str, str]) -> None:
    """Settings below /proc/sys, of the namespace of this thread. Raises OSError."""
    for name, value in settings.items():
        Path("/proc/sys", name).write_text(value)


_DROP: Final[Expression] = {"drop": None}


def _observer() -> Ruleset:
    """Sets the mark that a frame carries, and says what conntrack makes of each packet before it is judged."""
    mark: Expression = {
        "mangle": {"key": {"meta": {"key": "mark"}}, "value": {"payload": {"base": "ll", "offset": 64, "len": 32}}}
    }
    barrier = {"match": {"op": "==", "left": {"meta": {"key": "mark"}}, "right": BARRIER_MARK}}
    rules = [ChainRule((barrier, log_to_judge("barrier"), {"drop": None}))]
    for state in STATES:
        is_state = {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": state}}
        reply = {"match": {"op": "==", "left": {"ct": {"key": "direction"}}, "right": "reply"}}
        rules.append(ChainRule((is_state, reply, log_to_judge(f"ct {state}/reply"), {"accept": None})))
        rules.append(ChainRule((is_state, log_to_judge(f"ct {state}"), {"accept": None})))
    head: Expression = {"payload": {"base": "ll", "offset": 48, "len": 16}}
    dropped: Expression = {"match": {"op": "==", "left": head, "right": int.from_bytes(_DROPPED_HEAD)}}
    arrivals: Expression = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "in0"}}
    return Ruleset(
        "palisade-judge",
        chains=(
            Chain("mark", (ChainRule((arrivals, mark)),), Hook("prerouting", -450, "accept")),
            Chain("observe", tuple(rules), Hook("forward", -10, "accept")),
            Chain(
                "layer-2",
                (ChainRule((dropped, log_to_judge(_LAYER_2), {"drop": None})),),
                Hook("forward", 10, "accept"),
            ),
        ),
    )


def log_to_judge(text: str) -> Expression:
    """A statement that tells the judge."""
    return {"log": {"prefix": text, "group": JUDGE_GROUP}}


def _frame(mark: int, packet: bytes, head: bytes = _MAC_HEAD) -> bytes:
    ether_type = 0x0800 if packet[0] >> 4 == 4 else 0x86DD
    # The kernel takes the four bytes for the mark as they stand in memory.
    return _TAP_MAC + head + struct.pack("=I", mark) + struct.pack(">H", ether_type) + packet


def _barrier_packet() -> bytes:
    return ipv4_summed(struct.pack(">BBHHHBBH", 0x45, 0, 20, 0, 0, 64, 253, 0) + _BARRIER_ENDS)


def ipv4_summed(packet: bytes) -> bytes:
    """An IPv4 packet with its header's checksum made right (RFC 791)."""
    length = (packet[0] & 15) * 4
    header = packet[:10] + b"\0\0" + packet[12:length]
    total = sum(struct.unpack(f">{length // 2}H", header))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return header[:10] + struct.pack(">H", ~total & 0xFFFF) + packet[12:]


def decisions_logged(ruleset: Ruleset) -> Ruleset:
    """The same for packets only, and it tells the judge: `out` or `in` where a vNIC's rules begin, and each counter of
    a decision."""
    return replace(ruleset, chains=tuple(map(chain_logged, ruleset.chains)), frames=None)


def chain_logged(chain: Chain) -> Chain:
    """The same, and it tells the judge."""
    rules = []
    for rule in chain.rules:
        expressions: list[Expression] = []
        for item in rule.expressions:
            if "vmap" in item:
                expressions.append(log_to_judge(chain.name))
            expressions.append(item)
            if "counter" in item:
                expressions.append(log_to_judge(item["counter"]))
        rules.append(replace(rule, expressions=tuple(expressions)))
    return replace(chain, rules=tuple(rules))


def _is_multicast(packet: bytes) -> bool:
    return packet[16] >> 4 == 14 if packet[0] >> 4 == 4 else packet[24] == 0xFF


def _ends(packet: bytes) -> tuple[int, bytes]:
    """Version and both addresses."""
    return (4, packet[12:20]) if packet[0] >> 4 == 4 else (6, packet[8:40])
