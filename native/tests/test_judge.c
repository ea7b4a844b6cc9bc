/* SPDX-License-Identifier: Apache-2.0
 *
 * test_judge.c - docs/packet-path.md, sections 2, 4, 5 and 11: what every kind of first packet gets from every kind of rule,
 * pseudo-connections and their timers, group destinations, room, and what is counted.
 */
#include "support/rig.h"

#include "check.h"
#include "support/invariants.h"

static rig r;
static frame f;

static void is(pal_judgement j, uint8_t verdict, uint8_t reason, uint8_t ct)
{
    CHECK_U64(j.verdict, verdict);
    CHECK_U64(j.reason, reason);
    CHECK_U64(j.ct, ct);
}

static void begin_with(const pal_rule *rule)
{
    rig_open(&r, 50, 50);
    if (rule)
        rig_commit(&r, 0, rule, 1, false);
}
static void begin(void)
{
    pal_rule all = rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    begin_with(&all);
}

enum first { BARE_SYN, PICKED_UP, TCP_MISFIT, UDP, SCTP_INIT_FIRST, SCTP_LATER, QUERY, ANSWER, OTHER_TYPE, ND, PROTOCOL, FIRSTS };

static bool make(enum first what, uint32_t family)
{
    uint8_t rest[16] = {0};
    switch (what) {
    case BARE_SYN:
        frame_tcp(&f, family, 1, 2, 1000, 80, (tcp_say){.flags = TCP_SYN});
        return true;
    case PICKED_UP:
        frame_tcp(&f, family, 1, 2, 1000, 80, (tcp_say){.flags = TCP_ACK});
        return true;
    case TCP_MISFIT:
        frame_tcp(&f, family, 1, 2, 1000, 80, (tcp_say){.flags = TCP_FIN | TCP_ACK});
        return true;
    case UDP:
        frame_udp(&f, family, 1, 2, 1000, 53, "x", 1);
        return true;
    case SCTP_INIT_FIRST:
        frame_sctp(&f, 1, 2, 0, 1, 0, 5);
        return family == PAL_FAMILY_V4;
    case SCTP_LATER:
        frame_sctp(&f, 1, 2, 7, 10, 0, 5);
        return family == PAL_FAMILY_V4;
    case QUERY:
        frame_ping(&f, family, 1, 2, false, 9);
        return true;
    case ANSWER:
        frame_ping(&f, family, 1, 2, true, 9);
        return true;
    case OTHER_TYPE: /* router solicitation of IPv4; ICMPv6 redirect */
        frame_icmp(&f, family, 1, 2, family == PAL_FAMILY_V4 ? 10 : 137, 0, rest, 16);
        return true;
    case ND: /* IGMP; neighbour solicitation */
        if (family == PAL_FAMILY_V4)
            frame_ip(&f, family, 1, 2, PROTO_IGMP, rest, 8);
        else
            frame_icmp(&f, family, 1, 2, 135, 0, rest, 16);
        return true;
    default:
        frame_ip(&f, family, 1, 2, 50, rest, 8);
        return true;
    }
}

/* The reason of a stateful ALLOW for what may not begin; MATCH: it begins. */
static uint8_t refusal(enum first what, bool strict)
{
    if (what == PICKED_UP || what == TCP_MISFIT)
        return strict ? PAL_REASON_TCP_STRICT : what == TCP_MISFIT ? PAL_REASON_TCP_STATE : PAL_REASON_MATCH;
    return what == SCTP_LATER ? PAL_REASON_SCTP_STATE : what == ANSWER || what == OTHER_TYPE ? PAL_REASON_ICMP_STATE : PAL_REASON_MATCH;
}

