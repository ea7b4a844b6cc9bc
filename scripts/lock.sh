#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Write requirements/dev.txt anew: every Python package of a checkout's .venv, one version for Python 3.11 to 3.13
# and for x86-64 and aarch64, with hashes. Run by hand when a dependency in pyproject.toml changes; needs `uv`.
# usage: scripts/lock.sh [--upgrade]
set -eu
cd "$(dirname "$0")/.."
command -v uv >/dev/null || { echo "scripts/lock.sh needs uv: pip install uv" >&2; exit 3; }
{
  echo "# SPDX-License-Identifier: Apache-2.0"
  echo "# Made by scripts/lock.sh from pyproject.toml: run-time, oracle, parquet and development packages."
} >requirements/header.tmp
trap 'rm -f requirements/header.tmp requirements/dev.tmp' EXIT
cp requirements/dev.txt requirements/dev.tmp 2>/dev/null || :
uv pip compile --quiet --no-config --no-header --no-emit-index-url --universal --python-version 3.11 \
  --fork-strategy fewest --generate-hashes --extra oracle --extra parquet --extra etcd --group dev "$@" pyproject.toml \
  -o requirements/dev.tmp
cat requirements/header.tmp requirements/dev.tmp >requirements/dev.txt
