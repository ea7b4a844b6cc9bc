/* SPDX-License-Identifier: Apache-2.0
 *
 * classifier_rows.c - rows of addresses: blocks, nodes of blocks, dense rows; each content kept once for the whole host.
 *
 * They stand in the arena with a reference count beside them. A node holds a reference to each of its blocks. The block of
 * zeros is CLS_ZEROS, which is an empty node and a dense row of zeros too, and isn't counted.
 */
#include "classifier_internal.h"

/* ---- contents to references ---- */

static uint32_t pool_slot(const cls_pool *p, uint32_t hash) { return hash & p->mask; }

static void pool_grow(pal_cls *c, cls_pool *p)
{
    cls_pool old = *p;
    p->mask = old.slot ? 2 * old.mask + 1 : 255;
    p->slot = cls_get(c, (p->mask + 1ull) * sizeof *p->slot);
    for (uint32_t i = 0; old.slot && i <= old.mask; i++)
        if (old.slot[i].ref) {
            uint32_t k = pool_slot(p, old.slot[i].hash);
            while (p->slot[k].ref)
                k = (k + 1) & p->mask;
            p->slot[k] = old.slot[i];
        }
    if (old.slot)
        cls_put(c, old.slot, (old.mask + 1ull) * sizeof *old.slot);
}

/* The object of these words, with one more reference; made when there is none. */
static uint32_t pool_find(pal_cls *c, cls_pool *p, const uint64_t *w, size_t words, bool *made)
{
    uint32_t hash = (uint32_t)cls_hash_words(c, w, words), units = (uint32_t)(words + 3) / 4;
    if (2 * (p->n + 1) > p->mask)
        pool_grow(c, p);
    uint32_t k = pool_slot(p, hash);
    for (; p->slot[k].ref; k = (k + 1) & p->mask)
        if (p->slot[k].hash == hash && load_u64(cls_lines_at(c, p->slot[k].ref)) == w[0] && /* equal masks: equal lengths */
            !memcmp(cls_lines_at(c, p->slot[k].ref), w, words * 8)) {
            c->arena.side[p->slot[k].ref]++;
            *made = false;
            return p->slot[k].ref;
        }
    uint32_t ref = cls_units_get(c, units);
    uint64_t *to = cls_lines_at(c, ref);
    memcpy(to, w, words * 8);
    memset(to + words, 0, units * CLS_UNIT - words * 8);
    c->arena.side[ref] = 1;
    p->slot[k] = (cls_pooled){ref, hash};
    p->n++;
    *made = true;
    return ref;
}

/* Forgets an object. Those behind it that would no longer be found move up. */
static void pool_drop(pal_cls *c, cls_pool *p, uint32_t ref, size_t words)
{
    uint32_t k = pool_slot(p, (uint32_t)cls_hash_words(c, cls_lines_at(c, ref), words));
    while (p->slot[k].ref != ref)
        k = (k + 1) & p->mask;
    for (uint32_t i = (k + 1) & p->mask; p->slot[i].ref; i = (i + 1) & p->mask) {
        uint32_t home = pool_slot(p, p->slot[i].hash);
        if (((i - home) & p->mask) >= ((i - k) & p->mask)) {
            p->slot[k] = p->slot[i];
            k = i;
        }
    }
    p->slot[k] = (cls_pooled){0, 0};
    p->n--;
    cls_units_free(c, ref, (uint32_t)(words + 3) / 4);
}

void cls_pools_free(pal_cls *c)
{
    cls_pool *all[] = {&c->node, &c->dense[0], &c->dense[1], &c->dense[2]};
    for (uint32_t i = 0; i < 4; i++)
        if (all[i]->slot)
            cls_put(c, all[i]->slot, (all[i]->mask + 1ull) * sizeof *all[i]->slot);
}

uint32_t cls_rows_live(const pal_cls *c) { return c->node.n + c->dense[0].n + c->dense[1].n + c->dense[2].n; }

/* ---- blocks and dense rows ---- */

/* By length: one, two or four blocks. A block of a node and a dense row of one block are the same thing. */
static cls_pool *dense_pool(pal_cls *c, uint32_t blocks) { return &c->dense[blocks / 2]; }

static uint32_t dense_make(pal_cls *c, const uint64_t *w, uint32_t blocks)
{
    uint64_t any = 0;
    for (uint32_t i = 0; i < blocks * CLS_BLOCK_WORDS; i++)
        any |= w[i];
    bool made;
    return any ? pool_find(c, dense_pool(c, blocks), w, blocks * CLS_BLOCK_WORDS, &made) : CLS_ZEROS;
}

static void dense_unref(pal_cls *c, uint32_t ref, uint32_t blocks)
{
    if (ref != CLS_ZEROS && --c->arena.side[ref] == 0)
        pool_drop(c, dense_pool(c, blocks), ref, blocks * CLS_BLOCK_WORDS);
}

/* ---- nodes ---- */

static size_t node_words(const cls_node *e) { return 1 + ((size_t)__builtin_popcountll(e->mask) + 2) / 2; }

typedef union node_buffer {
    uint64_t word[1 + CLS_SUPER / 2 + 1];
    cls_node node;
} node_buffer;

/* Takes over the references to the blocks. */
static uint32_t node_find(pal_cls *c, const cls_node *e)
{
    if (e->mask == 0)
        return CLS_ZEROS;
    bool made;
    uint32_t ref = pool_find(c, &c->node, (const uint64_t *)(const void *)e, node_words(e), &made);
    for (int i = 0, n = __builtin_popcountll(e->mask); !made && i < n; i++)
        dense_unref(c, e->block[i], 1); /* the node that was there has its own */
    return ref;
}

