/* SPDX-License-Identifier: Apache-2.0
 *
 * flow.h - what flow records want to know of a connection beyond what verdicts need: times and a history.
 */
#ifndef PAL_CORE_FLOW_H
#define PAL_CORE_FLOW_H

#include "conntrack.h"
#include "tcp.h"

enum { FLOW_S, FLOW_H, FLOW_A, FLOW_D, FLOW_F, FLOW_R };

/* Zeek's letters: capital for the originator, each once a direction, in order of appearance. */
static inline void flow_letter(ct_flow *f, uint32_t dir, uint32_t letter)
{
    static const char letters[] = "SHADFR";
    uint16_t bit = (uint16_t)(1u << (letter + 8 * dir));
    if ((f->seen & bit) || f->history_len == sizeof f->history)
        return;
    f->seen |= bit;
    f->history[f->history_len++] = (char)(letters[letter] + (dir ? 'a' - 'A' : 0));
}

PAL_OUTLINE void flow_history(ct_flow *f, uint32_t dir, const pal_packet *p)
{
    if (p->proto != PROTO_TCP) {
        flow_letter(f, dir, FLOW_D);
        return;
    }
    bool any = false;
    if (p->tcp_flags & TCP_SYN) {
        flow_letter(f, dir, p->tcp_flags & TCP_ACK ? FLOW_H : FLOW_S);
        any = true;
    }
    if (p->payload_len) {
        flow_letter(f, dir, FLOW_D);
        any = true;
    }
    if (p->tcp_flags & TCP_FIN) {
        flow_letter(f, dir, FLOW_F);
        any = true;
    }
    if (p->tcp_flags & TCP_RST) {
        flow_letter(f, dir, FLOW_R);
        any = true;
    }
    if (!any)
        flow_letter(f, dir, FLOW_A);
}

PAL_INLINE void flow_accepted(ct_table *t, uint32_t ref, uint32_t dir, const pal_packet *p)
{
    if (PAL_LIKELY(!t->flow))
        return;
    t->flow[ref].last_ns = p->ts_ns > t->flow[ref].last_ns ? p->ts_ns : t->flow[ref].last_ns;
    flow_history(&t->flow[ref], dir, p);
}

/* The same for a packet of CLASS_ACK, which has one letter. */
PAL_INLINE void flow_accepted_ack(ct_table *t, uint32_t ref, uint32_t dir, const pal_packet *p)
{
    if (!t->flow)
        return;
    ct_flow *f = &t->flow[ref];
    f->last_ns = p->ts_ns > f->last_ns ? p->ts_ns : f->last_ns;
    flow_letter(f, dir, p->payload_len ? FLOW_D : FLOW_A);
}

PAL_INLINE void flow_dropped(ct_table *t, uint32_t ref, uint32_t packets)
{
    if (PAL_UNLIKELY(t->flow != NULL))
        t->flow[ref].dropped += packets;
}

#endif
