/* SPDX-License-Identifier: Apache-2.0
 *
 * tcp.h - TCP seen from the middle: states (RFC 9293), windows with scaling (RFC 7323), and RFC 5961's care with RST
 * and SYN. docs/packet-path.md, section 6, is this file in words.
 */
#ifndef PAL_CORE_TCP_H
#define PAL_CORE_TCP_H

#include "tracker.h"

#define TCP_SLACK 66000u      /* how far an old acknowledgement may lag where windows say less */
#define TCP_SCALE_MAX 14u     /* RFC 7323 section 2.3 */
#define TCP_NOT_OFFERED 15u
#define MEMO_LASTING (MEMO_SIMULTANEOUS | MEMO_INWARD)

enum tcp_event { EVENT_SYN, EVENT_SYNACK, EVENT_FIN, EVENT_ACK, EVENT_RST, EVENT_COUNT };

PAL_INLINE enum tcp_event tcp_event_of(uint8_t flags)
{
    if (flags & TCP_RST)
        return EVENT_RST;
    if (flags & TCP_SYN)
        return flags & TCP_ACK ? EVENT_SYNACK : EVENT_SYN;
    return flags & TCP_FIN ? EVENT_FIN : EVENT_ACK;
}

enum tcp_move { /* what to do; the state that follows is worked out by the function that does it */
    MOVE_REFUSE, MOVE_OVER, MOVE_SYN, MOVE_SYNACK, MOVE_DATA, MOVE_RST, MOVE_REOPEN
};

/* [direction][event][state]; states as in enum ct_state, CT_FREE unused. */
static const uint8_t tcp_moves[2][EVENT_COUNT][CT_STATE_TCP_END] = {
    {
        /*               free  SYN_SENT     SYN_SENT2    SYN_RECEIVED ESTABLISHED  FIN_WAIT     CLOSING      TIME_WAIT    CLOSED */
        [EVENT_SYN] =    {0, MOVE_SYN,    MOVE_SYN,    MOVE_OVER,   MOVE_OVER,   MOVE_OVER,   MOVE_OVER,   MOVE_REOPEN, MOVE_REOPEN},
        [EVENT_SYNACK] = {0, MOVE_REFUSE, MOVE_SYNACK, MOVE_SYNACK, MOVE_REFUSE, MOVE_REFUSE, MOVE_REFUSE, MOVE_REFUSE, MOVE_REFUSE},
        [EVENT_FIN] =    {0, MOVE_REFUSE, MOVE_REFUSE, MOVE_DATA,   MOVE_DATA,   MOVE_DATA,   MOVE_DATA,   MOVE_DATA,   MOVE_DATA},
        [EVENT_ACK] =    {0, MOVE_REFUSE, MOVE_REFUSE, MOVE_DATA,   MOVE_DATA,   MOVE_DATA,   MOVE_DATA,   MOVE_DATA,   MOVE_DATA},
        [EVENT_RST] =    {0, MOVE_RST,    MOVE_RST,    MOVE_RST,    MOVE_RST,    MOVE_RST,    MOVE_RST,    MOVE_RST,    MOVE_RST},
    },
    {
        [EVENT_SYN] =    {0, MOVE_SYN,    MOVE_SYN,    MOVE_REFUSE, MOVE_REFUSE, MOVE_REFUSE, MOVE_REFUSE, MOVE_REOPEN, MOVE_REOPEN},
        [EVENT_SYNACK] = {0, MOVE_SYNACK, MOVE_SYNACK, MOVE_OVER,   MOVE_OVER,   MOVE_OVER,   MOVE_OVER,   MOVE_OVER,   MOVE_OVER},
        [EVENT_FIN] =    {0, MOVE_REFUSE, MOVE_REFUSE, MOVE_DATA,   MOVE_DATA,   MOVE_DATA,   MOVE_DATA,   MOVE_DATA,   MOVE_DATA},
        [EVENT_ACK] =    {0, MOVE_OVER,   MOVE_OVER,   MOVE_DATA,   MOVE_DATA,   MOVE_DATA,   MOVE_DATA,   MOVE_DATA,   MOVE_DATA},
        [EVENT_RST] =    {0, MOVE_RST,    MOVE_RST,    MOVE_RST,    MOVE_RST,    MOVE_RST,    MOVE_RST,    MOVE_RST,    MOVE_RST},
    },
};

