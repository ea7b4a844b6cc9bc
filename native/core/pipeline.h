/* SPDX-License-Identifier: Apache-2.0
 *
 * pipeline.h - the packet's path. A burst goes through the stages below; each is a function named here.
 *
 *     parse             parse_frame        bytes -> pal_packet, or a reason            (parse.h); before the burst is handed in
 *     look up           pipeline_visits    a visit for each packet and filter; keys, hashes; index lines are on their way
 *                       pipeline_prefetch  the connection that it may be; its line is on its way: hints, nothing is decided
 *     classify          pipeline_classify  visits that seem to have no connection: first matching rule, in one go  (ahead.h)
 *     judge             pipeline_judge     in the packets' order, one after the other:
 *         clock, expiry     pipeline_clock     what has run out is ended, a bounded amount for each packet
 *         layer-2 rules     pipeline_refused   every frame, before anything else       (ether.h)
 *         fragments         datagram_take      held until whole                        (fragment.h, datagram.h)
 *         the common case   fast_judge         established TCP, nothing special        (fast.h, eight at once: fast_wide.h)
 *         ICMP errors       judge_icmp_error   by the packet that they quote           (icmp_error.h)
 *         state             judge_hit          the connection's tracker                (tcp.h, sctp.h, pseudo.h)
 *         expectations      judge_expected     what an ALG announced                   (alg.h)
 *         rules             judge_rules        first match, a new connection, REJECT   (classify.h, reject.h)
 *
 * A burst has the same result as its packets one at a time: look-ups are hints, the judge checks the whole key and the
 * deadline again, and a miss is looked up again before anything is created. Classification is a pure function of packet
 * and rule set, so it may be done ahead.
 */
#ifndef PAL_CORE_PIPELINE_H
#define PAL_CORE_PIPELINE_H

#include "fast_wide.h"
#include "icmp_error.h"

PAL_OUTLINE void datagram_expire(pal_worker *w);

/* The clock goes on to the packet's time, or stays. Between two ticks nothing can run out: w->clock_due says until when
 * nobody need ask again, and is 0 while expiry lags behind. */
PAL_OUTLINE void pipeline_clock(pal_worker *w, uint64_t clock_ns)
{
    ct_state_block *s = w->table.s;
    uint64_t tick = clock_ns / TICK_NS;
    while (PAL_UNLIKELY(tick > s->now && tick - s->now > CT_JUMP_MAX)) {
        s->now += CT_JUMP_MAX;
        ct_catch_up(&w->table);
        if (s->used[0] + s->used[1] == 0)
            s->now = s->wheel_at = tick;
    }
    if (tick > s->now)
        s->now = tick;
    if (s->wheel_at < s->now) {
        ct_expire(&w->table, CT_EXPIRE_STEPS);
        if (PAL_UNLIKELY(s->now - s->wheel_at >= CT_LAG_MAX))
            ct_catch_up(&w->table);
    }
    datagram_expire(w);
    w->clock_due = s->wheel_at < s->now ? 0 : (s->now + 1) * TICK_NS;
}

/* ---- look up ------------------------------------------------------------------------------------------------ */

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

/* A visit for each packet and filter, with its key; the index lines are on their way. */
PAL_INLINE void pipeline_visits(pal_worker *w, pal_burst *b, const pal_route *route, pal_packet *packet, uint32_t n)
{
    uint32_t visits = 0;
    uint64_t latest = 0;
    for (uint32_t i = 0; i < n; i++) {
        latest = packet[i].clock_ns > latest ? packet[i].clock_ns : latest;
        visits = pipeline_visit(b, visits, route[i].first, &packet[i], (uint32_t)route[i].dir << WAY_DIR);
        if (route[i].second)
            visits = pipeline_visit(b, visits, route[i].second, &packet[i], (uint32_t)PAL_DIR_IN << WAY_DIR | WAY_SECOND);
    }
    b->n = visits;
    b->latest_ns = latest;
    b->v6 = b->mixed = b->again_known = 0;
    hash_tcp seed = hash_tcp_of(w->table.s->seed);
    for (uint32_t v = 0; v < visits;) {
        uint32_t end = min_u32(v + WIDE_LANES, visits);
        if (w->wide && end - v == WIDE_LANES && b->packet[v]->family == PAL_FAMILY_V4 && wide_key(w, b, v, &seed)) {
            v = end;
            continue;
        }
        for (; v < end; v++)
            pipeline_key(w, b, v, &seed);
    }
}

