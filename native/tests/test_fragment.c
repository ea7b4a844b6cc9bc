/* SPDX-License-Identifier: Apache-2.0
 *
 * test_fragment.c - fragments held, refused, put together; every order, every limit, and the whole's own verdict.
 */
#include "support/rig.h"

#include "check.h"
#include "support/invariants.h"

static rig r;
static frame f;
static uint8_t body[70000]; /* a UDP datagram, checksum 0 */

static void begin(bool deny_53)
{
    rig_open(&r, 2000, 2000);
    pal_rule x[2] = {rig_rule_port(0, PAL_ACTION_DROP, 0, PROTO_UDP, 53), rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL)};
    rig_commit(&r, 0, deny_53 ? x : x + 1, deny_53 ? 2 : 1, false);
}

static void datagram(uint32_t len, uint16_t dport)
{
    for (uint32_t i = 0; i < len; i++)
        body[i] = (uint8_t)(i * 7);
    store_be16(body, 1000);
    store_be16(body + 2, dport);
    store_be16(body + 4, (uint16_t)len);
    store_be16(body + 6, 0);
}

static pal_judgement part(uint32_t family, uint8_t src, uint32_t id, uint32_t off, uint32_t len, bool more)
{
    frame_fragment(&f, family, src, 2, PROTO_UDP, id, off, more, body + off, len);
    return rig_judge(&r, &f);
}

static void sound(void)
{
    const char *broken = invariant_broken(r.w);
    check_where = broken ? broken : check_where;
    CHECK(broken == NULL);
}

/* All orders of four pieces: whole at the last, each gets the verdict; ports at the first piece decide. */
static void test_orders(void)
{
    for (uint32_t family = 1; family <= 2; family++)
        for (uint32_t order = 0; order < 256; order++) {
            uint32_t at[4] = {order & 3, order >> 2 & 3, order >> 4 & 3, order >> 6 & 3};
            if ((1u << at[0] | 1u << at[1] | 1u << at[2] | 1u << at[3]) != 15)
                continue;
            check_where = "orders";
            begin(true);
            datagram(160, order % 2 ? 53 : 54);
            for (uint32_t i = 0; i < 3; i++)
                CHECK_U64(part(family, 1, 5, at[i] * 40, 40, at[i] < 3).verdict, PAL_HELD);
            sound();
            pal_judgement j = part(family, 1, 5, at[3] * 40, 40, at[3] < 3);
            CHECK_U64(j.verdict, order % 2 ? PAL_DROP : PAL_ALLOW);
            CHECK_U64(j.reason, PAL_REASON_MATCH);
            CHECK_U64(r.outs, 4);
            for (uint32_t i = 0; i < 4; i++) { /* in order of offset, each its own bytes */
                CHECK_U64(r.out[i].verdict, j.verdict);
                CHECK_U64(r.out[i].cookie, at[0] == i ? 1 : at[1] == i ? 2 : at[2] == i ? 3 : 4);
                CHECK_U64(r.out[i].bytes, family == PAL_FAMILY_V4 ? 60 : 88);
            }
            CHECK_U64(r.w->fragments->datagrams, 0);
            CHECK_U64(r.w->rule[order % 2 ? 0 : 1].hits, 1);
            if (order % 2 == 0) {
                CHECK_U64(ct_packets(&r.w->table, j.ref, 0), 4);
                CHECK_U64(ct_bytes(&r.w->table, j.ref, 0), family == PAL_FAMILY_V4 ? 240 : 352);
            }
            /* What was put together is what was cut up. */
            uint32_t head = family == PAL_FAMILY_V4 ? 20 : 40;
            CHECK(memcmp(r.w->scratch + head, body, 160) == 0);
            CHECK_U64(load_be16(r.w->scratch + (family == PAL_FAMILY_V4 ? 2 : 4)), family == PAL_FAMILY_V4 ? 180 : 160);
            CHECK_U64(r.w->scratch[family == PAL_FAMILY_V4 ? 9 : 6], PROTO_UDP);
            if (family == PAL_FAMILY_V4)
                CHECK(sum_is_good(sum_bytes(r.w->scratch, 20, 0)) && load_u16(r.w->scratch + 6) == 0);
            sound();
            rig_close(&r);
        }
}

