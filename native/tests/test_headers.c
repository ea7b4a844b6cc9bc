/* SPDX-License-Identifier: Apache-2.0
 *
 * test_headers.c - docs/packet-path.md, section 1, steps 1 to 4: link types and tags, ARP, IPv4's lengths and options,
 * IPv6's extension headers, each at its limits.
 */
#include "support/bytes.h"

#include "check.h"

static void is_udp(pal_packet p, uint32_t l3, uint16_t dport)
{
    CHECK_U64(p.reason, PAL_REASON_MATCH);
    CHECK_U64(p.l3, l3);
    CHECK_U64(p.dport, dport);
    CHECK_U64(p.marks & MARK_NON_IP, 0);
}

static void test_links(void)
{
    static const struct {
        uint32_t link, len;
        const char *head;
        uint8_t reason;
        bool ip;
    } cases[] = {
        {LINKTYPE_ETHERNET, 14, "aaaaaabbbbbb\x08\0", PAL_REASON_MATCH, true},
        {LINKTYPE_ETHERNET, 14, "aaaaaabbbbbb\x08\1", PAL_REASON_MATCH, false},
        {LINKTYPE_ETHERNET, 14, "aaaaaabbbbbb\x05\xdc", PAL_REASON_MATCH, false},
        {LINKTYPE_ETHERNET, 18, "aaaaaabbbbbb\x81\0\0\5\x08\0", PAL_REASON_MATCH, true},
        {LINKTYPE_ETHERNET, 22, "aaaaaabbbbbb\x88\xa8\0\5\x81\0\0\6\x08\0", PAL_REASON_MATCH, true},
        {LINKTYPE_ETHERNET, 22, "aaaaaabbbbbb\x91\0\0\5\x91\0\0\6\x08\0", PAL_REASON_MATCH, true},
        {LINKTYPE_ETHERNET, 26, "aaaaaabbbbbb\x81\0\0\5\x81\0\0\6\x81\0\0\7\x08\0", PAL_REASON_VLAN_DEPTH, false},
        {LINKTYPE_LINUX_SLL, 16, "\0\0\0\1\0\6aaaaaa\0\0\x08\0", PAL_REASON_MATCH, true},
        {LINKTYPE_LINUX_SLL, 16, "\0\0\0\1\0\6aaaaaa\0\0\0\4", PAL_REASON_MATCH, false},
        {LINKTYPE_LINUX_SLL2, 20, "\x08\0\0\0\0\0\0\2\0\1\0\6aaaaaa\0\0", PAL_REASON_MATCH, true},
        {LINKTYPE_LINUX_SLL2, 20, "\0\4\0\0\0\0\0\2\0\1\0\6aaaaaa\0\0", PAL_REASON_MATCH, false},
        {LINKTYPE_NULL, 4, "\2\0\0\0", PAL_REASON_MATCH, true},
        {LINKTYPE_NULL, 4, "\0\0\0\2", PAL_REASON_MATCH, true},
        {LINKTYPE_NULL, 4, "\3\0\0\0", PAL_REASON_MATCH, false},
        {LINKTYPE_NULL, 4, "\0\0\2\0", PAL_REASON_MATCH, false},
        {LINKTYPE_LOOP, 4, "\0\0\0\2", PAL_REASON_MATCH, true},
        {LINKTYPE_LOOP, 4, "\2\0\0\0", PAL_REASON_MATCH, false},
        {LINKTYPE_RAW, 0, "", PAL_REASON_MATCH, true},
        {LINKTYPE_RAW_BSD, 0, "", PAL_REASON_MATCH, true},
        {LINKTYPE_RAW_OPENBSD, 0, "", PAL_REASON_MATCH, true},
        {LINKTYPE_IPV4, 0, "", PAL_REASON_MATCH, true},
        {LINKTYPE_IPV6, 0, "", PAL_REASON_SHORT, false},
    };
    for (uint32_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        check_where = "links";
        n = 0;
        put(cases[i].head, cases[i].len);
        put_ip4(PROTO_UDP, NULL, 0, 9);
        put_udp(7, 99, 1);
        pal_packet p = parsed(cases[i].link);
        CHECK_U64(p.reason, cases[i].reason);
        if (cases[i].ip)
            is_udp(p, cases[i].len, 99);
        else
            CHECK_U64((p.marks & MARK_NON_IP) != 0, cases[i].reason == PAL_REASON_MATCH);
        CHECK(p.wire_bytes == (cases[i].ip ? 29 : 0) && p.ip_len == p.wire_bytes && p.vrf == 0 && p.fragments == 1 && p.odd == 0);
        CHECK(p.l4_sum == SUM_UNVERIFIED && (cases[i].ip || (p.family == 0 && p.l4_len == 0 && p.payload_len == 0 && p.ip_sum == 0)));
        for (uint32_t cap = 0; cap < cases[i].len; cap++) {
            p = parsed_with(cases[i].link, (parse_options){.sum_mode = SUM_MODE_OFF}, cap, n);
            CHECK(p.reason == PAL_REASON_SHORT || (p.reason == PAL_REASON_VLAN_DEPTH && cap >= 22));
        }
        CHECK(linktype_is_known(cases[i].link));
    }
    static const uint8_t families[] = {10, 24, 28, 30};
    for (uint32_t i = 0; i < 8; i++) {
        n = 0;
        put((uint8_t[]){i & 1 ? families[i / 2] : 0, 0, 0, i & 1 ? 0 : families[i / 2]}, 4);
        put_ip6(PROTO_UDP, 8);
        put_udp(7, 99, 0);
        is_udp(parsed(LINKTYPE_NULL), 4, 99);
        if (i % 2 == 0)
            is_udp(parsed(LINKTYPE_LOOP), 4, 99);
    }
    static const uint32_t unknown[] = {2, 11, 13, 15, 100, 102, 105, 107, 109, 112, 114, 227, 230, 275, 277};
    for (uint32_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++)
        CHECK(!linktype_is_known(unknown[i]));
    n = 0;
    CHECK_U64(parsed(LINKTYPE_RAW).reason, PAL_REASON_SHORT);
    put("\x50", 1);
    CHECK_U64(parsed(LINKTYPE_RAW).reason, PAL_REASON_IP_VERSION);
    b[0] = 0x60;
    CHECK_U64(parsed(LINKTYPE_RAW).reason, PAL_REASON_SHORT);
    b[0] = 0x70;
    CHECK_U64(parsed(LINKTYPE_RAW).reason, PAL_REASON_IP_VERSION);
}

