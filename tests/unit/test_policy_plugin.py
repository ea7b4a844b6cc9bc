# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin, in runs of pytest inside the test: fixtures, markers, errors and failures, and what it imports."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml  # noqa: F401 (see below)
import yamlcore  # noqa: F401

# pytester forgets what a run inside imported; compiled modules bear to be imported once only.
import dfw.policytest.replays
import dfw.policytest.session  # noqa: F401
from scripts.demo import frames
from scripts.demo.files import write_pcap
from scripts.demo.hosts import read_hosts

pytest_plugins = ["pytester"]
SHOP = Path(__file__).resolve().parents[2] / "examples" / "shop"


@pytest.fixture
def shop(pytester: pytest.Pytester) -> pytest.Pytester:
    """A folder with the example's policy and its palisade.toml."""
    for name in ("policy.yaml", "inventory.yaml", "palisade.toml", "matrix.csv"):
        shutil.copy(SHOP / name, pytester.path)
    return pytester


def run(pytester: pytest.Pytester, text: str, *arguments: str) -> pytest.RunResult:
    pytester.makepyfile(test_it=text)
    return pytester.runpytest_inprocess("-p", "no:randomly", "-p", "no:cacheprovider", *arguments)


def test_nothing_of_ours_is_imported_before_a_fixture_is_used(tmp_path: Path) -> None:
    shown = (
        "import sys\ndef test_it():\n    names = [name for name in sys.modules if name.partition('.')[0] == 'dfw']\n"
    )
    (tmp_path / "test_it.py").write_text(shown + "    assert sorted(names) == ['dfw', 'dfw.pytest_plugin']\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "palisade", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_plugin_is_an_entry_point() -> None:
    from importlib.metadata import entry_points

    assert [point.value for point in entry_points(group="pytest11") if point.name == "palisade"] == [
        "dfw.pytest_plugin"
    ]


def test_failures_and_errors(shop: pytest.Pytester) -> None:
    done = run(
        shop,
        """
        def test_holds(palisade_policy):
            palisade_policy.assert_allowed("app-1", "db-1", "tcp/3306", by="shop/rules/app-to-db")
            palisade_policy.assert_matrix("matrix.csv")
        def test_fails(palisade_policy):
            palisade_policy.assert_denied("any", "db-1", "tcp/3306")
        def test_errors(palisade_policy):
            palisade_policy.assert_denied("web-1", "web-1", "tcp/3306")
        def test_errors_too(palisade_policy):
            palisade_policy.assert_denied("web-1", "db-1", "tcp/3306", by="shop/rules/rest")
        """,
    )
    done.assert_outcomes(passed=1, failed=1, errors=2)
    done.stdout.fnmatch_lines(["*ERROR at call of test_errors*", "*PolicyTestError: *expands to no pairs*"])
    done.stdout.fnmatch_lines(
        ["E *app-1 (10.1.2.11) -> db-1 *: expected denied, but it is allowed by shop/rules/app-to-db (policy.yaml:88)"]
    )
    # The traceback is the test's own line, not ours.
    for ours in ("*assertions.py*", "*question.py*", "*world = PolicySet*"):
        done.stdout.no_fnmatch_line(ours)


def test_short_names_are_those_of_palisade_test(shop: pytest.Pytester) -> None:
    text = "def test_it(policy, replay):\n    policy.assert_allowed('app-1', 'db-1', 'tcp/3306')"
    run(shop, text).assert_outcomes(errors=1)
    run(shop, text, "-p", "dfw.policytest.session").assert_outcomes(passed=1)


def test_a_marker_names_the_files(shop: pytest.Pytester) -> None:
    (shop.path / "palisade.toml").unlink()
    done = run(
        shop,
        """
        import pytest
        pytestmark = pytest.mark.palisade_policy("policy.yaml", "inventory.yaml")
        def test_module(palisade_policy):
            palisade_policy.assert_allowed("web-1", "outside:192.0.2.1", "tcp/80")
        @pytest.mark.palisade_policy("policy.yaml", "inventory.yaml", default_action="DROP")
        def test_own(palisade_policy):
            palisade_policy.assert_denied("web-1", "outside:192.0.2.1", "tcp/80")
        """,
        "--strict-markers",
    )
    done.assert_outcomes(passed=2)


def test_without_a_policy_it_errors(pytester: pytest.Pytester) -> None:
    done = run(pytester, "def test_it(palisade_policy): pass")
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["*no policy is named for the tests in*palisade.toml*"])


def test_a_bad_policy_is_shown_with_its_places(shop: pytest.Pytester) -> None:
    (shop.path / "policy.yaml").write_text("resource_type: Group\nid: g\nexpresion: []\n")
    done = run(shop, "def test_it(palisade_policy): pass")
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["policy.yaml:3:*expresion*"])
    done.stdout.no_fnmatch_line("*Traceback*")


