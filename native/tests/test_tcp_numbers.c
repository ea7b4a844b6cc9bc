/* SPDX-License-Identifier: Apache-2.0
 *
 * test_tcp_numbers.c - docs/packet-path.md, section 6, where test_tcp.c's cells and edges do not reach: options of a SYN,
 * what each end's window and acknowledgement become, old acknowledgements, RST in every state, simultaneous opens.
 */
#include "support/rig.h"

#include "check.h"
#include "support/invariants.h"

enum { C = 0, S = 1 };

static rig r;
static frame f;
static uint32_t base[2] = {0xffffff00u, 0x7fffff00u};

static pal_judgement segment(uint32_t who, uint8_t flags, uint32_t seq, uint32_t ack, uint16_t window, uint8_t scale, uint32_t len)
{
    static const uint8_t zeros[1600];
    frame_tcp(&f, PAL_FAMILY_V4, who ? 2 : 1, who ? 1 : 2, who ? 80 : 1000, who ? 1000 : 80,
              (tcp_say){.seq = base[who] + seq, .ack = base[!who] + ack, .flags = flags, .window = window, .scale = scale, .payload = zeros, .len = len});
    return rig_judge(&r, &f);
}

static void begin(void)
{
    rig_open(&r, 16, 16);
    pal_rule all = rig_rule(0, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    rig_commit(&r, 0, &all, 1, false);
}
static const ct_hot *hot(void) { return &r.w->table.hot[0]; }
static uint32_t state(void) { return ct_state_of(hot()); }

static void half_is(uint32_t X, uint32_t end, uint32_t ack, uint32_t window, uint32_t edge)
{
    CHECK_U64(hot()->half[X].end - base[X], end);
    CHECK_U64(hot()->half[X].ack - base[!X], ack);
    CHECK_U64(hot()->half[X].window, window);
    CHECK_U64(hot()->half[X].edge, edge);
}

static void test_options(void)
{
    static const struct {
        uint32_t len;
        const char *bytes;
        uint32_t scale; /* 15: not offered */
    } cases[] = {{0, "", 15}, {4, "\3\3\7\0", 7}, {4, "\1\3\3\7", 7}, {4, "\3\3\x0e\0", 14}, {4, "\3\3\x0f\0", 14}, {4, "\3\3\xff\0", 14},
                 {8, "\4\2\3\3\5\0\0\0", 5}, {8, "\2\4\5\xb4\3\3\5\0", 5}, {8, "\3\3\5\3\3\6\0\0", 6}, {8, "\0\3\3\5\0\0\0\0", 15},
                 {8, "\4\1\3\3\5\0\0\0", 15}, {8, "\4\0\3\3\5\0\0\0", 15}, {8, "\3\3\5\2\6\0\0\0", 5}, {8, "\3\3\5\2\5\0\0\0", 5},
                 {4, "\3\2\3\2", 15}, {4, "\3\4\7\0", 15}, {4, "\1\1\1\3", 15}, {4, "\1\1\3\3", 15}, {8, "\x08\5\3\3\7\3\3\4", 4}};
    for (uint32_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        check_where = "options";
        uint8_t b[60] = {0};
        memcpy(b + 20, cases[i].bytes, cases[i].len);
        b[20 + cases[i].len] = 3, b[21 + cases[i].len] = 3, b[22 + cases[i].len] = 9; /* payload that looks like one */
        pal_packet p = {.data = b, .l4_hdr = (uint8_t)(20 + cases[i].len)};
        CHECK_U64(tcp_offered_scale(&p), cases[i].scale);
    }
    for (uint32_t bytes = 0; bytes < 70000; bytes += bytes < 300 ? 1 : 997)
        for (uint32_t scale = 0; scale <= 14; scale++) {
            uint64_t up = (bytes + (1ull << scale) - 1) >> scale;
            CHECK_U64(units_up(bytes, scale), up < 65535 ? up : 65535);
        }
}

/* Windows in bytes until scaling is settled, in units then; in force only when both offered it. */
static void test_settling(void)
{
    for (uint32_t offers = 0; offers < 4; offers++) {
        check_where = "settling";
        begin();
        segment(C, TCP_SYN, 0, 0, 1001, offers & 1 ? 1 + 3 : 0, 0);
        half_is(C, 1, 0 - base[S], 1001, 0);
        CHECK_U64(r.w->table.hot[0].half[S].ack - base[C], 1);
        CHECK_U64(segment(S, TCP_SYN | TCP_ACK, 0, 1, 2001, offers & 2 ? 1 + 4 : 0, 0).reason, PAL_REASON_STATE);
        bool both = offers == 3;
        CHECK_U64(hot()->scale, both ? 0x43 : 0);
        half_is(C, 1, 1, both ? 126 : 1001, both ? 126 : 1001);
        half_is(S, 1, 1, both ? 126 : 2001, both ? 126 : 2001);
        CHECK_U64(hot()->ends, END_SEEN | (END_SEEN | END_ACKED) << 4);
        CHECK_U64(segment(C, TCP_ACK, 1, 1, 500, 0, 0).reason, PAL_REASON_STATE);
        half_is(C, 1, 1, both ? 500 : 1001, both ? 500 : 1001);
        rig_close(&r);
    }
    /* A repeated SYN+ACK is passed over: nothing is learned from it. */
    begin();
    segment(C, TCP_SYN, 0, 0, 1001, 4, 0);
    segment(S, TCP_SYN | TCP_ACK, 0, 1, 2001, 5, 0);
    segment(S, TCP_SYN | TCP_ACK, 0, 1, 2100, 5, 0);
    half_is(C, 1, 1, 126, 126);
    half_is(S, 1, 1, 126, 126);
    rig_close(&r);
}

static void established(uint8_t scale_c, uint8_t scale_s)
{
    begin();
    segment(C, TCP_SYN, 0, 0, 1000, scale_c, 0);
    segment(S, TCP_SYN | TCP_ACK, 0, 1, 1000, scale_s, 0);
    segment(C, TCP_ACK, 1, 1, 1000, 0, 0);
    CHECK_U64(state(), CT_ESTABLISHED);
}

/* The right edge of what an end accepts never moves left; the largest window is remembered. */
static void test_edges(void)
{
    check_where = "edges";
    established(1 + 2, 1 + 2);
    half_is(C, 1, 1, 1000, 1000);
    segment(S, TCP_ACK, 1, 1, 1000, 0, 103);
    segment(C, TCP_ACK, 1, 104, 900, 0, 0); /* 103 bytes on: 25 units are passed, the edge was at 1,000 */
    half_is(C, 1, 104, 1000, 975);
    segment(C, TCP_ACK, 1, 104, 980, 0, 0);
    half_is(C, 1, 104, 1000, 980);
    segment(C, TCP_ACK, 1, 100, 990, 0, 0); /* an old acknowledgement: 990 * 4 - 4 bytes from S.ack */
    half_is(C, 1, 104, 1000, 989);
    segment(C, TCP_ACK, 1, 101, 991, 0, 0); /* 991 * 4 - 3: rounded up */
    half_is(C, 1, 104, 1000, 991);
    segment(C, TCP_ACK, 1, 1, 20, 0, 0); /* reaches less far than its acknowledgement */
    half_is(C, 1, 104, 1000, 991);
    segment(C, TCP_ACK, 1, 104, 2000, 0, 0);
    half_is(C, 1, 104, 2000, 2000);
    segment(S, TCP_ACK, 104, 1, 1000, 0, 1460);
    for (uint32_t i = 1; i < 6; i++)
        segment(S, TCP_ACK, 104 + 1460 * i, 1, 1000, 0, 1460);
    segment(C, TCP_ACK, 1, 104 + 8760, 0, 0, 0); /* beyond the old edge by 760 bytes: none is left */
    half_is(C, 1, 104 + 8760, 2000, 0);
    CHECK_U64(segment(S, TCP_ACK, 104 + 8760, 1, 1000, 0, 0).reason, PAL_REASON_STATE);
    CHECK_U64(segment(S, TCP_ACK, 104 + 8761, 1, 1000, 0, 0).reason, PAL_REASON_TCP_WINDOW);
    CHECK_U64(segment(S, TCP_ACK, 104 + 8760, 1, 1000, 0, 1400).reason, PAL_REASON_STATE); /* a probe ends within the slack */
    rig_close(&r);
    /* The slack of 66,000 bytes behind the edge, to the byte. */
    established(0, 0);
    r.w->table.hot[0].half[S].edge = 0;
    for (uint32_t more = 0; more < 2; more++) {
        frame_tcp(&f, PAL_FAMILY_V4, 1, 2, 1000, 80, (tcp_say){.seq = base[C] + 1, .ack = base[S] + 1, .flags = TCP_ACK, .window = 9});
        pal_packet p;
        rig_parse(&r, &p, f.b, f.len, f.len, LINKTYPE_ETHERNET);
        p.payload_len = 66000 + more;
        CHECK_U64(tcp_window_test(hot(), C, &p, tcp_end(&p)), more ? PAL_REASON_TCP_WINDOW : PAL_REASON_STATE);
    }
    rig_close(&r);
}

/* Old acknowledgements: back to R.end less the larger of the sender's window and 66,000. */
static void test_old(void)
{
    for (uint32_t scale = 0; scale <= 4; scale += 2) {
        check_where = "old acknowledgements";
        established((uint8_t)(1 + scale), (uint8_t)(1 + scale));
        segment(C, TCP_ACK, 1, 1, 50000, 0, 0);
        uint32_t lag = max_u32(50000u << scale, 66000), end = hot()->half[S].end - base[S];
        uint32_t before = hot()->deadline;
        r.now += RIG_S;
        CHECK_U64(segment(C, TCP_ACK, 1, end - lag - 1, 50000, 0, 0).reason, PAL_REASON_STATE);
        CHECK_U64(hot()->deadline, before);
        CHECK_U64(segment(C, TCP_ACK, 1, end - lag, 50000, 0, 0).reason, PAL_REASON_STATE);
        CHECK(hot()->deadline != before);
        rig_close(&r);
    }
    /* A RST's acknowledgement of 0 is none; any other is one. */
    established(0, 0);
    frame_tcp(&f, PAL_FAMILY_V4, 1, 2, 1000, 80, (tcp_say){.seq = base[C] + 1, .ack = 0, .flags = TCP_RST | TCP_ACK});
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_STATE);
    CHECK_U64(state(), CT_CLOSED);
    rig_close(&r);
    established(0, 0);
    frame_tcp(&f, PAL_FAMILY_V4, 1, 2, 1000, 80, (tcp_say){.seq = base[C] + 1, .ack = base[S] + 2, .flags = TCP_RST | TCP_ACK});
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_TCP_RST);
    CHECK_U64(state(), CT_ESTABLISHED);
    frame_tcp(&f, PAL_FAMILY_V4, 1, 2, 1000, 80, (tcp_say){.seq = base[C] + 1, .ack = base[S] - 70000, .flags = TCP_RST | TCP_ACK});
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_STATE); /* an old one: passed over */
    CHECK_U64(state(), CT_ESTABLISHED);
    rig_close(&r);
}