static void test_first_packets(void)
{
    for (uint32_t family = 1; family <= 2; family++)
        for (enum first what = 0; what < FIRSTS; what++)
            for (uint32_t which = 0; which < 6; which++) {
                static char where[64];
                snprintf(where, sizeof where, "family %u, packet %u, rule %u", family, what, which);
                check_where = where;
                if (!make(what, family))
                    continue;
                pal_rule rules[5] = {rig_rule(7, PAL_ACTION_DROP, 0), rig_rule(7, PAL_ACTION_REJECT, 0), rig_rule(7, PAL_ACTION_ALLOW, 0),
                                     rig_rule(7, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL), rig_rule(7, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL | PAL_RULE_TCP_STRICT)};
                bool misfit = refusal(what, false) != PAL_REASON_MATCH;
                uint8_t refused = what == ND ? PAL_CT_UNTRACKED : misfit ? PAL_CT_INVALID : PAL_CT_NEW;
                if (which == 5) { /* a rule that matches something else */
                    pal_rule other = rig_rule_port(7, PAL_ACTION_ALLOW, 0, PROTO_TCP, 9);
                    begin_with(&other);
                    pal_judgement j = rig_judge(&r, &f);
                    is(j, PAL_DROP, PAL_REASON_NO_RULE, refused);
                    CHECK_U64(j.rule, PAL_NONE);
                    CHECK_U64(r.w->rule[7].hits + r.w->rule[7].packets, 0);
                    rig_close(&r);
                    continue;
                }
                begin_with(&rules[which]);
                pal_judgement j = rig_judge(&r, &f);
                bool created = which >= 3 && what != ND && refusal(what, which == 4) == PAL_REASON_MATCH;
                if (which == 0)
                    is(j, PAL_DROP, PAL_REASON_MATCH, refused);
                else if (which == 1)
                    is(j, PAL_REJECT, PAL_REASON_MATCH, refused);
                else if (which == 2 || what == ND)
                    is(j, PAL_ALLOW, PAL_REASON_MATCH, PAL_CT_UNTRACKED);
                else if (created)
                    is(j, PAL_ALLOW, PAL_REASON_MATCH, PAL_CT_NEW);
                else
                    is(j, PAL_DROP, refusal(what, which == 4), PAL_CT_INVALID);
                CHECK_U64(j.rule, 7);
                CHECK_U64(j.first, 1);
                CHECK_U64(j.ref == PAL_NONE, !created);
                CHECK_U64(r.w->table.s->used[0] + r.w->table.s->used[1], created);
                CHECK_U64(r.sent, which == 1);
                pal_rule_count c[8];
                pal_engine_rules_read(r.e, c, 8);
                CHECK_U64(c[7].hits, 1);
                CHECK_U64(c[7].packets, 1);
                CHECK_U64(c[7].bytes, f.len - f.l3);
                CHECK_U64(rig_judge(&r, &f).reason == PAL_REASON_STATE, created);
                CHECK(invariant_broken(r.w) == NULL);
                rig_close(&r);
            }
    begin_with(NULL);
    make(UDP, 1);
    is(rig_judge(&r, &f), PAL_DROP, PAL_REASON_NO_RULESET, PAL_CT_INVALID);
    f.b[12] = 0x88, f.b[13] = 0xcc;
    is(rig_judge(&r, &f), PAL_DROP, PAL_REASON_NO_RULESET, PAL_CT_INVALID);
    rig_close(&r);
    begin();
    is(rig_judge(&r, &f), PAL_ALLOW, PAL_REASON_NON_IP, PAL_CT_UNTRACKED);
    f.len = 20;
    f.b[12] = 8, f.b[13] = 0;
    is(rig_judge(&r, &f), PAL_DROP, PAL_REASON_SHORT, PAL_CT_INVALID);
    rig_close(&r);
}

/* Say it `forth` times, answer `back` times; then on the last tick it is known, on the next it is not. */
static void known_for(uint32_t kind, uint32_t family, uint32_t forth, uint32_t back, uint32_t seconds)
{
    for (uint32_t late = 0; late < 2; late++) {
        begin();
        for (uint32_t i = 0; i < forth + back + 1; i++) {
            bool answer = i >= forth && i < forth + back;
            uint8_t src = answer ? 2 : 1, dst = answer ? 1 : 2;
            if (i == forth + back)
                r.now += seconds * RIG_S + late * 10 * RIG_MS;
            if (kind == 0)
                frame_udp(&f, family, src, dst, answer ? 53 : 1000, answer ? 1000 : 53, "x", 1);
            else if (kind == 1)
                frame_ping(&f, family, src, dst, answer, 9);
            else
                frame_ip(&f, family, src, dst, 50, "esp-esp-", 8);
            pal_judgement j = rig_judge(&r, &f);
            if (i == 0 || (i == forth + back && late))
                is(j, PAL_ALLOW, PAL_REASON_MATCH, PAL_CT_NEW);
            else
                is(j, PAL_ALLOW, PAL_REASON_STATE, answer || (back && i >= forth) ? PAL_CT_ESTABLISHED : PAL_CT_NEW);
            CHECK_U64(j.reply, answer);
        }
        rig_close(&r);
    }
}

