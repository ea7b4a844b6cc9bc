# SPDX-License-Identifier: Apache-2.0
"""Layer-2 rules by this machine's kernel and by the packet core, frame by frame: every kind of frame, at a tap and at
vNICs, for one receiver and for many."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dfw.model import (
    Action,
    Address,
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
)
from dfw.replay_nftables import run_nftables
from dfw.replay_run import RunOptions, run_native
from tests.conftest import LONG
from tests.support.oracle_bench import UDP, number, policies, rule
from tests.support.pcap import pcap_write
from tests.support.wire import End, arp, ethernet, fragments
from tests.support.wire import Path as WirePath

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_netns,
    pytest.mark.needs_tun,
    pytest.mark.needs_ipv6,
    pytest.mark.needs_tool("nft", "ip"),
    pytest.mark.needs_kernel_judge,
]
FRAMES = 80
ETHERNET = 1
NAMES = ("a", "b", "c", "d", "stranger")
MACS = {name: f"02:00:00:00:00:{at:02x}" for at, name in enumerate(NAMES, 1)}
ENDS = {name: End(f"10.0.0.{at}", MACS[name]) for at, name in enumerate(NAMES, 1)}
ENDS6 = {name: End(f"fd00::{at}", MACS[name]) for at, name in enumerate(NAMES, 1)}
EVERYBODY = "ff:ff:ff:ff:ff:ff"
KINDS = (0x0800, 0x86DD, 0x0806, 0x0608, 0x88CC, 0x0600, 0x88B5)
TAGS = ((), (), (), ((0x8100, 5),), ((0x88A8, 6), (0x8100, 7)))
PORTS = {
    name: Port(
        name, "h", "s" if name < "d" else "t", name, MACS[name], ips=(Address(Family.IPV4, number(f"10.0.0.{at}")),)
    )
    for at, name in enumerate(NAMES[:4], 1)
}
INVENTORY = Inventory(
    segments={"s": Segment("s", 1), "t": Segment("t", 2)}, machines={name: Machine(name) for name in PORTS}, ports=PORTS
)


def random_frame(draw: random.Random) -> list[bytes]:
    """One frame, or a datagram's."""
    sender, receiver = draw.sample(NAMES, 2)
    there, there6 = (WirePath(ends[sender], ends[receiver]) for ends in (ENDS, ENDS6))
    everybody = WirePath(ENDS[sender], End("10.0.0.255", EVERYBODY))
    ports = draw.choice((1, 2)), draw.choice((7, 8))
    tags = draw.choice(TAGS)
    header = everybody if draw.random() < 0.3 else there
    match draw.randrange(8):
        case 0 | 1:
            return [ethernet(there, there.udp(*ports, b"x"), tags)]
        case 2:
            return [ethernet(there6, there6.udp(*ports, b"x"), tags)]
        case 3:
            return [arp(there)]
        case 4:
            question = arp(there, 2)
            return [bytes.fromhex(MACS[receiver].replace(":", "")) + question[6:]]
        case 5:
            return [ethernet(everybody, everybody.udp(*ports, b"x"), tags)]
        case 6:
            whole = there.udp(*ports, bytes(64))
            return [ethernet(there, piece, tags) for piece in fragments(whole, [24, 48], draw.randrange(1 << 16))]
    # Neither IP nor ARP; the last kind is a length (IEEE 802.3).
    kind = draw.choice((*KINDS[3:], 46))
    head = ethernet(header, header.udp(*ports, b""), tags)[: 14 + 4 * len(tags)]
    return [head[:-2] + kind.to_bytes(2, "big") + bytes(46)]


