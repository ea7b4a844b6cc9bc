# SPDX-License-Identifier: Apache-2.0
"""The command line's frame: the table of verbs, settings, exit statuses, and the verbs that tell of the build."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import click
import jsonschema
import pytest
from click.testing import CliRunner

from dfw import cli, doctor, errors, logs, output, verbs
from dfw.schema import schema_files
from dfw.settings import with_settings

Run = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).resolve().parent.parent.parent


def loaded_by(*arguments: str) -> set[str]:
    """Names of the modules that a command line has imported when it ends."""
    code = (
        "import sys; from dfw.cli import run; status = run(sys.argv[1:]); "
        "print('\\n'.join(sys.modules), file=sys.stderr); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_no_argument_prints_help(palisade: Run) -> None:
    bare, asked = palisade(), palisade("--help")
    assert bare.returncode == asked.returncode == 0
    assert bare.stdout == asked.stdout
    for verb in cli.verb_table():
        assert f"\n  {verb} " in asked.stdout


def test_help_imports_no_verb() -> None:
    loaded = loaded_by("--help")
    verbs = {point.module for point in cli.verb_table().values()}
    assert not loaded & verbs
    assert not loaded & {"numpy", "numba", "pyarrow", "pydantic", "rich", "structlog", "yaml", "_palisade_core"}
    assert not loaded & {"importlib.metadata", "logging", "email.message", "zipfile"}  # slower than all the rest


def test_check_imports_no_core() -> None:
    loaded = loaded_by("check", str(ROOT / "examples" / "shop" / "policy.yaml"))
    assert "yaml" in loaded
    assert not loaded & {"importlib.metadata", "numpy", "pyarrow", "pydantic", "rich", "structlog", "_palisade_core"}


def test_verb_table_is_what_the_installed_packages_say() -> None:
    found = {point.name: point.value for point in entry_points(group=verbs.VERB_GROUP)}
    assert {name: verb.value for name, verb in verbs.verb_table().items()} == found


def test_verb_table_reads_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, text in (
        ("a/one-1.0.dist-info", "[console_scripts]\nx = y:z\n\n[palisade.verbs]\nlab = lab.cmd:lab\n# no = no:no\n"),
        ("b/two.egg-info", "[palisade.verbs]\nlab = other:lab\nagent = agent:run [extra]\n[other]\nx = y:z\n"),
        ("b/three-2.dist-info", "[other]\nx = y:z\n"),
    ):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "entry_points.txt").write_text(text)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "none"), str(tmp_path / "a"), str(tmp_path / "b")])
    table = verbs.verb_table.__wrapped__()
    assert [tuple(verb) for verb in table.values()] == [("agent", "agent:run"), ("lab", "lab.cmd:lab")]


def test_verb_summaries_are_docstrings() -> None:
    for verb in verbs.verb_table().values():
        tree = ast.parse(Path(verbs.verb_source(verb) or "").read_text())
        own = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == verb.attr]
        expected = (ast.get_docstring(own[0] if own else tree) or "").splitlines()[0]
        assert verbs.verb_summary(verb) == expected


def test_version_imports_nothing_heavy() -> None:
    assert not loaded_by("version") & {"numba", "pyarrow", "pydantic", "rich", "structlog"}


@pytest.mark.parametrize("verb", sorted(cli.verb_table()))
def test_verb_has_help_with_an_example(palisade: Run, verb: str) -> None:
    done = palisade(verb, "--help")
    assert done.returncode == 0, done.stderr
    assert "Example" in done.stdout
    assert f"palisade {verb}" in done.stdout


def test_verb_without_its_module_breaks_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {
        "gone": verbs.Verb("gone", "dfw.no_such_module:gone"),
        "far": verbs.Verb("far", "no_such_package.far:far"),
        "version": cli.verb_table()["version"],
    }
    monkeypatch.setattr(cli, "verb_table", lambda: table)
    runner = CliRunner()
    shown = runner.invoke(cli.palisade, ["--help"])
    assert shown.exit_code == 0
    assert shown.output.count("(not part of this installation)") == 2
    assert runner.invoke(cli.palisade, ["version"]).exit_code == 0
    called = runner.invoke(cli.palisade, ["gone"])
    assert called.exit_code == cli.BAD_INPUT
    assert "dfw.no_such_module:gone is missing" in called.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["versoin"], "There is no verb 'versoin'. Did you mean version?"),
        (["--no-such"], "No such option"),
        (["version", "-o", "xml"], "is not one of"),
        (["schema", "nothing"], "has no schema"),
        (["schema", "replay-verdict"], "'replay-verdict' has no schema"),
        (["schema", "bench", "nothing"], "'bench nothing' has no schema"),
    ],
)
def test_usage_errors_are_2_and_say_what_is_wrong(palisade: Run, arguments: list[str], message: str) -> None:
    done = palisade(*arguments)
    assert done.returncode == cli.BAD_INPUT
    assert message in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.PolicyError.at("shop.yaml", 3, 5, "rules[0]", "no such group"), cli.BAD_INPUT),
        (errors.UnsupportedError("nftables", "TCP strict"), cli.BAD_INPUT),
        (errors.EnvironmentLacksError("pyarrow", "pip install 'palisade-dfw[parquet]'"), cli.LACKING),
        (click.FileError("x.yaml", "no such file"), cli.BAD_INPUT),
        (click.Abort(), cli.INTERRUPTED),
        (KeyboardInterrupt(), cli.INTERRUPTED),
    ],
)
def test_errors_have_their_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, status: int
) -> None:
    def main(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(cli.palisade, "main", main)
    assert cli.run([]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    if isinstance(error, Exception) and str(error):
        assert str(error).splitlines()[0] in captured.err or "no such file" in captured.err


def test_a_defect_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def main(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli.palisade, "main", main)
    with pytest.raises(ZeroDivisionError):
        cli.run([])


def test_closed_pipe_is_silent() -> None:
    command = f"'{sys.executable}' -m dfw --help | true"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize("words", [["show", "nothing"], ["check", "no-file"], ["explain"]])
def test_who_reads_messages_may_leave_too(words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-m", "dfw", *words], stderr=writing, check=False)
    os.close(writing)
    assert done.returncode == cli.CLOSED


@pytest.mark.parametrize("words", ["--help", "schema replay", "version -o json"])
def test_a_full_disk_is_no_answer(words: str) -> None:
    command = f"'{sys.executable}' -m dfw {words} > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (cli.LACKING, "cannot write: No space left on device\n")


@pytest.mark.parametrize(
    ("redirected", "status"),
    [("version >&-", cli.DONE), ("check - <&-", cli.DONE), ("check no-file 2>&-", cli.BAD_INPUT)],
)
def test_streams_may_be_closed(redirected: str, status: int) -> None:
    command = f"'{sys.executable}' -m dfw {redirected}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, "")


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run a verb that prints its option `depth`, with settings from files; returns what it printed."""

    @click.command
    @click.option("--depth", type=int, default=1)
    def verb(depth: int) -> None:
        click.echo(depth)

    monkeypatch.setattr(cli.VerbGroup, "get_command", lambda *_: verb)
    monkeypatch.setattr(cli, "verb_table", lambda: {"verb": None})

    def run(*arguments: str, system: str | None = None, local: str | None = None, folder: Path) -> str:
        paths = []
        for name, text in (("system.toml", system), ("palisade.toml", local)):
            paths.append(folder / name)
            if text is not None:
                paths[-1].write_text(text)
        result = CliRunner().invoke(
            cli.palisade, ["verb", *arguments], default_map=cli.load_settings(tuple(paths)), prog_name="palisade"
        )
        assert result.exit_code == 0, result.output
        return result.output.strip()

    return run


