/* SPDX-License-Identifier: Apache-2.0
 *
 * nd.h - neighbour discovery (RFC 4861): what a message says, and a neighbour advertisement that answers a solicitation.
 */
#ifndef PAL_CORE_ND_H
#define PAL_CORE_ND_H

#include "fabric.h"
#include "reject.h"

enum { ND_ROUTER_SOLICIT = 133, ND_ROUTER_ADVERTISE = 134, ND_SOLICIT = 135, ND_ADVERTISE = 136, ND_REDIRECT = 137 };
enum { ND_SOURCE_MAC = 1, ND_TARGET_MAC = 2 };
enum { ND_ROUTER = 0x80, ND_SOLICITED = 0x40, ND_OVERRIDE = 0x20 }; /* flags of an advertisement */

#define ND_OPTIONS_MAX 16
#define ND_ANSWER_BYTES (14 + 40 + 32)

/* Type of a whole ICMPv6 message, or 0. */
PAL_INLINE uint32_t icmp6_type(const pal_packet *p)
{
    return p->family == PAL_FAMILY_V6 && p->proto == PROTO_ICMP6 && !p->reason && !(p->marks & MARK_FRAGMENT) ? p->data[p->l4] : 0;
}

/* A solicitation or an advertisement with its target; sections 7.1.1 and 7.1.2 ask for hop limit 255 and code 0. */
PAL_INLINE bool nd_is_sound(const pal_packet *p)
{
    return p->l4_len >= 24 && p->cap >= p->l4 + p->l4_len && p->data[p->l3 + 7] == 255 && p->data[p->l4 + 1] == 0 && p->data[p->l4 + 8] != 0xff;
}

PAL_INLINE const uint8_t *nd_target(const pal_packet *p) { return p->data + p->l4 + 8; }

/* Do all link-layer address options of a message (its options begin `at` bytes into ICMPv6) name this MAC address? */
static inline bool nd_options_name(const pal_packet *p, uint32_t at, const uint8_t mac[6])
{
    const uint8_t *h = p->data + p->l4;
    const uint32_t len = min_u32(p->l4_len, p->cap - p->l4);
    for (uint32_t n = 0; at < len; n++) {
        if (n == ND_OPTIONS_MAX || at + 8 > len || h[at + 1] == 0 || at + h[at + 1] * 8u > len)
            return false;
        if ((h[at] == ND_SOURCE_MAC || h[at] == ND_TARGET_MAC) && memcmp(h + at + 2, mac, 6) != 0)
            return false;
        at += h[at + 1] * 8u;
    }
    return true;
}

/* The link-local address that a MAC address stands for (RFC 4291 appendix A). */
PAL_INLINE bool addr_is_eui64(const uint8_t *a, const uint8_t mac[6])
{
    return load_be32(a) == 0xfe800000 && load_u32(a + 4) == 0 && a[8] == (mac[0] ^ 2) && load_be16(a + 9) == load_be16(mac + 1) &&
           load_be16(a + 11) == 0xfffe && a[13] == mac[3] && load_be16(a + 14) == load_be16(mac + 4);
}

/* The answer to solicitation p: its target is at `mac`. A frame of ND_ANSWER_BYTES, to the one who asked; to all nodes where
 * that one has no address yet (section 7.2.4). */
static inline uint32_t nd_answer(uint8_t *out, const pal_packet *p, const uint8_t mac[6], bool router)
{
    static const uint8_t all_mac[6] = {0x33, 0x33, 0, 0, 0, 1}, all[16] = {0xff, 0x02, [15] = 1};
    const bool nameless = addr_is_zero(packet_src(p), PAL_FAMILY_V6);
    memcpy(out, nameless ? all_mac : p->data + 6, 6);
    memcpy(out + 6, mac, 6);
    store_be16(out + 12, ETHERTYPE_IP6);
    uint8_t *ip = out + 14, *h = ip + 40;
    reject_ip(ip, PAL_FAMILY_V6, nd_target(p), nameless ? all : packet_src(p), PROTO_ICMP6, 32);
    ip[7] = 255;
    memset(h, 0, 32);
    h[0] = ND_ADVERTISE;
    h[4] = (uint8_t)(ND_OVERRIDE | (router ? ND_ROUTER : 0) | (nameless ? 0 : ND_SOLICITED));
    memcpy(h + 8, nd_target(p), 16);
    h[24] = ND_TARGET_MAC;
    h[25] = 1;
    memcpy(h + 26, mac, 6);
    reject_sum(ip, PAL_FAMILY_V6, 40, PROTO_ICMP6, 32, 2);
    return ND_ANSWER_BYTES;
}

#endif
