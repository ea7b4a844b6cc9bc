/* SPDX-License-Identifier: Apache-2.0
 *
 * classifier_rules.c - rule sets: entries, their positions in the bit vectors, and the rows of each class.
 */
#include "classifier_internal.h"

#include <stdlib.h>

/* ---- content ---- */

bool cls_rule_valid(const pal_rule *e, uint32_t n_refs)
{
    return e->proto <= PAL_PROTO_ANY && e->sport_lo <= e->sport_hi && e->dport_lo <= e->dport_hi && e->src_off <= n_refs &&
           e->src_n <= n_refs - e->src_off && e->dst_off <= n_refs && e->dst_n <= n_refs - e->dst_off &&
           e->action <= PAL_ACTION_RESUME && e->tier < PAL_TIERS &&
           (e->action != PAL_ACTION_RESUME || (e->tier < e->resume && e->resume < PAL_TIERS));
}

/* Copies the entries with their lists of sets one after the other, so that equal meaning is equal content. */
void cls_content_copy(pal_cls *c, cls_rules *r, const pal_rule *rules, uint32_t n, const uint32_t *refs)
{
    pal_rule *to = cls_get(c, n * sizeof *to);
    uint32_t total = 0;
    for (uint32_t i = 0; i < n; i++)
        total += rules[i].src_n + rules[i].dst_n;
    r->set_ref = cls_get(c, total * sizeof(uint32_t));
    r->n_refs = total;
    total = 0;
    for (uint32_t i = 0; i < n; i++) {
        to[i] = rules[i];
        to[i].reserved = 0;
        to[i].src_off = total;
        if (rules[i].src_n)
            memcpy(r->set_ref + total, refs + rules[i].src_off, rules[i].src_n * sizeof(uint32_t));
        total += rules[i].src_n;
        to[i].dst_off = total;
        if (rules[i].dst_n)
            memcpy(r->set_ref + total, refs + rules[i].dst_off, rules[i].dst_n * sizeof(uint32_t));
        total += rules[i].dst_n;
    }
    r->pub.rules = to;
    r->pub.n = n;
    r->hash = cls_hash_bytes(c, to, n * sizeof *to, n);
    r->hash = cls_hash_bytes(c, r->set_ref, total * sizeof(uint32_t), r->hash);
}

bool cls_content_equal(const cls_rules *a, const cls_rules *b)
{
    return a->hash == b->hash && a->pub.n == b->pub.n && a->n_refs == b->n_refs &&
           !memcmp(a->pub.rules, b->pub.rules, a->pub.n * sizeof(pal_rule)) &&
           (a->n_refs == 0 || !memcmp(a->set_ref, b->set_ref, a->n_refs * sizeof(uint32_t)));
}

void cls_content_free(pal_cls *c, cls_rules *r)
{
    cls_put(c, (void *)(uintptr_t)r->pub.rules, r->pub.n * sizeof(pal_rule));
    cls_put(c, r->set_ref, r->n_refs * sizeof(uint32_t));
}

/* ---- which entries name a set ---- */

static uint32_t use_slot(const pal_cls *c, const cls_rules *r, uint32_t set)
{
    return (uint32_t)cls_mix(set ^ c->secret[1], c->secret[0] | 1) & r->use_mask;
}

const cls_use *cls_use_find(const pal_cls *c, const cls_rules *r, uint32_t set)
{
    for (uint32_t h = use_slot(c, r, set); r->use_hash[h]; h = (h + 1) & r->use_mask)
        if (r->use[r->use_hash[h] - 1].set == set)
            return &r->use[r->use_hash[h] - 1];
    return NULL;
}

uint32_t cls_use_make(pal_cls *c, cls_rules *r, uint32_t set)
{
    uint32_t h = use_slot(c, r, set);
    for (; r->use_hash[h]; h = (h + 1) & r->use_mask)
        if (r->use[r->use_hash[h] - 1].set == set)
            return r->use_hash[h] - 1;
    r->use[r->n_use].set = set;
    c->set[set].uses++;
    r->use_hash[h] = ++r->n_use;
    return r->n_use - 1;
}

