/* SPDX-License-Identifier: Apache-2.0
 *
 * uplink_udp.c - tiers B and C: UDP sockets. Super-packets are cut here (segment.h), and what arrives is put together again
 * (coalesce.h). With UDP_SEGMENT datagrams of one size for one TEP are one message, whatever flows they belong to; with
 * UDP_GRO they arrive as one. Either way a system call is for many datagrams.
 *
 * None is connected: peers send from many ports. One socket receives at the Geneve port, and where some hosts speak VXLAN one at
 * that port; others, each bound to a port of its
 * own, send: a flow always by the same one, so that underlays spread flows (RFC 8926 section 3.3).
 */
#define _GNU_SOURCE
#include "../core/outer.h"
#include "netns.h"
#include "segment.h"
#include "uplink.h"

#include <errno.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    UDP_READS = 16, UDP_SPARES = 48, /* buffers; messages read at a time */
    LANES = 8,                       /* sockets that send */
    LANE_MESSAGES = 64, LANE_PARTS = 512,
    DATAGRAMS_MAX = 64,              /* in a message: UDP_MAX_SEGMENTS of older kernels */
    MESSAGE_MAX = 65000,             /* bytes in a message */
    COPIED = 192,                    /* datagrams up to this are copied: one part for many of them */
    SCRATCH = 96 * 1024,
    VXLAN_PASSES = 8,                /* reads at the Geneve port for one at that of VXLAN, when that had nothing */
};

typedef struct lane_control {
    PAL_ALIGNED(8) uint8_t b[CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(uint16_t))];
} lane_control;

/* What is being put together for one message: the last of its lane. */
typedef struct lane_message {
    pal_address to;
    uint32_t bytes, datagrams;
    uint32_t size; /* of each datagram but the last */
    uint8_t tos;
    bool closed;   /* its last one was shorter */
} lane_message;

typedef struct lane {
    int fd;
    uint32_t messages, parts;
    lane_message open;
    uint32_t datagrams[LANE_MESSAGES];
    struct mmsghdr message[LANE_MESSAGES];
    struct sockaddr_in6 to[LANE_MESSAGES];
    lane_control control[LANE_MESSAGES];
    struct iovec part[LANE_PARTS];
} lane;

typedef struct uplink_udp {
    uplink_queue q;
    bool segment; /* UDP_SEGMENT may be used */
    uint32_t pending, next;  /* messages read; the next of them */
    uint32_t reads;          /* how many to ask for: fewer when they are long */
    uint32_t passes;         /* how often yet the port of VXLAN is passed over */
    struct mmsghdr message[UDP_READS];
    struct iovec part[UDP_READS];
    struct sockaddr_in6 from[UDP_READS];
    PAL_ALIGNED(8) uint8_t control[UDP_READS][2 * CMSG_SPACE(sizeof(int))];
    uint32_t scratch_used;
    uint8_t scratch[SCRATCH]; /* headers that were made here, and short datagrams: until flush */
    lane lane[LANES];
} uplink_udp;

/* ---- opening ------------------------------------------------------------------------------------------------------ */

static socklen_t udp_address(struct sockaddr_in6 *out, const pal_address *a, uint16_t port)
{
    memset(out, 0, sizeof *out);
    if (a->family == PAL_FAMILY_V4) {
        struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port)};
        memcpy(&v4.sin_addr, a->addr, 4);
        memcpy(out, &v4, sizeof v4);
        return sizeof v4;
    }
    out->sin6_family = AF_INET6;
    out->sin6_port = htons(port);
    memcpy(&out->sin6_addr, a->addr, 16);
    return sizeof *out;
}

static pal_address udp_address_of(const struct sockaddr_in6 *from)
{
    pal_address a = {.family = from->sin6_family == AF_INET ? PAL_FAMILY_V4 : PAL_FAMILY_V6};
    if (a.family == PAL_FAMILY_V4)
        memcpy(a.addr, &((const struct sockaddr_in *)(const void *)from)->sin_addr, 4);
    else
        memcpy(a.addr, &from->sin6_addr, 16);
    return a;
}

