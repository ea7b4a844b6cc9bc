/* SPDX-License-Identifier: Apache-2.0
 *
 * host_look.c - each frame of a burst looked at: what it asks of the card, spoofguard, congestion, and where it goes. Nearly all go a
 * short way, where all of that is asked at once.
 */
#include "host_internal.h"

/* Congestion that the underlay has marked goes on to the inner packet (RFC 6040 section 4.2). */
static uint8_t host_congestion(pal_packet *p, uint8_t tos)
{
    if (PAL_LIKELY((tos & 3) != 3) || !p->family || p->reason)
        return PAL_REASON_MATCH;
    uint8_t *ip = (uint8_t *)(uintptr_t)p->data + p->l3;
    if (p->family == PAL_FAMILY_V4) {
        const uint16_t before = load_u16(ip);
        if ((ip[1] & 3) == 0)
            return PAL_REASON_ECN;
        ip[1] |= 3;
        uint64_t sum = (uint16_t)~load_u16(ip + 10); /* RFC 1624: the sum less the old word, plus the new one */
        const uint16_t after = sum_finish(sum + (uint16_t)~before + load_u16(ip));
        memcpy(ip + 10, &after, 2);
        return PAL_REASON_MATCH;
    }
    if ((ip[1] & 0x30) == 0)
        return PAL_REASON_ECN;
    ip[1] |= 0x30;
    return PAL_REASON_MATCH;
}

static uint8_t host_inspect(host_worker *w, uint32_t k)
{
    pal_packet *p = &w->packet[k];
    host_frame *f = &w->frame[w->at[k]];
    const host_source *s = &w->source[k];
    const bool uplink = s->vnic == PAL_UPLINK;
    uint8_t r = host_offload_check(p, &f->offload, uplink);
    if (PAL_UNLIKELY(r))
        return r;
    if (!uplink)
        return spoof_check(w->fabric, s->vnic, p);
    if (PAL_UNLIKELY(p->cap >= 14 && ethertype_is_tag(load_be16(p->data + 12))))
        return PAL_REASON_VLAN_GUEST;
    if (PAL_UNLIKELY(p->reason))
        return PAL_REASON_MATCH;
    if (PAL_UNLIKELY(p->family && spoof_is_odd(p)))
        return PAL_REASON_BAD_ADDRESS;
    return host_congestion(p, f->tos);
}

static pal_route host_route(const host_worker *w, uint32_t k)
{
    const pal_filter *filter = w->config->filter;
    const forward_plan *plan = &w->plan[k];
    const uint32_t from = w->source[k].vnic;
    const pal_filter *in = plan->kind == FORWARD_VNIC && plan->vnic != from ? &filter[plan->vnic] : NULL;
    if (from == PAL_UPLINK)
        return (pal_route){.first = in, .dir = PAL_DIR_IN};
    return (pal_route){.first = &filter[from], .second = in, .dir = PAL_DIR_OUT};
}

/* host_inspect, path_look_up or forward_look_up, and host_route at once, for what nearly every frame is: a plain packet that asks the
 * card for no more than its sum, from a guarded vNIC by a path that is known, or from another host to a vNIC here. False: nothing counts, and it
 * goes the long way, where the answer would have been the same. */
PAL_INLINE bool host_look_plain(host_worker *w, const fabric *f, const pal_filter *filter, uint64_t config, uint32_t k, pal_route *r)
{
    const pal_packet *p = &w->packet[k];
    const host_source *s = &w->source[k];
    host_frame *frame = &w->frame[w->at[k]];
    forward_plan *plan = &w->plan[k];
    const uint32_t from = s->vnic;
    if (PAL_UNLIKELY(!packet_is_plain4(p)))
        return false;
    if (from == PAL_UPLINK) {
        if (PAL_UNLIKELY((frame->tos & 3) == 3) || PAL_UNLIKELY(addr4_is_odd((const uint8_t *)&p->addr4[0], (const uint8_t *)&p->addr4[1])) ||
            !forward_plain4(f, s->segment, p, plan) || !host_offload_plain4(p, &frame->offload, true))
            return false;
        *r = (pal_route){.first = &filter[plan->vnic], .dir = PAL_DIR_IN};
        return true;
    }
    if (PAL_UNLIKELY(!spoof_plain4(f, from, p)) || !path_plain4(w->path, config, f, s->segment, p, plan) ||
        !host_offload_plain4(p, &frame->offload, false))
        return false;
    *r = (pal_route){.first = &filter[from], .dir = PAL_DIR_OUT};
    if (PAL_UNLIKELY(plan->kind == FORWARD_VNIC) && plan->vnic != from)
        r->second = &filter[plan->vnic];
    return true;
}

