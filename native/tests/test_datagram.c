/* SPDX-License-Identifier: Apache-2.0
 *
 * test_datagram.c - docs/packet-path.md, section 3: what makes two fragments of one datagram, what a whole one is judged by
 * at one filter and at two, what is counted, sums, and headers that make it too long.
 */
#include "support/rig.h"

#include "check.h"
#include "support/invariants.h"

static rig r;
static frame f;
static uint8_t body[2000];

static void begin_with(uint8_t decap)
{
    pal_engine_options o = rig_options(200, 200);
    o.decap = decap;
    char err[256];
    CHECK(rig_open_at(&r, &o, NULL, err, sizeof err));
    pal_rule all = rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    for (uint32_t i = 0; i < 3; i++)
        rig_commit(&r, i, &all, 1, false);
    memset(body, 7, sizeof body);
    store_be16(body, 1000);
    store_be16(body + 2, 53);
    store_be16(body + 4, 80);
    store_be16(body + 6, 0);
}

static void begin(void) { begin_with(0); }

/* Judges the frame at `out`, then `in` (4: none). How many verdicts that gave. */
static uint32_t judged_at(uint32_t out, uint32_t in)
{
    pal_packet p;
    uint32_t before = r.outs;
    rig_parse(&r, &p, f.b, f.len, f.len, LINKTYPE_ETHERNET);
    rig_burst(&r, &p, 1, out, in);
    const char *broken = invariant_broken(r.w);
    check_where = broken ? broken : check_where;
    CHECK(broken == NULL);
    return r.outs - before;
}
static const pal_judgement *last(uint32_t back) { return &r.out[r.outs - 1 - back]; }

/* Source, destination, identification, protocol (IPv4), family, filter and direction each tell datagrams apart: what comes to
 * a vNIC with its own address as the source is no part of what it sends. */
static void test_keys(void)
{
    check_where = "keys";
    begin();
    for (uint32_t family = 1; family <= 2; family++)
        for (uint32_t what = 0; what < 7; what++) {
            frame_fragment(&f, family, 1, 2, PROTO_UDP, 100 + what, 0, true, body, 40);
            CHECK_U64(judged_at(0, 4), 0);
            frame_fragment(&f, family, what == 1 ? 3 : 1, what == 2 ? 3 : 2, what == 3 ? PROTO_TCP : PROTO_UDP, 100 + what + (what == 4) * 50, 40, false, body + 40, 40);
            bool one = what == 0 || (what == 3 && family == PAL_FAMILY_V6);
            CHECK_U64(what == 6 ? judged_at(4, 0) : judged_at(what == 5, 4), one ? 2 : 0);
            if (one)
                CHECK_U64(last(0)->verdict, PAL_ALLOW);
        }
    rig_finish(&r);
    rig_close(&r);
    /* A whole datagram of another family's bytes is no first half of this one; the identification of IPv6 has 32 bits. */
    begin();
    frame_fragment(&f, PAL_FAMILY_V6, 1, 2, PROTO_UDP, 0x10005, 0, true, body, 40);
    CHECK_U64(judged_at(0, 4), 0);
    frame_fragment(&f, PAL_FAMILY_V6, 1, 2, PROTO_UDP, 0x00005, 40, false, body + 40, 40);
    CHECK_U64(judged_at(0, 4), 0);
    rig_close(&r);
}

/* Many at a time, so that different ones meet in a bucket: each is completed by its own last piece. */
static void test_many(void)
{
    for (uint32_t round = 0; round < 4; round++) {
        check_where = "many";
        begin();
        for (uint32_t half = 0; half < 2; half++)
            for (uint32_t i = 0; i < 180; i++) {
                uint32_t n = half ? 179 - i : i, filter = n % 3, kind = n / 3 % 3, id = n / 9 + round * 1000;
                uint32_t family = kind == 2 ? PAL_FAMILY_V6 : PAL_FAMILY_V4;
                frame_fragment(&f, family, 1, 2, kind == 1 ? 200 : PROTO_UDP, id, half * 40, !half, body + half * 40, 40);
                CHECK_U64(judged_at(filter, 4), half ? 2 : 0);
                if (half)
                    CHECK_U64(last(0)->verdict, PAL_ALLOW);
                CHECK_U64(r.w->fragments->datagrams, half ? n : n + 1);
            }
        rig_close(&r);
    }
}

