/* SPDX-License-Identifier: Apache-2.0
 *
 * filter.h - a vNIC's firewall filter as a burst sees it, and the worker that judges for many of them.
 */
#ifndef PAL_CORE_FILTER_H
#define PAL_CORE_FILTER_H

#include "alg.h"
#include "classify.h"
#include "ether.h"
#include "fragment.h"
#include "parse_wide.h"
#include "pseudo.h"
#include "reject.h"
#include "sctp.h"

/* One filter under one configuration. [C] replaced whole by a commit; a burst works with one snapshot. */
typedef struct pal_filter {
    const struct pal_ruleset *rules; /* NULL: nothing committed, nothing passes */
    const ether_rules *ether;        /* NULL: every frame passes layer 2 */
    uint32_t epoch;                  /* grows with every change of its rules and of the groups that they use */
    uint32_t zone;                   /* incarnation << ZONE_VRF_BITS */
    uint32_t established;            /* timeout[TIMER_TCP_ESTABLISHED] */
    uint16_t number;
    uint8_t both;                    /* a tap: rules match whatever their direction */
    uint8_t layer2;                  /* ether is set */
    uint32_t timeout[TIMER_COUNT];   /* ticks */
    uint32_t flood[FLOOD_KINDS];     /* connections of a kind at a time; 0: no limit */
    uint32_t reserved;
} pal_filter;

_Static_assert(sizeof(pal_filter) == 96, "two filters in three lines");
_Static_assert(offsetof(pal_filter, number) == offsetof(pal_filter, epoch) + 12, "a block of four numbers (fast_wide.h)");

/* One verdict. */
typedef struct pal_judgement {
    uint64_t cookie;   /* the packet's */
    uint32_t ref;      /* the connection, while it lives, or PAL_NONE */
    uint32_t bytes;    /* IP bytes of this wire packet, 0 for non-IP */
    uint16_t filter;
    uint8_t dir;       /* PAL_DIR_* */
    uint8_t reply;
    uint32_t rule;     /* number of the rule, or PAL_NONE */
    uint8_t verdict;   /* enum pal_verdict_word; from here on an established packet's are always the same */
    uint8_t reason;    /* enum pal_reason */
    uint8_t ct;        /* enum pal_ct */
    uint8_t first;     /* a rule was matched for this packet: it counts as a hit */
    uint32_t reserved;
} pal_judgement;

_Static_assert(sizeof(pal_judgement) == 32, "two verdicts a line");

typedef struct rule_count {
    uint64_t hits, packets, bytes;
} rule_count;

#define WORKER_BURST 32
#define WORKER_OUT 512
/* What one packet may add, and behind it a burst of packets that add one verdict at each of two filters: those don't ask. */
#define WORKER_OUT_MARGIN (2 * FRAG_PER_DATAGRAM + 4 + 2 * WORKER_BURST)
#define VRF_MAX 65536
#define VRF_SLOTS (2 * VRF_MAX)

typedef struct vrf_slot {
    uint32_t vrf, index; /* index 0: free */
} vrf_slot;

/* Everything that one worker writes. Nobody else does; nothing here is shared on the path. */
typedef struct pal_worker {
    ct_table table;
    const pal_snap *snap;           /* address classes, as of this burst */
    frag_table *fragments;
    expect_table *expected;
    reject_budget *rejects;         /* by filter number */
    miss_budget *misses;            /* by filter number; NULL: without limit */
    const pal_limits *limits;
    rule_count *rule;               /* by rule number */
    uint32_t rules;                 /* how many */
    uint8_t name_rules;             /* judgements of connections name their rule: costs the cold line */
    uint8_t observed;               /* name_rules, or flow records are kept */
    uint8_t wide;                   /* this machine has what fast_wide.h needs */
    uint64_t clock_due;             /* before this time nothing runs out: pipeline_clock need not be called */
    uint32_t astray;                /* of the last burst, packets of connections that needed more than the hot line (ahead.h) */
    parse_options parse;
    uint64_t count[PAL_VERDICT_COUNT][PAL_REASON_COUNT];
    uint64_t bad_ip_sum, bad_l4_sum, odd; /* packets met, whatever became of them */
    uint64_t received;              /* wire packets given to judge, times the filters that judged them */
    uint64_t released;              /* held fragments whose verdict came later */
    uint32_t out_count;
    pal_judgement out[WORKER_OUT];
    void *context;
    void (*flush)(struct pal_worker *w);                       /* takes out[0 .. out_count); the worker then starts at 0 */
    void (*generated)(struct pal_worker *w, const uint8_t *ip, uint32_t len, const pal_packet *cause, uint16_t filter,
                      uint8_t dir);                             /* an answer of ours, from its IP header */
    vrf_slot *vrf;                  /* VRF_SLOTS of them; routing domains met */
    uint32_t vrf_count;
    uint8_t *scratch;               /* a whole datagram: 65,535 + 400 bytes */
    uint8_t answer[REJECT_MAX_BYTES + 80];
    const uint64_t *logged;         /* a bit a rule: what it decides is told; NULL: none is */
    void (*log_packet)(struct pal_worker *w, const pal_judgement *j, const pal_packet *p);
    void (*log_end)(struct pal_worker *w, uint32_t ref, enum ct_end why); /* of a connection that such a rule allowed */
    const pal_filter *const *receiver; /* of the packet that is judged, if it is for a group: group.h */
    uint32_t receivers;
} pal_worker;

