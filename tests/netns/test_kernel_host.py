# SPDX-License-Identifier: Apache-2.0
"""A host's state into a kernel, without an agent: rules and who the ends are go together, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec.structs import replace as with_fields

from dfw.load import load
from dfw.model import NFTABLES, Address, Family, Host
from dfw.nftables import ruleset_sorted
from dfw.nftables.load import LoadError
from dfw.nftables.namespace import PrivateNamespace
from overlay.hoststate import HostState, NeighbourState
from overlay.kernel_host import KernelHost
from overlay.span import resolve_span
from tests.unit.test_nftables_ether_staged import FILES

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_netns,
    pytest.mark.needs_tool("nft", "ip", "bridge"),
    pytest.mark.needs_vxlan,
]


@pytest.fixture
def inside() -> Iterator[PrivateNamespace]:
    """A namespace for one host."""
    with PrivateNamespace() as found:
        yield found


def state_of(*files: str, revision: int = 1) -> HostState:
    world = load(list(files)).world
    host = Host("h", Address(Family.IPV4, 0xAC100001), enforcer=NFTABLES)
    return resolve_span(replace(world, inventory=replace(world.inventory, hosts={"h": host})), revision, {})["h"]


def test_rules_go_back_where_who_the_ends_are_is_refused(
    inside: PrivateNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = inside.run(lambda: KernelHost("lo", tmp_path / "memory", tmp_path / "before"))
    try:
        first, other = state_of(FILES[0]), state_of(*FILES, revision=2)
        inside.run(lambda: host.apply(first))
        rules, ends = ruleset_sorted(host.link.read()), host._ends_read()
        web, db = (item for item in other.neighbours if item.vnic in ("web", "db"))
        twice = NeighbourState(**{**{name: getattr(db, name) for name in db.__struct_fields__}, "ip": web.ip})
        bad = with_fields(other, neighbours=(*other.neighbours, twice))
        for asks in (True, False):  # nft is asked before anything is changed; then as if it had not noticed
            with monkeypatch.context() as patched:
                if not asks:
                    patched.setattr(host.link, "check", lambda text: None)
                with pytest.raises(LoadError, match=r"^who the ends are: nftables refused the ruleset: "):
                    inside.run(lambda: host.apply(bad))
            assert (ruleset_sorted(host.link.read()), host._ends_read()) == (rules, ends)
            assert host.state == first and not inside.run(host.mend)
        inside.run(lambda: host.apply(other))
        assert ruleset_sorted(host.link.read()) != rules and host.state == other
        assert host.rendered is not None and ruleset_sorted(host.link.read()) == ruleset_sorted(host.rendered.ruleset)
    finally:
        host.close()
