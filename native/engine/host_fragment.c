/* SPDX-License-Identifier: Apache-2.0
 *
 * host_fragment.c - fragments that wait for their datagram's verdict: copied, since their frames are gone by then, and released
 * with their original boundaries. The firewall bounds how many wait (fragment.h): there is always room for them here.
 *
 * All of a datagram's fragments leave as the one does that completed it: that one's Ethernet header and destination were judged.
 */
#include "host_emit.h"

#include <stdlib.h>

#define HELD_BLOCK FRAG_BLOCK
#define HELD_PIECES (FRAG_BLOCKS + 1)            /* each has a block of payload at least; and the one that is being judged */
#define HELD_BLOCKS (FRAG_BLOCKS + 2 * HELD_PIECES + 1) /* headers: at most 60, or 40 + 256 + 8 bytes a piece */

typedef struct held_piece {
    uint32_t next;    /* of the free ones */
    uint32_t block;   /* the first of a chain, PAL_NONE: no bytes are kept */
    uint32_t waiting; /* filters that have not said what becomes of it */
    uint16_t len;     /* bytes from the IP header on */
    uint8_t dir;      /* that of the filters that hold it */
    uint8_t reason;   /* of the last refusal */
    uint8_t passed, queued, used, kept;
} held_piece;

struct host_held {
    uint32_t free_piece, fresh_piece, free_block, fresh_block;
    uint32_t count;   /* kept */
    uint32_t done_n;
    uint32_t done[HELD_PIECES];
    uint32_t block_next[HELD_BLOCKS];
    held_piece piece[HELD_PIECES];
    uint8_t block[HELD_BLOCKS][HELD_BLOCK];
};

struct host_held *held_new(void)
{
    struct host_held *h = calloc(1, sizeof *h); /* pages that are never written cost nothing */
    if (h)
        h->free_piece = h->free_block = PAL_NONE;
    return h;
}

void held_free(struct host_held *h) { free(h); }

uint32_t held_count(const struct host_held *h) { return h->count; }

static uint32_t held_slot(uint32_t *free_one, uint32_t *fresh, uint32_t most, const uint32_t *next)
{
    if (*free_one != PAL_NONE) {
        uint32_t i = *free_one;
        *free_one = *next;
        return i;
    }
    return *fresh < most ? (*fresh)++ : PAL_NONE;
}

uint32_t held_take(struct host_held *h, uint32_t waiting, uint8_t dir)
{
    uint32_t i = held_slot(&h->free_piece, &h->fresh_piece, HELD_PIECES, h->free_piece == PAL_NONE ? NULL : &h->piece[h->free_piece].next);
    if (i != PAL_NONE)
        h->piece[i] = (held_piece){.block = PAL_NONE, .waiting = waiting, .dir = dir, .used = 1};
    return i;
}

void held_keep(struct host_held *h, uint32_t piece, const uint8_t *ip, uint32_t len)
{
    held_piece *q = &h->piece[piece];
    uint32_t *link = &q->block;
    for (uint32_t at = 0; at < len; at += HELD_BLOCK) {
        uint32_t b = held_slot(&h->free_block, &h->fresh_block, HELD_BLOCKS, h->free_block == PAL_NONE ? NULL : &h->block_next[h->free_block]);
        if (b == PAL_NONE) /* cannot be: see HELD_BLOCKS */
            abort();
        memcpy(h->block[b], ip + at, min_u32(HELD_BLOCK, len - at));
        *link = b;
        link = &h->block_next[b];
    }
    *link = PAL_NONE;
    q->len = (uint16_t)len;
    q->kept = 1;
    h->count++;
}

bool held_waits(const struct host_held *h, uint32_t piece) { return h->piece[piece].used && h->piece[piece].waiting; }

