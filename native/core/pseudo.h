/* SPDX-License-Identifier: Apache-2.0
 *
 * pseudo.h - pseudo-connections: UDP, ICMP queries and their answers, protocols without ports.
 */
#ifndef PAL_CORE_PSEUDO_H
#define PAL_CORE_PSEUDO_H

#include "tracker.h"

/* The state after a packet: how often the ends have been heard. REPLIED is set by the caller before. */
PAL_INLINE void pseudo_track(ct_hot *h)
{
    ct_state_set(h, h->marks & CT_REPLIED ? CT_MULTIPLE : CT_SINGLE);
}

PAL_INLINE uint32_t pseudo_timer(const ct_hot *h)
{
    if (ct_kind_of(h) == KIND_ICMP)
        return h->marks & CT_REPLIED ? TIMER_ICMP_ERROR_REPLY : TIMER_ICMP_FIRST_PACKET;
    switch (ct_state_of(h)) {
    case CT_FIRST:
        return TIMER_UDP_FIRST_PACKET;
    case CT_SINGLE:
        return TIMER_UDP_SINGLE;
    default:
        return TIMER_UDP_MULTIPLE;
    }
}

#endif
