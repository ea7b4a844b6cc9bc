/* SPDX-License-Identifier: Apache-2.0
 *
 * fabric.c - the fabric as Python gives it, copied and looked over (fabric_check.c), its tables built.
 */
#include "fabric_internal.h"

#include <stdlib.h>

/* ---- life ---------------------------------------------------------------------------------------------------- */

void fabric_hold(const fabric *f)
{
    if (f)
        ((fabric *)(uintptr_t)f)->holds++;
}

static void fabric_free(fabric *f)
{
    if (!f)
        return;
    void *part[] = {f->vnic, f->segment, f->mac, f->slot, f->neighbour, f->interface, f->route, f->tep, f->address, f->replica, f->member,
                    f->range, f->table};
    for (size_t i = 0; i < sizeof part / sizeof part[0]; i++)
        free(part[i]);
    free(f);
}

void fabric_drop(const fabric *f)
{
    fabric *own = (fabric *)(uintptr_t)f;
    if (own && --own->holds == 0)
        fabric_free(own);
}

/* A copy of n items; NULL only without memory. */
static void *fabric_copy(const void *from, size_t n, size_t size)
{
    void *to = calloc(n + 1, size);
    if (to && n)
        memcpy(to, from, n * size);
    return to;
}

static uint32_t fabric_slots_for(uint64_t n)
{
    uint32_t slots = 16;
    while (slots < 2 * n + 2)
        slots *= 2;
    return slots;
}

/* ---- segments and vNICs ---------------------------------------------------------------------------------------- */

static bool fabric_vnics(fabric *f, const pal_fabric *from)
{
    f->vnic = calloc(f->filters, sizeof *f->vnic);
    f->member = calloc(from->vnics + 1, sizeof *f->member);
    if (!f->vnic || !f->member)
        return false;
    for (uint32_t i = 0; i < f->filters; i++)
        f->vnic[i].segment = PAL_NO_INDEX;
    for (uint32_t i = 0; i < from->vnics; i++) {
        const pal_vnic *v = &from->vnic[i];
        fabric_vnic *own = &f->vnic[v->filter];
        *own = (fabric_vnic){.segment = v->segment, .guards = v->guards, .addr_off = v->addr_off, .addr_n = v->addr_n, .mtu = v->mtu};
        memcpy(own->mac, v->mac, 6);
        for (uint32_t a = v->addr_n; a-- > 0;)
            if (from->address[v->addr_off + a].family == PAL_FAMILY_V4)
                own->addr4 = load_u32(from->address[v->addr_off + a].addr);
    }
    return true;
}

static bool fabric_segments(fabric *f, const pal_fabric *from)
{
    size_t replicas = 0; /* segments may share rows */
    for (uint32_t i = 0; i < f->segments; i++)
        replicas += from->segment[i].tep_n;
    f->segment = calloc(f->segments + 1, sizeof *f->segment);
    f->replica = calloc(replicas + 1, sizeof *f->replica);
    if (!f->segment || !f->replica)
        return false;
    uint32_t member = 0, replica = 0;
    for (uint32_t i = 0; i < f->segments; i++) {
        const pal_segment *s = &from->segment[i];
        f->segment[i] = (fabric_segment){.vni = s->vni, .gateway = s->gateway, .tep_off = replica, .vnic_off = member, .learn = s->learn,
                                         .own = {PAL_NO_INDEX, PAL_NO_INDEX}};
        for (uint32_t k = 0; k < s->tep_n; k++)
            if (!from->tep[from->replica[s->tep_off + k]].dead)
                f->replica[replica++] = from->replica[s->tep_off + k];
        f->segment[i].tep_n = replica - f->segment[i].tep_off;
        for (uint32_t v = 0; v < f->filters; v++)
            if (f->vnic[v].segment == i)
                f->member[member++] = v;
        f->segment[i].vnic_n = member - f->segment[i].vnic_off;
    }
    return true;
}

/* ---- MAC addresses and addresses --------------------------------------------------------------------------------- */

