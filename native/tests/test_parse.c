/* SPDX-License-Identifier: Apache-2.0
 *
 * test_parse.c - frames cut at every byte, and changed at every byte: no read past what is present, sums of each
 * protocol told right from wrong, lengths that lie.
 */
#include "../core/parse.h"

#include "check.h"
#include "support/packets.h"

static frame f, good;

static pal_packet parsed(const uint8_t *bytes, uint32_t cap, uint32_t wire, uint8_t mode)
{
    parse_options o = {.sum_mode = mode, .decap = 1};
    pal_packet p = {.data = bytes, .cap = cap, .wire = wire};
    parse_frame(&p, LINKTYPE_ETHERNET, &o);
    return p;
}

static void make(uint32_t which)
{
    uint32_t family = which & 1 ? PAL_FAMILY_V6 : PAL_FAMILY_V4;
    switch (which / 2) {
    case 0:
        frame_tcp(&f, family, 1, 2, 1000, 80, (tcp_say){.seq = 5, .ack = 6, .flags = TCP_ACK, .window = 9, .scale = 3, .payload = "odd", .len = 3});
        break;
    case 1:
        frame_udp(&f, family, 1, 2, 1000, 53, "query", 5);
        break;
    case 2:
        frame_ping(&f, family, 1, 2, false, 77);
        break;
    default:
        frame_sctp(&f, 1, 2, 0, 1, 0, 99);
    }
}

/* Where the transport's sum covers: every byte from l4 on. */
static void test_sums(void)
{
    for (uint32_t which = 0; which < 6; which++) {
        check_where = "sums";
        make(which);
        good = f;
        CHECK_U64(parsed(f.b, f.len, f.len, SUM_MODE_VERIFY).reason, PAL_REASON_MATCH);
        CHECK_U64(parsed(f.b, f.len, f.len, SUM_MODE_VERIFY).l4_sum, SUM_GOOD);
        CHECK_U64(parsed(f.b, f.len, f.len, SUM_MODE_OFF).l4_sum, SUM_UNVERIFIED);
        if (which / 2 < 2) /* cut: nobody can know */
            CHECK_U64(parsed(f.b, f.len - 1, f.len, SUM_MODE_VERIFY).l4_sum, SUM_UNVERIFIED);
        f.b[f.len - 1] ^= 0x40;
        pal_packet p = parsed(f.b, f.len, f.len, SUM_MODE_VERIFY);
        CHECK_U64(p.reason, PAL_REASON_L4_CHECKSUM);
        CHECK_U64(p.l4_sum, SUM_BAD);
        p = parsed(f.b, f.len, f.len, SUM_MODE_COUNT);
        CHECK_U64(p.reason, PAL_REASON_MATCH);
        CHECK_U64(p.l4_sum, SUM_BAD);
        if (which & 1)
            continue;
        f = good;
        f.b[f.l3 + 8] ^= 1; /* TTL */
        CHECK_U64(parsed(f.b, f.len, f.len, SUM_MODE_VERIFY).reason, PAL_REASON_IP_CHECKSUM);
        CHECK_U64(parsed(f.b, f.len, f.len, SUM_MODE_COUNT).ip_sum, SUM_BAD);
    }
    /* CRC32c of RFC 3720, B.4: 32 zeros, 32 ones, 0..31. */
    uint8_t v[32] = {0};
    CHECK_U64(~crc32c(v, 32, ~0u) & 0xffffffffu, 0x8a9136aau);
    memset(v, 0xff, 32);
    CHECK_U64(~crc32c(v, 32, ~0u) & 0xffffffffu, 0x62a8ab43u);
    /* RFC 1071, section 3. */
    static const uint8_t words[8] = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};
    CHECK_U64(be16(sum_fold(sum_bytes(words, 8, 0))), 0xddf2);
}

/* Present up to any byte, with an unreadable page behind: too short, or what the bytes allow. */
static void test_cut(void)
{
    for (uint32_t which = 0; which < 7; which++) {
        make(which);
        for (uint32_t cap = 0; cap <= f.len; cap++) {
            check_where = "cut";
            fenced x = fence(f.b, cap);
            pal_packet p = parsed(x.data, cap, f.len, SUM_MODE_COUNT);
            uint32_t need = f.l4 + (which / 2 == 0 ? 24u : which / 2 == 3 ? f.len - f.l4 : 8u);
            CHECK_U64(p.reason == PAL_REASON_MATCH, cap >= need);
            if (cap < f.l4)
                CHECK_U64(p.reason, PAL_REASON_SHORT);
            p = parsed(x.data, cap, cap, SUM_MODE_COUNT); /* and a wire that is as short */
            CHECK_U64(p.reason == PAL_REASON_MATCH, cap == f.len);
            unfence(x);
        }
    }
}

/* Every value of every byte of the headers. */
static void test_changed(void)
{
    uint32_t refused = 0;
    for (uint32_t which = 0; which < 7; which++) {
        make(which);
        fenced x = fence(f.b, f.len);
        for (uint32_t at = 12; at < f.len; at++)
            for (uint32_t value = 0; value < 256; value++) {
                check_where = "changed";
                x.data[at] = (uint8_t)value;
                pal_packet p = parsed(x.data, f.len, f.len, SUM_MODE_COUNT);
                refused += p.reason != PAL_REASON_MATCH;
                if (p.reason == PAL_REASON_MATCH && p.family)
                    CHECK(p.l3 + p.ip_len <= f.len && p.l4 + p.l4_len == p.l3 + p.ip_len && p.payload_len <= p.l4_len);
                x.data[at] = f.b[at];
            }
        unfence(x);
    }
    CHECK(refused > 1000);
}

/* SEMANTICS, Odd packets: nobody looks, they are counted, or they are refused. */
static void test_odd(void)
{
    static const struct {
        uint8_t src[4];
        bool odd;
    } sources[] = {{{10, 0, 0, 1}, false}, {{0, 1, 2, 3}, true}, {{127, 0, 0, 1}, true}, {{224, 0, 0, 1}, true}, {{239, 9, 9, 9}, true},
                   {{255, 255, 255, 255}, true}, {{10, 0, 0, 2}, true}, {{223, 0, 0, 1}, false}, {{240, 0, 0, 1}, false}};
    check_where = "odd";
    for (uint32_t i = 0; i < sizeof sources / sizeof sources[0]; i++)
        for (uint8_t sanity = 0; sanity < 3; sanity++)
            for (uint32_t udp = 0; udp < 2; udp++) {
                make(2 * udp);
                memcpy(f.b + f.l3 + 12, sources[i].src, 4);
                frame_ip_sum(&f);
                const parse_options o = {.sanity = sanity};
                pal_packet p = {.data = f.b, .cap = f.len, .wire = f.len};
                parse_frame(&p, LINKTYPE_ETHERNET, &o);
                CHECK_U64(p.reason, sanity == 2 && sources[i].odd ? PAL_REASON_BAD_ADDRESS : PAL_REASON_MATCH);
                CHECK_U64(p.odd, sanity && sources[i].odd ? ODD_SOURCE : 0);
            }
}

int main(void)
{
    test_sums();
    test_cut();
    test_changed();
    test_odd();
    return check_end("test_parse");
}
