/* SPDX-License-Identifier: Apache-2.0
 *
 * classify_wide.h - the look-ups of classify.h with AVX2: eight keys at a time through the tables by gathers, a block of a
 * row in one register. Chosen at run time; equal to the plain variant on every key (native/tests/test_classify.c).
 */
#ifndef PAL_CORE_CLASSIFY_WIDE_H
#define PAL_CORE_CLASSIFY_WIDE_H

#include "classify.h"

#define CLS_TARGET __attribute__((target("popcnt,bmi,bmi2,avx2")))
#define CLS_WIDE static inline __attribute__((always_inline)) CLS_TARGET

/* Of one sub-burst, in the order of the keys. */
typedef struct cls_wide {
    uint32_t cls[2 * CLS_BURST]; /* classes of all sources, rounded up to eight, and of all destinations */
    uint32_t *src, *dst;         /* where they begin */
    uint32_t meta[CLS_BURST], dport[CLS_BURST], sport[CLS_BURST];
} cls_wide;

CLS_WIDE __m256i cls_gather(const void *base, __m256i index) { return _mm256_i32gather_epi32((const int *)base, index, 4); }

/* Words of the nodes v at word i of each. */
CLS_WIDE __m256i cls_gather_ref(const uint8_t *base, __m256i v, __m256i i, __m256i mask)
{
    __m256i at = _mm256_add_epi32(_mm256_slli_epi32(_mm256_and_si256(v, _mm256_set1_epi32((int)CLS_REF)), 3), i);
    return _mm256_mask_i32gather_epi32(v, (const int *)(const void *)base, at, mask, 4);
}

/* Appends the numbers of the lanes of a mask. The list has room for eight more than it holds. */
CLS_WIDE uint32_t cls_lanes(uint8_t *list, uint32_t n, uint32_t mask, uint32_t from)
{
    uint64_t bytes = _pdep_u64(mask, 0x0101010101010101ull) * 255u;
    uint64_t lanes = _pext_u64(0x0706050403020100ull + 0x0101010101010101ull * from, bytes);
    memcpy(list + n, &lanes, 8);
    return n + (uint32_t)_mm_popcnt_u32(mask);
}

CLS_WIDE uint32_t cls_lane_mask(__m256i v) { return (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(v)); }

/* Four bytes of each of eight keys. By loads: a gather of eight takes more than eight of them. */
CLS_WIDE __m256i cls_load_keys(const uint8_t *keys, const uint32_t lane[8])
{
    __m128i v[8];
    for (uint32_t i = 0; i < 8; i++)
        v[i] = _mm_cvtsi32_si128((int)load_u32(keys + lane[i]));
    __m128i a = _mm_unpacklo_epi64(_mm_unpacklo_epi32(v[0], v[1]), _mm_unpacklo_epi32(v[2], v[3]));
    __m128i b = _mm_unpacklo_epi64(_mm_unpacklo_epi32(v[4], v[5]), _mm_unpacklo_epi32(v[6], v[7]));
    return _mm256_inserti128_si256(_mm256_castsi128_si256(a), b, 1);
}

/* IPv4 classes of the addresses that begin at keys + lane, n groups of eight: sources and destinations in one go, since the
 * number of those that meet a leaf is not predictable, and each end of a list costs as much as a few keys. */