static void test_rst(void)
{
    check_where = "RST, SYN_SENT";
    begin();
    segment(C, TCP_SYN, 0, 0, 1000, 0, 0);
    CHECK_U64(segment(C, TCP_RST, 77, 0, 0, 0, 0).reason, PAL_REASON_STATE); /* its own: nothing to test it by */
    CHECK_U64(state(), CT_CLOSED);
    rig_close(&r);
    begin(); /* the half-open case of RFC 9293 3.5.1: a stray ACK from the server, answered by a RST at its number */
    segment(C, TCP_SYN, 0, 0, 1000, 0, 0);
    CHECK_U64(segment(S, TCP_ACK, 500, 600, 1000, 0, 0).reason, PAL_REASON_STATE);
    CHECK_U64(state(), CT_SYN_SENT);
    CHECK_U64(segment(C, TCP_RST, 600, 0, 0, 0, 0).reason, PAL_REASON_STATE);
    CHECK_U64(state(), CT_CLOSED);
    rig_close(&r);
    check_where = "RST, SYN_RECEIVED";
    for (uint32_t i = 0; i < 5; i++) {
        static const struct {
            uint32_t seq;
            uint8_t reason, state;
        } cases[5] = {{0, PAL_REASON_TCP_RST, CT_SYN_RECEIVED}, {1, PAL_REASON_STATE, CT_CLOSED}, {2, PAL_REASON_STATE, CT_CLOSED},
                      {1001, PAL_REASON_STATE, CT_CLOSED}, {1002, PAL_REASON_TCP_RST, CT_SYN_RECEIVED}};
        begin();
        segment(C, TCP_SYN, 0, 0, 1000, 0, 0);
        segment(S, TCP_SYN | TCP_ACK, 0, 1, 1000, 0, 0);
        CHECK_U64(segment(C, TCP_RST, cases[i].seq, 0, 0, 0, 0).reason, cases[i].reason);
        CHECK_U64(state(), cases[i].state);
        rig_close(&r);
    }
    check_where = "RST, ESTABLISHED";
    established(0, 0);
    segment(C, TCP_ACK, 1, 1, 1000, 0, 100); /* not acknowledged: 1 is exact, 101 follows, 50 is a guess */
    half_is(C, 101, 1, 1000, 1000);
    uint32_t deadline = hot()->deadline;
    r.now += RIG_S;
    CHECK_U64(segment(C, TCP_RST, 50, 0, 0, 0, 0).reason, PAL_REASON_STATE);
    CHECK_U64(state(), CT_ESTABLISHED);
    CHECK_U64(hot()->deadline, deadline);
    CHECK_U64(segment(C, TCP_RST, 101, 0, 0, 0, 0).reason, PAL_REASON_STATE);
    CHECK_U64(state(), CT_CLOSED);
    half_is(C, 101, 1, 1000, 1000);
    rig_close(&r);
    check_where = "RST, FIN_WAIT";
    established(0, 0);
    segment(C, TCP_FIN | TCP_ACK, 1, 1, 1000, 0, 0);
    CHECK_U64(segment(S, TCP_RST, 50, 0, 0, 0, 0).reason, PAL_REASON_STATE); /* not ESTABLISHED: in the window is enough */
    CHECK_U64(state(), CT_CLOSED);
    rig_close(&r);
}

