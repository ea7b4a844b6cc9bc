/* SPDX-License-Identifier: Apache-2.0
 *
 * datagram.h - fragments in the pipeline: held, put together, judged as one, and each given the verdict.
 * Included by pipeline.h. The filter that holds is the first of the route; the whole then goes on to the second.
 */
#ifndef PAL_CORE_DATAGRAM_H
#define PAL_CORE_DATAGRAM_H

/* The same verdict for every fragment held of a datagram. */
PAL_OUTLINE void datagram_emit(pal_worker *w, const frag_datagram *d, pal_judgement *j)
{
    worker_room(w);
    for (uint32_t i = 0; i < d->count; i++) {
        j->cookie = d->piece[i].cookie;
        j->bytes = d->piece[i].ip_len;
        *worker_next(w) = *j;
        worker_emit(w, j);
        j->first = 0;
    }
}

PAL_OUTLINE void datagram_release(pal_worker *w, uint16_t which, uint8_t reason)
{
    frag_datagram *d = &w->fragments->datagram[which];
    pal_judgement j = {.rule = PAL_NONE, .ref = PAL_NONE, .filter = d->filter, .dir = d->dir, .verdict = PAL_DROP,
                       .reason = reason, .ct = PAL_CT_INVALID};
    w->released += d->count;
    datagram_emit(w, d, &j);
    frag_blocks_free(w->fragments, d);
    d->count = 0;
}

PAL_OUTLINE void datagram_expire(pal_worker *w)
{
    frag_table *f = w->fragments;
    while (f->oldest != FRAG_NONE && w->table.s->now > f->datagram[f->oldest].deadline) {
        uint16_t which = f->oldest;
        datagram_release(w, which, PAL_REASON_FRAG_TIMEOUT);
        frag_free(f, which, w->table.s->seed);
    }
}

/* The input has ended: what is still held will never be whole. */
PAL_OUTLINE void datagram_finish(pal_worker *w)
{
    datagram_expire(w);
    while (w->fragments->oldest != FRAG_NONE) {
        uint16_t which = w->fragments->oldest;
        datagram_release(w, which, PAL_REASON_FRAG_INCOMPLETE);
        frag_free(w->fragments, which, w->table.s->seed);
    }
}

/* A datagram that was judged where it was put together, IN at another filter. The frame that completed it stands for all. */
PAL_OUTLINE void datagram_onward(pal_worker *w, const pal_filter *f, const frag_datagram *d, pal_packet *whole, const pal_packet *last)
{
    pal_judgement j;
    w->received += d->count;
    if (!f->ether || !pipeline_refused(w, f, PAL_DIR_IN, last, whole, &j))
        pipeline_judge_whole(w, f, PAL_DIR_IN, whole, NULL, &j);
    worker_log(w, &j, whole);
    datagram_emit(w, d, &j);
}

PAL_OUTLINE void datagram_judge(pal_worker *w, const pal_route *route, const frag_datagram *d, const pal_packet *last)
{
    pal_packet whole = {.data = w->scratch, .ts_ns = last->ts_ns, .cookie = last->cookie, .vrf = d->vrf, .marks = MARK_WHOLE};
    parse_options options = {.sum_mode = d->cut ? SUM_MODE_OFF : w->parse.sum_mode};
    if (frag_is_too_long(d)) {
        whole.reason = PAL_REASON_FRAG_LENGTH;
    } else {
        whole.cap = whole.wire = frag_join(w->fragments, d, w->scratch);
        whole.reason = parse_network(&whole, d->family == PAL_FAMILY_V4 ? LINK_IP4 : LINK_IP6, &options);
        if (!whole.reason && (whole.marks & MARK_FRAGMENT)) /* a fragment in fragments: its ports would hide from the rules */
            whole.reason = PAL_REASON_EXT_HEADERS;
        if (whole.l4_sum == SUM_BAD)
            w->bad_l4_sum++;
    }
    whole.odd |= packet_to_group(last) ? ODD_MANY : 0;
    whole.fragments = d->count;
    whole.wire_bytes = 0;
    for (uint32_t i = 0; i < d->count; i++)
        whole.wire_bytes += d->piece[i].ip_len;
    pal_judgement j;
    pipeline_judge_whole(w, route->first, route->dir, &whole, NULL, &j);
    worker_log(w, &j, &whole);
    w->released += d->count;
    datagram_emit(w, d, &j);
    if (j.verdict != PAL_ALLOW)
        return;
    if (route->second)
        datagram_onward(w, route->second, d, &whole, last);
    for (uint32_t i = 0; i < w->receivers; i++)
        datagram_onward(w, w->receiver[i], d, &whole, last);
}

PAL_OUTLINE void datagram_take(pal_worker *w, const pal_route *route, const pal_packet *p)
{
    const pal_filter *f = route->first;
    uint8_t dir = route->dir;
    frag_datagram key;
    uint16_t which = FRAG_NONE;
    uint8_t reason = PAL_REASON_NO_RULESET;
    uint32_t zone = filter_zone(w, f, p->vrf);
    w->received++;
    if (PAL_UNLIKELY(f->ether != NULL) && pipeline_refused(w, f, dir, p, p, worker_next(w))) {
        worker_log(w, worker_next(w), p);
        worker_emit(w, worker_next(w));
        return;
    }
    if (zone == PAL_NONE) {
        reason = PAL_REASON_CT_FULL;
    } else if (f->rules) {
        frag_key(&key, p, zone, f->number, dir, f->both);
        reason = frag_take(w->fragments, p, &key, w->limits, w->table.s->now, w->table.s->seed, &which);
    }
    pal_judgement j = {.cookie = p->cookie, .rule = PAL_NONE, .ref = PAL_NONE, .filter = f->number, .dir = dir,
                       .bytes = p->ip_len, .verdict = PAL_DROP, .reason = reason, .ct = PAL_CT_INVALID};
    if (reason == PAL_REASON_HELD || reason == PAL_REASON_MATCH) {
        w->count[PAL_HELD][PAL_REASON_HELD]++;
        if (reason == PAL_REASON_HELD)
            return;
        datagram_judge(w, route, &w->fragments->datagram[which], p);
        frag_free(w->fragments, which, w->table.s->seed);
        return;
    }
    if (reason == PAL_REASON_FRAG_OVERLAP && which != FRAG_NONE)
        datagram_release(w, which, PAL_REASON_FRAG_OVERLAP);
    *worker_next(w) = j;
    worker_emit(w, &j);
}

#endif