/* The k-th frame, which stands at place `kept` from now on, unless it is refused: then false. */
PAL_OUTLINE bool host_look_any(host_worker *w, uint32_t k, uint32_t kept, pal_route *route)
{
    const fabric *f = w->fabric;
    const uint8_t r = host_inspect(w, k);
    if (PAL_UNLIKELY(r)) {
        host_dropped(w, r);
        if (PAL_UNLIKELY(w->captures))
            host_capture_refused(w, k, r);
        return false;
    }
    if (PAL_UNLIKELY(kept != k)) {
        w->packet[kept] = w->packet[k];
        w->source[kept] = w->source[k];
        w->at[kept] = w->at[k];
        w->place[w->at[k]] = (uint8_t)kept;
    }
    const forward_case c = {.f = f, .p = &w->packet[kept], .segment = w->source[kept].segment, .vnic = w->source[kept].vnic,
                            .gso_size = w->frame[w->at[kept]].offload.gso_size, .tep = w->source[kept].tep, .marks = w->source[kept].marks,
                            .learned = w->learned, .tick = host_tick(w)};
    if (PAL_UNLIKELY(f->segment[c.segment].learn) && c.vnic == PAL_UPLINK && !c.p->reason && c.p->cap >= 14)
        learn_source(w->learned, f, c.segment, c.p->data + 6, c.tep, c.tick);
    if (PAL_LIKELY(w->path != NULL))
        path_look_up(w->path, w->config->number + 1, &c, &w->plan[kept]);
    else
        forward_look_up(&c, &w->plan[kept]);
    *route = host_route(w, kept);
    return true;
}

/* Something is not plain: those before it have a route like it, and what the firewall was told of them does not count. */
PAL_OUTLINE void host_look_routes(host_worker *w, uint32_t n)
{
    const pal_burst *b = &w->burst;
    w->plain = false;
    for (uint32_t k = 0; k < n; k++)
        w->route[k] = (pal_route){.first = b->filter[k], .dir = visit_dir(b, k)};
}

/* Spoofguard, and where each goes. Returns how many are left; they are moved together. As long as all are plain, each is a visit of
 * w->burst, and the firewall learns of them eight at a time: what it needs is on its way while others are looked at. */
uint32_t host_look(host_worker *w, uint32_t n)
{
    pal_worker *pw = &w->ew->w;
    pal_burst *b = &w->burst;
    const fabric *f = w->fabric;
    const pal_filter *filter = w->config->filter;
    const uint64_t config = w->config->number + 1, now_ns = w->now_ns;
    const bool paths = w->path != NULL;
    uint32_t kept = 0;
    for (uint32_t k = 0; k < n && f->mac_mask >= HOST_MACS_NEAR; k++)
        if (PAL_LIKELY(w->packet[k].cap >= 14))
            fabric_mac_prefetch(f, w->source[k].segment, mac_number(w->packet[k].data));
    for (uint32_t k = 0; k < n; k++) {
        pal_route r;
        host_fetch(w);
        const bool quick = PAL_LIKELY(kept == k) && PAL_LIKELY(paths) && PAL_LIKELY(host_look_plain(w, f, filter, config, k, &r));
        if (PAL_UNLIKELY(!quick) && !host_look_any(w, k, kept, &r))
            continue;
        if (PAL_LIKELY(w->plain) && PAL_LIKELY(!r.second) && (PAL_LIKELY(quick) || !host_is_special(w, kept, &r))) {
            kept = pipeline_visit(b, kept, r.first, &w->packet[kept], (uint32_t)r.dir << WAY_DIR);
            if (kept - b->n == WIDE_LANES)
                pipeline_entered(pw, b, kept, now_ns);
            continue;
        }
        if (w->plain)
            host_look_routes(w, kept);
        w->route[kept++] = r;
    }
    if (PAL_LIKELY(w->plain) && kept > b->n)
        pipeline_entered(pw, b, kept, now_ns);
    return kept;
}
