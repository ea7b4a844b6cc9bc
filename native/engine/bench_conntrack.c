/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_conntrack.c - established packets over many connections, as CONTRACT section 3 defines `bench conntrack`.
 *
 * The stream is made beforehand by playing every connection: a packet is right for the state that the packets before it
 * left. The table is brought back to its first state before each run, so that no run sees another's packets as old.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "bench.h"

#define BENCH_FILTERS 16
#define BENCH_WINDOW 0xffff
#define BENCH_BATCH_MAX 256
#define BENCH_SCALE 7
#define BENCH_AHEAD 8 /* frames fetched at a time, between those that are parsed */

typedef struct bench_peer {
    uint32_t seq[2], acked[2], last[2]; /* next to send, acknowledged by the other, length of the last segment */
} bench_peer;

typedef struct bench_lane { /* one worker's share */
    pal_engine *engine;
    engine_worker *ew;
    const pal_bench_conntrack *o;
    uint32_t number, connections;
    uint64_t n;                 /* packets */
    uint8_t *bytes;
    size_t bytes_len, stride;
    uint32_t *order;            /* connection of each packet */
    uint8_t *turn;              /* filter * 2 + direction of each packet */
    uint8_t *saved;
    size_t saved_len;
    uint64_t ns;
    bool parse;                 /* this run parses */
    pthread_barrier_t *start;
} bench_lane;

static void lane_addresses(const bench_lane *l, uint32_t c, bench_segment *s)
{
    uint64_t r = ((uint64_t)l->number << 32 | c) * 0x9e3779b97f4a7c15ull + 1;
    memset(s->src, 0, 16);
    memset(s->dst, 0, 16);
    s->family = l->o->family == 6 ? PAL_FAMILY_V6 : PAL_FAMILY_V4;
    if (l->o->grid) { /* a few clients and servers, all ports */
        store_be32(s->src, 0x0a000000u + c % 251);
        store_be32(s->dst, 0x0a010000u + c / 251 % 241);
        s->sport = (uint16_t)(1024 + c / (251 * 241));
        s->dport = 443;
    } else {
        uint64_t q = bench_random(&r);
        store_be32(s->src, 0x0a000000u | (uint32_t)(q & 0xffffff));
        store_be32(s->dst, 0x0b000000u | (uint32_t)(q >> 24 & 0xffffff));
        s->sport = (uint16_t)(1024 + (c & 0x7fff));
        s->dport = (uint16_t)(1 + (q >> 48 & 0x3ff));
    }
    if (s->family == PAL_FAMILY_V6) {
        memcpy(s->src + 12, s->src, 4);
        memcpy(s->dst + 12, s->dst, 4);
        store_be32(s->src, 0x20010db8);
        store_be32(s->dst, 0x20010db8);
    }
}

static void lane_segment(const bench_lane *l, uint32_t c, uint32_t dir, bench_segment *s)
{
    lane_addresses(l, c, s);
    if (dir) {
        uint8_t a[16];
        memcpy(a, s->src, 16);
        memcpy(s->src, s->dst, 16);
        memcpy(s->dst, a, 16);
        uint16_t p = s->sport;
        s->sport = s->dport;
        s->dport = p;
    }
    s->window = BENCH_WINDOW;
    s->flags = TCP_ACK;
    s->payload = 0;
    s->syn_options = false;
    s->id = 0;
    s->sums = l->o->checksum;
}

/* At the filter of the vNIC where it is seen; with `both`, OUT at the sender's and IN at the receiver's. */
static pal_route lane_route_of(const bench_lane *l, const engine_config *config, uint32_t filter, uint32_t dir)
{
    const pal_filter *a = &config->filter[filter], *b = &config->filter[(filter + 1) % BENCH_FILTERS];
    if (!l->o->both)
        return (pal_route){.first = a, .dir = (uint8_t)(PAL_DIR_OUT >> dir)};
    return (pal_route){.first = dir ? b : a, .second = dir ? a : b, .dir = PAL_DIR_OUT};
}

/* One packet at its filters; true when it passed. */
static bool lane_judge_one(bench_lane *l, const engine_config *config, const uint8_t *frame, uint32_t len, uint32_t c, uint32_t dir)
{
    pal_worker *w = &l->ew->w;
    pal_packet p = {.data = frame, .cap = len, .wire = len};
    parse_frame(&p, LINKTYPE_ETHERNET, &w->parse);
    pal_route r = lane_route_of(l, config, c % BENCH_FILTERS, dir);
    uint64_t before = w->count[PAL_ALLOW][PAL_REASON_MATCH] + w->count[PAL_ALLOW][PAL_REASON_STATE];
    pipeline_burst(w, &r, &p, 1);
    return w->count[PAL_ALLOW][PAL_REASON_MATCH] + w->count[PAL_ALLOW][PAL_REASON_STATE] == before + 1u + l->o->both;
}

