/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_setup.c - new connections at steady state, as CONTRACT section 3 defines `bench setup`: the table is 80 % full, and
 * the clock goes on so fast that each new connection finds one that has run out.
 */
#include <stdio.h>
#include <stdlib.h>

#include "bench.h"

#define SETUP_BATCH_MAX 256
#define SETUP_CHUNK 2048 /* connections whose frames are made at a time, untimed; timed together, so that the clock costs nothing */
#define SETUP_FRAME 64

typedef struct setup_run {
    pal_engine *engine;
    const pal_bench_setup *o;
    uint64_t next;        /* number of the next connection */
    uint64_t step_ns;     /* the clock's step a connection */
    uint64_t seed;
    uint64_t spent_ns;    /* in the core */
    uint8_t *frames;
} setup_run;

static void setup_segment(uint64_t number, uint32_t rule, uint32_t step, bench_segment *s)
{
    uint64_t mix = (number + 1) * 0x9e3779b97f4a7c15ull;
    *s = (bench_segment){.family = PAL_FAMILY_V4, .window = 0xffff};
    uint8_t client[4], server[4];
    store_be32(client, 0x0a800000u | (uint32_t)(mix >> 40 & 0x7fffff));
    store_be32(server, 0x0a010000u + rule);
    uint16_t sport = (uint16_t)(1024 + number % 64000), dport = (uint16_t)(1000 + rule);
    memcpy(step == 1 ? s->dst : s->src, client, 4);
    memcpy(step == 1 ? s->src : s->dst, server, 4);
    s->sport = step == 1 ? dport : sport;
    s->dport = step == 1 ? sport : dport;
    uint32_t isn = (uint32_t)mix, other = (uint32_t)(mix >> 32);
    s->seq = step == 0 ? isn : step == 1 ? other : isn + 1;
    s->ack = step == 0 ? 0 : step == 1 ? isn + 1 : other + 1;
    s->flags = step == 0 ? TCP_SYN : step == 1 ? TCP_SYN | TCP_ACK : TCP_ACK;
    s->syn_options = step < 2;
}

static uint8_t *setup_frame(const setup_run *r, uint32_t step, uint32_t i)
{
    return r->frames + ((size_t)step * SETUP_CHUNK + i) * SETUP_FRAME;
}

/* A burst of one step of `n` connections, the first of them number `from` of the chunk. */
static void setup_burst(setup_run *r, uint32_t step, uint32_t from, uint32_t n)
{
    pal_worker *w = &r->engine->worker[0].w;
    pal_packet packet[SETUP_BATCH_MAX];
    pal_route route[SETUP_BATCH_MAX];
    const engine_config *config = engine_enter(r->engine, 0);
    for (uint32_t i = 0; i < n; i++) {
        packet[i].data = setup_frame(r, step, from + i);
        packet[i].cap = packet[i].wire = SETUP_FRAME;
        packet[i].ts_ns = packet[i].clock_ns = (r->next + from + i) * r->step_ns;
        packet[i].cookie = i;
        parse_frame(&packet[i], LINKTYPE_ETHERNET, &w->parse);
        route[i] = (pal_route){.first = &config->filter[0], .dir = PAL_DIR_OUT};
    }
    pipeline_burst(w, route, packet, n);
    w->out_count = 0;
    engine_leave(r->engine, 0);
}

/* `n` connections, in batches: SYNs, then their SYN+ACKs, then their ACKs. */
static void setup_chunk(setup_run *r, uint32_t n)
{
    uint32_t steps = r->o->syn_only ? 1 : 3;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t rule = bench_below(&r->seed, r->o->rules);
        for (uint32_t step = 0; step < steps; step++) {
            bench_segment s;
            setup_segment(r->next + i, rule, step, &s);
            bench_frame(setup_frame(r, step, i), &s, SETUP_FRAME);
        }
    }
    uint64_t begun = bench_now();
    for (uint32_t from = 0; from < n; from += r->o->batch)
        for (uint32_t step = 0; step < steps; step++)
            setup_burst(r, step, from, min_u32(n - from, r->o->batch));
    r->spent_ns += bench_now() - begun;
    r->next += n;
}

static void setup_connections(setup_run *r, uint64_t n)
{
    for (uint64_t done = 0; done < n;) {
        uint32_t now = (uint32_t)(n - done < SETUP_CHUNK ? n - done : SETUP_CHUNK);
        setup_chunk(r, now);
        done += now;
    }
}

/* What the lines of a new connection and of the one that it expires cost: an index line and two written entry lines of
 * each, in random order, at this table's size. */
static double setup_floor(const pal_worker *w, uint64_t seed)
{
    uint32_t n = w->table.cap4, *order = malloc((size_t)n * sizeof *order);
    if (!order)
        return -1;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = bench_below(&seed, i + 1);
        order[i] = order[at];
        order[at] = i;
    }
    double ns = 2 * bench_floor(order, n, n, w->table.buckets, 2, false);
    free(order);
    return ns;
}

int pal_bench_setup_run(pal_engine *e, const pal_bench_setup *o, pal_bench_run *out, uint32_t runs, char *err, size_t errlen)
{
    pal_worker *w = &e->worker[0].w;
    uint64_t full = (uint64_t)w->table.cap4 * 8 / 10;
    const pal_filter *f = &e->current->filter[0];
    uint32_t timeout = f->timeout[o->syn_only ? TIMER_TCP_FIRST_PACKET : TIMER_TCP_ESTABLISHED];
    setup_run r = {.engine = e, .o = o, .seed = 88172645463325252ull};
    r.frames = aligned_alloc(PAL_CACHE_LINE, (size_t)3 * SETUP_CHUNK * SETUP_FRAME);
    if (!r.frames || o->batch == 0 || o->batch > SETUP_BATCH_MAX || o->rules == 0) {
        snprintf(err, errlen, "no memory, or a batch that is not 1 to %u", SETUP_BATCH_MAX);
        free(r.frames);
        return -1;
    }
    r.step_ns = (uint64_t)timeout * 10000000u / full;
    bench_sink(&e->worker[0]);
    setup_connections(&r, full + full / 4);
    for (uint32_t i = 0; i < runs; i++) {
        memset(w->count, 0, sizeof w->count);
        memset(&out[i], 0, sizeof out[i]);
        out[i].core_ghz = bench_core_ghz();
        out[i].floor_ns[1] = setup_floor(w, r.seed);
        r.spent_ns = 0;
        uint64_t created = w->table.s->created;
        setup_connections(&r, o->connections);
        out[i].ns = (double)r.spent_ns / o->connections;
        uint64_t steps = o->syn_only ? 0 : 2 * (uint64_t)o->connections, used = w->table.s->used[0];
        out[i].verified = w->count[PAL_ALLOW][PAL_REASON_MATCH] == o->connections &&
                          w->count[PAL_ALLOW][PAL_REASON_STATE] == steps && w->table.s->created - created == o->connections &&
                          used > full * 9 / 10 && used < full * 11 / 10;
    }
    free(r.frames);
    return 0;
}
