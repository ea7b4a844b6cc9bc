/* SPDX-License-Identifier: Apache-2.0
 *
 * replay_lane.c - one worker judging the frames of a chunk that it owns.
 */
#include <stdio.h>
#include <stdlib.h>

#include "replay.h"

#define LANE_BATCH_MAX 256
#define PREFETCH_AHEAD 6

bool replay_list_reserve(replay_list *l, size_t n)
{
    if (PAL_LIKELY(l->room - l->count >= n))
        return true;
    size_t room = l->room ? l->room : 256;
    while (room - l->count < n)
        room *= 2;
    void *bigger = realloc(l->item, room * l->size);
    if (!bigger)
        return false;
    l->item = bigger;
    l->room = room;
    return true;
}

void *replay_list_add(replay_list *l)
{
    return replay_list_reserve(l, 1) ? (char *)l->item + l->size * l->count++ : NULL;
}

bool replay_list_append(replay_list *l, const void *items, size_t n)
{
    if (n == 0)
        return true;
    if (!replay_list_reserve(l, n))
        return false;
    memcpy((char *)l->item + l->size * l->count, items, n * l->size);
    l->count += n;
    return true;
}

static void lane_fail(replay_lane *lane, const char *problem)
{
    if (!lane->failed)
        snprintf(lane->problem, sizeof lane->problem, "%s", problem);
    lane->failed = true;
}

/* ---- what the worker says ---------------------------------------------------------------------------------- */

/* Its time is filled in when its frame is met again, in replay_order.c; or, with staged policies, in replay_staged.c, and `flow`
 * stands there until then. */
static void lane_record(replay_lane *lane, const pal_judgement *j, uint64_t flow)
{
    pal_record *r = replay_list_add(&lane->records);
    if (!r) {
        lane_fail(lane, "no memory for verdicts");
        return;
    }
    *r = (pal_record){.number = j->cookie & COOKIE_NUMBER, .ts_ns = flow, .file = (uint32_t)(j->cookie >> COOKIE_FILE_SHIFT), .rule = j->rule,
                      .filter = j->filter, .dir = j->dir, .verdict = j->verdict, .reason = j->reason,
                      .ct = j->ct, .reply = j->reply};
    if (!lane->replay->options.vnics)
        r->dir = PAL_DIR_IN | PAL_DIR_OUT;
}

/* The connection of each verdict that let a packet pass, as long as none of them has ended: its entry may be another's then. */
static void lane_flows_know(replay_lane *lane)
{
    const pal_worker *w = &lane->ew->w;
    for (; lane->flows_known < w->out_count; lane->flows_known++) {
        const pal_judgement *j = &w->out[lane->flows_known];
        const bool has = j->verdict == PAL_ALLOW && j->ref != PAL_NONE && j->reason != PAL_REASON_RELATED;
        lane->flow[lane->flows_known] = has ? w->table.flow[j->ref].cookie : 0;
    }
}

static void lane_ended(void *context, uint32_t ref, enum ct_end why)
{
    engine_worker *ew = context;
    replay_lane *lane = ew->user;
    lane_flows_know(lane);
    lane->ended(context, ref, why);
}

static void lane_flush(pal_worker *w)
{
    replay_lane *lane = w->context;
    if (lane->flow)
        lane_flows_know(lane);
    if (order_is_wanted(&lane->replay->options))
        for (uint32_t i = 0; i < w->out_count; i++)
            lane_record(lane, &w->out[i], lane->flow ? lane->flow[i] : 0);
    w->out_count = lane->flows_known = 0;
}

/* What a staged rule would have sent. */
static void lane_generated_staged(pal_worker *w, const uint8_t *ip, uint32_t len, const pal_packet *cause, uint16_t filter, uint8_t dir)
{
    (void)w, (void)ip, (void)len, (void)cause, (void)filter, (void)dir;
}

