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

/* Gives each entry a bit. A word holds entries of one kind only, ascending. ref[i]: index in `use` of set_ref[i]. */
int cls_positions_assign(pal_cls *c, cls_rules *r, bool joined, const uint32_t *ref, uint32_t *position)
{
    pal_ruleset *pub = &r->pub;
    if (joined && pub->n <= c->dense_max) { /* in order, every kind beside every other */
        r->words = r->packed = CLS_DENSE;
        uint32_t *entry_of = cls_get(c, CLS_DENSE * 64 * sizeof *entry_of);
        memset(entry_of, 0xff, CLS_DENSE * 64 * sizeof *entry_of);
        for (uint32_t i = 0; i < pub->n; i++) {
            position[i] = cls_looks_of(&pub->rules[i]) == CLS_LOOKS_NEITHER ? PAL_NONE : i;
            entry_of[i] = position[i];
        }
        pub->entry_at = entry_of;
        pub->any_src = cls_get(c, 0);
        pub->any_dst = cls_get(c, 0);
        return PAL_CLS_OK;
    }
    uint32_t next = 0, from[CLS_LOOKS + 1], total = 0;
    uint32_t *narrow = cls_get(c, r->n_use * sizeof *narrow), *first = cls_get(c, r->n_use * sizeof *first);
    for (uint32_t u = 0; u < r->n_use; u++)
        set_place(&c->set[r->use[u].set], &narrow[u], &first[u]);
    place *p = cls_get(c, pub->n * sizeof *p);
    for (uint32_t i = 0; i < pub->n; i++) {
        enum cls_looks k = cls_looks_of(&pub->rules[i]);
        position[i] = PAL_NONE;
        if (k != CLS_LOOKS_NEITHER || !joined)
            p[total++] = (place){(uint64_t)k << 60 | place_of(&pub->rules[i], ref, narrow, first), i};
    }
    qsort(p, total, sizeof *p, place_order);
    for (uint32_t k = 0, i = 0; k < CLS_LOOKS; k++) {
        next = (next + 63) & ~63u;
        from[k] = next;
        while (i < total && p[i].order >> 60 == k) {
            uint32_t m = 0;
            while (m < 64 && i + m < total && p[i + m].order >> 60 == k) {
                p[i + m].order = 0; /* within a word by entry */
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
    next = (next + 63) & ~63u;
    from[CLS_LOOKS] = next;
    r->words = next ? next / 64 : 1;
    r->packed = r->words;
    pub->supers = (r->words + 63) / 64;
    if (pub->supers > CLS_SUPERS_MAX)
        return PAL_CLS_TOO_LARGE;
    uint32_t *entry_at = cls_get(c, r->words * 64 * sizeof *entry_at);
    uint64_t *any_src = cls_get(c, pub->supers * 8), *any_dst = cls_get(c, pub->supers * 8);
    memset(entry_at, 0xff, r->words * 64 * sizeof *entry_at);
    for (uint32_t i = 0; i < pub->n; i++)
        if (position[i] != PAL_NONE)
            entry_at[position[i]] = i;
    for (uint32_t k = 0; k < CLS_LOOKS; k++)
        for (uint32_t w = from[k] / 64; w < from[k + 1] / 64; w++) {
            if (k == CLS_LOOKS_DST || k == CLS_LOOKS_NEITHER)
                cls_bit_set(any_src, w);
            if (k == CLS_LOOKS_SRC || k == CLS_LOOKS_NEITHER)
                cls_bit_set(any_dst, w);
        }
    pub->entry_at = entry_at;
    pub->any_src = any_src;
    pub->any_dst = any_dst;
    return PAL_CLS_OK;
}