/* All connections, in random order: SYN, SYN+ACK, ACK. */
static bool lane_connect(bench_lane *l, bench_peer *peer, uint64_t *seed)
{
    const engine_config *config = engine_enter(l->engine, l->number);
    uint32_t *who = malloc((size_t)l->connections * sizeof *who);
    bool ok = who != NULL;
    uint8_t frame[128];
    for (uint32_t i = 0; ok && i < l->connections; i++) {
        uint32_t j = bench_below(seed, i + 1);
        who[i] = who[j];
        who[j] = i;
    }
    for (uint32_t i = 0; ok && i < l->connections; i++) {
        uint32_t c = who[i], isn[2] = {(uint32_t)bench_random(seed), (uint32_t)bench_random(seed)};
        for (uint32_t step = 0; ok && step < 3; step++) {
            bench_segment s;
            lane_segment(l, c, step == 1, &s);
            s.syn_options = step < 2;
            s.flags = step == 0 ? TCP_SYN : step == 1 ? TCP_SYN | TCP_ACK : TCP_ACK;
            s.seq = step == 0 ? isn[0] : step == 1 ? isn[1] : isn[0] + 1;
            s.ack = step == 0 ? 0 : step == 1 ? isn[0] + 1 : isn[1] + 1;
            ok = lane_judge_one(l, config, frame, bench_frame(frame, &s, 64), c, step == 1);
        }
        peer[c] = (bench_peer){.seq = {isn[0] + 1, isn[1] + 1}, .acked = {isn[0] + 1, isn[1] + 1}};
    }
    free(who);
    engine_leave(l->engine, l->number);
    return ok;
}

/* The stream: uniform connections, random directions, 10 % advance the window, 2 % are sent again. Short packets are
 * pure acknowledgements but for those; long ones all carry data. */
static void lane_stream(bench_lane *l, bench_peer *peer, uint64_t *seed)
{
    uint32_t head = l->o->family == 6 ? 74 : 54, room = l->o->bytes > head ? l->o->bytes - head : 1;
    for (uint64_t i = 0; i < l->n; i++) {
        uint32_t c = bench_below(seed, l->connections), dir = (uint32_t)bench_random(seed) >> 31, roll = bench_below(seed, 100);
        bench_peer *p = &peer[c];
        bench_segment s;
        lane_segment(l, c, dir, &s);
        bool advance = roll < 10, again = roll >= 98 && p->last[dir];
        bool full = p->seq[dir] - p->acked[dir] + room > ((uint32_t)BENCH_WINDOW << BENCH_SCALE) / 2;
        s.seq = p->seq[dir];
        if (again) {
            s.payload = p->last[dir];
            s.seq -= s.payload;
        } else if ((advance || l->o->bytes > 128) && !full) {
            s.payload = room;
            p->seq[dir] += room;
            p->last[dir] = room;
        }
        if (advance || full)
            p->acked[!dir] = p->seq[!dir];
        s.ack = p->acked[!dir];
        if (s.payload)
            s.flags |= TCP_PSH;
        s.id = (uint16_t)i;
        bench_frame(l->bytes + i * l->stride, &s, l->o->bytes);
        l->order[i] = c;
        l->turn[i] = (uint8_t)(c % BENCH_FILTERS * 2 + dir);
    }
}

static void lane_restore(bench_lane *l) { memcpy(l->ew->region.base, l->saved, l->saved_len); }

/* The routes of all filters and directions, as a switch would keep them with its ports. */
typedef struct lane_routes {
    const engine_config *config; /* NULL: not made yet */
    pal_route route[BENCH_FILTERS * 2];
} lane_routes;

static const engine_config *lane_enter(bench_lane *l, lane_routes *r)
{
    const engine_config *config = engine_enter(l->engine, l->number);
    if (PAL_UNLIKELY(config != r->config)) {
        for (uint32_t i = 0; i < BENCH_FILTERS * 2; i++)
            r->route[i] = lane_route_of(l, config, i >> 1, i & 1);
        r->config = config;
    }
    return config;
}

static void lane_parse(bench_lane *l, pal_packet *packet, uint64_t first, uint32_t n)
{
    for (uint32_t k = 0; k < n; k++) {
        packet[k].data = l->bytes + (first + k) * l->stride;
        packet[k].cap = packet[k].wire = l->o->bytes;
        packet[k].ts_ns = packet[k].clock_ns = 0;
        packet[k].cookie = first + k;
    }
    parse_burst(packet, n, LINKTYPE_ETHERNET, &l->ew->w.parse, l->ew->w.wide);
}

