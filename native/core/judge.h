/* SPDX-License-Identifier: Apache-2.0
 *
 * judge.h - one filter's verdict on one whole packet: state first, then rules (docs/packet-path.md, sections 2, 4, 5).
 */
#ifndef PAL_CORE_JUDGE_H
#define PAL_CORE_JUDGE_H

#include "filter.h"
#include "flow.h"

/* What the look-up stages found out ahead of the verdict. Hints only: all of it is checked or done again. */
typedef struct judge_hint {
    const ct_key *key;
    uint64_t hash;
    uint32_t ref;    /* a connection that may be the packet's, or PAL_NONE */
    uint32_t entry;  /* the first rule that matches or PAL_NONE, if it was looked up; else one of the following */
    uint32_t again;  /* the same for what began connection `ref`, or HINT_OPEN */
    uint32_t seq;    /* HINT_QUOTED: of the packet that is quoted */
} judge_hint;

#define HINT_QUOTED 0xfffffffbu        /* an ICMP error: key and hash are of the packet that it quotes */
#define HINT_UNKEYED 0xfffffffcu       /* the packet has no key, or its filter no rules */
#define HINT_OPEN 0xfffffffdu          /* rules not asked */
#define HINT_ACK 0xfffffffeu           /* and the packet is of CLASS_ACK and `ref` not PAL_NONE: fast_judge may look at it */

PAL_INLINE bool hint_is_classified(const judge_hint *h) { return h->entry < HINT_QUOTED || h->entry == PAL_NONE; }

/* A packet under judgement: everything its steps share. */
typedef struct judge_case {
    pal_worker *w;
    const pal_filter *f;
    pal_packet *p;
    const judge_hint *hint;
    pal_judgement *j;
    uint8_t dir;
    bool misfit;   /* nothing may begin with it */
    bool untracked;
    uint8_t full;  /* why there was no room for its connection */
} judge_case;

static inline void judge_verdict(judge_case *c, uint8_t verdict, uint8_t reason, uint8_t ct)
{
    c->j->verdict = verdict;
    c->j->reason = reason;
    c->j->ct = ct;
}

static inline bool judge_may_answer(const judge_case *c)
{
    const pal_worker *w = c->w;
    return reject_allowed(&w->rejects[c->f->number], w->limits, c->f->both, side_of(c->f->both, c->dir), packet_src(c->p),
                          c->p->family, w->table.s->now);
}

/* Sends an answer if one may and can be given; false: the rate is used up. */
PAL_OUTLINE bool judge_answer(judge_case *c)
{
    pal_worker *w = c->w;
    if (!reject_may_answer(c->p))
        return true;
    if (!judge_may_answer(c))
        return false;
    uint32_t len = reject_answer(w->answer, c->p);
    if (w->generated)
        w->generated(w, w->answer, len, c->p, c->f->number, c->dir);
    return true;
}

PAL_INLINE void ct_renew(ct_table *t, uint32_t ref, uint32_t deadline)
{
    uint32_t old = t->hot[ref].deadline;
    t->hot[ref].deadline = deadline;
    if (PAL_UNLIKELY((int32_t)(deadline - old) < 0))
        wheel_move(t, ref);
}

PAL_INLINE uint32_t deadline_of(const ct_table *t, const pal_filter *f, const ct_hot *h)
{
    return (uint32_t)t->s->now + f->timeout[timer_of(h)];
}

/* ---- miss -------------------------------------------------------------------------------------------------- */

static inline void judge_key(const judge_case *c, ct_key *k, uint64_t *hash)
{
    key_from_packet(k, c->p, filter_zone(c->w, c->f, c->p->vrf));
    *hash = key_hash(k, c->w->table.s->seed);
}

/* The budget that a connection which begins with this packet needs. */
static inline void judge_claim(const judge_case *c, half_open_claim *claim)
{
    *claim = (half_open_claim){.filter = c->f->number, .side = (uint8_t)side_of(c->f->both, c->dir), .tap = c->f->both};
    if (claim->side == SIDE_OWN)
        return;
    claim->family = c->p->family;
    prefix_of(claim->prefix, packet_src(c->p), c->p->family);
}

