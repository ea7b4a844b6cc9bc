/* SPDX-License-Identifier: Apache-2.0
 *
 * wide.h - eight packets, connections or filters at once with AVX2, a lane each: words for parse_wide.h, key_wide.h
 * and fast_wide.h.
 *
 * What stands in memory one behind the other is read 16 bytes at a time and turned, so that each field of all eight is one
 * vector. Chosen at run time (wide_is_possible); PAL_NO_WIDE, and machines other than x86-64, do without.
 */
#ifndef PAL_CORE_WIDE_H
#define PAL_CORE_WIDE_H

#include "base.h"

#define WIDE_LANES 8

#if defined(__x86_64__) && !defined(PAL_NO_WIDE)
#include <immintrin.h>

#define PAL_WIDE 1
#define WIDE __attribute__((target("avx2,bmi,bmi2")))
typedef __m256i wide_t;

WIDE PAL_INLINE wide_t wide_load(const void *p) { return _mm256_loadu_si256((const __m256i_u *)p); }

/* 16 bytes of two places, side by side. */
WIDE PAL_INLINE wide_t wide_pair(const void *low, const void *high)
{
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i_u *)low)),
                                   _mm_loadu_si128((const __m128i_u *)high), 1);
}

/* Four numbers of each lane, as four vectors: row i holds lanes i and i + 4. Its own inverse. */
WIDE PAL_INLINE void wide_turn(wide_t m[4])
{
    wide_t a = _mm256_unpacklo_epi32(m[0], m[1]), b = _mm256_unpackhi_epi32(m[0], m[1]);
    wide_t c = _mm256_unpacklo_epi32(m[2], m[3]), d = _mm256_unpackhi_epi32(m[2], m[3]);
    m[0] = _mm256_unpacklo_epi64(a, c);
    m[1] = _mm256_unpackhi_epi64(a, c);
    m[2] = _mm256_unpacklo_epi64(b, d);
    m[3] = _mm256_unpackhi_epi64(b, d);
}

/* The four numbers at `offset` of eight places. */
WIDE PAL_INLINE void wide_gather(wide_t m[4], const void *const at[WIDE_LANES], size_t offset)
{
    for (uint32_t i = 0; i < 4; i++)
        m[i] = wide_pair((const char *)at[i] + offset, (const char *)at[i + 4] + offset);
    wide_turn(m);
}

WIDE PAL_INLINE void wide_scatter(wide_t m[4], void *const at[WIDE_LANES], size_t offset)
{
    wide_turn(m);
    for (uint32_t i = 0; i < 4; i++) {
        _mm_storeu_si128((__m128i_u *)((char *)at[i] + offset), _mm256_castsi256_si128(m[i]));
        _mm_storeu_si128((__m128i_u *)((char *)at[i + 4] + offset), _mm256_extracti128_si256(m[i], 1));
    }
}

/* Two numbers of each lane, next to each other at `offset` of eight places. */
WIDE PAL_INLINE void wide_scatter2(wide_t first, wide_t then, void *const at[WIDE_LANES], size_t offset)
{
    wide_t m[2] = {_mm256_unpacklo_epi32(first, then), _mm256_unpackhi_epi32(first, then)}; /* lanes 0 1 4 5, 2 3 6 7 */
    for (uint32_t i = 0; i < 2; i++) {
        __m128i low = _mm256_castsi256_si128(m[i]), high = _mm256_extracti128_si256(m[i], 1);
        _mm_storel_epi64((__m128i_u *)((char *)at[2 * i] + offset), low);
        _mm_storeh_pd((double *)(void *)((char *)at[2 * i + 1] + offset), _mm_castsi128_pd(low));
        _mm_storel_epi64((__m128i_u *)((char *)at[2 * i + 4] + offset), high);
        _mm_storeh_pd((double *)(void *)((char *)at[2 * i + 5] + offset), _mm_castsi128_pd(high));
    }
}

/* `yes` in the lanes where the mask is set. */
WIDE PAL_INLINE wide_t wide_choose(wide_t no, wide_t yes, wide_t mask) { return _mm256_blendv_epi8(no, yes, mask); }
WIDE PAL_INLINE wide_t wide_or3(wide_t a, wide_t b, wide_t c) { return _mm256_or_si256(_mm256_or_si256(a, b), c); }

/* Nonzero where two of eight numbers are equal: each is compared with those one to four lanes on, all round. */
WIDE PAL_INLINE wide_t wide_twice(wide_t x)
{
    wide_t one = _mm256_permutevar8x32_epi32(x, _mm256_setr_epi32(1, 2, 3, 4, 5, 6, 7, 0));
    wide_t two = _mm256_permute4x64_epi64(x, 0x39), four = _mm256_permute4x64_epi64(x, 0x4e);
    wide_t three = _mm256_permute4x64_epi64(one, 0x39);
    return _mm256_or_si256(wide_or3(_mm256_cmpeq_epi32(x, one), _mm256_cmpeq_epi32(x, two), _mm256_cmpeq_epi32(x, three)),
                           _mm256_cmpeq_epi32(x, four));
}

/* Nonzero where a bit under the mask is not as wanted. */
WIDE PAL_INLINE wide_t wide_unlike(wide_t x, uint32_t mask, uint32_t want)
{
    return _mm256_xor_si256(_mm256_and_si256(x, _mm256_set1_epi32((int)mask)), _mm256_set1_epi32((int)want));
}

WIDE PAL_INLINE bool wide_is_zero(wide_t x) { return _mm256_testz_si256(x, x); }
WIDE PAL_INLINE void wide_store(void *p, wide_t x) { _mm256_storeu_si256((__m256i_u *)p, x); }
WIDE PAL_INLINE wide_t wide_of(uint32_t x) { return _mm256_set1_epi32((int)x); }

PAL_INLINE bool wide_is_possible(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2"); }
#else
PAL_INLINE bool wide_is_possible(void) { return false; }
#endif

#endif
