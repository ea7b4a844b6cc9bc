/* SPDX-License-Identifier: Apache-2.0
 *
 * parse_transport.h - TCP, UDP, SCTP, ICMP and ICMPv6 headers; everything else is a protocol by number.
 */
#ifndef PAL_CORE_PARSE_TRANSPORT_H
#define PAL_CORE_PARSE_TRANSPORT_H

#include "packet.h"

#define SCTP_MAX_CHUNKS 32

enum sctp_event { /* what a packet means for an association: its first telling chunk */
    SCTP_DATA = 0, SCTP_INIT = 1, SCTP_INIT_ACK = 2, SCTP_ABORT = 6, SCTP_SHUTDOWN = 7, SCTP_SHUTDOWN_ACK = 8,
    SCTP_COOKIE_ECHO = 10, SCTP_COOKIE_ACK = 11, SCTP_SHUTDOWN_COMPLETE = 14
};
#define SCTP_T_BIT 0x80 /* in pal_packet.tcp_flags beside the event: the tag is reflected (RFC 9260 section 8.5.1) */

/* RFC 9293 section 3.1; which combinations make sense follows from section 3.10.7. ECE, CWR, PSH may go with any. */
PAL_INLINE bool tcp_flags_are_valid(uint8_t flags)
{
    /* One bit for each allowed value of FIN, SYN, RST, ACK, URG. */
    const uint64_t allowed = 1ull << TCP_SYN | 1ull << (TCP_SYN | TCP_URG) | 1ull << (TCP_SYN | TCP_ACK) | 1ull << TCP_RST |
                             1ull << (TCP_RST | TCP_ACK) | 1ull << (TCP_FIN | TCP_ACK) |
                             1ull << (TCP_FIN | TCP_ACK | TCP_URG) | 1ull << TCP_ACK | 1ull << (TCP_ACK | TCP_URG);
    return allowed >> (flags & 0x37) & 1;
}

PAL_INLINE uint8_t parse_tcp(pal_packet *p, const uint8_t *h, uint32_t there)
{
    uint32_t doff = (h[12] >> 4) * 4u;
    if (PAL_UNLIKELY(doff < 20 || doff > p->l4_len))
        return PAL_REASON_L4_OFFSET;
    if (PAL_UNLIKELY(doff > there))
        return PAL_REASON_SHORT;
    p->tcp_flags = h[13];
    if (PAL_UNLIKELY(!tcp_flags_are_valid(h[13])))
        return PAL_REASON_TCP_FLAGS;
    p->l4_hdr = (uint8_t)doff;
    p->payload_len = p->l4_len - doff;
    p->seq = load_be32(h + 4);
    p->ack = load_be32(h + 8);
    p->window = load_be16(h + 14);
    return PAL_REASON_MATCH;
}

#define SCTP_BIT(type) (1u << (type))
#define SCTP_LONE (SCTP_BIT(SCTP_INIT) | SCTP_BIT(SCTP_INIT_ACK)) /* are the only chunk of their packet */
#define SCTP_TELLING                                                                                                            \
    (SCTP_LONE | SCTP_BIT(SCTP_ABORT) | SCTP_BIT(SCTP_SHUTDOWN) | SCTP_BIT(SCTP_SHUTDOWN_ACK) | SCTP_BIT(SCTP_COOKIE_ECHO) |         \
     SCTP_BIT(SCTP_COOKIE_ACK) | SCTP_BIT(SCTP_SHUTDOWN_COMPLETE))

