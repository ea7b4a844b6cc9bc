/* SPDX-License-Identifier: Apache-2.0
 *
 * classifier_lookup.c - many look-ups in one call, for `palisade classify`, benchmarks and tests.
 */
#include <time.h>

#include "classifier.h"

static uint64_t clock_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t pal_cls_lookup(const pal_cls *c, const pal_ruleset *r, const pal_key *keys, uint64_t n, uint32_t batch, uint32_t *entry)
{
    const pal_snap *snap = pal_cls_snapshot(c);
    uint64_t start = clock_now();
    for (uint64_t at = 0; at < n; at += batch)
        classify_burst(snap, r, keys + at, (uint32_t)(n - at < batch ? n - at : batch), entry + at);
    return clock_now() - start;
}
