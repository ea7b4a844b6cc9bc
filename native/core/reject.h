/* SPDX-License-Identifier: Apache-2.0
 *
 * reject.h - the packets that REJECT answers with: TCP RST (RFC 9293 section 3.10.7.1), ICMP 3/13 (RFC 1812 section
 * 5.2.7.1), ICMPv6 1/1 (RFC 4443 section 3.1). They begin at the IP header; the caller gives them a link layer.
 */
#ifndef PAL_CORE_REJECT_H
#define PAL_CORE_REJECT_H

#include "connection.h"
#include "checksum.h"
#include "limit.h"

#define REJECT_MAX_BYTES 1280
#define REJECT_PER_SECOND 100 /* of both sides of a filter, at most */

/* How many answers a filter has given in the second; exact, since there are at most REJECT_PER_SECOND peers in one. */
typedef struct reject_budget {
    uint64_t second;
    uint32_t total[2], peers, reserved;
    struct {
        uint8_t addr[16];
        uint16_t count;
        uint8_t family, side;
    } peer[REJECT_PER_SECOND];
} reject_budget;

static inline bool reject_allowed(reject_budget *b, const pal_limits *limits, bool tap, uint32_t side, const uint8_t *peer,
                                  uint32_t family, uint64_t tick)
{
    uint64_t second = tick / 100;
    uint32_t n = family == PAL_FAMILY_V4 ? 4 : 16, same = family == PAL_FAMILY_V4 ? PREFIX_BYTES_V4 : PREFIX_BYTES_V6;
    uint32_t of_prefix = 0, who = PAL_NONE;
    if (b->second != second)
        *b = (reject_budget){.second = second};
    if (b->total[side] >= limit_of(limits->rejects, tap, side))
        return false;
    for (uint32_t i = 0; i < b->peers; i++) {
        if (b->peer[i].family != family || b->peer[i].side != side || memcmp(b->peer[i].addr, peer, same) != 0)
            continue;
        of_prefix += b->peer[i].count;
        if (memcmp(b->peer[i].addr, peer, n) == 0)
            who = i;
    }
    if ((side == SIDE_OTHERS && of_prefix >= limits->rejects_prefix) || (who != PAL_NONE && b->peer[who].count >= limits->rejects_peer))
        return false;
    if (who == PAL_NONE) {
        who = b->peers++;
        memset(&b->peer[who], 0, sizeof b->peer[who]);
        memcpy(b->peer[who].addr, peer, n);
        b->peer[who].family = (uint8_t)family;
        b->peer[who].side = (uint8_t)side;
    }
    b->peer[who].count++;
    b->total[side]++;
    return true;
}

/* RFC 1122 section 3.2.2 and RFC 4443 section 2.4 (e): what must never be answered. */
static inline bool reject_may_answer(const pal_packet *p)
{
    const uint8_t *src = packet_src(p), *dst = packet_dst(p);
    if (packet_to_group(p) || (p->marks & MARK_ICMP_ERROR) || (p->proto == PROTO_TCP && (p->tcp_flags & TCP_RST)))
        return false;
    if (addr_is_group(src, p->family) || addr_is_group(dst, p->family) || addr_is_zero(src, p->family) || addr_is_zero(dst, p->family))
        return false;
    return p->ip_sum != SUM_BAD && p->l4_sum != SUM_BAD;
}

/* An IP header from src to dst with room for `len` bytes of proto; returns the header's length. */
static inline uint32_t reject_ip(uint8_t *out, uint32_t family, const uint8_t *src, const uint8_t *dst, uint8_t proto, uint32_t len)
{
    if (family == PAL_FAMILY_V4) {
        memset(out, 0, 20);
        out[0] = 0x45;
        store_be16(out + 2, (uint16_t)(20 + len));
        store_be16(out + 6, 0x4000);
        out[8] = 64;
        out[9] = proto;
        memcpy(out + 12, src, 4);
        memcpy(out + 16, dst, 4);
        uint16_t sum = sum_finish(sum_bytes(out, 20, 0));
        memcpy(out + 10, &sum, 2);
        return 20;
    }
    memset(out, 0, 8);
    out[0] = 0x60;
    store_be16(out + 4, (uint16_t)len);
    out[6] = proto;
    out[7] = 64;
    memcpy(out + 8, src, 16);
    memcpy(out + 24, dst, 16);
    return 40;
}

