/* SPDX-License-Identifier: Apache-2.0
 *
 * parse.h - from a captured or received frame to a pal_packet: link, IP, transport (docs/packet-path.md, section 1).
 * Every stage returns a reason: PAL_REASON_MATCH means "go on".
 */
#ifndef PAL_CORE_PARSE_H
#define PAL_CORE_PARSE_H

#include "checksum.h"
#include "packet.h"
#include "parse_link.h"
#include "parse_transport.h"

#define IP6_EXT_MAX_HEADERS 8
#define IP6_EXT_MAX_BYTES 256

typedef struct parse_options {
    uint8_t sum_mode; /* enum pal_sum_mode */
    uint8_t decap;    /* open Geneve and VXLAN */
    uint8_t sanity;   /* 0: addresses are not looked at; 1: odd ones are marked; 2: refused */
} parse_options;

/* RFC 791 section 3.1: malformed lists are refused, source routes too. `at` and `left`: the options. */
static inline uint8_t ip4_options(const uint8_t *at, uint32_t left)
{
    const uint8_t *end = at + left;
    while (end - at >= 2) {
        uint32_t kind = at[0], len = at[1];
        if (kind <= 1) {
            if (kind == 0)
                return PAL_REASON_MATCH;
            at += end - at >= 8 && load_u64(at) == 0x0101010101010101u ? 8 : 1;
            continue;
        }
        if (len < 2 || len > (uint32_t)(end - at))
            return PAL_REASON_IP_OPTIONS;
        if (kind == 131 || kind == 137)
            return PAL_REASON_SOURCE_ROUTE;
        at += len;
    }
    return at < end && at[0] > 1 ? PAL_REASON_IP_OPTIONS : PAL_REASON_MATCH;
}

PAL_INLINE uint8_t parse_ip4(pal_packet *p, const parse_options *o)
{
    uint32_t there = p->cap - p->l3, on_wire = p->wire - p->l3;
    if (PAL_UNLIKELY(there < 20))
        return PAL_REASON_SHORT;
    const uint8_t *h = p->data + p->l3;
    if (PAL_UNLIKELY(h[0] >> 4 != 4))
        return PAL_REASON_IP_VERSION;
    p->family = PAL_FAMILY_V4; /* from here on the addresses are known, whatever becomes of the packet */
    uint32_t ihl = (h[0] & 15u) * 4, total = load_be16(h + 2);
    if (PAL_UNLIKELY(ihl < 20))
        return PAL_REASON_IP_HEADER_LENGTH;
    if (PAL_UNLIKELY(total < ihl || total > on_wire))
        return PAL_REASON_IP_LENGTH;
    if (PAL_UNLIKELY(there < ihl))
        return PAL_REASON_SHORT;
    p->ip_len = p->wire_bytes = total;
    p->proto = h[9];
    p->addr4[0] = load_u32(h + 12);
    p->addr4[1] = load_u32(h + 16);
    if (PAL_LIKELY(ihl == 20)) {
        uint64_t sum = (uint64_t)load_u32(h) + load_u32(h + 4) + load_u32(h + 8) + load_u32(h + 12) + load_u32(h + 16);
        p->ip_sum = PAL_LIKELY(sum_is_good(sum)) ? SUM_GOOD : SUM_BAD;
    } else {
        p->ip_sum = sum_is_good(sum_bytes(h, ihl, 0)) ? SUM_GOOD : SUM_BAD;
    }
    if (PAL_UNLIKELY(p->ip_sum == SUM_BAD && o->sum_mode == SUM_MODE_VERIFY))
        return PAL_REASON_IP_CHECKSUM;
    if (PAL_UNLIKELY(ihl > 20)) {
        uint8_t r = ip4_options(h + 20, ihl - 20);
        if (r)
            return r;
    }
    p->l4 = p->l3 + ihl;
    p->l4_len = total - ihl;
    if (PAL_UNLIKELY(addr_is_group(h + 16, PAL_FAMILY_V4)))
        p->marks |= MARK_GROUP_DST;
    uint32_t frag = load_be16(h + 6);
    if (PAL_UNLIKELY(frag & 0x3fff)) {
        p->marks |= MARK_FRAGMENT;
        p->seq = load_be16(h + 4);
        p->ack = (frag & 0x1fff) * 8;
        p->tcp_flags = (frag & 0x2000) != 0;
    }
    return PAL_REASON_MATCH;
}

typedef struct ip6_walk_result {
    uint32_t offset;    /* of the transport header, or of what follows the fragment header, from the IP header */
    uint32_t fragment;  /* offset of a fragment header that really fragments, or 0 */
    uint8_t proto;      /* the transport protocol, or the fragment header's next header */
} ip6_walk_result;

/* Extension headers of the packet at h: `len` bytes by the IP header, `there` of them present. `past_first`: the header of
 * a first fragment is walked over (a quoted packet), instead of ending the walk. */
