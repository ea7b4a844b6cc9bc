/* SPDX-License-Identifier: Apache-2.0
 *
 * classify.h - first match over a rule set, a burst at a time: the look-up side of the classifier.
 *
 * An address becomes a class (classify_map.h). A rule set keeps, for each class, one row as source and one as destination:
 * which of its entries the class satisfies, as a bit vector. Protocol, flags, family and direction become a meta class,
 * each port a port class, with rows of their own. The entries that match are the AND of the five rows.
 *
 * A block is 256 bits. Rule sets of up to CLS_DENSE blocks have dense rows, in the order of the entries. The rows of larger
 * ones are sparse: for each superblock (64 blocks) a node that says which blocks are not zero and where they are; equal
 * blocks and equal nodes are kept once for the host. There the order of the bits is not the order of the entries
 * (entry_at translates), only within one block bits rise with entries; so the answer is the least entry over the first
 * bits of the blocks. docs/decisions/0002-classifier.md has the bounds.
 *
 * Nothing here is written by a reader. The writer is native/engine/classifier.c. The same in wide instructions:
 * classify_wide.h, classify_512.h.
 */
#ifndef PAL_CORE_CLASSIFY_H
#define PAL_CORE_CLASSIFY_H

#include "classify_map.h"

#define CLS_MAX_BURST 256
#define CLS_BLOCK 256      /* bits */
#define CLS_BLOCK_WORDS 4
#define CLS_SUPER 64       /* blocks */
#define CLS_SUPERS_MAX 16
#define CLS_DENSE 4        /* blocks */
#define CLS_ZEROS 0u       /* units that exist always: zeros, as a block, an empty node, a dense row */
#define CLS_ONES 4u        /* and a block of ones */

/* Rows of 256 classes in one superblock: references to dense rows or to nodes. In the arena. */
#define CLS_TAB 256
typedef struct cls_tab {
    uint32_t src[CLS_TAB], dst[CLS_TAB];
} cls_tab;
#define CLS_TAB_UNITS ((uint32_t)(sizeof(cls_tab) / CLS_UNIT))

/* The part of a sparse row in one superblock. Behind the references of the blocks there is one more, never used. */
typedef struct cls_node {
    uint64_t mask;
    uint32_t block[];
} cls_node;

/* Class of a port: two levels, equal pages are shared. Both have a word more than is used, so that four bytes can be
 * loaded from any element. */
typedef struct cls_ports {
    uint16_t page[256 + 2]; /* index of a page of 256 classes */
    const uint16_t *cls;
} cls_ports;

/* Rows of the classes of one field: for class i, blocks * 4 words from row + i * blocks * 4 on, and the mask of the blocks
 * that are not zero for each superblock. */
typedef struct cls_field {
    uint32_t n; /* classes; 1: every entry accepts every value, and the rows need not be looked at */
    const uint64_t *row, *mask;
} cls_field;

typedef struct pal_ruleset {
    const pal_rule *rules; /* the entries, in order */
    uint32_t n;
    uint32_t supers;                   /* 0: dense rows */
    uint32_t blocks;                   /* of a service row; of a dense row: 1, 2 or 4 */
    uint32_t verify;                   /* ports or flags are coarse: the entry itself is asked */
    const uint64_t *any_src, *any_dst; /* by superblock: blocks whose entries don't look at that address */
    const uint32_t *entry_at;          /* position -> entry, PAL_NONE where free; not of dense rows */
    const uint64_t *early;             /* (entry / 64) * supers + superblock: blocks that have an entry below 64 * (entry / 64 + 1) */
    const uint32_t *tab;               /* (class >> 8) * max(supers, 1) + superblock -> cls_tab [grows, see classifier_tabs.c] */
    cls_field meta, dport, sport;
    const uint32_t *first;             /* (meta * dport.n + dport) * sport.n + sport -> first entry of any source and any
                                          destination; NULL: those entries have bits */
    const uint32_t *meta_at;           /* (proto, flags, family, direction) -> meta class */
    uint32_t n_flags;
    uint8_t proto_class[256 + 4], flag_class[256 + 4];
    cls_ports dport_at, sport_at;
    const struct pal_ruleset *later[PAL_TIERS]; /* without the tiers below t, where an entry resumes at t; else NULL */
} pal_ruleset;

