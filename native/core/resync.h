/* SPDX-License-Identifier: Apache-2.0
 *
 * resync.h - a TCP connection that was taken over from another process: what passed in between is not known. Until both
 * ends were heard twice, or for RESYNC_TICKS, a packet is believed within one maximum window of what was known last, and
 * its sender is learned anew from it (DESIGN section 4; docs/packet-path.md, section 14). Included by tcp.h.
 *
 * The high nibble of cold.offered counts: scales have been settled by then.
 */
#ifndef PAL_CORE_RESYNC_H
#define PAL_CORE_RESYNC_H

#define RESYNC_TICKS 1000 /* 10 s */
#define RESYNC_PACKETS 2  /* of each end */

/* Windows are known, so they can be relearned. */
static inline bool resync_applies(const ct_hot *h)
{
    return ct_kind_of(h) == KIND_TCP && !(h->marks & CT_LIBERAL) && ct_state_of(h) >= CT_SYN_RECEIVED &&
           end_has(h, 0, END_SEEN) && end_has(h, 1, END_SEEN) && end_has(h, 0, END_ACKED) && end_has(h, 1, END_ACKED);
}

static inline void resync_begin(ct_hot *h, ct_cold *c)
{
    h->state |= CT_RESYNC;
    c->offered &= 15;
}

/* Time ends it. It runs from the first packet that meets such a connection: before that nobody has moved on. */
static inline void resync_time(ct_state_block *s, ct_hot *h)
{
    if (s->resync_until == 0)
        s->resync_until = s->now + RESYNC_TICKS;
    if (s->now > s->resync_until)
        h->state &= (uint8_t)~CT_RESYNC;
}

/* The most that an end can ever have advertised, in bytes. */
PAL_INLINE uint32_t resync_reach(const ct_hot *h, uint32_t end) { return 0xffffu << scale_of(h, end); }
PAL_INLINE bool resync_is_far(uint32_t a, uint32_t b, uint32_t reach) { return a - b + reach > 2 * reach; }

static inline uint8_t resync_window_test(const ct_hot *h, uint32_t S, const pal_packet *p, uint32_t end, bool has_ack)
{
    const ct_half *s = &h->half[S];
    uint32_t reach = resync_reach(h, !S);
    if (resync_is_far(p->seq, s->end, reach) || resync_is_far(end, s->end, reach))
        return PAL_REASON_TCP_WINDOW;
    if (has_ack && resync_is_far(p->ack, s->ack, resync_reach(h, S)))
        return PAL_REASON_TCP_ACK;
    return PAL_REASON_STATE;
}

/* An accepted segment of S: what it acknowledges was sent, though we have not seen it. */
static inline void resync_learn(ct_hot *h, ct_cold *c, uint32_t S, const pal_packet *p)
{
    uint32_t shift = 4 + 2 * S, heard = c->offered >> shift & 3;
    if ((p->tcp_flags & TCP_ACK) && seq_after(p->ack, h->half[!S].end))
        h->half[!S].end = p->ack;
    if (heard < RESYNC_PACKETS)
        c->offered += (uint8_t)(1u << shift);
    if (c->offered >> 4 == (RESYNC_PACKETS | RESYNC_PACKETS << 2))
        h->state &= (uint8_t)~CT_RESYNC;
}

#endif
