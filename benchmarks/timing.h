// SPDX-License-Identifier: Apache-2.0
/*
 * timing.h - what the benchmarks' own programs share: the thread's own time, and numbers that are the same in each run.
 */
#ifndef BENCHMARKS_TIMING_H
#define BENCHMARKS_TIMING_H

#include <stdint.h>
#include <time.h>

/* Xorshift (Marsaglia, 2003). */
static inline uint64_t random_next(void)
{
    static uint64_t state = 88172645463325252ull;

    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

/* Seconds of this thread. */
static inline double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

#endif
