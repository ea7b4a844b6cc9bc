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
    uint32_t segment;
    uint16_t family, limit;     /* bytes of the longest packet from the IP header on; 0: any */
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

PAL_INLINE path_slot *path_at(path_slot *slots, const fabric *f, uint32_t segment, uint64_t high, uint64_t low)
{
    return &slots[hash_finish((unsigned __int128)(high + f->seed[0]) * (low + segment + f->seed[1])) % PATH_SLOTS];
}

PAL_INLINE bool path_is(const path_slot *s, uint64_t config, uint32_t segment, uint32_t family, uint64_t high, uint64_t low)
{
    return PAL_LIKELY(s->config == config) && PAL_LIKELY(s->dst[0] == high) && PAL_LIKELY(s->dst[1] == low) && PAL_LIKELY(s->segment == segment) &&
           PAL_LIKELY(s->family == family);
}

/* path_look_up's answer for a plain packet (packet_is_plain4) from an address that is not odd, when a gateway routes it, the answer is
 * there, and the packet fits. False: it is to be asked. */
PAL_INLINE bool path_plain4(path_slot *slots, uint64_t config, const fabric *f, uint32_t segment, const pal_packet *p, forward_plan *plan)
{
    const uint8_t *src = (const uint8_t *)&p->addr4[0];
    const uint64_t dst = p->addr4[1];
    const path_slot *s = path_at(slots, f, segment, dst, 0);
    if (PAL_UNLIKELY(memcmp(p->data, f->gateway_mac_bytes, 6) != 0) || PAL_UNLIKELY(p->data[14 + 8] <= 1) || PAL_UNLIKELY(addr_is_link_local(src, PAL_FAMILY_V4)) ||
        !path_is(s, config, segment, PAL_FAMILY_V4, dst, 0) || PAL_UNLIKELY(s->limit && p->ip_len > s->limit))
        return false;
    *plan = s->plan;
    return true;
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
    path_slot *s = path_at(slots, c->f, c->segment, high, low);
    if (path_is(s, config, c->segment, p->family, high, low)) {
        *plan = s->plan;
        forward_fit(c, plan, s->limit);
        return;
    }
    forward_look_up(c, plan);
    if (plan->routed && plan->kind != FORWARD_REFUSE) {
        s->dst[0] = high;
        s->dst[1] = low;
        s->config = config;
        s->segment = c->segment;
        s->family = p->family;
        s->limit = plan->kind == FORWARD_VNIC ? c->f->vnic[plan->vnic].mtu : (uint16_t)fabric_mtu(c->f, plan->tep); /* the underlay's is no longer */
        s->plan = *plan;
    }
}

#endif