static void lane_generated(pal_worker *w, const uint8_t *ip, uint32_t len, const pal_packet *cause, uint16_t filter, uint8_t dir)
{
    replay_lane *lane = w->context;
    lane->generated_count++;
    if (!lane->replay->options.collect && lane->replay->options.generated_fd < 0)
        return;
    pal_generated *g = replay_list_add(&lane->generated);
    if (!g) {
        lane_fail(lane, "no memory for generated packets");
        return;
    }
    *g = (pal_generated){.number = cause->cookie & COOKIE_NUMBER, .file = (uint32_t)(cause->cookie >> COOKIE_FILE_SHIFT),
                         .ts_ns = cause->ts_ns, .len = len, .at = lane->bytes.count, .filter = filter,
                         .dir = lane->replay->options.vnics ? dir : PAL_DIR_IN | PAL_DIR_OUT};
    if (!replay_list_append(&lane->bytes, ip, len))
        lane_fail(lane, "no memory for generated packets");
}

/* ---- which filters, which lane -------------------------------------------------------------------------------- */

static const pal_filter *lane_filter(replay_lane *lane, const engine_config *config, const pal_packet *p, bool sender, bool macs)
{
    const binding_table *t = &lane->replay->binding;
    uint32_t found = BINDING_UNKNOWN;
    if (macs && p->cap >= 12)
        found = binding_find(t, p->data + (sender ? 6 : 0), 0, p->vrf);
    if ((found == BINDING_UNKNOWN || found == PAL_NO_FILTER) && p->family)
        found = binding_find(t, sender ? packet_src(p) : packet_dst(p), p->family, p->vrf);
    if (PAL_UNLIKELY(found == PAL_NO_FILTER)) {
        char problem[sizeof lane->problem];
        snprintf(problem, sizeof problem, "packet %llu: its %s is the address of several vNICs, and its MAC address is none's alone",
                 (unsigned long long)(p->cookie & COOKIE_NUMBER), sender ? "source" : "destination");
        lane_fail(lane, problem);
    }
    return found < config->filters ? &config->filter[found] : NULL;
}

/* Is it for many? By its MAC address where it has one, else by its address. */
static bool packet_is_for_many(const pal_packet *p, bool macs)
{
    if (macs && p->cap >= 12)
        return p->data[0] & 1;
    return p->family && addr_is_group(packet_dst(p), p->family);
}

/* A route, and in *many what segment it is for, where it is for all of one: then there is no second filter. */
static pal_route lane_route(replay_lane *lane, const engine_config *config, pal_packet *p, uint32_t linktype, uint32_t *many)
{
    *many = 0;
    if (!lane->replay->options.vnics)
        return (pal_route){.first = &config->filter[0], .dir = PAL_DIR_OUT};
    /* What was inside a tunnel has its own MAC addresses, or none, whatever the link outside. */
    const bool macs = p->vrf ? p->l2_len != L2_BARE : linktype == LINKTYPE_ETHERNET;
    if (packet_is_for_many(p, macs)) {
        const pal_filter *sender = lane_filter(lane, config, p, true, macs);
        *many = sender ? lane->replay->segment[sender->number] : p->vrf;
        p->vrf = 0;
        return (pal_route){.first = sender, .dir = PAL_DIR_OUT};
    }
    const pal_filter *out = lane_filter(lane, config, p, true, macs), *in = lane_filter(lane, config, p, false, macs);
    if (in == out) /* to itself: it leaves and does not come back through the filter */
        in = NULL;
    p->vrf = 0; /* the filter stands for the domain */
    return out ? (pal_route){.first = out, .second = in, .dir = PAL_DIR_OUT} : (pal_route){.first = in, .dir = PAL_DIR_IN};
}

/* The owner by the pair of addresses; an ICMP error by the pair that it quotes. */
static uint32_t lane_owner(const struct pal_replay *r, const pal_packet *p)
{
    if (r->lanes == 1 || p->reason || (p->marks & MARK_NON_IP))
        return 0;
    const uint8_t *src = packet_src(p), *dst = packet_dst(p);
    uint32_t n = addr_bytes(p), quote = n == 4 ? 20 : 40;
    if ((p->marks & MARK_ICMP_ERROR) && min_u32(p->cap - p->l4, p->l4_len) >= 8 + quote) {
        src = p->data + p->l4 + 8 + (n == 4 ? 12 : 8);
        dst = src + n;
    }
    const uint64_t *seed = r->engine->options.seed;
    uint64_t a[2] = {0, 0}, b[2] = {0, 0};
    memcpy(a, src, n);
    memcpy(b, dst, n);
    /* A sum is symmetric: both directions have one owner. */
    unsigned __int128 s = (unsigned __int128)(a[0] + seed[0]) * (a[1] + seed[1]) + (unsigned __int128)(b[0] + seed[0]) * (b[1] + seed[1]);
    return (uint32_t)(hash_finish(s) % r->lanes);
}