/* The connection's first packet has been allowed by `rule` or expected by `parent`. PAL_NONE: there is no room. */
PAL_OUTLINE uint32_t judge_create(judge_case *c, uint32_t rule, uint8_t rule_flags, uint8_t alg, uint32_t parent)
{
    ct_table *t = &c->w->table;
    ct_key key;
    uint64_t hash;
    judge_key(c, &key, &hash);
    uint32_t generation = parent != PAL_NONE ? t->cold[parent].generation : 0;
    c->full = PAL_REASON_FLOOD_LIMIT;
    if (PAL_UNLIKELY(!flood_room(t, c->f->flood, key.zone, key.kind, tcp_is_bare_syn(c->p->tcp_flags))))
        return PAL_NONE;
    half_open_claim claim;
    if (PAL_UNLIKELY(t->half_open != NULL)) {
        judge_claim(c, &claim);
        c->full = PAL_REASON_HALF_OPEN;
        if (!half_open_room(t, &claim))
            return PAL_NONE;
    }
    c->full = PAL_REASON_CT_FULL;
    uint32_t ref = ct_create(t, &key, hash, parent != PAL_NONE);
    if (ref == PAL_NONE)
        return PAL_NONE;
    if (PAL_UNLIKELY(t->half_open != NULL))
        half_open_enter(t, ref, &claim);
    ct_hot *h = &t->hot[ref];
    ct_cold *cold = &t->cold[ref];
    h->epoch = c->f->epoch;
    cold->rule = rule;
    if (parent != PAL_NONE) {
        cold->link[0] = parent;
        cold->link[1] = generation;
        if (t->cold[parent].generation == generation) /* the parent itself may have gone to make room */
            ct_renew(t, parent, deadline_of(t, c->f, &t->hot[parent]));
    }
    if (c->dir == PAL_DIR_IN)
        cold->memo |= MEMO_INWARD;
    if (rule_flags & PAL_RULE_PERSIST)
        h->state |= CT_PERSIST;
    if (key.kind == KIND_TCP)
        tcp_begin(h, cold, c->p);
    else if (key.kind == KIND_SCTP)
        sctp_begin(h, c->p);
    else
        ct_state_set(h, CT_FIRST);
    if (c->p->marks & MARK_GROUP_DST)
        h->state |= CT_ONEWAY;
    if ((alg == PAL_ALG_FTP && key.kind == KIND_TCP) || (alg == PAL_ALG_TFTP && key.kind == KIND_UDP))
        h->marks |= CT_ALG;
    flood_enter(t, ref);
    h->deadline = deadline_of(t, c->f, h);
    wheel_insert(t, ref);
    if (t->flow) {
        t->flow[ref] = (ct_flow){.start_ns = c->p->ts_ns, .last_ns = c->p->ts_ns, .cookie = c->p->cookie,
                                 .filter = c->f->number, .dir = c->dir, .proto = c->p->proto};
        flow_history(&t->flow[ref], 0, c->p);
    }
    ct_count(t, ref, 0, c->p->fragments, c->p->wire_bytes);
    if (h->marks & CT_ALG)
        alg_look(c->w->expected, t, ref, 0, c->p, true);
    return ref;
}

PAL_OUTLINE bool judge_expected(judge_case *c)
{
    uint8_t kind = kind_of(c->p);
    if (kind == KIND_TCP && !tcp_is_bare_syn(c->p->tcp_flags))
        return false;
    ct_table *t = &c->w->table;
    uint32_t parent = expect_take(c->w->expected, t, c->p, filter_zone(c->w, c->f, c->p->vrf), kind);
    if (parent == PAL_NONE)
        return false;
    uint32_t rule = t->cold[parent].rule;
    uint32_t ref = judge_create(c, rule, t->hot[parent].state & CT_PERSIST ? PAL_RULE_PERSIST : 0, PAL_ALG_NONE, parent);
    c->j->rule = rule;
    c->j->ref = ref;
    if (ref == PAL_NONE) {
        judge_verdict(c, PAL_DROP, c->full, PAL_CT_NEW);
        rule_count_direct(c->w, c->j, c->p);
    } else {
        judge_verdict(c, PAL_ALLOW, PAL_REASON_MATCH, PAL_CT_RELATED);
    }
    return true;
}

/* The rule that decides, given the first entry that matches: one that leaves its tier (PASS, JUMP_TO_APPLICATION) sends the
 * search to a later one, at most PAL_TIERS times. NULL: none. hit: such rules count a hit. */
PAL_OUTLINE const pal_rule *judge_resume(pal_worker *w, const pal_ruleset *rules, uint32_t entry, const pal_key *key, bool hit)
{
    for (uint32_t hop = 0; entry != PAL_NONE && hop <= PAL_TIERS; hop++) {
        const pal_rule *r = &rules->rules[entry];
        if (r->action != PAL_ACTION_RESUME)
            return r;
        if (hit && r->rule < w->rules)
            w->rule[r->rule].hits++;
        rules = rules->later[r->resume];
        entry = classify_one(w->snap, rules, key);
    }
    return NULL;
}

static inline const pal_rule *judge_first_match(judge_case *c)
{
    const pal_ruleset *rules = c->f->rules;
    uint32_t entry;
    pal_key key;
    if (PAL_LIKELY(c->hint && hint_is_classified(c->hint))) {
        entry = c->hint->entry;
    } else {
        rule_key(&key, c->f, c->p, c->dir);
        entry = classify_one(c->w->snap, rules, &key);
    }
    if (entry == PAL_NONE)
        return NULL;
    const pal_rule *r = &rules->rules[entry];
    if (PAL_LIKELY(r->action != PAL_ACTION_RESUME))
        return r;
    rule_key(&key, c->f, c->p, c->dir);
    return judge_resume(c->w, rules, entry, &key, true);
}

