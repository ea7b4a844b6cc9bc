#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Run the compiled C unit tests, JOBS at a time: each must exit 0, without a sanitizer's report, in time.
# usage: JOBS=N [RUN=EMULATOR] [TEST_SECONDS=300] scripts/native-tests.sh PROGRAM...
export RUN
export ASAN_OPTIONS=detect_leaks=1:abort_on_error=0
export UBSAN_OPTIONS=print_stacktrace=1
for program; do rm -f "$program.status"; done
printf '%s\n' "$@" | xargs -P "${JOBS:-2}" -I '{}' sh -c 'timeout "${TEST_SECONDS:-300}" $RUN "{}" >"{}.log" 2>&1; echo $? >"{}.status"'
passed=0 failed=0
for program; do
  if [ "$(cat "$program.status")" = 0 ]; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "$program failed:"
    tail -n 40 "$program.log"
  fi
done
echo "native: $passed passed, $failed failed"
floor=$(sed -n 's/^native *//p' tests/expected-counts.txt)
[ $((passed + failed)) -ge "$floor" ] || { echo "native: fewer than the $floor programs of tests/expected-counts.txt"; exit 1; }
exit $((failed > 0))
