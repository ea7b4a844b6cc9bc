/* SPDX-License-Identifier: Apache-2.0
 *
 * gather.h - datagrams of one flow that leave for one vNIC in one burst, as a UDP super-packet: one system call, and one way
 * through the workload's kernel, for all of them. Each has been judged by itself, and the workload's kernel takes them apart
 * again where a socket wants them one by one; it is coalesce.h's rules by which they are put together, so that what comes out
 * is what went in. Of TCP nothing is gathered: what arrives by TCP in bursts arrives in super-packets.
 */
#ifndef PAL_IO_GATHER_H
#define PAL_IO_GATHER_H

#include "coalesce.h"
#include "tap.h"

#define GATHER_FLOWS 8

/* A vNIC's TAP, as its worker sees it. */
typedef struct gather_card {
    int fd;
    uint32_t header;   /* bytes of the virtio header */
    bool uso;          /* the kernel knows UDP super-packets */
    io_counts *counts;
} gather_card;

typedef struct gather_flow {
    const host_out *first; /* where it is, as long as there is no second; then all are in the flow's buffer */
    uint32_t len;          /* bytes in the buffer; datagrams: known.count */
    gather_card card;
    coalesce_flow known;
} gather_flow;

/* A flow has its place by its ports: those of one are never out of order. */
typedef struct gather {
    frame_pool room;       /* a buffer for each place */
    uint32_t open;         /* places that have something, by bit */
    gather_flow flow[GATHER_FLOWS];
} gather;

PAL_INLINE void gather_send(const gather_card *c, const host_out *out) { tap_send(c->fd, out, c->header, c->uso, c->counts); }

static inline void gather_flush_one(gather *g, uint32_t place)
{
    const gather_flow *w = &g->flow[place];
    g->open &= ~(1u << place);
    if (w->known.count == 1) {
        gather_send(&w->card, w->first);
        return;
    }
    host_frame whole = {.data = frame_at(&g->room, place), .len = w->len};
    coalesce_finish(&whole, &w->known);
    const host_out out = {.data = whole.data, .len = whole.len, .vnic = w->first->vnic, .offload = whole.offload};
    gather_send(&w->card, &out);
}

static inline void gather_flush(gather *g)
{
    while (g->open)
        gather_flush_one(g, (uint32_t)__builtin_ctz(g->open));
}

/* What a receiver would say of its checksum, once a card has done what was left to it. */
static inline bool gather_sum_is_good(const host_out *out, const coalesce_flow *f)
{
    const host_offload *o = &out->offload;
    return o->flags & VIRTIO_NEEDS_CSUM ? o->csum_start == f->l4 && o->csum_offset == 6 : coalesce_sum_is_good(out->data, f);
}

/* True: it is part of what waits at this place. */
static inline bool gather_join(gather *g, uint32_t place, const gather_card *card, const host_out *out, const coalesce_flow *n)
{
    gather_flow *w = &g->flow[place];
    const uint8_t *first = w->first->data;
    if (w->card.fd != card->fd || !coalesce_same_flow(first, &w->known, out->data, n) ||
        !coalesce_fits(first, &w->known, w->len, out->data, n) || !gather_sum_is_good(out, n))
        return false;
    uint8_t *buffer = frame_at(&g->room, place);
    if (w->known.count == 1) {
        if (!gather_sum_is_good(w->first, &w->known))
            return false;
        memcpy(buffer, first, w->len);
    }
    memcpy(buffer + w->len, out->data + n->headers, n->size);
    w->len += n->size;
    w->known.count++;
    w->known.id = n->id;
    w->known.closed = n->size < w->known.size;
    return true;
}

/* A frame for a vNIC: it leaves at gather_flush at the latest, and its memory, and *out, are the caller's again after that. */
static inline void gather_add(gather *g, const gather_card *card, const host_out *out)
{
    coalesce_flow n = {0};
    const bool may = card->uso && out->offload.gso_type == VIRTIO_GSO_NONE && coalesce_read_inner(out->data, out->len, 0, &n) && n.udp;
    if (PAL_UNLIKELY(!may)) {
        if (!n.udp && n.l4) { /* TCP, none of which waits */
            gather_send(card, out);
            return;
        }
        gather_flush(g); /* a fragment, say, of a flow that has something waiting */
        gather_send(card, out);
        return;
    }
    const uint32_t place = (load_u32(out->data + n.l4) * 0x9e3779b1u >> 24 ^ out->vnic) % GATHER_FLOWS;
    if (g->open >> place & 1) {
        if (gather_join(g, place, card, out, &n))
            return;
        gather_flush_one(g, place);
    }
    gather_flow *w = &g->flow[place];
    *w = (gather_flow){.first = out, .len = out->len, .card = *card, .known = n};
    w->known.room = FRAME_ROOM - FRAME_HEADROOM;
    g->open |= 1u << place;
}

#endif
