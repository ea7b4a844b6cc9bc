/* SPDX-License-Identifier: Apache-2.0
 *
 * packets.h - frames made by hand: Ethernet, IPv4 or IPv6, and a transport header. Sums are right unless said otherwise.
 */
#ifndef PAL_TESTS_PACKETS_H
#define PAL_TESTS_PACKETS_H

#include "../../core/checksum.h"

#define FRAME_MAX 66000u

typedef struct frame {
    uint32_t len; /* bytes in b */
    uint32_t l3, l4;
    uint8_t b[FRAME_MAX];
} frame;

/* Hosts are small numbers: IPv4 10.0.0.n, IPv6 fd00::n; MAC 02:00:00:00:00:n. */
static inline void host_addr(uint8_t *out, uint32_t family, uint8_t n)
{
    static const uint8_t v4[4] = {10, 0, 0, 0}, v6[16] = {0xfd};
    memcpy(out, family == PAL_FAMILY_V4 ? v4 : v6, family == PAL_FAMILY_V4 ? 4 : 16);
    out[family == PAL_FAMILY_V4 ? 3 : 15] = n;
}

static inline pal_packet frame_view(const frame *f, uint32_t family)
{
    return (pal_packet){.data = f->b, .family = (uint8_t)family, .l3 = f->l3, .l4 = f->l4};
}

/* (Re)computes the IPv4 header's sum. */
static inline void frame_ip_sum(frame *f)
{
    uint8_t *h = f->b + f->l3;
    if (h[0] >> 4 != 4)
        return;
    store_be16(h + 10, 0);
    uint16_t sum = sum_finish(sum_bytes(h, (h[0] & 15u) * 4, 0));
    memcpy(h + 10, &sum, 2);
}

/* A frame with `len` bytes of `l4` behind an IP header of 20 or 40 bytes. */
static inline void frame_ip(frame *f, uint32_t family, uint8_t src, uint8_t dst, uint8_t proto, const void *l4, uint32_t len)
{
    static const uint8_t mac[12] = {2, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0};
    memcpy(f->b, mac, 12);
    f->b[5] = dst;
    f->b[11] = src;
    f->l3 = 14;
    uint8_t *h = f->b + 14;
    if (family == PAL_FAMILY_V4) {
        store_be16(f->b + 12, 0x0800);
        memset(h, 0, 20);
        h[0] = 0x45;
        store_be16(h + 2, (uint16_t)(20 + len));
        h[8] = 64;
        h[9] = proto;
        host_addr(h + 12, family, src);
        host_addr(h + 16, family, dst);
        f->l4 = 34;
    } else {
        store_be16(f->b + 12, 0x86dd);
        memset(h, 0, 40);
        h[0] = 0x60;
        store_be16(h + 4, (uint16_t)len);
        h[6] = proto;
        h[7] = 64;
        host_addr(h + 8, family, src);
        host_addr(h + 24, family, dst);
        f->l4 = 54;
    }
    if (len)
        memcpy(f->b + f->l4, l4, len);
    f->len = f->l4 + len;
    frame_ip_sum(f);
}

static inline void frame_l4_sum(frame *f, uint32_t family, uint8_t proto, uint32_t at)
{
    pal_packet v = frame_view(f, family);
    uint32_t len = f->len - f->l4;
    store_be16(f->b + f->l4 + at, 0);
    uint16_t sum = sum_finish(sum_bytes(f->b + f->l4, len, proto == PROTO_ICMP ? 0 : sum_pseudo(&v, proto, len)));
    if (proto == PROTO_UDP && sum == 0)
        sum = 0xffff;
    memcpy(f->b + f->l4 + at, &sum, 2);
}

typedef struct tcp_say { /* what one segment says */
    uint32_t seq, ack;
    uint8_t flags;
    uint16_t window;
    uint8_t scale;       /* 0: no option; 1 + shift: a window scale option */
    const void *payload;
    uint32_t len;
} tcp_say;

