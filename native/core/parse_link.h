/* SPDX-License-Identifier: Apache-2.0
 *
 * parse_link.h - link layers: Ethernet with up to two tags, Linux cooked, loopback, raw IP; and ARP's lengths.
 */
#ifndef PAL_CORE_PARSE_LINK_H
#define PAL_CORE_PARSE_LINK_H

#include "packet.h"

enum { /* LINKTYPE_* of the tcpdump.org registry */
    LINKTYPE_NULL = 0, LINKTYPE_ETHERNET = 1, LINKTYPE_RAW_BSD = 12, LINKTYPE_RAW_OPENBSD = 14, LINKTYPE_RAW = 101,
    LINKTYPE_LOOP = 108, LINKTYPE_LINUX_SLL = 113, LINKTYPE_IPV4 = 228, LINKTYPE_IPV6 = 229, LINKTYPE_LINUX_SLL2 = 276
};
enum { ETHERTYPE_IP4 = 0x0800, ETHERTYPE_ARP = 0x0806, ETHERTYPE_IP6 = 0x86dd, ETHERTYPE_TEB = 0x6558 };

enum link_payload { LINK_OTHER, LINK_IP4, LINK_IP6 };

PAL_INLINE bool linktype_is_known(uint32_t t)
{
    return t == LINKTYPE_NULL || t == LINKTYPE_ETHERNET || t == LINKTYPE_RAW_BSD || t == LINKTYPE_RAW_OPENBSD ||
           t == LINKTYPE_RAW || t == LINKTYPE_LOOP || t == LINKTYPE_LINUX_SLL || t == LINKTYPE_IPV4 ||
           t == LINKTYPE_IPV6 || t == LINKTYPE_LINUX_SLL2;
}

static inline uint8_t parse_arp(const pal_packet *p)
{
    const uint8_t *a = p->data + p->l3;
    if (p->cap - p->l3 < 8)
        return PAL_REASON_SHORT;
    if (load_be16(a) != 1 || load_be16(a + 2) != ETHERTYPE_IP4 || a[4] != 6 || a[5] != 4 || p->wire - p->l3 < 28)
        return PAL_REASON_ARP_MALFORMED;
    return PAL_REASON_MATCH;
}

static inline uint8_t parse_ethertype(const pal_packet *p, uint32_t type, enum link_payload *link)
{
    *link = type == ETHERTYPE_IP4 ? LINK_IP4 : type == ETHERTYPE_IP6 ? LINK_IP6 : LINK_OTHER;
    return type == ETHERTYPE_ARP ? parse_arp(p) : PAL_REASON_MATCH;
}

PAL_INLINE bool ethertype_is_tag(uint32_t type) { return type == 0x8100 || type == 0x88a8 || type == 0x9100; }

PAL_INLINE uint8_t parse_ethernet(pal_packet *p, uint32_t at, enum link_payload *link)
{
    if (PAL_UNLIKELY(p->cap < at + 14))
        return PAL_REASON_SHORT;
    uint32_t type = load_be16(p->data + at + 12), l3 = at + 14;
    for (int tags = 0; PAL_UNLIKELY(ethertype_is_tag(type)); tags++) {
        if (tags == 2)
            return PAL_REASON_VLAN_DEPTH;
        if (p->cap < l3 + 4)
            return PAL_REASON_SHORT;
        type = load_be16(p->data + l3 + 2);
        l3 += 4;
    }
    p->l3 = l3;
    p->l2_len = (uint8_t)(l3 - at);
    if (PAL_LIKELY(type == ETHERTYPE_IP4)) {
        *link = LINK_IP4;
        return PAL_REASON_MATCH;
    }
    return parse_ethertype(p, type, link);
}

static inline uint8_t parse_address_family(pal_packet *p, bool big_endian_only, enum link_payload *link)
{
    if (p->cap < 4)
        return PAL_REASON_SHORT;
    uint32_t af = load_be32(p->data);
    if (!big_endian_only && af > 0xffff)
        af = __builtin_bswap32(af);
    *link = af == 2 ? LINK_IP4 : af == 10 || af == 24 || af == 28 || af == 30 ? LINK_IP6 : LINK_OTHER;
    p->l3 = 4;
    return PAL_REASON_MATCH;
}

static inline uint8_t parse_raw(pal_packet *p, enum link_payload *link)
{
    if (p->cap == 0)
        return PAL_REASON_SHORT;
    uint32_t version = p->data[0] >> 4;
    *link = version == 4 ? LINK_IP4 : LINK_IP6;
    return version == 4 || version == 6 ? PAL_REASON_MATCH : PAL_REASON_IP_VERSION;
}

PAL_INLINE uint8_t parse_link(pal_packet *p, uint32_t linktype, enum link_payload *link)
{
    if (PAL_LIKELY(linktype == LINKTYPE_ETHERNET))
        return parse_ethernet(p, 0, link);
    switch (linktype) {
    case LINKTYPE_NULL:
        return parse_address_family(p, false, link);
    case LINKTYPE_LOOP:
        return parse_address_family(p, true, link);
    case LINKTYPE_IPV4:
        *link = LINK_IP4;
        return PAL_REASON_MATCH;
    case LINKTYPE_IPV6:
        *link = LINK_IP6;
        return PAL_REASON_MATCH;
    case LINKTYPE_LINUX_SLL:
    case LINKTYPE_LINUX_SLL2:
        p->l3 = linktype == LINKTYPE_LINUX_SLL ? 16 : 20;
        if (p->cap < p->l3)
            return PAL_REASON_SHORT;
        return parse_ethertype(p, load_be16(p->data + (linktype == LINKTYPE_LINUX_SLL ? 14 : 0)), link);
    default:
        return parse_raw(p, link);
    }
}

#endif
