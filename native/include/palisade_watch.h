/* SPDX-License-Identifier: Apache-2.0
 *
 * palisade_watch.h - what is seen of a live host: its connections, listed and ended; its firewall log. Like palisade_live.h, and
 * read by cffi after it.
 */
#ifndef PALISADE_WATCH_H
#define PALISADE_WATCH_H

#include "palisade_live.h"

/* cffi: begin */

/* ---- connections (native/engine/host_flows.c): looked at by the worker that owns them, between two of its bursts ------- */

/* The connections of one worker from slot `from` of its table on, at most `room` of them and a bounded number of slots. As pal_flow
 * has them, but for: number, a handle for pal_live_flows_end; file, the incarnation of its filter (pal_engine_incarnation); end_ns,
 * how long until it runs out; start_ns, dropped and history, which are empty. *n: how many. Returns the slot to go on with; -1:
 * that was all. */
int64_t pal_live_flows_read(pal_live *l, uint32_t worker, uint32_t from, pal_flow *out, uint32_t room, uint32_t *n);
/* Ends those of them that still are the ones which the handles were given for (reason: cleared). Returns how many. */
uint32_t pal_live_flows_end(pal_live *l, uint32_t worker, const uint64_t *handle, uint32_t n);
/* Commits that came after the configuration with which the worker's current burst began; 0 between two bursts. */
uint64_t pal_live_behind(const pal_live *l, uint32_t worker);

/* ---- firewall log (native/engine/host_log.c) --------------------------------------------------------------------------- */

/* Stages which rules are logged, by number; they stay until staged again. Only hosts tell of it. -1: no memory. */
int pal_engine_stage_logged(pal_engine *e, const uint32_t *rules, uint32_t n);

#define PAL_LOG_PACKET 0 /* a flow's first packet, or one that was refused */
#define PAL_LOG_END 1    /* a flow's end */

/* flow, of a packet: who sent it to whom (ICMP: dport is type << 8 | code), dir, rule; start_ns: when, by CLOCK_BOOTTIME. Of an end:
 * as in pal_flow, end_ns: when it was noticed, by the same clock; start_ns, number, dropped and history say nothing. `file` is the
 * incarnation of the filter in both. */
typedef struct pal_log_record {
    pal_flow flow;
    uint32_t length;               /* bytes of the IP packet */
    uint8_t event;                 /* PAL_LOG_* */
    uint8_t verdict, reason;       /* indexes of pal_word_* */
    uint8_t tcp_flags;
} pal_log_record;

typedef struct pal_log_counts {
    uint64_t lost;                 /* for which nobody made room in time */
    uint64_t refused;              /* beyond what a second allows */
} pal_log_counts;

/* Takes what there is, at most `room`; in order for each worker. Never waits for a worker, nor a worker for it. One thread at a time. */
uint32_t pal_live_log_read(pal_live *l, pal_log_record *out, uint32_t room);
void pal_live_log_counts(const pal_live *l, pal_log_counts *out);

/* cffi: end */

_Static_assert(sizeof(pal_log_record) == 136, "part of the contract with dfw/layout_live.py");

#endif
