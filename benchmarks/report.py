# SPDX-License-Identifier: Apache-2.0
"""The report page of `make bench`'s results: Markdown, HTML, and the pictures in both.

Run as a program: `python benchmarks/report.py benchmarks/results --out docs/performance`. The pages and pictures there
are replaced. Every figure names its case, version and commit; what was not measured is listed.
"""

from __future__ import annotations

import argparse
import html
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from report_figures import Bars, Results, Section, plan_sections  # beside this file
from run import plan_benchmarks, plan_limits, plan_peers
from table import read_lines

LACKING = 3
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto; }
td, th { border-bottom: 1px solid #ddd; padding: .25rem .6rem; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #999; }
img { max-width: 100%; }
@media (prefers-color-scheme: dark) {
  body { background: #16181c; color: #ddd; }
  td, th { border-color: #444; }
  img { background: #fff; }
}
"""


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Every result, by its file's name. Raises ValueError: a file that is none, and where."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{error.lineno}:{error.colno}: this is no JSON: {error.msg}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from None
        if not isinstance(result, dict) or not {"case", "machine"} <= set(result):
            raise ValueError(f"{path}: this is no result of a benchmark: it has no `case` or no `machine`")
        found[path.stem] = result
    return found


def plan_missing(results: Results) -> list[str]:
    """What a whole `make bench` has and these results have not."""
    names = [name for plan in (plan_limits, plan_benchmarks, plan_peers) for name, _ in plan(False)]
    return [name for name in names if name not in results]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def render_section(section: Section) -> str:
    """A section in Markdown."""
    lines = [f"## {section.title}", "", section.text, ""]
    if section.bars is not None:
        lines += [f"![{section.bars.title}]({section.bars.name}.svg)", ""]
    lines += [f"| {' | '.join(section.head)} |", f"|{'---|' * len(section.head)}"]
    lines += [f"| {' | '.join(map(_cell, row))} |" for row in section.rows]
    return "\n".join(lines) + "\n"


def render_markdown(results: Results, sections: Sequence[Section], on: str) -> str:
    """The page."""
    machines = {json.dumps(_fixed(result["machine"]), sort_keys=True) for result in results.values()}
    told = "; ".join(
        f"{one['cpu']}, {one['cores']} cores, Linux {one['kernel']}, {one['compiler']}"
        for one in map(json.loads, sorted(machines))
    )
    loads = [result["machine"]["load"] for result in results.values()]
    missing = plan_missing(results)
    lines = [
        "<!-- SPDX-License-Identifier: Apache-2.0 -->",
        "# Performance",
        "",
        f"Made on {on} by `python benchmarks/report.py` from the results of `make bench` on this machine: {told}; load "
        f"average before a benchmark {min(loads):.2g} to {max(loads):.2g}. What each case times: benchmarks/README.md. "
        "Absolute figures are this machine's; compare ratios and distances to floors.",
        "",
    ]
    if missing:
        lines += [f"Not measured in this run: {', '.join(missing)}.", ""]
    return "\n".join(lines) + "\n" + "\n".join(map(render_section, sections))


def _fixed(machine: Mapping[str, Any]) -> dict[str, Any]:
    return {name: machine.get(name) for name in ("cpu", "cores", "kernel", "compiler")}


def render_html(markdown: str) -> str:
    """The same as a page for a browser; the pictures lie beside it."""
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown.partition("\n")[2])
    return (
        "<!DOCTYPE html>\n<!-- SPDX-License-Identifier: Apache-2.0 -->\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{html.escape("Palisade: performance")}</title>'
        f"<style>{STYLE}</style></head><body>\n{body}</body></html>\n"
    )


def draw_bars(bars: Bars, path: Path) -> None:
    """A picture, as SVG; the same bars give the same bytes."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "palisade", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    many, width = len(bars.groups), 0.8 / max(1, len(bars.series))
    figure, axes = pyplot.subplots(figsize=(9, 1.1 + many * max(0.34, 0.17 * len(bars.series))), layout="constrained")
    for number, (name, values) in enumerate(bars.series.items()):
        at = [group - 0.4 + width * (number + 0.5) for group in range(many)]
        lengths = [float("nan") if value is None else value for value in values]
        if bars.line is None:
            axes.barh(at, lengths, width * 0.9, label=name)
        else:  # compared with a value: how far from it, to both sides
            ends = [end or (length, length) for end, length in zip(bars.ends[name], lengths, strict=True)]
            reach = [[length - low for length, (low, _) in zip(lengths, ends, strict=True)],
                     [high - length for length, (_, high) in zip(lengths, ends, strict=True)]]  # fmt: skip
            axes.errorbar(lengths, at, xerr=reach, fmt="o", markersize=4, elinewidth=1.5, label=name)
    axes.set_yticks(range(many), bars.groups)
    axes.invert_yaxis()
    if bars.logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if bars.line is not None:
        axes.axvline(bars.line, color="#333", linewidth=1)
        for group in range(many - 1):
            axes.axhline(group + 0.5, color="#ddd", linewidth=0.8)
    axes.set_xlabel(bars.unit)
    axes.set_title(bars.title)
    if any(bars.series):
        figure.legend(loc="outside right upper")
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="The report page of make bench's results.")
    parser.add_argument("folder", type=Path, help="results of make bench")
    parser.add_argument("--out", type=Path, required=True, help="folder of the page")
    given = parser.parse_args()
    try:
        results = read_results(given.folder)
        if not results:
            raise ValueError(f"{given.folder}: no results of `make bench` there")
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    sections = plan_sections(results, list(read_lines(given.folder)))
    given.out.mkdir(parents=True, exist_ok=True)
    try:
        for section in sections:
            if section.bars is not None:
                draw_bars(section.bars, given.out / f"{section.bars.name}.svg")
    except ImportError:
        print("no matplotlib for the pictures: scripts/setup.sh bench installs it", file=sys.stderr)
        return LACKING
    page = render_markdown(results, sections, datetime.now(UTC).date().isoformat())
    (given.out / "README.md").write_text(page, encoding="utf-8")
    (given.out / "index.html").write_text(render_html(page), encoding="utf-8")
    print(f"{given.out / 'index.html'}, {given.out / 'README.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
