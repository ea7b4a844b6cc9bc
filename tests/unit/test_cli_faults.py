# SPDX-License-Identifier: Apache-2.0
"""The command line where the world around it ends early: closed pipes, files that cannot be opened, signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from dfw import cli, output


@pytest.mark.parametrize("words", ["schema test", "--help", "check -"])
def test_a_closed_pipe_is_neither_yes_nor_no(words: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "dfw", *words.split()]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (cli.CLOSED, b"")


def test_a_benchmark_ends_at_once_when_it_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    import dfw.bench

    kept = signal.getsignal(signal.SIGINT)
    seen = []
    monkeypatch.setattr(dfw.bench, "_packets", lambda *_: seen.append(signal.getsignal(signal.SIGINT)))
    CliRunner().invoke(dfw.bench.bench, ["conntrack"], catch_exceptions=False)
    assert seen == [signal.SIG_DFL] and signal.getsignal(signal.SIGINT) is kept


def test_a_terminal_that_does_not_say_how_wide_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "0")
    assert "web" in output.draw_table(["name"], [["web"]])


def test_a_file_that_the_command_line_names_is_no_defect(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command
    @click.option("--out")
    def verb(out: str) -> None:
        open(out, "w", encoding="utf-8").close()
        open("/nowhere/of-ours", encoding="utf-8").close()

    monkeypatch.setattr(cli.VerbGroup, "get_command", lambda *_: verb)
    monkeypatch.setattr(cli, "verb_table", lambda: {"verb": None})
    for words in (["--out", "/nowhere/x"], ["--out=/nowhere/x"]):
        assert cli.run(["verb", *words]) == cli.BAD_INPUT
        assert capfd.readouterr().err == "/nowhere/x: No such file or directory\n"
    with pytest.raises(FileNotFoundError):
        cli.run(["verb", "--out", "/dev/null"])
