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

void order_open(replay_order *o)
{
    *o = (replay_order){.pending = {.size = sizeof(pal_record)}, .pending_frame = {.size = sizeof(pal_frame)},
                        .late = {.size = sizeof(replay_late)}, .late_free = PAL_NONE, .group = {.size = sizeof(pal_record)}};
}

void order_close(replay_order *o)
{
    free(o->pending.item);
    free(o->pending_frame.item);
    free(o->late.item);
    free(o->group.item);
}

bool order_is_wanted(const pal_replay_options *o)
{
    return o->staged || o->collect || o->verdict_fd >= 0 || o->allowed_fd >= 0 || o->dropped_fd >= 0;
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

static uint32_t late_new(replay_order *o)
{
    const uint32_t at = o->late_free;
    if (at != PAL_NONE) {
        o->late_free = ((const replay_late *)o->late.item)[at].next;
        return at;
    }
    return replay_list_add(&o->late) ? (uint32_t)(o->late.count - 1) : PAL_NONE;
}

/* A record of a frame whose chunk has gone. */
static int late_add(const struct pal_replay *r, replay_order *o, const pal_record *v)
{
    pal_record *pending = o->pending.item;
    const uint64_t cookie = record_cookie(v);
    size_t low = o->written, high = o->pending.count;
    while (low < high) {
        const size_t mid = low + (high - low) / 2;
        if (record_cookie(&pending[mid]) < cookie)
            low = mid + 1;
        else
            high = mid;
    }
    if (low == o->pending.count || record_cookie(&pending[low]) != cookie || pending[low].reserved == RECORD_DECIDED)
        return r->cut ? 0 : -1;
    const uint32_t at = late_new(o);
    if (at == PAL_NONE)
        return -1;
    pal_record *place = &pending[low];
    replay_late *late = o->late.item;
    if (place->reserved == RECORD_WAITING) {
        place->reserved = RECORD_CHAINED;
        place->rule = PAL_NONE;
    }
    uint32_t *link = &place->rule;
    while (*link != PAL_NONE && record_compare(&late[*link].record, v) <= 0)
        link = &late[*link].next;
    late[at] = (replay_late){.record = *v, .next = *link};
    if (!r->staged)
        late[at].record.ts_ns = place->ts_ns;
    *link = at;
    return 0;
}

/* All records of a place, out of the chain. NULL: no memory. */
static const pal_record *late_take(replay_order *o, const pal_record *place)
{
    o->group.count = 0;
    for (uint32_t at = place->rule, next; at != PAL_NONE; at = next) {
        replay_late *l = &((replay_late *)o->late.item)[at];
        pal_record *to = replay_list_add(&o->group);
        if (!to)
            return NULL;
        *to = l->record;
        next = l->next;
        l->next = o->late_free;
        o->late_free = at;
    }
    return o->group.item;
}

/* ---- a chunk ------------------------------------------------------------------------------------------------------- */

/* The next record of the lanes, each of which is sorted; NULL: none is left. */
PAL_INLINE const pal_record *lanes_next(const replay_lane *lane, uint32_t lanes, const size_t *at, uint32_t *which)
{
    const pal_record *least = NULL;
    for (uint32_t l = 0; l < lanes; l++) {
        if (at[l] == lane[l].records.count)
            continue;
        const pal_record *v = (const pal_record *)lane[l].records.item + at[l];
        if (!least || record_compare(v, least) < 0) {
            least = v;
            *which = l;
        }
    }
    return least;
}

static bool chunk_place(const struct pal_replay *r, replay_order *o, const pal_record *v, const pal_frame *f, bool packets)
{
    pal_record *to = replay_list_add(&o->pending);
    if (!to)
        return false;
    *to = *v;
    if (!r->staged)
        to->ts_ns = f->ts_ns;
    pal_frame *frame = packets ? replay_list_add(&o->pending_frame) : NULL;
    if (frame)
        *frame = *f;
    return !packets || frame;
}

/* The lanes' records, of the chunk's frames and of earlier ones, to their places. */
static bool chunk_take(const struct pal_replay *r, replay_order *o, replay_lane *lane)
{
    size_t at[ENGINE_WORKERS_MAX] = {0};
    const bool packets = o == &r->order && (r->allowed || r->dropped || r->staged);
    uint32_t which = 0;
    const uint64_t begin = r->frames ? r->frame[0].number | (uint64_t)r->file << COOKIE_FILE_SHIFT : ~0ull;
    for (uint32_t l = 0; l < r->lanes; l++)
        records_sort(&lane[l].records);
    const pal_record *v = lanes_next(lane, r->lanes, at, &which);
    for (; v && record_cookie(v) < begin; at[which]++, v = lanes_next(lane, r->lanes, at, &which))
        if (late_add(r, o, v) < 0)
            return false;
    for (uint32_t i = 0; i < r->frames; i++) {
        const pal_frame *f = &r->frame[i];
        const uint64_t cookie = f->number | (uint64_t)r->file << COOKIE_FILE_SHIFT;
        if (!v || record_cookie(v) != cookie) {
            const pal_record waits = {.number = f->number, .file = r->file, .reserved = RECORD_WAITING};
            if (!chunk_place(r, o, &waits, f, packets))
                return false;
        }
        for (; v && record_cookie(v) == cookie; at[which]++, v = lanes_next(lane, r->lanes, at, &which))
            if (!chunk_place(r, o, v, f, packets))
                return false;
    }
    return true;
}

/* Writes what nothing before it waits for. */
static int pending_write(struct pal_replay *r, replay_order *o, char *err, size_t errlen)
{
    const pal_record *pending = o->pending.item;
    size_t i = o->written;
    int result = 0;
    while (result == 0 && i < o->pending.count && pending[i].reserved != RECORD_WAITING) {
        const pal_record *v = &pending[i];
        const pal_frame *frame = o->pending_frame.count ? (const pal_frame *)o->pending_frame.item + i : NULL;
        size_t n = 1;
        if (PAL_UNLIKELY(v->reserved == RECORD_CHAINED)) {
            v = late_take(o, v);
            n = o->group.count;
            i++;
        } else {
            while (i + n < o->pending.count && record_cookie(&v[n]) == record_cookie(v))
                n++;
            i += n;
        }
        if (!v) {
            snprintf(err, errlen, "no memory for verdicts");
            result = -ENOMEM;
        } else if (r->staged) {
            result = staged_frame(r, o != &r->order, v, n, frame, err, errlen);
        } else {
            result = output_frame(r, v, n, frame, err, errlen);
        }
    }
    o->written = i;
    return result;
}

/* Room that what has been written took is used again when it is most of the list. */
static void pending_shrink(replay_order *o)
{
    const size_t left = o->pending.count - o->written;
    if (o->written < left)
        return;
    memmove(o->pending.item, (pal_record *)o->pending.item + o->written, left * sizeof(pal_record));
    if (o->pending_frame.count) {
        memmove(o->pending_frame.item, (pal_frame *)o->pending_frame.item + o->written, left * sizeof(pal_frame));
        o->pending_frame.count = left;
    }
    o->pending.count = left;
    o->written = 0;
}

/* One world's records of the chunk. */
static int order_lanes(struct pal_replay *r, replay_order *o, replay_lane *lane, char *err, size_t errlen)
{
    int result = 0;
    if (!chunk_take(r, o, lane)) {
        snprintf(err, errlen, "no memory for verdicts");
        result = -ENOMEM;
    }
    for (uint32_t l = 0; l < r->lanes; l++)
        lane[l].records.count = 0;
    if (result == 0)
        result = pending_write(r, o, err, errlen);
    if (o->written)
        pending_shrink(o);
    return result;
}

int order_chunk(struct pal_replay *r, char *err, size_t errlen)
{
    int result = 0;
    if (order_is_wanted(&r->options)) {
        result = order_lanes(r, &r->order, r->lane, err, errlen);
        if (result == 0 && r->staged)
            result = order_lanes(r, staged_order(r->staged), staged_lane(r->staged, 0), err, errlen);
        if (result == 0 && r->staged)
            result = staged_join(r, err, errlen);
        if (result == 0)
            result = output_checked(r, err, errlen);
    }
    return result ? result : generated_collect(r, err, errlen);
}

void order_forget(replay_order *o)
{
    o->pending.count = o->pending_frame.count = o->late.count = o->written = 0;
    o->late_free = PAL_NONE;
}
