/* SPDX-License-Identifier: Apache-2.0
 *
 * host_send.c - what leaves a host: frames that passed, copies for many, and what we say ourselves.
 *
 * What is delivered to a vNIC has been judged IN at its filter, ours too; only what that filter itself has generated is not.
 */
#include "host_emit.h"

/* ---- out ------------------------------------------------------------------------------------------------------- */

void host_flush(host_worker *w)
{
    if (PAL_UNLIKELY(w->captures))
        host_capture_out(w);
    if (w->outs)
        w->sink(w->context, w->out, w->outs);
    w->outs = 0;
}

/* Room for a frame of our own, HOST_HEADROOM before it. While an answer waits for its verdict nothing is given back: there is
 * a margin for it. */
uint8_t *host_own(host_worker *w, uint32_t len)
{
    const uint32_t need = (HOST_HEADROOM + len + 15) & ~15u, room = w->depth ? HOST_OWN : HOST_OWN - HOST_OWN_MARGIN;
    if (w->own_at + need > room && !w->depth) {
        host_flush(w);
        w->own_at = 0;
    }
    uint8_t *data = w->own + w->own_at + HOST_HEADROOM;
    w->own_at += need;
    return data;
}

void host_emit_geneve(host_worker *w, const host_view *v, uint32_t tep, const geneve_header *g) { host_emit_with(w, v, tep, g); }

/* ---- copies ---------------------------------------------------------------------------------------------------- */

static uint32_t host_longest(const host_view *v)
{
    const forward_case c = {.p = v->p, .gso_size = v->offload->gso_size};
    return forward_bytes(&c);
}

/* One of the segment's vNICs has passed it. Copies share the frame's bytes. */
void host_to_vnic(host_worker *w, const host_view *v, uint32_t vnic)
{
    const uint32_t mtu = w->fabric->vnic[vnic].mtu;
    if (mtu && host_longest(v) > mtu) {
        w->stats.copies_refused++;
        return;
    }
    host_emit_vnic(w, v, vnic);
    w->stats.copies++;
    w->copied = 1;
}

/* The sender's filter has passed it: to every host that has the segment. Each TEP has a copy of its own, since its outer header
 * goes before the frame. */
void host_to_teps(host_worker *w, const host_view *v)
{
    const fabric_segment *s = &w->fabric->segment[v->plan->to];
    for (uint32_t i = 0; i < s->tep_n; i++) {
        const uint32_t tep = w->fabric->replica[s->tep_off + i];
        if (host_longest(v) > fabric_mtu(w->fabric, tep)) {
            w->stats.copies_refused++;
            continue;
        }
        host_view copy = *v;
        copy.data = host_own(w, v->len);
        memcpy(copy.data, v->data, v->len);
        host_emit_tep(w, &copy, tep);
        w->stats.copies++;
        w->copied = 1;
    }
}

/* ---- what we say ------------------------------------------------------------------------------------------------ */

/* The verdict of a vNIC's filter on a frame of ours, at once: what comes after it finds the connection as it left it. */
static bool host_judge_in(host_worker *w, uint32_t vnic, const host_view *v, pal_packet *p)
{
    pal_worker *pw = &w->ew->w;
    const pal_filter *f = &w->config->filter[vnic];
    pal_judgement j;
    pw->received++;
    if (!f->ether || !pipeline_refused(pw, f, PAL_DIR_IN, p, p, &j))
        pipeline_judge_whole(pw, f, PAL_DIR_IN, p, NULL, &j);
    worker_log(pw, &j, p);
    pw->count[j.verdict][j.reason]++;
    if (PAL_UNLIKELY(w->captures))
        host_capture_said(w, vnic, v, &j);
    return j.verdict == PAL_ALLOW;
}

static void host_say_parse(host_worker *w, pal_packet *p, const uint8_t *data, uint32_t len)
{
    const parse_options none = {.sum_mode = SUM_MODE_OFF};
    *p = (pal_packet){.data = data, .cap = len, .wire = len, .ts_ns = w->now_ns, .clock_ns = w->now_ns};
    parse_frame(p, LINKTYPE_ETHERNET, &none);
}

/* A frame of ours leaves by `plan`: to a vNIC, whose filter judges it, or to another host, whose filter will. */
static void host_say(host_worker *w, uint8_t *data, uint32_t len, pal_packet *p, const forward_plan *plan, bool judged)
{
    const host_offload none = {0};
    const host_view v = {.data = data, .len = len, .p = p, .offload = &none, .plan = plan};
    if (plan->kind != FORWARD_VNIC && plan->kind != FORWARD_TEP) {
        w->stats.generated_dropped++;
        return;
    }
    host_rewrite(w, &v);
    if (plan->kind == FORWARD_TEP) {
        host_emit_tep(w, &v, plan->tep);
        return;
    }
    w->depth++;
    if (PAL_UNLIKELY(w->captures) && !judged)
        host_capture_said(w, plan->vnic, &v, NULL);
    if (!judged || host_judge_in(w, plan->vnic, &v, p))
        host_emit_vnic(w, &v, plan->vnic);
    else
        w->stats.generated_dropped++;
    w->depth--;
}

/* To where a frame came from. */
static void host_say_back(host_worker *w, const host_view *v, uint8_t *data, uint32_t len)
{
    const host_source *s = v->source;
    const forward_plan plan = {.kind = s->vnic == PAL_UPLINK ? FORWARD_TEP : FORWARD_VNIC, .vnic = s->vnic, .tep = s->tep, .from = s->segment,
                               .to = s->segment};
    pal_packet p;
    host_say_parse(w, &p, data, len);
    w->stats.generated++;
    host_say(w, data, len, &p, &plan, true);
}

