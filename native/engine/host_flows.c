/* SPDX-License-Identifier: Apache-2.0
 *
 * host_flows.c - the connections of a worker, a bounded number of them at a time: packets wait meanwhile.
 */
#include "host_internal.h"

#define FLOWS_STEPS 4096u /* slots looked at in one go: half a megabyte, some 100 microseconds */

/* A reference, and which of its users it names. */
static uint64_t flow_handle(const ct_table *t, uint32_t ref) { return (uint64_t)t->cold[ref].generation << 32 | ref; }

static bool flow_is_open(const ct_table *t, uint32_t ref)
{
    return t->hot[ref].state != CT_FREE && !wheel_is_past(t, t->hot[ref].deadline);
}

int64_t host_flows_read(const host_worker *w, uint32_t from, pal_flow *out, uint32_t room, uint32_t *n)
{
    const ct_table *t = &w->ew->w.table;
    const uint32_t end = t->cap4 + t->cap6;
    uint32_t ref = from;
    *n = 0;
    for (uint32_t steps = 0; steps < FLOWS_STEPS && *n < room; steps++, ref++) {
        if (ref >= t->s->fresh[0] && ref < t->cap4)
            ref = t->cap4;
        if (ref >= end || ref >= t->cap4 + t->s->fresh[1])
            return -1;
        if (!flow_is_open(t, ref))
            continue;
        pal_flow *f = &out[(*n)++];
        flow_describe(t, ref, f);
        f->number = flow_handle(t, ref);
        f->file = t->hot[ref].zone >> ZONE_VRF_BITS;
        f->end_ns = (uint64_t)(uint32_t)(t->hot[ref].deadline - (uint32_t)t->s->now) * TICK_NS;
    }
    return ref;
}

uint32_t host_flows_end(host_worker *w, const uint64_t *handle, uint32_t n)
{
    ct_table *t = &w->ew->w.table;
    uint32_t ended = 0;
    w->config = engine_enter(w->host->e, w->number); /* ends are logged */
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t ref = (uint32_t)handle[i];
        if (ref >= t->cap4 + t->cap6 || !flow_is_open(t, ref) || flow_handle(t, ref) != handle[i])
            continue;
        ct_end(t, ref, CT_END_CLEARED);
        ended++;
    }
    engine_leave(w->host->e, w->number);
    return ended;
}

uint64_t host_behind(const host_worker *w)
{
    const pal_engine *e = w->host->e;
    const uint64_t seen = __atomic_load_n(&e->seat[w->number].config_seen, __ATOMIC_SEQ_CST);
    const uint64_t now = __atomic_load_n(&e->committed, __ATOMIC_ACQUIRE);
    return seen >= now ? 0 : now - seen; /* CONFIG_*: it will work with the newest */
}
