/* SPDX-License-Identifier: Apache-2.0
 *
 * look_up.h - a burst's visits, their keys, and the connections that they seem to meet: hints, nothing is decided. Eight keys
 * at once: key_wide.h. Included by pipeline.h.
 */
#ifndef PAL_CORE_LOOK_UP_H
#define PAL_CORE_LOOK_UP_H

#include "icmp_error.h"
#include "key_wide.h"

PAL_INLINE bool pipeline_is_plain(const pal_packet *p)
{
    return !p->reason && !(p->marks & (MARK_NON_IP | MARK_FRAGMENT | MARK_ICMP_ERROR | MARK_UNTRACKED));
}

PAL_OUTLINE void pipeline_key_any(pal_worker *w, pal_burst *b, uint32_t v)
{
    const pal_filter *f = b->filter[v];
    const pal_packet *p = b->packet[v];
    b->mixed = 1;
    b->ref[v] = PAL_NONE;
    b->entry[v] = HINT_UNKEYED;
    if (PAL_UNLIKELY(!f->rules))
        return;
    if (PAL_UNLIKELY(!pipeline_is_plain(p))) {
        if (!p->reason && (p->marks & MARK_ICMP_ERROR))
            icmp_error_key(w, b, v);
        return;
    }
    key_from_packet(&b->key[v], p, filter_zone(w, f, p->vrf));
    b->v6 |= p->family == PAL_FAMILY_V6;
    b->hash[v] = key_hash(&b->key[v], w->table.s->seed);
    b->entry[v] = HINT_OPEN;
}

/* One visit's key and hash. A filter without rules has no connection of its epoch, so that CLASS_ACK need not ask. */
PAL_INLINE void pipeline_key(pal_worker *w, pal_burst *b, uint32_t v, const hash_tcp *seed)
{
    const pal_filter *f = b->filter[v];
    const pal_packet *p = b->packet[v];
    uint64_t class = PAL_UNLIKELY(f->layer2) ? 0 : packet_class(p); /* layer-2 rules come first */
    if (PAL_LIKELY(class == CLASS_ACK(PAL_FAMILY_V4))) {
        uint64_t addr = load_u64(p->addr4);
        uint32_t ports = load_u32(&p->sport), high = key_order4(&addr, &ports, true);
        b->line[v][0] = addr;
        b->line[v][1] = pair_u32(ports, f->zone);
        b->hash[v] = key_hash_tcp4(b->line[v][0], b->line[v][1], seed);
        b->way[v] |= high << 31;
        b->entry[v] = HINT_ACK;
    } else if (PAL_LIKELY(class == CLASS_ACK(PAL_FAMILY_V6))) {
        ct_key *k = &b->key[v];
        key_make(k, KIND_TCP, PAL_FAMILY_V6, f->zone, packet_src(p), &p->sport);
        b->hash[v] = key_hash_tcp6(k, seed);
        b->line[v][0] = b->hash[v];
        b->line[v][1] = k->ports_zone;
        b->way[v] |= (uint32_t)k->high << 31 | WAY_V6;
        b->entry[v] = HINT_ACK;
        b->v6 = 1;
    } else {
        pipeline_key_any(w, b, v);
        if (b->entry[v] == HINT_UNKEYED)
            return;
    }
    b->bucket[v] = hash_bucket(&w->table, b->hash[v]);
    prefetch_read(&w->table.bucket[b->bucket[v]]);
}

PAL_INLINE uint32_t pipeline_visit(pal_burst *b, uint32_t v, const pal_filter *f, pal_packet *p, uint32_t way)
{
    b->filter[v] = f;
    b->packet[v] = p;
    b->way[v] = way;
    return v + 1;
}

/* Visits [b->n, visits) have been entered: their keys; the index lines are on their way. */
PAL_INLINE void pipeline_keys(pal_worker *w, pal_burst *b, uint32_t visits)
{
    const hash_tcp seed = hash_tcp_of(w->table.s->seed);
    uint32_t v = b->n;
    b->n = visits;
    while (v < visits) {
        uint32_t end = min_u32(v + WIDE_LANES, visits);
        if (w->wide && end - v == WIDE_LANES && wide_key(w, b, v, &seed)) {
            v = end;
            continue;
        }
        for (; v < end; v++)
            pipeline_key(w, b, v, &seed);
    }
}