/* On a tap inside an underlay the VNI tells them apart too. */
static void test_domains(void)
{
    check_where = "domains";
    begin_with(1);
    for (uint32_t i = 0; i < 4; i++) {
        frame inner = {0};
        static const uint32_t vni[4] = {5, 6, 5, 6}; /* whole at the third and at the fourth */
        uint32_t off = i < 2 ? 0 : 40;
        frame_fragment(&inner, PAL_FAMILY_V4, 1, 2, PROTO_UDP, 9, off, off == 0, body + off, 40);
        uint8_t payload[200] = {8, 0, 0, 0, 0, 0, (uint8_t)vni[i], 0};
        memcpy(payload + 8, inner.b, inner.len);
        frame_udp(&f, PAL_FAMILY_V4, 100, 101, 999, 4789, payload, 8 + inner.len);
        CHECK_U64(judged_at(0, 4), i < 2 ? 0 : 2);
    }
    CHECK_U64(r.w->table.s->used[0], 2); /* a connection in each */
    rig_close(&r);
}

/* Held by the first filter, judged whole by both; a hit counted once, packets and bytes one by one. */
static void test_two_filters(void)
{
    for (uint32_t family = 1; family <= 2; family++) {
        check_where = "two filters";
        begin();
        uint32_t bytes = family == PAL_FAMILY_V4 ? 60 : 88;
        for (uint32_t i = 0; i < 2; i++) {
            frame_fragment(&f, family, 1, 2, PROTO_UDP, 5, i * 40, i == 0, body + i * 40, 40);
            CHECK_U64(judged_at(0, 1), i ? 4 : 0);
        }
        for (uint32_t i = 0; i < 4; i++) {
            CHECK_U64(r.out[i].filter, i / 2);
            CHECK_U64(r.out[i].dir, i < 2 ? PAL_DIR_OUT : PAL_DIR_IN);
            CHECK_U64(r.out[i].cookie, 1 + i % 2);
            CHECK_U64(r.out[i].bytes, bytes);
            CHECK_U64(r.out[i].first, i % 2 == 0);
            CHECK_U64(r.out[i].reason, PAL_REASON_MATCH);
        }
        CHECK_U64(r.w->received, 4);
        CHECK_U64(r.w->rule[1].hits, 2);
        pal_rule_count c[2];
        pal_engine_rules_read(r.e, c, 2);
        CHECK_U64(c[1].packets, 4);
        CHECK_U64(c[1].bytes, 4 * bytes);
        /* The first refuses: the second is not asked. */
        pal_rule drop = rig_rule(2, PAL_ACTION_DROP, 0);
        rig_commit(&r, 0, &drop, 1, false);
        for (uint32_t i = 0; i < 2; i++) {
            frame_fragment(&f, family, 1, 2, PROTO_UDP, 6, i * 40, i == 0, body + i * 40, 40);
            CHECK_U64(judged_at(0, 1), i ? 2 : 0);
        }
        CHECK_U64(last(0)->reason, PAL_REASON_POLICY_CHANGE);
        CHECK_U64(r.w->table.flow[last(0)->ref == PAL_NONE ? (family == 1 ? 0 : r.w->table.cap4) : last(0)->ref].dropped, 2);
        rig_close(&r);
    }
    /* No rules yet, at either end. */
    rig_open(&r, 20, 20);
    frame_fragment(&f, PAL_FAMILY_V4, 1, 2, PROTO_UDP, 5, 0, true, body, 40);
    CHECK_U64(judged_at(0, 1), 1);
    CHECK_U64(last(0)->reason, PAL_REASON_NO_RULESET);
    CHECK_U64(r.w->fragments->datagrams, 0);
    rig_close(&r);
}

