/* SPDX-License-Identifier: Apache-2.0
 *
 * classify_512_burst.h - sparse rows with AVX-512, and whole bursts (classify_512.h).
 *
 * Eight keys at a time look at a block each, then at the next one; a lane is a key throughout, so that neither the first bit
 * nor the least entry takes a branch. What is left of a key after each block are blocks that hold an entry before the one
 * that was found (pal_ruleset.early).
 */
#ifndef PAL_CORE_CLASSIFY_512_BURST_H
#define PAL_CORE_CLASSIFY_512_BURST_H

#include "classify_512.h"

/* ---- sparse rows --------------------------------------------------------------------------------------------- */

/* Where the rows of all keys are in one superblock, and the blocks that are not looked at yet. */
typedef struct PAL_ALIGNED(64) cls_512_rest {
    uint64_t left[CLS_512_BURST], mask_s[CLS_512_BURST], mask_d[CLS_512_BURST]; /* blocks: left; in the nodes */
    uint32_t s[CLS_512_BURST], d[CLS_512_BURST];                                 /* words of the nodes' first references */
    uint32_t m[CLS_512_BURST], dp[CLS_512_BURST], sp[CLS_512_BURST];             /* words of the services' rows, in eight bytes */
    uint32_t best[CLS_512_BURST];
} cls_512_rest;

CLS_512 __m256i cls_512_low(__m512i v) { return _mm512_cvtepi64_epi32(v); }
CLS_512 __m256i cls_512_eight(const uint32_t *p) { return _mm256_load_si256((const void *)p); }
CLS_512 void cls_512_put(uint32_t *to, __m256i v) { _mm256_store_si256((void *)to, v); }
CLS_512 __m512i cls_512_masks(const uint64_t *mask, __m256i row, uint32_t supers, uint32_t super)
{
    __m256i at = supers > 1 ? _mm256_mullo_epi32(row, _mm256_set1_epi32((int)supers)) : row;
    return _mm512_i32gather_epi64(at, (const void *)(mask + super), 8);
}

/* cls_early of eight keys. */
CLS_512 __m512i cls_512_early(const pal_ruleset *r, __m256i best, uint32_t super)
{
    return cls_512_masks(r->early, _mm256_srli_epi32(_mm256_min_epu32(best, _mm256_set1_epi32((int)r->n)), 6), r->supers, super);
}

/* Which blocks of the superblock each key has to look at, and where its rows are; up to a multiple of eight keys. */
CLS_512 void cls_512_left(const uint8_t *base, const pal_ruleset *r, const cls_512 *x, const uint32_t *src, const uint32_t *dst,
                          uint32_t n, uint32_t super, cls_512_rest *k)
{
    uint32_t supers = r->supers;
    const __m512i any_s = _mm512_set1_epi64((long long)r->any_src[super]), any_d = _mm512_set1_epi64((long long)r->any_dst[super]);
    const __m256i stride = _mm256_set1_epi32((int)(r->blocks * CLS_BLOCK_WORDS)), two = _mm256_set1_epi32(2);
    const __m256i from = _mm256_set1_epi32((int)(super * CLS_SUPER * CLS_BLOCK_WORDS));
    for (uint32_t i = 0; i < n; i += 8) {
        __m256i s = cls_512_eight(src + i), d = cls_512_eight(dst + i), m = cls_512_eight(x->meta + i);
        __m256i dp = cls_512_eight(x->dport + i), sp = cls_512_eight(x->sport + i);
        __m512i mask_s = _mm512_i32gather_epi64(_mm256_slli_epi32(s, 2), (const void *)base, 8);
        __m512i mask_d = _mm512_i32gather_epi64(_mm256_slli_epi32(d, 2), (const void *)base, 8);
        __m512i left = _mm512_and_si512(_mm512_or_si512(mask_s, any_s), _mm512_or_si512(mask_d, any_d));
        left = _mm512_and_si512(left, cls_512_masks(r->meta.mask, m, supers, super));
        if (r->dport.n > 1)
            left = _mm512_and_si512(left, cls_512_masks(r->dport.mask, dp, supers, super));
        if (r->sport.n > 1)
            left = _mm512_and_si512(left, cls_512_masks(r->sport.mask, sp, supers, super));
        left = _mm512_and_si512(left, cls_512_early(r, cls_512_eight(k->best + i), super));
        _mm512_store_si512((void *)(k->left + i), left);
        _mm512_store_si512((void *)(k->mask_s + i), mask_s);
        _mm512_store_si512((void *)(k->mask_d + i), mask_d);
        cls_512_put(k->s + i, _mm256_add_epi32(_mm256_slli_epi32(s, 3), two));
        cls_512_put(k->d + i, _mm256_add_epi32(_mm256_slli_epi32(d, 3), two));
        cls_512_put(k->m + i, _mm256_add_epi32(_mm256_mullo_epi32(m, stride), from));
        cls_512_put(k->dp + i, _mm256_add_epi32(_mm256_mullo_epi32(dp, stride), from));
        cls_512_put(k->sp + i, _mm256_add_epi32(_mm256_mullo_epi32(sp, stride), from));
    }
}

