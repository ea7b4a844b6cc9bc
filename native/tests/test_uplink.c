/* SPDX-License-Identifier: Apache-2.0
 *
 * test_uplink.c - tier A without a TAP: one end of a socket pair takes its place. Where the virtio header points, field by field;
 * outer sums that are right once a card has done what was left to it; what two uplinks make of each other's frames; super-packets
 * that are too long with what goes around them; frames from the underlay that are no good. Tiers B and C at both ports, over the
 * loopback interface.
 */
#define _GNU_SOURCE
#include "support/uplink_pair.h"

#include <poll.h>

static uint32_t encap; /* of the tunnel: options 0 only with VXLAN */
static uint8_t memory[80000];

/* The frame, with a tunnel header of `options` words before it, to host two; what the kernel gets: bytes after the virtio header. */
static int32_t send_one(uint32_t family, const host_offload *o, uint32_t options)
{
    const uint32_t inner = GENEVE_HEADER + 4 * options;
    uint8_t *data = memory + 256;
    memset(data, 0, inner);
    data[0] = (uint8_t)options;
    store_be16(data + 2, GENEVE_ETHERNET);
    if (encap == PAL_ENCAP_VXLAN)
        vxlan_write(data, 0x20);
    if (options)
        data[11] = (uint8_t)(options - 1);
    memcpy(data + inner, f.b, f.len);
    const host_out out = {.data = data, .len = inner + f.len, .vnic = PAL_UPLINK, .outer = TEP[family][1], .port = 50003, .inner = (uint16_t)inner, .encap = encap, .offload = *o};
    uplink_send(one.queue[0], &out);
    uplink_flush(one.queue[0]);
    CHECK(memcmp(data + inner, f.b, f.len) == 0); /* others may need it */
    return (int32_t)(read(wire_one, raw, sizeof raw) - VIRTIO_TUNNEL_BYTES);
}

/* What a card does with NEEDS_CSUM. */
static void card_sum(const virtio_header *h, uint8_t *frame, uint32_t len)
{
    const uint16_t sum = sum_finish(sum_bytes(frame + h->csum_start, len - h->csum_start, 0));
    memcpy(frame + h->csum_start + h->csum_offset, &sum, 2);
}

static void check_outer(uint32_t family, uint32_t len, uint32_t inner, uint32_t marks)
{
    outer_found found = {0};
    CHECK_U64(outer_read(raw + VIRTIO_TUNNEL_BYTES, len, marks, &found), PAL_REASON_MATCH);
    CHECK(memcmp(&found.from, &TEP[family][0], sizeof found.from) == 0 && memcmp(&found.to, &TEP[family][1], sizeof found.to) == 0);
    CHECK_U64(found.len, inner + f.len);
    CHECK_U64(found.encap, encap);
    CHECK_U64(found.tos & 3, 2);
    CHECK_U64(load_be16(raw + VIRTIO_TUNNEL_BYTES + found.at - 8), one_port(50003));
}

