/* SPDX-License-Identifier: Apache-2.0
 *
 * tuple.h - a connection's key: zone (filter incarnation and routing domain), kind of protocol, and the two ends in a
 * fixed order, so that both directions of a connection have one key.
 */
#ifndef PAL_CORE_TUPLE_H
#define PAL_CORE_TUPLE_H

#include "hash.h"
#include "packet.h"

enum ct_kind { KIND_TCP, KIND_UDP, KIND_SCTP, KIND_ICMP, KIND_OTHER };

/* A zone is a filter's incarnation (upper half) and the index of a routing domain (lower half). */
#define ZONE_VRF_BITS 16

typedef struct ct_key {
    uint64_t addr[4];    /* lower end, higher end: IPv4 both in the first word, IPv6 two words each; as in memory */
    union {
        struct {
            uint16_t port[2]; /* TCP, UDP, SCTP: ports. ICMP: identifier; query type and asking end. Others: protocol, 0 */
            uint32_t zone;
        };
        uint64_t ports_zone;
    };
    union {
        struct {
            uint8_t kind, family;
            uint8_t high;   /* the packet that made the key was sent by the higher end */
            uint8_t answer; /* an ICMP answer: runs in the reply direction whoever sent it */
            uint32_t pad;
        };
        uint64_t tail;
    };
} ct_key;

_Static_assert(sizeof(ct_key) == 48, "hashed as four or six words");

/* The address of one end. */
PAL_INLINE const uint8_t *key_addr(const ct_key *k, uint32_t end)
{
    return (const uint8_t *)k->addr + end * (k->family == PAL_FAMILY_V4 ? 4 : 16);
}

PAL_INLINE uint8_t kind_of(const pal_packet *p)
{
    switch (p->proto) {
    case PROTO_TCP:
        return KIND_TCP;
    case PROTO_UDP:
        return KIND_UDP;
    case PROTO_SCTP:
        return KIND_SCTP;
    default:
        return p->marks & (MARK_ICMP_QUERY | MARK_ICMP_ANSWER) ? KIND_ICMP : KIND_OTHER;
    }
}

/* The query's type, for a query or an answer. */
PAL_INLINE uint32_t icmp_query_type(uint32_t family, uint32_t type)
{
    if (family == PAL_FAMILY_V4)
        return type == 0 ? 8 : type == 14 ? 13 : type == 16 ? 15 : type == 18 ? 17 : type;
    return type == 129 ? 128 : type == 140 ? 139 : type;
}

/* By half its width, or not at all; written so that compilers make it a rotation and not a branch. */
PAL_INLINE uint32_t rotate_half32(uint32_t v, uint32_t swap) { return v << (swap * 16) | v >> ((32 - swap * 16) & 31); }
PAL_INLINE uint64_t rotate_half64(uint64_t v, uint32_t swap) { return v << (swap * 32) | v >> ((64 - swap * 32) & 63); }

/* Fills in all of a key. Which end is the higher one is a coin's toss for every packet, so IPv4 chooses without a branch:
 * both ends stand side by side and are swapped by a rotation. Any total order will do. Source and destination address
 * stand one after the other at src_dst. */
PAL_INLINE void key_make(ct_key *k, uint32_t kind, uint32_t family, uint32_t zone, const uint8_t *src_dst, uint16_t sport,
                         uint16_t dport)
{
    uint32_t by_port = kind != KIND_ICMP && kind != KIND_OTHER, swap;
    if (PAL_LIKELY(family == PAL_FAMILY_V4)) {
        uint32_t src = load_u32(src_dst), dst = load_u32(src_dst + 4);
        swap = (uint32_t)(src > dst) | ((uint32_t)(src == dst) & by_port & (uint32_t)(sport > dport));
        k->addr[0] = rotate_half64(pair_u32(src, dst), swap);
    } else {
        uint64_t a = load_u64(src_dst), b = load_u64(src_dst + 8), c = load_u64(src_dst + 16), d = load_u64(src_dst + 24);
        uint32_t same = (uint32_t)(a == c), one = same & (uint32_t)(b == d);
        swap = (uint32_t)(a > c) | (same & (uint32_t)(b > d)) | (one & by_port & (uint32_t)(sport > dport));
        uint64_t mask = 0 - (uint64_t)swap, x = (a ^ c) & mask, y = (b ^ d) & mask;
        k->addr[0] = a ^ x;
        k->addr[1] = b ^ y;
        k->addr[2] = c ^ x;
        k->addr[3] = d ^ y;
    }
    k->ports_zone = pair_u32(rotate_half32(pair_u16(sport, dport), swap), zone);
    k->tail = bytes_u64((uint8_t)kind, (uint8_t)family, (uint8_t)swap, 0);
}

PAL_INLINE void key_make_icmp(ct_key *k, uint32_t family, uint32_t zone, const uint8_t *src_dst, uint16_t id, uint32_t type,
                              bool answer)
{
    key_make(k, KIND_ICMP, family, zone, src_dst, 0, 0);
    /* Both ends may have one address: then the lower one asks, whichever way the packet runs. */
    bool one = memcmp(key_addr(k, 0), key_addr(k, 1), family == PAL_FAMILY_V4 ? 4 : 16) == 0;
    uint32_t high = k->high, asker_is_high = answer ? !high && !one : high;
    k->ports_zone = pair_u32(pair_u16(id, (uint16_t)(icmp_query_type(family, type) << 1 | asker_is_high)), zone);
    k->tail = bytes_u64(KIND_ICMP, (uint8_t)family, (uint8_t)high, answer);
}

PAL_INLINE void key_from_packet(ct_key *k, const pal_packet *p, uint32_t zone)
{
    uint32_t kind = kind_of(p);
    const uint8_t *src_dst = PAL_LIKELY(p->family == PAL_FAMILY_V4) ? (const uint8_t *)p->addr4 : packet_src(p);
    if (PAL_LIKELY(kind <= KIND_SCTP))
        key_make(k, kind, p->family, zone, src_dst, p->sport, p->dport);
    else if (kind == KIND_ICMP)
        key_make_icmp(k, p->family, zone, src_dst, p->window, p->dport >> 8, p->marks & MARK_ICMP_ANSWER);
    else {
        key_make(k, kind, p->family, zone, src_dst, 0, 0);
        k->ports_zone = pair_u32(pair_u16(p->proto, 0), zone);
    }
}

/* The tail's sender and answer are no part of the connection's identity. */
PAL_INLINE uint64_t key_hash(const ct_key *k, const uint64_t seed[HASH_KEY_WORDS])
{
    uint64_t tail = k->tail & bytes_u64(0xff, 0xff, 0, 0);
    if (PAL_LIKELY(k->family == PAL_FAMILY_V4)) {
        uint64_t m[4] = {k->addr[0], k->ports_zone, tail, 0};
        return hash_words4(m, seed);
    }
    uint64_t m[6] = {k->addr[0], k->addr[1], k->addr[2], k->addr[3], k->ports_zone, tail};
    return hash_words6(m, seed);
}

#endif
