/* SPDX-License-Identifier: Apache-2.0
 *
 * parse_wide.h - a burst of frames parsed, eight at once where all eight are the kind that there are most of: untagged
 * Ethernet, IPv4 without options or IPv6 without extension headers, whole, TCP with ACK and without SYN, FIN, RST, URG,
 * nothing wrong. The result is that of parse_frame on each; where one of eight is of another kind or family, parse_frame
 * does all eight.
 */
#ifndef PAL_CORE_PARSE_WIDE_H
#define PAL_CORE_PARSE_WIDE_H

#include "parse.h"
#include "wide.h"

#ifdef PAL_WIDE
/* The same byte order for each of four numbers. */
#define WIDE_BYTES4(a, b, c, d) a, b, c, d, (a) + 4, (b) + 4, (c) + 4, (d) + 4, (a) + 8, (b) + 8, (c) + 8, (d) + 8, (a) + 12, (b) + 12, (c) + 12, (d) + 12
#define WIDE_BYTES(a, b, c, d) _mm256_setr_epi8(WIDE_BYTES4(a, b, c, d), WIDE_BYTES4(a, b, c, d))
#define WIDE_NOTHING (-64) /* stays negative in each number: makes a zero */

WIDE PAL_INLINE wide_t wide_halves(wide_t x) { return _mm256_add_epi32(_mm256_and_si256(x, wide_of(0xffff)), _mm256_srli_epi32(x, 16)); }

/* What was found in eight frames, a lane each. `fields`: data offset, flags and window as in the header. */
typedef struct wide_found {
    wide_t ip_len, l4_len, doff;
    wide_t ports, seq, ack, fields; /* as in the header */
    wide_t size[2];                 /* cap, wire */
} wide_found;

/* Nonzero where the TCP header, or a length, is of another kind. */
WIDE PAL_INLINE wide_t wide_unlike_tcp(wide_found *f, uint32_t l3, uint32_t l4)
{
    f->doff = _mm256_srli_epi32(_mm256_and_si256(f->fields, wide_of(0xf0)), 2);
    wide_t bad = wide_or3(wide_unlike(f->fields, 0x3700, TCP_ACK << 8), _mm256_cmpgt_epi32(_mm256_add_epi32(f->ip_len, wide_of(l3)), f->size[1]),
                          _mm256_cmpgt_epi32(wide_of(20), f->doff));
    return wide_or3(bad, _mm256_cmpgt_epi32(f->doff, f->l4_len), _mm256_cmpgt_epi32(_mm256_add_epi32(f->doff, wide_of(l4)), f->size[0]));
}

/* Into the packets; class: family, protocol, reason; sums; addresses. */
WIDE PAL_INLINE void wide_parsed(void *const out[WIDE_LANES], const wide_found *f, uint32_t l3, uint32_t l4, wide_t class[4])
{
    const wide_t network = WIDE_BYTES(3, 2, 1, 0);
    class[0] = _mm256_or_si256(class[0], _mm256_and_si256(_mm256_slli_epi32(f->fields, 8), wide_of(0xff0000)));
    wide_t window = _mm256_shuffle_epi8(f->fields, WIDE_BYTES(3, 2, WIDE_NOTHING, WIDE_NOTHING));
    wide_t where[4] = {wide_of(l3), wide_of(l4), f->l4_len, wide_of(0)};
    wide_t track[4] = {_mm256_shuffle_epi8(f->seq, network), _mm256_shuffle_epi8(f->ack, network), _mm256_sub_epi32(f->l4_len, f->doff), f->ip_len};
    wide_t rest[4] = {wide_of(1), f->ip_len, wide_or3(window, _mm256_slli_epi32(f->doff, 16), wide_of(l3 << 24)),
                      _mm256_shuffle_epi8(f->ports, WIDE_BYTES(1, 0, 3, 2))};
    wide_scatter(where, out, offsetof(pal_packet, l3));
    wide_scatter(class, out, offsetof(pal_packet, family));
    wide_scatter(track, out, offsetof(pal_packet, seq));
    wide_scatter(rest, out, offsetof(pal_packet, fragments));
}

