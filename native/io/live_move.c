/* SPDX-License-Identifier: Apache-2.0
 *
 * live_move.c - a vNIC's connections out of a live host's workers, and into another's. Only a worker touches its table: it does so
 * between two bursts, a slice at a time, so that no packet waits long.
 */
#include "../engine/export.h"
#include "live.h"

#include <stdio.h>
#include <stdlib.h>

#define MOVE_SLICE 16384u /* entries that a worker looks at between two bursts: 0.2 ms */
#define MOVE_ENTRIES 2048u /* that it takes in */

struct pal_export {
    export_list all;   /* what there was */
    export_list said;  /* what is told of it */
};

typedef struct move_out {
    pal_engine *e;
    uint32_t zone;
    uint32_t from[LIVE_WORKERS];
    export_list part[LIVE_WORKERS];
    bool expected;
} move_out;

static void move_out_slice(void *context, uint32_t worker)
{
    move_out *m = context;
    const engine_worker *ew = &m->e->worker[worker];
    if (m->expected)
        export_expectations(ew, m->zone, &m->part[worker]);
    else if (m->from[worker] != PAL_NONE)
        m->from[worker] = export_slice(ew, m->zone, m->from[worker], MOVE_SLICE, &m->part[worker]);
}

static bool move_out_join(move_out *m, uint32_t workers, export_list *out)
{
    bool good = true;
    for (uint32_t i = 0; i < workers; i++) {
        out->count += m->part[i].count;
        out->now = m->part[i].now > out->now ? m->part[i].now : out->now;
        good &= !m->part[i].lost;
    }
    out->entry = malloc((out->count + 1) * sizeof *out->entry);
    good &= out->entry != NULL;
    for (uint64_t i = 0, at = 0; i < workers; at += m->part[i++].count) {
        if (good && m->part[i].count)
            memcpy(&out->entry[at], m->part[i].entry, m->part[i].count * sizeof *out->entry);
        free(m->part[i].entry);
    }
    if (good)
        export_finish(out);
    return good;
}

static bool move_out_all(pal_live *l, pal_engine *e, uint32_t zone, bool expected, export_list *out)
{
    move_out m = {.e = e, .zone = zone};
    for (bool more = true; more;) {
        more = false;
        live_call(l, move_out_slice, &m);
        for (uint32_t i = 0; i < l->workers; i++)
            more |= m.from[i] != PAL_NONE;
    }
    m.expected = true;
    if (expected)
        live_call(l, move_out_slice, &m);
    return move_out_join(&m, l->workers, out);
}

static uint32_t zone_of(pal_engine *e, uint32_t number)
{
    return pal_engine_incarnation(e, number) << ZONE_VRF_BITS;
}

void pal_export_free(pal_export *x)
{
    if (!x)
        return;
    if (x->said.entry != x->all.entry)
        free(x->said.entry);
    free(x->all.entry);
    free(x);
}

pal_export *pal_live_export(pal_live *l, uint32_t number, const pal_export *since, int last, char *err, size_t errlen)
{
    pal_engine *e = host_engine(l->what.context);
    const uint32_t zone = zone_of(e, number);
    if (zone == 0) {
        snprintf(err, errlen, "there is no filter %u", number);
        return NULL;
    }
    pal_export *x = calloc(1, sizeof *x);
    bool good = x && move_out_all(l, e, zone, last != 0, &x->all);
    if (good && since)
        good = export_difference(&since->all, &x->all, &x->said);
    else if (good)
        x->said = x->all;
    if (good)
        return x;
    pal_export_free(x);
    snprintf(err, errlen, "no memory for an export of connections");
    return NULL;
}

uint64_t pal_export_count(const pal_export *x) { return x->said.count; }
uint64_t pal_export_write(const pal_export *x, uint64_t from, uint64_t n, uint8_t *out) { return export_write(&x->said, from, n, out); }

typedef struct move_in {
    pal_engine *e;
    const import_order *order;
    uint64_t taken[LIVE_WORKERS], refused[LIVE_WORKERS];
} move_in;

static void move_in_slice(void *context, uint32_t worker)
{
    move_in *m = context;
    import_entries(&m->e->worker[worker], m->order, &m->taken[worker], &m->refused[worker]);
}

int64_t pal_live_import(pal_live *l, uint32_t number, const uint8_t *bytes, uint64_t n, const uint32_t *rule, uint32_t rules,
                        uint64_t *refused, char *err, size_t errlen)
{
    pal_engine *e = host_engine(l->what.context);
    const uint32_t zone = zone_of(e, number);
    const char *why = zone ? import_check(bytes, n) : "there is no such filter";
    uint8_t *own = why ? NULL : aligned_alloc(64, (n + 63) & ~63ull);
    if (!why && !own)
        why = "no memory for an import of connections";
    if (why) {
        snprintf(err, errlen, "%s", why);
        return -1;
    }
    memcpy(own, bytes, n);
    export_header h;
    memcpy(&h, own, sizeof h);
    const uint64_t all = h.entries;
    import_order o = {.header = &h, .zone = zone, .filter = (uint16_t)number, .rule = rule, .rules = rules, .workers = l->workers,
                      .owner = owner_of_pair};
    move_in m = {.e = e, .order = &o};
    for (uint64_t at = 0; at < all; at += h.entries) {
        h.entries = all - at < MOVE_ENTRIES ? all - at : MOVE_ENTRIES;
        o.entry = (const export_entry *)(const void *)(own + sizeof h) + at;
        live_call(l, move_in_slice, &m);
    }
    free(own);
    int64_t taken = 0;
    for (uint32_t i = 0; i < l->workers; i++) {
        taken += (int64_t)m.taken[i];
        *refused += m.refused[i];
    }
    return taken;
}
