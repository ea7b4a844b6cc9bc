/* SPDX-License-Identifier: Apache-2.0
 *
 * test_wide.c - eight at once (parse_wide.h, key_wide.h, fast_wide.h), and bursts behind each other, say and change what one
 * at a time does. Two engines get the same packets: one in long bursts, the other one by one and never offered the wide way.
 */
#include "support/rig.h"

#include "check.h"
#include "support/invariants.h"

#define PEERS 200u
#define LONGEST 80u /* of a burst: two whole ones and a half */

typedef struct peer {
    uint32_t seq[2], acked[2];
    uint16_t port;
    uint8_t family, scale;
} peer;

static rig wide, narrow;
static peer peers[PEERS];
static uint32_t crowd; /* of them that talk */
static frame frames[LONGEST];
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
        pal_packet packet[LONGEST];
        parse_both(r, packet, n, cap);
        for (uint32_t at = 0, some = k ? 1 : n; at < n; at += some)
            rig_burst(r, packet + at, some, out, in);
    }
    CHECK_U64(wide.outs, narrow.outs);
    CHECK(memcmp(wide.out, narrow.out, wide.outs * sizeof wide.out[0]) == 0);
    CHECK(memcmp(wide.w->count, narrow.w->count, sizeof wide.w->count) == 0);
    CHECK_U64(wide.w->received, narrow.w->received);
    const ct_table *t = &wide.w->table;
    CHECK(memcmp(t->hot, narrow.w->table.hot, (t->cap4 + t->cap6) * sizeof(ct_hot)) == 0);
    for (uint32_t ref = 0; t->flow && ref < t->cap4 + t->cap6; ref++)
        if (t->hot[ref].state != CT_FREE)
            CHECK(memcmp(&t->flow[ref], &narrow.w->table.flow[ref], offsetof(ct_flow, proto) + 1) == 0);
    rig_forget(&wide);
    rig_forget(&narrow);
}

static void burst_whole(uint32_t n, uint32_t out, uint32_t in)
{
    uint32_t cap[LONGEST];
    for (uint32_t i = 0; i < n; i++)
        cap[i] = frames[i].len;
    burst_both(n, out, in, cap);
}

/* The same rules anew: connections of the filter are judged again. */
static void commit_all(uint32_t filter, uint8_t flags)
{
    pal_rule all = rig_rule(1, PAL_ACTION_ALLOW, flags);
    rig_commit(&wide, filter, &all, 1, false);
    rig_commit(&narrow, filter, &all, 1, false);
}