static void udp_set(int fd, int level, int option, int value) { setsockopt(fd, level, option, &value, sizeof value); }

/* As much as we are allowed to have: 0 or -1. */
static void udp_buffer(int fd, int force, int plain, int bytes)
{
    if (setsockopt(fd, SOL_SOCKET, force, &bytes, sizeof bytes) != 0)
        udp_set(fd, SOL_SOCKET, plain, bytes);
}

/* A socket bound to the TEP's address; port 0: any, to send from. -1 with errno. */
static int udp_socket(const pal_address *local, uint16_t port)
{
    const bool v4 = local->family == PAL_FAMILY_V4;
    int fd = socket(v4 ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    struct sockaddr_in6 here;
    socklen_t len = udp_address(&here, local, port);
    /* DF on every packet, whatever the kernel believes of the path: the host answers for its MTU. */
    udp_set(fd, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_MTU_DISCOVER : IPV6_MTU_DISCOVER, IP_PMTUDISC_PROBE);
    if (port)
        udp_set(fd, SOL_SOCKET, SO_REUSEPORT, 1);
    if (bind(fd, (struct sockaddr *)&here, len) != 0) {
        int failed = errno;
        close(fd);
        errno = failed;
        return -1;
    }
    if (port) {
        udp_buffer(fd, SO_RCVBUFFORCE, SO_RCVBUF, 16 << 20);
        udp_set(fd, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_RECVTOS : IPV6_RECVTCLASS, 1);
    } else { /* it takes nothing in */
        struct sock_filter refuse = BPF_STMT(BPF_RET | BPF_K, 0);
        struct sock_fprog program = {.len = 1, .filter = &refuse};
        setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
        udp_buffer(fd, SO_SNDBUFFORCE, SO_SNDBUF, 16 << 20);
    }
    return fd;
}

typedef struct udp_request {
    uplink *u;
    const pal_uplink_options *o;
    char *err;
    size_t errlen;
} udp_request;

static int uplink_udp_open_here(void *context)
{
    const udp_request *r = context;
    for (uint32_t i = 0; i < r->u->queues; i++) {
        uplink_udp *u = uplink_queue_new(&uplink_kind_udp, sizeof *u, UDP_READS, UDP_SPARES, &r->o->local);
        if (u == NULL) {
            snprintf(r->err, r->errlen, "uplink: no memory");
            return -1;
        }
        r->u->queue[i] = &u->q;
        for (uint32_t k = 0; k < LANES; k++)
            u->lane[k].fd = -1;
        bool good = (u->q.fd = udp_socket(&r->o->local, GENEVE_PORT)) >= 0;
        good = good && (!r->o->vxlan || (u->q.vxlan = udp_socket(&r->o->local, VXLAN_PORT)) >= 0);
        for (uint32_t k = 0; k < LANES && good; k++)
            good = (u->lane[k].fd = udp_socket(&r->o->local, 0)) >= 0;
        if (!good) {
            snprintf(r->err, r->errlen, "uplink: UDP socket at the TEP's address: %s", strerror(errno));
            return -1;
        }
        if (r->u->tier == PAL_TIER_C)
            continue;
        int probe = 1400, one = 1;
        for (uint32_t k = 0; k < LANES && good; k++) {
            good = setsockopt(u->lane[k].fd, IPPROTO_UDP, UDP_SEGMENT, &probe, sizeof probe) == 0;
            udp_set(u->lane[k].fd, IPPROTO_UDP, UDP_SEGMENT, 0);
        }
        int fd[UPLINK_FDS];
        for (uint32_t k = uplink_queue_fds(&u->q, fd); k > 0 && good; k--)
            good = setsockopt(fd[k - 1], IPPROTO_UDP, UDP_GRO, &one, sizeof one) == 0;
        if (!good) {
            snprintf(r->err, r->errlen, "uplink: this kernel has no UDP_SEGMENT or no UDP_GRO");
            return -1;
        }
        u->segment = true;
    }
    return 0;
}

static int uplink_udp_open(uplink *u, const pal_uplink_options *o, char *err, size_t errlen)
{
    udp_request r = {.u = u, .o = o, .err = err, .errlen = errlen};
    return netns_run(o->netns, uplink_udp_open_here, &r, err, errlen);
}

static void uplink_udp_close(uplink_queue *q)
{
    uplink_udp *u = (uplink_udp *)q;
    for (uint32_t k = 0; k < LANES; k++)
        if (u->lane[k].fd >= 0)
            close(u->lane[k].fd);
}

/* ---- in ----------------------------------------------------------------------------------------------------------- */

static uint32_t uplink_udp_read_at(uplink_udp *u, int fd, uint32_t encap)
{
    const uint32_t reads = u->reads ? u->reads : UDP_READS;
    for (uint32_t i = 0; i < reads; i++) {
        u->part[i] = (struct iovec){frame_at(&u->q.pool, i), FRAME_ROOM};
        u->message[i].msg_hdr = (struct msghdr){.msg_name = &u->from[i], .msg_namelen = sizeof u->from[i], .msg_iov = &u->part[i],
                                                .msg_iovlen = 1, .msg_control = u->control[i], .msg_controllen = sizeof u->control[i]};
    }
    int n = recvmmsg(fd, u->message, reads, MSG_DONTWAIT, NULL);
    u->next = 0;
    u->pending = u->q.received = n > 0 ? (uint32_t)n : 0;
    u->q.rest_encap = (uint8_t)encap;
    if (u->pending)
        u->reads = min_u32(max_u32(BURST_BYTES / max_u32(u->message[0].msg_len, 1), 2), UDP_READS);
    return u->pending;
}

/* Both ports have their turn. One at which nothing comes costs a system call in nine. */
static void uplink_udp_read(uplink_udp *u)
{
    const bool both = u->q.vxlan >= 0, turn = u->passes == 0;
    u->passes -= !turn;
    if (both && turn && uplink_udp_read_at(u, u->q.vxlan, PAL_ENCAP_VXLAN))
        u->passes = 1;
    else if (!uplink_udp_read_at(u, u->q.fd, PAL_ENCAP_GENEVE) && both && !turn && u->passes == 0) /* there was something last time */
        uplink_udp_read_at(u, u->q.vxlan, PAL_ENCAP_VXLAN);
    else if (turn)
        u->passes = VXLAN_PASSES;
}

/* IPv4 says it as a byte, IPv6 as an int. */
static uint8_t udp_tos(const struct cmsghdr *c)
{
    int tos = 0;
    if (c->cmsg_len == CMSG_LEN(1))
        return *CMSG_DATA(c);
    memcpy(&tos, CMSG_DATA(c), sizeof tos);
    return (uint8_t)tos;
}

/* The next message that was read becomes the rest. */
static void uplink_udp_next(uplink_udp *u)
{
    const uint32_t i = u->next++;
    struct msghdr *m = &u->message[i].msg_hdr;
    uplink_queue *q = &u->q;
    int size = 0;
    q->rest_tos = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO)
            memcpy(&size, CMSG_DATA(c), sizeof size);
        else if ((c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TOS) || (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_TCLASS))
            q->rest_tos = udp_tos(c);
    }
    q->rest = frame_at(&q->pool, i);
    q->rest_bytes = m->msg_flags & MSG_TRUNC ? 0 : u->message[i].msg_len;
    q->rest_size = size > 0 ? (uint32_t)size : q->rest_bytes;
    q->rest_from = udp_address_of(&u->from[i]);
    q->rest_first = true;
    if (q->rest_bytes == 0) {
        io_add(&q->counts.drop[PAL_REASON_OUTER_MALFORMED], 1);
        return;
    }
    io_add(&q->counts.rx_frames, 1);
    io_add(&q->counts.rx_segments, (q->rest_bytes + q->rest_size - 1) / q->rest_size);
    io_add(&q->counts.rx_bytes, q->rest_bytes);
}

