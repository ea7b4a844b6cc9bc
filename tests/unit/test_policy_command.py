# SPDX-License-Identifier: Apache-2.0
"""`palisade test` and `palisade init`: the example as a newcomer meets it, exit statuses, reports, mutations."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml  # noqa: F401 (see below)
import yamlcore  # noqa: F401
from click.testing import CliRunner

# pytester forgets what a run inside imported; compiled modules bear to be imported once only.
import dfw.policytest.replays
import dfw.policytest.session  # noqa: F401
from dfw import errors
from dfw.init import example_files, init
from dfw.policytest import command, coverage
from dfw.schema import schema_files

pytest_plugins = ["pytester"]
SHOP = Path(__file__).resolve().parents[2] / "examples" / "shop"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def try_it(tmp_path: Path) -> Any:
    """A copy of the example, and `palisade` run in it without other pytest plugins (which are slow to import)."""
    folder = tmp_path / "shop"
    shutil.copytree(SHOP, folder, ignore=shutil.ignore_patterns("__pycache__"))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "COLUMNS": "200"}
        words = [sys.executable, "-m", "dfw", *arguments]
        return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    run.folder = folder  # type: ignore[attr-defined]
    return run


def edit(folder: Path, old: str, new: str) -> int:
    """Change the policy; returns the line where."""
    path = folder / "policy.yaml"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    return text[: text.index(old)].count("\n") + 1


def test_a_newcomers_try(try_it: Any) -> None:
    """Take examples/shop, change one rule, see the failing test name the packet and the rule."""
    line = edit(try_it.folder, "{id: app-to-db, source_groups: [app]", "{id: app-to-db, source_groups: [shop]")
    done = try_it("test")
    assert done.returncode == 1, done.stderr
    shown = done.stdout
    assert "test_shop.py::test_db_is_reached_only_from_app - AssertionError: " in shown
    where = f"allowed by shop/rules/app-to-db (policy.yaml:{line})"
    assert f"web-1 (10.1.1.11) -> db-1 (10.1.3.11), tcp/3306: expected denied, but it is {where}" in shown
    assert "group shop > web: machine web-1 has the tag app|web (Tag EQUALS app|web)" in shown
    assert "matrix.csv: " in shown and "rows differ" in shown


def test_the_example_as_it_is(try_it: Any) -> None:
    names = ["coverage.json", "coverage.html", "coverage.txt"]
    reports = [word for name in names for word in ("--coverage-report", name)]
    done = try_it("test", ".", "--mutate", "-q", "-o", "cache_dir=.cache", *reports)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "policy.yaml, inventory.yaml: 13 of 13 rules decided an assertion (100 %)" in done.stdout
    report = json.loads((try_it.folder / "coverage.json").read_text())
    jsonschema.Draft202012Validator(json.loads(schema_files()["test"].read_text())).validate(report)
    assert report["coverage"] == {"rules": 13, "covered": 13, "percent": 100.0}
    (policy,) = report["policies"]
    rows = {row["rule_path"].rpartition("/")[2]: row for row in policy["rules"]}
    assert (rows["app-to-db"]["file"], rows["app-to-db"]["line"], rows["app-to-db"]["action"]) == (
        "policy.yaml",
        88,
        "ALLOW",
    )
    assert "test_shop.py::test_db_is_reached_only_from_app" in rows["app-to-db"]["tests"]
    mutations = report["mutations"]
    assert mutations["made"] == mutations["noticed"] + len(mutations["unnoticed"]) + len(mutations["equivalent"]) > 50
    # What README.md of the example walks through.
    (shown,) = [row for row in mutations["unnoticed"] if row["witness"]]
    assert (shown["rule_path"].rpartition("/")[2], shown["change"]) == ("inspect", "sources: jump-hosts becomes ANY")
    assert shown["witness"] == "203.0.113.1 -> web-3 (10.1.1.13), tcp/22 is denied (DROP), and would be allowed"
    assert f"{shown['file']}:{shown['line']}  quarantine/rules/inspect: {shown['change']}" in done.stdout
    page = (try_it.folder / "coverage.html").read_text()
    assert "13 of 13" in page and "app-to-db" in page and shown["change"] in page
    assert "14 passed" in (try_it.folder / "coverage.txt").read_text()
    assert (try_it.folder / ".cache").is_dir()  # pytest's own -o reached it


def test_a_bad_policy_is_2(try_it: Any) -> None:
    edit(
        try_it.folder, "source_groups: [app], destination_groups: [db]", "source_groups: [ap], destination_groups: [db]"
    )
    done = try_it("test", "-q", "-o", "json")
    assert done.returncode == 2
    report = json.loads(done.stdout)
    assert report["tests"]["errors"] == 14 and report["status"] == 2
    assert "policy.yaml:88" in report["outcomes"][0]["message"]
    assert "14 errors" in done.stderr  # pytest's own words


def test_init_makes_an_example_that_passes(try_it: Any) -> None:
    done = try_it("init", "mine")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "now: cd mine && palisade test"
    made = {path.name for path in (try_it.folder / "mine").iterdir()}
    assert {
        "policy.yaml",
        "inventory.yaml",
        "palisade.toml",
        "test_shop.py",
        "test_traffic.py",
        "matrix.csv",
        "README.md",
    } <= made
    assert try_it("test", "mine", "-q", "-k", "database or matrix or whom").returncode == 0


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    runner = CliRunner()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "policy.yaml").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("there", "file"):
        done = runner.invoke(init, [str(tmp_path / name)], standalone_mode=False)
        assert done.return_value == 2 and "is there already" in done.output
    assert (tmp_path / "there" / "policy.yaml").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert runner.invoke(init, [str(tmp_path / "empty")], standalone_mode=False).return_value == 0
    assert runner.invoke(init, [str(tmp_path / "file" / "x")], standalone_mode=False).return_value == 2
    names = {item.name for item in example_files()}
    assert names == {path.name for path in SHOP.iterdir() if path.is_file()}


# -- the session plugin, in this process


def session(pytester: pytest.Pytester, text: str, *arguments: str) -> pytest.RunResult:
    pytester.makepyfile(test_it=text)
    return pytester.runpytest_inprocess("-p", "dfw.policytest.session", "-p", "no:cacheprovider", *arguments)


SMALL = """
resource_type: SecurityPolicy
id: p
category: Application
rules:
  - {id: dns, destination_groups: [10.1.0.1], services: [DNS-UDP], action: ALLOW, direction: IN}
  - {id: same, destination_groups: [10.1.0.1], services: [DNS-UDP], action: ALLOW}
  - {id: off, action: ALLOW, disabled: true}
  - {id: rest, destination_groups: [10.1.0.0/24], action: DROP}