/* ---- a chunk ---------------------------------------------------------------------------------------------------- */

static void lane_unfiltered(replay_lane *lane, const pal_packet *p)
{
    pal_judgement j = {.cookie = p->cookie, .rule = PAL_NONE, .filter = PAL_NO_FILTER, .verdict = PAL_ALLOW,
                       .reason = PAL_REASON_NO_FILTER, .ct = PAL_CT_UNTRACKED};
    lane->unfiltered++;
    if (order_is_wanted(&lane->replay->options))
        lane_record(lane, &j, 0);
    if (lane->beside)
        lane_record(lane->beside, &j, 0);
}

/* The next frames of the chunk, at most `batch`, of one link type, parsed. Time passes for everybody with every frame,
 * whoever judges it. */
static uint32_t lane_parse(replay_lane *lane, uint32_t first, uint32_t batch, pal_packet *packet)
{
    const struct pal_replay *r = lane->replay;
    const uint32_t most = min_u32(r->frames - first, batch), linktype = r->frame[first].linktype;
    uint32_t n = 0;
    for (; n < most && r->frame[first + n].linktype == linktype; n++) {
        const pal_frame *f = &r->frame[first + n];
        pal_packet *p = &packet[n];
        if (first + n + PREFETCH_AHEAD < r->frames)
            prefetch_read(r->frame[first + n + PREFETCH_AHEAD].data);
        if (!r->options.stopped && f->ts_ns > lane->clock_ns)
            lane->clock_ns = f->ts_ns;
        p->data = f->data;
        p->cap = f->caplen;
        p->wire = f->wirelen;
        p->ts_ns = f->ts_ns;
        p->clock_ns = lane->clock_ns;
        p->cookie = f->number | (uint64_t)r->file << COOKIE_FILE_SHIFT;
    }
    parse_burst(packet, n, linktype, &lane->ew->w.parse, lane->ew->w.wide);
    return n;
}

/* The filters on a segment but the sender's, in their order, in lane->receiver. */
static uint32_t lane_receivers(replay_lane *lane, const engine_config *config, uint32_t segment, const pal_filter *sender)
{
    const uint32_t *segments = lane->replay->segment;
    uint32_t n = 0;
    for (uint32_t i = 0; i < config->filters; i++)
        if (segments[i] == segment && &config->filter[i] != sender)
            lane->receiver[n++] = &config->filter[i];
    return n;
}

/* Of the parsed frames those that this lane owns and a filter judges, with their routes; the others are passed over. */
static uint32_t lane_choose(replay_lane *lane, const engine_config *config, uint32_t first, uint32_t n, pal_packet *packet,
                            pal_route *route, uint32_t *many)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++) {
        pal_packet *p = &packet[i];
        if (lane_owner(lane->replay, p) != lane->ew->number)
            continue;
        pal_route to = lane_route(lane, config, p, lane->replay->frame[first + i].linktype, &many[kept]);
        if (PAL_UNLIKELY(lane->failed)) {
            lane->stopped_at = first + i;
            break;
        }
        if (many[kept] && lane_receivers(lane, config, many[kept], to.first) == 0)
            many[kept] = 0; /* nobody else is there */
        if (!to.first && !many[kept]) {
            lane_unfiltered(lane, p);
            continue;
        }
        if (kept != i)
            packet[kept] = *p;
        route[kept++] = to;
    }
    return kept;
}