static void held_copy(const struct host_held *h, const held_piece *q, uint8_t *out)
{
    uint32_t b = q->block;
    for (uint32_t at = 0; at < q->len; at += HELD_BLOCK, b = h->block_next[b])
        memcpy(out + at, h->block[b], min_u32(HELD_BLOCK, q->len - at));
}

uint32_t held_bytes(const struct host_held *h, uint32_t piece, uint8_t *out)
{
    held_copy(h, &h->piece[piece], out);
    return h->piece[piece].len;
}

/* What a fragment of the datagram alone may meet: a hop limit of its own, a length of its own. */
static uint8_t held_refused(const host_worker *w, const host_view *v, uint32_t ip_len)
{
    const forward_plan *plan = v->plan;
    const uint8_t *ip = v->data + v->p->l3;
    if (plan->routed && ip[v->p->family == PAL_FAMILY_V4 ? 8 : 7] <= 1)
        return PAL_REASON_HOP_LIMIT;
    const uint32_t limit = plan->kind == FORWARD_VNIC ? w->fabric->vnic[plan->vnic].mtu : plan->kind == FORWARD_TEP ? fabric_mtu(w->fabric, plan->tep) : 0;
    return limit && ip_len > limit ? PAL_REASON_MTU : PAL_REASON_MATCH;
}

/* The datagram has passed at its last filter, or, for many, at one of them: this fragment leaves. */
static void held_leave(host_worker *w, uint32_t piece, const pal_judgement *j)
{
    struct host_held *h = w->held;
    held_piece *q = &h->piece[piece];
    host_view v = host_view_at(w, w->alone);
    uint32_t ip_len = v.p->ip_len;
    if (piece != w->piece) {
        ip_len = q->len;
        uint8_t *data = host_own(w, v.p->l3 + ip_len);
        memcpy(data, v.data, v.p->l3);
        held_copy(h, q, data + v.p->l3);
        v.data = data;
        v.len = v.p->l3 + ip_len;
    }
    if (v.plan->kind == FORWARD_MANY) {
        w->copied = 0;
        if (j->dir == PAL_DIR_OUT)
            host_to_teps(w, &v);
        else
            host_to_vnic(w, &v, j->filter);
        q->passed |= w->copied;
        return;
    }
    const uint8_t r = v.plan->kind == FORWARD_REFUSE ? v.plan->reason : held_refused(w, &v, ip_len);
    if (r) {
        q->reason = r;
        if (v.plan->error && piece == w->piece)
            host_error(w, &v);
        return;
    }
    q->passed = 1;
    w->stats.passed--; /* held_finish counts it */
    host_execute(w, &v);
}

void held_settle(host_worker *w, uint32_t piece, const pal_judgement *j)
{
    struct host_held *h = w->held;
    held_piece *q = &h->piece[piece];
    if (j->dir == q->dir && q->waiting)
        q->waiting--;
    if (j->verdict != PAL_ALLOW) {
        q->reason = j->reason;
    } else {
        const pal_route *r = &w->route[w->alone];
        if (w->plan[w->alone].kind == FORWARD_MANY || !r->second || j->filter == r->second->number)
            held_leave(w, piece, j);
    }
    if (!q->queued) {
        q->queued = 1;
        h->done[h->done_n++] = piece;
    }
}

void held_finish(host_worker *w)
{
    struct host_held *h = w->held;
    for (uint32_t i = 0; i < h->done_n; i++) {
        held_piece *q = &h->piece[h->done[i]];
        q->queued = 0;
        if (q->waiting)
            continue;
        if (q->passed)
            w->stats.passed++;
        else
            host_dropped(w, q->reason ? q->reason : PAL_REASON_NO_RECEIVER);
        while (q->block != PAL_NONE) {
            const uint32_t b = q->block;
            q->block = h->block_next[b];
            h->block_next[b] = h->free_block;
            h->free_block = b;
        }
        h->count -= q->kept;
        q->used = 0;
        q->next = h->free_piece;
        h->free_piece = h->done[i];
    }
    h->done_n = 0;
}
