/* SPDX-License-Identifier: Apache-2.0
 *
 * classifier_sets.c - address sets: which ranges each was given, and what a change of them means for addresses.
 */
#include "classifier_internal.h"

#include <stdlib.h>

/* ---- a multiset of ranges ---- */

static int span_before(const cls_span *a, const cls_span *b)
{
    return a->lo != b->lo ? a->lo < b->lo : a->hi < b->hi;
}

static void run_top(cls_run *r)
{
    r->top = 0;
    for (uint32_t i = 0; i < r->n; i++)
        if (r->span[i].hi > r->top)
            r->top = r->span[i].hi;
}

/* The run that s belongs to: the last one that does not begin after it. */
static uint32_t run_of(const cls_spans *t, const cls_span *s)
{
    uint32_t a = 0, b = t->n;
    while (a + 1 < b) {
        uint32_t m = (a + b) / 2;
        if (span_before(s, &t->run[m].span[0]))
            b = m;
        else
            a = m;
    }
    return a;
}

static void run_insert(pal_cls *c, cls_spans *t, uint32_t at, cls_run r)
{
    if (t->n == t->cap) {
        uint32_t cap = t->cap ? 2 * t->cap : 1;
        t->run = cls_grow(c, t->run, t->cap * sizeof *t->run, cap * sizeof *t->run);
        t->cap = cap;
    }
    memmove(t->run + at + 1, t->run + at, (t->n - at) * sizeof *t->run);
    t->run[at] = r;
    t->n++;
}

static void spans_insert(pal_cls *c, cls_spans *t, cls_span s)
{
    if (t->n == 0) {
        cls_run r = {.top = s.hi, .n = 1, .cap = 2};
        r.span = cls_get(c, r.cap * sizeof s);
        r.span[0] = s;
        run_insert(c, t, 0, r);
        t->count++;
        return;
    }
    uint32_t k = run_of(t, &s);
    cls_run *r = &t->run[k];
    if (r->n == CLS_RUN) {
        cls_run half = {.n = CLS_RUN / 2, .cap = CLS_RUN};
        half.span = cls_get(c, CLS_RUN * sizeof s);
        memcpy(half.span, r->span + CLS_RUN / 2, half.n * sizeof s);
        r->n -= half.n;
        run_top(r);
        run_top(&half);
        bool upper = !span_before(&s, &half.span[0]);
        run_insert(c, t, k + 1, half);
        r = &t->run[k + upper];
    }
    if (r->n == r->cap) {
        uint32_t cap = min_u32(r->cap * 4, CLS_RUN);
        r->span = cls_grow(c, r->span, r->cap * sizeof s, cap * sizeof s);
        r->cap = cap;
    }
    uint32_t i = r->n;
    for (; i > 0 && span_before(&s, &r->span[i - 1]); i--)
        r->span[i] = r->span[i - 1];
    r->span[i] = s;
    r->n++;
    if (s.hi > r->top)
        r->top = s.hi;
    t->count++;
}

/* Where s is, or false. Equal ranges may lie over the end of a run: any of them will do. */
static bool spans_find(const cls_spans *t, cls_span s, uint32_t *run, uint32_t *at)
{
    if (t->n == 0)
        return false;
    *run = run_of(t, &s);
    const cls_run *r = &t->run[*run];
    for (uint32_t i = 0; i < r->n; i++)
        if (r->span[i].lo == s.lo && r->span[i].hi == s.hi) {
            *at = i;
            return true;
        }
    return false;
}

static void spans_remove(pal_cls *c, cls_spans *t, uint32_t k, uint32_t i)
{
    cls_run *r = &t->run[k];
    cls_addr hi = r->span[i].hi;
    memmove(r->span + i, r->span + i + 1, (r->n - i - 1) * sizeof *r->span);
    r->n--;
    t->count--;
    if (hi == r->top)
        run_top(r);
    uint32_t into = k > 0 ? k - 1 : k + 1; /* small neighbours join, so that runs stay proportional to ranges */
    if (r->n && into < t->n && r->n + t->run[into].n <= CLS_RUN / 4) {
        uint32_t a = k < into ? k : into;
        cls_run *x = &t->run[a], *y = &t->run[a + 1];
        if (x->cap < x->n + y->n) {
            x->span = cls_grow(c, x->span, x->cap * sizeof *x->span, CLS_RUN * sizeof *x->span);
            x->cap = CLS_RUN;
        }
        memcpy(x->span + x->n, y->span, y->n * sizeof *y->span);
        x->n += y->n;
        run_top(x);
        y->n = 0;
        k = a + 1;
        r = y;
    }
    if (r->n == 0) {
        cls_put(c, r->span, r->cap * sizeof *r->span);
        memmove(t->run + k, t->run + k + 1, (t->n - k - 1) * sizeof *t->run);
        t->n--;
    }
}

