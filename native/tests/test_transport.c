/* SPDX-License-Identifier: Apache-2.0
 *
 * test_transport.c - docs/packet-path.md, section 1, steps 5 and 7: transport minima, TCP's flags, SCTP's chunks, ICMP's
 * types, and tunnels, each at its limits.
 */
#include "support/bytes.h"

#include "check.h"

static uint8_t transport(uint8_t proto, const void *bytes, uint32_t len, pal_packet *p)
{
    n = 0;
    put_ip4(proto, NULL, 0, len);
    put(bytes, len);
    zeros(6);
    *p = parsed(LINKTYPE_RAW);
    return p->reason;
}

static void test_transport(void)
{
    static const struct {
        uint8_t proto;
        uint32_t least;
    } minima[] = {{PROTO_TCP, 20}, {PROTO_UDP, 8}, {PROTO_SCTP, 16}, {PROTO_ICMP, 8}, {PROTO_IGMP, 0}, {PROTO_ICMP6, 0}, {47, 0}};
    pal_packet p;
    for (uint32_t i = 0; i < sizeof minima / sizeof minima[0]; i++)
        for (uint32_t len = 0; len <= 24; len++) {
            uint8_t h[24] = {0};
            check_where = "minima";
            h[12] = minima[i].proto == PROTO_SCTP ? 3 : 0x50;
            h[13] = TCP_ACK;
            h[5] = 8;
            h[15] = 4;
            if (minima[i].proto == PROTO_SCTP && len > 16)
                continue;
            uint8_t r = transport(minima[i].proto, h, len, &p);
            if (len >= minima[i].least)
                CHECK_U64(r, PAL_REASON_MATCH);
            else
                CHECK_U64(r, minima[i].proto == PROTO_SCTP && len >= 12 ? PAL_REASON_L4_OFFSET : PAL_REASON_SHORT);
            CHECK_U64((p.marks & MARK_UNTRACKED) != 0, minima[i].proto == PROTO_IGMP);
        }
    /* Every combination of flags. */
    for (uint32_t flags = 0; flags < 256; flags++) {
        uint8_t h[20] = {[12] = 0x50, [13] = (uint8_t)flags};
        uint32_t core = flags & 0x37;
        check_where = "TCP flags";
        bool good = core == 2 || core == 0x22 || core == 0x12 || core == 4 || core == 0x14 || core == 0x11 || core == 0x31 || core == 0x10 || core == 0x30;
        CHECK_U64(transport(PROTO_TCP, h, 20, &p), good ? PAL_REASON_MATCH : PAL_REASON_TCP_FLAGS);
    }
    for (uint32_t doff = 0; doff < 16; doff++) {
        uint8_t h[40] = {[12] = (uint8_t)(doff << 4 | 7), [13] = TCP_ACK};
        check_where = "data offset";
        CHECK_U64(transport(PROTO_TCP, h, 40, &p), doff < 5 || doff > 10 ? PAL_REASON_L4_OFFSET : PAL_REASON_MATCH);
        if (!p.reason)
            CHECK_U64(p.payload_len, 40 - doff * 4);
    }
    { /* RFC 9293, section 3.1 */
        static const uint8_t h[20] = {0x12, 0x34, 0x56, 0x78, 0xa1, 0xa2, 0xa3, 0xa4, 0xb1, 0xb2, 0xb3, 0xb4, 0x50, TCP_ACK, 0xc1, 0xc2};
        check_where = "TCP's fields";
        CHECK_U64(transport(PROTO_TCP, h, sizeof h, &p), PAL_REASON_MATCH);
        CHECK(p.sport == 0x1234 && p.dport == 0x5678 && p.window == 0xc1c2);
        CHECK(p.seq == 0xa1a2a3a4 && p.ack == 0xb1b2b3b4 && p.tcp_flags == TCP_ACK && p.payload_len == 0);
    }
    for (uint32_t length = 0; length < 20; length++) {
        uint8_t h[16] = {[5] = (uint8_t)length};
        check_where = "UDP length";
        CHECK_U64(transport(PROTO_UDP, h, 16, &p), length < 8 || length > 16 ? PAL_REASON_L4_OFFSET : PAL_REASON_MATCH);
    }
}