/* `there` bytes of it are present; not more than l4_len. */
static inline uint8_t parse_sctp(pal_packet *p, const uint8_t *h, uint32_t there)
{
    uint32_t at = 12, first = SCTP_DATA, chunks = 0, seen = 0, end = p->l4_len;
    p->seq = load_be32(h + 4);
    for (; at < end; chunks++) {
        if (chunks == SCTP_MAX_CHUNKS || at + 4 > there)
            return PAL_REASON_L4_OFFSET;
        uint32_t type = h[at], len = load_be16(h + at + 2);
        if (len - 4 > there - at - 4)
            return PAL_REASON_L4_OFFSET;
        if (PAL_LIKELY(type == SCTP_DATA)) { /* tells nothing: 32 of them in a packet shall cost little */
            at += (len + 3) & ~3u;
            continue;
        }
        uint32_t bit = type < 32 ? SCTP_BIT(type) : 0;
        seen |= bit;
        if ((bit & SCTP_TELLING) && first == SCTP_DATA) {
            first = type;
            if (bit & SCTP_LONE) {
                if (len < 20)
                    return PAL_REASON_L4_OFFSET;
                p->ack = load_be32(h + at + 4);
            }
            if ((type == SCTP_ABORT || type == SCTP_SHUTDOWN_COMPLETE) && (h[at + 1] & 1))
                first |= SCTP_T_BIT;
        }
        at += (len + 3) & ~3u;
    }
    if (chunks == 0 || ((seen & SCTP_LONE) && chunks > 1) || (first == SCTP_INIT && p->seq != 0))
        return PAL_REASON_L4_OFFSET;
    p->tcp_flags = (uint8_t)first;
    return PAL_REASON_MATCH;
}

PAL_INLINE void parse_icmp4(pal_packet *p, const uint8_t *h)
{
    uint32_t type = h[0];
    if (type == 3 || type == 4 || type == 5 || type == 11 || type == 12)
        p->marks |= MARK_ICMP_ERROR;
    else if (type == 8 || type == 13 || type == 15 || type == 17)
        p->marks |= MARK_ICMP_QUERY;
    else if (type == 0 || type == 14 || type == 16 || type == 18)
        p->marks |= MARK_ICMP_ANSWER;
    p->window = load_be16(h + 4);
}

PAL_INLINE void parse_icmp6(pal_packet *p, const uint8_t *h)
{
    uint32_t type = h[0];
    if (type < 128)
        p->marks |= MARK_ICMP_ERROR;
    else if (type == 128 || type == 139)
        p->marks |= MARK_ICMP_QUERY;
    else if (type == 129 || type == 140)
        p->marks |= MARK_ICMP_ANSWER;
    else if ((type >= 130 && type <= 136) || type == 143)
        p->marks |= MARK_UNTRACKED;
    p->window = load_be16(h + 4);
}

PAL_INLINE uint8_t parse_transport(pal_packet *p)
{
    const uint8_t *h = p->data + p->l4;
    uint32_t there = min_u32(p->cap - p->l4, p->l4_len);
    if (PAL_LIKELY(p->proto == PROTO_TCP)) {
        if (PAL_UNLIKELY(there < 20))
            return PAL_REASON_SHORT;
        p->sport = load_be16(h);
        p->dport = load_be16(h + 2);
        return parse_tcp(p, h, there);
    }
    switch (p->proto) {
    case PROTO_UDP: {
        if (there < 8)
            return PAL_REASON_SHORT;
        p->sport = load_be16(h);
        p->dport = load_be16(h + 2);
        uint32_t ulen = load_be16(h + 4);
        if (ulen < 8 || ulen > p->l4_len)
            return PAL_REASON_L4_OFFSET;
        p->l4_hdr = 8;
        p->payload_len = ulen - 8;
        return PAL_REASON_MATCH;
    }
    case PROTO_SCTP:
        if (there < 12)
            return PAL_REASON_SHORT;
        p->sport = load_be16(h);
        p->dport = load_be16(h + 2);
        return parse_sctp(p, h, there);
    case PROTO_ICMP:
    case PROTO_ICMP6:
        if ((p->proto == PROTO_ICMP) != (p->family == PAL_FAMILY_V4))
            return PAL_REASON_MATCH; /* the other family's: a protocol by number */
        if (there < 8)
            return PAL_REASON_SHORT;
        p->dport = (uint16_t)(h[0] << 8 | h[1]);
        p->l4_hdr = 8;
        p->payload_len = p->l4_len - 8;
        if (p->proto == PROTO_ICMP)
            parse_icmp4(p, h);
        else
            parse_icmp6(p, h);
        if (p->marks & MARK_ICMP_ERROR) /* the quote's ports will be read next */
            prefetch_read(h + 8 + (p->family == PAL_FAMILY_V4 ? 27 : 47));
        return PAL_REASON_MATCH;
    case PROTO_IGMP:
        if (p->family == PAL_FAMILY_V4)
            p->marks |= MARK_UNTRACKED;
        return PAL_REASON_MATCH;
    default:
        return PAL_REASON_MATCH;
    }
}

#endif
