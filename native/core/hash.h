/* SPDX-License-Identifier: Apache-2.0
 *
 * hash.h - keyed hash of a connection's tuple.
 *
 * NH (RFC 4418 section 5.2): the sum of (m_i + k_i)(m_i+1 + k_i+1) over 64-bit words with secret keys. For any two
 * different tuples the chance of a collision over the choice of keys is 2^-64, whoever chooses the tuples, and it costs
 * one multiplication for 16 bytes. A final mix spreads the sum over the bits that pick bucket and tag.
 */
#ifndef PAL_CORE_HASH_H
#define PAL_CORE_HASH_H

#include "base.h"

#define HASH_KEY_WORDS 6

PAL_INLINE uint64_t hash_fold(unsigned __int128 v) { return (uint64_t)v ^ (uint64_t)(v >> 64); }

PAL_INLINE uint64_t hash_finish(unsigned __int128 sum)
{
    uint64_t h = hash_fold(sum);
    h ^= h >> 32;
    h *= 0x9e3779b97f4a7c15ull;
    return h ^ h >> 29;
}

PAL_INLINE uint64_t hash_words4(const uint64_t m[4], const uint64_t k[HASH_KEY_WORDS])
{
    unsigned __int128 s = (unsigned __int128)(m[0] + k[0]) * (m[1] + k[1]);
    s += (unsigned __int128)(m[2] + k[2]) * (m[3] + k[3]);
    return hash_finish(s);
}

PAL_INLINE uint64_t hash_words6(const uint64_t m[6], const uint64_t k[HASH_KEY_WORDS])
{
    unsigned __int128 s = (unsigned __int128)(m[0] + k[0]) * (m[1] + k[1]);
    s += (unsigned __int128)(m[2] + k[2]) * (m[3] + k[3]);
    s += (unsigned __int128)(m[4] + k[4]) * (m[5] + k[5]);
    return hash_finish(s);
}

/* A connection's key is hashed in words of 32 bits, a pair in each 64 (RFC 4418's own size): so eight keys go at once
 * (key_wide.h). The chance is 2^-32 then; all of a key is compared whatever its hash. */
PAL_INLINE uint64_t hash_pair(uint64_t m, uint64_t k) { return (uint64_t)(uint32_t)(m + k) * (uint32_t)((m >> 32) + (k >> 32)); }

#define HASH_MIX1 0x9e3779b1u
#define HASH_MIX2 0x85ebca77u

/* One to one. The upper half picks the bucket, the lowest byte the tag. */
PAL_INLINE uint64_t hash_spread(uint64_t sum)
{
    uint32_t low = (uint32_t)sum, x = (low ^ (uint32_t)(sum >> 32)) * HASH_MIX1;
    x ^= x >> 15;
    low ^= x;
    return (uint64_t)(x * HASH_MIX2) << 32 | (low ^ low >> 24);
}

#endif
