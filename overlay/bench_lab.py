# SPDX-License-Identifier: Apache-2.0
"""`palisade bench lab`: live pods over two hosts, and peers beside them in the same rounds."""

from __future__ import annotations

import contextlib
import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from dfw.bench.machine import read_machine
from dfw.cli import DONE, NO
from dfw.errors import EnvironmentLacksError
from dfw.output import emit, output_option, render_table
from overlay.bench_fabric import POD_MTU, RULES, UNDERLAY_MTU, Fabric, MissingError, Palisade, Pods, Veth
from overlay.bench_kernel import KernelIptables, KernelNft, KernelNftSets
from overlay.bench_meter import METERS, Meter, Tcp, read_congestion, rules_are_in_force
from overlay.bench_ovs import OvsAfpacket, OvsAfxdp
from overlay.lab_apply import read_lacks
from overlay.lab_signals import interruptible, uninterrupted
from overlay.namespace import apply_room, apply_room_end
from overlay.progress import Steps

PEERS: Final[tuple[type[Fabric], ...]] = (KernelNft, KernelNftSets, KernelIptables, OvsAfxdp, OvsAfpacket, Veth)
HIGHER_IS_BETTER: Final = ("tcp_gbps", "pps_60", "pps_60_1000flows", "connections_per_s")
# Student's t, 95th percentile, by degrees of freedom: both tails together leave 10 %.
_T95: Final = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782, 1.771, 1.761, 1.753)
_T95_MANY: Final = 1.725  # 20 degrees of freedom; from there on it hardly falls

Samples = dict[str, dict[str, list[float | None]]]  # figure -> fabric -> one a round


@click.command("lab")
@click.option("--peers", is_flag=True, help="All of --peer's beside it.")
@click.option(
    "--peer", type=click.Choice([kind.name for kind in PEERS]), multiple=True, help="This peer; may be repeated."
)
@click.option("--rounds", type=click.IntRange(1, 100), default=7, show_default=True)
@click.option(
    "--seconds", type=click.FloatRange(0.5, 600), default=10.0, show_default=True, help="Of each measurement."
)
@click.option("--only", type=click.Choice(list(METERS)), multiple=True, help="Only this measurement; may be repeated.")
@click.option("--congestion", metavar="NAME", help="TCP's congestion control, for all.  [default: this machine's]")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@output_option
@click.pass_context
def lab(
    ctx: click.Context,
    peers: bool,
    peer: tuple[str, ...],
    rounds: int,
    seconds: float,
    only: tuple[str, ...],
    congestion: str | None,
    quiet: bool,
    output: str,
) -> None:
    """Live pods over two hosts: TCP, small packets, round trips, connections a second; with --peers others beside them.

    In every round each measurement is taken of each in turn, the first one changing. 1,000 rules, MTU, offloads and
    congestion control are the same for all.

    \b
    Examples:
      palisade bench lab --peers -o json
      palisade bench lab --rounds 3 --seconds 2 --only tcp
    """
    lacks = read_lacks()
    if lacks is not None:
        raise lacks
    available = read_congestion("tcp_available_congestion_control")
    if congestion is not None and congestion not in available:
        raise click.BadParameter(f"this machine has {', '.join(available)}", param_hint="--congestion")
    meters = [Tcp(congestion) if name == "tcp" else METERS[name] for name in only or METERS]
    for meter in meters:
        meter.require()
    beside = [kind for kind in PEERS if peers or kind.name in peer]
    result = bench_lab(beside, rounds, seconds, meters, Steps(quiet))
    emit(result, output, render_result)
    ctx.exit(DONE if result["verified"] else NO)


def bench_lab(
    peers: Sequence[type[Fabric]], rounds: int, seconds: float, meters: Sequence[Meter], steps: Steps
) -> dict[str, Any]:
    """Set everything up, measure, take it down. Raises EnvironmentLacksError: Palisade itself cannot be set up."""
    machine = read_machine()
    samples: Samples = {}
    with interruptible(), _fabrics(peers, steps) as (pods, fabrics, skipped):
        in_force = {name: rules_are_in_force(pair) for name, pair in pods.items() if fabrics[name].has_rules}
        for name in [name for name, so in in_force.items() if not so and name != Palisade.name]:
            skipped[name] = "its rules are not in force, or its pods don't reach each other: not measured"
            del pods[name]
        with steps.shown(), steps.step("measurements", rounds * len(meters) * len(pods)) as step:
            for number in range(rounds):
                for meter in meters:
                    _measure(meter, _turned(pods, number), seconds, samples)
                    for _ in pods:
                        step.advance()
        notes = {name: note for name in pods if (note := fabrics[name].note())}
    spread = {figure: {name: _spread(runs) for name, runs in by.items()} for figure, by in samples.items()}
    measured = {figure: {name: _median(runs) for name, runs in by.items()} for figure, by in samples.items()}
    chosen = (meter.congestion for meter in meters if isinstance(meter, Tcp))
    complete = all(value is not None for by in measured.values() for value in by.values())
    return {
        "case": "lab/two-hosts/v1",
        **_nested(measured),
        "verified": bool(in_force[Palisade.name] and complete),
        "rounds": rounds,
        "seconds": seconds,
        "rules": RULES,
        "tcp_congestion_control": next(chosen, None) or read_congestion()[0],
        "mtu": {"pods": POD_MTU, "underlay": UNDERLAY_MTU},
        "spread": _nested(spread),
        "ratios": _nested({figure: ratios(by) for figure, by in samples.items()}),
        "skipped": skipped,
        "notes": notes,
        "machine": machine,
    }


