/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "live.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* ---- memory ------------------------------------------------------------------------------------------------------- */

/* Zeroed pages, of which only those that are used take memory. NULL: none are left. */
static void *live_pages(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}
static void live_pages_free(void *p, size_t bytes)
{
    if (p)
        munmap(p, bytes);
}

static void live_worker_end(live_worker *w, uint32_t workers)
{
    if (w->in)
        for (uint32_t i = 0; i < workers; i++)
            live_pages_free(w->in[i].bytes, RING_BYTES);
    free(w->in);
    live_pages_free(w->port, LIVE_PORTS * sizeof *w->port);
    live_pages_free(w->pool.base, (size_t)LIVE_BUFFERS * FRAME_STRIDE);
    live_pages_free(w->out.room.base, (size_t)GATHER_FLOWS * FRAME_STRIDE);
    if (w->epoll >= 0)
        close(w->epoll);
    if (w->wake >= 0)
        close(w->wake);
}

static bool live_worker_begin(live_worker *w, pal_live *l, uint32_t number)
{
    w->live = l;
    w->number = number;
    w->epoll = epoll_create1(EPOLL_CLOEXEC);
    w->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    w->port = live_pages(LIVE_PORTS * sizeof *w->port);
    w->pool = (frame_pool){.base = live_pages((size_t)LIVE_BUFFERS * FRAME_STRIDE), .n = LIVE_BUFFERS};
    w->out.room = (frame_pool){.base = live_pages((size_t)GATHER_FLOWS * FRAME_STRIDE), .n = GATHER_FLOWS};
    w->in = aligned_alloc(PAL_CACHE_LINE, l->workers * sizeof *w->in);
    if (w->in == NULL || w->port == NULL || w->pool.base == NULL || w->out.room.base == NULL || w->epoll < 0 || w->wake < 0)
        return false;
    memset(w->in, 0, l->workers * sizeof *w->in);
    for (uint32_t i = 0; i < l->workers; i++)
        if (i != number && (w->in[i].bytes = live_pages(RING_BYTES)) == NULL)
            return false;
    struct epoll_event wake = {.events = EPOLLIN, .data.u64 = EVENT_WAKE}, said = {.events = EPOLLIN, .data.u64 = EVENT_CONTROL};
    return epoll_ctl(w->epoll, EPOLL_CTL_ADD, w->wake, &wake) == 0 &&
           (number > 0 || epoll_ctl(w->epoll, EPOLL_CTL_ADD, l->said[0], &said) == 0);
}

static void live_port_free(live_port *p)
{
    for (uint32_t q = 0; q < p->queues; q++)
        close(p->fd[q]);
    free(p->counts);
    free(p);
}

pal_live *live_new(live_switch what, uint32_t workers, char *err, size_t errlen)
{
    if (workers == 0 || workers > LIVE_WORKERS) {
        snprintf(err, errlen, "1 to %d workers", LIVE_WORKERS);
        return NULL;
    }
    pal_live *l = calloc(1, sizeof *l);
    if (l) {
        l->what = what;
        l->workers = workers;
        pthread_mutex_init(&l->control, NULL);
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, l->said) != 0)
            l->said[0] = l->said[1] = -1;
        l->port = live_pages(LIVE_PORTS * sizeof *l->port);
        l->worker = aligned_alloc(PAL_CACHE_LINE, workers * sizeof *l->worker);
    }
    bool good = l && l->port && l->worker && l->said[0] >= 0;
    if (l && l->worker) {
        memset(l->worker, 0, workers * sizeof *l->worker);
        for (uint32_t i = 0; i < workers; i++)
            l->worker[i].epoll = l->worker[i].wake = -1;
    }
    for (uint32_t i = 0; i < workers && good; i++)
        good = live_worker_begin(&l->worker[i], l, i);
    if (good)
        return l;
    snprintf(err, errlen, "workers: %s", strerror(errno));
    pal_live_free(l);
    return NULL;
}

void pal_live_free(pal_live *l)
{
    if (l == NULL)
        return;
    pal_live_stop(l);
    for (uint32_t i = 0; l->worker && i < l->workers; i++)
        live_worker_end(&l->worker[i], l->workers);
    for (uint32_t i = 0; l->port && i < LIVE_PORTS; i++)
        if (l->port[i])
            live_port_free(l->port[i]);
    live_pages_free(l->port, LIVE_PORTS * sizeof *l->port);
    if (l->uplink) {
        uplink_close(l->uplink);
        free(l->uplink);
    }
    for (uint32_t i = 0; i < 2; i++)
        if (l->said[i] >= 0)
            close(l->said[i]);
    free(l->worker);
    pthread_mutex_destroy(&l->control);
    free(l);
}

