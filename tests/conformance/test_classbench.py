# SPDX-License-Identifier: Apache-2.0
"""The classifier against brute force: every header of the ClassBench sets, and generated rule sets of both families.

The brute force over the files reads them with a reader of its own, so that a mistake in ours shows too. The last column
of a trace is not the first match (README of the data) and is not looked at.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from numba import njit

from dfw.bench.groupgen import datacenter_generate
from dfw.bench.rulegen import FAMILIES, rules_generate, trace_generate
from dfw.classbench import (
    RuleTable,
    rule_table,
    rules_parse,
    rules_read,
    rules_render,
    trace_parse,
    trace_read,
    trace_render,
)
from dfw.errors import PolicyError
from tests.support.brute import first_matches as brute_table_matches

core = pytest.importorskip("dfw.core", reason="the packet core is not built")
SETS = Path(__file__).resolve().parents[3] / "shared" / "data" / "classbench" / "sets"
SMALL = [f"{kind}_{size}" for size in (1000, 10000) for kind in ("acl1", "acl3", "acl5", "fw2", "fw4", "ipc1")]
LARGE = ["acl1_100000", "ipc1_100000"]


def read_lines(name: str) -> list[str]:
    return gzip.decompress((SETS / name).read_bytes()).decode("ascii").splitlines()


def read_rules_plainly(name: str) -> np.ndarray:
    """Rules as rows: source low, high, destination low, high, four ports, protocol low, high."""
    rows = []
    for line in read_lines(f"{name}.gz"):
        source, destination, sport, dport, protocol = line[1:].split("\t")[:5]
        row: list[int] = []
        for prefix in (source, destination):
            address, length = prefix.split("/")
            value = 0
            for byte in address.split("."):
                value = value * 256 + int(byte)
            size = 2 ** (32 - int(length))
            row += [value // size * size, value // size * size + size - 1]
        row += [int(x) for ports in (sport, dport) for x in ports.split(":")]
        value, mask = (int(x, 16) for x in protocol.split("/"))
        rows.append([*row, *((value, value) if mask == 255 else (0, 255))])
    return np.array(rows, np.int64)


@njit(cache=False)
def brute_matches(rules, headers):
    out = np.full(len(headers), -1, np.int64)
    for h in range(len(headers)):
        for r in range(len(rules)):
            good = True
            for field in range(5):
                if headers[h, field] < rules[r, 2 * field] or headers[h, field] > rules[r, 2 * field + 1]:
                    good = False
                    break
            if good:
                out[h] = r
                break
    return out


def core_matches(table: RuleTable, keys: np.ndarray) -> np.ndarray:
    from dfw.classify import first_matches

    return first_matches(table, keys)[0]


def assert_same(found: np.ndarray, wanted: np.ndarray, keys: np.ndarray) -> None:
    wrong = np.flatnonzero(found != wanted)
    lines = [f"header {i} {keys[i]}: found {found[i]}, brute force {wanted[i]}" for i in wrong[:5]]
    assert not len(wrong), f"{len(wrong)} of {len(wanted)} headers differ\n" + "\n".join(lines)


def check_set(name: str, step: int = 1) -> None:
    headers = np.array([[int(x) for x in line.split()[:5]] for line in read_lines(f"{name}_trace.gz")], np.int64)[
        ::step
    ]
    wanted = brute_matches(read_rules_plainly(name), headers)
    keys = np.ascontiguousarray(trace_read(str(SETS / f"{name}_trace.gz"))[::step])
    assert len(keys) == len(headers) > 4000
    assert_same(core_matches(rule_table(rules_read(str(SETS / f"{name}.gz"))), keys), wanted, keys)


@pytest.mark.needs_shared_data("classbench")
@pytest.mark.parametrize("name", SMALL)
def test_headers_of_the_small_sets(name: str) -> None:
    check_set(name, step=8 if name.endswith("0000") else 1)


@pytest.mark.long
@pytest.mark.needs_shared_data("classbench")
@pytest.mark.parametrize("name", SMALL + LARGE)
def test_every_header_of_every_set(name: str) -> None:
    check_set(name)


@pytest.mark.parametrize("family", [1, 2])
@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_generated_sets(kind: str, family: int) -> None:
    table = rule_table(rules_generate(kind, 1000, 11, family))
    keys = trace_generate(table, 10_000, 12)
    wanted = brute_table_matches(table, keys)
    assert (wanted >= 0).mean() > 0.4, "the trace hits too few rules to tell anything"
    assert len(np.unique(wanted)) > 500
    assert_same(core_matches(table, keys), wanted, keys)


@pytest.mark.parametrize("family", [1, 2])
def test_group_policy(family: int) -> None:
    table = datacenter_generate(1500, 5, family, large=1000)
    keys = trace_generate(table, 4000, 6)
    wanted = brute_table_matches(table, keys)
    assert len(np.unique(wanted)) > 500
    assert_same(core_matches(table, keys), wanted, keys)


@pytest.mark.parametrize("family", [1, 2])
def test_both_families_side_by_side(family: int) -> None:
    """v4 and v6 rules interleaved in one rule set: a header meets only its own family's."""
    from dfw.bench.rulegen import rules_join, rules_take

    both = rules_join([rules_generate("fw", 600, 3, 1), rules_generate("fw", 600, 3, 2)])
    table = rule_table(rules_take(both, np.random.default_rng(family).permutation(1200)))
    keys = trace_generate(table, 10_000, family)
    assert set(np.unique(keys["family"])) == {1, 2}
    assert_same(core_matches(table, keys), brute_table_matches(table, keys), keys)


