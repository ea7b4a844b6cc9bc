/* SPDX-License-Identifier: Apache-2.0
 *
 * uplink_pair.h - two uplinks of tier A, with socket pairs in place of their TAPs, and TCP frames for them. Included once by a
 * test program.
 */
#ifndef PAL_TESTS_UPLINK_PAIR_H
#define PAL_TESTS_UPLINK_PAIR_H

#include "../../io/netns.c"
#include "../../io/tap.c"
#include "../../io/uplink.c"
#include "../../io/uplink_tap.c"
#include "../../io/uplink_udp.c"
#include "../check.h"
#include "packets.h"

#include <sys/socket.h>

static frame f;
static uint8_t raw[80000], body[65536];
static uplink one, two;
static int wire_one, wire_two; /* the kernels' ends */

static const pal_address TEP[3][2] = {
    [PAL_FAMILY_V4] = {{.family = PAL_FAMILY_V4, .addr = {10, 1, 0, 1}}, {.family = PAL_FAMILY_V4, .addr = {10, 1, 0, 2}}},
    [PAL_FAMILY_V6] = {{.family = PAL_FAMILY_V6, .addr = {0xfd, [15] = 1}}, {.family = PAL_FAMILY_V6, .addr = {0xfd, [15] = 2}}}};

static int open_one(uplink *u, const pal_address *local, bool zero_sums)
{
    int fd[2];
    char err[200] = "";
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, fd) == 0);
    pal_uplink_options o = {.name = "tep0", .local = *local, .tier = PAL_TIER_A, .mac = {2, 0, 0, 0, 0, 1}, .peer_mac = {2, 0, 0, 0, 0, 2},
                            .fds = 1, .fd = {fd[0]}, .offloads = 0x1ef, .zero_sums = zero_sums};
    CHECK_U64((uint64_t)uplink_open(u, &o, 1, err, sizeof err), 0);
    CHECK_U64(u->tier, PAL_TIER_A);
    close(fd[0]);
    return fd[1];
}

static void open_both(uint32_t family, bool zero_sums)
{
    wire_one = open_one(&one, &TEP[family][0], zero_sums);
    wire_two = open_one(&two, &TEP[family][1], zero_sums);
}
static void close_both(void)
{
    uplink_close(&one);
    uplink_close(&two);
    close(wire_one);
    close(wire_two);
}

/* A TCP frame in f, of `bytes` of data; size: of each segment, 0: no super-packet; later: its sum is left to a card. */
static host_offload make(uint32_t family, uint32_t bytes, uint32_t size, bool later)
{
    static uint8_t l4[65536];
    memset(l4, 0, 20);
    store_be16(l4, 4000);
    store_be16(l4 + 2, 80);
    l4[12] = 5 << 4;
    l4[13] = TCP_ACK;
    memcpy(l4 + 20, body, bytes);
    frame_ip(&f, family, 1, 2, PROTO_TCP, l4, 20 + bytes);
    f.b[f.l3 + 1] |= family == PAL_FAMILY_V4 ? 2 : 0x20; /* ECT */
    frame_ip_sum(&f);
    pal_packet p = frame_view(&f, family);
    const uint64_t pseudo = sum_pseudo(&p, PROTO_TCP, 20 + bytes);
    const uint16_t sum = later ? sum_fold(pseudo) : sum_finish(sum_bytes(f.b + f.l4, 20 + bytes, pseudo));
    memcpy(f.b + f.l4 + 16, &sum, 2);
    host_offload o = {0};
    if (later)
        o = (host_offload){.flags = VIRTIO_NEEDS_CSUM, .csum_start = (uint16_t)f.l4, .csum_offset = 16};
    if (size) {
        o.gso_type = family == PAL_FAMILY_V4 ? VIRTIO_GSO_TCPV4 : VIRTIO_GSO_TCPV6;
        o.gso_size = (uint16_t)size;
        o.hdr_len = (uint16_t)(f.l4 + 20);
    }
    return o;
}

/* The source port of a flow: its own where every frame goes by itself, or one of a few. */
static uint16_t one_port(uint32_t port)
{
    return (uint16_t)(((uplink_tap *)one.queue[0])->zero_sums ? port : 49152 + port % 8 * 2048);
}

#endif