static uint32_t uplink_udp_receive(uplink_queue *q, host_frame *frame, uint32_t room)
{
    uplink_udp *u = (uplink_udp *)q;
    uint32_t n = uplink_split(q, frame, 0, room);
    while (n < room && q->rest_bytes == 0) {
        if (u->next < u->pending)
            uplink_udp_next(u);
        else if (q->received == 0)
            uplink_udp_read(u);
        else
            break; /* the buffers are the burst's */
        if (u->pending == 0)
            break;
        n = uplink_split(q, frame, n, room);
    }
    q->unopened = u->pending - u->next;
    coalesce_end(&q->open, frame);
    return n;
}

/* ---- out ---------------------------------------------------------------------------------------------------------- */

/* The control part of a message that is complete: whether it is cut, and by what. */
static void lane_close(lane *l)
{
    const uint32_t i = l->messages - 1;
    struct msghdr *m = &l->message[i].msg_hdr;
    const bool v4 = l->open.to.family == PAL_FAMILY_V4;
    uint8_t *at = l->control[i].b;
    if (l->open.tos) {
        struct cmsghdr *c = (struct cmsghdr *)(void *)at;
        int tos = l->open.tos;
        *c = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof tos), .cmsg_level = v4 ? IPPROTO_IP : IPPROTO_IPV6, .cmsg_type = v4 ? IP_TOS : IPV6_TCLASS};
        memcpy(CMSG_DATA(c), &tos, sizeof tos);
        at += CMSG_SPACE(sizeof tos);
    }
    if (l->open.datagrams > 1) {
        struct cmsghdr *c = (struct cmsghdr *)(void *)at;
        uint16_t size = (uint16_t)l->open.size;
        *c = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof size), .cmsg_level = IPPROTO_UDP, .cmsg_type = UDP_SEGMENT};
        memcpy(CMSG_DATA(c), &size, sizeof size);
        at += CMSG_SPACE(sizeof size);
    }
    m->msg_controllen = (size_t)(at - l->control[i].b);
    m->msg_control = m->msg_controllen ? l->control[i].b : NULL;
    l->datagrams[i] = l->open.datagrams;
}

