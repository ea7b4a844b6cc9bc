/* SPDX-License-Identifier: Apache-2.0
 *
 * host_internal.h - a host's worker, as host.c, host_send.c and host_fragment.c share it.
 *
 *     host.c            a burst: taken in, looked up, judged; special frames one by one
 *     host_look.c       each frame: offload, spoofguard, where it goes
 *     host_emit.h       what leaves: rewritten, encapsulated
 *     host_send.c       copies for many; what we generate
 *     host_fragment.c   fragments that wait for their datagram's verdict
 *     host_log.c        what logged rules decided, for whoever writes the log
 *     host_capture.c    packets copied for whoever captures
 *     host_trace.c      Traceflow
 *     host_life.c       made and freed, a fabric staged, counters summed
 *     host_run.c        frames in memory, for tests and benchmarks
 */
#ifndef PAL_ENGINE_HOST_INTERNAL_H
#define PAL_ENGINE_HOST_INTERNAL_H

#include "../core/forward.h"
#include "../core/encap.h"
#include "../core/group.h"
#include "../core/outer.h"
#include "../core/path.h"
#include "../core/rewrite.h"
#include "watch.h"

#define HOST_OUT 256u
#define HOST_OWN (1u << 20)        /* bytes of frames of our own, until the sink has taken them */
#define HOST_OWN_MARGIN (64u << 10) /* of them for what is generated while something else waits for its verdict */
#define HOST_MACS_NEAR 1024u       /* slots for MAC addresses that need not be fetched: the first-level cache holds them */
#define HOST_DEPTH 4u              /* answers to answers */

/* A second's worth, of each vNIC and of the uplink. */
#define HOST_ANSWERS 1000u         /* ARP, ND, ping */
#define HOST_ERRORS 100u           /* ICMP */
#define HOST_COPIES 16384u         /* of broadcasts, multicasts, unknown unicasts */

#define HOST_LINES 1000u           /* of the log, about packets */
#define HOST_ENDS 4000u            /* about ends of flows, of all vNICs together */

enum { HOST_IS_CONTROL = 1, HOST_IS_TRACED = 2 }; /* for the host itself; of a trace */

/* Where a frame came from. */
typedef struct host_source {
    uint32_t vnic;      /* filter number, or PAL_UPLINK */
    uint32_t segment, tep;
    uint8_t marks;      /* GENEVE_* */
    uint8_t reason;     /* not PAL_REASON_MATCH: refused before it was looked at */
    uint8_t control;    /* HOST_IS_*: not looked at as others are */
    uint8_t reserved;
} host_source;

/* A frame whose turn it is: the bytes, and what is known about it. */
typedef struct host_view {
    uint8_t *data;
    uint32_t len;
    const pal_packet *p;         /* its headers; data and len may be another fragment's */
    const host_offload *offload;
    const forward_plan *plan;
    const host_source *source;
} host_view;

typedef struct host_budget {
    miss_budget answers; /* ANSWERS, ERRORS */
    miss_budget copies;
    miss_budget lines;   /* LINES */
} host_budget;

struct host_held;

struct host_worker {
    pal_host *host;
    engine_worker *ew;
    uint32_t number;
    uint32_t depth;              /* of answers to answers */
    /* The burst: its configuration, its frames, and, of those that are looked at, in their order: */
    const engine_config *config;
    const fabric *fabric;
    host_frame *frame;
    uint64_t base;               /* number of the burst's first frame */
    uint64_t now_ns;
    uint32_t outer_tep, outer_segment; /* of the last frame from the underlay, by what follows */
    uint32_t outer_vni;
    pal_address outer;
    uint32_t settled;            /* of the worker's verdicts those that have been acted upon */
    uint32_t alone;              /* place of the frame that is dealt with alone, or PAL_NONE */
    uint32_t piece;              /* and, if it is a fragment, its number among those held */
    uint8_t alone_passed, alone_reason, copied, reserved;
    uint8_t place[HOST_BURST];   /* by frame */
    uint8_t at[HOST_BURST];      /* by place: the frame */
    pal_packet packet[HOST_BURST];
    pal_route route[HOST_BURST]; /* unless `plain` */
    forward_plan plan[HOST_BURST];
    host_source source[HOST_BURST];
    pal_burst burst;             /* as long as `plain`: a visit of each */
    bool plain;                  /* so far nothing is special, and each is judged at one filter */
    const void *const *ahead;    /* lines that are yet to be fetched (host_ahead) */
    uint32_t aheads;
    /* What leaves. */
    host_sink *sink;
    void *context;
    uint32_t outs;
    uint32_t own_at;
    uint8_t *own;
    host_out out[HOST_OUT];
    /* What stays. */
    struct host_held *held;
    struct host_log *log;
    struct host_trace *trace;
    struct host_capture *capture[HOST_CAPTURES];
    uint32_t captures;           /* how many there are */
    host_budget *budget;         /* by filter number, the last one the uplink's */
    const pal_filter **receiver;
    path_slot *path;             /* PATH_SLOTS; NULL: every packet is looked up (tests) */
    learn_slot *learned;         /* LEARN_SLOTS */
    uint64_t number_next;        /* of the next frame */
    pal_host_stats stats;
    void (*told)(void *context, const pal_judgement *j); /* every verdict, for tests; NULL: nobody asks */
    void *told_context;
};

