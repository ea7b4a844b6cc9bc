/* SPDX-License-Identifier: Apache-2.0
 *
 * replay_order.c - the workers' records in the order of the frames.
 *
 * Every frame of a chunk has its records when the chunk has been judged, but for fragments that are held: such a frame gets
 * a place that waits. What is decided later fills it, found by its number. So nothing is ever sorted or moved that has its
 * place, however much waits and for however long.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "replay.h"

bool order_is_wanted(const pal_replay_options *o)
{
    return o->collect || o->verdict_fd >= 0 || o->allowed_fd >= 0 || o->dropped_fd >= 0;
}

/* By frame; OUT at the sender before IN at a receiver, of which a group has several. */
PAL_INLINE int record_compare(const pal_record *x, const pal_record *y)
{
    const uint64_t cx = record_cookie(x), cy = record_cookie(y);
    if (cx != cy)
        return cx < cy ? -1 : 1;
    if (x->dir != y->dir)
        return (int)y->dir - (int)x->dir;
    return (int)x->filter - (int)y->filter;
}

static int record_order(const void *a, const void *b) { return record_compare(a, b); }

static void records_sort(replay_list *l)
{
    const pal_record *v = l->item;
    for (size_t i = 1; i < l->count; i++) {
        if (record_compare(&v[i - 1], &v[i]) > 0) {
            qsort(l->item, l->count, l->size, record_order);
            return;
        }
    }
}

/* ---- places that wait -------------------------------------------------------------------------------------------- */

static uint32_t late_new(struct pal_replay *r)
{
    const uint32_t at = r->late_free;
    if (at != PAL_NONE) {
        r->late_free = ((const replay_late *)r->late.item)[at].next;
        return at;
    }
    return replay_list_add(&r->late) ? (uint32_t)(r->late.count - 1) : PAL_NONE;
}

/* A record of a frame whose chunk has gone. */
static int late_add(struct pal_replay *r, const pal_record *v)
{
    pal_record *pending = r->pending.item;
    const uint64_t cookie = record_cookie(v);
    size_t low = r->written, high = r->pending.count;
    while (low < high) {
        const size_t mid = low + (high - low) / 2;
        if (record_cookie(&pending[mid]) < cookie)
            low = mid + 1;
        else
            high = mid;
    }
    if (low == r->pending.count || record_cookie(&pending[low]) != cookie || pending[low].reserved == RECORD_DECIDED)
        return r->cut ? 0 : -1;
    const uint32_t at = late_new(r);
    if (at == PAL_NONE)
        return -1;
    pal_record *place = &pending[low];
    replay_late *late = r->late.item;
    if (place->reserved == RECORD_WAITING) {
        place->reserved = RECORD_CHAINED;
        place->rule = PAL_NONE;
    }
    uint32_t *link = &place->rule;
    while (*link != PAL_NONE && record_compare(&late[*link].record, v) <= 0)
        link = &late[*link].next;
    late[at] = (replay_late){.record = *v, .next = *link};
    late[at].record.ts_ns = place->ts_ns;
    *link = at;
    return 0;
}

/* All records of a place, out of the chain. NULL: no memory. */
static const pal_record *late_take(struct pal_replay *r, const pal_record *place)
{
    r->group.count = 0;
    for (uint32_t at = place->rule, next; at != PAL_NONE; at = next) {
        replay_late *l = &((replay_late *)r->late.item)[at];
        pal_record *to = replay_list_add(&r->group);
        if (!to)
            return NULL;
        *to = l->record;
        next = l->next;
        l->next = r->late_free;
        r->late_free = at;
    }
    return r->group.item;
}

/* ---- a chunk ------------------------------------------------------------------------------------------------------- */

/* The next record of the lanes, each of which is sorted; NULL: none is left. */
PAL_INLINE const pal_record *lanes_next(const struct pal_replay *r, const size_t *at, uint32_t *which)
{
    const pal_record *least = NULL;
    for (uint32_t l = 0; l < r->lanes; l++) {
        if (at[l] == r->lane[l].records.count)
            continue;
        const pal_record *v = (const pal_record *)r->lane[l].records.item + at[l];
        if (!least || record_compare(v, least) < 0) {
            least = v;
            *which = l;
        }
    }
    return least;
}

