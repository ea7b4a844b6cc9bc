# SPDX-License-Identifier: Apache-2.0
"""What a kernel that forwards is told to make: its tunnels, word for word; and what decides what two hosts speak.

Where this kernel has Geneve, the lines for it are also tried. To write the golden files anew: PYTHONPATH=. python -m
tests.unit.test_kernel_tunnels
"""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec.structs import replace as with_fields

from dfw import cli
from dfw.model import ENCAPSULATIONS, GENEVE, NATIVE, NFTABLES, VXLAN, Address, Family, Host
from dfw.nftables.namespace import PrivateNamespace
from overlay.fabric import ENCAPS
from overlay.hoststate import HostState, StateError, state_decode, state_encode
from overlay.kernel_ends import render_ends
from overlay.kernel_fabric import plan_fabric
from overlay.kernel_tunnels import FabricStep, geneve_lack, geneve_name
from overlay.lab_inputs import InputFile, inputs_parse
from overlay.lab_plan import world_encapsulated
from overlay.span import encapsulation, resolve_span

HERE = Path(__file__).parent / "golden" / "kernel_fabric"
INVENTORY = """
apiVersion: palisade.internal/v1alpha1
kind: Inventory
hosts:
  - {name: k1, tep: "TEP1", enforcer: nftables, encapsulation: OWN}
  - {name: k2, tep: "TEP2", enforcer: nftables, encapsulation: vxlan}
  - {name: c3, tep: "TEP3"}
  - {name: k4, tep: "TEP4", enforcer: nftables, encapsulation: geneve}
gateways: [{name: t1, tier: 1}]
segments:
  - {name: a, vni: 5001, subnets: [10.0.1.0/24, "fd00:1::/64"], gateway: t1}
  - {name: b, vni: 16777215, subnets: [10.0.2.0/24], gateway: t1}
ports:
  - {name: a1, host: k1, segment: a, ips: [10.0.1.11, "fd00:1::11"]}
  - {name: a2, host: k2, segment: a, ips: [10.0.1.12]}
  - {name: a3, host: c3, segment: a, ips: [10.0.1.13, "fd00:1::13"]}
  - {name: a4, host: k4, segment: a, ips: [10.0.1.14]}
  - {name: b3, host: c3, segment: b, ips: [10.0.2.13]}
"""
UNDERLAYS = {4: "172.16.0.{}", 6: "fd00:99::{}"}


def state_of(version: int, own: str = GENEVE) -> HostState:
    """What k1 is told."""
    text = INVENTORY.replace("OWN", own)
    for number in range(1, 5):
        text = text.replace(f"TEP{number}", UNDERLAYS[version].format(number))
    return resolve_span(inputs_parse([InputFile("in.yaml", text.encode())]).world, 1, {"a1": "/ns/a1"})["k1"]


def lines(version: int, own: str) -> str:
    state = state_of(version, own)
    steps = plan_fabric(state, {"a1": 1}, {"a1": "pod"})
    wanted = [f"{step.tool} {step.add}" for step in steps if " px" in f" {step.add}" or "dev px" in step.add]
    return "\n".join(wanted) + "\n"


CASES = [(version, own) for version in UNDERLAYS for own in ENCAPSULATIONS]


@pytest.mark.parametrize(("version", "own"), CASES)
def test_tunnels_are_made_as_written(version: int, own: str) -> None:
    assert lines(version, own) == (HERE / f"{own}-v{version}.txt").read_text()


def test_a_geneve_port_keeps_its_name_whatever_other_teps_there_are() -> None:
    names = {
        geneve_name(vni, tep) for vni in (1, 0xFFFFFF) for tep in ("0.0.0.1", "255.255.255.255", "fd00::1", "fd00::2")
    }
    assert len(names) == 8 and {len(name) for name in names} == {14}
    state = state_of(4)
    fewer = with_fields(
        state, segments=tuple(with_fields(item, replicas=item.replicas[-1:]) for item in state.segments)
    )
    made = [{step.add for step in plan_fabric(some, {}, {}) if "type geneve" in step.add} for some in (state, fewer)]
    assert made[0] == made[1]


def test_between_tunnels_nothing_passes_and_copies_go_where_vnics_are() -> None:
    state = state_of(4)
    no_replica = with_fields(state, segments=tuple(with_fields(item, replicas=()) for item in state.segments))
    for some, copies in ((state, True), (no_replica, False)):
        ports = [step.add for step in plan_fabric(some, {}, {}) if step.add.startswith("link set dev px")]
        assert len(ports) == 5 and all("isolated on" in line for line in ports)  # a: VXLAN, c3, k4; b: VXLAN, c3
        geneve = [line for line in ports if len(line.split()[3]) == 14]
        assert len(geneve) == 3 and all(("bcast_flood off" in line) is not copies for line in geneve)


def test_what_comes_by_either_tunnel_is_not_tracked() -> None:
    text = render_ends(state_of(4), {"a1": 1})
    assert text.count("udp dport { 4789, 6081 } notrack") == 2
    assert "udp dport { 4789, 6081 } ip saddr != @teps drop" in text


