# SPDX-License-Identifier: Apache-2.0
"""What the report page says of the results of `make bench`: rows and bars, each with its case, version and commit.

Nothing is measured here, and nothing is written: report.py does that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from table import LAB, Line  # beside this file

Result = Mapping[str, Any]
Results = Mapping[str, Result]
SIZES: Final = (1_000, 100_000, 1_000_000)
LAB_WORDS: Final = {
    "tcp_gbps": "TCP, one stream, Gbit/s",
    "cpu_s_per_gb": "processor seconds a gigabit",
    "pps_60": "60-byte frames a second, one flow",
    "pps_60_1000flows": "60-byte frames a second, 1,000 flows",
    "connections_per_s": "connections a second",
    "rtt_us p50": "UDP round trip, median, us",
    "rtt_us p99": "UDP round trip, 99th percentile, us",
}
LOWER_IS_BETTER: Final = ("cpu_s_per_gb", "rtt_us p50", "rtt_us p99")


@dataclass(frozen=True, slots=True)
class Bars:
    """A picture: groups of bars. `series`: name -> a value a group (None: there is none); `ends`: name -> least and
    greatest of each; `line`: a value to compare with."""

    name: str
    title: str
    unit: str
    groups: tuple[str, ...]
    series: Mapping[str, Sequence[float | None]]
    ends: Mapping[str, Sequence[tuple[float, float] | None]] = field(default_factory=dict)
    logarithmic: bool = False
    line: float | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, a paragraph, a table, a picture."""

    title: str
    text: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    bars: Bars | None = None


def made_of(result: Result) -> str:
    """Version and commit of what was measured."""
    machine = result.get("machine", {})
    return f"{machine.get('version', '?')} {machine.get('commit') or '?'}"


def number(value: float | None) -> str:
    """Three or four digits; thousands with commas."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def inside(by: Mapping[str, Any], words: str) -> Mapping[str, Any]:
    """`rtt_us p50` of a result: an object in an object."""
    for word in words.split():
        by = by.get(word) or {}
    return by


def lab_section(results: Results) -> Section | None:
    """Live pods, ours and the peers' in the same rounds."""
    lab = results.get("lab-peers")
    if lab is None:
        return None
    rows, ratio_of, ends_of = [], dict[str, list[float | None]](), dict[str, list[tuple[float, float] | None]]()
    names = [name for name in inside(lab, "tcp_gbps") if name != "palisade"]
    shown = [words for words in LAB_WORDS if inside(lab, words)]
    for words in shown:
        ours = inside(lab, words).get("palisade")
        for name in names:
            ratio = inside(lab["ratios"], words).get(name, {})
            low, high = ratio.get("low"), ratio.get("high")
            value = ratio.get("median")
            ratio_of.setdefault(name, []).append(value)
            ends_of.setdefault(name, []).append((low, high) if low is not None else None)
            told = f"{number(value)} ({number(low)} to {number(high)})" if low is not None else number(value)
            theirs = number(inside(lab, words).get(name))
            rows.append((LAB_WORDS[words], number(ours), name, theirs, told, lab["case"], made_of(lab)))
    notes = "; ".join(f"{name}: {note}" for name, note in lab["notes"].items())
    left = "".join(f" {name} was left out: {why}." for name, why in lab["skipped"].items())
    text = (
        f"Two pods on two hosts of one machine; medians of {lab['rounds']} rounds of {lab['seconds']:g} s, each "
        f"measurement of each in turn; the same {lab['rules']:,} rules and MTU on all. The ratio is ours over the "
        "peer's, round by round, with the interval that holds its mean with 90 %; for processor time and round trips "
        f"less is better. {notes}.{left}"
    )
    bars = Bars(
        "lab",
        "Live pods: Palisade over each peer",
        "times the peer's",
        tuple(LAB_WORDS[words] for words in shown),
        ratio_of,
        ends_of,
        logarithmic=True,
        line=1.0,
    )
    head = ("figure", "Palisade", "peer", "the peer's", "ratio (90 %)", "case", "of")
    return Section("Live pods beside the kernel and Open vSwitch", text, head, tuple(rows), bars)


