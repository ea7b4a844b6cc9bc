/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_host.c - packets through two hosts in memory: parse, spoofguard, firewall OUT at the sender, forwarding, Geneve and
 * outer headers into cold packet memory at the one; outer headers, Geneve, forwarding, firewall IN at the other.
 *
 * Six lines of a packet come from memory: an index line and a connection's at each host, its own two where it begins.
 */
#include "bench.h"
#include "host_internal.h"
#include "palisade_bench.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#define WAY_SLOT 256u /* bytes of each frame's memory, HOST_HEADROOM of them before it; longer frames have more */
#define WAY_LINES 6u
#define WAY_AHEAD 64u /* slots */

/* A frame in memory, as a card's ring names it. */
typedef struct way_slot {
    uint8_t *data;
    uint32_t len, from;         /* bytes; vNIC, or PAL_UPLINK */
} way_slot;

typedef struct way {
    host_worker *near, *far;
    way_slot *in, *out;         /* of the near host; of the far one: a burst's, or, if they are apart, all */
    uint64_t outs, delivered, most; /* in `out`, and how many there is room for; reached a vNIC of the far host */
    outer_ends ends;
    uint32_t batch;
    uint64_t now_ns;
} way;

/* The near host's. */
static void way_leave(void *context, const host_out *out, uint32_t n)
{
    way *w = context;
    for (uint32_t i = 0; i < n; i++) {
        const host_out *o = &out[i];
        if (o->vnic != PAL_UPLINK || w->outs == w->most)
            continue;
        /* The inner sums are the card's, as on a live uplink. */
        const uint8_t tos = outer_tos(o->data + o->inner, o->len - o->inner);
        if (outer_write(o->data, o->len, &w->ends, o->port, tos, OUTER_SUM_PARTIAL) == 0)
            continue;
        const uint32_t head = outer_bytes(w->ends.local.family);
        prefetch_write(&w->out[w->outs + WAY_AHEAD]); /* a card's ring is used again and again, and so in the cache */
        w->out[w->outs++] = (way_slot){.data = o->data - head, .len = o->len + head, .from = PAL_UPLINK};
    }
}

/* The far host's. */
static void way_arrive(void *context, const host_out *out, uint32_t n)
{
    way *w = context;
    for (uint32_t i = 0; i < n; i++)
        w->delivered += out[i].vnic != PAL_UPLINK;
}

static void way_receive(host_frame *f)
{
    outer_found found;
    if (outer_read(f->data, f->len, OUTER_VERIFIED, &found) != PAL_REASON_MATCH)
        return;
    f->data += found.at;
    f->len = found.len;
    f->outer = found.from;
    f->tos = found.tos;
}

/* Lines of n frames that are fetched while others are worked on: near, also those where headers will stand; far, the inner frames' too. */
static uint32_t way_lines(const void **line, const way_slot *slot, uint32_t n, bool far)
{
    for (uint32_t i = 0; i < n; i++) {
        prefetch_read(&slot[i + WAY_AHEAD]);
        line[2 * i] = slot[i].data;
        line[2 * i + 1] = far ? slot[i].data + PAL_CACHE_LINE : slot[i].data - PAL_CACHE_LINE;
    }
    return 2 * n;
}

static void way_burst(way *w, const way_slot *slot, uint32_t n, bool far)
{
    host_frame frame[HOST_BURST];
    for (uint32_t i = 0; i < n; i++) {
        frame[i] = (host_frame){.data = slot[i].data, .len = slot[i].len, .from = slot[i].from};
        if (far)
            way_receive(&frame[i]);
    }
    host_burst(far ? w->far : w->near, frame, n, w->now_ns, far ? way_arrive : way_leave, w);
}

/* Read without a system call. */
static uint64_t way_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint32_t way_batch(const way *w, uint64_t left) { return (uint32_t)(left < w->batch ? left : w->batch); }

/* Each burst through both hosts: its frames come from memory at the one, where they were written, and are at hand at the other. Half
 * of the next burst's lines are fetched at each. What both take is the thread's time; a cheaper clock tells how much is whose.
 * Returns how many were sent. */
static uint64_t way_run(way *w, uint64_t n, pal_bench_way *out)
{
    const void *line[2 * HOST_BURST];
    uint64_t sent = 0, near = 0, far = 0;
    const uint64_t start = bench_now();
    uint64_t before = way_clock();
    for (uint64_t at = 0; at < n; sent += w->outs) {
        const uint32_t k = way_batch(w, n - at), lines = way_lines(line, &w->in[at + k], way_batch(w, n - at - k), false);
        w->outs = 0;
        host_ahead(w->near, line, lines / 2);
        way_burst(w, &w->in[at], k, false);
        const uint64_t between = way_clock();
        host_ahead(w->far, line + lines / 2, lines - lines / 2);
        way_burst(w, w->out, (uint32_t)w->outs, true);
        const uint64_t after = way_clock();
        near += between - before;
        far += after - between;
        before = after;
        at += k;
    }
    const double ns = n ? (double)(bench_now() - start) / (double)n : 0, share = near + far ? (double)near / (double)(near + far) : 0;
    out->near_ns = ns * share;
    out->far_ns = ns - out->near_ns;
    return sent;
}

