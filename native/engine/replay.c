/* SPDX-License-Identifier: Apache-2.0 */
#include "replay.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static uint64_t clock_now(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

pal_replay *pal_replay_new(pal_engine *e, const pal_replay_options *options, const pal_binding *bindings, uint32_t n, char *err,
                           size_t errlen)
{
    const pal_engine *s = options->staged;
    if (s && (s->options.filters != e->options.filters || s->options.workers != e->options.workers || !s->options.flows || !e->options.flows)) {
        snprintf(err, errlen, "the staged engine has other filters or workers, or connections are not told apart");
        return NULL;
    }
    if (options->batch == 0 || options->batch > 256) {
        snprintf(err, errlen, "a batch is 1 to 256 packets");
        return NULL;
    }
    struct pal_replay *r = calloc(1, sizeof *r);
    if (r) {
        r->engine = e;
        r->options = *options;
        r->lanes = e->options.workers;
        order_open(&r->order);
        r->kept.size = sizeof(pal_record);
        r->generated.size = sizeof(pal_generated);
        r->generated_bytes.size = 1;
        r->flows.size = sizeof(pal_flow);
        r->file_json.size = sizeof(const char *);
        r->frame = malloc(REPLAY_CHUNK_MAX * sizeof *r->frame);
        r->lane = calloc(r->lanes, sizeof *r->lane);
        r->segment = malloc(e->options.filters * sizeof *r->segment);
    }
    if (!r || !r->frame || !r->lane || !r->segment || binding_table_make(&r->binding, bindings, n, e->options.seed[5]) < 0) {
        snprintf(err, errlen, "no memory for a replay");
        pal_replay_close(r);
        return NULL;
    }
    binding_segments(r->segment, e->options.filters, bindings, n);
    bool opened = true;
    for (uint32_t i = 0; i < r->lanes; i++)
        opened &= lane_open(&r->lane[i], r, e, i);
    if (options->staged) {
        r->staged = opened ? staged_open(r) : NULL;
        opened = r->staged != NULL;
    }
    if (!opened) {
        snprintf(err, errlen, "no memory for a replay");
        pal_replay_close(r);
        return NULL;
    }
    if (output_open(r, err, errlen) < 0) {
        pal_replay_close(r);
        return NULL;
    }
    return r;
}

int pal_replay_close(pal_replay *r)
{
    if (!r)
        return 0;
    int error = output_close(r);
    for (uint32_t i = 0; r->lane && i < r->lanes; i++)
        lane_close(&r->lane[i]);
    binding_table_free(&r->binding);
    free(r->segment);
    if (r->staged)
        staged_close(r->staged);
    order_close(&r->order);
    free(r->kept.item);
    free(r->generated.item);
    free(r->generated_bytes.item);
    free(r->flows.item);
    free(r->file_json.item);
    free(r->lane);
    free(r->frame);
    free(r);
    return error;
}

static void *lane_thread(void *lane)
{
    lane_run(lane);
    return NULL;
}

/* Why a lane stopped in the chunk, which then ends before that frame. NULL: none did. */
static const char *chunk_problem(struct pal_replay *r)
{
    const char *problem = NULL;
    for (uint32_t i = 0; i < r->lanes; i++) {
        if (r->lane[i].failed && (!problem || r->lane[i].stopped_at < r->frames)) {
            problem = r->lane[i].problem;
            r->frames = r->lane[i].stopped_at;
        }
    }
    return problem;
}

/* Waits until the capture's clock has come to this frame. */
static void chunk_wait(struct pal_replay *r, const pal_frame *f)
{
    uint64_t now = clock_now(CLOCK_MONOTONIC);
    if (!r->timed) {
        r->timed = true;
        r->started_ns = now;
        r->first_ts_ns = f->ts_ns;
    }
    uint64_t due = r->started_ns + (f->ts_ns > r->first_ts_ns ? f->ts_ns - r->first_ts_ns : 0);
    if (due > now) {
        struct timespec t = {.tv_sec = (time_t)(due / 1000000000u), .tv_nsec = (long)(due % 1000000000u)};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
    }
}