def test_settings_precedence(show: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system, local = "[verb]\ndepth = 2\n", "[verb]\ndepth = 3\n"
    assert show(folder=tmp_path) == "1"
    assert show(folder=tmp_path, system=system) == "2"
    assert show(folder=tmp_path, system=system, local=local) == "3"
    monkeypatch.setenv("PALISADE_VERB_DEPTH", "4")
    assert show(folder=tmp_path, system=system, local=local) == "4"
    assert show("--depth", "5", folder=tmp_path, system=system, local=local) == "5"


def test_settings_merge_table_by_table(tmp_path: Path) -> None:
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    first.write_text("log-format = 'json'\nother = 1\n[replay]\nworkers = 2\nbatch = 7\n")
    second.write_text("other = {deep = 1}\n[replay]\nworkers = 1\n")
    assert cli.load_settings((first, tmp_path / "absent.toml", second)) == {
        "log_format": "json",
        "other": {"deep": 1},
        "replay": {"workers": 1, "batch": 7},
    }


def test_settings_that_are_not_toml_are_bad_input(palisade: Run, tmp_path: Path) -> None:
    (tmp_path / "palisade.toml").write_text("[verb\n")
    done = palisade("version", cwd=tmp_path)
    assert done.returncode == cli.BAD_INPUT
    assert "palisade.toml" in done.stderr


POLICY = "resource_type: SecurityPolicy\nid: p\ncategory: Application\nrules: [{id: r, action: DROP}]\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A policy and two workloads."""
    ports = "ports: [{name: a, ips: [10.0.0.1]}, {name: b, ips: [10.0.0.2]}]"
    (tmp_path / "p.yaml").write_text(POLICY)
    (tmp_path / "i.yaml").write_text(f"apiVersion: palisade.internal/v1alpha1\nkind: Inventory\n{ports}\n")
    return tmp_path


@pytest.mark.parametrize("files", ["['p.yaml', 'i.yaml']", "'p.yaml'"])
def test_settings_are_called_as_options_are(palisade: Run, folder: Path, files: str) -> None:
    """Whatever the function calls its argument: `--policy`, so `policy` in the file, and PALISADE_MATRIX_POLICY."""
    (folder / "palisade.toml").write_text(f"output = 'json'\n[matrix]\npolicy = {files}\ninventory = ['i.yaml']\n")
    done = palisade("matrix", "--ports", "udp/53", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert {row["by"] for row in json.loads(done.stdout)} == {
        None,
        "/infra/domains/default/security-policies/p/rules/r",
    }


def test_variables_are_called_as_options_are(palisade: Run, folder: Path) -> None:
    given = {"PALISADE_MATRIX_POLICY": "p.yaml", "PALISADE_MATRIX_INVENTORY": "i.yaml", "PALISADE_OUTPUT": "json"}
    done = palisade("matrix", cwd=folder, env={**os.environ, **given})
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 4
    own = palisade("matrix", cwd=folder, env={**os.environ, **given, "PALISADE_MATRIX_OUTPUT": "yaml"})
    assert own.stdout.startswith("- from: a\n")
    assert palisade("matrix", "-o", "table", cwd=folder, env={**os.environ, **given}).stdout.startswith("tcp/80")


def test_a_setting_of_a_group_is_for_its_commands(palisade: Run, tmp_path: Path) -> None:
    (tmp_path / "palisade.toml").write_text("[lab]\nname = 'one'\n[lab.exec]\nname = 'two'\n")
    environment = {**os.environ, "PALISADE_RUN": str(tmp_path)}
    assert "no lab one" in palisade("lab", "status", cwd=tmp_path, env=environment).stderr
    assert "no lab two" in palisade("lab", "exec", "pod", "true", cwd=tmp_path, env=environment).stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[matrix]\nportz = 'udp/53'\n", "[matrix]: there is no setting 'portz'; did you mean ports?"),
        ("[matrx]\n", "at the top: there is no setting 'matrx'; did you mean matrix?"),
        ("workers = 2\n", "at the top: there is no setting 'workers'"),
        ("matrix = 2\n", "the settings of matrix are a table, [matrix]"),
        ("output = 'xml'\n", "'xml' is not one of"),
    ],
)
def test_settings_that_mean_nothing_are_bad_input(palisade: Run, folder: Path, text: str, says: str) -> None:
    (folder / "palisade.toml").write_text(text)
    done = palisade("matrix", "--policy", "p.yaml", "--policy", "i.yaml", cwd=folder)
    assert done.returncode == cli.BAD_INPUT
    assert says in done.stderr


