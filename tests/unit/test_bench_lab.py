# SPDX-License-Identifier: Apache-2.0
"""`bench lab`'s arithmetic, rules and frames; and a short run of it."""

from __future__ import annotations

import json
import math
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dfw.documents import documents_parse
from dfw.load import load_documents
from dfw.oracle.checksum import internet_checksum
from dfw.schema import schema_files
from overlay import bench_lab
from overlay.bench_fabric import RULES, MissingError, Pods, Veth, plan_denied, render_policy, run
from overlay.bench_kernel import KernelNft, render_iptables, render_linear, render_nft, render_set
from overlay.bench_lab import ratios, render_result
from overlay.bench_load import FRAME_BYTES, frame
from overlay.bench_meter import METERS, Tcp, read_congestion
from overlay.bench_ovs import OvsAfxdp, end_by_file, render_flows
from overlay.progress import Steps


def test_ratios_are_paired_and_their_interval_covers() -> None:
    assert ratios({"palisade": [2.0], "peer": [1.0]}) == {"peer": {"median": 2.0, "rounds": 1}}
    found = ratios({"palisade": [4.0, 1.0, None, 9.0], "peer": [2.0, 0.5, 3.0, None], "none": [None] * 4})
    assert found == {"peer": {"median": 2.0, "rounds": 2, "low": 2.0, "high": 2.0}}
    # Of intervals over noisy pairs around 1.25, nine in ten hold it.
    source, held = random.Random(3), 0
    for _ in range(400):
        noise = [source.gauss(0, 0.2) for _ in range(7)]
        one = ratios({"palisade": [1.25 * math.exp(x) for x in noise], "peer": [1.0] * 7})["peer"]
        held += one["low"] <= 1.25 <= one["high"]
    assert 340 <= held <= 380


def test_all_have_a_thousand_rules() -> None:
    world = load_documents(documents_parse(render_policy().encode(), "x")).world
    (policy,) = world.policies
    assert len(policy.rules) == RULES and len(world.inventory.ports) == 2
    assert render_nft(render_linear()).count(" drop") == RULES
    assert render_iptables().count("-j DROP") == RULES
    assert (
        all(f"{source} . {port}" in render_set() for source, port in plan_denied()) and len(plan_denied()) == RULES - 1
    )
    assert render_flows().count("actions=drop") == RULES


def test_frames_have_sixty_bytes_and_right_sums() -> None:
    one = frame(b"\x02" * 6, b"\x04" * 6, "10.0.0.1", "10.0.0.2", 2048, 5201)
    assert len(one) == FRAME_BYTES
    assert internet_checksum(one[14:34]) == 0
    assert internet_checksum(one[26:34] + b"\x00\x11" + one[38:40] + one[34:]) == 0


def test_a_command_that_is_missing_or_fails_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no command nobody-has-this"):
        run(["nobody-has-this"])
    with pytest.raises(MissingError, match="ls: cannot access"):
        run(["ls", "/no/such/place"])
    (tmp_path / "x.pid").write_text(str(1))
    end_by_file(tmp_path / "x.pid")  # process 1 is not that daemon: it is left alone
    with pytest.raises(MissingError, match="openvswitch-switch"):
        fabric = OvsAfxdp(tmp_path, tmp_path)
        fabric.SCHEMA = tmp_path / "no"  # type: ignore[misc]
        fabric.up()


def test_congestion_control_is_the_machines(palisade: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    assert read_congestion()[0] in read_congestion("tcp_available_congestion_control")
    done = palisade("bench", "lab", "--only", "tcp", "--congestion", "carrier-pigeon")
    assert done.returncode == 2 and "--congestion" in done.stderr and read_congestion()[0] in done.stderr
    assert Tcp("reno").congestion == "reno" and Tcp().congestion is None


def hold(result: dict[str, Any], figures: set[str], measured: set[str]) -> None:
    """A result fits its schema, and has these figures of these set-ups."""
    jsonschema.validate(result, json.loads(schema_files()["bench-lab"].read_text()))
    assert figures <= set(result)
    for figure in figures - {"rtt_us"}:
        assert set(result[figure]) == measured
    assert set(result["rtt_us"]["p50"]) == measured and "palisade" not in result["ratios"]["rtt_us"]["p50"]
    assert result["tcp_congestion_control"] == read_congestion()[0]
    text = render_result(result)
    assert "rtt_us.p50 (lower is better)" in text and f"medians of {result['rounds']} rounds" in text


@pytest.mark.needs_tool("nft")
@pytest.mark.needs_root
@pytest.mark.needs_netns
@pytest.mark.needs_mount
@pytest.mark.needs_tun
def test_a_short_run() -> None:
    class Broken(Veth):
        name = "broken"

        def up(self) -> Pods:
            raise MissingError("it is not there")

    result = bench_lab.bench_lab((KernelNft, Broken), 1, 0.5, [METERS["rtt"], METERS["connections"]], Steps(quiet=True))
    assert result["skipped"].pop("broken") == "it is not there"
    measured = {"palisade", "kernel-vxlan-nft"} - set(result["skipped"])
    hold(result, {"rtt_us", "connections_per_s"}, measured)
    assert result["verified"] and result["rtt_us"]["p50"]["palisade"] > 0


@pytest.mark.long
@pytest.mark.needs_root
@pytest.mark.needs_netns
@pytest.mark.needs_mount
@pytest.mark.needs_tun
def test_the_whole_of_it(palisade: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = palisade("bench", "lab", "--peers", "--rounds", "2", "--seconds", "1", "-q", "-o", "json", timeout=600)
    assert done.returncode in (0, 1), done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    measured = {"palisade", *(kind.name for kind in bench_lab.PEERS)} - set(result["skipped"])
    figures = {"tcp_gbps", "cpu_s_per_gb", "pps_60", "pps_60_1000flows", "rtt_us", "connections_per_s"}
    hold(result, figures, measured)
