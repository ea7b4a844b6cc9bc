/* SPDX-License-Identifier: Apache-2.0
 *
 * spoof.h - spoofguard: a vNIC sends only from its MAC address and its addresses, in ARP and neighbour discovery too; it is no
 * DHCP server (DHCP guard) and no router (RA guard, RFC 6105) unless it is said to be one.
 */
#ifndef PAL_CORE_SPOOF_H
#define PAL_CORE_SPOOF_H

#include "arp.h"
#include "nd.h"

enum { DHCP4_SERVER = 67, DHCP4_CLIENT = 68, DHCP6_CLIENT = 546, DHCP6_SERVER = 547 };

/* Is the address bound to the vNIC? Its MAC address's own link-local address always is. */
static inline bool spoof_is_bound(const fabric *f, uint32_t vnic, const uint8_t *addr, uint32_t family)
{
    const fabric_vnic *v = &f->vnic[vnic];
    if (PAL_LIKELY(family == PAL_FAMILY_V4) && PAL_LIKELY(load_u32(addr) == v->addr4) && v->addr4)
        return true;
    if (family == PAL_FAMILY_V6 && addr_is_eui64(addr, v->mac))
        return true;
    return fabric_find(f, FABRIC_BOUND, vnic, addr, family) != PAL_NO_INDEX;
}

/* Who has no address yet may ask for one: DHCPv4; DAD, router solicitation, MLD. */
static inline bool spoof_may_be_nameless(const pal_packet *p)
{
    if (p->marks & MARK_FRAGMENT)
        return false;
    if (p->family == PAL_FAMILY_V4)
        return p->proto == PROTO_UDP && p->sport == DHCP4_CLIENT && p->dport == DHCP4_SERVER;
    const uint32_t type = icmp6_type(p);
    return type == ND_SOLICIT || type == ND_ROUTER_SOLICIT || type == 131 || type == 143;
}

/* SEMANTICS, Odd packets: live vNICs neither send nor get them. */
static inline bool spoof_is_odd(const pal_packet *p)
{
    if (PAL_LIKELY(!packet_is_odd(p)))
        return false;
    return p->family != PAL_FAMILY_V4 || !addr_is_zero(packet_src(p), PAL_FAMILY_V4) || !spoof_may_be_nameless(p);
}

static inline uint8_t spoof_arp(const fabric *f, uint32_t vnic, const pal_packet *p)
{
    const uint8_t *a = arp_of(p);
    if (memcmp(arp_sender_mac(a), f->vnic[vnic].mac, 6) != 0)
        return PAL_REASON_SPOOF_ARP;
    if (addr_is_zero(arp_sender(a), PAL_FAMILY_V4) && arp_operation(a) == ARP_REQUEST) /* a probe, RFC 5227 */
        return PAL_REASON_MATCH;
    return spoof_is_bound(f, vnic, arp_sender(a), PAL_FAMILY_V4) ? PAL_REASON_MATCH : PAL_REASON_SPOOF_ARP;
}

static inline uint8_t spoof_nd(const fabric *f, uint32_t vnic, const pal_packet *p, uint32_t type)
{
    const uint8_t *mac = f->vnic[vnic].mac;
    const bool nameless = addr_is_zero(packet_src(p), PAL_FAMILY_V6);
    if (type == ND_ROUTER_SOLICIT)
        return nd_options_name(p, 8, mac) ? PAL_REASON_MATCH : PAL_REASON_SPOOF_ND;
    if (type != ND_SOLICIT && type != ND_ADVERTISE)
        return PAL_REASON_MATCH;
    if (!nd_is_sound(p) || !nd_options_name(p, 24, mac))
        return PAL_REASON_SPOOF_ND;
    if ((type == ND_ADVERTISE || nameless) && !spoof_is_bound(f, vnic, nd_target(p), PAL_FAMILY_V6))
        return PAL_REASON_SPOOF_ND;
    return PAL_REASON_MATCH;
}

static inline uint8_t spoof_ip(const fabric *f, uint32_t vnic, const pal_packet *p)
{
    const uint8_t *src = packet_src(p);
    const uint32_t type = icmp6_type(p);
    if (PAL_UNLIKELY(type >= ND_ROUTER_SOLICIT && type <= ND_REDIRECT)) {
        uint8_t r = spoof_nd(f, vnic, p, type);
        if (r)
            return r;
    }
    if (PAL_UNLIKELY(addr_is_zero(src, p->family)))
        return spoof_may_be_nameless(p) ? PAL_REASON_MATCH : PAL_REASON_SPOOF_IP;
    return spoof_is_bound(f, vnic, src, p->family) ? PAL_REASON_MATCH : PAL_REASON_SPOOF_IP;
}

