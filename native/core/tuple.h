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
    uint8_t addr[2][16]; /* lower end, higher end; IPv4 in the first four bytes, the rest zero */
    uint16_t port[2];    /* TCP, UDP, SCTP: ports. ICMP: identifier; query type and asking end. Others: protocol, 0 */
    uint32_t zone;
    uint8_t kind, family;
    uint8_t high;        /* the packet that made the key was sent by the higher end */
    uint8_t answer;      /* an ICMP answer: runs in the reply direction whoever sent it */
    uint32_t pad;
} ct_key;

_Static_assert(sizeof(ct_key) == 48, "hashed as six words");

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

/* Builds a key from its parts; the caller sets kind, family, zone and answer. Ports are those of src and dst. */
PAL_INLINE void key_order(ct_key *k, const uint8_t *src, const uint8_t *dst, uint16_t sport, uint16_t dport)
{
    int order;
    if (PAL_LIKELY(k->family == PAL_FAMILY_V4)) {
        uint32_t s = load_be32(src), d = load_be32(dst);
        order = s < d ? -1 : s > d;
        memset(k->addr, 0, sizeof k->addr);
    } else {
        order = memcmp(src, dst, 16);
    }
    if (order == 0 && k->kind != KIND_ICMP && k->kind != KIND_OTHER)
        order = sport < dport ? -1 : sport > dport;
    uint32_t high = order > 0;
    uint32_t n = k->family == PAL_FAMILY_V4 ? 4 : 16;
    if (PAL_LIKELY(n == 4)) {
        memcpy(k->addr[high], src, 4);
        memcpy(k->addr[!high], dst, 4);
    } else {
        memcpy(k->addr[high], src, 16);
        memcpy(k->addr[!high], dst, 16);
    }
    k->high = (uint8_t)high;
    k->port[high] = sport;
    k->port[!high] = dport;
    k->pad = 0;
}

PAL_INLINE void key_icmp(ct_key *k, const uint8_t *src, const uint8_t *dst, uint16_t id, uint32_t type, bool answer)
{
    key_order(k, src, dst, 0, 0);
    /* Both ends may have one address: then the lower one asks, whichever way the packet runs. */
    uint32_t asker_is_high = answer ? !k->high && memcmp(k->addr[0], k->addr[1], sizeof k->addr[0]) : k->high;
    k->port[0] = id;
    k->port[1] = (uint16_t)(icmp_query_type(k->family, type) << 1 | asker_is_high);
    k->answer = answer;
}

PAL_INLINE void key_from_packet(ct_key *k, const pal_packet *p, uint32_t zone)
{
    k->kind = kind_of(p);
    k->family = p->family;
    k->zone = zone;
    k->answer = 0;
    const uint8_t *src = packet_src(p), *dst = packet_dst(p);
    if (PAL_LIKELY(k->kind <= KIND_SCTP)) {
        key_order(k, src, dst, p->sport, p->dport);
    } else if (k->kind == KIND_ICMP) {
        key_icmp(k, src, dst, p->window, p->dport >> 8, p->marks & MARK_ICMP_ANSWER);
    } else {
        key_order(k, src, dst, 0, 0);
        k->port[0] = p->proto;
        k->port[1] = 0;
    }
}

PAL_INLINE uint64_t key_hash(const ct_key *k, const uint64_t seed[HASH_KEY_WORDS])
{
    uint32_t ports = (uint32_t)k->port[0] | (uint32_t)k->port[1] << 16;
    uint64_t tail = (uint64_t)k->kind | (uint64_t)k->family << 8;
    if (PAL_LIKELY(k->family == PAL_FAMILY_V4)) {
        uint64_t m[4] = {(uint64_t)load_u32(k->addr[0]) | (uint64_t)load_u32(k->addr[1]) << 32,
                         (uint64_t)ports | (uint64_t)k->zone << 32, tail, 0};
        return hash_words4(m, seed);
    }
    uint64_t m[6] = {load_u64(k->addr[0]), load_u64(k->addr[0] + 8), load_u64(k->addr[1]), load_u64(k->addr[1] + 8),
                     (uint64_t)ports | (uint64_t)k->zone << 32, tail};
    return hash_words6(m, seed);
}

#endif
