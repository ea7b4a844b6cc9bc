/* SPDX-License-Identifier: Apache-2.0
 *
 * path.h - the path cache: where packets for an address went that a gateway routed, so that the next one need not ask its tables.
 * It remembers decisions, never state: a hit does all that a look-up would have done but the look-up. Everything that a decision
 * depends on is in the configuration, whose number stands in each slot, or is asked of each packet again.
 */
#ifndef PAL_CORE_PATH_H
#define PAL_CORE_PATH_H

#include "forward.h"

#define PATH_SLOTS 1024u

typedef struct path_slot {
    uint64_t dst[2];            /* as it stands in the header; IPv4: four bytes, the rest is zero */
    uint64_t config;            /* number of the configuration, from 1; 0: free */
    uint32_t segment, family;
    forward_plan plan;          /* routed, to a vNIC or a TEP; its length was not too long */
} path_slot;

_Static_assert(sizeof(path_slot) == 64, "one line");

/* Is it a packet that a gateway routes if it has a route, whatever else it is? What is asked of each packet is asked here. */
PAL_INLINE bool path_is_routed(const forward_case *c)
{
    const pal_packet *p = c->p;
    if (!p->family || p->reason || p->cap < 14 || mac_number(p->data) != c->f->gateway_mac)
        return false;
    const uint8_t *ip = p->data + p->l3, *src = packet_src(p);
    return ip[p->family == PAL_FAMILY_V4 ? 8 : 7] > 1 && !addr_is_link_local(src, p->family) && !addr_is_zero(src, p->family);
}

PAL_INLINE void path_fit(const forward_case *c, forward_plan *plan)
{
    forward_fit(c, plan, plan->kind == FORWARD_VNIC ? c->f->vnic[plan->vnic].mtu : fabric_mtu(c->f, plan->tep));
}

/* As forward_look_up. */
PAL_INLINE void path_look_up(path_slot *slots, uint64_t config, const forward_case *c, forward_plan *plan)
{
    if (!path_is_routed(c)) {
        forward_look_up(c, plan);
        return;
    }
    const pal_packet *p = c->p;
    /* Not by way of memory: a word that is read where less than it has just been written waits for the store. */
    const uint8_t *dst = packet_dst(p);
    const bool six = PAL_UNLIKELY(p->family == PAL_FAMILY_V6);
    const uint64_t high = six ? load_u64(dst) : load_u32(dst), low = six ? load_u64(dst + 8) : 0;
    path_slot *s = &slots[hash_finish((unsigned __int128)(high + c->f->seed[0]) * (low + c->segment + c->f->seed[1])) % PATH_SLOTS];
    if (PAL_LIKELY(s->config == config) && PAL_LIKELY(s->dst[0] == high) && s->dst[1] == low &&
        s->segment == c->segment && s->family == p->family) {
        *plan = s->plan;
        path_fit(c, plan);
        return;
    }
    forward_look_up(c, plan);
    if (plan->routed && plan->kind != FORWARD_REFUSE) {
        s->dst[0] = high;
        s->dst[1] = low;
        s->config = config;
        s->segment = c->segment;
        s->family = p->family;
        s->plan = *plan;
    }
}

#endif
