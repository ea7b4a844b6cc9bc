# SPDX-License-Identifier: Apache-2.0
"""The command `palisade lab` as tests run it: in this process, with a run directory of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dfw import cli
from dfw.schema import schema_files
from overlay.lab_record import LabPaths
from tests.support.stub_agent import RUN

SMALL = """\
apiVersion: palisade.internal/v1alpha1
kind: Inventory
hosts: [{name: a, tep: 172.16.0.1}, {name: b, tep: 172.16.0.2}]
segments: [{name: s, vni: 5001, subnets: [10.1.1.0/24]}]
ports:
  - {name: one, host: a, segment: s, ips: [10.1.1.11]}
  - {name: two, host: b, segment: s, ips: [10.1.1.12]}
"""


class Lab:
    """The command `palisade lab` with a run directory of its own."""

    def __init__(self, run: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.run = run
        self.capfd = capfd
        self.environment = {**os.environ, "PALISADE_RUN": str(run)}

    def __call__(self, *arguments: str | Path, status: int = 0) -> str:
        """Run it, in this process (a new one imports for a second); what it printed."""
        return self.verb("lab", *arguments, status=status)

    def verb(self, *arguments: str | Path, status: int = 0) -> str:
        """Another verb in the same way."""
        self.capfd.readouterr()
        result = cli.run([*map(str, arguments)])
        printed, self.errors = self.capfd.readouterr()
        assert result == status, printed + self.errors
        return printed

    def paths(self) -> LabPaths:
        """Of the lab that has the usual name."""
        return LabPaths(self.run / "labs" / "lab")

    def exec(self, pod: str, *command: str) -> subprocess.CompletedProcess[str]:
        """`lab exec`: it becomes the command, so that it needs a process of its own."""
        return subprocess.run([*RUN, "lab", "exec", pod, "--", *command], env=self.environment, text=True, stdout=-1)

    def begin(self, *arguments: str | Path, verb: str = "lab") -> subprocess.Popen[str]:
        """The same, not waited for."""
        command = [*RUN, verb, *map(str, arguments)]
        return subprocess.Popen(command, env=self.environment, text=True, stdout=-1, stderr=-1)

    def status(self, *arguments: str) -> Any:
        """`lab status -o json`, as its schema has it."""
        data = json.loads(self("status", "-o", "json", *arguments))
        jsonschema.validate(data, json.loads(schema_files()["lab-status"].read_text()))
        return data

    def pids(self) -> dict[str, int]:
        """The pods' first processes."""
        return {pod["name"]: pod["pid"] for pod in self.status()["pods"]}
