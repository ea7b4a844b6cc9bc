/* SPDX-License-Identifier: Apache-2.0
 *
 * test_host.c - docs/packet-path.md, section 15, packet by packet: who may have no address yet, what a sender is told of, and what of
 * a routed packet is asked each time.
 */
#include "support/host_rig.h"

#include "check.h"

static host_rig x;

/* Who has no address yet: duplicate address detection (RFC 4862), router solicitation (RFC 4861, section 4.1) and multicast
 * listener reports of both versions (RFC 3590, RFC 3810 section 5.2.13) come from "::"; nothing else may. */
static void test_nameless(void)
{
    static const struct {
        uint8_t type, rest;
        bool passes;
    } says[] = {{131, 20, true}, {143, 24, true}, {133, 4, true}, {128, 4, false}, {130, 20, false}, {132, 20, false}, {144, 4, false}};
    pal_rule rule = rig_rule(0, PAL_ACTION_ALLOW, 0);
    static const uint8_t group[16] = {0xff, 2, [15] = 0x16}, bytes[24] = {0};
    frame f;
    host_rig_open(&x, PAL_GUARD_SPOOF);
    for (uint32_t i = 0; i < 4; i++)
        rig_commit(&x.r, i, &rule, 1, false);
    uint64_t refused = 0;
    for (uint32_t i = 0; i < sizeof says / sizeof says[0]; i++) {
        check_where = "from no address";
        frame_icmp(&f, PAL_FAMILY_V6, 1, 2, says[i].type, 0, bytes, says[i].rest);
        memset(f.b, 0x33, 2);
        memcpy(f.b + 2, group + 12, 4);
        memset(f.b + f.l3 + 8, 0, 16);
        memcpy(f.b + f.l3 + 24, group, 16);
        f.b[f.l3 + 7] = says[i].type == 133 ? 255 : 1;
        frame_l4_sum(&f, PAL_FAMILY_V6, PROTO_ICMP6, 2);
        host_rig_send(&x, 0, &f);
        refused += !says[i].passes;
        CHECK_U64(x.lefts, says[i].passes ? 3 : 0); /* to the other vNIC of the segment, and to both TEPs */
        CHECK_U64(x.w->stats.dropped[PAL_REASON_SPOOF_IP], refused);
        host_rig_forget(&x);
    }
    CHECK(host_rig_balanced(&x));
    host_rig_close(&x);
}

/* Pieces to where there is no route: the sender is told about the one that makes its datagram whole, if it is the first of the
 * datagram, and never about a later one (RFC 1122, section 3.2.2). */