static void test_arp(void)
{
    static const uint8_t good[8] = {0, 1, 8, 0, 6, 4, 0, 1};
    check_where = "ARP";
    for (uint32_t i = 0; i < 9; i++) {
        n = 0;
        put("aaaaaabbbbbb\x08\6", 14);
        put(good, 8);
        zeros(20);
        if (i < 8)
            b[14 + i] ^= 1;
        pal_packet p = parsed(LINKTYPE_ETHERNET);
        CHECK_U64(p.reason, i < 6 ? PAL_REASON_ARP_MALFORMED : PAL_REASON_MATCH);
        CHECK_U64(p.marks, i < 6 ? 0 : MARK_NON_IP);
    }
    parse_options o = {.sum_mode = SUM_MODE_OFF};
    CHECK_U64(parsed_with(LINKTYPE_ETHERNET, o, 22, 42).reason, PAL_REASON_MATCH);
    CHECK_U64(parsed_with(LINKTYPE_ETHERNET, o, 21, 42).reason, PAL_REASON_SHORT);
    CHECK_U64(parsed_with(LINKTYPE_ETHERNET, o, 41, 41).reason, PAL_REASON_ARP_MALFORMED);
}

static void test_ip4(void)
{
    static const struct {
        uint32_t len;
        const char *bytes;
        uint8_t reason;
    } options[] = {{4, "\1\1\1\1", PAL_REASON_MATCH},       {4, "\0\7\0\0", PAL_REASON_MATCH},      {4, "\7\4\0\0", PAL_REASON_MATCH},
                   {4, "\7\3\0\7", PAL_REASON_IP_OPTIONS},  {4, "\7\1\0\0", PAL_REASON_IP_OPTIONS}, {4, "\7\0\0\0", PAL_REASON_IP_OPTIONS},
                   {4, "\7\5\0\0", PAL_REASON_IP_OPTIONS},  {4, "\7\2\7\2", PAL_REASON_MATCH},      {4, "\1\1\1\7", PAL_REASON_IP_OPTIONS},
                   {4, "\x83\3\4\0", PAL_REASON_SOURCE_ROUTE}, {4, "\x89\3\4\0", PAL_REASON_SOURCE_ROUTE},
                   {4, "\x83\5\4\0", PAL_REASON_IP_OPTIONS},   {4, "\x84\3\4\0", PAL_REASON_MATCH},
                   {8, "\7\4\0\0\x83\3\4\0", PAL_REASON_SOURCE_ROUTE}, {8, "\0\0\0\0\x83\3\4\0", PAL_REASON_MATCH},
                   /* eight no-operations and more in a row, and what comes behind them */
                   {8, "\1\1\1\1\1\1\1\1", PAL_REASON_MATCH}, {12, "\1\1\1\1\1\1\1\1\1\7\3\0", PAL_REASON_MATCH},
                   {12, "\1\1\1\1\1\1\1\1\x83\3\4\0", PAL_REASON_SOURCE_ROUTE},
                   {12, "\1\1\1\1\1\1\1\x89\3\4\0\0", PAL_REASON_SOURCE_ROUTE},
                   {12, "\1\1\1\1\1\1\1\1\7\5\0\0", PAL_REASON_IP_OPTIONS},
                   {12, "\1\1\1\1\1\1\1\1\1\1\1\7", PAL_REASON_IP_OPTIONS}};
    for (uint32_t i = 0; i < sizeof options / sizeof options[0]; i++) {
        check_where = "IPv4 options";
        n = 0;
        put_ip4(PROTO_UDP, (const uint8_t *)options[i].bytes, options[i].len, 8);
        put_udp(7, 99, 0);
        pal_packet p = parsed(LINKTYPE_RAW);
        CHECK_U64(p.reason, options[i].reason);
        CHECK_U64(p.ip_sum, SUM_GOOD);
        if (!p.reason)
            CHECK_U64(p.l4, 20 + options[i].len);
        b[12] ^= 1;
        CHECK_U64(parsed_with(LINKTYPE_RAW, (parse_options){.sum_mode = SUM_MODE_VERIFY}, n, n).reason, PAL_REASON_IP_CHECKSUM);
    }
    static const struct {
        uint32_t at;
        uint8_t value, reason;
    } fields[] = {{0, 0x44, PAL_REASON_IP_HEADER_LENGTH}, {0, 0x40, PAL_REASON_IP_HEADER_LENGTH}, {0, 0x46, PAL_REASON_MATCH},
                  {0, 0x4f, PAL_REASON_IP_LENGTH}, {3, 19, PAL_REASON_IP_LENGTH}, {3, 20, PAL_REASON_SHORT}, {3, 27, PAL_REASON_SHORT},
                  {3, 28, PAL_REASON_MATCH}, {3, 34, PAL_REASON_MATCH}, {3, 35, PAL_REASON_IP_LENGTH}, {2, 1, PAL_REASON_IP_LENGTH}};
    for (uint32_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        check_where = "IPv4 fields";
        n = 0;
        put_ip4(200, NULL, 0, 12);
        memset(b + n, 1, 12);
        n += 12;
        b[9] = fields[i].at == 3 ? PROTO_UDP : 200;
        store_be16(b + 24, 8);
        b[fields[i].at] = fields[i].value;
        n += 2; /* padding on the wire */
        CHECK_U64(parsed(LINKTYPE_RAW).reason, fields[i].reason);
    }
    /* Fragments: offset in eights, M, identification; the reserved bit and DF are neither. */
    n = 0;
    put_ip4(PROTO_UDP, NULL, 0, 16);
    zeros(16);
    static const struct {
        uint16_t field;
        uint32_t offset;
        bool fragment, more;
    } frags[] = {{0, 0, false, false}, {0xc000, 0, false, false}, {0x2000, 0, true, true}, {1, 8, true, false}, {0x3fff, 65528, true, true}, {0x9000, 32768, true, false}};
    for (uint32_t i = 0; i < sizeof frags / sizeof frags[0]; i++) {
        check_where = "IPv4 fragments";
        store_be16(b + 4, 0xabcd);
        store_be16(b + 6, frags[i].field);
        store_be16(b + 24, 16);
        pal_packet p = parsed(LINKTYPE_RAW);
        CHECK_U64((p.marks & MARK_FRAGMENT) != 0, frags[i].fragment);
        if (frags[i].fragment) {
            CHECK_U64(p.seq, 0xabcd);
            CHECK_U64(p.ack, frags[i].offset);
            CHECK_U64(p.tcp_flags, frags[i].more);
        }
    }
    static const struct {
        uint8_t a, d;
        bool group;
    } groups[] = {{223, 1, false}, {224, 0, true}, {239, 255, true}, {240, 0, false}, {255, 255, true}, {255, 254, false}};
    for (uint32_t i = 0; i < sizeof groups / sizeof groups[0]; i++) {
        store_be16(b + 6, 0);
        memset(b + 16, groups[i].a, 4);
        b[19] = groups[i].d;
        CHECK_U64((parsed(LINKTYPE_RAW).marks & MARK_GROUP_DST) != 0, groups[i].group);
    }
}