/* Both begin: SYN_SENT2, then either order of SYN+ACK and ACK; without one the reply's ACK does not establish. */
static void test_simultaneous(void)
{
    check_where = "simultaneous open";
    begin();
    segment(C, TCP_SYN, 0, 0, 1000, 4, 0);
    CHECK_U64(segment(S, TCP_SYN, 0, 0, 2000, 5, 0).reason, PAL_REASON_STATE);
    CHECK_U64(state(), CT_SYN_SENT2);
    half_is(C, 1, 1, 1000, 0);
    half_is(S, 1, 1, 2000, 0);
    CHECK_U64(segment(C, TCP_SYN | TCP_ACK, 0, 2, 1000, 4, 0).reason, PAL_REASON_TCP_ACK);
    CHECK_U64(segment(C, TCP_SYN | TCP_ACK, 0, 0, 1000, 4, 0).reason, PAL_REASON_TCP_ACK);
    CHECK_U64(segment(C, TCP_SYN | TCP_ACK, 0, 1, 1000, 4, 0).reason, PAL_REASON_STATE);
    CHECK_U64(state(), CT_SYN_RECEIVED);
    CHECK_U64(hot()->scale, 0x43);
    /* Said again it is a packet like others: tested, and learned from. */
    half_is(C, 1, 1, 125, 125);
    CHECK_U64(segment(C, TCP_SYN | TCP_ACK, 0, 1, 1601, 4, 0).reason, PAL_REASON_STATE);
    half_is(C, 1, 1, 201, 201);
    CHECK_U64(segment(C, TCP_SYN | TCP_ACK, 0, 2, 4000, 4, 0).reason, PAL_REASON_TCP_ACK);
    CHECK_U64(segment(C, TCP_SYN | TCP_ACK, 99000, 1, 4000, 4, 0).reason, PAL_REASON_TCP_WINDOW);
    half_is(C, 1, 1, 201, 201);
    CHECK_U64(state(), CT_SYN_RECEIVED);
    CHECK_U64(segment(S, TCP_ACK, 1, 1, 200, 0, 0).reason, PAL_REASON_STATE);
    CHECK_U64(state(), CT_ESTABLISHED);
    rig_close(&r);
    begin();
    segment(C, TCP_SYN, 0, 0, 1000, 0, 0);
    segment(S, TCP_SYN | TCP_ACK, 0, 1, 1000, 0, 0);
    segment(S, TCP_ACK, 1, 1, 1000, 0, 0);
    CHECK_U64(state(), CT_SYN_RECEIVED);
    rig_close(&r);
    begin(); /* a Fast Open's SYN carries data; an answer may acknowledge the SYN alone, or all */
    segment(C, TCP_SYN, 0, 0, 1000, 0, 50);
    CHECK_U64(segment(S, TCP_SYN | TCP_ACK, 0, 52, 1000, 0, 0).reason, PAL_REASON_TCP_ACK);
    CHECK_U64(segment(S, TCP_SYN | TCP_ACK, 0, 0, 1000, 0, 0).reason, PAL_REASON_TCP_ACK);
    CHECK_U64(segment(S, TCP_SYN | TCP_ACK, 0, 1, 1000, 0, 0).reason, PAL_REASON_STATE);
    half_is(S, 1, 1, 1000, 1000);
    rig_close(&r);
    begin();
    segment(C, TCP_SYN, 0, 0, 1000, 0, 50);
    CHECK_U64(segment(S, TCP_SYN | TCP_ACK, 0, 51, 1000, 0, 0).reason, PAL_REASON_STATE);
    half_is(S, 1, 51, 1000, 1000);
    rig_close(&r);
}

