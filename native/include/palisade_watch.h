/* SPDX-License-Identifier: Apache-2.0
 *
 * palisade_watch.h - what is seen of a live host: its connections, listed and ended. Like palisade_live.h, and read by cffi
 * after it.
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

/* cffi: end */

#endif