struct pal_host {
    pal_engine *e;
    uint32_t workers;
    host_worker *worker[ENGINE_WORKERS_MAX];
};

PAL_INLINE uint64_t host_tick(const host_worker *w) { return w->ew->w.table.s->now; }

PAL_INLINE host_budget *host_budget_of(host_worker *w, uint32_t vnic)
{
    return &w->budget[vnic == PAL_UPLINK ? w->config->filters : vnic];
}

/* Takes `cost` of what a second allows. */
static inline bool host_afford(miss_budget *b, uint32_t side, uint32_t per_second, uint32_t cost, uint64_t tick)
{
    uint64_t spent = miss_spent(b, side, per_second, tick);
    if (spent + 100ull * cost > 100ull * per_second)
        return false;
    b->spent[side] = spent + 100ull * cost;
    b->at[side] = tick;
    return true;
}

PAL_INLINE host_view host_view_at(host_worker *w, uint32_t k)
{
    host_frame *f = &w->frame[w->at[k]];
    return (host_view){.data = (uint8_t *)(uintptr_t)w->packet[k].data, .len = w->packet[k].cap, .p = &w->packet[k],
                       .offload = &f->offload, .plan = &w->plan[k], .source = &w->source[k]};
}

PAL_INLINE bool host_is_fragment(const pal_packet *p) { return (p->marks & MARK_FRAGMENT) && !p->reason; }

PAL_INLINE bool host_is_special(const host_worker *w, uint32_t k, const pal_route *r)
{
    return !r->first || forward_is_special(&w->plan[k]) || host_is_fragment(&w->packet[k]);
}

PAL_INLINE void host_dropped(host_worker *w, uint8_t reason) { w->stats.dropped[reason]++; }

PAL_INLINE void host_fetch(host_worker *w)
{
    if (w->aheads == 0)
        return;
    w->aheads--;
    prefetch_read(*w->ahead++);
}

/* host.c */
void host_settle(host_worker *w);
/* pal_worker.flush: its list of verdicts is full, or the burst is over. */
void host_verdicts(pal_worker *pw);

/* host_look.c: spoofguard, and where each of n frames goes; w->burst and w->plain. Returns how many are left; they are moved together. */
uint32_t host_look(host_worker *w, uint32_t n);

/* host_send.c */
void host_flush(host_worker *w);
uint8_t *host_own(host_worker *w, uint32_t len);
void host_emit_geneve(host_worker *w, const host_view *v, uint32_t tep, const geneve_header *g);
void host_to_vnic(host_worker *w, const host_view *v, uint32_t vnic);
void host_to_teps(host_worker *w, const host_view *v);
void host_answer(host_worker *w, const host_view *v);
void host_error(host_worker *w, const host_view *v);
void host_generated(pal_worker *pw, const uint8_t *ip, uint32_t len, const pal_packet *cause, uint16_t filter, uint8_t dir);

/* host_log.c */
struct host_log *log_new(void);
void log_free(struct host_log *log);
/* pal_worker.log_packet, log_end */
void host_log_packet(pal_worker *pw, const pal_judgement *j, const pal_packet *p);
void host_log_end(pal_worker *pw, uint32_t ref, enum ct_end why);

/* host_capture.c; not called unless there are captures */
void host_capture_told(void *context, const pal_judgement *j);
void host_capture_refused(host_worker *w, uint32_t k, uint8_t reason);
void host_capture_said(host_worker *w, uint32_t vnic, const host_view *v, const pal_judgement *j);
void host_capture_in(host_worker *w, uint32_t n);
void host_capture_out(host_worker *w);

/* host_trace.c */
struct host_trace *trace_new(void);
void trace_free(struct host_trace *t);
/* A traced packet has come from another host. */
void host_trace_take(host_worker *w, const host_frame *f, const host_source *source, uint32_t inner);

/* host_fragment.c */
struct host_held *held_new(void);
void held_free(struct host_held *h);
uint32_t held_count(const struct host_held *h);
/* A number for a fragment that is about to be judged at `waiting` filters that may hold it. PAL_NONE: there is none. */
uint32_t held_take(struct host_held *h, uint32_t waiting, uint8_t dir);
/* It is held: its bytes from the IP header on. */
void held_keep(struct host_held *h, uint32_t piece, const uint8_t *ip, uint32_t len);
/* The bytes of one that is held, from the IP header on. Returns how many. */
uint32_t held_bytes(const struct host_held *h, uint32_t piece, uint8_t *out);
bool held_waits(const struct host_held *h, uint32_t piece);
void held_settle(host_worker *w, uint32_t piece, const pal_judgement *j);
/* Counts and forgets those that wait for nothing any more. */
void held_finish(host_worker *w);

#define HOST_PIECE_SHIFT COOKIE_FILE_SHIFT /* cookie: the frame's number, and above it 1 + the fragment's */

#endif
