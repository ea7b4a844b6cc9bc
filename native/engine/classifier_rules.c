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

cls_content cls_content_of(const cls_rules *r) { return (cls_content){r->pub.rules, r->set_ref, r->pub.n}; }

#define RULE_WORDS (sizeof(pal_rule) / 8)
_Static_assert(sizeof(pal_rule) == 40 && offsetof(pal_rule, dst_n) == 16 && offsetof(pal_rule, resume) == 38, "content_words");

/* An entry's words without the offsets of its lists. */
PAL_INLINE void content_words(const pal_rule *e, uint64_t w[RULE_WORDS])
{
    const uint8_t *at = (const uint8_t *)e;
    w[0] = e->rule;
    w[1] = e->src_n;
    w[2] = load_u64(at + 16);
    w[3] = load_u64(at + 24);
    w[4] = load_u32(at + 32) | (uint64_t)load_u16(at + 36) << 32 | (uint64_t)e->resume << 48;
}

/* Do the lists stand one after the other, in the entries' order, within n_refs? Then they are valid, and one array. */
static bool content_is_tidy(const cls_content *a, uint32_t n_refs)
{
    uint64_t at = 0, differ = 0;
    for (uint32_t i = 0; i < a->n; i++) {
        const pal_rule *e = &a->rules[i];
        differ |= at ^ e->src_off;
        at += e->src_n;
        differ |= at ^ e->dst_off;
        at += e->dst_n;
    }
    return differ == 0 && at == n_refs;
}

/* A part of all lists one after the other, from place `at` on: a sum over keyed products, so that none waits for the one before. */
PAL_INLINE uint64_t sets_hash(const pal_cls *c, const uint32_t *set, uint32_t n, uint32_t at)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += cls_mix(set[i] ^ c->secret[0], (c->secret[4] + 2ull * (at + i)) | 1);
    return sum;
}

static uint64_t content_hash(const pal_cls *c, const cls_content *a, bool tidy, uint32_t n_refs)
{
    const uint64_t *k = c->secret;
    uint64_t h = a->n, sets = tidy ? sets_hash(c, a->refs, n_refs, 0) : 0;
    for (uint32_t i = 0, at = 0; i < a->n; i++) {
        const pal_rule *e = &a->rules[i];
        uint64_t w[RULE_WORDS];
        content_words(e, w);
        uint64_t x = cls_mix(w[0] ^ k[0], w[1] ^ k[1]) ^ cls_mix(w[2] ^ k[2], w[3] ^ k[3]);
        h = cls_mix(h ^ x ^ k[4], w[4] ^ k[5]) + h;
        if (!tidy) {
            sets += sets_hash(c, a->refs + e->src_off, e->src_n, at) + sets_hash(c, a->refs + e->dst_off, e->dst_n, at + e->src_n);
            at += e->src_n + e->dst_n;
        }
    }
    return cls_mix(h ^ sets ^ k[5], k[3] | 1);
}

uint64_t cls_content_hash(const pal_cls *c, const cls_content *a, uint32_t n_refs)
{
    return content_is_tidy(a, n_refs) ? content_hash(c, a, true, n_refs) : content_hash(c, a, false, n_refs);
}

/* Is it what r keeps? Its offsets may be others. */
static bool content_is(const cls_content *a, const cls_rules *r)
{
    for (uint32_t i = 0; i < a->n; i++) {
        const pal_rule *e = &a->rules[i], *f = &r->pub.rules[i];
        uint64_t v[RULE_WORDS], w[RULE_WORDS], differ = 0;
        content_words(e, v);
        content_words(f, w);
        for (uint32_t k = 0; k < RULE_WORDS; k++)
            differ |= v[k] ^ w[k];
        if (differ)
            return false;
        const uint32_t *src = a->refs + e->src_off, *dst = a->refs + e->dst_off, *set = r->set_ref + f->src_off;
        for (uint32_t k = 0; k < e->src_n; k++)
            differ |= src[k] ^ *set++;
        for (uint32_t k = 0; k < e->dst_n; k++)
            differ |= dst[k] ^ *set++;
        if (differ)
            return false;
    }
    return true;
}

void cls_content_copy(pal_cls *c, cls_rules *r, const cls_content *from, uint64_t hash)
{
    pal_rule *to = cls_take(c, from->n * sizeof *to);
    uint32_t total = 0;
    for (uint32_t i = 0; i < from->n; i++)
        total += from->rules[i].src_n + from->rules[i].dst_n;
    r->set_ref = cls_take(c, total * sizeof(uint32_t));
    r->n_refs = total;
    total = 0;
    for (uint32_t i = 0; i < from->n; i++) {
        const pal_rule *e = &from->rules[i];
        to[i] = *e;
        to[i].reserved = 0;
        to[i].src_off = total;
        for (uint32_t k = 0; k < e->src_n; k++)
            r->set_ref[total++] = from->refs[e->src_off + k];
        to[i].dst_off = total;
        for (uint32_t k = 0; k < e->dst_n; k++)
            r->set_ref[total++] = from->refs[e->dst_off + k];
    }
    r->pub.rules = to;
    r->pub.n = from->n;
    r->hash = hash;
}