void cls_spans_free(pal_cls *c, cls_spans *t)
{
    for (uint32_t k = 0; k < t->n; k++)
        cls_put(c, t->run[k].span, t->run[k].cap * sizeof *t->run[k].span);
    cls_put(c, t->run, t->cap * sizeof *t->run);
    memset(t, 0, sizeof *t);
}

/* ---- set numbers ---- */

static uint32_t id_slot(const pal_cls *c, uint32_t id) { return (uint32_t)cls_mix(id ^ c->secret[0], c->secret[1] | 1) & c->set_mask; }

static void set_grow(pal_cls *c)
{
    uint32_t cap = c->cap_set ? 2 * c->cap_set : 64;
    c->set = cls_grow(c, c->set, c->cap_set * sizeof *c->set, cap * sizeof *c->set);
    c->cap_set = cap;
    cls_put(c, c->set_hash, (c->set_mask + 1ull) * sizeof(uint32_t));
    c->set_mask = 2 * cap - 1;
    c->set_hash = cls_get(c, (c->set_mask + 1ull) * sizeof(uint32_t));
    for (uint32_t i = 0; i < c->n_set; i++)
        if (c->set[i].alive) {
            uint32_t *h = &c->set_hash[id_slot(c, c->set[i].id)];
            c->set[i].next = *h;
            *h = i + 1;
        }
}

uint32_t cls_set_find(pal_cls *c, uint32_t id, bool make)
{
    if (c->set_hash)
        for (uint32_t i = c->set_hash[id_slot(c, id)]; i; i = c->set[i - 1].next)
            if (c->set[i - 1].id == id)
                return i - 1;
    if (!make)
        return PAL_NONE;
    uint32_t i = c->free_set;
    if (i != PAL_NONE) {
        c->free_set = c->set[i].next;
    } else {
        if (c->n_set == c->cap_set)
            set_grow(c);
        i = c->n_set++;
    }
    cls_set *s = &c->set[i];
    memset(s, 0, sizeof *s);
    s->id = id;
    s->alive = 1;
    s->key[0] = cls_mix(i + 1 + c->secret[0], c->secret[1] | 1) ^ cls_mix(c->secret[2] - i, c->secret[5] | 1);
    s->key[1] = cls_mix(i + 1 + c->secret[3], c->secret[4] | 1) ^ cls_mix(c->secret[5] - i, c->secret[2] | 1);
    uint32_t *h = &c->set_hash[id_slot(c, id)];
    s->next = *h;
    *h = i + 1;
    c->live_sets++;
    return i;
}

/* A set without members that no rule set names need not exist. */
static void set_forget(pal_cls *c, uint32_t i)
{
    cls_set *s = &c->set[i];
    if (!s->alive || s->uses || s->span[0].count || s->span[1].count)
        return;
    uint32_t *h = &c->set_hash[id_slot(c, s->id)];
    while (*h != i + 1)
        h = &c->set[*h - 1].next;
    *h = s->next;
    cls_spans_free(c, &s->span[0]);
    cls_spans_free(c, &s->span[1]);
    s->alive = 0;
    s->next = c->free_set;
    c->free_set = i;
    c->live_sets--;
}

void cls_set_unuse(pal_cls *c, uint32_t i)
{
    c->set[i].uses--;
    set_forget(c, i);
}

/* ---- changes ---- */

static bool span_of(const pal_range *r, cls_span *s)
{
    if (r->family == PAL_FAMILY_V4) {
        s->lo = load_be32(r->lo);
        s->hi = load_be32(r->hi);
    } else if (r->family == PAL_FAMILY_V6) {
        s->lo = (cls_addr)be64(load_u64(r->lo)) << 64 | be64(load_u64(r->lo + 8));
        s->hi = (cls_addr)be64(load_u64(r->hi)) << 64 | be64(load_u64(r->hi + 8));
    } else {
        return false;
    }
    return s->lo <= s->hi;
}

static bool ranges_valid(const pal_range *r, uint32_t n)
{
    cls_span s;
    for (uint32_t i = 0; i < n; i++)
        if (!span_of(&r[i], &s))
            return false;
    return true;
}