static inline void reject_sum(uint8_t *out, uint32_t family, uint32_t at, uint8_t proto, uint32_t len, uint32_t sum_at)
{
    pal_packet view = {.data = out, .family = (uint8_t)family};
    uint64_t start = proto == PROTO_ICMP ? 0 : sum_pseudo(&view, proto, len);
    uint16_t sum = sum_finish(sum_bytes(out + at, len, start));
    memcpy(out + at + sum_at, &sum, 2);
}

static inline uint32_t reject_rst(uint8_t *out, uint32_t family, const uint8_t *src, const uint8_t *dst, uint16_t sport,
                                  uint16_t dport, uint32_t seq, uint32_t ack, uint8_t flags)
{
    uint32_t at = reject_ip(out, family, src, dst, PROTO_TCP, 20);
    uint8_t *h = out + at;
    memset(h, 0, 20);
    store_be16(h, sport);
    store_be16(h + 2, dport);
    store_be32(h + 4, seq);
    store_be32(h + 8, ack);
    h[12] = 0x50;
    h[13] = flags;
    reject_sum(out, family, at, PROTO_TCP, 20, 16);
    return at + 20;
}

/* The answer to a refused packet, at most REJECT_MAX_BYTES; returns its length from the IP header. */
static inline uint32_t reject_answer(uint8_t *out, const pal_packet *p)
{
    const uint8_t *src = packet_dst(p), *dst = packet_src(p);
    if (p->proto == PROTO_TCP) {
        if (p->tcp_flags & TCP_ACK)
            return reject_rst(out, p->family, src, dst, p->dport, p->sport, p->ack, 0, TCP_RST);
        uint32_t end = p->seq + p->payload_len + ((p->tcp_flags & TCP_SYN) != 0) + ((p->tcp_flags & TCP_FIN) != 0);
        return reject_rst(out, p->family, src, dst, p->dport, p->sport, 0, end, TCP_RST | TCP_ACK);
    }
    bool v4 = p->family == PAL_FAMILY_V4;
    uint32_t head = v4 ? 20 : 40, room = v4 ? p->l4 - p->l3 + 8 : REJECT_MAX_BYTES - head - 8;
    uint32_t quote = min_u32(packet_present(p), room);
    uint8_t proto = v4 ? PROTO_ICMP : PROTO_ICMP6;
    reject_ip(out, p->family, src, dst, proto, 8 + quote);
    uint8_t *h = out + head;
    memset(h, 0, 8);
    h[0] = v4 ? 3 : 1;
    h[1] = v4 ? 13 : 1;
    memcpy(h + 8, p->data + p->l3, quote);
    reject_sum(out, p->family, head, proto, 8 + quote, 2);
    return head + 8 + quote;
}

/* A RST to end X of a connection in the other end's name; 0 when X was never heard. */
static inline uint32_t reject_end(uint8_t *out, const ct_hot *h, uint32_t X, uint32_t family, const uint8_t *x_addr,
                                  const uint8_t *y_addr, uint16_t x_port, uint16_t y_port)
{
    if (!end_has(h, X, END_SEEN))
        return 0;
    if (end_has(h, X, END_ACKED))
        return reject_rst(out, family, y_addr, x_addr, y_port, x_port, h->half[X].ack, 0, TCP_RST);
    return reject_rst(out, family, y_addr, x_addr, y_port, x_port, 0, h->half[X].end, TCP_RST | TCP_ACK);
}

#endif
