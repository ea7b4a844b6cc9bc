/* SPDX-License-Identifier: Apache-2.0
 *
 * classifier.c - the classifier as a whole: its life, publication, and giving memory back when all readers have passed.
 *
 * Reclamation by quiescent states: the writer numbers its publications; a reader notes the latest number between two
 * bursts, in a line of its own. What was withdrawn at number E is freed when every online reader has noted E or later.
 */
#include "classifier_internal.h"

#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

/* ---- life ---- */

static void secrets_draw(uint64_t *s, size_t bytes)
{
    if (getrandom(s, bytes, GRND_NONBLOCK) != (ssize_t)bytes) { /* too early after boot: addresses and time are all there is */
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        for (size_t i = 0; i < bytes / 8; i++)
            s[i] = cls_mix((uint64_t)t.tv_nsec * 0x9e3779b97f4a7c15ull + i, (uint64_t)(uintptr_t)s | 1);
    }
}

#if CLS_X86
/* AVX-512 only where it was measured: elsewhere a gather of sixteen may take more than what it saves. */
static uint32_t wide_of_machine(void)
{
    if (!__builtin_cpu_supports("popcnt") || !__builtin_cpu_supports("bmi") || !__builtin_cpu_supports("bmi2") ||
        !__builtin_cpu_supports("avx2"))
        return 0;
    bool most = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vpopcntdq");
    return most && __builtin_cpu_is("intel") ? CLS_WIDE_512 : CLS_WIDE_256;
}
#endif

pal_cls *pal_cls_new(void)
{
    pal_cls *c = aligned_alloc(64, (sizeof *c + 63) & ~(size_t)63);
    if (!c)
        return NULL;
    memset(c, 0, sizeof *c);
    secrets_draw(c->secret, sizeof c->secret);
    c->txn = 1;
    c->dense_max = CLS_DENSE * CLS_BLOCK;
    c->epoch = 1;
    c->free_set = c->free_cls = PAL_NONE;
    c->set_mask = c->cls_mask = c->rules_mask = 0;
    c->bits = cls_get(c, CLS_BITS_WORDS * 8);
    cls_arena_init(c);
    cls_units_get(c, CLS_ONES + 1); /* the units that exist always */
    memset(cls_lines_at(c, CLS_ONES), 0xff, CLS_UNIT);
    c->stage.base = c->arena.base;
#if CLS_X86
    c->stage.wide = wide_of_machine();
#endif
    uint32_t none = cls_class_change(c, PAL_NONE, 0, false); /* the class of no set: number 0, never freed */
    c->cls[none].refs = 256 + 2;
    c->loose = 0;
    for (uint32_t i = 0; i < 256; i++)
        c->stage.root4[i] = none;
    c->stage.root6 = none;
    pal_cls_commit(c);
    return c;
}

static void waste_free(pal_cls *c, const cls_waste *w)
{
    switch (w->kind) {
    case WASTE_BLOCK:
        cls_put(c, w->p, w->n);
        break;
    case WASTE_LINES:
        cls_lines_free(c, w->ref, (uint32_t)w->n);
        break;
    case WASTE_CLASS: {
        cls_class *k = &c->cls[w->n];
        if (--k->waits == 0 && k->refs == 0 && !k->idle)
            cls_class_free(c, (uint32_t)w->n);
        break;
    }
    case WASTE_RULES:
        cls_rules_free(c, w->p);
        break;
    case WASTE_TAB:
        cls_tab_unref(c, w->ref, (uint32_t)w->n);
        break;
    }
}

size_t pal_cls_reclaim(pal_cls *c)
{
    uint64_t passed = UINT64_MAX;
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* what was published is visible before a reader is taken to be offline */
    for (const pal_reader *r = c->readers; r; r = r->next) {
        uint64_t seen = __atomic_load_n(&r->seen, __ATOMIC_ACQUIRE);
        if (seen && seen < passed)
            passed = seen;
    }
    cls_heap *h = &c->limbo;
    while (h->head < h->n && h->v[h->head].epoch <= passed && h->v[h->head].epoch <= c->epoch) {
        cls_waste w = h->v[h->head++];
        waste_free(c, &w);
    }
    if (h->head == h->n)
        h->head = h->n = 0;
    return h->n - h->head;
}

