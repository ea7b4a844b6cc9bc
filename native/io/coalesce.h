/* SPDX-License-Identifier: Apache-2.0
 *
 * coalesce.h - packets that arrived one by one, as super-packets: what GRO does in Linux, for what comes out of a tunnel.
 *
 * A packet is added to an open super-packet only where segment.h would make of it, byte for byte, the packets that came:
 * the same tunnel, Ethernet, IP and transport headers, checksums that are right, sequence numbers without a gap, and each but
 * the last of one size. (Where DF is set IPv4 identifications may all be the same: they mean nothing there, RFC 6864.) A packet
 * of the same flow that does not fit closes the super-packet: the order in a flow stays.
 */
#ifndef PAL_IO_COALESCE_H
#define PAL_IO_COALESCE_H

#include "../core/encap.h"
#include "segment.h"

#define COALESCE_FLOWS 8      /* open at a time, as in Linux */
#define COALESCE_SEGMENTS 64  /* UDP_MAX_SEGMENTS of older kernels, and enough */
#define COALESCE_BYTES 65535u /* of a super-packet's inner IP packet and of its outer one */

/* An open super-packet, or the first packet of what may become one. Offsets from the frame's first byte. */
typedef struct coalesce_flow {
    uint32_t frame;            /* its number among the burst's */
    uint32_t tunnel, l3, l4, headers;
    uint32_t size, count;      /* bytes of data in each segment; segments */
    uint32_t next;             /* TCP: the sequence number that would follow */
    uint32_t room;             /* the frame may grow to this length */
    uint16_t id;               /* IPv4: the identification of the latest */
    uint8_t v4, udp, closed, reserved;
} coalesce_flow;

typedef struct coalesce {
    coalesce_flow flow[COALESCE_FLOWS];
    uint32_t flows, turn;
} coalesce;

PAL_INLINE void coalesce_begin(coalesce *c) { c->flows = c->turn = 0; }

/* What the packet at `data`, whose tunnel header has `tunnel` bytes, would be as the first of a super-packet. False: it can't be
 * one (not IP, options or extension headers, a fragment, flags other than ACK and PSH, no data, a length that is not the frame's);
 * f->l4 is 0 then unless its flow is known. */
static inline bool coalesce_read_inner(const uint8_t *data, uint32_t len, uint32_t tunnel, coalesce_flow *f)
{
    f->l4 = 0;
    if (len < tunnel + 14 + 28)
        return false;
    const uint8_t *in = data + tunnel;
    uint32_t type = load_be16(in + 12), l3 = tunnel + 14;
    const uint8_t *ip = data + l3;
    *f = (coalesce_flow){.tunnel = tunnel, .l3 = l3, .count = 1, .v4 = type == 0x0800};
    uint8_t proto;
    if (type == 0x0800) {
        if (ip[0] != 0x45 || (load_be16(ip + 6) & 0xbfff) || load_be16(ip + 2) != len - l3 || !sum_is_good(sum_bytes(ip, 20, 0)))
            return false;
        f->l4 = l3 + 20;
        f->id = load_be16(ip + 4);
        proto = ip[9];
    } else if (type == 0x86dd) {
        if (len < l3 + 48 || ip[0] >> 4 != 6 || load_be16(ip + 4) != len - l3 - 40)
            return false;
        f->l4 = l3 + 40;
        proto = ip[6];
    } else {
        return false;
    }
    const uint8_t *l4 = data + f->l4;
    f->udp = proto == PROTO_UDP;
    if (f->udp) {
        f->headers = f->l4 + 8;
        if (load_be16(l4 + 4) != len - f->l4 || load_u16(l4 + 6) == 0)
            return false;
    } else if (proto == PROTO_TCP && len >= f->l4 + 20) {
        f->headers = f->l4 + (l4[12] >> 4) * 4u;
        if (f->headers < f->l4 + 20 || (l4[12] & 15) || (l4[13] & ~TCP_PSH) != TCP_ACK || load_u16(l4 + 18) != 0 ||
            load_u16(l4 + 16) == 0xffff) /* 0, the other way to write it: segment.h would not */
            return false;
        f->closed = (l4[13] & TCP_PSH) != 0;
    } else {
        f->l4 = 0;
        return false;
    }
    if (f->headers >= len)
        return false;
    f->size = len - f->headers;
    f->next = load_be32(l4 + 4) + f->size;
    return true;
}

