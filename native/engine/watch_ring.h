/* SPDX-License-Identifier: Apache-2.0
 *
 * watch_ring.h - records of one size from a worker to whoever watches it: bounded, one writer, one reader, nobody waits.
 */
#ifndef PAL_ENGINE_WATCH_RING_H
#define PAL_ENGINE_WATCH_RING_H

#include "../core/base.h"

typedef struct watch_ring {
    PAL_ALIGNED(PAL_CACHE_LINE) uint64_t head; /* records ever written: the writer's */
    uint64_t lost;                             /* those for which there was no room */
    PAL_ALIGNED(PAL_CACHE_LINE) uint64_t tail; /* ever read: the reader's */
    uint8_t *bytes;
    uint32_t size, count;                      /* of a record; how many there is room for: a power of two */
} watch_ring;

/* Where the next record goes, or NULL: it is lost, and counted. */
static inline void *watch_ring_next(watch_ring *r)
{
    if (PAL_LIKELY(r->head - __atomic_load_n(&r->tail, __ATOMIC_ACQUIRE) < r->count))
        return r->bytes + (r->head & (r->count - 1)) * (size_t)r->size;
    __atomic_store_n(&r->lost, r->lost + 1, __ATOMIC_RELAXED);
    return NULL;
}

/* It has been written. */
static inline void watch_ring_put(watch_ring *r) { __atomic_store_n(&r->head, r->head + 1, __ATOMIC_RELEASE); }

/* Takes at most `room` records. Returns how many. */
static inline uint32_t watch_ring_take(watch_ring *r, void *out, uint32_t room)
{
    const uint64_t head = __atomic_load_n(&r->head, __ATOMIC_ACQUIRE);
    uint32_t n = 0;
    for (; n < room && r->tail + n < head; n++)
        memcpy((uint8_t *)out + (size_t)n * r->size, r->bytes + ((r->tail + n) & (r->count - 1)) * (size_t)r->size, r->size);
    __atomic_store_n(&r->tail, r->tail + n, __ATOMIC_RELEASE);
    return n;
}

#endif
