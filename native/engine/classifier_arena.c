/* SPDX-License-Identifier: Apache-2.0
 *
 * classifier_arena.c - the arena: what look-ups reach by references of 27 bits, in units of 32 bytes.
 *
 * It is one stretch of addresses, reserved when the classifier is made and taken from the system in pieces of 2 MiB, so that
 * neither the look-up nor a gather needs a directory, and nothing ever moves. Beside it, not looked at by look-ups, stands
 * one number for each unit: of a node of the maps the transaction that made it, of a row or a block its references.
 */
#include "classifier_internal.h"

#include <stdlib.h>
#include <sys/mman.h>

#define CHUNK ((size_t)2 << 20) /* bytes: a huge page where the machine gives one */
#define CHUNK_UNITS ((uint32_t)(CHUNK / CLS_UNIT))

static void *reserve(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

void cls_arena_init(pal_cls *c)
{
    cls_arena *a = &c->arena;
    for (a->limit = CLS_UNITS_MAX; a->limit >= CHUNK_UNITS; a->limit /= 2) { /* less where addresses are limited */
        a->mapped = (size_t)a->limit * (CLS_UNIT + sizeof *a->side) + CHUNK;
        if ((a->map = reserve(a->mapped)))
            break;
    }
    if (!a->map)
        abort();
    a->base = (uint8_t *)(((uintptr_t)a->map + CHUNK - 1) & ~(uintptr_t)(CHUNK - 1));
    a->side = (uint32_t *)(void *)(a->base + (size_t)a->limit * CLS_UNIT);
}

/* Running out ends the process, as running out of memory does. */
static void chunk_take(pal_cls *c)
{
    cls_arena *a = &c->arena;
    uint8_t *p = a->base + (size_t)a->taken * CLS_UNIT;
    size_t side = CHUNK_UNITS * sizeof *a->side;
    if (a->taken == a->limit || mprotect(p, CHUNK, PROT_READ | PROT_WRITE) ||
        mprotect(a->side + a->taken, side, PROT_READ | PROT_WRITE))
        abort();
    madvise(p, CHUNK, MADV_HUGEPAGE); /* a hint: nothing depends on it */
    a->taken += CHUNK_UNITS;
    c->bytes += CHUNK + side;
}

uint32_t cls_units_get(pal_cls *c, uint32_t units)
{
    cls_arena *a = &c->arena;
    cls_u32s *l = &a->free[units < CLS_UNITS_LISTED ? units : 0];
    uint32_t ref;
    if (l->n) {
        ref = l->v[--l->n];
    } else {
        if (units % 2 == 0 && a->used % 2) /* even sizes begin at a cache line */
            cls_units_free(c, a->used++, 1);
        while (a->used + units > a->taken)
            chunk_take(c);
        ref = a->used;
        a->used += units;
    }
    a->side[ref] = c->txn;
    return ref;
}

void cls_units_free(pal_cls *c, uint32_t ref, uint32_t units)
{
    cls_push(c, &c->arena.free[units < CLS_UNITS_LISTED ? units : 0], ref & CLS_REF);
}

uint32_t cls_lines_get(pal_cls *c, uint32_t lines) { return cls_units_get(c, 2 * lines); }

void *cls_lines_at(const pal_cls *c, uint32_t ref) { return c->arena.base + (size_t)(ref & CLS_REF) * CLS_UNIT; }

bool cls_lines_own(const pal_cls *c, uint32_t ref) { return c->arena.side[ref & CLS_REF] == c->txn; }

void cls_lines_free(pal_cls *c, uint32_t ref, uint32_t lines) { cls_units_free(c, ref, 2 * lines); }

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
    munmap(a->map, a->mapped);
    for (uint32_t i = 0; i < CLS_UNITS_LISTED; i++)
        cls_u32s_free(c, &a->free[i]);
}