/* It seems to have no connection: the rules will be asked. */
PAL_OUTLINE void pipeline_open(pal_burst *b, uint32_t v)
{
    b->ref[v] = PAL_NONE;
    if (b->entry[v] == HINT_ACK) /* its key is wanted after all */
        key_from_packet(&b->key[v], b->packet[v], b->filter[v]->zone);
    b->entry[v] = b->filter[v]->rules ? HINT_OPEN : HINT_UNKEYED;
}

/* Several entries of the bucket have the tag: all of their lines are on their way, and one may hold the key's first bytes. */
PAL_OUTLINE void pipeline_settle(const pal_worker *w, pal_burst *b, uint32_t v)
{
    const ct_bucket *bucket = &w->table.bucket[b->bucket[v]];
    for (uint32_t m = bucket_match(bucket, hash_tag(b->hash[v])); m; m &= m - 1) {
        uint32_t ref = bucket->ref[__builtin_ctz(m)];
        const ct_hot *h = &w->table.hot[ref];
        if (load_u64(h->addr) == b->line[v][0] && load_u64(h->port) == b->line[v][1])
            b->ref[v] = ref;
    }
}

/* What is not of CLASS_ACK: false when there is no connection of its own to look for. */
PAL_INLINE bool pipeline_prefetch_any(const pal_worker *w, const pal_burst *b, uint32_t v)
{
    if (b->entry[v] == HINT_QUOTED)
        icmp_error_prefetch(&w->table, b, v);
    return b->entry[v] == HINT_OPEN;
}

/* The connections that they may be; their lines are on their way. True: some seem to have none. */
PAL_INLINE bool pipeline_prefetch(const pal_worker *w, pal_burst *b)
{
    const ct_bucket *index = w->table.bucket;
    ct_hot *hot = w->table.hot;
    uint32_t visits = b->n, cap4 = w->table.cap4;
    uint32_t doubts = 0;
    uint8_t doubt[BURST_VISITS];
    bool misses = false, mixed = b->mixed, v6 = b->v6;
    for (uint32_t v = 0; v < visits; v++) {
        if (PAL_UNLIKELY(mixed) && b->entry[v] != HINT_ACK && !pipeline_prefetch_any(w, b, v))
            continue;
        const ct_bucket *bucket = &index[b->bucket[v]];
        uint32_t m = bucket_match(bucket, hash_tag(b->hash[v]));
        if (PAL_UNLIKELY(m == 0)) {
            pipeline_open(b, v);
            misses = true;
            continue;
        }
        uint32_t ref = bucket->ref[__builtin_ctz(m)];
        b->ref[v] = ref;
        prefetch_write(&hot[ref]);
        if (PAL_UNLIKELY(mixed) && (b->packet[v]->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST))) /* may change what stands there */
            prefetch_write(&w->table.cold[ref]);
        if (PAL_UNLIKELY(v6) && ref >= cap4)
            prefetch_read(&w->table.addr6[ref - cap4]);
        if (PAL_UNLIKELY(m & (m - 1)) && b->entry[v] == HINT_ACK) {
            doubt[doubts++] = (uint8_t)v;
            while (m &= m - 1)
                prefetch_write(&hot[bucket->ref[__builtin_ctz(m)]]);
        }
    }
    for (uint32_t i = 0; i < doubts; i++)
        pipeline_settle(w, b, doubt[i]);
    return misses;
}

#include "ahead.h"

/* ---- judge -------------------------------------------------------------------------------------------------- */

