/* SPDX-License-Identifier: Apache-2.0
 *
 * test_alg.c - docs/packet-path.md, section 9: which lines announce a connection, whose address counts, in-order segments
 * only, what the child takes from its parent, how both are judged again, and the limits of expectations.
 */
#include "support/rig.h"

#include "check.h"
#include "support/invariants.h"

enum { C = 1, S = 2 };

static rig r;
static frame f;
static uint32_t next_of[3]; /* by host */

static void begin_with(uint8_t alg_tcp, uint8_t alg_udp)
{
    rig_open(&r, 3000, 100);
    pal_rule x[3] = {rig_rule_port(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL, PROTO_TCP, 21),
                     rig_rule_port(2, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL, PROTO_UDP, 69), rig_rule(3, PAL_ACTION_DROP, 0)};
    x[0].alg = alg_tcp;
    x[1].alg = alg_udp;
    rig_commit(&r, 0, x, 3, false);
}
static void begin(void) { begin_with(PAL_ALG_FTP, PAL_ALG_TFTP); }

static pal_judgement said(uint32_t family, uint8_t who, uint16_t client_port, const void *text, uint32_t len)
{
    frame_tcp(&f, family, who, 3 - who, who == C ? client_port : 21, who == C ? 21 : client_port,
              (tcp_say){.seq = next_of[who], .ack = next_of[3 - who], .flags = TCP_ACK | TCP_PSH, .window = 9000, .payload = text, .len = len});
    next_of[who] += len;
    return rig_judge(&r, &f);
}

static void control(uint32_t family, uint16_t client_port)
{
    next_of[C] = next_of[S] = 1;
    frame_tcp(&f, family, C, S, client_port, 21, (tcp_say){.seq = 0, .flags = TCP_SYN, .window = 9000});
    rig_judge(&r, &f);
    frame_tcp(&f, family, S, C, 21, client_port, (tcp_say){.seq = 0, .ack = 1, .flags = TCP_SYN | TCP_ACK, .window = 9000});
    rig_judge(&r, &f);
    said(family, C, client_port, NULL, 0);
}

/* May this SYN begin a data connection? */
static pal_judgement data_syn(uint32_t family, uint8_t from, uint16_t sport, uint16_t dport)
{
    frame_tcp(&f, family, from, 3 - from, sport, dport, (tcp_say){.seq = 5, .flags = TCP_SYN, .window = 9000});
    pal_judgement j = rig_judge(&r, &f);
    const char *broken = invariant_broken(r.w);
    if (broken)
        check_where = broken;
    CHECK(broken == NULL);
    return j;
}
static bool expected(pal_judgement j)
{
    CHECK_U64(j.reason, PAL_REASON_MATCH);
    CHECK_U64(j.rule, j.ct == PAL_CT_RELATED ? 1 : 3);
    CHECK_U64(j.verdict, j.ct == PAL_CT_RELATED ? PAL_ALLOW : PAL_DROP);
    return j.ct == PAL_CT_RELATED;
}

typedef struct line_case {
    uint32_t family;
    uint8_t who;
    const char *text;
    uint16_t port; /* announced; 0: nothing is */
} line_case;