static uint32_t node_make(pal_cls *c, const uint64_t *bits, uint32_t blocks)
{
    node_buffer b;
    memset(&b, 0, sizeof b);
    uint32_t n = 0;
    uint64_t mask = 0;
    for (uint32_t i = 0; i < blocks; i++) {
        uint32_t ref = dense_make(c, bits + i * CLS_BLOCK_WORDS, 1);
        if (ref != CLS_ZEROS) {
            mask |= 1ull << i;
            b.node.block[n++] = ref;
        }
    }
    b.node.mask = mask;
    return node_find(c, &b.node);
}

/* The node with one block changed: bit `off` of the block cleared, then bit `on` set (PAL_NONE: none). */
static uint32_t node_edit(pal_cls *c, uint32_t ref, uint32_t at, uint32_t off, uint32_t on)
{
    const cls_node *e = cls_lines_at(c, ref);
    uint32_t n = (uint32_t)__builtin_popcountll(e->mask), i = (uint32_t)__builtin_popcountll(e->mask & ((1ull << at) - 1));
    bool had = e->mask >> at & 1;
    uint64_t w[CLS_BLOCK_WORDS] = {0};
    if (had)
        memcpy(w, cls_lines_at(c, e->block[i]), sizeof w);
    if (off != PAL_NONE)
        cls_bit_clear(w, off);
    if (on != PAL_NONE)
        cls_bit_set(w, on);
    node_buffer b;
    memset(&b, 0, sizeof b);
    for (uint32_t k = 0; k < i; k++)
        c->arena.side[b.node.block[k] = e->block[k]]++;
    uint32_t to = dense_make(c, w, 1), m = i;
    if (to != CLS_ZEROS)
        b.node.block[m++] = to;
    for (uint32_t k = i + had; k < n; k++)
        c->arena.side[b.node.block[m++] = e->block[k]]++;
    b.node.mask = to != CLS_ZEROS ? e->mask | 1ull << at : e->mask & ~(1ull << at);
    return node_find(c, &b.node);
}

/* ---- rows of a rule set ---- */

void cls_row_make(pal_cls *c, const cls_rules *r, uint32_t *row)
{
    uint64_t *bits = c->bits;
    uint32_t blocks = r->pub.blocks;
    if (r->pub.supers == 0)
        row[0] = dense_make(c, bits, blocks);
    for (uint32_t u = 0; u < r->pub.supers; u++)
        row[u] = node_make(c, bits + u * CLS_SUPER * CLS_BLOCK_WORDS, min_u32(blocks - u * CLS_SUPER, CLS_SUPER));
    memset(bits, 0, (size_t)blocks * CLS_BLOCK_WORDS * 8);
}

void cls_row_ref(pal_cls *c, uint32_t row)
{
    if (row != CLS_ZEROS)
        c->arena.side[row]++;
}

/* dense: its blocks; 0: a node. */
void cls_row_unref(pal_cls *c, uint32_t row, uint32_t dense)
{
    if (dense) {
        dense_unref(c, row, dense);
        return;
    }
    if (row == CLS_ZEROS || --c->arena.side[row])
        return;
    const cls_node *e = cls_lines_at(c, row);
    for (int i = 0, n = __builtin_popcountll(e->mask); i < n; i++)
        dense_unref(c, e->block[i], 1);
    pool_drop(c, &c->node, row, node_words(e));
}

/* The part of a row in the superblock of `off` and `on` (PAL_NONE: neither; both in it) with one bit cleared, one set. */
uint32_t cls_row_edit(pal_cls *c, const cls_rules *r, uint32_t row, uint32_t off, uint32_t on)
{
    if (r->pub.supers == 0) {
        uint64_t w[CLS_DENSE * CLS_BLOCK_WORDS];
        memcpy(w, cls_lines_at(c, row), r->pub.blocks * (size_t)CLS_UNIT);
        if (off != PAL_NONE)
            cls_bit_clear(w, off);
        if (on != PAL_NONE)
            cls_bit_set(w, on);
        return dense_make(c, w, r->pub.blocks);
    }
    uint32_t any = off != PAL_NONE ? off : on, block = any / CLS_BLOCK % CLS_SUPER;
    return node_edit(c, row, block, off != PAL_NONE ? off % CLS_BLOCK : off, on != PAL_NONE ? on % CLS_BLOCK : on);
}

bool cls_row_has(const pal_cls *c, const cls_rules *r, uint32_t row, uint32_t position)
{
    const uint64_t *w = cls_lines_at(c, row);
    if (r->pub.supers == 0)
        return w[position / 64] >> (position % 64) & 1;
    const cls_node *e = (const cls_node *)(const void *)w;
    uint32_t block = position / CLS_BLOCK % CLS_SUPER, bit = position % CLS_BLOCK;
    if (!(e->mask >> block & 1))
        return false;
    w = cls_lines_at(c, e->block[__builtin_popcountll(e->mask & ((1ull << block) - 1))]);
    return w[bit / 64] >> (bit % 64) & 1;
}

/* What one of the row's users pays for it. */
size_t cls_row_share(const pal_cls *c, uint32_t row, uint32_t dense)
{
    if (row == CLS_ZEROS)
        return 0;
    if (dense)
        return (size_t)dense * CLS_UNIT / c->arena.side[row];
    const cls_node *e = cls_lines_at(c, row);
    size_t n = node_words(e) * 8;
    for (int i = 0, k = __builtin_popcountll(e->mask); i < k; i++)
        n += CLS_UNIT / c->arena.side[e->block[i]];
    return n / c->arena.side[row];
}
