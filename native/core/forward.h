/* SPDX-License-Identifier: Apache-2.0
 *
 * forward.h - where a frame goes: a pure look-up in the fabric, made before the firewall judges, so that it knows both filters.
 *
 *     forward_look_up          a frame on a segment
 *         forward_group          for many: ARP and neighbour discovery are answered here, else copies for all
 *         forward_routed         for a gateway: its own addresses, else the longest prefix          (fabric_route_find)
 *         forward_to             somebody's MAC address is known: a vNIC here, or another host
 */
#ifndef PAL_CORE_FORWARD_H
#define PAL_CORE_FORWARD_H

#include "geneve.h"
#include "icmp_build.h"
#include "learn.h"
#include "spoof.h"

enum forward_kind {
    FORWARD_REFUSE, /* by `reason`; `error`, unless ICMP_NONE, is told to the sender */
    FORWARD_VNIC,   /* to `vnic`, here */
    FORWARD_TEP,    /* to `tep`, in segment `to` */
    FORWARD_MANY,   /* to every other vNIC of segment `to`, and, from a vNIC, to its TEPs */
    FORWARD_ANSWER, /* consumed, and answered by `answer` */
};

enum forward_answer { ANSWER_NOTHING, ANSWER_ARP, ANSWER_ND, ANSWER_PING };

typedef struct forward_plan {
    uint8_t kind, reason, error, answer; /* the enums above, PAL_REASON_*, icmp_error_kind */
    uint8_t routed;                      /* MAC addresses and TTL change on the way */
    uint8_t router;                      /* ANSWER_ND: the gateway answers */
    uint8_t onward;                      /* from another host to another host: GENEVE_ONWARD */
    uint8_t reserved;
    uint8_t mac[6];                      /* routed: the destination's; ANSWER_ARP, ANSWER_ND: that of who is asked for */
    uint16_t mtu;                        /* ICMP_TOO_BIG */
    uint32_t from, to;                   /* segments */
    uint32_t vnic, tep;
} forward_plan;

_Static_assert(sizeof(forward_plan) == 32, "two a line");

/* What forwarding asks of a frame besides its headers. */
typedef struct forward_case {
    const fabric *f;
    const pal_packet *p;
    uint32_t segment;
    uint32_t vnic;      /* of the sender; PAL_UPLINK: it came from another host */
    uint32_t gso_size;  /* 0: no super-packet */
    uint32_t tep;       /* PAL_UPLINK: from which */
    uint8_t marks;      /* PAL_UPLINK: GENEVE_* */
    learn_slot *learned; /* NULL: nothing is */
    uint64_t tick;
} forward_case;

PAL_INLINE void forward_refuse(forward_plan *plan, uint8_t reason, enum icmp_error_kind error)
{
    plan->kind = FORWARD_REFUSE;
    plan->reason = reason;
    plan->error = (uint8_t)error;
}

static inline void forward_answer(forward_plan *plan, enum forward_answer answer, const uint8_t mac[6], bool router)
{
    plan->kind = FORWARD_ANSWER;
    plan->answer = (uint8_t)answer;
    plan->router = router;
    if (mac)
        memcpy(plan->mac, mac, 6);
}

/* Bytes of the longest wire packet that it stands for, from the IP header on. */
PAL_INLINE uint32_t forward_bytes(const forward_case *c)
{
    const pal_packet *p = c->p;
    if (PAL_UNLIKELY(c->gso_size))
        return p->l4 + p->l4_hdr - p->l3 + c->gso_size;
    return PAL_LIKELY(p->family) ? p->ip_len : p->cap - min_u32(p->cap, 14);
}

/* A frame that is too long is refused, with DF set or not: the sender is told in both cases (docs/decisions). */
PAL_INLINE void forward_fit(const forward_case *c, forward_plan *plan, uint32_t limit)
{
    if (PAL_LIKELY(forward_bytes(c) <= limit) || limit == 0)
        return;
    forward_refuse(plan, PAL_REASON_MTU, ICMP_TOO_BIG);
    plan->mtu = (uint16_t)min_u32(limit, 65535);
}

