/* SPDX-License-Identifier: Apache-2.0 */
#include "../core/outer.h"

#include "check.h"
#include "support/packets.h"
#include "../core/parse.h"

/* ---- Geneve header ------------------------------------------------------------------------------------------- */

static bool read_fenced(const uint8_t *bytes, uint32_t len, geneve_header *g)
{
    fenced f = fence(bytes, len);
    bool good = geneve_read(f.data, len, g);
    unfence(f);
    return good;
}

static void test_header(void)
{
    static const uint8_t plain[8] = {0x00, 0x00, 0x65, 0x58, 0x12, 0x34, 0x56, 0x00};
    geneve_header g;
    check_where = "a header without options";
    CHECK(read_fenced(plain, 8, &g));
    CHECK_U64(g.vni, 0x123456);
    CHECK_U64(g.protocol, GENEVE_ETHERNET);
    CHECK_U64(g.len, 8);
    CHECK(!g.ours && g.flags == 0);
    check_where = "every header that is cut";
    for (uint32_t n = 0; n < 8; n++)
        CHECK(!read_fenced(plain, n, &g));
    check_where = "versions";
    for (uint32_t version = 1; version < 4; version++) {
        uint8_t h[8];
        memcpy(h, plain, 8);
        h[0] = (uint8_t)(version << 6);
        CHECK(!read_fenced(h, 8, &g));
    }
    check_where = "reserved bits are not looked at (RFC 8926 section 3.4)";
    uint8_t h[8] = {0x00, 0x3f, 0x65, 0x58, 0, 0, 7, 0xff};
    CHECK(read_fenced(h, 8, &g));
    CHECK_U64(g.vni, 7);
    CHECK_U64(g.flags, 0);
    h[1] = 0xff;
    CHECK(read_fenced(h, 8, &g));
    CHECK_U64(g.flags, GENEVE_OAM | GENEVE_CRITICAL);
}

/* A header with `words` of options, whose bytes are given. */
static bool read_options(const uint8_t *opt, uint32_t len, geneve_header *g)
{
    uint8_t h[8 + 256] = {(uint8_t)(len / 4), 0, 0x65, 0x58, 0, 0, 9, 0};
    memcpy(h + 8, opt, len);
    return read_fenced(h, 8 + len, g);
}

static void test_options(void)
{
    geneve_header g;
    check_where = "an unknown option is passed over";
    static const uint8_t unknown[8] = {0x01, 0x02, 0x03, 0x01, 1, 2, 3, 4};
    CHECK(read_options(unknown, 8, &g));
    CHECK(!g.ours && g.len == 16);
    check_where = "an unknown critical option is refused, whatever the C flag says";
    static const uint8_t critical[4] = {0x01, 0x02, 0x83, 0x00};
    CHECK(!read_options(critical, 4, &g));
    check_where = "an option that runs past the options";
    static const uint8_t past[8] = {0x01, 0x02, 0x03, 0x02, 1, 2, 3, 4};
    CHECK(!read_options(past, 8, &g));
    check_where = "the most options that there can be";
    uint8_t most[GENEVE_OPTIONS_MAX] = {0};
    for (uint32_t i = 0; i < GENEVE_OPTIONS_MAX; i += 4)
        most[i] = 1;
    CHECK(read_options(most, GENEVE_OPTIONS_MAX, &g));
    CHECK_U64(g.len, 8 + 252);
    check_where = "ours, behind another";
    uint8_t both[20] = {0x01, 0x02, 0x03, 0x01, 1, 2, 3, 4, 0xff, 0x5a, 0x01, 0x02, 0, 0, 1, 2, 0x02, 0xab, 0xcd, 0xef};
    CHECK(read_options(both, 20, &g));
    CHECK(g.ours && g.vnic == 0x102 && g.marks == GENEVE_ONWARD && g.trace == 0xabcdef);
    check_where = "ours in another length is unknown";
    uint8_t wrong[8] = {0xff, 0x5a, 0x01, 0x01, 0, 0, 1, 2};
    CHECK(read_options(wrong, 8, &g));
    CHECK(!g.ours && g.vnic == 0 && g.marks == 0);
}

static void test_write(void)
{
    uint8_t h[32];
    geneve_header g = {.vni = 5001, .protocol = GENEVE_ETHERNET}, back;
    check_where = "what is written is read";
    geneve_write(h, &g);
    CHECK_U64(geneve_bytes(&g), 8);
    CHECK(read_fenced(h, 8, &back));
    CHECK(back.vni == 5001 && !back.ours && back.protocol == GENEVE_ETHERNET);
    g = (geneve_header){.vni = 0xffffff, .protocol = GENEVE_ETHERNET, .flags = GENEVE_OAM, .ours = true, .vnic = 77, .marks = GENEVE_REPLICATE,
                        .trace = 0x123456};
    geneve_write(h, &g);
    CHECK_U64(geneve_bytes(&g), 20);
    CHECK(read_fenced(h, 20, &back));
    CHECK(back.ours && back.vnic == 77 && back.marks == GENEVE_REPLICATE && back.trace == 0x123456 && back.vni == 0xffffff);
    CHECK_U64(back.flags, GENEVE_OAM);
}

