# SPDX-License-Identifier: Apache-2.0
"""A control plane and its clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.control_plane import ControlPlane, control_plane
from tests.support.kubectl import VERSIONS, Kubectl, kubectl_path


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """One for all tests of a worker: each makes a Namespace of its own."""
    with control_plane(tmp_path_factory.mktemp("plane")) as running:
        yield running


@pytest.fixture(params=VERSIONS)
def kubectl(request: pytest.FixtureRequest, plane: ControlPlane, tmp_path: Path) -> Kubectl:
    version: str = request.param
    return Kubectl(version, kubectl_path(version), plane.kubeconfig, tmp_path)