void pal_cls_publish(pal_cls *c)
{
    cls_class_idle(c, true);
    for (uint32_t i = 0; i < c->fresh.n; i++) {
        uint32_t k = c->fresh.v[i];
        c->cls[k].fresh = 0;
        if (!c->cls[k].born) /* came and went within this transaction */
            continue;
        for (uint32_t j = 0; j < c->n_ruleset; j++)
            cls_rules_class(c, c->ruleset[j], k);
    }
    c->fresh.n = 0;
    pal_snap *s = cls_get(c, sizeof *s);
    *s = c->stage;
    pal_snap *old = c->now;
    __atomic_store_n(&c->now, s, __ATOMIC_RELEASE);
    if (old)
        cls_retire(c, &c->pending, WASTE_BLOCK, old, sizeof *old, 0);
    for (size_t i = c->pending.head; i < c->pending.n; i++) {
        const cls_waste *w = &c->pending.v[i];
        cls_retire(c, &c->limbo, w->kind, w->p, w->n, w->ref);
    }
    c->pending.head = c->pending.n = 0;
}

void pal_cls_published(pal_cls *c)
{
    c->txn++;
    __atomic_store_n(&c->epoch, c->epoch + 1, __ATOMIC_RELEASE);
    pal_cls_reclaim(c);
}

void pal_cls_commit(pal_cls *c)
{
    if (c->engines) /* workers take their snapshot from the engine's configuration: this would free it under them */
        abort();
    pal_cls_publish(c);
    pal_cls_published(c);
}

void pal_cls_own(pal_cls *c) { c->engines = true; }

void pal_cls_free(pal_cls *c)
{
    if (!c)
        return;
    cls_keep(c, false);
    while (c->n_ruleset) {
        cls_rules *r = c->ruleset[0];
        for (size_t i = c->limbo.head; i < c->limbo.n; i++)
            if (c->limbo.v[i].kind == WASTE_RULES && c->limbo.v[i].p == r)
                c->limbo.v[i].kind = WASTE_BLOCK, c->limbo.v[i].p = NULL;
        if (r->listed)
            r->refs = 1;
        cls_rules_unlist(c, r);
        cls_rules_free(c, r);
    }
    for (cls_heap *h = &c->pending;; h = &c->limbo) {
        for (size_t i = h->head; i < h->n; i++)
            if (h->v[i].kind == WASTE_BLOCK)
                cls_put(c, h->v[i].p, h->v[i].n);
            else if (h->v[i].kind == WASTE_TAB)
                cls_tab_unref(c, h->v[i].ref, (uint32_t)h->v[i].n);
        cls_put(c, h->v, h->cap * sizeof *h->v);
        if (h == &c->limbo)
            break;
    }
    while (c->readers)
        pal_cls_reader_free(c, c->readers);
    cls_classes_free(c);
    for (uint32_t i = 0; i < c->n_set; i++) {
        cls_spans_free(c, &c->set[i].span[0]);
        cls_spans_free(c, &c->set[i].span[1]);
    }
    cls_put(c, c->set, c->cap_set * sizeof *c->set);
    cls_put(c, c->set_hash, (c->set_mask + 1ull) * sizeof(uint32_t));
    cls_pools_free(c);
    cls_put(c, c->ruleset, c->cap_ruleset * sizeof *c->ruleset);
    cls_put(c, c->rules_hash, (c->rules_mask + 1ull) * sizeof(uint32_t));
    cls_put(c, c->bits, CLS_BITS_WORDS * 8);
    cls_put(c, c->now, sizeof *c->now);
    cls_arena_free(c);
    cls_slabs_free(c);
    free(c);
}

/* ---- readers ---- */

pal_reader *pal_cls_reader_new(pal_cls *c)
{
    pal_reader *r = cls_get(c, sizeof *r);
    r->epoch = &c->epoch;
    r->next = c->readers;
    c->readers = r;
    return r;
}

void pal_cls_reader_free(pal_cls *c, pal_reader *r)
{
    for (pal_reader **p = &c->readers; *p; p = &(*p)->next)
        if (*p == r) {
            *p = r->next;
            cls_put(c, r, sizeof *r);
            return;
        }
}

void pal_cls_reader_online(pal_reader *r)
{
    __atomic_store_n(&r->seen, __atomic_load_n(r->epoch, __ATOMIC_ACQUIRE), __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the writer sees us before we take a snapshot */
}

void pal_cls_reader_offline(pal_reader *r) { __atomic_store_n(&r->seen, 0, __ATOMIC_RELEASE); }

/* The number is loaded before the next snapshot is: what it stands for is visible then. */
void pal_cls_reader_quiescent(pal_reader *r)
{
    __atomic_store_n(&r->seen, __atomic_load_n(r->epoch, __ATOMIC_ACQUIRE), __ATOMIC_RELEASE);
}

const pal_snap *pal_cls_snapshot(const pal_cls *c) { return __atomic_load_n(&c->now, __ATOMIC_ACQUIRE); }

size_t pal_cls_bytes(const pal_cls *c) { return c->bytes + sizeof *c; }
uint32_t pal_cls_classes(const pal_cls *c) { return c->live_cls; }
