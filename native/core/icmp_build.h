/* SPDX-License-Identifier: Apache-2.0
 *
 * icmp_build.h - ICMP and ICMPv6 of a gateway's own: errors about a packet (RFC 792, RFC 1812 section 4.3.2, RFC 4443), and the
 * answer to a ping. They begin at the IP header.
 */
#ifndef PAL_CORE_ICMP_BUILD_H
#define PAL_CORE_ICMP_BUILD_H

#include "reject.h"

enum icmp_error_kind { ICMP_NONE, ICMP_NO_ROUTE, ICMP_NO_HOST, ICMP_NO_PORT, ICMP_TIME, ICMP_TOO_BIG, ICMP_ERRORS };

#define ICMP_QUOTE_V4 548 /* RFC 1812 section 4.3.2.3: as much as fits into 576 bytes */

/* May an error be sent about it? RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e). */
static inline bool icmp_may_answer(const pal_packet *p)
{
    if (!p->family || p->reason || ((p->marks & MARK_FRAGMENT) && p->ack != 0))
        return false;
    if (p->marks & MARK_FRAGMENT) /* its type, if it is an error, is in sight */
        if ((p->proto == PROTO_ICMP || p->proto == PROTO_ICMP6) && (p->cap <= p->l4 || p->data[p->l4] < 8 || p->family == PAL_FAMILY_V6))
            return false;
    return reject_may_answer(p);
}

/* An error about p from address `from`; `mtu` for ICMP_TOO_BIG. At most REJECT_MAX_BYTES; returns the length. */
static inline uint32_t icmp_error_build(uint8_t *out, const pal_packet *p, enum icmp_error_kind kind, const uint8_t *from, uint32_t mtu)
{
    static const uint8_t v4[ICMP_ERRORS][2] = {[ICMP_NO_ROUTE] = {3, 0}, [ICMP_NO_HOST] = {3, 1}, [ICMP_NO_PORT] = {3, 3},
                                               [ICMP_TIME] = {11, 0}, [ICMP_TOO_BIG] = {3, 4}};
    static const uint8_t v6[ICMP_ERRORS][2] = {[ICMP_NO_ROUTE] = {1, 0}, [ICMP_NO_HOST] = {1, 3}, [ICMP_NO_PORT] = {1, 4},
                                               [ICMP_TIME] = {3, 0}, [ICMP_TOO_BIG] = {2, 0}};
    const bool is4 = p->family == PAL_FAMILY_V4;
    const uint32_t head = is4 ? 20 : 40, room = is4 ? ICMP_QUOTE_V4 : REJECT_MAX_BYTES - head - 8;
    const uint32_t quote = min_u32(packet_present(p), room);
    const uint8_t *word = is4 ? v4[kind] : v6[kind], proto = is4 ? PROTO_ICMP : PROTO_ICMP6;
    reject_ip(out, p->family, from, packet_src(p), proto, 8 + quote);
    uint8_t *h = out + head;
    memset(h, 0, 8);
    h[0] = word[0];
    h[1] = word[1];
    if (kind == ICMP_TOO_BIG && is4)
        store_be16(h + 6, (uint16_t)min_u32(mtu, 65535));
    else if (kind == ICMP_TOO_BIG)
        store_be32(h + 4, mtu);
    memcpy(h + 8, p->data + p->l3, quote);
    reject_sum(out, p->family, head, proto, 8 + quote, 2);
    return head + 8 + quote;
}

/* An echo request, whole? */
PAL_INLINE bool icmp_is_ping(const pal_packet *p)
{
    const bool is4 = p->family == PAL_FAMILY_V4;
    if (p->reason || (p->marks & MARK_FRAGMENT) || p->proto != (is4 ? PROTO_ICMP : PROTO_ICMP6) || p->cap < p->l4 + p->l4_len)
        return false;
    return p->data[p->l4] == (is4 ? 8 : 128) && p->data[p->l4 + 1] == 0;
}

/* The answer to a ping, as many bytes as it has (RFC 792, RFC 4443 section 4.2). */
static inline uint32_t icmp_pong_build(uint8_t *out, const pal_packet *p)
{
    const bool is4 = p->family == PAL_FAMILY_V4;
    const uint8_t proto = is4 ? PROTO_ICMP : PROTO_ICMP6;
    const uint32_t head = reject_ip(out, p->family, packet_dst(p), packet_src(p), proto, p->l4_len);
    memcpy(out + head, p->data + p->l4, p->l4_len);
    out[head] = is4 ? 0 : 129;
    store_be16(out + head + 2, 0);
    reject_sum(out, p->family, head, proto, p->l4_len, 2);
    return head + p->l4_len;
}

#endif