/* A whole packet at one filter. */
PAL_OUTLINE void pipeline_judge_whole(pal_worker *w, const pal_filter *f, uint8_t dir, pal_packet *p, const judge_hint *hint,
                                     pal_judgement *j)
{
    *j = (pal_judgement){.cookie = p->cookie, .rule = PAL_NONE, .ref = PAL_NONE, .filter = f->number, .dir = dir,
                         .bytes = p->ip_len};
    judge_case c = {.w = w, .f = f, .p = p, .hint = hint, .j = j, .dir = dir};
    if (PAL_UNLIKELY(!f->rules)) {
        judge_verdict(&c, PAL_DROP, PAL_REASON_NO_RULESET, PAL_CT_INVALID);
        return;
    }
    if (PAL_UNLIKELY(p->reason)) {
        judge_verdict(&c, PAL_DROP, p->reason, PAL_CT_INVALID);
        return;
    }
    if (PAL_UNLIKELY(p->marks & (MARK_NON_IP | MARK_ICMP_ERROR | MARK_UNTRACKED))) {
        if (p->marks & MARK_NON_IP) {
            judge_verdict(&c, PAL_ALLOW, PAL_REASON_NON_IP, PAL_CT_UNTRACKED);
        } else if (p->marks & MARK_ICMP_ERROR) {
            judge_icmp_error(&c);
        } else {
            c.untracked = true;
            judge_rules(&c);
        }
        return;
    }
    ct_table *t = &w->table;
    ct_key own;
    const ct_key *key = &own;
    uint64_t hash;
    uint32_t ref = PAL_NONE;
    if (PAL_LIKELY(hint && hint->entry != HINT_UNKEYED)) {
        key = hint->key;
        hash = hint->hash;
        if (PAL_LIKELY(hint->ref != PAL_NONE) && PAL_LIKELY(ct_is(t, hint->ref, key, key_addr_word(key, hash))))
            ref = hint->ref;
    } else {
        judge_key(&c, &own, &hash);
    }
    if (PAL_UNLIKELY(key->zone == PAL_NONE)) {
        judge_verdict(&c, PAL_DROP, PAL_REASON_CT_FULL, PAL_CT_NEW);
        return;
    }
    if (PAL_UNLIKELY(ref == PAL_NONE))
        ref = ct_find(t, key, hash);
    if (PAL_LIKELY(ref != PAL_NONE)) {
        if (PAL_UNLIKELY(wheel_is_past(t, t->hot[ref].deadline)))
            ct_end(t, ref, CT_END_TIMEOUT);
        else if (PAL_LIKELY(judge_hit(&c, ref, ct_direction(&t->hot[ref], key))))
            return;
        j->reply = 0;
        j->ref = PAL_NONE;
    }
    judge_miss(&c);
}

/* Do the filter's layer-2 rules drop this frame? Then *j says so. `counted`: what the rule's counters grow by. */
PAL_OUTLINE bool pipeline_refused(pal_worker *w, const pal_filter *f, uint8_t dir, const pal_packet *frame,
                                  const pal_packet *counted, pal_judgement *j)
{
    if (!f->rules || frame->reason || frame->l2_len == 0 || frame->l2_len == L2_BARE)
        return false;
    const pal_ether_rule *r = ether_match(f->ether, frame, f->both ? PAL_DIR_IN | PAL_DIR_OUT : dir);
    if (!r || r->action == PAL_ACTION_ALLOW)
        return false;
    *j = (pal_judgement){.cookie = frame->cookie, .rule = r->rule, .ref = PAL_NONE, .filter = f->number, .dir = dir,
                         .bytes = frame->ip_len, .verdict = PAL_DROP, .reason = PAL_REASON_MATCH, .ct = PAL_CT_UNTRACKED,
                         .first = 1};
    if (r->rule < w->rules)
        w->rule[r->rule].hits++;
    rule_count_direct(w, j, counted);
    return true;
}

#include "datagram.h"

