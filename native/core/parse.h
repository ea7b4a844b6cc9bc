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

/* RFC 791 section 3.1: malformed lists are refused, source routes too. */
static inline uint8_t ip4_options(const uint8_t *h, uint32_t ihl)
{
    for (uint32_t i = 20; i < ihl;) {
        uint8_t kind = h[i];
        if (kind == 0)
            break;
        if (kind == 1) {
            i++;
            continue;
        }
        if (i + 2 > ihl || h[i + 1] < 2 || i + h[i + 1] > ihl)
            return PAL_REASON_IP_OPTIONS;
        if (kind == 131 || kind == 137)
            return PAL_REASON_SOURCE_ROUTE;
        i += h[i + 1];
    }
    return PAL_REASON_MATCH;
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
        uint8_t r = ip4_options(h, ihl);
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

/* From the IP header on; p->l3 and `link` (what the link layer says it is) are set. Also used for whole datagrams. */
PAL_INLINE uint8_t parse_network(pal_packet *p, enum link_payload link, const parse_options *o)
{
    uint8_t r = PAL_LIKELY(link == LINK_IP4) ? parse_ip4(p, o) : parse_ip6(p);
    if (PAL_UNLIKELY(r))
        return r;
    if (PAL_UNLIKELY(o->sanity)) {
        p->odd = packet_is_odd(p);
        if (p->odd && o->sanity == 2)
            return PAL_REASON_BAD_ADDRESS;
    }
    if (PAL_UNLIKELY(p->marks & MARK_FRAGMENT))
        return PAL_REASON_MATCH;
    r = parse_transport(p);
    if (PAL_UNLIKELY(r))
        return r;
    if (o->sum_mode != SUM_MODE_OFF) {
        p->l4_sum = l4_checksum(p);
        if (p->l4_sum == SUM_BAD && o->sum_mode == SUM_MODE_VERIFY)
            return PAL_REASON_L4_CHECKSUM;
    }
    return PAL_REASON_MATCH;
}

#include "tunnel.h"

/* A frame of the given link type; data, cap, wire, ts_ns and cookie are set by the caller. */
PAL_INLINE void parse_frame(pal_packet *p, uint32_t linktype, const parse_options *o)
{
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