/* The whole's sum is tested; with bytes snapped off nobody can know, and what is missing is zeros. */
static void test_sums(void)
{
    for (uint32_t what = 0; what < 4; what++) {
        check_where = "sums";
        begin();
        r.w->parse.sum_mode = what == 3 ? SUM_MODE_COUNT : SUM_MODE_VERIFY;
        frame whole = {0};
        frame_udp(&whole, PAL_FAMILY_V4, 1, 2, 1000, 53, body + 8, 72);
        memcpy(body, whole.b + whole.l4, 80);
        if (what == 1 || what == 3)
            body[79] ^= 1;
        frame_fragment(&f, PAL_FAMILY_V4, 1, 2, PROTO_UDP, 5, 0, true, body, 40);
        CHECK_U64(judged_at(0, 4), 0);
        frame_fragment(&f, PAL_FAMILY_V4, 1, 2, PROTO_UDP, 5, 40, false, body + 40, 40);
        pal_packet p;
        rig_parse(&r, &p, f.b, f.len - (what == 2 ? 4 : 0), f.len, LINKTYPE_ETHERNET);
        rig_burst(&r, &p, 1, 0, 4);
        CHECK_U64(r.outs, 2);
        CHECK_U64(last(0)->reason, what == 1 ? PAL_REASON_L4_CHECKSUM : PAL_REASON_MATCH);
        CHECK_U64(last(0)->ct, what == 1 ? PAL_CT_INVALID : PAL_CT_NEW);
        CHECK_U64(r.w->bad_l4_sum, what == 1 || what == 3);
        if (what == 2)
            CHECK_U64(load_u32(r.w->scratch + 20 + 76), 0);
        rig_close(&r);
    }
}

/* The first fragment's header counts: with it the whole may be longer than its length field can say. */
static void test_too_long(void)
{
    static uint8_t big[66000];
    for (uint32_t more = 0; more < 2; more++) {
        check_where = "too long";
        begin();
        /* Pieces without options fit by themselves; the first has 4 bytes of them. */
        frame_fragment(&f, PAL_FAMILY_V4, 1, 2, PROTO_UDP, 5, 65488, false, big, 24 - 4 + 3 + more);
        CHECK_U64(judged_at(0, 4), 0);
        frame_fragment(&f, PAL_FAMILY_V4, 1, 2, PROTO_UDP, 5, 1000, true, big, 64488);
        CHECK_U64(judged_at(0, 4), 0);
        store_be16(body + 4, 65000);
        frame_fragment(&f, PAL_FAMILY_V4, 1, 2, PROTO_UDP, 5, 0, true, body, 1000);
        memmove(f.b + f.l4 + 4, f.b + f.l4, 1000);
        memset(f.b + f.l4, 1, 4);
        f.b[f.l3] = 0x46;
        store_be16(f.b + f.l3 + 2, 1024);
        f.len += 4;
        frame_ip_sum(&f);
        CHECK_U64(judged_at(0, 4), 3);
        CHECK_U64(last(0)->reason, more ? PAL_REASON_FRAG_LENGTH : PAL_REASON_MATCH);
        CHECK_U64(r.w->fragments->datagrams, 0);
        rig_close(&r);
    }
    /* IPv6: what stands before the fragment header goes with the whole, and names what followed it. */
    for (uint32_t kind = 0; kind < 2; kind++) {
        check_where = "headers before";
        begin();
        uint8_t chain[400] = {0};
        uint32_t size = kind ? 12 : 16; /* AH counts in words of four */
        chain[0] = PROTO_IP6_FRAGMENT;
        chain[1] = 1;
        for (uint32_t i = 0; i < 2; i++) {
            uint8_t *h = chain + size;
            memset(h, 0, 8);
            h[0] = PROTO_UDP;
            store_be16(h + 2, (uint16_t)(i * 40 | !i));
            h[7] = 9;
            memcpy(h + 8, body + i * 40, 40);
            frame_ip(&f, PAL_FAMILY_V6, 1, 2, kind ? PROTO_AH : PROTO_IP6_DSTOPTS, chain, size + 48);
            CHECK_U64(judged_at(0, 4), i * 2);
        }
        CHECK_U64(last(0)->reason, PAL_REASON_MATCH);
        CHECK_U64(load_be16(r.w->scratch + 4), size + 80);
        CHECK_U64(r.w->scratch[6], kind ? PROTO_AH : PROTO_IP6_DSTOPTS);
        CHECK_U64(r.w->scratch[40], PROTO_UDP);
        CHECK(memcmp(r.w->scratch + 40 + size, body, 80) == 0);
        rig_close(&r);
    }
}

