# SPDX-License-Identifier: Apache-2.0
"""A control plane and its clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import LONG
from tests.support.control_plane import ControlPlane, control_plane
from tests.support.kubectl import VERSIONS, Kubectl, kubectl_path

BETWEEN = ("1.31", "1.33")
"""Of these the bounded run asks only what differs from version to version."""


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """One for all tests of a worker: each makes a Namespace of its own."""
    with control_plane(tmp_path_factory.mktemp("plane")) as running:
        yield running


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where kubectl keeps what it has discovered, as on somebody's machine."""
    return tmp_path_factory.mktemp("homes")


@pytest.fixture(params=VERSIONS)
def kubectl(request: pytest.FixtureRequest, plane: ControlPlane, homes: Path) -> Kubectl:
    version: str = request.param
    if version in BETWEEN and not LONG and request.node.get_closest_marker("every_version") is None:
        pytest.skip("long: runs under `make test-long`")
    home = homes / version
    home.mkdir(exist_ok=True)
    return Kubectl(version, kubectl_path(version), plane.kubeconfig, home)
