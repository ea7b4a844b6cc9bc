/* SPDX-License-Identifier: Apache-2.0
 *
 * trace.h - what a filter would say to a packet of a trace: by the rules and connections that packets meet, and nothing is changed
 * by it: no connection, no counter, no budget, no answer.
 */
#ifndef PAL_CORE_TRACE_H
#define PAL_CORE_TRACE_H

#include "pipeline.h"

/* A connection that the packet would belong to: its rule decided. Whether the packet fits its windows is not looked at. */
static inline bool trace_state(const pal_worker *w, const pal_filter *f, const pal_packet *p, pal_judgement *j)
{
    const ct_table *t = &w->table;
    ct_key key;
    key_from_packet(&key, p, f->zone);
    const uint32_t ref = ct_find(t, &key, key_hash(&key, t->s->seed));
    if (ref == PAL_NONE || wheel_is_past(t, t->hot[ref].deadline) || t->hot[ref].epoch != f->epoch)
        return false;
    j->rule = t->cold[ref].rule;
    j->verdict = PAL_ALLOW;
    j->reason = PAL_REASON_STATE;
    j->ct = PAL_CT_ESTABLISHED;
    return true;
}

static inline void trace_rules(pal_worker *w, const pal_filter *f, uint8_t dir, pal_packet *p, pal_judgement *j)
{
    judge_case c = {.w = w, .f = f, .p = p, .j = j, .dir = dir, .untracked = p->marks & MARK_UNTRACKED};
    pal_key key;
    rule_key(&key, f, p, dir);
    const pal_rule *r = judge_resume(w, f->rules, classify_one(w->snap, f->rules, &key), &key, false);
    if (!c.untracked)
        judge_fit(&c);
    if (!r) {
        judge_verdict(&c, PAL_DROP, PAL_REASON_NO_RULE, PAL_CT_NEW);
        return;
    }
    j->rule = r->rule;
    if (r->action != PAL_ACTION_ALLOW) {
        judge_verdict(&c, r->action == PAL_ACTION_DROP ? PAL_DROP : PAL_REJECT, PAL_REASON_MATCH, PAL_CT_NEW);
        return;
    }
    if (!(r->flags & PAL_RULE_STATEFUL) || c.untracked) {
        judge_verdict(&c, PAL_ALLOW, PAL_REASON_MATCH, PAL_CT_UNTRACKED);
        return;
    }
    const uint8_t why = judge_misfit(&c, r->flags);
    judge_verdict(&c, why == PAL_REASON_MATCH ? PAL_ALLOW : PAL_DROP, why, why == PAL_REASON_MATCH ? PAL_CT_NEW : PAL_CT_INVALID);
}

/* As pipeline_refused and pipeline_judge_whole, of a packet that is no fragment and no ICMP error. */
static inline void trace_judge(pal_worker *w, const pal_filter *f, uint8_t dir, pal_packet *p, pal_judgement *j)
{
    *j = (pal_judgement){.rule = PAL_NONE, .ref = PAL_NONE, .filter = f->number, .dir = dir, .bytes = p->ip_len, .verdict = PAL_DROP,
                         .reason = p->reason, .ct = PAL_CT_INVALID};
    if (!f->rules)
        j->reason = PAL_REASON_NO_RULESET;
    if (!f->rules || p->reason)
        return;
    const pal_ether_rule *r = f->ether ? ether_match(f->ether, p, f->both ? PAL_DIR_IN | PAL_DIR_OUT : dir) : NULL;
    if (r && r->action != PAL_ACTION_ALLOW) {
        j->rule = r->rule;
        j->reason = PAL_REASON_MATCH;
        j->ct = PAL_CT_UNTRACKED;
    } else if (p->marks & (MARK_NON_IP | MARK_ICMP_ERROR | MARK_FRAGMENT)) {
        j->reason = PAL_REASON_ICMP_UNRELATED; /* none is ever sent */
    } else if (!trace_state(w, f, p, j)) {
        trace_rules(w, f, dir, p, j);
    }
}

#endif
