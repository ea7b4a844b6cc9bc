#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Write requirements/dev.txt and bench.txt anew: every Python package of a checkout's .venv, and those of `make bench`, one
# version for Python 3.11 to 3.13 and for x86-64 and aarch64, with hashes. Run by hand when a dependency in pyproject.toml changes; needs `uv`.
# usage: scripts/lock.sh [--upgrade]
set -eu
cd "$(dirname "$0")/.."
command -v uv >/dev/null || { echo "scripts/lock.sh needs uv: pip install uv" >&2; exit 3; }
trap 'rm -f requirements/dev.tmp requirements/bench.tmp' EXIT
compile() { # what it is made from, list, options
  text=$1 list=requirements/$2.txt made=requirements/$2.tmp
  shift 2
  # What is there now is where uv starts: without --upgrade versions stay.
  cp "$list" "$made" 2>/dev/null || :
  uv pip compile --quiet --no-config --no-header --no-emit-index-url --universal --python-version 3.11 \
    --fork-strategy fewest --generate-hashes "$@" -o "$made"
  { printf '# SPDX-License-Identifier: Apache-2.0\n# Made by scripts/lock.sh from pyproject.toml: %s.\n' "$text"; cat "$made"; } >"$list"
}
compile "run-time, oracle, parquet and development packages" dev pyproject.toml --extra oracle --extra parquet --extra etcd --group dev "$@"
compile "what only the benchmarks need" bench --constraint requirements/dev.txt --group bench "$@"
