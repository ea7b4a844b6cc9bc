/* SPDX-License-Identifier: Apache-2.0
 *
 * fabric.h - what a host knows of segments, gateways and other hosts, as a burst sees it: an immutable snapshot, replaced whole by
 * a commit (native/engine/fabric.c builds it), and the look-ups in it. Indexes are those of the pal_fabric that it was made of.
 */
#ifndef PAL_CORE_FABRIC_H
#define PAL_CORE_FABRIC_H

#include "hash.h"
#include "packet.h"
#include "../include/palisade_live.h"

#define FABRIC_GATEWAYS_MAX 4 /* gateways that a packet goes through at one host */
#define FABRIC_OVERHEAD(family) ((family) == PAL_FAMILY_V4 ? 50u : 70u) /* inner Ethernet 14, Geneve 8, UDP 8, IP 20 or 40 */

/* By filter number. */
typedef struct fabric_vnic {
    uint32_t segment;           /* PAL_NO_INDEX: there is no such vNIC */
    uint32_t guards;
    uint32_t addr_off, addr_n;  /* in fabric.address */
    uint32_t addr4;             /* its first IPv4 address as in a header, 0: none */
    uint8_t mac[6];
    uint16_t mtu;
} fabric_vnic;

typedef struct fabric_segment {
    uint32_t vni, gateway;
    uint32_t tep_off, tep_n;    /* in fabric.replica: those that are alive */
    uint32_t vnic_off, vnic_n;  /* in fabric.member: filter numbers of the vNICs here, ascending */
    uint32_t own[2];            /* index in fabric.interface of the gateway's first IPv4 and IPv6 address here, or PAL_NO_INDEX */
    uint32_t learn;
} fabric_segment;

/* A MAC address on a segment; slots of a hash table, two a line. */
typedef struct fabric_mac {
    uint64_t mac;               /* as a number; FABRIC_NO_MAC: a free slot */
    uint32_t segment;
    uint32_t vnic, tep;         /* as in pal_neighbour */
    uint32_t reserved[3];
} fabric_mac;

#define FABRIC_NO_MAC (~0ull)
_Static_assert(sizeof(fabric_mac) == 32, "two a line");

/* What an address means somewhere: slots of another hash table. */
enum fabric_word {
    FABRIC_NEIGHBOUR, /* on a segment: index in fabric.neighbour */
    FABRIC_INTERFACE, /* on a segment: a gateway's interface; index in fabric.interface */
    FABRIC_GATEWAY,   /* in a gateway: the same */
    FABRIC_TEP,       /* index in fabric.tep */
    FABRIC_BOUND,     /* to a vNIC, by its filter number: 0 */
    FABRIC_VNI,       /* `where` is the VNI: index of the segment */
};

typedef struct fabric_slot {
    uint8_t addr[16];
    uint32_t where;             /* segment, gateway, filter number, VNI */
    uint8_t word, family;       /* enum fabric_word */
    uint8_t used, reserved;
    uint32_t value;
    uint32_t pad;
} fabric_slot;

_Static_assert(sizeof(fabric_slot) == 32, "two a line");

/* From this address on, up to the next one's, the longest prefix is the route's. IPv4 addresses stand in the upper 32 bits. */
typedef struct fabric_range {
    uint64_t high, low;
    uint32_t route;             /* PAL_NO_INDEX: none */
    uint32_t reserved;
} fabric_range;

typedef struct fabric_table {   /* of one gateway and family: ranges in ascending order, the first begins at 0 */
    uint32_t off, n;
} fabric_table;

typedef struct fabric {
    uint32_t holds;             /* configurations that refer to it: the engine's alone */
    uint32_t filters, segments, teps, gateways;
    uint32_t underlay_mtu;
    uint64_t gateway_mac;       /* as a number */
    uint8_t gateway_mac_bytes[6];
    uint64_t seed[HASH_KEY_WORDS];
    fabric_vnic *vnic;          /* by filter number */
    fabric_segment *segment;
    fabric_mac *mac;
    uint32_t mac_mask;          /* slots less one; half of them are free */
    uint32_t slot_mask;
    fabric_slot *slot;
    pal_neighbour *neighbour;
    pal_interface *interface;
    pal_fabric_route *route;
    pal_tep *tep;
    pal_address *address;
    uint32_t *replica, *member;
    fabric_range *range;
    fabric_table *table;        /* by gateway * 2 + (family is IPv6) */
} fabric;

PAL_INLINE uint64_t mac_number(const uint8_t *a) { return (uint64_t)load_be16(a) << 32 | load_be32(a + 2); }

