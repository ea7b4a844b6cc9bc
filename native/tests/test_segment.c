/* SPDX-License-Identifier: Apache-2.0
 *
 * test_segment.c - super-packets as segments and back: headers field by field, checksums by the parser's own arithmetic, what may
 * not be put together, and virtio headers that lie.
 */
#include "../io/coalesce.h"
#include "../core/geneve.h"
#include "check.h"
#include "support/packets.h"

#define TUNNEL GENEVE_HEADER
#define MSS 1000u

static frame f;
static uint8_t payload[65536];

/* A TCP or UDP super-packet of `bytes` of data from host 1 to host 2, as a pod's kernel hands it over. */
static host_offload make_super(uint32_t family, bool udp, uint32_t bytes, uint32_t size)
{
    static uint8_t l4[65536];
    const uint32_t header = udp ? 8 : 32;
    memset(l4, 0, header);
    store_be16(l4, 1000);
    store_be16(l4 + 2, 2000);
    if (udp) {
        store_be16(l4 + 4, (uint16_t)(8 + bytes));
    } else {
        static const uint8_t options[12] = {1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2};
        store_be32(l4 + 4, 0xfffffff0u); /* wraps in the middle */
        store_be32(l4 + 8, 77);
        l4[12] = 8 << 4;
        l4[13] = TCP_ACK | TCP_PSH | TCP_FIN | SEGMENT_TCP_CWR;
        store_be16(l4 + 14, 500);
        memcpy(l4 + 20, options, 12);
    }
    memcpy(l4 + header, payload, bytes);
    frame_ip(&f, family, 1, 2, udp ? PROTO_UDP : PROTO_TCP, l4, header + bytes);
    if (family == PAL_FAMILY_V4) {
        store_be16(f.b + f.l3 + 4, 0xfffe);
        store_be16(f.b + f.l3 + 6, 0x4000);
        frame_ip_sum(&f);
    }
    pal_packet p = frame_view(&f, family);
    uint16_t partial = sum_fold(sum_pseudo(&p, udp ? PROTO_UDP : PROTO_TCP, header + bytes));
    memcpy(f.b + f.l4 + (udp ? 6 : 16), &partial, 2);
    return (host_offload){.flags = VIRTIO_NEEDS_CSUM,
                          .gso_type = udp ? VIRTIO_GSO_UDP_L4 : family == PAL_FAMILY_V4 ? VIRTIO_GSO_TCPV4 : VIRTIO_GSO_TCPV6,
                          .gso_size = (uint16_t)size,
                          .hdr_len = (uint16_t)(f.l4 + header),
                          .csum_start = (uint16_t)f.l4,
                          .csum_offset = udp ? 6 : 16};
}

/* The transport checksum of a whole frame, by the parser's arithmetic. */
static bool frame_sum_is_good(const uint8_t *b, uint32_t len, uint32_t family)
{
    pal_packet p = {.data = b, .family = (uint8_t)family, .l3 = f.l3, .l4 = f.l4, .cap = len, .l4_len = len - f.l4};
    p.proto = family == PAL_FAMILY_V4 ? b[f.l3 + 9] : b[f.l3 + 6];
    return l4_checksum(&p) == SUM_GOOD && (family == PAL_FAMILY_V6 || sum_is_good(sum_bytes(b + f.l3, 20, 0)));
}

/* Segment i as bytes, behind `before` bytes. */
static uint32_t segment_make(const segment_plan *s, uint32_t i, uint32_t before, uint8_t *out)
{
    uint32_t at, bytes = segment_bytes(s, i, 1, &at);
    segment_headers(s, f.b, i, 1, out + before);
    memcpy(out + before + s->headers, f.b + at, bytes);
    return before + s->headers + bytes;
}

