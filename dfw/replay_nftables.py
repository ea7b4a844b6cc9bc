# SPDX-License-Identifier: Apache-2.0
"""`palisade replay --backend nftables`: what this machine's kernel does with captured packets under the rendered rules.

The kernel's clock runs: packets follow each other at once, so that no timer fires. What a forwarding kernel never
judges (multicast, loopback and link-local addresses, damaged headers) has verdict null and the reason `not-judged`.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import repeat
from typing import Any, Final

from dfw.compile import Compiled, CompiledRule, compile_policy
from dfw.errors import UnsupportedError
from dfw.model import Action, Address, Family, Inventory, PolicySet, Port, mac_packed
from dfw.nftables import WIRE, refuse_unsupported, render_ruleset, render_wire, vnic_mark, wire_tables
from dfw.nftables.frame_judge import FrameAnswer
from dfw.nftables.judge import Answer, KernelJudge, decisions_logged, ipv4_summed
from dfw.nftables.shared import REFUSED_MARK
from dfw.nftables.staged import STAGED
from dfw.oracle import parse
from dfw.oracle.packet import Packet
from dfw.oracle.replay import packet_ends
from dfw.replay_feed import feed_capture, unread_link
from dfw.replay_frames import FrameRun
from dfw.replay_kernel_lines import Arrival, Frame, Line, said_at_ends, worlds_said
from dfw.replay_run import CaptureResult, RunOptions, RunResult
from dfw.staged_judgements import Said
from dfw.staged_kernel import NOT_DELIVERED, NOT_JUDGED, StagedKernel

_BROADCAST: Final = ipaddress.IPv4Address("255.255.255.255")
_UNASKED = Answer("untracked", False, (), 0, 0)  # layer 2 has dropped it
_PASSED = Answer("untracked", False, (), 1, 0)  # nothing of layer 3's
_HOPS: Final = 64
_HEADERS: Final = {4: 20, 6: 40}
_REASONS: Final = {"related": "icmp-unrelated"}
"""Reasons by counter of the ruleset, where it is not the same word. `invalid` is Linux's: it does not say what for."""
_FragmentKey = tuple[int, bytes, int, int]


def run_nftables(
    world: PolicySet, paths: Sequence[str], options: RunOptions, progress: Callable[[int], None] = lambda _: None
) -> RunResult:
    """As run_native, by the kernel. Raises UnsupportedError for what the rules or this backend cannot do,
    EnvironmentLacksError for what this machine lacks, LoadError where the kernel refuses the rules, OSError."""
    _refuse_options(world, options)
    refuse_unsupported(world)
    compiled = compile_policy(world)
    staged = StagedKernel(world, paths, vnics=options.vnics) if world.staged else None
    beside = compile_policy(world.what_if) if staged is not None else None
    inventory = world.inventory if options.vnics else None
    if inventory is not None:
        _refuse_shared_addresses(inventory)
    result = RunResult(connections={"created": 0, "open": 0})
    lines: list[Line] = []
    run: _Run | None = None
    try:
        for path in paths:
            entry = CaptureResult(path)
            result.captures.append(entry)
            if run is None:
                run = _Run(compiled, inventory, beside, staged)
            _feed(run, entry, result, progress)
            if options.each:
                lines += run.end(result)
                run = None
        if run is not None:
            lines += run.end(result)
            run = None
    finally:
        if run is not None:
            run.close()
    _count(result, lines, compiled)
    said: Iterable[Said] = repeat(()) if staged is None else staged.said
    if staged is not None:
        result.staged = staged.summary()
    if options.verdicts is not None:
        with open("/dev/stdout" if options.verdicts == "-" else options.verdicts, "w", encoding="utf-8") as file:
            file.writelines(line.text(also) for line, also in zip(lines, said, strict=staged is not None))
    return result


def _refuse_options(world: PolicySet, options: RunOptions) -> None:
    """Raises UnsupportedError for what is not there with this backend."""
    for name, value in options_refused(world, options).items():
        if value:
            raise UnsupportedError("nftables", name)


def options_refused(world: PolicySet, options: RunOptions) -> dict[str, Any]:
    """What is not there with this backend, and whether it is wanted."""
    return {
        "--flows": options.flows,
        "--allowed": options.allowed,
        "--dropped": options.dropped,
        "--generated": options.generated,
        "--log": options.log,
        "--checksums verify": options.verify,
        "--decap": options.decap,
        "--live-sanity": options.live_sanity,
        "--live-limits": options.live_limits,
        "--speed real": options.realtime,
        "--repeat": options.repeat > 1,
        "--workers": options.workers > 1,
        "schedules in a replay": world.schedules or world.what_if.schedules,
    }