/* Picked up: any number goes, both ends learn; FINs and their acknowledgements close it in either order. */
static void test_picked_up(void)
{
    check_where = "picked up";
    begin();
    CHECK_U64(segment(C, TCP_ACK, 100, 200, 1000, 0, 10).reason, PAL_REASON_MATCH);
    CHECK_U64(state(), CT_ESTABLISHED);
    half_is(C, 110, 200, 1000, 1000);
    CHECK_U64(segment(S, TCP_ACK, 50, 90, 1000, 0, 10).reason, PAL_REASON_STATE);
    half_is(S, 60, 90, 1000, 1000);
    half_is(C, 110, 200, 1000, 1000);
    CHECK_U64(segment(C, TCP_ACK, 900000, 800000, 1000, 0, 10).reason, PAL_REASON_STATE);
    half_is(C, 900010, 800000, 1000, 1000);
    rig_close(&r);
    for (uint32_t order = 0; order < 4; order++) {
        check_where = "closing";
        uint32_t first = order & 1;
        established(0, 0);
        segment(first, TCP_FIN | TCP_ACK, 1, 1, 1000, 0, 0);
        CHECK_U64(state(), CT_FIN_WAIT);
        if (order & 2) { /* acknowledged first, then its own FIN */
            segment(!first, TCP_ACK, 1, 2, 1000, 0, 0);
            CHECK_U64(state(), CT_FIN_WAIT);
            segment(!first, TCP_FIN | TCP_ACK, 1, 2, 1000, 0, 3);
        } else {
            segment(!first, TCP_FIN | TCP_ACK, 1, 1, 1000, 0, 3);
            CHECK_U64(state(), CT_CLOSING);
            segment(!first, TCP_ACK, 5, 2, 1000, 0, 0);
        }
        CHECK_U64(state(), CT_CLOSING);
        segment(first, TCP_ACK, 2, 4, 1000, 0, 0);
        CHECK_U64(state(), CT_CLOSING);
        segment(first, TCP_ACK, 2, 5, 1000, 0, 0);
        CHECK_U64(state(), CT_TIME_WAIT);
        rig_close(&r);
    }
}