static void begin_at(uint32_t talkers, uint32_t cap4, uint32_t cap6, uint8_t sums, uint8_t sanity)
{
    pal_engine_options o = rig_options(cap4, cap6);
    o.flows = (uint8_t)rng(2);
    o.name_rules = (uint8_t)rng(2);
    crowd = talkers;
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

static void begin(uint8_t sums, uint8_t sanity) { begin_at(40, 200, 200, sums, sanity); }

static void end(void)
{
    CHECK(invariant_broken(wide.w) == NULL && invariant_broken(narrow.w) == NULL);
    rig_close(&wide);
    rig_close(&narrow);
}

/* Every peer is established at filters 0 and 1. `six`: of 8 peers, how many are IPv6. */
static void connect_all(uint32_t six)
{
    for (uint32_t i = 0; i < crowd; i++) {
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

/* `len` bytes more at `at`, where the lengths of the IP header grow with them. */
static void insert(frame *f, uint32_t at, const uint8_t *bytes, uint32_t len, bool inside)
{
    memmove(f->b + at + len, f->b + at, f->len - at);
    memcpy(f->b + at, bytes, len);
    f->len += len;
    if (!inside)
        return;
    uint8_t *h = f->b + 14, *length = h + (h[0] >> 4 == 4 ? 2 : 4);
    store_be16(length, (uint16_t)(load_be16(length) + len));
}

/* A tag, an option, an extension header, padding, no live source, one address for both ends. */
static void dress(frame *f, uint8_t family)
{
    static const uint8_t tag[4] = {0x81, 0, 0, 5}, option[4] = {1, 1, 1, 0}, header[8] = {PROTO_TCP, 0, 1, 4}, padding[4] = {1, 2, 3, 4};
    bool v4 = family == PAL_FAMILY_V4;
    uint8_t *h = f->b + 14;
    switch (rng(5)) {
    case 0:
        insert(f, 12, tag, sizeof tag, false);
        return;
    case 1:
        insert(f, v4 ? 34 : 54, v4 ? option : header, v4 ? sizeof option : sizeof header, true);
        h[v4 ? 0 : 6] = v4 ? 0x46 : PROTO_IP6_DSTOPTS;
        break;
    case 2:
        insert(f, f->len, padding, sizeof padding, false);
        break;
    case 3:
        h[v4 ? 12 : 8] = v4 ? (rng(2) ? 127 : 0xe1) : 0xff;
        break;
    default:
        memcpy(h + (v4 ? 12 : 8), h + (v4 ? 16 : 24), v4 ? 4 : 16);
        break;
    }
    if (rng(4))
        frame_ip_sum(f);
}

/* Mostly in order; now and then at or beyond an edge, other flags, a cut or damaged frame. */
static void random_frame(frame *f, uint32_t dir, uint32_t oddity, uint32_t *cap)
{
    peer *c = &peers[rng(crowd)];
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
        uint32_t which = rng(5), head = c->family == PAL_FAMILY_V4 ? 54 : 74;
        if (which == 0)
            *cap = rng(f->len + 1);
        else if (which == 1)
            f->b[rng(head)] ^= (uint8_t)(1u << rng(8));
        else if (which == 2)
            f->b[14 + rng(head - 14)] = (uint8_t)rng(256);
        else if (which == 3)
            dress(f, c->family), *cap = f->len;
    }
    if (seq == c->seq[dir] && flags == TCP_ACK) {
        c->seq[dir] += len;
        c->acked[!dir] = ack;
    }
}

/* What stands beyond its bucket, as happens in a table that is full, is found ahead too. */
static void test_overflow(void)
{
    const ct_table *t = &wide.w->table;
    uint32_t beyond = 0;
    for (uint32_t i = 0; i < t->buckets; i++)
        beyond += t->bucket[i].overflow;
    CHECK(beyond > 0);
    for (uint32_t i = 0; i < crowd; i++) {
        pal_burst b;
        pal_packet packet;
        const engine_config *config = engine_enter(wide.e, 0);
        const pal_route route = {.first = &config->filter[0], .dir = PAL_DIR_OUT};
        segment(&frames[0], &peers[i], 0, peers[i].seq[0], peers[i].seq[1], TCP_ACK, 1000, 0);
        rig_parse(&wide, &packet, frames[0].b, frames[0].len, frames[0].len, LINKTYPE_ETHERNET);
        pipeline_visits(wide.w, &b, &route, &packet, 1);
        CHECK(!pipeline_prefetch(wide.w, &b, 0, b.n));
        CHECK(b.ref[0] != PAL_NONE && b.entry[0] == HINT_ACK);
        engine_leave(wide.e, 0);
    }
    narrow.number = wide.number;
}

static void test_bursts(uint32_t six, uint32_t oddity, uint8_t sums, uint8_t sanity, bool full)
{
    if (full)
        begin_at(PEERS, six ? 8 : 2 * PEERS, six ? 2 * PEERS : 8, sums, sanity);
    else
        begin(sums, sanity);
    connect_all(six);
    if (full)
        test_overflow();
    for (uint32_t round = 0; round < (full ? 100 : 300); round++) {
        uint32_t n = rng(3) ? WORKER_BURST : 1 + rng(LONGEST), cap[LONGEST], dir = rng(2);
        for (uint32_t i = 0; i < n; i++)
            random_frame(&frames[i], dir, oddity, &cap[i]);
        narrow.now = wide.now += rng(9) ? RIG_MS : 20 * RIG_S;
        if (rng(8) == 0)
            commit_all(rng(2), rng(3) ? PAL_RULE_STATEFUL : PAL_RULE_STATEFUL | PAL_RULE_PERSIST);
        if (rng(40) == 0) { /* counters about to be carried over */
            uint32_t ref = rng(40), S = rng(2);
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

/* Eight peers' next segments, looked up: at filter 0, those from `two` on at filter 1 as well. The caller is in the engine. */
static void visit_eight(const engine_config *config, pal_burst *b, pal_packet *packet, uint32_t two)
{
    pal_route route[WIDE_LANES];
    for (uint32_t i = 0; i < WIDE_LANES; i++) {
        segment(&frames[i], &peers[i * 2], 0, peers[i * 2].seq[0], peers[i * 2].seq[1], TCP_ACK, 1000, i);
        rig_parse(&wide, &packet[i], frames[i].b, frames[i].len, frames[i].len, LINKTYPE_ETHERNET);
        route[i] = (pal_route){.first = &config->filter[0], .second = i < two ? NULL : &config->filter[1], .dir = PAL_DIR_OUT};
    }
    pipeline_visits(wide.w, b, route, packet, WIDE_LANES);
    CHECK(!pipeline_prefetch(wide.w, b, 0, b->n));
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
        visit_eight(engine_enter(wide.e, 0), &b, packet, 4);
#ifdef PAL_WIDE
        parse_options o = {0};
        CHECK(wide_parse(packet, &o));
        for (uint32_t i = 0; i < WIDE_LANES; i++)
            parse_frame(&packet[i], LINKTYPE_ETHERNET, &o);
#endif
        CHECK_U64(b.n, 12);
        hash_tcp seed = hash_tcp_of(wide.w->table.s->seed);
        CHECK(wide_key(wide.w, &b, 0, &seed) && wide_key(wide.w, &b, 4, &seed));
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

/* An IPv6 connection's line has a hash of its addresses: those that meet in it are another connection's all the same, among
 * IPv6 alone and where half of the eight are IPv4. */
static void test_addresses(void)
{
    if (!wide_is_possible())
        return;
    for (uint32_t six = 4; six <= 8; six += 4) {
        begin(PAL_SUMS_OFF, 0);
        connect_all(six);
        const ct_table *t = &wide.w->table;
        pal_burst b;
        pal_packet packet[WIDE_LANES];
        uint32_t looked = 0;
        visit_eight(engine_enter(wide.e, 0), &b, packet, WIDE_LANES);
        for (uint32_t i = 0; i < WIDE_LANES; i++)
            for (uint32_t bit = 0; b.ref[i] >= t->cap4 && bit < 256; bit += 31, looked++) {
                uint8_t *addr = (uint8_t *)(void *)t->addr6[b.ref[i] - t->cap4].addr;
                addr[bit / 8] ^= (uint8_t)(1u << bit % 8);
                CHECK(!wide_judge(wide.w, &b, 0) && !fast_is(t, &b, i));
                addr[bit / 8] ^= (uint8_t)(1u << bit % 8);
            }
        for (uint32_t i = 0; i < WIDE_LANES; i++)
            CHECK(fast_test(wide.w, &b, i, &(fast_step){0}));
        CHECK(six == 8 ? looked == 9 * WIDE_LANES : looked >= 9 && looked < 9 * WIDE_LANES);
        CHECK(wide_judge(wide.w, &b, 0));
        wide.w->out_count = 0;
        engine_leave(wide.e, 0);
        rig_close(&wide);
        rig_close(&narrow);
    }
}

/* After a change of rules a TCP segment makes ready for them its own connection, not one of UDP with the same ends: what tells
 * the two apart before the judge's look is a few bits of a hash. */
static void test_kinds(void)
{
    pal_packet packet;
    pal_burst b;
    begin(PAL_SUMS_OFF, 0);
    for (uint32_t tcp = 0; tcp < 2; tcp++) {
        peers[0] = (peer){.seq = {1, 1}, .port = (uint16_t)(1000 + tcp), .family = PAL_FAMILY_V4};
        if (tcp)
            segment(&frames[0], &peers[0], 0, 0, 0, TCP_SYN, 1000, 0);
        else
            frame_udp(&frames[0], PAL_FAMILY_V4, 1, 2, peers[0].port, 80, "x", 1);
        burst_whole(1, 0, 4);
        commit_all(0, PAL_RULE_STATEFUL);
        const engine_config *config = engine_enter(wide.e, 0);
        const pal_route route = {.first = &config->filter[0], .dir = PAL_DIR_OUT};
        segment(&frames[0], &peers[0], 0, 1, 1, TCP_ACK, 1000, 0);
        rig_parse(&wide, &packet, frames[0].b, frames[0].len, frames[0].len, LINKTYPE_ETHERNET);
        pipeline_visits(wide.w, &b, &route, &packet, 1);
        pipeline_prefetch(wide.w, &b, 0, b.n);
        b.ref[0] = tcp; /* as where the bits agree */
        b.entry[0] = HINT_ACK;
        CHECK_U64(ahead_visit(wide.w, &b, 0), tcp);
        engine_leave(wide.e, 0);
        narrow.number = wide.number;
    }
    rig_close(&wide);
    rig_close(&narrow);
}

/* Eight keys made at once are those made one by one, whatever the ends' order depends on; equal ends go the long way. */
static void test_keys(void)
{
    static const uint8_t near[5] = {0, 1, 0x7f, 0x80, 0xff};
    if (!wide_is_possible())
        return;
    begin(PAL_SUMS_OFF, 0);
    const engine_config *config = engine_enter(wide.e, 0);
    hash_tcp seed = hash_tcp_of(wide.w->table.s->seed);
    uint32_t taken = 0;
    for (uint32_t round = 0; round < 2000; round++) {
        static pal_burst one, eight;
        pal_packet packet[WIDE_LANES];
        uint8_t family = round & 1 ? PAL_FAMILY_V6 : PAL_FAMILY_V4;
        uint32_t n = family == PAL_FAMILY_V4 ? 4 : 16, equal = 0, sameness = 1 + rng(40);
        memset(&one, 0, sizeof one);
        for (uint32_t i = 0; i < WIDE_LANES; i++) {
            peer c = {.family = family, .port = (uint16_t)rng(65536)};
            segment(&frames[i], &c, rng(2), 1, 1, TCP_ACK, 1, 0);
            uint8_t *src = frames[i].b + 14 + (n == 4 ? 12 : 8), *dst = src + n;
            for (uint32_t k = 0; k < n; k++) {
                src[k] = near[rng(5)];
                dst[k] = rng(sameness) ? src[k] : near[rng(5)];
            }
            src[0] = dst[0] = 10;
            if (memcmp(src, dst, n) == 0 && rng(20))
                dst[rng(n - 1) + 1] ^= 1;
            equal += memcmp(src, dst, n) == 0;
            frame_ip_sum(&frames[i]);
            rig_parse(&wide, &packet[i], frames[i].b, frames[i].len, frames[i].len, LINKTYPE_ETHERNET);
            CHECK(packet_class(&packet[i]) == CLASS_ACK(family));
            pipeline_visit(&one, i, &config->filter[rng(2)], &packet[i], (uint32_t)PAL_DIR_OUT << WAY_DIR);
        }
        one.n = WIDE_LANES;
        eight = one;
        CHECK(wide_key(wide.w, &eight, 0, &seed) == (equal == 0));
        if (equal)
            continue;
        taken++;
        for (uint32_t i = 0; i < WIDE_LANES; i++) {
            pipeline_key(wide.w, &one, i, &seed);
            CHECK_U64(eight.hash[i], one.hash[i]);
            CHECK_U64(eight.line[i][0], one.line[i][0]);
            CHECK_U64(eight.line[i][1], one.line[i][1]);
            CHECK(eight.bucket[i] == one.bucket[i] && eight.way[i] == one.way[i] && eight.entry[i] == one.entry[i]);
            CHECK(family == PAL_FAMILY_V4 || memcmp(eight.key[i].addr, one.key[i].addr, sizeof one.key[i].addr) == 0);
        }
        CHECK_U64(eight.v6, one.v6);
    }
    CHECK(taken > 500);
    engine_leave(wide.e, 0);
    end();
}

int main(void)
{
    rng_state = 11;
    test_taken();
    test_addresses();
    test_kinds();
    test_keys();
    for (uint32_t round = 0; round < 6; round++) {
        check_where = "bursts";
        test_bursts(0, round < 3 ? 400 : 30, (uint8_t)(round % 3), (uint8_t)(round & 1), false);
        test_bursts(round == 5 ? 4 : 8, round < 3 ? 400 : 30, (uint8_t)(round % 3), (uint8_t)((round + 1) % 3), false);
    }
    check_where = "full";
    test_bursts(0, 400, 0, 0, true);
    test_bursts(8, 400, 0, 0, true);
    return check_end("test_wide");
}