/* Chunks of SCTP: (type, flags, length) one after the other; the event, or why it is refused. */
static void test_chunks(void)
{
    static const struct {
        uint32_t count, tag;
        uint8_t chunk[3][3];
        uint32_t event; /* 999: refused */
    } cases[] = {{1, 5, {{0, 0, 16}}, 0}, {1, 0, {{1, 0, 20}}, 1}, {1, 5, {{1, 0, 20}}, 999}, {1, 0, {{1, 0, 16}}, 999},
                 {1, 5, {{2, 0, 20}}, 2}, {1, 5, {{2, 0, 19}}, 999}, {2, 0, {{1, 0, 20}, {0, 0, 16}}, 999}, {2, 5, {{0, 0, 16}, {2, 0, 20}}, 999},
                 {1, 5, {{6, 0, 4}}, 6}, {1, 5, {{6, 1, 4}}, 6 | SCTP_T_BIT}, {1, 5, {{6, 2, 4}}, 6}, {1, 5, {{14, 1, 4}}, 14 | SCTP_T_BIT},
                 {1, 5, {{7, 1, 8}}, 7}, {1, 5, {{8, 1, 4}}, 8}, {1, 5, {{10, 0, 5}}, 10}, {1, 5, {{11, 0, 4}}, 11}, {1, 5, {{9, 0, 4}}, 0},
                 {1, 5, {{3, 0, 4}}, 0}, {1, 5, {{5, 0, 4}}, 0}, {1, 5, {{12, 0, 4}}, 0}, {1, 5, {{13, 0, 4}}, 0}, {1, 5, {{15, 0, 4}}, 0},
                 {2, 5, {{11, 0, 4}, {7, 0, 8}}, 11}, {2, 5, {{3, 0, 5}, {8, 0, 4}}, 8}, {1, 5, {{0, 0, 3}}, 999}, {0, 5, {{0}}, 999},
                 {3, 5, {{0, 0, 4}, {6, 1, 4}, {7, 0, 8}}, 6 | SCTP_T_BIT}};
    pal_packet p;
    for (uint32_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t h[100] = {[7] = (uint8_t)cases[i].tag};
        uint32_t at = 12;
        check_where = "chunks";
        for (uint32_t k = 0; k < cases[i].count; k++) {
            h[at] = cases[i].chunk[k][0], h[at + 1] = cases[i].chunk[k][1], h[at + 3] = cases[i].chunk[k][2];
            h[at + 7] = 77;
            at += (cases[i].chunk[k][2] + 3u) & ~3u;
        }
        CHECK_U64(transport(PROTO_SCTP, h, at, &p), cases[i].event == 999 ? PAL_REASON_L4_OFFSET : PAL_REASON_MATCH);
        if (!p.reason) {
            CHECK_U64(p.tcp_flags, cases[i].event);
            CHECK_U64(p.seq, cases[i].tag);
            if (p.tcp_flags == 1 || p.tcp_flags == 2)
                CHECK_U64(p.ack, 77);
        }
    }
    for (uint32_t count = 31; count <= 33; count++) {
        uint8_t h[200] = {0};
        for (uint32_t k = 0; k < count; k++)
            h[12 + 4 * k] = 3, h[15 + 4 * k] = 4;
        CHECK_U64(transport(PROTO_SCTP, h, 12 + 4 * count, &p), count <= 32 ? PAL_REASON_MATCH : PAL_REASON_L4_OFFSET);
    }
    uint8_t h[24] = {[12] = 10, [15] = 5}; /* the last one's padding may be missing; a byte of a chunk may not */
    CHECK_U64(transport(PROTO_SCTP, h, 17, &p), PAL_REASON_MATCH);
    CHECK_U64(transport(PROTO_SCTP, h, 16, &p), PAL_REASON_L4_OFFSET);
    CHECK_U64(transport(PROTO_SCTP, h, 21, &p), PAL_REASON_L4_OFFSET);
}

