/* SPDX-License-Identifier: Apache-2.0
 *
 * test_limits.c - budgets of unanswered connections, misses and answers: who loses what to whom, to the last tick.
 */
#include "support/rig.h"

#include "check.h"
#include "support/invariants.h"

static rig r;
static frame f;

static void open_with(pal_limits limits, uint32_t cap, const pal_rule *rules, uint32_t n, bool tap)
{
    pal_engine_options o = rig_options(cap, cap);
    char err[256] = "";
    o.limits = limits;
    if (!rig_open_at(&r, &o, NULL, err, sizeof err)) {
        fprintf(stderr, "rig: %s\n", err);
        exit(2);
    }
    rig_commit(&r, 0, rules, n, tap);
    rig_commit(&r, 1, rules, n, tap);
}

static void sound(void)
{
    const char *broken = invariant_broken(r.w);
    if (broken)
        fprintf(stderr, "%s: not so: %s\n", check_where, broken);
    CHECK(broken == NULL);
}

/* A packet from 10.0.net.host (or fd00::net00:host, which is all one /56) to 10.0.0.200, IN or OUT at a filter. */
static pal_judgement talk(uint32_t filter, uint8_t dir, uint8_t net, uint8_t host, uint16_t sport, bool answer)
{
    const engine_config *config = engine_enter(r.e, 0);
    pal_packet p;
    frame_udp(&f, PAL_FAMILY_V4, answer ? 200 : host, answer ? host : 200, answer ? 53 : sport, answer ? sport : 53, "x", 1);
    f.b[f.l3 + (answer ? 18 : 14)] = net;
    frame_ip_sum(&f);
    rig_parse(&r, &p, f.b, f.len, f.len, LINKTYPE_ETHERNET);
    pal_route route = {.first = &config->filter[filter], .dir = dir};
    rig_stage_burst(r.w, &route, &p, 1);
    rig_flush(r.w);
    engine_leave(r.e, 0);
    if (r.outs > RIG_OUT / 2) {
        r.out[0] = r.out[r.outs - 1];
        r.outs = 1;
    }
    return r.out[r.outs - 1];
}

static bool lives(uint32_t filter, uint8_t dir, uint8_t net, uint8_t host, uint16_t sport)
{
    ct_key k;
    pal_packet p;
    (void)dir;
    frame_udp(&f, PAL_FAMILY_V4, host, 200, sport, 53, "x", 1);
    f.b[f.l3 + 14] = net;
    frame_ip_sum(&f);
    rig_parse(&r, &p, f.b, f.len, f.len, LINKTYPE_ETHERNET);
    key_from_packet(&k, &p, r.e->current->filter[filter].zone);
    return ct_find(&r.w->table, &k, key_hash(&k, r.w->table.s->seed)) != PAL_NONE;
}

/* Each side loses its own oldest, others' prefixes theirs; answered ones stay. */
static void test_sides(void)
{
    pal_rule all = rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    check_where = "sides";
    open_with((pal_limits){.half_open = {3, 6}, .half_open_prefix = 4}, 100, &all, 1, false);
    for (uint32_t i = 0; i < 3; i++)
        CHECK_U64(talk(0, PAL_DIR_OUT, 0, 1, (uint16_t)(1000 + i), false).verdict, PAL_ALLOW);
    for (uint32_t i = 0; i < 8; i++) /* a prefix keeps its last four, whatever else there is */
        CHECK_U64(talk(0, PAL_DIR_IN, 7, (uint8_t)(1 + i), (uint16_t)(2000 + i), false).verdict, PAL_ALLOW);
    CHECK_U64(r.w->table.s->used[0], 7);
    CHECK(!lives(0, PAL_DIR_IN, 7, 4, 2003) && lives(0, PAL_DIR_IN, 7, 5, 2004) && lives(0, PAL_DIR_OUT, 0, 1, 1000));
    sound();
    CHECK_U64(talk(0, PAL_DIR_OUT, 7, 5, 2004, true).ct, PAL_CT_ESTABLISHED); /* answered: on no account any more */
    CHECK_U64(r.w->table.half_open->others[0].count, 3);
    for (uint32_t i = 0; i < 3; i++)
        (void)talk(0, PAL_DIR_IN, 8, (uint8_t)(1 + i), 3000, false);
    CHECK_U64(r.w->table.half_open->others[0].count, 6);
    (void)talk(0, PAL_DIR_IN, 9, 1, 3000, false); /* full: 7's turn, then 8's, then 9's, then 7's */
    CHECK(!lives(0, PAL_DIR_IN, 7, 6, 2005) && lives(0, PAL_DIR_IN, 8, 1, 3000));
    (void)talk(0, PAL_DIR_IN, 9, 2, 3000, false);
    CHECK(!lives(0, PAL_DIR_IN, 8, 1, 3000) && lives(0, PAL_DIR_IN, 7, 7, 2006));
    (void)talk(0, PAL_DIR_IN, 9, 3, 3000, false);
    CHECK(!lives(0, PAL_DIR_IN, 7, 7, 2006)); /* 9 came in after 7 had had its turn */
    sound();
    (void)talk(0, PAL_DIR_OUT, 0, 1, 1003, false);
    CHECK(!lives(0, PAL_DIR_OUT, 0, 1, 1000) && lives(0, PAL_DIR_OUT, 0, 1, 1001) && lives(0, PAL_DIR_IN, 7, 5, 2004));
    (void)talk(1, PAL_DIR_IN, 7, 1, 4000, false); /* another vNIC's budget is its own */
    CHECK_U64(r.w->table.half_open->others[1].count, 1);
    CHECK_U64(r.w->table.half_open->others[0].count, 6);
    sound();
    /* What has run out makes room before anything is given up. */
    r.now += 61 * RIG_S;
    for (uint32_t i = 0; i < 3; i++)
        (void)talk(0, PAL_DIR_OUT, 0, 1, (uint16_t)(5000 + i), false);
    CHECK(lives(0, PAL_DIR_OUT, 0, 1, 5000));
    sound();
    rig_close(&r);
}