/* Bytes in units of 2^scale, rounded up, at most what 16 bits hold. */
PAL_INLINE uint16_t units_up(uint32_t bytes, uint32_t scale)
{
    uint32_t u = (bytes >> scale) + ((bytes & ((1u << scale) - 1)) != 0);
    return (uint16_t)min_u32(u, 0xffff);
}

PAL_INLINE uint32_t tcp_end(const pal_packet *p)
{
    return p->seq + p->payload_len + ((p->tcp_flags & TCP_SYN) != 0) + ((p->tcp_flags & TCP_FIN) != 0);
}

/* The window scale option of a SYN (RFC 7323 section 2.2), the last if there are several, or TCP_NOT_OFFERED. */
static inline uint32_t tcp_offered_scale(const pal_packet *p)
{
    const uint8_t *opt = p->data + p->l4 + 20, *end = p->data + p->l4 + p->l4_hdr;
    uint32_t scale = TCP_NOT_OFFERED;
    while (opt < end && *opt != 0) {
        if (*opt == 1) {
            opt++;
            continue;
        }
        if (opt + 2 > end || opt[1] < 2 || opt + opt[1] > end)
            break;
        if (opt[0] == 3 && opt[1] == 3)
            scale = min_u32(opt[2], TCP_SCALE_MAX);
        opt += opt[1];
    }
    return scale;
}

PAL_INLINE uint32_t tcp_offered(const ct_cold *c, uint32_t end) { return c->offered >> (end * 4) & 15; }
PAL_INLINE void tcp_offered_set(ct_cold *c, uint32_t end, uint32_t scale)
{
    c->offered = (uint8_t)((c->offered & ~(15u << end * 4)) | scale << end * 4);
}

/* End S begins with the SYN `p`. Until scaling is settled windows are kept in bytes. */
PAL_OUTLINE void half_begin(ct_hot *h, ct_cold *c, uint32_t S, const pal_packet *p)
{
    h->half[S] = (ct_half){.end = tcp_end(p), .window = p->window, .ack = h->half[S].ack}; /* what the other's SYN told */
    h->ends &= (uint8_t)~(15u << S * 4);
    end_set(h, S, END_SEEN);
    tcp_offered_set(c, S, tcp_offered_scale(p));
    h->half[!S].ack = p->seq + 1; /* the least that the other end can acknowledge */
}

static inline void tcp_settle_scale(ct_hot *h, const ct_cold *c)
{
    uint32_t a = tcp_offered(c, 0), b = tcp_offered(c, 1);
    h->scale = a != TCP_NOT_OFFERED && b != TCP_NOT_OFFERED ? (uint8_t)(a | b << 4) : 0;
    for (uint32_t i = 0; i < 2; i++)
        h->half[i].window = units_up(h->half[i].window, scale_of(h, i));
}

PAL_INLINE bool tcp_windows_are_known(const ct_hot *h) { return ct_state_of(h) >= CT_SYN_RECEIVED; }

#include "resync.h"

/* PAL_REASON_STATE, TRACK_OVER, or why not. S sends, R receives. */
PAL_INLINE uint8_t tcp_window_test(const ct_hot *h, uint32_t S, const pal_packet *p, uint32_t end)
{
    uint32_t R = !S;
    const ct_half *s = &h->half[S], *r = &h->half[R];
    if (PAL_UNLIKELY(h->marks & CT_LIBERAL))
        return PAL_REASON_STATE;
    if (PAL_UNLIKELY(!end_has(h, R, END_SEEN)))
        return PAL_REASON_STATE;
    bool has_ack = (p->tcp_flags & TCP_ACK) && !((p->tcp_flags & TCP_RST) && p->ack == 0);
    if (PAL_UNLIKELY(h->state & CT_RESYNC))
        return resync_window_test(h, S, p, end, has_ack);
    if (PAL_LIKELY(tcp_windows_are_known(h))) {
        uint32_t right = r->ack + ((uint32_t)r->edge << scale_of(h, R));
        if (PAL_UNLIKELY(seq_after(p->seq, right) || seq_after(end, right + TCP_SLACK)))
            return PAL_REASON_TCP_WINDOW;
    }
    if (PAL_UNLIKELY(has_ack && seq_after(p->ack, r->end)))
        return PAL_REASON_TCP_ACK;
    if (PAL_UNLIKELY(!end_has(h, S, END_SEEN)))
        return PAL_REASON_STATE;
    uint32_t behind = max_u32((uint32_t)r->window << scale_of(h, R), 1);
    if (PAL_UNLIKELY(seq_before(end, s->end - behind)))
        return TRACK_OVER;
    uint32_t lag = max_u32((uint32_t)s->window << scale_of(h, S), TCP_SLACK);
    if (PAL_UNLIKELY(has_ack && seq_before(p->ack, r->end - lag)))
        return TRACK_OVER;
    return PAL_REASON_STATE;
}

