/* SPDX-License-Identifier: Apache-2.0
 *
 * outer.h - what goes around Geneve or VXLAN: Ethernet, IPv4 or IPv6, UDP. Built and checked as pure functions, for whoever owns the
 * uplink. The underlay does not fragment (RFC 8926 section 4.1.1): DF is set, and what arrives in fragments is refused.
 */
#ifndef PAL_CORE_OUTER_H
#define PAL_CORE_OUTER_H

#include "checksum.h"
#include "encap.h"

#define OUTER_ETHERNET 14
#define OUTER_UDP 8
#define OUTER_PORT_LEAST 49152u /* RFC 8926 section 3.3: a source port of the dynamic range, by the inner flow */
#define OUTER_PORTS 16384u

/* Bytes of an outer packet that are not the inner frame's, options apart: IP, UDP, tunnel. */
PAL_INLINE uint32_t outer_ip_bytes(uint32_t family) { return family == PAL_FAMILY_V4 ? 20 : 40; }
PAL_INLINE uint32_t outer_bytes(uint32_t family) { return OUTER_ETHERNET + outer_ip_bytes(family) + OUTER_UDP; }

/* Between which two hosts; both addresses are of one family. */
typedef struct outer_ends {
    uint8_t mac[12];            /* as they stand in a frame: destination, source */
    pal_address local, remote;
    uint32_t encap;             /* PAL_ENCAP_* */
} outer_ends;

enum outer_sum {
    OUTER_SUM_NONE,    /* no UDP checksum: IPv4, or IPv6 by RFC 6935 */
    OUTER_SUM_WHOLE,   /* computed over all of it: the inner frame must be whole, its own sums finished */
    OUTER_SUM_PARTIAL, /* the pseudo-header's, folded, not complemented: the card does the rest */
};

/* The sum over addresses, length and protocol (RFC 768, RFC 8200 section 8.1). */
PAL_INLINE uint64_t outer_pseudo(const uint8_t *ip, uint32_t family, uint32_t udp_len)
{
    const uint64_t tail = (uint64_t)be32(udp_len) + be32(PROTO_UDP);
    return family == PAL_FAMILY_V4 ? sum_bytes(ip + 12, 8, tail) : sum_bytes(ip + 8, 32, tail);
}

/* DSCP and ECN of the inner packet, for the outer one (RFC 6040 section 4.1, RFC 2983): 0 for what is not IP. */
PAL_INLINE uint8_t outer_tos(const uint8_t *inner, uint32_t len)
{
    if (PAL_UNLIKELY(len < OUTER_ETHERNET + 2))
        return 0;
    switch (load_be16(inner + 12)) {
    case 0x0800:
        return inner[15];
    case 0x86dd:
        return (uint8_t)(load_be16(inner + 14) >> 4);
    default:
        return 0;
    }
}

/* Writes the headers before `payload` (`len` bytes: tunnel header, options, inner frame); returns how many bytes, or 0 when
 * the packet would be longer than its length fields can say. */
