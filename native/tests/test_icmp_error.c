/* SPDX-License-Identifier: Apache-2.0
 *
 * test_icmp_error.c - docs/packet-path.md, section 8: which quotes can be read, whose connection they name, which sequence
 * numbers are believed, and that an error changes nothing.
 */
#include "support/rig.h"

#include "check.h"
#include "support/invariants.h"

static rig r;
static frame f, quoted;
static uint8_t rest[4 + 1400];

static void begin(void)
{
    rig_open(&r, 50, 50);
    pal_rule all = rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    rig_commit(&r, 0, &all, 1, false);
}

/* An error from host 3 to `to`, about `len` bytes of the quoted packet. */
static pal_judgement error_about(uint32_t family, uint8_t to, uint8_t type, uint32_t len)
{
    memset(rest, 0, 4);
    memcpy(rest + 4, quoted.b + quoted.l3, len);
    frame_icmp(&f, family, 3, to, type, 1, rest, 4 + len);
    pal_judgement j = rig_judge(&r, &f);
    const char *broken = invariant_broken(r.w);
    if (broken)
        check_where = broken;
    CHECK(broken == NULL);
    return j;
}

static uint8_t unreachable(uint32_t family) { return family == PAL_FAMILY_V4 ? 3 : 1; }

static void is(pal_judgement j, uint8_t verdict, uint8_t reason, uint8_t ct, uint32_t rule)
{
    CHECK_U64(j.verdict, verdict);
    CHECK_U64(j.reason, reason);
    CHECK_U64(j.ct, ct);
    CHECK_U64(j.rule, rule);
}
static void is_related(pal_judgement j, uint32_t reply)
{
    is(j, PAL_ALLOW, PAL_REASON_RELATED, PAL_CT_RELATED, 1);
    CHECK_U64(j.reply, reply);
}
static void is_unrelated(pal_judgement j, uint32_t rule) { is(j, PAL_DROP, PAL_REASON_ICMP_UNRELATED, PAL_CT_INVALID, rule); }
static void is_no_quote(pal_judgement j) { is(j, PAL_DROP, PAL_REASON_ICMP_QUOTE, PAL_CT_INVALID, PAL_NONE); }

/* Every kind of connection, quoted in both directions; nothing of it is touched. */
static void test_kinds(void)
{
    for (uint32_t family = 1; family <= 2; family++)
        for (uint32_t kind = 0; kind < 5; kind++) {
            check_where = "kinds";
            begin();
            uint32_t head = family == PAL_FAMILY_V4 ? 20 : 40;
            for (uint32_t way = 0; way < 2; way++) {
                uint8_t from = way ? 2 : 1, to = way ? 1 : 2;
                switch (kind) {
                case 0:
                    frame_udp(&quoted, family, from, to, way ? 53 : 1000, way ? 1000 : 53, "x", 1);
                    break;
                case 1:
                    frame_ping(&quoted, family, from, to, way, 77);
                    break;
                case 2:
                    frame_ip(&quoted, family, from, to, 47, "gre-gre-", 8);
                    break;
                case 3:
                    if (family == PAL_FAMILY_V6)
                        continue;
                    frame_sctp(&quoted, from, to, way ? 5 : 0, way ? 2 : 1, 0, way ? 6 : 5);
                    break;
                default: /* timestamp; node information */
                    memset(rest, 0, 16);
                    frame_icmp(&quoted, family, from, to, family == PAL_FAMILY_V4 ? 13 + way : 139 + way, 0, rest, 16);
                }
                pal_judgement first = rig_judge(&r, &quoted);
                CHECK_U64(first.verdict, PAL_ALLOW);
                ct_hot before = r.w->table.hot[first.ref];
                r.now += RIG_S;
                is_related(error_about(family, from, unreachable(family), head + 8), !way);
                CHECK(memcmp(&before, &r.w->table.hot[first.ref], sizeof before) == 0);
                pal_rule_count c[2];
                pal_engine_rules_read(r.e, c, 2);
                CHECK_U64(c[1].hits, 1 + way); /* the unrelated one below */
                CHECK_U64(c[1].packets, 2 + 3 * way);
                /* One bit of a port, an identifier or a protocol off: nobody's. */
                quoted.b[kind == 2 ? quoted.l3 + (family == PAL_FAMILY_V4 ? 9 : 6) : quoted.l4 + (kind == 1 || kind == 4 ? 5 : 1)] ^= 1;
                is_unrelated(error_about(family, from, unreachable(family), head + 8), 1);
                /* And a byte too short. */
                is_no_quote(error_about(family, from, unreachable(family), head + 7));
            }
            rig_close(&r);
        }
}

/* Types that are errors belong; others are packets of their own. */
static void test_types(void)
{
    begin();
    for (uint32_t family = 1; family <= 2; family++) {
        frame_udp(&quoted, family, 1, 2, 1000, 53, "x", 1);
        rig_judge(&r, &quoted);
        for (uint32_t type = 0; type < 256; type++) {
            bool error = family == PAL_FAMILY_V4 ? type == 3 || type == 4 || type == 5 || type == 11 || type == 12 : type < 128;
            check_where = family == PAL_FAMILY_V4 ? "ICMP types" : "ICMPv6 types";
            CHECK_U64(error_about(family, 1, (uint8_t)type, family == PAL_FAMILY_V4 ? 28 : 48).reason == PAL_REASON_RELATED, error);
        }
    }
    rig_close(&r);
}