static void lane_flush(uplink_udp *u, lane *l)
{
    if (l->messages == 0)
        return;
    lane_close(l);
    io_counts *counts = &u->q.counts;
    for (uint32_t done = 0; done < l->messages;) {
        int n = sendmmsg(l->fd, l->message + done, l->messages - done, MSG_DONTWAIT);
        if (n <= 0) {
            if (errno == EINTR)
                continue;
            if (errno == EIO && l->datagrams[done] > 1)
                u->segment = false; /* a card without checksums: no message of several datagrams from here on */
            io_add(&counts->drop[io_error_reason(errno)], l->datagrams[done++]);
            continue;
        }
        for (int i = 0; i < n; i++, done++) {
            io_add(&counts->tx_frames, 1);
            io_add(&counts->tx_segments, l->datagrams[done]);
            io_add(&counts->tx_bytes, l->message[done].msg_len);
        }
    }
    l->messages = l->parts = 0;
}

static void uplink_udp_flush(uplink_queue *q)
{
    uplink_udp *u = (uplink_udp *)q;
    for (uint32_t k = 0; k < LANES; k++)
        lane_flush(u, &u->lane[k]);
    u->scratch_used = 0;
}

/* Room for `bytes` made here; the lanes are flushed when there is none. */
static uint8_t *uplink_udp_scratch(uplink_udp *u, uint32_t bytes)
{
    if (u->scratch_used + bytes > SCRATCH)
        uplink_udp_flush(&u->q);
    return u->scratch + u->scratch_used;
}