static const line_case lines[] = {
    {1, C, "PORT 10,0,0,1,156,64\r\n", 40000},
    {1, C, "port 10,0,0,1,0,1\n", 1},
    {1, C, "PoRt 10,0,0,1,255,255\r", 65535},
    {1, C, "PORT 10,0,0,1,156,64\r\nPORT 10,0,0,1,156,65\r\n", 40000},
    {1, C, "PORT 010,000,000,001,156,064\r\n", 40000},
    {1, C, "PORT 10,0,0,1,156,64xyz\r\n", 40000},
    {1, C, "PORT 10,0,0,1,156,64,9\r\n", 40000},
    {1, C, "PORT 10,0,0,1,156,6\r\n", 39942},
    {1, C, "PORT 10,0,0,1,0,0\r\n", 0},
    {1, C, "PORT 10,0,0,1,156,64", 0},
    {1, C, "PORT 10,0,0,1,156,640\r\n", 0},
    {1, C, "PORT 10,0,0,1,156,0064\r\n", 0},
    {1, C, "PORT 10,0,0,1,156\r\n", 0},
    {1, C, "PORT 10,0,0,1,156,\r\n", 0},
    {1, C, "PORT 10,0,0,1,,64\r\n", 0},
    {1, C, "PORT 10.0.0.1.156.64\r\n", 0},
    {1, C, "PORT 10,0,0,1,256,64\r\n", 0},
    {1, C, "PORT  10,0,0,1,156,64\r\n", 0},
    {1, C, "PORT10,0,0,1,156,64\r\n", 0},
    {1, C, " PORT 10,0,0,1,156,64\r\n", 0},
    {1, C, "QORT 10,0,0,1,156,64\r\n", 0},
    {1, C, "PORT 10,0,0,2,156,64\r\n", 0}, /* the server's address: a door for others */
    {1, C, "PORT 10,0,0,3,156,64\r\n", 0},
    {1, C, "NOOP\r\nPORT 10,0,0,1,156,64\r\n", 0},
    {1, S, "PORT 10,0,0,2,156,64\r\n", 0},
    {1, C, "227 (10,0,0,1,156,64)\r\n", 0},
    {1, C, "EPRT |1|10.0.0.1|40000|\r\n", 40000},
    {1, C, "eprt !1!10.0.0.1!65535!\r\n", 65535},
    {1, C, "EPRT ~1~10.0.0.1~1~\r\n", 1},
    {1, C, "EPRT |1|10.0.0.1|65536|\r\n", 0},
    {1, C, "EPRT |1|10.0.0.1|040000|\r\n", 0},
    {1, C, "EPRT |1|10.0.0.1||\r\n", 0},
    {1, C, "EPRT |1|10.0.0.1|0|\r\n", 0},
    {1, C, "EPRT |1|10.0.0.1|40000\r\n", 0},
    {1, C, "EPRT |1|10.0.0.1!40000|\r\n", 0},
    {1, C, "EPRT |1|010.0.0.1|40000|\r\n", 0},
    {1, C, "EPRT |3|10.0.0.1|40000|\r\n", 0},
    {1, C, "EPRT |2|::ffff:10.0.0.1|40000|\r\n", 0},
    {1, C, "EPRT |2|fd00::1|40000|\r\n", 0},
    {1, C, "EPRT |1!10.0.0.1|40000|\r\n", 0},
    {1, C, "EPRT |1|\r\n", 0},
    {1, C, "EPRT |1\r\n", 0},
    {2, C, "EPRT |2|fd00::1|40000|\r\n", 40000},
    {2, C, "EPRT |2|fd00:0000:0000:0000:0000:0000:0000:0001|40000|\r\n", 40000},
    {2, C, "EPRT |2|FD00::1|40000|\r\n", 40000},
    {2, C, "EPRT |2|fd00::2|40000|\r\n", 0},
    {2, C, "EPRT |2|fd00:0000:0000:0000:0000:0000:0000:0000:0001|40000|\r\n", 0},
    {2, C, "EPRT |1|10.0.0.1|40000|\r\n", 0},
    {2, C, "PORT 10,0,0,1,156,64\r\n", 0},
    {1, S, "227 Entering Passive Mode (10,0,0,2,156,64).\r\n", 40000},
    {1, S, "227 10,0,0,2,156,64\r\n", 40000},
    {1, S, "227 1,2 x10,0,0,2,156,64\r\n", 40000},
    {1, S, "227 110,0,0,2,156,640 10,0,0,2,1,2\r\n", 258},
    {1, S, "227 10,0,0,1,156,64\r\n", 0},
    {1, S, "227-10,0,0,2,156,64\r\n", 0},
    {1, S, "228 10,0,0,2,156,64\r\n", 0},
    {1, S, "227 \r\n10,0,0,2,156,64\r\n", 0},
    {1, S, "229 Extended (|||40000|)\r\n", 40000},
    {1, S, "229 (!!!1!)\r\n", 1},
    {1, S, "229 (|||65535|)\r\n", 65535},
    {1, S, "229 (|||65536|)(|||7|)\r\n", 7},
    {1, S, "229 (|||0|)\r\n", 0},
    {1, S, "229 (|||400000|)\r\n", 0},
    {1, S, "229 (||40000|)\r\n", 0},
    {1, S, "229 (|||40000)\r\n", 0},
    {1, S, "229 (|||40000|\r\n", 0},
    {1, S, "229 |||40000|)\r\n", 0},
    {1, S, "229 (||!40000|)\r\n", 0},
    {1, S, "229 (|||40000!)\r\n", 0},
    {1, S, "229 (   40000 )\r\n", 0},
    {1, S, "229 a|||40000|)\r\n", 0},
    {1, S, "229 (|!|40000|)\r\n", 0},
    {1, S, "229 (~~~40000~)\r\n", 40000},
    {1, S, "229 (\x7f\x7f\x7f" "40000\x7f)\r\n", 0},
    {1, S, "229 (|||40000|", 0},
    {1, S, "229 (\r\n", 0},
    {1, C, "EPRT  1 10.0.0.1 40000 \r\n", 0},
    {1, C, "EPRT \x7f" "1\x7f" "10.0.0.1\x7f" "40000\x7f\r\n", 0},
    {1, C, "229 (|||40000|)\r\n", 0},
    {2, S, "229 Extended (|||40000|)\r\n", 40000},
};

