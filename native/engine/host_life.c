/* SPDX-License-Identifier: Apache-2.0
 *
 * host_life.c - a host and its workers made and freed, a fabric staged, counters summed.
 */
#include "host_internal.h"

#include <stdio.h>
#include <stdlib.h>

static void host_worker_free(host_worker *w)
{
    if (!w)
        return;
    w->ew->w.context = NULL;
    w->ew->w.flush = NULL;
    w->ew->w.generated = NULL;
    w->ew->w.logged = NULL;
    held_free(w->held);
    log_free(w->log);
    trace_free(w->trace);
    for (uint32_t i = 0; i < HOST_CAPTURES; i++)
        capture_free(w->capture[i]);
    free(w->own);
    free(w->budget);
    free(w->receiver);
    free(w->path);
    free(w->learned);
    free(w);
}

static host_worker *host_worker_new(pal_host *h, uint32_t number)
{
    host_worker *w = aligned_alloc(PAL_CACHE_LINE, (sizeof *w + PAL_CACHE_LINE - 1) & ~(size_t)(PAL_CACHE_LINE - 1));
    if (!w)
        return NULL;
    const uint32_t filters = h->e->options.filters;
    memset(w, 0, sizeof *w);
    w->host = h;
    w->ew = &h->e->worker[number];
    w->number = number;
    w->alone = w->piece = PAL_NONE;
    w->number_next = 1;
    w->own = malloc(HOST_OWN);
    w->held = held_new();
    w->log = log_new();
    w->trace = trace_new();
    w->budget = calloc((size_t)filters + 1, sizeof *w->budget);
    w->receiver = calloc(filters, sizeof *w->receiver);
    w->learned = calloc(LEARN_SLOTS, sizeof *w->learned);
    w->path = aligned_alloc(PAL_CACHE_LINE, PATH_SLOTS * sizeof *w->path);
    if (w->path)
        memset(w->path, 0, PATH_SLOTS * sizeof *w->path);
    w->ew->w.context = w;
    w->ew->w.flush = host_verdicts;
    w->ew->w.generated = host_generated;
    w->ew->w.log_packet = host_log_packet;
    w->ew->w.log_end = host_log_end;
    if (w->own && w->held && w->log && w->trace && w->budget && w->receiver && w->learned && w->path)
        return w;
    host_worker_free(w);
    return NULL;
}

void pal_host_free(pal_host *h)
{
    for (uint32_t i = 0; h && i < h->workers; i++)
        host_worker_free(h->worker[i]);
    free(h);
}

pal_host *pal_host_new(pal_engine *e, char *err, size_t errlen)
{
    pal_host *h = calloc(1, sizeof *h);
    if (h) {
        h->e = e;
        h->workers = e->options.workers;
        for (uint32_t i = 0; i < h->workers; i++) {
            h->worker[i] = host_worker_new(h, i);
            if (!h->worker[i]) {
                pal_host_free(h);
                h = NULL;
                break;
            }
        }
    }
    if (!h)
        snprintf(err, errlen, "no memory for a host");
    return h;
}

pal_engine *host_engine(const pal_host *h) { return h->e; }

host_worker *host_worker_of(pal_host *h, uint32_t number) { return number < h->workers ? h->worker[number] : NULL; }

int pal_host_stage(pal_host *h, const pal_fabric *from, char *err, size_t errlen)
{
    fabric *f = fabric_new(from, h->e->options.filters, h->e->options.seed, err, errlen);
    if (!f)
        return -1;
    if (config_fabric_stage(h->e, f) == 0)
        return 0;
    fabric_drop(f);
    snprintf(err, errlen, "no memory for a configuration");
    return -1;
}

void pal_host_stats_read(const pal_host *h, pal_host_stats *out)
{
    memset(out, 0, sizeof *out);
    for (uint32_t i = 0; i < h->workers; i++) {
        const uint64_t *from = (const uint64_t *)(const void *)&h->worker[i]->stats;
        uint64_t *to = (uint64_t *)(void *)out;
        for (size_t k = 0; k < sizeof *out / sizeof *to; k++)
            to[k] += from[k];
    }
}