def check_schema(verb: str, text: str) -> None:
    """Assert that a verb's JSON output is what its schema says."""
    schema = json.loads(schema_files()[verb].read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(json.loads(text))


def test_version_matches_its_schema(palisade: Run) -> None:
    done = palisade("version", "-o", "json")
    assert done.returncode == 0
    check_schema("version", done.stdout)
    core = json.loads(done.stdout)["core"]
    assert core["target"] in {"x86-64", "aarch64"}
    assert len(core["layout"]) == 16
    assert core["compiler"] in palisade("version").stdout


def test_version_outside_a_checkout_has_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from dfw import version

    monkeypatch.setattr(version, "__file__", str(tmp_path / "dfw" / "version.py"))
    assert version.read_commit() is None


def test_doctor_finds_what_is_required_here(palisade: Run) -> None:
    done = palisade("doctor", "-o", "json")
    check_schema("doctor", done.stdout)
    data = json.loads(done.stdout)
    assert done.returncode == 0, data
    assert data["ok"] is True
    names = {row["requirement"] for row in data["requirements"]}
    assert {"packet core", "Python package cffi", "numba"} <= names
    assert all(row["needed_by"] and row["get"] for row in data["requirements"])


def test_doctor_fails_when_a_required_thing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "read_core", lambda: "gcc, x86-64")
    monkeypatch.setattr(doctor, "runtime_packages", lambda: ["no-such-distribution"])
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    runner = CliRunner()
    result = runner.invoke(doctor.doctor, ["-o", "json"], standalone_mode=False)
    assert result.return_value == cli.LACKING
    data = json.loads(result.stdout)
    missing = {row["requirement"] for row in data["requirements"] if row["found"] is None and row["required"]}
    assert missing == {"Python package no-such-distribution"}
    assert "MISSING" in runner.invoke(doctor.doctor, [], standalone_mode=False).stdout