static void test_lines(void)
{
    for (uint32_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        const line_case *x = &lines[i];
        check_where = x->text;
        begin();
        control(x->family, 1000);
        CHECK_U64(said(x->family, x->who, 1000, x->text, (uint32_t)strlen(x->text)).reason, PAL_REASON_STATE);
        CHECK_U64(r.w->expected->count, x->port != 0);
        if (x->port) {
            /* To the announcer, from the other end, to that port, from any port; once. */
            CHECK(!expected(data_syn(x->family, x->who, 20, x->port)));
            CHECK(!expected(data_syn(x->family, 3 - x->who, 20, (uint16_t)(x->port + 1))));
            CHECK(expected(data_syn(x->family, 3 - x->who, 20, x->port)));
            CHECK_U64(r.w->expected->count, 0);
            CHECK(!expected(data_syn(x->family, 3 - x->who, 19, x->port)));
        }
        rig_close(&r);
    }
}

/* An address ends at its delimiter, and a NUL byte in it is no delimiter: RFC 2428, section 2. */
static void test_nul(void)
{
    static const struct {
        uint32_t family;
        const char *text;
        uint32_t len;
    } cases[] = {{1, "EPRT |1|10.0.0.1\0|40000|\r\n", 26}, {1, "EPRT |1|10.0.0.1\0.9|40000|\r\n", 28}, {2, "EPRT |2|fd00::1\0:9|40000|\r\n", 27}};
    check_where = "NUL";
    for (uint32_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        begin();
        control(cases[i].family, 1000);
        CHECK_U64(said(cases[i].family, C, 1000, cases[i].text, cases[i].len).reason, PAL_REASON_STATE);
        CHECK(!expected(data_syn(cases[i].family, S, 20, 40000)));
        rig_close(&r);
    }
}