@pytest.mark.needs_root
@pytest.mark.needs_netns
@pytest.mark.needs_tool("ip", "bridge")
@pytest.mark.parametrize("version", UNDERLAYS)
def test_this_kernel_takes_the_lines(version: int) -> None:
    lack = geneve_lack()
    if lack:
        pytest.skip(f"needs geneve: {lack}")
    with PrivateNamespace() as inside:
        steps = [step for step in plan_fabric(state_of(version), {}, {}) if step.tool in ("ip", "bridge")]
        for step in steps:
            inside.run(lambda step=step: step_run(step))  # type: ignore[misc]


def step_run(step: FabricStep) -> None:
    subprocess.run([step.tool, *step.add.split()], check=True)


def test_a_kernel_without_geneve_says_so_in_its_own_words() -> None:
    lack = geneve_lack()
    assert lack is None or lack.rstrip(".").lower() in ("unknown device type",) or "right" in lack or "No such" in lack


# What two hosts speak

KERNEL, CORE = (Host("x", Address(Family.IPV4, 1), enforcer=word) for word in (NFTABLES, NATIVE))


@pytest.mark.parametrize(
    ("one", "other", "spoken"),
    [
        (CORE, CORE, GENEVE),
        (CORE, KERNEL, VXLAN),
        (KERNEL, KERNEL, VXLAN),
        (CORE, replace(KERNEL, encapsulation=GENEVE), GENEVE),
        (KERNEL, replace(KERNEL, encapsulation=GENEVE), VXLAN),
        (replace(KERNEL, encapsulation=GENEVE), replace(KERNEL, encapsulation=GENEVE), GENEVE),
        (CORE, replace(CORE, encapsulation=VXLAN), VXLAN),
    ],
)
def test_two_hosts_speak_what_both_can(one: Host, other: Host, spoken: str) -> None:
    assert encapsulation(one, other) == encapsulation(other, one) == spoken


def test_a_labs_kernels_speak_what_they_have_unless_their_hosts_say_otherwise() -> None:
    text = INVENTORY.replace(", encapsulation: OWN", "")
    for number in range(1, 5):
        text = text.replace(f"TEP{number}", UNDERLAYS[4].format(number))
    world = inputs_parse([InputFile("in.yaml", text.encode())]).world
    for speaks in ENCAPSULATIONS:
        hosts = world_encapsulated(world, speaks).inventory.hosts
        assert {name: host.encapsulation for name, host in hosts.items()} == {
            "k1": speaks,
            "k2": VXLAN,
            "c3": None,
            "k4": GENEVE,
        }


def test_bfd_is_spoken_between_cores_only() -> None:
    found = {tep.host: (tep.encap, tep.bfd) for tep in state_of(4).teps}
    assert found == {"k2": (VXLAN, False), "c3": (GENEVE, False), "k4": (GENEVE, False)}


# Words


def test_every_encapsulation_is_one_that_the_core_knows() -> None:
    assert set(ENCAPS) == set(ENCAPSULATIONS)


@pytest.mark.parametrize(
    ("field", "word", "says"),
    [
        ("encap", "gre", "teps[1].encap is 'gre', which is none of geneve, vxlan"),
        ("enforcer", "ebpf", "enforcer is 'ebpf', which is none of native, nftables"),
        ("tier", "NOWHERE", "rules[0].tier is 'NOWHERE', which is none of ETHERNET, "),
        ("action", "SHRUG", "rules[0].action is 'SHRUG', which is none of ALLOW, "),
        ("guards", "ghosts", "vnics[0].guards is 'ghosts', which is none of spoof, dhcp, ra"),
    ],
)
def test_an_unknown_word_in_a_state_is_refused_with_its_path(field: str, word: str, says: str) -> None:
    state = state_of(4)
    if field == "encap":
        spoiled = with_fields(state, teps=(state.teps[0], with_fields(state.teps[1], encap=word), *state.teps[2:]))
    elif field == "enforcer":
        spoiled = with_fields(state, enforcer=word)
    elif field in ("tier", "action"):
        spoiled = with_fields(state, rules=(with_fields(state.rules[0], **{field: word}), *state.rules[1:]))
    else:
        spoiled = with_fields(state, vnics=(with_fields(state.vnics[0], guards=("dhcp", word)),))
    with pytest.raises(StateError) as caught:
        state_decode(state_encode(spoiled))
    assert str(caught.value).startswith(says)


def test_an_unknown_encapsulation_in_an_inventory_is_told_where(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "in.yaml"
    file.write_text(INVENTORY.replace("OWN", "gre").replace("TEP", "10.9.9."))
    assert cli.run(["check", str(file)]) == 2
    said = capfd.readouterr().err
    assert "in.yaml:5" in said and "hosts[0].encapsulation" in said and "geneve" in said


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    for case in CASES:
        (HERE / f"{case[1]}-v{case[0]}.txt").write_text(lines(*case))
