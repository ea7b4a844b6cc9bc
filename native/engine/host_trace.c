/* SPDX-License-Identifier: Apache-2.0
 *
 * host_trace.c - Traceflow: a packet that its sender's vNIC never sent goes the way of those that it does, marked, and leaves an
 * observation at each stage, here and, by the mark in our Geneve option, at the next host. It is not delivered.
 *
 * It is looked up, judged (trace.h), rewritten and encapsulated as any frame, by the same tables in the same thread; it is counted
 * by cards, and where it arrives as consumed.
 */
#include "../core/trace.h"
#include "host_internal.h"
#include "watch_ring.h"

#include <stdlib.h>

#define TRACE_RECORDS 1024u

struct host_trace {
    watch_ring ring;
    pal_trace_seen record[TRACE_RECORDS];
};

struct host_trace *trace_new(void)
{
    struct host_trace *t = aligned_alloc(PAL_CACHE_LINE, (sizeof *t + PAL_CACHE_LINE - 1) & ~(size_t)(PAL_CACHE_LINE - 1));
    if (!t)
        return NULL;
    memset(&t->ring, 0, sizeof t->ring);
    t->ring.size = sizeof t->record[0];
    t->ring.count = TRACE_RECORDS;
    t->ring.bytes = (uint8_t *)t->record;
    return t;
}

void trace_free(struct host_trace *t) { free(t); }

uint32_t host_trace_read(host_worker *w, pal_trace_seen *out, uint32_t room) { return watch_ring_take(&w->trace->ring, out, room); }

/* ---- observations -------------------------------------------------------------------------------------------------- */

static void trace_see(host_worker *w, const pal_trace_seen *seen)
{
    pal_trace_seen *s = watch_ring_next(&w->trace->ring);
    if (!s)
        return;
    *s = *seen;
    s->ts_ns = w->now_ns;
    watch_ring_put(&w->trace->ring);
}

static pal_trace_seen trace_stage(uint32_t mark, uint8_t stage)
{
    return (pal_trace_seen){.mark = mark, .stage = stage, .rule = PAL_NONE, .filter = PAL_NO_FILTER, .segment = PAL_NO_INDEX, .tep = PAL_NO_INDEX,
                            .gateway = PAL_NO_INDEX};
}

static void trace_dropped(host_worker *w, uint32_t mark, uint8_t reason)
{
    pal_trace_seen s = trace_stage(mark, PAL_TRACE_DROPPED);
    s.reason = reason;
    s.verdict = PAL_DROP;
    trace_see(w, &s);
}

static bool trace_filter(host_worker *w, uint32_t mark, uint32_t vnic, uint8_t dir, pal_packet *p)
{
    pal_judgement j;
    trace_judge(&w->ew->w, &w->config->filter[vnic], dir, p, &j);
    pal_trace_seen s = trace_stage(mark, PAL_TRACE_FILTER);
    s.filter = (uint16_t)vnic;
    s.dir = dir;
    s.verdict = j.verdict;
    s.reason = j.reason;
    s.rule = j.rule;
    trace_see(w, &s);
    return j.verdict == PAL_ALLOW;
}

/* The gateways that it goes through here, each with the route that it takes. */
static void trace_routes(host_worker *w, uint32_t mark, uint32_t segment, const pal_packet *p)
{
    const fabric *f = w->fabric;
    uint32_t gateway = f->segment[segment].gateway;
    for (uint32_t passed = 0; passed <= FABRIC_GATEWAYS_MAX && gateway != PAL_NO_INDEX; passed++) {
        pal_trace_seen s = trace_stage(mark, PAL_TRACE_ROUTE);
        const uint32_t i = fabric_route_find(f, gateway, packet_dst(p), p->family);
        s.gateway = gateway;
        if (i == PAL_NO_INDEX)
            s.kind = PAL_TRACE_NO_ROUTE;
        else {
            const pal_fabric_route *r = &f->route[i];
            s.kind = (uint8_t)r->kind;
            memcpy(s.prefix, r->addr, 16);
            s.family = (uint8_t)r->family;
            s.length = (uint8_t)r->length;
            s.segment = r->kind == PAL_ROUTE_CONNECTED || r->kind == PAL_ROUTE_VIA ? r->target : PAL_NO_INDEX;
        }
        trace_see(w, &s);
        if (i == PAL_NO_INDEX || f->route[i].kind != PAL_ROUTE_GATEWAY)
            return;
        gateway = f->route[i].target;
    }
}

/* ---- its way -------------------------------------------------------------------------------------------------------- */

static void trace_leave(host_worker *w, uint32_t mark, const host_view *v)
{
    const forward_plan *plan = v->plan;
    pal_trace_seen s = trace_stage(mark, PAL_TRACE_ENCAP);
    s.segment = plan->to;
    s.tep = plan->tep;
    trace_see(w, &s);
    if (plan->routed)
        rewrite_routed(v->data, v->p->l3, v->p->family, plan->mac, w->fabric->gateway_mac_bytes);
    const geneve_header g = {.vni = w->fabric->segment[plan->to].vni, .protocol = GENEVE_ETHERNET, .ours = true, .trace = mark,
                             .marks = plan->onward ? GENEVE_ONWARD : 0, .vnic = v->source->vnic};
    host_emit_geneve(w, v, plan->tep, &g);
}