/* Frames p[0 .. 7]; false: at least one is of another kind, and what was written does not count. */
WIDE PAL_OUTLINE bool wide_parse4(pal_packet *packet, const parse_options *o)
{
    enum { L3 = 14, L4 = L3 + 20 };
    const void *p[WIDE_LANES], *d[WIDE_LANES];
    void *out[WIDE_LANES];
    for (uint32_t i = 0; i < WIDE_LANES; i++) {
        p[i] = out[i] = &packet[i];
        d[i] = packet[i].data;
    }
    wide_t size[4], a[4], b[4], c[4];
    wide_gather(size, p, offsetof(pal_packet, cap)); /* cap, wire */
    /* Compared as signed: a frame of 2 GiB goes the long way. */
    if (PAL_UNLIKELY(_mm256_movemask_epi8(_mm256_cmpgt_epi32(wide_of(L4 + 20), size[0]))))
        return false;
    wide_gather(a, d, 12); /* type, version, TOS; length, id; fragment, TTL, protocol; sum, half the source */
    wide_gather(b, d, 26); /* source; destination; ports; seq */
    wide_gather(c, d, 38); /* seq; ack; offset, flags, window; sum, urgent */
    wide_t len = _mm256_shuffle_epi8(a[1], WIDE_BYTES(1, 0, WIDE_NOTHING, WIDE_NOTHING));
    wide_found f = {.ip_len = len, .l4_len = _mm256_sub_epi32(len, wide_of(20)), .ports = b[2], .seq = b[3], .ack = c[1],
                    .fields = c[2], .size = {size[0], size[1]}};
    /* The header's words, not folded: at most ten of 16 bits. */
    wide_t sum = _mm256_add_epi32(_mm256_srli_epi32(a[0], 16), _mm256_and_si256(a[3], wide_of(0xffff)));
    sum = _mm256_add_epi32(_mm256_add_epi32(sum, wide_halves(a[1])), _mm256_add_epi32(wide_halves(a[2]), _mm256_add_epi32(wide_halves(b[0]), wide_halves(b[1]))));
    sum = wide_halves(wide_halves(sum));
    wide_t dst = _mm256_and_si256(b[1], wide_of(0xff));
    wide_t bad = wide_or3(wide_unlike(a[0], 0xffffff, 0x450008), wide_unlike(a[2], 0xff00ff3f, PROTO_TCP << 24), wide_unlike_tcp(&f, L3, L4));
    bad = wide_or3(bad, _mm256_xor_si256(sum, wide_of(0xffff)), _mm256_cmpgt_epi32(dst, wide_of(0xdf)));
    if (PAL_UNLIKELY(o->sanity)) { /* packet_is_odd: source 0/8, 127/8, a group, or the destination */
        wide_t src = _mm256_and_si256(b[0], wide_of(0xff));
        bad = wide_or3(bad, _mm256_cmpeq_epi32(src, wide_of(0)), _mm256_cmpeq_epi32(src, wide_of(127)));
        bad = wide_or3(bad, _mm256_cmpgt_epi32(src, wide_of(0xdf)), _mm256_cmpeq_epi32(b[0], b[1]));
    }
    if (PAL_UNLIKELY(!wide_is_zero(bad)))
        return false;
    wide_t class[4] = {wide_of(PAL_FAMILY_V4 | PROTO_TCP << 8 | (uint32_t)PAL_REASON_MATCH << 24), wide_of(SUM_GOOD << 8), b[0], b[1]};
    wide_parsed(out, &f, L3, L4, class);
    return true;
}

