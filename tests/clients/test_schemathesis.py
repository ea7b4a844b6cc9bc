# SPDX-License-Identifier: Apache-2.0
"""Requests drawn from the OpenAPI documents: whatever they ask, no answer is a 5xx."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.control_plane import ControlPlane

GROUPS = (
    *("api/v1", "apis/authorization.k8s.io/v1", "apis/certificates.k8s.io/v1", "apis/coordination.k8s.io/v1"),
    *("apis/crd.nsx.vmware.com/v1alpha1", "apis/networking.k8s.io/v1", "apis/palisade.internal/v1alpha1"),
    *("apis/policy.networking.k8s.io/v1alpha2", "apis/rbac.authorization.k8s.io/v1"),
)


@pytest.mark.long
@pytest.mark.parametrize("group", GROUPS)
def test_no_request_is_too_much(plane: ControlPlane, tmp_path: Path, group: str) -> None:
    config = yaml.safe_load(plane.kubeconfig.read_text())
    user = config["users"][0]["user"]
    pem = b"".join(base64.b64decode(user[f"client-{part}-data"]) for part in ("certificate", "key"))
    (tmp_path / "both.pem").write_bytes(pem)
    command = [Path(sys.executable).with_name("st"), "run", "--no-color", "--phases", "fuzzing", "--max-examples", "10"]
    command += ["--checks", "not_a_server_error", "--request-cert", str(tmp_path / "both.pem"), "--tls-verify", "false"]
    # A stream or a watch goes on until the client has had enough: that is no failure.
    command += ["--exclude-path-regex", "(exec|attach)$", "--request-timeout", "5"]
    document = f"{config['clusters'][0]['cluster']['server']}/openapi/v3/{group}"
    done = subprocess.run([*command, document], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert "generated" in done.stdout, done.stdout + done.stderr
    assert "Server error" not in done.stdout
    assert "Internal error occurred" not in done.stdout
    assert plane.process.poll() is None
    assert "ValueError" not in plane.log.read_text()
