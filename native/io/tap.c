/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "tap.h"
#include "netns.h"
#include "segment.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

/* ---- opening ------------------------------------------------------------------------------------------------------ */

#define TAP_UPLINK_QUEUE 2048

typedef struct tap_request {
    const char *name;
    const uint8_t *mac; /* NULL: as it is */
    uint32_t queues, tunnel;
    pal_tap *out;
    char *err;
    size_t errlen;
} tap_request;

static int tap_fail(const tap_request *r, const char *what)
{
    snprintf(r->err, r->errlen, "interface %s: %s: %s", r->name, what, strerror(errno));
    return -1;
}

/* The most that this kernel takes: asked for, from best to least. */
static uint32_t tap_offloads(int fd, bool tunnel)
{
    enum { TSO = TAP_CSUM | TAP_TSO4 | TAP_TSO6, USO = TAP_USO4 | TAP_USO6 };
    static const uint32_t wanted[] = {
        TSO | TAP_TSO_ECN | USO | TAP_TUNNEL | TAP_TUNNEL_CSUM, TSO | TAP_TSO_ECN | USO | TAP_TUNNEL, TSO | TAP_TSO_ECN | USO,
        TSO | TAP_TSO_ECN, TSO, TAP_CSUM | TAP_TSO4, TAP_CSUM};
    for (uint32_t i = tunnel ? 0 : 2; i < sizeof wanted / sizeof *wanted; i++)
        if (ioctl(fd, TUNSETOFFLOAD, (unsigned long)wanted[i]) == 0)
            return wanted[i];
    return 0;
}

static int tap_queue_open(const tap_request *r)
{
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return tap_fail(r, "/dev/net/tun");
    struct ifreq i = {.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (r->queues > 1 ? IFF_MULTI_QUEUE : 0))};
    memcpy(i.ifr_name, r->name, strlen(r->name)); /* shorter than IFNAMSIZ: pal_tap_open */
    int header = r->tunnel ? VIRTIO_TUNNEL_BYTES : VIRTIO_BYTES, little = 1;
    const char *failed = ioctl(fd, TUNSETIFF, &i) != 0               ? "TAP"
                         : ioctl(fd, TUNSETVNETHDRSZ, &header) != 0 ? "virtio header"
                         : ioctl(fd, TUNSETVNETLE, &little) != 0    ? "little-endian virtio header"
                                                                    : NULL;
    if (failed) {
        tap_fail(r, failed);
        close(fd);
        return -1;
    }
    uint32_t offloads = tap_offloads(fd, r->tunnel);
    r->out->offloads = r->out->queues == 0 ? offloads : r->out->offloads & offloads;
    r->out->fd[r->out->queues++] = fd;
    return 0;
}

/* The frames that the kernel keeps for us while we don't have the processor, which others may have for some milliseconds: 500,
 * unless we say. Vain where we may not. */
static void tap_queue_length(const tap_request *r)
{
    struct ifreq i = {.ifr_qlen = TAP_UPLINK_QUEUE};
    memcpy(i.ifr_name, r->name, strlen(r->name));
    const int any = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (any < 0)
        return;
    ioctl(any, SIOCSIFTXQLEN, &i);
    close(any);
}

static int tap_open_here(void *context)
{
    const tap_request *r = context;
    for (uint32_t q = 0; q < r->queues; q++)
        if (tap_queue_open(r) != 0)
            return -1;
    if (r->tunnel)
        tap_queue_length(r);
    struct ifreq i = {.ifr_hwaddr.sa_family = ARPHRD_ETHER};
    if (r->mac) {
        memcpy(i.ifr_hwaddr.sa_data, r->mac, 6);
        if (ioctl(r->out->fd[0], SIOCSIFHWADDR, &i) != 0)
            return tap_fail(r, "MAC address");
    }
    if (ioctl(r->out->fd[0], SIOCGIFHWADDR, &i) != 0)
        return tap_fail(r, "MAC address");
    memcpy(r->out->mac, i.ifr_hwaddr.sa_data, 6);
    return 0;
}

