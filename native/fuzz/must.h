/* SPDX-License-Identifier: Apache-2.0
 *
 * must.h - what a fuzz target knows to be so: otherwise it says what was not, and where, and libFuzzer keeps the input.
 */
#ifndef PAL_FUZZ_MUST_H
#define PAL_FUZZ_MUST_H

#include <stdio.h>
#include <stdlib.h>

#define MUST(condition)                                                                                                    \
    do {                                                                                                                   \
        if (!(condition)) {                                                                                                \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                                        \
            abort();                                                                                                       \
        }                                                                                                                  \
    } while (0)

#endif
