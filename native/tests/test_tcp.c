/* SPDX-License-Identifier: Apache-2.0
 *
 * test_tcp.c - docs/packet-path.md, section 6: every cell of the state table, windows with and without scaling, at
 * sequence numbers that wrap; RST, take-over, timers.
 */
#include "support/rig.h"

#include "check.h"

enum { C = 1, S = 2 }; /* client, server: hosts */

static rig r;
static frame f;
static uint32_t base[3];   /* ISN by host */
static uint32_t isn_of = 0xfffffff0u;

static pal_judgement segment(uint8_t who, uint8_t flags, uint32_t seq, uint32_t ack, uint16_t window, uint8_t scale, uint32_t len)
{
    static const uint8_t zeros[1600];
    frame_tcp(&f, PAL_FAMILY_V4, who, 3 - who, who == C ? 1000 : 80, who == C ? 80 : 1000,
              (tcp_say){.seq = base[who] + seq, .ack = base[3 - who] + ack, .flags = flags, .window = window, .scale = scale,
                        .payload = zeros, .len = len});
    return rig_judge(&r, &f);
}

static void begin(void)
{
    rig_open(&r, 16, 16);
    pal_rule all = rig_rule(0, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    rig_commit(&r, 0, &all, 1, false);
    base[C] = isn_of;
    base[S] = isn_of + 0x40000000u;
}

static uint32_t state(void) { return ct_state_of(&r.w->table.hot[0]); }

static void reach(uint32_t want)
{
    begin();
    segment(C, TCP_SYN, 0, 0, 1000, 0, 0);
    if (want == CT_SYN_SENT)
        return;
    if (want == CT_SYN_SENT2) {
        segment(S, TCP_SYN, 0, 0, 1000, 0, 0);
        return;
    }
    segment(S, TCP_SYN | TCP_ACK, 0, 1, 1000, 0, 0);
    if (want == CT_SYN_RECEIVED)
        return;
    segment(C, TCP_ACK, 1, 1, 1000, 0, 0);
    if (want == CT_ESTABLISHED)
        return;
    if (want == CT_CLOSED) {
        segment(S, TCP_RST, 1, 0, 0, 0, 0);
        return;
    }
    segment(C, TCP_FIN | TCP_ACK, 1, 1, 1000, 0, 0);
    if (want == CT_FIN_WAIT)
        return;
    segment(S, TCP_FIN | TCP_ACK, 1, want == CT_CLOSING ? 1 : 2, 1000, 0, 0);
    if (want == CT_CLOSING)
        return;
    segment(C, TCP_ACK, 2, 2, 1000, 0, 0);
}

/* What the table says: the state that follows, or how the packet is refused. */
enum { REFUSE = 100, MISS };
static void test_cells(void)
{
    static const uint8_t flags[5] = {TCP_SYN, TCP_SYN | TCP_ACK, TCP_FIN | TCP_ACK, TCP_ACK, TCP_RST | TCP_ACK};
    static const uint8_t expected[2][9][5] = {
        {[CT_SYN_SENT] = {CT_SYN_SENT, REFUSE, REFUSE, REFUSE, CT_CLOSED},
         [CT_SYN_SENT2] = {CT_SYN_SENT2, CT_SYN_RECEIVED, REFUSE, REFUSE, CT_CLOSED},
         [CT_SYN_RECEIVED] = {CT_SYN_RECEIVED, REFUSE + 2, CT_FIN_WAIT, CT_ESTABLISHED, CT_CLOSED},
         [CT_ESTABLISHED] = {CT_ESTABLISHED, REFUSE, CT_FIN_WAIT, CT_ESTABLISHED, CT_CLOSED},
         [CT_FIN_WAIT] = {CT_FIN_WAIT, REFUSE, CT_FIN_WAIT, CT_FIN_WAIT, CT_CLOSED},
         [CT_CLOSING] = {CT_CLOSING, REFUSE, CT_CLOSING, CT_CLOSING, CT_CLOSED},
         [CT_TIME_WAIT] = {MISS, REFUSE, CT_TIME_WAIT, CT_TIME_WAIT, CT_CLOSED},
         [CT_CLOSED] = {MISS, REFUSE, CT_CLOSED, CT_CLOSED, CT_CLOSED}},
        {[CT_SYN_SENT] = {CT_SYN_SENT2, CT_SYN_RECEIVED, REFUSE, CT_SYN_SENT, CT_CLOSED},
         [CT_SYN_SENT2] = {CT_SYN_SENT2, CT_SYN_RECEIVED, REFUSE, CT_SYN_SENT2, CT_CLOSED},
         [CT_SYN_RECEIVED] = {REFUSE, CT_SYN_RECEIVED, CT_FIN_WAIT, CT_SYN_RECEIVED, CT_CLOSED},
         [CT_ESTABLISHED] = {REFUSE, CT_ESTABLISHED, CT_FIN_WAIT, CT_ESTABLISHED, CT_CLOSED},
         [CT_FIN_WAIT] = {REFUSE, CT_FIN_WAIT, CT_CLOSING, CT_FIN_WAIT, CT_CLOSED},
         [CT_CLOSING] = {REFUSE, CT_CLOSING, CT_CLOSING, CT_CLOSING, CT_CLOSED},
         [CT_TIME_WAIT] = {MISS, CT_TIME_WAIT, CT_TIME_WAIT, CT_TIME_WAIT, CT_CLOSED},
         [CT_CLOSED] = {MISS, CT_CLOSED, CT_CLOSED, CT_CLOSED, CT_CLOSED}}};
    for (uint32_t dir = 0; dir < 2; dir++)
        for (uint32_t from = CT_SYN_SENT; from <= CT_CLOSED; from++)
            for (uint32_t event = 0; event < 5; event++) {
                static char where[64];
                snprintf(where, sizeof where, "state %u, direction %u, event %u", from, dir, event);
                check_where = where;
                reach(from);
                CHECK_U64(state(), from);
                const ct_hot *h = &r.w->table.hot[0];
                /* A packet that every test of windows lets pass: next in the sender's line, acknowledging all. */
                bool opening = flags[event] & TCP_SYN;
                uint32_t seq = opening ? base[dir ? S : C] : h->half[dir].end, other = h->half[!dir].end;
                if (!end_has(h, dir, END_SEEN))
                    seq = base[dir ? S : C];
                uint8_t who = dir ? S : C;
                pal_judgement j = segment(who, flags[event], seq - base[who], other - base[3 - who], 1000, 0, 0);
                uint32_t want = expected[dir][from][event];
                if (want == REFUSE) {
                    CHECK_U64(j.reason, PAL_REASON_TCP_STATE);
                    CHECK_U64(state(), from);
                } else if (want == MISS) {
                    CHECK_U64(j.reason, PAL_REASON_MATCH);
                    CHECK_U64(j.ct, PAL_CT_NEW);
                } else if (want != REFUSE + 2) {
                    CHECK_U64(j.reason, PAL_REASON_STATE);
                    CHECK_U64(state(), want);
                }
                rig_close(&r);
            }
}

/* The edges of windows: the last byte that fits, and one more. */
static void test_windows(void)
{
    for (uint32_t shift = 0; shift <= 14; shift += 7) {
        check_where = "windows";
        begin();
        segment(C, TCP_SYN, 0, 0, 500, (uint8_t)(1 + shift), 0);
        segment(S, TCP_SYN | TCP_ACK, 0, 1, 600, (uint8_t)(1 + shift), 0);
        CHECK_U64(segment(C, TCP_ACK, 1, 1, 100, 0, 0).reason, PAL_REASON_STATE);
        uint32_t right_c = 1 + ((600 + (1u << shift) - 1) >> shift << shift); /* the server's window, in units, rounded up */
        CHECK_U64(segment(C, TCP_ACK, right_c + 1, 1, 100, 0, 0).reason, PAL_REASON_TCP_WINDOW);
        CHECK_U64(segment(C, TCP_ACK, right_c, 1, 100, 0, 0).reason, PAL_REASON_STATE);
        uint32_t right_s = 1 + max_u32((500 + (1u << shift) - 1) >> shift << shift, 100u << shift);
        CHECK_U64(segment(S, TCP_ACK, right_s + 1, 1, 100, 0, 0).reason, PAL_REASON_TCP_WINDOW);
        CHECK_U64(segment(S, TCP_ACK, right_s, 1, 100, 0, 0).reason, PAL_REASON_STATE);
        /* Acknowledgements: of all that was sent, not of a byte more. */
        CHECK_U64(segment(S, TCP_ACK, right_s, right_c + 1, 100, 0, 0).reason, PAL_REASON_TCP_ACK);
        CHECK_U64(segment(S, TCP_ACK, right_s, right_c, 100, 0, 0).reason, PAL_REASON_STATE);
        rig_close(&r);
    }
    check_where = "slack";
    reach(CT_ESTABLISHED);
    CHECK_U64(segment(C, TCP_ACK, 1001, 1, 1000, 0, 1400).reason, PAL_REASON_STATE); /* it begins inside and ends beyond */
    CHECK_U64(segment(C, TCP_ACK, 1002, 1, 1000, 0, 0).reason, PAL_REASON_TCP_WINDOW);
    CHECK_U64(segment(S, TCP_ACK, 1, 2401, 1000, 0, 0).reason, PAL_REASON_STATE);
    /* Old data is passed over: neither refused nor learned from. */
    uint32_t end = r.w->table.hot[0].half[0].end, deadline = r.w->table.hot[0].deadline;
    r.now += RIG_S;
    CHECK_U64(segment(C, TCP_ACK, 2401 - 1000, 1, 1000, 0, 0).reason, PAL_REASON_STATE);
    CHECK(r.w->table.hot[0].deadline != deadline);
    deadline = r.w->table.hot[0].deadline;
    r.now += RIG_S;
    CHECK_U64(segment(C, TCP_ACK, 2401 - 1001, 1, 1000, 0, 0).reason, PAL_REASON_STATE);
    CHECK_U64(r.w->table.hot[0].deadline, deadline);
    CHECK_U64(r.w->table.hot[0].half[0].end, end);
    rig_close(&r);
}

static void test_rst(void)
{
    check_where = "RST";
    reach(CT_SYN_SENT);
    CHECK_U64(segment(S, TCP_RST, 0, 0, 0, 0, 0).reason, PAL_REASON_TCP_RST); /* no ACK */
    CHECK_U64(segment(S, TCP_RST | TCP_ACK, 0, 2, 0, 0, 0).reason, PAL_REASON_TCP_RST);
    CHECK_U64(segment(S, TCP_RST | TCP_ACK, 0, 0, 0, 0, 0).reason, PAL_REASON_TCP_RST);
    CHECK_U64(segment(S, TCP_RST | TCP_ACK, 0, 1, 0, 0, 0).reason, PAL_REASON_STATE);
    CHECK_U64(state(), CT_CLOSED);
    rig_close(&r);
    reach(CT_ESTABLISHED);
    CHECK_U64(segment(S, TCP_RST, 0, 0, 0, 0, 0).reason, PAL_REASON_TCP_RST);
    CHECK_U64(segment(S, TCP_RST, 2, 0, 0, 0, 0).reason, PAL_REASON_STATE); /* in the window: a challenge will tell */
    CHECK_U64(state(), CT_ESTABLISHED);
    CHECK_U64(segment(S, TCP_RST, 1002, 0, 0, 0, 0).reason, PAL_REASON_TCP_RST);
    CHECK_U64(segment(S, TCP_RST, 1, 0, 0, 0, 0).reason, PAL_REASON_STATE);
    CHECK_U64(state(), CT_CLOSED);
    rig_close(&r);
}

/* A SYN that was passed over, answered: the ends begin anew and the firewall follows. */
static void test_take_over(void)
{
    check_where = "take-over";
    reach(CT_ESTABLISHED);
    CHECK_U64(segment(C, TCP_SYN, 70000, 0, 1000, 0, 0).reason, PAL_REASON_STATE);
    CHECK_U64(segment(S, TCP_SYN | TCP_ACK, 90000, 70002, 1000, 0, 0).reason, PAL_REASON_STATE); /* another's: passed over */
    CHECK_U64(state(), CT_ESTABLISHED);
    CHECK_U64(segment(S, TCP_SYN | TCP_ACK, 90000, 70001, 1000, 0, 0).reason, PAL_REASON_STATE);
    CHECK_U64(state(), CT_SYN_RECEIVED);
    CHECK_U64(segment(C, TCP_ACK, 70001, 90001, 1000, 0, 0).reason, PAL_REASON_STATE);
    CHECK_U64(state(), CT_ESTABLISHED);
    CHECK_U64(segment(C, TCP_ACK, 1, 1, 1000, 0, 10).reason, PAL_REASON_STATE); /* the old connection's: passed over */
    CHECK_U64(r.w->table.hot[0].half[0].end, base[C] + 70001);
    rig_close(&r);
}

/* The new SYN's window scale holds from then on (RFC 7323, section 2.3). */
static void test_take_over_scaled(void)
{
    check_where = "take-over, scaled";
    reach(CT_ESTABLISHED);
    segment(C, TCP_SYN, 70000, 0, 2000, 1 + 7, 0);
    CHECK_U64(segment(S, TCP_SYN | TCP_ACK, 90000, 70001, 2000, 1 + 3, 0).reason, PAL_REASON_STATE);
    CHECK_U64(segment(C, TCP_ACK, 70001, 90001, 2000, 0, 0).reason, PAL_REASON_STATE);
    CHECK_U64(state(), CT_ESTABLISHED);
    CHECK_U64(segment(S, TCP_ACK, 90001 + (2000 << 7) + 1, 70001, 2000, 0, 10).reason, PAL_REASON_TCP_WINDOW);
    CHECK_U64(segment(S, TCP_ACK, 90001 + (2000 << 7), 70001, 2000, 0, 10).reason, PAL_REASON_STATE);
    CHECK_U64(segment(C, TCP_ACK, 70001 + (2000 << 3) + 1, 90001, 2000, 0, 10).reason, PAL_REASON_TCP_WINDOW);
    CHECK_U64(segment(C, TCP_ACK, 70001 + (2000 << 3), 90001, 2000, 0, 10).reason, PAL_REASON_STATE);
    rig_close(&r);
}

/* Nothing of a simultaneous open outlives a take-over: the server's ACK alone does not establish what began anew. */
static void test_take_over_simultaneous(void)
{
    check_where = "take-over after a simultaneous open";
    reach(CT_SYN_SENT2);
    CHECK_U64(segment(S, TCP_SYN | TCP_ACK, 0, 1, 1000, 0, 0).reason, PAL_REASON_STATE);
    CHECK_U64(state(), CT_SYN_RECEIVED);
    CHECK_U64(segment(S, TCP_ACK, 1, 1, 1000, 0, 0).reason, PAL_REASON_STATE);
    CHECK_U64(state(), CT_ESTABLISHED); /* of two SYNs either end's ACK is the last */
    CHECK_U64(segment(C, TCP_SYN, 70000, 0, 1000, 0, 0).reason, PAL_REASON_STATE);
    CHECK_U64(segment(S, TCP_SYN | TCP_ACK, 90000, 70001, 1000, 0, 0).reason, PAL_REASON_STATE);
    CHECK_U64(state(), CT_SYN_RECEIVED);
    CHECK_U64(segment(S, TCP_ACK, 90001, 70001, 1000, 0, 0).reason, PAL_REASON_STATE);
    CHECK_U64(state(), CT_SYN_RECEIVED);
    CHECK_U64(segment(C, TCP_ACK, 70001, 90001, 1000, 0, 0).reason, PAL_REASON_STATE);
    CHECK_U64(state(), CT_ESTABLISHED);
    rig_close(&r);
}

static void test_timers(void)
{
    static const uint8_t timer[] = {[CT_SYN_SENT] = 0, [CT_SYN_SENT2] = 1, [CT_SYN_RECEIVED] = 1, [CT_ESTABLISHED] = 2,
                                    [CT_FIN_WAIT] = 3, [CT_CLOSING] = 4, [CT_TIME_WAIT] = 4, [CT_CLOSED] = 5};
    for (uint32_t s = CT_SYN_SENT; s <= CT_CLOSED; s++) {
        check_where = "timers";
        reach(s);
        CHECK_U64(r.w->table.hot[0].deadline, (uint32_t)(r.now / 10000000) + rig_timeouts[timer[s]] * 100);
        rig_close(&r);
    }
}

int main(void)
{
    static const uint32_t isns[] = {0xfffffff0u, 1000, 0x7fffffffu, 0xbffffffeu};
    for (uint32_t i = 0; i < sizeof isns / sizeof isns[0]; i++) {
        isn_of = isns[i];
        test_cells();
        test_windows();
        test_rst();
        test_take_over();
        test_take_over_scaled();
        test_take_over_simultaneous();
    }
    test_timers();
    return check_end("test_tcp");
}
