/* SPDX-License-Identifier: Apache-2.0
 *
 * rewrite.h - what a gateway changes in a frame: MAC addresses, and TTL or hop limit.
 */
#ifndef PAL_CORE_REWRITE_H
#define PAL_CORE_REWRITE_H

#include "base.h"

/* One less, and the header's sum with it (RFC 1141: 0x100 is added to the complement's complement). */
PAL_INLINE void rewrite_hops4(uint8_t *ip)
{
    uint32_t sum = load_be16(ip + 10) + 0x100u;
    store_be16(ip + 10, (uint16_t)(sum + (sum >= 0xffff)));
    ip[8]--;
}

/* Of a frame whose IP header begins at l3. */
PAL_INLINE void rewrite_routed(uint8_t *frame, uint32_t l3, uint32_t family, const uint8_t to[6], const uint8_t from[6])
{
    memcpy(frame, to, 6);
    memcpy(frame + 6, from, 6);
    if (PAL_LIKELY(family == PAL_FAMILY_V4))
        rewrite_hops4(frame + l3);
    else
        frame[l3 + 7]--;
}

#endif