static void test_single(uint32_t family, bool later, uint32_t options, bool zero_sums)
{
    check_where = later ? "sum left to a card" : "whole";
    open_both(family, zero_sums);
    const host_offload o = make(family, 333, 0, later);
    const uint32_t inner = GENEVE_HEADER + 4 * options, at = outer_bytes(family) + inner;
    const int32_t len = send_one(family, &o, options);
    CHECK_U64((uint64_t)len, at + f.len);
    virtio_header h = virtio_load(raw, VIRTIO_TUNNEL_BYTES);
    uint8_t *frame = raw + VIRTIO_TUNNEL_BYTES;
    CHECK_U64(h.gso_type, VIRTIO_GSO_NONE);
    CHECK_U64(h.flags, later || !zero_sums ? VIRTIO_NEEDS_CSUM : 0);
    const uint16_t start = (uint16_t)(later ? at + f.l4 : zero_sums ? 0 : outer_bytes(family) - OUTER_UDP);
    CHECK_U64(h.csum_start, start);
    host_frame got[2];
    CHECK(write(wire_two, raw, (size_t)len + VIRTIO_TUNNEL_BYTES) > 0 && write(wire_one, raw, (size_t)len + VIRTIO_TUNNEL_BYTES) > 0);
    CHECK_U64(uplink_receive(two.queue[0], got, 2), 1);
    CHECK(got[0].len == inner + f.len && memcmp(got[0].data + inner, f.b, f.len) == 0);
    CHECK(got[0].offload.flags == (later ? VIRTIO_NEEDS_CSUM : VIRTIO_DATA_VALID) && got[0].offload.gso_type == VIRTIO_GSO_NONE);
    CHECK_U64(uplink_receive(one.queue[0], got, 2), 0); /* it is for the other's TEP */
    CHECK_U64(uplink_queue_counts(one.queue[0])->drop[PAL_REASON_OUTER_MALFORMED], 1);
    if (h.flags)
        card_sum(&h, frame, (uint32_t)len);
    check_outer(family, (uint32_t)len, inner, zero_sums ? OUTER_ZERO6 : 0); /* every sum is looked at */
    CHECK_U64(load_u16(frame + outer_bytes(family) - 2) == 0, zero_sums);
    pal_packet p = {.data = frame + at, .family = (uint8_t)family, .l3 = f.l3, .l4 = f.l4, .cap = f.len, .l4_len = f.len - f.l4, .proto = PROTO_TCP};
    CHECK_U64(l4_checksum(&p), SUM_GOOD);
    close_both();
}

/* From one uplink to the other, as the kernel between them would pass it on. */
static void test_super(uint32_t family, uint32_t bytes, uint32_t size, uint32_t options)
{
    check_where = "super-packet";
    open_both(family, false);
    const host_offload o = make(family, bytes, size, true);
    const uint32_t inner = GENEVE_HEADER + 4 * options, around = outer_bytes(family), at = around + inner;
    const int32_t len = send_one(family, &o, options);
    CHECK_U64((uint64_t)len, at + f.len);
    const virtio_header h = virtio_load(raw, VIRTIO_TUNNEL_BYTES);
    CHECK_U64(h.flags, VIRTIO_NEEDS_CSUM | VIRTIO_TUNNEL_CSUM);
    CHECK_U64(h.gso_type, o.gso_type | (family == PAL_FAMILY_V4 ? VIRTIO_GSO_TUNNEL_V4 : VIRTIO_GSO_TUNNEL_V6));
    CHECK_U64(h.gso_size, size);
    CHECK_U64(h.csum_start, at + f.l4);
    CHECK_U64(h.csum_offset, 16);
    CHECK_U64(h.hdr_len, at + f.l4 + 20);
    CHECK_U64(h.outer_th, around - 8);
    CHECK_U64(h.inner_nh, at + 14);
    check_outer(family, (uint32_t)len, inner, OUTER_VERIFIED);
    CHECK(write(wire_two, raw, (size_t)len + VIRTIO_TUNNEL_BYTES) > 0);
    host_frame got[2];
    CHECK_U64(uplink_receive(two.queue[0], got, 2), 1);
    CHECK(got[0].len == inner + f.len && memcmp(got[0].data + inner, f.b, f.len) == 0);
    CHECK(memcmp(&got[0].offload, &o, sizeof o) == 0);
    CHECK(memcmp(&got[0].outer, &TEP[family][0], sizeof got[0].outer) == 0);
    CHECK(got[0].from == PAL_UPLINK && got[0].tos == 2 && got[0].encap == encap);
    CHECK_U64(uplink_queue_counts(two.queue[0])->rx_segments, uplink_queue_counts(one.queue[0])->tx_segments);
    uplink_release(two.queue[0]);
    close_both();
}