static void test_pseudo(void)
{
    for (uint32_t family = 1; family <= 2; family++) {
        check_where = "pseudo-connections";
        for (uint32_t kind = 0; kind < 3; kind += 2) {
            known_for(kind, family, 1, 0, 60);
            known_for(kind, family, 2, 0, 30);
            known_for(kind, family, 5, 0, 30);
            known_for(kind, family, 1, 1, 60);
            known_for(kind, family, 3, 2, 60);
        }
        known_for(1, family, 1, 0, 20);
        known_for(1, family, 3, 0, 20);
        known_for(1, family, 1, 1, 10);
        known_for(1, family, 2, 5, 10);
    }
    /* Another identifier, code or end is another connection, or none; the codes of queries are not looked at. */
    begin();
    frame_ping(&f, 1, 1, 2, false, 9);
    rig_judge(&r, &f);
    frame_ping(&f, 1, 2, 1, true, 8);
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_ICMP_STATE);
    frame_ping(&f, 1, 1, 2, true, 9);
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_ICMP_STATE);
    frame_ping(&f, 1, 2, 1, false, 9); /* the other end asks too: its own connection */
    is(rig_judge(&r, &f), PAL_ALLOW, PAL_REASON_MATCH, PAL_CT_NEW);
    frame_ping(&f, 1, 1, 2, false, 9);
    f.b[f.l4 + 1] = 5;
    frame_l4_sum(&f, 1, PROTO_ICMP, 2);
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_STATE);
    frame_ping(&f, 1, 1, 1, false, 3); /* to itself: the query runs in the original direction, the answer in the other */
    CHECK_U64(rig_judge(&r, &f).reply, 0);
    frame_ping(&f, 1, 1, 1, true, 3);
    pal_judgement j = rig_judge(&r, &f);
    CHECK_U64(j.reply, 1);
    is(j, PAL_ALLOW, PAL_REASON_STATE, PAL_CT_ESTABLISHED);
    rig_close(&r);
}

/* To a group: nothing comes back. */
static void test_groups(void)
{
    for (uint32_t family = 1; family <= 2; family++) {
        check_where = "groups";
        begin();
        uint32_t n = family == PAL_FAMILY_V4 ? 4 : 16;
        frame_udp(&f, family, 1, 2, 1000, 53, "x", 1);
        uint8_t *dst = f.b + f.l3 + (family == PAL_FAMILY_V4 ? 16 : 24), *src = dst - n;
        memset(dst, 0xff, n);
        frame_ip_sum(&f);
        is(rig_judge(&r, &f), PAL_ALLOW, PAL_REASON_MATCH, PAL_CT_NEW);
        is(rig_judge(&r, &f), PAL_ALLOW, PAL_REASON_STATE, PAL_CT_NEW);
        uint8_t was[16];
        memcpy(was, src, n);
        memset(src, 0xff, n);
        memcpy(dst, was, n);
        store_be16(f.b + f.l4, 53);
        store_be16(f.b + f.l4 + 2, 1000);
        frame_ip_sum(&f);
        pal_judgement j = rig_judge(&r, &f);
        is(j, PAL_DROP, PAL_REASON_ONEWAY, PAL_CT_INVALID);
        CHECK_U64(j.reply, 1);
        CHECK_U64(j.rule, 1);
        uint32_t ref = family == PAL_FAMILY_V4 ? 0 : r.w->table.cap4;
        CHECK_U64(r.w->table.flow[ref].dropped, 1);
        CHECK_U64(ct_packets(&r.w->table, ref, 1), 0);
        rig_close(&r);
    }
}

