/* SPDX-License-Identifier: Apache-2.0
 *
 * test_uplink_many.c - tier A: datagrams of one size from one port to one TEP leave as one message. Every frame arrives as it was,
 * sums that were left to a card finished, those of a flow in order, whatever is between them.
 */
#define _GNU_SOURCE
#include "support/uplink_pair.h"

enum { LEAVING = 80, LEAVING_BYTES = 8192 };
static uint8_t leaving_memory[LEAVING][LEAVING_BYTES];
static host_out leaving[LEAVING];
static uint64_t dice_state = 88172645463325252ull;

static uint32_t dice(uint32_t n)
{
    dice_state ^= dice_state << 13, dice_state ^= dice_state >> 7, dice_state ^= dice_state << 17;
    return (uint32_t)(dice_state >> 20) % n;
}

/* Frame number n of a burst, of this flow, for the TEP of host two or (away) another one. */
static void leave(uint32_t family, uint32_t n, uint32_t flow, uint32_t bytes, uint32_t size, bool later, bool away)
{
    store_be32(body, n);
    body[4] = (uint8_t)flow;
    const host_offload o = make(family, bytes, size, later);
    if (flow >= 40) { /* another class */
        f.b[f.l3 + 1] ^= family == PAL_FAMILY_V4 ? 8 : 0x80;
        frame_ip_sum(&f);
    }
    uint8_t *data = leaving_memory[n] + 256;
    geneve_write(data, &(geneve_header){.vni = 32, .protocol = GENEVE_ETHERNET});
    memcpy(data + 8, f.b, f.len);
    leaving[n] = (host_out){.data = data, .len = 8 + f.len, .vnic = PAL_UPLINK, .tep = away * TAP_LANES / TAP_PORTS, /* in the same lanes */
                             .outer = TEP[family][1], .port = (uint16_t)(50000 + flow), .inner = 8, .offload = o};
    if (away)
        leaving[n].outer.addr[family == PAL_FAMILY_V4 ? 3 : 15] = 99;
}

/* The inner frame with its sum finished, if a card was to do it; returns its length. */
static uint32_t finished(uint8_t *to, const uint8_t *data, uint32_t len, const host_offload *o)
{
    memcpy(to, data + 8, len - 8);
    if (o->gso_type == VIRTIO_GSO_NONE && (o->flags & VIRTIO_NEEDS_CSUM)) {
        const uint16_t sum = segment_checksum(to, len - 8, o);
        memcpy(to + o->csum_start + o->csum_offset, &sum, 2);
    }
    return len - 8;
}

/* All leave, and what is for host two arrives there: every frame, those of a flow in order. Returns the number of messages. */
static uint32_t leave_all(uint32_t n)
{
    static uint8_t want[LEAVING_BYTES], have[LEAVING_BYTES];
    uint32_t messages = 0, frames = 0, wanted = 0, latest[64] = {0};
    for (uint32_t i = 0; i < n; i++) {
        uplink_send(one.queue[0], &leaving[i]);
        wanted += !leaving[i].tep;
    }
    uplink_flush(one.queue[0]);
    for (ssize_t len; (len = read(wire_one, raw, sizeof raw)) > 0; messages++) {
        const uint8_t *frame = raw + VIRTIO_TUNNEL_BYTES;
        const virtio_header h = virtio_load(raw, VIRTIO_TUNNEL_BYTES);
        outer_found found = {0};
        CHECK_U64(outer_read(frame, (uint32_t)len - VIRTIO_TUNNEL_BYTES, OUTER_VERIFIED, &found), PAL_REASON_MATCH);
        const bool away = memcmp(&found.to, &two.queue[0]->local, sizeof found.to) != 0;
        if (h.gso_type == VIRTIO_GSO_UDP_L4) {
            CHECK(h.flags == VIRTIO_NEEDS_CSUM && h.csum_start == found.at - 8 && h.csum_offset == 6 && h.hdr_len == found.at);
            CHECK(h.gso_size < found.len && found.len <= 64u * h.gso_size);
            const uint8_t family = two.queue[0]->local.family, *ip = frame + OUTER_ETHERNET;
            CHECK_U64(load_u16(frame + found.at - 2), sum_fold(outer_pseudo(ip, family, 8 + found.len)));
            for (uint32_t at = found.at; at < found.at + found.len; at += h.gso_size) { /* none of another flow's port, TEP or class */
                CHECK(one_port(50000u + frame[at + 8 + f.l4 + 20 + 4]) == load_be16(frame + found.at - 8));
                CHECK_U64(outer_tos(frame + at + 8, f.len), found.tos);
                CHECK_U64(leaving[load_be32(frame + at + 8 + f.l4 + 20)].tep != 0, away);
            }
        }
        CHECK(away || write(wire_two, raw, (size_t)len) > 0);
    }
    host_frame got[HOST_BURST];
    for (uint32_t m; (m = uplink_receive(two.queue[0], got, HOST_BURST)) > 0; uplink_release(two.queue[0]))
        for (uint32_t i = 0; i < m; i++, frames++) {
            const uint8_t *in = got[i].data + 8 + f.l4 + 20;
            const uint32_t number = load_be32(in), flow = in[4];
            CHECK(number < n && flow < 64 && number >= latest[flow]); /* in order */
            if (number >= n || flow >= 64)
                continue;
            latest[flow] = number + 1;
            const host_out *o = &leaving[number];
            CHECK(!o->tep && got[i].offload.gso_type == o->offload.gso_type && got[i].offload.gso_size == o->offload.gso_size);
            CHECK_U64(finished(have, got[i].data, got[i].len, &got[i].offload), finished(want, o->data, o->len, &o->offload));
            CHECK(memcmp(want, have, o->len - 8) == 0);
        }
    CHECK_U64(frames, wanted);
    return messages;
}

