/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "uplink.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- opening ------------------------------------------------------------------------------------------------------ */

void *uplink_queue_new(const uplink_kind *kind, size_t size, uint32_t receive, uint32_t spare, const pal_address *local)
{
    const uint32_t buffers = receive + spare;
    size = (size + PAL_CACHE_LINE - 1) / PAL_CACHE_LINE * PAL_CACHE_LINE;
    uplink_queue *q = aligned_alloc(PAL_CACHE_LINE, size);
    /* Pages that are never touched take no memory: most frames are short. */
    uint8_t *base = mmap(NULL, (size_t)buffers * FRAME_STRIDE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (q == NULL || base == MAP_FAILED) {
        free(q);
        if (base != MAP_FAILED)
            munmap(base, (size_t)buffers * FRAME_STRIDE);
        return NULL;
    }
    memset(q, 0, size);
    q->kind = kind;
    q->fd = q->vxlan = -1;
    q->pool = (frame_pool){.base = base, .n = buffers};
    q->receive = receive;
    q->spare = receive;
    q->local = *local;
    return q;
}

void uplink_queue_free(uplink_queue *q)
{
    if (q == NULL)
        return;
    q->kind->close(q);
    int fd[UPLINK_FDS];
    for (uint32_t i = uplink_queue_fds(q, fd); i > 0; i--)
        close(fd[i - 1]);
    munmap(q->pool.base, (size_t)q->pool.n * FRAME_STRIDE);
    free(q);
}

int uplink_open(uplink *u, const pal_uplink_options *o, uint32_t queues, char *err, size_t errlen)
{
    *u = (uplink){.queues = queues};
    if (queues == 0 || o->name == NULL || queues > PAL_TAP_QUEUES || o->tier > PAL_TIER_C || (o->local.family != PAL_FAMILY_V4 && o->local.family != PAL_FAMILY_V6)) {
        snprintf(err, errlen, "uplink: tier, name, address or number of queues out of bounds");
        return -1;
    }
    uint32_t first = o->tier == PAL_TIER_AUTO ? PAL_TIER_A : o->tier, last = o->tier == PAL_TIER_AUTO ? PAL_TIER_C : o->tier;
    for (u->tier = first; u->tier <= last; u->tier++) {
        if ((u->tier == PAL_TIER_A ? &uplink_kind_tap : &uplink_kind_udp)->open(u, o, err, errlen) == 0)
            return 0;
        uplink_close(u);
    }
    return -1;
}

void uplink_close(uplink *u)
{
    for (uint32_t i = 0; i < u->queues; i++) {
        uplink_queue_free(u->queue[i]);
        u->queue[i] = NULL;
    }
}

/* ---- frames ------------------------------------------------------------------------------------------------------- */

uint32_t uplink_queue_fds(const uplink_queue *q, int *fd)
{
    uint32_t n = 0;
    if (q->fd >= 0)
        fd[n++] = q->fd;
    if (q->vxlan >= 0)
        fd[n++] = q->vxlan;
    return n;
}
const io_counts *uplink_queue_counts(const uplink_queue *q) { return &q->counts; }
uint32_t uplink_receive(uplink_queue *q, host_frame *frame, uint32_t room) { return q->kind->receive(q, frame, room); }
bool uplink_waits(const uplink_queue *q) { return q->rest_bytes > 0 || q->unopened > 0; }
void uplink_send(uplink_queue *q, const host_out *out) { q->kind->send(q, out); }
void uplink_flush(uplink_queue *q) { q->kind->flush(q); }

void uplink_release(uplink_queue *q)
{
    q->spare = q->receive;
    if (q->rest_bytes == 0)
        q->received = q->bytes = 0;
}

uint32_t uplink_split(uplink_queue *q, host_frame *frame, uint32_t n, uint32_t room)
{
    while (q->rest_bytes > 0 && n < room && (q->rest_first || q->spare < q->pool.n)) {
        uint8_t *data = q->rest;
        const uint32_t len = min_u32(q->rest_bytes, q->rest_size);
        const bool first = q->rest_first;
        q->rest += len;
        q->rest_bytes -= len;
        q->rest_first = false;
        host_frame one = {.data = data, .len = len, .from = PAL_UPLINK, .outer = q->rest_from, .tos = q->rest_tos, .encap = q->rest_encap};
        if (coalesce_add(&q->open, frame, &one, n, FRAME_ROOM - FRAME_HEADROOM))
            continue;
        if (!first) { /* what stands before it is another frame's end, and it may need its headroom */
            uint8_t *own = frame_at(&q->pool, q->spare++);
            memcpy(own, data, len);
            one.data = own;
        }
        frame[n++] = one;
    }
    return n;
}