/* What a stateful ALLOW says to a packet that begins nothing: why not, or PAL_REASON_MATCH when it is picked up. */
static inline uint8_t judge_misfit(const judge_case *c, uint8_t rule_flags)
{
    switch (kind_of(c->p)) {
    case KIND_TCP:
        if (tcp_is_bare_syn(c->p->tcp_flags))
            return PAL_REASON_MATCH;
        if (rule_flags & PAL_RULE_TCP_STRICT)
            return PAL_REASON_TCP_STRICT;
        return c->misfit ? PAL_REASON_TCP_STATE : PAL_REASON_MATCH;
    case KIND_SCTP:
        return c->misfit ? PAL_REASON_SCTP_STATE : PAL_REASON_MATCH;
    default:
        if (c->p->marks & MARK_ICMP_ERROR)
            return PAL_REASON_ICMP_UNRELATED;
        return c->misfit ? PAL_REASON_ICMP_STATE : PAL_REASON_MATCH;
    }
}

/* Is there a miss left in the budget of the side that sent the packet? */
static inline bool judge_may_ask(const judge_case *c)
{
    uint32_t side = side_of(c->f->both, c->dir), limit = limit_of(c->w->limits->misses, c->f->both, side);
    return limit == 0 || miss_allowed(&c->w->misses[c->f->number], side, limit, c->w->table.s->now);
}

PAL_OUTLINE void judge_rules(judge_case *c)
{
    uint8_t refused_ct = c->untracked ? PAL_CT_UNTRACKED : c->misfit ? PAL_CT_INVALID : PAL_CT_NEW;
    if (PAL_UNLIKELY(c->w->misses != NULL) && !judge_may_ask(c)) {
        judge_verdict(c, PAL_DROP, PAL_REASON_MISS_BUDGET, refused_ct);
        return;
    }
    const pal_rule *r = judge_first_match(c);
    if (!r) {
        judge_verdict(c, PAL_DROP, PAL_REASON_NO_RULE, refused_ct);
        return;
    }
    c->j->rule = r->rule;
    c->j->first = 1;
    if (r->rule < c->w->rules)
        c->w->rule[r->rule].hits++;
    bool counted_by_connection = false;
    if (r->action == PAL_ACTION_DROP) {
        judge_verdict(c, PAL_DROP, PAL_REASON_MATCH, refused_ct);
    } else if (r->action == PAL_ACTION_REJECT) {
        bool answered = judge_answer(c);
        judge_verdict(c, answered ? PAL_REJECT : PAL_DROP, answered ? PAL_REASON_MATCH : PAL_REASON_REJECT_RATE, refused_ct);
    } else if (!(r->flags & PAL_RULE_STATEFUL) || c->untracked) {
        judge_verdict(c, PAL_ALLOW, PAL_REASON_MATCH, PAL_CT_UNTRACKED);
    } else {
        uint8_t why = judge_misfit(c, r->flags);
        if (why != PAL_REASON_MATCH) {
            judge_verdict(c, PAL_DROP, why, PAL_CT_INVALID);
        } else {
            uint32_t ref = judge_create(c, r->rule, r->flags, r->alg, PAL_NONE);
            c->j->ref = ref;
            counted_by_connection = ref != PAL_NONE;
            if (ref == PAL_NONE)
                judge_verdict(c, PAL_DROP, c->full, PAL_CT_NEW);
            else
                judge_verdict(c, PAL_ALLOW, PAL_REASON_MATCH, PAL_CT_NEW);
        }
    }
    if (!counted_by_connection)
        rule_count_direct(c->w, c->j, c->p);
}

/* May it begin a connection? */
static inline void judge_fit(judge_case *c)
{
    const pal_packet *p = c->p;
    uint8_t kind = kind_of(p);
    if (kind == KIND_TCP)
        c->misfit = !tcp_may_begin(p->tcp_flags);
    else if (kind == KIND_SCTP)
        c->misfit = (p->tcp_flags & 0x7f) != SCTP_INIT;
    else if (kind == KIND_ICMP)
        c->misfit = p->marks & MARK_ICMP_ANSWER;
    else
        c->misfit = (p->proto == PROTO_ICMP && p->family == PAL_FAMILY_V4) || (p->proto == PROTO_ICMP6 && p->family == PAL_FAMILY_V6);
}

/* A packet without a connection and unexpected: may it begin one, and what do the rules say? */
PAL_OUTLINE void judge_begin(judge_case *c)
{
    judge_fit(c);
    judge_rules(c);
}

