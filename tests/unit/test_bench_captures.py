# SPDX-License-Identifier: Apache-2.0
"""The generated captures of `bench replay`: what they say of themselves is what a firewall finds."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import jsonschema
import pytest

from dfw import cli
from dfw.bench.captures import write_capture, write_policy
from dfw.bench.replays import ReplayBench, bench_replay
from dfw.schema import schema_files
from tests.support.pcap import pcap_read


@pytest.mark.parametrize("size", [128, 1514])
def test_a_capture_is_as_it_says(tmp_path: Path, capfd: pytest.CaptureFixture[str], size: int) -> None:
    facts = write_capture(tmp_path / "c.pcap", packets=4000, size=size, seed=7)
    write_policy(tmp_path / "p.yaml")
    sizes = Counter(len(packet.data) for packet in pcap_read(tmp_path / "c.pcap"))
    assert sizes.total() == facts.packets and sum(size * count for size, count in sizes.items()) == facts.bytes
    assert sizes.most_common(1)[0][0] == max(sizes) == size and sizes[size] > 0.8 * facts.packets
    for backend, checksums in (("native", "verify"), ("native", "ignore"), ("oracle", "verify")):
        capfd.readouterr()
        arguments = ["--policy", str(tmp_path / "p.yaml"), "--backend", backend, "--checksums", checksums, "-o", "json"]
        assert cli.run(["replay", str(tmp_path / "c.pcap"), *arguments]) == 0
        found = json.loads(capfd.readouterr().out)
        expected = facts.expected()
        assert found["connections"]["created"] == expected.pop("created")
        assert {name: found[name] for name in expected} == expected
        assert not any(found["bad_checksums"].values())


def test_the_seed_decides(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_capture(tmp_path / name, packets=2000, size=128, seed=seed)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()
    with pytest.raises(ValueError, match="no room"):
        write_capture(tmp_path / "d", packets=10, size=80)


@pytest.mark.parametrize("outputs", [False, True])
def test_the_bench_checks_what_came_out(outputs: bool) -> None:
    result = bench_replay(ReplayBench(packets=2000, size=128, outputs=outputs, runs=1))
    assert result["verified"] is True and result["cpu_ns"] > 0
    schema = json.loads(schema_files()["bench"].read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(result)