/* More prefixes than records: the rest share one account. */
static void test_records(void)
{
    pal_rule all = rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    check_where = "records";
    open_with((pal_limits){.half_open_prefix = 2, .half_open_prefixes = 3}, 100, &all, 1, false);
    for (uint8_t net = 1; net <= 6; net++)
        (void)talk(0, PAL_DIR_IN, net, 1, 1000, false);
    CHECK_U64(r.w->table.s->used[0], 5);
    CHECK(!lives(0, PAL_DIR_IN, 4, 1, 1000) && lives(0, PAL_DIR_IN, 5, 1, 1000) && lives(0, PAL_DIR_IN, 6, 1, 1000));
    CHECK_U64(talk(0, PAL_DIR_OUT, 2, 1, 1000, true).ct, PAL_CT_ESTABLISHED); /* gives its record back */
    for (uint32_t i = 0; i < 3; i++)
        (void)talk(0, PAL_DIR_IN, 7, 1, (uint16_t)(1000 + i), false);
    CHECK(!lives(0, PAL_DIR_IN, 7, 1, 1000) && lives(0, PAL_DIR_IN, 5, 1, 1000));
    sound();
    rig_close(&r);
}

/* Those on the common account are among others', whose number is limited together. */
static void test_common_account(void)
{
    pal_rule all = rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    check_where = "common account";
    open_with((pal_limits){.half_open = {50, 5}, .half_open_prefix = 50, .half_open_prefixes = 1}, 100, &all, 1, false);
    for (uint8_t net = 1; net <= 9; net++) {
        CHECK_U64(talk(0, PAL_DIR_IN, net, 1, 1000, false).verdict, PAL_ALLOW);
        CHECK_U64(r.w->table.s->used[0], net < 5 ? net : 5);
        sound();
    }
    rig_close(&r);
}

/* A budget that only announced connections use up gives nothing: half-open. */
static void test_children(void)
{
    pal_rule x[2] = {rig_rule_port(0, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL, PROTO_TCP, 21), rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL)};
    check_where = "children";
    x[0].alg = PAL_ALG_FTP;
    open_with((pal_limits){.half_open = {2, 2}}, 100, x, 2, false);
    for (uint32_t i = 0; i < 2; i++) {
        frame_tcp(&f, PAL_FAMILY_V4, 1, 2, 4000, 21, (tcp_say){.seq = 1 + 19 * i, .flags = TCP_ACK, .window = 1000,
                  .payload = i ? "PORT 10,0,0,1,9,8\r\n" : "PORT 10,0,0,1,9,9\r\n", .len = 19});
        CHECK_U64(rig_judge(&r, &f).verdict, PAL_ALLOW);
    }
    for (uint32_t i = 0; i < 2; i++) {
        frame_tcp(&f, PAL_FAMILY_V4, 2, 1, 20, (uint16_t)(9 * 256 + 9 - i), (tcp_say){.seq = 1, .flags = TCP_SYN});
        CHECK_U64(rig_judge(&r, &f).ct, PAL_CT_RELATED);
        sound();
    }
    frame_udp(&f, PAL_FAMILY_V4, 1, 2, 1, 53, "x", 1);
    pal_judgement j = rig_judge(&r, &f); /* the parent went for the second child, the children stay */
    CHECK_U64(j.reason, PAL_REASON_HALF_OPEN);
    CHECK_U64(j.verdict, PAL_DROP);
    CHECK_U64(j.rule, 1);
    sound();
    rig_close(&r);
}