/* From where it was looked up on: at the filter of a vNIC here, or to another host. */
static void trace_onward(host_worker *w, uint32_t mark, host_view *v, pal_packet *p)
{
    const forward_plan *plan = v->plan;
    pal_trace_seen s = trace_stage(mark, PAL_TRACE_FORWARD);
    s.segment = plan->to;
    s.kind = plan->kind;
    s.gateway = plan->routed ? w->fabric->segment[plan->from].gateway : PAL_NO_INDEX;
    s.filter = plan->kind == FORWARD_VNIC ? (uint16_t)plan->vnic : PAL_NO_FILTER;
    switch (plan->kind) {
    case FORWARD_VNIC:
        trace_see(w, &s);
        if (!trace_filter(w, mark, plan->vnic, PAL_DIR_IN, p))
            return;
        s = trace_stage(mark, PAL_TRACE_DELIVERED);
        s.filter = (uint16_t)plan->vnic;
        s.segment = plan->to;
        trace_see(w, &s);
        return;
    case FORWARD_TEP:
        trace_see(w, &s);
        trace_leave(w, mark, v);
        return;
    case FORWARD_REFUSE:
        trace_dropped(w, mark, plan->reason);
        return;
    default:
        s.stage = plan->kind == FORWARD_ANSWER ? PAL_TRACE_ANSWERED : PAL_TRACE_COPIED;
        trace_see(w, &s);
    }
}

/* The trace's frame. Those of the burst, if there is one, stay where they are. */
typedef struct trace_case {
    pal_packet packet;
    forward_plan plan;
    host_view view;
} trace_case;

static bool trace_look(host_worker *w, trace_case *t, uint8_t *data, uint32_t len, const host_source *source)
{
    static const host_offload none;
    const parse_options all = {.sum_mode = SUM_MODE_OFF};
    pal_packet *p = &t->packet;
    *p = (pal_packet){.data = data, .cap = len, .wire = len, .ts_ns = w->now_ns, .clock_ns = w->now_ns};
    parse_frame(p, LINKTYPE_ETHERNET, &all);
    t->view = (host_view){.data = data, .len = len, .p = p, .offload = &none, .plan = &t->plan, .source = source};
    if (p->reason || !p->family)
        return false;
    const forward_case c = {.f = w->fabric, .p = p, .segment = source->segment, .vnic = source->vnic, .tep = source->tep, .marks = source->marks,
                            .learned = w->learned, .tick = host_tick(w)};
    forward_look_up(&c, &t->plan);
    return true;
}

void host_trace_take(host_worker *w, const host_frame *f, const host_source *source, uint32_t inner)
{
    geneve_header g;
    trace_case t;
    pal_trace_seen s;
    if (!geneve_read(f->data, f->len, &g)) /* it was read before */
        return;
    s = trace_stage(g.trace, PAL_TRACE_RECEIVED);
    s.segment = source->segment;
    s.tep = source->tep;
    trace_see(w, &s);
    w->stats.consumed++;
    if (trace_look(w, &t, f->data + inner, f->len - inner, source))
        trace_onward(w, g.trace, &t.view, &t.packet);
    else
        trace_dropped(w, g.trace, t.packet.reason ? t.packet.reason : PAL_REASON_NON_IP);
}

void host_trace_send(host_worker *w, uint8_t *data, uint32_t len, uint32_t vnic, uint32_t mark, uint64_t now_ns, host_sink *sink, void *context)
{
    host_source source = {.vnic = vnic, .segment = PAL_NO_INDEX, .tep = PAL_NO_INDEX};
    trace_case t;
    w->config = engine_enter(w->host->e, w->number);
    w->fabric = w->config->fabric;
    w->now_ns = now_ns > w->now_ns ? now_ns : w->now_ns;
    w->sink = sink;
    w->context = context;
    w->outs = w->own_at = 0;
    if (w->fabric && vnic < w->config->filters)
        source.segment = w->fabric->vnic[vnic].segment;
    if (source.segment == PAL_NO_INDEX) {
        trace_dropped(w, mark, PAL_REASON_UNKNOWN_VNIC);
    } else if (!trace_look(w, &t, data, len, &source)) {
        trace_dropped(w, mark, t.packet.reason ? t.packet.reason : PAL_REASON_NON_IP);
    } else {
        pal_trace_seen s = trace_stage(mark, PAL_TRACE_SENT);
        const uint8_t refused = spoof_check(w->fabric, vnic, &t.packet);
        s.filter = (uint16_t)vnic;
        s.segment = source.segment;
        trace_see(w, &s);
        if (refused) {
            trace_dropped(w, mark, refused);
        } else if (trace_filter(w, mark, vnic, PAL_DIR_OUT, &t.packet)) {
            if (mac_number(data) == w->fabric->gateway_mac)
                trace_routes(w, mark, source.segment, &t.packet);
            trace_onward(w, mark, &t.view, &t.packet);
        }
    }
    host_flush(w);
    engine_leave(w->host->e, w->number);
}
