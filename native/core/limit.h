/* SPDX-License-Identifier: Apache-2.0
 *
 * limit.h - who shares a budget with whom (SEMANTICS, Guarding; docs/packet-path.md, section 11).
 *
 * What costs memory or time is split at each filter between the vNIC's own workload (what runs OUT) and others (what runs
 * IN), and among others by the prefix of their source, so that nobody can use up another's. A tap has no workload: all
 * are others there, with both budgets together. Accounts are exact; secret seeds place them, and decide nothing.
 */
#ifndef PAL_CORE_LIMIT_H
#define PAL_CORE_LIMIT_H

#include "base.h"

enum pal_side { SIDE_OWN, SIDE_OTHERS };

#define PREFIX_BYTES_V4 3 /* /24 */
#define PREFIX_BYTES_V6 7 /* /56, what one site gets (RFC 6177) */

PAL_INLINE uint32_t side_of(bool tap, uint8_t dir) { return tap || dir == PAL_DIR_IN ? SIDE_OTHERS : SIDE_OWN; }

/* A side's share of a limit {own, others}; 0: none is set. */
PAL_INLINE uint32_t limit_of(const uint32_t limit[2], bool tap, uint32_t side)
{
    if (PAL_LIKELY(!tap))
        return limit[side];
    return limit[SIDE_OWN] && limit[SIDE_OTHERS] ? limit[SIDE_OWN] + limit[SIDE_OTHERS] : 0;
}

static inline void prefix_of(uint8_t out[16], const uint8_t *addr, uint32_t family)
{
    memset(out, 0, 16);
    memcpy(out, addr, family == PAL_FAMILY_V4 ? PREFIX_BYTES_V4 : PREFIX_BYTES_V6);
}

/* Packets for which a filter's rules may be asked: a bucket for each side that holds a second's worth. */
typedef struct miss_budget {
    uint64_t at[2];    /* tick of the last one */
    uint64_t spent[2]; /* in hundredths: a tick gives back what a second allows */
} miss_budget;

static inline uint64_t miss_spent(const miss_budget *b, uint32_t side, uint32_t per_second, uint64_t tick)
{
    uint64_t back = (tick - b->at[side] < 100 ? tick - b->at[side] : 100) * per_second;
    return b->spent[side] > back ? b->spent[side] - back : 0;
}

static inline bool miss_allowed(miss_budget *b, uint32_t side, uint32_t per_second, uint64_t tick)
{
    uint64_t spent = miss_spent(b, side, per_second, tick);
    if (spent + 100 > (uint64_t)per_second * 100)
        return false; /* not written: `at` stays with `spent` */
    b->spent[side] = spent + 100;
    b->at[side] = tick;
    return true;
}

#endif
