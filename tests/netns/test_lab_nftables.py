# SPDX-License-Identifier: Apache-2.0
"""A lab whose kernels enforce: what pods reach is what the policy says; rules are counted; what somebody else did to
them is put right; a changed policy and inventory are in force."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from dfw import cli
from dfw.errors import UnsupportedError
from dfw.load import load
from overlay.lab_record import LabPaths
from overlay.span import resolve_span
from tests.netns.test_lab_probe import probe, run  # noqa: F401 (a fixture)
from tests.support.patience import until

SHOP = Path(__file__).parent.parent.parent / "examples" / "shop"

in_lab = [
    pytest.mark.needs_root,
    pytest.mark.needs_netns,
    pytest.mark.needs_mount,
    pytest.mark.needs_ipv6,
    pytest.mark.needs_tool("nft", "ip", "bridge", "nsenter"),
    pytest.mark.needs_vxlan,
]


def shop_by_kernel(folder: Path) -> tuple[str, str]:
    """The example with every host's kernel as the enforcer."""
    text = (SHOP / "inventory.yaml").read_text()
    there, policy = folder / "inventory.yaml", folder / "policy.yaml"
    there.write_text(text.replace("{name: esx-", "{enforcer: nftables, name: esx-"))
    policy.write_text((SHOP / "policy.yaml").read_text())
    assert there.read_text().count("nftables") == 2
    return str(there), str(policy)


def shown(capfd: pytest.CaptureFixture[str], *what: str) -> list[dict[str, object]]:
    """Rows of `palisade show`."""
    capfd.readouterr()
    assert cli.run(["show", *what, "-o", "json"]) == 0
    rows: list[dict[str, object]] = json.loads(capfd.readouterr().out)
    return rows


def lab_test(function: object) -> object:
    """The marks of a test with a lab."""
    for mark in in_lab:
        function = mark(function)
    return function


@lab_test
def test_the_shop_by_kernels(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    files = shop_by_kernel(tmp_path)
    assert cli.run(["lab", "up", "-q", *files]) == 0
    four = probe(capfd, "--ports", "tcp/80,tcp/3306,udp/53,icmp")
    assert {row["family"] for row in four} == {"IPv4"}
    assert {row["family"] for row in probe(capfd, "--family", "6", "--ports", "tcp/80,icmp")} == {"IPv6"}
    hits = {(row["host"], row["rule"]): row["hits"] for row in shown(capfd, "rules", "--counters")}
    assert sum(bool(count) for count in hits.values()) > 6
    assert all(row["ok"] for row in shown(capfd, "health"))
    # Somebody empties the ruleset: everything would pass, until the agent looks.
    host = str(LabPaths(run / "labs" / "lab").host_netns("esx-1"))
    inside = ["nsenter", f"--net={host}", "nft"]
    subprocess.run([*inside, "flush", "ruleset"], check=True)
    tables = [*inside, "list", "tables"]
    until(
        lambda: subprocess.run(tables, capture_output=True, text=True, check=True).stdout.count("table") == 3,
        "the agent does not put the rules back",
    )
    probe(capfd, "--ports", "tcp/80,tcp/3306")
    # Another policy: everybody may reach the database, nobody the name servers.
    policy = Path(files[1])
    text = policy.read_text()
    assert "{id: shop-to-db, source_groups: [shop]" in text
    text = text.replace("action: REJECT", "action: ALLOW")
    policy.write_text(text.replace("services: [DNS-UDP], action: ALLOW", "services: [DNS-UDP], action: DROP"))
    assert cli.run(["lab", "up", "-q", *files]) == 0
    changed = probe(capfd, "--ports", "tcp/3306,udp/53")
    before = [row["observed"] for row in four if row["protocol"] == "UDP"]
    assert [row["observed"] for row in changed if row["protocol"] == "UDP"] != before
    # The same rule has counted on.
    later = {(row["host"], row["rule"]): row["hits"] for row in shown(capfd, "rules", "--counters")}
    assert later["esx-1", 1009] >= 1


def test_hosts_with_other_enforcers_are_refused(tmp_path: Path) -> None:
    inventory, policy = shop_by_kernel(tmp_path)
    text = Path(inventory).read_text().replace("{enforcer: nftables, name: esx-2", "{name: esx-2")
    Path(inventory).write_text(text)
    with pytest.raises(UnsupportedError, match=r"the enforcer native beside it \(host esx-2\)"):
        resolve_span(load([inventory, policy]).world, 1, {})
