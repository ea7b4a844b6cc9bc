/* SPDX-License-Identifier: Apache-2.0 */
#include "binding.h"

#include <stdlib.h>

#include "../core/hash.h"

static uint32_t binding_len(uint32_t family) { return family == 0 ? 6 : family == PAL_FAMILY_V4 ? 4 : 16; }

static uint64_t binding_hash(const binding_table *t, const uint8_t padded[16], uint32_t family, uint32_t vrf)
{
    unsigned __int128 s = (unsigned __int128)(load_u64(padded) + t->seed) * (load_u64(padded + 8) + (t->seed ^ 0x9e3779b97f4a7c15ull));
    s += (unsigned __int128)(((uint64_t)vrf << 8 | family) + (t->seed >> 1)) * (t->seed | 1);
    return hash_finish(s);
}

/* The slot that holds the binding, or the free one where it belongs. */
static pal_binding *binding_slot(const binding_table *t, const uint8_t *addr, uint32_t family, uint32_t vrf)
{
    uint8_t padded[16] = {0};
    memcpy(padded, addr, binding_len(family));
    uint64_t at = binding_hash(t, padded, family, vrf);
    for (;; at++) { /* half of the slots are free */
        pal_binding *b = &t->slot[at & (t->size - 1)];
        if (b->filter == BINDING_UNKNOWN || (b->family == family && b->vrf == vrf && memcmp(b->addr, padded, 16) == 0))
            return b;
    }
}

int binding_table_make(binding_table *t, const pal_binding *b, uint32_t n, uint64_t seed)
{
    *t = (binding_table){.size = 16, .seed = seed};
    while (t->size < 2 * (uint64_t)n + 2)
        t->size *= 2;
    t->slot = malloc((size_t)t->size * sizeof *t->slot);
    if (!t->slot)
        return -1;
    memset(t->slot, 0xff, (size_t)t->size * sizeof *t->slot);
    for (uint32_t i = 0; i < n; i++) {
        if (b[i].family == PAL_SEGMENT)
            continue;
        pal_binding *slot = binding_slot(t, b[i].addr, b[i].family, b[i].vrf);
        uint32_t filter = slot->filter == BINDING_UNKNOWN || slot->filter == b[i].filter ? b[i].filter : PAL_NO_FILTER;
        memset(slot, 0, sizeof *slot);
        memcpy(slot->addr, b[i].addr, binding_len(b[i].family));
        slot->family = b[i].family;
        slot->vrf = b[i].vrf;
        slot->filter = filter;
    }
    return 0;
}

void binding_segments(uint32_t *segment, uint32_t filters, const pal_binding *b, uint32_t n)
{
    memset(segment, 0, filters * sizeof *segment);
    for (uint32_t i = 0; i < n; i++)
        if (b[i].family == PAL_SEGMENT && b[i].filter < filters)
            segment[b[i].filter] = b[i].vrf;
}

void binding_table_free(binding_table *t)
{
    free(t->slot);
    t->slot = NULL;
}

uint32_t binding_find(const binding_table *t, const uint8_t *addr, uint32_t family, uint32_t vrf)
{
    return binding_slot(t, addr, family, vrf)->filter;
}