/* The same of what came out of a tunnel, and goes to the switch. */
static inline bool coalesce_read(const uint8_t *data, uint32_t len, uint32_t encap, coalesce_flow *f)
{
    f->l4 = 0;
    if ((encap == PAL_ENCAP_GENEVE && (load_be16(data + 2) != GENEVE_ETHERNET || (data[1] & GENEVE_OAM))) ||
        !coalesce_read_inner(data, len, encap_len(encap, data), f))
        return false;
    f->closed |= f->size < OFFLOAD_SEGMENT_LEAST; /* no super-packet has shorter segments: host_offload_check */
    return true;
}

/* The transport checksum of a packet that coalesce_read has read. */
static inline bool coalesce_sum_is_good(const uint8_t *data, const coalesce_flow *f)
{
    uint32_t length = f->headers - f->l4 + f->size;
    uint64_t sum = sum_bytes(data + f->l3 + (f->v4 ? 12 : 8), f->v4 ? 8 : 32, be16(f->udp ? PROTO_UDP : PROTO_TCP));
    return sum_is_good(sum_bytes(data + f->l4, length, sum + be16((uint16_t)length)));
}

/* Both are of one flow: an earlier one may not be overtaken by a later one. */
static inline bool coalesce_same_flow(const uint8_t *a, const coalesce_flow *f, const uint8_t *b, const coalesce_flow *g)
{
    return f->tunnel == g->tunnel && f->v4 == g->v4 && f->udp == g->udp && load_u32(a + f->l4) == load_u32(b + g->l4) &&
           memcmp(a, b, f->tunnel + 14) == 0 &&
           memcmp(a + f->l3 + (f->v4 ? 12 : 8), b + g->l3 + (f->v4 ? 12 : 8), f->v4 ? 8 : 32) == 0;
}

/* The packet b would be the next segment of super-packet a. */
static inline bool coalesce_fits(const uint8_t *a, const coalesce_flow *f, uint32_t len, const uint8_t *b, const coalesce_flow *g)
{
    if (f->closed || f->headers != g->headers || g->size > f->size || f->count == COALESCE_SEGMENTS ||
        len + g->size > f->room || len - f->tunnel + g->size > COALESCE_BYTES - 128)
        return false;
    const uint8_t *p = a + f->l3, *q = b + g->l3, *s = a + f->l4, *t = b + g->l4;
    if (f->v4) { /* type of service; DF; time to live and protocol */
        bool follows = (uint16_t)(f->id + 1) == g->id || (f->id == g->id && (p[6] & 0x40) && load_be16(p + 4) == g->id);
        if (p[1] != q[1] || load_u16(p + 6) != load_u16(q + 6) || load_u16(p + 8) != load_u16(q + 8) || !follows)
            return false;
    } else if (load_u32(p) != load_u32(q) || load_u16(p + 6) != load_u16(q + 6)) { /* class and flow label; header, hops */
        return false;
    }
    if (f->udp)
        return true;
    return load_be32(t + 4) == f->next && load_u32(s + 8) == load_u32(t + 8) && load_u16(s + 14) == load_u16(t + 14) &&
           memcmp(s + 20, t + 20, f->headers - f->l4 - 20) == 0;
}

