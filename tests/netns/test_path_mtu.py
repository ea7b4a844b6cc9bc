# SPDX-License-Identifier: Apache-2.0
"""Agents that measure what their underlay carries, with real packets: as much as it says, and less."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dfw import __version__
from overlay.ask import AskError
from supervisor_glue.prechecks.compatibility import compatibility
from supervisor_glue.prechecks.facts import read_facts
from supervisor_glue.prechecks.spec import SupervisorSpec
from tests.conftest import LONG
from tests.netns.test_agent import POLICY, TwoHosts
from tests.netns.test_teps import FAST, both_up, inside
from tests.support.patience import until

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_netns, pytest.mark.needs_tun, pytest.mark.needs_ipv6]
SPEC = SupervisorSpec("s", hosts=("h1", "h2", "gone", "unknown"), nodes=1)
PLACES = {"h1": ("h2", "172.16.0.2"), "h2": ("h1", "172.16.0.1")}


TWO = SupervisorSpec("s", hosts=("h1", "h2"), nodes=1)
APART = """
apiVersion: palisade.internal/v1alpha1
kind: Inventory
hosts: [{name: h1, tep: 172.16.0.1, bfd_interval: 300}, {name: h2, tep: 172.16.0.2, bfd_interval: 300}]
segments:
  - {name: one, vni: 5001, subnets: [10.0.1.0/24]}
  - {name: two, vni: 5002, subnets: [10.0.2.0/24]}
ports:
  - {name: a, host: h1, segment: one, mac: "02:00:00:00:00:0a", ips: [10.0.1.10]}
  - {name: b, host: h2, segment: two, mac: "02:00:00:00:00:0b", ips: [10.0.2.10]}
"""


def paths(hosts: TwoHosts, host: str, mtu: int) -> list[dict[str, Any]]:
    return list(hosts.ask(host, {"do": "paths", "mtu": mtu})["rows"])


@pytest.mark.parametrize("tier", ["A", "C"] if LONG else ["A"])
def test_what_an_underlay_carries_is_measured(tmp_path: Path, tier: str) -> None:
    hosts = TwoHosts(tmp_path)
    try:
        hosts.build()
        hosts.inventory = FAST
        hosts.tell(POLICY)
        hosts.start("--uplink", tier)
        until(lambda: both_up(hosts), "BFD does not come up")
        for host, (other, tep) in PLACES.items():
            # A machine that is busy may lose a packet, but not for ever.
            wanted = [{"host": other, "tep": tep, "bytes": 1700, "problem": ""}]
            until(lambda host=host, wanted=wanted: paths(hosts, host, 1700) == wanted, "1700 bytes do not arrive")
        known = read_facts(
            SPEC, {host: tmp_path / host / "agent.sock" for host in PLACES} | {"gone": tmp_path / "gone"}
        )
        assert {name: (host.tep, host.version) for name, host in known.hosts.items() if not host.problem} == {
            other: (tep, __version__) for other, tep in PLACES.values()
        }
        assert "does not answer" in known.hosts["gone"].problem and known.segments
        reasons = {
            (item.id, item.args[0]) for item in compatibility(SPEC, known).reasons if item.id.startswith("host.")
        }
        assert reasons == {("host.not_prepared", "gone"), ("host.not_prepared", "unknown")}
        inside(hosts, "h2", "ip", "link", "set", "ul0", "mtu", "1500")
        until(lambda: both_up(hosts), "BFD does not come up again")

        def measured() -> bool:
            problem = paths(hosts, "h1", 1520)[0]["problem"]
            return bool(problem == "no answer to 1520 bytes, while 1500 arrive")

        until(measured, "what the narrower wire carries is not found")
        with pytest.raises(AskError, match="1280 to 2048"):
            paths(hosts, "h1", 10)
    finally:
        hosts.end()


def test_hosts_that_share_no_segment_are_measured(tmp_path: Path) -> None:
    """They know each other for that, and no longer; and nobody gets into a segment by it."""
    hosts = TwoHosts(tmp_path)
    try:
        hosts.build()
        hosts.inventory = APART
        hosts.tell(POLICY)
        hosts.start("--uplink", "A")
        assert [hosts.ask(host, {"do": "show", "what": "tep-table"})["rows"] for host in PLACES] == [[], []]
        sockets = {host: tmp_path / host / "agent.sock" for host in PLACES}

        def reasons() -> set[tuple[str, ...]]:
            found = compatibility(TWO, read_facts(TWO, sockets)).reasons
            return {(item.id, *item.args[:2]) for item in found if item.id.startswith("host.")}

        until(lambda: reasons() == set(), "1700 bytes do not arrive")
        assert both_up(hosts)
        for host in PLACES:
            assert hosts.ask(host, {"do": "status"})["revision_realized"] == hosts.revision
        hosts.tell(POLICY)  # another state meanwhile: what is asked about lies over it, too
        assert both_up(hosts)
        for teps in ("h2", [{"host": "h2"}], [{"host": "h2", "ip": "nowhere"}], [7], [{"host": "h", "ip": "::1"}] * 65):
            with pytest.raises(AskError, match="host and ip"):
                hosts.ask("h1", {"do": "paths", "mtu": 1600, "teps": teps})
    finally:
        hosts.end()
