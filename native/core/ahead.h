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

/* Is the connection that the visit seems to meet to be judged again by the rules? */
PAL_INLINE bool pipeline_is_stale(const pal_worker *w, const pal_burst *b, uint32_t v)
{
    const pal_filter *f = b->filter[v];
    uint32_t ref = b->ref[v];
    if (!f->rules || ref == PAL_NONE || (b->entry[v] != HINT_ACK && b->entry[v] != HINT_OPEN))
        return false;
    const ct_hot *h = &w->table.hot[ref];
    if (h->epoch == f->epoch || (h->marks & CT_CHILD) || (h->state & CT_PERSIST))
        return false;
    return b->entry[v] == HINT_ACK ? fast_is(&w->table, b, v) : ct_is(&w->table, ref, &b->key[v], key_addr_word(&b->key[v], b->hash[v]));
}

/* The rules have changed: connections that seem to be met are asked for ahead, too, so that judging them again costs a burst
 * no more than its misses do. */
PAL_OUTLINE void pipeline_again(pal_worker *w, pal_burst *b)
{
    pal_key key[WORKER_BURST];
    uint32_t entry[WORKER_BURST], who[WORKER_BURST];
    uint64_t stale = 0;
    b->again_known = 1;
    for (uint32_t v = 0; v < b->n; v++) {
        b->again[v] = HINT_OPEN;
        if (!pipeline_is_stale(w, b, v))
            continue;
        prefetch_write(&w->table.cold[b->ref[v]]);
        stale |= 1ull << v;
    }
    for (uint32_t v = 0; v < b->n;) {
        const struct pal_ruleset *rules = NULL;
        uint32_t k = 0;
        for (; v < b->n && k < WORKER_BURST; v++) {
            const pal_filter *f = b->filter[v];
            if (!(stale >> v & 1))
                continue;
            if (k && f->rules != rules)
                break;
            rules = f->rules;
            judge_case c = {.w = w, .f = f, .dir = visit_dir(b, v)};
            rejudge_key(&c, b->ref[v], &key[k]);
            who[k++] = v;
        }
        if (k == 0)
            return;
        classify_burst(w->snap, rules, key, k, entry);
        for (uint32_t i = 0; i < k; i++)
            b->again[who[i]] = entry[i];
    }
}
_Static_assert(BURST_VISITS <= 64, "a bit a visit");

#endif
