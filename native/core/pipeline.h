/* SPDX-License-Identifier: Apache-2.0
 *
 * pipeline.h - the packet's path. A burst goes through the stages below; each is a function named here.
 *
 *     parse             parse_frame        bytes -> pal_packet, or a reason            (parse.h); before the burst is handed in
 *     look up           pipeline_visits    a visit for each packet and filter; keys, hashes; index lines are on their way
 *                       pipeline_prefetch  the connection that it may be; its line is on its way       (look_up.h)
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

#include "look_up.h"
#include "ahead.h"

#define PIPELINE_AHEAD 40u /* visits: pipeline_groups */

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
    uint32_t ref = PAL_NONE, direction = 0;
    if (PAL_LIKELY(hint && hint->entry != HINT_UNKEYED)) {
        key = hint->key;
        hash = hint->hash;
        if (PAL_LIKELY(hint->ref != PAL_NONE) && PAL_LIKELY(ct_is(t, hint->ref, key, key_addr_word(key, hash)))) {
            ref = hint->ref;
            direction = ct_direction(&t->hot[ref], key);
        }
    } else {
        judge_key(&c, &own, &hash);
    }
    if (PAL_UNLIKELY(key->zone == PAL_NONE)) {
        judge_verdict(&c, PAL_DROP, PAL_REASON_CT_FULL, PAL_CT_NEW);
        return;
    }
    if (PAL_UNLIKELY(ref == PAL_NONE))
        ref = ct_find_direction(t, key, hash, &direction);
    if (PAL_LIKELY(ref != PAL_NONE)) {
        if (PAL_UNLIKELY(wheel_is_past(t, t->hot[ref].deadline)))
            ct_end(t, ref, CT_END_TIMEOUT);
        else if (PAL_LIKELY(judge_hit(&c, ref, direction)))
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
                       .again = b->stale >> v & 1 ? b->again[v] : HINT_OPEN, .seq = b->quote_seq[v]};
    worker_room(w);
    pal_judgement *j = worker_next(w);
    if (!f->ether || !pipeline_refused(w, f, visit_dir(b, v), p, p, j))
        pipeline_judge_whole(w, f, visit_dir(b, v), p, &hint, j);
    worker_log(w, j, p);
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
        if (PAL_UNLIKELY(b->stale >> v & 1))
            ahead_keep(w, b, v);
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

/* Visits [v, to) in their order; none of them is the second of a packet whose first is not. Eight at once where nothing speaks
 * against it: nobody's clock is due. */