/* To who is at a vNIC here or behind a TEP. */
PAL_INLINE void forward_to(const forward_case *c, forward_plan *plan, uint32_t vnic, uint32_t tep)
{
    if (PAL_LIKELY(vnic != PAL_UPLINK)) {
        plan->kind = FORWARD_VNIC;
        plan->vnic = vnic;
        forward_fit(c, plan, c->f->vnic[vnic].mtu);
        return;
    }
    plan->kind = FORWARD_TEP;
    plan->tep = tep;
    if (PAL_UNLIKELY(c->vnic == PAL_UPLINK)) {
        /* Not at this host any more: sent on once, and never back. */
        if (!plan->routed && ((c->marks & (GENEVE_ONWARD | GENEVE_REPLICATE)) || tep == c->tep)) {
            forward_refuse(plan, PAL_REASON_NOT_HERE, ICMP_NONE);
            return;
        }
        plan->onward = !plan->routed;
    }
    forward_fit(c, plan, fabric_mtu(c->f, tep) - (plan->onward ? GENEVE_OURS_BYTES : 0));
}

/* ---- for many -------------------------------------------------------------------------------------------------- */

/* Somebody on the segment asks for an address: who answers? False: nobody here does. */
static inline bool forward_asked(const forward_case *c, forward_plan *plan, enum forward_answer answer, const uint8_t *addr, uint32_t family)
{
    if (fabric_find(c->f, FABRIC_INTERFACE, c->segment, addr, family) != PAL_NO_INDEX) {
        forward_answer(plan, answer, c->f->gateway_mac_bytes, true);
        return true;
    }
    if (c->vnic == PAL_UPLINK) /* its own host would have answered if we were to */
        return false;
    const pal_neighbour *n = fabric_neighbour(c->f, c->segment, addr, family);
    if (!n || n->vnic == c->vnic || memcmp(n->mac, c->p->data + 6, 6) == 0)
        return false;
    forward_answer(plan, answer, n->mac, false);
    return true;
}

PAL_INLINE bool forward_is_solicitation(const pal_packet *p) { return icmp6_type(p) == ND_SOLICIT && nd_is_sound(p); }

PAL_OUTLINE void forward_group(const forward_case *c, forward_plan *plan)
{
    static const uint8_t bridges[5] = {0x01, 0x80, 0xc2, 0, 0};
    const pal_packet *p = c->p;
    const fabric_segment *s = &c->f->segment[c->segment];
    if (memcmp(p->data, bridges, 5) == 0 && p->data[5] < 16) { /* IEEE 802.1Q table 8-1: never forwarded */
        forward_refuse(plan, PAL_REASON_LINK_LOCAL, ICMP_NONE);
        return;
    }
    if (packet_is_arp(p) && arp_operation(arp_of(p)) == ARP_REQUEST) {
        if (forward_asked(c, plan, ANSWER_ARP, arp_target(arp_of(p)), PAL_FAMILY_V4))
            return;
    } else if (forward_is_solicitation(p)) {
        if (forward_asked(c, plan, ANSWER_ND, nd_target(p), PAL_FAMILY_V6))
            return;
    }
    const bool out = c->vnic != PAL_UPLINK;
    if (s->vnic_n == (out ? 1u : 0u) && (!out || s->tep_n == 0)) {
        forward_refuse(plan, PAL_REASON_NO_RECEIVER, ICMP_NONE);
        return;
    }
    plan->kind = FORWARD_MANY;
}

/* ---- for a gateway --------------------------------------------------------------------------------------------- */

/* For an address of the gateway's own. */
static inline void forward_own(const forward_case *c, forward_plan *plan)
{
    const pal_packet *p = c->p;
    const uint32_t type = icmp6_type(p);
    if (icmp_is_ping(p))
        forward_answer(plan, ANSWER_PING, NULL, false);
    else if (type == ND_SOLICIT && nd_is_sound(p) && fabric_find(c->f, FABRIC_INTERFACE, c->segment, nd_target(p), PAL_FAMILY_V6) != PAL_NO_INDEX)
        forward_answer(plan, ANSWER_ND, c->f->gateway_mac_bytes, true);
    else if (type == ND_ADVERTISE)
        forward_answer(plan, ANSWER_NOTHING, NULL, false);
    else
        forward_refuse(plan, PAL_REASON_GATEWAY, p->proto == PROTO_UDP && !(p->marks & MARK_FRAGMENT) ? ICMP_NO_PORT : ICMP_NONE);
}

