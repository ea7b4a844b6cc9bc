/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_segment.c - two things by the first byte. A virtio header and a frame, any bytes: nothing outside the frame is read, and
 * where it is cut, every segment has a right checksum and all of them have the frame's data, once, in order. Or packets of a few
 * flows, each with one byte of choice changed: put together and cut again they are the packets that came, those of a flow in order;
 * as they arrive (coalesce.h), or as they leave for two vNICs (gather.h), sums left to a card among them.
 */
#include "../io/gather.h"

#include <stdio.h>
#include <stdlib.h>

#include "must.h"

static uint8_t headers[SEGMENT_HEADERS_MAX];

static bool sum_good(const segment_plan *s, const uint8_t *head, const uint8_t *data, uint32_t bytes)
{
    const uint32_t length = s->headers - s->l4 + bytes;
    uint64_t sum = sum_bytes(head + s->l3 + (s->v4 ? 12 : 8), s->v4 ? 8 : 32, be16(s->udp ? PROTO_UDP : PROTO_TCP));
    sum += be16((uint16_t)length);
    return sum_is_good(sum_bytes(data, bytes, sum_bytes(head + s->l4, s->headers - s->l4, sum)));
}

static void frame_try(const uint8_t *data, size_t size)
{
    const uint32_t bytes = data[0] & 1 ? VIRTIO_TUNNEL_BYTES : VIRTIO_BYTES, at = data[0] & 2 ? 42 : 0;
    if (size < 1 + bytes)
        return;
    const virtio_header h = virtio_load(data + 1, bytes);
    const uint32_t len = (uint32_t)(size - 1 - bytes);
    uint8_t *frame = malloc(len + 1); /* of its own, so that a read past the end is seen */
    memcpy(frame, data + 1 + bytes, len);
    host_offload o;
    segment_plan s;
    if (len > at && virtio_offload(&h, frame, len, at, &o)) {
        MUST(!(o.flags & VIRTIO_NEEDS_CSUM) || (o.csum_start >= 14 && at + o.csum_start + o.csum_offset + 2u <= len));
        if (o.flags & VIRTIO_NEEDS_CSUM)
            segment_checksum(frame + at, len - at, &o);
        if (segment_plan_make(&s, frame + at, len - at, &o)) {
            uint32_t seen = 0;
            MUST(s.headers < len - at && s.headers + s.payload == len - at);
            for (uint32_t i = 0; i < s.count; i++) {
                uint32_t from, n = segment_bytes(&s, i, 1, &from);
                MUST(n > 0 && n <= s.size && from == s.headers + seen && from + n <= len - at);
                segment_headers(&s, frame + at, i, 1, headers);
                MUST(sum_good(&s, headers, frame + at + from, n));
                seen += n;
            }
            MUST(seen == s.payload);
        }
    }
    free(frame);
}

/* ---- packets of a few flows ---------------------------------------------------------------------------------------- */

enum { FLOWS = 4, PACKETS = 40, LONGEST = 400, TUNNEL = 8 };

typedef struct packet {
    uint32_t len, flow;
    int card; /* gathered: whose */
    uint8_t b[LONGEST];
} packet;

static packet in[PACKETS], out[PACKETS * 2];
static uint32_t ins, outs;
static uint8_t memory[PACKETS][20000];

/* Flow 0: TCP over IPv4, 1: TCP over IPv6, 2: UDP over IPv4, 3: UDP over IPv6. */
static void packet_make(packet *p, uint32_t flow, uint32_t *next, uint16_t *id, uint32_t bytes, uint8_t flags, bool df)
{
    const bool v4 = !(flow & 1), udp = flow >= 2;
    memset(p, 0, sizeof *p);
    p->flow = flow;
    uint8_t *in2 = p->b + TUNNEL, *ip = in2 + 14, *l4 = ip + (v4 ? 20 : 40);
    const uint32_t head = udp ? 8 : 20, length = head + bytes;
    store_be16(p->b + 2, 0x6558);
    store_be16(in2 + 12, v4 ? 0x0800 : 0x86dd);
    if (v4) {
        ip[0] = 0x45;
        store_be16(ip + 2, (uint16_t)(20 + length));
        store_be16(ip + 4, (*id)++);
        ip[6] = df ? 0x40 : 0;
        ip[8] = 64;
        ip[9] = udp ? PROTO_UDP : PROTO_TCP;
        ip[12] = ip[16] = 10;
        ip[19] = (uint8_t)(1 + flow);
    } else {
        ip[0] = 0x60;
        store_be16(ip + 4, (uint16_t)length);
        ip[6] = udp ? PROTO_UDP : PROTO_TCP;
        ip[7] = 64;
        ip[8] = ip[24] = 0xfd;
    }
    store_be16(l4, 1000);
    store_be16(l4 + 2, 80);
    if (udp) {
        store_be16(l4 + 4, (uint16_t)length);
    } else {
        store_be32(l4 + 4, *next);
        l4[12] = 5 << 4;
        l4[13] = flags;
    }
    for (uint32_t i = 0; i < bytes; i++)
        l4[head + i] = (uint8_t)(*next + i);
    *next += bytes;
    p->len = (uint32_t)(l4 - p->b) + length;
}

