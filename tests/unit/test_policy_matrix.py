# SPDX-License-Identifier: Apache-2.0
"""Matrix files of policy tests: rows, grids and JSON, what differs side by side, and what proves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfw.policytest.assertions import PolicyUnderTest
from dfw.policytest.errors import PolicyTestError
from tests.unit.test_policy_assertions import under_test, written


@pytest.fixture(scope="module")
def shop() -> PolicyUnderTest:
    return under_test()


def test_matrix_of_rows(shop: PolicyUnderTest, tmp_path: Path) -> None:
    here = PolicyUnderTest(shop._worlds, shop._subject, "test_it", tmp_path)
    good = (
        "from,to,service,expected,by\ngroup:app,db-1,tcp/3306,allowed,app-to-db\nweb-1,db-1,tcp/3306,denied,\n# no\n\n"
    )
    written(tmp_path, good, "m.csv")
    here.assert_matrix("m.csv")
    written(tmp_path, good.replace("denied", "allowed").replace("allowed,app", "denied,app"), "m.csv")
    with pytest.raises(AssertionError) as caught:
        here.assert_matrix(tmp_path / "m.csv")
    lines = [line.split() for line in str(caught.value).splitlines()]
    assert lines[0][1:] == ["2", "of", "its", "2", "rows", "differ"]
    assert lines[2] == ["LINE", "FROM", "TO", "SERVICE", "EXPECTED", "OBSERVED"]
    assert lines[3][:9] == ["2", "group:app", "db-1", "tcp/3306", "denied", "by", "app-to-db", "allowed", "by"]
    assert lines[4][:7] == ["3", "web-1", "db-1", "tcp/3306", "allowed", "denied", "(REJECT)"]
    assert "machine app-1 has the tag app|app" in str(caught.value)


def test_matrix_as_grids(shop: PolicyUnderTest, tmp_path: Path) -> None:
    here = PolicyUnderTest(shop._worlds, shop._subject, "test_it", tmp_path)
    written(tmp_path, "tcp/3306, db-1, web-1\napp-1, ., X\nweb-1, denied,\n\ntcp/80,web-1\napp-1,allowed\n", "m.csv")
    here.assert_matrix("m.csv")
    written(tmp_path, "tcp/3306,db-1,web-1\napp-1,X,X\n", "m.csv")
    with pytest.raises(AssertionError, match="1 of its 2 rows differ"):
        here.assert_matrix("m.csv")


def test_matrix_as_json(shop: PolicyUnderTest, tmp_path: Path) -> None:
    here = PolicyUnderTest(shop._worlds, shop._subject, "test_it", tmp_path)
    rows = """[{"from": "app-1", "to": "db-1", "protocol": "TCP", "port": 3306, "allowed": %s},
    {"from": "db-1", "to": "db-1", "protocol": "TCP", "port": 3306, "allowed": true},
    {"from": "db-1", "to": "web-1", "protocol": "TCP", "port": 1, "allowed": null},
    {"from": "web-1", "to": "db-1", "protocol": "TCP", "port": 3306, "expected": "denied"}]"""
    written(tmp_path, rows % "true", "m.json")
    here.assert_matrix("m.json")
    written(tmp_path, rows % "false", "m.json")
    with pytest.raises(AssertionError, match="1 of its 2 rows differ"):
        here.assert_matrix("m.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expands to no pairs: it has no rows"),
        ("tcp/80,web-1\n", "expands to no pairs"),
        ("tcp/80,web-1\napp-1,maybe\n", "m.csv:2: 'maybe' is neither"),
        ("from,to,expected\n", "columns service are missing"),
        ("tcp/80,web-1\napp-1,.,X\n", "3 cells under 2 columns"),
        ("tcp/80,wbe-1\napp-1,.\n", "m.csv:2: .*did you mean web-1"),
        ("tcp/80,web-1\nweb-1,X\n", "m.csv:2: .*expands to no pairs"),
        (
            "from,to,service,expected,by\nweb-1,db-1,tcp/1,denied,rest\n",
            "m.csv:2: .*expected denied by shop/rules/rest",
        ),
        ("[{}]", "a row has from, to, protocol"),
        ("[", "m.csv: Expecting"),
    ],
)
def test_matrix_files_that_prove_nothing(shop: PolicyUnderTest, tmp_path: Path, text: str, message: str) -> None:
    here = PolicyUnderTest(shop._worlds, shop._subject, "test_it", tmp_path)
    written(tmp_path, text, "m.csv")
    with pytest.raises(PolicyTestError, match=message):
        here.assert_matrix("m.csv")
    with pytest.raises(PolicyTestError, match="No such file"):
        here.assert_matrix("none.csv")