static pal_judgement about_tcp(uint32_t family, bool by_client, uint32_t seq)
{
    frame_tcp(&quoted, family, by_client ? 1 : 2, by_client ? 2 : 1, by_client ? 1000 : 80, by_client ? 80 : 1000,
              (tcp_say){.seq = seq, .flags = TCP_ACK});
    return error_about(family, by_client ? 1 : 2, unreachable(family), family == PAL_FAMILY_V4 ? 28 : 48);
}

/* RFC 5927: not after what was sent; not before what was acknowledged, or 66,000 bytes. At both sides of a wrap. */
static void test_sequence(void)
{
    static const uint32_t bases[] = {100000, 0xffffffffu, 2, 0x7fffffffu};
    for (uint32_t i = 0; i < 4; i++)
        for (uint32_t family = 1; family <= 2; family++) {
            uint32_t c = bases[i], s = bases[i] + 0x12345678u;
            check_where = "sequence";
            begin();
            frame_tcp(&f, family, 1, 2, 1000, 80, (tcp_say){.seq = c, .flags = TCP_SYN, .window = 9000});
            rig_judge(&r, &f);
            is_related(about_tcp(family, true, c), 1);
            is_related(about_tcp(family, true, c + 1), 1);
            is_unrelated(about_tcp(family, true, c + 2), PAL_NONE);
            is_related(about_tcp(family, true, c + 1 - 66000), 1);
            is_unrelated(about_tcp(family, true, c - 66000), PAL_NONE);
            is_unrelated(about_tcp(family, false, s), PAL_NONE); /* an end that was never heard */
            frame_tcp(&f, family, 2, 1, 80, 1000, (tcp_say){.seq = s, .ack = c + 1, .flags = TCP_SYN | TCP_ACK, .window = 9000});
            CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_STATE);
            is_unrelated(about_tcp(family, true, c), PAL_NONE); /* acknowledged by now */
            is_related(about_tcp(family, true, c + 1), 1);
            is_related(about_tcp(family, false, s), 0);
            is_related(about_tcp(family, false, s + 1 - 66000), 0);
            is_unrelated(about_tcp(family, false, s - 66000), PAL_NONE);
            frame_tcp(&f, family, 1, 2, 1000, 80, (tcp_say){.seq = c + 1, .ack = s + 1, .flags = TCP_ACK, .window = 9000, .payload = "0123456789", .len = 10});
            CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_STATE);
            is_unrelated(about_tcp(family, false, s), PAL_NONE);
            is_related(about_tcp(family, false, s + 1), 0);
            is_related(about_tcp(family, true, c + 11), 1);
            is_unrelated(about_tcp(family, true, c + 12), PAL_NONE);
            rig_close(&r);
            /* Picked up in mid-stream: any number will do. */
            begin();
            frame_tcp(&f, family, 1, 2, 1000, 80, (tcp_say){.seq = c, .ack = s, .flags = TCP_ACK, .window = 9000});
            CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_MATCH);
            is_related(about_tcp(family, true, c + 0x40000000u), 1);
            is_related(about_tcp(family, false, s + 0x40000000u), 0);
            rig_close(&r);
        }
}

