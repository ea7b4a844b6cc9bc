# SPDX-License-Identifier: Apache-2.0
"""An agent on a host of its own: what it may do, and that nothing of it is left when it is taken off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from overlay import privilege
from overlay.enter import run_in
from overlay.host_install import apply_end, apply_unwire
from tests.support.one_host import INVENTORY, OneHost
from tests.support.patience import until

pytestmark = [
    pytest.mark.needs_root, pytest.mark.needs_netns, pytest.mark.needs_tun, pytest.mark.needs_ipv6
]  # fmt: skip


@pytest.fixture
def host(tmp_path: Path) -> Iterator[OneHost]:
    found = OneHost(tmp_path)
    try:
        found.build()
        found.tell(1)
        yield found
    finally:
        found.end()


def test_what_it_waits_for_is_said_once(host: OneHost) -> None:
    """Neither its state nor its interface is there when it starts."""
    told = (host.folder / "desired.json").rename(host.folder / "later.json")
    host.command("ip link del ul0")
    host.begin()
    until(lambda: (host.run / "agent.sock").exists(), "it does not start")
    status = host.ask({"do": "status"})
    assert (status["revision_realized"], status["error"], status["tier"]) == (0, None, None)

    def said() -> list[str]:
        lines = (host.folder / "agent.log").read_text().splitlines()
        return [line for line in lines if "waiting_for" in line]

    assert "no state yet" in said()[0] and str(host.folder / "desired.json") in said()[0]
    assert "no underlay interface yet" in said()[1] and "ul0" in said()[1]
    told.rename(host.folder / "desired.json")
    until(lambda: "ul0" in host.ask({"do": "status"})["problems"].get("uplink", ""), "the interface is not missed")
    host.command("ip link add ul0 mtu 1700 type veth peer name far mtu 1700")
    assert host.wait(1)["tier"] in ("A", "B", "C")
    assert len(said()) == 2


@pytest.mark.parametrize("tier", ["A", "B"])
def test_nothing_is_left_of_it(host: OneHost, tier: str) -> None:
    before = host.seen()
    assert host.start(tier)["tier"] == tier
    assert host.seen() != before
    assert (host.state / "state.json").exists() and not (host.run / "state.json").exists()
    assert apply_end(host.run) == []
    notes = run_in(str(host.netns), lambda: apply_unwire(host.state, "ul0"))
    assert any("forwarding is 0 again" in note for note in notes) == (tier == "A")
    assert host.seen() == before


def test_it_keeps_only_what_it_needs(host: OneHost) -> None:
    status = host.start()
    mask = sum(1 << number for number in privilege.NEEDED)
    threads = [*Path(f"/proc/{status['pid']}/task").iterdir()]
    assert len(threads) > 1
    for thread in threads:
        lines = (thread / "status").read_text().splitlines()
        words = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        for name in ("CapPrm", "CapEff", "CapBnd"):
            assert int(words[name], 16) | mask == mask, f"{thread} {name} {words[name]}"
        assert words["NoNewPrivs"] == "1"
    # And is well with it: another state comes into force.
    host.tell(2, INVENTORY.replace("10.0.1.10", "10.0.1.20"))
    host.wait(2)