/* More visits: one for each packet and filter. There is room for them. */
PAL_INLINE void pipeline_add(pal_worker *w, pal_burst *b, const pal_route *route, pal_packet *packet, uint32_t n)
{
    uint32_t visits = b->n;
    uint64_t latest = b->latest_ns;
    for (uint32_t i = 0; i < n; i++) {
        latest = packet[i].clock_ns > latest ? packet[i].clock_ns : latest;
        const pal_route *r = &route[i];
        visits = pipeline_visit(b, visits, r->first, &packet[i], (uint32_t)r->dir << WAY_DIR);
        if (PAL_UNLIKELY(r->second != NULL))
            visits = pipeline_visit(b, visits, r->second, &packet[i], (uint32_t)PAL_DIR_IN << WAY_DIR | WAY_SECOND);
    }
    b->latest_ns = latest;
    pipeline_keys(w, b, visits);
}

/* A burst without visits. */
PAL_INLINE void pipeline_begin(pal_burst *b)
{
    b->n = 0;
    b->latest_ns = 0;
    b->v6 = b->mixed = 0;
    b->stale = b->doubt = 0;
}

PAL_INLINE void pipeline_visits(pal_worker *w, pal_burst *b, const pal_route *route, pal_packet *packet, uint32_t n)
{
    pipeline_begin(b);
    pipeline_add(w, b, route, packet, n);
}

/* It seems to have no connection: the rules will be asked. */
PAL_OUTLINE void pipeline_open(pal_burst *b, uint32_t v)
{
    b->ref[v] = PAL_NONE;
    if (b->entry[v] == HINT_ACK) /* its key is wanted after all */
        key_from_packet(&b->key[v], b->packet[v], b->filter[v]->zone);
    b->entry[v] = b->filter[v]->rules ? HINT_OPEN : HINT_UNKEYED;
}

/* Nothing in the bucket has the tag, but connections that belong here stand in later ones: the first with the tag is taken for
 * the visit's. The next bucket is on its way. False: there is none. */
PAL_OUTLINE bool pipeline_further(const pal_worker *w, pal_burst *b, uint32_t v)
{
    const ct_table *t = &w->table;
    uint32_t at = b->bucket[v], cap4 = t->cap4;
    for (uint32_t probe = 1; probe < CT_PROBES && t->bucket[at].overflow; probe++) {
        at = bucket_next(t, at);
        uint32_t m = bucket_match(&t->bucket[at], hash_tag(b->hash[v]));
        if (m == 0)
            continue;
        uint32_t ref = t->bucket[at].ref[__builtin_ctz(m)];
        if (PAL_UNLIKELY(ref & CT_REPLY_TUPLE))
            return false;
        b->ref[v] = ref;
        prefetch_write(&t->hot[ref]);
        if (ref >= cap4)
            prefetch_read(&t->addr6[ref - cap4]);
        return true;
    }
    return false;
}

/* Several entries of the bucket have the tag: all of their lines are on their way, and one may hold the key's first bytes. */
PAL_OUTLINE void pipeline_settle(const pal_worker *w, pal_burst *b, uint32_t v)
{
    const ct_bucket *bucket = &w->table.bucket[b->bucket[v]];
    for (uint32_t m = bucket_match(bucket, hash_tag(b->hash[v])); m; m &= m - 1) {
        uint32_t ref = bucket->ref[__builtin_ctz(m)];
        if (PAL_UNLIKELY(ref & CT_REPLY_TUPLE))
            continue;
        const ct_hot *h = &w->table.hot[ref];
        if (load_u64(h->addr) == b->line[v][0] && load_u64(h->port) == b->line[v][1])
            b->ref[v] = ref;
    }
}

/* What is not of CLASS_ACK: false when there is no connection of its own to look for. */
PAL_INLINE bool pipeline_prefetch_any(const pal_worker *w, pal_burst *b, uint32_t v)
{
    if (b->entry[v] == HINT_QUOTED)
        icmp_error_prefetch(&w->table, b, v);
    return b->entry[v] == HINT_OPEN;
}

/* It seems to be known by its second tuple (nat.h): it takes the long way, which asks the index again. */
PAL_OUTLINE void pipeline_reply_tuple(const pal_worker *w, pal_burst *b, uint32_t v, uint32_t ref)
{
    const ct_table *t = &w->table;
    pipeline_open(b, v);
    prefetch_write(&t->hot[ref]);
    prefetch_write(&t->cold[ref]);
    prefetch_read(&t->nat[ref]);
    if (ref >= t->cap4)
        prefetch_read(&t->nat6[ref - t->cap4]);
}