/* ---- services --------------------------------------------------------------------------------------------- */

PAL_INLINE bool cls_verify(const pal_rule *e, const pal_key *k)
{
    return e->sport_lo <= k->sport && k->sport <= e->sport_hi && e->dport_lo <= k->dport && k->dport <= e->dport_hi &&
           (k->tcp_flags & e->tcp_mask) == e->tcp_value;
}

PAL_INLINE uint32_t cls_port(const cls_ports *t, uint32_t port) { return t->cls[t->page[port >> 8] * 256u + (port & 255)]; }

PAL_INLINE uint32_t cls_meta(const pal_ruleset *r, const pal_key *k)
{
    uint32_t i = r->proto_class[k->proto] * r->n_flags + r->flag_class[k->tcp_flags];
    return r->meta_at[i * 16 + (k->family & 3u) * 4 + (k->dir & 3u)];
}

/* ---- rows ------------------------------------------------------------------------------------------------- */

PAL_INLINE uint32_t cls_row_src(const uint8_t *base, const uint32_t *tab, uint32_t supers, uint32_t cls, uint32_t super)
{
    return ((const cls_tab *)cls_at(base, tab[cls / CLS_TAB * supers + super]))->src[cls % CLS_TAB];
}
PAL_INLINE uint32_t cls_row_dst(const uint8_t *base, const uint32_t *tab, uint32_t supers, uint32_t cls, uint32_t super)
{
    return ((const cls_tab *)cls_at(base, tab[cls / CLS_TAB * supers + super]))->dst[cls % CLS_TAB];
}

/* The block of a node, which may lack it where `any` has the block's bit. */
PAL_INLINE const uint64_t *cls_node_block(const uint8_t *base, const cls_node *e, uint64_t any, uint32_t b)
{
    uint32_t at = e->block[__builtin_popcountll(e->mask & ((1ull << b) - 1))];
    return cls_at(base, any >> b & 1 ? CLS_ONES : at);
}

/* The blocks of a superblock in which an entry below `best` may stand: what is left when one has been found. */
PAL_INLINE uint64_t cls_early(const pal_ruleset *r, uint32_t best, uint32_t super)
{
    return r->early[min_u32(best, r->n) / 64 * r->supers + super];
}

/* What the five fields of a key have become. */
typedef struct cls_rows {
    uint32_t src, dst; /* classes */
    uint32_t meta, dport, sport;
} cls_rows;

/* The least entry below `best` among the bits of one block that the key satisfies. entry_at NULL: in order from `from`. */
PAL_INLINE uint32_t cls_block_first(const pal_ruleset *r, const uint64_t *s, const uint64_t *d, const cls_rows *v, uint32_t block,
                                    const pal_key *k, uint32_t best)
{
    size_t stride = (size_t)r->blocks * CLS_BLOCK_WORDS, at = (size_t)block * CLS_BLOCK_WORDS;
    const uint64_t *m = r->meta.row + v->meta * stride + at, *dp = r->dport.row + v->dport * stride + at;
    const uint64_t *sp = r->sport.row + v->sport * stride + at;
    for (uint32_t w = 0; w < CLS_BLOCK_WORDS; w++) {
        uint64_t x = s[w] & d[w] & m[w] & dp[w] & sp[w];
        for (; x; x &= x - 1) {
            uint32_t bit = block * CLS_BLOCK + w * 64 + (uint32_t)__builtin_ctzll(x);
            uint32_t e = r->supers ? r->entry_at[bit] : bit;
            if (!r->verify || cls_verify(&r->rules[e], k))
                return min_u32(best, e);
        }
    }
    return best;
}