static inline uint8_t ip6_walk(const uint8_t *h, uint32_t there, uint32_t len, bool past_first, ip6_walk_result *out)
{
    uint32_t at = 40, count = 0;
    uint8_t next = h[6];
    for (;; count++) {
        uint32_t size;
        if (next != PROTO_IP6_HOPOPTS && next != PROTO_IP6_ROUTING && next != PROTO_IP6_DSTOPTS && next != PROTO_AH &&
            next != PROTO_IP6_FRAGMENT)
            break;
        if ((next == PROTO_IP6_HOPOPTS && count > 0) || count == IP6_EXT_MAX_HEADERS)
            return PAL_REASON_EXT_HEADERS;
        if (at + 8 > len)
            return PAL_REASON_EXT_LENGTH;
        if (at + 8 > there)
            return PAL_REASON_SHORT;
        size = next == PROTO_IP6_FRAGMENT ? 8 : next == PROTO_AH ? (h[at + 1] + 2u) * 4 : (h[at + 1] + 1u) * 8;
        if (at + size > len)
            return PAL_REASON_EXT_LENGTH;
        if (at + size - 40 > IP6_EXT_MAX_BYTES)
            return PAL_REASON_EXT_HEADERS;
        if (at + size > there)
            return PAL_REASON_SHORT;
        if (next == PROTO_IP6_ROUTING && h[at + 2] == 0)
            return PAL_REASON_SOURCE_ROUTE;
        if (next == PROTO_IP6_FRAGMENT && (load_be16(h + at + 2) & (past_first ? 0xfff8 : 0xfff9))) {
            *out = (ip6_walk_result){.offset = at + 8, .fragment = at, .proto = h[at]};
            return PAL_REASON_MATCH;
        }
        next = h[at];
        at += size;
    }
    *out = (ip6_walk_result){.offset = at, .fragment = 0, .proto = next};
    return PAL_REASON_MATCH;
}

PAL_INLINE uint8_t parse_ip6(pal_packet *p)
{
    uint32_t there = p->cap - p->l3, on_wire = p->wire - p->l3;
    if (PAL_UNLIKELY(there < 40))
        return PAL_REASON_SHORT;
    const uint8_t *h = p->data + p->l3;
    if (PAL_UNLIKELY(h[0] >> 4 != 6))
        return PAL_REASON_IP_VERSION;
    p->family = PAL_FAMILY_V6;
    uint32_t len = 40 + load_be16(h + 4);
    if (PAL_UNLIKELY(len > on_wire || (len == 40 && h[6] == PROTO_IP6_HOPOPTS)))
        return PAL_REASON_IP_LENGTH;
    p->ip_len = p->wire_bytes = len;
    ip6_walk_result w;
    uint8_t r = ip6_walk(h, there, len, false, &w);
    if (PAL_UNLIKELY(r))
        return r;
    p->proto = w.proto;
    p->l4 = p->l3 + w.offset;
    p->l4_len = len - w.offset;
    if (PAL_UNLIKELY(addr_is_group(h + 24, PAL_FAMILY_V6)))
        p->marks |= MARK_GROUP_DST;
    if (PAL_UNLIKELY(w.fragment)) {
        p->marks |= MARK_FRAGMENT;
        p->seq = load_be32(h + w.fragment + 4);
        p->ack = load_be16(h + w.fragment + 2) & 0xfff8;
        p->tcp_flags = h[w.fragment + 3] & 1;
        p->window = (uint16_t)w.fragment;
    }
    return PAL_REASON_MATCH;
}

/* The transport's checksum; it may be the reason to refuse the packet. */
PAL_INLINE void parse_sums(pal_packet *p, const parse_options *o)
{
    p->l4_sum = (uint8_t)l4_checksum(p);
    if (p->l4_sum == SUM_BAD && o->sum_mode == SUM_MODE_VERIFY)
        p->reason = PAL_REASON_L4_CHECKSUM;
}

/* From the IP header on; p->l3 and `link` (what the link layer says it is) are set. Also used for whole datagrams. */
PAL_INLINE uint8_t parse_network(pal_packet *p, enum link_payload link, const parse_options *o)
{
    uint8_t r = PAL_LIKELY(link == LINK_IP4) ? parse_ip4(p, o) : parse_ip6(p);
    if (PAL_UNLIKELY(r))
        return r;
    if (PAL_UNLIKELY(o->sanity)) {
        p->odd |= packet_is_odd(p) ? ODD_SOURCE : 0;
        if ((p->odd & ODD_SOURCE) && o->sanity == 2)
            return PAL_REASON_BAD_ADDRESS;
    }
    if (PAL_UNLIKELY(p->marks & MARK_FRAGMENT))
        return PAL_REASON_MATCH;
    r = parse_transport(p);
    if (PAL_UNLIKELY(r))
        return r;
    if (o->sum_mode != SUM_MODE_OFF)
        parse_sums(p, o);
    return p->reason;
}

#include "tunnel.h"

/* The sum of an IPv4 header without options: folded by turning it round, since the carry out of one half is due in the
 * other (RFC 1071 section 2). */
