/* SPDX-License-Identifier: Apache-2.0
 *
 * uplink_tap.c - tier A: a TAP in the host's namespace whose virtio header can say "TCP in a UDP tunnel" (Linux 6.17). The
 * host's kernel routes what we write there to the underlay, and cuts it only where a card must have it cut.
 *
 *   virtio header | Ethernet | IP | UDP | Geneve or VXLAN | inner frame      offsets count from the outer Ethernet header
 *
 * A system call takes one frame, and what the kernels between two hosts do with it costs ten times the call. So datagrams of one
 * size from one port to one TEP go as one: a UDP super-packet, which the other host's TAP gives out whole.
 */
#define _GNU_SOURCE
#include "../core/outer.h"
#include "segment.h"
#include "uplink.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    TAP_READS = 48, TAP_SPARES = 64, /* of a super-packet's datagrams each but the first may need one */
    TAP_PORTS = 8,                   /* source ports: enough for underlays to spread flows, few enough for flows to share a message */
    TAP_LANES = 32,                  /* messages under way, by port and TEP */
    TAP_DATAGRAMS = 64,              /* in a message: UDP_MAX_SEGMENTS of older kernels */
    TAP_MESSAGE = 65000,             /* bytes in a message */
};

/* Datagrams that may leave as one. Those of a flow are always in the same lane. */
typedef struct tap_lane {
    const host_out *first; /* where it is, as long as there is no second; then all are in the lane's buffer */
    uint32_t count, bytes;
    uint32_t size;         /* of each datagram but the last, which may be shorter */
    uint8_t tos;
    bool closed;           /* the last one is there */
} tap_lane;

typedef struct uplink_tap {
    uplink_queue q;
    outer_ends ends; /* remote: of the frame at hand */
    uint32_t zero_sums; /* then every frame goes by itself: a super-packet has sums */
    uint32_t open;      /* lanes that have something, by bit */
    frame_pool room;    /* a buffer for each lane */
    tap_lane lane[TAP_LANES];
} uplink_tap;

_Static_assert(TAP_LANES <= 32 && TAP_LANES % TAP_PORTS == 0, "a bit each");
_Static_assert(TAP_MESSAGE + GENEVE_HEADER + 40 + OUTER_UDP <= 65535 && TAP_MESSAGE <= FRAME_ROOM, "it fits");

/* The TAP that was handed in, from here on ours too. */
static int uplink_tap_adopt(uint32_t queues, const pal_uplink_options *o, pal_tap *tap, char *err, size_t errlen)
{
    *tap = (pal_tap){.offloads = o->offloads};
    if (o->fds != queues) {
        snprintf(err, errlen, "uplink %s: %u queues are open, %u are needed", o->name, o->fds, queues);
        return -1;
    }
    for (; tap->queues < queues; tap->queues++) {
        tap->fd[tap->queues] = fcntl(o->fd[tap->queues], F_DUPFD_CLOEXEC, 3);
        if (tap->fd[tap->queues] >= 0)
            continue;
        snprintf(err, errlen, "uplink %s: file descriptor %d: %s", o->name, o->fd[tap->queues], strerror(errno));
        pal_tap_close(tap);
        return -1;
    }
    return 0;
}

