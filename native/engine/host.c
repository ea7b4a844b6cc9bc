/* SPDX-License-Identifier: Apache-2.0 */
#include "host_emit.h"

/* ---- taken in -------------------------------------------------------------------------------------------------- */

/* A tunnel is accepted from known TEPs, by the encapsulation that each speaks, and for segments that are here. Returns where the frame
 * begins. */
PAL_INLINE uint32_t host_take_uplink(host_worker *w, const fabric *fabric, const host_frame *f, host_source *s)
{
    geneve_header g;
    if (PAL_UNLIKELY(memcmp(&f->outer, &w->outer, sizeof w->outer) != 0)) { /* most of a burst come from one host */
        w->outer = f->outer;
        w->outer_tep = fabric ? fabric_find(fabric, FABRIC_TEP, 0, f->outer.addr, f->outer.family) : PAL_NO_INDEX;
    }
    const uint32_t tep = w->outer_tep;
    *s = (host_source){.vnic = PAL_UPLINK, .segment = PAL_NO_INDEX, .tep = tep};
    if (PAL_UNLIKELY(tep == PAL_NO_INDEX) || PAL_UNLIKELY(fabric->tep[tep].encap != f->encap)) {
        s->reason = PAL_REASON_UNKNOWN_TEP;
        return 0;
    }
    if (PAL_UNLIKELY(!encap_read(f->encap, f->data, f->len, &g)) ||
        (PAL_UNLIKELY(g.protocol != GENEVE_ETHERNET) && !(g.flags & GENEVE_OAM))) {
        s->reason = PAL_REASON_TUNNEL_MALFORMED;
        return 0;
    }
    s->marks = g.marks;
    if (PAL_UNLIKELY(g.flags & GENEVE_OAM)) {
        s->control = HOST_IS_CONTROL;
        return g.len;
    }
    if (PAL_UNLIKELY(g.vni != w->outer_vni)) {
        w->outer_vni = g.vni;
        w->outer_segment = fabric_segment_of(fabric, g.vni);
    }
    s->segment = w->outer_segment;
    if (PAL_UNLIKELY(s->segment == PAL_NO_INDEX))
        s->reason = PAL_REASON_UNKNOWN_VNI;
    if (PAL_UNLIKELY(g.trace))
        s->control = HOST_IS_TRACED;
    return g.len;
}

PAL_INLINE void host_take_vnic(const fabric *fabric, uint32_t filters, const host_frame *f, host_source *s)
{
    const uint32_t segment = PAL_LIKELY(fabric != NULL) && PAL_LIKELY(f->from < filters) ? fabric->vnic[f->from].segment : PAL_NO_INDEX;
    *s = (host_source){.vnic = f->from, .segment = segment, .tep = PAL_NO_INDEX, .reason = segment == PAL_NO_INDEX ? PAL_REASON_UNKNOWN_VNIC : PAL_REASON_MATCH};
}

/* A control packet in Geneve: for whoever speaks BFD here. */
static void host_control(host_worker *w, const host_frame *f, uint32_t inner)
{
    if (w->outs == HOST_OUT)
        host_flush(w);
    w->out[w->outs++] = (host_out){.data = f->data, .len = f->len, .vnic = HOST_CONTROL, .tep = PAL_NO_INDEX, .outer = f->outer,
                                   .inner = (uint16_t)inner, .offload = f->offload};
    w->stats.consumed++;
}

/* Where each came from; packet[k] is a frame to be parsed. Returns how many are looked at. *frames: of how many; a traced one waits for
 * those before it. */
