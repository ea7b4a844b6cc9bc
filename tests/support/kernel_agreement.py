# SPDX-License-Identifier: Apache-2.0
"""The packet core and this machine's kernel under the same policy and the same packets: what is delivered, and where
they differ. Policies are drawn from what is in the captures, so that their rules meet packets.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

from dfw.model import (
    ANY_PEERS,
    PROTO_TCP,
    PROTOCOLS_WITH_PORTS,
    Action,
    Address,
    Addresses,
    AddressRange,
    Direction,
    Family,
    Inventory,
    MacAddresses,
    Machine,
    Peers,
    Policy,
    PolicySet,
    Port,
    PortMember,
    PortRange,
    Rule,
    Segment,
    Service,
    ServiceEntry,
    Tier,
    default_policy,
)
from dfw.oracle import parse
from dfw.replay_nftables import run_nftables
from dfw.replay_run import RunOptions, run_native
from tests.support.pcap import pcap_read

TIERS = (Tier.EMERGENCY, Tier.ENVIRONMENT, Tier.APPLICATION)
MOST_PORTS = 12
LAYER_2 = "/l2"


class Seen(NamedTuple):
    """A packet of a capture: family, both addresses, protocol, ports (ICMP: 0 and type * 256 + code)."""

    family: Family
    source: int
    destination: int
    protocol: int
    source_port: int
    destination_port: int
    is_fragment: bool


@cache
def packets_seen(path: Path) -> tuple[Seen | None, ...]:
    """The packets of a capture, None for those without addresses."""
    found: list[Seen | None] = []
    for captured in pcap_read(path):
        packet = parse(captured.data, captured.link, captured.wire)
        if packet.source < 0 or packet.refusal is not None:
            found.append(None)
            continue
        family = Family.IPV4 if packet.ip_version == 4 else Family.IPV6
        ports = packet.source_port, packet.destination_port
        found.append(Seen(family, packet.source, packet.destination, packet.protocol, *ports, packet.is_fragment))
    return tuple(found)


@cache
def begins_nothing(path: Path) -> frozenset[int]:
    """The numbers of the TCP packets of a capture that are no SYN."""
    packets = enumerate((parse(item.data, item.link, item.wire) for item in pcap_read(path)), 1)
    return frozenset(n for n, packet in packets if packet.protocol == PROTO_TCP and not packet.flags & 2)


@cache
def frames_seen(path: Path) -> tuple[frozenset[str], frozenset[int]]:
    """The MAC addresses and EtherTypes of a capture."""
    packets = [parse(item.data, item.link, item.wire) for item in pcap_read(path)]
    macs = [mac.hex(":") for packet in packets for mac in (packet.source_mac, packet.destination_mac) if mac]
    return frozenset(macs), frozenset(packet.ether_type for packet in packets if packet.ether_type is not None)


class _Draw:
    def __init__(self, seed: int, captures: Sequence[Path], vnics: bool) -> None:
        self.captures = captures
        self.random = Random(f"kernel {seed}")
        self.seen = sorted({item for path in captures for item in packets_seen(path) if item is not None})
        addresses = sorted({(item.family, at) for item in self.seen for at in (item.source, item.destination)})
        self.addresses = [Address(*item) for item in addresses]
        owned = self.random.sample(self.addresses, min(MOST_PORTS, len(self.addresses))) if vnics else []
        ports = [
            Port(f"v{n}", "h", "s", f"v{n}", f"06:00:00:00:00:{n:02x}", ips=(address,))
            for n, address in enumerate(owned)
        ]
        self.inventory = Inventory(
            segments={"s": Segment("s", 1)},
            machines={port.machine: Machine(port.machine) for port in ports},
            ports={port.name: port for port in ports},
        )

    def world(self) -> PolicySet:
        random = self.random
        made = []
        for number in range(random.randint(1, 3)):
            tier = random.choice(TIERS)
            stateful = random.random() < 0.85
            rules = tuple(self._rule(f"/p{number}/rules/{at}", tier) for at in range(random.randint(1, 5)))
            strict = stateful and random.random() < 0.5
            made.append(Policy(f"/p{number}", tier, number, rules=rules, stateful=stateful, tcp_strict=strict))
        default = default_policy(random.choice((Action.ALLOW, Action.ALLOW, Action.DROP, Action.REJECT)))
        return PolicySet(tuple(made), inventory=self.inventory, default=default)

    def _rule(self, path: str, tier: Tier) -> Rule:
        random = self.random
        actions = [Action.ALLOW, Action.ALLOW, Action.DROP, Action.REJECT]
        if tier is Tier.ENVIRONMENT:
            actions.append(Action.JUMP_TO_APPLICATION)
        meant = random.choice(self.seen)
        return Rule(
            path,
            path,
            1000,
            random.choice(actions),
            self._peers(meant.family, meant.source),
            self._peers(meant.family, meant.destination),
            random.random() < 0.15,
            random.random() < 0.15,
            (Service("", tuple(self._entry(meant) for _ in range(random.randint(1, 2)))),)
            if random.random() < 0.6
            else (),
            random.choice([Direction.IN_OUT] * 3 + [Direction.IN, Direction.OUT]),
            logged=random.random() < 0.2,
        )

    def layer2(self) -> Policy:
        """Rules over the MAC addresses and EtherTypes that there are; most frames pass."""
        random = self.random
        some = [frames_seen(path) for path in random.sample(self.captures, min(len(self.captures), 40))]
        macs = sorted({mac for found, _ in some for mac in found} | {port.mac for port in self.inventory})
        kinds = sorted({kind for _, found in some for kind in found} | {0x0800, 0x0806, 0x86DD})
        rules = []
        for number in range(random.randint(1, 5)):
            sides = [self._macs(macs), self._macs(macs)]
            types = random.sample(kinds, random.choice((0, 1, 1, 2)))
            rules.append(
                Rule(
                    f"{LAYER_2}/rules/{number}",
                    str(number),
                    9000 + number,
                    random.choice((Action.ALLOW, Action.DROP, Action.DROP)),
                    *sides,
                    random.random() < 0.1,
                    random.random() < 0.1,
                    (Service("", tuple(ServiceEntry(ether_type=kind) for kind in types)),) if types else (),
                    random.choice((Direction.IN_OUT, Direction.IN, Direction.OUT)),
                    applied_to=Peers((PortMember(random.choice(sorted(self.inventory.ports))),))
                    if self.inventory.ports and random.random() < 0.6
                    else ANY_PEERS,
                )
            )
        return Policy(LAYER_2, Tier.ETHERNET, 0, rules=tuple(rules), stateful=False, tcp_strict=False)

    def _macs(self, macs: Sequence[str]) -> Peers:
        random = self.random
        if random.random() < 0.3:
            return ANY_PEERS
        terms: list[Any] = [MacAddresses(tuple(random.sample(macs, random.randint(1, max(1, len(macs) // 4)))))]
        if self.inventory.ports and random.random() < 0.4:
            terms.append(PortMember(random.choice(sorted(self.inventory.ports))))
        return Peers(tuple(terms))

    def _peers(self, family: Family, address: int) -> Peers:
        random = self.random
        if random.random() < 0.4:
            return ANY_PEERS
        chosen = [
            Address(family, address),
            *random.sample(self.addresses, min(len(self.addresses), random.randint(0, 2))),
        ]
        spread = random.choice((0, 0, 8, 40))
        terms: list[Any] = []
        for item in chosen:
            first = item.value >> spread << spread if spread < item.family.bits else 0
            last = min(first + (1 << spread) - 1, (1 << item.family.bits) - 1)
            terms.append(Addresses((AddressRange(item.family, first, last),)))
        if self.inventory.ports and random.random() < 0.4:
            terms.append(PortMember(random.choice(sorted(self.inventory.ports))))
        return Peers(tuple(terms))

    def _entry(self, meant: Seen) -> ServiceEntry:
        random = self.random
        item = random.choice((meant, meant, random.choice(self.seen)))
        if item.protocol in (1, 58):
            kind, code = divmod(item.destination_port, 256)
            own = Family.IPV4 if item.protocol == 1 else Family.IPV6
            number = random.choice((None, kind))
            exact = random.choice((None, code)) if number is not None else None
            return ServiceEntry(item.protocol, icmp_type=number, icmp_code=exact, families=frozenset({own}))
        if item.protocol not in PROTOCOLS_WITH_PORTS:
            return ServiceEntry(item.protocol)
        ports = tuple(
            PortRange(max(0, port - width), min(65535, port + width))
            for port, width in ((item.destination_port, random.choice((0, 0, 3))), (random.randrange(65536), 0))
        )
        sources = (PortRange(item.source_port, 65535),) if random.random() < 0.15 else ()
        return ServiceEntry(item.protocol, sources, random.choice((ports, ports[:1], ())))


def world_draw(seed: int, captures: Sequence[Path], *, vnics: bool, layer2: bool = False) -> PolicySet:
    """A policy by seed, over the addresses and services in these captures; `layer2`: with rules for its frames too."""
    draw = _Draw(seed, captures, vnics)
    world = draw.world()
    return replace(world, policies=(*world.policies, draw.layer2())) if layer2 else world


@dataclass(frozen=True, slots=True)
class Difference:
    """A packet that only one of the two delivers. `native`, `kernel`: their lines, without what says which packet;
    `name`: which of NAMED it is, empty for none."""

    file: str
    n: int
    native: tuple[str, ...]
    kernel: tuple[str, ...]
    name: str


NAMED: Final = {
    "rst": "an RST that answers nothing (and what comes after it): the kernel closes the connection, we refuse the RST",
    "one connection": "one vNIC allowed it and the other did not: a connection there in the core, none in the kernel",
    "not judged": "an earlier packet of the conversation is one that a forwarding kernel never judges",
    "picked up": "a connection picked up in mid-stream has no window tests in the core; the kernel tests",
    "stateless": "a stateless rule let the conversation begin: the kernel knows by whom, the core does not",
    "ping codes": "the kernel's pings differ by their code; the core's by identifier and addresses only",
    "layer 2": "layer-2 rules drop one direction of a TCP conversation, and an RST of the other fits nothing seen",
    "invalid": "refused by its form or by its connection; in the kernel a stateless rule lets what is invalid pass",
}
"""docs/policy-semantics.md says the same to users."""
_RST_CAPTURES: Final = ("rst-inject-rae.pcap", "syn-then-rst.pcap")
_PING_CAPTURE: Final = "icmp-ping-plus-weird-code.pcap"
_REFUSED_BEFORE_RULES: Final = (
    "icmp-quote",
    "tcp-flags",
    "l4-offset",
    "short",
    "tcp-ack",
    "tcp-window",
    "tcp-rst",
    "tcp-state",
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """`compared`: packets that the kernel judged; `delivered`, `refused`: by both; `layer2`: by rules of that."""

    compared: int
    delivered: int
    refused: int
    differences: tuple[Difference, ...]
    layer2: int = 0


def engines_compare(
    world: PolicySet, captures: Iterable[Path], *, vnics: bool, kernels_world: PolicySet | None = None
) -> Comparison:
    """Both engines on these captures, one after another; the clock stands, for the kernel's timers never fire."""
    paths = [str(path) for path in captures]
    has_layer2 = any(policy.tier is Tier.ETHERNET for policy in world.policies)
    native, kernel = (
        engine_lines(run, given, paths, vnics)
        for run, given in ((run_native, world), (run_nftables, kernels_world or world))
    )
    assert native.keys() == kernel.keys()
    found, both, by_layer2 = [], {True: 0, False: 0}, 0
    tainted: dict[Any, set[str]] = defaultdict(set)
    for (file, n), theirs in kernel.items():
        ours = native[file, n]
        seen = packets_seen(Path(file))[n - 1]
        conversation = seen and conversation_of(seen)
        passes = [all(line["verdict"] == "ALLOW" for line in some) for some in (ours, theirs)]
        if theirs[0]["verdict"] is None:
            tainted[conversation].add("not judged")
        elif ours[0]["reason"] == "non-ip" and not has_layer2:
            continue
        elif passes[0] == passes[1]:
            both[passes[0]] += 1
            by_layer2 += all((some[-1]["rule_path"] or "").startswith(LAYER_2) for some in (ours, theirs))
        else:
            name = difference_name(file, tainted[conversation], ours[-1]["reason"], theirs[-1]["ct"])
            found.append(Difference(file, n, *(tuple(map(line_shown, some)) for some in (ours, theirs)), name))
        if n in begins_nothing(Path(file)) and any((line["reason"], line["ct"]) == ("match", "new") for line in ours):
            tainted[conversation].add("picked up")
        if any(line["ct"] == "untracked" for line in ours):
            tainted[conversation].add("stateless")
        if (ours[-1]["rule_path"] or "").startswith(LAYER_2):
            tainted[conversation].add("layer 2")
        if ours[0]["verdict"] == "ALLOW" and ours[-1]["verdict"] != "ALLOW":
            tainted[conversation].add("one connection")
    return Comparison(sum(both.values()) + len(found), both[True], both[False], tuple(found), by_layer2)


