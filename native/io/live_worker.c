/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "live.h"
#include "pace.h"
#include "segment.h"

#include <errno.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
    EVENTS = 64,
    TICK_MS = 100,       /* asleep, time passes for the switch this often */
    LIVE_SHORT_MAX = 128, /* segments: UDP_MAX_SEGMENTS; more are no kernel's */
    SLICE_NS = 100000,   /* of the processor, asked for: the least that the kernel gives */
    NAP_SLACK_NS = 1000, /* by which a nap may be longer: the kernel's default is longer than a nap */
};

static uint64_t live_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t); /* goes on while the machine is suspended: deadlines are of the outside world */
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- out ---------------------------------------------------------------------------------------------------------- */

/* To whoever listens at the control socket. */
static void live_control_out(live_worker *w, const host_out *o)
{
    pal_live_control c = {.outer = o->outer, .inner = o->inner};
    struct iovec v[2] = {{&c, sizeof c}, {o->data, o->len}};
    const struct msghdr m = {.msg_iov = v, .msg_iovlen = 2};
    if (o->len > LIVE_CONTROL_BYTES || sendmsg(w->live->said[0], &m, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        io_add(&w->lost.drop[PAL_REASON_QUEUE_FULL], 1);
}

void live_sink(void *context, const host_out *out, uint32_t n)
{
    live_worker *w = context;
    for (uint32_t i = 0; i < n; i++) {
        const host_out *o = &out[i];
        if (o->vnic == PAL_UPLINK) {
            if (PAL_LIKELY(w->uplink != NULL))
                uplink_send(w->uplink, o);
            else
                io_add(&w->lost.drop[PAL_REASON_LINK_DOWN], 1);
            continue;
        }
        if (PAL_UNLIKELY(o->vnic == HOST_CONTROL)) {
            live_control_out(w, o);
            continue;
        }
        const live_port *p = o->vnic < LIVE_PORTS ? w->port[o->vnic] : NULL;
        if (PAL_LIKELY(p != NULL)) {
            const gather_card card = {p->fd[w->number % p->queues], p->header, p->uso, &p->counts[w->number].c};
            gather_add(&w->out, &card, o);
        } else {
            io_add(&w->lost.drop[PAL_REASON_LINK_DOWN], 1);
        }
    }
    gather_flush(&w->out); /* what we were given is ours until we return */
    if (w->uplink)
        uplink_flush(w->uplink);
}

static bool live_burst_full(const live_worker *w) { return w->frames == HOST_BURST || w->bytes >= BURST_BYTES; }

/* What has been read goes through the switch; its buffers are free then. */
static void live_burst(live_worker *w)
{
    const uint32_t n = w->frames;
    w->carried += w->bytes;
    w->frames = w->bytes = 0;
    w->live->what.burst(w->live->what.context, w->number, w->frame, n, live_now(), live_sink, w);
    if (w->uplink)
        uplink_release(w->uplink);
    if (n == 0)
        return;
    io_add(&w->seen.bursts, 1);
    io_add(&w->seen.frames, n);
}

/* ---- in ----------------------------------------------------------------------------------------------------------- */

/* The frames from `first` on have been read; those of other workers go to them. */
static void live_sort(live_worker *w, uint32_t first)
{
    const uint32_t workers = w->live->workers;
    uint32_t kept = first;
    if (workers == 1)
        return;
    for (uint32_t i = first; i < w->frames; i++) {
        host_frame *f = &w->frame[i];
        uint32_t skip = f->from == PAL_UPLINK && f->len >= 8 ? encap_len(f->encap, f->data) : 0;
        skip = min_u32(skip, f->len);
        const uint32_t owner = owner_of(f->data + skip, f->len - skip, workers);
        if (owner == w->number) {
            w->frame[kept++] = *f; /* buffers keep their places: frames read later must not take one that is in use */
            continue;
        }
        live_worker *to = &w->live->worker[owner];
        if (ring_put(&to->in[w->number], f)) {
            io_add(&w->seen.handed, 1);
            w->handed_to |= 1u << owner;
        } else {
            io_add(&w->lost.drop[PAL_REASON_QUEUE_FULL], 1);
        }
    }
    if (kept == w->frames)
        return;
    w->frames = kept;
    live_burst(w);
}

/* Whoever was given frames is woken, if it sleeps. */
static void live_wake(live_worker *w)
{
    for (; w->handed_to; w->handed_to &= w->handed_to - 1) {
        live_worker *to = &w->live->worker[__builtin_ctz(w->handed_to)];
        __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the frame is in the ring before we look; it looks after saying so */
        if (__atomic_load_n(&to->asleep, __ATOMIC_RELAXED))
            eventfd_write(to->wake, 1);
    }
}

/* Whether the frame that was read last is a UDP super-packet of segments so short that the switch takes none such: a workload that
 * routes hands on what gather.h made. Those that are not one all through are the switch's to refuse. */
static bool live_is_short(const host_frame *f, segment_plan *s)
{
    return f->offload.gso_type == VIRTIO_GSO_UDP_L4 && f->offload.gso_size < OFFLOAD_SEGMENT_LEAST &&
           segment_plan_make(s, f->data, f->len, &f->offload) && s->count <= LIVE_SHORT_MAX && segment_plan_is_udp(s, f->data, f->len);
}

/* It becomes the packets that it stands for; each is judged by itself. Those read before it, from `first` on, come first. */
static void live_cut(live_worker *w, const segment_plan *s, uint32_t first)
{
    const host_frame whole = w->frame[w->frames];
    uint8_t *from = frame_at(&w->pool, HOST_BURST); /* a buffer of no frame's */
    memcpy(from, whole.data, whole.len);
    live_sort(w, first);
    for (uint32_t i = 0; i < s->count; i++) {
        uint32_t at, bytes = segment_bytes(s, i, 1, &at);
        host_frame *f = &w->frame[w->frames];
        *f = (host_frame){.data = frame_at(&w->pool, w->frames), .len = s->headers + bytes, .from = whole.from};
        segment_headers(s, from, i, 1, f->data);
        memcpy(f->data + s->headers, from + at, bytes);
        w->bytes += f->len;
        live_sort(w, w->frames++);
        if (live_burst_full(w))
            live_burst(w);
    }
}

static void live_read_port(live_worker *w, live_port *p)
{
    io_counts *counts = &p->counts[w->number].c;
    segment_plan s;
    for (uint32_t read = 0; read < HOST_BURST;) {
        uint32_t first = w->frames;
        bool more = true;
        for (; !live_burst_full(w) && read < HOST_BURST; read++) {
            uint8_t *data = frame_at(&w->pool, w->frames);
            int32_t len = tap_read(p->fd[w->number], data, p->header);
            if (len <= 0) {
                if (len < 0) { /* a TAP that is gone would wake us for ever; a packet socket says it once, of one that is down */
                    if (p->header == VIRTIO_BYTES)
                        epoll_ctl(w->epoll, EPOLL_CTL_DEL, p->fd[w->number], NULL);
                    io_add(&counts->drop[PAL_REASON_LINK_DOWN], 1);
                }
                more = false;
                break;
            }
            host_frame *f = &w->frame[w->frames];
            const virtio_header h = virtio_load(data - p->header, p->header);
            *f = (host_frame){.data = data, .len = (uint32_t)len, .from = p->filter};
            const bool good = virtio_offload(&h, data, f->len, 0, &f->offload);
            io_add(&counts->rx_frames, 1);
            io_add(&counts->rx_bytes, f->len);
            io_add(&counts->rx_segments, good ? offload_segments(&f->offload, f->len) : 1);
            if (PAL_UNLIKELY(!good)) {
                io_add(&counts->drop[PAL_REASON_OFFLOAD], 1);
            } else if (PAL_UNLIKELY(live_is_short(f, &s))) {
                live_cut(w, &s, first);
                first = w->frames;
            } else {
                w->bytes += f->len;
                w->frames++;
            }
        }
        live_sort(w, first);
        if (!more)
            return;
        if (live_burst_full(w))
            live_burst(w);
    }
}

/* Whatever wakes for the uplink's sake is added, or taken away: errno of the last that can't be. */
static int live_uplink_watch(const live_worker *w, int op)
{
    struct epoll_event e = {.events = EPOLLIN, .data.u64 = EVENT_UPLINK};
    int fd[UPLINK_FDS], failed = 0;
    for (uint32_t i = w->uplink ? uplink_queue_fds(w->uplink, fd) : 0; i > 0; i--)
        if (epoll_ctl(w->epoll, op, fd[i - 1], &e) != 0)
            failed = errno;
    return failed;
}

static void live_read_uplink(live_worker *w)
{
    for (uint32_t read = 0; read < 2 * HOST_BURST && w->uplink;) {
        const uint32_t first = w->frames, n = uplink_receive(w->uplink, w->frame + first, HOST_BURST - first);
        for (uint32_t i = 0; i < n; i++)
            w->bytes += w->frame[first + i].len;
        w->frames += n;
        read += n;
        live_sort(w, first);
        if (PAL_UNLIKELY(w->uplink->gone)) { /* it would wake us for ever */
            live_uplink_watch(w, EPOLL_CTL_DEL);
            w->uplink->gone = false;
        }
        if (live_burst_full(w))
            live_burst(w);
        else
            return; /* nothing is left, or it needs what this burst has: uplink_waits */
    }
}

static bool live_uplink_waits(const live_worker *w) { return w->uplink && uplink_waits(w->uplink); }

static void live_read_rings(live_worker *w)
{
    for (uint32_t i = 0; i < w->live->workers; i++)
        while (i != w->number && ring_take(&w->in[i], frame_at(&w->pool, w->frames), &w->frame[w->frames])) {
            io_add(&w->seen.taken, 1);
            w->bytes += w->frame[w->frames++].len;
            if (live_burst_full(w))
                live_burst(w);
        }
}

static bool live_rings_empty(const live_worker *w)
{
    for (uint32_t i = 0; i < w->live->workers; i++)
        if (i != w->number && !ring_empty(&w->in[i]))
            return false;
    return true;
}

/* What the host says to others. */
static void live_read_control(live_worker *w)
{
    uint8_t room[FRAME_HEADROOM + sizeof(pal_live_control) + LIVE_CONTROL_BYTES], *at = room + FRAME_HEADROOM;
    for (uint32_t read = 0; read < HOST_BURST; read++) {
        const ssize_t n = recv(w->live->said[0], at, sizeof room - FRAME_HEADROOM, MSG_DONTWAIT);
        pal_live_control c;
        if (n < 0)
            break;
        if (n < (ssize_t)sizeof c)
            continue;
        memcpy(&c, at, sizeof c);
        host_out o = {.data = at + sizeof c, .len = (uint32_t)(n - (ssize_t)sizeof c), .vnic = PAL_UPLINK, .outer = c.outer,
                      .port = c.port, .inner = c.inner};
        if (o.inner <= o.len)
            live_sink(w, &o, 1);
    }
}

/* ---- commands ----------------------------------------------------------------------------------------------------- */

static int live_watch(const live_worker *w, int fd, uint64_t what)
{
    struct epoll_event e = {.events = EPOLLIN, .data.u64 = what};
    return epoll_ctl(w->epoll, EPOLL_CTL_ADD, fd, &e) == 0 ? 0 : errno;
}

int live_worker_obey(live_worker *w, const live_command *c)
{
    live_port *p = c->port;
    switch (c->kind) {
    case LIVE_PORT_ADD:
        w->port[p->filter] = p;
        return w->number < p->queues ? live_watch(w, p->fd[w->number], p->filter) : 0;
    case LIVE_PORT_REMOVE:
        w->port[p->filter] = NULL;
        if (w->number < p->queues)
            epoll_ctl(w->epoll, EPOLL_CTL_DEL, p->fd[w->number], NULL);
        return 0;
    case LIVE_CALL:
        c->call(c->context, w->number);
        return 0;
    default:
        live_uplink_watch(w, EPOLL_CTL_DEL);
        w->uplink = c->uplink ? c->uplink->queue[w->number] : NULL;
        return live_uplink_watch(w, EPOLL_CTL_ADD);
    }
}

static void live_mail(live_worker *w)
{
    live_command *c = __atomic_exchange_n(&w->mail, NULL, __ATOMIC_ACQUIRE);
    if (c == NULL)
        return;
    live_worker_obey(w, c); /* adding to epoll fails only without memory: the port stays mute, and is seen to be */
    sem_post(&c->done);
}

/* ---- the loop ----------------------------------------------------------------------------------------------------- */

/* Of who is runnable, the kernel takes the one whose slice is to end first (EEVDF; a thread may ask for its slice since Linux
 * 6.12, and is not heard before): a worker with work for a few microseconds does not wait for a workload's milliseconds. */
static void live_slice_short(void)
{
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } a = {0};
    if (syscall(SYS_sched_getattr, 0, &a, sizeof a, 0) == 0 && a.policy == SCHED_OTHER) {
        a.runtime = SLICE_NS;
        syscall(SYS_sched_setattr, 0, &a, 0);
    }
}

void *live_worker_run(void *worker)
{
    live_worker *w = worker;
    struct epoll_event event[EVENTS];
    pace p = {0};
    bool idle = false; /* nothing came in the last round, and we may sleep */
    prctl(PR_SET_TIMERSLACK, NAP_SLACK_NS);
    live_slice_short();
    while (!__atomic_load_n(&w->live->stop, __ATOMIC_ACQUIRE)) {
        live_mail(w);
        if (idle) {
            __atomic_store_n(&w->asleep, 1, __ATOMIC_RELAXED);
            __atomic_thread_fence(__ATOMIC_SEQ_CST); /* we say so before we look; whoever puts in a frame looks after it */
            idle = live_rings_empty(w);
        }
        const int n = epoll_wait(w->epoll, event, EVENTS, idle ? TICK_MS : 0);
        __atomic_store_n(&w->asleep, 0, __ATOMIC_RELAXED);
        io_add(&w->seen.sleeps, idle);
        bool waits = live_uplink_waits(w);
        const bool some = n > 0 || waits;
        for (int i = 0; i < n; i++) {
            const uint64_t what = event[i].data.u64;
            if (what == EVENT_UPLINK) {
                live_read_uplink(w);
                waits = false;
            } else if (what == EVENT_WAKE) {
                eventfd_t value;
                eventfd_read(w->wake, &value);
            } else if (what == EVENT_CONTROL) {
                live_read_control(w);
            } else if (w->port[what]) {
                live_read_port(w, w->port[what]);
            }
        }
        if (waits)
            live_read_uplink(w);
        if (w->live->workers > 1)
            live_read_rings(w);
        if (w->frames > 0 || (n == 0 && idle))
            live_burst(w);
        live_wake(w);
        const uint64_t now = live_now();
        const enum pace_wait wait = pace_next(&p, now, some || live_uplink_waits(w), w->seen.frames, w->carried);
        idle = wait == PACE_SLEEP;
        if (wait == PACE_NAP) {
            nanosleep(&(struct timespec){.tv_nsec = PACE_NAP_NS}, NULL);
        } else if (wait == PACE_YIELD) {
            sched_yield();
            pace_yielded(&p, now, live_now());
        }
    }
    return NULL;
}