def test_schemas_are_schemas_of_verbs(palisade: Run) -> None:
    listed = palisade("schema").stdout.split()
    assert listed
    for name in listed:
        # `bench-NAME.json` and the like belong to a verb with several shapes.
        assert name.split("-")[0] in cli.verb_table()
        jsonschema.Draft202012Validator.check_schema(json.loads(palisade("schema", name).stdout))


def test_schema_takes_a_command_as_it_is_written(palisade: Run) -> None:
    assert palisade("schema", "lab", "status").stdout == palisade("schema", "lab-status").stdout
    assert palisade("schema", "lab status").stdout == palisade("schema", "lab-status").stdout
    assert palisade("schema", "bench", "conntrack").stdout == palisade("schema", "bench").stdout
    assert palisade("schema", "lab", "up").returncode == cli.BAD_INPUT


def test_help_of_bench_imports_no_lab() -> None:
    assert not {name for name in loaded_by("bench", "--help") if name.startswith(("overlay.", "numpy"))}


def test_version_is_an_option_too(palisade: Run) -> None:
    assert palisade("--version").stdout.splitlines() == palisade("version").stdout.splitlines()[:1]


SIGNS = [("bash", "complete -o"), ("zsh", "#compdef palisade"), ("fish", "complete ")]


@pytest.mark.parametrize(("shell", "sign"), SIGNS)
def test_completion_script(palisade: Run, shell: str, sign: str) -> None:
    done = palisade("completion", shell)
    assert done.returncode == 0
    assert sign in done.stdout
    assert "_PALISADE_COMPLETE" in done.stdout


def test_completion_completes_verbs(palisade: Run) -> None:
    environment = {**os.environ, "_PALISADE_COMPLETE": "bash_complete", "COMP_WORDS": "palisade ver", "COMP_CWORD": "1"}
    assert palisade(env=environment).stdout.split() == ["plain,version"]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_log_lines(capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    logs.configure(verbosity=1, log_format=log_format)
    try:
        logger = logs.get_logger("test")
        logger.debug("hidden")
        logger.info("shown", packets=7)
    finally:
        logs.configure()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hidden" not in captured.err
    if log_format == "json":
        line = json.loads(captured.err)
        assert (line["event"], line["packets"], line["level"], line["logger"]) == ("shown", 7, "info", "test")
    else:
        assert "shown" in captured.err
        assert "\x1b" not in captured.err


@pytest.mark.parametrize(("words", "shown"), [([], set()), (["-v"], {"said"}), (["-vv"], {"said", "whispered"})])
def test_verbosity_behind_the_verb(capsys: pytest.CaptureFixture[str], words: list[str], shown: set[str]) -> None:
    @click.command()
    def speak() -> None:
        logger = logs.get_logger("test")
        logger.info("said")
        logger.debug("whispered")

    try:
        with_settings(speak).main(words, standalone_mode=False)
    finally:
        logs.configure()
    lines = capsys.readouterr().err
    assert {word for word in ("said", "whispered") if word in lines} == shown


def test_table_is_plain_when_piped() -> None:
    text = output.render_table(["name", "hits"], [("web", 12), ("a-longer-name", None)])
    assert text == "NAME           HITS\nweb            12\na-longer-name"


def test_json_and_yaml_carry_the_same(palisade: Run) -> None:
    import yaml

    as_yaml, as_json = (palisade("version", "-o", form).stdout for form in ("yaml", "json"))
    assert yaml.safe_load(as_yaml) == json.loads(as_json)