static double way_run_one(way *w, const way_slot *slot, uint64_t n, bool far)
{
    const void *line[2 * HOST_BURST];
    const uint64_t start = bench_now();
    for (uint64_t at = 0; at < n;) {
        const uint32_t k = way_batch(w, n - at), lines = way_lines(line, &slot[at + k], way_batch(w, n - at - k), far);
        host_ahead(far ? w->far : w->near, line, lines);
        way_burst(w, &slot[at], k, far);
        at += k;
    }
    return n ? (double)(bench_now() - start) / (double)n : 0;
}

/* All at the one host, then all at the other: frames come from memory at both. */
static uint64_t way_run_apart(way *w, uint64_t n, pal_bench_way *out)
{
    out->near_ns = way_run_one(w, w->in, n, false);
    out->far_ns = way_run_one(w, w->out, w->outs, true);
    return w->outs;
}

/* Six lines a step, each of `connections` of its own array, asked for and then written, a burst at a time. */
static double way_floor(const uint32_t *order, uint64_t n, uint32_t connections)
{
    const size_t len = (size_t)connections * PAL_CACHE_LINE;
    uint64_t *line = mmap(NULL, len * WAY_LINES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (line == MAP_FAILED)
        return -1;
    memset(line, 0, len * WAY_LINES);
    const uint64_t start = bench_now();
    for (uint64_t i = 0; i + WORKER_BURST <= n; i += WORKER_BURST) {
        for (uint32_t k = 0; k < WORKER_BURST; k++)
            for (uint32_t j = 0; j < WAY_LINES; j++)
                prefetch_write(&line[((size_t)j * connections + order[i + k]) * 8]);
        for (uint32_t k = 0; k < WORKER_BURST; k++)
            for (uint32_t j = 0; j < WAY_LINES; j++)
                line[((size_t)j * connections + order[i + k]) * 8] += i;
    }
    const double ns = (double)(bench_now() - start) / (double)(n / WORKER_BURST * WORKER_BURST);
    munmap(line, len * WAY_LINES);
    return ns;
}

/* The frames' memory alone: its line is read, and the one before it written, a burst at a time. */
static double way_memory(const way_slot *slot, uint64_t n)
{
    uint64_t sum = 0, start = bench_now();
    for (uint64_t at = 0; at + WORKER_BURST <= n; at += WORKER_BURST) {
        for (uint32_t k = 0; k < WORKER_BURST; k++) {
            prefetch_read(slot[at + k].data);
            prefetch_write(slot[at + k].data - PAL_CACHE_LINE);
        }
        for (uint32_t k = 0; k < WORKER_BURST; k++) {
            uint64_t *before = (uint64_t *)(void *)(slot[at + k].data - PAL_CACHE_LINE);
            sum += *(before + PAL_CACHE_LINE / sizeof sum);
            *before = sum;
        }
    }
    return (double)(bench_now() - start) / (double)(n / WORKER_BURST * WORKER_BURST);
}

int pal_bench_way_run(pal_host *near, pal_host *far, const uint8_t *bytes, const pal_host_frame *frames, uint64_t n, const pal_address *from,
                      uint32_t batch, int apart, const uint32_t *order, uint32_t connections, pal_bench_way *out)
{
    way w = {.near = host_worker_of(near, 0), .far = host_worker_of(far, 0), .most = apart ? n : HOST_BURST, .batch = batch,
             .ends = {.local = *from, .remote = *from}};
    size_t room = 0;
    for (uint64_t i = 0; i < n; i++)
        room += (HOST_HEADROOM + frames[i].len + WAY_SLOT - 1) / WAY_SLOT * WAY_SLOT;
    uint8_t *memory = room ? aligned_alloc(PAL_CACHE_LINE, room) : NULL;
    w.in = malloc((n + WAY_AHEAD) * sizeof *w.in);
    w.out = malloc((w.most + WAY_AHEAD) * sizeof *w.out);
    const bool good = memory && w.in && w.out && batch >= 1 && batch <= HOST_BURST;
    *out = (pal_bench_way){0};
    if (good) {
        uint8_t *at = memory;
        for (uint64_t i = 0; i < n; i++) {
            memcpy(at + HOST_HEADROOM, bytes + frames[i].at, frames[i].len);
            w.in[i] = (way_slot){.data = at + HOST_HEADROOM, .len = frames[i].len, .from = frames[i].vnic};
            at += (HOST_HEADROOM + frames[i].len + WAY_SLOT - 1) / WAY_SLOT * WAY_SLOT;
        }
        memset(w.out, 0, (w.most + WAY_AHEAD) * sizeof *w.out); /* its pages are there: the kernel's work is not what is timed */
        w.now_ns = n ? frames[n - 1].now_ns : 0;
        out->sent = apart ? way_run_apart(&w, n, out) : way_run(&w, n, out);
        out->delivered = w.delivered;
        if (order) {
            out->floor_ns = way_floor(order, n, connections);
            out->memory_ns = way_memory(w.in, n);
        }
    }
    free(memory);
    free(w.in);
    free(w.out);
    return good ? 0 : -1;
}