@contextlib.contextmanager
def _fabrics(
    peers: Sequence[type[Fabric]], steps: Steps
) -> Iterator[tuple[dict[str, Pods], dict[str, Fabric], dict[str, str]]]:
    """Everything up, by name; and why what is not there is not."""
    made: dict[str, Fabric] = {}
    pods: dict[str, Pods] = {}
    skipped: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="palb-") as name:
        folder = Path(name)
        try:
            apply_room(folder / "ns", "pal-bench")
            kinds: list[type[Fabric]] = [Palisade, *peers]
            for kind in kinds:
                fabric = kind(folder / "ns", folder)
                made[kind.name] = fabric
                try:
                    pods[kind.name] = fabric.up()
                except MissingError as error:
                    if kind is Palisade:
                        raise EnvironmentLacksError(str(error), "see `palisade doctor`") from None
                    skipped[kind.name] = str(error)
                    steps.say(f"{kind.name} is left out: {error}")
            yield pods, made, skipped
        finally:
            with uninterrupted():
                for fabric in made.values():
                    fabric.down()
                apply_room_end(folder / "ns")


def _turned(pods: Mapping[str, Pods], number: int) -> dict[str, Pods]:
    """The same, another one first in each round."""
    names = [*pods]
    at = number % len(names)
    return {name: pods[name] for name in names[at:] + names[:at]}


def _measure(meter: Meter, pods: Mapping[str, Pods], seconds: float, samples: Samples) -> None:
    for name, pair in pods.items():
        found = meter.measure(pair, seconds)
        for figure in meter.figures:
            samples.setdefault(figure, {}).setdefault(name, []).append(found.get(figure))
        time.sleep(0.2)


def _median(runs: Sequence[float | None]) -> float | None:
    """Of those that gave a figure; None where fewer than half did."""
    found = [run for run in runs if run is not None]
    return None if len(found) * 2 <= len(runs) else _short(statistics.median(found))


def _spread(runs: Sequence[float | None]) -> dict[str, Any]:
    found = [run for run in runs if run is not None]
    if not found:
        return {"min": None, "max": None, "missing": len(runs)}
    return {"min": _short(min(found)), "max": _short(max(found)), "missing": len(runs) - len(found)}


def ratios(by: Mapping[str, Sequence[float | None]]) -> dict[str, dict[str, float]]:
    """Palisade's figure over each peer's, round by round: the median, and the ends of the interval that holds the
    (geometric) mean ratio with 90 % (Student's t of the logarithms). One round has no interval."""
    own = by.get(Palisade.name, ())
    found = {}
    for name, runs in by.items():
        pairs = [one / other for one, other in zip(own, runs, strict=False) if one and other]
        if name == Palisade.name or not pairs:
            continue
        found[name] = {"median": _short(statistics.median(pairs)), "rounds": len(pairs)}
        if len(pairs) > 1:
            logs = [math.log(pair) for pair in pairs]
            t = _T95[len(pairs) - 2] if len(pairs) - 2 < len(_T95) else _T95_MANY
            half = t * statistics.stdev(logs) / math.sqrt(len(logs))
            middle = statistics.fmean(logs)
            found[name] |= {"low": _short(math.exp(middle - half)), "high": _short(math.exp(middle + half))}
    return found


def _short(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")


def _nested(figures: Mapping[str, Any]) -> dict[str, Any]:
    """`rtt_us.p50` as an object in an object."""
    found: dict[str, Any] = {}
    for name, value in figures.items():
        head, _, rest = name.partition(".")
        if rest:
            found.setdefault(head, {})[rest] = value
        else:
            found[head] = value
    return found


def _flat(figures: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name in ("tcp_gbps", "cpu_s_per_gb", "pps_60", "pps_60_1000flows", "connections_per_s"):
        if name in figures:
            yield name, figures[name]
    for share, by in figures.get("rtt_us", {}).items():
        yield f"rtt_us.{share}", by


def render_result(result: Mapping[str, Any]) -> str:
    """For people: a line a figure, ours first; beside each peer's figure the ratio's 90 % interval."""
    names = list(dict.fromkeys(name for _, by in _flat(result) for name in by))
    ratio = dict(_flat(result["ratios"]))
    rows = []
    for figure, by in _flat(result):
        better = "higher" if figure in HIGHER_IS_BETTER else "lower"
        row = [f"{figure} ({better} is better)"]
        for name in names:
            beside = ratio.get(figure, {}).get(name)
            ends = f" (x{beside['low']:.2f}-{beside['high']:.2f})" if beside and "low" in beside else ""
            row.append("-" if by.get(name) is None else f"{by[name]:g}{ends}")
        rows.append(row)
    lines = [render_table(["figure", *names], rows), ""]
    lines += [f"{name}: {note}" for name, note in result["notes"].items()]
    lines += [f"{name}: left out: {why}" for name, why in result["skipped"].items()]
    lines.append(
        f"medians of {result['rounds']} rounds of {result['seconds']:g} s; in brackets palisade over the peer, 90 % "
        f"interval; TCP by {result['tcp_congestion_control']}; load before {result['machine']['load']}"
        + ("" if result["verified"] else "; NOT VERIFIED")
    )
    return "\n".join(lines)
