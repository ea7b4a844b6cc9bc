# SPDX-License-Identifier: Apache-2.0
"""The compiled module built aside from a changed copy of native/, only the objects that a header reaches."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent


def _build_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("native_build", ROOT / "native" / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["native_build"] = module
    spec.loader.exec_module(module)
    return module


class CoreBuild:
    """A copy of native/ in `folder`, compiled once as it is; `build` compiles it with a header changed."""

    def __init__(self, folder: Path) -> None:
        self.native = folder / "native"
        self._folder = folder
        self._build = _build_module()
        shutil.copytree(ROOT / "native", self.native)
        self._generated = folder / f"{self._build.MODULE}.c"
        with contextlib.redirect_stdout(io.StringIO()):  # cffi says what it writes
            self._build.make_ffi([]).emit_c_code(str(self._generated))
        self._good: dict[Path, Path] | None = None  # source -> object, of the unchanged core

    # The same code at -O1 is the same program, however it is compiled.
    def _compile(self, source: Path, target: Path) -> str:
        flags = ["-std=gnu11", "-O1", "-w", "-fPIC", "-fvisibility=hidden", "-fno-wrapv", "-fno-semantic-interposition"]
        include = ["-Inative/include", "-Inative", f"-I{sysconfig.get_path('include')}"]
        name = str(source.relative_to(self._folder))
        depfile = target.with_suffix(".d")
        command = ["gcc", *flags, *include, "-MMD", "-MF", str(depfile), "-c", name, "-o", str(target)]
        subprocess.run(command, cwd=self._folder, check=True, capture_output=True)
        return depfile.read_text()

    def _sources(self) -> list[Path]:
        return [*sorted(self.native.glob("engine/*.c")), *sorted(self.native.glob("io/*.c")), self._generated]

    def _object(self, source: Path, folder: str) -> Path:
        target = self._folder / folder / f"{source.parent.name}-{source.stem}.o"
        target.parent.mkdir(exist_ok=True)
        return target

    def _begin(self) -> dict[Path, Path]:
        good = {}
        self._reads = {}
        for source in self._sources():
            good[source] = self._object(source, "good")
            self._reads[source] = self._compile(source, good[source])
        return good

    def prepare(self) -> None:
        """Compile the unchanged core, once."""
        if self._good is None:
            self._good = self._begin()

    def unchanged(self) -> Path:
        """The module as it is."""
        assert self._good is not None
        return self._link(list(self._good.values()))

    def build(self, header: str) -> Path | None:
        """The module with what native/core/`header` is now; None when its object code is that of the unchanged core."""
        assert self._good is not None, "prepare() comes first, before anything is changed"
        objects, changed = [], False
        for source, good in self._good.items():
            # The benchmarks have the pipeline in them once more; no test judges by theirs.
            if f"core/{header}" not in self._reads[source] or source.name.startswith("bench"):
                objects.append(good)
                continue
            fresh = self._object(source, "fresh")
            self._compile(source, fresh)
            changed |= fresh.read_bytes() != good.read_bytes()
            objects.append(fresh)
        return self._link(objects) if changed else None

    def _link(self, objects: list[Path]) -> Path:
        module = self._folder / "module" / f"{self._build.MODULE}.abi3.so"
        module.parent.mkdir(exist_ok=True)
        command = ["gcc", "-shared", "-o", str(module), *map(str, objects), "-lm", "-lpthread"]
        subprocess.run(command, check=True, capture_output=True)
        return module
