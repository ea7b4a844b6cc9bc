/* SPDX-License-Identifier: Apache-2.0
 *
 * flood.h - NSX's flood protection: how many connections of a kind one filter may have at a time (docs/packet-path.md,
 * section 11). Included by conntrack.h.
 *
 * Every connection is counted, whether or not there is a limit, so that a limit set later finds what is there. Counts stand
 * by incarnation, the upper half of a connection's zone: a filter that is forgotten takes its counts along.
 */
#ifndef PAL_CORE_FLOOD_H
#define PAL_CORE_FLOOD_H

enum flood_kind { FLOOD_TCP_HALF_OPEN, FLOOD_UDP, FLOOD_ICMP, FLOOD_OTHER, FLOOD_KINDS };
_Static_assert((int)FLOOD_KINDS == PAL_FLOODS, "as palisade_core.h has it");

typedef struct flood_count {
    uint32_t n[FLOOD_KINDS]; /* [W] connections, by incarnation of their filter */
} flood_count;

/* FLOOD_KINDS: counted nowhere, a TCP connection whose handshake is done. */
PAL_INLINE uint32_t flood_kind_of(uint8_t kind, uint8_t state)
{
    switch (kind) {
    case KIND_TCP:
        return state <= CT_SYN_RECEIVED ? FLOOD_TCP_HALF_OPEN : FLOOD_KINDS;
    case KIND_UDP:
        return FLOOD_UDP;
    case KIND_ICMP:
        return FLOOD_ICMP;
    default:
        return FLOOD_OTHER;
    }
}

PAL_INLINE void flood_add(ct_table *t, const ct_hot *h, uint32_t n)
{
    uint32_t kind = flood_kind_of(ct_kind_of(h), ct_state_of(h));
    if (kind != FLOOD_KINDS)
        t->flood[h->zone >> ZONE_VRF_BITS].n[kind] += n;
}

PAL_INLINE void flood_enter(ct_table *t, uint32_t ref) { flood_add(t, &t->hot[ref], 1); }
PAL_INLINE void flood_leave(ct_table *t, uint32_t ref) { flood_add(t, &t->hot[ref], 0u - 1); }

/* A packet has moved a TCP connection on from `before`: out of its handshake, or back into one (tcp_over). */
PAL_INLINE void flood_move(ct_table *t, const ct_hot *h, uint8_t before)
{
    uint32_t was = before <= CT_SYN_RECEIVED, is = ct_state_of(h) <= CT_SYN_RECEIVED;
    t->flood[h->zone >> ZONE_VRF_BITS].n[FLOOD_TCP_HALF_OPEN] += is - was;
}

/* Is there room for one more? What has run out counts for nothing, so expiry catches up before room is denied. */
static inline bool flood_room(ct_table *t, const uint32_t limit[FLOOD_KINDS], uint32_t zone, uint8_t kind, bool handshake)
{
    uint32_t flood = kind == KIND_TCP && !handshake ? FLOOD_KINDS : flood_kind_of(kind, CT_SYN_SENT);
    if (flood == FLOOD_KINDS || PAL_LIKELY(limit[flood] == 0))
        return true;
    const uint32_t *n = &t->flood[zone >> ZONE_VRF_BITS].n[flood];
    if (*n >= limit[flood])
        ct_expire(t, CT_EXPIRE_FULL);
    return *n < limit[flood];
}

#endif
