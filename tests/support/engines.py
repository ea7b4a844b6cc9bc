# SPDX-License-Identifier: Apache-2.0
"""Both engines behind one face, for tests that compare them with other people's answers.

The oracle is called as a library; the native core through `palisade replay`, as users call it.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dfw.model import Action, Policy, PolicySet, Rule, Tier
from dfw.oracle import Options, Replay
from tests.support.pcap import pcap_read

ENGINES = ("oracle", "native")


class Rules(NamedTuple):
    """A policy as the oracle takes it, and the same as users write it."""

    model: PolicySet
    text: str


# One ANY-ANY rule before every other, not strict, so that the default section's stateless rules are never reached.
_ALLOW_ANY_MODEL = PolicySet(
    policies=(
        Policy(
            path="/infra/domains/default/security-policies/any",
            tier=Tier.EMERGENCY,
            number=0,
            tcp_strict=False,
            rules=(Rule("/infra/domains/default/security-policies/any/rules/any", "any", 1000, Action.ALLOW),),
        ),
    )
)
_ALLOW_ANY_YAML = """\
resource_type: SecurityPolicy
id: any
category: Emergency
sequence_number: 0
tcp_strict: false
rules:
  - {id: any, source_groups: [ANY], destination_groups: [ANY], services: [ANY], action: ALLOW}
"""
ALLOW_ANY = Rules(_ALLOW_ANY_MODEL, _ALLOW_ANY_YAML)


@dataclass(frozen=True, slots=True)
class Line:
    """What we compare of a judgement."""

    n: int
    verdict: str
    reason: str
    ct: str
    reply: bool

    @property
    def linux_ct(self) -> str:
        """As the kernel's oracle writes it."""
        return self.ct + ("/reply" if self.reply and self.ct != "invalid" else "")


@dataclass(frozen=True, slots=True)
class FlowLine:
    """What we compare of a flow record."""

    proto: int
    src: str
    sport: int
    dst: str
    dport: int
    packets: int
    reply_packets: int
    state: str
    end_reason: str


@dataclass(frozen=True, slots=True)
class Result:
    """One capture's judgements and flows."""

    lines: list[Line]
    flows: list[FlowLine]


def replay(
    engine: str,
    captures: Iterable[Path],
    rules: Rules = ALLOW_ANY,
    *,
    clock_stopped: bool = False,
    verify: bool = False,
) -> dict[Path, Result]:
    """Replay captures through a policy at a tap, each from an empty table. Skips where the engine is not there."""
    if engine == "oracle":
        return {path: _replay_oracle(path, rules, clock_stopped, verify) for path in captures}
    if importlib.util.find_spec("dfw.replay") is None:
        pytest.skip("needs core: dfw.replay is not there")
    return _replay_native(list(captures), rules, clock_stopped, verify)


def _replay_oracle(path: Path, rules: Rules, clock_stopped: bool, verify: bool) -> Result:
    run = Replay(rules.model, None, Options(clock_stopped=clock_stopped, verify_checksums=verify))
    for n, captured in enumerate(pcap_read(path), 1):
        run.feed(n, captured.ts_ns, captured.data, captured.wire, captured.link)
    lines = [Line(item.n, item.verdict, item.reason, item.ct, item.reply) for item in run.finish()]
    names = FlowLine.__dataclass_fields__
    flows = [FlowLine(**{name: getattr(flow, name) for name in names}) for flow in run.flows()]
    return Result(lines, flows)


def _replay_native(captures: list[Path], rules: Rules, clock_stopped: bool, verify: bool) -> dict[Path, Result]:
    with tempfile.TemporaryDirectory() as folder:
        policy, verdicts, flows = (Path(folder) / name for name in ("any.yaml", "verdicts.jsonl", "flows.jsonl"))
        policy.write_text(rules.text)
        command = [sys.executable, "-m", "dfw", "replay", *map(str, captures), "--policy", str(policy), "--tap"]
        command += ["--each", "--clock", "stopped" if clock_stopped else "capture"]
        command += ["--checksums", "verify" if verify else "ignore"]
        command += ["--verdicts", str(verdicts), "--flows", str(flows), "-o", "json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        results = {path: Result([], []) for path in captures}
        by_name = {str(path): path for path in captures}
        for row in _rows(verdicts):
            line = Line(row["n"], row["verdict"], row["reason"], row["ct"], row["reply"])
            results[by_name[row["file"]]].lines.append(line)
        for row in _rows(flows):
            fields = {name: row[name] for name in FlowLine.__dataclass_fields__}
            results[by_name[row["file"]]].flows.append(FlowLine(**fields))
        return results


def _rows(path: Path) -> Iterable[Mapping[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
