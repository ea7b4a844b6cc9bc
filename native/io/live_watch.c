/* SPDX-License-Identifier: Apache-2.0
 *
 * live_watch.c - what is asked of a live host's workers, carried to their threads and back.
 */
#define _GNU_SOURCE
#include "live.h"

#include "../engine/watch.h"

#include <stdio.h>
#include <time.h>

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

/* ---- captures --------------------------------------------------------------------------------------------------------- */

typedef struct capture_change {
    pal_host *host;
    uint32_t slot;
    struct host_capture *of[LIVE_WORKERS];
} capture_change;

static void capture_change_one(void *context, uint32_t worker)
{
    capture_change *c = context;
    host_capture_set(host_worker_of(c->host, worker), c->slot, c->of[worker]);
}

int pal_live_capture_begin(pal_live *l, const pal_capture_options *options, char *err, size_t errlen)
{
    capture_change c = {.host = l->what.context};
    while (c.slot < HOST_CAPTURES && host_capture_get(host_worker_of(c.host, 0), c.slot))
        c.slot++;
    if (c.slot == HOST_CAPTURES) {
        snprintf(err, errlen, "%d captures run already", HOST_CAPTURES);
        return -1;
    }
    bool good = options->snap > 0 && options->snap <= PAL_SNAP_MAX;
    for (uint32_t i = 0; i < l->workers && good; i++)
        good = (c.of[i] = capture_new(options)) != NULL;
    if (good) {
        live_call(l, capture_change_one, &c);
        return (int)c.slot;
    }
    for (uint32_t i = 0; i < l->workers; i++)
        capture_free(c.of[i]);
    snprintf(err, errlen, "a capture: no memory, or more than %d bytes of a packet", PAL_SNAP_MAX);
    return -1;
}

void pal_live_capture_end(pal_live *l, uint32_t number)
{
    struct host_capture *old[LIVE_WORKERS];
    capture_change c = {.host = l->what.context, .slot = number};
    if (number >= HOST_CAPTURES)
        return;
    for (uint32_t i = 0; i < l->workers; i++)
        old[i] = host_capture_get(host_worker_of(c.host, i), number);
    live_call(l, capture_change_one, &c);
    for (uint32_t i = 0; i < l->workers; i++)
        capture_free(old[i]);
}

uint64_t pal_live_capture_read(pal_live *l, uint32_t number, uint8_t *out, uint64_t room, uint64_t *lost)
{
    uint64_t n = 0;
    *lost = 0;
    for (uint32_t i = 0; i < l->workers && number < HOST_CAPTURES; i++) {
        struct host_capture *c = host_capture_get(host_worker_of(l->what.context, i), number);
        if (!c)
            continue;
        n += capture_read(c, out + n, room - n);
        *lost += capture_lost(c);
    }
    return n;
}

/* ---- Traceflow ---------------------------------------------------------------------------------------------------------- */

#define TRACE_BYTES 2048u

typedef struct trace_asked {
    pal_live *live;
    uint32_t vnic, mark, len;
    uint8_t room[HOST_HEADROOM + TRACE_BYTES];
} trace_asked;

static void trace_send(void *context, uint32_t worker)
{
    trace_asked *a = context;
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    host_trace_send(host_worker_of(a->live->what.context, worker), a->room + HOST_HEADROOM, a->len, a->vnic, a->mark,
                    (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec, live_sink, &a->live->worker[worker]);
}

int pal_live_trace_send(pal_live *l, uint32_t vnic, const uint8_t *frame, uint32_t len, uint32_t mark)
{
    trace_asked a = {.live = l, .vnic = vnic, .mark = mark, .len = len};
    if (len > TRACE_BYTES)
        return -1;
    memcpy(a.room + HOST_HEADROOM, frame, len);
    live_ask(l, owner_of(frame, len, l->workers), trace_send, &a);
    return 0;
}

uint32_t pal_live_trace_read(pal_live *l, pal_trace_seen *out, uint32_t room)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < l->workers; i++)
        n += host_trace_read(host_worker_of(l->what.context, i), out + n, room - n);
    return n;
}
