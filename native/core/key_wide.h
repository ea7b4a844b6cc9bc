/* SPDX-License-Identifier: Apache-2.0
 *
 * key_wide.h - pipeline_key for eight visits at once, with AVX2: keys in order, hashed, and their index lines on their way.
 * All eight must be of CLASS_ACK and of one family; else nothing counts and each goes by itself.
 */
#ifndef PAL_CORE_KEY_WIDE_H
#define PAL_CORE_KEY_WIDE_H

#include "burst.h"
#include "wide.h"

#ifdef PAL_WIDE
/* The sum of hash_pair of eight keys: lanes 0, 2, 4, 6, and 1, 3, 5, 7. */
typedef struct wide_sum {
    wide_t even, odd;
} wide_sum;

/* One more pair of each key: x in the lower, y in the upper half of the word that `seed` goes with. */
WIDE PAL_INLINE void wide_hash_pair(wide_sum *s, wide_t x, wide_t y, uint64_t seed)
{
    x = _mm256_add_epi32(x, wide_of((uint32_t)seed));
    y = _mm256_add_epi32(y, wide_of((uint32_t)(seed >> 32)));
    s->even = _mm256_add_epi64(s->even, _mm256_mul_epu32(x, y));
    s->odd = _mm256_add_epi64(s->odd, _mm256_mul_epu32(_mm256_srli_epi64(x, 32), _mm256_srli_epi64(y, 32)));
}

/* hash_spread: upper and lower halves. */
WIDE PAL_INLINE void wide_hash_spread(const wide_sum *s, wide_t *upper, wide_t *lower)
{
    wide_t low = _mm256_blend_epi32(s->even, _mm256_slli_epi64(s->odd, 32), 0xaa);
    wide_t x = _mm256_xor_si256(low, _mm256_blend_epi32(_mm256_srli_epi64(s->even, 32), s->odd, 0xaa));
    x = _mm256_mullo_epi32(x, wide_of(HASH_MIX1));
    x = _mm256_xor_si256(x, _mm256_srli_epi32(x, 15));
    *upper = _mm256_mullo_epi32(x, wide_of(HASH_MIX2));
    low = _mm256_xor_si256(low, x);
    *lower = _mm256_xor_si256(low, _mm256_srli_epi32(low, 24));
}

/* hash_bucket. */
WIDE PAL_INLINE wide_t wide_bucket(const ct_table *t, wide_t upper)
{
    wide_t n = wide_of(t->buckets), even = _mm256_mul_epu32(upper, n), odd = _mm256_mul_epu32(_mm256_srli_epi64(upper, 32), n);
    return _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
}

/* Which of two IPv6 addresses is the higher one, as key_make has it: two numbers of 64 bits, in the machine's order. Positive:
 * the source; 0: they are equal. */
WIDE PAL_INLINE wide_t wide_order6(const wide_t src[4], const wide_t dst[4])
{
    static const uint8_t weight[4] = {1, 0, 3, 2}; /* the weightiest of the four numbers first */
    wide_t sign = wide_of(0x80000000u), order = wide_of(0);
    for (uint32_t i = 0; i < 4; i++) {
        wide_t x = _mm256_xor_si256(src[weight[i]], sign), y = _mm256_xor_si256(dst[weight[i]], sign);
        order = _mm256_add_epi32(_mm256_add_epi32(order, order), _mm256_sub_epi32(_mm256_cmpgt_epi32(y, x), _mm256_cmpgt_epi32(x, y)));
    }
    return order;
}

/* What all visits have in common, worked out or looked up for eight. */
typedef struct wide_keys {
    wide_t ports, zone;
    wide_t high;  /* all ones: the source is the higher end */
    wide_sum sum; /* of the addresses */
} wide_keys;

WIDE PAL_INLINE bool wide_ends4(wide_keys *k, wide_t line[2], const wide_t class[4], const hash_tcp *seed)
{
    wide_t src = class[2], dst = class[3], sign = wide_of(0x80000000u);
    if (PAL_UNLIKELY(!wide_is_zero(_mm256_cmpeq_epi32(src, dst)))) /* the ports put them in order: the long way */
        return false;
    k->high = _mm256_cmpgt_epi32(_mm256_xor_si256(src, sign), _mm256_xor_si256(dst, sign));
    line[0] = wide_choose(src, dst, k->high);
    line[1] = wide_choose(dst, src, k->high);
    wide_hash_pair(&k->sum, line[0], line[1], seed->seed[0]);
    return true;
}

