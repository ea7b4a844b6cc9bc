/* SPDX-License-Identifier: Apache-2.0
 *
 * host_capture.c - packets copied for whoever captures: at a vNIC, with the verdict of its filter; at the uplink, as they are in
 * the tunnel. Nothing of this runs unless somebody does; what finds no room in the ring is counted.
 *
 * A vNIC's packets are copied when they are judged: what it sends as it was sent, what it gets as it is delivered.
 */
#include "host_internal.h"

#include <stdlib.h>

#define CAPTURE_BYTES (4u << 20) /* of each worker's ring; memory only where it has been used */

struct host_capture {
    pal_capture_options options;
    PAL_ALIGNED(PAL_CACHE_LINE) uint64_t head; /* bytes ever written: the worker's */
    uint64_t lost;
    PAL_ALIGNED(PAL_CACHE_LINE) uint64_t tail; /* ever read: the reader's */
    uint8_t *bytes;
    uint8_t *room;           /* for a frame that has to be put together */
};

void capture_free(struct host_capture *c)
{
    if (c) {
        free(c->bytes);
        free(c->room);
    }
    free(c);
}

struct host_capture *capture_new(const pal_capture_options *options)
{
    struct host_capture *c = aligned_alloc(PAL_CACHE_LINE, sizeof *c);
    if (!c)
        return NULL;
    memset(c, 0, sizeof *c);
    c->options = *options;
    c->bytes = malloc(CAPTURE_BYTES);
    c->room = malloc(14 + 65536);
    if (c->bytes && c->room)
        return c;
    capture_free(c);
    return NULL;
}

/* ---- the ring ------------------------------------------------------------------------------------------------------- */

static void capture_copy(struct host_capture *c, uint64_t at, const void *from, uint32_t len)
{
    const uint32_t place = (uint32_t)at & (CAPTURE_BYTES - 1), first = min_u32(len, CAPTURE_BYTES - place);
    memcpy(c->bytes + place, from, first);
    memcpy(c->bytes, (const uint8_t *)from + first, len - first);
}

/* A packet whose first bytes, `head` of them, are given apart. */
static void capture_put(struct host_capture *c, pal_seen *s, const uint8_t *first, uint32_t head, const uint8_t *data, uint32_t len)
{
    s->wire = len;
    s->len = min_u32(len, c->options.snap);
    head = min_u32(head, s->len);
    const uint32_t size = ((uint32_t)sizeof *s + s->len + 7) & ~7u;
    if (c->head + size - __atomic_load_n(&c->tail, __ATOMIC_ACQUIRE) > CAPTURE_BYTES) {
        __atomic_store_n(&c->lost, c->lost + 1, __ATOMIC_RELAXED);
        return;
    }
    capture_copy(c, c->head, s, sizeof *s);
    if (head)
        capture_copy(c, c->head + sizeof *s, first, head);
    capture_copy(c, c->head + sizeof *s + head, data + head, s->len - head);
    __atomic_store_n(&c->head, c->head + size, __ATOMIC_RELEASE);
}

uint64_t capture_read(struct host_capture *c, uint8_t *out, uint64_t room)
{
    const uint64_t head = __atomic_load_n(&c->head, __ATOMIC_ACQUIRE);
    uint64_t n = 0;
    while (c->tail + n < head) {
        pal_seen s;
        const uint32_t place = (uint32_t)(c->tail + n) & (CAPTURE_BYTES - 1);
        for (uint32_t i = 0; i < sizeof s; i++)
            ((uint8_t *)&s)[i] = c->bytes[(place + i) & (CAPTURE_BYTES - 1)];
        const uint32_t size = ((uint32_t)sizeof s + s.len + 7) & ~7u;
        if (n + size > room)
            break;
        const uint32_t first = min_u32(size, CAPTURE_BYTES - place);
        memcpy(out + n, c->bytes + place, first);
        memcpy(out + n + first, c->bytes, size - first);
        n += size;
    }
    __atomic_store_n(&c->tail, c->tail + n, __ATOMIC_RELEASE);
    return n;
}