static void lanes_run(struct pal_replay *r)
{
    uint32_t started = 0;
    for (uint32_t i = 0; i < r->lanes; i++) {
        r->lane[i].failed = false;
        r->lane[i].stopped_at = 0;
    }
    for (uint32_t i = 1; i < r->lanes; i++, started = i - 1)
        if (pthread_create(&r->lane[i].thread, NULL, lane_thread, &r->lane[i]) != 0) {
            snprintf(r->lane[i].problem, sizeof r->lane[i].problem, "cannot start worker %u", i);
            r->lane[i].failed = true;
            r->lane[i].stopped_at = 0;
            break;
        }
    lane_run(&r->lane[0]);
    for (uint32_t i = 1; i <= started; i++)
        pthread_join(r->lane[i].thread, NULL);
}

/* The chunk in r->frame. What comes before a frame that cannot be judged is judged, and written. */
static int chunk_run(struct pal_replay *r, char *err, size_t errlen)
{
    char unknown[128] = "";
    for (uint32_t i = 0; i < r->frames; i++) {
        const pal_frame *f = &r->frame[i];
        if (PAL_UNLIKELY(!linktype_is_known(f->linktype))) {
            snprintf(unknown, sizeof unknown, "packet %llu: link type %u (%s) is not one that we read",
                     (unsigned long long)f->number, f->linktype, pal_linktype_name(f->linktype));
            r->frames = i;
        }
    }
    uint64_t start = clock_now(CLOCK_MONOTONIC);
    lanes_run(r);
    r->total.core_ns += clock_now(CLOCK_MONOTONIC) - start;
    const char *problem = chunk_problem(r);
    if (!problem && unknown[0])
        problem = unknown;
    r->total.packets += r->frames;
    r->chunk_bytes = 0;
    for (uint32_t i = 0; i < r->frames; i++) {
        r->total.bytes += r->frame[i].wirelen;
        r->chunk_bytes += r->frame[i].caplen;
    }
    r->cut |= problem != NULL;
    int error = order_chunk(r, err, errlen);
    if (error == 0 && problem)
        snprintf(err, errlen, "%s", problem);
    return error ? error : problem != NULL;
}

/* How many frames the next chunk should have; see REPLAY_CHUNK_MAX. */
static uint32_t chunk_size(const struct pal_replay *r)
{
    if (r->options.realtime)
        return 1;
    if (r->lanes > 1)
        return REPLAY_CHUNK_MAX;
    const uint64_t mean = r->frames ? r->chunk_bytes / r->frames + 1 : 1024;
    const uint64_t fitting = REPLAY_CHUNK_BYTES / mean;
    return fitting < REPLAY_CHUNK_MIN ? REPLAY_CHUNK_MIN : fitting > 4 * REPLAY_CHUNK_MIN ? 4 * REPLAY_CHUNK_MIN : (uint32_t)fitting;
}

/* Frames that follow are of this file. */
static int file_begin(struct pal_replay *r, uint32_t file, const char *json, char *err, size_t errlen)
{
    r->file = file;
    while (r->file_json.count <= file) {
        const char **to = replay_list_add(&r->file_json);
        if (!to) {
            snprintf(err, errlen, "no memory for file names");
            return -ENOMEM;
        }
        *to = json;
    }
    return 0;
}

int pal_replay_frames(pal_replay *r, const pal_frame *frames, uint64_t n, uint32_t file, const char *file_json, char *err,
                      size_t errlen)
{
    int error = file_begin(r, file, file_json, err, errlen);
    for (uint64_t at = 0; at < n && error == 0;) {
        const uint32_t most = chunk_size(r);
        r->frames = (uint32_t)(n - at < most ? n - at : most);
        memcpy(r->frame, frames + at, r->frames * sizeof *frames);
        const uint32_t taken = r->frames;
        error = chunk_run(r, err, errlen);
        at += taken;
    }
    return error;
}

int pal_replay_capture(pal_replay *r, pal_capture *capture, uint64_t max, uint32_t file, const char *file_json, int *done,
                       char *err, size_t errlen)
{
    int error = file_begin(r, file, file_json, err, errlen);
    *done = 0;
    for (uint64_t at = 0; at < max && error == 0; at += r->frames) {
        const uint32_t most = chunk_size(r);
        r->frames = pal_capture_next(capture, r->frame, (uint32_t)(max - at < most ? max - at : most));
        if (r->frames == 0) {
            *done = 1;
            break;
        }
        if (r->options.realtime)
            chunk_wait(r, &r->frame[0]);
        error = chunk_run(r, err, errlen);
    }
    return error;
}

