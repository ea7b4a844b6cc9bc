/* SPDX-License-Identifier: Apache-2.0
 *
 * test_pipeline.c - a burst of any size gives what its packets give one at a time; every packet is accounted for;
 * rule statistics follow their connections; policies that change.
 */
#include "../engine/limits.h"
#include "support/rig.h"

#include "check.h"
#include "support/invariants.h"

static frame f;
static uint64_t rng_state;

static uint32_t rng(uint32_t below)
{
    rng_state += 0x9e3779b97f4a7c15ull;
    uint64_t z = rng_state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return (uint32_t)((z ^ z >> 31) % below);
}

static void policy(rig *r, uint32_t filter, uint32_t which)
{
    pal_rule x[5] = {rig_rule_port(0, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL, PROTO_TCP, 21),
                     rig_rule_port(1, which ? PAL_ACTION_REJECT : PAL_ACTION_ALLOW, PAL_RULE_STATEFUL, PROTO_TCP, 22),
                     rig_rule_port(2, PAL_ACTION_DROP, 0, PROTO_UDP, 53), rig_rule_port(3, PAL_ACTION_ALLOW, 0, PROTO_UDP, 54),
                     rig_rule(4, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL)};
    x[0].alg = PAL_ALG_FTP;
    rig_commit(r, filter, x, 5, false);
}

static void any_packet(frame *to)
{
    static const uint16_t ports[6] = {21, 22, 53, 54, 80, 2313};
    static const uint8_t flags[6] = {TCP_SYN, TCP_SYN | TCP_ACK, TCP_ACK, TCP_ACK | TCP_PSH, TCP_FIN | TCP_ACK, TCP_RST | TCP_ACK};
    uint8_t src = (uint8_t)(1 + rng(2)), dst = (uint8_t)(3 - src), family = 1 + (rng(3) == 0);
    uint16_t a = ports[rng(6)], b = ports[rng(6)];
    static const char line[] = "PORT 10,0,0,1,9,9\r\n";
    switch (rng(8)) {
    case 0:
        frame_udp(to, family, src, dst, a, b, "x", 1);
        break;
    case 1:
        frame_ping(to, family, src, dst, rng(2), (uint16_t)rng(3));
        break;
    case 2: {
        uint8_t body[64] = {0};
        store_be16(body, a);
        store_be16(body + 2, b);
        store_be16(body + 4, 48);
        uint32_t part = rng(3);
        frame_fragment(to, family, src, dst, PROTO_UDP, rng(2), part * 16, part < 2, body + part * 16, 16);
        break;
    }
    default:
        frame_tcp(to, family, src, dst, a, b, (tcp_say){.seq = 100 + rng(4), .ack = 100 + rng(4), .flags = flags[rng(6)], .window = 1000,
                  .payload = line, .len = rng(3) ? 0 : sizeof line - 1});
    }
}

/* The same packets in bursts of n as one at a time, with clocks that leap within a burst. */
static void test_bursts(void)
{
    static rig one, many;
    static uint8_t bytes[WORKER_BURST][256];
    pal_packet p[WORKER_BURST];
    for (uint32_t size = 1; size <= WORKER_BURST; size++) {
        check_where = "bursts";
        rng_state = size;
        rig_open(&one, 14, 8);
        rig_open(&many, 14, 8);
        for (uint32_t i = 0; i < 2; i++) {
            policy(&one, i, 0);
            policy(&many, i, 0);
        }
        for (uint32_t round = 0; round < 640 / size; round++) {
            if (rng(6) == 0) {
                uint32_t which = rng(2);
                policy(&one, 0, which);
                policy(&many, 0, which);
            }
            uint32_t in = rng(2) ? 1 : 4;
            for (uint32_t i = 0; i < size; i++) {
                any_packet(&f);
                uint64_t step = rng(20) == 0 ? 40 * RIG_S : RIG_MS;
                one.now += step;
                many.now += step;
                memcpy(bytes[i], f.b, f.len);
                rig_parse(&many, &p[i], bytes[i], f.len, f.len, LINKTYPE_ETHERNET);
                pal_packet alone;
                rig_parse(&one, &alone, bytes[i], f.len, f.len, LINKTYPE_ETHERNET);
                rig_burst(&one, &alone, 1, 0, in);
            }
            rig_burst(&many, p, size, 0, in);
            CHECK_U64(many.outs, one.outs);
            CHECK(memcmp(many.out, one.out, one.outs * sizeof one.out[0]) == 0);
            CHECK_U64(many.sent, one.sent);
            rig_forget(&one);
            rig_forget(&many);
            const char *broken = invariant_broken(many.w);
            check_where = broken ? broken : check_where;
            CHECK(broken == NULL);
        }
        rig_finish(&one);
        CHECK(invariant_counts(one.w) == NULL && one.w->count[PAL_HELD][PAL_REASON_HELD] == one.w->released);
        CHECK(one.w->count[PAL_HELD][PAL_REASON_HELD] > 0);
        rig_close(&one);
        rig_close(&many);
    }
}

static void count_is(rig *r, uint32_t rule, uint64_t hits, uint64_t packets, uint64_t bytes)
{
    pal_rule_count c[64];
    pal_engine_rules_read(r->e, c, 64);
    CHECK_U64(c[rule].hits, hits);
    CHECK_U64(c[rule].packets, packets);
    CHECK_U64(c[rule].bytes, bytes);
}