/* The quote itself: versions, header lengths, fragments, extension headers, queries and answers only. */
static void test_quotes(void)
{
    check_where = "quotes";
    begin();
    frame_udp(&quoted, PAL_FAMILY_V4, 1, 2, 1000, 53, "x", 1);
    rig_judge(&r, &quoted);
    frame good = quoted;
    static const struct {
        uint32_t at;
        uint8_t value;
        bool read;
    } v4[] = {{0, 0x44, false}, {0, 0x55, false}, {0, 0x65, false}, {0, 0x35, false}, {6, 0x20, true}, {7, 1, false}, {6, 0x1f, false},
              {6, 0x40, true}, {6, 0x80, true}, {2, 0xff, true}, {3, 0, true}, {10, 77, true}};
    for (uint32_t i = 0; i < sizeof v4 / sizeof v4[0]; i++) {
        quoted = good;
        quoted.b[quoted.l3 + v4[i].at] = v4[i].value;
        pal_judgement j = error_about(PAL_FAMILY_V4, 1, 3, 28);
        if (v4[i].read)
            is_related(j, 1);
        else
            is_no_quote(j);
    }
    /* Options: 40 bytes of header, then the ports. */
    quoted = good;
    memmove(quoted.b + 54, quoted.b + 34, 9);
    memset(quoted.b + 34, 1, 20);
    quoted.b[14] = 0x4a;
    is_related(error_about(PAL_FAMILY_V4, 1, 3, 48), 1);
    is_no_quote(error_about(PAL_FAMILY_V4, 1, 3, 47));
    is_no_quote(error_about(PAL_FAMILY_V4, 1, 3, 19));
    is_no_quote(error_about(PAL_FAMILY_V4, 1, 3, 0));
    /* An ICMP error quoted, and the other family's ICMP: only queries and answers have connections. */
    uint8_t zeros[16] = {0};
    frame_icmp(&quoted, PAL_FAMILY_V4, 1, 2, 3, 0, zeros, 16);
    is_no_quote(error_about(PAL_FAMILY_V4, 1, 11, 28));
    frame_ip(&quoted, PAL_FAMILY_V4, 1, 2, PROTO_ICMP6, zeros, 8);
    is_unrelated(error_about(PAL_FAMILY_V4, 1, 11, 28), 1);
    /* IPv6: extension headers are walked, a first fragment's too; a later one has no ports. */
    static uint8_t chain[64];
    frame_udp(&good, PAL_FAMILY_V6, 1, 2, 1000, 53, "x", 1);
    rig_judge(&r, &good);
    memset(chain, 0, sizeof chain);
    chain[0] = PROTO_IP6_FRAGMENT; /* destination options, fragment header, UDP */
    chain[8] = PROTO_UDP;
    chain[11] = 1;
    memcpy(chain + 16, good.b + good.l4, 9);
    frame_ip(&quoted, PAL_FAMILY_V6, 1, 2, PROTO_IP6_DSTOPTS, chain, 25);
    is_related(error_about(PAL_FAMILY_V6, 1, 1, 40 + 24), 1);
    is_no_quote(error_about(PAL_FAMILY_V6, 1, 1, 40 + 23));
    is_no_quote(error_about(PAL_FAMILY_V6, 1, 1, 40 + 12));
    is_no_quote(error_about(PAL_FAMILY_V6, 1, 1, 39));
    quoted.b[quoted.l4 + 11] = 0x08;
    is_no_quote(error_about(PAL_FAMILY_V6, 1, 1, 40 + 24));
    quoted.b[quoted.l4 + 11] = 0;
    is_related(error_about(PAL_FAMILY_V6, 1, 1, 40 + 24), 1);
    quoted.b[quoted.l3] = 0x40;
    is_no_quote(error_about(PAL_FAMILY_V6, 1, 1, 40 + 24));
    rig_close(&r);
}

/* No connection: the rules, where only a stateless one lets it pass. One past its deadline is none. */
static void test_nobody(void)
{
    check_where = "nobody";
    begin();
    frame_udp(&quoted, PAL_FAMILY_V4, 1, 2, 1000, 53, "x", 1);
    is_unrelated(error_about(PAL_FAMILY_V4, 1, 3, 28), 1);
    rig_judge(&r, &quoted);
    r.now += 60 * RIG_S;
    is_related(error_about(PAL_FAMILY_V4, 1, 3, 28), 1); /* udp_first_packet: its last tick, and it is not refreshed */
    r.now += 10 * RIG_MS;
    is_unrelated(error_about(PAL_FAMILY_V4, 1, 3, 28), 1);
    pal_rule stateless = rig_rule(5, PAL_ACTION_ALLOW, 0), deny = rig_rule(6, PAL_ACTION_DROP, 0), reject = rig_rule(7, PAL_ACTION_REJECT, 0);
    rig_commit(&r, 0, &stateless, 1, false);
    is(error_about(PAL_FAMILY_V4, 1, 3, 28), PAL_ALLOW, PAL_REASON_MATCH, PAL_CT_UNTRACKED, 5);
    rig_commit(&r, 0, &deny, 1, false);
    is(error_about(PAL_FAMILY_V4, 1, 3, 28), PAL_DROP, PAL_REASON_MATCH, PAL_CT_INVALID, 6);
    rig_commit(&r, 0, &reject, 1, false);
    is(error_about(PAL_FAMILY_V4, 1, 3, 28), PAL_REJECT, PAL_REASON_MATCH, PAL_CT_INVALID, 7);
    CHECK_U64(r.sent, 0);
    rig_close(&r);
    /* A connection that the new rules refuse is none; the error is judged by them and nothing is answered. */
    begin();
    frame_udp(&quoted, PAL_FAMILY_V4, 1, 2, 1000, 53, "x", 1);
    rig_judge(&r, &quoted);
    rig_commit(&r, 0, &reject, 1, false);
    is(error_about(PAL_FAMILY_V4, 1, 3, 28), PAL_REJECT, PAL_REASON_MATCH, PAL_CT_INVALID, 7);
    CHECK_U64(r.sent, 0);
    CHECK_U64(r.w->table.s->used[0], 0);
    /* One that they allow is kept, under its new rule. */
    pal_rule other = rig_rule(8, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    rig_commit(&r, 0, &other, 1, false);
    rig_judge(&r, &quoted);
    pal_rule third = rig_rule(9, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    rig_commit(&r, 0, &third, 1, false);
    is(error_about(PAL_FAMILY_V4, 1, 3, 28), PAL_ALLOW, PAL_REASON_RELATED, PAL_CT_RELATED, 9);
    rig_close(&r);
}

int main(void)
{
    test_kinds();
    test_types();
    test_sequence();
    test_quotes();
    test_nobody();
    return check_end("test_icmp_error");
}
