# SPDX-License-Identifier: Apache-2.0
"""A lab whose kernels enforce: what pods reach is what the policy says; rules are counted; what somebody else did to
them is put right; a changed policy and inventory are in force; beside the kernel of one host the core of another."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import jsonschema
import pytest
from msgspec.structs import replace

from dfw import cli
from dfw.schema import schema_files
from overlay.ask import AskError, agent_ask
from overlay.hoststate import HostState, RouteState, SegmentState, StateError, state_read
from overlay.kernel_fabric import plan_fabric
from overlay.kernel_tunnels import geneve_lack
from overlay.lab_record import LabPaths, labs_folder, record_read
from overlay.namespace import namespace_entered
from overlay.show import WHAT
from tests.netns.test_lab_probe import probe, run  # noqa: F401 (a fixture)
from tests.support.patience import PATIENCE, until
from tests.unit.test_metrics import samples_of

ROOT = Path(__file__).parent.parent.parent
SHOP, EXAMPLE = ROOT / "examples" / "shop", ROOT / "overlay" / "example"

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
    jsonschema.validate(rows, json.loads(schema_files()["show"].read_text()))
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
    assert all(row["ok"] for row in shown(capfd, "health") if row["check"] != "log")
    assert all(
        shown(capfd, what) for what in ("hosts", "vnics", "flows", "segments", "mac-table", "tep-table", "stats")
    )
    capfd.readouterr()
    assert cli.run(["lab", "status", "-o", "json"]) == 0
    status = json.loads(capfd.readouterr().out)
    jsonschema.validate(status, json.loads(schema_files()["lab-status"].read_text()))
    refusals = {host["name"]: 0 for host in status["hosts"]}
    for row in shown(capfd, "stats"):
        if row["verdict"] != "ALLOW":
            refusals[str(row["host"])] += int(str(row["judgements"]))
    assert all(0 < host["drops"] <= refusals[host["name"]] for host in status["hosts"]), (status, refusals)
    # What logged rules said: who was refused the database, and where.
    log = LabPaths(run / "labs" / "lab").host("esx-2") / "run" / "dfwpktlogs.jsonl"

    def refused() -> list[dict[str, object]]:
        lines = map(json.loads, log.read_text().splitlines() if log.exists() else ())
        return [
            line for line in lines if line["vnic"] == "web-2" and (line["dst"], line["dport"]) == ("10.1.3.11", 3306)
        ]

    (line, *_) = until(refused, "the refusal of web-2 is not logged")
    assert (line["verdict"], line["dir"], line["rule"]) == ("REJECT", "OUT", 1012), line
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


def pod_socket(pod: str, *, listens: int = 0) -> socket.socket:
    """A TCP socket in a pod; closed by whoever asks for it."""
    paths = LabPaths(labs_folder() / "lab")
    record = record_read(paths)
    assert record is not None
    with namespace_entered(paths.room / record.pods[pod].netns):
        made = socket.socket()
    made.settimeout(PATIENCE)
    if listens:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("0.0.0.0", listens))
        made.listen()
    return made


def connected(opened: ExitStack, client: str, server: str, ip: str, port: int) -> tuple[socket.socket, socket.socket]:
    """A connection between two pods: both ends."""
    listener = opened.enter_context(pod_socket(server, listens=port))
    one = opened.enter_context(pod_socket(client))
    one.connect((ip, port))
    other = opened.enter_context(listener.accept()[0])
    other.settimeout(PATIENCE)
    return one, other


@lab_test
def test_a_changed_policy_cuts_and_keeps_and_ftp_opens_what_it_says(
    run: Path,  # noqa: F811
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    files = shop_by_kernel(tmp_path)
    assert cli.run(["lab", "up", "-q", *files]) == 0
    with ExitStack() as opened:
        web = connected(opened, "ops-1", "web-1", "10.1.1.11", 80)
        db = connected(opened, "app-1", "db-1", "10.1.3.11", 3306)
        assert len(shown(capfd, "flows", "--match", "dport=3306")) == 2  # OUT at the one host, IN at the other
        policy = Path(files[1])
        text = policy.read_text()
        changed = text.replace("services: [MySQL], action: ALLOW", "services: [MySQL], action: DROP")
        assert changed != text
        policy.write_text(changed)
        assert cli.run(["lab", "up", "-q", *files]) == 0
        assert shown(capfd, "flows", "--match", "dport=3306") == []
        db[0].sendall(b"lost")
        for end, other in (web, web[::-1]):
            end.sendall(b"kept")
            assert other.recv(4) == b"kept"
        (flow, *_) = shown(capfd, "flows", "--match", "vnic=web-1,dport=80")
        assert (flow["dir"], flow["state"], flow["src"]) == ("IN", "ESTABLISHED", "10.1.4.11")
        # Active FTP: the server connects to the port that its client names, and to no other.
        control = connected(opened, "db-1", "backup-1", "10.1.4.21", 21)
        listeners = [opened.enter_context(pod_socket("db-1", listens=port)) for port in (5000, 5001)]
        for command in (
            b"USER a\r\n",
            b"PORT 10,1,3,11,19,136\r\n",
        ):
            control[0].sendall(command)
            assert control[1].recv(64) == command
        data = opened.enter_context(pod_socket("backup-1"))
        data.connect(("10.1.3.11", 5000))
        opened.enter_context(listeners[0].accept()[0])
        other = opened.enter_context(pod_socket("backup-1"))
        other.settimeout(1)
        with pytest.raises(OSError):
            other.connect(("10.1.3.11", 5001))
        # Without the rule of the connection that announced it, the data connection is over too.
        assert shown(capfd, "flows", "--match", "dport=5000") != []
        without = changed.replace("services: [FTP], action: ALLOW", "services: [FTP], action: DROP")
        assert without != changed
        policy.write_text(without)
        assert cli.run(["lab", "up", "-q", *files]) == 0
        assert shown(capfd, "flows", "--match", "dport=5000") == []
        assert cli.run(["show", "flows", "--kill", "vnic=web-1,dport=80"]) == 0
        assert shown(capfd, "flows", "--match", "vnic=web-1,dport=80") == []


@lab_test
def test_without_the_tools_a_lab_says_so_before_anything_is_made(
    run: Path,  # noqa: F811
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = shop_by_kernel(tmp_path)
    monkeypatch.setattr("dfw.nftables.load._binding", lambda: None)
    monkeypatch.setenv("PATH", "/nowhere")
    assert cli.run(["lab", "up", "-q", *files]) == 3
    assert "no command nft and no Python package nftables: apt-get install nftables" in capfd.readouterr().err
    assert record_read(LabPaths(run / "labs" / "lab")) is None


def test_one_subnet_of_two_domains_is_refused() -> None:
    routes = (RouteState(0, "10.1.0.0/16", "connected", 0), RouteState(1, "10.1.1.0/24", "connected", 1))
    segments = (SegmentState("s", 5001, 0), SegmentState("t", 5002, 1))
    state = HostState("h", 1, "172.16.0.1", segments=segments, gateways=("a", "b"), routes=routes)
    with pytest.raises(StateError, match=r"10\.1\.1\.0/24 belongs to segments of a and b"):
        plan_fabric(state, {}, {})
    together = replace(state, routes=(*routes, RouteState(0, "0.0.0.0/0", "gateway", 1)))
    assert plan_fabric(together, {}, {})


@lab_test
@pytest.mark.parametrize(
    ("speaks", "teps"),
    [
        ("vxlan", "172.16.0.1{}"),
        ("geneve", "172.16.0.1{}"),
        pytest.param("vxlan", "fd00:16::1{}", marks=pytest.mark.long),
    ],
)
def test_a_kernel_and_the_core_in_one_lab(
    run: Path,  # noqa: F811
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    speaks: str,
    teps: str,
) -> None:
    """One host's kernel enforces, the other's packets the core judges: whatever they speak, the same is allowed."""
    if speaks == "geneve" and (lack := geneve_lack()):
        pytest.skip(f"needs geneve: {lack}")
    inventory = tmp_path / "inventory.yaml"
    text = (EXAMPLE / "inventory.yaml").read_text()
    text = text.replace("{name: esx-1", f"{{enforcer: nftables, encapsulation: {speaks}, name: esx-1")
    for number in (1, 2):
        text = text.replace(f"tep: 172.16.0.1{number}", f'tep: "{teps.format(number)}"')
    inventory.write_text(text)
    assert text.count("nftables") == 1 and text.count(teps[:6]) == 2
    assert (
        cli.run(["lab", "up", "-q", str(inventory), str(EXAMPLE / "neighbours.yaml"), str(SHOP / "policy.yaml")]) == 0
    )
    probe(capfd, "--ports", "tcp/80,tcp/3306,udp/53,icmp")
    probe(capfd, "--family", "6", "--ports", "tcp/80,udp/53,icmp")
    # Segments of every length, in both directions: nothing is left to a card that is not there.
    with ExitStack() as opened:
        for client, server, ip in (("ops-1", "web-2", "10.1.1.12"), ("web-2", "ops-1", "10.1.1.21")):
            one, other = connected(opened, client, server, ip, 22)
            sent, got = bytes(range(256)) * 8192, bytearray()
            with ThreadPoolExecutor(1) as pool:
                done = pool.submit(one.sendall, sent)
                while len(got) < len(sent) and (some := other.recv(1 << 16)):
                    got += some
                done.result()
            assert got == sent
    desired = [state_read(LabPaths(labs_folder() / "lab").host(host) / "desired.json") for host in ("esx-1", "esx-2")]
    assert [(tep.encap, tep.bfd) for state in desired for tep in state.teps] == [(speaks, False)] * 2
    assert {row["tep"] for row in shown(capfd, "tep-table")} == {teps.format(number) for number in (1, 2)}
    same_said_by_both(capfd)
    rows = shown(capfd, "health")
    assert all(row["ok"] for row in rows if row["check"] != "log"), rows


def same_said_by_both(capfd: pytest.CaptureFixture[str]) -> None:
    """What `show` says of esx-1, whose kernel enforces, has the columns of esx-2, or is refused by name."""
    for what in WHAT:
        rows = shown(capfd, what)
        columns = {host: {frozenset(row) for row in rows if row["host"] == host} for host in ("esx-1", "esx-2")}
        assert columns["esx-1"] and columns["esx-1"] <= columns["esx-2"], what

    def counted(*more: str) -> dict[object, int]:
        rows = shown(capfd, "rules", "--counters", "--host", "esx-1", *more)
        return {row["rule_path"]: int(str(row["packets"])) for row in rows}

    before, after = counted("--reset"), counted()
    assert sum(before.values()) > 100 and sum(after.values()) < 20
    paths = LabPaths(labs_folder() / "lab")
    samples = samples_of(agent_ask(paths.socket("esx-1"), {"do": "metrics"}, PATIENCE)["text"])
    for name in ("web-1", "uplink"):
        assert samples["palisade_agent_card_packets_total", ("card", name), ("direction", "rx"), ("host", "esx-1")] > 0
    assert samples["palisade_agent_judgements_total", ("host", "esx-1"), ("reason", "match"), ("verdict", "DROP")] > 0
    for do, word in (("capture", "captures"), ("trace", "traces"), ("move", "migration"), ("attach", "attaching")):
        with pytest.raises(AskError, match=f"no {word} on a host whose enforcer is nftables"):
            agent_ask(paths.socket("esx-1"), {"do": do}, PATIENCE)
    for do in ("flows", "kill"):
        with pytest.raises(AskError, match="rule="):
            agent_ask(paths.socket("esx-1"), {"do": do, "match": "rule=x"}, PATIENCE)
    # Neither from there nor to there; nothing has been told to anybody, and the hosts wait for no other revision.
    for pod, to in (("web-1", "esx-2"), ("web-2", "esx-1")):
        assert cli.run(["lab", "migrate", pod, to]) == 2
        assert "host esx-1: no migration on a host whose enforcer is nftables" in capfd.readouterr().err
    # A trace to where its mark would be lost is not sent: the workload there would get it.
    assert cli.run(["trace", "--from", "web-2", "--to", "web-1", "--dport", "80"]) == 2
    assert "10.1.1.11 is on host esx-1, whose kernel enforces" in capfd.readouterr().err
    assert cli.run(["trace", "--from", "web-2", "--to", "web-3", "--dport", "80"]) in (0, 1)
