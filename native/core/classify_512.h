/* SPDX-License-Identifier: Apache-2.0
 *
 * classify_512.h - the look-ups of classify.h with AVX-512: sixteen keys at a time through the tables by gathers, a line of a
 * dense row in one register; sparse rows in classify_512_burst.h. Chosen at run time; equal to the plain variant on every key
 * (native/tests/test_classify.c, test_classify_grid.c).
 */
#ifndef PAL_CORE_CLASSIFY_512_H
#define PAL_CORE_CLASSIFY_512_H

#include "classify.h"

#define CLS_512_TARGET __attribute__((target("popcnt,bmi,bmi2,avx2,avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq")))
#define CLS_512 static inline __attribute__((always_inline)) CLS_512_TARGET

/* A stage: a function of its own, since one for all of them has more values than there are registers. */
#define CLS_512_STAGE static __attribute__((noinline, unused)) CLS_512_TARGET

#define CLS_LANES 16
#define CLS_512_BURST 32 /* keys of one pass through all stages */

/* Of one pass, in the order of the keys. What each field has become: classes, then rows. */
typedef struct PAL_ALIGNED(64) cls_512 {
    uint32_t src[CLS_512_BURST], dst[CLS_512_BURST];
    uint32_t meta[CLS_512_BURST], dport[CLS_512_BURST], sport[CLS_512_BURST];
} cls_512;

CLS_512 __m512i cls_512_of(uint32_t x) { return _mm512_set1_epi32((int)x); }
CLS_512 __m512i cls_512_load(const uint32_t *p) { return _mm512_loadu_si512((const void *)p); }
CLS_512 void cls_512_store(uint32_t *p, __m512i v) { _mm512_storeu_si512((void *)p, v); }
CLS_512 __m512i cls_512_gather(const void *base, __m512i index) { return _mm512_i32gather_epi32(index, base, 4); }

CLS_512 __m256i cls_512_block(const uint64_t *p) { return _mm256_load_si256((const void *)p); }

/* Words of the nodes v at word i of each; v itself in the other lanes. */
CLS_512 __m512i cls_512_gather_ref(const uint8_t *base, __m512i v, __m512i i, __mmask16 lanes)
{
    __m512i at = _mm512_add_epi32(_mm512_slli_epi32(_mm512_and_si512(v, cls_512_of(CLS_REF)), 3), i);
    return _mm512_mask_i32gather_epi32(v, lanes, at, base, 4);
}

/* ---- keys ---------------------------------------------------------------------------------------------------- */

#define CLS_KEY_WORDS 10
_Static_assert(sizeof(pal_key) == 4 * CLS_KEY_WORDS && offsetof(pal_key, dst) == 16 && offsetof(pal_key, sport) == 32 &&
                   offsetof(pal_key, dport) == 34 && offsetof(pal_key, proto) == 36 && offsetof(pal_key, tcp_flags) == 37 &&
                   offsetof(pal_key, family) == 38 && offsetof(pal_key, dir) == 39,
               "as taken apart");

/* Which of sixteen keys have word `field` in the 32 words of a pair of registers. */
CLS_512 __mmask16 cls_512_pair(uint32_t field, uint32_t pair)
{
    uint32_t mask = 0;
#pragma GCC unroll 16
    for (uint32_t i = 0; i < CLS_LANES; i++)
        mask |= (uint32_t)((CLS_KEY_WORDS * i + field) / 32 == pair) << i;
    return (__mmask16)mask;
}

/* One word of each of sixteen keys, which z holds. A lane that its pair has filled is no index any more; the others still are. */
CLS_512 __m512i cls_512_field(const __m512i z[CLS_KEY_WORDS], uint32_t field)
{
    const __m512i step = _mm512_setr_epi32(0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120, 130, 140, 150);
    __m512i v = _mm512_add_epi32(step, cls_512_of(field));
#pragma GCC unroll 5
    for (uint32_t p = 0; p < CLS_KEY_WORDS / 2; p++)
        v = _mm512_mask2_permutex2var_epi32(z[2 * p], v, cls_512_pair(field, p), z[2 * p + 1]);
    return v;
}

CLS_512 __m512i cls_512_port(const cls_ports *t, __m512i port)
{
    const __m512i low = cls_512_of(0xffff);
    __m512i page = _mm512_and_si512(_mm512_i32gather_epi32(_mm512_srli_epi32(port, 8), t->page, 2), low);
    __m512i at = _mm512_add_epi32(_mm512_slli_epi32(page, 8), _mm512_and_si512(port, cls_512_of(255)));
    return _mm512_and_si512(_mm512_i32gather_epi32(at, t->cls, 2), low);
}

