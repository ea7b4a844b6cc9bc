/* SPDX-License-Identifier: Apache-2.0
 *
 * classifier_rules.c - rule sets: their content, building, and giving back.
 */
#include "classifier_internal.h"

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
    r->c = c;
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
    uint32_t *of = cls_uses_name(c, r);
    r->n_cells = cls_plan_cells(plan);
    rc = cls_positions_assign(c, r, of, position);
    if (rc == PAL_CLS_OK) {
        cls_plan_rows(plan, r, position);
        cls_uses_list(c, r, of, position);
        cls_base_build(c, r, position);
        cls_tabs_reserve(c, r, c->n_cls / CLS_TAB + 1);
        for (uint32_t k = 0; k < c->n_cls; k++)
            if (c->cls[k].born)
                cls_rules_class(c, r, k);
        r->refs = 1;
        cls_ruleset_list(c, r);
        *out = &r->pub;
    } else {
        cls_uses_free(c, r);
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
    size_t row = (size_t)r->pub.blocks * CLS_UNIT;
    cls_tabs_free(c, r);
    cls_service_free(c, r);
    cls_put(c, r->neg[0], row);
    cls_put(c, r->neg[1], row);
    cls_uses_free(c, r);
    cls_put(c, (void *)(uintptr_t)r->pub.entry_at, (size_t)r->pub.blocks * CLS_BLOCK * sizeof(uint32_t));
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

static size_t field_bytes(const cls_rules *r, const cls_field *f)
{
    return f->n * ((size_t)r->pub.blocks * CLS_UNIT + r->pub.supers * 8 + sizeof(cls_sample));
}

size_t pal_cls_ruleset_bytes(const pal_ruleset *pub)
{
    const cls_rules *r = (const cls_rules *)(const void *)pub;
    uint32_t dense = cls_rules_dense(r), supers = cls_rules_supers(r);
    size_t n = sizeof *r + pub->n * sizeof(pal_rule) + r->n_refs * (4 + sizeof(cls_use) + 4) + (r->use_mask + 1ull) * 4 +
               (pub->supers ? pub->blocks * CLS_BLOCK * 4ull : 0) + pub->supers * 16 + r->cap_tab * supers * 4ull +
               supers * sizeof(cls_tab) + r->n_meta_index * 4ull + r->n_cells * 4ull +
               (r->n_dport_pages + r->n_sport_pages) * 512ull + field_bytes(r, &pub->meta) + field_bytes(r, &pub->dport) +
               field_bytes(r, &pub->sport);
    for (uint32_t i = 0; i < r->n_tab * supers; i++) {
        if (pub->tab[i] == r->base_tab[i % supers])
            continue;
        const cls_tab *t = cls_lines_at(r->c, pub->tab[i]);
        n += sizeof *t / r->c->arena.side[pub->tab[i]];
        for (uint32_t k = 0; k < CLS_TAB; k++)
            n += cls_row_share(r->c, t->src[k], dense) + cls_row_share(r->c, t->dst[k], dense);
    }
    return n;
}
