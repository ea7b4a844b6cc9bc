# SPDX-License-Identifier: Apache-2.0
"""The compiled module built aside from a changed copy of native/, only the objects that a header reaches."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
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


def inline_by_choice(native: Path) -> None:
    """Let the compiler choose what to inline in this copy of native/: forced, it compiles up to four times as long."""
    base = native / "core" / "base.h"
    base.write_text(base.read_text().replace("__attribute__((always_inline))", "__attribute__((unused))"))


class CoreBuild:
    """A copy of native/ in `folder`, compiled once as it is; `build` compiles it with a header changed."""

    def __init__(self, folder: Path) -> None:
        self.native = folder / "native"
        self._folder = folder
        self._build = _build_module()
        shutil.copytree(ROOT / "native", self.native)
        inline_by_choice(self.native)
        self._generated = folder / f"{self._build.MODULE}.c"
        with contextlib.redirect_stdout(io.StringIO()):  # cffi says what it writes
            self._build.make_ffi([]).emit_c_code(str(self._generated))
        self._good: dict[tuple[Path, ...], Path] | None = None  # sources -> object, of the unchanged core

    # The same code at -O1 is the same program, however it is compiled.
    def _compile(self, unit: tuple[Path, ...], target: Path) -> str:
        flags = ["-std=gnu11", "-O1", "-w", "-fPIC", "-fvisibility=hidden", "-fno-wrapv", "-fno-semantic-interposition"]
        include = ["-Inative/include", "-Inative", f"-I{sysconfig.get_path('include')}", "-D_GNU_SOURCE"]
        together, depfile = target.with_suffix(".c"), target.with_suffix(".d")
        together.write_text("".join(f'#include "{source}"\n' for source in unit))
        command = ["gcc", *flags, *include, "-MMD", "-MF", str(depfile), "-c", str(together), "-o", str(target)]
        subprocess.run(command, cwd=self._folder, check=True, capture_output=True)
        return depfile.read_text()

    def _units(self) -> list[tuple[Path, ...]]:
        """What is compiled together: as one file most sources take a third of the time. Those that name their statics
        alike stay alone, and those that most headers don't reach."""
        alone = re.compile(r"(bench|classifier|uplink_udp|_palisade_core)")
        sources = [*sorted(self.native.glob("engine/*.c")), *sorted(self.native.glob("io/*.c")), self._generated]
        single = [source for source in sources if alone.match(source.name)]
        return [tuple(source for source in sources if source not in single), *((source,) for source in single)]

    def _object(self, unit: tuple[Path, ...], folder: str) -> Path:
        target = self._folder / folder / (f"{unit[0].stem}.o" if len(unit) == 1 else "together.o")
        target.parent.mkdir(exist_ok=True)
        return target

    def _begin(self) -> dict[tuple[Path, ...], Path]:
        good = {}
        self._reads = {}
        for unit in self._units():
            good[unit] = self._object(unit, "good")
            self._reads[unit] = self._compile(unit, good[unit])
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
        for unit, good in self._good.items():
            # The benchmarks have the pipeline in them once more; no test judges by theirs.
            if f"core/{header}" not in self._reads[unit] or unit[0].name.startswith("bench"):
                objects.append(good)
                continue
            fresh = self._object(unit, "fresh")
            self._compile(unit, fresh)
            changed |= fresh.read_bytes() != good.read_bytes()
            objects.append(fresh)
        return self._link(objects) if changed else None

    def _link(self, objects: list[Path]) -> Path:
        module = self._folder / "module" / f"{self._build.MODULE}.abi3.so"
        module.parent.mkdir(exist_ok=True)
        command = ["gcc", "-shared", "-o", str(module), *map(str, objects), "-lm", "-lpthread"]
        subprocess.run(command, check=True, capture_output=True)
        return module
