/* SPDX-License-Identifier: Apache-2.0
 *
 * segment.h - a super-packet as the packets that it stands for: TCP over IPv4 and IPv6, UDP (USO), with whole checksums.
 *
 * Nothing is copied but headers: segment i is what segment_headers writes and then segment_bytes of the super-packet; or n
 * segments from i on as a smaller super-packet. The frame is not changed, for others may have to send it too.
 */
#ifndef PAL_IO_SEGMENT_H
#define PAL_IO_SEGMENT_H

#include "virtio.h"

#define SEGMENT_HEADERS_MAX 400 /* Ethernet and its tags, an IP header with all that it may have, TCP with options */
enum { SEGMENT_TCP_CWR = 0x80 };

typedef struct segment_plan {
    uint32_t l3, l4;      /* offsets of the IP and transport headers */
    uint32_t headers;     /* bytes of all headers */
    uint32_t payload;     /* bytes behind them, in all */
    uint32_t size;        /* in each segment but the last */
    uint32_t count;
    uint64_t pseudo;      /* sum of addresses and protocol */
    uint8_t v4, udp, reserved[6];
} segment_plan;

/* Offset of the IP header behind at most two tags; *v4 says which. 0: no IP. */
PAL_INLINE uint32_t segment_ip(const uint8_t *frame, uint32_t len, uint8_t *v4)
{
    uint32_t at = 12;
    for (uint32_t tags = 0; at + 2 <= len; tags++, at += 4) {
        uint32_t type = load_be16(frame + at);
        *v4 = type == 0x0800;
        if (type == 0x0800 || type == 0x86dd)
            return at + 2;
        if (tags == 2 || (type != 0x8100 && type != 0x88a8 && type != 0x9100))
            break;
    }
    return 0;
}

/* False: the offload does not fit the frame, or the frame is no super-packet. Never true for what could not be read. */
static inline bool segment_plan_make(segment_plan *s, const uint8_t *frame, uint32_t len, const host_offload *o)
{
    uint32_t type = o->gso_type & ~(uint32_t)VIRTIO_GSO_ECN;
    *s = (segment_plan){.udp = type == VIRTIO_GSO_UDP_L4, .l4 = o->csum_start, .size = o->gso_size};
    if (type == VIRTIO_GSO_NONE || o->gso_size == 0 || !(o->flags & VIRTIO_NEEDS_CSUM))
        return false;
    s->l3 = segment_ip(frame, len, &s->v4);
    uint32_t ip = s->v4 ? 20 : 40, l4 = s->udp ? 8 : 20;
    if (s->l3 == 0 || s->l4 < s->l3 + ip || s->l4 + l4 > len || (!s->udp && (type == VIRTIO_GSO_TCPV4) != s->v4))
        return false;
    const uint8_t *h = frame + s->l3;
    if (s->v4 && s->l4 - s->l3 != (h[0] & 15u) * 4)
        return false;
    if (!s->udp)
        l4 = (frame[s->l4 + 12] >> 4) * 4u;
    s->headers = s->l4 + l4;
    if (l4 < (s->udp ? 8u : 20u) || s->headers >= len || s->headers > SEGMENT_HEADERS_MAX)
        return false;
    s->payload = len - s->headers;
    s->count = (s->payload + s->size - 1) / s->size;
    s->pseudo = sum_bytes(h + (s->v4 ? 12 : 8), s->v4 ? 8 : 32, be16(s->udp ? PROTO_UDP : PROTO_TCP));
    return s->headers - s->l3 + min_u32(s->size, s->payload) <= 65535;
}

/* Whether a UDP super-packet is one all through, as the parser has it of others: its headers agree with what the offload says, and
 * its lengths with the frame's. */
static inline bool segment_plan_is_udp(const segment_plan *s, const uint8_t *frame, uint32_t len)
{
    const uint8_t *ip = frame + s->l3;
    if (!s->udp || load_be16(frame + s->l4 + 4) != len - s->l4)
        return false;
    if (s->v4)
        return ip[0] >> 4 == 4 && ip[9] == PROTO_UDP && load_be16(ip + 2) == len - s->l3 && !(load_be16(ip + 6) & 0x3fff);
    return ip[0] >> 4 == 6 && ip[6] == PROTO_UDP && s->l4 == s->l3 + 40 && load_be16(ip + 4) == len - s->l4;
}

/* Bytes of data of n segments from i on; *at: where they begin in the frame. */
PAL_INLINE uint32_t segment_bytes(const segment_plan *s, uint32_t i, uint32_t n, uint32_t *at)
{
    *at = s->headers + i * s->size;
    return min_u32(n * s->size, s->payload - i * s->size);
}

/* Writes the headers of n segments from i on, s->headers bytes: lengths, IPv4 identification and sum, TCP sequence number and
 * flags (FIN and PSH with the last only, CWR with the first only: RFC 9293, RFC 3168 section 6.1.2), transport checksum: of one
 * segment whole, of several the pseudo-header's sum, to go with an offload like the frame's. */
static inline void segment_headers(const segment_plan *s, const uint8_t *frame, uint32_t i, uint32_t n, uint8_t *out)
{
    uint32_t at, bytes = segment_bytes(s, i, n, &at);
    memcpy(out, frame, s->headers);
    uint8_t *ip = out + s->l3, *l4 = out + s->l4;
    uint32_t length = s->headers - s->l4 + bytes; /* of the transport packet */
    if (s->v4) {
        store_be16(ip + 2, (uint16_t)(s->l4 - s->l3 + length));
        store_be16(ip + 4, (uint16_t)(load_be16(ip + 4) + i));
        store_be16(ip + 10, 0);
        uint16_t sum = sum_finish(sum_bytes(ip, s->l4 - s->l3, 0));
        memcpy(ip + 10, &sum, 2);
    } else {
        store_be16(ip + 4, (uint16_t)(s->l4 - s->l3 - 40 + length));
    }
    uint32_t sum_at = 16;
    if (s->udp) {
        store_be16(l4 + 4, (uint16_t)length);
        sum_at = 6;
    } else {
        store_be32(l4 + 4, load_be32(l4 + 4) + i * s->size);
        if (i + n < s->count)
            l4[13] &= (uint8_t)~(TCP_FIN | TCP_PSH);
        if (i > 0)
            l4[13] &= (uint8_t)~SEGMENT_TCP_CWR;
    }
    uint64_t sum = s->pseudo + be16((uint16_t)length);
    uint16_t field = sum_fold(sum);
    if (n == 1) {
        store_be16(l4 + sum_at, 0);
        /* Headers are an even number of bytes, so the data's sum can be taken by itself. */
        field = sum_finish(sum_bytes(frame + at, bytes, sum_bytes(l4, s->headers - s->l4, sum)));
        if (field == 0 && s->udp)
            field = 0xffff; /* in UDP 0 says that there is none (RFC 768) */
    }
    memcpy(l4 + sum_at, &field, 2);
}

/* The two bytes that NEEDS_CSUM asks for, as they stand in memory: the field holds the pseudo-header's sum. */
static inline uint16_t segment_checksum(const uint8_t *frame, uint32_t len, const host_offload *o)
{
    uint16_t whole = sum_finish(sum_bytes(frame + o->csum_start, len - o->csum_start, 0));
    return whole == 0 && o->csum_offset == 6 ? 0xffff : whole;
}

#endif
