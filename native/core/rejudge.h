/* SPDX-License-Identifier: Apache-2.0
 *
 * rejudge.h - a connection older than its filter's epoch is judged again, once (SEMANTICS, Change). Included by judge.h.
 */
#ifndef PAL_CORE_REJUDGE_H
#define PAL_CORE_REJUDGE_H

enum rejudge { REJUDGE_KEPT, REJUDGE_REFUSED, REJUDGE_STATELESS };

/* The parent of an ALG's child, or PAL_NONE when it has ended. */
static inline uint32_t child_parent(const ct_table *t, uint32_t ref)
{
    uint32_t parent = t->cold[ref].link[0];
    if (t->cold[parent].generation != t->cold[ref].link[1] || wheel_is_past(t, t->hot[parent].deadline))
        return PAL_NONE;
    return parent;
}

static inline void rejudge_rule_set(pal_worker *w, uint32_t ref, uint32_t rule)
{
    uint32_t *now = &w->table.cold[ref].rule;
    if (*now == rule)
        return;
    rule_settle(w, *now, ref, true);
    rule_settle(w, rule, ref, false);
    *now = rule;
}

/* The rules' view of the connection's first packet. */
static inline void rejudge_key(const ct_table *t, const pal_filter *f, uint32_t ref, pal_key *k)
{
    const ct_hot *h = &t->hot[ref];
    uint32_t high = h->marks >> 3 & 1;
    memset(k, 0, sizeof *k);
    if (PAL_LIKELY(ref < t->cap4)) {
        k->family = PAL_FAMILY_V4;
        memcpy(k->src, &h->addr[high], 4);
        memcpy(k->dst, &h->addr[!high], 4);
    } else {
        const ct_addr6 *a = &t->addr6[ref - t->cap4];
        k->family = PAL_FAMILY_V6;
        memcpy(k->src, a->addr[high], 16);
        memcpy(k->dst, a->addr[!high], 16);
    }
    k->dir = f->both ? PAL_DIR_IN | PAL_DIR_OUT : t->cold[ref].memo & MEMO_INWARD ? PAL_DIR_IN : PAL_DIR_OUT;
    uint8_t kind = ct_kind_of(h);
    switch (kind) {
    case KIND_ICMP:
        k->proto = k->family == PAL_FAMILY_V4 ? PROTO_ICMP : PROTO_ICMP6;
        k->dport = (uint16_t)(h->port[1] >> 1 << 8);
        break;
    case KIND_OTHER:
        k->proto = (uint8_t)h->port[0];
        break;
    default:
        k->proto = kind == KIND_TCP ? PROTO_TCP : kind == KIND_UDP ? PROTO_UDP : PROTO_SCTP;
        k->sport = h->port[high];
        k->dport = h->port[!high];
        k->tcp_flags = kind == KIND_TCP ? TCP_SYN : 0;
    }
}

/* Both ends of a TCP connection are told that it is over: the packet's sender, which is its end `dir` at port[0], and the
 * other one. */
static inline void rejudge_reset(judge_case *c, uint32_t ref, uint32_t dir, const uint16_t port[2])
{
    pal_worker *w = c->w;
    const pal_packet *p = c->p;
    const uint8_t *addr[2] = {packet_src(p), packet_dst(p)};
    if (!reject_may_answer(p) || !judge_may_answer(c))
        return;
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t len = reject_end(w->answer, &w->table.hot[ref], i ? !dir : dir, p->family, addr[i], addr[!i], port[i], port[!i]);
        if (len && w->generated)
            w->generated(w, w->answer, len, p, c->f->number, c->dir);
    }
}

/* REJECT cuts a connection: both ends of a TCP connection are told, others' packet gets its ICMP answer. */
static inline void rejudge_answer(judge_case *c, uint32_t ref, uint32_t dir)
{
    if (c->p->proto == PROTO_TCP)
        rejudge_reset(c, ref, dir, (const uint16_t[]){c->p->sport, c->p->dport});
    else
        (void)judge_answer(c);
}

PAL_INLINE bool rejudge_keeps(const pal_rule *r) { return r && r->action == PAL_ACTION_ALLOW && (r->flags & PAL_RULE_STATEFUL); }