static void test_segments(uint32_t family, bool udp)
{
    const uint32_t bytes = 5 * MSS + 7;
    host_offload o = make_super(family, udp, bytes, MSS);
    segment_plan s;
    CHECK(segment_plan_make(&s, f.b, f.len, &o));
    CHECK_U64(s.count, 6);
    uint32_t seen = 0;
    for (uint32_t i = 0; i < s.count; i++) {
        uint8_t out[3000];
        uint32_t len = segment_make(&s, i, 0, out), data = i < 5 ? MSS : 7;
        const uint8_t *ip = out + f.l3, *l4 = out + f.l4;
        CHECK_U64(len, s.headers + data);
        CHECK(frame_sum_is_good(out, len, family));
        CHECK(memcmp(out + s.headers, payload + seen, data) == 0);
        if (family == PAL_FAMILY_V4) {
            CHECK_U64(load_be16(ip + 2), len - 14);
            CHECK_U64(load_be16(ip + 4), (0xfffe + i) & 0xffff);
        } else {
            CHECK_U64(load_be16(ip + 4), len - 54);
        }
        if (udp) {
            CHECK_U64(load_be16(l4 + 4), 8 + data);
        } else {
            CHECK_U64(load_be32(l4 + 4), (uint32_t)(0xfffffff0u + seen));
            CHECK_U64(l4[13], TCP_ACK | (i == 5 ? TCP_PSH | TCP_FIN : 0) | (i == 0 ? SEGMENT_TCP_CWR : 0));
        }
        seen += data;
    }
    CHECK_U64(seen, bytes);
    /* The middle as a smaller super-packet, and that as segments, is the same as the segments at once. */
    uint8_t half[8000], once[3000], twice[3000];
    uint32_t at, middle = segment_bytes(&s, 2, 3, &at);
    CHECK_U64(middle, 3 * MSS);
    segment_headers(&s, f.b, 2, 3, half);
    memcpy(half + s.headers, f.b + at, middle);
    segment_plan t;
    CHECK(segment_plan_make(&t, half, s.headers + middle, &o));
    CHECK_U64(t.count, 3);
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t len = segment_make(&s, 2 + i, 0, once), data = segment_bytes(&t, i, 1, &at);
        segment_headers(&t, half, i, 1, twice);
        memcpy(twice + t.headers, half + at, data);
        CHECK_U64(len, t.headers + data);
        if (!udp && i > 0) /* its first may carry CWR again: the flag is the super-packet's */
            CHECK(memcmp(once, twice, len) == 0);
    }
}

/* A segment whose sum is 0: TCP says so, as every sender does; in UDP that would say that there is none (RFC 768). Found by
 * fuzz_segment: what was put together did not come apart as it had come. */
static void test_zero_sum(uint32_t family, bool udp)
{
    host_offload o = make_super(family, udp, 2 * MSS, MSS);
    segment_plan s;
    uint8_t out[3000];
    CHECK(segment_plan_make(&s, f.b, f.len, &o));
    segment_make(&s, 1, 0, out);
    uint16_t field;
    memcpy(&field, out + f.l4 + (udp ? 6 : 16), 2);
    uint8_t *word = f.b + s.headers + MSS;
    uint16_t sum = sum_fold((uint64_t)load_u16(word) + field);
    memcpy(word, &sum, 2);
    uint32_t len = segment_make(&s, 1, 0, out);
    CHECK(frame_sum_is_good(out, len, family));
    CHECK_U64(load_u16(out + f.l4 + (udp ? 6 : 16)), udp ? 0xffff : 0);
}

