/* SPDX-License-Identifier: Apache-2.0
 *
 * classify_map.h - from an address to its class: the class stands for the set of address-set numbers that contain it, one
 * map for the whole host.
 *
 * A slot is a class, or a reference to a node in the arena. IPv4: 256 slots of 2^24 addresses in the snapshot, pages of 256
 * slots of 2^16, then either a leaf of up to 9 intervals or a page of 256 slots of 2^8, then either a leaf of up to 13
 * intervals or a page of 256 classes: four loads at most. IPv6: a B+tree of 13 children.
 */
#ifndef PAL_CORE_CLASSIFY_MAP_H
#define PAL_CORE_CLASSIFY_MAP_H

#include "base.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define CLS_X86 1
#else
#define CLS_X86 0
#endif

#define CLS_BURST 32

/* The arena: one stretch of addresses in units of 32 bytes, so that a reference is 27 bits and its place one addition. */
#define CLS_UNIT 32
#define CLS_UNITS_MAX (1u << 27)
#define CLS_NODE 0x80000000u
#define CLS_PAGE 0x40000000u
#define CLS_REF (CLS_UNITS_MAX - 1)
#define CLS_PAGE_LINES 16

/* Intervals of a /16: interval i begins at key[i-1]; unused keys are 0xffff and unused classes repeat the last one. */
typedef struct PAL_ALIGNED(64) cls_leaf16 {
    uint16_t key[8];
    uint32_t cls[9];
    uint32_t n; /* intervals */
    uint32_t pad[2];
} cls_leaf16;
_Static_assert(sizeof(cls_leaf16) == 64, "one line");

typedef struct PAL_ALIGNED(64) cls_leaf8 {
    uint8_t key[12];
    uint32_t cls[13];
} cls_leaf8;
_Static_assert(sizeof(cls_leaf8) == 64, "one line");

#define CLS_FAN6 13
typedef struct PAL_ALIGNED(64) cls_node6 {
    uint64_t hi[CLS_FAN6 - 1], lo[CLS_FAN6 - 1]; /* child i begins at key i - 1 */
    uint32_t child[CLS_FAN6];                    /* classes in a leaf, references above */
    uint32_t n;
} cls_node6;
_Static_assert(sizeof(cls_node6) == 256, "four lines");

#define CLS_WIDE_256 1u
#define CLS_WIDE_512 2u

/* One version of the address maps. Immutable once published. */
typedef struct pal_snap {
    uint32_t root4[256];
    uint32_t root6, depth6; /* depth 0: root6 is a class */
    const uint8_t *base;    /* the arena; rows stand in it too */
    uint32_t wide;          /* CLS_WIDE_*: the widest variant that the machine has the instructions of */
} pal_snap;

PAL_INLINE const void *cls_at(const uint8_t *base, uint32_t ref) { return base + (size_t)(ref & CLS_REF) * CLS_UNIT; }

PAL_INLINE const void *cls_unit(const uint8_t *base, uint32_t unit) { return base + (size_t)unit * CLS_UNIT; } /* nothing beside the reference */

/* How many of the ascending keys are not above x. */
PAL_INLINE uint32_t cls_rank16(const uint16_t *key, uint32_t x)
{
#if CLS_X86
    __m128i k = _mm_load_si128((const __m128i *)(const void *)key);
    __m128i v = _mm_set1_epi16((short)x);
    uint32_t m = (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi16(_mm_subs_epu16(k, v), _mm_setzero_si128()));
    return (uint32_t)__builtin_ctz(~m) >> 1;
#else
    uint32_t r = 0;
    for (uint32_t i = 0; i < 8; i++)
        r += key[i] <= x;
    return r;
#endif
}
PAL_INLINE uint32_t cls_rank8(const uint8_t *key, uint32_t x)
{
#if CLS_X86
    __m128i k = _mm_load_si128((const __m128i *)(const void *)key);
    __m128i v = _mm_set1_epi8((char)x);
    uint32_t m = (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_subs_epu8(k, v), _mm_setzero_si128()));
    return (uint32_t)__builtin_ctz(~(m & 0xfffu));
#else
    uint32_t r = 0;
    for (uint32_t i = 0; i < 12; i++)
        r += key[i] <= x;
    return r;
#endif
}

/* The class of an IPv4 address, by the leaf at `at` of its upper 16 or 24 bits. */
PAL_INLINE uint32_t cls_leaf16_class(const uint8_t *base, uint32_t at, uint32_t addr)
{
    const cls_leaf16 *l = cls_at(base, at);
    return l->cls[cls_rank16(l->key, addr & 0xffff)];
}
PAL_INLINE uint32_t cls_leaf8_class(const uint8_t *base, uint32_t at, uint32_t addr)
{
    const cls_leaf8 *l = cls_at(base, at);
    return l->cls[cls_rank8(l->key, addr & 0xff)];
}