/* A line in a segment out of order, passed over, with SYN or RST, cut by the capture, or beyond 128 bytes: not read. */
static void test_segments(void)
{
    static const char line[] = "PORT 10,0,0,1,156,64\r\n";
    const uint32_t n = sizeof line - 1;
    static char longer[600];
    check_where = "segments";
    begin();
    control(1, 1000);
    next_of[C] += 10;
    said(1, C, 1000, line, n);
    CHECK_U64(r.w->expected->count, 0); /* after a gap */
    said(1, C, 1000, line, n);
    CHECK_U64(r.w->expected->count, 1);
    next_of[C] -= n;
    r.now += 60 * RIG_S + 10 * RIG_MS;
    said(1, C, 1000, line, n);
    CHECK_U64(r.w->expected->count, 1); /* again: not read, but nobody has looked for what is too old */
    CHECK(!expected(data_syn(1, S, 20, 40000)));
    CHECK_U64(r.w->expected->count, 0);
    frame_tcp(&f, 1, C, S, 1000, 21, (tcp_say){.seq = next_of[C], .ack = 1, .flags = TCP_ACK, .window = 9000, .payload = line, .len = n});
    next_of[C] += n;
    CHECK_U64(rig_judge_cut(&r, &f, f.len - 2).reason, PAL_REASON_STATE); /* the end of the line is not there */
    CHECK_U64(r.w->expected->count, 0);
    frame_tcp(&f, 1, C, S, 1000, 21, (tcp_say){.seq = next_of[C], .ack = 1, .flags = TCP_ACK | TCP_FIN, .window = 9000, .payload = line, .len = n});
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_STATE);
    CHECK_U64(r.w->expected->count, 1);
    rig_close(&r);
    for (uint32_t at = 0; at < 2; at++) {
        begin();
        control(1, 1000);
        memset(longer, ' ', sizeof longer);
        memcpy(longer, "229 ", 4);
        memcpy(longer + 100, "(|||7|)", 7);
        longer[127 + at] = '\r';
        said(1, S, 1000, longer, sizeof longer);
        CHECK_U64(r.w->expected->count, !at);
        rig_close(&r);
    }
    for (uint32_t at = 0; at < 2; at++) { /* behind seven or eight parentheses that are nothing */
        begin();
        control(1, 1000);
        const char *text = at ? "229 (|||(|||(|||(|||(|||(|||(|||(|||(|||7|)\r\n" : "229 (|||(|||(|||(|||(|||(|||(|||(|||7|)\r\n";
        said(1, S, 1000, text, (uint32_t)strlen(text));
        CHECK_U64(r.w->expected->count, !at);
        rig_close(&r);
    }
    /* Picked up in mid-stream: the packet that creates is read too, and any segment. */
    begin();
    next_of[C] = 77, next_of[S] = 99;
    CHECK_U64(said(1, C, 1000, line, n).reason, PAL_REASON_MATCH);
    CHECK_U64(r.w->expected->count, 1);
    next_of[C] += 1000;
    said(1, C, 1000, "PORT 10,0,0,1,156,65\r\n", n);
    CHECK_U64(r.w->expected->count, 2);
    CHECK(expected(data_syn(1, S, 20, 40001)));
    rig_close(&r);
    /* A rule without the ALG, or with another's. */
    begin_with(PAL_ALG_NONE, PAL_ALG_FTP);
    control(1, 1000);
    said(1, C, 1000, line, n);
    frame_udp(&f, 1, C, S, 1000, 69, "\0\1f", 3);
    rig_judge(&r, &f);
    CHECK_U64(r.w->expected->count, 0);
    rig_close(&r);
}

static void test_tftp(void)
{
    static const struct {
        const char *text;
        uint32_t len;
        bool read;
    } asks[] = {{"\0\1f", 3, true}, {"\0\2f", 3, true}, {"\0\3f", 3, false}, {"\0\0f", 3, false}, {"\1\1f", 3, false},
                {"\0\1", 2, true}, {"\0", 1, false}, {"", 0, false}};
    for (uint32_t family = 1; family <= 2; family++)
        for (uint32_t i = 0; i < sizeof asks / sizeof asks[0]; i++) {
            check_where = "TFTP";
            begin();
            frame_udp(&f, family, C, S, 1000, 69, asks[i].text, asks[i].len);
            CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_MATCH);
            CHECK_U64(r.w->expected->count, asks[i].read);
            if (asks[i].read) { /* the server answers from any port to the port that asked */
                frame_tcp(&f, family, S, C, 3000, 1000, (tcp_say){.flags = TCP_SYN});
                CHECK_U64(rig_judge(&r, &f).verdict, PAL_DROP);
                frame_udp(&f, family, S, C, 3000, 1001, "x", 1);
                CHECK_U64(rig_judge(&r, &f).verdict, PAL_DROP);
                frame_udp(&f, family, S, C, 3000, 1000, "x", 1);
                pal_judgement j = rig_judge(&r, &f);
                CHECK_U64(j.ct, PAL_CT_RELATED);
                CHECK_U64(j.rule, 2);
                frame_udp(&f, family, C, S, 1000, 3000, "x", 1);
                CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_STATE);
                frame_udp(&f, family, S, C, 3001, 1000, "x", 1);
                CHECK_U64(rig_judge(&r, &f).verdict, PAL_DROP);
            }
            frame_udp(&f, family, S, C, 69, 1000, "\0\1f", 3); /* the reply direction announces nothing */
            CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_STATE);
            CHECK_U64(r.w->expected->count, 0);
            rig_close(&r);
        }
}

