/* SPDX-License-Identifier: Apache-2.0
 *
 * host_log.c - what logged rules decided, on its way to the firewall log: a packet leaves a record in a bounded ring and goes on;
 * who writes the log takes them out whenever it likes. What does not fit, or is beyond a second's budget, is counted.
 */
#include "host_internal.h"
#include "watch_ring.h"

#include <stdlib.h>

#define LOG_RECORDS 8192u

struct host_log {
    watch_ring ring;
    uint64_t refused;
};

struct host_log *log_new(void)
{
    struct host_log *log = aligned_alloc(PAL_CACHE_LINE, sizeof *log);
    if (!log)
        return NULL;
    memset(log, 0, sizeof *log);
    log->ring.size = sizeof(pal_log_record);
    log->ring.count = LOG_RECORDS;
    log->ring.bytes = calloc(LOG_RECORDS, sizeof(pal_log_record)); /* pages that are never written cost nothing */
    if (log->ring.bytes)
        return log;
    free(log);
    return NULL;
}

void log_free(struct host_log *log)
{
    if (log)
        free(log->ring.bytes);
    free(log);
}

/* Room for one more line, within a budget. NULL: it is counted instead. */
static pal_log_record *log_next(host_worker *w, miss_budget *budget, uint32_t per_second)
{
    struct host_log *log = w->log;
    if (!host_afford(budget, 0, per_second, 1, host_tick(w))) {
        __atomic_store_n(&log->refused, log->refused + 1, __ATOMIC_RELAXED);
        return NULL;
    }
    pal_log_record *r = watch_ring_next(&log->ring);
    if (r)
        memset(r, 0, sizeof *r);
    return r;
}

void host_log_packet(pal_worker *pw, const pal_judgement *j, const pal_packet *p)
{
    host_worker *w = pw->context;
    if (!p->family || ((p->marks & MARK_FRAGMENT) && p->ack)) /* not IP; not a datagram's first fragment, which alone has ports */
        return;
    pal_log_record *r = log_next(w, &host_budget_of(w, j->filter)->lines, HOST_LINES);
    if (!r)
        return;
    pal_flow *f = &r->flow;
    const bool ports = !(p->marks & MARK_FRAGMENT);
    memcpy(f->src, packet_src(p), addr_bytes(p));
    memcpy(f->dst, packet_dst(p), addr_bytes(p));
    f->start_ns = w->now_ns;
    f->file = w->config->filter[j->filter].zone >> ZONE_VRF_BITS;
    f->rule = j->rule;
    f->sport = ports ? p->sport : 0;
    f->dport = ports ? p->dport : 0;
    f->filter = j->filter;
    f->proto = p->proto;
    f->family = p->family;
    f->dir = j->dir;
    r->length = p->ip_len;
    r->event = PAL_LOG_PACKET;
    r->verdict = j->verdict;
    r->reason = j->reason;
    r->tcp_flags = p->proto == PROTO_TCP && ports ? p->tcp_flags : 0;
    watch_ring_put(&w->log->ring);
}

void host_log_end(pal_worker *pw, uint32_t ref, enum ct_end why)
{
    host_worker *w = pw->context;
    pal_log_record *r = log_next(w, &host_budget_of(w, PAL_UPLINK)->lines, HOST_ENDS);
    if (!r)
        return;
    flow_describe(&pw->table, ref, &r->flow);
    r->flow.file = pw->table.hot[ref].zone >> ZONE_VRF_BITS;
    r->flow.end_ns = w->now_ns;
    r->flow.end_reason = (uint8_t)why;
    r->event = PAL_LOG_END;
    watch_ring_put(&w->log->ring);
}

uint32_t host_log_read(host_worker *w, pal_log_record *out, uint32_t room) { return watch_ring_take(&w->log->ring, out, room); }

void host_log_counts(const host_worker *w, pal_log_counts *out)
{
    out->lost += __atomic_load_n(&w->log->ring.lost, __ATOMIC_RELAXED);
    out->refused += __atomic_load_n(&w->log->refused, __ATOMIC_RELAXED);
}