/* What is there already, or NULL and it has been put there. */
static const fabric_mac *fabric_mac_put(fabric *f, uint32_t segment, const uint8_t mac[6], uint32_t vnic, uint32_t tep)
{
    const uint64_t number = mac_number(mac);
    for (uint64_t at = fabric_mac_hash(f, segment, number);; at++) {
        fabric_mac *m = &f->mac[at & f->mac_mask];
        if (m->mac == number && m->segment == segment)
            return m;
        if (m->mac == FABRIC_NO_MAC) {
            *m = (fabric_mac){.mac = number, .segment = segment, .vnic = vnic, .tep = tep};
            return NULL;
        }
    }
}

uint32_t fabric_slot_put(fabric *f, uint32_t word, uint32_t where, const uint8_t addr[16], uint32_t family, uint32_t value)
{
    fabric_slot *s = fabric_slot_at(f, word, where, addr, family);
    if (s->used)
        return s->value;
    *s = (fabric_slot){.where = where, .word = (uint8_t)word, .family = (uint8_t)family, .used = 1, .value = value};
    memcpy(s->addr, addr, 16);
    return PAL_NO_INDEX;
}

/* A neighbour's MAC address and address; false: someone else has one of them, which `err` says. The same row twice is one. */
static bool fabric_neighbour_put(fabric *f, uint32_t i, fabric_error *err, const char *what, uint32_t number)
{
    const pal_neighbour *n = &f->neighbour[i];
    const uint32_t tep = n->vnic == PAL_UPLINK ? n->tep : PAL_NO_INDEX;
    const fabric_mac *m = fabric_mac_put(f, n->segment, n->mac, n->vnic, tep);
    if (m && (m->vnic != n->vnic || m->tep != tep))
        return fabric_bad(err, "%s %u: its MAC address is in two places on segment %u", what, number, n->segment);
    if (n->family == 0)
        return true;
    const uint32_t other = fabric_slot_put(f, FABRIC_NEIGHBOUR, n->segment, n->addr, n->family, i);
    if (other != PAL_NO_INDEX && memcmp(f->neighbour[other].mac, n->mac, 6) != 0)
        return fabric_bad(err, "%s %u: its address is that of another one on segment %u", what, number, n->segment);
    return true;
}

/* Neighbours as given, and the vNICs here, whether they are given as such or not. */
static bool fabric_neighbours(fabric *f, const pal_fabric *from, fabric_error *err)
{
    uint64_t rows = (uint64_t)from->neighbours + from->vnics, bound = 0;
    for (uint32_t i = 0; i < from->vnics; i++)
        bound += from->vnic[i].addr_n;
    rows += bound;
    const uint32_t macs = fabric_slots_for(rows);
    const uint32_t slots = fabric_slots_for(rows + bound + 2ull * from->interfaces + from->teps + from->segments);
    f->neighbour = calloc(rows + 1, sizeof *f->neighbour);
    f->mac = aligned_alloc(PAL_CACHE_LINE, macs * sizeof *f->mac);
    f->slot = aligned_alloc(PAL_CACHE_LINE, slots * sizeof *f->slot);
    if (!f->neighbour || !f->mac || !f->slot)
        return fabric_bad(err, "no memory for a fabric");
    memset(f->mac, 0xff, macs * sizeof *f->mac);
    memset(f->slot, 0, slots * sizeof *f->slot);
    f->mac_mask = macs - 1;
    f->slot_mask = slots - 1;
    uint32_t n = from->neighbours;
    if (n)
        memcpy(f->neighbour, from->neighbour, n * sizeof *f->neighbour);
    for (uint32_t i = 0; i < from->neighbours; i++)
        if (!fabric_neighbour_put(f, i, err, "neighbour", i))
            return false;
    for (uint32_t i = 0; i < from->vnics; i++) {
        const pal_vnic *v = &from->vnic[i];
        for (uint32_t a = 0; a <= v->addr_n; a++, n++) { /* the last one: its MAC address alone */
            pal_neighbour *own = &f->neighbour[n];
            *own = (pal_neighbour){.segment = v->segment, .vnic = v->filter, .tep = PAL_NO_INDEX};
            memcpy(own->mac, v->mac, 6);
            if (a < v->addr_n) {
                memcpy(own->addr, from->address[v->addr_off + a].addr, 16);
                own->family = from->address[v->addr_off + a].family;
                if (fabric_slot_put(f, FABRIC_BOUND, v->filter, own->addr, own->family, 0) != PAL_NO_INDEX)
                    return fabric_bad(err, "vNIC %u: an address is given twice", v->filter);
            }
            if (!fabric_neighbour_put(f, n, err, "vNIC", v->filter))
                return false;
        }
    }
    return true;
}