WIDE PAL_OUTLINE bool wide_parse6(pal_packet *packet, const parse_options *o)
{
    enum { L3 = 14, L4 = L3 + 40 };
    const void *p[WIDE_LANES], *d[WIDE_LANES];
    void *out[WIDE_LANES];
    for (uint32_t i = 0; i < WIDE_LANES; i++) {
        p[i] = out[i] = &packet[i];
        d[i] = packet[i].data;
    }
    wide_t size[4], a[4], dst[4], c[4];
    wide_gather(size, p, offsetof(pal_packet, cap));
    if (PAL_UNLIKELY(_mm256_movemask_epi8(_mm256_cmpgt_epi32(wide_of(L4 + 20), size[0]))))
        return false;
    wide_gather(a, d, 12);   /* type, version, class; flow, length; next header, hop limit, begin of the source */
    wide_gather(dst, d, 38); /* destination */
    wide_gather(c, d, L4);   /* ports; seq; ack; offset, flags, window */
    wide_t l4_len = _mm256_shuffle_epi8(a[1], WIDE_BYTES(3, 2, WIDE_NOTHING, WIDE_NOTHING)), group = wide_of(0xff);
    wide_found f = {.ip_len = _mm256_add_epi32(l4_len, wide_of(40)), .l4_len = l4_len, .ports = c[0], .seq = c[1], .ack = c[2],
                    .fields = c[3], .size = {size[0], size[1]}};
    wide_t bad = wide_or3(wide_unlike(a[0], 0xf0ffff, 0x60dd86), wide_unlike(a[2], 0xff, PROTO_TCP), wide_unlike_tcp(&f, L3, L4));
    bad = _mm256_or_si256(bad, _mm256_cmpeq_epi32(_mm256_and_si256(dst[0], group), group));
    if (PAL_UNLIKELY(o->sanity)) { /* packet_is_odd: the source is a group, or the destination */
        wide_t src[4], differ = wide_of(0);
        wide_gather(src, d, 22);
        for (uint32_t i = 0; i < 4; i++)
            differ = _mm256_or_si256(differ, _mm256_xor_si256(src[i], dst[i]));
        bad = wide_or3(bad, _mm256_cmpeq_epi32(_mm256_and_si256(src[0], group), group), _mm256_cmpeq_epi32(differ, wide_of(0)));
    }
    if (PAL_UNLIKELY(!wide_is_zero(bad)))
        return false;
    wide_t class[4] = {wide_of(PAL_FAMILY_V6 | PROTO_TCP << 8 | (uint32_t)PAL_REASON_MATCH << 24), wide_of(0), wide_of(0), wide_of(0)};
    wide_parsed(out, &f, L3, L4, class);
    return true;
}
_Static_assert(SUM_UNVERIFIED == 0, "IPv6 has no sum of its own");

/* Of a run of others, the first one tells. */
PAL_INLINE bool wide_parse(pal_packet *packet, const parse_options *o)
{
    if (PAL_UNLIKELY(packet->cap < 14))
        return false;
    uint32_t type = load_be16(packet->data + 12);
    return type == ETHERTYPE_IP4 ? wide_parse4(packet, o) : type == ETHERTYPE_IP6 && wide_parse6(packet, o);
}

_Static_assert(offsetof(pal_packet, vrf) == offsetof(pal_packet, l3) + 12 && offsetof(pal_packet, wire) == offsetof(pal_packet, cap) + 4 &&
                   offsetof(pal_packet, addr4) == offsetof(pal_packet, family) + 8 && offsetof(pal_packet, l4_hdr) == offsetof(pal_packet, window) + 2 &&
                   offsetof(pal_packet, l2_len) == offsetof(pal_packet, window) + 3 &&
                   offsetof(pal_packet, window) == offsetof(pal_packet, fragments) + 8, "what the parser finds are four blocks of four numbers");
#endif

/* parse_frame for each of n frames. */
static inline void parse_burst(pal_packet *p, uint32_t n, uint32_t linktype, const parse_options *o, bool wide)
{
    for (uint32_t i = 0; i < n;) {
        uint32_t end = min_u32(i + WIDE_LANES, n);
#ifdef PAL_WIDE
        if (wide && linktype == LINKTYPE_ETHERNET && end - i == WIDE_LANES && PAL_LIKELY(wide_parse(p + i, o))) {
            if (o->sum_mode != SUM_MODE_OFF)
                for (; i < end; i++)
                    parse_sums(&p[i], o);
            i = end;
            continue;
        }
#endif
        for (; i < end; i++)
            parse_frame(&p[i], linktype, o);
    }
    (void)wide;
}

#endif
