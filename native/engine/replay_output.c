/* SPDX-License-Identifier: Apache-2.0
 *
 * replay_output.c - verdict lines, packets with comments, generated packets: in the order of the frames.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "replay.h"

static uint64_t record_cookie(const pal_record *r) { return r->number | (uint64_t)r->file << COOKIE_FILE_SHIFT; }

/* By frame; OUT at the sender before IN at the receiver. */
static int record_order(const void *a, const void *b)
{
    const pal_record *x = a, *y = b;
    uint64_t cx = record_cookie(x), cy = record_cookie(y);
    if (cx != cy)
        return cx < cy ? -1 : 1;
    return (int)y->dir - (int)x->dir;
}

static int generated_order(const void *a, const void *b)
{
    const pal_generated *x = a, *y = b;
    if (x->file != y->file)
        return x->file < y->file ? -1 : 1;
    if (x->number != y->number)
        return x->number < y->number ? -1 : 1;
    if (x->dir != y->dir)
        return (int)y->dir - (int)x->dir;
    return x->at < y->at ? -1 : x->at > y->at;
}

int output_open(struct pal_replay *r, char *err, size_t errlen)
{
    const pal_replay_options *o = &r->options;
    if (o->verdict_fd >= 0)
        r->verdicts = pal_text_open(o->verdict_fd);
    if (o->allowed_fd >= 0)
        r->allowed = pal_pcapng_open(o->allowed_fd);
    if (o->dropped_fd >= 0)
        r->dropped = pal_pcapng_open(o->dropped_fd);
    if (o->generated_fd >= 0)
        r->answers = pal_pcapng_open(o->generated_fd);
    bool ok = (o->verdict_fd < 0 || r->verdicts) && (o->allowed_fd < 0 || r->allowed) && (o->dropped_fd < 0 || r->dropped) &&
              (o->generated_fd < 0 || r->answers);
    if (!ok)
        snprintf(err, errlen, "no memory for output files");
    return ok ? 0 : -1;
}

int output_close(struct pal_replay *r)
{
    int error[4] = {pal_text_close(r->verdicts), r->allowed ? pal_pcapng_close(r->allowed) : 0,
                    r->dropped ? pal_pcapng_close(r->dropped) : 0, r->answers ? pal_pcapng_close(r->answers) : 0};
    r->verdicts = NULL;
    r->allowed = r->dropped = r->answers = NULL;
    for (int i = 0; i < 4; i++)
        if (error[i])
            return error[i];
    return 0;
}

static void text_string(pal_text *t, const char *s) { pal_text_bytes(t, s, strlen(s)); }

static const char *dir_word(uint8_t dir) { return dir == PAL_DIR_OUT ? "OUT" : dir == PAL_DIR_IN ? "IN" : "IN_OUT"; }

static void verdict_write(struct pal_replay *r, const pal_record *v)
{
    static const char *const no_rule = "\"rule\": null, \"rule_path\": null";
    pal_text *t = r->verdicts;
    pal_text_literal(t, "{\"n\": ");
    pal_text_u64(t, v->number);
    pal_text_literal(t, ", \"ts\": ");
    pal_text_seconds(t, v->ts_ns);
    pal_text_literal(t, ", \"file\": ");
    text_string(t, ((const char *const *)r->file_json.item)[v->file]);
    pal_text_literal(t, ", ");
    if (v->filter == PAL_NO_FILTER) {
        pal_text_literal(t, "\"vnic\": null, \"dir\": null");
    } else {
        text_string(t, r->options.filter_json[v->filter]);
        pal_text_literal(t, ", \"dir\": \"");
        text_string(t, dir_word(v->dir));
        pal_text_literal(t, "\"");
    }
    pal_text_literal(t, ", \"verdict\": \"");
    text_string(t, pal_word_verdict(v->verdict));
    pal_text_literal(t, "\", \"reason\": \"");
    text_string(t, pal_word_reason(v->reason));
    pal_text_literal(t, "\", ");
    text_string(t, v->rule == PAL_NO_RULE ? no_rule : r->options.rule_json[v->rule]);
    pal_text_literal(t, ", \"ct\": \"");
    text_string(t, pal_word_ct(v->ct));
    pal_text_literal(t, "\", \"reply\": ");
    pal_text_bool(t, v->reply);
    pal_text_literal(t, "}\n");
}