def _refuse_shared_addresses(inventory: Inventory) -> None:
    """The kernel would take connections of two vNICs for one."""
    owners: dict[Any, str] = {}
    for port in inventory:
        for address in port.ips:
            if owners.setdefault(address, port.name) != port.name:
                raise UnsupportedError(
                    "nftables", f"a replay where two vNICs have {address} ({owners[address]}, {port.name})"
                )


class _Run:
    """One namespace from an empty connection table on."""

    def __init__(
        self,
        compiled: Compiled,
        inventory: Inventory | None,
        beside: Compiled | None,
        staged: StagedKernel | None,
    ) -> None:
        self._inventory, self._staged = inventory, staged
        self._names = [WIRE] if inventory is None else [port.name for port in inventory]
        self._numbers = {name: number for number, name in enumerate(self._names, 1)}
        self._by_mac: dict[bytes, list[Port]] = {}
        for port in inventory or ():
            self._by_mac.setdefault(mac_packed(port.mac), []).append(port)
        if inventory is None:
            tap = None if beside is None else wire_tables(beside.rules, beside.sets, beside.tap, beside.ether.tap)
            rendered = render_wire(compiled.rules, compiled.sets, compiled.tap, compiled.ether.tap, staged=tap)
        else:
            rendered = render_ruleset(compiled, self._names, staged=beside)
        self._rules = rendered.rule_of
        # The staged rules by what their counters are called behind the word that says so.
        self._staged_rules = {name.removeprefix(STAGED): rule for name, rule in rendered.staged_of.items()}
        self._frames: list[Frame] = []
        self._order = 0
        self._waiting: dict[_FragmentKey, list[tuple[int, Arrival, FrameAnswer]]] = {}
        with ExitStack() as opened:
            self.judge = opened.enter_context(KernelJudge(decisions_logged(rendered.ruleset)))
            self._bridge = FrameRun(rendered.ruleset)
            opened.pop_all()

    def close(self) -> None:
        """Nothing more is judged."""
        self.judge.close()
        self._bridge.close()

    def feed(self, n: int, ts_ns: int, file: str, data: bytes, wire: int, link: int) -> None:
        """One captured packet. Raises ValueError for a link type that we do not read."""
        packet = parse(data, link, wire)
        self._order += 1
        sender, receiver = self._ends(packet)
        arrival = Arrival(n, ts_ns, file, sender, receiver, packet.ip_length, packet_ends(packet, wire))
        if not sender and not receiver:
            line = Line(arrival, None, None, "ALLOW", "no-filter", ct="untracked")
            self._frames.append(Frame(self._order, [line], [line]))
            return
        layer2 = self._bridge.ask(packet, sender, receiver)
        if not layer2.judged:
            self._refused(arrival, None, NOT_JUDGED, None, self._order)
        elif packet.ip_version == 0 and packet.refusal is None:
            self._passed_on(packet, arrival, layer2)
        elif layer2.out_refused:
            self._judged(arrival, _UNASKED, NOT_JUDGED, layer2)
        elif self._inventory is not None and _is_for_many(packet):
            # A bridge floods it; forwarding never sees it.
            self._refused(arrival, None, NOT_JUDGED, None, self._order)
        elif packet.ip_version == 0 or packet.ip_length < _HEADERS[packet.ip_version]:
            self._refused(arrival, None, NOT_JUDGED, None, self._order)
        else:
            self._ask(packet, arrival, layer2)

    def _passed_on(self, packet: Packet, arrival: Arrival, layer2: FrameAnswer) -> None:
        """A frame that is none of layer 3's: layer-2 rules of its receiver, or of all, say what becomes of it."""
        receivers = [arrival.receiver]
        if self._inventory is not None and _is_for_many(packet):
            receivers = self._others(arrival.sender) or receivers
        for number in receivers:
            is_first = number == receivers[0]
            # What a world refuses going out comes to one end only.
            comes = (
                is_first or not layer2.out_refused,
                self._staged is not None and (is_first or not layer2.out_staged),
            )
            if not any(comes):
                continue
            answer = layer2 if number == arrival.receiver else self._bridge.ask(packet, 0, number)
            if is_first:
                answer = replace(answer, out_refused=layer2.out_refused, out_staged=layer2.out_staged)
            one = replace(arrival, sender=arrival.sender if is_first else 0, receiver=number)
            said = _UNASKED if answer.out_refused or answer.in_refused else _PASSED
            self._judged(one, said, "non-ip", answer, comes=comes)

    def _ask(self, packet: Packet, arrival: Arrival, layer2: FrameAnswer) -> None:
        mark = vnic_mark(arrival.sender, arrival.receiver) | (REFUSED_MARK if layer2.out_staged else 0)
        answer = self.judge.judge(packet_bytes(packet), mark, dropped=bool(layer2.in_refused))
        if packet.is_fragment and packet.refusal is None:
            key = _fragment_key(packet)
            pieces = self._waiting.setdefault(key, [])
            pieces.append((self._order, arrival, layer2))
            if answer.state is not None:
                # One frame's header stands for the whole datagram.
                spoke = next((own for _, _, own in pieces if bool(own.in_refused) is answer.dropped), layer2)
                for order, piece, _ in self._waiting.pop(key):
                    self._judged(piece, answer, "", spoke, order)
        elif answer.state is None:
            self._refused(arrival, None, NOT_JUDGED, None, self._order)
        else:
            self._judged(arrival, answer, "", layer2)

    def _judged(
        self,
        arrival: Arrival,
        answer: Answer,
        reason: str,
        layer2: FrameAnswer,
        order: int = 0,
        comes: tuple[bool, bool] = (True, True),
    ) -> None:
        """The lines of a packet that the kernel judged: OUT, and IN where it came so far. `comes`: does it come here at
        all, in force and as staged rules would have it?"""
        order = order or self._order
        now, then = worlds_said(answer.said)
        lines: list[Line] = []
        if comes[0]:
            dropped = layer2.out_refused, layer2.in_refused
            lines = self._world_lines(arrival, answer, now, self._rules, reason, dropped)
        lost = bool(lines) and lines[-1].verdict == "ALLOW" and not answer.delivered
        if lines and lines[-1].verdict != "ALLOW" and answer.delivered:
            raise RuntimeError(f"packet {arrival.n} was delivered, but refused: {answer}")
        staged: list[Line] = []
        if self._staged is not None and comes[1]:
            dropped = layer2.out_staged, layer2.in_staged
            staged = self._world_lines(arrival, answer, then, self._staged_rules, reason, dropped)
        for last in (line for some in (lines, staged) if lost for line in some[-1:] if line.verdict == "ALLOW"):
            last.verdict, last.reason = "DROP", NOT_DELIVERED
        self._frames.append(Frame(order, lines, staged))

    def _world_lines(
        self,
        arrival: Arrival,
        answer: Answer,
        told: Sequence[str],
        rules: Mapping[str, CompiledRule],
        reason: str,
        dropped: tuple[str, str],
    ) -> list[Line]:
        """What one world's rules said at the ends, up to where they refused: there it never came to the receiver.
        Layer 2 (`dropped`: by which rules, going out and coming in) is asked first going out, last coming in."""
        said = said_at_ends(told, "out" if arrival.sender else "in")
        lines: list[Line] = []
        for side, direction, number in self._sides(arrival):
            vnic, by = self._names[number - 1], dropped[side == "in"]
            line = self._line(arrival, vnic, direction, answer, said[side], rules, reason)
            if by and line.verdict == "ALLOW":
                line = Line(arrival, vnic, direction, "DROP", "match", rules[by], "untracked")
            lines.append(line)
            if line.verdict != "ALLOW":
                break
        return lines

    def _sides(self, arrival: Arrival) -> list[tuple[str, str, int]]:
        if self._inventory is None:
            return [("out", "IN_OUT", arrival.sender)]
        sides = (("out", "OUT", arrival.sender), ("in", "IN", arrival.receiver))
        return [side for side in sides if side[2]]

    def _line(
        self,
        arrival: Arrival,
        vnic: str,
        direction: str,
        answer: Answer,
        said: Sequence[str],
        known: Mapping[str, CompiledRule],
        reason: str,
    ) -> Line:
        """What the rules of one end said: the last rule of the policy, and whatever refused after it."""
        rules = [known[text] for text in said if text in known]
        refused = [text for text in said if text not in known]
        rule = rules[-1] if rules else None
        verdict = "ALLOW"
        if refused:
            verdict, reason = "DROP", _REASONS.get(refused[-1], refused[-1])
        elif rule is not None:
            reason = "match"
            if rule.action in (Action.DROP, Action.REJECT):
                verdict = rule.action.value
        else:
            reason = reason or ("related" if answer.state == "related" else "state")
        return Line(arrival, vnic, direction, verdict, reason, rule, answer.state, answer.is_reply)

    def _refused(self, arrival: Arrival, verdict: str | None, reason: str, ct: str | None, order: int) -> None:
        _, direction, number = self._sides(arrival)[0]
        line = Line(arrival, self._names[number - 1], direction, verdict, reason, ct=ct)
        self._frames.append(Frame(order, [line], [line]))

    def end(self, result: RunResult) -> list[Line]:
        """All lines in order; the namespace goes. Fragments that still wait for others are refused."""
        for pieces in self._waiting.values():
            for order, arrival, _ in pieces:
                self._refused(arrival, "DROP", "frag-incomplete", "invalid", order)
        count = self.judge.connections()
        for name in ("created", "open"):
            result.connections[name] += count
        self.close()
        frames = sorted(self._frames, key=lambda item: item.order)
        if self._staged is not None:
            self._staged.take(frame.judgements() for frame in frames)
        return [line for frame in frames for line in frame.lines]

    # Which filters (packet-path.md section 12)

    def _others(self, sender: int) -> list[int]:
        """The other vNICs on the sender's segment."""
        assert self._inventory is not None
        ports = list(self._inventory)
        return [at for at, port in enumerate(ports, 1) if at != sender and port.segment == ports[sender - 1].segment]

    def _ends(self, packet: Packet) -> tuple[int, int]:
        if self._inventory is None:
            return 1, 0
        sender = self._port_of(packet, packet.source_mac, packet.source)
        if _is_for_many(packet):
            return self._numbers.get(sender, 0), 0
        receiver = self._port_of(packet, packet.destination_mac, packet.destination)
        return self._numbers.get(sender, 0), 0 if receiver == sender else self._numbers.get(receiver, 0)

    def _port_of(self, packet: Packet, mac: bytes | None, address: int) -> str:
        assert self._inventory is not None
        named = self._by_mac.get(mac, []) if mac is not None else []
        if len(named) == 1:
            return named[0].name
        if address < 0:
            return ""
        family = Family.IPV4 if packet.ip_version == 4 else Family.IPV6
        bound = self._inventory.ports_at(Address(family, address))
        return bound[0].name if bound else ""