/* Longer than IP can say with what goes around: two, whose segments are those of the one. */
static void test_halves(uint32_t family)
{
    static uint8_t whole[400], part[400];
    check_where = "halves";
    open_both(family, false);
    const host_offload o = make(family, 65535 - 60 - 20 - 20, 1400, true);
    segment_plan s;
    CHECK(segment_plan_make(&s, f.b, f.len, &o));
    int32_t len = send_one(family, &o, 3);
    uint32_t seen = 0;
    for (uint32_t half = 0; half < 2; half++) {
        CHECK(len > 0 && len <= 65535 + 14);
        virtio_header h = virtio_load(raw, VIRTIO_TUNNEL_BYTES);
        host_offload ho;
        segment_plan t;
        uint8_t *inner = raw + VIRTIO_TUNNEL_BYTES + outer_bytes(family) + 20;
        const uint32_t at = outer_bytes(family) + 20;
        h.gso_type &= (uint8_t)~VIRTIO_GSO_TUNNEL;
        h.flags &= (uint8_t)~VIRTIO_TUNNEL_CSUM;
        CHECK(virtio_offload(&h, raw + VIRTIO_TUNNEL_BYTES, (uint32_t)len, at, &ho));
        CHECK(segment_plan_make(&t, inner, (uint32_t)len - at, &ho));
        for (uint32_t i = 0; i < t.count; i++, seen++) {
            segment_headers(&s, f.b, seen, 1, whole);
            segment_headers(&t, inner, i, 1, part);
            CHECK(memcmp(whole, part, s.headers) == 0);
        }
        if (half == 0)
            len = (int32_t)(read(wire_one, raw, sizeof raw) - VIRTIO_TUNNEL_BYTES);
    }
    CHECK_U64(seen, s.count);
    CHECK_U64(uplink_queue_counts(one.queue[0])->tx_frames, 2);
    close_both();
}

/* Two segments, each so long that both can't go together: two plain packets, whose sums are whole. */
static void test_long_segments(uint32_t family)
{
    check_where = "long segments";
    open_both(family, false);
    const host_offload o = make(family, 65535 - 60 - 20 - 20, 40000, true);
    int32_t len = send_one(family, &o, 3);
    for (uint32_t half = 0; half < 2; half++) {
        const virtio_header h = virtio_load(raw, VIRTIO_TUNNEL_BYTES);
        const uint32_t at = outer_bytes(family) + 20;
        outer_found found;
        CHECK(len > 0 && h.gso_type == VIRTIO_GSO_NONE && h.flags == VIRTIO_NEEDS_CSUM);
        card_sum(&h, raw + VIRTIO_TUNNEL_BYTES, (uint32_t)len);
        CHECK_U64(outer_read(raw + VIRTIO_TUNNEL_BYTES, (uint32_t)len, 0, &found), PAL_REASON_MATCH);
        pal_packet p = {.data = raw + VIRTIO_TUNNEL_BYTES + at, .family = (uint8_t)family, .l3 = f.l3, .l4 = f.l4, .cap = (uint32_t)len - at,
                        .l4_len = (uint32_t)len - at - f.l4, .proto = PROTO_TCP};
        CHECK_U64(l4_checksum(&p), SUM_GOOD);
        if (half == 0)
            len = (int32_t)(read(wire_one, raw, sizeof raw) - VIRTIO_TUNNEL_BYTES);
    }
    close_both();
}