static uint32_t host_take(host_worker *w, uint32_t *frames)
{
    const fabric *fabric = w->fabric;
    host_frame *frame = w->frame;
    const uint64_t now_ns = w->now_ns, base = w->base;
    const uint32_t filters = w->config->filters, n = *frames;
    uint32_t kept = 0, uplinks = 0, i = 0;
    for (; i < n; i++) {
        const uint8_t *data = frame[i].data;
        const bool uplink = frame[i].from == PAL_UPLINK;
        prefetch_write(uplink ? data + GENEVE_HEADER : data - GENEVE_HEADER); /* the inner frame; or where headers will stand */
        prefetch_read(data);
    }
    for (i = 0; i < n; i++) {
        host_frame *f = &frame[i];
        host_source *s = &w->source[kept];
        uint32_t inner = 0;
        if (f->from == PAL_UPLINK) {
            uplinks++;
            inner = host_take_uplink(w, fabric, f, s);
        } else {
            host_take_vnic(fabric, filters, f, s);
        }
        if (PAL_UNLIKELY(s->reason)) {
            host_dropped(w, s->reason);
            continue;
        }
        if (PAL_UNLIKELY(s->control == HOST_IS_CONTROL)) {
            host_control(w, f, inner);
            continue;
        }
        if (PAL_UNLIKELY(s->control == HOST_IS_TRACED)) {
            if (kept) {
                uplinks--;
                break;
            }
            host_trace_take(w, f, s, inner);
            continue;
        }
        pal_packet *p = &w->packet[kept];
        p->data = f->data + inner;
        p->cap = p->wire = f->len - inner;
        p->ts_ns = p->clock_ns = now_ns;
        p->cookie = base + i;
        w->place[i] = (uint8_t)kept;
        w->at[kept++] = (uint8_t)i;
    }
    w->stats.received[0] += i - uplinks;
    w->stats.received[1] += uplinks;
    *frames = i;
    return kept;
}

/* Does the card's word, or the kernel's, stand for its transport's sum? Then that is not looked at. */
static bool host_is_vouched(const host_worker *w, uint32_t k)
{
    const uint8_t flags = w->frame[w->at[k]].offload.flags;
    return (flags & OFFLOAD_NEEDS_CSUM) || ((flags & OFFLOAD_DATA_VALID) && w->source[k].vnic == PAL_UPLINK);
}

/* Runs of frames that are vouched for are parsed as a burst; those are nearly all. */
static void host_parse(host_worker *w, uint32_t n)
{
    const parse_options all = {.sum_mode = w->ew->w.parse.sum_mode}, none = {.sum_mode = SUM_MODE_OFF};
    for (uint32_t k = 0, end; k < n; k = end) {
        for (end = k; end < n && (all.sum_mode == SUM_MODE_OFF || host_is_vouched(w, end));)
            end++;
        if (end == k) {
            parse_frame(&w->packet[end++], LINKTYPE_ETHERNET, &all);
            continue;
        }
        parse_burst(&w->packet[k], end - k, LINKTYPE_ETHERNET, &none, w->ew->w.wide);
        for (uint32_t i = k; all.sum_mode == SUM_MODE_VERIFY && i < end; i++)
            if (!w->packet[i].reason && w->packet[i].ip_sum == SUM_BAD)
                w->packet[i].reason = PAL_REASON_IP_CHECKSUM;
    }
}

/* ---- judged ----------------------------------------------------------------------------------------------------- */

static void host_settle_alone(host_worker *w, const host_view *v, const pal_judgement *j)
{
    if (v->plan->kind == FORWARD_MANY) {
        if (j->verdict == PAL_ALLOW) {
            if (j->dir == PAL_DIR_OUT)
                host_to_teps(w, v);
            else
                host_to_vnic(w, v, j->filter);
        }
    } else if (j->verdict == PAL_ALLOW) {
        w->alone_passed = 1;
    }
    if (j->verdict != PAL_ALLOW)
        w->alone_reason = j->reason;
}

/* Acts on one verdict. */
PAL_OUTLINE void host_settle_one(host_worker *w, const pal_judgement *j)
{
    const uint64_t piece = j->cookie >> HOST_PIECE_SHIFT;
    if (PAL_UNLIKELY(w->told != NULL))
        w->told(w->told_context, j);
    if (PAL_UNLIKELY(piece != 0)) {
        held_settle(w, (uint32_t)piece - 1, j);
        return;
    }
    const uint32_t k = w->place[j->cookie - w->base];
    const host_view v = host_view_at(w, k);
    if (PAL_UNLIKELY(k == w->alone)) {
        host_settle_alone(w, &v, j);
        return;
    }
    if (PAL_UNLIKELY(j->verdict != PAL_ALLOW)) {
        host_dropped(w, j->reason);
        return;
    }
    const pal_filter *second = w->plain ? NULL : w->route[k].second; /* a plain burst has no routes */
    if (!second || j->filter == second->number)
        host_execute(w, &v);
}

