/* SPDX-License-Identifier: Apache-2.0
 *
 * tunnel.h - opening Geneve (RFC 8926) and VXLAN (RFC 7348) once, for captures taken inside an underlay.
 */
#ifndef PAL_CORE_TUNNEL_H
#define PAL_CORE_TUNNEL_H

#include "vxlan.h"

/* Replaces the outer packet by the inner one, in place; p->reason says what came of it. */
static inline void tunnel_open(pal_packet *p, const parse_options *o)
{
    if (p->dport != GENEVE_PORT && p->dport != VXLAN_PORT)
        return;
    const uint8_t *h = p->data + p->l4 + 8;
    uint32_t there = min_u32(p->cap - p->l4, p->l4_len) - 8, inner = p->l4 + 8;
    uint32_t type = ETHERTYPE_TEB;
    p->reason = PAL_REASON_TUNNEL_MALFORMED;
    if (there < 8)
        return;
    uint32_t vni = load_be32(h + 4) >> 8;
    if (p->dport == GENEVE_PORT) {
        geneve_header g;
        if (!geneve_read(h, min_u32(there, p->payload_len), &g))
            return;
        type = g.protocol;
        if (type != ETHERTYPE_TEB && type != ETHERTYPE_IP4 && type != ETHERTYPE_IP6)
            return;
        inner += g.len;
    } else {
        geneve_header g;
        if (!vxlan_read(h, p->payload_len, &g))
            return;
        inner += g.len;
    }
    pal_packet q = *p;
    q.data = p->data + inner;
    q.cap = p->cap > inner ? p->cap - inner : 0;
    q.wire = p->l4 + 8 + p->payload_len - inner;
    q.cap = min_u32(q.cap, q.wire);
    q.family = q.proto = q.tcp_flags = q.marks = q.ip_sum = q.l4_sum = q.l4_hdr = 0;
    q.sport = q.dport = q.window = 0;
    q.l3 = q.l4 = q.ip_len = q.l4_len = q.payload_len = q.seq = q.ack = q.wire_bytes = 0;
    q.vrf = 1 + vni;
    q.l2_len = type == ETHERTYPE_TEB ? 0 : L2_BARE;
    q.odd = ODD_DOMAIN;
    enum link_payload link = LINK_OTHER;
    if (type == ETHERTYPE_TEB)
        q.reason = parse_ethernet(&q, 0, &link);
    else
        q.reason = parse_ethertype(&q, type, &link);
    if (q.reason == PAL_REASON_MATCH) {
        if (link == LINK_OTHER)
            q.marks |= MARK_NON_IP;
        else
            q.reason = parse_network(&q, link, o);
    }
    *p = q;
}

#endif