/* Datagrams that the kernel has put together become what they were: here the segments of one super-packet, so that again. */
static void test_many_in_one(void)
{
    check_where = "many in one";
    open_both(PAL_FAMILY_V4, false);
    const host_offload o = make(PAL_FAMILY_V4, 4 * 1000 + 10, 1000, true);
    segment_plan s;
    CHECK(segment_plan_make(&s, f.b, f.len, &o));
    uint8_t *frame = raw + VIRTIO_TUNNEL_BYTES, *at = frame + 42;
    memset(raw, 0, sizeof raw);
    for (uint32_t i = 0; i < s.count; i++) {
        uint32_t from, bytes = segment_bytes(&s, i, 1, &from);
        if (encap == PAL_ENCAP_VXLAN)
            vxlan_write(at, 0x20);
        else
            store_be16(at + 2, GENEVE_ETHERNET);
        segment_headers(&s, f.b, i, 1, at + 8);
        memcpy(at + 8 + s.headers, f.b + from, bytes);
        at += 8 + s.headers + bytes;
    }
    const outer_ends ends = {.mac = {2}, .encap = encap, .local = TEP[PAL_FAMILY_V4][0], .remote = TEP[PAL_FAMILY_V4][1]};
    CHECK_U64(outer_write(frame + 42, (uint32_t)(at - frame - 42), &ends, 50000, 0, OUTER_SUM_PARTIAL), 42);
    const virtio_header h = {.flags = VIRTIO_NEEDS_CSUM, .gso_type = VIRTIO_GSO_UDP_L4, .gso_size = (uint16_t)(8 + s.headers + 1000), .csum_start = 34, .csum_offset = 6, .hdr_len = 42};
    virtio_store(raw, VIRTIO_TUNNEL_BYTES, &h);
    CHECK(write(wire_two, raw, (size_t)(at - raw)) > 0);
    host_frame got[8];
    CHECK_U64(uplink_receive(two.queue[0], got, 8), 1);
    CHECK(got[0].len == 8 + f.len && memcmp(got[0].data + 8, f.b, f.len) == 0);
    CHECK(memcmp(&got[0].offload, &o, sizeof o) == 0);
    CHECK_U64(uplink_queue_counts(two.queue[0])->rx_segments, 5);
    /* With no room for more than one the rest waits, and no byte of it is lost. */
    uplink_release(two.queue[0]);
    frame[42 + 2 * (8 + s.headers + 1000) + 8 + 40] ^= 1; /* the third is of another sequence number: a frame by itself */
    CHECK(write(wire_two, raw, (size_t)(at - raw)) > 0);
    uint32_t frames = 0, bytes = 0;
    for (uint32_t n; (n = uplink_receive(two.queue[0], got, 1)) > 0; frames += n) {
        bytes += got[0].len;
        uplink_release(two.queue[0]);
    }
    CHECK(frames >= 3);
    CHECK_U64(bytes, (uint64_t)(at - frame) - 42); /* one at a time: nothing was put together */
    close_both();
}

/* Anything at all from the underlay: dropped by a reason, or a frame that lies inside what came. */
static void test_anything(void)
{
    check_where = "anything";
    open_both(PAL_FAMILY_V4, false);
    uint64_t x = 88172645463325252ull;
    uint32_t frames = 0;
    const uint32_t rounds = 6000;
    for (uint32_t round = 0; round < rounds; round++) {
        const bool super = round & 1;
        const host_offload o = make(PAL_FAMILY_V4, 200, super ? 100 : 0, true);
        int32_t len = send_one(PAL_FAMILY_V4, &o, 3);
        for (uint32_t i = 0; i < 1 + round % 3; i++) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            raw[(x >> 8) % (uint32_t)(round % 5 ? 130 : len + VIRTIO_TUNNEL_BYTES)] = (uint8_t)x;
        }
        if (round % 7 == 0)
            len = (int32_t)((x >> 20) % (uint32_t)len) + 1;
        CHECK(write(wire_two, raw, (size_t)len + VIRTIO_TUNNEL_BYTES) > 0);
        host_frame got[HOST_BURST];
        for (uint32_t n; (n = uplink_receive(two.queue[0], got, HOST_BURST)) > 0; frames += n) {
            for (uint32_t i = 0; i < n; i++)
                CHECK(got[i].len <= (uint32_t)len && got[i].data >= two.queue[0]->pool.base);
            uplink_release(two.queue[0]);
        }
    }
    const io_counts *c = uplink_queue_counts(two.queue[0]);
    uint64_t dropped = 0;
    for (uint32_t i = 0; i < 128; i++)
        dropped += c->drop[i];
    CHECK(frames > 100 && dropped > 100 && c->rx_frames > 100);
    CHECK(c->rx_frames + dropped <= rounds); /* group addresses are the kernel's own talk, and no drop */
    close_both();
}