/* What the accepted packet says about its sender. */
PAL_INLINE void tcp_update(ct_hot *h, uint32_t S, const pal_packet *p, uint32_t end)
{
    uint32_t R = !S, scale = scale_of(h, S);
    ct_half *s = &h->half[S];
    uint16_t window = p->window;
    if (PAL_UNLIKELY(p->tcp_flags & TCP_SYN))
        window = units_up(window, scale);
    if (PAL_UNLIKELY(!end_has(h, S, END_SEEN))) {
        s->end = end;
        s->window = window;
        end_set(h, S, END_SEEN);
        if (!(h->marks & CT_LIBERAL) && !end_has(h, R, END_ACKED)) /* as its SYN would have told */
            h->half[R].ack = p->seq;
    }
    if (window > s->window)
        s->window = window;
    if (seq_after(end, s->end))
        s->end = end;
    if (PAL_LIKELY(p->tcp_flags & TCP_ACK)) {
        uint32_t ahead = p->ack - s->ack;
        if (PAL_UNLIKELY(!end_has(h, S, END_ACKED)) && ((h->marks & CT_LIBERAL) || !end_has(h, R, END_SEEN))) {
            s->ack = p->ack;
            s->edge = window;
        } else if ((int32_t)ahead >= 0) {
            /* A new acknowledgement: the edge is counted from it, and never moves left by rounding. */
            uint32_t passed = ahead >> scale;
            uint32_t edge = passed < s->edge ? s->edge - passed : 0;
            s->ack = p->ack;
            s->edge = (uint16_t)max_u32(edge, window);
        } else {
            uint32_t reach = ((uint32_t)window << scale) + ahead; /* bytes beyond S.ack, `ahead` being negative */
            if ((int32_t)reach > 0)
                s->edge = (uint16_t)max_u32(s->edge, units_up(reach, scale));
        }
        end_set(h, S, END_ACKED);
        if (PAL_UNLIKELY(end_has(h, R, END_FIN)) && p->ack == h->half[R].end)
            end_set(h, R, END_FIN_ACKED);
    }
    if (PAL_UNLIKELY(p->tcp_flags & TCP_FIN))
        end_set(h, S, END_FIN);
}

static inline void memo_set(ct_hot *h, ct_cold *c, uint32_t S, const pal_packet *p, enum ct_memo word)
{
    c->memo = (uint8_t)((c->memo & MEMO_LASTING) | word | (S ? MEMO_REPLY : 0));
    c->memo_end = word == MEMO_SYN ? tcp_end(p) : p->ack;
    c->memo_window = p->window;
    if (word == MEMO_SYN)
        c->offered = (uint8_t)((c->offered & 0xf0) | tcp_offered_scale(p));
    h->state |= CT_MEMO;
}

/* X answers Y's SYN. */
PAL_OUTLINE uint8_t tcp_synack(ct_hot *h, ct_cold *c, uint32_t X, const pal_packet *p)
{
    uint32_t Y = !X, end = tcp_end(p);
    if (end_has(h, X, END_ACKED)) { /* a repeat in a simultaneous open */
        uint8_t r = tcp_window_test(h, X, p, end);
        if (r == PAL_REASON_STATE)
            tcp_update(h, X, p, end);
        return r;
    }
    uint32_t isn1 = h->half[X].ack;
    if (seq_before(p->ack, isn1) || seq_after(p->ack, h->half[Y].end))
        return PAL_REASON_TCP_ACK;
    if (!end_has(h, X, END_SEEN)) {
        bool y_acked = end_has(h, Y, END_ACKED);
        uint32_t y_ack = h->half[Y].ack;
        half_begin(h, c, X, p);
        if (y_acked)
            h->half[Y].ack = y_ack;
    }
    if (ct_state_of(h) != CT_SYN_RECEIVED)
        tcp_settle_scale(h, c);
    h->half[X].ack = p->ack;
    h->half[X].edge = units_up(p->window, scale_of(h, X));
    end_set(h, X, END_ACKED);
    if (!end_has(h, Y, END_ACKED))
        h->half[Y].edge = h->half[Y].window;
    ct_state_set(h, CT_SYN_RECEIVED);
    return PAL_REASON_STATE;
}