static void test_as_one(uint32_t family)
{
    check_where = "as one";
    open_both(family, false);
    const io_counts *c = uplink_queue_counts(one.queue[0]);
    for (uint32_t i = 0; i < 60; i++) /* of several flows, sums left to a card among them */
        leave(family, i, i % 5 * 8, 18, 0, i & 1, false);
    CHECK_U64(leave_all(60), 1);
    CHECK(c->tx_frames == 1 && c->tx_segments == 60 && uplink_queue_counts(two.queue[0])->rx_segments == 60);
    for (uint32_t i = 0; i < 70; i++) /* more than a message may have */
        leave(family, i, 3, 18, 0, false, false);
    CHECK_U64(leave_all(70), 2);
    for (uint32_t i = 0; i < 10; i++) /* flows of two ports, and two TEPs */
        leave(family, i, i % 2, 100, 0, false, i >= 6);
    CHECK_U64(leave_all(10), 4);
    leave(family, 0, 5, 100, 0, true, false);
    CHECK_U64(leave_all(1), 1); /* alone, as ever */
    CHECK_U64(c->tx_segments, 141);
    static const uint32_t bytes[] = {100, 100, 90, 100, 120, 120}; /* a shorter one ends it, a longer one has no place in it */
    for (uint32_t i = 0; i < 6; i++)
        leave(family, i, 5, bytes[i], 0, false, false);
    CHECK_U64(leave_all(6), 3);
    for (uint32_t i = 0; i < 5; i++) /* a super-packet does not overtake what came before it */
        leave(family, i, 5, i == 2 ? 5000 : 100, i == 2 ? 1000 : 0, true, false);
    CHECK_U64(leave_all(5), 3);
    for (uint32_t round = 0; round < 300; round++) {
        const uint32_t n = 1 + dice(LEAVING);
        for (uint32_t i = 0; i < n; i++) {
            const bool super = dice(10) == 0;
            leave(family, i, dice(60), super ? 3000 : dice(3) ? 40 : 20 + dice(1400), super ? 1000 : 0, super || dice(2), dice(4) == 0);
        }
        leave_all(n);
    }
    uint64_t dropped = 0;
    for (uint32_t i = 0; i < 128; i++)
        dropped += c->drop[i];
    CHECK_U64(dropped, 0);
    close_both();
}

/* Datagrams of one flow, each a message by itself, some with their sums left to a card: put together again, none is overtaken. Of
 * IPv4 the identifications alone would say so. */
static void test_none_is_overtaken(uint32_t family)
{
    check_where = "none is overtaken";
    open_both(family, false);
    enum { DATAGRAMS = 9, BYTES = 600 };
    for (uint32_t i = 0; i < DATAGRAMS; i++) {
        const bool later = i % 3 == 1;
        store_be32(body, i);
        frame_udp(&f, family, 1, 2, 4000, 5004, body, BYTES);
        host_offload o = {0};
        if (later) {
            pal_packet p = frame_view(&f, family);
            const uint16_t pseudo = sum_fold(sum_pseudo(&p, PROTO_UDP, 8 + BYTES));
            memcpy(f.b + f.l4 + 6, &pseudo, 2);
            o = (host_offload){.flags = VIRTIO_NEEDS_CSUM, .csum_start = (uint16_t)f.l4, .csum_offset = 6};
        }
        uint8_t *data = leaving_memory[i] + 256;
        geneve_write(data, &(geneve_header){.vni = 32, .protocol = GENEVE_ETHERNET});
        memcpy(data + 8, f.b, f.len);
        const host_out out = {.data = data, .len = 8 + f.len, .vnic = PAL_UPLINK, .outer = TEP[family][1], .port = 50000, .inner = 8, .offload = o};
        uplink_send(one.queue[0], &out);
        uplink_flush(one.queue[0]);
        const ssize_t len = read(wire_one, raw, sizeof raw);
        CHECK(len > 0 && write(wire_two, raw, (size_t)len) > 0);
    }
    host_frame got[HOST_BURST];
    uint32_t number = 0;
    const uint32_t n = uplink_receive(two.queue[0], got, HOST_BURST);
    for (uint32_t i = 0; i < n; i++)
        for (const uint8_t *at = got[i].data + 8 + f.l4 + 8; at < got[i].data + got[i].len; at += BYTES)
            CHECK_U64(load_be32(at), number++);
    CHECK_U64(number, DATAGRAMS);
    CHECK(family == PAL_FAMILY_V4 || n < DATAGRAMS); /* two that follow each other are one */
    uplink_release(two.queue[0]);
    close_both();
}

int main(void)
{
    for (uint32_t i = 0; i < sizeof body; i++)
        body[i] = (uint8_t)(i * 7 + (i >> 8));
    test_as_one(PAL_FAMILY_V4);
    test_as_one(PAL_FAMILY_V6);
    test_none_is_overtaken(PAL_FAMILY_V4);
    test_none_is_overtaken(PAL_FAMILY_V6);
    return check_end("test_uplink_many");
}