def difference_name(file: str, happened: set[str], reason: str, kernels_ct: str) -> str:
    """The class of a difference: by its capture, its reason, and what happened in the conversation before; empty for
    none."""
    if Path(file).name in _RST_CAPTURES:
        return "rst"
    if Path(file).name == _PING_CAPTURE:
        return "ping codes"
    if reason in _REFUSED_BEFORE_RULES and kernels_ct == "invalid":
        return "invalid"
    return _named_by_history(happened, reason, kernels_ct)


def _named_by_history(happened: set[str], reason: str, kernels_ct: str) -> str:
    """The class of a difference, by what happened in the conversation before; empty for none."""
    for name in ("not judged", "one connection"):
        if name in happened:
            return name
    for name in ("picked up", "layer 2"):
        if name in happened and (reason, kernels_ct) == ("state", "invalid"):
            return name
    return "stateless" if "stateless" in happened and reason == "tcp-state" else ""


def engine_lines(run: Any, world: PolicySet, paths: list[str], vnics: bool) -> dict[tuple[str, int], list[Any]]:
    """An engine's verdict lines of these captures, by file and packet; the clock stands."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "verdicts")
        result = run(world, paths, RunOptions(vnics=vnics, stopped=True, verdicts=str(file)))
        assert not result.failed, result.captures
        lines: dict[tuple[str, int], list[Any]] = defaultdict(list)
        for text in file.read_text().splitlines():
            line = json.loads(text)
            lines[line["file"], line["n"]].append(line)
        return lines


def conversation_of(seen: Seen) -> Any:
    """The same for all packets of a conversation."""
    return seen.protocol, frozenset(((seen.source, seen.source_port), (seen.destination, seen.destination_port)))


def line_shown(line: dict[str, Any]) -> str:
    """A line, without what says which packet."""
    return " ".join(str(line[name]) for name in ("vnic", "dir", "verdict", "reason", "ct", "rule_path"))