/* The first match of one key, with no wide instructions. */
PAL_INLINE uint32_t cls_match(const uint8_t *base, const pal_ruleset *r, const uint32_t *tab, const cls_rows *v, const pal_key *k)
{
    uint32_t best = PAL_NONE;
    if (r->first)
        best = r->first[(v->meta * r->dport.n + v->dport) * r->sport.n + v->sport];
    if (r->supers == 0) {
        const uint64_t *s = cls_at(base, cls_row_src(base, tab, 1, v->src, 0)), *d = cls_at(base, cls_row_dst(base, tab, 1, v->dst, 0));
        for (uint32_t b = 0; b < r->blocks && best == PAL_NONE; b++)
            best = cls_block_first(r, s + b * CLS_BLOCK_WORDS, d + b * CLS_BLOCK_WORDS, v, b, k, best);
        return best;
    }
    for (uint32_t u = 0; u < r->supers; u++) {
        const cls_node *s = cls_at(base, cls_row_src(base, tab, r->supers, v->src, u));
        const cls_node *d = cls_at(base, cls_row_dst(base, tab, r->supers, v->dst, u));
        uint64_t left = (s->mask | r->any_src[u]) & (d->mask | r->any_dst[u]) & r->meta.mask[v->meta * r->supers + u] &
                        r->dport.mask[v->dport * r->supers + u] & r->sport.mask[v->sport * r->supers + u];
        while ((left &= cls_early(r, best, u)) != 0) {
            uint32_t b = (uint32_t)__builtin_ctzll(left);
            left &= left - 1;
            best = cls_block_first(r, cls_node_block(base, s, r->any_src[u], b), cls_node_block(base, d, r->any_dst[u], b), v,
                                   u * CLS_SUPER + b, k, best);
        }
    }
    return best;
}

PAL_INLINE void cls_sub_burst(const pal_snap *snap, const pal_ruleset *r, const pal_key *keys, uint32_t n, uint32_t *entry)
{
    uint32_t addr[2 * CLS_BURST], cls[2 * CLS_BURST], n6 = 0;
    for (uint32_t i = 0; i < n; i++) {
        addr[i] = load_be32(keys[i].src);
        addr[n + i] = load_be32(keys[i].dst);
        n6 += keys[i].family != PAL_FAMILY_V4;
    }
    cls_classes4(snap, addr, 2 * n, cls);
    if (PAL_UNLIKELY(n6))
        cls_keys6(snap, keys, n, cls, cls + n);
    const uint32_t *tab = __atomic_load_n(&r->tab, __ATOMIC_ACQUIRE);
    for (uint32_t i = 0; i < n; i++) {
        const pal_key *k = &keys[i];
        cls_rows v = {cls[i], cls[n + i], cls_meta(r, k), cls_port(&r->dport_at, k->dport), cls_port(&r->sport_at, k->sport)};
        entry[i] = cls_match(snap->base, r, tab, &v, k);
    }
}

static __attribute__((noinline, unused)) void classify_burst_plain(const pal_snap *snap, const pal_ruleset *r,
                                                                   const pal_key *keys, uint32_t n, uint32_t *entry)
{
    for (uint32_t i = 0; i < n; i += CLS_BURST)
        cls_sub_burst(snap, r, keys + i, min_u32(n - i, CLS_BURST), entry + i);
}

#if CLS_X86
#include "classify_wide.h"
#include "classify_512_burst.h"
#endif

/* entry[i] = index of the first entry of r that matches keys[i], or PAL_NONE. The snapshot and the rule set must both
 * have been obtained since the calling thread's last quiescent point. */
static inline void classify_burst(const pal_snap *snap, const pal_ruleset *r, const pal_key *keys, uint32_t n,
                                  uint32_t *entry)
{
#if CLS_X86
    if (snap->wide == CLS_WIDE_512) {
        classify_burst_512(snap, r, keys, n, entry);
        return;
    }
    if (PAL_LIKELY(snap->wide)) {
        classify_burst_wide(snap, r, keys, n, entry);
        return;
    }
#endif
    classify_burst_plain(snap, r, keys, n, entry);
}

static inline uint32_t classify_one(const pal_snap *snap, const pal_ruleset *r, const pal_key *key)
{
    uint32_t e;
    classify_burst(snap, r, key, 1, &e);
    return e;
}

#endif
