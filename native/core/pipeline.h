/* SPDX-License-Identifier: Apache-2.0
 *
 * pipeline.h - the packet's path. A burst goes through the stages below; each is a function named here.
 *
 *     clock, expiry     pipeline_clock     what has run out is ended, a bounded amount for each packet
 *     parse             parse_frame        bytes -> pal_packet, or a reason            (parse.h)
 *     look up           pipeline_prefetch  keys, hashes, index lines, connection lines: hints, nothing is decided
 *     classify          pipeline_classify  packets that seem to have no connection: first matching rule, in one go
 *     judge             pipeline_judge     in the packets' order, one after the other:
 *         layer-2 rules     pipeline_refused   every frame, before anything else       (ether.h)
 *         fragments         pipeline_fragment  held until whole                        (fragment.h)
 *         ICMP errors       judge_icmp_error   by the packet that they quote           (icmp_error.h)
 *         the common case   fast_judge         established TCP, nothing special        (fast.h)
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

#include "fast.h"
#include "icmp_error.h"

/* Where one packet is to be judged: first at one filter (OUT at its sender's, or IN at its receiver's when the sender is
 * not here), then, if it passes, IN at `second`, which may be NULL. Most packets have one stop; which end it is at differs
 * from packet to packet, and this way no branch depends on it. */
typedef struct pal_route {
    const pal_filter *first, *second;
    uint8_t dir; /* at `first`: PAL_DIR_* */
} pal_route;

PAL_INLINE void pipeline_clock(pal_worker *w, uint64_t clock_ns)
{
    ct_state_block *s = w->table.s;
    if (PAL_LIKELY(clock_ns <= w->clock_ns) && PAL_LIKELY(s->wheel_at >= s->now))
        return;
    w->clock_ns = clock_ns > w->clock_ns ? clock_ns : w->clock_ns;
    uint64_t tick = clock_ns / 10000000u;
    while (PAL_UNLIKELY(tick > s->now && tick - s->now > CT_JUMP_MAX)) {
        s->now += CT_JUMP_MAX;
        ct_catch_up(&w->table);
        if (s->used[0] + s->used[1] == 0)
            s->now = s->wheel_at = tick;
    }
    if (tick > s->now)
        s->now = tick;
    if (PAL_UNLIKELY(s->wheel_at < s->now)) {
        ct_expire(&w->table, CT_EXPIRE_STEPS);
        if (PAL_UNLIKELY(s->now - s->wheel_at >= CT_LAG_MAX))
            ct_catch_up(&w->table);
    }
}

/* ---- look up ------------------------------------------------------------------------------------------------ */

PAL_INLINE bool pipeline_is_plain(const pal_packet *p)
{
    return !p->reason && !(p->marks & (MARK_NON_IP | MARK_FRAGMENT | MARK_ICMP_ERROR | MARK_UNTRACKED));
}

PAL_INLINE void pipeline_key(pal_worker *w, const pal_filter *f, const pal_packet *p, judge_hint *hint)
{
    hint->classified = hint->again = hint->quoted = 0;
    hint->ref = PAL_NONE;
    hint->keyed = f->rules && pipeline_is_plain(p);
    if (PAL_UNLIKELY(!hint->keyed)) {
        if (!p->reason && (p->marks & MARK_ICMP_ERROR) && f->rules)
            icmp_error_key(w, f, p, hint);
        return;
    }
    key_from_packet(&hint->key, p, filter_zone(w, f, p->vrf));
    hint->hash = key_hash(&hint->key, w->table.s->seed);
    prefetch_read(&w->table.bucket[hash_bucket(&w->table, hint->hash)]);
}

PAL_INLINE void pipeline_prefetch(pal_worker *w, const pal_packet *p, judge_hint *hint)
{
    if (PAL_UNLIKELY(!hint->keyed)) {
        if (hint->quoted)
            icmp_error_prefetch(&w->table, hint);
        return;
    }
    const ct_bucket *b = &w->table.bucket[hash_bucket(&w->table, hint->hash)];
    uint32_t m = bucket_match(b, hash_tag(hint->hash));
    if (PAL_UNLIKELY(m == 0))
        return;
    hint->ref = b->ref[__builtin_ctz(m)];
    prefetch_write(&w->table.hot[hint->ref]);
    if (PAL_UNLIKELY(p->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST))) /* may change what stands in the cold line */
        prefetch_write(&w->table.cold[hint->ref]);
    if (hint->key.family == PAL_FAMILY_V6 && hint->ref >= w->table.cap4)
        prefetch_read(&w->table.addr6[hint->ref - w->table.cap4]);
}

/* The rules for packets that seem to be misses, a run of one filter's at a time. */
PAL_OUTLINE void pipeline_classify(const pal_snap *snap, const pal_route *route, bool second, const pal_packet *packet,
                                   judge_hint *hint, uint32_t n)
{
    pal_key key[WORKER_BURST];
    uint32_t entry[WORKER_BURST], who[WORKER_BURST];
    for (uint32_t i = 0; i < n;) {
        const struct pal_ruleset *rules = NULL;
        uint32_t k = 0;
        for (; i < n; i++) {
            const pal_filter *f = second ? route[i].second : route[i].first;
            if (!f || !hint[i].keyed || hint[i].ref != PAL_NONE)
                continue;
            if (k && f->rules != rules)
                break;
            rules = f->rules;
            rule_key(&key[k], f, &packet[i], second ? PAL_DIR_IN : route[i].dir);
            who[k++] = i;
        }
        if (k == 0)
            return;
        classify_burst(snap, rules, key, k, entry);
        for (uint32_t j = 0; j < k; j++) {
            hint[who[j]].entry = entry[j];
            hint[who[j]].classified = 1;
        }
    }
}

