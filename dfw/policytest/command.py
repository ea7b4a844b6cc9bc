# SPDX-License-Identifier: Apache-2.0
"""`palisade test`: pytest with the policy plugin, rule coverage and mutations."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

DONE, NO, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
FORMATS = ("table", "json", "yaml")
REPORTS = (".json", ".html", ".txt")
# The first by its entry point's name, which also works where plugins are not loaded by themselves. pytest would rewrite
# the asserts of a plugin's package, and warns that this process, being `palisade`, has imported it already.
_PLUGINS: tuple[str, ...] = ("-p", "palisade", "-p", "dfw.policytest.session")
_PLUGINS += ("-W", "ignore:Module already imported so cannot be rewritten:pytest.PytestAssertRewriteWarning")


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog="""\b
Examples:
  palisade test examples/shop
  palisade test test_shop.py -k database -x
  palisade test examples/shop --mutate
  palisade test --coverage-report coverage.html --coverage-report coverage.json tests/policy
  palisade test -n 2 examples/shop                    # pytest-xdist, where it is installed""",
)
@click.option("--policy", multiple=True, metavar="F", help="Instead of what palisade.toml names.")
@click.option("--inventory", multiple=True, metavar="F", help="The same for the inventory.")
@click.option("--default-action", type=click.Choice(["ALLOW", "DROP", "REJECT"]), help="Of the default section.")
@click.option("--at", metavar="TIME", help="For schedules: 2026-03-31T09:30 (UTC), or with an offset. Default: now.")
@click.option("--staged", is_flag=True, help="As if the staged policies were in force.")
@click.option("--coverage-report", multiple=True, metavar="F", help="Write one: .json, .html or .txt.")
@click.option("--mutate", is_flag=True, help="Change the policy a rule at a time; list what no test notices.")
@click.option("-o", "--output", "outputs", multiple=True, metavar="table|json|yaml", help="How to show the result.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[PATH...]")
@click.pass_context
def test(ctx: click.Context, /, **given: Any) -> int:
    """Run policy unit tests: pytest with fixtures for a policy, and the rules that no test reached.

    What is not an option here goes to pytest (`palisade test -- --help` shows pytest's). Exit status 1 when a test
    failed or errored; 2 for a bad policy, or when there are no tests.
    """
    output, passed_on = _outputs(given["outputs"])
    for path in given["coverage_report"]:
        if not path.endswith(REPORTS):
            raise click.UsageError(f"--coverage-report {path}: its name must end in one of {', '.join(REPORTS)}")
    _check_pytest()
    arguments = [*given["arguments"], *passed_on]
    if given["mutate"] and any(item.startswith(("-n", "--numprocesses", "--dist")) for item in arguments):
        raise click.UsageError("--mutate runs in one process, and takes seconds: leave out -n")
    options = [*_PLUGINS, *(["--palisade-mutate"] if given["mutate"] else [])]
    for name in ("policy", "inventory", "default_action", "at", "staged"):
        # What palisade.toml says is looked up for each test, beside it: it need not be this folder's.
        if ctx.get_parameter_source(name) in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT):
            values = given[name] if isinstance(given[name], tuple) else (given[name],)
            word = f"--palisade-{name.replace('_', '-')}"
            options += [word if value is True else f"{word}={value}" for value in values]
    from dfw.policytest.report import report_text

    status, report = run_pytest([*options, *arguments], quiet=output != "table")
    for path in given["coverage_report"]:
        try:
            Path(path).write_text(report_text(path, report), encoding="utf-8")
        except OSError as error:
            click.echo(f"palisade test: {path}: {error.strerror or error}", err=True)
            status = BAD_INPUT
    if output != "table":
        from dfw.output import emit

        emit(report, output)
    return status


def _outputs(outputs: tuple[str, ...]) -> tuple[str, list[str]]:
    """Our `-o FORMAT`, and pytest's `-o name=value`."""
    ours = [item for item in outputs if "=" not in item]
    wrong = [item for item in ours if item not in FORMATS]
    if wrong:
        raise click.UsageError(f"-o {wrong[0]}: one of {', '.join(FORMATS)} (pytest's own is -o NAME=VALUE)")
    return (ours or ["table"])[-1], [word for item in outputs if "=" in item for word in ("-o", item)]


def _check_pytest() -> None:
    """Raises EnvironmentLacksError."""
    try:
        import pytest
    except ImportError as error:
        from dfw.errors import EnvironmentLacksError

        raise EnvironmentLacksError("pytest (for palisade test)", "pip install 'palisade-dfw[test]'") from error
    if int(pytest.__version__.partition(".")[0]) < 8:
        from dfw.errors import EnvironmentLacksError

        raise EnvironmentLacksError(f"pytest 8 or later (here is {pytest.__version__})", "pip install -U pytest")


class _Collector:
    """Keeps what the session plugin saw, beyond the end of pytest."""

    def __init__(self) -> None:
        self.seen: Any = None

    def pytest_unconfigure(self, config: Any) -> None:
        """pytest's last word."""
        from dfw.policytest.session import SEEN

        self.seen = config.stash.get(SEEN, None)


def run_pytest(arguments: list[str], quiet: bool = False) -> tuple[int, dict[str, Any]]:
    """Run pytest in this process. Returns our exit status, and the report as its schema has it; `quiet`: pytest's own
    output goes to stderr."""
    import pytest

    from dfw.policytest.report import report_make

    collector = _Collector()
    with contextlib.redirect_stdout(sys.stderr) if quiet else contextlib.nullcontext():
        code = int(pytest.main(arguments, plugins=[collector]))
    seen = collector.seen
    if seen is not None and seen.interrupted:
        return INTERRUPTED, report_make(seen, INTERRUPTED)
    if code == pytest.ExitCode.OK:
        status = DONE
    elif code == pytest.ExitCode.TESTS_FAILED:
        status = BAD_INPUT if seen is not None and seen.bad_input else NO
    else:
        status = BAD_INPUT
        if code == pytest.ExitCode.NO_TESTS_COLLECTED:
            click.echo("palisade test: no tests were found; name a file such as test_shop.py, or its folder", err=True)
    return status, report_make(seen, status)