/* Errors fit into every link (RFC 1812 section 4.3.2.3): one in fragments is no router's, whatever it quotes. */
static void test_error_in_pieces(void)
{
    for (uint32_t pieces = 1; pieces <= 3; pieces++) {
        check_where = "an ICMP error in pieces";
        begin();
        frame_udp(&f, PAL_FAMILY_V4, 1, 2, 1000, 53, "x", 1);
        CHECK_U64(judged_at(0, 4), 1);
        uint8_t rest[44] = {0};
        memcpy(rest + 4, f.b + f.l3, 28);
        frame_icmp(&f, PAL_FAMILY_V4, 2, 1, 3, 3, rest, sizeof rest);
        uint8_t message[48];
        memcpy(message, f.b + f.l4, sizeof message);
        for (uint32_t i = 0; i < pieces; i++) {
            const uint32_t size = i + 1 < pieces ? 16 : sizeof message - i * 16;
            frame_fragment(&f, PAL_FAMILY_V4, 2, 1, PROTO_ICMP, 77, i * 16, i + 1 < pieces, message + i * 16, size);
            CHECK_U64(judged_at(4, 0), i + 1 < pieces ? 0 : pieces);
        }
        CHECK_U64(last(0)->reason, pieces == 1 ? PAL_REASON_RELATED : PAL_REASON_ICMP_QUOTE);
        rig_close(&r);
    }
}

/* Each VNI in a capture's tunnels is a routing domain of its own, 65,535 of them; those already met are not forgotten. */
static void test_many_domains(void)
{
    check_where = "domains";
    begin_with(1);
    pal_rule all = rig_rule(1, PAL_ACTION_ALLOW, 0); /* without connections: it is not the table that gets full */
    rig_commit(&r, 0, &all, 1, false);
    frame_udp(&f, PAL_FAMILY_V4, 1, 2, 7, 8, "x", 1);
    uint8_t tunnelled[VXLAN_HEADER + 64];
    memcpy(tunnelled + VXLAN_HEADER, f.b, f.len);
    frame_udp(&f, PAL_FAMILY_V4, 8, 9, 50000, VXLAN_PORT, tunnelled, VXLAN_HEADER + f.len);
    store_be16(f.b + f.l4 + 6, 0);
    uint32_t passed = 0;
    for (uint32_t vni = 1; vni <= 65535; vni++) {
        vxlan_write(f.b + f.l4 + 8, vni);
        passed += rig_judge(&r, &f).verdict == PAL_ALLOW;
    }
    CHECK_U64(passed, 65535);
    vxlan_write(f.b + f.l4 + 8, 65536);
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_CT_FULL);
    vxlan_write(f.b + f.l4 + 8, 65535);
    CHECK_U64(rig_judge(&r, &f).verdict, PAL_ALLOW);
    rig_close(&r);
}

int main(void)
{
    test_keys();
    test_domains();
    test_many();
    test_two_filters();
    test_sums();
    test_too_long();
    test_error_in_pieces();
    test_many_domains();
    return check_end("test_datagram");
}