---
apiVersion: palisade.internal/v1alpha1
kind: Inventory
ports: [{name: a, ips: [10.1.0.1]}, {name: b, ips: [10.1.0.2]}]
"""


@pytest.fixture
def small(pytester: pytest.Pytester) -> pytest.Pytester:
    """A small policy and its palisade.toml."""
    (pytester.path / "p.yaml").write_text(SMALL.strip())
    (pytester.path / "palisade.toml").write_text("[test]\npolicy = ['p.yaml']\n")
    return pytester


def test_rules_that_never_decided(small: pytest.Pytester) -> None:
    done = session(small, "def test_it(policy): policy.assert_denied('a', 'b', 'tcp/80')")
    done.stdout.fnmatch_lines(
        ["*rule coverage*", "p.yaml: 1 of 3 rules decided*(33 %)", "never decided:", "  p.yaml:5  p/rules/dns  ALLOW"]
    )
    done.stdout.fnmatch_lines(["disabled: p/rules/off"])


def test_failing_assertions_cover_nothing(small: pytest.Pytester) -> None:
    done = session(small, "def test_it(policy): policy.assert_allowed('a', 'b', 'tcp/80')")
    done.stdout.fnmatch_lines(["p.yaml: 0 of 3 rules decided*"])


def test_mutations_told_apart(small: pytest.Pytester) -> None:
    done = session(
        small,
        """
        def test_it(policy):
            policy.assert_denied("a", "b", "tcp/80", by="rest")
            policy.assert_allowed("b", "a", "udp/53")
        """,
        "--palisade-mutate",
    )
    done.stdout.fnmatch_lines(
        [
            "*mutations*",
            "no test notices:",
            "  p.yaml:5  p/rules/dns: services: DNS-UDP (udp 53) becomes ANY",
            "      * -> a (10.1.0.1), * is denied (DROP), and would be allowed",
            "equivalent*",
            "  p.yaml:5  p/rules/dns: dropped",
        ]
    )
    done.stdout.no_fnmatch_line("*p/rules/off: *")
    done.stdout.fnmatch_lines(["  p.yaml:8  p/rules/rest: destinations: 10.1.0.0/24 becomes ANY"])
    done.stdout.no_fnmatch_line("*p/rules/rest: dropped*")


def test_mutations_need_tests_that_pass(small: pytest.Pytester) -> None:
    done = session(small, "def test_it(policy): policy.assert_allowed('a', 'b', 'tcp/80')", "--palisade-mutate")
    done.stdout.fnmatch_lines(["mutations need tests that pass"])


def test_tests_that_rules_alone_do_not_decide_are_run_again(small: pytest.Pytester) -> None:
    text = """
        def test_it(policy):
            policy.assert_denied("a", "b", "icmp/13", by="rest")
            policy.assert_denied("a", "b", "icmp/3/1") if False else None
        """
    done = session(small, text, "--palisade-mutate")
    done.assert_outcomes(passed=1)
    done.stdout.fnmatch_lines(["*mutations*", "no test notices:"])
    done.stdout.no_fnmatch_line("*p/rules/rest: dropped*")
    done.stdout.no_fnmatch_line("*p/rules/rest: DROP becomes ALLOW*")


def test_a_test_that_expects_a_failure_is_run_again(small: pytest.Pytester) -> None:
    text = """
        import pytest
        def test_it(policy):
            with pytest.raises(AssertionError):
                policy.assert_allowed("a", "b", "tcp/80")
        """
    done = session(small, text, "--palisade-mutate")
    done.assert_outcomes(passed=1)
    done.stdout.fnmatch_lines(["*mutations*", "*no test notices:"])
    done.stdout.no_fnmatch_line("*p/rules/rest: dropped*")


def test_collect_only_judges_nothing(small: pytest.Pytester) -> None:
    done = session(small, "def test_it(policy): pass", "--palisade-mutate", "--collect-only")
    assert done.ret == 0
    done.stdout.no_fnmatch_line("*mutations*")


# -- the command line


def invoke(*arguments: str) -> click.testing.Result:
    return CliRunner().invoke(command.test, arguments, standalone_mode=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--coverage-report", "x.xml"), "must end in one of .json, .html, .txt"),
        (("-o", "xml"), "one of table, json, yaml"),
        (("--mutate", "-n", "2"), "leave out -n"),
        (("--default-action", "PASS"), "'PASS' is not one of"),
    ],
)
def test_usage(arguments: tuple[str, ...], message: str) -> None:
    done = invoke(*arguments)
    assert isinstance(done.exception, click.UsageError)
    assert message in str(done.exception)


def test_what_reaches_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    report = {"status": 0}
    monkeypatch.setattr(command, "run_pytest", lambda words, quiet: seen.extend(words) or (0, report))
    done = invoke(
        "a.py",
        "-k",
        "one and two",
        "-x",
        "--policy",
        "p.yaml",
        "-o",
        "a=b",
        "--at",
        "2026-01-01",
        "--staged",
        "--tb=no",
        "-o",
        "yaml",
    )
    assert done.return_value == 0 and done.output == "status: 0\n"
    own = len(command._PLUGINS)
    assert seen[own:] == [
        "--palisade-policy=p.yaml",
        "--palisade-at=2026-01-01",
        "--palisade-staged",
        "a.py",
        "-k",
        "one and two",
        "-x",
        "--tb=no",
        "-o",
        "a=b",
    ]


def test_settings_of_this_folder_do_not_go_before_those_beside_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(command, "run_pytest", lambda words, quiet: seen.extend(words) or (0, {}))
    options = {"default_map": {"policy": ["p.yaml"], "staged": True, "mutate": True}, "standalone_mode": False}
    assert CliRunner().invoke(command.test, [], **options).return_value == 0
    assert seen == [*command._PLUGINS, "--palisade-mutate"]
    seen.clear()
    environment = {"PALISADE_TEST_POLICY": "q.yaml"}
    options["auto_envvar_prefix"] = "PALISADE_TEST"
    assert CliRunner().invoke(command.test, [], env=environment, **options).return_value == 0
    assert "--palisade-policy=q.yaml" in seen


def test_a_report_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    report = {"tests": {}, "policies": [], "mutations": None}
    monkeypatch.setattr(command, "run_pytest", lambda *_, **__: (0, report))
    done = invoke("--coverage-report", str(tmp_path / "no" / "x.txt"))
    assert done.return_value == 2
    assert "No such file or directory" in done.output


@pytest.mark.parametrize(("code", "status"), [(0, 0), (1, 1), (2, 2), (3, 2), (4, 2), (5, 2)])
def test_exit_statuses(monkeypatch: pytest.MonkeyPatch, code: int, status: int) -> None:
    monkeypatch.setattr(pytest, "main", lambda *_, **__: pytest.ExitCode(code))
    assert command.run_pytest([])[0] == status


def test_without_pytest_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytest", None)
    with pytest.raises(errors.EnvironmentLacksError, match=r"pip install 'palisade-dfw\[test\]'"):
        command._check_pytest()


def test_coverage_of_several_processes() -> None:
    row = {"rule_path": "r", "default": False, "disabled": False}
    parts = [
        [{"files": ["p"], "rules": [{**row, "assertions": count, "tests": tests}]}]
        for count, tests in ((1, ["a"]), (2, ["b", "a"]))
    ]
    (policy,) = coverage.coverage_merge([*parts, []])
    assert (policy["rules"][0]["assertions"], policy["rules"][0]["tests"]) == (3, ["a", "b"])
    assert coverage.summary([]) == {"rules": 0, "covered": 0, "percent": None}
