/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_stream.c - any frames at any filters, timed: what the search for the worst packets is made of (dfw/bench/adversary.py).
 *
 * The caller says what state the frames meet by playing other frames before them. With `answers` every judgement is kept,
 * without them it is forgotten as benchmarks do; both ways the engine goes through the same packets.
 */
#include "bench.h"

#include <stdlib.h>

#define STREAM_AHEAD 32 /* frames fetched ahead, as a receive ring's driver does */

typedef struct stream_answers {
    uint64_t *of;
} stream_answers;

static void stream_keep(pal_worker *w)
{
    const stream_answers *a = w->context;
    for (uint32_t i = 0; i < w->out_count; i++) {
        const pal_judgement *j = &w->out[i];
        a->of[j->cookie] = (uint64_t)j->rule << 32 | (uint32_t)(j->reply != 0) << 24 | (uint32_t)j->ct << 16 |
                           (uint32_t)j->reason << 8 | j->verdict;
    }
}

/* One burst: parsed, then judged. */
static void stream_burst(pal_engine *e, const uint8_t *bytes, const pal_bench_frame *f, uint64_t at, uint32_t n, uint64_t total)
{
    pal_worker *w = &e->worker[0].w;
    pal_packet packet[CLS_MAX_BURST];
    pal_route route[CLS_MAX_BURST];
    const engine_config *config = engine_enter(e, 0);
    for (uint32_t k = 0; k < n; k++) {
        const pal_bench_frame *now = &f[at + k];
        if (at + k + STREAM_AHEAD < total)
            prefetch_read(bytes + f[at + k + STREAM_AHEAD].at + 14);
        packet[k].data = bytes + now->at;
        packet[k].cap = packet[k].wire = now->len;
        packet[k].ts_ns = packet[k].clock_ns = now->clock_ns;
        packet[k].cookie = at + k;
        parse_frame(&packet[k], LINKTYPE_ETHERNET, &w->parse);
        route[k] = (pal_route){.first = &config->filter[now->filter], .dir = now->dir};
    }
    pipeline_burst(w, route, packet, n);
    if (w->context)
        w->flush(w);
    w->out_count = 0;
    engine_leave(e, 0);
}

uint64_t pal_bench_stream_run(pal_engine *e, const uint8_t *bytes, const pal_bench_frame *frames, uint64_t n, uint32_t batch,
                              uint64_t *answers)
{
    pal_worker *w = &e->worker[0].w;
    stream_answers keep = {.of = answers};
    if (batch == 0 || batch > CLS_MAX_BURST)
        return 0;
    for (uint64_t i = 0; i < n; i++)
        if (frames[i].filter >= e->options.filters)
            return 0;
    bench_sink(&e->worker[0]);
    if (answers) {
        w->context = &keep;
        w->flush = stream_keep;
    }
    uint64_t begun = bench_now();
    for (uint64_t at = 0; at < n; at += batch)
        stream_burst(e, bytes, frames, at, (uint32_t)(n - at < batch ? n - at : batch), n);
    uint64_t spent = bench_now() - begun;
    bench_sink(&e->worker[0]);
    return spent ? spent : 1;
}

struct pal_bench_state {
    size_t len;
    uint8_t region[];
};

pal_bench_state *pal_bench_state_save(const pal_engine *e)
{
    const engine_worker *ew = &e->worker[0];
    pal_bench_state *state = malloc(sizeof *state + ew->region.len);
    if (!state)
        return NULL;
    state->len = ew->region.len;
    memcpy(state->region, ew->region.base, state->len);
    return state;
}

void pal_bench_state_load(pal_engine *e, const pal_bench_state *state)
{
    pal_engine_clear(e);
    memcpy(e->worker[0].region.base, state->region, state->len);
}

void pal_bench_state_free(pal_bench_state *state) { free(state); }