/* Takes the set away from the addresses of s that no range of t covers. */
static void map_uncovered(pal_cls *c, uint32_t family, const cls_spans *t, cls_span s, uint32_t set)
{
    cls_addr at = s.lo;
    for (uint32_t k = 0; k < t->n; k++) {
        const cls_run *r = &t->run[k];
        if (r->span[0].lo > s.hi)
            break;
        if (r->top < at)
            continue;
        for (uint32_t i = 0; i < r->n && r->span[i].lo <= s.hi; i++) {
            if (r->span[i].hi < at)
                continue;
            if (r->span[i].lo > at)
                cls_map_change(c, family, at, r->span[i].lo - 1, set, false);
            if (r->span[i].hi >= s.hi)
                return;
            at = r->span[i].hi + 1;
        }
    }
    cls_map_change(c, family, at, s.hi, set, false);
}

int pal_cls_set_change(pal_cls *c, uint32_t set_id, const pal_range *add, uint32_t n_add, const pal_range *del, uint32_t n_del)
{
    if (!ranges_valid(add, n_add) || !ranges_valid(del, n_del))
        return PAL_CLS_BAD_RANGE;
    uint32_t i = cls_set_find(c, set_id, true);
    cls_span s;
    for (uint32_t d = 0; d < n_del; d++) {
        uint32_t run, at, f = del[d].family;
        span_of(&del[d], &s);
        cls_spans *t = &c->set[i].span[f - 1];
        if (!spans_find(t, s, &run, &at)) {
            while (d--) { /* nothing has reached the maps yet: put them back */
                span_of(&del[d], &s);
                spans_insert(c, &c->set[i].span[del[d].family - 1], s);
            }
            set_forget(c, i);
            return PAL_CLS_NO_MEMBER;
        }
        spans_remove(c, t, run, at);
    }
    for (uint32_t a = 0; a < n_add; a++) {
        span_of(&add[a], &s);
        spans_insert(c, &c->set[i].span[add[a].family - 1], s);
        cls_map_change(c, add[a].family, s.lo, s.hi, i, true);
    }
    for (uint32_t d = 0; d < n_del; d++) {
        span_of(&del[d], &s);
        map_uncovered(c, del[d].family, &c->set[i].span[del[d].family - 1], s, i);
    }
    set_forget(c, i);
    cls_class_idle(c, false);
    return PAL_CLS_OK;
}

static int span_order(const void *a, const void *b)
{
    const cls_span *x = a, *y = b;
    return span_before(x, y) ? -1 : span_before(y, x);
}

/* Sorted ranges as runs, filled to three quarters so that members can be added cheaply. */
static void spans_load(pal_cls *c, cls_spans *t, const cls_span *s, uint32_t n)
{
    uint32_t per = CLS_RUN * 3 / 4;
    t->count = n;
    t->cap = (n + per - 1) / per;
    t->run = n ? cls_get(c, t->cap * sizeof *t->run) : NULL;
    for (uint32_t i = 0; i < n; i += per) {
        cls_run *r = &t->run[t->n++];
        r->n = min_u32(per, n - i);
        r->cap = t->cap > 1 ? CLS_RUN : r->n;
        r->span = cls_get(c, r->cap * sizeof *s);
        memcpy(r->span, s + i, r->n * sizeof *s);
        run_top(r);
    }
}

int pal_cls_set_put(pal_cls *c, uint32_t set_id, const pal_range *r, uint32_t n)
{
    if (!ranges_valid(r, n))
        return PAL_CLS_BAD_RANGE;
    uint32_t i = cls_set_find(c, set_id, true);
    cls_span *s = cls_get(c, n * sizeof *s);
    for (uint32_t f = PAL_FAMILY_V4; f <= PAL_FAMILY_V6; f++) {
        uint32_t m = 0;
        for (uint32_t k = 0; k < n; k++)
            if (r[k].family == f)
                span_of(&r[k], &s[m++]);
        qsort(s, m, sizeof *s, span_order);
        cls_spans old = c->set[i].span[f - 1], *t = &c->set[i].span[f - 1];
        memset(t, 0, sizeof *t);
        spans_load(c, t, s, m);
        for (uint32_t k = 0; k < m;) { /* each stretch of the union once */
            cls_span u = s[k++];
            while (k < m && (s[k].lo <= u.hi || s[k].lo == u.hi + 1)) {
                if (s[k].hi > u.hi)
                    u.hi = s[k].hi;
                k++;
            }
            cls_map_change(c, f, u.lo, u.hi, i, true);
        }
        for (uint32_t a = 0; a < old.n; a++)
            for (uint32_t b = 0; b < old.run[a].n; b++)
                map_uncovered(c, f, t, old.run[a].span[b], i);
        cls_spans_free(c, &old);
    }
    cls_put(c, s, n * sizeof *s);
    set_forget(c, i);
    cls_class_idle(c, false);
    return PAL_CLS_OK;
}
