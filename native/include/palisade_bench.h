/* SPDX-License-Identifier: Apache-2.0
 *
 * palisade_bench.h - benchmarks of live hosts, and of the machine itself, as Python sees them. Like palisade_live.h, and read
 * by cffi after it.
 */
#ifndef PALISADE_BENCH_H
#define PALISADE_BENCH_H

#include "palisade_live.h"

/* cffi: begin */

/* ---- hosts (native/engine/bench_host.c) ------------------------------------------------------------------------- */

typedef struct pal_bench_way {
    double near_ns, far_ns;        /* a packet at each of the two hosts */
    double floor_ns;               /* six written lines a packet, in the same order of connections; 0: not asked for */
    double memory_ns;              /* the frames' own memory: a line read and one written; 0: not asked for */
    uint64_t sent, delivered;      /* frames that left the near host by the uplink; that reached a vNIC at the far one */
} pal_bench_way;

/* n frames from vNICs of `near`, `batch` (1 .. 64) a burst, each in memory of its own with room before it; what leaves for
 * another host goes, with its outer headers, to `far`, as if from the TEP `from`: each burst at once, or, `apart`, all of
 * them when all have left, so that their memory is cold there too. `order`, unless NULL: the connection of each frame, below
 * `connections`. 0, or -1 without memory or for a batch out of bounds. */
int pal_bench_way_run(pal_host *near, pal_host *far, const uint8_t *bytes, const pal_host_frame *frames, uint64_t n,
                      const pal_address *from, uint32_t batch, int apart, const uint32_t *order, uint32_t connections, pal_bench_way *out);

/* Nanoseconds to read one line at random of so many bytes, in bursts of 32; negative without memory. And the core's clock
 * in GHz (pal_bench_run.core_ghz). */
double pal_bench_read_ns(uint64_t bytes, uint64_t reads);
double pal_bench_core_ghz(void);

/* cffi: end */

#endif