PAL_INLINE uint32_t outer_write(uint8_t *payload, uint32_t len, const outer_ends *e, uint16_t port, uint8_t tos, enum outer_sum sum)
{
    const uint32_t family = e->local.family, udp_len = OUTER_UDP + len, ip_len = outer_ip_bytes(family) + udp_len;
    if (PAL_UNLIKELY((family == PAL_FAMILY_V4 ? ip_len : udp_len) > 65535))
        return 0;
    uint8_t *udp = payload - OUTER_UDP, *ip = udp - outer_ip_bytes(family), *ether = ip - OUTER_ETHERNET;
    memcpy(ether, e->mac, 12);
    if (PAL_LIKELY(family == PAL_FAMILY_V4)) {
        /* Summed as it is made, not as it then stands in memory: a wide load behind narrow stores would wait for the cold line. */
        const uint32_t first = be32(0x45u << 24 | (uint32_t)tos << 16 | ip_len), df = be32(0x4000); /* identification 0 (RFC 6864 section 4) */
        const uint32_t hops = be32(64u << 24 | (uint32_t)PROTO_UDP << 16), from = load_u32(e->local.addr), to = load_u32(e->remote.addr);
        const uint16_t s = sum_finish((uint64_t)first + df + hops + from + to);
        store_be16(ether + 12, 0x0800);
        memcpy(ip, &first, 4);
        memcpy(ip + 4, &df, 4);
        memcpy(ip + 8, &hops, 4);
        memcpy(ip + 10, &s, 2);
        memcpy(ip + 12, &from, 4);
        memcpy(ip + 16, &to, 4);
    } else {
        store_be16(ether + 12, 0x86dd);
        store_be32(ip, 6u << 28 | (uint32_t)tos << 20);
        store_be16(ip + 4, (uint16_t)udp_len);
        ip[6] = PROTO_UDP;
        ip[7] = 64;
        memcpy(ip + 8, e->local.addr, 16);
        memcpy(ip + 24, e->remote.addr, 16);
    }
    store_be16(udp, port);
    store_be16(udp + 2, encap_port(e->encap));
    store_be16(udp + 4, (uint16_t)udp_len);
    udp[6] = udp[7] = 0;
    if (sum == OUTER_SUM_NONE)
        return outer_bytes(family);
    uint16_t s;
    if (sum == OUTER_SUM_PARTIAL) {
        s = sum_fold(outer_pseudo(ip, family, udp_len));
    } else {
        s = sum_finish(sum_bytes(udp, udp_len, outer_pseudo(ip, family, udp_len)));
        if (s == 0)
            s = 0xffff; /* 0 says that there is none */
    }
    memcpy(udp + 6, &s, 2);
    return outer_bytes(family);
}

/* What an outer packet held. */
typedef struct outer_found {
    uint32_t at, len;       /* tunnel header and what follows: offset in the frame, bytes */
    pal_address from, to;
    uint8_t tos;
    uint8_t encap;          /* PAL_ENCAP_* */
    uint8_t summed;         /* it has a UDP checksum; it was right, if it was to be verified */
} outer_found;

/* All sixteen bytes at once: whoever copies them next need not wait for narrower stores. */
PAL_INLINE void outer_address4(pal_address *a, const uint8_t *ip)
{
    typedef uint32_t four __attribute__((vector_size(16)));
    const four v = {load_u32(ip)};
    memcpy(a->addr, &v, 16);
    a->family = PAL_FAMILY_V4;
}

#define OUTER_VERIFIED 1  /* outer_read: the card or the kernel has looked at the UDP checksum */
#define OUTER_ZERO6 2     /* outer_read: IPv6 without a UDP checksum is accepted (RFC 6935) */

/* Takes off Ethernet, IP and UDP of a frame from the underlay. PAL_REASON_MATCH, or why it is no tunnel of ours: whose address it
 * is sent to, and by whom, is the caller's to look at. `marks`: OUTER_*. */
