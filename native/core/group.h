/* SPDX-License-Identifier: Apache-2.0
 *
 * group.h - packets for many: multicast and broadcast, judged OUT at their sender's filter and, if they pass, IN at each
 * receiver's. They are rare, and each is a burst of its own.
 */
#ifndef PAL_CORE_GROUP_H
#define PAL_CORE_GROUP_H

#include "pipeline.h"

/* IN at one receiver, of a packet that has been judged before. */
PAL_INLINE void group_onward(pal_worker *w, const pal_filter *f, pal_packet *p)
{
    worker_room(w);
    pal_judgement *j = worker_next(w);
    w->received++;
    if (!f->ether || !pipeline_refused(w, f, PAL_DIR_IN, p, p, j))
        pipeline_judge_whole(w, f, PAL_DIR_IN, p, NULL, j);
    worker_log(w, j, p);
    worker_emit(w, j);
}

/* OUT at `sender`, then IN at each receiver. Without a sender here (NULL) each receiver holds fragments for itself. */
static inline void group_judge(pal_worker *w, const pal_filter *sender, const pal_filter *const *receiver, uint32_t n, pal_packet *p)
{
    if (!sender) {
        pal_packet again = *p;
        again.ip_sum = again.l4_sum = SUM_UNVERIFIED; /* what is odd about a packet is counted once */
        again.odd &= (uint8_t)~ODD_SOURCE;
        for (uint32_t i = 0; i < n; i++) {
            const pal_route route = {.first = receiver[i], .dir = PAL_DIR_IN};
            pipeline_burst(w, &route, i == 0 ? p : &again, 1);
        }
        return;
    }
    const pal_route route = {.first = sender, .dir = PAL_DIR_OUT};
    const bool fragment = (p->marks & MARK_FRAGMENT) && !p->reason;
    w->receiver = receiver;
    w->receivers = n;
    pipeline_burst(w, &route, p, 1);
    w->receivers = 0;
    if (fragment) /* datagram_judge sends the whole on */
        return;
    const bool passed = w->out[w->out_count - 1].verdict == PAL_ALLOW;
    for (uint32_t i = 0; i < n && passed; i++)
        group_onward(w, receiver[i], p);
}

#endif