/* Packets by the rules in force, and the same packets by the staged ones; `staged`: the configuration of those. */
static void lane_burst(replay_lane *lane, const engine_config *staged, const pal_route *route, pal_packet *packet, uint32_t n)
{
    pipeline_burst(&lane->ew->w, route, packet, n);
    if (PAL_LIKELY(!staged))
        return;
    pal_route other[LANE_BATCH_MAX];
    for (uint32_t i = 0; i < n; i++)
        other[i] = (pal_route){.first = &staged->filter[route[i].first->number],
                               .second = route[i].second ? &staged->filter[route[i].second->number] : NULL,
                               .dir = route[i].dir};
    pipeline_burst(&lane->beside->ew->w, other, packet, n);
}

/* A packet for all of a segment, as lane_burst. */
static void lane_group(replay_lane *lane, const engine_config *config, const engine_config *staged, const pal_filter *sender,
                       uint32_t segment, pal_packet *p)
{
    const uint32_t n = lane_receivers(lane, config, segment, sender);
    group_judge(&lane->ew->w, sender, lane->receiver, n, p);
    if (!staged)
        return;
    const pal_filter **other = lane->receiver + config->filters;
    for (uint32_t i = 0; i < n; i++)
        other[i] = &staged->filter[lane->receiver[i]->number];
    group_judge(&lane->beside->ew->w, sender ? &staged->filter[sender->number] : NULL, other, n, p);
}

static const engine_config *lane_enter(replay_lane *lane) { return engine_enter(lane->ew->engine, lane->ew->number); }

static void lane_leave(replay_lane *lane, uint64_t clock_ns)
{
    pipeline_clock(&lane->ew->w, clock_ns);
    lane_flush(&lane->ew->w);
    engine_leave(lane->ew->engine, lane->ew->number);
}

void lane_run(replay_lane *lane)
{
    struct pal_replay *r = lane->replay;
    pal_packet packet[LANE_BATCH_MAX];
    pal_route route[LANE_BATCH_MAX];
    uint32_t many[LANE_BATCH_MAX + 1];
    const engine_config *config = lane_enter(lane), *staged = lane->beside ? lane_enter(lane->beside) : NULL;
    for (uint32_t i = 0, n; i < r->frames && !lane->failed; i += n) {
        n = lane_parse(lane, i, r->options.batch, packet);
        uint32_t kept = lane_choose(lane, config, i, n, packet, route, many);
        for (uint32_t at = 0, end; at < kept; at = end) {
            for (end = at; end < kept && !many[end];)
                end++;
            if (end > at)
                lane_burst(lane, staged, route + at, packet + at, end - at);
            else
                lane_group(lane, config, staged, route[at].first, many[end++], &packet[at]);
        }
    }
    lane_leave(lane, lane->clock_ns);
    if (lane->beside)
        lane_leave(lane->beside, lane->clock_ns);
}

/* The input has ended. */
void lane_finish(replay_lane *lane)
{
    (void)engine_enter(lane->ew->engine, lane->ew->number);
    datagram_finish(&lane->ew->w);
    lane_flush(&lane->ew->w);
    engine_leave(lane->ew->engine, lane->ew->number);
}

bool lane_open(replay_lane *lane, struct pal_replay *r, pal_engine *e, uint32_t number)
{
    *lane = (replay_lane){.replay = r, .ew = &e->worker[number],
                          .records = {.size = sizeof(pal_record)},
                          .generated = {.size = sizeof(pal_generated)}, .bytes = {.size = 1}};
    lane->ew->w.context = lane;
    lane->ew->w.flush = lane_flush;
    lane->ew->w.generated = e == r->engine ? lane_generated : lane_generated_staged;
    lane->receiver = malloc((size_t)e->options.filters * 2 * sizeof *lane->receiver);
    if (!lane->receiver)
        return false;
    if (!r->options.staged)
        return true;
    lane->flow = malloc(WORKER_OUT * sizeof *lane->flow);
    if (!lane->flow)
        return false;
    lane->ended = lane->ew->w.table.ended;
    lane->ew->user = lane;
    lane->ew->w.table.ended = lane_ended;
    return true;
}

void lane_close(replay_lane *lane)
{
    if (lane->ended) {
        lane->ew->w.table.ended = lane->ended;
        lane->ew->user = NULL;
    }
    free(lane->flow);
    free(lane->receiver);
    free(lane->records.item);
    free(lane->generated.item);
    free(lane->bytes.item);
}
