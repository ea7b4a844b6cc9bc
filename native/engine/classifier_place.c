/* SPDX-License-Identifier: Apache-2.0
 *
 * classifier_place.c - where the bit of each entry stands.
 */
#include "classifier_internal.h"

#include <stdlib.h>

/* Where an entry's bit should stand: entries that one address is likely to satisfy together stand together, so that a row
 * has few words. The narrower of an entry's two lists counts, coarsely by how narrow it is, then by where it lies. */
typedef struct place {
    uint64_t order;
    uint32_t entry;
} place;

static int place_order(const void *a, const void *b)
{
    const place *x = a, *y = b;
    return x->order != y->order ? (x->order < y->order ? -1 : 1) : x->entry < y->entry ? -1 : x->entry > y->entry;
}

/* Bits of prefix that a set of this size would have as one IPv4 prefix (an IPv6 one: a quarter of its bits), and its
 * first address (IPv6: the upper half, folded). */
static void set_place(const cls_set *s, uint32_t *narrow, uint32_t *first)
{
    *narrow = 32;
    *first = 0;
    for (uint32_t f = 0; f < 2; f++) {
        const cls_spans *t = &s->span[f];
        uint64_t sum = 0; /* in units of 2^-32 of the family's space */
        for (uint32_t k = 0; k < t->n; k++)
            for (uint32_t i = 0; i < t->run[k].n; i++)
                sum += (uint64_t)((t->run[k].span[i].hi - t->run[k].span[i].lo) >> (f ? 96 : 0)) + 1;
        if (t->n && !*first)
            *first = f ? (uint32_t)(t->run[0].span[0].lo >> 72) : (uint32_t)t->run[0].span[0].lo;
        if (t->n)
            *narrow = min_u32(*narrow, sum >> 32 ? 0 : (uint32_t)__builtin_clzll(sum | 1) - 31);
    }
}

static uint64_t place_of(const pal_rule *e, const uint32_t *ref, const uint32_t *narrow, const uint32_t *first)
{
    uint32_t best = 0, at = 0, side = 0;
    for (uint32_t role = 0; role < 2; role++) {
        uint32_t off = role ? e->dst_off : e->src_off, n = role ? e->dst_n : e->src_n, least = n ? 32 : 0;
        for (uint32_t j = off; j < off + n; j++)
            least = min_u32(least, narrow[ref[j]]);
        if (e->flags & (role ? PAL_RULE_DST_NEGATED : PAL_RULE_SRC_NEGATED))
            least = 0;
        if (n && least > best) {
            best = least;
            at = first[ref[off]];
            side = role;
        }
    }
    uint32_t coarse = best >= 24 ? 0 : best >= 16 ? 1 : best >= 8 ? 2 : 3;
    if (coarse == 3)
        side = at = 0;
    return (uint64_t)(coarse * 2 + side) << 32 | at;
}

size_t cls_early_bytes(const pal_ruleset *pub) { return (pub->n / 64 + 1ull) * pub->supers * sizeof *pub->early; }

void cls_early_make(pal_cls *c, pal_ruleset *pub)
{
    uint64_t *early = cls_get(c, cls_early_bytes(pub));
    for (uint32_t b = 0; b < pub->blocks; b++) { /* in a block entries ascend: the first is the least */
        const uint32_t *e = pub->entry_at + b * CLS_BLOCK, *end = e + CLS_BLOCK;
        while (e < end && *e == PAL_NONE)
            e++;
        if (e < end)
            early[*e / 64 * pub->supers + b / CLS_SUPER] |= 1ull << (b % CLS_SUPER);
    }
    for (uint32_t i = pub->supers; i < (pub->n / 64 + 1) * pub->supers; i++)
        early[i] |= early[i - pub->supers];
    pub->early = early;
}

