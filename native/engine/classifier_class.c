/* SPDX-License-Identifier: Apache-2.0
 *
 * classifier_class.c - classes of addresses: which sets contain them.
 *
 * The hash of a class is the exclusive-or of its sets' secret 128-bit keys, so that the class with one set more or less
 * is found in constant time; two classes with equal hashes are taken to be the same, which happens by chance with
 * probability 2^-128 a pair. The members stand in blocks of 4,096 set numbers that neighbours share: a class costs
 * what it changes, not what it contains.
 */
#include "classifier_internal.h"

#define MID_SHIFT 12

static size_t mid_bytes(uint64_t map) { return sizeof(cls_mid) + 8 * (size_t)__builtin_popcountll(map); }

static void mid_unref(pal_cls *c, cls_mid *m)
{
    if (--m->refs == 0)
        cls_put(c, m, mid_bytes(m->map));
}

static uint32_t mid_find(const cls_class *k, uint32_t no)
{
    uint32_t a = 0, b = k->n_mid;
    while (a < b) {
        uint32_t m = (a + b) / 2;
        if (k->mid[m]->no < no)
            a = m + 1;
        else
            b = m;
    }
    return a;
}

bool cls_class_has(const pal_cls *c, uint32_t cls, uint32_t set)
{
    const cls_class *k = &c->cls[cls];
    uint32_t i = mid_find(k, set >> MID_SHIFT);
    if (i == k->n_mid || k->mid[i]->no != set >> MID_SHIFT)
        return false;
    return cls_mid_word(k->mid[i], set >> 6 & 63) >> (set & 63) & 1;
}

/* The block with one bit turned over, or NULL when none is left. old may be NULL. */
static cls_mid *mid_turn(pal_cls *c, const cls_mid *old, uint32_t set)
{
    uint64_t map = old ? old->map : 0, bit = 1ull << (set >> 6 & 63);
    uint64_t word = (old ? cls_mid_word(old, set >> 6 & 63) : 0) ^ 1ull << (set & 63);
    uint64_t to = word ? map | bit : map & ~bit;
    if (to == 0)
        return NULL;
    cls_mid *m = cls_get(c, mid_bytes(to));
    m->refs = 1;
    m->no = set >> MID_SHIFT;
    m->map = to;
    uint32_t n = 0;
    for (uint64_t left = to; left; left &= left - 1) {
        uint64_t b = left & (0 - left);
        m->word[n++] = b == bit ? word : cls_mid_word(old, (uint32_t)__builtin_ctzll(b));
    }
    return m;
}

static void hash_grow(pal_cls *c)
{
    uint32_t cap = c->cap_cls ? 2 * c->cap_cls : 256;
    c->cls = cls_grow(c, c->cls, c->cap_cls * sizeof *c->cls, cap * sizeof *c->cls);
    c->cap_cls = cap;
    cls_put(c, c->cls_hash, (c->cls_mask + 1ull) * sizeof(uint32_t));
    c->cls_mask = 2 * cap - 1;
    c->cls_hash = cls_get(c, (c->cls_mask + 1ull) * sizeof(uint32_t));
    for (uint32_t i = 0; i < c->n_cls; i++)
        if (c->cls[i].born) {
            uint32_t *h = &c->cls_hash[c->cls[i].h[0] & c->cls_mask];
            c->cls[i].next = *h;
            *h = i + 1;
        }
}