CLS_WIDE void cls_wide_classes(const pal_snap *s, const uint8_t *keys, const uint32_t *lane, uint32_t n, uint32_t *out)
{
    const __m256i swap = _mm256_setr_epi8(3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12, 3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9,
                                          8, 15, 14, 13, 12);
    const __m256i byte = _mm256_set1_epi32(255);
    uint8_t leaf16[2 * CLS_BURST + 8], leaf8[2 * CLS_BURST + 8];
    uint32_t addr[2 * CLS_BURST], n16 = 0, n8 = 0;
    __m256i slot[2 * CLS_BURST / 8];
    for (uint32_t g = 0; g < n; g++) {
        __m256i a = _mm256_shuffle_epi8(cls_load_keys(keys, lane + 8 * g), swap);
        _mm256_storeu_si256((__m256i *)(void *)(addr + 8 * g), a);
        __m256i v = cls_gather(s->root4, _mm256_srli_epi32(a, 24));
        slot[g] = cls_gather_ref(s->base, v, _mm256_and_si256(_mm256_srli_epi32(a, 16), byte), v);
    }
    for (uint32_t g = 0; g < n; g++) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(const void *)(addr + 8 * g)), v = slot[g];
        uint32_t node = cls_lane_mask(v), page = cls_lane_mask(_mm256_slli_epi32(v, 1));
        n16 = cls_lanes(leaf16, n16, node & ~page, 8 * g);
        __m256i is_page = _mm256_srai_epi32(_mm256_and_si256(v, _mm256_slli_epi32(v, 1)), 31);
        v = cls_gather_ref(s->base, v, _mm256_and_si256(_mm256_srli_epi32(a, 8), byte), is_page);
        uint32_t node8 = cls_lane_mask(v), page8 = cls_lane_mask(_mm256_slli_epi32(v, 1));
        n8 = cls_lanes(leaf8, n8, node8 & ~page8 & page, 8 * g);
        is_page = _mm256_srai_epi32(_mm256_and_si256(v, _mm256_slli_epi32(v, 1)), 31);
        v = cls_gather_ref(s->base, v, _mm256_and_si256(a, byte), is_page);
        _mm256_storeu_si256((__m256i *)(void *)(out + 8 * g), v);
    }
    for (uint32_t j = 0; j < n16; j++)
        out[leaf16[j]] = cls_leaf16_class(s->base, out[leaf16[j]], addr[leaf16[j]]);
    for (uint32_t j = 0; j < n8; j++)
        out[leaf8[j]] = cls_leaf8_class(s->base, out[leaf8[j]], addr[leaf8[j]]);
}

/* The classes of everything that a key says beside addresses; are there other families than IPv4? Key by key: a gather of eight
 * takes more than eight loads. */
CLS_WIDE bool cls_wide_services(const pal_ruleset *r, const pal_key *keys, uint32_t n, cls_wide *x)
{
    uint32_t not4 = 0, n_flags = r->n_flags;
    bool dports = r->dport.n > 1, sports = r->sport.n > 1;
    const uint32_t *meta_at = r->meta_at;
    for (uint32_t i = 0; i < n; i++) {
        const pal_key *k = &keys[i];
        not4 |= k->family ^ PAL_FAMILY_V4;
        uint32_t at = r->proto_class[k->proto] * n_flags;
        if (n_flags > 1)
            at += r->flag_class[k->tcp_flags];
        x->meta[i] = meta_at[at * 16 + (k->family & 3u) * 4 + (k->dir & 3u)];
        x->dport[i] = dports ? cls_port(&r->dport_at, k->dport) : 0;
        x->sport[i] = sports ? cls_port(&r->sport_at, k->sport) : 0;
    }
    return not4;
}

/* From classes to rows, in place. */
CLS_WIDE void cls_wide_rows(const uint8_t *base, const uint32_t *tab, uint32_t supers, uint32_t super, uint32_t n,
                            const cls_wide *x, uint32_t *src, uint32_t *dst)
{
    const __m256i byte = _mm256_set1_epi32(255), all = _mm256_set1_epi32(-1);
    for (uint32_t g = 0; g < n; g++) {
        __m256i s = _mm256_loadu_si256((const __m256i *)(const void *)(x->src + 8 * g));
        __m256i d = _mm256_loadu_si256((const __m256i *)(const void *)(x->dst + 8 * g));
        __m256i ps = _mm256_srli_epi32(s, 8), pd = _mm256_srli_epi32(d, 8);
        if (supers > 1) {
            ps = _mm256_mullo_epi32(ps, _mm256_set1_epi32((int)supers));
            pd = _mm256_mullo_epi32(pd, _mm256_set1_epi32((int)supers));
        }
        ps = cls_gather(tab + super, ps);
        pd = cls_gather(tab + super, pd);
        s = cls_gather_ref(base, ps, _mm256_and_si256(s, byte), all);
        d = cls_gather_ref(base, pd, _mm256_or_si256(_mm256_and_si256(d, byte), _mm256_set1_epi32(CLS_TAB)), all);
        _mm256_storeu_si256((__m256i *)(void *)(src + 8 * g), s);
        _mm256_storeu_si256((__m256i *)(void *)(dst + 8 * g), d);
    }
    for (uint32_t i = 0; i < 8 * n; i++) {
        prefetch_read(cls_unit(base, src[i]));
        prefetch_read(cls_unit(base, dst[i]));
    }
}