def classifier_section(results: Results) -> Section | None:
    """First match beside rte_acl."""
    found = {name: result for name, result in results.items() if name.startswith("rte_acl-")}
    if not found:
        return None
    rows, groups, ours, theirs = [], [], list[float | None](), list[float | None]()
    for name, result in found.items():
        case = name.removeprefix("rte_acl-")
        if result["status"] != "measured":
            rows.append((case, result["status"], result.get("reason", ""), "-", "-", result["case"], made_of(result)))
            continue
        mine, peer = result["ours_ns"]["median"], result["peer_ns"][result["peer_best"]]["median"]
        groups.append(case)
        ours.append(mine)
        theirs.append(peer)
        rows.append(
            (
                case,
                number(mine),
                f"{number(peer)} ({result['peer_best']})",
                f"{result['ratio']:.2f}",
                f"{result['required_ratio']}",
                result["case"],
                made_of(result),
            )
        )
    bars = Bars("classify", "First match", "ns a header", tuple(groups), {"Palisade": ours, "rte_acl": theirs})
    text = "DPDK's rte_acl in the best of its variants, on the same rules and the same headers, in turn on one core."
    head = ("rules", "Palisade, ns", "rte_acl, ns", "ratio", "at most", "case", "of")
    return Section("First match beside rte_acl", text, head, tuple(rows), bars if groups else None)


def connection_section(results: Results) -> Section | None:
    """Established packets, beside what memory allows and beside rte_hash's bare look-ups."""
    rows: list[tuple[str, ...]] = []
    series: dict[str, list[float | None]] = {
        "from bytes": [],
        "parsed before": [],
        "floor, an index and two entry lines": [],
        "rte_hash, look-up alone": [],
    }
    for size in SIZES:
        ours, hashed = results.get(f"conntrack-v4-{size}"), results.get(f"rte_hash-{size}")
        peer = hashed["peer_ns"]["median"] if hashed is not None and hashed["status"] == "measured" else None
        values = [None] * 3 if ours is None else [ours["ns_per_packet"], ours["pre_parsed_ns"], ours["floor_ns"]["2"]]
        for one, value in zip(series.values(), [*values, peer], strict=True):
            one.append(value)
        for family in ("4", "6"):
            result = results.get(f"conntrack-v{family}-{size}")
            if result is not None:
                beside = number(peer) if family == "4" else "-"
                figures = (
                    result["ns_per_packet"],
                    result["pre_parsed_ns"],
                    result["floor_ns"]["1"],
                    result["floor_ns"]["2"],
                )
                rows.append((f"{size:,}, IPv{family}", *map(number, figures), beside, result["case"], made_of(result)))
        if hashed is not None and peer is None:
            rows.append(
                (f"{size:,}", *["-"] * 4, f"{hashed['status']}: {hashed['reason']}", hashed["case"], made_of(hashed))
            )
    if not rows:
        return None
    text = (
        "Random connections, one core. From packet bytes: parse, checksum, look-up, whole key, windows, counters, "
        "timer. The floors are the same memory accesses without a firewall, in the same run. rte_hash finds a key of "
        "16 bytes and does nothing with it: it is no connection table, but what one could be built on."
    )
    bars = Bars("connections", "An established packet", "ns", tuple(f"{size:,} connections" for size in SIZES), series)
    head = (
        "connections",
        "from bytes, ns",
        "parsed before, ns",
        "floor 1, ns",
        "floor 2, ns",
        "rte_hash, ns",
        "case",
        "of",
    )
    return Section("Established packets beside memory and rte_hash", text, head, tuple(rows), bars)


def replay_section(results: Results) -> Section | None:
    """Captures, beside dpkt and Scapy."""
    rows, groups, values = [], [], list[float | None]()
    words = {
        "replay-128": "Palisade, 128 bytes",
        "replay-128-outputs": "Palisade, 128 bytes, verdicts and flows written",
        "replay-128-two-workers": "Palisade, 128 bytes, two workers",
        "replay-1514": "Palisade, 1,514 bytes",
        "replay-peer-dpkt": "dpkt, dissection alone",
        "replay-peer-scapy": "Scapy, dissection alone",
    }
    for name, said in words.items():
        result = results.get(name)
        if result is None:
            continue
        groups.append(said)
        values.append(result["mpps"])
        volume = result.get("gigabytes_per_second")
        spread = f"{number(result['min'])} to {number(result['max'])}"
        rows.append((said, number(result["mpps"]), number(volume), spread, result["case"], made_of(result)))
    if not rows:
        return None
    text = (
        "Generated captures from warm disk, judged with connections and rules; dpkt and Scapy only take packets apart."
    )
    bars = Bars("replay", "Captures", "million packets a second", tuple(groups), {"": values}, logarithmic=True)
    head = ("what", "M packets/s", "GB/s", "ns, least to most", "case", "of")
    return Section("Replay beside dpkt and Scapy", text, head, tuple(rows), bars)