/* A connection's packets are its rule's, also those before another rule took it. */
static void test_rule_statistics(void)
{
    static rig r;
    check_where = "rule statistics";
    rig_open(&r, 100, 100);
    pal_rule old = rig_rule(7, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL), new = rig_rule(8, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    rig_commit(&r, 0, &old, 1, false);
    frame_udp(&f, PAL_FAMILY_V4, 1, 2, 1000, 80, "abc", 3); /* 31 bytes */
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_MATCH);
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_STATE);
    count_is(&r, 7, 1, 2, 62);
    rig_commit(&r, 0, &new, 1, false);
    count_is(&r, 7, 1, 2, 62);
    CHECK_U64(rig_judge(&r, &f).rule, 8);
    count_is(&r, 7, 1, 2, 62);
    count_is(&r, 8, 0, 1, 31); /* judged again: no hit */
    pal_rule drop = rig_rule(9, PAL_ACTION_DROP, 0);
    rig_commit(&r, 0, &drop, 1, false);
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_POLICY_CHANGE);
    count_is(&r, 8, 0, 1, 31);
    count_is(&r, 9, 0, 1, 31);
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_MATCH);
    count_is(&r, 9, 1, 2, 62);
    CHECK_U64(r.w->table.s->used[0], 0);
    rig_close(&r);
}

/* Both directions of what a vNIC sends to itself run OUT: judged again it is by the direction in which it began. */
static void test_to_itself(void)
{
    static rig r;
    check_where = "to itself";
    rig_open(&r, 100, 100);
    pal_rule out = rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL), in = rig_rule(2, PAL_ACTION_DROP, 0);
    out.dir = PAL_DIR_OUT;
    in.dir = PAL_DIR_IN;
    rig_commit(&r, 0, (pal_rule[]){out, in}, 2, false);
    frame_udp(&f, PAL_FAMILY_V4, 1, 1, 1000, 80, "abc", 3);
    CHECK_U64(rig_judge(&r, &f).ct, PAL_CT_NEW);
    rig_commit(&r, 0, (pal_rule[]){out, in}, 2, false);
    frame_udp(&f, PAL_FAMILY_V4, 1, 1, 80, 1000, "abc", 3);
    CHECK_U64(rig_judge(&r, &f).ct, PAL_CT_ESTABLISHED);
    rig_close(&r);
}

static void test_life_of_filters(void)
{
    static rig r;
    check_where = "filters";
    rig_open(&r, 100, 100);
    frame_udp(&f, PAL_FAMILY_V4, 1, 2, 1000, 80, "abc", 3);
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_NO_RULESET);
    pal_rule all = rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    rig_commit(&r, 0, &all, 1, false);
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_MATCH);
    rig_commit(&r, 0, NULL, 0, false);
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_NO_RULESET);
    rig_commit(&r, 0, &all, 1, false);
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_STATE); /* judged again, allowed */
    CHECK(pal_engine_remove(r.e, 0) == 0 && pal_engine_commit(r.e, 0) != 0);
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_NO_RULESET);
    rig_commit(&r, 0, &all, 1, false);
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_MATCH); /* another incarnation knows nothing of the first */
    /* Staged twice before a commit, staged and never committed: nothing leaks, nothing is freed twice (ASan). */
    for (uint32_t i = 0; i < 3; i++) {
        pal_ruleset *set = NULL;
        CHECK(pal_cls_ruleset_build(r.e->cls, &all, 1, NULL, 0, &set) == PAL_CLS_OK);
        CHECK(pal_engine_stage(r.e, i & 1, set, rig_timeouts, 0) == 0);
    }
    CHECK(pal_engine_stage(r.e, 4, NULL, NULL, 0) == -1);
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_STATE);
    rig_close(&r);
    /* No incarnation left: what could not be staged is still the caller's. */
    rig_open(&r, 10, 10);
    r.e->incarnation = INCARNATIONS - 1;
    pal_ruleset *set = NULL;
    CHECK(pal_cls_ruleset_build(r.e->cls, &all, 1, NULL, 0, &set) == PAL_CLS_OK);
    CHECK(pal_engine_stage(r.e, 0, set, rig_timeouts, 0) == -1);
    pal_cls_ruleset_release(r.e->cls, set);
    rig_close(&r);
}

/* The epoch's 32 bits wrap; 0 is no epoch. */
static void test_epoch_wraps(void)
{
    static rig r;
    check_where = "epoch";
    rig_open(&r, 100, 100);
    pal_rule all = rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL), drop = rig_rule(2, PAL_ACTION_DROP, 0);
    pal_engine_epoch_set(r.e, 0xfffffffeull);
    rig_commit(&r, 0, &all, 1, false);
    frame_udp(&f, PAL_FAMILY_V4, 1, 2, 1000, 80, "abc", 3);
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_MATCH);
    rig_commit(&r, 0, &all, 1, false);
    CHECK_U64(r.e->current->filter[0].epoch, 1);
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_STATE);
    rig_commit(&r, 0, &drop, 1, false);
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_POLICY_CHANGE);
    rig_close(&r);
}

int main(void)
{
    test_bursts();
    test_rule_statistics();
    test_to_itself();
    test_life_of_filters();
    test_epoch_wraps();
    return check_end("test_pipeline");
}
