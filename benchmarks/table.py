# SPDX-License-Identifier: Apache-2.0
"""What was measured beside what must be reached: one table over the results of `make bench`.

Run as a program: `python benchmarks/table.py DIR`. The figures that must be reached are REQUIREMENTS, one row each; the
table has a line for each result that a row is about. Nothing is measured here.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

Result = Mapping[str, Any]
REFERENCE_GHZ: Final = 2.5
"""Times above a floor are scaled to a core of 2.5 dependent additions a nanosecond. Floors, being memory, are not."""
FROM_BYTES_NS: Final = 25.0
PRE_PARSED_NS: Final = 15.0
IPV6_NS: Final = 8.0


@dataclass(frozen=True, slots=True)
class Line:
    """One figure: whose, what it is, ours, the floor or peer beside it, what must be reached and whether it is (None:
    there is no figure)."""

    name: str
    what: str
    ours: str
    beside: str
    must: str
    reached: bool | None
    verified: bool


def over_floor(result: Result, ns: float) -> tuple[float, float]:
    """Nanoseconds above the floor of two written lines: as measured, and on a core of REFERENCE_GHZ."""
    over = ns - float(result["floor_ns"]["2"])
    return over, over * float(result["core_ghz"]) / REFERENCE_GHZ


def _established(name: str, result: Result) -> Iterator[Line]:
    if result["bytes"] > 128 or result["workers"] > 1 or result["checksum"]:
        return
    extra = IPV6_NS if result["family"] == 6 else 0.0
    for what, ns, most in (
        ("from bytes", result["ns_per_packet"], FROM_BYTES_NS + extra),
        ("pre-parsed", result["pre_parsed_ns"], PRE_PARSED_NS + extra),
    ):
        raw, scaled = over_floor(result, float(ns))
        yield _line(
            name,
            result,
            what,
            f"{ns:.1f} ns ({raw:+.1f}, scaled {scaled:+.1f})",
            f"floor {result['floor_ns']['2']:.1f} ns",
            f"floor {most:+.0f} ns",
            scaled <= most,
        )
    most_bytes = 128 if result["family"] == 4 else 160
    size = result["bytes_per_connection"]
    yield _line(name, result, "bytes a connection", f"{size:.0f}", "", f"{most_bytes}", size <= most_bytes)


def _workers(name: str, result: Result) -> Iterator[Line]:
    if "scaling_ratio" in result:
        ratio = result["scaling_ratio"]
        beside = f"reference loop {result['reference_scaling']:.2f}"
        ours = f"{result['scaling']:.2f} times one, {ratio:.2f} of the loop's"
        yield _line(name, result, "scaling", ours, beside, "0.9 of the loop's", ratio >= 0.9)


def _setup(name: str, result: Result) -> Iterator[Line]:
    rate, syns = result["connections_per_second"], result["syns_per_second"]
    scaled = rate * REFERENCE_GHZ / result["core_ghz"]
    ours = f"{rate / 1e6:.2f} M/s (scaled {scaled / 1e6:.2f}); SYNs {syns / 1e6:.2f} M/s"
    yield _line(name, result, "new connections", ours, "", "1 M/s", scaled >= 1e6)


def _classify(name: str, result: Result) -> Iterator[Line]:
    rules = result["rules"]
    size, build = result["bytes"] / (1 << 20), result["build_seconds"]
    for at_least, most_size, most_build in ((100_000, 256, 10.0), (10_000, 16, 0.5)):
        if rules >= at_least:
            yield _line(name, result, "memory", f"{size:.1f} MiB", "", f"{most_size} MiB", size <= most_size)
            yield _line(name, result, "build", f"{build:.2f} s", "", f"{most_build} s", build <= most_build)
            break
    if rules >= 10_000:
        one = result["one_rule_seconds"] * 1e3
        yield _line(name, result, "one rule changed", f"{one:.2f} ms", "", "1 ms", one <= 1)
    member = result["one_member_seconds"] * 1e6
    yield _line(name, result, "one member added", f"{member:.1f} us", "", "20 us", member <= 20)


def _peer(name: str, result: Result) -> Iterator[Line]:
    if result["status"] != "measured":
        yield Line(name, "look-up", result["status"], result.get("reason", ""), "", None, True)
        return
    peer = result["peer_ns"][result["peer_best"]]["median"]
    ours, most = result["ours_ns"]["median"], result["required_ratio"]
    beside, ratio = f"rte_acl {peer:.1f} ns", result["ratio"]
    yield _line(name, result, "look-up", f"{ours:.1f} ns, {ratio:.2f} times", beside, f"{most} times", ratio <= most)


def _adversary(name: str, result: Result) -> Iterator[Line]:
    for kind, worst in result["kinds"].items():
        most = result["must_ratio"]
        ours = f"{worst['ratio']:.2f} times, {worst['ns']:.0f} ns, found in {result['seconds']:.0f} s"
        beside = f"benign {worst['benign_ns']:.0f} ns"
        yield _line(f"{name} {kind}", result, "worst packet", ours, beside, f"{most:.0f} times", worst["ratio"] <= most)


def _attack(name: str, result: Result) -> Iterator[Line]:
    for flood, found in result["floods"].items():
        lost = found["established_packets_lost"] + found["established_connections_lost"]
        ours = f"{lost} lost, {found['mpps']:.2f} M/s"
        yield _line(f"{name} {flood}", result, "established amid 90 %", ours, "", "0 lost", lost == 0)


def _replay(name: str, result: Result) -> Iterator[Line]:
    rate, volume = result["mpps"], result["gigabytes_per_second"]
    beside = f"reading {result['floor_ns']:.0f} ns"
    if "verdicts-flows" in result["case"]:
        yield _line(name, result, "replay, all outputs", f"{rate:.2f} M/s", beside, "0.5 M/s", rate >= 0.5)
    elif result["bytes"] / result["packets"] > 1000:
        yield _line(name, result, "replay", f"{volume:.2f} GB/s", beside, "1 GB/s", volume >= 1)
    else:
        yield _line(name, result, "replay", f"{rate:.2f} M/s", beside, "2 M/s", rate >= 2)


def _scale(name: str, result: Result) -> Iterator[Line]:
    pods = result["pods"]
    seconds, memory = result["seconds"], result["memory_bytes"] / 1e9
    pod, rule = (result[key]["median"] * 1e3 for key in ("one_pod_seconds", "one_rule_seconds"))
    if "hostile" not in result["case"] and pods >= 100_000:
        ours = f"{seconds:.2f} s ({result['min']:.2f} to {result['max']:.2f})"
        yield _line(name, result, f"compile {pods} pods", ours, "", "5 s", seconds <= 5)
        yield _line(name, result, "peak memory", f"{memory:.2f} GB", "", "1 GB", memory <= 1)
    yield _line(name, result, "one pod added", f"{pod:.2f} ms", "", "5 ms", pod <= 5)
    yield _line(name, result, "one rule changed", f"{rule:.2f} ms", "", "20 ms", rule <= 20)


# Figure of `bench lab`, peers, what the ratio (ours over the peer's) must be: with the whole of its 90 % interval.
LAB: Final = (
    ("tcp_gbps", ("kernel-vxlan-nft",), 0.9, True),
    ("tcp_gbps", ("ovs-afxdp",), 6.0, True),
    ("pps_60", ("kernel-vxlan-nft", "ovs-afxdp"), 1.5, True),
    ("pps_60_1000flows", ("kernel-vxlan-nft", "ovs-afxdp"), 1.5, True),
    ("connections_per_s", ("kernel-vxlan-nft",), 1.0, True),
    ("rtt_us p50", ("kernel-vxlan-nft",), 2.5, False),
)
P99_US: Final = 500.0


def _lab(name: str, result: Result) -> Iterator[Line]:
    for figure, peers, bar, is_least in LAB:
        ours, ratios = result, result["ratios"]
        for word in figure.split():
            ours, ratios = ours.get(word, {}), ratios.get(word, {})
        if ours.get("palisade") is None:
            continue
        told = f"{ours['palisade']:g}"
        for peer in peers:
            must = f"{'at least' if is_least else 'at most'} {bar} times"
            beside = ratios.get(peer, {})
            if "low" not in beside:
                why = result["skipped"].get(peer, "no interval from so few rounds")
                yield Line(name, figure, told, f"{peer}: {why}", must, None, bool(result["verified"]))
                continue
            ends = f"{beside['low']:.2f} to {beside['high']:.2f} times"
            reached = beside["low"] >= bar if is_least else beside["high"] <= bar
            yield _line(name, result, figure, f"{told}, {ends}", f"{peer} {ours[peer]:g}", must, reached)
    p99 = result.get("rtt_us", {}).get("p99", {}).get("palisade")
    if p99 is not None:
        yield _line(name, result, "rtt_us p99", f"{p99:g}", "", f"{P99_US:g}", p99 < P99_US)


REQUIREMENTS: Final[Mapping[str, Sequence[Callable[[str, Result], Iterator[Line]]]]] = {
    "conntrack": (_established, _workers),
    "setup": (_setup,),
    "classify": (_classify,),
    "adversary": (_adversary,),
    "attack": (_attack,),
    "replay": (_replay,),
    "scale": (_scale,),
    "lab": (_lab,),
}
"""By the first word of a result's case; comparisons with rte_acl have a `status` instead."""