/* The connection goes on under rule `r`. */
static inline void rejudge_keep(pal_worker *w, const pal_filter *f, uint32_t ref, const pal_rule *r)
{
    ct_table *t = &w->table;
    ct_hot *h = &t->hot[ref];
    rejudge_rule_set(w, ref, r->rule);
    h->epoch = f->epoch;
    h->state = (uint8_t)((h->state & ~CT_PERSIST) | (r->flags & PAL_RULE_PERSIST ? CT_PERSIST : 0));
    bool alg = (r->alg == PAL_ALG_FTP && ct_kind_of(h) == KIND_TCP) || (r->alg == PAL_ALG_TFTP && ct_kind_of(h) == KIND_UDP);
    if (!alg && (h->marks & CT_ALG))
        t->gone(t->context, ref);
    h->marks = (uint8_t)((h->marks & ~CT_ALG) | (alg ? CT_ALG : 0));
}

/* The rule that decides on the connection's first packet now; NULL: none. */
static inline const pal_rule *rejudge_match(const judge_case *c, uint32_t ref)
{
    const pal_ruleset *rules = c->f->rules;
    pal_key key;
    if (PAL_LIKELY(c->hint && c->hint->again != HINT_OPEN && c->hint->ref == ref)) {
        uint32_t entry = c->hint->again;
        if (entry == PAL_NONE)
            return NULL;
        if (PAL_LIKELY(rules->rules[entry].action != PAL_ACTION_RESUME))
            return &rules->rules[entry];
        rejudge_key(&c->w->table, c->f, ref, &key);
        return judge_resume(c->w, rules, entry, &key, false);
    }
    rejudge_key(&c->w->table, c->f, ref, &key);
    return judge_resume(c->w, rules, classify_one(c->w->snap, rules, &key), &key, false);
}

/* An ALG's child is judged through its parent (SEMANTICS, Change), by the first packet of that one, which ends where it is
 * refused: a transfer must not outlive its rule because the other connection is silent. Both have the same two ends. */
static inline void rejudge_parent(judge_case *c, uint32_t parent)
{
    ct_table *t = &c->w->table;
    ct_hot *h = &t->hot[parent];
    if (h->state & CT_PERSIST) {
        h->epoch = c->f->epoch;
        return;
    }
    const pal_rule *r = rejudge_match(c, parent);
    if (rejudge_keeps(r)) {
        rejudge_keep(c->w, c->f, parent, r);
        return;
    }
    if (r && r->action == PAL_ACTION_REJECT && ct_kind_of(h) == KIND_TCP) {
        pal_key k;
        rejudge_key(t, c->f, parent, &k);
        uint32_t dir = memcmp(k.src, packet_src(c->p), addr_bytes(c->p)) != 0;
        rejudge_reset(c, parent, dir, (const uint16_t[]){dir ? k.dport : k.sport, dir ? k.sport : k.dport});
    }
    ct_end(t, parent, CT_END_POLICY);
}

PAL_OUTLINE enum rejudge rejudge_connection(judge_case *c, uint32_t ref, uint32_t dir)
{
    ct_table *t = &c->w->table;
    ct_hot *h = &t->hot[ref];
    c->w->astray++;
    if (h->state & CT_PERSIST) {
        h->epoch = c->f->epoch;
        return REJUDGE_KEPT;
    }
    if (h->marks & CT_CHILD) {
        uint32_t parent = child_parent(t, ref);
        if (parent != PAL_NONE && t->hot[parent].epoch != c->f->epoch) {
            rejudge_parent(c, parent);
            parent = child_parent(t, ref);
        }
        if (parent != PAL_NONE)
            rejudge_rule_set(c->w, ref, t->cold[parent].rule);
        h->epoch = c->f->epoch;
        return REJUDGE_KEPT;
    }
    const pal_rule *r = rejudge_match(c, ref);
    if (rejudge_keeps(r)) {
        rejudge_keep(c->w, c->f, ref, r);
        return REJUDGE_KEPT;
    }
    if (r && r->action == PAL_ACTION_ALLOW) {
        ct_end(t, ref, CT_END_POLICY);
        return REJUDGE_STATELESS;
    }
    if (c->p->marks & MARK_ICMP_ERROR) { /* is judged as one about no connection */
        ct_end(t, ref, CT_END_POLICY);
        return REJUDGE_REFUSED;
    }
    judge_verdict(c, PAL_DROP, PAL_REASON_POLICY_CHANGE, h->marks & CT_REPLIED ? PAL_CT_ESTABLISHED : PAL_CT_NEW);
    if (r) {
        c->j->rule = r->rule;
        rule_count_direct(c->w, c->j, c->p);
        if (r->action == PAL_ACTION_REJECT)
            rejudge_answer(c, ref, dir);
    }
    flow_dropped(t, ref, c->p->fragments);
    ct_end(t, ref, CT_END_POLICY);
    return REJUDGE_REFUSED;
}

#endif