/* Segments of the super-packet, in order, into one buffer as UDP_GRO leaves them; then put together in place. */
static void test_round(uint32_t family, bool udp, uint32_t bytes, uint32_t size, uint8_t encap)
{
    static uint8_t buffer[80000];
    uint8_t tunnel[TUNNEL];
    encap_write(encap, tunnel, &(geneve_header){.vni = 9, .protocol = GENEVE_ETHERNET});
    static const pal_address from = {.family = PAL_FAMILY_V4};
    host_offload o = make_super(family, udp, bytes, size);
    if (!udp)
        f.b[f.l4 + 13] = TCP_ACK | TCP_PSH;
    segment_plan s;
    CHECK(segment_plan_make(&s, f.b, f.len, &o));
    uint32_t used = 0, length[COALESCE_SEGMENTS];
    CHECK(s.count <= COALESCE_SEGMENTS);
    for (uint32_t i = 0; i < s.count; i++) {
        memcpy(buffer + used, tunnel, TUNNEL);
        length[i] = segment_make(&s, i, TUNNEL, buffer + used);
        used += length[i];
    }
    host_frame frame[2] = {{.data = buffer, .len = length[0], .outer = from, .encap = encap}};
    coalesce c;
    coalesce_begin(&c);
    uint8_t *at = buffer;
    for (uint32_t i = 0; i < s.count; i++) {
        const host_frame one = {.data = at, .len = length[i], .outer = from, .encap = encap};
        CHECK_U64(coalesce_add(&c, frame, &one, 0, sizeof buffer), i > 0);
        at += length[i];
    }
    coalesce_end(&c, frame);
    CHECK_U64(frame[0].len, TUNNEL + f.len);
    const uint16_t cut = (uint16_t)(s.count > 1 ? size : 0);
    CHECK_U64(frame[0].offload.gso_size, cut);
    if (s.count > 1) {
        CHECK(memcmp(buffer + TUNNEL, f.b, f.len) == 0);
        CHECK(memcmp(&frame[0].offload, &o, sizeof o) == 0);
    } else {
        CHECK(frame_sum_is_good(buffer + TUNNEL, f.len, family));
        CHECK_U64(frame[0].offload.flags, VIRTIO_DATA_VALID);
    }
}

enum change { SAME, GAP, ACK_NUMBER, WINDOW, FLAGS, OPTION, TTL, TOS, SUM, PORT, LONGER, VNI, OUTER, OUTER_TOS, ID, LAST, CHANGES };