@pytest.mark.parametrize("family", [1, 2])
def test_text_round_trip(family: int) -> None:
    rules = rules_generate("ipc", 500, 9, family)
    again = rules_parse(rules_render(rules))
    for name in type(rules).__slots__:
        assert np.array_equal(getattr(rules, name), getattr(again, name)), name
    keys = trace_generate(rule_table(rules), 500, 9)
    assert np.array_equal(trace_parse(trace_render(keys)), keys)


def test_generator_is_deterministic() -> None:
    first, second = (trace_generate(rule_table(rules_generate("acl", 300, 4)), 400, 5) for _ in range(2))
    assert first.tobytes() == second.tobytes()
    assert first.tobytes() != trace_generate(rule_table(rules_generate("acl", 300, 5)), 400, 5).tobytes()


GOOD = "@1.2.3.4/32\t5.6.7.8/24\t0 : 65535\t80 : 80\t0x06/0xFF\t0x0000/0x0000"


@pytest.mark.parametrize(
    ("line", "column", "says"),
    [
        ("@1.2.3.4/33\t1.2.3.4/1\t0 : 1\t3 : 4\t0x06/0xFF", 10, "/33 is not a prefix length (0-32)"),
        ("@1.2.3.256/32\t1.2.3.4/1\t0 : 1\t3 : 4\t0x06/0xFF", 2, "is not an IPv4 or IPv6 address"),
        ("1.2.3.4/32\t1.2.3.4/1\t0 : 1\t3 : 4\t0x06/0xFF", 1, "is not @address/length"),
        ("@1.2.3.4/32\t1.2.3.4/1\t9 : 1\t3 : 4\t0x06/0xFF", 23, "ends before it begins"),
        ("@1.2.3.4/32\t1.2.3.4/1\t0 : 65536\t3 : 4\t0x06/0xFF", 23, "65536 is not a port"),
        ("@1.2.3.4/32\t1.2.3.4/1\t0 : 1\t3 : 4\t0x06/0xF0", 40, "only 0xFF"),
        ("@1.2.3.4/32\t1.2.3.4/1\t0 : 1\t3 : 4", 34, "is missing"),
        ("@1.2.3.4/32\t::1/128\t0 : 1\t3 : 4\t0x06/0xFF", 13, "mixes IPv4 and IPv6"),
    ],
)
def test_bad_rule_is_placed(line: str, column: int, says: str) -> None:
    with pytest.raises(PolicyError) as caught:
        rules_parse([GOOD, "", line, GOOD, "nonsense"], "f.rules")
    first, last = caught.value.problems
    assert (first.place.file, first.place.line, first.place.column) == ("f.rules", 3, column)
    assert says in first.message
    assert last.place.line == 5


@pytest.mark.parametrize("line", ["1 2 3 4", "1 2 3 4 256", "4294967296 2 3 4 6", "1 2 65536 4 6", "1 ::2 3 4 6", "x"])
def test_bad_header_is_placed(line: str) -> None:
    with pytest.raises(PolicyError) as caught:
        trace_parse(["1\t2\t3\t4\t6\t0\t7", line])
    assert caught.value.line == 2


def test_host_bits_are_masked_and_protocol_zero_is_a_protocol() -> None:
    table = rule_table(
        rules_parse([GOOD.replace("0x06/0xFF", "0x00/0xFF"), GOOD, GOOD.replace("0x06/0xFF", "0x06/0x00")])
    )
    keys = trace_parse([f"16909060 84281096 9 80 {p}" for p in (0, 6, 17)])
    assert core_matches(table, keys).tolist() == [0, 1, 2]


def test_cut_gzip_is_bad_input(tmp_path: Path) -> None:
    whole = gzip.compress((GOOD + "\n").encode() * 50)
    (tmp_path / "cut.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PolicyError, match=r"cut\.gz:1:1: cannot be read"):
        rules_read(str(tmp_path / "cut.gz"))
    (tmp_path / "whole.gz").write_bytes(whole)
    assert len(rules_read(str(tmp_path / "whole.gz"))) == 50


def test_verb_writes_one_line_a_header(tmp_path: Path) -> None:
    import json
    import subprocess
    import sys

    (tmp_path / "r").write_text(GOOD + "\n")
    (tmp_path / "t").write_text("16909060\t84281096\t9\t80\t6\t0\t0\n16909060\t84281096\t9\t81\t6\t0\t0\n")
    command = [sys.executable, "-m", "dfw", "classify", "r", "t", "--out", "o", "-o", "json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "o").read_text() == "0\n-1\n"
    assert {k: v for k, v in json.loads(done.stdout).items() if isinstance(v, int)} == {
        "rules": 1,
        "headers": 2,
        "matched": 1,
        "unmatched": 1,
    }
    (tmp_path / "r").write_text("@nonsense\n")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "r:1:" in done.stderr