/* Room for each family: what expired goes first, then the oldest unanswered, never an answered one. */
static void test_room(void)
{
    for (uint32_t family = 1; family <= 2; family++) {
        check_where = "room";
        rig_open(&r, 12, 12);
        uint32_t cap = family == PAL_FAMILY_V4 ? r.w->table.cap4 : r.w->table.cap6;
        pal_rule all = rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
        rig_commit(&r, 0, &all, 1, false);
        for (uint32_t i = 0; i < cap; i++) {
            frame_udp(&f, family, 1, 2, (uint16_t)(1000 + i), 53, "x", 1);
            is(rig_judge(&r, &f), PAL_ALLOW, PAL_REASON_MATCH, PAL_CT_NEW);
            if (i % 2) {
                frame_udp(&f, family, 2, 1, 53, (uint16_t)(1000 + i), "x", 1);
                is(rig_judge(&r, &f), PAL_ALLOW, PAL_REASON_STATE, PAL_CT_ESTABLISHED);
            }
        }
        CHECK_U64(r.w->table.s->used[family - 1], cap);
        frame_udp(&f, family, 1, 2, 5000, 53, "x", 1); /* the first, at port 1000, goes */
        is(rig_judge(&r, &f), PAL_ALLOW, PAL_REASON_MATCH, PAL_CT_NEW);
        frame_udp(&f, family, 1, 2, 1002, 53, "x", 1);
        is(rig_judge(&r, &f), PAL_ALLOW, PAL_REASON_STATE, PAL_CT_NEW);
        frame_udp(&f, family, 1, 2, 1000, 53, "x", 1); /* and now the one at 1002, though it was just heard */
        is(rig_judge(&r, &f), PAL_ALLOW, PAL_REASON_MATCH, PAL_CT_NEW);
        frame_udp(&f, family, 1, 2, 1004, 53, "x", 1);
        is(rig_judge(&r, &f), PAL_ALLOW, PAL_REASON_STATE, PAL_CT_NEW);
        for (uint32_t i = 0; i < cap; i++) { /* all are answered */
            uint16_t port = (uint16_t)(i == 0 ? 1000 : i == 2 ? 5000 : 1000 + i);
            frame_udp(&f, family, 2, 1, 53, port, "x", 1);
            CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_STATE);
        }
        frame_udp(&f, family, 1, 2, 6000, 53, "x", 1);
        pal_judgement j = rig_judge(&r, &f);
        is(j, PAL_DROP, PAL_REASON_CT_FULL, PAL_CT_NEW);
        CHECK_U64(j.rule, 1);
        CHECK(invariant_broken(r.w) == NULL);
        frame_udp(&f, 3 - family, 1, 2, 6000, 53, "x", 1); /* the other family has room of its own */
        is(rig_judge(&r, &f), PAL_ALLOW, PAL_REASON_MATCH, PAL_CT_NEW);
        r.now += 60 * RIG_S;
        frame_udp(&f, family, 1, 2, 6000, 53, "x", 1);
        is(rig_judge(&r, &f), PAL_DROP, PAL_REASON_CT_FULL, PAL_CT_NEW);
        r.now += 10 * RIG_MS;
        is(rig_judge(&r, &f), PAL_ALLOW, PAL_REASON_MATCH, PAL_CT_NEW);
        CHECK(invariant_broken(r.w) == NULL);
        rig_close(&r);
    }
}

