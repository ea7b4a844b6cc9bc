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

/* Both ends of an IPv4 key, and their ports, in the key's order: lower address first, of equal ones the lower port. Which
 * end is the higher one is a coin's toss for every packet, so there is no branch: the pairs are compared with themselves
 * turned round, as one number of 96 bits. Returns whether the source is the higher end. */
PAL_INLINE uint32_t key_order4(uint64_t *addr, uint32_t *ports, bool by_port)
{
    uint64_t a = *addr, turned = rotate_u64(a, 32);
    uint32_t p = *ports, ports_turned = rotate_u32(p, 16);
    unsigned __int128 as_is = (unsigned __int128)a << 64 | (by_port ? p : 0);
    unsigned __int128 other = (unsigned __int128)turned << 64 | (by_port ? ports_turned : 0);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    uint32_t swap = as_is < other;
#else
    uint32_t swap = as_is > other;
#endif
    *addr = swap ? turned : a;
    *ports = swap ? ports_turned : p;
    return swap;
}

/* Fills in all of a key. Any total order of the ends will do. Source and destination address stand one after the other at
 * src_dst, source and destination port at sport_dport. */
PAL_INLINE void key_make(ct_key *k, uint32_t kind, uint32_t family, uint32_t zone, const void *src_dst, const void *sport_dport)
{
    uint32_t by_port = kind != KIND_ICMP && kind != KIND_OTHER, swap, ports = load_u32(sport_dport);
    if (PAL_LIKELY(family == PAL_FAMILY_V4)) {
        uint64_t addr = load_u64(src_dst);
        swap = key_order4(&addr, &ports, by_port);
        k->addr[0] = addr;
    } else {
        const uint8_t *at = src_dst;
        uint64_t a = load_u64(at), b = load_u64(at + 8), c = load_u64(at + 16), d = load_u64(at + 24);
        unsigned __int128 src = (unsigned __int128)a << 64 | b, dst = (unsigned __int128)c << 64 | d;
        swap = src > dst;
        if (PAL_UNLIKELY(src == dst)) {
            uint16_t port[2];
            memcpy(port, sport_dport, sizeof port);
            swap = by_port & (uint32_t)(port[0] > port[1]);
        }
        uint64_t mask = 0 - (uint64_t)swap, x = (a ^ c) & mask, y = (b ^ d) & mask;
        k->addr[0] = a ^ x;
        k->addr[1] = b ^ y;
        k->addr[2] = c ^ x;
        k->addr[3] = d ^ y;
        ports = rotate_half32(ports, swap);
    }
    k->ports_zone = pair_u32(ports, zone);
    k->tail = bytes_u64((uint8_t)kind, (uint8_t)family, (uint8_t)swap, 0);
}

PAL_INLINE void key_make_icmp(ct_key *k, uint32_t family, uint32_t zone, const void *src_dst, uint16_t id, uint32_t type,
                              bool answer)
{
    static const uint16_t none[2] = {0, 0};
    key_make(k, KIND_ICMP, family, zone, src_dst, none);
    /* Both ends may have one address: then the lower one asks, whichever way the packet runs. */
    bool one = memcmp(key_addr(k, 0), key_addr(k, 1), family == PAL_FAMILY_V4 ? 4 : 16) == 0;
    uint32_t high = k->high, asker_is_high = answer ? !high && !one : high;
    k->ports_zone = pair_u32(pair_u16(id, (uint16_t)(icmp_query_type(family, type) << 1 | asker_is_high)), zone);
    k->tail = bytes_u64(KIND_ICMP, (uint8_t)family, (uint8_t)high, answer);
}

PAL_INLINE void key_from_packet(ct_key *k, const pal_packet *p, uint32_t zone)
{
    uint32_t kind = kind_of(p);
    const void *src_dst = PAL_LIKELY(p->family == PAL_FAMILY_V4) ? (const void *)p->addr4 : packet_src(p);
    if (PAL_LIKELY(kind <= KIND_SCTP))
        key_make(k, kind, p->family, zone, src_dst, &p->sport);
    else if (kind == KIND_ICMP)
        key_make_icmp(k, p->family, zone, src_dst, p->window, p->dport >> 8, p->marks & MARK_ICMP_ANSWER);
    else {
        key_make(k, kind, p->family, zone, src_dst, &p->sport); /* its ports are no ports and order nothing */
        k->ports_zone = pair_u32(pair_u16(p->proto, 0), zone);
    }
}

/* The tail's sender and answer are no part of the connection's identity. */
PAL_INLINE uint64_t key_hash(const ct_key *k, const uint64_t seed[HASH_KEY_WORDS])
{
    uint64_t tail = k->tail & bytes_u64(0xff, 0xff, 0, 0);
    if (PAL_LIKELY(k->family == PAL_FAMILY_V4))
        return hash_spread(hash_pair(k->addr[0], seed[0]) + hash_pair(k->ports_zone, seed[1]) + hash_pair(tail, seed[2]));
    return hash_spread(hash_pair(k->addr[0], seed[0]) + hash_pair(k->addr[1], seed[1]) + hash_pair(k->addr[2], seed[2]) +
                       hash_pair(k->addr[3], seed[3]) + hash_pair(k->ports_zone, seed[4]) + hash_pair(tail, seed[5]));
}

/* key_hash for TCP, with what all of its keys have in common worked out once a burst. */
typedef struct hash_tcp {
    uint64_t seed[HASH_KEY_WORDS];
    uint64_t tail4, tail6;
} hash_tcp;

PAL_INLINE hash_tcp hash_tcp_of(const uint64_t seed[HASH_KEY_WORDS])
{
    hash_tcp h;
    memcpy(h.seed, seed, sizeof h.seed);
    h.tail4 = hash_pair(bytes_u64(KIND_TCP, PAL_FAMILY_V4, 0, 0), seed[2]);
    h.tail6 = hash_pair(bytes_u64(KIND_TCP, PAL_FAMILY_V6, 0, 0), seed[5]);
    return h;
}

PAL_INLINE uint64_t key_hash_tcp4(uint64_t addr, uint64_t ports_zone, const hash_tcp *h)
{
    return hash_spread(hash_pair(addr, h->seed[0]) + hash_pair(ports_zone, h->seed[1]) + h->tail4);
}

PAL_INLINE uint64_t key_hash_tcp6(const ct_key *k, const hash_tcp *h)
{
    const uint64_t *s = h->seed;
    return hash_spread(hash_pair(k->addr[0], s[0]) + hash_pair(k->addr[1], s[1]) + hash_pair(k->addr[2], s[2]) +
                       hash_pair(k->addr[3], s[3]) + hash_pair(k->ports_zone, s[4]) + h->tail6);
}

#endif
