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

static void host_route(host_worker *w, uint32_t k)
{
    const pal_filter *filter = w->config->filter;
    const forward_plan *plan = &w->plan[k];
    const uint32_t from = w->source[k].vnic;
    pal_route *r = &w->route[k];
    const pal_filter *in = plan->kind == FORWARD_VNIC && plan->vnic != from ? &filter[plan->vnic] : NULL;
    if (from == PAL_UPLINK)
        *r = (pal_route){.first = in, .dir = PAL_DIR_IN};
    else
        *r = (pal_route){.first = &filter[from], .second = in, .dir = PAL_DIR_OUT};
}

/* The firewall learns of the first n: what it needs is on its way while others are looked at. */
static void host_visits(host_worker *w, uint32_t n)
{
    pipeline_more(&w->ew->w, &w->burst, &w->route[w->visits], &w->packet[w->visits], n - w->visits);
    w->visits = n;
}

/* host_inspect, path_look_up or forward_look_up, and host_route at once, for what nearly every frame is: a plain packet that asks the
 * card for no more than its sum, from a guarded vNIC by a path that is known, or from another host to a vNIC here. False: nothing counts, and it
 * goes the long way, where the answer would have been the same. */
PAL_INLINE bool host_look_plain(host_worker *w, uint32_t k)
{
    const fabric *f = w->fabric;
    const pal_packet *p = &w->packet[k];
    const host_source *s = &w->source[k];
    host_frame *frame = &w->frame[w->at[k]];
    const pal_filter *filter = w->config->filter;
    forward_plan *plan = &w->plan[k];
    if (PAL_UNLIKELY(!packet_is_plain4(p)) || PAL_UNLIKELY(!w->path))
        return false;
    if (s->vnic == PAL_UPLINK) {
        if (PAL_UNLIKELY((frame->tos & 3) == 3) || PAL_UNLIKELY(addr4_is_odd((const uint8_t *)&p->addr4[0], (const uint8_t *)&p->addr4[1])) ||
            !forward_plain4(f, s->segment, p, plan) || !host_offload_plain4(p, &frame->offload, true))
            return false;
        w->route[k] = (pal_route){.first = &filter[plan->vnic], .dir = PAL_DIR_IN};
        return true;
    }
    if (PAL_UNLIKELY(!spoof_plain4(f, s->vnic, p)) || !path_plain4(w->path, w->config->number + 1, f, s->segment, p, plan) ||
        !host_offload_plain4(p, &frame->offload, false))
        return false;
    w->route[k] = (pal_route){.first = &filter[s->vnic], .dir = PAL_DIR_OUT};
    if (PAL_UNLIKELY(plan->kind == FORWARD_VNIC) && plan->vnic != s->vnic)
        w->route[k].second = &filter[plan->vnic];
    return true;
}

/* Spoofguard, and where each goes. Returns how many are left; they are moved together. */
uint32_t host_look(host_worker *w, uint32_t n)
{
    const fabric *f = w->fabric;
    uint32_t kept = 0;
    for (uint32_t k = 0; k < n && f->mac_mask >= HOST_MACS_NEAR; k++)
        if (PAL_LIKELY(w->packet[k].cap >= 14))
            fabric_mac_prefetch(f, w->source[k].segment, mac_number(w->packet[k].data));
    for (uint32_t k = 0; k < n; k++) {
        host_fetch(w);
        if (PAL_LIKELY(kept == k) && PAL_LIKELY(host_look_plain(w, k))) {
            kept++;
            w->plain = w->plain && !w->route[k].second;
            if (w->plain && kept - w->visits == WIDE_LANES)
                host_visits(w, kept);
            continue;
        }
        const uint8_t r = host_inspect(w, k);
        if (PAL_UNLIKELY(r)) {
            host_dropped(w, r);
            if (PAL_UNLIKELY(w->captures))
                host_capture_refused(w, k, r);
            continue;
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
        host_route(w, kept);
        kept++;
        w->plain = w->plain && !host_is_special(w, kept - 1) && !w->route[kept - 1].second;
        if (w->plain && kept - w->visits == WIDE_LANES)
            host_visits(w, kept);
    }
    if (w->plain && kept > w->visits)
        host_visits(w, kept);
    return kept;
}