uint64_t capture_lost(const struct host_capture *c) { return __atomic_load_n(&c->lost, __ATOMIC_RELAXED); }

/* ---- what is wanted -------------------------------------------------------------------------------------------------- */

static bool capture_wants(const pal_capture_options *o, const pal_packet *p, bool refused)
{
    if (o->refused && !refused)
        return false;
    if (o->proto != PAL_PROTO_ANY && (p->proto != o->proto || !p->family))
        return false;
    if (o->port && p->sport != o->port && p->dport != o->port)
        return false;
    if (!o->addr.family)
        return true;
    const uint32_t n = addr_bytes(p);
    return o->addr.family == p->family && (memcmp(packet_src(p), o->addr.addr, n) == 0 || memcmp(packet_dst(p), o->addr.addr, n) == 0);
}

/* At filter `vnic`: by those who capture there. */
static void capture_at(host_worker *w, uint32_t vnic, pal_seen *s, const host_view *v, const uint8_t *first, uint32_t head)
{
    s->ts_ns = w->now_ns;
    for (uint32_t i = 0; i < HOST_CAPTURES; i++) {
        struct host_capture *c = w->capture[i];
        if (c && c->options.vnic == vnic && capture_wants(&c->options, v->p, s->verdict != PAL_ALLOW || s->then))
            capture_put(c, s, first, head, v->data, v->len);
    }
}

/* ---- where packets are seen ------------------------------------------------------------------------------------------- */

static pal_seen seen_of(const pal_judgement *j)
{
    return (pal_seen){.rule = j->rule, .filter = j->filter, .dir = j->dir, .verdict = j->verdict, .reason = j->reason, .judged = 1};
}

/* A fragment that was held before: its bytes behind the Ethernet header of the one that completed its datagram, if there is one. */
static host_view capture_held(host_worker *w, uint32_t piece, pal_packet *p)
{
    uint32_t first = 0;
    while (!w->capture[first])
        first++;
    uint8_t *room = w->capture[first]->room;
    const bool whole = w->alone != PAL_NONE;
    const uint32_t len = 14 + held_bytes(w->held, piece, room + 14);
    const parse_options none = {.sum_mode = SUM_MODE_OFF};
    memset(room, 0, 12);
    if (whole)
        memcpy(room, w->packet[w->alone].data, 12);
    store_be16(room + 12, room[14] >> 4 == 4 ? ETHERTYPE_IP4 : ETHERTYPE_IP6);
    *p = (pal_packet){.data = room, .cap = len, .wire = len};
    parse_frame(p, LINKTYPE_ETHERNET, &none);
    host_view v = {.data = room, .len = len, .p = p};
    if (whole)
        v.plan = &w->plan[w->alone];
    return v;
}

/* Every verdict (host_worker.told). */
void host_capture_told(void *context, const pal_judgement *j)
{
    host_worker *w = context;
    const uint64_t piece = j->cookie >> HOST_PIECE_SHIFT;
    pal_packet held;
    host_view v;
    if (piece && piece - 1 != w->piece)
        v = capture_held(w, (uint32_t)piece - 1, &held);
    else
        v = host_view_at(w, piece ? w->alone : w->place[j->cookie - w->base]);
    pal_seen s = seen_of(j);
    uint8_t delivered[14 + 40];
    uint32_t head = 0;
    const uint32_t l3_end = v.p->l3 + (v.p->family == PAL_FAMILY_V4 ? 20 : 40);
    if (v.plan && j->dir == PAL_DIR_OUT && j->verdict == PAL_ALLOW && v.plan->kind == FORWARD_REFUSE)
        s.then = v.plan->reason;
    if (v.plan && j->dir == PAL_DIR_IN && v.plan->routed && l3_end <= sizeof delivered && l3_end <= v.len) {
        head = l3_end;
        memcpy(delivered, v.data, head);
        rewrite_routed(delivered, v.p->l3, v.p->family, v.plan->mac, w->fabric->gateway_mac_bytes);
    }
    capture_at(w, j->filter, &s, &v, delivered, head);
}