/* Only on its own link: routers forward neither (RFC 4291 section 2.5.6, RFC 3927 section 2.7). */
static inline bool addr_is_link_local(const uint8_t *a, uint32_t family)
{
    return family == PAL_FAMILY_V4 ? a[0] == 169 && a[1] == 254 : a[0] == 0xfe && (a[1] & 0xc0) == 0x80;
}

static inline void forward_unreachable(const forward_case *c, forward_plan *plan, uint8_t reason, enum icmp_error_kind error)
{
    if (fabric_find(c->f, FABRIC_TEP, 0, packet_dst(c->p), c->p->family) != PAL_NO_INDEX)
        reason = PAL_REASON_UNDERLAY;
    forward_refuse(plan, reason, error);
}

PAL_INLINE void forward_next_hop(const forward_case *c, forward_plan *plan, uint32_t segment, const uint8_t *addr)
{
    const pal_neighbour *n = fabric_neighbour(c->f, segment, addr, c->p->family);
    if (PAL_UNLIKELY(!n)) {
        forward_unreachable(c, plan, PAL_REASON_NO_NEIGHBOUR, ICMP_NO_HOST);
        return;
    }
    plan->routed = 1;
    plan->to = segment;
    memcpy(plan->mac, n->mac, 6);
    forward_to(c, plan, n->vnic, n->tep);
}

static inline void forward_routed(const forward_case *c, forward_plan *plan)
{
    const fabric *f = c->f;
    const pal_packet *p = c->p;
    uint32_t gateway = f->segment[c->segment].gateway;
    if (PAL_UNLIKELY(packet_is_arp(p)) && gateway != PAL_NO_INDEX) {
        const uint8_t *a = arp_of(p);
        if (arp_operation(a) == ARP_REQUEST && fabric_find(f, FABRIC_INTERFACE, c->segment, arp_target(a), PAL_FAMILY_V4) != PAL_NO_INDEX)
            forward_answer(plan, ANSWER_ARP, f->gateway_mac_bytes, true);
        else
            forward_answer(plan, ANSWER_NOTHING, NULL, false);
        return;
    }
    if (PAL_UNLIKELY(gateway == PAL_NO_INDEX) || PAL_UNLIKELY(!p->family)) {
        forward_refuse(plan, PAL_REASON_NO_GATEWAY, ICMP_NONE);
        return;
    }
    const uint8_t *dst = packet_dst(p);
    const uint8_t hops = p->data[p->l3 + (p->family == PAL_FAMILY_V4 ? 8 : 7)];
    for (uint32_t passed = 0; passed <= FABRIC_GATEWAYS_MAX; passed++) {
        if (fabric_find(f, FABRIC_GATEWAY, gateway, dst, p->family) != PAL_NO_INDEX) {
            forward_own(c, plan);
            return;
        }
        if (passed == 0) {
            if (PAL_UNLIKELY(addr_is_group(dst, p->family)) || PAL_UNLIKELY(addr_is_link_local(dst, p->family)) ||
                PAL_UNLIKELY(addr_is_link_local(packet_src(p), p->family)) || PAL_UNLIKELY(addr_is_zero(packet_src(p), p->family))) {
                forward_refuse(plan, PAL_REASON_NO_ROUTE, ICMP_NONE);
                return;
            }
            if (PAL_UNLIKELY(hops <= 1)) {
                forward_refuse(plan, PAL_REASON_HOP_LIMIT, ICMP_TIME);
                return;
            }
        }
        const uint32_t i = fabric_route_find(f, gateway, dst, p->family);
        if (PAL_UNLIKELY(i == PAL_NO_INDEX)) {
            forward_unreachable(c, plan, PAL_REASON_NO_ROUTE, ICMP_NO_ROUTE);
            return;
        }
        const pal_fabric_route *r = &f->route[i];
        switch (r->kind) {
        case PAL_ROUTE_CONNECTED:
            forward_next_hop(c, plan, r->target, dst);
            return;
        case PAL_ROUTE_VIA:
            forward_next_hop(c, plan, r->target, r->next_hop);
            return;
        case PAL_ROUTE_GATEWAY:
            gateway = r->target;
            break;
        default:
            forward_refuse(plan, PAL_REASON_BLACKHOLE, ICMP_NO_HOST);
            return;
        }
    }
    forward_refuse(plan, PAL_REASON_ROUTE_LOOP, ICMP_NO_ROUTE);
}