/* Eight a parent, the oldest goes; 60 s; the same again is new. 1,024 in all. A child ends with its parent. */
static void test_limits(void)
{
    char line[40];
    check_where = "limits";
    begin();
    control(1, 1000);
    for (uint32_t i = 0; i < 9; i++)
        said(1, C, 1000, line, (uint32_t)snprintf(line, sizeof line, "PORT 10,0,0,1,10,%u\r\n", i));
    CHECK_U64(r.w->expected->count, 8);
    CHECK(!expected(data_syn(1, S, 20, 2560)));
    said(1, C, 1000, line, (uint32_t)snprintf(line, sizeof line, "PORT 10,0,0,1,10,%u\r\n", 1u)); /* renewed: the newest */
    said(1, C, 1000, line, (uint32_t)snprintf(line, sizeof line, "PORT 10,0,0,1,10,%u\r\n", 9u));
    CHECK_U64(r.w->expected->count, 8);
    CHECK(expected(data_syn(1, S, 20, 2561)));
    CHECK(!expected(data_syn(1, S, 20, 2562)));
    r.now += 60 * RIG_S;
    CHECK(expected(data_syn(1, S, 20, 2563)));
    r.now += 10 * RIG_MS;
    CHECK(!expected(data_syn(1, S, 20, 2564)));
    CHECK_U64(r.w->expected->count, 0);
    rig_close(&r);
    begin();
    for (uint32_t i = 0; i < 130; i++) {
        control(1, (uint16_t)(2000 + i));
        for (uint32_t k = 0; k < 8; k++)
            said(1, C, (uint16_t)(2000 + i), line, (uint32_t)snprintf(line, sizeof line, "PORT 10,0,0,1,%u,%u\r\n", 100 + k, i));
        CHECK_U64(r.w->expected->count, i < 128 ? (i + 1) * 8 : 1024);
    }
    CHECK(!expected(data_syn(1, S, 20, 100 * 256 + 128)));
    CHECK(expected(data_syn(1, S, 20, 107 * 256 + 127)));
    /* The parent ends by a RST: nothing that it announced counts, and its child is no connection any more. */
    frame_tcp(&f, 1, C, S, 2127, 21, (tcp_say){.seq = next_of[C], .flags = TCP_RST});
    frame_tcp(&f, 1, S, C, 20, 107 * 256 + 127, (tcp_say){.seq = 5, .flags = TCP_SYN, .window = 9000});
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_STATE);
    pal_rule drop = rig_rule(3, PAL_ACTION_DROP, 0);
    rig_commit(&r, 0, &drop, 1, false);
    said(1, C, 2127, "x", 1);
    frame_tcp(&f, 1, S, C, 20, 107 * 256 + 127, (tcp_say){.seq = 5, .flags = TCP_SYN, .window = 9000});
    CHECK_U64(rig_judge(&r, &f).rule, 3);
    CHECK(!expected(data_syn(1, S, 20, 106 * 256 + 127)));
    rig_close(&r);
}

/* A child keeps its parent alive, takes its rule, and has no ALG of its own. */
static void test_child(void)
{
    check_where = "child";
    begin();
    control(1, 1000);
    said(1, C, 1000, "PORT 10,0,0,1,156,64\r\n", 22);
    CHECK(expected(data_syn(1, S, 21, 40000))); /* from port 21, so that a line in it would look like FTP's */
    frame_tcp(&f, 1, C, S, 40000, 21, (tcp_say){.seq = 9, .ack = 6, .flags = TCP_SYN | TCP_ACK, .window = 9000});
    CHECK_U64(rig_judge(&r, &f).ct, PAL_CT_ESTABLISHED);
    frame_tcp(&f, 1, S, C, 21, 40000, (tcp_say){.seq = 6, .ack = 10, .flags = TCP_ACK, .window = 9000, .payload = "PORT 10,0,0,2,1,1\r\n", .len = 19});
    pal_judgement j = rig_judge(&r, &f);
    CHECK_U64(j.reason, PAL_REASON_STATE);
    CHECK_U64(j.rule, 1);
    CHECK_U64(r.w->expected->count, 0);
    r.now += 43000 * RIG_S;
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_STATE);
    frame_tcp(&f, 1, C, S, 40000, 21, (tcp_say){.seq = 10, .ack = 25, .flags = TCP_ACK, .window = 9000});
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_STATE); /* not passed over: it renews both */
    r.now += 43000 * RIG_S;
    CHECK_U64(said(1, C, 1000, "NOOP\r\n", 6).reason, PAL_REASON_STATE);
    rig_close(&r);
}

