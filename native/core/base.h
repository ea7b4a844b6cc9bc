/* SPDX-License-Identifier: Apache-2.0
 *
 * base.h - words that every stage uses: byte order, unaligned loads, branch hints, prefetch.
 */
#ifndef PAL_CORE_BASE_H
#define PAL_CORE_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../include/palisade_core.h"

#define PAL_LIKELY(x) __builtin_expect(!!(x), 1)
#define PAL_UNLIKELY(x) __builtin_expect(!!(x), 0)
#ifndef PAL_INLINE /* unit tests under sanitizers leave it to the compiler */
#define PAL_INLINE static inline __attribute__((always_inline))
#endif
/* What happens seldom stays out of line, so that what happens always fits into registers. */
#define PAL_OUTLINE static __attribute__((noinline, unused))
#define PAL_ALIGNED(n) __attribute__((aligned(n)))
#define PAL_CACHE_LINE 64
#define PAL_NONE 0xffffffffu /* "no such index" for every 32-bit reference */

PAL_INLINE void prefetch_read(const void *p) { __builtin_prefetch(p, 0, 3); }
PAL_INLINE void prefetch_write(const void *p) { __builtin_prefetch(p, 1, 3); }

/* Unaligned loads and stores: memcpy is the only portable way to say them; it compiles to one instruction. */
PAL_INLINE uint16_t load_u16(const void *p) { uint16_t v; memcpy(&v, p, sizeof v); return v; }
PAL_INLINE uint32_t load_u32(const void *p) { uint32_t v; memcpy(&v, p, sizeof v); return v; }
PAL_INLINE uint64_t load_u64(const void *p) { uint64_t v; memcpy(&v, p, sizeof v); return v; }

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
PAL_INLINE uint16_t be16(uint16_t v) { return __builtin_bswap16(v); }
PAL_INLINE uint32_t be32(uint32_t v) { return __builtin_bswap32(v); }
PAL_INLINE uint64_t be64(uint64_t v) { return __builtin_bswap64(v); }
#else
PAL_INLINE uint16_t be16(uint16_t v) { return v; }
PAL_INLINE uint32_t be32(uint32_t v) { return v; }
PAL_INLINE uint64_t be64(uint64_t v) { return v; }
#endif

PAL_INLINE uint16_t load_be16(const void *p) { return be16(load_u16(p)); }
PAL_INLINE uint32_t load_be32(const void *p) { return be32(load_u32(p)); }
PAL_INLINE void store_be16(void *p, uint16_t v) { v = be16(v); memcpy(p, &v, sizeof v); }
PAL_INLINE void store_be32(void *p, uint32_t v) { v = be32(v); memcpy(p, &v, sizeof v); }

/* Values that stand one after the other in memory, made in a register: a wide load behind narrow stores would have to wait
 * for them to reach the cache. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
PAL_INLINE uint64_t pair_u32(uint32_t first, uint32_t then) { return first | (uint64_t)then << 32; }
PAL_INLINE uint32_t pair_u16(uint16_t first, uint16_t then) { return first | (uint32_t)then << 16; }
PAL_INLINE uint64_t bytes_u64(uint8_t a, uint8_t b, uint8_t c, uint8_t d)
{
    return a | (uint32_t)b << 8 | (uint32_t)c << 16 | (uint64_t)d << 24;
}
#else
PAL_INLINE uint64_t pair_u32(uint32_t first, uint32_t then) { return (uint64_t)first << 32 | then; }
PAL_INLINE uint32_t pair_u16(uint16_t first, uint16_t then) { return (uint32_t)first << 16 | then; }
PAL_INLINE uint64_t bytes_u64(uint8_t a, uint8_t b, uint8_t c, uint8_t d)
{
    return (uint64_t)a << 56 | (uint64_t)b << 48 | (uint64_t)c << 40 | (uint64_t)d << 32;
}
#endif

/* Serial-number comparison, RFC 1982 and RFC 9293 section 3.4: a before b on the circle of 2^32. */
PAL_INLINE bool seq_before(uint32_t a, uint32_t b) { return (int32_t)(a - b) < 0; }
PAL_INLINE bool seq_after(uint32_t a, uint32_t b) { return (int32_t)(b - a) < 0; }

PAL_INLINE uint64_t rotate_u64(uint64_t v, uint32_t n) { return v << n | v >> (64 - n); }
PAL_INLINE uint32_t rotate_u32(uint32_t v, uint32_t n) { return v << n | v >> (32 - n); }

PAL_INLINE uint32_t min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }
PAL_INLINE uint32_t max_u32(uint32_t a, uint32_t b) { return a > b ? a : b; }

#endif