/* ---- threads ------------------------------------------------------------------------------------------------------ */

static void live_stop(pal_live *l, uint32_t started)
{
    __atomic_store_n(&l->stop, 1, __ATOMIC_RELEASE);
    for (uint32_t i = 0; i < started; i++)
        eventfd_write(l->worker[i].wake, 1);
    for (uint32_t i = 0; i < started; i++)
        pthread_join(l->worker[i].thread, NULL);
    l->running = false;
}

int pal_live_start(pal_live *l, char *err, size_t errlen)
{
    int failed = 0;
    pthread_mutex_lock(&l->control);
    if (!l->running) {
        __atomic_store_n(&l->stop, 0, __ATOMIC_RELEASE);
        for (uint32_t i = 0; i < l->workers && !failed; i++) {
            failed = pthread_create(&l->worker[i].thread, NULL, live_worker_run, &l->worker[i]);
            if (failed) {
                snprintf(err, errlen, "worker %u: %s", i, strerror(failed));
                live_stop(l, i);
            }
        }
        l->running = failed == 0;
    }
    pthread_mutex_unlock(&l->control);
    return failed ? -1 : 0;
}

void pal_live_stop(pal_live *l)
{
    pthread_mutex_lock(&l->control);
    if (l->running)
        live_stop(l, l->workers);
    pthread_mutex_unlock(&l->control);
}

/* The workers `from` to `end` have carried it out when this returns. */
static void live_tell_some(pal_live *l, live_command *c, uint32_t from, uint32_t end)
{
    if (!l->running) {
        for (uint32_t i = from; i < end; i++)
            live_worker_obey(&l->worker[i], c);
        return;
    }
    sem_init(&c->done, 0, 0);
    for (uint32_t i = from; i < end; i++) {
        __atomic_store_n(&l->worker[i].mail, c, __ATOMIC_RELEASE);
        eventfd_write(l->worker[i].wake, 1);
    }
    for (uint32_t i = from; i < end;)
        i += sem_wait(&c->done) == 0;
    sem_destroy(&c->done);
}

static void live_tell(pal_live *l, live_command *c) { live_tell_some(l, c, 0, l->workers); }

void live_call(pal_live *l, void (*call)(void *context, uint32_t worker), void *context)
{
    live_command c = {.kind = LIVE_CALL, .call = call, .context = context};
    pthread_mutex_lock(&l->control);
    live_tell(l, &c);
    pthread_mutex_unlock(&l->control);
}

void live_ask(pal_live *l, uint32_t number, void (*call)(void *context, uint32_t worker), void *context)
{
    live_command c = {.kind = LIVE_CALL, .call = call, .context = context};
    pthread_mutex_lock(&l->control);
    live_tell_some(l, &c, number, number + 1);
    pthread_mutex_unlock(&l->control);
}

/* ---- ports and uplink --------------------------------------------------------------------------------------------- */

int pal_live_port_add(pal_live *l, uint32_t filter, const int32_t *fd, uint32_t queues, uint32_t offloads, char *err, size_t errlen)
{
    if (filter >= LIVE_PORTS || queues == 0 || queues > PAL_TAP_QUEUES) {
        snprintf(err, errlen, "port %u: number or queues out of bounds", filter);
        return -1;
    }
    live_port *p = calloc(1, sizeof *p);
    live_counts *counts = aligned_alloc(PAL_CACHE_LINE, l->workers * sizeof *counts);
    if (p == NULL || counts == NULL) {
        free(p);
        free(counts);
        snprintf(err, errlen, "port %u: no memory", filter);
        return -1;
    }
    memset(counts, 0, l->workers * sizeof *counts);
    p->filter = filter;
    p->header = offloads & TAP_PACKET_SOCKET ? VIRTIO_SHORT_BYTES : VIRTIO_BYTES;
    p->uso = (offloads & (TAP_USO4 | TAP_USO6)) != 0;
    p->counts = counts;
    for (; p->queues < queues; p->queues++) {
        int own = fcntl(fd[p->queues], F_DUPFD_CLOEXEC, 3);
        if (own < 0 || fcntl(own, F_SETFL, fcntl(own, F_GETFL) | O_NONBLOCK) != 0) {
            snprintf(err, errlen, "port %u: file descriptor %d: %s", filter, fd[p->queues], strerror(errno));
            if (own >= 0)
                close(own);
            live_port_free(p);
            return -1;
        }
        p->fd[p->queues] = own;
    }
    pthread_mutex_lock(&l->control);
    const bool taken = l->port[filter] != NULL;
    if (!taken) {
        live_command c = {.kind = LIVE_PORT_ADD, .port = p};
        l->port[filter] = p;
        live_tell(l, &c);
    }
    pthread_mutex_unlock(&l->control);
    if (!taken)
        return 0;
    snprintf(err, errlen, "port %u: there already", filter);
    live_port_free(p);
    return -1;
}