static inline void frame_tcp(frame *f, uint32_t family, uint8_t src, uint8_t dst, uint16_t sport, uint16_t dport, tcp_say s)
{
    uint8_t h[24 + 1600] = {0};
    uint32_t head = s.scale ? 24 : 20;
    store_be16(h, sport);
    store_be16(h + 2, dport);
    store_be32(h + 4, s.seq);
    store_be32(h + 8, s.ack);
    h[12] = (uint8_t)(head / 4 << 4);
    h[13] = s.flags;
    store_be16(h + 14, s.window);
    if (s.scale) {
        h[20] = 3;
        h[21] = 3;
        h[22] = (uint8_t)(s.scale - 1);
    }
    if (s.payload)
        memcpy(h + head, s.payload, s.len);
    frame_ip(f, family, src, dst, PROTO_TCP, h, head + s.len);
    frame_l4_sum(f, family, PROTO_TCP, 16);
}

static inline void frame_udp(frame *f, uint32_t family, uint8_t src, uint8_t dst, uint16_t sport, uint16_t dport,
                             const void *payload, uint32_t len)
{
    uint8_t h[8 + 2000] = {0};
    store_be16(h, sport);
    store_be16(h + 2, dport);
    store_be16(h + 4, (uint16_t)(8 + len));
    if (payload)
        memcpy(h + 8, payload, len);
    frame_ip(f, family, src, dst, PROTO_UDP, h, 8 + len);
    frame_l4_sum(f, family, PROTO_UDP, 6);
}

/* `rest`: what follows type, code and sum: 4 bytes and more. */
static inline void frame_icmp(frame *f, uint32_t family, uint8_t src, uint8_t dst, uint8_t type, uint8_t code, const void *rest,
                              uint32_t len)
{
    uint8_t h[4 + 2000] = {type, code};
    uint8_t proto = family == PAL_FAMILY_V4 ? PROTO_ICMP : PROTO_ICMP6;
    memcpy(h + 4, rest, len);
    frame_ip(f, family, src, dst, proto, h, 4 + len);
    frame_l4_sum(f, family, proto, 2);
}

static inline void frame_ping(frame *f, uint32_t family, uint8_t src, uint8_t dst, bool answer, uint16_t id)
{
    uint8_t rest[8] = {0};
    store_be16(rest, id);
    uint8_t type = family == PAL_FAMILY_V4 ? (answer ? 0 : 8) : answer ? 129 : 128;
    frame_icmp(f, family, src, dst, type, 0, rest, sizeof rest);
}

/* An SCTP packet of one chunk. */
static inline void frame_sctp(frame *f, uint8_t src, uint8_t dst, uint32_t tag, uint8_t type, uint8_t flags, uint32_t initiate)
{
    uint8_t h[32] = {0};
    uint32_t chunk = type == 1 || type == 2 ? 20 : 4;
    store_be16(h, 5000);
    store_be16(h + 2, 5000);
    if (src > dst)
        store_be16(h, 5000);
    store_be32(h + 4, tag);
    h[12] = type;
    h[13] = flags;
    store_be16(h + 14, (uint16_t)chunk);
    store_be32(h + 16, initiate);
    frame_ip(f, PAL_FAMILY_V4, src, dst, PROTO_SCTP, h, 12 + chunk);
}

/* One fragment of `l4`: bytes [off, off + len) of it. IPv6: behind a fragment header. */
static inline void frame_fragment(frame *f, uint32_t family, uint8_t src, uint8_t dst, uint8_t proto, uint32_t id, uint32_t off,
                                  bool more, const uint8_t *bytes, uint32_t len)
{
    static uint8_t body[FRAME_MAX];
    if (family == PAL_FAMILY_V4) {
        frame_ip(f, family, src, dst, proto, bytes, len);
        store_be16(f->b + f->l3 + 4, (uint16_t)id);
        store_be16(f->b + f->l3 + 6, (uint16_t)(off / 8 | (more ? 0x2000u : 0)));
        frame_ip_sum(f);
        return;
    }
    memset(body, 0, 8);
    body[0] = proto;
    store_be16(body + 2, (uint16_t)(off | more));
    store_be32(body + 4, id);
    memcpy(body + 8, bytes, len);
    frame_ip(f, family, src, dst, PROTO_IP6_FRAGMENT, body, 8 + len);
    f->l4 += 8;
}

#endif
