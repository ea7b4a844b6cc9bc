/* SPDX-License-Identifier: Apache-2.0
 *
 * test_ether.c - layer-2 rules: what a list matches, that they come before state and fragments, and who owns them.
 */
#include "support/rig.h"

#include "check.h"

static frame f;

/* Both MACs of a frame, as the rules have them. */
static uint64_t mac_of(uint32_t at) { return ether_mac(f.b + at); }

static void stage(rig *r, const pal_ether_rule *rules, uint32_t n, const uint64_t *macs, uint32_t n_macs)
{
    CHECK(pal_engine_stage_ether(r->e, 0, rules, n, macs, n_macs) == 0);
    CHECK(pal_engine_commit(r->e, 0) != 0);
}

static void test_search(void)
{
    check_where = "search";
    uint64_t mac[64];
    for (uint32_t n = 0; n <= 64; n++) {
        for (uint32_t i = 0; i < n; i++)
            mac[i] = 2 * i + 1;
        for (uint64_t x = 0; x < 2 * n + 2; x++)
            CHECK(ether_has(mac, n, x) == (x % 2 == 1 && x < 2 * n));
    }
}

static void test_fields(void)
{
    static rig r;
    check_where = "fields";
    rig_open(&r, 100, 100);
    pal_rule all = rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    rig_commit(&r, 0, &all, 1, false);
    frame_udp(&f, PAL_FAMILY_V4, 1, 2, 1000, 80, "abc", 3);
    uint64_t src = mac_of(6), dst = mac_of(0), other = 0x0200deadbeefull;
    struct {
        pal_ether_rule rule;
        uint64_t mac[2];
        bool drops;
    } row[] = {
        {{.rule = 7, .action = PAL_ACTION_DROP, .dir = PAL_DIR_OUT | PAL_DIR_IN}, {0}, true},
        {{.rule = 7, .action = PAL_ACTION_ALLOW, .dir = PAL_DIR_OUT | PAL_DIR_IN}, {0}, false},
        {{.rule = 7, .action = PAL_ACTION_DROP, .dir = PAL_DIR_OUT | PAL_DIR_IN, .ether_type = ETHERTYPE_IP4}, {0}, true},
        {{.rule = 7, .action = PAL_ACTION_DROP, .dir = PAL_DIR_OUT | PAL_DIR_IN, .ether_type = ETHERTYPE_ARP}, {0}, false},
        {{.rule = 7, .action = PAL_ACTION_DROP, .dir = PAL_DIR_OUT | PAL_DIR_IN, .src_n = 1}, {src, 0}, true},
        {{.rule = 7, .action = PAL_ACTION_DROP, .dir = PAL_DIR_OUT | PAL_DIR_IN, .src_n = 1}, {other, 0}, false},
        {{.rule = 7, .action = PAL_ACTION_DROP, .dir = PAL_DIR_OUT | PAL_DIR_IN, .src_n = 1, .flags = PAL_RULE_SRC_NEGATED}, {other, 0}, true},
        {{.rule = 7, .action = PAL_ACTION_DROP, .dir = PAL_DIR_OUT | PAL_DIR_IN, .dst_off = 1, .dst_n = 1}, {0, dst}, true},
        {{.rule = 7, .action = PAL_ACTION_DROP, .dir = PAL_DIR_OUT | PAL_DIR_IN, .dst_off = 1, .dst_n = 1, .flags = PAL_RULE_DST_NEGATED}, {0, dst}, false},
    };
    for (uint32_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        stage(&r, &row[i].rule, 1, row[i].mac, 2);
        pal_judgement j = rig_judge(&r, &f);
        CHECK_U64(j.verdict, row[i].drops ? PAL_DROP : PAL_ALLOW);
        if (row[i].drops) {
            CHECK_U64(j.rule, 7);
            CHECK_U64(j.reason, PAL_REASON_MATCH);
            CHECK_U64(j.ct, PAL_CT_UNTRACKED);
        }
    }
    /* The connection that was allowed before is not asked; nor are frames that the parser refuses. */
    stage(&r, NULL, 0, NULL, 0);
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_STATE);
    stage(&r, &row[0].rule, 1, row[0].mac, 2);
    CHECK_U64(rig_judge(&r, &f).rule, 7);
    f.b[14] = 0x41;
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_IP_HEADER_LENGTH);
    pal_rule_count count[8];
    pal_engine_rules_read(r.e, count, 8);
    CHECK_U64(count[7].hits, 6);
    CHECK_U64(count[7].packets, 6);
    rig_close(&r);
}

/* A rule of one direction is asked for frames of that direction; a tap, which has no side, asks it for all. */
static void test_directions(void)
{
    static rig r;
    check_where = "directions";
    rig_open(&r, 100, 100);
    pal_rule all = rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    for (uint32_t tap = 0; tap < 2; tap++) {
        rig_commit(&r, 0, &all, 1, tap);
        for (uint8_t dir = PAL_DIR_IN; dir <= (PAL_DIR_IN | PAL_DIR_OUT); dir++) {
            pal_ether_rule rule = {.rule = 7, .action = PAL_ACTION_DROP, .dir = dir};
            stage(&r, &rule, 1, NULL, 0);
            for (uint32_t out = 0; out < 2; out++) {
                pal_packet p;
                frame_udp(&f, PAL_FAMILY_V4, 1, 2, 1000, 80, "abc", 3);
                rig_parse(&r, &p, f.b, f.len, f.len, LINKTYPE_ETHERNET);
                rig_burst(&r, &p, 1, out ? 0 : 4, out ? 4 : 0);
                const bool drops = tap || (dir & (out ? PAL_DIR_OUT : PAL_DIR_IN));
                CHECK_U64(r.out[r.outs - 1].verdict, drops ? PAL_DROP : PAL_ALLOW);
            }
        }
    }
    rig_close(&r);
}

