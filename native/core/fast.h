/* SPDX-License-Identifier: Apache-2.0
 *
 * fast.h - the packet that there are most of: TCP, established both ways, in order, nothing special about it.
 *
 * Same result as judge_hit (judge.h), in a third of the steps. Everything that has to hold is tested first, by as few
 * comparisons as possible; when one fails nothing has been changed and the packet takes the long way. The differential
 * tests run every packet through both by way of the oracle; PAL_NO_FAST leaves this file out.
 */
#ifndef PAL_CORE_FAST_H
#define PAL_CORE_FAST_H

#include "judge.h"

/* Marks, state, scale and ends of a connection that may go this way, as they stand in memory. */
#define FAST_MARKS_MASK (CT_KIND_MASK | CT_REPLIED | CT_LIBERAL | CT_CHILD | CT_ALG)
#define FAST_ENDS (END_SEEN | END_ACKED | (END_SEEN | END_ACKED) << 4)

PAL_INLINE bool fast_may(const ct_hot *h)
{
    uint32_t mask = (uint32_t)bytes_u64(FAST_MARKS_MASK, 0xff, 0, 0xff), want = (uint32_t)bytes_u64(KIND_TCP | CT_REPLIED, CT_ESTABLISHED, 0, FAST_ENDS);
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    mask = (uint32_t)(bytes_u64(FAST_MARKS_MASK, 0xff, 0, 0xff) >> 32);
    want = (uint32_t)(bytes_u64(KIND_TCP | CT_REPLIED, CT_ESTABLISHED, 0, FAST_ENDS) >> 32);
#endif
    return (load_u32(&h->marks) & mask) == want;
}

/* Flow records and named rules are asked for: what they cost stays off the path. */
PAL_OUTLINE void fast_observe(pal_worker *w, uint32_t ref, uint32_t dir, const pal_packet *p, pal_judgement *j)
{
    flow_accepted(&w->table, ref, dir, p);
    if (w->name_rules)
        j->rule = w->table.cold[ref].rule;
}

/* True: judged, and *j says so. */
PAL_INLINE bool fast_judge(pal_worker *w, const pal_filter *f, uint8_t dir, const pal_packet *p, const judge_hint *hint,
                           pal_judgement *j)
{
    ct_table *t = &w->table;
    if (PAL_UNLIKELY(hint->ref == PAL_NONE))
        return false;
    ct_hot *h = &t->hot[hint->ref];
    const ct_key *k = &hint->key;
    bool v4 = PAL_LIKELY(p->family == PAL_FAMILY_V4);
    uint64_t differs = (load_u64(h->addr) ^ (v4 ? k->addr[0] : hint->hash)) | (load_u64(h->port) ^ k->ports_zone) | (h->epoch ^ f->epoch);
    if (PAL_UNLIKELY(differs) || PAL_UNLIKELY(!fast_may(h)) || v4 != (hint->ref < t->cap4) ||
        PAL_UNLIKELY((p->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST | TCP_ACK)) != TCP_ACK) ||
        (uint32_t)k->kind != KIND_TCP || PAL_UNLIKELY(wheel_is_past(t, h->deadline)))
        return false;
    if (!v4) {
        const uint8_t *a = t->addr6[hint->ref - t->cap4].addr[0];
        if (PAL_UNLIKELY((load_u64(a) ^ k->addr[0]) | (load_u64(a + 8) ^ k->addr[1]) | (load_u64(a + 16) ^ k->addr[2]) |
                         (load_u64(a + 24) ^ k->addr[3])))
            return false;
    }

    uint32_t S = (uint32_t)k->high ^ (h->marks >> 3 & 1), scales = h->scale;
    uint32_t scale = scales >> (S * 4) & 15, other = scales >> ((S ^ 1) * 4) & 15;
    ct_half *s = &h->half[S], *r = &h->half[S ^ 1];
    uint32_t end = p->seq + p->payload_len, ack = p->ack, right = r->ack + ((uint32_t)r->edge << other);
    uint32_t behind = max_u32((uint32_t)r->window << other, 1), lag = max_u32((uint32_t)s->window << scale, TCP_SLACK);
    uint32_t ahead = ack - s->ack, window = p->window;
    /* The window tests of tcp_window_test, and a new or repeated acknowledgement: none of the differences is negative. */
    uint32_t negative = (right - p->seq) | (right + TCP_SLACK - end) | (r->end - ack) | (end - (s->end - behind)) |
                        (ack - (r->end - lag)) | ahead;
    uint32_t packets = h->packets[S] + p->fragments;
    uint64_t bytes = (uint64_t)h->bytes[S] + p->wire_bytes;
    uint32_t deadline = (uint32_t)t->s->now + f->timeout[TIMER_TCP_ESTABLISHED];
    if (PAL_UNLIKELY((int32_t)negative < 0) || PAL_UNLIKELY((packets | bytes >> 16) >> 15) ||
        PAL_UNLIKELY((int32_t)(deadline - h->deadline) < 0))
        return false;

    uint32_t passed = ahead >> scale, edge = s->edge > passed ? s->edge - passed : 0;
    s->end = (int32_t)(end - s->end) > 0 ? end : s->end;
    s->ack = ack;
    s->window = (uint16_t)max_u32(s->window, window);
    s->edge = (uint16_t)max_u32(edge, window);
    h->packets[S] = (uint16_t)packets;
    h->bytes[S] = (uint32_t)bytes;
    h->deadline = deadline;
    *j = (pal_judgement){.cookie = p->cookie, .rule = PAL_NONE, .ref = hint->ref, .bytes = p->ip_len, .filter = f->number,
                         .dir = dir, .verdict = PAL_ALLOW, .reason = PAL_REASON_STATE, .ct = PAL_CT_ESTABLISHED, .reply = (uint8_t)S};
    if (PAL_UNLIKELY(w->observed))
        fast_observe(w, hint->ref, S, p, j);
    return true;
}

#endif