/* Extension headers: `kinds` in order, each of `size` bytes (a fragment header is 8), then UDP. */
static pal_packet chain_parsed(const uint8_t *kinds, uint32_t count, uint32_t size)
{
    uint32_t all = 0;
    for (uint32_t i = 0; i < count; i++)
        all += kinds[i] == PROTO_IP6_FRAGMENT ? 8 : size;
    n = 0;
    put_ip6(count ? kinds[0] : PROTO_UDP, all + 8);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t here = kinds[i] == PROTO_IP6_FRAGMENT ? 8 : size;
        put((uint8_t[]){i + 1 < count ? kinds[i + 1] : PROTO_UDP, (uint8_t)(kinds[i] == PROTO_AH ? here / 4 - 2 : kinds[i] == PROTO_IP6_FRAGMENT ? 0 : here / 8 - 1), kinds[i] == PROTO_IP6_ROUTING ? 4 : 0}, 3);
        zeros(here - 3);
    }
    put_udp(7, 99, 0);
    return parsed(LINKTYPE_RAW);
}

static void test_ip6(void)
{
    static const uint8_t kinds[9] = {60, 60, 60, 60, 60, 60, 60, 60, 60};
    check_where = "IPv6: what the capture cut off says nothing";
    n = 0;
    put_ip6(kinds[0], 24);
    put((uint8_t[]){PROTO_UDP, 0xff}, 2); /* longer than the packet */
    zeros(22);
    for (uint32_t cap = 40; cap < 48; cap++)
        CHECK_U64(parsed_with(LINKTYPE_RAW, (parse_options){.sum_mode = SUM_MODE_OFF}, cap, n).reason, PAL_REASON_SHORT);
    CHECK_U64(parsed(LINKTYPE_RAW).reason, PAL_REASON_EXT_LENGTH);
    check_where = "IPv6 extension headers";
    for (uint32_t count = 0; count <= 9; count++) {
        pal_packet p = chain_parsed(kinds, count, 8);
        CHECK_U64(p.reason, count <= 8 ? PAL_REASON_MATCH : PAL_REASON_EXT_HEADERS);
        if (count <= 8) {
            is_udp(p, 0, 99);
            CHECK_U64(p.l4, 40 + count * 8);
        }
    }
    CHECK_U64(chain_parsed(kinds, 8, 32).reason, PAL_REASON_MATCH); /* 256 bytes of them */
    CHECK_U64(chain_parsed(kinds, 7, 40).reason, PAL_REASON_EXT_HEADERS);
    CHECK_U64(chain_parsed(kinds, 1, 256).reason, PAL_REASON_MATCH);
    CHECK_U64(chain_parsed(kinds, 1, 264).reason, PAL_REASON_EXT_HEADERS);
    is_udp(chain_parsed((uint8_t[]){0, 43, 60, 51, 44, 60}, 6, 16), 0, 99);
    CHECK_U64(chain_parsed((uint8_t[]){60, 0}, 2, 8).reason, PAL_REASON_EXT_HEADERS);
    CHECK_U64(chain_parsed((uint8_t[]){0, 0}, 2, 8).reason, PAL_REASON_EXT_HEADERS);
    is_udp(chain_parsed((uint8_t[]){51}, 1, 12), 0, 99);
    is_udp(chain_parsed((uint8_t[]){51}, 1, 28), 0, 99);
    chain_parsed((uint8_t[]){43}, 1, 8);
    b[42] = 0;
    CHECK_U64(parsed(LINKTYPE_RAW).reason, PAL_REASON_SOURCE_ROUTE);
    chain_parsed((uint8_t[]){60}, 1, 8);
    b[41] = 1; /* one word longer: the UDP header is inside; another: beyond the packet */
    CHECK_U64(parsed(LINKTYPE_RAW).reason, PAL_REASON_SHORT);
    b[41] = 2;
    CHECK_U64(parsed(LINKTYPE_RAW).reason, PAL_REASON_EXT_LENGTH);
    n = 0;
    put_ip6(60, 7);
    zeros(7);
    CHECK_U64(parsed(LINKTYPE_RAW).reason, PAL_REASON_EXT_LENGTH);
    parse_options o = {.sum_mode = SUM_MODE_OFF};
    chain_parsed((uint8_t[]){60}, 1, 16);
    for (uint32_t cap = 40; cap < n; cap++)
        CHECK_U64(parsed_with(LINKTYPE_RAW, o, cap, n).reason, PAL_REASON_SHORT);
    /* A fragment: where its header stands, what follows. */
    chain_parsed((uint8_t[]){60, 44}, 2, 8);
    store_be16(b + 50, 0x1239);
    store_be32(b + 52, 0xa1b2c3d4u);
    pal_packet p = parsed(LINKTYPE_RAW);
    CHECK(p.marks & MARK_FRAGMENT);
    CHECK_U64(p.ack, 0x1238);
    CHECK_U64(p.tcp_flags, 1);
    CHECK_U64(p.seq, 0xa1b2c3d4u);
    CHECK_U64(p.window, 48);
    CHECK_U64(p.l4, 56);
    CHECK_U64(p.l4_len, 8);
    CHECK_U64(p.proto, PROTO_UDP);
    store_be16(b + 50, 0x0006); /* reserved bits: atomic */
    is_udp(parsed(LINKTYPE_RAW), 0, 99);
    /* Lengths: jumbograms, more than there is, less. */
    n = 0;
    put_ip6(0, 0);
    CHECK_U64(parsed(LINKTYPE_RAW).reason, PAL_REASON_IP_LENGTH);
    b[6] = 59;
    CHECK_U64(parsed(LINKTYPE_RAW).reason, PAL_REASON_MATCH);
    b[5] = 1;
    CHECK_U64(parsed(LINKTYPE_RAW).reason, PAL_REASON_IP_LENGTH);
    b[0] = 0x50;
    CHECK_U64(parsed(LINKTYPE_IPV6).reason, PAL_REASON_IP_VERSION);
    n = 0;
    put_ip6(59, 0);
    b[24] = 0xff;
    CHECK(parsed(LINKTYPE_RAW).marks & MARK_GROUP_DST);
    b[24] = 0xfe;
    CHECK(!(parsed(LINKTYPE_RAW).marks & MARK_GROUP_DST));
}

int main(void)
{
    test_links();
    test_arp();
    test_ip4();
    test_ip6();
    return check_end("test_headers");
}