/* A SYN+ACK that the state does not expect, but that answers the SYN we passed over: the ends agree, we were wrong. */
static inline bool tcp_takes_over(const ct_hot *h, const ct_cold *c, uint32_t X, const pal_packet *p)
{
    return (h->state & CT_MEMO) && (c->memo & MEMO_WORD) == MEMO_SYN && ((c->memo & MEMO_REPLY) != 0) != X &&
           c->memo_end == p->ack;
}

PAL_OUTLINE uint8_t tcp_over(ct_hot *h, ct_cold *c, uint32_t S, const pal_packet *p, enum tcp_event event)
{
    if (event == EVENT_SYNACK && tcp_takes_over(h, c, S, p)) {
        uint32_t Y = !S, scale = c->offered & 15u;
        h->half[Y] = (ct_half){.end = c->memo_end, .window = c->memo_window};
        h->half[S] = (ct_half){.ack = c->memo_end};
        h->ends = 0;
        h->scale = 0;
        h->marks &= (uint8_t)~CT_LIBERAL;
        end_set(h, Y, END_SEEN);
        c->offered = 0xff;
        tcp_offered_set(c, Y, scale);
        c->memo &= MEMO_INWARD;
        h->state &= (uint8_t)~(CT_MEMO | CT_RESYNC);
        ct_state_set(h, CT_SYN_SENT);
        return tcp_synack(h, c, S, p);
    }
    if (event == EVENT_SYN)
        memo_set(h, c, S, p, MEMO_SYN);
    else if (event == EVENT_ACK && (ct_state_of(h) == CT_SYN_SENT || ct_state_of(h) == CT_SYN_SENT2))
        memo_set(h, c, S, p, MEMO_ACK);
    return TRACK_OVER;
}

PAL_OUTLINE uint8_t tcp_reset(ct_hot *h, const ct_cold *c, uint32_t S, const pal_packet *p)
{
    uint32_t R = !S, state = ct_state_of(h), end = tcp_end(p);
    bool over = false;
    if (state == CT_SYN_SENT && S == 1) {
        if (!(p->tcp_flags & TCP_ACK) || seq_before(p->ack, h->half[1].ack) || seq_after(p->ack, h->half[0].end))
            return PAL_REASON_TCP_RST;
        ct_state_set(h, CT_CLOSED);
        return PAL_REASON_STATE;
    }
    if ((state == CT_SYN_SENT || state == CT_SYN_SENT2) && S == 0 && (h->state & CT_MEMO) &&
        (c->memo & MEMO_WORD) == MEMO_ACK && c->memo_end == p->seq) {
        ct_state_set(h, CT_CLOSED);
        return PAL_REASON_STATE;
    }
    if (end_has(h, R, END_ACKED) && state >= CT_SYN_RECEIVED) {
        if (seq_before(p->seq, h->half[R].ack))
            return PAL_REASON_TCP_RST;
        bool follows = end_has(h, S, END_SEEN) && p->seq == h->half[S].end;
        over = state == CT_ESTABLISHED && p->seq != h->half[R].ack && !follows;
    }
    uint8_t r = tcp_window_test(h, S, p, end);
    if (r == TRACK_OVER || r == PAL_REASON_STATE) {
        if (r == TRACK_OVER || over)
            return TRACK_OVER;
        ct_state_set(h, CT_CLOSED);
        return PAL_REASON_STATE;
    }
    return PAL_REASON_TCP_RST;
}