/* The next verdict's place; worker_emit counts what has been written there. */
PAL_INLINE pal_judgement *worker_next(pal_worker *w) { return &w->out[w->out_count]; }
PAL_INLINE void worker_emit(pal_worker *w, const pal_judgement *j)
{
    w->out_count++;
    w->count[j->verdict][j->reason]++;
}
PAL_INLINE void worker_room(pal_worker *w)
{
    if (PAL_UNLIKELY(w->out_count > WORKER_OUT - WORKER_OUT_MARGIN)) {
        w->flush(w);
        w->out_count = 0;
    }
}

PAL_INLINE bool rule_is_logged(const pal_worker *w, uint32_t rule)
{
    return PAL_UNLIKELY(w->logged != NULL) && rule < w->rules && (w->logged[rule / 64] >> (rule % 64) & 1);
}

/* After a verdict: what a logged rule has decided, its flows' first packets and what it refuses, is told. Packets of a flow that
 * was told of are not. */
PAL_INLINE void worker_log(pal_worker *w, const pal_judgement *j, const pal_packet *p)
{
    if (PAL_UNLIKELY(j->reason != PAL_REASON_STATE) && j->reason != PAL_REASON_RELATED && rule_is_logged(w, j->rule))
        w->log_packet(w, j, p);
}

/* The zone of a filter in a routing domain. Domains other than the filter's own only occur in captures taken inside an
 * underlay; each gets a number when it is first met. PAL_NONE when there are more than VRF_MAX. */
static inline uint32_t filter_zone(pal_worker *w, const pal_filter *f, uint32_t vrf)
{
    if (PAL_LIKELY(vrf == 0))
        return f->zone;
    uint64_t at = hash_finish((unsigned __int128)(vrf + w->table.s->seed[0]) * (w->table.s->seed[1] | 1));
    for (uint32_t probe = 0; probe < VRF_SLOTS; probe++, at++) {
        vrf_slot *slot = &w->vrf[at % VRF_SLOTS];
        if (slot->index == 0) {
            if (w->vrf_count == VRF_MAX - 1)
                return PAL_NONE;
            *slot = (vrf_slot){.vrf = vrf, .index = ++w->vrf_count};
        }
        if (slot->vrf == vrf)
            return f->zone + slot->index;
    }
    return PAL_NONE;
}

/* What the rules see of a packet. */
PAL_INLINE void rule_key(pal_key *k, const pal_filter *f, const pal_packet *p, uint8_t dir)
{
    if (PAL_LIKELY(p->family == PAL_FAMILY_V4)) {
        memset(k, 0, 32);
        memcpy(k->src, packet_src(p), 4);
        memcpy(k->dst, packet_dst(p), 4);
    } else {
        memcpy(k->src, packet_src(p), 16);
        memcpy(k->dst, packet_dst(p), 16);
    }
    k->sport = p->sport;
    k->dport = p->dport;
    k->proto = p->proto;
    k->tcp_flags = p->proto == PROTO_TCP ? p->tcp_flags : 0;
    k->family = p->family;
    k->dir = f->both ? PAL_DIR_IN | PAL_DIR_OUT : dir;
}

PAL_INLINE uint32_t timer_of(const ct_hot *h)
{
    uint8_t kind = ct_kind_of(h);
    return PAL_LIKELY(kind == KIND_TCP) ? tcp_timer(h) : kind == KIND_SCTP ? sctp_timer(h) : pseudo_timer(h);
}

/* The connection's totals are its rule's: moved over when it ends or when another rule takes it. */
static inline void rule_settle(pal_worker *w, uint32_t rule, uint32_t ref, bool add)
{
    if (rule >= w->rules)
        return;
    uint64_t packets = ct_packets(&w->table, ref, 0) + ct_packets(&w->table, ref, 1);
    uint64_t bytes = ct_bytes(&w->table, ref, 0) + ct_bytes(&w->table, ref, 1);
    w->rule[rule].packets += add ? packets : 0 - packets;
    w->rule[rule].bytes += add ? bytes : 0 - bytes;
}

PAL_INLINE void rule_count_direct(pal_worker *w, const pal_judgement *j, const pal_packet *p)
{
    if (j->rule >= w->rules)
        return;
    w->rule[j->rule].packets += p->fragments;
    w->rule[j->rule].bytes += p->wire_bytes;
}

#endif