static void lane_judge(bench_lane *l, const lane_routes *routes, pal_packet *packet, uint64_t first, uint32_t n)
{
    pal_route route[BENCH_BATCH_MAX];
    for (uint32_t k = 0; k < n; k++)
        route[k] = routes->route[l->turn[first + k]];
    pipeline_burst(&l->ew->w, route, packet, n);
    l->ew->w.out_count = 0;
}

/* One line of each of the next n packets' headers is on its way. */
static void lane_fetch(const bench_lane *l, uint64_t first, uint32_t n, uint32_t offset)
{
    for (uint32_t k = 0; k < n; k++)
        prefetch_read(l->bytes + (first + k) * l->stride + offset);
}

/* A batch is parsed, and the next one's headers (IPv6: of two lines) are asked for, a few of each in turn: a core has room for
 * 16 to 24 lines on their way, and would stand still over a whole batch's. */
static void lane_receive(bench_lane *l, pal_packet *packet, uint64_t first, uint32_t n)
{
    for (uint32_t k = 0; k < n; k += BENCH_AHEAD) {
        uint32_t some = min_u32(n - k, BENCH_AHEAD);
        lane_fetch(l, first + n + k, some, 0);
        if (l->o->family == 6)
            lane_fetch(l, first + n + k, some, PAL_CACHE_LINE);
        lane_parse(l, packet + k, first + k, some);
    }
}

/* From packet bytes: all of it is timed, a batch at a time. */
static uint64_t lane_measure_bytes(bench_lane *l)
{
    pal_packet packet[BENCH_BATCH_MAX];
    lane_routes routes = {.config = NULL};
    uint64_t begun = bench_now();
    for (uint64_t i = 0; i < l->n; i += l->o->batch) {
        uint32_t n = (uint32_t)(l->n - i < l->o->batch ? l->n - i : l->o->batch);
        lane_enter(l, &routes);
        lane_receive(l, packet, i, n);
        lane_judge(l, &routes, packet, i, n);
        engine_leave(l->engine, l->number);
    }
    return bench_now() - begun;
}

/* Pre-parsed: a chunk is parsed first, outside the time taken, so that what is parsed is as near as it is in a pipeline. */
static uint64_t lane_measure_parsed(bench_lane *l)
{
    enum { CHUNK = 1024 };
    static _Thread_local pal_packet packet[CHUNK];
    lane_routes routes = {.config = NULL};
    uint64_t ns = 0;
    for (uint64_t i = 0; i < l->n; i += CHUNK) {
        uint32_t chunk = (uint32_t)(l->n - i < CHUNK ? l->n - i : CHUNK);
        lane_parse(l, packet, i, chunk);
        uint64_t begun = bench_now();
        for (uint32_t at = 0; at < chunk; at += l->o->batch) {
            lane_enter(l, &routes);
            lane_judge(l, &routes, packet + at, i + at, min_u32(chunk - at, l->o->batch));
            engine_leave(l->engine, l->number);
        }
        ns += bench_now() - begun;
    }
    return ns;
}

static void *lane_measure(void *arg)
{
    bench_lane *l = arg;
    lane_restore(l);
    if (l->start)
        pthread_barrier_wait(l->start);
    l->ns = l->parse ? lane_measure_bytes(l) : lane_measure_parsed(l);
    return NULL;
}