def test_a_setting_that_means_nothing_errors(shop: pytest.Pytester) -> None:
    """Else a misspelt default action would let every test pass."""
    from dfw.policytest.command import test as command
    from dfw.policytest.settings import NAMES

    options = [max(item.opts, key=len) for item in command.params if item.param_type_name == "option"]
    assert set(NAMES) == {option.lstrip("-").replace("-", "_") for option in options}
    (shop.path / "palisade.toml").write_text('[test]\npolicy = ["policy.yaml"]\ndefault-acton = "DROP"\n')
    done = run(shop, "def test_it(palisade_policy): pass")
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["palisade.toml: *there is no setting 'default_acton'; did you mean default_action?"])


def capture_write(folder: Path) -> None:
    """web-1 asks app-1 on 8080 and is answered; web-1 asks db-1 and is refused; an answer that nobody asked for."""
    hosts = read_hosts()
    web, app, db = hosts["web-1"], hosts["app-1"], hosts["db-1"]
    told = [
        (web, app, (40001, 8080), frames.SYN, 1000, 0),
        (app, web, (8080, 40001), frames.SYN | frames.ACK, 5000, 1001),
        (web, app, (40001, 8080), frames.ACK, 1001, 5001),
        (web, db, (40002, 3306), frames.SYN, 1000, 0),
        (app, db, (40003, 3306), frames.SYN | frames.ACK, 1000, 7),
    ]
    packets = []
    for number, (source, target, ports, flags, seq, ack) in enumerate(told):
        body = frames.tcp(source.v4, target.v4, ports, flags, seq, ack, b"")
        (packet,) = frames.packets(source.v4, target.v4, frames.TCP, body, number)
        packets.append((1_700_000_000 * 10**9 + number, frames.frame(source, packet)))
    write_pcap(folder / "shop.pcap", packets)


def test_replays(shop: pytest.Pytester) -> None:
    capture_write(shop.path)
    done = run(
        shop,
        """
        import pytest
        @pytest.fixture
        def run(palisade_replay):
            return palisade_replay("shop.pcap")
        def test_holds(run):
            run.assert_pass("web-1", "group:app", "tcp/8080")
            run.assert_cut("group:web", "db-1", "tcp/3306", by="shop/rules/shop-to-db")
            run.assert_packet(1, "ALLOW", by="web-to-app", reason="match")
            run.assert_packet(4, "REJECT", by="shop-to-db")
            run.assert_hits("web-to-app")
            run.assert_hits("web-to-app", 2)
            run.assert_hits("rest", 0)
            run.assert_drops({"match": 1, "tcp-strict": 1})
            assert len(run.packets) == 5 and len(run.conversations) == 3
        def test_cut(run):
            run.assert_cut("web-1", "app-1", "tcp/8080")
        def test_pass(run):
            run.assert_pass("web-1", "db-1", "tcp/3306")
        def test_packet(run):
            run.assert_packet(4, "DROP")
        def test_hits(run):
            run.assert_hits("app-to-db", 9)
        def test_drops(run):
            run.assert_drops({"match": 2})
        def test_nobody(run):
            run.assert_pass("ops-1", "db-1", "tcp/22")
        def test_other_rule(run):
            run.assert_cut("web-1", "db-1", "tcp/3306", by="rest")
        def test_no_file(palisade_replay):
            palisade_replay("none.pcap")
        def test_no_such_checksums(palisade_replay):
            palisade_replay("shop.pcap", checksums="verfiy")
        def test_no_packet(run):
            run.assert_packet(99, "DROP")
        """,
    )
    done.assert_outcomes(passed=1, failed=5, errors=5)
    done.stdout.fnmatch_lines(
        [
            "E *shop.pcap packet 4 (10.1.1.11 -> 10.1.3.11, tcp/3306): expected to pass, but it is REJECT by "
            "shop/rules/shop-to-db (policy.yaml:90) at web-1 (OUT): match",
            "E *group shop > web: machine web-1 has the tag app|web (Tag EQUALS app|web)",
        ]
    )
    done.stdout.fnmatch_lines(["E *tcp-strict *0 *1", "E *for example *"])
    done.stdout.fnmatch_lines(["*no conversation in the captures goes from ops-1 to db-1*"])


def test_xdist_brings_coverage_home(shop: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    shop.makepyfile(
        test_it="""
        def test_one(policy):
            policy.assert_allowed("app-1", "db-1", "tcp/3306")
        def test_two(policy):
            policy.assert_denied("web-1", "db-1", "tcp/3306")
        def test_three(policy):
            policy.assert_denied("web-1", "web-1", "tcp/3306")
        """
    )
    done = subprocess.run(
        [sys.executable, "-m", "dfw", "test", "-p", "xdist.plugin", "-n", "1", "-p", "no:cacheprovider", "-o", "json"],
        cwd=shop.path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    import json

    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert report["tests"] == {"passed": 2, "failed": 0, "errors": 1, "skipped": 0}
    assert report["coverage"] == {"rules": 13, "covered": 2, "percent": 15.4}