/* The sets that the entries name; of[i]: index in `use` of set_ref[i]. */
static uint32_t *uses_name(pal_cls *c, cls_rules *r)
{
    r->use_mask = 15;
    while (r->use_mask < 2 * r->n_refs)
        r->use_mask = 2 * r->use_mask + 1;
    r->use_hash = cls_get(c, (r->use_mask + 1ull) * sizeof(uint32_t));
    r->cap_use = r->n_refs;
    r->use = cls_get(c, r->cap_use * sizeof *r->use);
    uint32_t *of = cls_get(c, r->n_refs * sizeof *of);
    for (uint32_t i = 0; i < r->n_refs; i++)
        of[i] = cls_use_make(c, r, cls_set_find(c, r->set_ref[i], true));
    return of;
}

/* Lists of positions by set: 0 source, 1 source negated, 2 destination, 3 that negated. */
static void uses_list(pal_cls *c, cls_rules *r, const uint32_t *of, const uint32_t *position)
{
    const pal_ruleset *pub = &r->pub;
    r->pos = cls_get(c, r->n_refs * sizeof *r->pos);
    r->n_pos = r->cap_pos = r->n_refs;
    for (int fill = 0; fill < 2; fill++) {
        for (uint32_t i = 0; i < pub->n; i++) {
            const pal_rule *e = &pub->rules[i];
            for (uint32_t role = 0; role < 2; role++) {
                uint32_t off = role ? e->dst_off : e->src_off, n = role ? e->dst_n : e->src_n;
                bool neg = e->flags & (role ? PAL_RULE_DST_NEGATED : PAL_RULE_SRC_NEGATED);
                for (uint32_t j = off; j < off + n; j++) {
                    uint32_t *at = r->use[of[j]].at;
                    if (fill)
                        r->pos[at[2 * role + neg]++] = position[i];
                    else
                        at[2 * role + neg + 1]++;
                }
            }
        }
        uint32_t sum = 0;
        for (uint32_t u = 0; u < r->n_use; u++) {
            uint32_t *at = r->use[u].at;
            if (fill) { /* each at[k] has moved to the end of its list, which is the start of the next */
                for (uint32_t k = 4; k > 0; k--)
                    at[k] = at[k - 1];
                at[0] = sum;
                sum = at[4];
            } else {
                for (uint32_t k = 0; k <= 4; k++) {
                    sum += at[k];
                    at[k] = sum;
                }
            }
        }
    }
}

static void uses_free(pal_cls *c, cls_rules *r)
{
    for (uint32_t i = 0; i < r->n_use; i++)
        cls_set_unuse(c, r->use[i].set);
    cls_put(c, r->use_hash, (r->use_mask + 1ull) * sizeof(uint32_t));
    cls_put(c, r->use, r->cap_use * sizeof *r->use);
    cls_put(c, r->pos, r->cap_pos * sizeof *r->pos);
}

/* ---- rows of a class ---- */

static const uint64_t *row_base(pal_cls *c, cls_rules *r, uint32_t role)
{
    if (r->neg[role])
        memcpy(c->bits, r->neg[role], r->words * 8);
    return cls_row_make(c, r->words, r->pub.supers);
}