WIDE PAL_INLINE bool wide_ends6(wide_keys *k, pal_burst *b, uint32_t v, const hash_tcp *seed)
{
    const void *at[WIDE_LANES];
    void *out[WIDE_LANES];
    for (uint32_t i = 0; i < WIDE_LANES; i++) {
        at[i] = packet_src(b->packet[v + i]);
        out[i] = b->key[v + i].addr;
    }
    wide_t src[4], dst[4];
    wide_gather(src, at, 0);
    wide_gather(dst, at, 16);
    wide_t order = wide_order6(src, dst);
    if (PAL_UNLIKELY(!wide_is_zero(_mm256_cmpeq_epi32(order, wide_of(0)))))
        return false;
    k->high = _mm256_cmpgt_epi32(order, wide_of(0));
    for (uint32_t i = 0; i < 4; i++) {
        wide_t turn = _mm256_and_si256(_mm256_xor_si256(src[i], dst[i]), k->high);
        src[i] = _mm256_xor_si256(src[i], turn);
        dst[i] = _mm256_xor_si256(dst[i], turn);
    }
    wide_hash_pair(&k->sum, src[0], src[1], seed->seed[0]);
    wide_hash_pair(&k->sum, src[2], src[3], seed->seed[1]);
    wide_hash_pair(&k->sum, dst[0], dst[1], seed->seed[2]);
    wide_hash_pair(&k->sum, dst[2], dst[3], seed->seed[3]);
    wide_scatter(src, out, 0);
    wide_scatter(dst, out, 16);
    return true;
}

/* Visits v .. v + 7, all of the family that the first one has. Equal addresses, which the ports put in order, go the long way. */
WIDE PAL_INLINE bool wide_key_family(pal_worker *w, pal_burst *b, uint32_t v, const hash_tcp *seed, uint32_t family)
{
    const void *const *p = (const void *const *)&b->packet[v], *const *f = (const void *const *)&b->filter[v];
    const uint64_t mask = CLASS_MASK, want = CLASS_ACK(family);
    const bool six = family == PAL_FAMILY_V6;
    wide_t class[4], other[4], rule[4], line[4]; /* class twice, source, destination; ports last; epoch, zone, established, number */
    wide_gather(class, p, offsetof(pal_packet, family));
    wide_gather(rule, f, offsetof(pal_filter, epoch));
    wide_t bad = wide_or3(wide_unlike(class[0], (uint32_t)mask, (uint32_t)want), wide_unlike(class[1], (uint32_t)(mask >> 32), (uint32_t)(want >> 32)),
                          _mm256_srli_epi32(rule[3], 24)); /* layer-2 rules come first */
    if (PAL_UNLIKELY(!wide_is_zero(bad)))
        return false;
    wide_gather(other, p, offsetof(pal_packet, fragments));
    uint64_t tail = six ? seed->tail6 : seed->tail4;
    wide_t same = _mm256_set1_epi64x((long long)tail);
    wide_keys k = {.sum = {same, same}};
    if (PAL_UNLIKELY(!(six ? wide_ends6(&k, b, v, seed) : wide_ends4(&k, line, class, seed))))
        return false;
    wide_t turned = _mm256_or_si256(_mm256_slli_epi32(other[3], 16), _mm256_srli_epi32(other[3], 16)), upper, lower;
    line[2] = wide_choose(other[3], turned, k.high);
    line[3] = rule[1];
    wide_hash_pair(&k.sum, line[2], line[3], seed->seed[six ? 4 : 1]);
    wide_hash_spread(&k.sum, &upper, &lower);
    wide_store(&b->bucket[v], wide_bucket(&w->table, upper));
    wide_t first = _mm256_unpacklo_epi32(lower, upper), then = _mm256_unpackhi_epi32(lower, upper); /* lanes 0 1 4 5, 2 3 6 7 */
    wide_store(&b->hash[v], _mm256_permute2x128_si256(first, then, 0x20));
    wide_store(&b->hash[v + 4], _mm256_permute2x128_si256(first, then, 0x31));
    if (six) {
        line[0] = lower;
        line[1] = upper;
        b->v6 = 1;
    }
    void *at[WIDE_LANES];
    for (uint32_t i = 0; i < WIDE_LANES; i++) {
        at[i] = b->line[v + i];
        prefetch_read(&w->table.bucket[b->bucket[v + i]]);
    }
    wide_scatter(line, at, 0);
    wide_t way = wide_or3(wide_load(&b->way[v]), _mm256_and_si256(k.high, wide_of(WAY_HIGH)), wide_of(six ? WAY_V6 : 0));
    wide_store(&b->way[v], way);
    wide_store(&b->entry[v], wide_of(HINT_ACK));
    return true;
}

WIDE PAL_OUTLINE bool wide_key4(pal_worker *w, pal_burst *b, uint32_t v, const hash_tcp *seed) { return wide_key_family(w, b, v, seed, PAL_FAMILY_V4); }
WIDE PAL_OUTLINE bool wide_key6(pal_worker *w, pal_burst *b, uint32_t v, const hash_tcp *seed) { return wide_key_family(w, b, v, seed, PAL_FAMILY_V6); }

PAL_INLINE bool wide_key(pal_worker *w, pal_burst *b, uint32_t v, const hash_tcp *seed)
{
    return b->packet[v]->family == PAL_FAMILY_V6 ? wide_key6(w, b, v, seed) : wide_key4(w, b, v, seed);
}

#else
PAL_INLINE bool wide_key(pal_worker *w, pal_burst *b, uint32_t v, const hash_tcp *seed) { return (void)w, (void)b, (void)v, (void)seed, false; }
#endif

#endif
