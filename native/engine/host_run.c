/* SPDX-License-Identifier: Apache-2.0
 *
 * host_run.c - frames in memory through a host: what tests and benchmarks put in, and what came out.
 */
#include "host_internal.h"

#include <stdlib.h>

typedef struct run_list {
    void *item;
    uint64_t count, room;
} run_list;

struct pal_host_run {
    run_list frames, bytes, records;
    uint32_t burst;
    uint64_t now_ns, first; /* of this burst; number of this run's first frame, less one */
    bool failed;
    void (*before)(void *context, const pal_judgement *j); /* who else is told */
    void *before_context;
};

static void *run_add(pal_host_run *r, run_list *l, uint64_t n, size_t size)
{
    if (l->room - l->count < n) {
        uint64_t room = l->room ? l->room : 256;
        while (room - l->count < n)
            room *= 2;
        void *bigger = realloc(l->item, room * size);
        if (!bigger) {
            r->failed = true;
            return NULL;
        }
        l->item = bigger;
        l->room = room;
    }
    void *at = (uint8_t *)l->item + l->count * size;
    l->count += n;
    return at;
}

static void run_sink(void *context, const host_out *out, uint32_t n)
{
    pal_host_run *r = context;
    for (uint32_t i = 0; i < n; i++) {
        const host_out *o = &out[i];
        const uint64_t at = r->bytes.count;
        uint8_t *bytes = run_add(r, &r->bytes, o->len, 1);
        pal_host_frame *f = run_add(r, &r->frames, 1, sizeof *f);
        if (!bytes || !f)
            return;
        memcpy(bytes, o->data, o->len);
        *f = (pal_host_frame){.at = at, .now_ns = r->now_ns, .len = o->len, .vnic = o->vnic, .outer = o->outer, .port = o->port, .encap = (uint8_t)o->encap, .inner = o->inner,
                              .hdr_len = o->offload.hdr_len, .gso_size = o->offload.gso_size, .csum_start = o->offload.csum_start,
                              .csum_offset = o->offload.csum_offset, .gso_type = o->offload.gso_type, .flags = o->offload.flags, .burst = r->burst};
    }
}

static void run_told(void *context, const pal_judgement *j)
{
    pal_host_run *r = context;
    if (r->before)
        r->before(r->before_context, j);
    pal_record *x = run_add(r, &r->records, 1, sizeof *x);
    if (x)
        *x = (pal_record){.number = (j->cookie & COOKIE_NUMBER) - r->first, .ts_ns = r->now_ns, .rule = j->rule, .filter = j->filter, .dir = j->dir,
                          .verdict = j->verdict, .reason = j->reason, .ct = j->ct, .reply = j->reply};
}

/* One burst, its frames in memory of their own, each with room before it and nothing behind it. */
static void run_burst(pal_host_run *r, host_worker *w, const uint8_t *bytes, const pal_host_frame *from, uint32_t n)
{
    host_frame frame[HOST_BURST];
    uint8_t *memory[HOST_BURST] = {0};
    for (uint32_t i = 0; i < n && !r->failed; i++) {
        const pal_host_frame *f = &from[i];
        memory[i] = malloc(HOST_HEADROOM + (size_t)f->len);
        if (!memory[i]) {
            r->failed = true;
            break;
        }
        memcpy(memory[i] + HOST_HEADROOM, bytes + f->at, f->len);
        frame[i] = (host_frame){.data = memory[i] + HOST_HEADROOM, .len = f->len, .from = f->vnic, .outer = f->outer, .tos = f->tos, .encap = f->encap,
                                .offload = {.hdr_len = f->hdr_len, .gso_size = f->gso_size, .csum_start = f->csum_start,
                                            .csum_offset = f->csum_offset, .gso_type = f->gso_type, .flags = f->flags}};
        r->now_ns = f->now_ns;
    }
    if (!r->failed)
        host_burst(w, frame, n, r->now_ns, run_sink, r);
    for (uint32_t i = 0; i < n; i++)
        free(memory[i]);
    r->burst++;
}

pal_host_run *pal_host_run_new(pal_host *h, const uint8_t *bytes, const pal_host_frame *frames, uint64_t n, uint32_t batch)
{
    host_worker *w = host_worker_of(h, 0);
    pal_host_run *r = batch >= 1 && batch <= HOST_BURST ? calloc(1, sizeof *r) : NULL;
    if (!r)
        return NULL;
    r->first = w->number_next - 1;
    r->before = w->told;
    r->before_context = w->told_context;
    w->told = run_told;
    w->told_context = r;
    for (uint64_t at = 0; at < n && !r->failed; at += batch)
        run_burst(r, w, bytes, frames + at, (uint32_t)(n - at < batch ? n - at : batch));
    w->told = r->before;
    w->told_context = r->before_context;
    if (!r->failed)
        return r;
    pal_host_run_free(r);
    return NULL;
}

void pal_host_run_free(pal_host_run *r)
{
    if (!r)
        return;
    free(r->frames.item);
    free(r->bytes.item);
    free(r->records.item);
    free(r);
}

const pal_host_frame *pal_host_run_frames(const pal_host_run *r, uint64_t *n) { return *n = r->frames.count, r->frames.item; }
const uint8_t *pal_host_run_bytes(const pal_host_run *r, uint64_t *n) { return *n = r->bytes.count, r->bytes.item; }
const pal_record *pal_host_run_records(const pal_host_run *r, uint64_t *n) { return *n = r->records.count, r->records.item; }