/* The first two port numbers of UDP, whole or in a first fragment; false: not UDP, or a later fragment. */
static inline bool spoof_udp(const pal_packet *p, uint32_t *sport, uint32_t *dport)
{
    if (p->proto != PROTO_UDP || ((p->marks & MARK_FRAGMENT) && (p->ack != 0 || p->cap < p->l4 + 4)))
        return false;
    *sport = load_be16(p->data + p->l4);
    *dport = load_be16(p->data + p->l4 + 2);
    return true;
}

/* DHCPv4 and DHCPv6 servers' answers (RFC 2131, RFC 8415). */
static inline bool spoof_is_dhcp_answer(const pal_packet *p)
{
    uint32_t sport, dport;
    if (!spoof_udp(p, &sport, &dport))
        return false;
    return p->family == PAL_FAMILY_V4 ? sport == DHCP4_SERVER && dport == DHCP4_CLIENT : sport == DHCP6_SERVER && dport == DHCP6_CLIENT;
}

/* Router advertisements and redirects; in fragments all of neighbour discovery (RFC 6980), and what hides it (RFC 7113). */
static inline bool spoof_is_router(const pal_packet *p)
{
    if (p->family == PAL_FAMILY_V4)
        return p->proto == PROTO_ICMP && !(p->marks & MARK_FRAGMENT) && p->data[p->l4] == 5;
    if (!(p->marks & MARK_FRAGMENT)) {
        const uint32_t type = icmp6_type(p);
        return type == ND_ROUTER_ADVERTISE || type == ND_REDIRECT;
    }
    if (p->ack != 0 || p->cap <= p->l4)
        return false;
    if (p->proto == PROTO_ICMP6)
        return p->data[p->l4] >= ND_ROUTER_SOLICIT && p->data[p->l4] <= ND_REDIRECT;
    return p->proto == PROTO_IP6_HOPOPTS || p->proto == PROTO_IP6_ROUTING || p->proto == PROTO_IP6_DSTOPTS || p->proto == PROTO_AH;
}

/* A plain packet (packet_is_plain4) from a vNIC: true when its own MAC address and first IPv4 address are enough to know
 * that spoof_check finds nothing, guarded or not. */
PAL_INLINE bool spoof_plain4(const fabric *f, uint32_t vnic, const pal_packet *p)
{
    const fabric_vnic *v = &f->vnic[vnic];
    return PAL_LIKELY(memcmp(p->data + 6, v->mac, 6) == 0) && PAL_LIKELY(p->addr4[0] == v->addr4) &&
           PAL_LIKELY(!addr4_is_odd((const uint8_t *)&p->addr4[0], (const uint8_t *)&p->addr4[1]));
}

/* A frame from a vNIC: PAL_REASON_MATCH, or why it is refused. What the parser has refused keeps its reason. */
static inline uint8_t spoof_check(const fabric *f, uint32_t vnic, const pal_packet *p)
{
    const fabric_vnic *v = &f->vnic[vnic];
    if (PAL_UNLIKELY(p->cap < 14))
        return PAL_REASON_MATCH;
    const uint8_t *source = p->data + 6;
    const bool guarded = PAL_LIKELY(v->guards & PAL_GUARD_SPOOF);
    if (guarded ? memcmp(source, v->mac, 6) != 0 : (source[0] & 1) || mac_number(source) == f->gateway_mac)
        return PAL_REASON_SPOOF_MAC;
    if (PAL_UNLIKELY(ethertype_is_tag(load_be16(p->data + 12))))
        return PAL_REASON_VLAN_GUEST;
    if (PAL_UNLIKELY(p->reason))
        return PAL_REASON_MATCH;
    if (PAL_UNLIKELY(!p->family))
        return guarded && packet_is_arp(p) ? spoof_arp(f, vnic, p) : PAL_REASON_MATCH;
    if (PAL_UNLIKELY(spoof_is_odd(p)))
        return PAL_REASON_BAD_ADDRESS;
    if (guarded) {
        uint8_t r = spoof_ip(f, vnic, p);
        if (PAL_UNLIKELY(r))
            return r;
    }
    if (PAL_LIKELY(p->proto == PROTO_TCP))
        return PAL_REASON_MATCH;
    if ((v->guards & PAL_GUARD_DHCP) && spoof_is_dhcp_answer(p))
        return PAL_REASON_DHCP_GUARD;
    if ((v->guards & PAL_GUARD_RA) && spoof_is_router(p))
        return PAL_REASON_RA_GUARD;
    return PAL_REASON_MATCH;
}

#endif