/* Sixteen keys: their addresses, and the classes of everything else. Which are not of IPv4? */
CLS_512 __mmask16 cls_512_keys(const pal_ruleset *r, const pal_key *keys, uint32_t *src, uint32_t *dst, cls_512 *x, uint32_t from)
{
    const __m512i swap = _mm512_set4_epi32(0x0c0d0e0f, 0x08090a0b, 0x04050607, 0x00010203), byte = cls_512_of(255);
    const __m512i three = cls_512_of(3);
    __m512i z[CLS_KEY_WORDS];
#pragma GCC unroll 10
    for (uint32_t i = 0; i < CLS_KEY_WORDS; i++)
        z[i] = _mm512_loadu_si512((const uint8_t *)(const void *)keys + 64 * i);
    cls_512_store(src + from, _mm512_shuffle_epi8(cls_512_field(z, 0), swap));
    cls_512_store(dst + from, _mm512_shuffle_epi8(cls_512_field(z, 4), swap));
    __m512i ports = cls_512_field(z, 8), rest = cls_512_field(z, 9);
    __m512i at = _mm512_and_si512(_mm512_i32gather_epi32(_mm512_and_si512(rest, byte), r->proto_class, 1), byte);
    if (r->n_flags > 1) {
        __m512i flags = _mm512_and_si512(_mm512_srli_epi32(rest, 8), byte);
        at = _mm512_mullo_epi32(at, cls_512_of(r->n_flags));
        at = _mm512_add_epi32(at, _mm512_and_si512(_mm512_i32gather_epi32(flags, r->flag_class, 1), byte));
    }
    __m512i family = _mm512_and_si512(_mm512_srli_epi32(rest, 16), byte), dir = _mm512_and_si512(_mm512_srli_epi32(rest, 24), three);
    at = _mm512_add_epi32(_mm512_slli_epi32(at, 4), _mm512_or_si512(_mm512_slli_epi32(_mm512_and_si512(family, three), 2), dir));
    cls_512_store(x->meta + from, cls_512_gather(r->meta_at, at));
    if (r->dport.n > 1)
        cls_512_store(x->dport + from, cls_512_port(&r->dport_at, _mm512_srli_epi32(ports, 16)));
    else
        cls_512_store(x->dport + from, _mm512_setzero_si512());
    if (r->sport.n > 1)
        cls_512_store(x->sport + from, cls_512_port(&r->sport_at, _mm512_and_si512(ports, cls_512_of(0xffff))));
    else
        cls_512_store(x->sport + from, _mm512_setzero_si512());
    return _mm512_cmpneq_epi32_mask(family, cls_512_of(PAL_FAMILY_V4));
}

/* ---- addresses ----------------------------------------------------------------------------------------------- */

/* Appends the numbers of the lanes. The list has room for sixteen more than it holds. */
CLS_512 uint32_t cls_512_lanes(uint32_t *list, uint32_t n, __mmask16 lanes, uint32_t from)
{
    const __m512i number = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    cls_512_store(list + n, _mm512_maskz_compress_epi32(lanes, _mm512_add_epi32(number, cls_512_of(from))));
    return n + (uint32_t)_mm_popcnt_u32(lanes);
}

/* IPv4 classes of n groups of sixteen addresses. */
CLS_512 void cls_512_classes(const pal_snap *s, const uint32_t *addr, uint32_t n, uint32_t *out)
{
    const __m512i byte = cls_512_of(255);
    uint32_t leaf16[2 * CLS_512_BURST + CLS_LANES], leaf8[2 * CLS_512_BURST + CLS_LANES], n16 = 0, n8 = 0;
    __m512i slot[2 * CLS_512_BURST / CLS_LANES];
    for (uint32_t g = 0; g < n; g++) {
        __m512i a = cls_512_load(addr + CLS_LANES * g), v = cls_512_gather(s->root4, _mm512_srli_epi32(a, 24));
        slot[g] = cls_512_gather_ref(s->base, v, _mm512_and_si512(_mm512_srli_epi32(a, 16), byte), _mm512_movepi32_mask(v));
    }
    for (uint32_t g = 0; g < n; g++) {
        __m512i a = cls_512_load(addr + CLS_LANES * g), v = slot[g];
        __mmask16 node = _mm512_movepi32_mask(v), page = node & _mm512_movepi32_mask(_mm512_slli_epi32(v, 1));
        n16 = cls_512_lanes(leaf16, n16, node & (__mmask16)~page, CLS_LANES * g);
        v = cls_512_gather_ref(s->base, v, _mm512_and_si512(_mm512_srli_epi32(a, 8), byte), page);
        __mmask16 node8 = _mm512_movepi32_mask(v) & page, page8 = node8 & _mm512_movepi32_mask(_mm512_slli_epi32(v, 1));
        n8 = cls_512_lanes(leaf8, n8, node8 & (__mmask16)~page8, CLS_LANES * g);
        if (page8) /* few maps have such pages */
            v = cls_512_gather_ref(s->base, v, _mm512_and_si512(a, byte), page8);
        cls_512_store(out + CLS_LANES * g, v);
    }
    for (uint32_t j = 0; j < n16; j++)
        out[leaf16[j]] = cls_leaf16_class(s->base, out[leaf16[j]], addr[leaf16[j]]);
    for (uint32_t j = 0; j < n8; j++)
        out[leaf8[j]] = cls_leaf8_class(s->base, out[leaf8[j]], addr[leaf8[j]]);
}