/* One visit the long way, and the verdict counted; true when the packet passes. */
PAL_OUTLINE bool pipeline_judge_any(pal_worker *w, pal_burst *b, uint32_t v)
{
    const pal_filter *f = b->filter[v];
    pal_packet *p = b->packet[v];
    if (b->entry[v] == HINT_ACK) {
        key_from_packet(&b->key[v], p, f->zone);
        b->entry[v] = HINT_OPEN;
    }
    judge_hint hint = {.key = &b->key[v], .hash = b->hash[v], .ref = b->ref[v], .entry = b->entry[v],
                       .again = b->again_known ? b->again[v] : HINT_OPEN, .seq = b->quote_seq[v]};
    worker_room(w);
    pal_judgement *j = worker_next(w);
    if (!f->ether || !pipeline_refused(w, f, visit_dir(b, v), p, p, j))
        pipeline_judge_whole(w, f, visit_dir(b, v), p, &hint, j);
    worker_emit(w, j);
    return j->verdict == PAL_ALLOW;
}

/* What is odd about a packet is counted once, whatever becomes of it; true: it is a fragment, and dealt with. */
PAL_OUTLINE bool pipeline_special(pal_worker *w, const pal_burst *b, uint32_t v)
{
    pal_packet *p = b->packet[v];
    if (visit_is_second(b, v))
        return false;
    w->bad_ip_sum += p->ip_sum == SUM_BAD;
    w->bad_l4_sum += p->l4_sum == SUM_BAD;
    w->odd += p->odd & ODD_SOURCE;
    if (!(p->marks & MARK_FRAGMENT) || p->reason)
        return false;
    worker_room(w);
    pal_route route = visit_route(b, v);
    datagram_take(w, &route, p);
    return true;
}

/* One visit; true when there may be another of the same packet. */
PAL_INLINE bool pipeline_judge_one(pal_worker *w, pal_burst *b, uint32_t v)
{
    if (PAL_UNLIKELY(b->packet[v]->clock_ns >= w->clock_due))
        pipeline_clock(w, b->packet[v]->clock_ns);
    if (PAL_LIKELY(b->entry[v] == HINT_ACK)) {
        w->received++;
#ifndef PAL_NO_FAST
        if (PAL_LIKELY(fast_judge(w, b, v, worker_next(w)))) {
            w->out_count++;
            w->count[PAL_ALLOW][PAL_REASON_STATE]++;
            return true;
        }
#endif
        return pipeline_judge_any(w, b, v);
    }
    if (pipeline_special(w, b, v))
        return false;
    w->received++;
    return pipeline_judge_any(w, b, v);
}

/* All visits in their order. Eight at once where nothing speaks against it: nobody's clock is due, nobody wants records. */
PAL_INLINE void pipeline_judge(pal_worker *w, pal_burst *b)
{
    bool passed = true, wide = w->wide && !w->observed;
    for (uint32_t v = 0; v < b->n;) {
        uint32_t end = min_u32(v + WIDE_LANES, b->n);
#ifndef PAL_NO_FAST
        if (PAL_LIKELY(wide) && PAL_LIKELY(passed) && end - v == WIDE_LANES && PAL_LIKELY(b->latest_ns < w->clock_due) &&
            PAL_LIKELY(wide_judge(w, b, v))) {
            w->received += WIDE_LANES;
            w->count[PAL_ALLOW][PAL_REASON_STATE] += WIDE_LANES;
            v = end;
            continue;
        }
#endif
        for (; v < end; v++) {
            if (PAL_UNLIKELY(!passed) && visit_is_second(b, v))
                continue;
            passed = pipeline_judge_one(w, b, v);
        }
    }
}

/* A burst of parsed packets, at most WORKER_BURST. */
static inline void pipeline_burst(pal_worker *w, const pal_route *route, pal_packet *packet, uint32_t n)
{
    pal_burst b;
    pipeline_visits(w, &b, route, packet, n);
    if (PAL_UNLIKELY(pipeline_prefetch(w, &b)))
        pipeline_classify(w->snap, &b);
    if (PAL_UNLIKELY(w->rejudged)) {
        w->rejudged = 0;
        pipeline_again(w, &b);
    }
    worker_room(w);
    pipeline_judge(w, &b);
}

#endif