PAL_INLINE void pipeline_judge(pal_worker *w, pal_burst *b, uint32_t v, uint32_t to)
{
    bool passed = true, wide = w->wide;
    while (v < to) {
        uint32_t end = min_u32(v + WIDE_LANES, to);
#ifndef PAL_NO_FAST
        if (PAL_LIKELY(wide) && PAL_LIKELY(passed) && end - v == WIDE_LANES && PAL_LIKELY(b->latest_ns < w->clock_due) &&
            PAL_LIKELY((b->stale >> v & 0xff) == 0) && PAL_LIKELY(wide_judge(w, b, v))) {
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
    (void)wide;
}

/* The connections and rules that a burst's visits may meet. */
PAL_INLINE void pipeline_look_up(pal_worker *w, pal_burst *b)
{
    const bool misses = pipeline_prefetch(w, b, 0, b->n);
    pipeline_settle_before(w, b, b->n);
    if (PAL_UNLIKELY(misses))
        pipeline_classify(w->snap, b);
    if (PAL_UNLIKELY(w->astray)) {
        w->astray = 0;
        pipeline_astray(w, b);
    }
}

/* Any number of parsed packets, a burst of WORKER_BURST at a time. A burst's keys are made, and its index lines asked for,
 * before the burst ahead of it is judged: so that what comes from memory is on its way meanwhile. Keys and hashes are the
 * packets' own, whatever is judged before them; connections are looked for afterwards. */
PAL_INLINE void pipeline_bursts(pal_worker *w, const pal_route *route, pal_packet *packet, uint32_t n)
{
    pal_burst burst[2];
    pipeline_visits(w, &burst[0], route, packet, min_u32(n, WORKER_BURST));
    pipeline_look_up(w, &burst[0]);
    for (uint32_t at = WORKER_BURST, turn = 0;; at += WORKER_BURST, turn ^= 1) {
        pal_burst *now = &burst[turn], *next = &burst[turn ^ 1];
        bool more = at < n;
        if (more)
            pipeline_visits(w, next, route + at, packet + at, min_u32(n - at, WORKER_BURST));
        worker_room(w);
        pipeline_judge(w, now, 0, now->n);
        if (!more)
            return;
        pipeline_look_up(w, next);
    }
}

/* A burst whose visits have been added, eight at a time: connections are asked for three groups ahead of those that are judged, and
 * `judged` acts on the verdicts in between, so that what comes from memory never has to queue. No packet has a second visit. What
 * may change what others meet goes in one piece. */
PAL_INLINE void pipeline_groups(pal_worker *w, pal_burst *b, void (*judged)(pal_worker *w))
{
    uint32_t judge = 0, n = b->n;
    if (PAL_UNLIKELY(b->mixed) || PAL_UNLIKELY(w->astray)) {
        pipeline_look_up(w, b);
    } else {
        for (uint32_t v = 0; v < n; v += WIDE_LANES) {
            if (PAL_UNLIKELY(pipeline_prefetch(w, b, v, min_u32(v + WIDE_LANES, n)))) {
                pipeline_prefetch(w, b, min_u32(v + WIDE_LANES, n), n);
                pipeline_settle_before(w, b, n);
                pipeline_classify(w->snap, b);
                break;
            }
            if (v < PIPELINE_AHEAD)
                continue;
            pipeline_settle_before(w, b, judge + WIDE_LANES);
            worker_room(w);
            pipeline_judge(w, b, judge, judge + WIDE_LANES);
            judge += WIDE_LANES;
            judged(w);
        }
        pipeline_settle_before(w, b, n);
    }
    for (; judge < n; judge += WIDE_LANES) {
        worker_room(w);
        pipeline_judge(w, b, judge, min_u32(judge + WIDE_LANES, n));
        judged(w);
    }
}

#ifdef PAL_WIDE
/* The same, compiled for a machine with AVX2: a tenth fewer instructions. */
WIDE PAL_OUTLINE void pipeline_bursts_wide(pal_worker *w, const pal_route *route, pal_packet *packet, uint32_t n) { pipeline_bursts(w, route, packet, n); }
WIDE PAL_OUTLINE void pipeline_groups_wide(pal_worker *w, pal_burst *b, void (*judged)(pal_worker *w)) { pipeline_groups(w, b, judged); }
WIDE PAL_OUTLINE void pipeline_keys_wide(pal_worker *w, pal_burst *b, uint32_t visits) { pipeline_keys(w, b, visits); }
#endif

static inline void pipeline_burst(pal_worker *w, const pal_route *route, pal_packet *packet, uint32_t n)
{
    if (n == 0)
        return;
#ifdef PAL_WIDE
    if (PAL_LIKELY(w->wide)) {
        pipeline_bursts_wide(w, route, packet, n);
        return;
    }
#endif
    pipeline_bursts(w, route, packet, n);
}

/* The same in two steps, for whoever has something else to do between packets. Visits as the packets become known: those up to
 * `visits` have been entered one by one (pipeline_visit), none of a packet later than latest_ns; then all of them. */
static inline void pipeline_entered(pal_worker *w, pal_burst *b, uint32_t visits, uint64_t latest_ns)
{
    b->latest_ns = latest_ns > b->latest_ns ? latest_ns : b->latest_ns;
#ifdef PAL_WIDE
    if (PAL_LIKELY(w->wide)) {
        pipeline_keys_wide(w, b, visits);
        return;
    }
#endif
    pipeline_keys(w, b, visits);
}

static inline void pipeline_finish(pal_worker *w, pal_burst *b, void (*judged)(pal_worker *w))
{
#ifdef PAL_WIDE
    if (PAL_LIKELY(w->wide)) {
        pipeline_groups_wide(w, b, judged);
        return;
    }
#endif
    pipeline_groups(w, b, judged);
}

#endif