/* ---- dense rows --------------------------------------------------------------------------------------------- */

CLS_WIDE __m256i cls_load(const void *p) { return _mm256_load_si256((const __m256i *)p); }

/* The numbers of the words that are not zero, as bits. */
CLS_WIDE uint32_t cls_words(__m256i v)
{
    __m256i zero = _mm256_cmpeq_epi64(v, _mm256_setzero_si256());
    return 15u ^ (uint32_t)_mm256_movemask_pd(_mm256_castsi256_pd(zero));
}

/* The same of four blocks. Packing keeps the halves of a register apart: they are put in order at the end. */
CLS_WIDE uint32_t cls_words4(const __m256i v[4])
{
    __m256i none = _mm256_setzero_si256();
    __m256i a = _mm256_packs_epi32(_mm256_cmpeq_epi64(v[0], none), _mm256_cmpeq_epi64(v[1], none));
    __m256i b = _mm256_packs_epi32(_mm256_cmpeq_epi64(v[2], none), _mm256_cmpeq_epi64(v[3], none));
    a = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    return _pext_u32(~(uint32_t)_mm256_movemask_epi8(a), 0x55555555u);
}
_Static_assert(CLS_DENSE == 4, "dense rows are at most as long as cls_words4 says");

/* blocks, dports and sports are constants at each call: one loop for each kind of rule set. */
CLS_WIDE void cls_wide_dense_of(const uint8_t *base, const pal_ruleset *r, const cls_wide *x, const uint32_t *src, const uint32_t *dst,
                                uint32_t n, uint32_t *entry, uint32_t blocks, bool dports, bool sports)
{
    const uint64_t *meta = r->meta.row, *dport = r->dport.row, *sport = r->sport.row;
    for (uint32_t i = 0; i < n; i++) {
        const uint64_t *s = cls_unit(base, src[i]), *d = cls_unit(base, dst[i]), *m = meta + x->meta[i] * 4 * blocks;
        const uint64_t *dp = dport + x->dport[i] * 4 * blocks, *sp = sport + x->sport[i] * 4 * blocks;
        uint64_t word[CLS_DENSE * CLS_BLOCK_WORDS] PAL_ALIGNED(32);
        __m256i v[CLS_DENSE];
#pragma GCC unroll 4
        for (uint32_t b = 0; b < blocks; b++) {
            v[b] = _mm256_and_si256(_mm256_and_si256(cls_load(s + 4 * b), cls_load(d + 4 * b)), cls_load(m + 4 * b));
            if (dports)
                v[b] = _mm256_and_si256(v[b], cls_load(dp + 4 * b));
            if (sports)
                v[b] = _mm256_and_si256(v[b], cls_load(sp + 4 * b));
            _mm256_store_si256((__m256i *)(void *)(word + 4 * b), v[b]);
        }
        uint32_t words = 0;
        if (blocks == CLS_DENSE)
            words = cls_words4(v);
        else
            for (uint32_t b = 0; b < blocks; b++)
                words |= cls_words(v[b]) << (4 * b);
        uint32_t w = (uint32_t)_tzcnt_u32(words) & 15u;
        entry[i] = (w * 64 + (uint32_t)_tzcnt_u64(word[w])) | (0u - (words == 0));
    }
}

CLS_WIDE void cls_wide_dense(const uint8_t *base, const pal_ruleset *r, const cls_wide *x, const uint32_t *src, const uint32_t *dst,
                             uint32_t n, uint32_t *entry, uint32_t blocks)
{
    if (r->dport.n == 1 && r->sport.n == 1)
        cls_wide_dense_of(base, r, x, src, dst, n, entry, blocks, false, false);
    else if (r->sport.n == 1)
        cls_wide_dense_of(base, r, x, src, dst, n, entry, blocks, true, false);
    else if (r->dport.n == 1)
        cls_wide_dense_of(base, r, x, src, dst, n, entry, blocks, false, true);
    else
        cls_wide_dense_of(base, r, x, src, dst, n, entry, blocks, true, true);
}

