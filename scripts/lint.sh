#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Every check of the text itself. All run, so that one failure doesn't hide another.
cd "$(dirname "$0")/.."
bin=.venv/bin
status=0
$bin/ruff check --quiet --cache-dir build/ruff . || status=1
$bin/mypy || status=1
PYTHONPATH=. $bin/lint-imports --no-logo --cache-dir build/import-linter || status=1
exit $status