/* RFC 7348 section 5: the I flag counts, what is reserved does not; VXLAN_HEADER bytes are all there is. */
static void test_vxlan(void)
{
    uint8_t h[VXLAN_HEADER];
    geneve_header g = {.vni = 0x123456, .protocol = GENEVE_ETHERNET, .ours = true, .marks = GENEVE_ONWARD, .vnic = 7}, back;
    check_where = "VXLAN";
    encap_write(PAL_ENCAP_VXLAN, h, &g);
    static const uint8_t expected[VXLAN_HEADER] = {8, 0, 0, 0, 0x12, 0x34, 0x56, 0};
    CHECK(encap_bytes(PAL_ENCAP_VXLAN, &g) == VXLAN_HEADER && memcmp(h, expected, sizeof h) == 0);
    CHECK(encap_len(PAL_ENCAP_VXLAN, h) == VXLAN_HEADER && encap_port(PAL_ENCAP_VXLAN) == 4789);
    for (uint32_t flags = 0; flags < 256; flags++) {
        h[0] = (uint8_t)flags;
        h[1] = h[2] = h[3] = h[7] = (uint8_t)~flags;
        CHECK(encap_read(PAL_ENCAP_VXLAN, h, sizeof h, &back) == ((flags & VXLAN_VNI) != 0));
        CHECK(!(flags & VXLAN_VNI) || (back.vni == 0x123456 && back.protocol == GENEVE_ETHERNET && back.len == VXLAN_HEADER));
        CHECK(!(flags & VXLAN_VNI) || (!back.ours && back.marks == 0 && back.trace == 0 && back.flags == 0));
    }
    for (uint32_t cut = 0; cut < VXLAN_HEADER; cut++) {
        fenced w = fence(expected, cut);
        CHECK(!encap_read(PAL_ENCAP_VXLAN, w.data, cut, &back));
        unfence(w);
    }
}

/* ---- outer headers ------------------------------------------------------------------------------------------- */

static outer_ends ends_of(uint32_t family, uint32_t encap)
{
    outer_ends e = {.encap = encap, .mac = {2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1}};
    e.local.family = e.remote.family = family;
    host_addr(e.local.addr, family, 1);
    host_addr(e.remote.addr, family, 2);
    return e;
}

static void test_outer(uint32_t family, uint32_t encap)
{
    uint8_t buffer[200] = {0};
    outer_ends e = ends_of(family, encap);
    uint8_t *payload = buffer + 62;
    for (uint32_t i = 0; i < 100; i++)
        payload[i] = (uint8_t)(i * 7);
    outer_found f;
    for (uint32_t len = 1; len <= 100; len++) {
        uint32_t n = outer_write(payload, len, &e, 50000, 0xb9, OUTER_SUM_WHOLE);
        CHECK_U64(n, outer_bytes(family));
        fenced w = fence(payload - n, n + len);
        CHECK_U64(outer_read(w.data, n + len, 0, &f), PAL_REASON_MATCH);
        CHECK(f.at == n && f.len == len && f.tos == 0xb9 && f.summed && f.encap == encap);
        CHECK(memcmp(&f.from, &e.local, sizeof f.from) == 0 && memcmp(&f.to, &e.remote, sizeof f.to) == 0);
        for (uint32_t cut = 0; cut < n + len; cut++)
            CHECK(outer_read(w.data, cut, OUTER_VERIFIED, &f) != PAL_REASON_MATCH);
        w.data[n + len - 1] ^= 1;
        CHECK_U64(outer_read(w.data, n + len, 0, &f), PAL_REASON_OUTER_CHECKSUM);
        CHECK_U64(outer_read(w.data, n + len, OUTER_VERIFIED, &f), PAL_REASON_MATCH);
        unfence(w);
    }
    check_where = "the parser agrees: sums are right";
    uint32_t n = outer_write(payload, 40, &e, 50000, 0, OUTER_SUM_WHOLE);
    pal_packet p = {.data = payload - n, .cap = n + 40, .wire = n + 40};
    parse_options o = {.sum_mode = SUM_MODE_VERIFY};
    parse_frame(&p, LINKTYPE_ETHERNET, &o);
    CHECK(p.reason == PAL_REASON_MATCH && p.l4_sum == SUM_GOOD && p.sport == 50000 && p.dport == encap_port(encap));
    check_where = "a partial sum, finished as a card does, is the whole one";
    uint16_t whole = load_u16(payload - 2);
    CHECK_U64(outer_write(payload, 40, &e, 50000, 0, OUTER_SUM_PARTIAL), n);
    uint16_t done = sum_finish(sum_bytes(payload - 8, 48, 0));
    CHECK_U64(done ? done : 0xffff, whole);
    check_where = "no sum";
    outer_write(payload, 40, &e, 50000, 0, OUTER_SUM_NONE);
    CHECK_U64(outer_read(payload - n, n + 40, 0, &f), family == PAL_FAMILY_V4 ? PAL_REASON_MATCH : PAL_REASON_OUTER_CHECKSUM);
    CHECK_U64(outer_read(payload - n, n + 40, OUTER_ZERO6, &f), PAL_REASON_MATCH);
    CHECK(!f.summed);
    check_where = "another port";
    store_be16(payload - 6, 4790);
    CHECK_U64(outer_read(payload - n, n + 40, OUTER_ZERO6, &f), PAL_REASON_OUTER_MALFORMED);
    check_where = "another protocol; ICMP has a reason of its own";
    uint8_t *protocol = payload - n + (family == PAL_FAMILY_V4 ? 23 : 20);
    store_be16(payload - 6, encap_port(encap));
    const uint8_t icmp = family == PAL_FAMILY_V4 ? PROTO_ICMP : PROTO_ICMP6;
    for (uint32_t number = 0; number < 256; number++) {
        *protocol = (uint8_t)number;
        if (number == PROTO_UDP || (family == PAL_FAMILY_V6 && number == PROTO_IP6_FRAGMENT))
            continue;
        CHECK_U64(outer_read(payload - n, n + 40, OUTER_ZERO6, &f), number == icmp ? PAL_REASON_UNDERLAY_ICMP : PAL_REASON_OUTER_MALFORMED);
    }
    check_where = "too long for its length fields";
    CHECK_U64(outer_write(payload, 65535, &e, 50000, 0, OUTER_SUM_NONE), 0);
}