/* A second's worth at once, then a hundredth of it each tick; each side by itself; connections are not asked for. */
static void test_misses(void)
{
    pal_rule all = rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    check_where = "misses";
    open_with((pal_limits){.misses = {200, 3}}, 1000, &all, 1, false);
    for (uint32_t i = 0; i < 3; i++)
        CHECK_U64(talk(0, PAL_DIR_IN, 1, 1, (uint16_t)(1000 + i), false).verdict, PAL_ALLOW);
    pal_judgement j = talk(0, PAL_DIR_IN, 1, 1, 1003, false);
    CHECK(j.verdict == PAL_DROP && j.reason == PAL_REASON_MISS_BUDGET && j.rule == PAL_NONE && j.ct == PAL_CT_NEW);
    CHECK_U64(talk(0, PAL_DIR_IN, 1, 1, 1002, false).reason, PAL_REASON_STATE);
    CHECK_U64(talk(1, PAL_DIR_IN, 1, 1, 1003, false).verdict, PAL_ALLOW);
    for (uint32_t i = 0; i < 200; i++)
        CHECK_U64(talk(0, PAL_DIR_OUT, 2, 1, (uint16_t)(1000 + i), false).verdict, PAL_ALLOW);
    CHECK_U64(talk(0, PAL_DIR_OUT, 2, 1, 2000, false).reason, PAL_REASON_MISS_BUDGET);
    r.now += 10 * RIG_MS; /* a tick: two of 200, none of 3 */
    CHECK_U64(talk(0, PAL_DIR_OUT, 2, 1, 2000, false).verdict, PAL_ALLOW);
    CHECK_U64(talk(0, PAL_DIR_OUT, 2, 1, 2001, false).verdict, PAL_ALLOW);
    CHECK_U64(talk(0, PAL_DIR_OUT, 2, 1, 2002, false).reason, PAL_REASON_MISS_BUDGET);
    r.now += 320 * RIG_MS;
    CHECK_U64(talk(0, PAL_DIR_IN, 1, 1, 1003, false).reason, PAL_REASON_MISS_BUDGET); /* 33 ticks: 99 hundredths */
    r.now += 10 * RIG_MS;
    CHECK_U64(talk(0, PAL_DIR_IN, 1, 1, 1003, false).verdict, PAL_ALLOW);
    CHECK_U64(talk(0, PAL_DIR_IN, 1, 1, 1004, false).reason, PAL_REASON_MISS_BUDGET);
    r.now += 3600 * RIG_S; /* never more than a second's */
    for (uint32_t i = 0; i < 4; i++)
        CHECK_U64(talk(0, PAL_DIR_IN, 1, 1, (uint16_t)(3000 + i), false).verdict, i < 3 ? PAL_ALLOW : PAL_DROP);
    sound();
    rig_close(&r);
}

static uint32_t answers(uint8_t dir, uint8_t net, uint32_t hosts)
{
    uint32_t given = 0;
    for (uint32_t i = 0; i < hosts * 12; i++)
        given += talk(0, dir, net, (uint8_t)(1 + i % hosts), (uint16_t)(1000 + i), false).verdict == PAL_REJECT;
    return given;
}

static void test_rejects(void)
{
    pal_rule no = rig_rule(1, PAL_ACTION_REJECT, 0);
    check_where = "rejects";
    open_with((pal_limits){.half_open = {0, 0}}, 100, &no, 1, false);
    CHECK_U64(answers(PAL_DIR_IN, 1, 1), 10);
    CHECK_U64(answers(PAL_DIR_IN, 1, 5), 15); /* the /24's 25 */
    CHECK_U64(answers(PAL_DIR_IN, 2, 9), 25);
    CHECK_U64(answers(PAL_DIR_IN, 3, 9), 0);  /* others' 50 */
    CHECK_U64(answers(PAL_DIR_OUT, 3, 9), 50); /* its own, of one prefix */
    r.now += RIG_S;
    CHECK_U64(answers(PAL_DIR_IN, 3, 9), 25);
    rig_close(&r);
    open_with((pal_limits){.half_open = {0, 0}}, 100, &no, 1, true);
    for (uint8_t net = 1; net <= 6; net++)
        CHECK_U64(answers(PAL_DIR_OUT, net, 9), net < 5 ? 25 : 0);
    rig_close(&r);
}

