/* SPDX-License-Identifier: Apache-2.0
 *
 * watch.h - what is seen of a host's worker. Unless it says otherwise, called by the worker's own thread, between two bursts.
 *
 *     host_flows.c      its connections, listed and ended
 *     host_log.c        what logged rules decided, read by one thread besides
 *     host_capture.c    packets copied at a vNIC or the uplink, read by one thread besides
 *     host_trace.c      Traceflow; observations read by one thread besides
 */
#ifndef PAL_ENGINE_WATCH_H
#define PAL_ENGINE_WATCH_H

#include "host.h"
#include "palisade_watch.h"

/* pal_live_flows_read, pal_live_flows_end */
int64_t host_flows_read(const host_worker *w, uint32_t from, pal_flow *out, uint32_t room, uint32_t *n);
uint32_t host_flows_end(host_worker *w, const uint64_t *handle, uint32_t n);
/* pal_live_behind; by any thread. */
uint64_t host_behind(const host_worker *w);

/* pal_live_log_read; by one other thread at a time. */
uint32_t host_log_read(host_worker *w, pal_log_record *out, uint32_t room);
void host_log_counts(const host_worker *w, pal_log_counts *out);

#define HOST_CAPTURES 4u

struct host_capture;

/* One worker's part of a capture; by any thread. NULL: no memory. */
struct host_capture *capture_new(const pal_capture_options *options);
void capture_free(struct host_capture *c);
/* pal_live_capture_read; by one other thread at a time, while the capture is there. */
uint64_t capture_read(struct host_capture *c, uint8_t *out, uint64_t room);
uint64_t capture_lost(const struct host_capture *c);
/* Begins it, or ends (NULL) the one that is there. */
void host_capture_set(host_worker *w, uint32_t slot, struct host_capture *c);
struct host_capture *host_capture_get(const host_worker *w, uint32_t slot);

/* pal_live_trace_send: an Ethernet frame with HOST_HEADROOM before it, as if the vNIC had sent it; what leaves goes to the sink. */
void host_trace_send(host_worker *w, uint8_t *data, uint32_t len, uint32_t vnic, uint32_t mark, uint64_t now_ns, host_sink *sink, void *context);
/* pal_live_trace_read; by one other thread at a time. */
uint32_t host_trace_read(host_worker *w, pal_trace_seen *out, uint32_t room);

#endif