/* Acts on the verdicts that there are. */
void host_settle(host_worker *w)
{
    const pal_worker *pw = &w->ew->w;
    for (; w->settled < pw->out_count; w->settled++) {
        host_fetch(w);
        host_settle_one(w, &pw->out[w->settled]);
    }
}

/* The same within a plain burst: what passed leaves, and nothing else happens on the way. A verdict on another burst's fragment, or
 * whom somebody else wants to know of, is dealt with as ever. */
static void host_settle_plain(host_worker *w)
{
    const pal_worker *pw = &w->ew->w;
    const pal_judgement *j = &pw->out[w->settled], *end = &pw->out[pw->out_count];
    const uint64_t base = w->base;
    const bool told = w->told != NULL;
    for (; j < end; j++) {
        const uint64_t number = j->cookie - base;
        host_fetch(w);
        if (PAL_UNLIKELY(number >= HOST_BURST) || PAL_UNLIKELY(told)) {
            host_settle_one(w, j);
            continue;
        }
        const host_view v = host_view_at(w, w->place[number]);
        if (PAL_LIKELY(j->verdict == PAL_ALLOW))
            host_execute(w, &v);
        else
            host_dropped(w, j->reason);
    }
    w->settled = pw->out_count;
}

void host_verdicts(pal_worker *pw)
{
    host_worker *w = pw->context;
    host_settle(w);
    w->settled = 0;
}

static void host_burst_judge(host_worker *w, uint32_t k, uint32_t n)
{
    pal_worker *pw = &w->ew->w;
    pipeline_burst(pw, &w->route[k], &w->packet[k], n);
    host_settle(w);
    pw->out_count = w->settled = 0;
}

static void host_judged(pal_worker *pw) { host_settle_plain(pw->context); }

static void host_group_judge(host_worker *w, uint32_t k)
{
    const fabric_segment *s = &w->fabric->segment[w->plan[k].to];
    const uint32_t *member = w->fabric->member + s->vnic_off;
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->vnic_n; i++)
        if (member[i] != w->source[k].vnic)
            w->receiver[n++] = &w->config->filter[member[i]];
    group_judge(&w->ew->w, w->route[k].first, w->receiver, n, &w->packet[k]);
    host_settle(w);
    w->ew->w.out_count = w->settled = 0;
}

/* A fragment: at how many filters may it be held? */
static uint32_t host_holders(const host_worker *w, uint32_t k)
{
    if (w->route[k].first)
        return 1;
    return w->plan[k].kind == FORWARD_MANY ? w->fabric->segment[w->plan[k].to].vnic_n : 0;
}

static void host_fragment(host_worker *w, uint32_t k)
{
    pal_packet *p = &w->packet[k];
    const uint32_t piece = held_take(w->held, host_holders(w, k), w->route[k].first ? w->route[k].dir : PAL_DIR_IN);
    if (piece == PAL_NONE) {
        host_dropped(w, PAL_REASON_HOST_MEMORY);
        return;
    }
    p->cookie |= (uint64_t)(piece + 1) << HOST_PIECE_SHIFT;
    w->piece = piece;
    if (w->plan[k].kind == FORWARD_MANY)
        host_group_judge(w, k);
    else
        host_burst_judge(w, k, 1);
    w->piece = PAL_NONE;
    if (held_waits(w->held, piece))
        held_keep(w->held, piece, p->data + p->l3, p->ip_len);
    held_finish(w);
}

/* A frame whose execution says something to somebody, makes copies, or releases others: it is judged, and dealt with, before
 * the next one is judged. */
