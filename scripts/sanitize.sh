#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Build build/sanitize/replay: the packet core as one program under ASan and UBSan, without Python (native/tests/replay_main.c).
cd "$(dirname "$0")/.." || exit
mkdir -p build/sanitize
exec "${CC:-gcc}" -std=gnu11 -O1 -g -Wall -Wextra -Werror -fno-wrapv -fno-omit-frame-pointer -fno-sanitize-recover=all \
  -fsanitize=address,undefined -Inative/include -Inative native/tests/replay_main.c \
  native/engine/binding.c native/engine/classifier*.c native/engine/configuration.c native/engine/engine.c native/engine/fabric*.c native/engine/host*.c native/engine/limits.c native/engine/replay*.c \
  native/engine/statistics.c native/engine/table.c native/io/*.c -o build/sanitize/replay -lm -lpthread
