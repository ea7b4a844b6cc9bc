/* SPDX-License-Identifier: Apache-2.0
 *
 * burst.h - a burst on its way through the pipeline: its visits, and what the look-up stages found out about each.
 *
 * A visit is one packet at one filter. A packet between two vNICs of one host makes two, one behind the other; most make
 * one. The stages go over visits, so that neither they nor the branch predictor care which packet has how many.
 */
#ifndef PAL_CORE_BURST_H
#define PAL_CORE_BURST_H

#include "judge.h"

#define BURST_VISITS (2 * WORKER_BURST)

/* Where one packet is to be judged: first at one filter (OUT at its sender's, or IN at its receiver's when the sender is
 * not here), then, if it passes, IN at `second`, which may be NULL. */
typedef struct pal_route {
    const pal_filter *first, *second;
    uint8_t dir; /* at `first`: PAL_DIR_* */
} pal_route;

enum { /* pal_burst.way */
    WAY_HIGH = 1u << 31,   /* the packet was sent by the higher end of its key; only for CLASS_ACK */
    WAY_V6 = 1u << 30,     /* only for CLASS_ACK */
    WAY_SECOND = 1u << 29, /* takes place only if the packet passed at the visit before */
    WAY_DIR = 16,          /* shift of PAL_DIR_* */
};

typedef struct pal_burst {
    uint32_t n;                               /* visits */
    uint8_t v6, mixed;                        /* some are IPv6; are not of CLASS_ACK */
    uint64_t stale;                           /* a bit a visit: its connection is to be judged again, and `again` is known */
    uint64_t doubt;                           /* a bit a visit: several connections may be its, and `ref` is the first of them */
    uint64_t latest_ns;                       /* latest clock of all packets */
    uint64_t line[BURST_VISITS][2];           /* CLASS_ACK: the first 16 bytes of the connection's hot line */
    uint64_t hash[BURST_VISITS];
    uint32_t bucket[BURST_VISITS];
    uint32_t ref[BURST_VISITS];               /* judge_hint's */
    uint32_t entry[BURST_VISITS];             /* judge_hint's */
    uint32_t way[BURST_VISITS];
    uint32_t again[BURST_VISITS];             /* judge_hint's */
    uint32_t quote_seq[BURST_VISITS];         /* judge_hint.seq */
    const pal_filter *filter[BURST_VISITS];
    pal_packet *packet[BURST_VISITS];
    ct_key key[BURST_VISITS];                 /* not for IPv4 of CLASS_ACK: its line says all */
} pal_burst;
_Static_assert(BURST_VISITS <= 64, "a bit a visit");

PAL_INLINE uint8_t visit_dir(const pal_burst *b, uint32_t v) { return (uint8_t)(b->way[v] >> WAY_DIR); }
PAL_INLINE bool visit_is_second(const pal_burst *b, uint32_t v) { return b->way[v] & WAY_SECOND; }

/* The route that a packet's first visit came from. */
PAL_INLINE pal_route visit_route(const pal_burst *b, uint32_t v)
{
    bool more = v + 1 < b->n && visit_is_second(b, v + 1);
    return (pal_route){.first = b->filter[v], .second = more ? b->filter[v + 1] : NULL, .dir = visit_dir(b, v)};
}

#endif