/* They are asked for every frame of a burst, of connections that are known and have nothing special about them too. */
static void test_established(void)
{
    static rig r;
    for (uint32_t family = PAL_FAMILY_V4; family <= PAL_FAMILY_V6; family++) {
        check_where = "established";
        rig_open(&r, 100, 100);
        pal_rule all = rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
        rig_commit(&r, 0, &all, 1, true);
        static frame ack[16];
        pal_packet p[16];
        for (uint8_t i = 0; i < 16; i++) {
            for (uint32_t step = 0; step < 3; step++) {
                const bool back = step == 1;
                frame_tcp(&ack[i], family, back ? 2 : 10 + i, back ? 10 + i : 2, back ? 80 : 1000, back ? 1000 : 80,
                          (tcp_say){.seq = back ? 9 : 1 + (step == 2), .ack = step == 0 ? 0 : back ? 2 : 10, .window = 9000,
                                    .flags = step == 0 ? TCP_SYN : back ? TCP_SYN | TCP_ACK : TCP_ACK});
                CHECK_U64(rig_judge(&r, &ack[i]).verdict, PAL_ALLOW);
            }
        }
        pal_ether_rule rule = {.rule = 7, .action = PAL_ACTION_DROP, .dir = PAL_DIR_OUT | PAL_DIR_IN};
        for (uint32_t drops = 0; drops < 2; drops++) {
            stage(&r, &rule, drops, NULL, 0);
            for (uint32_t i = 0; i < 16; i++)
                rig_parse(&r, &p[i], ack[i].b, ack[i].len, ack[i].len, LINKTYPE_ETHERNET);
            rig_forget(&r);
            rig_burst(&r, p, 16, 0, 4);
            CHECK_U64(r.outs, 16);
            for (uint32_t i = 0; i < r.outs; i++)
                CHECK(drops ? r.out[i].verdict == PAL_DROP && r.out[i].rule == 7 : r.out[i].verdict == PAL_ALLOW && r.out[i].reason == PAL_REASON_STATE);
        }
        rig_close(&r);
    }
}

/* First match decides, and a fragment is dropped before it is held. */
static void test_order_and_fragments(void)
{
    static rig r;
    check_where = "order";
    rig_open(&r, 100, 100);
    pal_rule all = rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    rig_commit(&r, 0, &all, 1, false);
    pal_ether_rule rule[2] = {{.rule = 7, .action = PAL_ACTION_ALLOW, .dir = PAL_DIR_OUT | PAL_DIR_IN, .ether_type = ETHERTYPE_IP6},
                              {.rule = 8, .action = PAL_ACTION_DROP, .dir = PAL_DIR_OUT | PAL_DIR_IN}};
    stage(&r, rule, 2, NULL, 0);
    frame_udp(&f, PAL_FAMILY_V6, 1, 2, 1000, 80, "abc", 3);
    CHECK_U64(rig_judge(&r, &f).verdict, PAL_ALLOW);
    frame_udp(&f, PAL_FAMILY_V4, 1, 2, 1000, 80, "abc", 3);
    CHECK_U64(rig_judge(&r, &f).rule, 8);
    uint8_t body[16] = {0};
    frame_fragment(&f, PAL_FAMILY_V4, 1, 2, PROTO_UDP, 1, 0, true, body, 16);
    CHECK_U64(rig_judge(&r, &f).rule, 8);
    CHECK(r.w->fragments->oldest == FRAG_NONE);
    rig_close(&r);
}

/* Lists live as long as a configuration refers to them (ASan sees to it), and what is not sound is refused. */
static void test_ownership(void)
{
    static rig r;
    check_where = "ownership";
    rig_open(&r, 100, 100);
    pal_rule all = rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    rig_commit(&r, 0, &all, 1, false);
    pal_ether_rule drop = {.rule = 7, .action = PAL_ACTION_DROP, .dir = PAL_DIR_IN};
    uint64_t mac[3] = {1, 2, 3};
    for (uint32_t i = 0; i < 5; i++) {
        CHECK(pal_engine_stage_ether(r.e, i & 3, &drop, 1, mac, i & 3) == 0);
        CHECK(pal_engine_stage_ether(r.e, 0, &drop, 1, mac, 3) == 0);
        if (i & 1)
            rig_commit(&r, 1, &all, 1, false);
    }
    CHECK(pal_engine_remove(r.e, 0) == 0 && pal_engine_commit(r.e, 0) != 0);
    CHECK(pal_engine_stage_ether(r.e, 4, NULL, 0, NULL, 0) == -1);
    static pal_ether_rule many[ETHER_RULES_MAX + 1];
    for (uint32_t i = 0; i <= ETHER_RULES_MAX; i++)
        many[i] = drop;
    CHECK(pal_engine_stage_ether(r.e, 0, many, ETHER_RULES_MAX, NULL, 0) == 0);
    CHECK(pal_engine_stage_ether(r.e, 0, many, ETHER_RULES_MAX + 1, NULL, 0) == -1);
    pal_ether_rule bad[] = {{.dir = 0}, {.dir = 4}, {.dir = 1, .action = PAL_ACTION_REJECT}, {.dir = 1, .src_off = 4},
                            {.dir = 1, .src_off = 1, .src_n = 3}, {.dir = 1, .dst_off = 3, .dst_n = 0xffffffff}};
    for (uint32_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CHECK(pal_engine_stage_ether(r.e, 0, &bad[i], 1, mac, 3) == -1);
    rig_close(&r);
}

int main(void)
{
    test_search();
    test_fields();
    test_directions();
    test_established();
    test_order_and_fragments();
    test_ownership();
    return check_end("test_ether");
}
