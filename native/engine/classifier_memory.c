/* SPDX-License-Identifier: Apache-2.0
 *
 * classifier_memory.c - memory that is counted, and what waits for readers.
 */
#include "classifier_internal.h"

#include <stdlib.h>
#include <sys/mman.h>

static size_t round_line(size_t n) { return ((n ? n : 1) + 63) & ~(size_t)63; }

/* Small blocks come from slabs of 2 MiB that may be one huge page each: a look-up touches a dozen of them, and with
 * 4 KiB pages would miss the TLB as often as the cache. Freed blocks are kept by size. Under ASan every block is its own. */
#if defined(__SANITIZE_ADDRESS__)
#define SLAB_BLOCK_MAX 1u /* less than a line: none */
#else
#define SLAB_BLOCK_MAX 8192u
#endif
#define SLAB_BYTES ((size_t)2 << 20)

/* What pages_get takes for n bytes: blocks that grow by a row have room for it mostly, and versions of a rule set blocks of
 * the same size. */
static size_t pages_size(size_t n)
{
    size_t unit = n >= SLAB_BYTES ? SLAB_BYTES : n >= (256u << 10) ? 16u << 10 : 64;
    return (n + unit - 1) & ~(unit - 1);
}

static void *kept_take(pal_cls *c, size_t n)
{
    for (uint32_t i = 0; i < CLS_KEPT; i++)
        if (c->kept[i].p && c->kept[i].n == n) {
            void *p = c->kept[i].p;
            c->kept[i].p = NULL;
            c->kept_bytes -= n;
            return p;
        }
    return NULL;
}

static void kept_drop(pal_cls *c, cls_kept *k)
{
    if (!k->p)
        return;
    free(k->p);
    k->p = NULL;
    c->kept_bytes -= k->n;
    c->bytes -= k->n;
}

void cls_keep(pal_cls *c, bool keeps)
{
    c->keeps = keeps && SLAB_BLOCK_MAX >= 64;
    for (uint32_t i = 0; i < CLS_KEPT && !c->keeps; i++)
        kept_drop(c, &c->kept[i]);
}

static void *pages_get(pal_cls *c, size_t n)
{
    n = pages_size(n);
    void *p = c->kept_bytes ? kept_take(c, n) : NULL;
    if (p)
        return p;
    p = aligned_alloc(n >= SLAB_BYTES ? SLAB_BYTES : 64, n);
    if (!p)
        abort();
    if (n >= SLAB_BYTES)
        madvise(p, n, MADV_HUGEPAGE); /* a hint: nothing depends on it */
    c->bytes += n;
    return p;
}

/* Memory that has just been given back comes again as pages that the kernel must clear first: for the megabytes that a
 * changed rule set's version has of its own, half of what the change takes. */
static void pages_put(pal_cls *c, void *p, size_t n)
{
    n = pages_size(n);
    if (!c->keeps || n > CLS_KEPT_BYTES) {
        c->bytes -= n;
        free(p);
        return;
    }
    cls_kept *k = &c->kept[c->kept_next++ % CLS_KEPT];
    kept_drop(c, k);
    while (c->kept_bytes + n > CLS_KEPT_BYTES)
        kept_drop(c, &c->kept[c->kept_next++ % CLS_KEPT]);
    *k = (cls_kept){p, n};
    c->kept_bytes += n;
}

/* 64-byte aligned from 33 bytes on, 32-byte aligned below. */
void *cls_take(pal_cls *c, size_t bytes)
{
    if (bytes <= 32 && SLAB_BLOCK_MAX >= 64) { /* half a line: most of the small blocks of classes and sets */
        void *h = c->block[0];
        if (h) {
            memcpy(&c->block[0], h, sizeof(void *));
        } else {
            h = cls_take(c, 64);
            cls_put(c, (uint8_t *)h + 32, 32);
        }
        return h;
    }
    size_t n = round_line(bytes);
    if (n > SLAB_BLOCK_MAX)
        return pages_get(c, n);
    void **list = &c->block[n / 64], *p = *list;
    if (p) {
        memcpy(list, p, sizeof *list);
        return p;
    }
    if (c->slab_left < n) {
        for (size_t k = c->slab_left; k;) { /* what is left of the slab goes to the lists */
            size_t part = k < SLAB_BLOCK_MAX ? k : SLAB_BLOCK_MAX;
            cls_put(c, c->slab_at, part);
            c->slab_at += part;
            k -= part;
        }
        void *slab = pages_get(c, SLAB_BYTES);
        c->slab_at = (uint8_t *)slab + 64; /* the first line links the slabs */
        memcpy(slab, &c->slabs, sizeof c->slabs);
        c->slabs = slab;
        c->slab_left = SLAB_BYTES - 64;
    }
    p = c->slab_at;
    c->slab_at += n;
    c->slab_left -= n;
    return p;
}