/* A second segment that differs in one thing stays a frame by itself. */
static void test_differences(uint32_t family, enum change change)
{
    static const uint8_t geneve[TUNNEL] = {0, 0, 0x65, 0x58, 0, 0, 9, 0};
    static const char *const names[CHANGES] = {"same", "gap", "ack", "window", "flags", "option", "ttl", "tos", "sum", "port", "longer", "vni", "outer", "outer tos", "id", "psh"};
    pal_address from = {.family = PAL_FAMILY_V4};
    static uint8_t one[8000], two[3000];
    check_where = names[change];
    host_offload o = make_super(family, false, 2 * MSS, MSS);
    f.b[f.l4 + 13] = TCP_ACK;
    segment_plan s;
    CHECK(segment_plan_make(&s, f.b, f.len, &o));
    memcpy(one, geneve, TUNNEL);
    memcpy(two, geneve, TUNNEL);
    uint32_t len = segment_make(&s, 0, TUNNEL, one), len2 = segment_make(&s, 1, TUNNEL, two);
    uint8_t *ip = two + TUNNEL + f.l3, *l4 = two + TUNNEL + f.l4;
    uint8_t outer_tos = 0;
    switch (change) {
    case GAP: l4[7]++; break;
    case ACK_NUMBER: l4[11]++; break;
    case WINDOW: l4[15]++; break;
    case FLAGS: l4[13] |= TCP_FIN; break;
    case OPTION: l4[27]++; break;
    case TTL: ip[family == PAL_FAMILY_V4 ? 8 : 7]--; break;
    case TOS: ip[1] ^= family == PAL_FAMILY_V4 ? 4 : 0x40; break;
    case PORT: l4[1]++; break;
    case VNI: two[6]++; break;
    case OUTER: from.addr[0] = 1; break;
    case OUTER_TOS: outer_tos = 3; break;
    case ID: ip[5] += 7; break;
    case LONGER: store_be16(ip + (family == PAL_FAMILY_V4 ? 2 : 4), (uint16_t)(load_be16(ip + (family == PAL_FAMILY_V4 ? 2 : 4)) + 1)); two[len2++] = 9; break;
    case LAST: one[TUNNEL + f.l4 + 13] |= TCP_PSH; break;
    default: break;
    }
    for (int k = 0; k < 2; k++) { /* right sums, whatever was changed */
        uint8_t *b = (k ? two : one) + TUNNEL;
        const uint32_t n = (k ? len2 : len) - TUNNEL;
        pal_packet p = {.data = b, .family = (uint8_t)family, .l3 = f.l3, .l4 = f.l4};
        if (family == PAL_FAMILY_V4) {
            store_be16(b + f.l3 + 10, 0);
            uint16_t sum = sum_finish(sum_bytes(b + f.l3, 20, 0));
            memcpy(b + f.l3 + 10, &sum, 2);
        }
        store_be16(b + f.l4 + 16, 0);
        uint16_t sum = sum_finish(sum_bytes(b + f.l4, n - f.l4, sum_pseudo(&p, PROTO_TCP, n - f.l4)));
        memcpy(b + f.l4 + 16, &sum, 2);
    }
    if (change == SUM)
        l4[40]++;
    host_frame frame[2] = {{.data = one, .len = len, .outer = {.family = PAL_FAMILY_V4}}, {.data = two, .len = len2, .outer = from, .tos = outer_tos}};
    coalesce c;
    coalesce_begin(&c);
    CHECK(!coalesce_add(&c, frame, &frame[0], 0, sizeof one));
    const bool together = change == SAME;
    uint8_t before[3000];
    memcpy(before, two, len2);
    CHECK_U64(coalesce_add(&c, frame, &frame[1], 1, sizeof two), together);
    coalesce_end(&c, frame);
    CHECK(together || (frame[0].len == len && memcmp(before, two, len2) == 0));
    CHECK(together || frame[0].offload.gso_type == VIRTIO_GSO_NONE);
}

/* What follows in a flow and does not fit closes it: no later one may be put before it. */
static void test_order(void)
{
    static const uint8_t geneve[TUNNEL] = {0, 0, 0x65, 0x58, 0, 0, 9, 0};
    static const pal_address from = {.family = PAL_FAMILY_V4};
    static uint8_t b[3][4000];
    check_where = "order";
    host_offload o = make_super(PAL_FAMILY_V4, false, 3 * MSS, MSS);
    f.b[f.l4 + 13] = TCP_ACK;
    segment_plan s;
    CHECK(segment_plan_make(&s, f.b, f.len, &o));
    uint32_t len[3];
    for (uint32_t i = 0; i < 3; i++) {
        memcpy(b[i], geneve, TUNNEL);
        len[i] = segment_make(&s, i, TUNNEL, b[i]);
    }
    b[1][TUNNEL + f.l4 + 40]++; /* the second is damaged */
    host_frame frame[3];
    coalesce c;
    coalesce_begin(&c);
    for (uint32_t i = 0; i < 3; i++) {
        frame[i] = (host_frame){.data = b[i], .len = len[i], .outer = from};
        CHECK(!coalesce_add(&c, frame, &frame[i], i, sizeof b[i]));
    }
    coalesce_end(&c, frame);
    for (uint32_t i = 0; i < 3; i++)
        CHECK_U64(frame[i].len, len[i]);
}