/* A kind has as many connections as its limit says, no more; one that is answered (TCP) or runs out makes room; other kinds have theirs. */
static void test_floods(void)
{
    static const uint32_t limits[PAL_FLOODS] = {1, 2, 3, 4};
    pal_rule all = rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    check_where = "floods";
    open_with((pal_limits){0}, 100, &all, 1, false);
    CHECK(pal_engine_stage_flood(r.e, 0, limits) == 0 && pal_engine_commit(r.e, 0) != 0);
    for (uint32_t round = 0; round < 2; round++) {
        for (uint32_t kind = 0; kind < PAL_FLOODS; kind++)
            for (uint8_t i = 0; i <= limits[kind]; i++) {
                if (kind == FLOOD_TCP_HALF_OPEN)
                    frame_tcp(&f, PAL_FAMILY_V4, 10 + i, 2, 1000, 80, (tcp_say){.seq = 1, .flags = TCP_SYN, .window = 9});
                else if (kind == FLOOD_UDP)
                    frame_udp(&f, PAL_FAMILY_V4, 10 + i, 2, 1000, 53, "x", 1);
                else if (kind == FLOOD_ICMP)
                    frame_ping(&f, PAL_FAMILY_V4, 10 + i, 2, false, 7);
                else
                    frame_ip(&f, PAL_FAMILY_V4, 10 + i, 2, 47, "abcd", 4);
                CHECK_U64(rig_judge(&r, &f).reason, i < limits[kind] ? PAL_REASON_MATCH : PAL_REASON_FLOOD_LIMIT);
            }
        r.now += 130 * RIG_S;
    }
    frame_tcp(&f, PAL_FAMILY_V4, 10, 2, 1000, 80, (tcp_say){.seq = 1, .flags = TCP_SYN, .window = 9});
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_MATCH);
    frame_tcp(&f, PAL_FAMILY_V4, 2, 10, 80, 1000, (tcp_say){.seq = 9, .ack = 2, .flags = TCP_SYN | TCP_ACK, .window = 9});
    rig_judge(&r, &f);
    frame_tcp(&f, PAL_FAMILY_V4, 10, 2, 1000, 80, (tcp_say){.seq = 2, .ack = 10, .flags = TCP_ACK, .window = 9});
    rig_judge(&r, &f);
    frame_tcp(&f, PAL_FAMILY_V4, 11, 2, 1000, 80, (tcp_say){.seq = 1, .flags = TCP_SYN, .window = 9});
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_MATCH);
    sound();
    rig_close(&r);
}

static void test_options(void)
{
    pal_engine_options o = rig_options(10, 10);
    char err[256] = "";
    static rig x;
    check_where = "options";
    o.limits.rejects[0] = 60;
    CHECK(!rig_open_at(&x, &o, NULL, err, sizeof err) && strstr(err, "both sides together"));
    o.limits = (pal_limits){.fragments = {FRAG_DATAGRAMS + 1, 1}};
    CHECK(!rig_open_at(&x, &o, NULL, err, sizeof err) && strstr(err, "limit fragments is above 1024"));
}

/* Anything, anywhere, at small limits: accounts stay right. */
static void test_random(void)
{
    uint64_t rng = 88172645463325252ull;
    pal_rule all = rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    check_where = "random";
    open_with((pal_limits){.half_open = {4, 9}, .half_open_prefix = 5, .half_open_prefixes = 4, .misses = {500, 300}}, 24, &all, 1, false);
    for (uint32_t i = 0; i < 6000; i++) {
        rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
        (void)talk(rng >> 8 & 1, rng >> 9 & 1 ? PAL_DIR_IN : PAL_DIR_OUT, (uint8_t)(rng >> 12 & 7), (uint8_t)(1 + (rng >> 16 & 3)),
                  (uint16_t)(1000 + (rng >> 20 & 7)), (rng >> 24 & 3) == 0);
        r.now += (rng >> 32 & 255) == 0 ? 70 * RIG_S : (rng >> 40 & 15) * 10 * RIG_MS;
        if (i % 8 == 0)
            sound();
    }
    CHECK(r.w->count[PAL_DROP][PAL_REASON_MISS_BUDGET] == 0 && r.w->table.s->created > 1000);
    pal_engine_clear(r.e);
    sound();
    rig_close(&r);
}

/* A tap has no sides: what both may do together, and no limit where one of them has none. */
static void test_shares(void)
{
    check_where = "shares";
    for (uint32_t side = 0; side < 2; side++) {
        CHECK_U64(limit_of((const uint32_t[]){5, 7}, false, side), side == SIDE_OWN ? 5 : 7);
        CHECK_U64(limit_of((const uint32_t[]){5, 7}, true, side), 12);
        CHECK_U64(limit_of((const uint32_t[]){5, 0}, true, side), 0);
        CHECK_U64(limit_of((const uint32_t[]){0, 7}, true, side), 0);
    }
}

int main(void)
{
    test_shares();
    test_sides();
    test_records();
    test_common_account();
    test_children();
    test_misses();
    test_rejects();
    test_floods();
    test_options();
    test_random();
    return check_end("test_limits");
}