uint32_t cls_class_change(pal_cls *c, uint32_t cls, uint32_t set, bool add)
{
    uint64_t h[2] = {0, 0};
    if (cls != PAL_NONE) { /* PAL_NONE: the class of no set, while there is none yet */
        if (cls_class_has(c, cls, set) == add)
            return cls;
        h[0] = c->cls[cls].h[0] ^ c->set[set].key[0];
        h[1] = c->cls[cls].h[1] ^ c->set[set].key[1];
    }
    if (c->n_cls == c->cap_cls && c->free_cls == PAL_NONE)
        hash_grow(c);
    for (uint32_t i = c->cls_hash[h[0] & c->cls_mask]; i; i = c->cls[i - 1].next)
        if (c->cls[i - 1].h[0] == h[0] && c->cls[i - 1].h[1] == h[1])
            return i - 1;
    uint32_t i = c->free_cls;
    if (i != PAL_NONE)
        c->free_cls = c->cls[i].next;
    else
        i = c->n_cls++;
    c->live_cls++;
    c->loose++;
    cls_class *k = &c->cls[i];
    if (!k->fresh) /* else a number that came and went within this transaction, which the list still names */
        cls_push(c, &c->fresh, i);
    *k = (cls_class){.h = {h[0], h[1]}, .born = c->txn, .fresh = 1};
    if (cls != PAL_NONE) {
        const cls_class *o = &c->cls[cls];
        uint32_t at = mid_find(o, set >> MID_SHIFT);
        bool found = at < o->n_mid && o->mid[at]->no == set >> MID_SHIFT;
        cls_mid *m = mid_turn(c, found ? o->mid[at] : NULL, set);
        k->n_mid = o->n_mid - found + (m != NULL);
        k->mid = k->n_mid ? cls_get(c, k->n_mid * sizeof *k->mid) : NULL;
        uint32_t n = 0;
        for (uint32_t j = 0; j < o->n_mid + 1; j++) {
            if (j == at && m)
                k->mid[n++] = m;
            if (j < o->n_mid && !(found && j == at)) {
                k->mid[n++] = o->mid[j];
                o->mid[j]->refs++;
            }
        }
    }
    uint32_t *b = &c->cls_hash[h[0] & c->cls_mask];
    k->next = *b;
    *b = i + 1;
    return i;
}

void cls_class_ref(pal_cls *c, uint32_t cls) { c->loose -= c->cls[cls].refs++ == 0; }

void cls_class_unref(pal_cls *c, uint32_t cls)
{
    cls_class *k = &c->cls[cls];
    if (--k->refs)
        return;
    c->loose++;
    if (!k->idle) {
        k->idle = 1;
        cls_push(c, &c->idle, cls);
    }
}

/* Classes that no interval has: those that nobody has seen go now, the others when their readers have passed. */
void cls_class_idle(pal_cls *c, bool commit)
{
    uint32_t n = 0;
    for (uint32_t j = 0; j < c->idle.n; j++) {
        uint32_t i = c->idle.v[j];
        cls_class *k = &c->cls[i];
        if (k->refs == 0 && k->born == c->txn && !k->waits) {
            k->idle = 0;
            cls_class_free(c, i);
        } else if (!commit) {
            c->idle.v[n++] = i;
        } else if (k->refs == 0) {
            k->idle = 0;
            k->waits++; /* until the last of these has passed its readers the class may be taken up again */
            cls_retire(c, &c->pending, WASTE_CLASS, NULL, i, 0);
        } else {
            k->idle = 0;
        }
    }
    c->idle.n = n;
}

void cls_class_free(pal_cls *c, uint32_t cls)
{
    cls_class *k = &c->cls[cls];
    for (uint32_t j = 0; j < c->n_ruleset; j++)
        cls_rules_forget(c, c->ruleset[j], cls);
    uint32_t *b = &c->cls_hash[k->h[0] & c->cls_mask];
    while (*b != cls + 1)
        b = &c->cls[*b - 1].next;
    *b = k->next;
    for (uint32_t j = 0; j < k->n_mid; j++)
        mid_unref(c, k->mid[j]);
    cls_put(c, k->mid, k->n_mid * sizeof *k->mid);
    *k = (cls_class){.fresh = k->fresh, .next = c->free_cls};
    c->free_cls = cls;
    c->live_cls--;
    c->loose--;
}

void cls_classes_free(pal_cls *c)
{
    for (uint32_t i = 0; i < c->n_cls; i++) {
        for (uint32_t j = 0; j < c->cls[i].n_mid; j++)
            mid_unref(c, c->cls[i].mid[j]);
        cls_put(c, c->cls[i].mid, c->cls[i].n_mid * sizeof *c->cls[i].mid);
    }
    cls_put(c, c->cls, c->cap_cls * sizeof *c->cls);
    cls_put(c, c->cls_hash, (c->cls_mask + 1ull) * sizeof(uint32_t));
    cls_u32s_free(c, &c->idle);
    cls_u32s_free(c, &c->fresh);
}