static void base_build(pal_cls *c, cls_rules *r, const uint32_t *position)
{
    for (uint32_t role = 0; role < 2; role++) {
        for (uint32_t i = 0; i < r->pub.n; i++) {
            const pal_rule *e = &r->pub.rules[i];
            bool negated = e->flags & (role ? PAL_RULE_DST_NEGATED : PAL_RULE_SRC_NEGATED);
            if (position[i] == PAL_NONE || !((role ? e->dst_n : e->src_n) ? negated : r->pub.supers == 0))
                continue; /* no bit, or not one that a class has because it lacks a set */
            if (!r->neg[role])
                r->neg[role] = cls_get(c, r->words * 8);
            cls_bit_set(r->neg[role], position[i]);
        }
        r->base[role] = row_base(c, r, role);
    }
    r->base_tab = cls_get(c, sizeof *r->base_tab);
    r->base_tab->refs = 1;
    for (uint32_t i = 0; i < CLS_TAB; i++) {
        r->base_tab->src[i] = r->base[0];
        r->base_tab->dst[i] = r->base[1];
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
                    memcpy(c->bits, r->neg[role], r->words * 8);
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
    if (n > r->cap_tab) {
        uint32_t cap = r->cap_tab ? r->cap_tab : 8;
        while (cap < n)
            cap *= 2;
        cls_tab **tab = cls_get(c, cap * sizeof *tab);
        if (r->n_tab)
            memcpy(tab, r->pub.tab, r->n_tab * sizeof *tab);
        for (uint32_t i = r->n_tab; i < cap; i++)
            tab[i] = r->base_tab;
        if (r->cap_tab) /* a reader of the published classes may be using the old one */
            cls_retire(c, &c->pending, WASTE_BLOCK, (void *)(uintptr_t)r->pub.tab, r->cap_tab * sizeof *tab, 0);
        __atomic_store_n(&r->pub.tab, (cls_tab *const *)tab, __ATOMIC_RELEASE);
        r->cap_tab = cap;
    }
    if (n > r->n_tab)
        r->n_tab = n;
}

/* Only rows of classes that no reader can meet yet (or any more) are written. */
void cls_slot_set(pal_cls *c, cls_rules *r, uint32_t cls, uint32_t role, const uint64_t *row)
{
    cls_tab **tab = (cls_tab **)(uintptr_t)r->pub.tab;
    cls_tab *t = tab[cls / CLS_TAB];
    if ((role ? t->dst : t->src)[cls % CLS_TAB] == row) {
        if (row != r->base[role])
            cls_row_unref(c, row, r->pub.supers); /* it is there already, with its reference */
        return;
    }
    if (t == r->base_tab || t->refs > 1) { /* shared: with the classes that have none of our sets, or with a version */
        cls_tab *own = cls_get(c, sizeof *own);
        memcpy(own, t, sizeof *own);
        own->refs = 1;
        for (uint32_t k = 0; k < CLS_TAB; k++) {
            if (own->src[k] != r->base[0])
                cls_row_ref(c, own->src[k], r->pub.supers);
            if (own->dst[k] != r->base[1])
                cls_row_ref(c, own->dst[k], r->pub.supers);
        }
        __atomic_store_n(&tab[cls / CLS_TAB], own, __ATOMIC_RELEASE);
        if (t != r->base_tab) { /* a reader may still be in it by way of us */
            cls_oldtab *o = cls_get(c, sizeof *o);
            *o = (cls_oldtab){t, {r->base[0], r->base[1]}, r->pub.supers};
            cls_row_ref(c, r->base[0], r->pub.supers);
            cls_row_ref(c, r->base[1], r->pub.supers);
            cls_retire(c, &c->pending, WASTE_TAB, o, 0, 0);
        }
        t = own;
    }
    const uint64_t **slot = role ? &t->dst[cls % CLS_TAB] : &t->src[cls % CLS_TAB];
    const uint64_t *old = *slot;
    __atomic_store_n(slot, row, __ATOMIC_RELEASE);
    if (old != r->base[role])
        cls_row_unref(c, old, r->pub.supers);
}

void cls_rules_class(pal_cls *c, cls_rules *r, uint32_t cls)
{
    cls_tabs_reserve(c, r, cls / CLS_TAB + 1);
    for (uint32_t role = 0; role < 2; role++) {
        const uint64_t *row = r->base[role];
        if (class_bits(c, r, cls, role)) {
            row = cls_row_make(c, r->words, r->pub.supers);
            if (row == r->base[role])
                cls_row_unref(c, row, r->pub.supers);
        }
        cls_slot_set(c, r, cls, role, row);
    }
}

void cls_rules_forget(pal_cls *c, cls_rules *r, uint32_t cls)
{
    if (cls / CLS_TAB >= r->n_tab)
        return;
    for (uint32_t role = 0; role < 2; role++)
        cls_slot_set(c, r, cls, role, r->base[role]);
}

/* One user of the page less. */
void cls_tab_unref(pal_cls *c, cls_tab *t, const uint64_t *const base[2], uint32_t supers)
{
    if (--t->refs)
        return;
    for (uint32_t k = 0; k < CLS_TAB; k++) {
        if (t->src[k] != base[0])
            cls_row_unref(c, t->src[k], supers);
        if (t->dst[k] != base[1])
            cls_row_unref(c, t->dst[k], supers);
    }
    cls_put(c, t, sizeof *t);
}

static void tabs_free(pal_cls *c, cls_rules *r)
{
    for (uint32_t i = 0; i < r->n_tab; i++)
        if (r->pub.tab[i] != r->base_tab)
            cls_tab_unref(c, r->pub.tab[i], r->base, r->pub.supers);
    cls_put(c, (void *)(uintptr_t)r->pub.tab, r->cap_tab * sizeof(cls_tab *));
}

/* ---- building and giving back ---- */

void cls_ruleset_list(pal_cls *c, cls_rules *r)
{
    if (c->n_ruleset == c->cap_ruleset) {
        uint32_t cap = c->cap_ruleset ? 2 * c->cap_ruleset : 16;
        c->ruleset = cls_grow(c, c->ruleset, c->cap_ruleset * sizeof *c->ruleset, cap * sizeof *c->ruleset);
        c->cap_ruleset = cap;
        cls_put(c, c->rules_hash, (c->rules_mask + 1ull) * sizeof(uint32_t));
        c->rules_mask = 2 * cap - 1;
        c->rules_hash = cls_get(c, (c->rules_mask + 1ull) * sizeof(uint32_t));
        for (uint32_t i = 0; i < c->n_ruleset; i++)
            if (c->ruleset[i]->listed) {
                uint32_t *h = &c->rules_hash[c->ruleset[i]->hash & c->rules_mask];
                c->ruleset[i]->next = *h;
                *h = i + 1;
            }
    }
    r->index = c->n_ruleset;
    c->ruleset[c->n_ruleset++] = r;
    uint32_t *h = &c->rules_hash[r->hash & c->rules_mask];
    r->next = *h;
    r->listed = 1;
    *h = r->index + 1;
}

static uint32_t *listed_at(pal_cls *c, const cls_rules *r)
{
    uint32_t *h = &c->rules_hash[r->hash & c->rules_mask];
    while (*h != r->index + 1)
        h = &c->ruleset[*h - 1]->next;
    return h;
}

void cls_rules_unlist(pal_cls *c, cls_rules *r)
{
    if (r->listed)
        *listed_at(c, r) = r->next;
    r->listed = 0;
}

cls_rules *cls_ruleset_equal(pal_cls *c, const cls_rules *r)
{
    if (c->rules_hash)
        for (uint32_t i = c->rules_hash[r->hash & c->rules_mask]; i; i = c->ruleset[i - 1]->next)
            if (cls_content_equal(c->ruleset[i - 1], r))
                return c->ruleset[i - 1];
    return NULL;
}

int pal_cls_ruleset_build(pal_cls *c, const pal_rule *rules, uint32_t n, const uint32_t *set_refs, uint32_t n_refs,
                          pal_ruleset **out)
{
    *out = NULL;
    if (n > PAL_CLS_MAX_ENTRIES)
        return PAL_CLS_TOO_LARGE;
    for (uint32_t i = 0; i < n; i++)
        if (!cls_rule_valid(&rules[i], n_refs))
            return PAL_CLS_BAD_RULE;
    cls_rules *r = cls_get(c, sizeof *r);
    cls_content_copy(c, r, rules, n, set_refs);
    cls_rules *same = cls_ruleset_equal(c, r);
    if (same) {
        same->refs++;
        cls_content_free(c, r);
        cls_put(c, r, sizeof *r);
        *out = &same->pub;
        return PAL_CLS_OK;
    }
    int rc = cls_later_build(c, r);
    if (rc != PAL_CLS_OK) {
        cls_content_free(c, r);
        cls_put(c, r, sizeof *r);
        return rc;
    }
    uint32_t *position = cls_get(c, n * sizeof *position);
    cls_plan *plan = cls_plan_new(c, r->pub.rules, n);
    uint32_t *of = uses_name(c, r);
    rc = cls_positions_assign(c, r, cls_plan_joined(plan), of, position);
    if (rc == PAL_CLS_OK) {
        cls_plan_rows(plan, r, position);
        uses_list(c, r, of, position);
        base_build(c, r, position);
        cls_tabs_reserve(c, r, c->n_cls / CLS_TAB + 1);
        for (uint32_t k = 0; k < c->n_cls; k++)
            if (c->cls[k].born)
                cls_rules_class(c, r, k);
        r->refs = 1;
        cls_ruleset_list(c, r);
        *out = &r->pub;
    } else {
        uses_free(c, r);
        cls_later_release(c, r);
        cls_content_free(c, r);
    }
    cls_plan_free(plan);
    cls_put(c, of, r->n_refs * sizeof *of);
    if (rc != PAL_CLS_OK)
        cls_put(c, r, sizeof *r);
    cls_put(c, position, n * sizeof *position);
    return rc;
}

void cls_rules_free(pal_cls *c, cls_rules *r)
{
    cls_rules *last = c->ruleset[--c->n_ruleset];
    if (last != r) {
        if (last->listed)
            *listed_at(c, last) = r->index + 1;
        last->index = r->index;
        c->ruleset[r->index] = last;
    }
    tabs_free(c, r);
    cls_service_free(c, r);
    for (uint32_t role = 0; role < 2; role++) {
        cls_row_unref(c, r->base[role], r->pub.supers);
        cls_put(c, r->neg[role], r->words * 8);
    }
    if (--r->base_tab->refs == 0)
        cls_put(c, r->base_tab, sizeof *r->base_tab);
    uses_free(c, r);
    cls_put(c, (void *)(uintptr_t)r->pub.entry_at, r->words * 64 * sizeof(uint32_t));
    cls_put(c, (void *)(uintptr_t)r->pub.any_src, r->pub.supers * 8);
    cls_put(c, (void *)(uintptr_t)r->pub.any_dst, r->pub.supers * 8);
    cls_content_free(c, r);
    cls_put(c, r, sizeof *r);
}

void pal_cls_ruleset_release(pal_cls *c, pal_ruleset *pub)
{
    cls_rules *r = (cls_rules *)(void *)pub;
    if (--r->refs)
        return;
    cls_rules_unlist(c, r); /* still given the rows of new classes until the readers have passed */
    cls_retire(c, &c->limbo, WASTE_RULES, r, 0, 0);
    cls_later_release(c, r); /* readers that are in r yet may still go on there: retired after it */
    __atomic_store_n(&c->epoch, c->epoch + 1, __ATOMIC_RELEASE);
    pal_cls_reclaim(c);
}

size_t pal_cls_ruleset_bytes(const pal_ruleset *pub)
{
    const cls_rules *r = (const cls_rules *)(const void *)pub;
    size_t n = sizeof *r + pub->n * sizeof(pal_rule) + r->n_refs * (4 + sizeof(cls_use) + 4) + (r->use_mask + 1ull) * 4 +
               r->words * 64 * 4ull + pub->supers * 16 + r->cap_tab * 8ull + sizeof(cls_tab) + r->n_meta_index * 4ull +
               r->n_cells * 4ull + (r->n_dport_pages + r->n_sport_pages) * 512ull + r->n_service * sizeof(cls_service);
    for (uint32_t i = 0; i < r->n_service; i++)
        n += cls_row_share(pub->service[i].row, pub->supers);
    if (!pub->joined) {
        for (uint32_t i = 0; i < pub->n_dport; i++)
            n += cls_row_share(pub->dport_row[i], pub->supers) + 8;
        for (uint32_t i = 0; i < pub->n_sport; i++)
            n += cls_row_share(pub->sport_row[i], pub->supers) + 8;
    }
    for (uint32_t i = 0; i < r->n_tab; i++) {
        const cls_tab *t = pub->tab[i];
        if (t == r->base_tab)
            continue;
        n += sizeof *t;
        for (uint32_t k = 0; k < CLS_TAB; k++) {
            n += t->src[k] != r->base[0] ? cls_row_share(t->src[k], pub->supers) : 0;
            n += t->dst[k] != r->base[1] ? cls_row_share(t->dst[k], pub->supers) : 0;
        }
    }
    return n;
}