/* ---- a frame ----------------------------------------------------------------------------------------------------- */

/* What the parser refused is refused, and counted, by a filter where there is one: the sender's, or that of the vNIC here which
 * has the MAC address. */
PAL_OUTLINE void forward_refused(const forward_case *c, forward_plan *plan)
{
    const fabric_mac *m = c->p->cap >= 12 ? fabric_mac_find(c->f, c->segment, mac_number(c->p->data)) : NULL;
    plan->reason = c->p->reason;
    if (!m || m->vnic == PAL_UPLINK || m->vnic == c->vnic)
        return;
    plan->kind = FORWARD_VNIC;
    plan->vnic = m->vnic;
}

/* A MAC address that the fabric does not have. */
PAL_OUTLINE void forward_unknown(const forward_case *c, forward_plan *plan, uint64_t mac)
{
    if (mac == 0) {
        forward_refuse(plan, PAL_REASON_LINK_LOCAL, ICMP_NONE);
        return;
    }
    const uint32_t tep = c->learned && c->f->segment[c->segment].learn ? learn_find(c->learned, c->f, c->segment, mac, c->tick) : PAL_NO_INDEX;
    if (tep == PAL_NO_INDEX)
        forward_group(c, plan);
    else
        forward_to(c, plan, PAL_UPLINK, tep);
}

PAL_INLINE void forward_look_up(const forward_case *c, forward_plan *plan)
{
    const fabric *f = c->f;
    const pal_packet *p = c->p;
    *plan = (forward_plan){.from = c->segment, .to = c->segment, .vnic = PAL_NO_INDEX, .tep = PAL_NO_INDEX, .reason = PAL_REASON_NO_RECEIVER};
    if (PAL_UNLIKELY(p->reason) || PAL_UNLIKELY(p->cap < 14)) {
        forward_refused(c, plan);
        return;
    }
    if (PAL_UNLIKELY(p->data[0] & 1)) {
        forward_group(c, plan);
        return;
    }
    const uint64_t mac = mac_number(p->data);
    if (mac == f->gateway_mac) {
        forward_routed(c, plan);
        return;
    }
    const fabric_mac *m = fabric_mac_find(f, c->segment, mac);
    if (PAL_LIKELY(m != NULL)) {
        if (PAL_UNLIKELY(m->vnic == c->vnic) && m->vnic != PAL_UPLINK)
            forward_refuse(plan, PAL_REASON_OWN_MAC, ICMP_NONE);
        else
            forward_to(c, plan, m->vnic, m->tep);
        return;
    }
    forward_unknown(c, plan, mac);
}

/* forward_look_up's answer for a plain packet (packet_is_plain4) from another host to a vNIC here, not routed, that fits, on a segment
 * that does not learn. False: it is to be asked. */
PAL_INLINE bool forward_plain4(const fabric *f, uint32_t segment, const pal_packet *p, forward_plan *plan)
{
    const uint64_t mac = mac_number(p->data);
    if (PAL_UNLIKELY(p->data[0] & 1) || PAL_UNLIKELY(mac == f->gateway_mac) || PAL_UNLIKELY(f->segment[segment].learn))
        return false;
    const fabric_mac *m = fabric_mac_find(f, segment, mac);
    if (PAL_UNLIKELY(!m) || PAL_UNLIKELY(m->vnic == PAL_UPLINK))
        return false;
    const uint32_t limit = f->vnic[m->vnic].mtu;
    if (PAL_UNLIKELY(limit && p->ip_len > limit))
        return false;
    *plan = (forward_plan){.kind = FORWARD_VNIC, .from = segment, .to = segment, .vnic = m->vnic, .tep = PAL_NO_INDEX, .reason = PAL_REASON_NO_RECEIVER};
    return true;
}

/* Is it dealt with alone? Its execution says something to somebody, or makes copies. */
PAL_INLINE bool forward_is_special(const forward_plan *plan)
{
    return plan->kind >= FORWARD_MANY || (plan->kind == FORWARD_REFUSE && plan->error);
}

#endif