/* The rules change, and the first packet after it is the child's: it is judged through its parent (SEMANTICS, Change). */
static void test_change(void)
{
    static const struct {
        const char *what;
        uint8_t action, flags, answers;
    } after[] = {
        {"allowed", PAL_ACTION_ALLOW, PAL_RULE_STATEFUL, 0}, {"stateless", PAL_ACTION_ALLOW, 0, 0},
        {"dropped", PAL_ACTION_DROP, PAL_RULE_STATEFUL, 0},  {"rejected", PAL_ACTION_REJECT, PAL_RULE_STATEFUL, 2},
    };
    for (uint32_t family = PAL_FAMILY_V4; family <= PAL_FAMILY_V6; family++)
        for (uint32_t way = 0; way < 2; way++)
            for (uint32_t i = 0; i < sizeof after / sizeof *after; i++) {
                check_where = after[i].what;
                begin();
                control(family, 1000);
                if (family == PAL_FAMILY_V4)
                    said(family, C, 1000, "PORT 10,0,0,1,156,64\r\n", 22);
                else
                    said(family, S, 1000, "229 (|||40000|)\r\n", 17);
                uint8_t from = family == PAL_FAMILY_V4 ? S : C, to = 3 - from;
                CHECK(expected(data_syn(family, from, 20, 40000)));
                pal_rule x[2] = {rig_rule_port(7, after[i].action, after[i].flags, PROTO_TCP, 21), rig_rule(8, PAL_ACTION_DROP, 0)};
                x[0].alg = PAL_ALG_FTP;
                rig_commit(&r, 0, x, 2, false);
                rig_forget(&r);
                if (way)
                    frame_tcp(&f, family, to, from, 40000, 20, (tcp_say){.seq = 9, .ack = 6, .flags = TCP_SYN | TCP_ACK, .window = 9000});
                else
                    frame_tcp(&f, family, from, to, 20, 40000, (tcp_say){.seq = 5, .flags = TCP_SYN, .window = 9000});
                pal_judgement j = rig_judge(&r, &f);
                const bool kept = i == 0;
                CHECK_U64(j.verdict, kept ? PAL_ALLOW : PAL_DROP);
                CHECK_U64(j.reason, kept ? PAL_REASON_STATE : PAL_REASON_MATCH);
                CHECK_U64(j.rule, kept ? 7 : 8);
                CHECK_U64(r.sent, after[i].answers);
                for (uint32_t k = 0; k < r.sent; k++) { /* the packet's sender is told first */
                    const uint8_t *tcp = r.generated[k] + (family == PAL_FAMILY_V4 ? 20 : 40);
                    const bool client = (k == 0) == ((way ? to : from) == C);
                    CHECK_U64(load_be16(tcp), client ? 21 : 1000);
                    CHECK_U64(load_be16(tcp + 2), client ? 1000 : 21);
                    CHECK_U64(load_be32(tcp + 4), 1); /* what it has acknowledged */
                    CHECK_U64(tcp[13], TCP_RST);
                }
                const char *broken = invariant_broken(r.w);
                CHECK(broken == NULL);
                /* The control connection is as its child has shown it. */
                CHECK_U64(said(family, C, 1000, "NOOP\r\n", 6).reason, kept ? PAL_REASON_STATE : PAL_REASON_MATCH);
                rig_close(&r);
            }
}

/* A parent under a rule that keeps what began stays, and its child. */
static void test_persist(void)
{
    check_where = "persist";
    begin();
    pal_rule x[2] = {rig_rule_port(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL | PAL_RULE_PERSIST, PROTO_TCP, 21), rig_rule(3, PAL_ACTION_DROP, 0)};
    x[0].alg = PAL_ALG_FTP;
    rig_commit(&r, 0, x, 2, false);
    control(PAL_FAMILY_V4, 1000);
    said(PAL_FAMILY_V4, C, 1000, "PORT 10,0,0,1,156,64\r\n", 22);
    CHECK(expected(data_syn(PAL_FAMILY_V4, S, 20, 40000)));
    rig_commit(&r, 0, x + 1, 1, false);
    frame_tcp(&f, PAL_FAMILY_V4, C, S, 40000, 20, (tcp_say){.seq = 9, .ack = 6, .flags = TCP_SYN | TCP_ACK, .window = 9000});
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_STATE);
    CHECK_U64(said(PAL_FAMILY_V4, C, 1000, "NOOP\r\n", 6).reason, PAL_REASON_STATE);
    rig_close(&r);
}

int main(void)
{
    test_lines();
    test_nul();
    test_segments();
    test_tftp();
    test_limits();
    test_child();
    test_change();
    test_persist();
    return check_end("test_alg");
}