PAL_INLINE uint64_t fabric_mac_hash(const fabric *f, uint32_t segment, uint64_t mac)
{
    return hash_finish((unsigned __int128)(mac + f->seed[0]) * ((uint64_t)segment + f->seed[1]));
}

PAL_INLINE void fabric_mac_prefetch(const fabric *f, uint32_t segment, uint64_t mac)
{
    prefetch_read(&f->mac[fabric_mac_hash(f, segment, mac) & f->mac_mask]);
}

/* NULL: unknown. */
PAL_INLINE const fabric_mac *fabric_mac_find(const fabric *f, uint32_t segment, uint64_t mac)
{
    for (uint64_t at = fabric_mac_hash(f, segment, mac);; at++) {
        const fabric_mac *m = &f->mac[at & f->mac_mask];
        if (PAL_LIKELY(m->mac == mac && m->segment == segment))
            return m;
        if (m->mac == FABRIC_NO_MAC)
            return NULL;
    }
}

static inline uint64_t fabric_slot_hash(const fabric *f, uint32_t word, uint32_t where, const uint8_t addr[16], uint32_t family)
{
    uint64_t m[4] = {load_u64(addr), load_u64(addr + 8), (uint64_t)where << 32 | word << 8 | family, 0};
    return hash_words4(m, f->seed);
}

static inline bool fabric_slot_is(const fabric_slot *s, uint32_t word, uint32_t where, const uint8_t addr[16], uint32_t family)
{
    return s->where == where && s->word == word && s->family == family && memcmp(s->addr, addr, 16) == 0;
}

/* The slot that holds it, or the free one where it belongs. */
static inline fabric_slot *fabric_slot_at(const fabric *f, uint32_t word, uint32_t where, const uint8_t addr[16], uint32_t family)
{
    for (uint64_t at = fabric_slot_hash(f, word, where, addr, family);; at++) {
        fabric_slot *s = &f->slot[at & f->slot_mask];
        if (!s->used || fabric_slot_is(s, word, where, addr, family))
            return s;
    }
}

/* `addr`: 4 or 16 bytes, by family. Returns the value, or PAL_NO_INDEX. */
static inline uint32_t fabric_find(const fabric *f, uint32_t word, uint32_t where, const uint8_t *addr, uint32_t family)
{
    uint8_t padded[16] = {0};
    memcpy(padded, addr, family == PAL_FAMILY_V4 ? 4 : 16);
    const fabric_slot *s = fabric_slot_at(f, word, where, padded, family);
    return s->used ? s->value : PAL_NO_INDEX;
}

static inline const pal_neighbour *fabric_neighbour(const fabric *f, uint32_t segment, const uint8_t *addr, uint32_t family)
{
    uint32_t i = fabric_find(f, FABRIC_NEIGHBOUR, segment, addr, family);
    return i == PAL_NO_INDEX ? NULL : &f->neighbour[i];
}

static inline uint32_t fabric_segment_of(const fabric *f, uint32_t vni)
{
    static const uint8_t none[16];
    const fabric_slot *s = fabric_slot_at(f, FABRIC_VNI, vni, none, 0);
    return s->used ? s->value : PAL_NO_INDEX;
}

/* The route of the longest prefix in a gateway's table, or PAL_NO_INDEX. At most 32 or so steps. */
static inline uint32_t fabric_route_find(const fabric *f, uint32_t gateway, const uint8_t *addr, uint32_t family)
{
    const fabric_table *t = &f->table[gateway * 2 + (family == PAL_FAMILY_V6)];
    const fabric_range *r = f->range + t->off;
    uint64_t high, low = 0;
    if (family == PAL_FAMILY_V4) {
        high = (uint64_t)load_be32(addr) << 32;
    } else {
        high = be64(load_u64(addr));
        low = be64(load_u64(addr + 8));
    }
    uint32_t first = 0, n = t->n; /* r[first] is not after the address */
    while (n > 1) {
        uint32_t half = n / 2;
        const fabric_range *m = &r[first + half];
        if (m->high < high || (m->high == high && m->low <= low))
            first += half;
        n -= half;
    }
    return t->n ? r[first].route : PAL_NO_INDEX;
}

/* The longest inner IP packet that crosses the underlay to this TEP. */
PAL_INLINE uint32_t fabric_mtu(const fabric *f, uint32_t tep)
{
    return f->underlay_mtu - FABRIC_OVERHEAD(f->tep[tep].family);
}

#endif