/* Classes of n <= 2 * CLS_BURST addresses, level by level so that every load of a level is under way at once. What kind
 * of slot an address meets is not predictable, so nothing branches on it: each address is appended to the list of its
 * kind by advancing the list's length or not. */
PAL_INLINE void cls_classes4(const pal_snap *s, const uint32_t *addr, uint32_t n, uint32_t *out)
{
    const uint8_t *base = s->base;
    const uint32_t *slot[2 * CLS_BURST];
    uint8_t leaf[2 * CLS_BURST + 1], page[2 * CLS_BURST + 1];
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t *root = &s->root4[addr[i] >> 24];
        const uint32_t *p = (const uint32_t *)cls_at(base, *root) + (addr[i] >> 16 & 255);
        slot[i] = *root & CLS_NODE ? p : root;
        prefetch_read(slot[i]);
    }
    uint32_t leaves = 0, pages = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t v = *slot[i];
        out[i] = v;
        leaf[leaves] = page[pages] = (uint8_t)i;
        leaves += v >> 30 == 2;
        pages += v >> 30 == 3;
    }
    for (uint32_t j = 0; j < pages; j++) {
        uint32_t i = page[j];
        slot[i] = (const uint32_t *)cls_at(base, out[i]) + (addr[i] >> 8 & 255);
        prefetch_read(slot[i]);
    }
    for (uint32_t j = 0; j < leaves; j++)
        prefetch_read(cls_at(base, out[leaf[j]]));
    uint32_t leaves8 = 0, pages8 = 0;
    uint8_t leaf8[2 * CLS_BURST + 1];
    for (uint32_t j = 0; j < pages; j++) {
        uint32_t i = page[j], v = *slot[i];
        out[i] = v;
        leaf8[leaves8] = page[pages8] = (uint8_t)i; /* pages8 <= j: nothing unread is overwritten */
        leaves8 += v >> 30 == 2;
        pages8 += v >> 30 == 3;
    }
    for (uint32_t j = 0; j < leaves8; j++)
        prefetch_read(cls_at(base, out[leaf8[j]]));
    for (uint32_t j = 0; j < pages8; j++) {
        slot[page[j]] = (const uint32_t *)cls_at(base, out[page[j]]) + (addr[page[j]] & 255);
        prefetch_read(slot[page[j]]);
    }
    for (uint32_t j = 0; j < leaves; j++)
        out[leaf[j]] = cls_leaf16_class(base, out[leaf[j]], addr[leaf[j]]);
    for (uint32_t j = 0; j < leaves8; j++)
        out[leaf8[j]] = cls_leaf8_class(base, out[leaf8[j]], addr[leaf8[j]]);
    for (uint32_t j = 0; j < pages8; j++)
        out[page[j]] = *slot[page[j]];
}

PAL_INLINE uint32_t cls_rank6(const cls_node6 *e, uint64_t hi, uint64_t lo)
{
    uint32_t a = 0, b = e->n - 1; /* keys a .. b-1 undecided */
    while (a < b) {
        uint32_t m = (a + b) / 2;
        if (e->hi[m] < hi || (e->hi[m] == hi && e->lo[m] <= lo))
            a = m + 1;
        else
            b = m;
    }
    return a;
}

PAL_INLINE void cls_classes6(const pal_snap *s, const uint64_t (*addr)[2], uint32_t n, uint32_t *out)
{
    for (uint32_t i = 0; i < n; i++)
        out[i] = s->root6;
    for (uint32_t d = 0; d < s->depth6; d++) {
        for (uint32_t i = 0; i < n; i++) {
            const uint8_t *e = cls_at(s->base, out[i]);
            for (uint32_t l = 0; l < 4; l++)
                prefetch_read(e + 64 * l);
        }
        for (uint32_t i = 0; i < n; i++) {
            const cls_node6 *e = cls_at(s->base, out[i]);
            out[i] = e->child[cls_rank6(e, addr[i][0], addr[i][1])];
        }
    }
}

/* The classes of the IPv6 keys of a sub-burst, over what the IPv4 map said of them. */
PAL_OUTLINE void cls_keys6(const pal_snap *snap, const pal_key *keys, uint32_t n, uint32_t *src, uint32_t *dst)
{
    uint64_t addr[2 * CLS_BURST][2];
    uint32_t cls[2 * CLS_BURST], j = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (keys[i].family == PAL_FAMILY_V4)
            continue;
        addr[j][0] = be64(load_u64(keys[i].src));
        addr[j++][1] = be64(load_u64(keys[i].src + 8));
        addr[j][0] = be64(load_u64(keys[i].dst));
        addr[j++][1] = be64(load_u64(keys[i].dst + 8));
    }
    cls_classes6(snap, (const uint64_t (*)[2])addr, j, cls);
    j = 0;
    for (uint32_t i = 0; i < n; i++)
        if (keys[i].family != PAL_FAMILY_V4) {
            src[i] = cls[j++];
            dst[i] = cls[j++];
        }
}

#endif
