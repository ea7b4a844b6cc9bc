# SPDX-License-Identifier: Apache-2.0
"""`palisade check`: every error of the input with its place, then warnings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from dfw.errors import PolicyError, Problem, UnsupportedError
from dfw.findings import Finding
from dfw.model import Place, PolicySet, Tier
from dfw.output import counted, emit, output_option, render_table

if TYPE_CHECKING:
    from dfw.load import Loaded

DONE, NO, BAD_INPUT = 0, 1, 2
SHOWN_RULES = 20
_ONE = {"policies": "policy", "staged policies": "staged policy"}
LAYER_2_ENTRIES = 128  # of a filter: dfw.layout.MAXIMUM_ETHER_RULES, which comes with the packet core


@click.command
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--strict", is_flag=True, help="Exit with 1 when there are warnings.")
@click.option("--report", is_flag=True, help="Also what the rules become: vNICs, entries, addresses, bytes.")
@output_option
def check(files: tuple[str, ...], strict: bool, report: bool, output: str) -> int:
    """Validate and lint policies and inventories.

    Every error is reported with file, line, column and path, all at once; any error is exit status 2. Warnings alone
    are exit status 0, with --strict 1. `-` is standard input. --report shows which rules explode: at how many vNICs
    each is programmed, in how many entries, over how many addresses.

    \b
    Examples:
      palisade check policy.yaml inventory.yaml
      palisade check --strict -o json policy.yaml
      palisade check --report policy.yaml inventory.yaml
    """
    result = check_files(files, report=report)
    for error in result["errors"]:
        click.echo(_line(error), err=True)
    emit(result, output, _table)
    if result["errors"]:
        return BAD_INPUT
    return NO if strict and result["warnings"] else DONE


def check_files(files: tuple[str, ...], *, report: bool = False) -> dict[str, Any]:
    """Errors, warnings and counts of these files together, as `-o json` shows them. Raises nothing for bad input.

    `report`: also the explosion report; null where there is an error.
    """
    from dfw.capabilities import unsupported_features
    from dfw.lint import lint
    from dfw.load import load

    try:
        loaded = load(files)
    except PolicyError as error:
        failed = _result([_problem(item) for item in error.problems], [], {})
        return {**failed, "explosion": None} if report else failed
    world = loaded.world
    unsupported = unsupported_features(world) + (unsupported_features(world.what_if) if world.staged else [])
    refused = [
        Problem(item.rule.place or Place(files[0], 1, 1), f"{feature} is not supported by the packet core")
        for item, feature in unsupported
    ]
    if not refused:
        refused = _too_much_of_layer_2(world, files[0])
    errors = [_problem(item) for item in dict.fromkeys(refused)]
    counts = {
        "policies": len(world.policies),
        "rules": sum(len(policy.rules) for policy in world.policies),
        "groups": len(world.groups),
        "services": len(world.services),
        "ports": len(world.inventory.ports),
    }
    if world.staged:
        counts["staged policies"] = len(world.staged)
    found = lint(loaded)
    result = _result(errors, [_finding(item) for item in (*found, *_lint_staged(loaded, found))], counts)
    return {**result, "explosion": None if errors else _explosion(world)} if report else result


def _too_much_of_layer_2(world: PolicySet, file: str) -> list[Problem]:
    """The vNIC that has more layer-2 entries than a filter takes; without an inventory nobody knows."""
    rules = [rule for policy in world.policies if policy.tier is Tier.ETHERNET for rule in policy.rules]
    most = sum(max(1, sum(len(service.entries) for service in rule.services)) for rule in rules)
    if most <= LAYER_2_ENTRIES or not world.inventory.ports:
        return []
    from dfw.compile import compile_policy

    try:
        compile_policy(world)
    except UnsupportedError as error:
        message = f"{error.feature} are not supported by the packet core"
        return [Problem(rules[0].place or Place(file, 1, 1), message)]
    return []


def _lint_staged(loaded: Loaded, now: Sequence[Finding]) -> list[Finding]:
    """What would be found if the staged policies were in force, and is not found now: about their rules, and about
    rules in force that they would make so (a rule that is found as much now is not named again)."""
    from dfw.lint import lint

    world = loaded.world
    if not world.staged:
        return []
    found_now = {(item.kind, item.place, item.message) for item in now}
    named_now = {(item.kind, item.place) for item in now}
    staged_places = {policy.place for policy in world.staged}
    staged_places |= {rule.place for policy in world.staged for rule in policy.rules}
    found = []
    for item in lint(loaded._replace(world=world.what_if)):
        is_staged = item.place is not None and item.place in staged_places
        if (item.kind, item.place, item.message) in found_now or (
            not is_staged and (item.kind, item.place) in named_now
        ):
            continue
        found.append(item._replace(message=f"with the staged policies in force: {item.message}", staged=True))
    return found


def _explosion(world: PolicySet) -> dict[str, Any]:
    from dfw.explosion import explosion_of

    found = asdict(explosion_of(world))
    for rule in found["rules"]:
        place = rule.pop("place")
        rule["rule_path"] = rule.pop("path")
        rule["file"], rule["line"] = (None, None) if place is None else place[:2]
    return {**found, "rules": list(found["rules"])}


def _result(errors: list[dict[str, Any]], warnings: list[dict[str, Any]], counts: dict[str, int]) -> dict[str, Any]:
    return {"ok": not errors, "errors": errors, "warnings": warnings, "counts": counts}


def _place(place: Place | None) -> dict[str, Any]:
    if place is None:
        return {"file": None, "line": None, "column": None, "path": ""}
    return {"file": place.file, "line": place.line, "column": place.column, "path": place.path}


def _problem(problem: Problem) -> dict[str, Any]:
    return {**_place(problem.place), "message": problem.message}


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        **_place(finding.place),
        "kind": finding.kind,
        "message": finding.message,
        "rule_path": finding.rule_path or None,
        "witness": finding.witness or None,
        "rules": list(finding.rules),
        "packet": finding.packet,
        "staged": finding.staged,
    }


def _line(item: dict[str, Any]) -> str:
    where = "" if item["file"] is None else f"{item['file']}:{item['line']}:{item['column']}: "
    path = f"{item['path']}: " if item["path"] else ""
    return f"{where}{path}{item['message']}"


def _table(result: dict[str, Any]) -> str:
    """Warnings one a line, then the counts. Errors stand on stderr."""
    lines = []
    for item in result["warnings"]:
        witness = f"; for example {item['witness']}" if item["witness"] else ""
        lines.append(f"warning: {_line(item)}{witness} [{item['kind']}]")
    counts = ", ".join(counted(count, _ONE.get(name, name[:-1]), name) for name, count in result["counts"].items())
    verdict = counted(len(result["errors"]), "error") if result["errors"] else "no errors"
    lines.append(f"{verdict}, {counted(len(result['warnings']), 'warning')}" + (f" in {counts}" if counts else ""))
    if result.get("explosion"):
        lines += _explosion_lines(result["explosion"])
    return "\n".join(lines)


def _explosion_lines(found: dict[str, Any]) -> list[str]:
    rows = [
        (rule["rule_path"], rule["vnics"], rule["entries"], rule["ranges"], rule["programmed_bytes"])
        for rule in found["rules"][:SHOWN_RULES]
    ]
    more = len(found["rules"]) - len(rows)
    shared = found["table_bytes"] + found["set_bytes"]
    return [
        "",
        f"{found['rules_written']} rules written, {found['rules_on_vnics']} on {found['vnics']} vNICs (the default "
        f"section's too) in {found['entries_on_vnics']} entries of {found['programmed_bytes']} bytes",
        f"shared: {found['tables']} tables and {found['sets']} sets of {found['set_ranges']} address ranges, "
        f"{shared} bytes",
        "",
        render_table(("rule", "vnics", "entries", "ranges", "bytes"), rows, numbers=(1, 2, 3, 4)),
        *([f"and {more} rules that take less"] if more else []),
    ]