/* Packets and bytes beyond what the hot line holds; history; times; refused ones. */
static void test_counts(void)
{
    check_where = "counts";
    begin();
    const ct_table *t = &r.w->table;
    frame_tcp(&f, 1, 1, 2, 1000, 80, (tcp_say){.seq = 9, .flags = TCP_SYN, .window = 5000});
    rig_judge(&r, &f);
    r.now += RIG_S;
    frame_tcp(&f, 1, 2, 1, 80, 1000, (tcp_say){.seq = 99, .ack = 10, .flags = TCP_SYN | TCP_ACK, .window = 5000});
    rig_judge(&r, &f);
    frame_tcp(&f, 1, 1, 2, 1000, 80, (tcp_say){.seq = 10, .ack = 100, .flags = TCP_ACK, .window = 5000});
    for (uint32_t i = 0; i < 70000; i++)
        rig_judge(&r, &f);
    CHECK_U64(ct_packets(t, 0, 0), 70001);
    CHECK_U64(ct_bytes(t, 0, 0), 70001 * 40);
    r.w->table.hot[0].bytes[1] = 0x7fffffffu;
    frame_tcp(&f, 1, 2, 1, 80, 1000, (tcp_say){.seq = 100, .ack = 10, .flags = TCP_ACK, .window = 5000, .payload = "abc", .len = 3});
    rig_judge(&r, &f);
    CHECK_U64(ct_bytes(t, 0, 1), 0x7fffffffull + 43);
    CHECK_U64(ct_packets(t, 0, 1), 2);
    frame_tcp(&f, 1, 2, 1, 80, 1000, (tcp_say){.seq = 900000, .ack = 10, .flags = TCP_ACK, .window = 5000});
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_TCP_WINDOW);
    CHECK_U64(ct_packets(t, 0, 1), 2);
    r.now += RIG_S;
    frame_tcp(&f, 1, 1, 2, 1000, 80, (tcp_say){.seq = 10, .ack = 103, .flags = TCP_FIN | TCP_ACK, .window = 5000, .payload = "abc", .len = 3});
    rig_judge(&r, &f);
    r.now -= 5 * RIG_S; /* a capture that runs backwards */
    frame_tcp(&f, 1, 2, 1, 80, 1000, (tcp_say){.seq = 103, .ack = 14, .flags = TCP_RST | TCP_ACK, .window = 5000});
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_STATE);
    const ct_flow *flow = &t->flow[0];
    char history[sizeof flow->history + 1] = "";
    memcpy(history, flow->history, flow->history_len);
    CHECK_TEXT(history, "ShAdDFr");
    CHECK_U64(flow->dropped, 1);
    CHECK_U64(flow->start_ns, 1000 * RIG_S);
    CHECK_U64(flow->last_ns, 1002 * RIG_S);
    CHECK_U64(flow->cookie, 1);
    CHECK_U64(flow->proto, PROTO_TCP);
    CHECK_U64(flow->dir, PAL_DIR_OUT);
    rig_close(&r);
}

/* A packet gives its letters, and an A only when it has no other (packet-path.md, section 13). */
static void test_histories(void)
{
    static const struct {
        uint8_t flags;
        uint32_t len;
        const char *history;
    } third[] = {{TCP_ACK, 0, "ShA"}, {TCP_ACK, 3, "ShD"}, {TCP_ACK | TCP_FIN, 0, "ShF"}, {TCP_ACK | TCP_RST, 0, "ShR"}, {TCP_ACK | TCP_FIN, 3, "ShDF"}};
    check_where = "histories";
    for (uint32_t i = 0; i < sizeof third / sizeof third[0]; i++) {
        begin();
        frame_tcp(&f, 1, 1, 2, 1000, 80, (tcp_say){.seq = 9, .flags = TCP_SYN, .window = 5000});
        const uint32_t ref = rig_judge(&r, &f).ref;
        frame_tcp(&f, 1, 2, 1, 80, 1000, (tcp_say){.seq = 99, .ack = 10, .flags = TCP_SYN | TCP_ACK, .window = 5000});
        rig_judge(&r, &f);
        frame_tcp(&f, 1, 1, 2, 1000, 80, (tcp_say){.seq = 10, .ack = 100, .flags = third[i].flags, .window = 5000, .payload = "abc", .len = third[i].len});
        CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_STATE);
        const ct_flow *flow = &r.w->table.flow[ref];
        char history[sizeof flow->history + 1] = "";
        memcpy(history, flow->history, flow->history_len);
        CHECK_TEXT(history, third[i].history);
        rig_close(&r);
    }
}