static void test_types(void)
{
    for (uint32_t type = 0; type < 256; type++) {
        uint8_t h[8] = {(uint8_t)type, 3, 0, 0, 0xab, 0xcd};
        pal_packet p;
        check_where = "ICMP types";
        CHECK_U64(transport(PROTO_ICMP, h, 8, &p), PAL_REASON_MATCH);
        bool query = type == 8 || type == 13 || type == 15 || type == 17, answer = type == 0 || type == 14 || type == 16 || type == 18;
        bool error = type == 3 || type == 4 || type == 5 || type == 11 || type == 12;
        CHECK_U64(p.marks, query ? MARK_ICMP_QUERY : answer ? MARK_ICMP_ANSWER : error ? MARK_ICMP_ERROR : 0);
        CHECK_U64(p.dport, type << 8 | 3);
        CHECK_U64(p.window, 0xabcd);
        n = 0;
        put_ip6(PROTO_ICMP6, 8);
        put(h, 8);
        p = parsed(LINKTYPE_RAW);
        query = type == 128 || type == 139, answer = type == 129 || type == 140;
        bool stateless = (type >= 130 && type <= 136) || type == 143;
        CHECK_U64(p.marks, type < 128 ? MARK_ICMP_ERROR : query ? MARK_ICMP_QUERY : answer ? MARK_ICMP_ANSWER : stateless ? MARK_UNTRACKED : 0);
        CHECK_U64(p.window, 0xabcd);
    }
}

/* The numbers of IANA's registries that other tests write by name. */
static void test_numbers(void)
{
    check_where = "numbers";
    CHECK(PROTO_IP6_HOPOPTS == 0 && PROTO_ICMP == 1 && PROTO_IGMP == 2 && PROTO_TCP == 6 && PROTO_UDP == 17);
    CHECK(PROTO_IP6_ROUTING == 43 && PROTO_IP6_FRAGMENT == 44 && PROTO_AH == 51 && PROTO_ICMP6 == 58 && PROTO_NONE == 59);
    CHECK(PROTO_IP6_DSTOPTS == 60 && PROTO_SCTP == 132);
    CHECK(TCP_FIN == 1 && TCP_SYN == 2 && TCP_RST == 4 && TCP_PSH == 8 && TCP_ACK == 16 && TCP_URG == 32);
    CHECK(LINKTYPE_NULL == 0 && LINKTYPE_ETHERNET == 1 && LINKTYPE_RAW_BSD == 12 && LINKTYPE_RAW_OPENBSD == 14 && LINKTYPE_RAW == 101);
    CHECK(LINKTYPE_LOOP == 108 && LINKTYPE_LINUX_SLL == 113 && LINKTYPE_IPV4 == 228 && LINKTYPE_IPV6 == 229 && LINKTYPE_LINUX_SLL2 == 276);
    CHECK(SCTP_INIT == 1 && SCTP_INIT_ACK == 2 && SCTP_ABORT == 6 && SCTP_SHUTDOWN == 7 && SCTP_SHUTDOWN_ACK == 8);
    CHECK(SCTP_COOKIE_ECHO == 10 && SCTP_COOKIE_ACK == 11 && SCTP_SHUTDOWN_COMPLETE == 14);
}

/* Geneve and VXLAN around an Ethernet frame, and Geneve around IP; `options` words of them. */
static pal_packet tunnel_parsed(uint16_t port, uint32_t first, uint32_t type, uint32_t options, uint8_t option2, uint8_t option3, bool ethernet, uint32_t inner_cut)
{
    uint32_t head = 8 + options * 4, inner = (ethernet ? 14 : 0) + 28;
    n = 0;
    put_ip4(PROTO_UDP, NULL, 0, 8 + head + inner - inner_cut);
    put16(1), put16(port), put16(8 + head + inner - inner_cut), put16(0);
    put((uint8_t[]){(uint8_t)first, 0}, 2);
    put16(type);
    put((uint8_t[]){0x12, 0x34, 0x56, 0}, 4);
    if (options) {
        put((uint8_t[]){0, 0, option2, option3}, 4);
        zeros(options * 4 - 4);
    }
    if (ethernet)
        put("aaaaaabbbbbb\x08\0", 14);
    put_ip4(PROTO_UDP, NULL, 0, 8);
    put_udp(7, 99, 0);
    n -= inner_cut;
    return parsed_with(LINKTYPE_RAW, (parse_options){.sum_mode = SUM_MODE_OFF, .decap = 1}, n, n);
}

