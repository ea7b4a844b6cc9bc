#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Build build/sanitize/replay: the packet core as one program under ASan and UBSan, without Python (native/tests/replay_main.c).
# All of the engine but its benchmarks: a new file needs no row here.
cd "$(dirname "$0")/.." || exit
mkdir -p build/sanitize
set --
for source in native/engine/*.c native/io/*.c; do
  case $source in native/engine/bench*) ;; *) set -- "$@" "$source" ;; esac
done
exec "${CC:-gcc}" -std=gnu11 -O1 -g -Wall -Wextra -Werror -fno-wrapv -fno-omit-frame-pointer -fno-sanitize-recover=all \
  -fsanitize=address,undefined -Inative/include -Inative native/tests/replay_main.c "$@" -o build/sanitize/replay -lm -lpthread
