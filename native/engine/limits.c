/* SPDX-License-Identifier: Apache-2.0
 *
 * limits.c - the budgets that an engine was given, and the memory of those that need some.
 */
#include "limits.h"

#include <stdio.h>
#include <stdlib.h>

static void half_open_free(half_open_table *h)
{
    if (!h)
        return;
    free(h->account);
    free(h->others);
    free(h->bucket);
    free(h);
}

static half_open_table *half_open_new(const pal_limits *limits, uint32_t filters)
{
    half_open_table *h = calloc(1, sizeof *h);
    if (!h)
        return NULL;
    h->limits = limits;
    h->filters = filters;
    h->records = limits->half_open_prefixes;
    h->account = malloc(((size_t)filters * 2 + h->records) * sizeof *h->account);
    h->others = malloc(filters * sizeof *h->others);
    h->bucket = malloc((size_t)h->records * sizeof *h->bucket);
    if (!h->account || !h->others || !h->bucket) {
        half_open_free(h);
        return NULL;
    }
    return h;
}

/* Who has connections that were taken over, or none. Other incarnations have had none yet. */
static void flood_recount(ct_table *t, uint32_t incarnations)
{
    memset(t->flood, 0, incarnations * sizeof *t->flood);
    for (uint32_t way = 0; way < CT_WAYS; way++)
        for (uint32_t i = 0; i < t->s->fresh[way]; i++) {
            uint32_t ref = way ? t->cap4 + i : i;
            if (ct_state_of(&t->hot[ref]) != CT_FREE)
                flood_enter(t, ref);
        }
}

bool limits_open(pal_worker *w, const pal_limits *limits, uint32_t filters)
{
    bool missed = limits->misses[0] || limits->misses[1];
    bool half_open = limits->half_open[0] || limits->half_open[1] || limits->half_open_prefix;
    w->limits = limits;
    w->misses = missed ? aligned_alloc(PAL_CACHE_LINE, (filters * sizeof *w->misses + PAL_CACHE_LINE - 1) & ~(size_t)(PAL_CACHE_LINE - 1)) : NULL;
    w->table.half_open = half_open ? half_open_new(limits, filters) : NULL;
    w->table.flood = calloc(INCARNATIONS, sizeof *w->table.flood);
    return w->table.flood && (!missed || w->misses) && (!half_open || w->table.half_open);
}

void limits_forget(pal_worker *w, uint32_t filters, uint32_t incarnations)
{
    flood_recount(&w->table, incarnations);
    if (w->misses)
        memset(w->misses, 0, filters * sizeof *w->misses);
    if (w->table.half_open)
        half_open_init(w->table.half_open);
}

void limits_close(pal_worker *w)
{
    free(w->misses);
    free(w->table.flood);
    half_open_free(w->table.half_open);
}

bool limits_settle(pal_limits *l, char *err, size_t errlen)
{
    const struct {
        uint32_t *limit, otherwise, most;
        const char *name;
    } all[] = {
        {&l->half_open[0], 0, 1u << 30, "half_open"}, {&l->half_open[1], 0, 1u << 30, "half_open"},
        {&l->half_open_prefix, 0, 1u << 30, "half_open_prefix"}, {&l->half_open_prefixes, 65536, 1u << 24, "half_open_prefixes"},
        {&l->misses[0], 0, 1u << 30, "misses"}, {&l->misses[1], 0, 1u << 30, "misses"},
        {&l->rejects[0], REJECT_PER_SECOND / 2, REJECT_PER_SECOND, "rejects"},
        {&l->rejects[1], REJECT_PER_SECOND / 2, REJECT_PER_SECOND, "rejects"},
        {&l->rejects_prefix, 25, REJECT_PER_SECOND, "rejects_prefix"}, {&l->rejects_peer, 10, REJECT_PER_SECOND, "rejects_peer"},
        {&l->fragments[0], 128, FRAG_DATAGRAMS, "fragments"}, {&l->fragments[1], 128, FRAG_DATAGRAMS, "fragments"},
        {&l->fragments_prefix, 96, FRAG_DATAGRAMS, "fragments_prefix"}, {&l->fragments_source, 64, FRAG_DATAGRAMS, "fragments_source"}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        if (*all[i].limit == 0)
            *all[i].limit = all[i].otherwise;
        if (*all[i].limit > all[i].most) {
            snprintf(err, errlen, "limit %s is above %u", all[i].name, all[i].most);
            return false;
        }
    }
    if (l->rejects[0] + l->rejects[1] > REJECT_PER_SECOND) {
        snprintf(err, errlen, "limit rejects is above %d for both sides together", REJECT_PER_SECOND);
        return false;
    }
    return true;
}
