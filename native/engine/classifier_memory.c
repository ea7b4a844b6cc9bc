/* SPDX-License-Identifier: Apache-2.0
 *
 * classifier_memory.c - memory that is counted, the arena of the address maps, and what waits for readers.
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

static void *pages_get(pal_cls *c, size_t n)
{
    size_t align = n >= SLAB_BYTES ? SLAB_BYTES : 64;
    n = (n + align - 1) & ~(align - 1);
    void *p = aligned_alloc(align, n);
    if (!p)
        abort();
    if (align == SLAB_BYTES)
        madvise(p, n, MADV_HUGEPAGE); /* a hint: nothing depends on it */
    memset(p, 0, n);
    c->bytes += n;
    return p;
}

static void pages_put(pal_cls *c, void *p, size_t n)
{
    size_t align = n >= SLAB_BYTES ? SLAB_BYTES : 64;
    c->bytes -= (n + align - 1) & ~(align - 1);
    free(p);
}

/* 64-byte aligned from 33 bytes on, 32-byte aligned below; zeroed. */
void *cls_get(pal_cls *c, size_t bytes)
{
    if (bytes <= 32 && SLAB_BLOCK_MAX >= 64) { /* half a line: most of the small blocks of classes and sets */
        void *h = c->block[0];
        if (h) {
            memcpy(&c->block[0], h, sizeof(void *));
        } else {
            h = cls_get(c, 64);
            cls_put(c, (uint8_t *)h + 32, 32);
        }
        memset(h, 0, 32);
        return h;
    }
    size_t n = round_line(bytes);
    if (n > SLAB_BLOCK_MAX)
        return pages_get(c, n);
    void **list = &c->block[n / 64], *p = *list;
    if (p) {
        memcpy(list, p, sizeof *list);
        memset(p, 0, n);
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
    void *q = cls_get(c, new_bytes);
    if (p) {
        memcpy(q, p, old_bytes);
        cls_put(c, p, old_bytes);
    }
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

/* ---- arena ---- */

static cls_u32s *free_list(cls_arena *a, uint32_t lines) { return lines == 1 ? &a->free1 : lines == 4 ? &a->free4 : &a->free16; }

static void add_chunk(pal_cls *c)
{
    cls_arena *a = &c->arena;
    if (a->n == a->cap) {
        uint32_t cap = a->cap ? 2 * a->cap : 64;
        uint8_t **chunk = cls_get(c, cap * sizeof *chunk);
        if (a->chunk) {
            memcpy(chunk, a->chunk, a->n * sizeof *chunk);
            /* The published snapshot still points at the old directory. */
            cls_retire(c, &c->pending, WASTE_BLOCK, a->chunk, a->cap * sizeof *chunk, 0);
        }
        a->chunk = chunk;
        a->born = cls_grow(c, a->born, a->cap * sizeof *a->born, cap * sizeof *a->born);
        a->cap = cap;
        c->stage.chunk = a->chunk;
    }
    a->chunk[a->n] = cls_get(c, (size_t)CLS_CHUNK_LINES * 64);
    a->born[a->n] = cls_get(c, CLS_CHUNK_LINES * sizeof(uint32_t));
    a->n++;
    a->used = 0;
}

uint32_t cls_lines_get(pal_cls *c, uint32_t lines)
{
    cls_arena *a = &c->arena;
    cls_u32s *l = free_list(a, lines);
    uint32_t ref;
    if (l->n) {
        ref = l->v[--l->n];
    } else {
        if (a->n == 0 || a->used + lines > CLS_CHUNK_LINES) {
            for (; a->n && a->used < CLS_CHUNK_LINES; a->used++) /* the tail goes to the single lines */
                cls_push(c, &a->free1, (a->n - 1) * CLS_CHUNK_LINES + a->used);
            add_chunk(c);
        }
        ref = (a->n - 1) * CLS_CHUNK_LINES + a->used;
        a->used += lines;
    }
    a->born[ref >> CLS_CHUNK_SHIFT][ref & (CLS_CHUNK_LINES - 1)] = c->txn;
    return ref;
}

void *cls_lines_at(const pal_cls *c, uint32_t ref)
{
    ref &= CLS_REF;
    return c->arena.chunk[ref >> CLS_CHUNK_SHIFT] + (size_t)(ref & (CLS_CHUNK_LINES - 1)) * 64;
}

bool cls_lines_own(const pal_cls *c, uint32_t ref)
{
    ref &= CLS_REF;
    return c->arena.born[ref >> CLS_CHUNK_SHIFT][ref & (CLS_CHUNK_LINES - 1)] == c->txn;
}

void cls_lines_free(pal_cls *c, uint32_t ref, uint32_t lines) { cls_push(c, free_list(&c->arena, lines), ref & CLS_REF); }

void cls_lines_drop(pal_cls *c, uint32_t ref, uint32_t lines)
{
    if (cls_lines_own(c, ref))
        cls_lines_free(c, ref, lines);
    else
        cls_retire(c, &c->pending, WASTE_LINES, NULL, lines, ref & CLS_REF);
}

void cls_arena_free(pal_cls *c)
{
    cls_arena *a = &c->arena;
    for (uint32_t i = 0; i < a->n; i++) {
        cls_put(c, a->chunk[i], (size_t)CLS_CHUNK_LINES * 64);
        cls_put(c, a->born[i], CLS_CHUNK_LINES * sizeof(uint32_t));
    }
    cls_put(c, a->chunk, a->cap * sizeof *a->chunk);
    cls_put(c, a->born, a->cap * sizeof *a->born);
    cls_u32s_free(c, &a->free1);
    cls_u32s_free(c, &a->free4);
    cls_u32s_free(c, &a->free16);
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