/* The blocks that eight keys look at next: where they are in the rows, in eight bytes, and their first bits in the superblock. */
typedef struct PAL_ALIGNED(64) cls_512_at {
    uint32_t s[8], d[8], m[8], dp[8], sp[8], bit[8];
} cls_512_at;

/* Of eight blocks of four words, word 0 to 3 of each. */
CLS_512 void cls_512_turn(const __m256i v[8], __m512i word[4])
{
    const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13), high = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    __m512i pair[4];
#pragma GCC unroll 4
    for (uint32_t i = 0; i < 4; i++)
        pair[i] = _mm512_inserti64x4(_mm512_castsi256_si512(v[i]), v[i + 4], 1);
    __m512i a = _mm512_unpacklo_epi64(pair[0], pair[1]), b = _mm512_unpacklo_epi64(pair[2], pair[3]);
    __m512i c = _mm512_unpackhi_epi64(pair[0], pair[1]), d = _mm512_unpackhi_epi64(pair[2], pair[3]);
    word[0] = _mm512_permutex2var_epi64(a, low, b);
    word[1] = _mm512_permutex2var_epi64(c, low, d);
    word[2] = _mm512_permutex2var_epi64(a, high, b);
    word[3] = _mm512_permutex2var_epi64(c, high, d);
}

/* The next block of each of eight keys; what is left then has no block whose entries all stand behind the one that was found.
 * A key with nothing left looks at a block of zeros. Returns which keys have more. */
CLS_512 void cls_512_next(const uint8_t *base, const pal_ruleset *r, uint32_t super, const cls_512_rest *k, uint32_t from, bool dports,
                          bool sports, cls_512_at *to)
{
    const __m512i any_s = _mm512_set1_epi64((long long)r->any_src[super]), any_d = _mm512_set1_epi64((long long)r->any_dst[super]);
    const __m256i ones = _mm256_set1_epi32((int)CLS_ONES), zeros = _mm256_set1_epi32((int)CLS_ZEROS);
    __m512i left = _mm512_load_si512((void *)(k->left + from)), less = _mm512_add_epi64(left, _mm512_set1_epi64(-1));
    __m512i below = _mm512_andnot_si512(left, less), bit = _mm512_andnot_si512(less, left); /* below the lowest that is left; it */
    __mmask8 lanes = _mm512_test_epi64_mask(left, left);
    __mmask8 all_s = _mm512_test_epi64_mask(bit, any_s), all_d = _mm512_test_epi64_mask(bit, any_d);
    __m256i b = cls_512_low(_mm512_popcnt_epi64(below)), nth; /* 64 where nothing is left */
    nth = cls_512_low(_mm512_popcnt_epi64(_mm512_and_si512(_mm512_load_si512((void *)(k->mask_s + from)), below)));
    __m256i at = _mm256_mask_mov_epi32(zeros, all_s, ones);
    at = _mm256_mmask_i32gather_epi32(at, lanes & (__mmask8)~all_s, _mm256_add_epi32(cls_512_eight(k->s + from), nth), base, 4);
    cls_512_put(to->s, _mm256_slli_epi32(at, 2));
    nth = cls_512_low(_mm512_popcnt_epi64(_mm512_and_si512(_mm512_load_si512((void *)(k->mask_d + from)), below)));
    at = _mm256_mask_mov_epi32(zeros, all_d, ones);
    at = _mm256_mmask_i32gather_epi32(at, lanes & (__mmask8)~all_d, _mm256_add_epi32(cls_512_eight(k->d + from), nth), base, 4);
    cls_512_put(to->d, _mm256_slli_epi32(at, 2));
    __m256i words = _mm256_maskz_slli_epi32(lanes, b, 2);
    cls_512_put(to->m, _mm256_add_epi32(cls_512_eight(k->m + from), words));
    if (dports)
        cls_512_put(to->dp, _mm256_add_epi32(cls_512_eight(k->dp + from), words));
    if (sports)
        cls_512_put(to->sp, _mm256_add_epi32(cls_512_eight(k->sp + from), words));
    cls_512_put(to->bit, _mm256_slli_epi32(b, 8));
}