/* Right sums, whatever the packet says. */
static void packet_sums(packet *p, uint32_t flow)
{
    const bool v4 = !(flow & 1), udp = flow >= 2;
    uint8_t *ip = p->b + TUNNEL + 14, *l4 = ip + (v4 ? 20 : 40);
    const uint32_t length = p->len - (uint32_t)(l4 - p->b);
    if (v4) {
        store_be16(ip + 10, 0);
        uint16_t sum = sum_finish(sum_bytes(ip, 20, 0));
        memcpy(ip + 10, &sum, 2);
    }
    store_be16(l4 + (udp ? 6 : 16), 0);
    uint64_t sum = sum_bytes(ip + (v4 ? 12 : 8), v4 ? 8 : 32, be16(ip[v4 ? 9 : 6])) + be16((uint16_t)length);
    uint16_t field = sum_finish(sum_bytes(l4, length, sum));
    memcpy(l4 + (udp ? 6 : 16), &field, 2);
}

/* IPv4 with DF: the identification, and with it the header's sum, means nothing (RFC 6864). */
static bool packet_same(const packet *a, const packet *b)
{
    packet x = *a, y = *b;
    uint8_t *p = x.b + TUNNEL + 14, *q = y.b + TUNNEL + 14;
    if (load_be16(p - 2) == 0x0800 && (p[6] & 0x40)) {
        store_be16(p + 4, 0), store_be16(q + 4, 0);
        store_be16(p + 10, 0), store_be16(q + 10, 0);
    }
    return x.card == y.card && x.len == y.len && memcmp(x.b, y.b, x.len) == 0;
}

static void packet_out(const host_frame *f, int card)
{
    segment_plan s;
    if (f->offload.gso_type == VIRTIO_GSO_NONE) {
        MUST(f->len <= LONGEST && outs < PACKETS * 2);
        packet *p = &out[outs++];
        p->len = f->len;
        p->card = card;
        memcpy(p->b, f->data, f->len);
        if (f->offload.flags & VIRTIO_NEEDS_CSUM) {
            const uint16_t sum = segment_checksum(p->b + TUNNEL, p->len - TUNNEL, &f->offload);
            memcpy(p->b + TUNNEL + f->offload.csum_start + f->offload.csum_offset, &sum, 2);
        }
        return;
    }
    MUST(segment_plan_make(&s, f->data + TUNNEL, f->len - TUNNEL, &f->offload) && s.count > 1);
    for (uint32_t i = 0; i < s.count; i++) {
        uint32_t at, n = segment_bytes(&s, i, 1, &at);
        packet *p = &out[outs++];
        MUST(outs <= PACKETS * 2 && TUNNEL + s.headers + n <= LONGEST);
        memcpy(p->b, f->data, TUNNEL);
        segment_headers(&s, f->data + TUNNEL, i, 1, p->b + TUNNEL);
        memcpy(p->b + TUNNEL + s.headers, f->data + TUNNEL + at, n);
        p->len = TUNNEL + s.headers + n;
        p->card = card;
    }
}

/* What gather.h gives to a card. */
void tap_send(int fd, const host_out *o, uint32_t header, bool uso, io_counts *counts)
{
    static uint8_t whole[TUNNEL + FRAME_ROOM] = {0, 0, 0x65, 0x58};
    MUST(header == VIRTIO_BYTES && uso && counts == NULL && o->len <= FRAME_ROOM);
    memcpy(whole + TUNNEL, o->data, o->len);
    const host_frame f = {.data = whole, .len = TUNNEL + o->len, .offload = o->offload};
    packet_out(&f, fd);
}

static uint8_t room[GATHER_FLOWS * FRAME_STRIDE];
static host_out leaving[PACKETS];