static void host_special(host_worker *w, uint32_t k)
{
    const forward_plan *plan = &w->plan[k];
    const host_view v = host_view_at(w, k);
    w->alone = k;
    w->alone_passed = w->alone_reason = w->copied = 0;
    if (plan->kind == FORWARD_MANY && w->source[k].vnic != PAL_UPLINK) {
        const fabric_segment *s = &w->fabric->segment[plan->to];
        const uint32_t cost = s->vnic_n - 1 + s->tep_n;
        if (!host_afford(&host_budget_of(w, w->source[k].vnic)->copies, 0, HOST_COPIES, cost, host_tick(w))) {
            host_dropped(w, PAL_REASON_REPLICA_BUDGET);
            w->alone = PAL_NONE;
            return;
        }
    }
    if (host_is_fragment(&w->packet[k]) && host_holders(w, k)) {
        host_fragment(w, k);
    } else if (plan->kind == FORWARD_MANY) {
        host_group_judge(w, k);
        if (w->copied)
            w->stats.passed++;
        else
            host_dropped(w, w->alone_reason ? w->alone_reason : PAL_REASON_NO_RECEIVER);
    } else {
        if (w->route[k].first)
            host_burst_judge(w, k, 1);
        else
            w->alone_passed = 1; /* nobody here judges it */
        if (!w->alone_passed)
            host_dropped(w, w->alone_reason);
        else if (plan->kind == FORWARD_ANSWER)
            host_answer(w, &v);
        else
            host_execute(w, &v);
    }
    w->alone = PAL_NONE;
}

/* ---- a burst ---------------------------------------------------------------------------------------------------- */

void host_ahead(host_worker *w, const void *const *line, uint32_t n)
{
    w->ahead = line;
    w->aheads = n;
}

/* The first of w->frame's n. Returns how many. */
static uint32_t host_part(host_worker *w, uint32_t n)
{
    pal_worker *pw = &w->ew->w;
    uint32_t looked = host_take(w, &n);
    host_parse(w, looked);
    pipeline_begin(&w->burst);
    w->plain = true;
    if (looked)
        looked = host_look(w, looked);
    if (looked && PAL_LIKELY(w->plain)) {
        pipeline_finish(pw, &w->burst, host_judged);
        looked = 0;
    }
    for (uint32_t k = 0, end; k < looked; k = end) {
        for (end = k; end < looked && !host_is_special(w, end, &w->route[end]);)
            end++;
        if (end > k)
            host_burst_judge(w, k, end - k);
        else
            host_special(w, end++);
    }
    host_settle(w); /* what ran out of time, and was held */
    pw->out_count = w->settled = 0;
    held_finish(w);
    return n;
}

void host_burst(host_worker *w, host_frame *frame, uint32_t n, uint64_t now_ns, host_sink *sink, void *context)
{
    pal_worker *pw = &w->ew->w;
    w->config = engine_enter(w->host->e, w->number);
    w->fabric = w->config->fabric;
    w->frame = frame;
    w->base = w->number_next;
    w->now_ns = now_ns > w->now_ns ? now_ns : w->now_ns;
    w->number_next += n;
    w->sink = sink;
    w->context = context;
    w->outs = w->own_at = 0;
    w->outer = (pal_address){0}; /* what was known of the last one is the last configuration's */
    w->outer_tep = w->outer_segment = PAL_NO_INDEX;
    w->outer_vni = PAL_NO_INDEX;
    if (PAL_UNLIKELY(w->now_ns >= pw->clock_due))
        pipeline_clock(pw, w->now_ns);
    if (PAL_UNLIKELY(w->captures))
        host_capture_in(w, n);
    for (uint32_t left = n, part = host_part(w, left); PAL_UNLIKELY(part < left); part = host_part(w, left)) {
        left -= part;
        w->frame += part;
        w->base += part;
    }
    host_flush(w);
    while (w->aheads)
        host_fetch(w);
    w->stats.held = held_count(w->held);
    engine_leave(w->host->e, w->number);
}