static bool fabric_addresses(fabric *f, const pal_fabric *from, fabric_error *err)
{
    static const uint8_t none[16];
    for (uint32_t i = 0; i < from->segments; i++)
        if (fabric_slot_put(f, FABRIC_VNI, from->segment[i].vni, none, 0, i) != PAL_NO_INDEX)
            return fabric_bad(err, "segment %u: VNI %u is another segment's too", i, from->segment[i].vni);
    for (uint32_t i = 0; i < from->teps; i++)
        if (fabric_slot_put(f, FABRIC_TEP, 0, from->tep[i].addr, from->tep[i].family, i) != PAL_NO_INDEX)
            return fabric_bad(err, "TEP %u: its address is another TEP's too", i);
    for (uint32_t i = 0; i < from->interfaces; i++) {
        const pal_interface *x = &from->interface[i];
        uint32_t *own = &f->segment[x->segment].own[x->family == PAL_FAMILY_V6];
        if (fabric_slot_put(f, FABRIC_INTERFACE, x->segment, x->addr, x->family, i) != PAL_NO_INDEX)
            return fabric_bad(err, "interface %u: its address is given twice on segment %u", i, x->segment);
        if (fabric_find(f, FABRIC_NEIGHBOUR, x->segment, x->addr, x->family) != PAL_NO_INDEX)
            return fabric_bad(err, "interface %u: its address is a neighbour's on segment %u", i, x->segment);
        /* A link-local address may be the same on all of a gateway's segments. */
        (void)fabric_slot_put(f, FABRIC_GATEWAY, x->gateway, x->addr, x->family, i);
        if (*own == PAL_NO_INDEX || f->interface[*own].addr[0] == 0xfe)
            *own = i;
    }
    return true;
}

/* ---- all of it ------------------------------------------------------------------------------------------------- */

static bool fabric_build(fabric *f, const pal_fabric *from, fabric_error *err)
{
    f->interface = fabric_copy(from->interface, from->interfaces, sizeof *f->interface);
    f->route = fabric_copy(from->route, from->routes, sizeof *f->route);
    f->tep = fabric_copy(from->tep, from->teps, sizeof *f->tep);
    f->address = fabric_copy(from->address, from->addresses, sizeof *f->address);
    if (!f->interface || !f->route || !f->tep || !f->address || !fabric_vnics(f, from) || !fabric_segments(f, from))
        return fabric_bad(err, "no memory for a fabric");
    return fabric_neighbours(f, from, err) && fabric_addresses(f, from, err) && fabric_routes(f, from, err);
}

fabric *fabric_new(const pal_fabric *from, uint32_t filters, const uint64_t seed[HASH_KEY_WORDS], char *err, size_t errlen)
{
    fabric_error e = {.text = err, .len = errlen};
    if (!fabric_check(from, filters, &e))
        return NULL;
    fabric *f = calloc(1, sizeof *f);
    if (!f) {
        (void)fabric_bad(&e, "no memory for a fabric");
        return NULL;
    }
    f->holds = 1;
    f->filters = filters;
    f->segments = from->segments;
    f->teps = from->teps;
    f->gateways = from->gateways;
    f->underlay_mtu = from->underlay_mtu;
    memcpy(f->gateway_mac_bytes, from->gateway_mac, 6);
    f->gateway_mac = mac_number(from->gateway_mac);
    memcpy(f->seed, seed, sizeof f->seed);
    if (!fabric_build(f, from, &e)) {
        fabric_free(f);
        return NULL;
    }
    return f;
}