/* The rows of the classes in one superblock. */
CLS_512 void cls_512_rows(const uint8_t *base, const uint32_t *tab, uint32_t supers, uint32_t super, uint32_t n, const uint32_t *cls,
                          uint32_t dst, uint32_t *row)
{
    for (uint32_t g = 0; g < n; g++) {
        __m512i c = cls_512_load(cls + CLS_LANES * g), page = _mm512_srli_epi32(c, 8);
        if (supers > 1)
            page = _mm512_mullo_epi32(page, cls_512_of(supers));
        if (supers == 1 && !_mm512_cmpgt_epu32_mask(page, cls_512_of(15))) /* sixteen pages and fewer: one line, always there */
            page = _mm512_permutexvar_epi32(page, cls_512_load(tab));
        else
            page = cls_512_gather(tab + super, page);
        __m512i at = _mm512_or_si512(_mm512_and_si512(c, cls_512_of(255)), cls_512_of(dst));
        cls_512_store(row + CLS_LANES * g, cls_512_gather_ref(base, page, at, 0xffff));
    }
}

/* ---- keys on their way ----------------------------------------------------------------------------------------- */

typedef struct PAL_ALIGNED(64) cls_512_way {
    cls_512 x;
    uint32_t addr[2 * CLS_512_BURST], cls[2 * CLS_512_BURST], row[2 * CLS_512_BURST];
    uint32_t n, room; /* keys; rounded up to sixteen: the destinations begin there */
    const pal_key *keys;
} cls_512_way;

/* Up to the classes of everything. */
CLS_512_STAGE void cls_512_begin(const pal_snap *snap, const pal_ruleset *r, const pal_key *keys, uint32_t n, cls_512_way *w)
{
    uint32_t not4 = 0;
    w->keys = keys;
    w->n = n;
    w->room = (n + CLS_LANES - 1) / CLS_LANES * CLS_LANES;
    for (uint32_t i = 0; i < n; i += CLS_LANES) {
        const pal_key *sixteen = keys + i;
        pal_key tail[CLS_LANES];
        if (PAL_UNLIKELY(n - i < CLS_LANES)) { /* what is missing: the last key again */
            for (uint32_t j = 0; j < CLS_LANES; j++)
                tail[j] = keys[min_u32(i + j, n - 1)];
            sixteen = tail;
        }
        not4 |= cls_512_keys(r, sixteen, w->addr, w->addr + w->room, &w->x, i);
    }
    cls_512_classes(snap, w->addr, 2 * w->room / CLS_LANES, w->cls);
    if (PAL_UNLIKELY(not4))
        cls_keys6(snap, keys, n, w->cls, w->cls + w->room);
}

CLS_512 void cls_512_find(const uint8_t *base, const uint32_t *tab, uint32_t supers, uint32_t super, cls_512_way *w)
{
    uint32_t groups = w->room / CLS_LANES;
    cls_512_rows(base, tab, supers, super, groups, w->cls, 0, w->row);
    cls_512_rows(base, tab, supers, super, groups, w->cls + w->room, CLS_TAB, w->row + w->room);
}

/* Numbers of the lowest bits; 64 where there is none. */
CLS_512 __m512i cls_512_lowest(__m512i v)
{
    return _mm512_popcnt_epi64(_mm512_andnot_si512(v, _mm512_add_epi64(v, _mm512_set1_epi64(-1))));
}

/* ---- dense rows ---------------------------------------------------------------------------------------------- */

/* Rows as multiples of eight bytes, in place. */
CLS_512 void cls_512_scale(uint32_t *row, uint32_t n, uint32_t shift)
{
    for (uint32_t i = 0; i < n; i += CLS_LANES)
        cls_512_store(row + i, _mm512_sll_epi32(cls_512_load(row + i), _mm_cvtsi32_si128((int)shift)));
}