/* The frame of a record: in the chunk, or kept when its chunk went. */
static const pal_frame *frame_of(const struct pal_replay *r, const pal_record *v)
{
    uint64_t cookie = record_cookie(v);
    if (v->file == r->file && r->frames && v->number >= r->frame[0].number) {
        uint64_t i = min_u32((uint32_t)(v->number - r->frame[0].number), r->frames - 1);
        while (i && r->frame[i].number > v->number)
            i--;
        if (r->frame[i].number == v->number)
            return &r->frame[i];
    }
    const replay_held *h = r->waiting.item;
    for (size_t i = 0; i < r->waiting.count; i++)
        if (h[i].cookie == cookie)
            return &h[i].frame;
    return NULL;
}

static size_t comment_add(const struct pal_replay *r, const pal_record *v, char *out, size_t at, size_t size)
{
    if (at >= size)
        return at;
    const char *vnic = v->filter == PAL_NO_FILTER ? "no filter" : r->options.filter_json[v->filter];
    const char *rule = v->rule == PAL_NO_RULE ? "no rule" : r->options.rule_json[v->rule];
    int n = snprintf(out + at, size - at, "%s%s %s by %s, %s, %s", at ? " | " : "", pal_word_verdict(v->verdict),
                     pal_word_reason(v->reason), rule, vnic, v->filter == PAL_NO_FILTER ? "" : dir_word(v->dir));
    return n < 0 ? at : at + (size_t)n;
}

/* A packet with all of its verdicts: to the allowed ones when the last lets it pass. */
static int packet_write(struct pal_replay *r, const pal_record *v, size_t n)
{
    bool passed = v[n - 1].verdict == PAL_ALLOW;
    pal_pcapng *to = passed ? r->allowed : r->dropped;
    const pal_frame *f = to ? frame_of(r, v) : NULL;
    char comment[2048];
    size_t len = 0;
    if (!f)
        return 0;
    for (size_t i = 0; i < n; i++)
        len = comment_add(r, &v[i], comment, len, sizeof comment);
    return pal_pcapng_write(to, f, comment, len < sizeof comment ? len : sizeof comment - 1);
}

static int records_write(struct pal_replay *r, const pal_record *v, size_t n, char *err, size_t errlen)
{
    if (r->options.collect) {
        for (size_t i = 0; i < n; i++) {
            pal_record *k = replay_list_add(&r->kept);
            if (!k) {
                snprintf(err, errlen, "no memory for verdicts");
                return -1;
            }
            *k = v[i];
        }
    }
    if (r->verdicts)
        for (size_t i = 0; i < n; i++)
            verdict_write(r, &v[i]);
    int error = r->verdicts ? pal_text_error(r->verdicts) : 0;
    if (r->allowed || r->dropped) {
        for (size_t i = 0, j; i < n && !error; i = j) {
            for (j = i + 1; j < n && record_cookie(&v[j]) == record_cookie(&v[i]); j++)
                ;
            error = packet_write(r, &v[i], j - i);
        }
    }
    if (error) {
        snprintf(err, errlen, "cannot write the output: %s", strerror(-error));
        return -1;
    }
    return 0;
}

/* The first frame whose verdict is still open: everything before it may be written. */
static uint64_t first_held(const struct pal_replay *r)
{
    uint64_t first = ~0ull;
    for (uint32_t l = 0; l < r->lanes; l++) {
        const frag_table *f = r->lane[l].ew->w.fragments;
        for (uint16_t i = f->oldest; i != FRAG_NONE; i = f->datagram[i].newer)
            for (uint32_t k = 0; k < f->datagram[i].count; k++)
                if (f->datagram[i].piece[k].cookie < first)
                    first = f->datagram[i].piece[k].cookie;
    }
    return first;
}

static bool is_sorted(const replay_list *l, int (*order)(const void *, const void *))
{
    for (size_t i = 1; i < l->count; i++)
        if (order((char *)l->item + (i - 1) * l->size, (char *)l->item + i * l->size) > 0)
            return false;
    return true;
}

static void list_sort(replay_list *l, int (*order)(const void *, const void *))
{
    if (l->count && !is_sorted(l, order))
        qsort(l->item, l->count, l->size, order);
}

