/* SPDX-License-Identifier: Apache-2.0
 *
 * classifier_tabs.c - the rows that a rule set has for each class of addresses.
 *
 * They stand in pages of 256 classes, one page a superblock, which versions of a rule set share. Each place of a page holds
 * a reference to its row. Classes that have none of the rule set's sets share one page and one row, the base.
 */
#include "classifier_internal.h"

void cls_base_build(pal_cls *c, cls_rules *r, const uint32_t *position)
{
    uint32_t supers = cls_rules_supers(r);
    for (uint32_t role = 0; role < 2; role++) {
        for (uint32_t i = 0; i < r->pub.n; i++) {
            const pal_rule *e = &r->pub.rules[i];
            bool negated = e->flags & (role ? PAL_RULE_DST_NEGATED : PAL_RULE_SRC_NEGATED);
            if (position[i] == PAL_NONE || !((role ? e->dst_n : e->src_n) ? negated : r->pub.supers == 0))
                continue; /* no bit, or not one that a class has because it lacks a set */
            if (!r->neg[role])
                r->neg[role] = cls_get(c, (size_t)r->pub.blocks * CLS_UNIT);
            cls_bit_set(r->neg[role], position[i]);
        }
        if (r->neg[role])
            memcpy(c->bits, r->neg[role], (size_t)r->pub.blocks * CLS_UNIT);
        cls_row_make(c, r, r->base[role]);
    }
    for (uint32_t u = 0; u < supers; u++) {
        r->base_tab[u] = cls_units_get(c, CLS_TAB_UNITS);
        c->arena.side[r->base_tab[u]] = 1;
        cls_tab *t = cls_lines_at(c, r->base_tab[u]);
        for (uint32_t i = 0; i < CLS_TAB; i++) {
            cls_row_ref(c, t->src[i] = r->base[0][u]);
            cls_row_ref(c, t->dst[i] = r->base[1][u]);
        }
        cls_row_unref(c, r->base[0][u], cls_rules_dense(r)); /* the page's references keep it */
        cls_row_unref(c, r->base[1][u], cls_rules_dense(r));
    }
}

/* The row's bits for a class, in c->bits; false when the class has none of our sets in this role. */
static bool class_bits(pal_cls *c, const cls_rules *r, uint32_t cls, uint32_t role)
{
    const cls_class *k = &c->cls[cls];
    bool any = false;
    for (uint32_t m = 0; m < k->n_mid; m++) {
        const cls_mid *mid = k->mid[m];
        uint32_t n = 0;
        for (uint64_t map = mid->map; map; map &= map - 1, n++)
            for (uint64_t word = mid->word[n]; word; word &= word - 1) {
                uint32_t set = mid->no << 12 | (uint32_t)__builtin_ctzll(map) << 6 | (uint32_t)__builtin_ctzll(word);
                const cls_use *u = cls_use_find(c, r, set);
                if (!u || u->at[2 * role] == u->at[2 * role + 2])
                    continue;
                if (!any && r->neg[role])
                    memcpy(c->bits, r->neg[role], (size_t)r->pub.blocks * CLS_UNIT);
                any = true;
                for (uint32_t i = u->at[2 * role]; i < u->at[2 * role + 1]; i++)
                    cls_bit_set(c->bits, r->pos[i]);
                for (uint32_t i = u->at[2 * role + 1]; i < u->at[2 * role + 2]; i++)
                    cls_bit_clear(c->bits, r->pos[i]);
            }
    }
    return any;
}

void cls_tabs_reserve(pal_cls *c, cls_rules *r, uint32_t n)
{
    uint32_t supers = cls_rules_supers(r);
    if (n > r->cap_tab) {
        uint32_t cap = r->cap_tab ? r->cap_tab : 16; /* sixteen can always be loaded (classify_512.h) */
        while (cap < n)
            cap *= 2;
        uint32_t *tab = cls_get(c, cap * supers * sizeof *tab);
        if (r->n_tab)
            memcpy(tab, r->pub.tab, r->n_tab * supers * sizeof *tab);
        for (uint32_t i = r->n_tab * supers; i < cap * supers; i++)
            tab[i] = r->base_tab[i % supers];
        if (r->cap_tab) /* a reader of the published classes may be using the old one */
            cls_retire(c, &c->pending, WASTE_BLOCK, (void *)(uintptr_t)r->pub.tab, r->cap_tab * supers * sizeof *tab, 0);
        __atomic_store_n(&r->pub.tab, (const uint32_t *)tab, __ATOMIC_RELEASE);
        r->cap_tab = cap;
    }
    if (n > r->n_tab)
        r->n_tab = n;
}