CLS_512 __mmask8 cls_512_step(const uint8_t *base, const pal_ruleset *r, uint32_t super, cls_512_rest *k, uint32_t from, bool dports,
                              bool sports, const cls_512_at *to)
{
    const uint32_t *s = to->s, *d = to->d, *m = to->m, *dp = to->dp, *sp = to->sp;
    __m256i v[8];
    const uint64_t *arena = (const uint64_t *)(const void *)base;
#pragma GCC unroll 8
    for (uint32_t i = 0; i < 8; i++) {
        v[i] = _mm256_ternarylogic_epi64(cls_512_block(arena + s[i]), cls_512_block(arena + d[i]), cls_512_block(r->meta.row + m[i]), 0x80);
        if (dports && sports)
            v[i] = _mm256_ternarylogic_epi64(v[i], cls_512_block(r->dport.row + dp[i]), cls_512_block(r->sport.row + sp[i]), 0x80);
        else if (dports)
            v[i] = _mm256_and_si256(v[i], cls_512_block(r->dport.row + dp[i]));
        else if (sports)
            v[i] = _mm256_and_si256(v[i], cls_512_block(r->sport.row + sp[i]));
    }
    __m512i word[4], first, where = _mm512_setzero_si512();
    cls_512_turn(v, word);
    first = word[0];
#pragma GCC unroll 3
    for (uint32_t i = 1; i < 4; i++) {
        __mmask8 none = _mm512_testn_epi64_mask(first, first);
        first = _mm512_mask_mov_epi64(first, none, word[i]);
        where = _mm512_mask_mov_epi64(where, none, _mm512_set1_epi64(64 * (int)i));
    }
    __mmask8 found = _mm512_test_epi64_mask(first, first);
    __m256i at = _mm256_add_epi32(cls_512_eight(to->bit), cls_512_low(_mm512_add_epi64(where, cls_512_lowest(first))));
    const uint32_t *entry_at = r->entry_at + super * CLS_SUPER * CLS_BLOCK;
    __m256i e = _mm256_mmask_i32gather_epi32(_mm256_set1_epi32(-1), found, at, entry_at, 4);
    __m256i best = _mm256_min_epu32(cls_512_eight(k->best + from), e);
    cls_512_put(k->best + from, best);
    __m512i left = _mm512_load_si512((void *)(k->left + from));
    left = _mm512_and_si512(left, _mm512_add_epi64(left, _mm512_set1_epi64(-1)));
    left = _mm512_and_si512(left, cls_512_early(r, best, super));
    _mm512_store_si512((void *)(k->left + from), left);
    return _mm512_test_epi64_mask(left, left);
}

/* One superblock of all keys, a block of each at a time. */
CLS_512 void cls_512_super_of(const uint8_t *base, const pal_ruleset *r, uint32_t super, cls_512_rest *k, uint32_t n, bool dports,
                              bool sports)
{
    for (uint32_t more = (1u << (n + 7) / 8) - 1, next; more; more = next) {
        cls_512_at at[CLS_512_BURST / 8];
        next = 0;
        for (uint32_t g = 0; g < (n + 7) / 8; g++)
            if (more >> g & 1)
                cls_512_next(base, r, super, k, 8 * g, dports, sports, &at[g]);
        for (uint32_t g = 0; g < (n + 7) / 8; g++)
            if (more >> g & 1)
                next |= (uint32_t)(cls_512_step(base, r, super, k, 8 * g, dports, sports, &at[g]) != 0) << g;
    }
}