PAL_INLINE bool ip4_sum_is_good(const uint8_t *h)
{
    uint64_t sum = (uint64_t)load_u32(h) + load_u32(h + 4) + load_u32(h + 8) + load_u32(h + 12) + load_u32(h + 16);
    uint32_t half = (uint32_t)((sum + rotate_u64(sum, 32)) >> 32);
    return (half + rotate_u32(half, 16)) >> 16 == 0xffff;
}

/* The frame that there are most of: untagged Ethernet, IP without options, TCP. All that parse_frame would find, in a
 * quarter of the steps; false when it is anything else, or anything is wrong with it: then what was written does not count. */
PAL_INLINE bool parse_plain(pal_packet *p, const parse_options *o)
{
    enum { L3 = 14, TCP_LEAST = 20 };
    const uint8_t *d = p->data, *ip = d + L3;
    if (PAL_UNLIKELY(p->cap < L3 + 20 + TCP_LEAST))
        return false;
    uint32_t head = load_be32(d + 12), len, hdr;
    bool v4 = PAL_LIKELY(head >> 8 == (ETHERTYPE_IP4 << 8 | 0x45));
    if (v4) {
        len = load_be16(ip + 2);
        hdr = 20;
        /* No fragment, TCP, and no group as destination. */
        if (PAL_UNLIKELY((load_be32(ip + 6) & 0x3fff00ff) != PROTO_TCP) || PAL_UNLIKELY(ip[16] >= 0xe0))
            return false;
        p->addr4[0] = load_u32(ip + 12);
        p->addr4[1] = load_u32(ip + 16);
        p->ip_sum = ip4_sum_is_good(ip) ? SUM_GOOD : SUM_BAD;
    } else {
        if (head >> 12 != (ETHERTYPE_IP6 << 4 | 6) || p->cap < L3 + 40 + TCP_LEAST || ip[6] != PROTO_TCP || ip[24] == 0xff)
            return false;
        len = 40 + load_be16(ip + 4);
        hdr = 40;
        p->ip_sum = SUM_UNVERIFIED;
    }
    const uint8_t *tcp = ip + hdr;
    uint32_t l4_len = len - hdr, doff = (tcp[12] >> 4) * 4u;
    if (PAL_UNLIKELY(len > p->wire - L3) || PAL_UNLIKELY(len < hdr + TCP_LEAST) || PAL_UNLIKELY(doff < TCP_LEAST) ||
        PAL_UNLIKELY(doff > l4_len) || PAL_UNLIKELY(doff > p->cap - L3 - hdr) || PAL_UNLIKELY(!tcp_flags_are_valid(tcp[13])))
        return false;
    p->l2_len = p->l3 = L3;
    p->l4 = L3 + hdr;
    p->ip_len = p->wire_bytes = len;
    p->l4_len = l4_len;
    p->payload_len = l4_len - doff;
    p->seq = load_be32(tcp + 4);
    p->ack = load_be32(tcp + 8);
    p->sport = load_be16(tcp);
    p->dport = load_be16(tcp + 2);
    p->window = load_be16(tcp + 14);
    p->l4_hdr = (uint8_t)doff;
    p->family = v4 ? PAL_FAMILY_V4 : PAL_FAMILY_V6;
    p->proto = PROTO_TCP;
    p->tcp_flags = tcp[13];
    p->reason = PAL_REASON_MATCH;
    p->marks = 0;
    p->l4_sum = SUM_UNVERIFIED;
    p->odd = 0;
    p->vrf = 0;
    p->fragments = 1;
    if (PAL_UNLIKELY(o->sanity) && packet_is_odd(p))
        return false;
    if (PAL_UNLIKELY(o->sum_mode != SUM_MODE_OFF)) {
        if (o->sum_mode == SUM_MODE_VERIFY && p->ip_sum == SUM_BAD)
            return false;
        parse_sums(p, o);
    }
    return true;
}

/* A frame of the given link type; data, cap, wire, ts_ns and cookie are set by the caller. */
PAL_INLINE void parse_frame(pal_packet *p, uint32_t linktype, const parse_options *o)
{
    if (PAL_LIKELY(linktype == LINKTYPE_ETHERNET) && PAL_LIKELY(parse_plain(p, o)))
        return;
    p->family = p->proto = p->tcp_flags = p->marks = p->ip_sum = p->l4_sum = p->l4_hdr = p->odd = p->l2_len = 0;
    p->sport = p->dport = p->window = 0;
    p->l3 = p->l4 = p->ip_len = p->l4_len = p->payload_len = p->seq = p->ack = p->vrf = 0;
    p->fragments = 1;
    p->wire_bytes = 0;
    enum link_payload link = LINK_OTHER;
    p->reason = parse_link(p, linktype, &link);
    if (PAL_UNLIKELY(p->reason))
        return;
    if (PAL_UNLIKELY(link == LINK_OTHER)) {
        p->marks |= MARK_NON_IP;
        return;
    }
    p->reason = parse_network(p, link, o);
    if (PAL_UNLIKELY(o->decap) && p->reason == PAL_REASON_MATCH && p->proto == PROTO_UDP)
        tunnel_open(p, o);
}

#endif
