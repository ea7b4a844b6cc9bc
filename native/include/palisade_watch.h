/* SPDX-License-Identifier: Apache-2.0
 *
 * palisade_watch.h - what is seen of a live host: its connections, listed and ended; its firewall log; captures; Traceflow. Like
 * palisade_live.h, and read by cffi after it.
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

/* ---- captures (native/engine/host_capture.c; native/io/seen_file.c) ----------------------------------------------------- */

#define PAL_SNAP_MAX 66000         /* every frame is whole */

/* What is captured. Ports and addresses are either end's. */
typedef struct pal_capture_options {
    uint32_t vnic;                 /* filter number, or PAL_UPLINK: what comes and goes in Geneve */
    uint32_t snap;                 /* at most so many bytes of a packet, up to PAL_SNAP_MAX */
    pal_address addr;              /* family 0: any */
    uint16_t proto;                /* PAL_PROTO_ANY */
    uint16_t port;                 /* 0: any */
    uint32_t refused;              /* only what did not pass; of a vNIC */
} pal_capture_options;

/* Before the bytes of each packet that was seen; padded to eight. Of the uplink they are a tunnel header and what follows. */
typedef struct pal_seen {
    uint64_t ts_ns;                /* CLOCK_BOOTTIME, of its burst */
    uint32_t len, wire;            /* bytes that follow; that there were */
    uint32_t rule;                 /* PAL_NO_RULE */
    pal_address outer;             /* uplink: the other host; else family 0 */
    uint16_t filter;               /* PAL_NO_FILTER: the uplink */
    uint16_t port;                 /* uplink: outer source port, 0 of what came */
    uint8_t dir, verdict, reason;
    uint8_t then;                  /* forwarding refused it for this reason after it had passed; 0: no */
    uint8_t judged, ours;          /* rules were asked; this host has made it */
    uint8_t encap;                 /* uplink: PAL_ENCAP_* */
    uint8_t reserved;
} pal_seen;

/* Begins a capture, until it is ended; at most four at a time. Its number, or -1 with a sentence. */
int pal_live_capture_begin(pal_live *l, const pal_capture_options *options, char *err, size_t errlen);
void pal_live_capture_end(pal_live *l, uint32_t number);
/* Takes whole records, up to `room` bytes; returns how many bytes. *lost: packets so far for which there was no room. One thread at a
 * time; never waits for a worker. */
uint64_t pal_live_capture_read(pal_live *l, uint32_t number, uint8_t *out, uint64_t room, uint64_t *lost);

/* Writes at most `most` of the records in `seen`, their time plus offset_ns. By number: rule (as pal_replay_options.rule_json) and
 * vnic (filter_json), NULL where it is not known. local: the uplink's own TEP. How many were written, or -errno. */
int64_t pal_seen_write(pal_pcapng *to, const uint8_t *seen, uint64_t len, int64_t offset_ns, uint64_t most, const pal_address *local,
                       const char *const *rule, uint32_t rules, const char *const *vnic, uint32_t vnics);
/* Has what was written so far in the file. 0, or -errno. */
int pal_pcapng_flush(pal_pcapng *writer);

/* ---- Traceflow (native/engine/host_trace.c) ------------------------------------------------------------------------------- */

#define PAL_TRACE_SENT 0      /* at the vNIC `filter`, as if its workload had sent it */
#define PAL_TRACE_FILTER 1    /* filter, dir, verdict, reason, rule */
#define PAL_TRACE_ROUTE 2     /* at `gateway`: prefix, length and kind (PAL_ROUTE_*) of the route taken; segment, where it leads to one */
#define PAL_TRACE_FORWARD 3   /* into `segment`, by `gateway` if it was routed */
#define PAL_TRACE_ENCAP 4     /* in `segment`, to `tep` */
#define PAL_TRACE_RECEIVED 5  /* in `segment`, from `tep` */
#define PAL_TRACE_DELIVERED 6 /* at `filter`; it goes no further */
#define PAL_TRACE_DROPPED 7   /* for `reason` */
#define PAL_TRACE_ANSWERED 8  /* it was for this host's gateway itself */
#define PAL_TRACE_COPIED 9    /* its destination is not known: copies go to all of `segment`; they are not traced */
#define PAL_TRACE_NO_ROUTE 255

/* One stage of a traced packet's way. Numbers that say nothing are PAL_NO_INDEX, PAL_NO_RULE, PAL_NO_FILTER. */
typedef struct pal_trace_seen {
    uint64_t ts_ns;                /* CLOCK_BOOTTIME */
    uint32_t mark;                 /* 24 bits, not 0 */
    uint32_t rule, segment, tep, gateway;
    uint8_t prefix[16];
    uint16_t filter;
    uint8_t family, length;        /* of the prefix */
    uint8_t stage, kind;
    uint8_t dir, verdict, reason;
    uint8_t reserved[3];
} pal_trace_seen;

/* Sends a frame as if vNIC `vnic` had, with this mark; its observations so far can be read when this returns. It is judged by rules
 * and connections and changes neither; nothing of it is delivered. -1: longer than 2,048 bytes. */
int pal_live_trace_send(pal_live *l, uint32_t vnic, const uint8_t *frame, uint32_t len, uint32_t mark);
/* Takes observations of this host, also of packets that others sent. One thread at a time. */
uint32_t pal_live_trace_read(pal_live *l, pal_trace_seen *out, uint32_t room);

/* cffi: end */

_Static_assert(sizeof(pal_seen) == 56, "eight bytes a word");
_Static_assert(sizeof(pal_trace_seen) == 56, "part of the contract with dfw/layout_live.py");
_Static_assert(sizeof(pal_log_record) == 136, "part of the contract with dfw/layout_live.py");

#endif