def random_world(draw: random.Random) -> PolicySet:
    """Layer-2 rules, over some rules of layer 3 that refuse a port."""

    def peers() -> Peers:
        if draw.random() < 0.4:
            return Peers(None)
        macs = draw.sample([*MACS.values(), EVERYBODY], draw.randint(1, 3))
        return Peers(
            (*(PortMember(name) for name in draw.sample(sorted(PORTS), draw.randint(0, 2))), MacAddresses(tuple(macs)))
        )

    rules = []
    for at in range(draw.randint(1, 5)):
        types = draw.sample(KINDS, draw.randint(0, 2))
        rules.append(
            Rule(
                f"/l2/rules/{at}",
                str(at),
                9000 + at,
                draw.choice([Action.ALLOW, Action.DROP]),
                peers(),
                peers(),
                draw.random() < 0.2,
                draw.random() < 0.2,
                (Service("", tuple(ServiceEntry(ether_type=kind) for kind in types)),) if types else (),
                draw.choice(list(Direction)),
                applied_to=Peers(None) if draw.random() < 0.5 else Peers((PortMember(draw.choice(sorted(PORTS))),)),
            )
        )
    layer2 = Policy("/l2", Tier.ETHERNET, 0, rules=tuple(rules), stateful=False, tcp_strict=False)
    refused = ServiceEntry(protocol=UDP, destination_ports=(PortRange(8, 8),))
    action = draw.choice((Action.ALLOW, Action.DROP, Action.REJECT))
    world = policies(rule("eight", action, refused, direction=draw.choice(list(Direction))), rule("any"))
    excluded = Peers((PortMember("b"),)) if draw.random() < 0.2 else Peers(())
    return replace(world, policies=(*world.policies, layer2), inventory=INVENTORY, excluded=excluded)


def said(
    run: Any, world: PolicySet, frames: Sequence[bytes], folder: Path, vnics: bool
) -> dict[int, list[dict[str, Any]]]:
    """The lines of each frame."""
    capture, verdicts = folder / "cap.pcap", folder / "verdicts"
    pcap_write(capture, frames, ETHERNET)
    run(world, [str(capture)], RunOptions(vnics=vnics, stopped=True, verdicts=str(verdicts)))
    found: dict[int, list[dict[str, Any]]] = {}
    for line in map(json.loads, verdicts.read_text().splitlines()):
        found.setdefault(line["n"], []).append(line)
    return found


@pytest.mark.parametrize("vnics", [False, True], ids=["tap", "vnics"])
def test_kernel_and_core_say_the_same_of_frames(
    vnics: bool, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    seen: Counter[str] = Counter()
    for seed in range(200 if LONG else 5):
        draw = random.Random(f"frames {seed}")
        world = random_world(draw)
        frames = [frame for _ in range(FRAMES) for frame in random_frame(draw)]
        ours, theirs = (said(run, world, frames, tmp_path, vnics) for run in (run_native, run_nftables))
        assert ours.keys() == theirs.keys()
        for n, native in ours.items():
            seen.update(compared(seed, n, frames[n - 1], native, theirs[n]))
    for name, count in seen.items():
        record_property(name, count)
    assert seen["passed"] > 100 and seen["OUT" if vnics else "IN_OUT"] > 20
    assert not vnics or seen["IN"] > 10


def compared(
    seed: int, n: int, frame: bytes, native: Sequence[dict[str, Any]], kernel: Sequence[dict[str, Any]]
) -> Counter[str]:
    """What became of a frame, if both say the same: passed, or where layer 2 has dropped it."""
    where = (seed, n, frame.hex(), native, kernel)
    if kernel[0]["verdict"] is None:
        # IP for many: a bridge would flood it, and the rules of layer 3 ask what is forwarded.
        assert frame[0] & 1 and kernel[0]["reason"] == "not-judged", where
        return Counter(("not judged",))
    shown = [[(line["vnic"], line["dir"], line["verdict"] == "ALLOW") for line in some] for some in (native, kernel)]
    assert shown[0] == shown[1], where
    found: Counter[str] = Counter()
    for one, other in zip(native, kernel, strict=True):
        if (one["rule_path"] or "").startswith("/l2"):
            found[one["dir"]] += 1
            # Coming in, layer 3 is asked first: what it refuses does not come to layer 2.
            assert other["rule_path"] == one["rule_path"] or (one["dir"] == "IN" and other["rule_path"]), where
    found["passed"] += native[-1]["verdict"] == "ALLOW"
    return found