def _line(name: str, result: Result, what: str, ours: str, beside: str, must: str, reached: bool) -> Line:
    return Line(name, what, ours, beside, must, reached, bool(result.get("verified", True)))


def read_lines(folder: Path) -> Iterator[Line]:
    """A line for each figure of each result in the folder that something is required of, by file name."""
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        if "status" in result and "required_ratio" in result:
            yield from _peer(path.stem, result)
        for lines in REQUIREMENTS.get(str(result.get("case", "")).partition("/")[0], ()):
            yield from lines(path.stem, result)


def render_table(lines: Sequence[Line]) -> str:
    """The lines in columns; `no` where something is not reached, `not verified` where verdicts were wrong."""
    rows = [("CASE", "WHAT", "OURS", "FLOOR OR PEER", "MUST", "REACHED")]
    for line in lines:
        reached = {True: "yes", False: "no", None: "-"}[line.reached]
        rows.append(
            (line.name, line.what, line.ours, line.beside, line.must, reached if line.verified else "not verified")
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def main() -> int:
    """The command line: 0, or 1 when something is not reached or not verified."""
    parser = argparse.ArgumentParser(description="What was measured beside what must be reached.")
    parser.add_argument("folder", type=Path, help="results of make bench")
    lines = list(read_lines(parser.parse_args().folder))
    print(render_table(lines))
    return 0 if all(line.verified and line.reached is not False for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
