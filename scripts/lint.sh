#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Every check of the text itself: ruff, mypy --strict, import-linter, and clang's opinion of the core. All run, so that one failure doesn't hide another.
cd "$(dirname "$0")/.." || exit
bin=.venv/bin
status=0
$bin/mypy & # one core, and as long as all others together
types=$!
$bin/ruff check --quiet --cache-dir build/ruff . || status=1
PYTHONPATH=. $bin/lint-imports --no-logo --cache-dir build/import-linter || status=1
# The core is built with gcc; clang, where it is, must find nothing either.
if command -v clang >/dev/null; then
  clang -std=gnu11 -Wall -Wextra -Werror -Wno-unused-function -fsyntax-only -Inative/include -Inative \
    native/engine/*.c native/io/*.c || status=1
fi
wait $types || status=1
exit $status