static void test_refusals(void)
{
    check_where = "refusals";
    begin(false);
    datagram(160, 54);
    CHECK_U64(part(1, 1, 1, 0, 0, true).reason, PAL_REASON_FRAG_LENGTH);
    CHECK_U64(part(1, 1, 1, 0, 41, true).reason, PAL_REASON_FRAG_LENGTH);
    CHECK_U64(part(1, 1, 1, 65528, 8, false).reason, PAL_REASON_FRAG_LENGTH);
    CHECK_U64(part(1, 1, 1, 65512, 3, false).reason, PAL_REASON_HELD); /* 20 + 65515: just fits */
    CHECK_U64(part(1, 1, 2, 65512, 4, false).reason, PAL_REASON_FRAG_LENGTH);
    CHECK_U64(part(2, 1, 2, 65528, 7, false).reason, PAL_REASON_HELD);
    CHECK_U64(part(2, 1, 3, 65528, 8, false).reason, PAL_REASON_FRAG_LENGTH);
    /* Copies; copies that differ in bytes, in M, in length. */
    CHECK_U64(part(1, 1, 10, 40, 40, true).reason, PAL_REASON_HELD);
    CHECK_U64(part(1, 1, 10, 40, 40, true).reason, PAL_REASON_FRAG_DUPLICATE);
    body[79] ^= 1;
    CHECK_U64(part(1, 1, 10, 40, 40, true).reason, PAL_REASON_FRAG_OVERLAP);
    CHECK_U64(r.out[r.outs - 2].reason, PAL_REASON_FRAG_OVERLAP); /* the one that was held */
    CHECK_U64(part(1, 1, 10, 0, 40, true).reason, PAL_REASON_FRAG_OVERLAP);
    sound();
    static const struct {
        uint32_t a, a_len, b, b_len;
        bool a_more, b_more, overlap;
    } pairs[] = {{0, 40, 32, 40, true, true, true}, {40, 40, 0, 48, true, true, true}, {40, 40, 0, 40, true, true, false},
                 {0, 40, 40, 40, true, true, false}, {40, 40, 40, 40, true, false, true}, {40, 40, 80, 8, false, true, true},
                 {40, 40, 8, 8, true, false, true}, {0, 8, 40, 40, true, false, false}, {80, 8, 40, 48, false, false, true},
                 {40, 40, 80, 40, false, false, true}, {40, 40, 40, 32, true, true, true}, {0, 120, 40, 8, true, true, true}};
    for (uint32_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        CHECK_U64(part(1, 1, 100 + i, pairs[i].a, pairs[i].a_len, pairs[i].a_more).reason, PAL_REASON_HELD);
        CHECK_U64(part(1, 1, 100 + i, pairs[i].b, pairs[i].b_len, pairs[i].b_more).reason,
                  pairs[i].overlap ? PAL_REASON_FRAG_OVERLAP : PAL_REASON_HELD);
    }
    sound();
    rig_close(&r);
}

static void test_limits(void)
{
    check_where = "limits";
    begin(false);
    datagram(2000, 54);
    for (uint32_t i = 0; i < FRAG_PER_DATAGRAM; i++)
        CHECK_U64(part(1, 1, 1, i * 16, 8, true).reason, PAL_REASON_HELD);
    CHECK_U64(part(1, 1, 1, 1600, 8, true).reason, PAL_REASON_FRAG_LIMIT);
    CHECK_U64(part(1, 1, 1, 8, 8, true).reason, PAL_REASON_FRAG_LIMIT);
    const uint32_t per_side = 128, per_source = 64; /* all of it runs OUT: the workload's own */
    for (uint32_t i = 0; i < per_source - 1; i++)
        CHECK_U64(part(1, 1, 1000 + i, 0, 8, true).reason, PAL_REASON_HELD);
    CHECK_U64(part(1, 1, 5000, 0, 8, true).reason, PAL_REASON_FRAG_LIMIT);
    CHECK_U64(part(1, 3, 5000, 0, 8, true).reason, PAL_REASON_HELD);
    uint32_t held = 0;
    for (uint32_t i = 0; i < 400; i++)
        held += part(1, (uint8_t)(10 + i / 50), 1000 + i, 0, 8, true).reason == PAL_REASON_HELD;
    CHECK_U64(held, per_side - per_source - 1);
    sound();
    /* On the last tick they are still there, on the next they are gone and make room. */
    r.now += 30 * RIG_S;
    CHECK_U64(part(1, 1, 5000, 0, 8, true).reason, PAL_REASON_FRAG_LIMIT);
    r.now += 10 * RIG_MS;
    rig_forget(&r);
    CHECK_U64(part(1, 1, 5000, 0, 8, true).reason, PAL_REASON_FRAG_TIMEOUT);
    CHECK_U64(r.w->fragments->datagrams, 1);
    sound();
    rig_finish(&r);
    CHECK_U64(r.out[r.outs - 1].reason, PAL_REASON_FRAG_INCOMPLETE);
    sound();
    rig_close(&r);
    /* Blocks: a source's 64 datagrams have 2,048, a side's 4,096; what is given back can be used again. */
    begin(false);
    memset(body, 0, sizeof body);
    for (uint32_t i = 0; i < 32; i++)
        CHECK_U64(part(1, (uint8_t)(1 + i / 16), i, 0, 32768, true).reason, PAL_REASON_HELD);
    CHECK_U64(r.w->fragments->blocks, 4096);
    CHECK_U64(part(1, 1, 100, 0, 8, true).reason, PAL_REASON_FRAG_LIMIT);
    CHECK_U64(part(1, 2, 16, 32768, 8, true).reason, PAL_REASON_FRAG_LIMIT);
    CHECK_U64(part(1, 3, 100, 0, 8, true).reason, PAL_REASON_FRAG_LIMIT);
    CHECK_U64(part(1, 1, 0, 8, 8, true).reason, PAL_REASON_FRAG_OVERLAP);
    CHECK_U64(part(1, 2, 16, 32768, 8, true).reason, PAL_REASON_FRAG_LIMIT); /* its source has none left */
    CHECK_U64(part(1, 1, 100, 0, 8, true).reason, PAL_REASON_HELD);
    sound();
    rig_close(&r);
    /* In all: 16,384 of 256 bytes. */
    pal_engine_options o = rig_options(2000, 2000);
    char err[256];
    o.limits.fragments[0] = o.limits.fragments_source = FRAG_DATAGRAMS;
    CHECK(rig_open_at(&r, &o, NULL, err, sizeof err));
    pal_rule all = rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    rig_commit(&r, 0, &all, 1, false);
    for (uint32_t i = 0; i < 64; i++)
        for (uint32_t k = 0; k < 2; k++)
            CHECK_U64(part(1, (uint8_t)(1 + i / 32), i, k * 32768, 32768 - k * 512, true).reason, PAL_REASON_HELD);
    CHECK_U64(r.w->fragments->blocks, 64 * 254);
    CHECK_U64(part(1, 9, 1, 0, 128 * 256 + 8, true).reason, PAL_REASON_FRAG_LIMIT);
    CHECK_U64(part(1, 9, 1, 0, 128 * 256, true).reason, PAL_REASON_HELD);
    CHECK_U64(part(1, 9, 2, 0, 8, true).reason, PAL_REASON_FRAG_LIMIT);
    sound();
    rig_close(&r);
}

