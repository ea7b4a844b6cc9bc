/* SPDX-License-Identifier: Apache-2.0
 *
 * watch.h - what is seen of a host's worker. Unless it says otherwise, called by the worker's own thread, between two bursts.
 *
 *     host_flows.c      its connections, listed and ended
 *     host_log.c        what logged rules decided, read by one thread besides
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

#endif