/* ---- sparse rows -------------------------------------------------------------------------------------------- */

/* What is left of a key in one superblock. */
typedef struct cls_left {
    uint64_t left; /* blocks that may have a bit in every row */
    const cls_node *s, *d;
    const uint8_t *m, *dp, *sp; /* service rows, at the superblock's first block */
    uint64_t pad[2];
} cls_left;

/* Which blocks of the superblock each key has to look at, and where its rows are. */
CLS_WIDE void cls_wide_left(const uint8_t *base, const pal_ruleset *r, const cls_wide *x, const uint32_t *src, const uint32_t *dst,
                            uint32_t n, uint32_t super, cls_left *key, bool dports, bool sports)
{
    uint32_t supers = r->supers;
    size_t stride = (size_t)r->blocks * CLS_UNIT, from = (size_t)super * CLS_SUPER * CLS_UNIT;
    uint64_t any_s = r->any_src[super], any_d = r->any_dst[super];
    for (uint32_t i = 0; i < n; i++) {
        cls_left *l = &key[i];
        l->s = cls_unit(base, src[i]);
        l->d = cls_unit(base, dst[i]);
        uint64_t left = (l->s->mask | any_s) & (l->d->mask | any_d) & r->meta.mask[x->meta[i] * supers + super];
        l->m = (const uint8_t *)r->meta.row + x->meta[i] * stride + from;
        if (dports) {
            left &= r->dport.mask[x->dport[i] * supers + super];
            l->dp = (const uint8_t *)r->dport.row + x->dport[i] * stride + from;
        }
        if (sports) {
            left &= r->sport.mask[x->sport[i] * supers + super];
            l->sp = (const uint8_t *)r->sport.row + x->sport[i] * stride + from;
        }
        l->left = left;
    }
}

/* One superblock of all keys. How many blocks a key has left is known long before they arrive, so that the loads of the
 * keys behind it are under way when the loop's end is mispredicted. */
CLS_WIDE void cls_wide_sparse(const uint8_t *base, const pal_ruleset *r, const cls_wide *x, const uint32_t *src, const uint32_t *dst,
                              uint32_t n, uint32_t super, uint32_t *entry, bool dports, bool sports)
{
    cls_left key[CLS_BURST];
    cls_wide_left(base, r, x, src, dst, n, super, key, dports, sports);
    uint64_t any_s = r->any_src[super], any_d = r->any_dst[super];
    const uint32_t *entry_at = r->entry_at + super * CLS_SUPER * CLS_BLOCK;
    for (uint32_t i = 0; i < n; i++) {
        const cls_left l = key[i];
        uint64_t s_mask = l.s->mask, d_mask = l.d->mask;
        uint32_t best = entry[i];
        for (uint64_t left = l.left; left; left &= left - 1) {
            uint32_t b = (uint32_t)_tzcnt_u64(left);
            uint32_t at_s = l.s->block[_mm_popcnt_u64(_bzhi_u64(s_mask, b))], at_d = l.d->block[_mm_popcnt_u64(_bzhi_u64(d_mask, b))];
            at_s = any_s >> b & 1 ? CLS_ONES : at_s;
            at_d = any_d >> b & 1 ? CLS_ONES : at_d;
            size_t at = (size_t)b * CLS_UNIT;
            __m256i v = _mm256_and_si256(_mm256_and_si256(cls_load(cls_unit(base, at_s)), cls_load(l.m + at)), cls_load(cls_unit(base, at_d)));
            if (dports)
                v = _mm256_and_si256(v, cls_load(l.dp + at));
            if (sports)
                v = _mm256_and_si256(v, cls_load(l.sp + at));
            uint64_t word[CLS_BLOCK_WORDS] PAL_ALIGNED(32);
            _mm256_store_si256((__m256i *)(void *)word, v);
            uint32_t words = cls_words(v), w = (uint32_t)_tzcnt_u32(words) & 3u;
            uint32_t e = entry_at[b * CLS_BLOCK + w * 64 + ((uint32_t)_tzcnt_u64(word[w]) & 63u)] | (0u - (words == 0));
            best = min_u32(best, e);
        }
        entry[i] = best;
    }
}

/* ---- a sub-burst -------------------------------------------------------------------------------------------- */

