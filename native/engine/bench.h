/* SPDX-License-Identifier: Apache-2.0
 *
 * bench.h - what the packet benchmarks share: random numbers, packets, time, the machine's own speed.
 */
#ifndef PAL_ENGINE_BENCH_H
#define PAL_ENGINE_BENCH_H

#include <time.h>

#include "engine.h"

/* Nanoseconds of the calling thread's own time on a core: what other programs take of it does not count. */
static inline uint64_t bench_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* xorshift64*, seeded: the same run everywhere. */
static inline uint64_t bench_random(uint64_t *s)
{
    *s ^= *s >> 12;
    *s ^= *s << 25;
    *s ^= *s >> 27;
    return *s * 0x2545f4914f6cdd1dull;
}
static inline uint32_t bench_below(uint64_t *s, uint32_t n) { return (uint32_t)((bench_random(s) >> 32) * n >> 32); }

/* A TCP segment as the benchmarks send them. */
typedef struct bench_segment {
    uint8_t src[16], dst[16];
    uint16_t sport, dport;
    uint32_t seq, ack;
    uint16_t window;
    uint8_t flags, family;
    uint32_t payload;
    bool syn_options; /* window scale 7 */
    bool sums;        /* fill in the transport checksum */
    uint16_t id;      /* IPv4 identification, IPv6 flow label: no two packets are the same bytes */
} bench_segment;

/* Writes an Ethernet frame of at least `size` bytes, padded; returns its length. */
uint32_t bench_frame(uint8_t *out, const bench_segment *s, uint32_t size);

/* Dependent additions a nanosecond: the core's clock in GHz, as far as others let it run. */
double bench_core_ghz(void);

/* Nanoseconds a step of an index line and `lines` (1 or 2) written entry lines, for the same order of connections, the same
 * sizes and the same pages; negative without memory. */
double bench_floor(const uint32_t *order, uint64_t n, uint32_t capacity, uint32_t buckets, uint32_t lines, bool huge);

/* The accesses of one worker: n packets of `stride` bytes, the connection of each, and the sizes of its table. */
typedef struct bench_access {
    const uint8_t *bytes;
    const uint32_t *order;
    uint64_t n;
    size_t stride;
    uint32_t capacity, buckets;
    bool huge;
} bench_access;

/* Nanoseconds a step of the slowest of `threads` loops that make the accesses of access[0 .. threads) and nothing else;
 * negative without memory or threads. */
double bench_reference(const bench_access *access, uint32_t threads);

/* A worker that judges and forgets, for the engine's worker `number`. */
void bench_sink(engine_worker *ew);

#endif
