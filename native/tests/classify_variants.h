/* SPDX-License-Identifier: Apache-2.0
 *
 * classify_variants.h - every variant of the look-up that this machine can run, by name.
 */
#ifndef PAL_TESTS_CLASSIFY_VARIANTS_H
#define PAL_TESTS_CLASSIFY_VARIANTS_H

#include <stdio.h>

#include "../engine/classifier.h"

typedef struct classify_variant {
    const char *name;
    void (*look_up)(const pal_snap *snap, const pal_ruleset *r, const pal_key *keys, uint32_t n, uint32_t *entry);
    bool possible;
} classify_variant;

#define CLASSIFY_VARIANTS 3

/* By the instructions that the machine has, not by what the classifier would choose. */
static inline void classify_variants(classify_variant v[CLASSIFY_VARIANTS])
{
    v[0] = (classify_variant){"plain", classify_burst_plain, true};
    v[1] = (classify_variant){"AVX2", NULL, false};
    v[2] = (classify_variant){"AVX-512", NULL, false};
#if CLS_X86
    v[1].look_up = classify_burst_wide;
    v[1].possible = __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
                    __builtin_cpu_supports("avx2");
    v[2].look_up = classify_burst_512;
    v[2].possible = v[1].possible && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                    __builtin_cpu_supports("avx512vpopcntdq");
#endif
}

/* Says which variants were not tested, and why. */
static inline void classify_variants_skipped(const char *test)
{
    classify_variant v[CLASSIFY_VARIANTS];
    classify_variants(v);
    for (uint32_t i = 0; i < CLASSIFY_VARIANTS; i++)
        if (!v[i].possible)
            printf("%s: skipped the %s variant: this machine lacks its instructions\n", test, v[i].name);
}

#endif