static bool chunk_place(struct pal_replay *r, const pal_record *v, const pal_frame *f, bool packets)
{
    pal_record *to = replay_list_add(&r->pending);
    if (!to)
        return false;
    *to = *v;
    to->ts_ns = f->ts_ns;
    pal_frame *frame = packets ? replay_list_add(&r->pending_frame) : NULL;
    if (frame)
        *frame = *f;
    return !packets || frame;
}

/* Records of the chunk's frames and of earlier ones to their places. */
static bool chunk_take(struct pal_replay *r)
{
    size_t at[ENGINE_WORKERS_MAX] = {0};
    const bool packets = r->allowed || r->dropped;
    uint32_t which = 0;
    const uint64_t begin = r->frames ? r->frame[0].number | (uint64_t)r->file << COOKIE_FILE_SHIFT : ~0ull;
    for (uint32_t l = 0; l < r->lanes; l++)
        records_sort(&r->lane[l].records);
    const pal_record *v = lanes_next(r, at, &which);
    for (; v && record_cookie(v) < begin; at[which]++, v = lanes_next(r, at, &which))
        if (late_add(r, v) < 0)
            return false;
    for (uint32_t i = 0; i < r->frames; i++) {
        const pal_frame *f = &r->frame[i];
        const uint64_t cookie = f->number | (uint64_t)r->file << COOKIE_FILE_SHIFT;
        if (!v || record_cookie(v) != cookie) {
            const pal_record waits = {.number = f->number, .file = r->file, .reserved = RECORD_WAITING};
            if (!chunk_place(r, &waits, f, packets))
                return false;
        }
        for (; v && record_cookie(v) == cookie; at[which]++, v = lanes_next(r, at, &which))
            if (!chunk_place(r, v, f, packets))
                return false;
    }
    return true;
}

/* Writes what nothing before it waits for. */
static int pending_write(struct pal_replay *r, char *err, size_t errlen)
{
    const pal_record *pending = r->pending.item;
    size_t i = r->written;
    int result = 0;
    while (result == 0 && i < r->pending.count && pending[i].reserved != RECORD_WAITING) {
        const pal_record *v = &pending[i];
        const pal_frame *frame = r->pending_frame.count ? (const pal_frame *)r->pending_frame.item + i : NULL;
        size_t n = 1;
        if (PAL_UNLIKELY(v->reserved == RECORD_CHAINED)) {
            v = late_take(r, v);
            n = r->group.count;
            i++;
        } else {
            while (i + n < r->pending.count && record_cookie(&v[n]) == record_cookie(v))
                n++;
            i += n;
        }
        if (!v) {
            snprintf(err, errlen, "no memory for verdicts");
            result = -ENOMEM;
        } else {
            result = output_frame(r, v, n, frame, err, errlen);
        }
    }
    r->written = i;
    return result;
}

/* Room that what has been written took is used again when it is most of the list. */
static void pending_shrink(struct pal_replay *r)
{
    const size_t left = r->pending.count - r->written;
    if (r->written < left)
        return;
    memmove(r->pending.item, (pal_record *)r->pending.item + r->written, left * sizeof(pal_record));
    if (r->pending_frame.count) {
        memmove(r->pending_frame.item, (pal_frame *)r->pending_frame.item + r->written, left * sizeof(pal_frame));
        r->pending_frame.count = left;
    }
    r->pending.count = left;
    r->written = 0;
}

int order_chunk(struct pal_replay *r, char *err, size_t errlen)
{
    int result = 0;
    if (order_is_wanted(&r->options)) {
        if (!chunk_take(r)) {
            snprintf(err, errlen, "no memory for verdicts");
            result = -ENOMEM;
        }
        for (uint32_t l = 0; l < r->lanes; l++)
            r->lane[l].records.count = 0;
        if (result == 0)
            result = pending_write(r, err, errlen);
        if (result == 0)
            result = output_checked(r, err, errlen);
        if (r->written)
            pending_shrink(r);
    }
    return result ? result : generated_collect(r, err, errlen);
}

void order_forget(struct pal_replay *r)
{
    r->pending.count = r->pending_frame.count = r->late.count = r->written = 0;
    r->late_free = PAL_NONE;
}