CLS_WIDE void cls_wide_sub_burst(const pal_snap *snap, const pal_ruleset *r, const pal_key *keys, uint32_t n, uint32_t *entry)
{
    _Static_assert(sizeof(pal_key) == 40 && offsetof(pal_key, sport) == 32 && offsetof(pal_key, proto) == 36, "as gathered");
    cls_wide x;
    uint32_t src[CLS_BURST], dst[CLS_BURST], groups = (n + 7) / 8;
    uint32_t lane[2 * CLS_BURST]; /* where each key's source and destination begin; beyond the last key: it again */
    for (uint32_t i = 0; i < 8 * groups; i++) {
        lane[i] = min_u32(i, n - 1) * (uint32_t)sizeof *keys;
        lane[8 * groups + i] = lane[i] + (uint32_t)offsetof(pal_key, dst);
    }
    x.src = x.cls;
    x.dst = x.cls + 8 * groups;
    cls_wide_classes(snap, (const uint8_t *)(const void *)keys, lane, 2 * groups, x.cls);
    if (PAL_UNLIKELY(cls_wide_services(r, keys, n, &x)))
        cls_keys6(snap, keys, n, x.src, x.dst);
    const uint32_t *tab = __atomic_load_n(&r->tab, __ATOMIC_ACQUIRE);
    if (PAL_UNLIKELY(r->verify)) {
        for (uint32_t i = 0; i < n; i++) {
            cls_rows v = {x.src[i], x.dst[i], x.meta[i], x.dport[i], x.sport[i]};
            entry[i] = cls_match(snap->base, r, tab, &v, &keys[i]);
        }
        return;
    }
    if (r->supers == 0) {
        cls_wide_rows(snap->base, tab, 1, 0, groups, &x, src, dst);
        if (r->blocks > 2) /* rows of two lines */
            for (uint32_t i = 0; i < n; i++) {
                prefetch_read((const uint8_t *)cls_unit(snap->base, src[i]) + PAL_CACHE_LINE);
                prefetch_read((const uint8_t *)cls_unit(snap->base, dst[i]) + PAL_CACHE_LINE);
            }
        if (r->blocks == CLS_DENSE)
            cls_wide_dense(snap->base, r, &x, src, dst, n, entry, CLS_DENSE);
        else
            cls_wide_dense(snap->base, r, &x, src, dst, n, entry, r->blocks);
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        entry[i] = PAL_NONE;
    if (r->first)
        for (uint32_t i = 0; i < n; i++)
            entry[i] = r->first[(x.meta[i] * r->dport.n + x.dport[i]) * r->sport.n + x.sport[i]];
    for (uint32_t u = 0; u < r->supers; u++) {
        cls_wide_rows(snap->base, tab, r->supers, u, groups, &x, src, dst);
        if (r->dport.n == 1 && r->sport.n == 1)
            cls_wide_sparse(snap->base, r, &x, src, dst, n, u, entry, false, false);
        else if (r->sport.n == 1)
            cls_wide_sparse(snap->base, r, &x, src, dst, n, u, entry, true, false);
        else if (r->dport.n == 1)
            cls_wide_sparse(snap->base, r, &x, src, dst, n, u, entry, false, true);
        else
            cls_wide_sparse(snap->base, r, &x, src, dst, n, u, entry, true, true);
    }
}

#define CLS_WIDE_MIN 3 /* fewer keys: eight lanes would be more work than they save */

static __attribute__((noinline, unused)) CLS_TARGET void classify_burst_wide(const pal_snap *snap, const pal_ruleset *r,
                                                                             const pal_key *keys, uint32_t n, uint32_t *entry)
{
    for (uint32_t i = 0; i < n; i += CLS_BURST) {
        uint32_t m = min_u32(n - i, CLS_BURST);
        const uint8_t *next = (const uint8_t *)(const void *)(keys + i + m), *end = (const uint8_t *)(const void *)(keys + n);
        for (uint32_t l = 0; l < CLS_BURST * sizeof *keys && next + l < end; l += PAL_CACHE_LINE)
            prefetch_read(next + l);
        if (m < CLS_WIDE_MIN)
            cls_sub_burst(snap, r, keys + i, m, entry + i);
        else
            cls_wide_sub_burst(snap, r, keys + i, m, entry + i);
    }
}

#endif