/* Of visits [v, visits), the connections that they may be; their lines are on their way. True: some seem to have none. `mixed` and
 * `v6` as in the burst, `observed` as in the worker, `nat` as in the table: what is known of all visits need not be asked of each. */
PAL_INLINE bool pipeline_prefetch_kind(const pal_worker *w, pal_burst *b, uint32_t v, uint32_t visits, const bool mixed, const bool v6,
                                        const bool observed, const bool nat)
{
    const ct_bucket *index = w->table.bucket;
    ct_hot *hot = w->table.hot;
    uint32_t cap4 = w->table.cap4, others = 0;
    uint8_t other[BURST_VISITS];
    bool misses = false;
    for (; v < visits; v++) {
        if (mixed && b->entry[v] != HINT_ACK && !pipeline_prefetch_any(w, b, v))
            continue;
        const ct_bucket *bucket = &index[b->bucket[v]];
        uint32_t m = bucket_match(bucket, hash_tag(b->hash[v]));
        if (PAL_UNLIKELY(m == 0)) {
            if (PAL_UNLIKELY(bucket->overflow)) {
                prefetch_read(&index[bucket_next(&w->table, b->bucket[v])]);
                other[others++] = (uint8_t)v;
                continue;
            }
            pipeline_open(b, v);
            misses = true;
            continue;
        }
        uint32_t ref = bucket->ref[__builtin_ctz(m)];
        if (nat && PAL_UNLIKELY(ref & CT_REPLY_TUPLE)) {
            pipeline_reply_tuple(w, b, v, ref & ~CT_REPLY_TUPLE);
            continue;
        }
        b->ref[v] = ref;
        prefetch_write(&hot[ref]);
        if (mixed && (b->packet[v]->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST))) /* may change what stands there */
            prefetch_write(&w->table.cold[ref]);
        if (v6 && PAL_LIKELY(ref >= cap4))
            prefetch_read(&w->table.addr6[ref - cap4]);
        if (observed) {
            prefetch_read(&w->table.cold[ref].rule);
            if (w->table.flow)
                prefetch_write(&w->table.flow[ref]);
        }
        if (PAL_UNLIKELY(m & (m - 1)) && (!mixed || b->entry[v] == HINT_ACK)) {
            b->doubt |= 1ull << v;
            while (m &= m - 1)
                prefetch_write(&hot[bucket->ref[__builtin_ctz(m)] & (nat ? ~CT_REPLY_TUPLE : ~0u)]);
        }
    }
    for (uint32_t i = 0; i < others; i++)
        if (!pipeline_further(w, b, other[i])) {
            pipeline_open(b, other[i]);
            misses = true;
        }
    return misses;
}

PAL_OUTLINE bool pipeline_prefetch_nat(const pal_worker *w, pal_burst *b, uint32_t from, uint32_t to)
{
    return pipeline_prefetch_kind(w, b, from, to, true, b->v6, w->observed, true);
}

PAL_INLINE bool pipeline_prefetch(const pal_worker *w, pal_burst *b, uint32_t from, uint32_t to)
{
    if (PAL_UNLIKELY(w->table.nat != NULL))
        return pipeline_prefetch_nat(w, b, from, to);
    if (PAL_UNLIKELY(b->mixed) || PAL_UNLIKELY(w->observed))
        return pipeline_prefetch_kind(w, b, from, to, true, b->v6, w->observed, false);
    return b->v6 ? pipeline_prefetch_kind(w, b, from, to, false, true, false, false)
                 : pipeline_prefetch_kind(w, b, from, to, false, false, false, false);
}

/* Doubts about visits before `to` are settled, if their lines have arrived by now; or waited for, all together. */
PAL_INLINE void pipeline_settle_before(const pal_worker *w, pal_burst *b, uint32_t to)
{
    for (; PAL_UNLIKELY(b->doubt) && (uint32_t)__builtin_ctzll(b->doubt) < to; b->doubt &= b->doubt - 1)
        pipeline_settle(w, b, (uint32_t)__builtin_ctzll(b->doubt));
}

#endif