/* Without an answer tcp_first_packet, however it began; closed: tcp_closed. */
static void test_unanswered(void)
{
    for (uint32_t late = 0; late < 2; late++)
        for (uint32_t what = 0; what < 3; what++) {
            check_where = "unanswered";
            begin();
            segment(C, what == 1 ? TCP_ACK : TCP_SYN, 0, 0, 1000, 0, 0);
            if (what == 2)
                segment(C, TCP_RST, 1, 0, 0, 0, 0);
            CHECK_U64(state(), what == 1 ? CT_ESTABLISHED : what == 2 ? CT_CLOSED : CT_SYN_SENT);
            r.now += (what == 2 ? 20 : 120) * RIG_S + late * 10 * RIG_MS;
            pal_judgement j = segment(C, TCP_ACK, 1, 0, 1000, 0, 0);
            if (late)
                CHECK_U64(j.reason, PAL_REASON_MATCH); /* picked up anew */
            else
                CHECK_U64(j.reason, what == 0 ? PAL_REASON_TCP_STATE : PAL_REASON_STATE);
            rig_close(&r);
        }
}

int main(void)
{
    test_unanswered();
    test_options();
    test_settling();
    test_edges();
    test_old();
    test_rst();
    test_simultaneous();
    test_picked_up();
    return check_end("test_tcp_numbers");
}