/* The rules have changed: connections that seem to be met are asked for ahead, too, so that judging them again costs a burst
 * no more than its misses do. */
PAL_OUTLINE void pipeline_again(pal_worker *w, const pal_route *route, bool second, judge_hint *hint, uint32_t n)
{
    pal_key key[WORKER_BURST];
    uint32_t entry[WORKER_BURST], who[WORKER_BURST], stale = 0;
    for (uint32_t i = 0; i < n; i++) {
        const pal_filter *f = second ? route[i].second : route[i].first;
        if (!f || !hint[i].keyed || hint[i].ref == PAL_NONE)
            continue;
        const ct_hot *h = &w->table.hot[hint[i].ref];
        if (h->epoch == f->epoch || (h->marks & CT_CHILD) || (h->state & CT_PERSIST) ||
            !ct_is(&w->table, hint[i].ref, &hint[i].key, key_addr_word(&hint[i].key, hint[i].hash)))
            continue;
        prefetch_write(&w->table.cold[hint[i].ref]);
        stale |= 1u << i;
    }
    for (uint32_t i = 0; i < n;) {
        const struct pal_ruleset *rules = NULL;
        uint32_t k = 0;
        for (; i < n; i++) {
            if (!(stale >> i & 1))
                continue;
            const pal_filter *f = second ? route[i].second : route[i].first;
            if (k && f->rules != rules)
                break;
            rules = f->rules;
            judge_case c = {.w = w, .f = f, .dir = second ? PAL_DIR_IN : route[i].dir};
            rejudge_key(&c, hint[i].ref, &key[k]);
            who[k++] = i;
        }
        if (k == 0)
            return;
        classify_burst(w->snap, rules, key, k, entry);
        for (uint32_t j = 0; j < k; j++) {
            hint[who[j]].entry = entry[j];
            hint[who[j]].again = 1;
        }
    }
}

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
    if (PAL_LIKELY(hint && hint->keyed)) {
        key = &hint->key;
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

/* One packet at one filter, and the verdict counted; true when it passes. */
PAL_INLINE bool pipeline_judge_at(pal_worker *w, const pal_filter *f, uint8_t dir, pal_packet *p, const judge_hint *hint)
{
    pal_judgement *j = worker_next(w);
    w->received++;
    if (PAL_UNLIKELY(f->ether != NULL) && pipeline_refused(w, f, dir, p, p, j)) {
        worker_emit(w, j);
        return false;
    }
#ifndef PAL_NO_FAST
    if (PAL_LIKELY(fast_judge(w, f, dir, p, hint, j))) {
        w->out_count++;
        w->count[PAL_ALLOW][PAL_REASON_STATE]++;
        return true;
    }
#endif
    pipeline_judge_whole(w, f, dir, p, hint, j);
    worker_emit(w, j);
    return j->verdict == PAL_ALLOW;
}

/* One packet at the filters of its route. */
PAL_INLINE void pipeline_judge(pal_worker *w, const pal_route *route, pal_packet *p, const judge_hint *first,
                               const judge_hint *second)
{
    worker_room(w);
    pipeline_clock(w, p->clock_ns);
    if (PAL_UNLIKELY(w->fragments->oldest != FRAG_NONE))
        datagram_expire(w);
    if (PAL_UNLIKELY(((p->ip_sum | p->l4_sum) & SUM_BAD) | p->odd)) {
        w->bad_ip_sum += p->ip_sum == SUM_BAD;
        w->bad_l4_sum += p->l4_sum == SUM_BAD;
        w->odd += p->odd;
    }
    if (PAL_UNLIKELY(p->marks & MARK_FRAGMENT) && !p->reason) {
        datagram_take(w, route, p);
        return;
    }
    if (pipeline_judge_at(w, route->first, route->dir, p, first) && PAL_UNLIKELY(route->second != NULL))
        pipeline_judge_at(w, route->second, PAL_DIR_IN, p, second);
}

/* A burst of parsed packets, at most WORKER_BURST. */
static inline void pipeline_burst(pal_worker *w, const pal_route *route, pal_packet *packet, uint32_t n)
{
    judge_hint first[WORKER_BURST], second[WORKER_BURST];
    uint32_t seconds = 0, misses = 0;
    for (uint32_t i = 0; i < n; i++) {
        pipeline_key(w, route[i].first, &packet[i], &first[i]);
        seconds += route[i].second != NULL;
    }
    for (uint32_t i = 0; seconds && i < n; i++)
        if (route[i].second)
            pipeline_key(w, route[i].second, &packet[i], &second[i]);
    for (uint32_t i = 0; i < n; i++) {
        pipeline_prefetch(w, &packet[i], &first[i]);
        misses += first[i].ref == PAL_NONE;
    }
    for (uint32_t i = 0; seconds && i < n; i++) {
        if (!route[i].second)
            continue;
        pipeline_prefetch(w, &packet[i], &second[i]);
        misses += second[i].ref == PAL_NONE;
    }
    if (PAL_UNLIKELY(misses)) {
        pipeline_classify(w->snap, route, false, packet, first, n);
        if (seconds)
            pipeline_classify(w->snap, route, true, packet, second, n);
    }
    if (PAL_UNLIKELY(w->rejudged)) {
        w->rejudged = 0;
        pipeline_again(w, route, false, first, n);
        if (seconds)
            pipeline_again(w, route, true, second, n);
    }
    for (uint32_t i = 0; i < n; i++)
        pipeline_judge(w, &route[i], &packet[i], &first[i], &second[i]);
}

#endif
