# SPDX-License-Identifier: Apache-2.0
"""`palisade supervisor up` on a disk that is full, and on an etcd: with real kubectl."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest

from supervisor_glue.auth.kubeconfig import kubeconfig_read
from supervisor_glue.auth.tls import client_context
from tests.support.control_plane import PATIENCE, ControlPlane, control_plane
from tests.support.etcd_server import EtcdServer
from tests.support.kubectl import Kubectl, kubectl_path


def kubectl_of(plane: ControlPlane, folder: Path) -> Kubectl:
    return Kubectl("1.37", kubectl_path("1.37"), plane.kubeconfig, folder)


@pytest.mark.long
@pytest.mark.needs_mount
def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """A file system of 3 MB, of the process's own, that something else fills."""
    data = tmp_path / "data"
    data.mkdir()
    within = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=3m none "$0" && exec "$@"', str(data))
    with control_plane(tmp_path, "--no-controllers", within=within) as plane:
        kubectl = kubectl_of(plane, tmp_path)
        kubectl("create", "configmap", "before")
        filler = Path(f"/proc/{plane.process.pid}/root{data}/filler")
        with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as written:
            while True:
                written.write(bytes(4096))
        big = tmp_path / "big"
        big.write_text("x" * 300_000)
        refused = kubectl("create", "configmap", "big", f"--from-file={big}", code=1)
        assert "the control plane's store is full, nothing was changed" in refused.err
        assert kubectl("get", "configmaps", "-n", "default", "-o", "name").out.split() == ["configmap/before"]
        filler.unlink()
        kubectl("create", "configmap", "big", f"--from-file={big}")
        assert plane.stop() == 0


@pytest.mark.needs_tool("etcd")
def test_on_etcd(tmp_path: Path) -> None:
    """An etcd that has lost what it had acknowledged ends the server, which says so."""
    with EtcdServer() as etcd:
        options = ("--no-controllers", "--store", f"etcd={etcd.endpoint}")
        with control_plane(tmp_path, *options) as plane:
            kubectl = kubectl_of(plane, tmp_path)
            kubectl("create", "configmap", "kept")
            assert kubectl("get", "configmaps", "-o", "name").out.split() == ["configmap/kept"]
            assert not (plane.data / "store.db").exists()
            etcd.kill()
            config = kubeconfig_read(plane.kubeconfig)
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(config.server + "/readyz", context=client_context(config.authority))
            assert caught.value.code == 500 and b"[-]store failed" in caught.value.read()
            etcd.forget()
            etcd.start()
            assert plane.process.wait(PATIENCE) == 3
            assert "this is not the same data" in plane.log.read_text()
