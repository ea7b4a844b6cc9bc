/* SPDX-License-Identifier: Apache-2.0
 *
 * test_wide.c - eight at once (parse_wide.h, fast_wide.h) says and changes what one at a time does. Two engines get the
 * same bursts; one of them is never offered the wide way.
 */
#include "support/rig.h"

#include "check.h"
#include "support/invariants.h"

#define PEERS 40u

typedef struct peer {
    uint32_t seq[2], acked[2];
    uint16_t port;
    uint8_t family, scale;
} peer;

static rig wide, narrow;
static peer peers[PEERS];
static frame frames[WORKER_BURST];
static uint64_t rng_state;

static uint32_t rng(uint32_t below)
{
    rng_state += 0x9e3779b97f4a7c15ull;
    uint64_t z = rng_state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return (uint32_t)((z ^ z >> 31) % below);
}

static void segment(frame *f, const peer *c, uint32_t dir, uint32_t seq, uint32_t ack, uint8_t flags, uint16_t window, uint32_t len)
{
    static const uint8_t zeros[1500];
    bool syn = flags & TCP_SYN;
    frame_tcp(f, c->family, dir ? 2 : 1, dir ? 1 : 2, dir ? 80 : c->port, dir ? c->port : 80,
              (tcp_say){.seq = seq, .ack = ack, .flags = flags, .window = window, .scale = syn ? c->scale : 0, .payload = zeros, .len = len});
}

/* Parsed in one go, then one by one: every field is the same. */
static void parse_both(rig *r, pal_packet *packet, uint32_t n, const uint32_t *cap)
{
    pal_packet one;
    memset(packet, 0, n * sizeof *packet);
    for (uint32_t i = 0; i < n; i++)
        packet[i] = (pal_packet){.data = frames[i].b, .cap = cap[i], .wire = frames[i].len, .ts_ns = r->now, .clock_ns = r->now, .cookie = ++r->number};
    parse_burst(packet, n, LINKTYPE_ETHERNET, &r->w->parse, r->w->wide);
    for (uint32_t i = 0; i < n; i++) {
        memset(&one, 0, sizeof one);
        one = (pal_packet){.data = frames[i].b, .cap = cap[i], .wire = frames[i].len, .ts_ns = r->now, .clock_ns = r->now, .cookie = packet[i].cookie};
        parse_frame(&one, LINKTYPE_ETHERNET, &r->w->parse);
        if (one.family != PAL_FAMILY_V4) /* written by neither; what was tried does not count */
            memcpy(one.addr4, packet[i].addr4, sizeof one.addr4);
        CHECK(memcmp(&one, &packet[i], sizeof one) == 0);
    }
}

static void burst_both(uint32_t n, uint32_t out, uint32_t in, const uint32_t *cap)
{
    for (uint32_t k = 0; k < 2; k++) {
        rig *r = k ? &narrow : &wide;
        pal_packet packet[WORKER_BURST];
        parse_both(r, packet, n, cap);
        rig_burst(r, packet, n, out, in);
    }
    CHECK_U64(wide.outs, narrow.outs);
    CHECK(memcmp(wide.out, narrow.out, wide.outs * sizeof wide.out[0]) == 0);
    CHECK(memcmp(wide.w->count, narrow.w->count, sizeof wide.w->count) == 0);
    CHECK_U64(wide.w->received, narrow.w->received);
    const ct_table *t = &wide.w->table;
    CHECK(memcmp(t->hot, narrow.w->table.hot, (t->cap4 + t->cap6) * sizeof(ct_hot)) == 0);
    rig_forget(&wide);
    rig_forget(&narrow);
}

static void burst_whole(uint32_t n, uint32_t out, uint32_t in)
{
    uint32_t cap[WORKER_BURST];
    for (uint32_t i = 0; i < n; i++)
        cap[i] = frames[i].len;
    burst_both(n, out, in, cap);
}

static void begin(uint8_t sums, uint8_t sanity)
{
    pal_engine_options o = rig_options(200, 200);
    o.flows = o.name_rules = 0;
    o.sums = sums;
    o.sanity = sanity;
    char err[256];
    pal_rule all = rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    for (uint32_t k = 0; k < 2; k++) {
        rig *r = k ? &narrow : &wide;
        CHECK(rig_open_at(r, &o, NULL, err, sizeof err));
        r->w->wide = !k && wide_is_possible();
        rig_commit(r, 0, &all, 1, false);
        rig_commit(r, 1, &all, 1, false);
    }
}

static void end(void)
{
    CHECK(invariant_broken(wide.w) == NULL && invariant_broken(narrow.w) == NULL);
    rig_close(&wide);
    rig_close(&narrow);
}

/* Every peer is established at filters 0 and 1. `six`: of 8 peers, how many are IPv6. */
static void connect_all(uint32_t six)
{
    for (uint32_t i = 0; i < PEERS; i++) {
        peer *c = &peers[i];
        uint32_t a = rng(4) ? rng(0xffffffffu) : 0xffffff00u, b = rng(0xffffffffu);
        *c = (peer){.seq = {a + 1, b + 1}, .acked = {a + 1, b + 1}, .port = (uint16_t)(1000 + i * 7), .scale = (uint8_t)rng(9),
                    .family = rng(8) < six ? PAL_FAMILY_V6 : PAL_FAMILY_V4};
        for (uint32_t step = 0; step < 3; step++) {
            segment(&frames[0], c, step == 1, step == 1 ? b : a + (step == 2), step ? (step == 1 ? a : b) + 1 : 0,
                    step == 0 ? TCP_SYN : step == 1 ? TCP_SYN | TCP_ACK : TCP_ACK, (uint16_t)(500 + rng(60000)), 0);
            burst_whole(1, step == 1, step != 1);
        }
    }
}

