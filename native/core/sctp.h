/* SPDX-License-Identifier: Apache-2.0
 *
 * sctp.h - SCTP associations (RFC 9260 sections 4 and 8.5): states and verification tags.
 * ct_half.end of an end is the tag that packets FROM that end must carry; END_SEEN says that it is known.
 */
#ifndef PAL_CORE_SCTP_H
#define PAL_CORE_SCTP_H

#include "tracker.h"

PAL_INLINE uint32_t sctp_event_of(const pal_packet *p) { return p->tcp_flags & 0x7f; }

static inline void sctp_tag_learn(ct_hot *h, uint32_t end, uint32_t tag)
{
    h->half[end].end = tag;
    end_set(h, end, END_SEEN);
}

static inline bool sctp_tag_fits(const ct_hot *h, uint32_t dir, const pal_packet *p)
{
    uint32_t event = sctp_event_of(p), end = dir;
    if (event == SCTP_INIT)
        return true; /* the parser has seen to it that the tag is 0 */
    if (p->tcp_flags & SCTP_T_BIT)
        end = !dir;
    return !end_has(h, end, END_SEEN) || p->seq == h->half[end].end;
}

static inline void sctp_begin(ct_hot *h, const pal_packet *p)
{
    ct_state_set(h, CT_COOKIE_WAIT);
    h->ends = 0;
    sctp_tag_learn(h, 1, p->ack);
}

PAL_OUTLINE uint8_t sctp_track(ct_hot *h, uint32_t dir, const pal_packet *p)
{
    uint32_t state = ct_state_of(h);
    if (!sctp_tag_fits(h, dir, p))
        return PAL_REASON_SCTP_VTAG;
    switch (sctp_event_of(p)) {
    case SCTP_INIT:
        if (state == CT_SCTP_CLOSED)
            return TRACK_REOPEN;
        if (dir == 0 && state == CT_COOKIE_WAIT) {
            sctp_begin(h, p);
            return PAL_REASON_STATE;
        }
        return TRACK_OVER;
    case SCTP_INIT_ACK:
        if (dir == 0 || state != CT_COOKIE_WAIT)
            return PAL_REASON_SCTP_STATE;
        sctp_tag_learn(h, 0, p->ack);
        return PAL_REASON_STATE;
    case SCTP_COOKIE_ECHO:
        if (dir == 0 && (state == CT_COOKIE_WAIT || state == CT_COOKIE_ECHOED))
            ct_state_set(h, CT_COOKIE_ECHOED);
        return PAL_REASON_STATE;
    case SCTP_COOKIE_ACK:
        if (dir == 1 && state == CT_COOKIE_ECHOED)
            ct_state_set(h, CT_SCTP_ESTABLISHED);
        return PAL_REASON_STATE;
    case SCTP_SHUTDOWN:
        if (state < CT_SCTP_ESTABLISHED)
            return PAL_REASON_SCTP_STATE;
        if (state == CT_SCTP_ESTABLISHED)
            ct_state_set(h, CT_SHUTDOWN);
        return PAL_REASON_STATE;
    case SCTP_SHUTDOWN_ACK:
        if (state < CT_SCTP_ESTABLISHED)
            return PAL_REASON_SCTP_STATE;
        if (state <= CT_SHUTDOWN)
            ct_state_set(h, CT_SHUTDOWN_ACK);
        return PAL_REASON_STATE;
    case SCTP_SHUTDOWN_COMPLETE:
        if (state != CT_SHUTDOWN_ACK)
            return PAL_REASON_SCTP_STATE;
        ct_state_set(h, CT_SCTP_CLOSED);
        return PAL_REASON_STATE;
    case SCTP_ABORT:
        ct_state_set(h, CT_SCTP_CLOSED);
        return PAL_REASON_STATE;
    default:
        return state == CT_COOKIE_WAIT ? PAL_REASON_SCTP_STATE : PAL_REASON_STATE;
    }
}

PAL_INLINE uint32_t sctp_timer(const ct_hot *h)
{
    static const uint8_t timer[] = {
        [CT_COOKIE_WAIT] = TIMER_TCP_OPENING, [CT_COOKIE_ECHOED] = TIMER_TCP_OPENING,
        [CT_SCTP_ESTABLISHED] = TIMER_TCP_ESTABLISHED, [CT_SHUTDOWN] = TIMER_TCP_CLOSING,
        [CT_SHUTDOWN_ACK] = TIMER_TCP_FINWAIT, [CT_SCTP_CLOSED] = TIMER_TCP_CLOSED};
    uint32_t state = ct_state_of(h);
    if (!(h->marks & CT_REPLIED) && state != CT_SCTP_CLOSED)
        return TIMER_TCP_FIRST_PACKET;
    return timer[state];
}

#endif
