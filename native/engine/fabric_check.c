/* SPDX-License-Identifier: Apache-2.0
 *
 * fabric_check.c - a fabric's numbers, before anything is made of them. The first that does not fit is said.
 */
#include "fabric_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define FABRIC_UNDERLAY_LEAST 576u
#define FABRIC_GATEWAYS 65536u

bool fabric_bad(fabric_error *e, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(e->text, e->len, format, arguments);
    va_end(arguments);
    return false;
}

static bool mac_is_sound(const uint8_t mac[6]) { return !(mac[0] & 1) && mac_number(mac) != 0; }

static bool addr_is_sound(const uint8_t addr[16], uint32_t family)
{
    static const uint8_t zero[12];
    return (family == PAL_FAMILY_V4 && memcmp(addr + 4, zero, 12) == 0) || family == PAL_FAMILY_V6;
}

/* segment_of: by filter number, PAL_NO_INDEX where there is no vNIC; filled in here. */
static bool check_vnics(const pal_fabric *x, uint32_t filters, uint32_t *segment_of, fabric_error *err)
{
    for (uint32_t i = 0; i < x->vnics; i++) {
        const pal_vnic *v = &x->vnic[i];
        if (v->filter >= filters)
            return fabric_bad(err, "vNIC %u: there is no filter %u", i, v->filter);
        if (segment_of[v->filter] != PAL_NO_INDEX)
            return fabric_bad(err, "vNIC %u: filter %u is another vNIC's too", i, v->filter);
        if (v->segment >= x->segments)
            return fabric_bad(err, "vNIC %u: there is no segment %u", i, v->segment);
        segment_of[v->filter] = v->segment;
        if (v->addr_off > x->addresses || v->addr_n > x->addresses - v->addr_off)
            return fabric_bad(err, "vNIC %u: its addresses go beyond those given", i);
        if (!mac_is_sound(v->mac) || mac_number(v->mac) == mac_number(x->gateway_mac))
            return fabric_bad(err, "vNIC %u: its MAC address is a group's, zero, or the gateways'", i);
        if (v->guards & ~(uint32_t)(PAL_GUARD_SPOOF | PAL_GUARD_DHCP | PAL_GUARD_RA))
            return fabric_bad(err, "vNIC %u: unknown guards", i);
    }
    for (uint32_t i = 0; i < x->addresses; i++)
        if (!addr_is_sound(x->address[i].addr, x->address[i].family))
            return fabric_bad(err, "address %u: of no family, or IPv4 with more than four bytes", i);
    return true;
}

static bool check_segments(const pal_fabric *x, fabric_error *err)
{
    uint64_t replicas = 0;
    for (uint32_t i = 0; i < x->segments; i++) {
        const pal_segment *s = &x->segment[i];
        if (s->vni >= 1u << 24)
            return fabric_bad(err, "segment %u: VNI %u does not fit into 24 bits", i, s->vni);
        if (s->gateway != PAL_NO_INDEX && s->gateway >= x->gateways)
            return fabric_bad(err, "segment %u: there is no gateway %u", i, s->gateway);
        if (s->tep_off > x->replicas || s->tep_n > x->replicas - s->tep_off)
            return fabric_bad(err, "segment %u: its TEPs go beyond those given", i);
        replicas += s->tep_n;
    }
    if (replicas > 1u << 24)
        return fabric_bad(err, "more TEPs of all segments than there can be");
    for (uint32_t i = 0; i < x->replicas; i++)
        if (x->replica[i] >= x->teps)
            return fabric_bad(err, "replica %u: there is no TEP %u", i, x->replica[i]);
    for (uint32_t i = 0; i < x->teps; i++)
        if (!addr_is_sound(x->tep[i].addr, x->tep[i].family))
            return fabric_bad(err, "TEP %u: of no family, or IPv4 with more than four bytes", i);
    return true;
}