static void test_virtio(void)
{
    check_where = "virtio";
    host_offload o = make_super(PAL_FAMILY_V4, false, 3000, 1000), got;
    uint8_t raw[VIRTIO_TUNNEL_BYTES];
    virtio_header h = virtio_of(&o), back;
    h.outer_th = 34;
    h.inner_nh = 64;
    virtio_store(raw, VIRTIO_TUNNEL_BYTES, &h);
    back = virtio_load(raw, VIRTIO_TUNNEL_BYTES);
    CHECK(memcmp(&h, &back, sizeof h) == 0);
    CHECK(raw[2] == (o.hdr_len & 0xff) && raw[20] == 34);
    h.hdr_len = 9; /* a hint, and it lies */
    CHECK(virtio_offload(&h, f.b, f.len, 0, &got));
    CHECK(memcmp(&o, &got, sizeof o) == 0);
    static const struct lie { uint8_t flags, type; uint16_t size, start, offset; } lies[] = {
        {1, 0, 0, 65535, 0}, {1, 0, 0, 34, 65535}, {1, 0, 0, 13, 0}, {1, 0, 0, 3065, 0}, {0, 1, 1000, 34, 16}, {1, 1, 0, 34, 16},
        {1, 2, 1000, 34, 16}, {1, 3, 1000, 34, 16}, {1, 0x41, 1000, 34, 16}, {1, 1, 1000, 34, 6}, {1, 5, 1000, 34, 16},
        {1, 0x85, 1000, 34, 6}, {1, 0x80, 1000, 34, 16}, {1, 1, 1000, 3040, 16}, {1, 1, 1000, 20, 16}};
    for (uint32_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        const struct lie *l = &lies[i];
        h = (virtio_header){.flags = l->flags, .gso_type = l->type, .gso_size = l->size, .csum_start = l->start, .csum_offset = l->offset};
        if (l->start == 3065)
            h.csum_start = (uint16_t)(f.len - 1);
        CHECK(!virtio_offload(&h, f.b, f.len, 0, &got));
    }
    /* An offload that virtio_offload lets pass and that does not fit the headers is refused when it is to be cut. */
    segment_plan s;
    for (uint16_t start = 14; start < 100; start++) {
        host_offload wrong = o;
        wrong.csum_start = start;
        CHECK_U64(segment_plan_make(&s, f.b, f.len, &wrong), start == 34);
    }
    o.gso_type = VIRTIO_GSO_TCPV6;
    CHECK(!segment_plan_make(&s, f.b, f.len, &o));
}

static void test_checksum(void)
{
    check_where = "checksum";
    for (uint32_t family = PAL_FAMILY_V4; family <= PAL_FAMILY_V6; family++) {
        host_offload o = make_super(family, true, 333, 333);
        uint16_t field = segment_checksum(f.b, f.len, &o);
        memcpy(f.b + f.l4 + 6, &field, 2);
        CHECK(frame_sum_is_good(f.b, f.len, family));
    }
}

int main(void)
{
    for (uint32_t i = 0; i < sizeof payload; i++)
        payload[i] = (uint8_t)(i * 131 + (i >> 8));
    for (uint32_t family = PAL_FAMILY_V4; family <= PAL_FAMILY_V6; family++)
        for (int udp = 0; udp < 2; udp++) {
            check_where = udp ? "udp" : "tcp";
            test_segments(family, udp);
            test_zero_sum(family, udp);
            static const uint32_t cases[][2] = {{1, 1000}, {1000, 1000}, {1001, 1000}, {64000, 1448}, {64, 32}, {65000, 1400}, {4000, 77}};
            for (uint32_t i = 0; i < sizeof cases / sizeof *cases; i++)
                for (uint8_t encap = PAL_ENCAP_GENEVE; encap <= PAL_ENCAP_VXLAN; encap++)
                    test_round(family, udp, cases[i][0], cases[i][1], encap);
        }
    for (uint32_t family = PAL_FAMILY_V4; family <= PAL_FAMILY_V6; family++)
        for (uint32_t change = SAME; change < CHANGES; change++)
            if (change != ID || family == PAL_FAMILY_V4) /* IPv6 has none */
                test_differences(family, change);
    test_order();
    test_virtio();
    test_checksum();
    return check_end("test_segment");
}