void pal_tap_close(pal_tap *tap)
{
    while (tap->queues > 0)
        close(tap->fd[--tap->queues]);
}

int pal_tap_open(const char *netns, const char *name, const uint8_t *mac, uint32_t queues, int tunnel, pal_tap *out, char *err,
                 size_t errlen)
{
    *out = (pal_tap){0};
    if (queues == 0 || queues > PAL_TAP_QUEUES || *name == 0 || strlen(name) >= IFNAMSIZ) {
        snprintf(err, errlen, "interface %s: its name has 1 to %d bytes, and it has 1 to %d queues", name, IFNAMSIZ - 1, PAL_TAP_QUEUES);
        return -1;
    }
    tap_request r = {.name = name, .mac = mac, .queues = queues, .tunnel = tunnel != 0, .out = out, .err = err, .errlen = errlen};
    if (netns_run(netns, tap_open_here, &r, err, errlen) == 0)
        return 0;
    pal_tap_close(out);
    return -1;
}

/* ---- frames ------------------------------------------------------------------------------------------------------- */

uint8_t io_error_reason(int error)
{
    switch (error) {
    case EAGAIN:
    case ENOBUFS:
    case ENOMEM:
        return PAL_REASON_QUEUE_FULL;
    case EINVAL:
    case EMSGSIZE:
        return PAL_REASON_OFFLOAD;
    default: /* EIO, EBADFD, ENETDOWN, ENETUNREACH, EHOSTUNREACH, EPERM … */
        return PAL_REASON_LINK_DOWN;
    }
}

int32_t tap_read(int fd, uint8_t *frame, uint32_t header)
{
    ssize_t n = read(fd, frame - header, header + FRAME_ROOM);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    return n <= (ssize_t)header ? -EIO : (int32_t)(n - (ssize_t)header);
}

static void tap_write(int fd, uint32_t bytes, const virtio_header *h, const struct iovec *part, uint32_t len, uint32_t segments,
                      io_counts *counts)
{
    uint8_t header[VIRTIO_TUNNEL_BYTES]; /* the longest there is */
    virtio_store(header, bytes, h);
    struct iovec v[3] = {{header, bytes}, part[0], part[1]};
    if (writev(fd, v, part[1].iov_len ? 3 : 2) < 0) {
        io_add(&counts->drop[io_error_reason(errno)], 1);
        return;
    }
    io_add(&counts->tx_frames, 1);
    io_add(&counts->tx_segments, segments);
    io_add(&counts->tx_bytes, len);
}

/* For a kernel that knows no UDP super-packets. */
static void tap_send_segments(int fd, const host_out *out, uint32_t header, io_counts *counts)
{
    static const virtio_header whole = {.flags = VIRTIO_DATA_VALID};
    segment_plan s;
    uint8_t headers[SEGMENT_HEADERS_MAX];
    if (!segment_plan_make(&s, out->data, out->len, &out->offload)) {
        io_add(&counts->drop[PAL_REASON_OFFLOAD], 1);
        return;
    }
    for (uint32_t i = 0; i < s.count; i++) {
        uint32_t at, bytes = segment_bytes(&s, i, 1, &at);
        segment_headers(&s, out->data, i, 1, headers);
        const struct iovec part[2] = {{headers, s.headers}, {out->data + at, bytes}};
        tap_write(fd, header, &whole, part, s.headers + bytes, 1, counts);
    }
}

void tap_send(int fd, const host_out *out, uint32_t header, bool uso, io_counts *counts)
{
    if (PAL_UNLIKELY(!uso && out->offload.gso_type == VIRTIO_GSO_UDP_L4)) {
        tap_send_segments(fd, out, header, counts);
        return;
    }
    const virtio_header h = virtio_of(&out->offload);
    const struct iovec part[2] = {{out->data, out->len}, {NULL, 0}};
    tap_write(fd, header, &h, part, out->len, offload_segments(&out->offload, out->len), counts);
}
