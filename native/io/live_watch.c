/* SPDX-License-Identifier: Apache-2.0
 *
 * live_watch.c - what is asked of a live host's workers, carried to their threads and back.
 */
#include "live.h"

#include "../engine/watch.h"

typedef struct flows_asked {
    pal_host *host;
    uint32_t from, room, n;
    pal_flow *out;
    const uint64_t *handle;
    int64_t next;
} flows_asked;

static void flows_read(void *context, uint32_t worker)
{
    flows_asked *a = context;
    a->next = host_flows_read(host_worker_of(a->host, worker), a->from, a->out, a->room, &a->n);
}

int64_t pal_live_flows_read(pal_live *l, uint32_t worker, uint32_t from, pal_flow *out, uint32_t room, uint32_t *n)
{
    flows_asked a = {.host = l->what.context, .from = from, .room = room, .out = out, .next = -1};
    if (worker < l->workers)
        live_ask(l, worker, flows_read, &a);
    *n = a.n;
    return a.next;
}

static void flows_end(void *context, uint32_t worker)
{
    flows_asked *a = context;
    a->n = host_flows_end(host_worker_of(a->host, worker), a->handle, a->room);
}

uint32_t pal_live_flows_end(pal_live *l, uint32_t worker, const uint64_t *handle, uint32_t n)
{
    flows_asked a = {.host = l->what.context, .handle = handle, .room = n};
    if (worker < l->workers)
        live_ask(l, worker, flows_end, &a);
    return a.n;
}

uint64_t pal_live_behind(const pal_live *l, uint32_t worker)
{
    return worker < l->workers ? host_behind(host_worker_of(l->what.context, worker)) : 0;
}

uint32_t pal_live_log_read(pal_live *l, pal_log_record *out, uint32_t room)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < l->workers; i++)
        n += host_log_read(host_worker_of(l->what.context, i), out + n, room - n);
    return n;
}

void pal_live_log_counts(const pal_live *l, pal_log_counts *out)
{
    *out = (pal_log_counts){0};
    for (uint32_t i = 0; i < l->workers; i++)
        host_log_counts(host_worker_of(l->what.context, i), out);
}
