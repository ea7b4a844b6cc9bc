/* SPDX-License-Identifier: Apache-2.0
 *
 * test_live_uplink.c - a worker at an uplink, which is one end of a socket pair: datagrams that came as parts of long messages all
 * go through the switch, whether or not anything comes after them.
 */
#define _GNU_SOURCE
#include "../io/live.c"
#include "../io/live_worker.c"
#include "../io/netns.c"
#include "../io/tap.c"
#include "../io/uplink.c"
#include "../io/uplink_tap.c"
#include "../io/uplink_udp.c"
#include "check.h"

enum { DATAGRAM = GENEVE_HEADER + 60, TRIES = 3000 };

static const pal_address NEAR = {.family = PAL_FAMILY_V4, .addr = {10, 1, 0, 1}}, FAR = {.family = PAL_FAMILY_V4, .addr = {10, 1, 0, 2}};

static void counting_burst(void *context, uint32_t worker, host_frame *frame, uint32_t n, uint64_t now_ns, host_sink *sink, void *sink_context)
{
    (void)worker, (void)frame, (void)now_ns, (void)sink, (void)sink_context;
    __atomic_add_fetch((uint32_t *)context, n, __ATOMIC_RELAXED);
}

/* As the kernel's GRO or a peer has put them together: a UDP super-packet. */
static void message_write(int wire, uint32_t datagrams)
{
    static uint8_t raw[VIRTIO_TUNNEL_BYTES + 42 + 64 * DATAGRAM];
    uint8_t *frame = raw + VIRTIO_TUNNEL_BYTES, *payload = frame + 42;
    const outer_ends ends = {.mac = {2}, .local = FAR, .remote = NEAR};
    const virtio_header h = {.flags = VIRTIO_NEEDS_CSUM, .gso_type = VIRTIO_GSO_UDP_L4, .gso_size = DATAGRAM, .csum_start = 34, .csum_offset = 6, .hdr_len = 42};
    memset(raw, 0, sizeof raw);
    for (uint32_t i = 0; i < datagrams; i++)
        geneve_write(payload + i * DATAGRAM, &(geneve_header){.vni = 32, .protocol = GENEVE_ETHERNET});
    CHECK_U64(outer_write(payload, datagrams * DATAGRAM, &ends, 50000, 0, OUTER_SUM_PARTIAL), 42);
    virtio_store(raw, VIRTIO_TUNNEL_BYTES, &h);
    CHECK(write(wire, raw, VIRTIO_TUNNEL_BYTES + 42 + datagrams * DATAGRAM) > 0);
}

/* All are there before the worker looks: the last of them needs more bursts than are read at one event. */
static void test_what_was_read_waits_for_nothing(uint32_t messages, uint32_t datagrams)
{
    uint32_t seen = 0;
    int fd[2];
    char err[200] = "";
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd) == 0);
    for (uint32_t i = 0; i < messages; i++)
        message_write(fd[1], datagrams);
    pal_live *l = live_new((live_switch){counting_burst, &seen}, 1, err, sizeof err);
    const pal_uplink_options o = {.name = "tep0", .local = NEAR, .tier = PAL_TIER_A, .mac = {2, 0, 0, 0, 0, 1}, .peer_mac = {2, 0, 0, 0, 0, 2},
                                  .fds = 1, .fd = {fd[0]}, .offloads = 0x1ef};
    CHECK(l != NULL && pal_live_uplink_set(l, &o, err, sizeof err) == PAL_TIER_A);
    CHECK_TEXT(err, "");
    CHECK(pal_live_start(l, err, sizeof err) == 0);
    for (uint32_t tries = 0; tries < TRIES && __atomic_load_n(&seen, __ATOMIC_RELAXED) < messages * datagrams; tries++)
        usleep(1000);
    pal_live_stop(l);
    CHECK_U64(seen, messages * datagrams);
    pal_live_free(l);
    close(fd[0]);
    close(fd[1]);
}

int main(void)
{
    test_what_was_read_waits_for_nothing(1, 64);
    test_what_was_read_waits_for_nothing(3, 50);
    test_what_was_read_waits_for_nothing(7, 61);
    return check_end("test_live_uplink");
}