/* The packet, in memory of its own; with `later` its sum is left to a card. */
static void packet_leaves(gather *g, packet *p, uint32_t number, bool later)
{
    static const uint8_t tunnel[TUNNEL] = {0, 0, 0x65, 0x58};
    host_out *o = &leaving[number];
    memcpy(p->b, tunnel, TUNNEL);
    *o = (host_out){.data = malloc(p->len), .len = p->len - TUNNEL, .vnic = (uint32_t)p->card * GATHER_FLOWS}; /* one place for both */
    memcpy(o->data, p->b + TUNNEL, o->len);
    coalesce_flow f;
    if (later && coalesce_read(p->b, p->len, PAL_ENCAP_GENEVE, &f) && coalesce_sum_is_good(p->b, &f)) {
        uint8_t *ip = o->data + f.l3 - TUNNEL, *l4 = o->data + f.l4 - TUNNEL;
        const uint64_t sum = sum_bytes(ip + (f.v4 ? 12 : 8), f.v4 ? 8 : 32, be16(f.udp ? PROTO_UDP : PROTO_TCP));
        const uint16_t partial = sum_fold(sum + be16((uint16_t)(p->len - f.l4)));
        o->offload = (host_offload){.flags = VIRTIO_NEEDS_CSUM, .csum_start = (uint16_t)(f.l4 - TUNNEL), .csum_offset = f.udp ? 6 : 16};
        memcpy(l4 + o->offload.csum_offset, &partial, 2);
    }
    const gather_card card = {.fd = p->card, .header = VIRTIO_BYTES, .uso = true};
    gather_add(g, &card, o);
}

static void flows_try(const uint8_t *data, size_t size, bool gathered)
{
    static const pal_address from = {.family = PAL_FAMILY_V4};
    uint32_t next[FLOWS] = {0xffffff00u, 5, 0, 0}, frames = 0;
    uint16_t id[FLOWS] = {65530, 0, 9, 0};
    host_frame frame[PACKETS];
    coalesce c;
    gather g = {.room = {.base = room, .n = GATHER_FLOWS}};
    coalesce_begin(&c);
    ins = outs = 0;
    for (; size >= 5 && ins < PACKETS; data += 5, size -= 5) {
        packet *p = &in[ins++];
        const uint32_t flow = data[0] % FLOWS, bytes = data[1] & 0x80 ? 100 : data[1] % 101;
        packet_make(p, flow, &next[flow], &id[flow], bytes, data[0] & 0x40 ? TCP_ACK | TCP_PSH : TCP_ACK, data[0] & 0x20);
        packet_sums(p, flow);
        if (data[2] & 1) {
            const uint32_t where = (data[3] | (uint32_t)data[2] << 7) % p->len;
            p->b[where] ^= data[4];
            if (where < TUNNEL + 14 + (flow & 1 ? 40u : 20u) + 4) /* it is of another flow perhaps */
                p->flow = FLOWS + ins;
            if (data[2] & 2 && p->len > TUNNEL) /* its length too */
                p->len -= 1;
            if (data[2] & 4 && p->len > TUNNEL + 14 + 60)
                packet_sums(p, flow);
        }
        if (gathered) {
            p->card = data[0] >> 7;
            if (p->card)
                p->flow = FLOWS + ins;
            packet_leaves(&g, p, ins - 1, (data[2] & 9) == 8);
            continue;
        }
        uint8_t *exact = malloc(p->len); /* a read past the end is seen */
        memcpy(exact, p->b, p->len);
        host_frame one = {.data = exact, .len = p->len, .outer = from};
        if (!coalesce_add(&c, frame, &one, frames, sizeof memory[0])) {
            memcpy(memory[frames], exact, p->len);
            one.data = memory[frames];
            frame[frames++] = one;
        }
        free(exact);
    }
    coalesce_end(&c, frame);
    for (uint32_t i = 0; i < frames; i++)
        packet_out(&frame[i], 0);
    gather_flush(&g);
    for (uint32_t i = 0; gathered && i < ins; i++)
        free(leaving[i].data);
    MUST(outs == ins);
    static bool used[PACKETS * 2];
    memset(used, 0, sizeof used);
    uint32_t latest[FLOWS] = {0};
    for (uint32_t i = 0; i < ins; i++) {
        uint32_t any = 0, *k = in[i].flow < FLOWS ? &latest[in[i].flow] : &any;
        while (*k < outs && (used[*k] || !packet_same(&in[i], &out[*k])))
            ++*k;
        MUST(*k < outs);
        used[*k] = true;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    if (data[0] & 1)
        flows_try(data + 1, size - 1, data[0] & 2);
    else
        frame_try(data + 1, size - 1);
    return 0;
}
