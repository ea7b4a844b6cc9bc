/* SPDX-License-Identifier: Apache-2.0
 *
 * test_reject.c - docs/packet-path.md, section 10: the bytes of every answer, who gets none, the rates, and the RSTs to
 * both ends of a connection that a policy change refuses.
 */
#include "support/rig.h"

#include "check.h"
#include "support/invariants.h"

static rig r;
static frame f;

static void begin(void)
{
    rig_open(&r, 500, 500);
    pal_rule all = rig_rule(3, PAL_ACTION_REJECT, PAL_RULE_STATEFUL);
    rig_commit(&r, 0, &all, 1, false);
}

static uint32_t be32_at(const uint8_t *b) { return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3]; }
static uint32_t be16_at(const uint8_t *b) { return (uint32_t)b[0] << 8 | b[1]; }

/* RFC 1071 by the book. */
static uint32_t sum_of(const uint8_t *b, uint32_t len, uint32_t sum)
{
    for (uint32_t i = 0; i < len; i++) {
        sum += i % 2 ? b[i] : (uint32_t)b[i] << 8;
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return sum;
}

/* The header of an answer from the refused destination to the sender, and its sums; returns its length. */
static uint32_t answer_header(const uint8_t *b, uint32_t len, uint32_t family, uint8_t from, uint8_t to, uint8_t proto)
{
    uint8_t a[16], z[16];
    host_addr(a, family, from);
    host_addr(z, family, to);
    if (family == PAL_FAMILY_V4) {
        static const uint8_t fixed[10] = {0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 0};
        for (uint32_t i = 0; i < 9; i++)
            CHECK_U64(i == 2 || i == 3 ? fixed[i] : b[i], fixed[i]);
        CHECK_U64(be16_at(b + 2), len);
        CHECK_U64(b[9], proto);
        CHECK(memcmp(b + 12, a, 4) == 0 && memcmp(b + 16, z, 4) == 0);
        CHECK_U64(sum_of(b, 20, 0), 0xffff);
        CHECK_U64(sum_of(b + 20, len - 20, proto == PROTO_ICMP ? 0 : sum_of(b + 12, 8, proto + len - 20)), 0xffff);
        return 20;
    }
    CHECK_U64(be32_at(b), 0x60000000u);
    CHECK_U64(be16_at(b + 4), len - 40);
    CHECK_U64(b[6], proto);
    CHECK_U64(b[7], 64);
    CHECK(memcmp(b + 8, a, 16) == 0 && memcmp(b + 24, z, 16) == 0);
    CHECK_U64(sum_of(b + 40, len - 40, sum_of(b + 8, 32, proto + len - 40)), 0xffff);
    return 40;
}

static void is_rst(const uint8_t *b, uint32_t len, uint32_t family, uint8_t from, uint8_t to, uint16_t sport, uint16_t dport,
                   uint32_t seq, uint32_t ack, uint8_t flags)
{
    uint32_t head = family == PAL_FAMILY_V4 ? 20 : 40;
    CHECK_U64(len, head + 20);
    answer_header(b, len, family, from, to, PROTO_TCP);
    b += head;
    CHECK_U64(be16_at(b), sport);
    CHECK_U64(be16_at(b + 2), dport);
    CHECK_U64(be32_at(b + 4), seq);
    CHECK_U64(be32_at(b + 8), ack);
    CHECK_U64(b[12], 0x50);
    CHECK_U64(b[13], flags);
    CHECK(be16_at(b + 14) == 0 && be16_at(b + 18) == 0);
}

static void test_rst(void)
{
    static const struct {
        uint8_t flags;
        uint32_t len, end; /* what the RST acknowledges, counted from seq; no ACK in it: 99 */
    } cases[] = {{TCP_SYN, 0, 1}, {TCP_SYN, 3, 4}, {TCP_SYN | TCP_ACK, 0, 99}, {TCP_ACK, 5, 99}, {TCP_FIN | TCP_ACK, 0, 99},
                 {TCP_SYN | TCP_URG, 2, 3}};
    for (uint32_t family = 1; family <= 2; family++)
        for (uint32_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            check_where = "rst";
            begin();
            frame_tcp(&f, family, 7, 9, 1111, 80, (tcp_say){.seq = 0xfffffffeu, .ack = 4242, .flags = cases[i].flags, .payload = "abcde",
                      .len = cases[i].len});
            pal_judgement j = rig_judge(&r, &f);
            CHECK_U64(j.verdict, PAL_REJECT);
            CHECK_U64(j.reason, PAL_REASON_MATCH);
            CHECK_U64(j.ct, cases[i].flags & TCP_ACK && !(cases[i].flags == TCP_ACK) ? PAL_CT_INVALID : PAL_CT_NEW);
            CHECK_U64(r.sent, 1);
            bool acked = cases[i].end == 99;
            is_rst(r.answer, r.answer_len, family, 9, 7, 80, 1111, acked ? 4242 : 0, acked ? 0 : 0xfffffffeu + cases[i].end,
                   acked ? TCP_RST : TCP_RST | TCP_ACK);
            rig_close(&r);
        }
}

/* ICMP 3/13 quotes header and 8 bytes; ICMPv6 1/1 as much as fits into 1,280. */
static void test_unreachable(void)
{
    static uint8_t body[1500];
    for (uint32_t i = 0; i < sizeof body; i++)
        body[i] = (uint8_t)(i * 3 + 1);
    static const uint32_t sizes[] = {0, 1, 7, 100, 1280 - 40 - 8 - 40 - 8, 1280 - 40 - 8 - 40 - 8 + 1, 1400};
    for (uint32_t family = 1; family <= 2; family++)
        for (uint32_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            check_where = "unreachable";
            begin();
            frame_udp(&f, family, 7, 9, 1111, 53, body, sizes[i]);
            CHECK_U64(rig_judge(&r, &f).verdict, PAL_REJECT);
            CHECK_U64(r.sent, 1);
            uint32_t all = f.len - f.l3, quote = family == PAL_FAMILY_V4 ? 28 : all < 1232 ? all : 1232;
            uint32_t head = answer_header(r.answer, r.answer_len, family, 9, 7, family == PAL_FAMILY_V4 ? PROTO_ICMP : PROTO_ICMP6);
            CHECK_U64(r.answer_len, head + 8 + quote);
            CHECK_U64(r.answer[head], family == PAL_FAMILY_V4 ? 3 : 1);
            CHECK_U64(r.answer[head + 1], family == PAL_FAMILY_V4 ? 13 : 1);
            CHECK_U64(be32_at(r.answer + head + 4), 0);
            CHECK(memcmp(r.answer + head + 8, f.b + f.l3, quote) == 0);
            rig_close(&r);
        }
    /* IPv4 options are header too; what is not present is not quoted, nor is padding. */
    begin();
    frame_udp(&f, PAL_FAMILY_V4, 7, 9, 1111, 53, body, 40);
    memmove(f.b + f.l4 + 8, f.b + f.l4, f.len - f.l4);
    memset(f.b + f.l4, 1, 8);
    f.b[f.l3] = 0x47;
    store_be16(f.b + f.l3 + 2, (uint16_t)(f.len - f.l3 + 8));
    f.len += 8;
    frame_ip_sum(&f);
    CHECK_U64(rig_judge(&r, &f).verdict, PAL_REJECT);
    CHECK_U64(r.answer_len, 20 + 8 + 28 + 8);
    frame_udp(&f, PAL_FAMILY_V6, 7, 9, 1111, 53, body, 400);
    CHECK_U64(rig_judge_cut(&r, &f, f.len - 100).verdict, PAL_REJECT);
    CHECK_U64(r.answer_len, 40 + 8 + 40 + 8 + 300);
    frame_udp(&f, PAL_FAMILY_V4, 7, 9, 1111, 53, NULL, 0);
    f.len += 18;
    CHECK_U64(rig_judge(&r, &f).verdict, PAL_REJECT);
    CHECK_U64(r.answer_len, 20 + 8 + 28);
    rig_close(&r);
}

static void answered(const char *what, uint32_t sent)
{
    check_where = what;
    rig_forget(&r);
    pal_judgement j = rig_judge(&r, &f);
    CHECK_U64(j.verdict, PAL_REJECT);
    CHECK_U64(r.sent, sent);
}

/* REJECT all the same, but no packet. */
static void test_unanswered(void)
{
    for (uint32_t family = 1; family <= 2; family++) {
        begin();
        uint32_t n = family == PAL_FAMILY_V4 ? 4 : 16, src = family == PAL_FAMILY_V4 ? 12 : 8;
        frame_tcp(&f, family, 1, 2, 5, 6, (tcp_say){.flags = TCP_RST});
        answered("RST", 0);
        frame_tcp(&f, family, 1, 2, 5, 6, (tcp_say){.flags = TCP_RST | TCP_ACK});
        answered("RST+ACK", 0);
        for (uint32_t end = 0; end < 2; end++) {
            frame_udp(&f, family, 1, 2, 5, 6, "x", 1);
            uint8_t *a = f.b + 14 + src + end * n;
            memset(a, 0, n);
            store_be16(f.b + f.l4 + 6, 0); /* no sum, IPv4 only: in IPv6 it is not looked at here */
            frame_ip_sum(&f);
            answered(end ? "to nowhere" : "from nowhere", 0);
            a[0] = family == PAL_FAMILY_V4 ? 0xe0 : 0xff;
            frame_ip_sum(&f);
            answered("group", 0);
            a[0] = family == PAL_FAMILY_V4 ? 0xef : 0xff;
            a[n - 1] = 1;
            frame_ip_sum(&f);
            answered("group", 0);
            a[0] = family == PAL_FAMILY_V4 ? 0xdf : 0xfe;
            frame_ip_sum(&f);
            answered("no group", 1);
            if (family == PAL_FAMILY_V4) {
                memset(a, 0xff, 4);
                frame_ip_sum(&f);
                answered("everybody", 0);
                a[3] = 0xfe;
                frame_ip_sum(&f);
                answered("class E", 1);
            }
        }
        frame_udp(&f, family, 1, 2, 5, 6, "x", 1);
        f.b[f.len - 1] ^= 1;
        r.w->parse.sum_mode = SUM_MODE_COUNT;
        answered("bad sum", 0);
        frame_udp(&f, family, 1, 2, 5, 6, "x", 1);
        if (family == PAL_FAMILY_V4) {
            f.b[f.l3 + 8] ^= 1;
            answered("bad header sum", 0);
            f.b[f.l3 + 8] ^= 1;
        }
        answered("good sums", 1);
        f.b[0] |= 1; /* a directed broadcast, say: only its frame tells */
        answered("to a group's MAC address", 0);
        const uint8_t datagram[48] = {0, 5, 0, 6, 0, sizeof datagram};
        for (uint32_t group = 0; group < 2; group++) {
            frame_fragment(&f, family, 1, 2, PROTO_UDP, 9 + group, 0, true, datagram, 24);
            f.b[0] |= (uint8_t)group;
            CHECK_U64(rig_judge(&r, &f).verdict, PAL_HELD);
            frame_fragment(&f, family, 1, 2, PROTO_UDP, 9 + group, 24, false, datagram + 24, 24);
            f.b[0] |= (uint8_t)group;
            answered(group ? "fragments to a group's MAC address" : "fragments", !group);
        }
        frame_ping(&f, family, 1, 2, true, 5);
        answered("an ICMP answer", 1);
        uint8_t rest[4 + 60] = {0};
        frame quoted = {0};
        frame_udp(&quoted, family, 2, 1, 6, 5, NULL, 0);
        memcpy(rest + 4, quoted.b + quoted.l3, quoted.len - quoted.l3);
        frame_icmp(&f, family, 1, 2, family == PAL_FAMILY_V4 ? 3 : 1, 3, rest, 4 + quoted.len - quoted.l3);
        answered("an ICMP error", 0);
        rig_close(&r);
    }
}

static uint32_t rejected(uint8_t from, uint32_t family, uint32_t times)
{
    uint32_t n = 0;
    frame_udp(&f, family, from, 200, 5, 6, "x", 1);
    for (uint32_t i = 0; i < times; i++) {
        pal_judgement j = rig_judge(&r, &f);
        n += j.verdict == PAL_REJECT;
        if (j.verdict != PAL_REJECT) {
            CHECK_U64(j.verdict, PAL_DROP);
            CHECK_U64(j.reason, PAL_REASON_REJECT_RATE);
            CHECK_U64(j.rule, 3);
        }
    }
    return n;
}

/* 10 a second to a source, 50 to all of a side (all of this runs OUT); the second is tick div 100. */
static void test_rates(void)
{
    check_where = "rates";
    begin();
    r.now = 5000 * RIG_S;
    CHECK_U64(rejected(1, 1, 12), 10);
    CHECK_U64(rejected(1, 2, 12), 10); /* another family: another source */
    r.now += 999 * RIG_MS;
    CHECK_U64(rejected(1, 1, 3), 0);
    CHECK_U64(rejected(2, 1, 3), 3);
    r.now += RIG_MS;
    CHECK_U64(rejected(1, 1, 12), 10);
    for (uint8_t from = 2; from <= 4; from++)
        CHECK_U64(rejected(from, 1 + from % 2, 11), 10);
    CHECK_U64(rejected(10, 1, 9), 9);
    CHECK_U64(rejected(11, 1, 5), 1); /* the fiftieth */
    CHECK_U64(rejected(12, 1, 5), 0);
    CHECK_U64(rejected(2, 1, 5), 0);
    r.now += RIG_S;
    for (uint8_t from = 1; from <= 120; from++)
        CHECK_U64(rejected(from, 1, 1), from <= 50);
    CHECK_U64(rejected(1, 1, 1), 0);
    /* Each filter has its own. */
    pal_rule all = rig_rule(3, PAL_ACTION_REJECT, PAL_RULE_STATEFUL);
    rig_commit(&r, 1, &all, 1, false);
    pal_packet p;
    rig_parse(&r, &p, f.b, f.len, f.len, LINKTYPE_ETHERNET);
    rig_burst(&r, &p, 1, 1, 4);
    CHECK_U64(r.out[r.outs - 1].verdict, PAL_REJECT);
    rig_close(&r);
}

/* A policy change that refuses: a RST to each end that was seen, first to the packet's sender, in the other's name. */
static void test_policy_change(void)
{
    for (uint32_t family = 1; family <= 2; family++)
        for (uint32_t way = 0; way < 2; way++)
            for (uint32_t stage = 0; stage < 3; stage++) {
                check_where = "policy change";
                rig_open(&r, 50, 50);
                pal_rule allow = rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL), deny = rig_rule(2, PAL_ACTION_REJECT, PAL_RULE_STATEFUL);
                rig_commit(&r, 0, &allow, 1, false);
                frame_tcp(&f, family, 7, 9, 1111, 80, (tcp_say){.seq = 1000, .flags = TCP_SYN, .window = 500});
                rig_judge(&r, &f);
                if (stage > 0) {
                    frame_tcp(&f, family, 9, 7, 80, 1111, (tcp_say){.seq = 7000, .ack = 1001, .flags = TCP_SYN | TCP_ACK, .window = 500});
                    rig_judge(&r, &f);
                }
                if (stage > 1) {
                    frame_tcp(&f, family, 7, 9, 1111, 80, (tcp_say){.seq = 1001, .ack = 7001, .flags = TCP_ACK, .window = 500, .payload = "hello", .len = 5});
                    rig_judge(&r, &f);
                }
                rig_commit(&r, 0, &deny, 1, false);
                rig_forget(&r);
                if (way == 0)
                    frame_tcp(&f, family, 7, 9, 1111, 80, (tcp_say){.seq = 1006, .ack = 7001, .flags = TCP_ACK, .window = 500});
                else
                    frame_tcp(&f, family, 9, 7, 80, 1111, (tcp_say){.seq = 7001, .ack = 1006, .flags = TCP_ACK, .window = 500});
                pal_judgement j = rig_judge(&r, &f);
                CHECK_U64(j.verdict, PAL_DROP);
                CHECK_U64(j.reason, PAL_REASON_POLICY_CHANGE);
                CHECK_U64(j.rule, 2);
                CHECK_U64(j.ct, stage ? PAL_CT_ESTABLISHED : PAL_CT_NEW);
                CHECK_U64(j.reply, way);
                CHECK_U64(r.sent, stage ? 2 : 1);
                uint32_t client_at = stage && way ? 1 : 0, server_at = !client_at;
                if (stage > 1) /* the client has acknowledged 7001 */
                    is_rst(r.generated[client_at], r.generated_len[client_at], family, 9, 7, 80, 1111, 7001, 0, TCP_RST);
                else
                    is_rst(r.generated[client_at], r.generated_len[client_at], family, 9, 7, 80, 1111, 0, 1001, TCP_RST | TCP_ACK);
                if (stage)
                    is_rst(r.generated[server_at], r.generated_len[server_at], family, 7, 9, 1111, 80, 1001, 0, TCP_RST);
                const char *broken = invariant_broken(r.w);
                CHECK(broken == NULL);
                CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_MATCH); /* it is gone */
                rig_close(&r);
            }
    /* Others: the ICMP to the packet's sender only; beyond the rate nothing is sent and the verdict stays. */
    check_where = "policy change, UDP";
    rig_open(&r, 50, 50);
    pal_rule allow = rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL), deny = rig_rule(2, PAL_ACTION_REJECT, PAL_RULE_STATEFUL);
    rig_commit(&r, 0, &allow, 1, false);
    for (uint16_t port = 0; port < 12; port++) {
        frame_udp(&f, PAL_FAMILY_V4, 7, 9, (uint16_t)(1000 + port), 53, "?", 1);
        rig_judge(&r, &f);
    }
    rig_commit(&r, 0, &deny, 1, false);
    rig_forget(&r);
    for (uint16_t port = 0; port < 12; port++) {
        frame_udp(&f, PAL_FAMILY_V4, 7, 9, (uint16_t)(1000 + port), 53, "?", 1);
        pal_judgement j = rig_judge(&r, &f);
        CHECK_U64(j.verdict, PAL_DROP);
        CHECK_U64(j.reason, PAL_REASON_POLICY_CHANGE);
        CHECK_U64(r.sent, port < 10 ? port + 1u : 10);
    }
    answer_header(r.answer, r.answer_len, PAL_FAMILY_V4, 9, 7, PROTO_ICMP);
    rig_close(&r);
}

int main(void)
{
    test_rst();
    test_unreachable();
    test_unanswered();
    test_rates();
    test_policy_change();
    return check_end("test_reject");
}