/* Mostly in order; now and then at or beyond an edge, other flags, a cut or damaged frame. */
static void random_frame(frame *f, uint32_t dir, uint32_t oddity, uint32_t *cap)
{
    peer *c = &peers[rng(PEERS)];
    uint32_t len = rng(3) ? 0 : rng(1400), seq = c->seq[dir], ack = c->seq[!dir];
    uint8_t flags = TCP_ACK;
    uint16_t window = (uint16_t)(500 + rng(60000));
    if (rng(oddity) == 0) {
        static const uint8_t other[] = {TCP_ACK | TCP_PSH, TCP_ACK | TCP_URG, TCP_ACK | TCP_FIN, TCP_SYN, TCP_RST, TCP_ACK | TCP_RST, 0, TCP_SYN | TCP_ACK};
        switch (rng(6)) {
        case 0: seq += rng(2) ? rng(1u << 20) : 0u - rng(1u << 20); break;
        case 1: ack += rng(2) ? rng(1u << 20) : 0u - rng(1u << 20); break;
        case 2: flags = other[rng(3)]; break;
        case 3: flags = other[rng(sizeof other)]; break;
        case 4: window = (uint16_t)rng(2); break;
        default: break;
        }
    }
    segment(f, c, dir, seq, ack, flags, window, len);
    *cap = f->len;
    if (rng(oddity) == 0) {
        uint32_t which = rng(4);
        if (which == 0)
            *cap = rng(f->len + 1);
        else if (which == 1)
            f->b[rng(54)] ^= (uint8_t)(1u << rng(8));
        else if (which == 2)
            f->b[14 + rng(40)] = (uint8_t)rng(256);
    }
    if (seq == c->seq[dir] && flags == TCP_ACK) {
        c->seq[dir] += len;
        c->acked[!dir] = ack;
    }
}

static void test_bursts(uint32_t six, uint32_t oddity, uint8_t sums, uint8_t sanity)
{
    begin(sums, sanity);
    connect_all(six);
    for (uint32_t round = 0; round < 300; round++) {
        uint32_t n = rng(3) ? WORKER_BURST : 1 + rng(WORKER_BURST), cap[WORKER_BURST], dir = rng(2);
        for (uint32_t i = 0; i < n; i++)
            random_frame(&frames[i], dir, oddity, &cap[i]);
        narrow.now = wide.now += rng(9) ? RIG_MS : 20 * RIG_S;
        if (rng(40) == 0) { /* counters about to be carried over */
            uint32_t ref = rng(PEERS), S = rng(2);
            for (uint32_t k = 0; k < 2; k++) {
                ct_hot *h = &(k ? &narrow : &wide)->w->table.hot[ref];
                h->packets[S] = 0x7fff;
                h->bytes[!S] = 0x7fffff00u;
            }
        }
        burst_both(n, dir, rng(3) ? 4 : !dir, cap);
    }
    end();
}

/* The wide way is really taken: eight different connections in order, both families, at one filter and at two. */
static void test_taken(void)
{
    if (!wide_is_possible())
        return;
    for (uint32_t six = 0; six <= 8; six += 8) {
        begin(PAL_SUMS_OFF, 0);
        connect_all(six);
        pal_burst b;
        pal_packet packet[WIDE_LANES];
        pal_route route[WIDE_LANES];
        const engine_config *config = engine_enter(wide.e, 0);
        wide.w->snap = pal_cls_snapshot(wide.e->cls);
        for (uint32_t i = 0; i < WIDE_LANES; i++) {
            segment(&frames[i], &peers[i * 2], 0, peers[i * 2].seq[0], peers[i * 2].seq[1], TCP_ACK, 1000, i);
            rig_parse(&wide, &packet[i], frames[i].b, frames[i].len, frames[i].len, LINKTYPE_ETHERNET);
            route[i] = (pal_route){.first = &config->filter[0], .second = i < 4 ? NULL : &config->filter[1], .dir = PAL_DIR_OUT};
        }
#ifdef PAL_WIDE
        parse_options o = {0};
        CHECK(wide_parse(packet, &o) == (six == 0));
        for (uint32_t i = 0; i < WIDE_LANES; i++)
            parse_frame(&packet[i], LINKTYPE_ETHERNET, &o);
#endif
        pipeline_visits(wide.w, &b, route, packet, WIDE_LANES);
        CHECK(!pipeline_prefetch(wide.w, &b));
        CHECK_U64(b.n, 12);
        hash_tcp seed = hash_tcp_of(wide.w->table.s->seed);
        CHECK(wide_key(wide.w, &b, 0, &seed) == (six == 0));
        CHECK(wide_judge(wide.w, &b, 0));
        CHECK(wide_judge(wide.w, &b, 4));
        CHECK_U64(wide.w->out_count, 16);
        b.ref[7] = b.ref[2];
        CHECK(!wide_judge(wide.w, &b, 0)); /* one connection twice */
        wide.w->out_count = 0;
        engine_leave(wide.e, 0);
        rig_close(&wide);
        rig_close(&narrow);
    }
}

int main(void)
{
    rng_state = 11;
    test_taken();
    for (uint32_t round = 0; round < 6; round++) {
        check_where = "bursts";
        test_bursts(0, round < 3 ? 400 : 30, (uint8_t)(round % 3), (uint8_t)(round & 1));
        test_bursts(round < 3 ? 8 : 4, round < 3 ? 400 : 30, (uint8_t)(round % 3), 0);
    }
    return check_end("test_wide");
}