/* Writes the headers of frame h as a super-packet's, and its offload: it was flow f's when that lost its place, or at the end. */
static inline void coalesce_finish(host_frame *h, const coalesce_flow *f)
{
    if (f->count == 1) {
        h->offload.flags = VIRTIO_DATA_VALID;
        return;
    }
    uint8_t *ip = h->data + f->l3, *l4 = h->data + f->l4;
    uint32_t length = h->len - f->l4;
    if (f->v4) {
        store_be16(ip + 2, (uint16_t)(h->len - f->l3));
        store_be16(ip + 10, 0);
        uint16_t sum = sum_finish(sum_bytes(ip, 20, 0));
        memcpy(ip + 10, &sum, 2);
    } else {
        store_be16(ip + 4, (uint16_t)(length));
    }
    uint64_t pseudo = sum_bytes(ip + (f->v4 ? 12 : 8), f->v4 ? 8 : 32, be16(f->udp ? PROTO_UDP : PROTO_TCP));
    uint16_t partial = sum_fold(pseudo + be16((uint16_t)length));
    memcpy(l4 + (f->udp ? 6 : 16), &partial, 2);
    if (f->udp)
        store_be16(l4 + 4, (uint16_t)length);
    h->offload = (host_offload){.flags = VIRTIO_NEEDS_CSUM,
                                .gso_type = f->udp ? VIRTIO_GSO_UDP_L4 : f->v4 ? VIRTIO_GSO_TCPV4 : VIRTIO_GSO_TCPV6,
                                .gso_size = (uint16_t)f->size,
                                .hdr_len = (uint16_t)(f->headers - f->tunnel),
                                .csum_start = (uint16_t)(f->l4 - f->tunnel),
                                .csum_offset = f->udp ? 6 : 16};
}

/* A frame whose flow is g's stays one by itself: nothing that comes later may overtake it. g->l4 0: its flow is not known. */
static inline void coalesce_close(coalesce *c, const host_frame *frame, const uint8_t *data, const coalesce_flow *g)
{
    for (uint32_t i = 0; i < c->flows; i++) {
        coalesce_flow *f = &c->flow[i];
        if (g->l4 == 0 || coalesce_same_flow(frame[f->frame].data, f, data, g))
            f->closed = 1;
    }
}

/* The same of a frame that is no candidate: a super-packet already, or with a sum that is left to a card. */
static inline void coalesce_pass(coalesce *c, const host_frame *frame, const host_frame *one)
{
    coalesce_flow g = {0};
    if (c->flows == 0)
        return;
    if (one->len >= 8)
        coalesce_read(one->data, one->len, one->encap, &g);
    coalesce_close(c, frame, one->data, &g);
}

/* Takes `one`, a datagram from the underlay, into a super-packet among `frame`, moving its data there. False: it stays one by
 * itself, and becomes frame number `number`, which may grow to `room` bytes. */
static inline bool coalesce_add(coalesce *c, host_frame *frame, const host_frame *one, uint32_t number, uint32_t room)
{
    const uint8_t *data = one->data;
    const uint32_t len = one->len;
    coalesce_flow g;
    g.l4 = 0;
    bool may = len >= 8 && coalesce_read(data, len, one->encap, &g) && coalesce_sum_is_good(data, &g);
    if (!may) {
        coalesce_close(c, frame, data, &g);
        return false;
    }
    uint32_t at = c->flows;
    for (uint32_t i = 0; i < c->flows; i++) {
        coalesce_flow *f = &c->flow[i];
        host_frame *h = &frame[f->frame];
        if (!coalesce_same_flow(h->data, f, data, &g) || memcmp(&h->outer, &one->outer, sizeof h->outer) != 0 || h->encap != one->encap)
            continue;
        if (h->tos == one->tos && coalesce_fits(h->data, f, h->len, data, &g)) {
            uint8_t flags = f->udp ? 0 : data[g.l4 + 13];
            memmove(h->data + h->len, data + g.headers, g.size); /* both may be in one buffer, one after the other */
            h->len += g.size;
            f->count++;
            f->id = g.id;
            f->next = g.next;
            f->closed = g.closed || g.size < f->size;
            if (!f->udp)
                h->data[f->l4 + 13] |= flags;
            return true;
        }
        at = i; /* it follows in the same flow: takes the place of what it closes */
        break;
    }
    if (at == COALESCE_FLOWS)
        at = c->turn++ % COALESCE_FLOWS;
    if (at == c->flows)
        c->flows++;
    else
        coalesce_finish(&frame[c->flow[at].frame], &c->flow[at]);
    c->flow[at] = g;
    c->flow[at].frame = number;
    c->flow[at].room = room;
    return false;
}

/* The burst is complete: the headers of what is still open are written. */
static inline void coalesce_end(coalesce *c, host_frame *frame)
{
    for (uint32_t i = 0; i < c->flows; i++)
        coalesce_finish(&frame[c->flow[i].frame], &c->flow[i]);
    coalesce_begin(c);
}

#endif
