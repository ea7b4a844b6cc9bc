/* SPDX-License-Identifier: Apache-2.0
 *
 * replay_packets.c - packets as pcapng: judged ones with their verdicts as a comment, and those that we would have sent.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "packet_comment.h"
#include "replay.h"

/* A packet with all of its verdicts: to the allowed ones when the last lets it pass. */
int packet_write(struct pal_replay *r, const pal_record *v, size_t n, const pal_frame *frame)
{
    pal_pcapng *to = v[n - 1].verdict == PAL_ALLOW ? r->allowed : r->dropped;
    if (!to)
        return 0;
    char comment[COMMENT_BYTES + 1];
    size_t len = 0;
    for (size_t i = 0; i < n; i++)
        len = comment_add(comment, len, sizeof comment, &v[i], v[i].rule == PAL_NO_RULE ? NULL : r->options.rule_json[v[i].rule],
                          v[i].filter == PAL_NO_FILTER ? NULL : r->options.filter_json[v[i].filter]);
    return pal_pcapng_write(to, frame, comment, len < sizeof comment ? len : COMMENT_BYTES);
}

/* ---- packets that we would have sent ------------------------------------------------------------------------------- */

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

static bool generated_take(struct pal_replay *r, replay_lane *lane)
{
    const size_t base = r->generated_bytes.count;
    const size_t begin = r->generated.count;
    if (!replay_list_append(&r->generated_bytes, lane->bytes.item, lane->bytes.count) ||
        !replay_list_append(&r->generated, lane->generated.item, lane->generated.count))
        return false;
    for (size_t i = begin; i < r->generated.count; i++)
        ((pal_generated *)r->generated.item)[i].at += base;
    lane->generated.count = lane->bytes.count = 0;
    return true;
}

int generated_collect(struct pal_replay *r, char *err, size_t errlen)
{
    const size_t begin = r->generated.count;
    for (uint32_t l = 0; l < r->lanes; l++) {
        if (r->lane[l].generated.count && !generated_take(r, &r->lane[l])) {
            snprintf(err, errlen, "no memory for generated packets");
            return -ENOMEM;
        }
    }
    const size_t n = r->generated.count - begin;
    if (n == 0)
        return 0;
    pal_generated *g = (pal_generated *)r->generated.item + begin;
    qsort(g, n, sizeof *g, generated_order);
    int error = 0;
    for (size_t i = 0; r->answers && r->options.generated_fd >= 0 && i < n && !error; i++) {
        char comment[128];
        int len = snprintf(comment, sizeof comment, "answers packet %llu", (unsigned long long)g[i].number);
        pal_frame f = {.data = (uint8_t *)r->generated_bytes.item + g[i].at, .caplen = g[i].len, .wirelen = g[i].len,
                       .ts_ns = g[i].ts_ns, .linktype = LINKTYPE_RAW};
        error = pal_pcapng_write(r->answers, &f, comment, (size_t)len);
    }
    if (!r->options.collect)
        r->generated.count = r->generated_bytes.count = 0;
    if (error)
        snprintf(err, errlen, "cannot write the output: %s", strerror(-error));
    return error;
}