static void host_ether_back(const host_worker *w, const host_view *v, uint8_t *data)
{
    memcpy(data, v->p->data + 6, 6);
    memcpy(data + 6, w->fabric->gateway_mac_bytes, 6);
    store_be16(data + 12, v->p->family == PAL_FAMILY_V4 ? ETHERTYPE_IP4 : ETHERTYPE_IP6);
}

/* A question to a gateway, or one that a neighbour is asked for: it is consumed. */
void host_answer(host_worker *w, const host_view *v)
{
    const forward_plan *plan = v->plan;
    if (plan->answer != ANSWER_NOTHING &&
        !host_afford(&host_budget_of(w, v->source->vnic)->answers, 0, HOST_ANSWERS, 1, host_tick(w))) {
        host_dropped(w, PAL_REASON_ANSWER_RATE);
        return;
    }
    w->stats.consumed++;
    uint8_t *data;
    switch (plan->answer) {
    case ANSWER_ARP:
        data = host_own(w, 14 + ARP_BYTES);
        host_say_back(w, v, data, arp_answer(data, arp_of(v->p), plan->mac));
        return;
    case ANSWER_ND:
        data = host_own(w, ND_ANSWER_BYTES);
        host_say_back(w, v, data, nd_answer(data, v->p, plan->mac, plan->router));
        return;
    case ANSWER_PING:
        data = host_own(w, 14 + 40 + v->p->l4_len);
        host_ether_back(w, v, data);
        host_say_back(w, v, data, 14 + icmp_pong_build(data + 14, v->p));
        return;
    default:
        return;
    }
}

/* In whose name: the gateway's on the sender's segment; between two of one segment, the destination's, as a bridge does. NULL: a
 * gateway without an address of that family. */
static const uint8_t *host_error_from(const host_worker *w, const host_view *v)
{
    if (!v->plan->routed && v->plan->error == ICMP_TOO_BIG && mac_number(v->p->data) != w->fabric->gateway_mac)
        return packet_dst(v->p);
    const uint32_t own = w->fabric->segment[v->plan->from].own[v->p->family == PAL_FAMILY_V6];
    return own == PAL_NO_INDEX ? NULL : w->fabric->interface[own].addr;
}

/* The frame was refused: its sender is told why. */
void host_error(host_worker *w, const host_view *v)
{
    if (!icmp_may_answer(v->p))
        return;
    const uint8_t *from = host_error_from(w, v);
    if (!from || !host_afford(&host_budget_of(w, v->source->vnic)->answers, 1, HOST_ERRORS, 1, host_tick(w)))
        return;
    uint8_t *data = host_own(w, 14 + REJECT_MAX_BYTES);
    host_ether_back(w, v, data);
    host_say_back(w, v, data, 14 + icmp_error_build(data + 14, v->p, v->plan->error, from, v->plan->mtu));
}

/* ---- what the firewall says --------------------------------------------------------------------------------------- */

/* Who has an address on a segment: a neighbour, or the gateway. */
static const uint8_t *host_mac_of(const host_worker *w, uint32_t segment, const uint8_t *addr, uint32_t family)
{
    const pal_neighbour *n = fabric_neighbour(w->fabric, segment, addr, family);
    return n ? n->mac : w->fabric->gateway_mac_bytes;
}

/* RST or ICMP of a filter: back to the refused packet's sender, or on to its receiver. Towards the filter's own vNIC it goes
 * straight; the other way it goes as if the vNIC had sent it, and other filters judge it. */
void host_generated(pal_worker *pw, const uint8_t *ip, uint32_t len, const pal_packet *cause, uint16_t filter, uint8_t dir)
{
    host_worker *w = pw->context;
    const uint32_t segment = w->fabric->vnic[filter].segment, family = ip[0] >> 4 == 4 ? PAL_FAMILY_V4 : PAL_FAMILY_V6;
    const uint8_t *src = ip + (family == PAL_FAMILY_V4 ? 12 : 8), *dst = ip + (family == PAL_FAMILY_V4 ? 16 : 24);
    const bool back = memcmp(dst, packet_src(cause), family == PAL_FAMILY_V4 ? 4 : 16) == 0;
    host_settle(w);
    w->stats.generated++;
    if (segment == PAL_NO_INDEX || w->depth == HOST_DEPTH) {
        w->stats.generated_dropped++;
        return;
    }
    uint8_t *data = host_own(w, 14 + len);
    const uint8_t *own = w->fabric->vnic[filter].mac;
    const bool inward = (dir == PAL_DIR_OUT) == back;
    memcpy(data, inward ? own : host_mac_of(w, segment, dst, family), 6);
    memcpy(data + 6, inward ? host_mac_of(w, segment, src, family) : own, 6);
    store_be16(data + 12, family == PAL_FAMILY_V4 ? ETHERTYPE_IP4 : ETHERTYPE_IP6);
    memcpy(data + 14, ip, len);
    pal_packet p;
    host_say_parse(w, &p, data, 14 + len);
    forward_plan plan = {.kind = FORWARD_VNIC, .vnic = filter};
    if (!inward) {
        const forward_case c = {.f = w->fabric, .p = &p, .segment = segment, .vnic = filter};
        forward_look_up(&c, &plan);
    }
    host_say(w, data, 14 + len, &p, &plan, !inward);
}