void *cls_get(pal_cls *c, size_t bytes)
{
    return memset(cls_take(c, bytes), 0, bytes <= 32 && SLAB_BLOCK_MAX >= 64 ? 32 : round_line(bytes));
}

void cls_put(pal_cls *c, void *p, size_t bytes)
{
    if (!p)
        return;
    size_t n = round_line(bytes);
    if (bytes <= 32 && SLAB_BLOCK_MAX >= 64)
        n = 0;
    if (n > SLAB_BLOCK_MAX) {
        pages_put(c, p, n);
        return;
    }
    memcpy(p, &c->block[n / 64], sizeof(void *));
    c->block[n / 64] = p;
}

void cls_slabs_free(pal_cls *c)
{
    while (c->slabs) {
        void *slab = c->slabs;
        memcpy(&c->slabs, slab, sizeof c->slabs);
        pages_put(c, slab, SLAB_BYTES);
    }
}

void *cls_grow(pal_cls *c, void *p, size_t old_bytes, size_t new_bytes)
{
    size_t kept = p ? old_bytes : 0;
    if (kept > SLAB_BLOCK_MAX && new_bytes >= kept && pages_size(kept) == pages_size(new_bytes)) {
        memset((uint8_t *)p + kept, 0, new_bytes - kept);
        return p;
    }
    uint8_t *q = cls_take(c, new_bytes);
    if (kept)
        memcpy(q, p, kept);
    memset(q + kept, 0, new_bytes - kept);
    if (p)
        cls_put(c, p, old_bytes);
    return q;
}

void cls_push(pal_cls *c, cls_u32s *l, uint32_t v)
{
    if (l->n == l->cap) {
        uint32_t cap = l->cap ? 2 * l->cap : 16;
        l->v = cls_grow(c, l->v, l->cap * sizeof *l->v, cap * sizeof *l->v);
        l->cap = cap;
    }
    l->v[l->n++] = v;
}

void cls_u32s_free(pal_cls *c, cls_u32s *l)
{
    cls_put(c, l->v, l->cap * sizeof *l->v);
    memset(l, 0, sizeof *l);
}

void cls_retire(pal_cls *c, cls_heap *h, uint32_t kind, void *p, size_t n, uint32_t ref)
{
    if (h->n == h->cap) {
        if (h->head > h->cap / 2) { /* the front has been freed: move up */
            memmove(h->v, h->v + h->head, (h->n - h->head) * sizeof *h->v);
            h->n -= h->head;
            h->head = 0;
        } else {
            size_t cap = h->cap ? 2 * h->cap : 64;
            h->v = cls_grow(c, h->v, h->cap * sizeof *h->v, cap * sizeof *h->v);
            h->cap = cap;
        }
    }
    h->v[h->n++] = (cls_waste){.epoch = c->epoch + 1, .p = p, .n = n, .kind = kind, .ref = ref};
}

/* ---- hashing: secret, so that nobody can choose contents that collide ---- */

uint64_t cls_hash_words(const pal_cls *c, const uint64_t *w, size_t n)
{
    uint64_t h = c->secret[2] ^ n;
    for (size_t i = 0; i < n; i++)
        h = cls_mix(h ^ w[i] ^ c->secret[3], c->secret[4] | 1) + h;
    return cls_mix(h ^ c->secret[5], c->secret[3] | 1);
}

uint64_t cls_hash_bytes(const pal_cls *c, const void *p, size_t bytes, uint64_t h)
{
    const uint8_t *b = p;
    for (; bytes >= 8; b += 8, bytes -= 8)
        h = cls_mix(h ^ load_u64(b) ^ c->secret[3], c->secret[4] | 1) + h;
    uint64_t last = 0;
    memcpy(&last, b, bytes);
    return cls_mix(h ^ last ^ c->secret[5], c->secret[3] | 1);
}
