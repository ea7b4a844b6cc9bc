# SPDX-License-Identifier: Apache-2.0
"""Hosts whose TEPs have IPv6 addresses: everything crosses, over each tier, and from the first second."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.netns.test_agent import INVENTORY, IPS, POLICY, TwoHosts, pairs, transfer
from tests.netns.test_teps import both_up, tep
from tests.support.patience import until
from tests.support.ping import ping

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_netns, pytest.mark.needs_tun, pytest.mark.needs_ipv6]

TEPS = ("fd00:aa::1", "fd00:aa::2")
WORLD = INVENTORY.replace("tep: 172.16.0.1", f'tep: "{TEPS[0]}"').replace("tep: 172.16.0.2", f'tep: "{TEPS[1]}"')


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[TwoHosts]:
    found = TwoHosts(tmp_path)
    try:
        found.inventory = WORLD
        found.build()
        found.tell(POLICY)
        yield found
    finally:
        found.end()


@pytest.mark.parametrize("tier", ["A", "B", "C"])
def test_everything_crosses_an_ipv6_underlay(hosts: TwoHosts, tier: str) -> None:
    hosts.start("--uplink", tier)
    assert [hosts.ask(host, {"do": "status"})["tier"] for host in ("h1", "h2")] == [tier, tier]
    until(partial(both_up, hosts), "BFD does not come up")
    assert [tep(hosts, host)["tep"] for host in ("h1", "h2")] == [TEPS[1], TEPS[0]]
    with hosts.listen("c", socket.AF_INET6, 8080) as listener:
        for source, target, ip in pairs():
            assert ping(hosts.netns(source), ip)
            assert ping(hosts.netns(source), ip, 1500 - (48 if ":" in ip else 28))  # as long as they get
            if target == "c":
                client = hosts.connect(source, ip, 8080)
                server = listener.accept()[0]
                assert transfer(client, server, 2 << 20, lambda: None)[0] == 2 << 20
                client.close()
                server.close()
    with pytest.raises(ConnectionRefusedError), hosts.listen("b", socket.AF_INET, 22):
        hosts.connect("a", IPS["b"][0], 22)
    for host in ("h1", "h2"):
        rows = hosts.ask(host, {"do": "show", "what": "stats"})["rows"]
        assert not [row for row in rows if row["reason"] in ("outer-malformed", "outer-checksum", "tunnel-malformed")]
