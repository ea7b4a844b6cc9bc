# SPDX-License-Identifier: Apache-2.0
"""A host that is no lab's, changed by `palisade apply`: packets follow, what is refused or not confirmed goes back."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from dfw import cli
from overlay.host_change import read_place
from overlay.hoststate import file_replace, state_read
from overlay.lab_record import PendingRecord
from overlay.linux import process_lives, process_self, process_signal
from overlay.timer import PENDING, pending_read, timer_lives
from tests.netns.test_attach import reached
from tests.support.one_host import INVENTORY, OneHost
from tests.support.patience import until

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_netns, pytest.mark.needs_tun, pytest.mark.needs_ipv6]
PORTS = INVENTORY.replace("ports: [", "ports: [{name: c, host: h1, segment: s, ips: [10.0.1.40]}, ")
POLICY = """\
resource_type: SecurityPolicy
id: p
category: Application
rules: [{id: NAME, services: [HTTP], action: ACTION}]
"""


class Host(OneHost):
    """With the command line, and its rules."""

    def palisade(self, capfd: pytest.CaptureFixture[str], *arguments: str | Path, status: int = 0) -> str:
        """A verb of this host's; what it said."""
        capfd.readouterr()
        assert cli.run([*map(str, arguments), "--run", str(self.run)]) == status, capfd.readouterr()
        out, err = capfd.readouterr()
        return out + err

    def policy(self, name: str, action: str) -> Path:
        """A file with one rule."""
        path = self.folder / f"{name}.yaml"
        path.write_text(POLICY.replace("NAME", name).replace("ACTION", action))
        return path

    def rules(self) -> set[str]:
        """Names of the rules that it is told."""
        paths = {rule.path for rule in state_read(self.folder / "desired.json").rules}
        return {path.rpartition("/")[2] for path in paths if "/p/" in path}

    def passes(self) -> bool:
        """Whether HTTP comes through, from a to c."""
        return reached(self.pods["a"], self.pods["c"], "10.0.1.40", 1.0)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    found = Host(tmp_path)
    try:
        found.build()
        found.begin()
        until((found.run / "agent.sock").exists, "it does not start")
        yield found
    finally:
        found.end()


def test_packets_follow_and_every_way_back(host: Host, capfd: pytest.CaptureFixture[str]) -> None:
    inventory = host.folder / "inventory.yaml"
    inventory.write_text(PORTS)
    # Told for the first time: inventory and policy.
    said = host.palisade(capfd, "apply", inventory, host.policy("open", "ALLOW"))
    assert "host h1: revision 1 is in force" in said and host.rules() == {"open"}
    sees(host, capfd)
    for name in ("a", "c"):
        host.palisade(capfd, "attach", "--netns", host.pods[name], "--segment", "s", "--name", name)
    until(host.passes, "nothing arrives")
    # Another policy; the inventory stays. Dry first.
    shut = host.policy("shut", "REJECT")
    lines = host.palisade(capfd, "apply", shut, "--dry-run")
    assert "+ rule /infra/domains/default/security-policies/p/rules/shut" in lines and host.rules() == {"open"}
    assert "revision 2 is in force" in host.palisade(capfd, "apply", shut)
    assert not host.passes() and host.rules() == {"shut"}
    assert "as it was, revision 2" in host.palisade(capfd, "apply", shut)
    assert host.palisade(capfd, "wait", "--realized") == "realized: revision 2 on h1\n"
    # Back, as a new revision.
    assert "+ rule" in host.palisade(capfd, "rollback", "1", "--dry-run")
    assert "revision 3 is in force" in host.palisade(capfd, "rollback", "1")
    assert host.passes() and host.rules() == {"open"}
    listed = host.palisade(capfd, "rollback", "--list")
    assert "rollback to 1" in listed and "3 (now)" in listed
    assert "keeps no revision 9; it keeps 1, 2, 3" in host.palisade(capfd, "rollback", "9", status=2)
    # What is not confirmed goes back by itself, although the command is over.
    said = host.palisade(capfd, "apply", shut, "--confirm", "2s")
    assert "revision 3 comes back in" in said and "palisade apply --confirmed" in said
    until(lambda: host.rules() == {"open"} and read_place(host.run / "agent.sock").pending is None, "not gone back")
    until(host.passes, "not gone back")
    assert "back to 3: not confirmed" in host.palisade(capfd, "rollback", "--list")
    # What is confirmed stays; meanwhile nothing comes on top.
    host.palisade(capfd, "apply", shut, "--confirm", "600s")
    pending = read_place(host.run / "agent.sock").pending
    assert pending is not None and process_lives(pending.timer)
    assert "waits to be confirmed" in host.palisade(capfd, "apply", host.policy("third", "DROP"), status=2)
    assert "revision 6 stays" in host.palisade(capfd, "apply", "--confirmed")
    until(lambda: not process_lives(pending.timer), "the timer goes on")
    assert host.rules() == {"shut"} and not host.passes()
    assert "no change of host h1 waits" in host.palisade(capfd, "apply", "--confirmed", status=2)


