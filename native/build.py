# SPDX-License-Identifier: Apache-2.0
"""Build `_palisade_core`, the compiled packet core, with cffi in API mode.

Two users share what is said here: setup.py (`pip install .`: setuptools compiles) and `make build` (this file run as
a program: compiles what changed, by the compiler's own dependency files, and puts the module into the .venv).
Sources are found by glob, so a new file in native/engine or native/io needs no row anywhere.
"""

from __future__ import annotations

import argparse
import compileall
import concurrent.futures
import contextlib
import hashlib
import io
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import cffi

ROOT = Path(__file__).resolve().parent.parent
NATIVE = ROOT / "native"
HEADERS = tuple(NATIVE / "include" / f"palisade_{name}.h" for name in ("core", "live", "watch", "bench"))
MODULE = "_palisade_core"
PACKAGES = ("dfw", "overlay", "supervisor_glue")
LIBRARIES: list[str] = ["m", "pthread"]

# No -march: one build runs on every machine of its architecture, wide instructions are chosen at run time.
# -fno-tree-slp-vectorize: packing two scalars into a vector register costs more than the store it saves (a fifth of an
# established packet's time). -fno-wrapv: signed overflow stays an error that UBSan can see (Python's own build flags
# switch it off).
FLAGS = ["-std=gnu11", "-O3", "-g", "-fPIC", "-fvisibility=hidden"]
FLAGS += ["-fno-wrapv", "-fno-semantic-interposition", "-fno-tree-slp-vectorize"]
WARNINGS = ["-Wall", "-Wextra"]
STRICT = ["-Werror"]  # for us; a user's newer compiler may warn of more and must still install

# What built the core: known only to the compiler, so the generated file asks it.
BUILD_CDEF = """
const char *pal_build_compiler(void);
const char *pal_build_target(void);
const char *pal_build_layout(void);
"""
BUILD_SOURCE = r"""
/* cffi's own wrappers take arguments that they don't use. */
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#pragma GCC diagnostic ignored "-Wcast-function-type"
#include "palisade_watch.h"
#include "palisade_bench.h"
#if defined(__clang__)
static const char *pal_build_compiler(void) { return __VERSION__; }
#else
static const char *pal_build_compiler(void) { return "gcc " __VERSION__; }
#endif
#if defined(__x86_64__)
static const char *pal_build_target(void) { return "x86-64"; }
#elif defined(__aarch64__)
static const char *pal_build_target(void) { return "aarch64"; }
#else
static const char *pal_build_target(void) { return "other"; }
#endif
"""


def sources() -> list[Path]:
    """The core's C files, in a fixed order."""
    return sorted([*(NATIVE / "engine").glob("*.c"), *(NATIVE / "io").glob("*.c")])


def header_cdef() -> str:
    """The regions of our headers that cffi reads.

    Raises ValueError when one is not marked.
    """
    regions = []
    for header in HEADERS:
        found = re.findall(r"/\* cffi: begin \*/\n(.*?)/\* cffi: end \*/", header.read_text(), re.DOTALL)
        if not found:
            raise ValueError(f"{header}: no region between 'cffi: begin' and 'cffi: end'")
        regions += found
    return "\n".join(regions)


def layout_source(cdef: str) -> str:
    """C code for the layout: a hash of the declarations that Python and C share, white space and comments aside."""
    words = " ".join(re.sub(r"/\*.*?\*/", " ", cdef, flags=re.DOTALL).split())
    digest = hashlib.sha256(words.encode()).hexdigest()[:16]
    return f'static const char *pal_build_layout(void) {{ return "{digest}"; }}\n'


def make_ffi(warnings: list[str]) -> cffi.FFI:
    """The cffi description of the module, with paths relative to the checkout (setuptools wants them so)."""
    ffi = cffi.FFI()
    cdef = header_cdef()
    ffi.cdef(cdef + BUILD_CDEF)
    ffi.set_source(
        MODULE,
        BUILD_SOURCE + layout_source(cdef),
        sources=[str(path.relative_to(ROOT)) for path in sources()],
        include_dirs=["native/include", "native"],
        depends=[str(path.relative_to(ROOT)) for path in sorted(NATIVE.glob("*/*.[hd]*"))],
        extra_compile_args=FLAGS + warnings,
        libraries=LIBRARIES,
    )
    return ffi


def ffibuilder() -> cffi.FFI:
    """The name that cffi's setuptools hook calls."""
    return make_ffi(WARNINGS)


