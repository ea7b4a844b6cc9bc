#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# A bounded run of each fuzz target, JOBS at a time; each must end with 0. native/fuzz/NAME_seeds.py DIRECTORY, where there
# is one, writes the first corpus of fuzz_NAME; what a run finds stays in build/fuzz/corpus/NAME.
# usage: JOBS=N FUZZ_SECONDS=N scripts/fuzz.sh PROGRAM...
export ASAN_OPTIONS=detect_leaks=1
export UBSAN_OPTIONS=print_stacktrace=1

# run PROGRAM: its seeds and its run; exit status: the program's.
if [ "$1" = run ]; then
  program=$2
  name=${program##*/fuzz_}
  corpus=build/fuzz/corpus/$name
  mkdir -p "$corpus"
  if [ -e "native/fuzz/${name}_seeds.py" ] && ! .venv/bin/python "native/fuzz/${name}_seeds.py" "$corpus"; then
    echo "native/fuzz/${name}_seeds.py failed"
    exit 1
  fi
  exec timeout $((FUZZ_SECONDS * 4 + 120)) "$program" -max_total_time="$FUZZ_SECONDS" -timeout=20 -rss_limit_mb=3000 \
    -seed=1 -artifact_prefix="build/fuzz/$name-" "$corpus"
fi

for program; do rm -f "$program.status"; done
printf '%s\n' "$@" | xargs -P "${JOBS:-2}" -I '{}' sh -c "\"$0\" run '{}' >'{}.log' 2>&1; echo \$? >'{}.status'"
passed=0 failed=0
for program; do
  if [ "$(cat "$program.status")" = 0 ]; then
    passed=$((passed + 1))
    echo "${program##*/}: $(sed -n 's/^Done \([0-9]* runs in [0-9]* second.*\)/\1/p' "$program.log")"
  else
    failed=$((failed + 1))
    echo "${program##*/} failed:"
    tail -n 40 "$program.log"
  fi
done
echo "fuzz: $passed passed, $failed failed"
floor=$(sed -n 's/^fuzz *//p' tests/expected-counts.txt)
[ $((passed + failed)) -ge "$floor" ] || { echo "fuzz: fewer than the $floor targets of tests/expected-counts.txt"; exit 1; }
exit $((failed > 0))
