/* SPDX-License-Identifier: Apache-2.0
 *
 * test_workers.c - what a worker writes on a packet's path stands in lines of its own: no two workers share one, and none
 * stands in a line with what all of them read.
 */
#include "check.h"
#include "support/rig.h"

typedef struct span {
    const char *what;
    uintptr_t begin, end;
    uint32_t owner;
} span;

#define WORKERS 3u
#define SPANS 128u
static span spans[SPANS];
static uint32_t count;

static void add(uint32_t owner, const char *what, const void *at, size_t size)
{
    CHECK(at != NULL && count < SPANS);
    spans[count++] = (span){what, (uintptr_t)at, (uintptr_t)at + size, owner};
}

static void test_lines(bool decap)
{
    pal_engine_options o = {.capacity4 = 100, .capacity6 = 100, .filters = 3, .rules = 5, .workers = WORKERS, .decap = decap};
    char err[200] = "";
    check_where = "lines";
    pal_engine *e = pal_engine_new(&o, NULL, err, sizeof err);
    CHECK(e != NULL);
    count = 0;
    for (uint32_t i = 0; i < WORKERS; i++) {
        engine_worker *ew = &e->worker[i];
        add(i, "worker", ew, sizeof *ew);
        add(i, "seat", &e->seat[i], sizeof e->seat[i]);
        add(i, "reader", ew->reader, sizeof(uint64_t));
        add(i, "table", ew->region.base, ew->region.len);
        add(i, "fragments", ew->w.fragments, sizeof *ew->w.fragments);
        add(i, "expectations", ew->w.expected, sizeof *ew->w.expected);
        add(i, "rejects", ew->w.rejects, o.filters * sizeof *ew->w.rejects);
        add(i, "rules", ew->w.rule, o.rules * sizeof *ew->w.rule);
        add(i, "scratch", ew->w.scratch, 65536);
        if (decap)
            add(i, "domains", ew->w.vrf, VRF_SLOTS * sizeof *ew->w.vrf);
    }
    add(WORKERS, "engine", e, sizeof *e); /* read by all */
    add(WORKERS, "configuration", e->current, sizeof *e->current + o.filters * sizeof(pal_filter));
    for (uint32_t i = 0; i < count; i++) {
        check_where = spans[i].what;
        CHECK_U64(spans[i].owner == WORKERS ? 0 : spans[i].begin % PAL_CACHE_LINE, 0);
        for (uint32_t j = 0; j < count; j++)
            if (spans[i].owner != spans[j].owner)
                CHECK(spans[i].end - 1 < spans[j].begin / PAL_CACHE_LINE * PAL_CACHE_LINE ||
                      spans[j].end - 1 < spans[i].begin / PAL_CACHE_LINE * PAL_CACHE_LINE);
    }
    pal_engine_free(e);
}

int main(void)
{
    test_lines(false);
    test_lines(true);
    return check_end("test_workers");
}