CLS_512 void cls_512_super(const uint8_t *base, const pal_ruleset *r, uint32_t super, cls_512_rest *k, uint32_t n)
{
    if (r->dport.n == 1 && r->sport.n == 1)
        cls_512_super_of(base, r, super, k, n, false, false);
    else if (r->sport.n == 1)
        cls_512_super_of(base, r, super, k, n, true, false);
    else if (r->dport.n == 1)
        cls_512_super_of(base, r, super, k, n, false, true);
    else
        cls_512_super_of(base, r, super, k, n, true, true);
}

CLS_512_STAGE void cls_512_sparse(const uint8_t *base, const pal_ruleset *r, const uint32_t *tab, cls_512_way *w, uint32_t *entry)
{
    cls_512_rest k;
    for (uint32_t i = 0; i < w->room; i += CLS_LANES) {
        __m512i none = cls_512_of(PAL_NONE);
        if (r->first) {
            __m512i at = _mm512_mullo_epi32(cls_512_load(w->x.meta + i), cls_512_of(r->dport.n));
            at = _mm512_mullo_epi32(_mm512_add_epi32(at, cls_512_load(w->x.dport + i)), cls_512_of(r->sport.n));
            none = cls_512_gather(r->first, _mm512_add_epi32(at, cls_512_load(w->x.sport + i)));
        }
        cls_512_store(k.best + i, none);
    }
    for (uint32_t u = 0; u < r->supers; u++) {
        cls_512_find(base, tab, r->supers, u, w);
        cls_512_left(base, r, &w->x, w->row, w->row + w->room, w->n, u, &k);
        cls_512_super(base, r, u, &k, w->n);
    }
    memcpy(entry, k.best, w->n * sizeof *entry);
}

/* ---- bursts ---------------------------------------------------------------------------------------------------- */

/* Ports or flags are coarse: entry by entry. */
CLS_512 void cls_512_verify(const uint8_t *base, const pal_ruleset *r, const uint32_t *tab, const cls_512_way *w, uint32_t *entry)
{
    for (uint32_t i = 0; i < w->n; i++) {
        cls_rows v = {w->cls[i], w->cls[w->room + i], w->x.meta[i], w->x.dport[i], w->x.sport[i]};
        entry[i] = cls_match(base, r, tab, &v, &w->keys[i]);
    }
}

/* Fetches the keys of the next pass. */
CLS_512 void cls_512_ahead(const pal_key *keys, uint32_t from, uint32_t n)
{
    const uint8_t *next = (const uint8_t *)(const void *)(keys + from), *end = (const uint8_t *)(const void *)(keys + n);
    for (uint32_t l = 0; l < CLS_512_BURST * sizeof *keys && next + l < end; l += PAL_CACHE_LINE)
        prefetch_read(next + l);
}

#define CLS_512_MIN 3 /* fewer keys: sixteen lanes would be more work than they save */

/* From classes to answers. */
CLS_512 void cls_512_end(const uint8_t *base, const pal_ruleset *r, const uint32_t *tab, cls_512_way *w, uint32_t *entry)
{
    if (PAL_UNLIKELY(r->verify))
        cls_512_verify(base, r, tab, w, entry);
    else if (r->supers)
        cls_512_sparse(base, r, tab, w, entry);
    else
        cls_512_dense(base, r, tab, w, entry);
}

static __attribute__((noinline, unused)) CLS_512_TARGET void classify_burst_512(const pal_snap *snap, const pal_ruleset *r,
                                                                                const pal_key *keys, uint32_t n, uint32_t *entry)
{
    const uint32_t *tab = __atomic_load_n(&r->tab, __ATOMIC_ACQUIRE);
    cls_512_way way[2];
    uint32_t few = n % CLS_512_BURST < CLS_512_MIN ? n % CLS_512_BURST : 0; /* of the last pass */
    if (few) {
        n -= few;
        cls_sub_burst(snap, r, keys + n, few, entry + n);
    }
    for (uint32_t i = 0; i < n + CLS_512_BURST; i += CLS_512_BURST) { /* a pass begins before the one before it ends */
        uint32_t t = i / CLS_512_BURST & 1;
        if (i < n) {
            cls_512_ahead(keys, i + CLS_512_BURST, n);
            cls_512_begin(snap, r, keys + i, min_u32(n - i, CLS_512_BURST), &way[t]);
        }
        if (i)
            cls_512_end(snap->base, r, tab, &way[t ^ 1], entry + i - CLS_512_BURST);
    }
}

#endif