/* All connections end: those past their time, then children that have outlived their parents, then the rest. */
static void replay_flush(ct_table *t)
{
    for (enum ct_end why = CT_END_TIMEOUT;; why = why == CT_END_TIMEOUT ? CT_END_PARENT : CT_END_OPEN) {
        for (uint32_t ref = 0; ref < t->cap4 + t->cap6; ref++) {
            if (ref == t->s->fresh[0]) /* entries from here on were never used */
                ref = t->cap4;
            if (ref >= t->cap4 + t->s->fresh[1])
                break;
            const ct_hot *h = &t->hot[ref];
            if (h->state == CT_FREE || (why == CT_END_TIMEOUT && !wheel_is_past(t, h->deadline)) ||
                (why == CT_END_PARENT && !((h->marks & CT_CHILD) && child_parent(t, ref) == PAL_NONE)))
                continue;
            ct_end(t, ref, why);
        }
        if (why == CT_END_OPEN)
            return;
    }
}

int pal_replay_finish(pal_replay *r, int flush, char *err, size_t errlen)
{
    r->frames = 0;
    for (uint32_t i = 0; i < r->lanes; i++)
        lane_finish(&r->lane[i]);
    if (r->staged)
        staged_finish(r->staged);
    int result = order_chunk(r, err, errlen);
    for (uint32_t i = 0; flush && i < r->lanes; i++)
        if (r->engine->options.flows == PAL_FLOWS_KEPT)
            replay_flush(&r->lane[i].ew->w.table);
    return result;
}

void pal_replay_mute(pal_replay *r)
{
    r->options.verdict_fd = r->options.allowed_fd = r->options.dropped_fd = r->options.generated_fd = -1;
}

void pal_replay_totals_read(const pal_replay *r, pal_replay_totals *out)
{
    *out = r->total;
    for (uint32_t i = 0; i < r->lanes; i++) {
        out->unfiltered += r->lane[i].unfiltered;
        out->generated += r->lane[i].generated_count;
    }
}

const pal_record *pal_replay_records(const pal_replay *r, uint64_t *n)
{
    *n = r->kept.count;
    return r->kept.item;
}

const pal_generated *pal_replay_generated(const pal_replay *r, uint64_t *n, const uint8_t **bytes)
{
    *n = r->generated.count;
    *bytes = r->generated_bytes.item;
    return r->generated.item;
}

void pal_replay_forget(pal_replay *r)
{
    r->kept.count = r->generated.count = r->generated_bytes.count = r->flows.count = 0;
    for (uint32_t i = 0; i < r->lanes; i++)
        r->lane[i].ew->flows.count = r->lane[i].unfiltered = r->lane[i].generated_count = 0;
    if (r->staged)
        pal_replay_changes_forget(r);
    r->total = (pal_replay_totals){0};
    r->timed = false;
}

/* The engine's own list of flows goes to the replay's. */
static void flows_gather(struct pal_replay *r)
{
    for (uint32_t i = 0; i < r->lanes; i++) {
        flow_list *l = &r->lane[i].ew->flows;
        if (!replay_list_append(&r->flows, l->flow, l->count))
            continue;
        l->count = 0;
    }
}

void pal_replay_restart(pal_replay *r)
{
    flows_gather(r);
    pal_engine_clear(r->engine);
    for (uint32_t i = 0; i < r->lanes; i++) {
        r->lane[i].clock_ns = 0;
        r->lane[i].records.count = 0;
    }
    order_forget(&r->order);
    if (r->staged)
        staged_restart(r->staged);
    r->cut = r->timed = false;
}

/* ---- flow records --------------------------------------------------------------------------------------------- */

static int flow_order(const void *a, const void *b)
{
    const pal_flow *x = a, *y = b;
    if (x->file != y->file)
        return x->file < y->file ? -1 : 1;
    if (x->number != y->number)
        return x->number < y->number ? -1 : 1;
    return y->dir != x->dir ? (int)y->dir - (int)x->dir : (int)x->filter - (int)y->filter;
}

const pal_flow *pal_replay_flows(pal_replay *r, uint64_t *n)
{
    flows_gather(r);
    if (r->flows.count)
        qsort(r->flows.item, r->flows.count, sizeof(pal_flow), flow_order);
    *n = r->flows.count;
    return r->flows.item;
}
