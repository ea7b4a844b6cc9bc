/* SPDX-License-Identifier: Apache-2.0
 *
 * test_sctp.c - docs/packet-path.md, section 7: every state, event and direction; verification tags; timers.
 */
#include "support/rig.h"

#include "check.h"
#include "support/invariants.h"

enum { A = 1, Z = 2, TAG_A = 0x1111, TAG_Z = 0x2222 }; /* what packets from A, from Z carry */
enum { DATA = 0, INIT = 1, INIT_ACK = 2, ABORT = 6, SHUTDOWN = 7, SHUTDOWN_ACK = 8, COOKIE_ECHO = 10, COOKIE_ACK = 11, COMPLETE = 14 };

static rig r;
static frame f;

static void begin(void)
{
    rig_open(&r, 16, 16);
    pal_rule all = rig_rule(0, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    rig_commit(&r, 0, &all, 1, false);
}

static pal_judgement chunk_with(uint8_t who, uint8_t type, uint8_t flags, uint32_t tag)
{
    /* The initiate tag is what the other end's packets carry. */
    frame_sctp(&f, who, 3 - who, tag, type, flags, who == A ? TAG_Z : TAG_A);
    return rig_judge(&r, &f);
}
static pal_judgement chunk(uint8_t who, uint8_t type)
{
    return chunk_with(who, type, 0, type == INIT ? 0 : who == A ? TAG_A : TAG_Z);
}
static uint32_t state(void) { return ct_state_of(&r.w->table.hot[0]); }

static void reach(uint32_t want)
{
    static const struct {
        uint8_t who, type;
    } steps[] = {{A, INIT}, {Z, INIT_ACK}, {A, COOKIE_ECHO}, {Z, COOKIE_ACK}, {A, SHUTDOWN}, {Z, SHUTDOWN_ACK}, {A, COMPLETE}};
    static const uint8_t count[] = {[CT_COOKIE_WAIT] = 2, [CT_COOKIE_ECHOED] = 3, [CT_SCTP_ESTABLISHED] = 4, [CT_SHUTDOWN] = 5, [CT_SHUTDOWN_ACK] = 6, [CT_SCTP_CLOSED] = 7};
    begin();
    for (uint32_t i = 0; i < count[want]; i++)
        chunk(steps[i].who, steps[i].type);
    CHECK_U64(state(), want);
}

enum { REFUSE = 100, MISS, OVER = 200 }; /* OVER + state: accepted, nothing renewed */
static void test_cells(void)
{
    enum { W = CT_COOKIE_WAIT, E = CT_COOKIE_ECHOED, O = CT_SCTP_ESTABLISHED, S = CT_SHUTDOWN, K = CT_SHUTDOWN_ACK, X = CT_SCTP_CLOSED, N = REFUSE };
    static const uint8_t events[9] = {DATA, INIT, INIT_ACK, ABORT, SHUTDOWN, SHUTDOWN_ACK, COOKIE_ECHO, COOKIE_ACK, COMPLETE};
    static const uint8_t expected[2][7][9] = {
        {[W] = {N, W, N, X, N, N, E, W, N}, [E] = {E, OVER + E, N, X, N, N, E, E, N}, [O] = {O, OVER + O, N, X, S, K, O, O, N},
         [S] = {S, OVER + S, N, X, S, K, S, S, N}, [K] = {K, OVER + K, N, X, K, K, K, K, X}, [X] = {X, MISS, N, X, X, X, X, X, N}},
        {[W] = {N, OVER + W, W, X, N, N, W, W, N}, [E] = {E, OVER + E, N, X, N, N, E, O, N}, [O] = {O, OVER + O, N, X, S, K, O, O, N},
         [S] = {S, OVER + S, N, X, S, K, S, S, N}, [K] = {K, OVER + K, N, X, K, K, K, K, X}, [X] = {X, MISS, N, X, X, X, X, X, N}}};
    for (uint32_t dir = 0; dir < 2; dir++)
        for (uint32_t from = W; from <= X; from++)
            for (uint32_t event = 0; event < 9; event++) {
                static char where[64];
                snprintf(where, sizeof where, "state %u, direction %u, event %u", from, dir, events[event]);
                check_where = where;
                reach(from);
                uint32_t before = r.w->table.hot[0].deadline, want = expected[dir][from][event];
                r.now += RIG_S;
                pal_judgement j = chunk(dir ? Z : A, events[event]);
                if (want == REFUSE) {
                    CHECK_U64(j.reason, PAL_REASON_SCTP_STATE);
                    CHECK_U64(j.ct, PAL_CT_INVALID);
                    CHECK_U64(state(), from);
                    CHECK_U64(r.w->table.hot[0].deadline, before);
                } else if (want == MISS) {
                    CHECK_U64(j.reason, PAL_REASON_MATCH);
                    CHECK_U64(j.ct, PAL_CT_NEW);
                    CHECK_U64(state(), W);
                } else {
                    CHECK_U64(j.reason, PAL_REASON_STATE);
                    CHECK_U64(state(), want % OVER);
                    CHECK_U64(j.reply, dir);
                    CHECK_U64(r.w->table.hot[0].deadline == before, want >= OVER);
                }
                CHECK(invariant_broken(&r.w[0]) == NULL);
                rig_close(&r);
            }
    /* Nothing but INIT begins. */
    for (uint32_t event = 0; event < 9; event++) {
        begin();
        check_where = "none";
        pal_judgement j = chunk(A, events[event]);
        CHECK_U64(j.verdict, events[event] == INIT ? PAL_ALLOW : PAL_DROP);
        CHECK_U64(j.reason, events[event] == INIT ? PAL_REASON_MATCH : PAL_REASON_SCTP_STATE);
        CHECK_U64(j.ct, events[event] == INIT ? PAL_CT_NEW : PAL_CT_INVALID);
        rig_close(&r);
    }
}

/* The tag that the direction needs; with the T bit the other one; before it is known, any. */
static void test_tags(void)
{
    check_where = "tags";
    for (uint32_t dir = 0; dir < 2; dir++) {
        uint8_t who = dir ? Z : A;
        uint32_t own = dir ? TAG_Z : TAG_A, other = dir ? TAG_A : TAG_Z;
        static const uint8_t types[6] = {DATA, COOKIE_ECHO, COOKIE_ACK, SHUTDOWN, SHUTDOWN_ACK, ABORT};
        for (uint32_t i = 0; i < 6; i++) {
            reach(CT_SCTP_ESTABLISHED);
            CHECK_U64(chunk_with(who, types[i], 0, own ^ 1).reason, PAL_REASON_SCTP_VTAG);
            CHECK_U64(chunk_with(who, types[i], 0, other).reason, PAL_REASON_SCTP_VTAG);
            CHECK_U64(chunk_with(who, types[i], 1, own).reason, types[i] == ABORT ? PAL_REASON_SCTP_VTAG : PAL_REASON_STATE);
            CHECK_U64(chunk_with(who, types[i], 0, own).reason, PAL_REASON_STATE);
            rig_close(&r);
        }
        reach(CT_SHUTDOWN_ACK);
        CHECK_U64(chunk_with(who, COMPLETE, 1, own).reason, PAL_REASON_SCTP_VTAG);
        CHECK_U64(chunk_with(who, COMPLETE, 1, other).reason, PAL_REASON_STATE);
        rig_close(&r);
        reach(CT_SCTP_ESTABLISHED);
        CHECK_U64(chunk_with(who, ABORT, 1, other).reason, PAL_REASON_STATE);
        CHECK_U64(state(), CT_SCTP_CLOSED);
        rig_close(&r);
    }
    begin(); /* after INIT only the answers' tag is known */
    chunk(A, INIT);
    CHECK_U64(chunk_with(Z, INIT_ACK, 0, TAG_Z ^ 1).reason, PAL_REASON_SCTP_VTAG);
    CHECK_U64(chunk_with(A, COOKIE_ECHO, 0, 0x77).reason, PAL_REASON_STATE);
    rig_close(&r);
    reach(CT_COOKIE_WAIT); /* INIT again forgets both */
    CHECK_U64(chunk_with(A, COOKIE_ECHO, 0, TAG_A ^ 1).reason, PAL_REASON_SCTP_VTAG);
    CHECK_U64(chunk(A, INIT).reason, PAL_REASON_STATE);
    CHECK_U64(chunk_with(A, COOKIE_ECHO, 0, TAG_A ^ 1).reason, PAL_REASON_STATE);
    rig_close(&r);
}

/* Seconds by state: on the last tick it is there, on the next it is not. */
static void test_timers(void)
{
    static const uint32_t seconds[] = {[CT_COOKIE_WAIT] = 30, [CT_COOKIE_ECHOED] = 30, [CT_SCTP_ESTABLISHED] = 43200, [CT_SHUTDOWN] = 120, [CT_SHUTDOWN_ACK] = 45, [CT_SCTP_CLOSED] = 20};
    for (uint32_t from = CT_COOKIE_WAIT; from <= CT_SCTP_CLOSED; from++)
        for (uint32_t late = 0; late < 2; late++) {
            check_where = "timers";
            reach(from);
            r.now += seconds[from] * RIG_S + late * 10 * RIG_MS;
            pal_judgement j = chunk(A, INIT);
            CHECK_U64(j.reason, late || from == CT_SCTP_CLOSED ? PAL_REASON_MATCH : PAL_REASON_STATE);
            rig_close(&r);
        }
    for (uint32_t late = 0; late < 2; late++) {
        begin(); /* no answer: tcp_first_packet; closed without one: tcp_closed */
        chunk(A, INIT);
        r.now += 120 * RIG_S + late * 10 * RIG_MS;
        CHECK_U64(chunk(A, INIT).reason, late ? PAL_REASON_MATCH : PAL_REASON_STATE);
        CHECK_U64(chunk_with(A, ABORT, 0, 9).reason, PAL_REASON_STATE);
        r.now += 20 * RIG_S + late * 10 * RIG_MS;
        CHECK_U64(chunk_with(A, COOKIE_ACK, 0, 9).reason, late ? PAL_REASON_SCTP_STATE : PAL_REASON_STATE);
        rig_close(&r);
    }
}

/* States are numbers in flow records and in mapped tables: Python and older files read them. */
static void test_numbers(void)
{
    check_where = "numbers";
    CHECK(CT_FREE == 0 && CT_COOKIE_WAIT == 1 && CT_COOKIE_ECHOED == 2 && CT_SCTP_ESTABLISHED == 3 && CT_SHUTDOWN == 4);
    CHECK(CT_SHUTDOWN_ACK == 5 && CT_SCTP_CLOSED == 6 && CT_FIRST == 1 && CT_SINGLE == 2 && CT_MULTIPLE == 3);
    CHECK(CT_SYN_SENT == 1 && CT_SYN_SENT2 == 2 && CT_SYN_RECEIVED == 3 && CT_ESTABLISHED == 4 && CT_FIN_WAIT == 5);
    CHECK(CT_CLOSING == 6 && CT_TIME_WAIT == 7 && CT_CLOSED == 8);
}

int main(void)
{
    test_numbers();
    test_cells();
    test_tags();
    test_timers();
    return check_end("test_sctp");
}