PAL_OUTLINE void judge_miss(judge_case *c)
{
    if (!judge_expected(c))
        judge_begin(c);
}

#include "rejudge.h"

/* ---- hit ---------------------------------------------------------------------------------------------------- */

/* A connection's packet has been accepted: count, mark, renew. */
PAL_INLINE void judge_accept(judge_case *c, uint32_t ref, uint32_t dir, bool over)
{
    ct_table *t = &c->w->table;
    ct_hot *h = &t->hot[ref];
    c->j->ct = PAL_CT_ESTABLISHED;
    if (PAL_UNLIKELY(!(h->marks & CT_REPLIED))) {
        if (!dir) {
            c->j->ct = h->marks & CT_CHILD ? PAL_CT_RELATED : PAL_CT_NEW;
        } else {
            if (ct_is_listed(h))
                unanswered_remove(t, ref);
            if (PAL_UNLIKELY(t->half_open != NULL))
                half_open_leave(t, ref);
            h->marks |= CT_REPLIED;
        }
    }
    ct_count(t, ref, dir, c->p->fragments, c->p->wire_bytes);
    uint8_t kind = ct_kind_of(h);
    if (PAL_UNLIKELY(kind != KIND_TCP && kind != KIND_SCTP))
        pseudo_track(h);
    if (PAL_LIKELY(!over)) {
        ct_renew(t, ref, deadline_of(t, c->f, h));
        if (PAL_UNLIKELY(h->marks & CT_CHILD)) /* a child keeps its parent alive, and ends with it */
            ct_renew(t, t->cold[ref].link[0], deadline_of(t, c->f, &t->hot[t->cold[ref].link[0]]));
    }
    flow_accepted(t, ref, dir, c->p);
    if (PAL_UNLIKELY(c->w->name_rules))
        c->j->rule = t->cold[ref].rule;
    c->j->verdict = PAL_ALLOW;
    c->j->reason = PAL_REASON_STATE;
}

PAL_INLINE uint8_t judge_tcp(pal_worker *w, ct_hot *h, ct_cold *cold, uint32_t dir, const pal_packet *p)
{
    uint8_t before = ct_state_of(h), r = tcp_track(h, cold, dir, p);
    if (PAL_UNLIKELY(ct_state_of(h) != before)) {
        w->astray++;
        flood_move(&w->table, h, before);
    }
    return r;
}

/* Returns false when the connection turned out to be over and the packet is a miss. */
PAL_INLINE bool judge_hit(judge_case *c, uint32_t ref, uint32_t dir)
{
    ct_table *t = &c->w->table;
    ct_hot *h = &t->hot[ref];
    ct_cold *cold = &t->cold[ref];
    pal_packet *p = c->p;
    c->j->reply = (uint8_t)dir;
    c->j->ref = ref;
    if (PAL_UNLIKELY(h->epoch != c->f->epoch)) {
        enum rejudge r = rejudge_connection(c, ref, dir);
        if (r != REJUDGE_KEPT) {
            c->j->ref = PAL_NONE;
            if (r == REJUDGE_REFUSED)
                return true;
            c->j->reply = 0;
            judge_begin(c);
            return true;
        }
    }
    if (PAL_UNLIKELY(h->marks & CT_CHILD) && child_parent(t, ref) == PAL_NONE) {
        ct_end(t, ref, CT_END_PARENT);
        return false;
    }
    if (PAL_UNLIKELY(h->state & CT_RESYNC))
        resync_time(t->s, h);
    uint8_t r = PAL_REASON_STATE;
    uint32_t sender_end = h->half[dir].end;
    if (PAL_UNLIKELY((h->state & CT_ONEWAY) && dir))
        r = PAL_REASON_ONEWAY;
    else if (PAL_LIKELY(ct_kind_of(h) == KIND_TCP))
        r = judge_tcp(c->w, h, cold, dir, p);
    else if (ct_kind_of(h) == KIND_SCTP)
        r = sctp_track(h, dir, p);
    if (PAL_LIKELY(r == PAL_REASON_STATE)) {
        judge_accept(c, ref, dir, false);
        if (PAL_UNLIKELY(h->marks & CT_ALG))
            alg_look(c->w->expected, t, ref, dir, p, (h->marks & CT_LIBERAL) || p->seq == sender_end);
        return true;
    }
    if (r == TRACK_OVER) {
        judge_accept(c, ref, dir, true);
        return true;
    }
    if (r == TRACK_REOPEN) {
        ct_end(t, ref, CT_END_REOPENED);
        return false;
    }
    c->w->astray++;
    judge_verdict(c, PAL_DROP, r, PAL_CT_INVALID);
    flow_dropped(t, ref, p->fragments);
    c->j->rule = cold->rule;
    rule_count_direct(c->w, c->j, p);
    return true;
}

#endif