static bool check_neighbours(const pal_fabric *x, uint32_t filters, const uint32_t *segment_of, fabric_error *err)
{
    for (uint32_t i = 0; i < x->neighbours; i++) {
        const pal_neighbour *n = &x->neighbour[i];
        if (n->segment >= x->segments)
            return fabric_bad(err, "neighbour %u: there is no segment %u", i, n->segment);
        if (n->family != 0 && !addr_is_sound(n->addr, n->family))
            return fabric_bad(err, "neighbour %u: address of an unknown family, or IPv4 with more than four bytes", i);
        if (!mac_is_sound(n->mac) || mac_number(n->mac) == mac_number(x->gateway_mac))
            return fabric_bad(err, "neighbour %u: its MAC address is a group's, zero, or the gateways'", i);
        if (n->vnic == PAL_UPLINK) {
            if (n->tep >= x->teps)
                return fabric_bad(err, "neighbour %u: there is no TEP %u", i, n->tep);
            continue;
        }
        if (n->vnic >= filters || segment_of[n->vnic] != n->segment)
            return fabric_bad(err, "neighbour %u: vNIC %u is not on segment %u", i, n->vnic, n->segment);
    }
    return true;
}

static bool check_gateways(const pal_fabric *x, fabric_error *err)
{
    for (uint32_t i = 0; i < x->interfaces; i++) {
        const pal_interface *f = &x->interface[i];
        if (f->gateway >= x->gateways || f->segment >= x->segments)
            return fabric_bad(err, "interface %u: there is no gateway %u or no segment %u", i, f->gateway, f->segment);
        if (x->segment[f->segment].gateway != f->gateway)
            return fabric_bad(err, "interface %u: gateway %u does not route for segment %u", i, f->gateway, f->segment);
        if (!addr_is_sound(f->addr, f->family))
            return fabric_bad(err, "interface %u: of no family, or IPv4 with more than four bytes", i);
    }
    for (uint32_t i = 0; i < x->routes; i++) {
        const pal_fabric_route *r = &x->route[i];
        if (r->gateway >= x->gateways)
            return fabric_bad(err, "route %u: there is no gateway %u", i, r->gateway);
        if (!addr_is_sound(r->addr, r->family) || r->length > (r->family == PAL_FAMILY_V4 ? 32u : 128u))
            return fabric_bad(err, "route %u: prefix of no family, or too long", i);
        if (r->kind > PAL_ROUTE_BLACKHOLE)
            return fabric_bad(err, "route %u: unknown kind %u", i, r->kind);
        if ((r->kind == PAL_ROUTE_CONNECTED || r->kind == PAL_ROUTE_VIA) && r->target >= x->segments)
            return fabric_bad(err, "route %u: there is no segment %u", i, r->target);
        if (r->kind == PAL_ROUTE_GATEWAY && r->target >= x->gateways)
            return fabric_bad(err, "route %u: there is no gateway %u", i, r->target);
        if (r->kind == PAL_ROUTE_VIA && !addr_is_sound(r->next_hop, r->family))
            return fabric_bad(err, "route %u: next hop of another family", i);
    }
    return true;
}

bool fabric_check(const pal_fabric *x, uint32_t filters, fabric_error *err)
{
    if (x->underlay_mtu < FABRIC_UNDERLAY_LEAST || x->underlay_mtu > 65535)
        return fabric_bad(err, "the underlay's MTU must be %u to 65535, not %u", FABRIC_UNDERLAY_LEAST, x->underlay_mtu);
    if (x->gateways > FABRIC_GATEWAYS || x->segments > 1u << 20 || x->teps > 1u << 20 || x->neighbours > 1u << 24 || x->vnics > filters ||
        x->routes > 1u << 22 || x->interfaces > 1u << 20 || x->addresses > 1u << 24 || x->replicas > 1u << 24)
        return fabric_bad(err, "more of something than there can be");
    if (x->gateways && !mac_is_sound(x->gateway_mac))
        return fabric_bad(err, "the gateways' MAC address is a group's, or zero");
    uint32_t *segment_of = malloc((size_t)filters * sizeof *segment_of);
    if (!segment_of)
        return fabric_bad(err, "no memory for a fabric");
    memset(segment_of, 0xff, (size_t)filters * sizeof *segment_of);
    const bool good = check_segments(x, err) && check_vnics(x, filters, segment_of, err) &&
                      check_neighbours(x, filters, segment_of, err) && check_gateways(x, err);
    free(segment_of);
    return good;
}
