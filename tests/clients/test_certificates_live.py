# SPDX-License-Identifier: Apache-2.0
"""A host's certificate over its life: got by a token, renewed before it ends, refused when its Host is deleted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from supervisor_glue.api.client import Resource
from supervisor_glue.api.http_client import HttpClient
from supervisor_glue.api.status import ApiError
from supervisor_glue.auth.joining import KUBECONFIG, host_join
from supervisor_glue.auth.kubeconfig import kubeconfig_read
from supervisor_glue.auth.pki import certificate_hash
from supervisor_glue.auth.tokens import JOIN_NAMESPACE, join_secret, join_token_make
from supervisor_glue.controllers.resources import HOSTS
from tests.support.control_plane import ControlPlane, control_plane
from tests.support.kubectl import Kubectl, kubectl_path
from tests.support.spherelet import read, spherelet

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_netns, pytest.mark.needs_mount]
LIFE = "12s"
ATTEMPTS = 3  # a machine that stands still for a certificate's whole life lets it end


async def _joined(plane: ControlPlane, folder: Path) -> Path:
    """As `agent join` does it."""
    admin = kubeconfig_read(plane.kubeconfig)
    token = join_token_make()
    async with HttpClient(admin, "test") as client:
        secret = join_secret(token, datetime.now(UTC) + timedelta(minutes=5))
        await client.create(Resource("", "v1", "secrets"), secret, JOIN_NAMESPACE)
    return await host_join(admin.server, token, certificate_hash(admin.authority), "esx-1", folder)


def _until(holds: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def _held(kubeconfig: Path) -> x509.Certificate:
    identity = kubeconfig_read(kubeconfig).identity
    assert identity is not None
    return x509.load_pem_x509_certificate(identity.certificate)


async def _code(kubeconfig: Path, path: str = HOSTS.path(name="esx-1")) -> int:
    async with HttpClient.of_file(kubeconfig, "test") as client:
        try:
            async for _ in client.lines("GET", path):
                pass
        except ApiError as error:
            return error.code
    return 200


def test_a_host_stays_past_its_first_certificate_and_not_past_its_host(tmp_path: Path) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        folder = tmp_path / str(attempt)
        try:
            with control_plane(folder, "--certificate-life", LIFE) as plane:
                _lives_and_ends(plane, folder)
            return
        except (AssertionError, ConnectionError):
            kubeconfig = folder / "host" / KUBECONFIG
            stood_still = kubeconfig.exists() and datetime.now(UTC) > _held(kubeconfig).not_valid_after_utc
            if attempt == ATTEMPTS or not stood_still:
                raise


def _lives_and_ends(plane: ControlPlane, folder: Path) -> None:
    kubectl = Kubectl("1.37", kubectl_path("1.37"), plane.kubeconfig, folder)
    joined = asyncio.run(_joined(plane, folder / "host"))
    first = _held(joined)
    with spherelet(plane, folder / "host", "esx-1", "--no-network", joined=joined) as running:
        kubectl("create", "namespace", "x")
        kubectl("-n", "x", "run", "p", "--image=host", "--", "sh", "-c", "echo said; sleep 1000")
        _until(lambda: (read(kubectl, "x", "p").get("status") or {}).get("phase") == "Running", "the pod runs")
        _until(lambda: datetime.now(UTC) > first.not_valid_after_utc, "the first certificate has ended")
        log = "/api/v1/namespaces/x/pods/p/log"
        _until(lambda: asyncio.run(_code(plane.kubeconfig, log)) == 200, "its next connection")
        assert _held(joined).serial_number != first.serial_number and asyncio.run(_code(joined)) == 200
        kubectl("-n", "x", "run", "q", "--image=host")
        _until(lambda: (read(kubectl, "x", "q").get("status") or {}).get("phase") == "Running", "a pod begun since")
        assert "certificate.not-renewed" not in running.told()
        kubectl("delete", "host", "esx-1")
        assert asyncio.run(_code(joined)) == 401
        _until(lambda: asyncio.run(_code(plane.kubeconfig, log)) == 503, "its connection has been ended")