void cls_content_splice(pal_cls *c, cls_rules *q, const cls_rules *r, uint32_t at, bool drop, const pal_rule *rule, const uint32_t *refs)
{
    const pal_rule *old = r->pub.rules, *gone = drop ? &old[at] : NULL;
    uint32_t n_src = rule ? rule->src_n : 0, n_dst = rule ? rule->dst_n : 0, behind = at + drop;
    uint32_t n = r->pub.n - drop + (rule != NULL), before = at < r->pub.n ? old[at].src_off : r->n_refs;
    uint32_t lost = gone ? gone->src_n + gone->dst_n : 0, by = n_src + n_dst - lost; /* modulo 2^32 */
    pal_rule *to = cls_take(c, n * sizeof *to);
    uint32_t *set = cls_take(c, (r->n_refs + by) * sizeof *set);
    if (at)
        memcpy(to, old, at * sizeof *to);
    if (before)
        memcpy(set, r->set_ref, before * sizeof *set);
    if (rule) {
        to[at] = *rule;
        to[at].reserved = 0;
        to[at].src_off = before;
        to[at].dst_off = before + n_src;
        if (n_src)
            memcpy(set + before, refs + rule->src_off, n_src * sizeof *set);
        if (n_dst)
            memcpy(set + before + n_src, refs + rule->dst_off, n_dst * sizeof *set);
    }
    pal_rule *rest = to + at + (rule != NULL);
    for (uint32_t i = behind; i < r->pub.n; i++, rest++) {
        *rest = old[i];
        rest->src_off += by;
        rest->dst_off += by;
    }
    if (r->n_refs - before - lost)
        memcpy(set + before + n_src + n_dst, r->set_ref + before + lost, (r->n_refs - before - lost) * sizeof *set);
    q->pub.rules = to;
    q->pub.n = n;
    q->set_ref = set;
    q->n_refs = r->n_refs + by;
    cls_content content = cls_content_of(q);
    q->hash = cls_content_hash(c, &content, q->n_refs);
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

cls_rules *cls_ruleset_equal(pal_cls *c, const cls_content *a, uint32_t n_refs, uint64_t hash)
{
    if (!c->rules_hash)
        return NULL;
    for (uint32_t i = c->rules_hash[hash & c->rules_mask]; i; i = c->ruleset[i - 1]->next) {
        cls_rules *r = c->ruleset[i - 1];
        if (r->hash != hash || r->pub.n != a->n)
            continue;
        bool as_is = n_refs == r->n_refs && !memcmp(a->rules, r->pub.rules, a->n * sizeof(pal_rule)) &&
                     (n_refs == 0 || !memcmp(a->refs, r->set_ref, n_refs * sizeof(uint32_t)));
        if (as_is || content_is(a, r))
            return r;
    }
    return NULL;
}

static bool rules_are_valid(const pal_rule *rules, uint32_t n, uint32_t n_refs)
{
    for (uint32_t i = 0; i < n; i++)
        if (!cls_rule_valid(&rules[i], n_refs))
            return false;
    return true;
}

int pal_cls_ruleset_build(pal_cls *c, const pal_rule *rules, uint32_t n, const uint32_t *set_refs, uint32_t n_refs,
                          pal_ruleset **out)
{
    *out = NULL;
    if (n > PAL_CLS_MAX_ENTRIES)
        return PAL_CLS_TOO_LARGE;
    cls_content content = {rules, set_refs, n};
    bool tidy = content_is_tidy(&content, n_refs);
    if (!tidy && !rules_are_valid(rules, n, n_refs))
        return PAL_CLS_BAD_RULE;
    uint64_t hash = tidy ? content_hash(c, &content, true, n_refs) : content_hash(c, &content, false, n_refs);
    cls_rules *r = cls_ruleset_equal(c, &content, n_refs, hash);
    if (r) {
        r->refs++;
        *out = &r->pub;
        return PAL_CLS_OK;
    }
    if (tidy && !rules_are_valid(rules, n, n_refs))
        return PAL_CLS_BAD_RULE;
    cls_keep(c, false);
    r = cls_get(c, sizeof *r);
    r->c = c;
    cls_content_copy(c, r, &content, hash);
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
    cls_put(c, (void *)(uintptr_t)r->pub.early, cls_early_bytes(&r->pub));
    cls_put(c, (void *)(uintptr_t)r->pub.any_src, r->pub.supers * 8);
    cls_put(c, (void *)(uintptr_t)r->pub.any_dst, r->pub.supers * 8);
    cls_content_free(c, r);
    cls_put(c, r, sizeof *r);
}

void pal_cls_ruleset_hold(pal_ruleset *pub) { ((cls_rules *)(void *)pub)->refs++; }

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
               (pub->supers ? pub->blocks * CLS_BLOCK * 4ull : 0) + pub->supers * 16 + cls_early_bytes(pub) + r->cap_tab * supers * 4ull +
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
