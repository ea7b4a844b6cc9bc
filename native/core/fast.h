/* SPDX-License-Identifier: Apache-2.0
 *
 * fast.h - the packet that there are most of: TCP, established both ways, in order, nothing special about it.
 *
 * Same result as judge_hit (judge.h), in a third of the steps. Everything that has to hold is tested first, by as few
 * comparisons as possible; when one fails nothing has been changed and the packet takes the long way. fast_wide.h does the
 * same for eight visits at once. The differential tests run every packet through both by way of the oracle; PAL_NO_FAST
 * leaves both out.
 */
#ifndef PAL_CORE_FAST_H
#define PAL_CORE_FAST_H

#include "burst.h"

/* Marks, state, scale and ends of a connection that may go this way, as they stand in memory. */
#define FAST_MARKS (CT_KIND_MASK | CT_REPLIED | CT_LIBERAL | CT_CHILD | CT_ALG)
#define FAST_ENDS (END_SEEN | END_ACKED | (END_SEEN | END_ACKED) << 4)
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define FAST_BYTES(marks, state, ends) ((uint32_t)(marks) | (uint32_t)(state) << 8 | (uint32_t)(ends) << 24)
#else
#define FAST_BYTES(marks, state, ends) ((uint32_t)(marks) << 24 | (uint32_t)(state) << 16 | (uint32_t)(ends))
#endif
#define FAST_MASK FAST_BYTES(FAST_MARKS, 0xff, 0xff)
#define FAST_WANT FAST_BYTES(KIND_TCP | CT_REPLIED, CT_ESTABLISHED, FAST_ENDS)

PAL_INLINE bool fast_may(const ct_hot *h) { return (load_u32(&h->marks) & FAST_MASK) == FAST_WANT; }

/* Two nibbles, the second of them first when `swap`. */
PAL_INLINE uint32_t rotate_half8(uint32_t v, uint32_t swap) { return (v << (swap * 4) | v >> (8 - swap * 4)) & 0xff; }

/* Flow records and named rules are asked for: what they cost stays off the path. */
PAL_OUTLINE void fast_observe(pal_worker *w, uint32_t ref, uint32_t dir, const pal_packet *p, pal_judgement *j)
{
    flow_accepted_ack(&w->table, ref, dir, p);
    if (w->name_rules)
        j->rule = w->table.cold[ref].rule;
}

/* IPv6 addresses stand in a line of their own. */
PAL_INLINE bool fast_addr6_is(const ct_table *t, uint32_t ref, const ct_key *k)
{
    const uint8_t *a = t->addr6[ref - t->cap4].addr[0];
    return ((load_u64(a) ^ k->addr[0]) | (load_u64(a + 8) ^ k->addr[1]) | (load_u64(a + 16) ^ k->addr[2]) |
            (load_u64(a + 24) ^ k->addr[3])) == 0;
}

/* The whole key. */
PAL_INLINE bool fast_is(const ct_table *t, const pal_burst *b, uint32_t v)
{
    uint32_t ref = b->ref[v];
    const ct_hot *h = &t->hot[ref];
    if (PAL_UNLIKELY((load_u64(h->addr) ^ b->line[v][0]) | (load_u64(h->port) ^ b->line[v][1])))
        return false;
    if (PAL_LIKELY(!(b->way[v] & WAY_V6)))
        return PAL_LIKELY(ref < t->cap4);
    return PAL_LIKELY(ref >= t->cap4) && PAL_LIKELY(fast_addr6_is(t, ref, &b->key[v]));
}

/* What fast_judge works out before it changes anything. */
typedef struct fast_step {
    uint32_t S, scale, beyond, advance, packets, bytes, deadline;
} fast_step;

/* May the visit's packet go this way? It is of CLASS_ACK, and b->ref[v] a connection. */
PAL_INLINE bool fast_test(const pal_worker *w, const pal_burst *b, uint32_t v, fast_step *step)
{
    const ct_table *t = &w->table;
    const pal_filter *f = b->filter[v];
    const pal_packet *p = b->packet[v];
    uint32_t now = (uint32_t)t->s->now;
    const ct_hot *h = &t->hot[b->ref[v]];
    if (PAL_UNLIKELY(!fast_is(t, b, v)) || PAL_UNLIKELY(h->epoch != f->epoch) || PAL_UNLIKELY(!fast_may(h)))
        return false;

    uint32_t S = b->way[v] >> 31 ^ (h->marks >> 3 & 1), scales = rotate_half8(h->scale, S), scale = scales & 15;
    const ct_half *s = &h->half[S], *r = &h->half[S ^ 1];
    uint32_t end = p->seq + p->payload_len, ack = p->ack;
    uint32_t beyond = ack - s->ack, advance = end - s->end;
    /* What holds here implies the tests of tcp_window_test, and is a little narrower where that is cheaper: the rest is
     * judge_hit's. In order: the data ends within the window; it does not lie further behind than a window; nothing is
     * acknowledged that was not sent; nor further behind than a window; no older acknowledgement than before; the deadline
     * is not past, and moves on only (one that gets nearer moves in the wheel); counters need not spill. None of the
     * differences is negative. */
    uint32_t packets = h->packets[S] + p->fragments, bytes = h->bytes[S] + p->wire_bytes, deadline = now + f->established;
    uint32_t negative = (r->ack + ((uint32_t)r->edge << (scales >> 4)) - end) | (advance + r->window) | (r->end - ack) |
                        (ack - r->end + ((uint32_t)s->window << scale)) | beyond | (h->deadline - now) |
                        (deadline - h->deadline) | packets << 16 | bytes;
    *step = (fast_step){.S = S, .scale = scale, .beyond = beyond, .advance = advance, .packets = packets, .bytes = bytes, .deadline = deadline};
    return PAL_LIKELY((int32_t)negative >= 0);
}

/* True: judged, and *j says so. */
PAL_INLINE bool fast_judge(pal_worker *w, const pal_burst *b, uint32_t v, pal_judgement *j)
{
    fast_step step;
    if (!fast_test(w, b, v, &step))
        return false;
    const pal_packet *p = b->packet[v];
    uint32_t ref = b->ref[v], S = step.S, window = p->window;
    ct_hot *h = &w->table.hot[ref];
    ct_half *s = &h->half[S];

    uint32_t passed = step.beyond >> step.scale, edge = s->edge > passed ? s->edge - passed : 0;
    s->end += (int32_t)step.advance > 0 ? step.advance : 0;
    s->ack = p->ack;
    s->window = (uint16_t)max_u32(s->window, window);
    s->edge = (uint16_t)max_u32(edge, window);
    h->packets[S] = (uint16_t)step.packets;
    h->bytes[S] = step.bytes;
    h->deadline = step.deadline;
    *j = (pal_judgement){.cookie = p->cookie, .ref = ref, .bytes = p->ip_len, .filter = b->filter[v]->number, .dir = visit_dir(b, v),
                         .reply = (uint8_t)S, .rule = PAL_NONE, .verdict = PAL_ALLOW, .reason = PAL_REASON_STATE,
                         .ct = PAL_CT_ESTABLISHED};
    if (PAL_UNLIKELY(w->observed))
        fast_observe(w, ref, S, p, j);
    return true;
}

#endif
