#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# All tests, part by part, with the time of each; called by `make test` after the set-up. Every part runs, so that one
# failure doesn't hide another; the last thing printed is pytest's own summary.
cd "$(dirname "$0")/.." || exit
: "${MAKE:=make}" "${JOBS:=2}" "${PYTEST_WORKERS:=3}" "${FUZZ_SECONDS:=6}"
[ -z "${PALISADE_LONG:-}" ] || FUZZ_SECONDS=120
export PALISADE_FLOOR=1 # the whole suite: tests/expected-counts.txt applies
failed=
part() { scripts/part.sh "$@" || failed="$failed $1"; }
part build .venv/bin/python native/build.py
# pytest rewrites each test module's asserts: kept as byte code by one process beside mypy, not made again by each worker.
env -u PYTHONDONTWRITEBYTECODE -u PALISADE_FLOOR .venv/bin/python -m pytest -q --collect-only tests >build/collect.log 2>&1 &
part lint scripts/lint.sh
wait
part native-tests "$MAKE" --no-print-directory -j "$JOBS" native-tests
part fuzz "$MAKE" --no-print-directory -j "$JOBS" fuzz build/sanitize/replay FUZZ_SECONDS="$FUZZ_SECONDS"
.venv/bin/python -m pytest -q -n "$PYTEST_WORKERS" --dist worksteal tests || failed="$failed pytest"
[ -z "$failed" ] || { echo "make test: failed:$failed" >&2; exit 1; }