/* Wrong sums and odd addresses are counted, once a packet, whatever becomes of it. */
static void test_sums(void)
{
    check_where = "sums";
    begin();
    r.w->parse.sum_mode = SUM_MODE_COUNT;
    r.w->parse.sanity = 1;
    for (uint32_t i = 0; i < 8; i++) {
        frame_udp(&f, PAL_FAMILY_V4, 1, 2, 1000, 53, "x", 1);
        if (i & 1)
            f.b[f.l3 + 8] ^= 1;
        if (i & 2)
            f.b[f.len - 1] ^= 1;
        if (i & 4) { /* from itself: the sums stay what they are */
            memcpy(f.b + f.l3 + 16, f.b + f.l3 + 12, 4);
            f.b[f.l3 + 15] = f.b[f.l3 + 19] = (uint8_t)(f.b[f.l3 + 15] + 1);
            frame_l4_sum(&f, PAL_FAMILY_V4, PROTO_UDP, 6);
            frame_ip_sum(&f);
            f.b[f.l3 + 8] ^= i & 1;
            f.b[f.len - 1] ^= i & 2;
        }
        CHECK_U64(rig_judge(&r, &f).verdict, PAL_ALLOW);
        CHECK_U64(r.w->bad_ip_sum, (i + 1) / 2);
        CHECK_U64(r.w->bad_l4_sum, i / 4 * 2 + (i % 4 > 1 ? i % 4 - 1 : 0));
        CHECK_U64(r.w->odd, i < 4 ? 0 : i - 3);
    }
    rig_close(&r);
}

/* What passes at the sender's filter goes on to the receiver's, in the other direction; what does not, does not. */
static void test_two_filters(void)
{
    for (uint32_t first = 0; first < 3; first++) {
        check_where = "two filters";
        pal_rule rules[3] = {rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL), rig_rule(2, PAL_ACTION_DROP, 0), rig_rule(3, PAL_ACTION_REJECT, 0)};
        /* The rule that matches stands elsewhere in each list, and only inward. */
        pal_rule inward[2] = {rig_rule(5, PAL_ACTION_DROP, 0), rig_rule(4, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL)};
        inward[0].dir = PAL_DIR_OUT;
        inward[1].dir = PAL_DIR_IN;
        begin_with(&rules[first]);
        if (first == 0) { /* a receiver whose filter has no rules yet */
            pal_packet p;
            frame_tcp(&f, PAL_FAMILY_V4, 1, 2, 7, 8, (tcp_say){.flags = TCP_SYN});
            rig_parse(&r, &p, f.b, f.len, f.len, LINKTYPE_ETHERNET);
            rig_burst(&r, &p, 1, 0, 1);
            CHECK(r.outs == 2 && r.out[0].verdict == PAL_ALLOW && r.out[1].reason == PAL_REASON_NO_RULESET);
        }
        rig_commit(&r, 1, inward, 2, false);
        frame_udp(&f, PAL_FAMILY_V4, 1, 2, 1000, 53, "x", 1);
        for (uint32_t again = 0; again < 2; again++) {
            pal_packet p;
            rig_forget(&r);
            rig_parse(&r, &p, f.b, f.len, f.len, LINKTYPE_ETHERNET);
            rig_burst(&r, &p, 1, 0, 1);
            CHECK_U64(r.outs, first ? 1 : 2);
            CHECK_U64(r.out[0].filter, 0);
            CHECK_U64(r.out[0].dir, PAL_DIR_OUT);
            CHECK_U64(r.out[0].rule, 1 + first);
            if (first)
                continue;
            CHECK_U64(r.out[1].filter, 1);
            CHECK_U64(r.out[1].dir, PAL_DIR_IN);
            CHECK_U64(r.out[1].rule, 4);
            CHECK_U64(r.out[1].reason, again ? PAL_REASON_STATE : PAL_REASON_MATCH);
        }
        CHECK_U64(r.w->received, first ? 2 : 6);
        CHECK(invariant_broken(r.w) == NULL);
        rig_close(&r);
    }
}

int main(void)
{
    test_two_filters();
    test_sums();
    test_first_packets();
    test_pseudo();
    test_groups();
    test_room();
    test_counts();
    test_histories();
    return check_end("test_judge");
}