static void test_unreachable(void)
{
    pal_rule rule = rig_rule(0, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    static const uint8_t bytes[32] = {8};
    frame f;
    host_rig_open(&x, 0);
    for (uint32_t i = 0; i < 4; i++)
        rig_commit(&x.r, i, &rule, 1, false);
    for (uint32_t first = 0; first < 2; first++) { /* which comes last */
        check_where = "pieces to nowhere";
        for (uint32_t i = 0; i < 2; i++) {
            const uint32_t later = i ^ first;
            frame_fragment(&f, PAL_FAMILY_V4, 1, 77, PROTO_ICMP, first, later * 16, !later, bytes + later * 16, 16);
            memcpy(f.b, gateway_mac, 6);
            mac_of(f.b + 6, 1);
            host_rig_send(&x, 0, &f);
        }
        CHECK_U64(x.w->stats.dropped[PAL_REASON_NO_ROUTE], 2 * (first + 1));
        CHECK_U64(x.lefts, first);
        CHECK(!first || (x.left[0].out.vnic == 0 && left_bytes(&x, 0)[34] == 3 && left_bytes(&x, 0)[35] == 0));
        host_rig_forget(&x);
    }
    CHECK(host_rig_balanced(&x));
    host_rig_close(&x);
}

/* What was found out for one packet holds for the next to the same address, but for what that one has itself: hops left, a length, a
 * source that no router forwards. */
static void test_routed_again(void)
{
    pal_rule rule = rig_rule(0, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    static const uint8_t zeros[1600] = {0};
    static const struct {
        uint8_t hops;
        uint32_t bytes;
        bool link_local;
        uint8_t reason;
        uint8_t told[2][2]; /* the error's type and code, by family; 0: none */
    } next[] = {{64, 8, false, 0, {{0}}}, {1, 8, false, PAL_REASON_HOP_LIMIT, {{11, 0}, {3, 0}}}, {2, 8, false, 0, {{0}}},
                {64, 1500, false, PAL_REASON_MTU, {{3, 4}, {2, 0}}}, {64, 8, true, PAL_REASON_NO_ROUTE, {{0}}}, {64, 8, false, 0, {{0}}}};
    frame f;
    for (uint32_t family = PAL_FAMILY_V4; family <= PAL_FAMILY_V6; family++) {
        check_where = family == PAL_FAMILY_V4 ? "routed again, IPv4" : "routed again, IPv6";
        host_rig_open(&x, 0);
        for (uint32_t i = 0; i < 4; i++)
            rig_commit(&x.r, i, &rule, 1, false);
        for (uint32_t i = 0; i < sizeof next / sizeof next[0]; i++) {
            frame_udp(&f, family, 1, 3, 7, 8, zeros, next[i].bytes);
            memcpy(f.b, gateway_mac, 6);
            mac_of(f.b + 6, 1);
            uint8_t *ip = f.b + f.l3, *src = ip + (family == PAL_FAMILY_V4 ? 12 : 8);
            ip[family == PAL_FAMILY_V4 ? 8 : 7] = next[i].hops;
            if (next[i].link_local)
                memcpy(src, family == PAL_FAMILY_V4 ? (const uint8_t[]){169, 254} : (const uint8_t[]){0xfe, 0x80}, 2);
            frame_l4_sum(&f, family, PROTO_UDP, 6);
            frame_ip_sum(&f);
            const uint64_t before = x.w->stats.dropped[next[i].reason];
            host_rig_forget(&x);
            host_rig_send(&x, 0, &f);
            CHECK_U64(x.lefts > 0 && x.left[0].out.vnic == 2, next[i].reason == 0);
            CHECK(next[i].reason == 0 || x.w->stats.dropped[next[i].reason] == before + 1);
            const uint8_t *told = next[i].told[family - 1], *icmp = left_bytes(&x, 0) + f.l4;
            if (next[i].reason)
                CHECK_U64(x.lefts, told[0] != 0);
            if (told[0]) {
                pal_packet p;
                CHECK(x.lefts && x.left[0].out.vnic == 0 && icmp[0] == told[0] && icmp[1] == told[1]);
                rig_parse(&x.r, &p, left_bytes(&x, 0), x.left[0].out.len, x.left[0].out.len, LINKTYPE_ETHERNET);
                CHECK_U64(l4_checksum(&p), SUM_GOOD);
            }
        }
        CHECK(host_rig_balanced(&x));
        host_rig_close(&x);
    }
}

/* Of a packet that asks nothing of the card, what its sender wrote into the virtio header's other fields reaches nobody. */
static void test_plain_offload(void)
{
    check_where = "what a header says that asks for nothing";
    pal_rule rule = rig_rule(0, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    static const host_offload nothing = {0};
    frame f;
    host_rig_open(&x, 0);
    for (uint32_t i = 0; i < 4; i++)
        rig_commit(&x.r, i, &rule, 1, false);
    for (uint8_t to = 2; to <= 5; to += 3) { /* a vNIC here, and a host behind a TEP */
        frame_udp(&f, PAL_FAMILY_V4, 1, to, 7, 8, "x", 1);
        mac_of(f.b, to);
        mac_of(f.b + 6, 1);
        const host_frame h = {.data = f.b, .len = f.len, .from = 0,
                              .offload = {.hdr_len = 9, .gso_size = 99, .csum_start = 14, .csum_offset = 3, .flags = OFFLOAD_DATA_VALID, .reserved = 0x1234}};
        host_rig_burst(&x, &h, 1);
        CHECK_U64(x.lefts, 1);
        CHECK(memcmp(&x.left[0].out.offload, &nothing, sizeof nothing) == 0);
        host_rig_forget(&x);
    }
    CHECK(host_rig_balanced(&x));
    host_rig_close(&x);
}

/* The card would write where the sender says: only the transport's own sum is such a place, and a super-packet has none yet. */
static void test_offload_refused(void)
{
    pal_rule rule = rig_rule(0, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    static const uint8_t zeros[900] = {0};
    frame segment, ping;
    frame_tcp(&segment, PAL_FAMILY_V4, 1, 2, 7, 8, (tcp_say){.seq = 1, .flags = TCP_ACK, .window = 9, .payload = zeros, .len = sizeof zeros});
    frame_ping(&ping, PAL_FAMILY_V4, 1, 2, false, 7);
    for (uint32_t i = 0; i < 2; i++) {
        mac_of((i ? &ping : &segment)->b, 2);
        mac_of((i ? &ping : &segment)->b + 6, 1);
    }
    const struct {
        host_offload o;
        bool passes, ping;
    } cases[] = {{{.flags = OFFLOAD_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16}, true, false}, {{.flags = OFFLOAD_NEEDS_CSUM, .csum_start = 33, .csum_offset = 16}, false, false},
                 {{.flags = OFFLOAD_NEEDS_CSUM, .csum_start = 34, .csum_offset = 6}, false, false}, {{.flags = OFFLOAD_NEEDS_CSUM, .csum_start = 14, .csum_offset = 10}, false, false},
                 {{.gso_type = OFFLOAD_GSO_TCPV4, .gso_size = 400, .csum_start = 34, .csum_offset = 16}, false, false},
                 {{.flags = 4, .csum_start = 34, .csum_offset = 16}, false, false},
                 {{.flags = OFFLOAD_NEEDS_CSUM, .gso_type = OFFLOAD_GSO_TCPV6, .gso_size = 400, .csum_start = 34, .csum_offset = 16}, false, false},
                 {{.flags = OFFLOAD_NEEDS_CSUM, .gso_type = OFFLOAD_GSO_TCPV4, .gso_size = 31, .csum_start = 34, .csum_offset = 16}, false, false},
                 {{.csum_start = 34}, true, true}, {{.flags = OFFLOAD_NEEDS_CSUM, .csum_start = 34}, false, true}, /* a ping's type and code are no sum */
                 {{.flags = OFFLOAD_NEEDS_CSUM, .csum_start = 34, .csum_offset = 2}, false, true}};
    uint64_t refused = 0;
    check_where = "offloads that are refused";
    host_rig_open(&x, 0);
    for (uint32_t i = 0; i < 4; i++)
        rig_commit(&x.r, i, &rule, 1, false);
    for (uint32_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        frame *f = cases[i].ping ? &ping : &segment;
        const host_frame h = {.data = f->b, .len = f->len, .from = 0, .offload = cases[i].o};
        host_rig_forget(&x);
        host_rig_burst(&x, &h, 1);
        refused += !cases[i].passes;
        CHECK_U64(x.lefts, cases[i].passes);
        CHECK_U64(x.w->stats.dropped[PAL_REASON_OFFLOAD], refused);
    }
    CHECK(host_rig_balanced(&x));
    host_rig_close(&x);
}

/* A super-packet goes on as one, and counts as the packets that it becomes on a wire. */
static void test_super(void)
{
    pal_rule rule = rig_rule(0, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    static const uint8_t zeros[1500] = {0};
    frame f;
    for (uint32_t family = PAL_FAMILY_V4; family <= PAL_FAMILY_V6; family++)
        for (uint32_t udp = 0; udp < 2; udp++) {
            check_where = "a super-packet";
            host_rig_open(&x, PAL_GUARD_SPOOF);
            for (uint32_t i = 0; i < 4; i++)
                rig_commit(&x.r, i, &rule, 1, false);
            if (udp)
                frame_udp(&f, family, 1, 2, 7, 8, zeros, sizeof zeros);
            else
                frame_tcp(&f, family, 1, 2, 7, 8, (tcp_say){.seq = 1, .flags = TCP_ACK, .window = 9, .payload = zeros, .len = sizeof zeros});
            mac_of(f.b, 2);
            mac_of(f.b + 6, 1);
            const host_offload o = {.hdr_len = (uint16_t)(f.l4 + (udp ? 8 : 20)), .gso_size = 400, .csum_start = (uint16_t)f.l4, .csum_offset = udp ? 6 : 16,
                                    .gso_type = udp ? OFFLOAD_GSO_UDP_L4 : family == PAL_FAMILY_V4 ? OFFLOAD_GSO_TCPV4 : OFFLOAD_GSO_TCPV6, .flags = OFFLOAD_NEEDS_CSUM};
            const host_frame h = {.data = f.b, .len = f.len, .from = 0, .offload = o};
            host_rig_burst(&x, &h, 1);
            CHECK_U64(x.lefts, 1);
            CHECK(x.left[0].out.vnic == 1 && memcmp(&x.left[0].out.offload, &o, sizeof o) == 0);
            pal_rule_count count[1];
            pal_engine_rules_read(x.r.e, count, 1);
            CHECK_U64(count[0].packets, 2 * 4); /* at two filters */
            host_rig_close(&x);
        }
}

/* Who asks for the gateway's address gets RFC 826's answer, byte by byte. */
static void test_arp(void)
{
    static const uint8_t asks[42] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1,
                                     2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 254};
    static const uint8_t answer[42] = {2, 0, 0, 0, 0, 1, 2, 0x50, 0x6c, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 2,
                                       2, 0x50, 0x6c, 0, 0, 1, 10, 0, 0, 254, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1};
    check_where = "ARP";
    pal_rule rule = rig_rule(0, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    frame f = {.len = sizeof asks};
    memcpy(f.b, asks, sizeof asks);
    host_rig_open(&x, PAL_GUARD_SPOOF);
    for (uint32_t i = 0; i < 4; i++)
        rig_commit(&x.r, i, &rule, 1, false);
    host_rig_send(&x, 0, &f);
    CHECK_U64(x.lefts, 1);
    CHECK_U64(x.left[0].out.vnic, 0);
    CHECK(x.left[0].out.len == sizeof answer && memcmp(left_bytes(&x, 0), answer, sizeof answer) == 0);
    CHECK(host_rig_balanced(&x));
    host_rig_close(&x);
}

/* A vNIC that says it is host 5, which is behind a TEP, and asks for host 5's address: it has come here, and nobody else answers for it. */
static void test_moved(void)
{
    pal_rule rule = rig_rule(0, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    check_where = "moved";
    host_rig_open(&x, 0);
    for (uint32_t i = 0; i < 4; i++)
        rig_commit(&x.r, i, &rule, 1, false);
    for (uint8_t who = 1; who <= 5; who += 4) {
        frame f = {.len = 42, .b = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, who, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1,
                                    2, 0, 0, 0, 0, who, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 5}};
        host_rig_forget(&x);
        host_rig_send(&x, 0, &f);
        CHECK_U64(x.lefts, who == 1 ? 1 : 3);
        CHECK_U64(x.left[0].out.vnic == 0, who == 1);
        CHECK(who == 5 || left_bytes(&x, 0)[27] == 5); /* sender's MAC address in the answer */
    }
    /* To a MAC address that nobody has: to all of the segment. */
    frame f;
    frame_udp(&f, PAL_FAMILY_V4, 1, 2, 7, 8, "x", 1);
    mac_of(f.b, 99);
    mac_of(f.b + 6, 1);
    host_rig_forget(&x);
    host_rig_send(&x, 0, &f);
    CHECK_U64(x.lefts, 3);
    CHECK(host_rig_balanced(&x));
    host_rig_close(&x);
}

/* Host 1 asks whose address host `target` (254: the gateway) has; `option`: the number of the MAC address that it gives as its own, 0: none. */
static void solicitation(frame *f, bool nameless, uint8_t target, uint8_t option, uint8_t hops, uint8_t code, uint32_t len)
{
    uint8_t rest[28] = {0};
    host_addr(rest + 4, PAL_FAMILY_V6, target);
    if (option) {
        rest[20] = 1, rest[21] = 1;
        mac_of(rest + 22, option);
    }
    frame_icmp(f, PAL_FAMILY_V6, 1, target, 135, code, rest, len ? len - 4 : option ? 28 : 20);
    const uint8_t group[16] = {0xff, 2, [11] = 1, [12] = 0xff, [15] = target};
    memcpy(f->b + f->l3 + 24, group, 16);
    memcpy(f->b, (const uint8_t[]){0x33, 0x33, 0xff, 0, 0, target}, 6);
    mac_of(f->b + 6, 1);
    if (nameless)
        memset(f->b + f->l3 + 8, 0, 16);
    f->b[f->l3 + 7] = hops;
    frame_l4_sum(f, PAL_FAMILY_V6, PROTO_ICMP6, 2);
}

/* RFC 4861, sections 4.4 and 7.2.4: the gateway answers for itself, a host's own switch for its neighbours; an answer byte by byte. */
static void test_neighbour_discovery(void)
{
    static const struct {
        bool nameless;
        uint8_t target, option, hops, code;
        uint32_t len;
        uint8_t flags; /* of the answer: router, solicited, override; 0: none */
    } asks[] = {{false, 254, 1, 255, 0, 0, 0xe0}, {false, 254, 0, 255, 0, 0, 0xe0}, {true, 254, 0, 255, 0, 0, 0xa0}, {false, 2, 1, 255, 0, 0, 0x60}, {true, 2, 0, 255, 0, 0, 0x20},
                {false, 254, 1, 254, 0, 0, 0}, {false, 254, 1, 255, 1, 0, 0}, {false, 254, 0, 255, 0, 20, 0}, {false, 99, 1, 255, 0, 0, 0}};
    pal_rule rule = rig_rule(0, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    frame f;
    host_rig_open(&x, 0);
    for (uint32_t i = 0; i < 4; i++)
        rig_commit(&x.r, i, &rule, 1, false);
    for (uint32_t i = 0; i < sizeof asks / sizeof asks[0]; i++) {
        check_where = "neighbour discovery";
        solicitation(&f, asks[i].nameless, asks[i].target, asks[i].option, asks[i].hops, asks[i].code, asks[i].len);
        host_rig_forget(&x);
        host_rig_send(&x, 0, &f);
        if (!asks[i].flags) { /* it goes to the segment's other vNIC and to both TEPs, like others for many */
            CHECK_U64(x.lefts, 3);
            CHECK(x.left[0].out.vnic != 0 && x.left[1].out.vnic != 0 && x.left[2].out.vnic != 0);
            continue;
        }
        uint8_t mac[6], rest[28] = {asks[i].flags, [20] = 2, [21] = 1};
        mac_of(mac, asks[i].target);
        if (asks[i].target == 254)
            memcpy(mac, gateway_mac, 6);
        host_addr(rest + 4, PAL_FAMILY_V6, asks[i].target);
        memcpy(rest + 22, mac, 6);
        frame_icmp(&f, PAL_FAMILY_V6, asks[i].target, 1, 136, 0, rest, sizeof rest);
        mac_of(f.b, 1);
        if (asks[i].nameless) {
            memcpy(f.b, (const uint8_t[]){0x33, 0x33, 0, 0, 0, 1}, 6);
            memcpy(f.b + f.l3 + 24, (const uint8_t[16]){0xff, 2, [15] = 1}, 16);
        }
        memcpy(f.b + 6, mac, 6);
        f.b[f.l3 + 7] = 255;
        frame_l4_sum(&f, PAL_FAMILY_V6, PROTO_ICMP6, 2);
        CHECK_U64(x.lefts, 1);
        CHECK(x.left[0].out.vnic == 0 && x.left[0].out.len == f.len && memcmp(left_bytes(&x, 0), f.b, f.len) == 0);
    }
    CHECK(host_rig_balanced(&x));
    host_rig_close(&x);
    /* Spoofguard: the MAC address that it gives must be its own; without an address it may ask for its own only. */
    host_rig_open(&x, PAL_GUARD_SPOOF);
    for (uint32_t i = 0; i < 4; i++)
        rig_commit(&x.r, i, &rule, 1, false);
    static const struct {
        bool nameless;
        uint8_t target, option;
        bool refused;
    } guarded[] = {{false, 254, 1, false}, {false, 254, 0, false}, {false, 254, 2, true}, {true, 1, 0, false}, {true, 2, 0, true}};
    uint64_t refused = 0;
    for (uint32_t i = 0; i < sizeof guarded / sizeof guarded[0]; i++) {
        check_where = "neighbour discovery, guarded";
        solicitation(&f, guarded[i].nameless, guarded[i].target, guarded[i].option, 255, 0, 0);
        host_rig_send(&x, 0, &f);
        refused += guarded[i].refused;
        CHECK_U64(x.w->stats.dropped[PAL_REASON_SPOOF_ND], refused);
    }
    host_rig_close(&x);
}

/* What only a DHCP server or a router says passes a vNIC whose guard against it is off, and no other. */
static void test_guards(void)
{
    static const struct {
        uint8_t family, proto;
        uint16_t sport, dport; /* of ICMP: type, code */
        uint32_t guard;
        uint8_t reason;
    } says[] = {{PAL_FAMILY_V4, PROTO_UDP, 67, 68, PAL_GUARD_DHCP, PAL_REASON_DHCP_GUARD}, {PAL_FAMILY_V6, PROTO_UDP, 547, 546, PAL_GUARD_DHCP, PAL_REASON_DHCP_GUARD},
                {PAL_FAMILY_V4, PROTO_ICMP, 5, 1, PAL_GUARD_RA, PAL_REASON_RA_GUARD}, {PAL_FAMILY_V6, PROTO_ICMP6, 134, 0, PAL_GUARD_RA, PAL_REASON_RA_GUARD},
                {PAL_FAMILY_V4, PROTO_UDP, 67, 69, 0, 0}, {PAL_FAMILY_V4, PROTO_ICMP, 8, 0, 0, 0}};
    static const uint8_t bytes[40] = {0};
    pal_rule rule = rig_rule(0, PAL_ACTION_ALLOW, 0);
    frame f;
    for (uint32_t guards = 0; guards < 8; guards++)
        for (uint32_t i = 0; i < sizeof says / sizeof says[0]; i++) {
            check_where = "guards";
            host_rig_open(&x, guards);
            for (uint32_t k = 0; k < 4; k++)
                rig_commit(&x.r, k, &rule, 1, false);
            if (says[i].proto == PROTO_UDP)
                frame_udp(&f, says[i].family, 1, 2, says[i].sport, says[i].dport, bytes, 20);
            else
                frame_icmp(&f, says[i].family, 1, 2, (uint8_t)says[i].sport, (uint8_t)says[i].dport, bytes, sizeof bytes);
            if (says[i].proto == PROTO_ICMP6)
                f.b[f.l3 + 7] = 255;
            host_rig_send(&x, 0, &f);
            const bool refused = guards & says[i].guard;
            CHECK_U64(x.w->stats.dropped[says[i].reason], refused);
            CHECK_U64(x.w->stats.dropped[PAL_REASON_DHCP_GUARD] + x.w->stats.dropped[PAL_REASON_RA_GUARD], refused);
            host_rig_close(&x);
        }
}

/* RFC 4861 section 4.6: as many options as a message has, each whole, and every link-layer address the sender's own. */
static void test_nd_options(void)
{
    check_where = "options of neighbour discovery";
    const uint8_t mac[6] = {2, 0, 0, 0, 0, 1}, other[6] = {2, 0, 0, 0, 0, 2};
    for (uint32_t n = 0; n <= ND_OPTIONS_MAX + 1; n++) {
        const uint32_t len = 24 + 8 * n;
        uint8_t *b = calloc(1, len); /* of that length: nothing may be read behind it */
        pal_packet p = {.data = b, .l4_len = len, .cap = len};
        for (uint32_t at = 24; at < len; at += 8) {
            b[at] = at / 8 % 2 ? ND_SOURCE_MAC : ND_TARGET_MAC;
            b[at + 1] = 1;
            memcpy(b + at + 2, mac, 6);
        }
        CHECK(nd_options_name(&p, 24, mac) == (n <= ND_OPTIONS_MAX));
        for (uint32_t at = 24; at < len; at += 8) {
            memcpy(b + at + 2, other, 6);
            CHECK(!nd_options_name(&p, 24, mac));
            b[at] = 14; /* a nonce (RFC 3971) may be anything */
            CHECK(nd_options_name(&p, 24, mac) == (n <= ND_OPTIONS_MAX));
            b[at + 1] = (uint8_t)(at + 8 == len ? 2 : 0); /* beyond the end; none at all */
            CHECK(!nd_options_name(&p, 24, mac));
            b[at + 1] = 1;
        }
        free(b);
        for (uint32_t more = 1; more < 8 && n <= ND_OPTIONS_MAX; more++) { /* the last one is cut */
            b = calloc(1, len + more);
            for (uint32_t at = 24; at < len + more; at += 8)
                memcpy(b + at, (const uint8_t[]){14, 1}, min_u32(2, len + more - at));
            p = (pal_packet){.data = b, .l4_len = len + more, .cap = len + more};
            CHECK(!nd_options_name(&p, 24, mac));
            free(b);
        }
    }
}

int main(void)
{
    test_nameless();
    test_unreachable();
    test_routed_again();
    test_plain_offload();
    test_super();
    test_offload_refused();
    test_arp();
    test_moved();
    test_neighbour_discovery();
    test_guards();
    test_nd_options();
    return check_end("test_host");
}