int pal_live_port_remove(pal_live *l, uint32_t filter, char *err, size_t errlen)
{
    pthread_mutex_lock(&l->control);
    live_port *p = filter < LIVE_PORTS ? l->port[filter] : NULL;
    if (p) {
        live_command c = {.kind = LIVE_PORT_REMOVE, .port = p};
        live_tell(l, &c);
        l->port[filter] = NULL;
        live_port_free(p);
    } else {
        snprintf(err, errlen, "port %u: not there", filter);
    }
    pthread_mutex_unlock(&l->control);
    return p ? 0 : -1;
}

int pal_live_uplink_set(pal_live *l, const pal_uplink_options *options, char *err, size_t errlen)
{
    uplink *u = NULL;
    if (options) {
        u = malloc(sizeof *u);
        if (u == NULL) {
            snprintf(err, errlen, "uplink: no memory");
            return -1;
        }
        if (uplink_open(u, options, l->workers, err, errlen) != 0) {
            free(u);
            return -1;
        }
    }
    const int tier = u ? (int)u->tier : PAL_TIER_AUTO;
    pthread_mutex_lock(&l->control);
    live_command c = {.kind = LIVE_UPLINK, .uplink = u};
    uplink *old = l->uplink;
    live_tell(l, &c);
    l->uplink = u;
    pthread_mutex_unlock(&l->control);
    if (old) {
        uplink_close(old);
        free(old);
    }
    return tier;
}

int pal_live_control_fd(const pal_live *l) { return l->said[1]; }

/* ---- counters ----------------------------------------------------------------------------------------------------- */

static void live_sum(pal_live_counts *out, const io_counts *counts)
{
    uint64_t *to = (uint64_t *)out;
    const uint64_t *from = (const uint64_t *)counts;
    for (uint32_t i = 0; i < sizeof *out / sizeof *to; i++)
        to[i] += __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}

int pal_live_port_read(pal_live *l, uint32_t filter, pal_live_counts *out)
{
    *out = (pal_live_counts){0};
    pthread_mutex_lock(&l->control);
    const live_port *p = filter < LIVE_PORTS ? l->port[filter] : NULL;
    for (uint32_t i = 0; p && i < l->workers; i++)
        live_sum(out, &p->counts[i].c);
    pthread_mutex_unlock(&l->control);
    return p ? 0 : -1;
}

int pal_live_uplink_read(pal_live *l, pal_live_counts *out)
{
    *out = (pal_live_counts){0};
    pthread_mutex_lock(&l->control);
    const uplink *u = l->uplink;
    for (uint32_t i = 0; u && i < u->queues; i++)
        live_sum(out, uplink_queue_counts(u->queue[i]));
    pthread_mutex_unlock(&l->control);
    return u ? 0 : -1;
}

void pal_live_lost_read(pal_live *l, pal_live_counts *out)
{
    *out = (pal_live_counts){0};
    for (uint32_t i = 0; i < l->workers; i++)
        live_sum(out, &l->worker[i].lost);
}

int pal_live_worker_read(pal_live *l, uint32_t number, pal_live_worker *out)
{
    if (number >= l->workers)
        return -1;
    pthread_mutex_lock(&l->control);
    const live_worker *w = &l->worker[number];
    const uint64_t *from = (const uint64_t *)&w->seen;
    uint64_t *to = (uint64_t *)out;
    for (uint32_t i = 0; i < sizeof *out / sizeof *to; i++)
        to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
    clockid_t clock;
    struct timespec t = {0};
    if (l->running && pthread_getcpuclockid(w->thread, &clock) == 0 && clock_gettime(clock, &t) == 0)
        out->cpu_ns = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    pthread_mutex_unlock(&l->control);
    return 0;
}
