/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_host.c - packets through two hosts in memory: parse, spoofguard, firewall OUT at the sender, forwarding, Geneve and
 * outer headers into cold packet memory at the one; outer headers, Geneve, forwarding, firewall IN at the other.
 */
#include "bench.h"
#include "host_internal.h"
#include "palisade_bench.h"

#include <stdlib.h>
#include <sys/mman.h>

#define WAY_SLOT 256u /* bytes of each frame's memory, HOST_HEADROOM of them before it; longer frames have more */
#define WAY_LINES 6u
#define WAY_AHEAD 64u /* slots */

/* A frame in memory, as a card's ring names it. */
typedef struct way_slot {
    uint8_t *data;
    uint32_t len, from;         /* bytes; vNIC, or PAL_UPLINK */
} way_slot;

typedef struct way {
    way_slot *in, *out;         /* of the near host; of the far one */
    uint64_t sent, delivered, most; /* of sent */
    outer_ends ends;
    bool far;
} way;

static void way_sink(void *context, const host_out *out, uint32_t n)
{
    way *w = context;
    for (uint32_t i = 0; i < n; i++) {
        const host_out *o = &out[i];
        if (o->vnic != PAL_UPLINK) {
            w->delivered += w->far;
            continue;
        }
        if (w->far || w->sent == w->most)
            continue;
        /* The inner sums are the card's, as on a live uplink. */
        const uint8_t tos = outer_tos(o->data + o->inner, o->len - o->inner);
        if (outer_write(o->data, o->len, &w->ends, o->port, tos, OUTER_SUM_PARTIAL) == 0)
            continue;
        const uint32_t head = outer_bytes(w->ends.local.family);
        prefetch_write(&w->out[w->sent + WAY_AHEAD]); /* a card's ring is used again and again, and so in the cache */
        w->out[w->sent++] = (way_slot){.data = o->data - head, .len = o->len + head, .from = PAL_UPLINK};
    }
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

static double way_run(way *w, host_worker *host, const way_slot *slot, uint64_t n, uint32_t batch, uint64_t now_ns)
{
    host_frame frame[HOST_BURST];
    const uint64_t start = bench_now();
    for (uint64_t at = 0; at < n; at += batch) {
        const void *line[2 * HOST_BURST];
        uint32_t lines = 0;
        const uint32_t k = (uint32_t)(n - at < batch ? n - at : batch);
        for (uint32_t i = k; i < 2 * k && at + i < n; i++) { /* near: where headers will stand, too; far: the inner frame too */
            const uint8_t *data = slot[at + i].data;
            prefetch_read(&slot[at + i + WAY_AHEAD]);
            line[lines++] = data;
            line[lines++] = w->far ? data + PAL_CACHE_LINE : data - PAL_CACHE_LINE;
        }
        host_ahead(host, line, lines);
        for (uint32_t i = 0; i < k; i++) {
            frame[i] = (host_frame){.data = slot[at + i].data, .len = slot[at + i].len, .from = slot[at + i].from};
            if (w->far)
                way_receive(&frame[i]);
        }
        host_burst(host, frame, k, now_ns, way_sink, w);
    }
    return n ? (double)(bench_now() - start) / (double)n : 0;
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

/* The frames' memory alone, at both hosts: its line is read, and the one before it written, a burst at a time. */
static double way_memory(const way_slot *slot, uint64_t n)
{
    uint64_t sum = 0, start = bench_now();
    for (uint32_t host = 0; host < 2; host++)
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
                      uint32_t batch, const uint32_t *order, uint32_t connections, pal_bench_way *out)
{
    host_worker *a = host_worker_of(near, 0), *b = host_worker_of(far, 0);
    way w = {.most = n, .ends = {.local = *from, .remote = *from}};
    size_t room = 0;
    for (uint64_t i = 0; i < n; i++)
        room += (HOST_HEADROOM + frames[i].len + WAY_SLOT - 1) / WAY_SLOT * WAY_SLOT;
    uint8_t *memory = room ? aligned_alloc(PAL_CACHE_LINE, room) : NULL;
    w.in = malloc((n + WAY_AHEAD) * sizeof *w.in);
    w.out = malloc((n + WAY_AHEAD) * sizeof *w.out);
    const bool good = memory && w.in && w.out && batch >= 1 && batch <= HOST_BURST;
    *out = (pal_bench_way){0};
    if (good) {
        uint8_t *at = memory;
        for (uint64_t i = 0; i < n; i++) {
            memcpy(at + HOST_HEADROOM, bytes + frames[i].at, frames[i].len);
            w.in[i] = (way_slot){.data = at + HOST_HEADROOM, .len = frames[i].len, .from = frames[i].vnic};
            at += (HOST_HEADROOM + frames[i].len + WAY_SLOT - 1) / WAY_SLOT * WAY_SLOT;
        }
        memset(w.out, 0, (n + WAY_AHEAD) * sizeof *w.out); /* its pages are there: the kernel's work is not what is timed */
        const uint64_t now_ns = n ? frames[n - 1].now_ns : 0;
        out->near_ns = way_run(&w, a, w.in, n, batch, now_ns);
        w.far = true;
        out->far_ns = way_run(&w, b, w.out, w.sent, batch, now_ns);
        out->sent = w.sent;
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
