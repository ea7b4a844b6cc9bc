/* SPDX-License-Identifier: Apache-2.0
 *
 * fast_wide.h - fast_judge for eight visits at once, with AVX2: a lane a visit.
 *
 * Eight connections' lines are turned so that each field of all eight is one vector, judged as fast_judge does it, and
 * turned back. All eight must hold, and be eight different connections, else nothing has been changed and each visit is
 * judged by itself: so the order of packets on one connection is never lost. Chosen at run time (pal_worker.wide).
 */
#ifndef PAL_CORE_FAST_WIDE_H
#define PAL_CORE_FAST_WIDE_H

#include "fast.h"
#include "key_wide.h"

#ifdef PAL_WIDE
/* Nonzero in the lanes whose connection has another key. */
WIDE PAL_INLINE wide_t wide_differs(const void *const hot[WIDE_LANES], const uint64_t line[WIDE_LANES][2])
{
    wide_t m[4];
    for (uint32_t i = 0; i < 4; i++)
        m[i] = _mm256_xor_si256(wide_pair(hot[i], hot[i + 4]), wide_pair(line[i], line[i + 4]));
    wide_turn(m);
    return _mm256_or_si256(_mm256_or_si256(m[0], m[1]), _mm256_or_si256(m[2], m[3]));
}

WIDE PAL_INLINE wide_t wide_addr6_differs(const ct_table *t, const pal_burst *b, uint32_t v)
{
    return _mm256_xor_si256(wide_load(t->addr6[b->ref[v] - t->cap4].addr), wide_load(b->key[v].addr));
}

/* Do the IPv6 connections among visits v .. v + 7, a bit each, have the packets' addresses? */
WIDE PAL_INLINE bool wide_addr6_are(const ct_table *t, const pal_burst *b, uint32_t v, uint32_t lanes)
{
    wide_t differ = wide_of(0);
    if (PAL_LIKELY(lanes == (1u << WIDE_LANES) - 1)) {
        for (uint32_t i = 0; i < WIDE_LANES; i++)
            differ = _mm256_or_si256(differ, wide_addr6_differs(t, b, v + i));
    } else {
        for (; lanes; lanes &= lanes - 1)
            differ = _mm256_or_si256(differ, wide_addr6_differs(t, b, v + (uint32_t)__builtin_ctz(lanes)));
    }
    return wide_is_zero(differ);
}

/* fast_observe for visits v .. v + 7; S: the packets' directions, all ones for the reply. */
WIDE PAL_OUTLINE void wide_observe(pal_worker *w, const pal_burst *b, uint32_t v, wide_t S, pal_judgement *j)
{
    uint32_t dir[WIDE_LANES];
    wide_store(dir, _mm256_srli_epi32(S, 31));
    for (uint32_t i = 0; i < WIDE_LANES; i++)
        fast_observe(w, b->ref[v + i], dir[i], b->packet[v + i], &j[i]);
}