/* The next frame of a queue, which may be on its way yet. */
static uint32_t wait_one(uplink_queue *q, host_frame *got)
{
    struct pollfd p[UPLINK_FDS];
    int fd[UPLINK_FDS];
    const uint32_t fds = uplink_queue_fds(q, fd);
    for (uint32_t i = 0; i < fds; i++)
        p[i] = (struct pollfd){.fd = fd[i], .events = POLLIN};
    uint32_t n = 0;
    for (uint32_t tries = 0; n == 0 && tries < 100 && poll(p, fds, 2000) > 0; tries++)
        n = uplink_receive(q, got, 1);
    return n;
}

/* What is for a TEP that speaks VXLAN goes to its port, and what comes to ours says by which port it came; neither port keeps the
 * other waiting. */
static void test_sockets(uint32_t tier)
{
    const pal_address here = {.family = PAL_FAMILY_V4, .addr = {127, 0, 0, 1}}, there = {.family = PAL_FAMILY_V4, .addr = {127, 0, 0, 2}};
    char err[200] = "";
    check_where = tier == PAL_TIER_B ? "tier B" : "tier C";
    const pal_uplink_options a = {.name = "", .local = here, .tier = tier, .vxlan = 1}, b = {.name = "", .local = there, .tier = tier, .vxlan = 1};
    if (uplink_open(&one, &a, 1, err, sizeof err) != 0 || uplink_open(&two, &b, 1, err, sizeof err) != 0) {
        printf("test_uplink: %s is not tried: %s\n", check_where, err);
        uplink_close(&one);
        return;
    }
    const host_offload none = make(PAL_FAMILY_V4, 300, 0, false);
    for (uint32_t i = 0; i < 60; i++) {
        const uint32_t said = i % 7 < 3 ? PAL_ENCAP_VXLAN : PAL_ENCAP_GENEVE;
        uint8_t *at = memory + 256;
        encap_write(said, at, &(geneve_header){.vni = 32, .protocol = GENEVE_ETHERNET});
        memcpy(at + 8, f.b, f.len);
        const host_out out = {.data = at, .len = 8 + f.len, .vnic = PAL_UPLINK, .outer = there, .port = (uint16_t)(50000 + i), .inner = 8, .encap = said, .offload = none};
        uplink_send(one.queue[0], &out);
        uplink_flush(one.queue[0]);
        host_frame got[1] = {{0}};
        CHECK_U64(wait_one(two.queue[0], got), 1);
        CHECK(got[0].encap == said && got[0].len == out.len && memcmp(&got[0].outer, &here, sizeof here) == 0);
        CHECK(got[0].data && memcmp(got[0].data, at, out.len) == 0);
        uplink_release(two.queue[0]);
    }
    uplink_close(&one);
    uplink_close(&two);
}

int main(void)
{
    for (uint32_t i = 0; i < sizeof body; i++)
        body[i] = (uint8_t)(i * 7 + (i >> 8));
    for (uint32_t family = PAL_FAMILY_V4; family <= PAL_FAMILY_V6; family++) {
        for (uint32_t options = 0; options <= 3; options += 3)
            for (int k = 0; k < 4; k++)
                test_single(family, k & 1, options, k & 2);
        encap = PAL_ENCAP_VXLAN;
        for (int k = 0; k < 4; k++)
            test_single(family, k & 1, 0, k & 2);
        test_super(family, 5000, 1400, 0);
        encap = PAL_ENCAP_GENEVE;
        test_super(family, 5000, 1400, 0);
        test_super(family, 60000, 1400, 3);
        test_super(family, 2800, 1400, 3);
        test_halves(family);
        test_long_segments(family);
    }
    for (encap = PAL_ENCAP_VXLAN; encap != PAL_ENCAP_GENEVE; encap--)
        test_many_in_one();
    test_many_in_one();
    test_anything();
    test_sockets(PAL_TIER_B);
    test_sockets(PAL_TIER_C);
    return check_end("test_uplink");
}