/* blocks, dports and sports are constants at each call. */
CLS_512 void cls_512_dense_of(const uint8_t *base, const pal_ruleset *r, cls_512 *x, uint32_t *src, uint32_t *dst, uint32_t n,
                              uint32_t *entry, uint32_t blocks, bool dports, bool sports)
{
    const uint64_t *arena = (const uint64_t *)(const void *)base, *meta = r->meta.row, *dport = r->dport.row, *sport = r->sport.row;
    const __mmask8 part = blocks == 1 ? 0x0f : 0xff;
    uint32_t lines = blocks == CLS_DENSE ? 2 : 1, shift = blocks == CLS_DENSE ? 4 : 1 + blocks;
    uint64_t word[CLS_512_BURST * 16] PAL_ALIGNED(64);
    uint8_t set[CLS_512_BURST * 2] PAL_ALIGNED(64);
    memset(set, 0, sizeof set);
    cls_512_scale(src, n, 2);
    cls_512_scale(dst, n, 2);
    cls_512_scale(x->meta, n, shift);
    if (dports)
        cls_512_scale(x->dport, n, shift);
    if (sports)
        cls_512_scale(x->sport, n, shift);
    for (uint32_t i = 0; i < n; i++) {
        const uint64_t *s = arena + src[i], *d = arena + dst[i], *m = meta + x->meta[i];
        const uint64_t *dp = dport + x->dport[i], *sp = sport + x->sport[i];
#pragma GCC unroll 2
        for (uint32_t l = 0; l < lines; l++) {
            __m512i v = _mm512_ternarylogic_epi64(_mm512_maskz_loadu_epi64(part, s + 8 * l), _mm512_maskz_loadu_epi64(part, d + 8 * l),
                                                  _mm512_maskz_loadu_epi64(part, m + 8 * l), 0x80);
            if (dports)
                v = _mm512_and_si512(v, _mm512_maskz_loadu_epi64(part, dp + 8 * l));
            if (sports)
                v = _mm512_and_si512(v, _mm512_maskz_loadu_epi64(part, sp + 8 * l));
            _mm512_store_si512((void *)(word + 16 * i + 8 * l), v);
            set[i * 2 + l] = (uint8_t)_mm512_test_epi64_mask(v, v);
        }
    }
    /* The first bit of eight keys: of the first word that is not zero. */
    const __m256i number = _mm256_slli_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), 4);
    for (uint32_t i = 0; i < n; i += 8) {
        __m512i sets = _mm512_cvtepu16_epi64(_mm_load_si128((const void *)(set + 2 * i)));
        __m512i w = cls_512_lowest(sets);
        __mmask8 some = _mm512_test_epi64_mask(sets, sets);
        __m256i at = _mm256_add_epi32(_mm256_add_epi32(number, _mm256_set1_epi32((int)(16 * i))), _mm512_cvtepi64_epi32(w));
        __m512i first = _mm512_mask_i32gather_epi64(sets, some, at, (const void *)word, 8);
        __m512i bit = _mm512_add_epi64(_mm512_slli_epi64(w, 6), cls_512_lowest(first));
        __m256i e = _mm256_mask_mov_epi32(_mm256_set1_epi32(-1), some, _mm512_cvtepi64_epi32(bit));
        _mm256_mask_storeu_epi32(entry + i, (__mmask8)(n - i < 8 ? (1u << (n - i)) - 1 : 0xff), e);
    }
}

CLS_512 void cls_512_dense_as(const uint8_t *base, const pal_ruleset *r, cls_512_way *w, uint32_t *entry, uint32_t blocks)
{
    uint32_t *src = w->row, *dst = w->row + w->room;
    if (r->dport.n == 1 && r->sport.n == 1)
        cls_512_dense_of(base, r, &w->x, src, dst, w->n, entry, blocks, false, false);
    else if (r->sport.n == 1)
        cls_512_dense_of(base, r, &w->x, src, dst, w->n, entry, blocks, true, false);
    else if (r->dport.n == 1)
        cls_512_dense_of(base, r, &w->x, src, dst, w->n, entry, blocks, false, true);
    else
        cls_512_dense_of(base, r, &w->x, src, dst, w->n, entry, blocks, true, true);
}

CLS_512_STAGE void cls_512_dense(const uint8_t *base, const pal_ruleset *r, const uint32_t *tab, cls_512_way *w, uint32_t *entry)
{
    cls_512_find(base, tab, 1, 0, w);
    if (r->blocks == CLS_DENSE)
        cls_512_dense_as(base, r, w, entry, CLS_DENSE);
    else if (r->blocks == 2)
        cls_512_dense_as(base, r, w, entry, 2);
    else
        cls_512_dense_as(base, r, w, entry, 1);
}

#endif
