# SPDX-License-Identifier: Apache-2.0
"""The command line: a table of verbs, each row naming the one function behind it.

Verbs are entry points (dfw.verbs); each package brings its own, and a verb's module is imported only when the verb is
called. Exit status: 0 done, 1 the answer is "no", 2 bad input or usage, 3 the environment lacks
something.
"""

from __future__ import annotations

import errno
import gc
import os
import sys
from typing import Final

import click

from dfw import __version__, logs
from dfw.output import FULL, error_text
from dfw.settings import FOR_ALL, VERBOSE, VERBOSE_HELP, check_names, load_settings, with_settings
from dfw.verbs import verb_source, verb_summary, verb_table

DONE: Final = 0
NO: Final = 1
BAD_INPUT: Final = 2
LACKING: Final = 3
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells have it
CLOSED: Final = 141  # 128 + SIGPIPE: whoever read the answer has left, and whether it was "no" is not told


class VerbGroup(click.Group):
    """A group whose commands are entry points, loaded when called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all verbs."""
        return list(verb_table())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's command; None when there is no such verb.

        Raises click.UsageError when the verb's module is not part of this installation.
        """
        point = verb_table().get(cmd_name)
        if point is None:
            return None
        if verb_source(point) is None:
            raise click.UsageError(f"the verb '{cmd_name}' is not part of this installation ({point.value} is missing)")
        command = point.load()
        if not isinstance(command, click.Command):
            raise TypeError(f"{point.value} is not a command")
        return with_settings(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of verbs in `--help`, made without importing any of them."""
        rows = [
            (name, "(not part of this installation)" if (text := verb_summary(point)) is None else text)
            for name, point in verb_table().items()
        ]
        with formatter.section("Verbs"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, and names near verbs when there is no such verb."""
        table = verb_table()
        if args and args[0] not in table and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], table, n=2)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise click.UsageError(f"There is no verb '{args[0]}'.{hint}", ctx)
        return super().resolve_command(ctx, args)


EPILOG = """\b
Examples:
  palisade check policy.yaml
  palisade replay capture.pcap --policy policy.yaml
  palisade doctor

\b
Settings: flag, then PALISADE_<VERB>_<OPTION> (PALISADE_OUTPUT for all verbs), then ./palisade.toml (a verb's options
in the table with its name), then /etc/palisade/palisade.toml. NO_COLOR is honoured. `palisade VERB --help` has an
example for each verb."""


@click.group(
    cls=VerbGroup,
    no_args_is_help=False,
    invoke_without_command=True,
    epilog=EPILOG,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "PALISADE",
        "max_content_width": 120,
    },
)
@click.option(*VERBOSE, count=True, help=VERBOSE_HELP)
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Log lines on stderr."
)
@click.version_option(__version__, message="palisade %(version)s", help="The version, and no more; see `version`.")
@click.pass_context
def palisade(ctx: click.Context, verbose: int, log_format: str) -> None:
    """A distributed firewall for Linux hosts, in the style of VMware NSX under a vSphere Supervisor."""
    if os.environ.get("NO_COLOR"):
        ctx.color = False
    logs.configure(verbosity=verbose, log_format=log_format)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def status_of(error: Exception) -> int | None:
    """The exit status for an error that is the user's to see as one message; None for a defect of ours."""
    from dfw import errors

    if isinstance(error, errors.PolicyError | errors.UnsupportedError):
        return BAD_INPUT
    if isinstance(error, errors.EnvironmentLacksError):
        return LACKING
    return None


def run(arguments: list[str]) -> int:
    """Run one command line. Returns its exit status; messages for the user are on stderr."""
    try:
        return _run(arguments)
    except OSError as error:
        if error.errno != errno.EPIPE:
            raise
        return closed_pipe()  # of messages, too


def _run(arguments: list[str]) -> int:
    try:
        settings = load_settings()
        own = {option.name for option in palisade.params if option.name}
        check_names(settings, own | {FOR_ALL} | {name.replace("-", "_") for name in verb_table()}, "at the top")
        result = palisade.main(arguments, prog_name="palisade", standalone_mode=False, default_map=settings)
        return result if isinstance(result, int) and not isinstance(result, bool) else DONE
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return BAD_INPUT if isinstance(error, click.FileError) else error.exit_code
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        if error.errno not in FULL:
            if not _is_named(error, arguments):
                raise
            click.echo(error_text(error), err=True)
            return BAD_INPUT
        closed_pipe()
        click.echo(f"cannot write: {error.strerror}", err=True)
        return LACKING
    except SystemExit as error:
        if error.code != 1:
            raise
        return closed_pipe()  # click exits for nothing else by itself; no verb does
    except Exception as error:
        status = status_of(error)
        if status is None:
            raise
        click.echo(str(error), err=True)
        return status


def closed_pipe() -> int:
    """The reader went away (`| head`): be silent, and keep the interpreter from flushing into the closed pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return CLOSED


def _is_named(error: OSError, arguments: list[str]) -> bool:
    """Does the command line name the file? Then that it cannot be opened is the user's to see, else a defect."""
    name = error.filename
    return isinstance(name, str) and any(word == name or word.endswith(f"={name}") for word in arguments)


def main() -> None:
    """The console script `palisade`."""
    # A stream that is closed (`>&-`) is None, and the next file that is opened would take its number, and what is
    # written there.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for as long as we live
    # A command lives for a moment and makes thousands of objects that stay: looking for garbage among them is a tenth
    # of its start-up. numpy's linear algebra, which nothing here calls, would start a thread for each core.
    gc.set_threshold(50_000, 20, 20)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.exit(run(sys.argv[1:]))
