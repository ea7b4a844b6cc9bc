/* SPDX-License-Identifier: Apache-2.0
 *
 * ahead.h - the rules are asked ahead of the verdict, for a burst's visits together: those that seem to begin a connection, and
 * after a change of rules those whose connection is to be judged again. Included by pipeline.h. Hints: the judge uses an
 * answer only where it then finds what was supposed here.
 */
#ifndef PAL_CORE_AHEAD_H
#define PAL_CORE_AHEAD_H

/* The rules for visits that seem to be misses, a run of one rule set's at a time. */
PAL_OUTLINE void pipeline_classify(const pal_snap *snap, pal_burst *b)
{
    pal_key key[WORKER_BURST];
    uint32_t entry[WORKER_BURST], who[WORKER_BURST];
    for (uint32_t v = 0; v < b->n;) {
        const struct pal_ruleset *rules = NULL;
        uint32_t k = 0;
        for (; v < b->n && k < WORKER_BURST; v++) {
            const pal_filter *f = b->filter[v];
            if (b->entry[v] != HINT_OPEN || b->ref[v] != PAL_NONE)
                continue;
            if (k && f->rules != rules)
                break;
            rules = f->rules;
            rule_key(&key[k], f, b->packet[v], visit_dir(b, v));
            who[k++] = v;
        }
        if (k == 0)
            return;
        classify_burst(snap, rules, key, k, entry);
        for (uint32_t j = 0; j < k; j++)
            b->entry[who[j]] = entry[j];
    }
}

/* Is the connection to be judged again by the rules? */
PAL_INLINE bool ahead_is_stale(const ct_hot *h, const pal_filter *f)
{
    return h->epoch != f->epoch && !(h->marks & CT_CHILD) && !(h->state & CT_PERSIST);
}

/* Is it the connection of a packet that may go the common way? One of another kind may have the same addresses and ports. */
PAL_INLINE bool ahead_is_own(const ct_table *t, const pal_burst *b, uint32_t v)
{
    return ct_kind_of(&t->hot[b->ref[v]]) == KIND_TCP && fast_is(t, b, v);
}

/* A visit that seems to meet a connection. What goes the common way needs nothing. Else it is made ready for the long way, and
 * what that needs beyond the hot line is fetched. True: the rules are to be asked again. */
PAL_INLINE bool ahead_visit(const pal_worker *w, pal_burst *b, uint32_t v)
{
    const pal_filter *f = b->filter[v];
    const ct_table *t = &w->table;
    uint32_t ref = b->ref[v], entry = b->entry[v];
    if (ref == PAL_NONE || !f->rules || (entry != HINT_ACK && entry != HINT_OPEN && entry != HINT_QUOTED))
        return false;
    if (PAL_LIKELY(entry == HINT_ACK)) {
        fast_step step;
        if (PAL_LIKELY(fast_test(w, b, v, &step)))
            return false;
        if (ahead_is_stale(&t->hot[ref], f) && ahead_is_own(t, b, v)) {
            prefetch_write(&t->cold[ref]);
            return true;
        }
        key_from_packet(&b->key[v], b->packet[v], f->zone);
        b->entry[v] = HINT_OPEN;
    }
    const ct_hot *h = &t->hot[ref];
    bool stale = ahead_is_stale(h, f);
    if (!stale && ct_kind_of(h) != KIND_TCP)
        return false;
    prefetch_write(&t->cold[ref]);
    return stale && ct_is(t, ref, &b->key[v], key_addr_word(&b->key[v], b->hash[v]));
}

/* A connection that ends, or gets an earlier deadline, leaves its neighbours in the wheel. */
PAL_INLINE void ahead_neighbours(const ct_table *t, uint32_t ref)
{
    const ct_cold *c = &t->cold[ref];
    if (c->wheel_next != PAL_NONE)
        prefetch_write(&t->cold[c->wheel_next]);
    if (!(c->wheel_prev & WHEEL_HEAD))
        prefetch_write(&t->cold[c->wheel_prev]);
}

/* Packets of the burst before went astray (pal_worker.astray): a refusal, a change of state, a connection judged again by the
 * rules. So may some of this one: they are found, so that what they need comes for all of them together, and costs a burst no
 * more than its misses do. Nobody else's path gets longer; without such packets nothing is looked at. */
PAL_OUTLINE void pipeline_astray(pal_worker *w, pal_burst *b)
{
    pal_key key[WORKER_BURST];
    uint32_t entry[WORKER_BURST], who[WORKER_BURST];
    for (uint32_t v = 0; v < b->n; v++)
        b->stale |= (uint64_t)ahead_visit(w, b, v) << v;
    if (b->mixed)
        for (uint32_t v = 0; v < b->n; v++)
            if (b->ref[v] != PAL_NONE && b->entry[v] == HINT_OPEN && (b->packet[v]->tcp_flags & (TCP_FIN | TCP_RST)))
                ahead_neighbours(&w->table, b->ref[v]);
    for (uint64_t left = b->stale; left;) {
        const struct pal_ruleset *rules = b->filter[__builtin_ctzll(left)]->rules;
        uint32_t k = 0;
        for (; left && k < WORKER_BURST; left &= left - 1) {
            uint32_t v = (uint32_t)__builtin_ctzll(left);
            if (b->filter[v]->rules != rules)
                break;
            rejudge_key(&w->table, b->filter[v], b->ref[v], &key[k]);
            who[k++] = v;
        }
        classify_burst(w->snap, rules, key, k, entry);
        for (uint32_t i = 0; i < k; i++)
            b->again[who[i]] = entry[i];
    }
}

/* The connection of visit v, an established packet's, is kept by the rules that were asked ahead: said before the packet is judged, so
 * that it may take the common way. */
PAL_OUTLINE void ahead_keep(pal_worker *w, const pal_burst *b, uint32_t v)
{
    const pal_filter *f = b->filter[v];
    uint32_t ref = b->ref[v], entry = b->again[v];
    const ct_hot *h = &w->table.hot[ref];
    if (entry == PAL_NONE || !rejudge_keeps(&f->rules->rules[entry]) || !ahead_is_own(&w->table, b, v) || !ahead_is_stale(h, f) ||
        wheel_is_past(&w->table, h->deadline))
        return;
    w->astray++;
    rejudge_keep(w, f, ref, &f->rules->rules[entry]);
}

#endif