@pytest.mark.parametrize("is_rebooted", [False, True])
def test_a_change_goes_back_although_its_timer_is_gone(
    host: Host, capfd: pytest.CaptureFixture[str], is_rebooted: bool
) -> None:
    """The next agent sees to it: the machine may have been started anew because of that change."""
    inventory = host.folder / "inventory.yaml"
    inventory.write_text(PORTS)
    host.palisade(capfd, "apply", inventory, host.policy("open", "ALLOW"))
    host.palisade(capfd, "apply", host.policy("shut", "REJECT"), "--confirm", "600s")
    pending = pending_read(host.state)
    assert pending is not None and process_signal(pending.timer, signal.SIGKILL)
    if is_rebooted:  # its number is another process' now, and the deadline says nothing
        pending.boot, pending.timer = "another", process_self()
        file_replace(host.state / PENDING, msgspec.json.encode(pending))
    os.kill(host.ask({"do": "status"})["pid"], signal.SIGKILL)
    if is_rebooted:
        until(lambda: host.rules() == {"open"} and pending_read(host.state) is None, "not gone back")
        assert "back to 1: not confirmed" in host.palisade(capfd, "rollback", "--list")
        return

    def adopted() -> PendingRecord | None:
        found = pending_read(host.state)  # the one that was killed may take a moment to be gone
        is_other = found is not None and found.timer != pending.timer
        return found if found is not None and is_other and timer_lives(found) else None

    found = until(adopted, "no other timer")
    assert found is not None and found.deadline == pending.deadline
    assert host.rules() == {"shut"} and "revision 2 stays" in host.palisade(capfd, "apply", "--confirmed")
    until(lambda: not process_lives(found.timer), "the timer goes on")


def test_what_the_agent_refuses_is_taken_back(host: Host, capfd: pytest.CaptureFixture[str]) -> None:
    inventory = host.folder / "inventory.yaml"
    inventory.write_text(PORTS)
    host.palisade(capfd, "apply", inventory, host.policy("open", "ALLOW"))
    twice = host.folder / "twice.yaml"
    twice.write_text(PORTS.replace("10.0.1.11", "10.0.1.40"))
    before = state_read(host.folder / "desired.json")
    said = host.palisade(capfd, "apply", twice, status=2)
    assert "10.0.1.40" in said and state_read(host.folder / "desired.json") == before
    elsewhere = host.folder / "elsewhere.yaml"
    elsewhere.write_text(PORTS.replace("h1", "h7"))
    assert "the files have no host h1; they have h7, h2" in host.palisade(capfd, "apply", elsewhere, status=2)
    # More vNICs than the agent has filters for.
    many = "".join(f"{{name: n{n}, host: h1, segment: t, ips: [10.9.{n // 250}.{n % 250 + 1}]}}, " for n in range(1100))
    crowd = host.folder / "crowd.yaml"
    other = "segments: [{name: t, vni: 5002, subnets: [10.9.0.0/16]}, "
    crowd.write_text(PORTS.replace("segments: [", other).replace("ports: [", f"ports: [{many}"))
    said = host.palisade(capfd, "apply", crowd, status=1)
    assert "host h1 refused revision 2" in said and "what revision 1 said is in force again, as revision 3" in said
    status = host.ask({"do": "status"})
    assert (status["revision_realized"], status["error"]) == (3, None)
    # And from there it goes on: the inventory is known.
    assert "revision 4 is in force" in host.palisade(capfd, "apply", host.policy("shut", "DROP"))
    assert {vnic.name for vnic in state_read(host.folder / "desired.json").vnics} == {"a", "c"}
    os.kill(status["pid"], signal.SIGKILL)
    assert host.wait(4)["revision_realized"] == 4


def sees(host: Host, capfd: pytest.CaptureFixture[str]) -> None:
    """What is shown of a lab's hosts is shown of this one."""
    shown = json.loads(host.palisade(capfd, "show", "vnics", "-o", "json"))
    assert {(row["host"], row["vnic"]) for row in shown} == {("h1", "a"), ("h1", "c")}
    assert "p/rules/open" in host.palisade(capfd, "show", "rules", "--host", "h1")
    assert "there is no host 'h2'; these are: h1" in host.palisade(capfd, "show", "rules", "--host", "h2", status=2)
    assert "no policy of host h1 is staged" in host.palisade(capfd, "show", "flows", "--staged", status=2)
    said = host.palisade(capfd, "trace", "--from", "a", "--to", "c", "--dport", "80")
    assert "a -> c (10.0.1.40): arrives" in said
    target = host.folder / "a.pcapng"
    host.palisade(capfd, "capture", "a", "--seconds", "0.1", "-w", target)
    assert target.stat().st_size > 0


def test_whose_agent_is_not_there(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.yaml").write_text(POLICY)
    for words in (
        ("apply", str(tmp_path / "p.yaml")),
        ("rollback", "1"),
        ("rollback", "--list"),
        ("wait", "--realized"),
        ("show", "vnics"),
        ("capture", "a", "-w", str(tmp_path / "a.pcapng")),
        ("trace", "--from", "a", "--to", "c", "--dport", "80"),
    ):
        assert cli.run([*words, "--run", str(tmp_path)]) == 3
        assert "does not answer" in capfd.readouterr().err
        assert cli.run([*words, "--run", str(tmp_path), "--lab", "x"]) == 2
