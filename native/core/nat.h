/* SPDX-License-Identifier: Apache-2.0
 *
 * nat.h - the second tuple of a translated connection (RFC 3022, RFC 5382): as the other end sees it, its packets have other
 * addresses or ports than the first packet had, so that a reply's key is not the first packet's.
 *
 *     original tuple   in ct_hot, as of every connection: client 10.0.0.1:4000 and server's name 20.0.0.9:80
 *     reply tuple      in ct_nat: server 10.1.0.7:8080 and 30.0.0.1:4000, as which the client is shown
 *
 * Both are keys in canonical order and stand in the index, the reply tuple with CT_REPLY_TUPLE in its reference. Each finds the
 * connection for packets of both directions: an ICMP error quotes a packet as it was on either side. A tuple belongs to one
 * connection. Zone and kind are the same on both sides. Only tables that ask for it (table_config.nat) have the array; all
 * others pay nothing. Included by conntrack.h.
 */
#ifndef PAL_CORE_NAT_H
#define PAL_CORE_NAT_H

PAL_INLINE bool nat_is_translated(const ct_table *t, uint32_t ref) { return t->nat && (t->nat[ref].marks & NAT_USED); }

/* The reply tuple, as if made by a packet of the end that replies. The connection is translated. */
static inline void nat_key_of(const ct_table *t, uint32_t ref, ct_key *k)
{
    const ct_nat *n = &t->nat[ref];
    bool v4 = ref < t->cap4;
    memset(k, 0, sizeof *k);
    if (v4)
        k->addr[0] = load_u64(n->addr);
    else
        memcpy(k->addr, t->nat6[ref - t->cap4].addr, 32);
    k->ports_zone = pair_u32(load_u32(n->port), t->hot[ref].zone);
    uint8_t kind = ct_kind_of(&t->hot[ref]);
    k->tail = bytes_u64(kind, v4 ? PAL_FAMILY_V4 : PAL_FAMILY_V6, (n->marks & NAT_REPLY_HIGH) != 0, kind == KIND_ICMP);
}

/* Is this the reply tuple of the connection, which is translated? */
static inline bool nat_is(const ct_table *t, uint32_t ref, const ct_key *k)
{
    ct_key own;
    nat_key_of(t, ref, &own);
    return own.ports_zone == k->ports_zone && own.kind == k->kind && own.family == k->family &&
           memcmp(own.addr, k->addr, k->family == PAL_FAMILY_V4 ? 8 : 32) == 0;
}

/* ct_direction for a key that is the reply tuple. */
static inline uint32_t nat_direction(const ct_table *t, uint32_t ref, const ct_key *k)
{
    if (k->kind == KIND_ICMP)
        return k->answer;
    return (uint32_t)k->high ^ ((t->nat[ref].marks & NAT_REPLY_HIGH) != 0) ^ 1;
}

/* From now on the connection's replies have this key, made as by one of them. False, and nothing has changed: it is a tuple of
 * this connection or of another, or the index has no room, or the table none for translations; the caller may try another port. */
static inline bool nat_begin(ct_table *t, uint32_t ref, const ct_key *reply)
{
    uint64_t hash = key_hash(reply, t->s->seed);
    const ct_hot *h = &t->hot[ref];
    bool v4 = reply->family == PAL_FAMILY_V4;
    if (!t->nat || nat_is_translated(t, ref) || v4 != (ref < t->cap4) || reply->zone != h->zone || reply->kind != ct_kind_of(h) ||
        ct_find(t, reply, hash) != PAL_NONE || !index_insert(t, hash, ref | CT_REPLY_TUPLE))
        return false;
    ct_nat *n = &t->nat[ref];
    *n = (ct_nat){.port = {reply->port[0], reply->port[1]}, .marks = (uint8_t)(NAT_USED | (reply->high ? NAT_REPLY_HIGH : 0))};
    if (v4)
        memcpy(n->addr, reply->addr, 8);
    else
        memcpy(t->nat6[ref - t->cap4].addr, reply->addr, 32);
    return true;
}

/* The connection is not translated any more. */
PAL_OUTLINE void nat_end(ct_table *t, uint32_t ref)
{
    ct_key k;
    if (!nat_is_translated(t, ref))
        return;
    nat_key_of(t, ref, &k);
    index_remove(t, key_hash(&k, t->s->seed), ref | CT_REPLY_TUPLE);
    t->nat[ref].marks = 0;
}

/* The key of a packet the other way. */
static inline void nat_turn(ct_key *k)
{
    k->high ^= 1;
    k->answer ^= k->kind == KIND_ICMP;
}

/* What a packet of a translated connection is to become, `dir` 0 in the original direction: the key that it has on the other
 * side. Its source is the higher end where k->high says so. */
static inline void nat_target(const ct_table *t, uint32_t ref, uint32_t dir, ct_key *k)
{
    if (dir == 0)
        nat_key_of(t, ref, k);
    else
        ct_key_of(t, ref, k);
    nat_turn(k); /* each tuple was told by a packet that came from its side; this one goes there */
}

#endif
