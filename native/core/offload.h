/* SPDX-License-Identifier: Apache-2.0
 *
 * offload.h - what a virtio header says about a frame: sums that a card is to finish, and super-packets, which stand for as many
 * wire packets as they have segments. Nothing of it is taken from a sender as it is: it is computed again from the packet as
 * parsed, or the packet is refused.
 */
#ifndef PAL_CORE_OFFLOAD_H
#define PAL_CORE_OFFLOAD_H

#include "packet.h"

/* Host byte order, offsets from the (inner) frame's first byte. */
typedef struct host_offload {
    uint16_t hdr_len, gso_size;       /* bytes of all headers; of data in each segment, 0: no super-packet */
    uint16_t csum_start, csum_offset; /* NEEDS_CSUM */
    uint8_t gso_type;                 /* VIRTIO_NET_HDR_GSO_*: NONE, TCPV4, TCPV6, UDP_L4; ECN may be set */
    uint8_t flags;                    /* VIRTIO_NET_HDR_F_NEEDS_CSUM, _DATA_VALID */
    uint16_t reserved;
} host_offload;

_Static_assert(sizeof(host_offload) == 12, "part of host_frame");

enum { /* as in linux/virtio_net.h */
    OFFLOAD_NEEDS_CSUM = 1, OFFLOAD_DATA_VALID = 2,
    OFFLOAD_GSO_NONE = 0, OFFLOAD_GSO_TCPV4 = 1, OFFLOAD_GSO_TCPV6 = 4, OFFLOAD_GSO_UDP_L4 = 5, OFFLOAD_GSO_ECN = 0x80
};

#define OFFLOAD_SEGMENT_LEAST 32u /* bytes of data: TCP's smallest MSS is larger, and a lie costs at most 2,048 segments */

PAL_INLINE bool offload_is_plain(const host_offload *o) { return (o->flags & OFFLOAD_NEEDS_CSUM) == 0 && o->gso_type == OFFLOAD_GSO_NONE; }

/* Where the transport's sum stands, from its header on; 0: nowhere. */
PAL_INLINE uint32_t offload_sum_at(const pal_packet *p) { return p->proto == PROTO_TCP ? 16 : p->proto == PROTO_UDP ? 6 : 0; }

static inline uint8_t offload_check_any(pal_packet *p, host_offload *o)
{
    const uint32_t type = o->gso_type & (uint32_t)~OFFLOAD_GSO_ECN, sum_at = offload_sum_at(p);
    if (!p->family || (p->marks & MARK_FRAGMENT) || sum_at == 0 || p->l3 + p->ip_len > p->cap)
        return PAL_REASON_OFFLOAD;
    /* The card would write where the sender says: only the transport's own sum is such a place. */
    if (!(o->flags & OFFLOAD_NEEDS_CSUM) || o->csum_start != p->l4 || o->csum_offset != sum_at)
        return PAL_REASON_OFFLOAD;
    if (type == OFFLOAD_GSO_NONE) {
        if (o->gso_type != OFFLOAD_GSO_NONE)
            return PAL_REASON_OFFLOAD;
        o->hdr_len = o->gso_size = 0;
        return PAL_REASON_MATCH;
    }
    const uint32_t want = p->proto == PROTO_UDP ? OFFLOAD_GSO_UDP_L4 : p->family == PAL_FAMILY_V4 ? OFFLOAD_GSO_TCPV4 : OFFLOAD_GSO_TCPV6;
    if (type != want || ((o->gso_type & OFFLOAD_GSO_ECN) && p->proto != PROTO_TCP) || o->gso_size < OFFLOAD_SEGMENT_LEAST ||
        p->l4_len != p->l4_hdr + p->payload_len || p->l3 + p->ip_len != p->cap)
        return PAL_REASON_OFFLOAD;
    /* A SYN has no segments, and a RST in the midst of them would be for one of them alone. */
    if (p->proto == PROTO_TCP && (p->tcp_flags & (TCP_SYN | TCP_RST)))
        return PAL_REASON_OFFLOAD;
    o->hdr_len = (uint16_t)(p->l4 + p->l4_hdr);
    if (p->payload_len <= o->gso_size) { /* one segment: a packet like others */
        o->gso_type = OFFLOAD_GSO_NONE;
        o->hdr_len = o->gso_size = 0;
        return PAL_REASON_MATCH;
    }
    p->fragments = (p->payload_len + o->gso_size - 1) / o->gso_size;
    p->wire_bytes = p->ip_len + (p->fragments - 1) * (p->l4 + p->l4_hdr - p->l3);
    return PAL_REASON_MATCH;
}

/* host_offload_check of a plain packet (packet_is_plain4) that asks for nothing, or, as a pod's do, for its sum: true, and *o is what
 * the packet says; all of it is there, or the parser would have refused it. False: it is to be asked; *o is as it was. */
PAL_INLINE bool host_offload_plain4(const pal_packet *p, host_offload *o, bool trusted)
{
    if (PAL_UNLIKELY(o->gso_type != OFFLOAD_GSO_NONE) || PAL_UNLIKELY(o->flags & ~(OFFLOAD_NEEDS_CSUM | OFFLOAD_DATA_VALID)))
        return false;
    const uint8_t flags = trusted ? o->flags : o->flags & OFFLOAD_NEEDS_CSUM;
    if (flags & OFFLOAD_NEEDS_CSUM) {
        if (PAL_UNLIKELY(o->csum_start != p->l4) || PAL_UNLIKELY(o->csum_offset != offload_sum_at(p)))
            return false;
        *o = (host_offload){.csum_start = (uint16_t)p->l4, .csum_offset = o->csum_offset, .flags = flags};
    } else {
        *o = (host_offload){.flags = flags};
    }
    return true;
}

/* Of a parsed frame: PAL_REASON_MATCH, and *o is what the packet says, p->fragments and p->wire_bytes count its segments; or
 * PAL_REASON_OFFLOAD. `trusted`: DATA_VALID is our own card's word. */
PAL_INLINE uint8_t host_offload_check(pal_packet *p, host_offload *o, bool trusted)
{
    if (PAL_UNLIKELY(o->flags & ~(OFFLOAD_NEEDS_CSUM | OFFLOAD_DATA_VALID)))
        return PAL_REASON_OFFLOAD;
    if (!trusted)
        o->flags &= OFFLOAD_NEEDS_CSUM;
    o->reserved = 0;
    if (PAL_LIKELY(offload_is_plain(o))) {
        o->hdr_len = o->gso_size = o->csum_start = o->csum_offset = 0;
        return PAL_REASON_MATCH;
    }
    return PAL_UNLIKELY(p->reason) ? PAL_REASON_MATCH : offload_check_any(p, o); /* the parser's reason comes first */
}

#endif