/* Bits in the order of the entries, every kind beside every other. */
static void dense_assign(pal_cls *c, cls_rules *r, uint32_t *position)
{
    pal_ruleset *pub = &r->pub;
    r->n_cells = 0;
    pub->blocks = pub->n <= CLS_BLOCK ? 1 : pub->n <= 2 * CLS_BLOCK ? 2 : CLS_DENSE;
    r->packed = pub->blocks;
    for (uint32_t i = 0; i < pub->n; i++)
        position[i] = i;
    pub->any_src = cls_get(c, 0);
    pub->any_dst = cls_get(c, 0);
    pub->entry_at = cls_get(c, (size_t)pub->blocks * CLS_BLOCK * sizeof(uint32_t)); /* not looked at */
}

int cls_positions_assign(pal_cls *c, cls_rules *r, const uint32_t *ref, uint32_t *position)
{
    pal_ruleset *pub = &r->pub;
    if (pub->n <= c->dense_max) {
        dense_assign(c, r, position);
        return PAL_CLS_OK;
    }
    uint32_t next = 0, from[CLS_LOOKS + 1], total = 0, cells = 0;
    uint32_t *narrow = cls_get(c, r->n_use * sizeof *narrow), *first = cls_get(c, r->n_use * sizeof *first);
    for (uint32_t u = 0; u < r->n_use; u++)
        set_place(&c->set[r->use[u].set], &narrow[u], &first[u]);
    place *p = cls_get(c, pub->n * sizeof *p);
    for (uint32_t i = 0; i < pub->n; i++) {
        enum cls_looks k = cls_looks_of(&pub->rules[i]);
        position[i] = PAL_NONE;
        if (k == CLS_LOOKS_NEITHER && r->n_cells)
            cells++;
        else
            p[total++] = (place){(uint64_t)k << 60 | place_of(&pub->rules[i], ref, narrow, first), i};
    }
    if (!cells)
        r->n_cells = 0; /* nothing to say with them */
    qsort(p, total, sizeof *p, place_order);
    for (uint32_t k = 0, i = 0; k < CLS_LOOKS; k++) {
        next = (next + CLS_BLOCK - 1) / CLS_BLOCK * CLS_BLOCK;
        from[k] = next;
        while (i < total && p[i].order >> 60 == k) {
            uint32_t m = 0;
            while (m < CLS_BLOCK && i + m < total && p[i + m].order >> 60 == k) {
                p[i + m].order = 0; /* within a block by entry */
                m++;
            }
            qsort(p + i, m, sizeof *p, place_order);
            for (uint32_t j = 0; j < m; j++)
                position[p[i + j].entry] = next + j;
            next += m;
            i += m;
        }
    }
    cls_put(c, p, pub->n * sizeof *p);
    cls_put(c, narrow, r->n_use * sizeof *narrow);
    cls_put(c, first, r->n_use * sizeof *first);
    from[CLS_LOOKS] = (next + CLS_BLOCK - 1) / CLS_BLOCK * CLS_BLOCK;
    pub->blocks = max_u32(from[CLS_LOOKS] / CLS_BLOCK, 1);
    r->packed = pub->blocks;
    pub->supers = (pub->blocks + CLS_SUPER - 1) / CLS_SUPER;
    if (pub->supers > CLS_SUPERS_MAX)
        return PAL_CLS_TOO_LARGE;
    size_t bits = (size_t)pub->blocks * CLS_BLOCK;
    uint32_t *entry_at = cls_get(c, bits * sizeof *entry_at);
    uint64_t *any_src = cls_get(c, pub->supers * 8), *any_dst = cls_get(c, pub->supers * 8);
    memset(entry_at, 0xff, bits * sizeof *entry_at);
    for (uint32_t i = 0; i < pub->n; i++)
        if (position[i] != PAL_NONE)
            entry_at[position[i]] = i;
    for (uint32_t k = 0; k < CLS_LOOKS; k++)
        for (uint32_t b = from[k] / CLS_BLOCK; b < from[k + 1] / CLS_BLOCK; b++) {
            if (k == CLS_LOOKS_DST || k == CLS_LOOKS_NEITHER)
                cls_bit_set(any_src, b);
            if (k == CLS_LOOKS_SRC || k == CLS_LOOKS_NEITHER)
                cls_bit_set(any_dst, b);
        }
    pub->entry_at = entry_at;
    pub->any_src = any_src;
    pub->any_dst = any_dst;
    cls_early_make(c, pub);
    return PAL_CLS_OK;
}
