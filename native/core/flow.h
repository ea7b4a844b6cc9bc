/* SPDX-License-Identifier: Apache-2.0
 *
 * flow.h - what flow records want to know of a connection beyond what verdicts need: times and a history.
 */
#ifndef PAL_CORE_FLOW_H
#define PAL_CORE_FLOW_H

#include "conntrack.h"
#include "tcp.h"

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
    enum { S, H, A, D, F, R };
    if (p->proto != PROTO_TCP) {
        flow_letter(f, dir, D);
        return;
    }
    bool any = false;
    if (p->tcp_flags & TCP_SYN) {
        flow_letter(f, dir, p->tcp_flags & TCP_ACK ? H : S);
        any = true;
    }
    if (p->payload_len) {
        flow_letter(f, dir, D);
        any = true;
    }
    if (p->tcp_flags & TCP_FIN) {
        flow_letter(f, dir, F);
        any = true;
    }
    if (p->tcp_flags & TCP_RST) {
        flow_letter(f, dir, R);
        any = true;
    }
    if (!any)
        flow_letter(f, dir, A);
}

PAL_INLINE void flow_accepted(ct_table *t, uint32_t ref, uint32_t dir, const pal_packet *p)
{
    if (PAL_LIKELY(!t->flow))
        return;
    t->flow[ref].last_ns = p->ts_ns > t->flow[ref].last_ns ? p->ts_ns : t->flow[ref].last_ns;
    flow_history(&t->flow[ref], dir, p);
}

PAL_INLINE void flow_dropped(ct_table *t, uint32_t ref, uint32_t packets)
{
    if (PAL_UNLIKELY(t->flow != NULL))
        t->flow[ref].dropped += packets;
}

#endif