static int uplink_tap_open(uplink *u, const pal_uplink_options *o, char *err, size_t errlen)
{
    pal_tap tap;
    if (o->fds > 0) {
        if (uplink_tap_adopt(u->queues, o, &tap, err, errlen) != 0)
            return -1;
    } else if (pal_tap_open(o->netns, o->name, o->peer_mac, u->queues, 1, &tap, err, errlen) != 0) {
        return -1;
    }
    if (!(tap.offloads & TAP_TUNNEL)) {
        snprintf(err, errlen, "uplink %s: this kernel has no UDP-tunnel segmentation for TAP interfaces", o->name);
        pal_tap_close(&tap);
        return -1;
    }
    for (uint32_t i = 0; i < u->queues; i++) {
        uplink_tap *t = uplink_queue_new(&uplink_kind_tap, sizeof *t, TAP_READS, TAP_SPARES, &o->local);
        if (t != NULL) {
            u->queue[i] = &t->q;
            t->room.base = mmap(NULL, (size_t)TAP_LANES * FRAME_STRIDE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            t->room.n = t->room.base == MAP_FAILED ? 0 : TAP_LANES;
        }
        if (t == NULL || t->room.n == 0) {
            snprintf(err, errlen, "uplink %s: no memory", o->name);
            pal_tap_close(&tap);
            return -1;
        }
        memcpy(t->ends.mac, o->peer_mac, 6);
        memcpy(t->ends.mac + 6, o->mac, 6);
        t->ends.local = o->local;
        t->zero_sums = o->zero_sums || !(tap.offloads & TAP_TUNNEL_CSUM);
    }
    for (uint32_t i = 0; i < u->queues; i++)
        u->queue[i]->fd = tap.fd[i];
    return 0;
}

static void uplink_tap_close(uplink_queue *q)
{
    const uplink_tap *t = (const uplink_tap *)q;
    if (t->room.n)
        munmap(t->room.base, (size_t)t->room.n * FRAME_STRIDE);
}

/* ---- in ----------------------------------------------------------------------------------------------------------- */

/* One frame that was read: a frame for the host; or several datagrams, as the rest. Or why not. */
static uint8_t uplink_tap_open_frame(uplink_queue *q, uint8_t *data, uint32_t len, host_frame *out)
{
    virtio_header h = virtio_load(data - VIRTIO_TUNNEL_BYTES, VIRTIO_TUNNEL_BYTES);
    const uint32_t type = h.gso_type & ~(uint32_t)VIRTIO_GSO_ECN;
    outer_found f;
    /* What the kernel has checked, or made itself and not summed yet, was not on a wire. */
    const uint32_t verified = h.flags & (VIRTIO_NEEDS_CSUM | VIRTIO_DATA_VALID) || type ? OUTER_VERIFIED : 0;
    /* Who sends none takes none, over IPv6 too (RFC 6935). */
    uint8_t reason = outer_read(data, len, verified | (((uplink_tap *)q)->zero_sums ? OUTER_ZERO6 : 0), &f);
    if (reason != PAL_REASON_MATCH)
        return reason;
    if (memcmp(&f.to, &q->local, sizeof f.to) != 0)
        return PAL_REASON_OUTER_MALFORMED;
    *out = (host_frame){.data = data + f.at, .len = f.len, .from = PAL_UPLINK, .outer = f.from, .tos = f.tos, .encap = f.encap};
    if (type == VIRTIO_GSO_UDP_L4) { /* the kernel's GRO has put datagrams together, or a peer sent them so */
        q->rest = out->data;
        q->rest_bytes = f.len;
        q->rest_size = h.gso_size;
        q->rest_from = f.from;
        q->rest_tos = f.tos;
        q->rest_encap = f.encap;
        q->rest_first = true;
        return h.gso_size ? PAL_REASON_MATCH : PAL_REASON_OFFLOAD;
    }
    if (f.len < GENEVE_HEADER)
        return PAL_REASON_TUNNEL_MALFORMED;
    const uint32_t inner = f.at + encap_len(f.encap, out->data);
    if (type && !(type & VIRTIO_GSO_TUNNEL))
        return PAL_REASON_OFFLOAD;
    h.gso_type &= (uint8_t)~VIRTIO_GSO_TUNNEL;
    if ((h.flags & VIRTIO_NEEDS_CSUM) && h.csum_start < inner) /* the outer checksum is what was left to a card */
        h.flags &= (uint8_t)~VIRTIO_NEEDS_CSUM;
    h.flags &= (uint8_t)~VIRTIO_DATA_VALID; /* of the outer packet */
    return virtio_offload(&h, data, f.at + f.len, inner, &out->offload) ? PAL_REASON_MATCH : PAL_REASON_OFFLOAD;
}

static uint32_t uplink_tap_receive(uplink_queue *q, host_frame *frame, uint32_t room)
{
    uint32_t n = uplink_split(q, frame, 0, room);
    while (n < room && q->rest_bytes == 0 && q->received < q->receive && q->bytes < BURST_BYTES) {
        uint8_t *data = frame_at(&q->pool, q->received);
        int32_t len = tap_read(q->fd, data, VIRTIO_TUNNEL_BYTES);
        if (len <= 0) {
            q->gone = len < 0;
            break;
        }
        if (data[0] & 1) /* the kernel's own questions on the link between it and us: ARP, ND, MLD */
            continue;
        host_frame f = {0};
        uint8_t reason = uplink_tap_open_frame(q, data, (uint32_t)len, &f);
        if (reason != PAL_REASON_MATCH) {
            q->rest_bytes = 0;
            io_add(&q->counts.drop[reason], 1);
            continue;
        }
        q->received++;
        q->bytes += f.len;
        io_add(&q->counts.rx_frames, 1);
        io_add(&q->counts.rx_bytes, f.len);
        if (q->rest_bytes > 0) {
            io_add(&q->counts.rx_segments, (q->rest_bytes + q->rest_size - 1) / q->rest_size);
            n = uplink_split(q, frame, n, room);
        } else if (f.offload.gso_type != VIRTIO_GSO_NONE || (f.offload.flags & VIRTIO_NEEDS_CSUM)) {
            io_add(&q->counts.rx_segments, offload_segments(&f.offload, f.len - encap_len(f.encap, f.data)));
            coalesce_pass(&q->open, frame, &f);
            frame[n++] = f;
        } else { /* one datagram from a wire: perhaps one of many */
            io_add(&q->counts.rx_segments, 1);
            q->rest = f.data;
            q->rest_bytes = q->rest_size = f.len;
            q->rest_from = f.outer;
            q->rest_tos = f.tos;
            q->rest_encap = f.encap;
            q->rest_first = true;
            n = uplink_split(q, frame, n, room);
        }
    }
    coalesce_end(&q->open, frame);
    return n;
}

/* ---- out ---------------------------------------------------------------------------------------------------------- */

/* The UDP checksum of a packet whose inner checksum is left to a card: from there on all will sum to the complement of what
 * its field holds now, whatever the data ("local checksum offload", Linux Documentation/networking/checksum-offloads.rst). */
static void uplink_tap_sum(uint8_t *udp, uint32_t udp_len, const pal_address *local, uint32_t inner_start, uint16_t inner_field)
{
    const uint8_t *ip = udp - outer_ip_bytes(local->family);
    uint64_t sum = outer_pseudo(ip, local->family, udp_len);
    uint16_t whole = sum_finish(sum_bytes(udp, inner_start, sum) + (uint16_t)~inner_field);
    if (whole == 0)
        whole = 0xffff;
    memcpy(udp + 6, &whole, 2);
}

/* A flow's own one of a few. */
static uint16_t uplink_tap_port(const uplink_tap *t, const host_out *out)
{
    return t->zero_sums ? out->port : (uint16_t)(OUTER_PORT_LEAST + out->port % TAP_PORTS * (OUTER_PORTS / TAP_PORTS));
}

/* Writes what stands at `payload` (tunnel header, inner frame or its headers) and, behind it, `data`. */
static void uplink_tap_write(uplink_tap *t, uint8_t *payload, uint32_t bytes, const uint8_t *data, uint32_t data_bytes,
                             const host_out *out, const host_offload *o)
{
    const uint32_t len = bytes + data_bytes, family = t->ends.local.family, around = outer_bytes(family), inner = around + out->inner;
    const bool gso = o->gso_type != VIRTIO_GSO_NONE, later = (o->flags & VIRTIO_NEEDS_CSUM) != 0;
    const enum outer_sum sum = t->zero_sums || (later && !gso) ? OUTER_SUM_NONE : OUTER_SUM_PARTIAL;
    io_counts *counts = &t->q.counts;
    if (outer_write(payload, len, &t->ends, uplink_tap_port(t, out), outer_tos(payload + out->inner, bytes - out->inner), sum) == 0) {
        io_add(&counts->drop[PAL_REASON_OFFLOAD], 1);
        return;
    }
    uint8_t *frame = payload - around;
    virtio_header h = {0};
    if (later) {
        h.flags = VIRTIO_NEEDS_CSUM;
        h.csum_start = (uint16_t)(inner + o->csum_start);
        h.csum_offset = o->csum_offset;
    }
    if (gso) {
        h.flags |= t->zero_sums ? 0 : VIRTIO_TUNNEL_CSUM;
        h.gso_type = (uint8_t)(o->gso_type | (family == PAL_FAMILY_V4 ? VIRTIO_GSO_TUNNEL_V4 : VIRTIO_GSO_TUNNEL_V6));
        h.gso_size = o->gso_size;
        h.hdr_len = (uint16_t)(inner + o->hdr_len);
        h.outer_th = (uint16_t)(around - OUTER_UDP);
        uint8_t v4;
        h.inner_nh = (uint16_t)(inner + segment_ip(payload + out->inner, bytes - out->inner, &v4));
    } else if (later && !t->zero_sums) {
        const uint8_t *field = payload + out->inner + o->csum_start + o->csum_offset;
        uplink_tap_sum(payload - OUTER_UDP, OUTER_UDP + len, &t->ends.local, OUTER_UDP + out->inner + o->csum_start, load_u16(field));
    } else if (!t->zero_sums) {
        h.flags = VIRTIO_NEEDS_CSUM;
        h.csum_start = (uint16_t)(around - OUTER_UDP);
        h.csum_offset = 6;
    }
    virtio_store(frame - VIRTIO_TUNNEL_BYTES, VIRTIO_TUNNEL_BYTES, &h);
    const struct iovec v[2] = {{frame - VIRTIO_TUNNEL_BYTES, VIRTIO_TUNNEL_BYTES + around + bytes}, {(void *)(uintptr_t)data, data_bytes}};
    ssize_t done = data_bytes ? writev(t->q.fd, v, 2) : write(t->q.fd, v[0].iov_base, v[0].iov_len);
    if (done < 0) {
        io_add(&counts->drop[io_error_reason(errno)], 1);
        return;
    }
    io_add(&counts->tx_frames, 1);
    io_add(&counts->tx_segments, offload_segments(o, len - out->inner));
    io_add(&counts->tx_bytes, len);
}

/* A super-packet that is too long with what goes around it, as two. */
static void uplink_tap_halve(uplink_tap *t, const host_out *out)
{
    segment_plan s;
    uint8_t room[FRAME_HEADROOM + GENEVE_HEADER + GENEVE_OPTIONS_MAX + SEGMENT_HEADERS_MAX], *payload = room + FRAME_HEADROOM;
    if (!segment_plan_make(&s, out->data + out->inner, out->len - out->inner, &out->offload) || s.count < 2 ||
        out->inner > GENEVE_HEADER + GENEVE_OPTIONS_MAX) {
        io_add(&t->q.counts.drop[PAL_REASON_OFFLOAD], 1);
        return;
    }
    memcpy(payload, out->data, out->inner);
    for (uint32_t i = 0, half = s.count / 2; i < s.count; i += half, half = s.count - half) {
        uint32_t at, bytes = segment_bytes(&s, i, half, &at);
        host_offload o = out->offload;
        if (half == 1)
            o = (host_offload){.flags = VIRTIO_DATA_VALID};
        segment_headers(&s, out->data + out->inner, i, half, payload + out->inner);
        uplink_tap_write(t, payload, out->inner + s.headers, out->data + out->inner + at, bytes, out, &o);
    }
}

/* One frame. */
static void uplink_tap_one(uplink_tap *t, const host_out *out)
{
    t->ends.remote = out->outer;
    t->ends.encap = out->encap;
    if (PAL_UNLIKELY(out->len + outer_ip_bytes(t->ends.local.family) + OUTER_UDP > 65535))
        uplink_tap_halve(t, out);
    else
        uplink_tap_write(t, out->data, out->len, NULL, 0, out, &out->offload);
}

/* ---- many datagrams as one ----------------------------------------------------------------------------------------- */

static void tap_lane_flush(uplink_tap *t, uint32_t number)
{
    tap_lane *l = &t->lane[number];
    const uint32_t count = l->count, family = t->ends.local.family;
    t->open &= ~(1u << number);
    l->count = 0;
    if (count < 2) {
        if (count)
            uplink_tap_one(t, l->first);
        return;
    }
    uint8_t *payload = frame_at(&t->room, number), *frame = payload - outer_bytes(family);
    io_counts *counts = &t->q.counts;
    t->ends.remote = l->first->outer;
    t->ends.encap = l->first->encap;
    outer_write(payload, l->bytes, &t->ends, uplink_tap_port(t, l->first), l->tos, OUTER_SUM_PARTIAL);
    const uint32_t udp = outer_bytes(family) - OUTER_UDP;
    const virtio_header h = {.flags = VIRTIO_NEEDS_CSUM, .gso_type = VIRTIO_GSO_UDP_L4, .gso_size = (uint16_t)l->size,
                             .hdr_len = (uint16_t)outer_bytes(family), .csum_start = (uint16_t)udp, .csum_offset = 6};
    virtio_store(frame - VIRTIO_TUNNEL_BYTES, VIRTIO_TUNNEL_BYTES, &h);
    if (write(t->q.fd, frame - VIRTIO_TUNNEL_BYTES, VIRTIO_TUNNEL_BYTES + outer_bytes(family) + l->bytes) < 0) {
        io_add(&counts->drop[io_error_reason(errno)], count);
        return;
    }
    io_add(&counts->tx_frames, 1);
    io_add(&counts->tx_segments, count);
    io_add(&counts->tx_bytes, l->bytes);
}

/* A copy of the frame, with sums that are whole: as a datagram of many it has no card to finish them. */
static void tap_lane_copy(uint8_t *to, const host_out *out)
{
    const host_offload *o = &out->offload;
    memcpy(to, out->data, out->len);
    if (!(o->flags & VIRTIO_NEEDS_CSUM))
        return;
    const uint16_t field = segment_checksum(to + out->inner, out->len - out->inner, o);
    memcpy(to + out->inner + o->csum_start + o->csum_offset, &field, 2);
}

static bool tap_lane_fits(const tap_lane *l, const host_out *out, uint8_t tos)
{
    return !l->closed && out->len <= l->size && l->count < TAP_DATAGRAMS && l->bytes + out->len <= TAP_MESSAGE && l->tos == tos &&
           memcmp(&l->first->outer, &out->outer, sizeof out->outer) == 0 && l->first->encap == out->encap;
}

static void tap_lane_add(uplink_tap *t, const host_out *out)
{
    const uint32_t number = (out->port % TAP_PORTS + out->tep * TAP_PORTS) % TAP_LANES;
    tap_lane *l = &t->lane[number];
    const bool alone = out->offload.gso_type != VIRTIO_GSO_NONE || out->len > TAP_MESSAGE / 2;
    const uint8_t tos = outer_tos(out->data + out->inner, out->len - out->inner);
    if (l->count && (alone || !tap_lane_fits(l, out, tos)))
        tap_lane_flush(t, number); /* none of a flow is overtaken */
    if (alone) {
        uplink_tap_one(t, out);
        return;
    }
    if (l->count == 0) {
        *l = (tap_lane){.first = out, .count = 1, .bytes = out->len, .size = out->len, .tos = tos};
        t->open |= 1u << number;
        return;
    }
    uint8_t *payload = frame_at(&t->room, number);
    if (l->count == 1)
        tap_lane_copy(payload, l->first);
    tap_lane_copy(payload + l->bytes, out);
    l->bytes += out->len;
    l->count++;
    l->closed = out->len < l->size;
}

static void uplink_tap_send(uplink_queue *q, const host_out *out)
{
    uplink_tap *t = (uplink_tap *)q;
    if (out->outer.family != t->ends.local.family)
        io_add(&q->counts.drop[PAL_REASON_LINK_DOWN], 1);
    else if (t->zero_sums)
        uplink_tap_one(t, out);
    else
        tap_lane_add(t, out);
}

static void uplink_tap_flush(uplink_queue *q)
{
    uplink_tap *t = (uplink_tap *)q;
    while (t->open)
        tap_lane_flush(t, (uint32_t)__builtin_ctz(t->open));
}

const uplink_kind uplink_kind_tap = {
    .open = uplink_tap_open, .close = uplink_tap_close, .receive = uplink_tap_receive, .send = uplink_tap_send, .flush = uplink_tap_flush};