/* A worker has room for 1,024 datagrams, whoever they are of, and what is whole makes room for others. */
static void test_room(void)
{
    check_where = "room";
    pal_engine_options o = rig_options(2000, 2000);
    char err[256];
    o.limits.fragments[0] = o.limits.fragments_source = FRAG_DATAGRAMS;
    CHECK(rig_open_at(&r, &o, NULL, err, sizeof err));
    pal_rule all = rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    for (uint32_t i = 0; i < 2; i++)
        rig_commit(&r, i, &all, 1, false);
    datagram(16, 54);
    for (uint32_t round = 0; round < 2; round++) {
        pal_packet p;
        for (uint32_t i = 0; i < FRAG_DATAGRAMS; i++)
            CHECK_U64(part(1, 1, i, 0, 8, true).reason, PAL_REASON_HELD);
        frame_fragment(&f, 1, 3, 2, PROTO_UDP, 9, 0, true, body, 8);
        rig_parse(&r, &p, f.b, f.len, f.len, LINKTYPE_ETHERNET);
        rig_burst(&r, &p, 1, 1, 4); /* another filter, which holds none */
        CHECK_U64(r.out[r.outs - 1].filter, 1);
        CHECK_U64(r.out[r.outs - 1].reason, PAL_REASON_FRAG_LIMIT);
        for (uint32_t i = 0; i < FRAG_DATAGRAMS; i++)
            CHECK_U64(part(1, 1, i, 8, 8, false).verdict, PAL_ALLOW);
        sound();
    }
    rig_close(&r);
}

/* A fragment inside fragments hides its ports: it is refused. */
static void test_prefixes(void)
{
    check_where = "prefixes";
    rig_open(&r, 2000, 2000);
    pal_rule all = rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    rig_commit(&r, 0, &all, 1, true); /* a tap: everybody is another, both sides' budgets together */
    uint32_t held = 0;
    memset(body, 0, sizeof body);
    for (uint32_t i = 0; i < 200; i++)
        held += part(PAL_FAMILY_V4, (uint8_t)(1 + i % 8), i, 0, 8, true).reason == PAL_REASON_HELD;
    CHECK_U64(held, 96); /* one /24 */
    for (uint32_t i = 0; i < 200; i++)
        held += part(PAL_FAMILY_V6, (uint8_t)(1 + i % 8), i, 0, 8, true).reason == PAL_REASON_HELD;
    CHECK_U64(held, 192);
    sound();
    r.now += 31 * RIG_S;
    CHECK_U64(part(PAL_FAMILY_V4, 1, 5000, 0, 8, true).reason, PAL_REASON_FRAG_TIMEOUT); /* theirs; this one is held */
    CHECK_U64(r.w->fragments->datagrams, 1);
    sound();
    rig_close(&r);
}

static void test_hidden(void)
{
    check_where = "hidden";
    begin(true);
    memset(body, 0, 64);
    body[0] = PROTO_UDP;
    store_be16(body + 2, 1); /* an inner fragment header with M */
    store_be16(body + 8, 1000);
    store_be16(body + 10, 53);
    frame_fragment(&f, PAL_FAMILY_V6, 1, 2, PROTO_IP6_FRAGMENT, 8, 0, true, body, 16);
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_HELD);
    frame_fragment(&f, PAL_FAMILY_V6, 1, 2, PROTO_IP6_FRAGMENT, 8, 16, false, body + 16, 16);
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_EXT_HEADERS);
    sound();
    rig_close(&r);
}

int main(void)
{
    test_orders();
    test_refusals();
    test_limits();
    test_room();
    test_prefixes();
    test_hidden();
    return check_end("test_fragment");
}