/* What a vNIC sent, and spoofguard, or the like, refused before the filter saw it. */
void host_capture_refused(host_worker *w, uint32_t k, uint8_t reason)
{
    const host_view v = host_view_at(w, k);
    pal_seen s = {.rule = PAL_NONE, .filter = (uint16_t)w->source[k].vnic, .dir = PAL_DIR_OUT, .verdict = PAL_DROP, .reason = reason};
    if (w->source[k].vnic != PAL_UPLINK)
        capture_at(w, w->source[k].vnic, &s, &v, NULL, 0);
}

/* What we say ourselves to a vNIC; j: its filter's verdict, NULL: it was not asked. */
void host_capture_said(host_worker *w, uint32_t vnic, const host_view *v, const pal_judgement *j)
{
    pal_seen s = {.rule = PAL_NONE, .filter = (uint16_t)vnic, .dir = PAL_DIR_IN, .verdict = PAL_ALLOW};
    if (j)
        s = seen_of(j);
    s.ours = 1;
    capture_at(w, vnic, &s, v, NULL, 0);
}

/* A burst's frames from the underlay, as they came; or what leaves for it. */
static void capture_outer(host_worker *w, uint8_t dir, const uint8_t *data, uint32_t len, const pal_address *tep, uint16_t port, uint32_t encap)
{
    const pal_seen s = {.ts_ns = w->now_ns, .rule = PAL_NONE, .filter = PAL_NO_FILTER, .dir = dir, .outer = *tep, .port = port,
                        .encap = (uint8_t)encap};
    pal_packet p = {0};
    geneve_header g;
    const parse_options none = {.sum_mode = SUM_MODE_OFF};
    if (encap_read(encap, data, len, &g) && g.protocol == GENEVE_ETHERNET) {
        p = (pal_packet){.data = data + g.len, .cap = len - g.len, .wire = len - g.len};
        parse_frame(&p, LINKTYPE_ETHERNET, &none);
    }
    for (uint32_t i = 0; i < HOST_CAPTURES; i++) {
        struct host_capture *c = w->capture[i];
        pal_seen own = s;
        if (c && c->options.vnic == PAL_UPLINK && capture_wants(&c->options, &p, false))
            capture_put(c, &own, NULL, 0, data, len);
    }
}

void host_capture_in(host_worker *w, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (w->frame[i].from == PAL_UPLINK)
            capture_outer(w, PAL_DIR_IN, w->frame[i].data, w->frame[i].len, &w->frame[i].outer, 0, w->frame[i].encap);
}

void host_capture_out(host_worker *w)
{
    for (uint32_t i = 0; i < w->outs; i++)
        if (w->out[i].vnic == PAL_UPLINK)
            capture_outer(w, PAL_DIR_OUT, w->out[i].data, w->out[i].len, &w->out[i].outer, w->out[i].port, w->out[i].encap);
}

void host_capture_set(host_worker *w, uint32_t slot, struct host_capture *c)
{
    w->capture[slot] = c;
    w->captures = 0;
    for (uint32_t i = 0; i < HOST_CAPTURES; i++)
        w->captures += w->capture[i] != NULL;
    w->told = w->captures ? host_capture_told : NULL;
    w->told_context = w;
    pal_worker *pw = &w->ew->w;
    const pal_engine_options *o = &w->host->e->options;
    pw->name_rules = w->captures || o->name_rules; /* so that every verdict says whose it is */
    pw->observed = pw->name_rules || o->flows;
}

struct host_capture *host_capture_get(const host_worker *w, uint32_t slot) { return w->capture[slot]; }