/* One datagram: `head` bytes of the scratch memory, which are taken, and then `data`. */
static void lane_add(uplink_udp *u, lane *l, const host_out *out, uint8_t tos, uint32_t head, const uint8_t *data, uint32_t data_bytes)
{
    const pal_address *to = &out->outer;
    const uint32_t len = head + data_bytes;
    lane_message *o = &l->open;
    const bool fits = l->messages > 0 && u->segment && !o->closed && len <= o->size && o->datagrams < DATAGRAMS_MAX &&
                      o->bytes + len <= MESSAGE_MAX && o->tos == tos && memcmp(&o->to, to, sizeof *to) == 0 && l->parts + 2 <= LANE_PARTS;
    uint8_t *scratch = u->scratch + u->scratch_used;
    u->scratch_used += head;
    if (!fits) {
        if (l->messages == LANE_MESSAGES || l->parts + 2 > LANE_PARTS)
            lane_flush(u, l);
        else if (l->messages > 0)
            lane_close(l);
        *o = (lane_message){.to = *to, .tos = tos, .size = len};
        struct msghdr *m = &l->message[l->messages].msg_hdr;
        m->msg_name = &l->to[l->messages];
        m->msg_namelen = udp_address(&l->to[l->messages], to, encap_port(out->encap)); /* a TEP has one */
        m->msg_iov = &l->part[l->parts];
        m->msg_iovlen = 0;
        m->msg_flags = 0;
        l->messages++;
    }
    struct msghdr *m = &l->message[l->messages - 1].msg_hdr;
    struct iovec *last = m->msg_iovlen ? &m->msg_iov[m->msg_iovlen - 1] : NULL;
    if (last && head && (uint8_t *)last->iov_base + last->iov_len == scratch) {
        last->iov_len += head; /* short datagrams, one behind the other */
    } else if (head) {
        l->part[l->parts++] = (struct iovec){scratch, head};
        m->msg_iovlen++;
    }
    if (data_bytes) {
        l->part[l->parts++] = (struct iovec){(void *)(uintptr_t)data, data_bytes};
        m->msg_iovlen++;
    }
    o->bytes += len;
    o->datagrams++;
    o->closed = len < o->size;
}

static void uplink_udp_send(uplink_queue *q, const host_out *out)
{
    uplink_udp *u = (uplink_udp *)q;
    if (out->outer.family != q->local.family) {
        io_add(&q->counts.drop[PAL_REASON_LINK_DOWN], 1);
        return;
    }
    lane *l = &u->lane[out->port % LANES];
    const uint8_t *inner = out->data + out->inner;
    const uint32_t len = out->len - out->inner;
    const uint8_t tos = outer_tos(inner, len);
    const host_offload *o = &out->offload;
    if (o->gso_type != VIRTIO_GSO_NONE) {
        segment_plan s;
        if (!segment_plan_make(&s, inner, len, o)) {
            io_add(&q->counts.drop[PAL_REASON_OFFLOAD], 1);
            return;
        }
        for (uint32_t i = 0; i < s.count; i++) {
            uint32_t at, bytes = segment_bytes(&s, i, 1, &at);
            uint8_t *head = uplink_udp_scratch(u, out->inner + s.headers);
            memcpy(head, out->data, out->inner);
            segment_headers(&s, inner, i, 1, head + out->inner);
            lane_add(u, l, out, tos, out->inner + s.headers, inner + at, bytes);
        }
        return;
    }
    /* The frame itself is not changed: it may have to go elsewhere too. What is copied ends behind the checksum. */
    uint32_t copied = out->len <= COPIED ? out->len : 0;
    const bool sum = (o->flags & VIRTIO_NEEDS_CSUM) != 0;
    if (sum && !copied)
        copied = out->inner + o->csum_start + o->csum_offset + 2u;
    if (copied > out->len || copied > SCRATCH) {
        io_add(&q->counts.drop[PAL_REASON_OFFLOAD], 1);
        return;
    }
    uint8_t *head = uplink_udp_scratch(u, copied);
    memcpy(head, out->data, copied);
    if (sum) {
        uint16_t field = segment_checksum(inner, len, o);
        memcpy(head + out->inner + o->csum_start + o->csum_offset, &field, 2);
    }
    lane_add(u, l, out, tos, copied, out->data + copied, out->len - copied);
}

const uplink_kind uplink_kind_udp = {
    .open = uplink_udp_open, .close = uplink_udp_close, .receive = uplink_udp_receive, .send = uplink_udp_send, .flush = uplink_udp_flush};