def _is_for_many(packet: Packet) -> bool:
    """Multicast or broadcast: by its MAC address where it has one, else by its address."""
    if packet.destination_mac is not None:
        return bool(packet.destination_mac[0] & 1)
    if packet.destination < 0:
        return False
    address = ipaddress.ip_address(packet.destination.to_bytes(4 if packet.ip_version == 4 else 16, "big"))
    return address.is_multicast or address == _BROADCAST


def packet_bytes(packet: Packet) -> bytes:
    """The IP packet for the kernel: what the capture cut off is zeros, and it has hops left."""
    data = packet.data[packet.l3 : min(packet.end, packet.l3 + packet.ip_length)]
    data += bytes(max(0, packet.ip_length - len(data)))
    if packet.ip_version == 6:
        return data[:7] + bytes((_HOPS,)) + data[8:]
    return ipv4_summed(data[:8] + bytes((_HOPS,)) + data[9:])


def _fragment_key(packet: Packet) -> _FragmentKey:
    ends = packet.data[packet.l3 + 12 : packet.l3 + 20] if packet.ip_version == 4 else packet.data[packet.l3 + 8 :][:32]
    return packet.ip_version, ends, packet.fragment_id, packet.protocol if packet.ip_version == 4 else 0


def _feed(run: _Run, entry: CaptureResult, result: RunResult, progress: Callable[[int], None]) -> None:
    def one(frame: Any, data: bytes) -> None:
        n, ts_ns, wire, link = (int(frame[name]) for name in ("number", "ts_ns", "wirelen", "linktype"))
        try:
            run.feed(n, ts_ns, entry.file, data, wire, link)
        except ValueError as error:
            raise unread_link(frame) from error

    feed_capture(entry, result, one, progress)


def _count(result: RunResult, lines: Sequence[Line], compiled: Compiled) -> None:
    result.verdicts = dict(sorted(Counter(line.verdict for line in lines if line.verdict is not None).items()))
    result.reasons = dict(Counter(line.reason for line in lines).most_common())
    hits = Counter(line.rule.path for line in lines if line.rule is not None)
    size: Counter[str] = Counter()
    for line in lines:
        if line.rule is not None:
            size[line.rule.path] += line.arrival.length
    result.rules = [
        {
            "rule": rule.rule_id,
            "rule_path": rule.path,
            "action": rule.action.value,
            "hits": hits[rule.path],
            "packets": hits[rule.path],
            "bytes": size[rule.path],
        }
        for rule in compiled.rules
    ]