/* The state after an accepted packet with data, ACK or FIN. */
PAL_INLINE void tcp_follow(ct_hot *h, const ct_cold *c, uint32_t S, enum tcp_event event)
{
    uint32_t state = ct_state_of(h);
    if (PAL_LIKELY(state == CT_ESTABLISHED && !(h->ends & (END_FIN | END_FIN << 4))))
        return;
    if (state == CT_TIME_WAIT || state == CT_CLOSED)
        return;
    uint32_t fins = h->ends & (END_FIN | END_FIN << 4), acked = h->ends & (END_FIN_ACKED | END_FIN_ACKED << 4);
    if (fins == (END_FIN | END_FIN << 4))
        ct_state_set(h, acked == (END_FIN_ACKED | END_FIN_ACKED << 4) ? CT_TIME_WAIT : CT_CLOSING);
    else if (fins)
        ct_state_set(h, CT_FIN_WAIT);
    else if (event == EVENT_ACK && (S == 0 || state != CT_SYN_RECEIVED || (c->memo & MEMO_SIMULTANEOUS)))
        ct_state_set(h, CT_ESTABLISHED);
}

/* One packet of a connection; `dir` 0 in the original direction, 1 in the reply direction. */
PAL_INLINE uint8_t tcp_track(ct_hot *h, ct_cold *c, uint32_t dir, const pal_packet *p)
{
    enum tcp_event event = tcp_event_of(p->tcp_flags);
    uint8_t r = PAL_REASON_STATE;
    uint32_t end = tcp_end(p);
    switch (tcp_moves[dir][event][ct_state_of(h)]) {
    case MOVE_DATA:
        r = tcp_window_test(h, dir, p, end);
        if (PAL_UNLIKELY(r != PAL_REASON_STATE))
            return r;
        if (PAL_UNLIKELY(h->state & CT_RESYNC))
            resync_learn(h, c, dir, p);
        tcp_update(h, dir, p, end);
        tcp_follow(h, c, dir, event);
        break;
    case MOVE_SYN:
        half_begin(h, c, dir, p);
        if (dir == 1) {
            c->memo |= MEMO_SIMULTANEOUS;
            ct_state_set(h, CT_SYN_SENT2);
        }
        break;
    case MOVE_SYNACK:
        r = tcp_synack(h, c, dir, p);
        break;
    case MOVE_RST:
        r = tcp_reset(h, c, dir, p);
        break;
    case MOVE_OVER:
        r = tcp_over(h, c, dir, p, event);
        break;
    case MOVE_REOPEN:
        return TRACK_REOPEN;
    default:
        return PAL_REASON_TCP_STATE;
    }
    if (PAL_UNLIKELY((h->state & CT_MEMO) && r == PAL_REASON_STATE)) {
        h->state &= (uint8_t)~CT_MEMO;
        c->memo &= MEMO_LASTING;
    }
    return r;
}

/* The first packet of a connection; false: it does not begin one (a misfit). */
PAL_INLINE bool tcp_may_begin(uint8_t flags) { return tcp_event_of(flags) == EVENT_SYN || tcp_event_of(flags) == EVENT_ACK; }
PAL_INLINE bool tcp_is_bare_syn(uint8_t flags) { return tcp_event_of(flags) == EVENT_SYN; }

static inline void tcp_begin(ct_hot *h, ct_cold *c, const pal_packet *p)
{
    if (tcp_is_bare_syn(p->tcp_flags)) {
        ct_state_set(h, CT_SYN_SENT);
        half_begin(h, c, 0, p);
        return;
    }
    ct_state_set(h, CT_ESTABLISHED);
    h->marks |= CT_LIBERAL;
    tcp_update(h, 0, p, tcp_end(p));
}

PAL_INLINE uint32_t tcp_timer(const ct_hot *h)
{
    static const uint8_t timer[CT_STATE_TCP_END] = {
        [CT_SYN_SENT] = TIMER_TCP_FIRST_PACKET, [CT_SYN_SENT2] = TIMER_TCP_OPENING,
        [CT_SYN_RECEIVED] = TIMER_TCP_OPENING, [CT_ESTABLISHED] = TIMER_TCP_ESTABLISHED,
        [CT_FIN_WAIT] = TIMER_TCP_CLOSING, [CT_CLOSING] = TIMER_TCP_FINWAIT, [CT_TIME_WAIT] = TIMER_TCP_FINWAIT,
        [CT_CLOSED] = TIMER_TCP_CLOSED};
    uint32_t state = ct_state_of(h);
    if (PAL_UNLIKELY(!(h->marks & CT_REPLIED) && state != CT_CLOSED))
        return TIMER_TCP_FIRST_PACKET;
    return timer[state];
}

#endif