/* Visits v .. v + 7: true when all were judged and stand in w->out. Variables are named as in fast_judge. */
WIDE PAL_OUTLINE bool wide_judge(pal_worker *w, const pal_burst *b, uint32_t v)
{
    const ct_table *t = &w->table;
    wide_t ref = wide_load(&b->ref[v]), way = wide_load(&b->way[v]), six = _mm256_srai_epi32(_mm256_slli_epi32(way, 1), 31);
    /* Anything but zero in `bad` or a sign in `negative` sends all eight the long way. */
    wide_t bad = _mm256_xor_si256(wide_load(&b->entry[v]), wide_of(HINT_ACK));
    bad = wide_or3(bad, wide_twice(ref), _mm256_xor_si256(six, _mm256_cmpgt_epi32(ref, wide_of(t->cap4 - 1))));
    if (PAL_UNLIKELY(!wide_is_zero(bad)))
        return false;

    void *hot[WIDE_LANES];
    for (uint32_t i = 0; i < WIDE_LANES; i++)
        hot[i] = &t->hot[b->ref[v + i]];
    const void *const *h = (const void *const *)hot, *const *p = (const void *const *)&b->packet[v], *const *f = (const void *const *)&b->filter[v];
    bad = wide_differs(h, &b->line[v]);
    wide_t mark[4], rule[4], x[4], y[4], m[4], n[4]; /* marks, epoch, deadline, packets; epoch, zone, established, number */
    wide_gather(mark, h, offsetof(ct_hot, marks));
    wide_gather(rule, f, offsetof(pal_filter, epoch));
    bad = wide_or3(bad, wide_unlike(mark[0], FAST_MASK, FAST_WANT), _mm256_xor_si256(mark[1], rule[0]));

    wide_t S = _mm256_srai_epi32(_mm256_xor_si256(way, _mm256_slli_epi32(mark[0], 28)), 31), nibble = wide_of(15);
    wide_t scale0 = _mm256_and_si256(_mm256_srli_epi32(mark[0], 16), nibble), scale1 = _mm256_and_si256(_mm256_srli_epi32(mark[0], 20), nibble);
    wide_t scale = wide_choose(scale0, scale1, S), other = wide_choose(scale1, scale0, S), low = wide_of(0xffff);
    wide_gather(x, p, offsetof(pal_packet, seq));       /* seq, ack, payload_len, wire_bytes */
    wide_gather(y, p, offsetof(pal_packet, fragments)); /* fragments, ip_len, window, ports */
    wide_gather(m, h, offsetof(ct_hot, bytes));         /* bytes[0], bytes[1], half[0].end, half[0].ack */
    wide_gather(n, h, offsetof(ct_hot, half) + 8);      /* half[0].window and edge, half[1].end, ack, window and edge */
    wide_t ack = x[1], end = _mm256_add_epi32(x[0], x[2]), window = _mm256_and_si256(y[2], low);
    wide_t s_end = wide_choose(m[2], n[1], S), s_ack = wide_choose(m[3], n[2], S), s_edges = wide_choose(n[0], n[3], S);
    wide_t r_end = wide_choose(n[1], m[2], S), r_ack = wide_choose(n[2], m[3], S), r_edges = wide_choose(n[3], n[0], S);
    wide_t s_window = _mm256_and_si256(s_edges, low), s_edge = _mm256_srli_epi32(s_edges, 16);
    wide_t beyond = _mm256_sub_epi32(ack, s_ack), advance = _mm256_sub_epi32(end, s_end), unsent = _mm256_sub_epi32(r_end, ack);
    wide_t room = _mm256_sub_epi32(_mm256_add_epi32(r_ack, _mm256_sllv_epi32(_mm256_srli_epi32(r_edges, 16), other)), end);
    wide_t behind = _mm256_add_epi32(advance, _mm256_and_si256(r_edges, low));
    wide_t lag = _mm256_sub_epi32(_mm256_sllv_epi32(s_window, scale), unsent);
    wide_t now = wide_of((uint32_t)t->s->now), deadline = _mm256_add_epi32(now, rule[2]);
    wide_t half = _mm256_and_si256(S, wide_of(16));
    wide_t packets = _mm256_add_epi32(mark[3], _mm256_sllv_epi32(y[0], half));
    wide_t full = _mm256_sllv_epi32(packets, _mm256_xor_si256(half, wide_of(16)));
    wide_t bytes = _mm256_add_epi32(wide_choose(m[0], m[1], S), x[3]);
    wide_t negative = wide_or3(wide_or3(room, behind, unsent), wide_or3(lag, beyond, _mm256_sub_epi32(mark[2], now)),
                               wide_or3(_mm256_sub_epi32(deadline, mark[2]), full, bytes));
    if (PAL_UNLIKELY(!wide_is_zero(bad)) || PAL_UNLIKELY(_mm256_movemask_ps(_mm256_castsi256_ps(negative))))
        return false;
    uint32_t v6 = (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(six));
    if (v6 && PAL_UNLIKELY(!wide_addr6_are(t, b, v, v6)))
        return false;

    wide_t passed = _mm256_srlv_epi32(beyond, scale), edge = _mm256_sub_epi32(_mm256_max_epu32(s_edge, passed), passed);
    wide_t edges = _mm256_or_si256(_mm256_max_epu32(s_window, window), _mm256_slli_epi32(_mm256_max_epu32(edge, window), 16));
    end = _mm256_add_epi32(s_end, _mm256_max_epi32(advance, _mm256_setzero_si256()));
    wide_t m_new[4] = {wide_choose(bytes, m[0], S), wide_choose(m[1], bytes, S), wide_choose(end, m[2], S), wide_choose(ack, m[3], S)};
    wide_t n_new[4] = {wide_choose(edges, n[0], S), wide_choose(n[1], end, S), wide_choose(n[2], ack, S), wide_choose(n[3], edges, S)};
    wide_scatter2(deadline, packets, hot, offsetof(ct_hot, deadline));
    wide_scatter(m_new, hot, offsetof(ct_hot, bytes));
    wide_scatter(n_new, hot, offsetof(ct_hot, half) + 8);

    pal_judgement *j = worker_next(w);
    void *out[WIDE_LANES];
    for (uint32_t i = 0; i < WIDE_LANES; i++) {
        out[i] = &j[i];
        j[i].cookie = b->packet[v + i]->cookie;
    }
    const pal_judgement always = {.verdict = PAL_ALLOW, .reason = PAL_REASON_STATE, .ct = PAL_CT_ESTABLISHED};
    wide_t label = wide_or3(_mm256_and_si256(rule[3], low), _mm256_and_si256(way, wide_of(0xffu << WAY_DIR)),
                            _mm256_slli_epi32(_mm256_srli_epi32(S, 31), 24));
    wide_t rest[4] = {label, wide_of(PAL_NONE), wide_of(load_u32(&always.verdict)), _mm256_setzero_si256()};
    wide_scatter2(ref, y[1], out, offsetof(pal_judgement, ref));
    wide_scatter(rest, out, offsetof(pal_judgement, filter));
    w->out_count += WIDE_LANES;
    if (PAL_UNLIKELY(w->observed))
        wide_observe(w, b, v, S, j);
    return true;
}

_Static_assert(offsetof(ct_hot, half) == offsetof(ct_hot, bytes) + 8 && sizeof(ct_half) == 12, "bytes and halves are two blocks");
_Static_assert(offsetof(ct_hot, packets) == offsetof(ct_hot, marks) + 12 && offsetof(ct_hot, deadline) == offsetof(ct_hot, marks) + 8,
               "marks, epoch, deadline and packets are one block");
_Static_assert(offsetof(pal_judgement, rule) == offsetof(pal_judgement, filter) + 4 &&
                   offsetof(pal_judgement, verdict) == offsetof(pal_judgement, filter) + 8 &&
                   offsetof(pal_judgement, reserved) == offsetof(pal_judgement, filter) + 12, "a verdict's second half is one block");

#else
PAL_INLINE bool wide_judge(pal_worker *w, const pal_burst *b, uint32_t v) { return (void)w, (void)b, (void)v, false; }
#endif

#endif