static bool lane_make(bench_lane *l, pal_engine *e, const pal_bench_conntrack *o, uint32_t number)
{
    l->engine = e;
    l->ew = &e->worker[number];
    l->o = o;
    l->number = number;
    l->connections = o->connections;
    l->n = o->packets;
    l->stride = (max_u32(o->bytes, o->family == 6 ? 76 : 64) + 15) & ~15u;
    l->bytes_len = (l->n + 2048) * l->stride;
    l->bytes = mmap(NULL, l->bytes_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (l->bytes != MAP_FAILED) /* as packet buffers are kept: what is measured is the table's pages */
        (void)madvise(l->bytes, l->bytes_len, MADV_HUGEPAGE);
    l->order = malloc(l->n * sizeof *l->order);
    l->turn = malloc(l->n);
    bench_peer *peer = malloc((size_t)l->connections * sizeof *peer);
    uint64_t seed = 88172645463325252ull + number;
    bool ok = l->bytes != MAP_FAILED && l->order && l->turn && peer;
    bench_sink(l->ew);
    ok = ok && lane_connect(l, peer, &seed);
    if (ok) {
        lane_stream(l, peer, &seed);
        /* What the table holds so far; untouched pages need not be copied. */
        l->saved_len = l->ew->region.len;
        l->saved = mmap(NULL, l->saved_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        ok = l->saved != MAP_FAILED;
        if (ok)
            memcpy(l->saved, l->ew->region.base, l->saved_len);
        memset(l->ew->w.count, 0, sizeof l->ew->w.count);
    }
    free(peer);
    return ok;
}

static void lane_free(bench_lane *l)
{
    if (l->bytes && l->bytes != MAP_FAILED)
        munmap(l->bytes, l->bytes_len);
    if (l->saved && l->saved != MAP_FAILED)
        munmap(l->saved, l->saved_len);
    free(l->order);
    free(l->turn);
}

/* One run over all workers; nanoseconds a packet of the slowest. */
static double lanes_run(bench_lane *lane, uint32_t workers, bool parse)
{
    pthread_t thread[64];
    pthread_barrier_t start;
    pthread_barrier_init(&start, NULL, workers);
    for (uint32_t i = 0; i < workers; i++) {
        lane[i].parse = parse;
        lane[i].start = workers > 1 ? &start : NULL;
    }
    uint32_t started = 0;
    for (uint32_t i = 1; i < workers; i++)
        started += pthread_create(&thread[i], NULL, lane_measure, &lane[i]) == 0;
    lane_measure(&lane[0]);
    for (uint32_t i = 1; i <= started; i++)
        pthread_join(thread[i], NULL);
    pthread_barrier_destroy(&start);
    uint64_t slowest = 0;
    for (uint32_t i = 0; i < workers; i++)
        slowest = lane[i].ns > slowest ? lane[i].ns : slowest;
    return (double)slowest / (double)lane[0].n;
}

/* The floor of one worker's packets: at two filters a packet meets two connections. */
static double lane_floor(const bench_lane *l, uint32_t capacity, uint32_t lines)
{
    bool huge = l->engine->options.huge_pages;
    uint32_t buckets = l->ew->w.table.buckets;
    if (!l->o->both)
        return bench_floor(l->order, l->n, capacity, buckets, lines, huge);
    uint32_t *order = malloc(2 * l->n * sizeof *order);
    if (!order)
        return -1;
    for (uint64_t i = 0; i < l->n; i++) {
        order[2 * i] = 2 * l->order[i];
        order[2 * i + 1] = 2 * l->order[i] + 1;
    }
    double ns = 2 * bench_floor(order, 2 * l->n, capacity, buckets, lines, huge);
    free(order);
    return ns;
}

/* How the workers scale, and how the same accesses do without a firewall. */
static void lanes_compare(bench_lane *lane, uint32_t workers, pal_bench_run *out)
{
    bench_access access[64];
    for (uint32_t i = 0; i < workers; i++) {
        const ct_table *t = &lane[i].ew->w.table;
        access[i] = (bench_access){.bytes = lane[i].bytes, .order = lane[i].order, .n = lane[i].n, .stride = lane[i].stride,
                                   .capacity = t->cap4 + t->cap6, .buckets = t->buckets,
                                   .huge = lane[i].engine->options.huge_pages};
    }
    out->reference_ns[0] = bench_reference(access, 1);
    out->single_ns = lanes_run(lane, 1, true);
    out->reference_ns[1] = bench_reference(access, workers);
}

int pal_bench_conntrack_run(pal_engine *e, const pal_bench_conntrack *o, pal_bench_run *out, uint32_t runs, char *err, size_t errlen)
{
    uint32_t workers = e->options.workers;
    bench_lane *lane = calloc(workers, sizeof *lane);
    bool ok = lane != NULL;
    for (uint32_t i = 0; ok && i < workers; i++)
        ok = lane_make(&lane[i], e, o, i);
    if (!ok)
        snprintf(err, errlen, "the connections could not be set up: no memory, or not all of them were allowed");
    for (uint32_t r = 0; ok && r < runs; r++) {
        memset(&out[r], 0, sizeof out[r]);
        out[r].core_ghz = bench_core_ghz();
        out[r].ns = lanes_run(lane, workers, true);
        out[r].pre_parsed_ns = lanes_run(lane, workers, false);
        if (workers > 1)
            lanes_compare(lane, workers, &out[r]);
        const ct_table *t = &lane[0].ew->w.table;
        uint32_t cap = t->cap4 + t->cap6;
        for (uint32_t lines = 1; lines <= 2; lines++)
            out[r].floor_ns[lines - 1] = lane_floor(&lane[0], cap, lines);
        uint64_t wanted = 0, passed = 0;
        for (uint32_t i = 0; i < workers; i++) {
            wanted += (workers > 1 && i == 0 ? 3 : 2) * lane[i].n * (1u + o->both);
            passed += lane[i].ew->w.count[PAL_ALLOW][PAL_REASON_STATE];
            memset(lane[i].ew->w.count, 0, sizeof lane[i].ew->w.count);
        }
        out[r].verified = passed == wanted;
    }
    for (uint32_t i = 0; lane && i < workers; i++)
        lane_free(&lane[i]);
    free(lane);
    return ok ? 0 : -1;
}