def is_stale(target: Path, depfile: Path) -> bool:
    """Whether an object is older than anything that the compiler read to make it."""
    if not target.exists() or not depfile.exists():
        return True
    made = target.stat().st_mtime_ns
    text = depfile.read_text().replace("\\\n", " ").split(":", 1)[1]
    for name in shlex.split(text.split("\n", 1)[0]):
        try:
            if os.stat(ROOT / name).st_mtime_ns > made:
                return True
        except FileNotFoundError:
            return True
    return False


def compile_one(command: list[str], source: Path, target: Path) -> bool:
    """Compile one file if it is stale. Returns whether it was compiled; raises CalledProcessError."""
    depfile = target.with_suffix(".d")
    if not is_stale(target, depfile):
        return False
    name = str(source.relative_to(ROOT)) if source.is_relative_to(ROOT) else str(source)
    print(f"  cc {name}", flush=True)
    subprocess.run([*command, "-MMD", "-MF", str(depfile), "-c", name, "-o", str(target)], cwd=ROOT, check=True)
    return True


def build(out: Path, install: Path, extra: list[str]) -> bool:
    """Bring the module in `install` up to date, with objects under `out`. Returns whether anything was done."""
    compiler = shlex.split(os.environ.get("CC") or "gcc")
    include = sysconfig.get_path("include")
    # Relative to the checkout (which may have spaces in its path): the compiler runs there.
    command = [*compiler, *FLAGS, *WARNINGS, *STRICT, "-Inative/include", "-Inative", f"-I{include}", *extra]
    # Objects of one set of flags and one compiler never mix with those of another.
    version = subprocess.run([*compiler, "--version"], check=True, capture_output=True, text=True).stdout
    key = hashlib.sha256("\0".join([*command, version]).encode()).hexdigest()[:12]
    objects = out / key
    objects.mkdir(parents=True, exist_ok=True)

    generated = objects / f"{MODULE}.c"
    fresh = objects / f"new-{os.getpid()}.c"
    with contextlib.redirect_stdout(io.StringIO()):  # cffi says what it writes, changed or not
        make_ffi(WARNINGS).emit_c_code(str(fresh))
    if not generated.exists() or generated.read_bytes() != fresh.read_bytes():
        fresh.replace(generated)
    fresh.unlink(missing_ok=True)

    jobs = [(path, objects / f"{path.parent.name}-{path.stem}.o") for path in sources()]
    jobs.append((generated, objects / f"{MODULE}.o"))
    with concurrent.futures.ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:
        done = list(pool.map(lambda job: compile_one(command, *job), jobs))

    # A module and the list of what went into it: a removed source must relink too.
    module = install / f"{MODULE}.abi3.so"
    manifest = objects / "linked"
    linked = "\n".join([str(module), *(str(target) for _, target in jobs)])
    if (
        not any(done)
        and module.exists()
        and manifest.exists()
        and manifest.read_text() == linked
        and module.stat().st_mtime_ns >= max(target.stat().st_mtime_ns for _, target in jobs)
    ):
        return False
    print(f"  ld {module.name}", flush=True)
    fresh = module.with_name(f"{module.name}.{os.getpid()}")
    libraries = [f"-l{name}" for name in LIBRARIES]
    subprocess.run(
        [*compiler, "-shared", *extra, "-o", str(fresh), *(str(target) for _, target in jobs), *libraries], check=True
    )
    fresh.replace(module)  # in one step: a running test keeps the file that it has mapped
    manifest.write_text(linked)
    return True


def compile_packages() -> None:
    """Python's byte code of our packages, as `pip install` makes it: with PYTHONDONTWRITEBYTECODE set, as in many
    containers, nobody else would, and every command would begin by compiling its modules."""
    for name in PACKAGES:
        compileall.compile_dir(ROOT / name, quiet=2)


def main() -> int:
    """`native/build.py [--out DIR] [--install DIR] [extra compiler flags]`: 0 built, 1 the compiler refused."""
    parser = argparse.ArgumentParser(description="Build the packet core into this Python's site-packages.")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "core")
    parser.add_argument("--install", type=Path, default=Path(sysconfig.get_path("platlib")))
    arguments, extra = parser.parse_known_args()
    try:
        build(arguments.out, arguments.install, extra)
    except subprocess.CalledProcessError as error:
        print(f"the packet core did not compile ({error.cmd[0]} ended with {error.returncode})", file=sys.stderr)
        return 1
    compile_packages()
    return 0


if __name__ == "__main__":
    sys.exit(main())