/* Frames that records will still need when the chunk has gone. */
static int frames_keep(struct pal_replay *r, char *err, size_t errlen)
{
    if (!r->allowed && !r->dropped)
        return 0;
    const pal_record *v = r->pending.item;
    replay_list next = {.size = sizeof(replay_held)};
    for (uint32_t l = 0; l < r->lanes; l++) { /* of fragments that wait for their verdict */
        const replay_held *h = r->lane[l].held.item;
        for (size_t i = 0; i < r->lane[l].held.count; i++) {
            replay_held *k = replay_list_add(&next);
            if (k)
                *k = h[i];
        }
    }
    for (size_t i = 0; i < r->pending.count; i++) {
        const pal_frame *f = frame_of(r, &v[i]);
        replay_held *k = f ? replay_list_add(&next) : NULL;
        if (f && !k) {
            free(next.item);
            snprintf(err, errlen, "no memory for packets that wait");
            return -1;
        }
        if (k)
            *k = (replay_held){.cookie = record_cookie(&v[i]), .frame = *f};
    }
    free(r->waiting.item);
    r->waiting = next;
    return 0;
}

static void held_forget(replay_lane *lane, uint64_t before)
{
    replay_held *h = lane->held.item;
    size_t keep = 0;
    for (size_t i = 0; i < lane->held.count; i++)
        if (h[i].cookie >= before)
            h[keep++] = h[i];
    lane->held.count = keep;
}

static int generated_collect(struct pal_replay *r, char *err, size_t errlen)
{
    replay_list all = {.size = sizeof(pal_generated)};
    size_t begin = r->generated.count;
    for (uint32_t l = 0; l < r->lanes; l++) {
        replay_lane *lane = &r->lane[l];
        size_t base = r->generated_bytes.count;
        const pal_generated *g = lane->generated.item;
        const uint8_t *b = lane->bytes.item;
        for (size_t i = 0; i < lane->bytes.count; i++) {
            uint8_t *to = replay_list_add(&r->generated_bytes);
            if (to)
                *to = b[i];
        }
        for (size_t i = 0; i < lane->generated.count; i++) {
            pal_generated *to = replay_list_add(&r->generated);
            if (to) {
                *to = g[i];
                to->at += base;
            }
        }
        lane->generated.count = lane->bytes.count = 0;
    }
    if (r->generated.count == begin)
        return 0;
    all.item = (pal_generated *)r->generated.item + begin;
    all.count = r->generated.count - begin;
    list_sort(&all, generated_order);
    int error = 0;
    const pal_generated *g = all.item;
    for (size_t i = 0; r->answers && i < all.count && !error; i++) {
        char comment[128];
        int n = snprintf(comment, sizeof comment, "answers packet %llu", (unsigned long long)g[i].number);
        pal_frame f = {.data = (uint8_t *)r->generated_bytes.item + g[i].at, .caplen = g[i].len, .wirelen = g[i].len,
                       .ts_ns = g[i].ts_ns, .linktype = LINKTYPE_RAW};
        error = pal_pcapng_write(r->answers, &f, comment, (size_t)n);
    }
    if (!r->options.collect)
        r->generated.count = r->generated_bytes.count = 0;
    if (error)
        snprintf(err, errlen, "cannot write the output: %s", strerror(-error));
    return error ? -1 : 0;
}

int output_chunk(struct pal_replay *r, bool last, char *err, size_t errlen)
{
    for (uint32_t l = 0; l < r->lanes; l++) {
        replay_lane *lane = &r->lane[l];
        const pal_record *from = lane->records.item;
        for (size_t i = 0; i < lane->records.count; i++) {
            pal_record *to = replay_list_add(&r->pending);
            if (!to) {
                snprintf(err, errlen, "no memory for verdicts");
                return -1;
            }
            *to = from[i];
        }
        lane->records.count = 0;
    }
    list_sort(&r->pending, record_order);
    pal_record *v = r->pending.item;
    uint64_t first = last ? ~0ull : first_held(r);
    size_t n = 0;
    while (n < r->pending.count && record_cookie(&v[n]) < first)
        n++;
    int result = records_write(r, v, n, err, errlen);
    if (r->pending.count > n)
        memmove(v, v + n, (r->pending.count - n) * sizeof *v);
    r->pending.count -= n;
    for (uint32_t l = 0; l < r->lanes; l++)
        held_forget(&r->lane[l], first);
    if (result == 0)
        result = frames_keep(r, err, errlen);
    if (result == 0)
        result = generated_collect(r, err, errlen);
    return result;
}