static void test_outer_fragments(void)
{
    static const uint8_t bytes[64];
    frame f;
    outer_found found;
    check_where = "fragments are refused";
    frame_fragment(&f, PAL_FAMILY_V4, 1, 2, PROTO_UDP, 7, 0, true, bytes, 64);
    CHECK_U64(outer_read(f.b, f.len, 0, &found), PAL_REASON_OUTER_FRAGMENT);
    frame_fragment(&f, PAL_FAMILY_V6, 1, 2, PROTO_UDP, 7, 0, true, bytes, 64);
    CHECK_U64(outer_read(f.b, f.len, 0, &found), PAL_REASON_OUTER_FRAGMENT);
    check_where = "an IPv4 header whose sum is wrong";
    frame_udp(&f, PAL_FAMILY_V4, 1, 2, 50000, GENEVE_PORT, bytes, 30);
    CHECK_U64(outer_read(f.b, f.len, 0, &found), PAL_REASON_MATCH);
    f.b[f.l3 + 8]++;
    CHECK_U64(outer_read(f.b, f.len, 0, &found), PAL_REASON_OUTER_CHECKSUM);
}

static uint16_t port_of(const frame *f)
{
    pal_packet p = {.data = f->b, .cap = f->len, .wire = f->len};
    parse_options o = {0};
    parse_frame(&p, LINKTYPE_ETHERNET, &o);
    return outer_port(&p);
}

static void test_port(void)
{
    frame there, back;
    uint32_t seen[16] = {0};
    check_where = "outer source ports";
    for (uint32_t family = PAL_FAMILY_V4; family <= PAL_FAMILY_V6; family++) {
        for (uint32_t i = 0; i < 1600; i++) {
            frame_tcp(&there, family, 1, 2, (uint16_t)(1024 + i), 443, (tcp_say){.flags = TCP_SYN});
            frame_tcp(&back, family, 2, 1, 443, (uint16_t)(1024 + i), (tcp_say){.flags = TCP_SYN | TCP_ACK});
            uint16_t port = port_of(&there);
            CHECK(port >= 49152);
            CHECK_U64(port_of(&back), port);
            seen[port >> 10 & 15]++;
        }
        frame_ping(&there, family, 1, 2, false, 9);
        frame_ping(&back, family, 2, 1, true, 9);
        CHECK_U64(port_of(&there), port_of(&back));
    }
    for (uint32_t i = 0; i < 16; i++) /* 200 each, by chance */
        CHECK(seen[i] > 100 && seen[i] < 300);
}

static void test_tos(void)
{
    uint8_t v4[16] = {[12] = 0x08, [14] = 0x45, [15] = 0xb9}, v6[16] = {[12] = 0x86, [13] = 0xdd, [14] = 0x6b, [15] = 0x90};
    check_where = "DSCP and ECN of the inner packet";
    CHECK_U64(outer_tos(v4, 16), 0xb9);
    CHECK_U64(outer_tos(v6, 16), 0xb9);
    CHECK_U64(outer_tos(v4, 15), 0);
    v4[13] = 6;
    CHECK_U64(outer_tos(v4, 16), 0);
}

int main(void)
{
    test_header();
    test_options();
    test_write();
    test_vxlan();
    for (uint32_t family = PAL_FAMILY_V4; family <= PAL_FAMILY_V6; family++) {
        check_where = family == PAL_FAMILY_V4 ? "outer IPv4" : "outer IPv6";
        for (uint32_t encap = PAL_ENCAP_GENEVE; encap <= PAL_ENCAP_VXLAN; encap++)
            test_outer(family, encap);
    }
    test_outer_fragments();
    test_port();
    test_tos();
    return check_end("test_geneve");
}