uint32_t cls_slot_get(const pal_cls *c, const cls_rules *r, uint32_t cls, uint32_t super, uint32_t role)
{
    uint32_t tab = r->base_tab[super];
    if (cls / CLS_TAB < r->n_tab)
        tab = r->pub.tab[cls / CLS_TAB * cls_rules_supers(r) + super];
    const cls_tab *t = cls_lines_at(c, tab);
    return (role ? t->dst : t->src)[cls % CLS_TAB];
}

/* A copy of the page for this rule set alone. */
static uint32_t tab_own(pal_cls *c, cls_rules *r, uint32_t tab, uint32_t super)
{
    uint32_t own = cls_units_get(c, CLS_TAB_UNITS);
    cls_tab *to = cls_lines_at(c, own);
    memcpy(to, cls_lines_at(c, tab), sizeof *to);
    c->arena.side[own] = 1;
    for (uint32_t k = 0; k < CLS_TAB; k++) {
        cls_row_ref(c, to->src[k]);
        cls_row_ref(c, to->dst[k]);
    }
    if (tab != r->base_tab[super]) /* a reader may still be in it by way of us */
        cls_retire(c, &c->pending, WASTE_TAB, NULL, cls_rules_dense(r), tab);
    return own;
}

/* Only rows of classes that no reader can meet yet (or any more) are written. */
void cls_slot_set(pal_cls *c, cls_rules *r, uint32_t cls, uint32_t super, uint32_t role, uint32_t row)
{
    uint32_t *tab = (uint32_t *)(uintptr_t)r->pub.tab + cls / CLS_TAB * cls_rules_supers(r) + super;
    uint32_t dense = cls_rules_dense(r);
    if (cls_slot_get(c, r, cls, super, role) == row) {
        cls_row_unref(c, row, dense); /* it is there already, with its reference */
        return;
    }
    if (*tab == r->base_tab[super] || c->arena.side[*tab] > 1) /* shared: with other classes, or with a version */
        __atomic_store_n(tab, tab_own(c, r, *tab, super), __ATOMIC_RELEASE);
    cls_tab *t = cls_lines_at(c, *tab);
    uint32_t *slot = role ? &t->dst[cls % CLS_TAB] : &t->src[cls % CLS_TAB], old = *slot;
    __atomic_store_n(slot, row, __ATOMIC_RELEASE);
    cls_row_unref(c, old, dense);
}

static void base_set(pal_cls *c, cls_rules *r, uint32_t cls, uint32_t role)
{
    for (uint32_t u = 0; u < cls_rules_supers(r); u++) {
        cls_row_ref(c, r->base[role][u]);
        cls_slot_set(c, r, cls, u, role, r->base[role][u]);
    }
}

void cls_rules_class(pal_cls *c, cls_rules *r, uint32_t cls)
{
    cls_tabs_reserve(c, r, cls / CLS_TAB + 1);
    for (uint32_t role = 0; role < 2; role++) {
        if (!class_bits(c, r, cls, role)) {
            base_set(c, r, cls, role);
            continue;
        }
        uint32_t row[CLS_SUPERS_MAX];
        cls_row_make(c, r, row);
        for (uint32_t u = 0; u < cls_rules_supers(r); u++)
            cls_slot_set(c, r, cls, u, role, row[u]);
    }
}

void cls_rules_forget(pal_cls *c, cls_rules *r, uint32_t cls)
{
    if (cls / CLS_TAB >= r->n_tab)
        return;
    for (uint32_t role = 0; role < 2; role++)
        base_set(c, r, cls, role);
}

/* One user of the page less. */
void cls_tab_unref(pal_cls *c, uint32_t tab, uint32_t dense)
{
    if (--c->arena.side[tab])
        return;
    const cls_tab *t = cls_lines_at(c, tab);
    for (uint32_t k = 0; k < CLS_TAB; k++) {
        cls_row_unref(c, t->src[k], dense);
        cls_row_unref(c, t->dst[k], dense);
    }
    cls_units_free(c, tab, CLS_TAB_UNITS);
}

void cls_tabs_free(pal_cls *c, cls_rules *r)
{
    uint32_t supers = cls_rules_supers(r);
    for (uint32_t i = 0; i < r->n_tab * supers; i++)
        if (r->pub.tab[i] != r->base_tab[i % supers])
            cls_tab_unref(c, r->pub.tab[i], cls_rules_dense(r));
    for (uint32_t u = 0; u < supers; u++)
        cls_tab_unref(c, r->base_tab[u], cls_rules_dense(r));
    cls_put(c, (void *)(uintptr_t)r->pub.tab, r->cap_tab * supers * sizeof(uint32_t));
}