static inline uint8_t outer_read(const uint8_t *frame, uint32_t len, uint32_t marks, outer_found *f)
{
    if (len < OUTER_ETHERNET + 20 + OUTER_UDP)
        return PAL_REASON_OUTER_MALFORMED;
    const uint8_t *ip = frame + OUTER_ETHERNET;
    uint32_t type = load_be16(frame + 12), there = len - OUTER_ETHERNET, head, total;
    *f = (outer_found){0};
    if (type == 0x0800) {
        head = (ip[0] & 15u) * 4;
        total = load_be16(ip + 2);
        if (ip[0] >> 4 != 4 || head < 20 || total < head + OUTER_UDP || total > there)
            return PAL_REASON_OUTER_MALFORMED;
        if (ip[9] != PROTO_UDP)
            return ip[9] == PROTO_ICMP ? PAL_REASON_UNDERLAY_ICMP : PAL_REASON_OUTER_MALFORMED;
        if (load_be16(ip + 6) & 0x3fff)
            return PAL_REASON_OUTER_FRAGMENT;
        if (!sum_is_good(sum_bytes(ip, head, 0)))
            return PAL_REASON_OUTER_CHECKSUM;
        outer_address4(&f->from, ip + 12);
        outer_address4(&f->to, ip + 16);
        f->tos = ip[1];
    } else if (type == 0x86dd) {
        if (there < 40 + OUTER_UDP)
            return PAL_REASON_OUTER_MALFORMED;
        head = 40;
        total = 40 + load_be16(ip + 4);
        if (ip[6] == PROTO_IP6_FRAGMENT)
            return PAL_REASON_OUTER_FRAGMENT;
        if (ip[0] >> 4 != 6 || total < head + OUTER_UDP || total > there)
            return PAL_REASON_OUTER_MALFORMED;
        if (ip[6] != PROTO_UDP)
            return ip[6] == PROTO_ICMP6 ? PAL_REASON_UNDERLAY_ICMP : PAL_REASON_OUTER_MALFORMED;
        f->from.family = f->to.family = PAL_FAMILY_V6;
        memcpy(f->from.addr, ip + 8, 16);
        memcpy(f->to.addr, ip + 24, 16);
        f->tos = (uint8_t)(load_be16(ip) >> 4);
    } else {
        return PAL_REASON_OUTER_MALFORMED;
    }
    const uint8_t *udp = ip + head;
    uint32_t udp_len = load_be16(udp + 4);
    const uint16_t port = load_be16(udp + 2);
    if ((port != GENEVE_PORT && port != VXLAN_PORT) || udp_len < OUTER_UDP || udp_len > total - head)
        return PAL_REASON_OUTER_MALFORMED;
    f->encap = port == GENEVE_PORT ? PAL_ENCAP_GENEVE : PAL_ENCAP_VXLAN;
    f->summed = load_u16(udp + 6) != 0;
    if (!f->summed && f->from.family == PAL_FAMILY_V6 && !(marks & OUTER_ZERO6))
        return PAL_REASON_OUTER_CHECKSUM;
    if (f->summed && !(marks & OUTER_VERIFIED) && !sum_is_good(sum_bytes(udp, udp_len, outer_pseudo(ip, f->from.family, udp_len))))
        return PAL_REASON_OUTER_CHECKSUM;
    f->at = OUTER_ETHERNET + head + OUTER_UDP;
    f->len = udp_len - OUTER_UDP;
    return PAL_REASON_MATCH;
}

/* The outer source port by the inner flow, the same on every host and for both directions; fragments of a datagram, whose ports
 * are not known, go by their addresses; what is not IP by its MAC addresses. */
PAL_INLINE uint16_t outer_port(const pal_packet *p)
{
    const uint64_t a = 0x9e3779b97f4a7c15ull, b = 0xc2b2ae3d27d4eb4full;
    const bool ports = PAL_LIKELY(p->proto == PROTO_TCP) || p->proto == PROTO_UDP || p->proto == PROTO_SCTP;
    const uint64_t sport = ports ? p->sport : 0, dport = ports ? p->dport : 0;
    uint64_t h;
    if (PAL_LIKELY(p->family == PAL_FAMILY_V4)) {
        const uint8_t *ip = p->data + p->l3;
        uint64_t x = load_u32(ip + 12) + sport * a, y = load_u32(ip + 16) + dport * a;
        h = x * b + y * b + (x ^ y);
    } else if (p->family == PAL_FAMILY_V6) {
        const uint8_t *s = packet_src(p), *d = packet_dst(p);
        uint64_t x = (load_u64(s) ^ rotate_u64(load_u64(s + 8), 29)) + sport * a;
        uint64_t y = (load_u64(d) ^ rotate_u64(load_u64(d + 8), 29)) + dport * a;
        h = x * b + y * b + (x ^ y);
    } else if (p->cap >= 12) {
        h = (load_be16(p->data) ^ (uint64_t)load_be32(p->data + 2) << 16) + (load_be16(p->data + 6) ^ (uint64_t)load_be32(p->data + 8) << 16);
    } else {
        h = 0;
    }
    h += p->proto;
    h = (h ^ h >> 32) * b;
    return (uint16_t)(OUTER_PORT_LEAST + (h >> 40) % OUTER_PORTS);
}

#endif