def limits_section(results: Results) -> Section | None:
    """The machine's own limits."""
    limits = results.get("limits")
    if limits is None:
        return None
    rows = [
        (name.replace("_", " "), of, number(run["median"]), f"{number(run['min'])} to {number(run['max'])}",
         str(run["runs"]), limits["case"], made_of(limits))
        for name, by in limits["figures"].items()
        for of, run in by.items()
    ]  # fmt: skip
    left = "".join(f" {name}: {why}." for name, why in limits["skipped"].items())
    text = (
        "Random cache lines: each address from the one before (dependent), or known 32 ahead, as a burst's are. TAP: "
        f"one system call a frame of 60 bytes.{left}"
    )
    head = ("limit", "of", "median", "least to most", "runs", "case", "of")
    return Section("The machine's limits", text, head, tuple(rows))


def nearness_rows(results: Results) -> Iterator[tuple[str, ...]]:
    """How near to the machine's limits we are: what, ours, the limit, share reached, both cases, commit."""
    limits = results.get("limits", {}).get("figures", {})
    for size in SIZES:
        ours = results.get(f"conntrack-v4-{size}")
        if ours is not None:
            floor, mine = ours["floor_ns"]["2"], ours["pre_parsed_ns"]
            yield (f"established packet, {size:,} connections, ns", number(mine),
                   f"{number(floor)} (its memory accesses alone)", f"{floor / mine:.0%}", ours["case"],
                   made_of(ours))  # fmt: skip
    for name, size in (("replay-128", "128"), ("replay-1514", "1,514")):
        ours = results.get(name)
        if ours is not None:
            floor, mine = ours["floor_ns"], ours["ns_per_packet"]
            yield (f"replay, {size} bytes, ns a packet", number(mine), f"{number(floor)} (reading the file)",
                   f"{floor / mine:.0%}", ours["case"], made_of(ours))  # fmt: skip
    ours, copy = results.get("replay-1514"), inside(limits, "memcpy_gbytes_per_s").get("256 MiB")
    if ours is not None and copy is not None:
        rate = ours["gigabytes_per_second"]
        yield ("replay, 1,514 bytes, GB/s", number(rate), f"{number(copy['median'])} (memcpy)",
               f"{rate / copy['median']:.0%}", f"{ours['case']}, {results['limits']['case']}",
               made_of(ours))  # fmt: skip
    lab, write, read = (
        results.get("lab-peers"),
        *(inside(limits, f"tap_{way}_ns").get("60 bytes") for way in ("write", "read")),
    )
    if lab is not None and write and read and inside(lab, "pps_60").get("palisade"):
        mine = 1e9 / lab["pps_60"]["palisade"]
        floor = max(write["median"], read["median"])
        yield ("60-byte frames pod to pod, ns a frame", number(mine),
               f"{number(floor)} (a TAP's dearer call; a host reads or writes one a frame)", f"{floor / mine:.0%}",
               f"{lab['case']}, {results['limits']['case']}", made_of(lab))  # fmt: skip


def nearness_section(results: Results) -> Section | None:
    """How near we are."""
    rows = tuple(nearness_rows(results))
    if not rows:
        return None
    text = (
        "The limit is the least that the same work could take on this machine, measured beside it; the share is how "
        "much of ours it would be. Over 100 %: ours spreads its accesses over its stages, the floor's loop does not."
    )
    return Section("How near we are", text, ("what", "ours", "limit", "share", "case", "of"), rows)


def requirement_section(results: Results, lines: Sequence[Line]) -> Section:
    """What must be reached."""
    rows = []
    for line in lines:
        result = next((results[name] for name in (line.name, line.name.rpartition(" ")[0]) if name in results), {})
        reached = {True: "yes", False: "**no**", None: "-"}[line.reached] if line.verified else "**not verified**"
        case = str(result.get("case", line.name))
        rows.append((line.what, line.ours, line.beside, line.must, reached, case, made_of(result)))
    bars = ", ".join(
        f"{figure} {'at least' if least else 'at most'} {bar:g} x {' and '.join(peers)}"
        for figure, peers, bar, least in LAB
    )
    text = (
        "Times above a floor are scaled to a core of 2.5 dependent additions a nanosecond. Of live pods must hold, "
        f"with the whole interval: {bars}."
    )
    head = ("what", "ours", "floor or peer", "must", "reached", "case", "of")
    return Section("What must be reached", text, head, tuple(rows))


def plan_sections(results: Results, lines: Sequence[Line]) -> list[Section]:
    """The page, in order; what was not measured has no section."""
    made = [
        lab_section(results),
        connection_section(results),
        classifier_section(results),
        replay_section(results),
        nearness_section(results),
        limits_section(results),
        requirement_section(results, lines),
    ]
    return [section for section in made if section is not None]