static void test_tunnels(void)
{
    static const struct {
        uint16_t port;
        uint32_t first, type, options;
        uint8_t o2, o3;
        bool ethernet;
        uint32_t cut;
        uint8_t reason;
    } cases[] = {
        {6081, 0, 0x6558, 0, 0, 0, true, 0, PAL_REASON_MATCH},      {6081, 0, 0x0800, 0, 0, 0, false, 0, PAL_REASON_MATCH},
        {6081, 0, 0x86dd, 0, 0, 0, false, 0, PAL_REASON_SHORT}, /* says IPv6, and has not 40 bytes */
        {6081, 0x40, 0x6558, 0, 0, 0, true, 0, PAL_REASON_TUNNEL_MALFORMED}, {6081, 0x80, 0x6558, 0, 0, 0, true, 0, PAL_REASON_TUNNEL_MALFORMED},
        {6081, 0, 0x0806, 0, 0, 0, false, 0, PAL_REASON_TUNNEL_MALFORMED},   {6081, 1, 0x6558, 1, 0, 0, true, 0, PAL_REASON_MATCH},
        {6081, 2, 0x6558, 2, 0, 1, true, 0, PAL_REASON_MATCH},       {6081, 2, 0x6558, 2, 0x7f, 0xe1, true, 0, PAL_REASON_MATCH},
        {6081, 2, 0x6558, 2, 0, 2, true, 0, PAL_REASON_TUNNEL_MALFORMED},    {6081, 2, 0x6558, 2, 0x80, 1, true, 0, PAL_REASON_TUNNEL_MALFORMED},
        {6081, 63, 0x6558, 1, 0, 0, true, 0, PAL_REASON_TUNNEL_MALFORMED},   {6081, 0, 0x6558, 0, 0, 0, true, 1, PAL_REASON_IP_LENGTH},
        {6081, 0, 0x6558, 0, 0, 0, true, 42, PAL_REASON_SHORT},      {6081, 0, 0x6558, 0, 0, 0, true, 43, PAL_REASON_TUNNEL_MALFORMED},
        {4789, 8, 0, 0, 0, 0, true, 0, PAL_REASON_MATCH},            {4789, 0xff, 0xffff, 0, 0, 0, true, 0, PAL_REASON_MATCH},
        {4789, 0xf7, 0, 0, 0, 0, true, 0, PAL_REASON_TUNNEL_MALFORMED}, {4789, 8, 0, 0, 0, 0, true, 43, PAL_REASON_TUNNEL_MALFORMED}};
    for (uint32_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        check_where = "tunnels";
        pal_packet p = tunnel_parsed(cases[i].port, cases[i].first, cases[i].type, cases[i].options, cases[i].o2, cases[i].o3, cases[i].ethernet, cases[i].cut);
        CHECK_U64(p.reason, cases[i].reason);
        if (p.reason)
            continue;
        CHECK_U64(p.dport, 99);
        CHECK_U64(p.vrf, 1 + 0x123456u);
        CHECK_U64(p.ip_len, 28);
        CHECK_U64(p.wire_bytes, 28);
        CHECK_U64(p.data + p.l3 - b, n - 28);
        CHECK_U64(p.wire, 28 + (cases[i].ethernet ? 14u : 0));
        p = parsed(LINKTYPE_RAW); /* not asked to open it: a UDP packet */
        CHECK_U64(p.dport, cases[i].port);
        CHECK_U64(p.vrf, 0);
    }
    tunnel_parsed(6081, 0, 0x6558, 0, 0, 0, true, 0);
    b[48] = 0x88; /* an inner frame that is no IP */
    pal_packet p = parsed_with(LINKTYPE_RAW, (parse_options){.sum_mode = SUM_MODE_OFF, .decap = 1}, n, n);
    CHECK(p.reason == PAL_REASON_MATCH && (p.marks & MARK_NON_IP) && p.vrf == 1 + 0x123456u);
    for (uint32_t port = 6080; port <= 6082; port += 2) {
        p = tunnel_parsed((uint16_t)port, 0, 0x6558, 0, 0, 0, true, 0);
        CHECK(p.reason == PAL_REASON_MATCH && p.vrf == 0 && p.dport == port);
    }
}

int main(void)
{
    test_numbers();
    test_transport();
    test_chunks();
    test_types();
    test_tunnels();
    return check_end("test_transport");
}
