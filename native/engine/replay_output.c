/* SPDX-License-Identifier: Apache-2.0
 *
 * replay_output.c - what is written of a frame's records: verdict lines, packets with comments, and what a caller collects.
 */
#include <errno.h>
#include <stdio.h>

#include "replay.h"

const char *replay_word_dir(uint8_t dir) { return dir == PAL_DIR_OUT ? "OUT" : dir == PAL_DIR_IN ? "IN" : "IN_OUT"; }

int output_open(struct pal_replay *r, char *err, size_t errlen)
{
    const pal_replay_options *o = &r->options;
    if (o->verdict_fd >= 0)
        r->verdicts = lines_open(o);
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
    int error[4] = {lines_close(r->verdicts), pal_pcapng_close(r->allowed), pal_pcapng_close(r->dropped),
                    pal_pcapng_close(r->answers)};
    r->verdicts = NULL;
    r->allowed = r->dropped = r->answers = NULL;
    for (int i = 0; i < 4; i++)
        if (error[i])
            return error[i];
    return 0;
}

static int output_failed(int error, char *err, size_t errlen)
{
    if (error)
        snprintf(err, errlen, "cannot write the output: %s", strerror(-error));
    return error;
}

int output_frame(struct pal_replay *r, const pal_record *v, size_t n, const pal_frame *frame, char *err, size_t errlen)
{
    const pal_replay_options *o = &r->options; /* pal_replay_mute has taken the descriptors out of them */
    bool room = !o->collect || replay_list_append(&r->kept, v, n);
    if (r->verdicts && o->verdict_fd >= 0 && !r->staged) /* else replay_staged.c has written them */
        for (size_t i = 0; i < n && room; i++)
            room = lines_write(r->verdicts, &v[i], r->file_json.item);
    if (PAL_UNLIKELY(!room)) {
        snprintf(err, errlen, "no memory for verdicts");
        return -ENOMEM;
    }
    const bool packets = frame && (o->allowed_fd >= 0 || o->dropped_fd >= 0);
    return packets ? output_failed(packet_write(r, v, n, frame), err, errlen) : 0;
}

int output_checked(const struct pal_replay *r, char *err, size_t errlen)
{
    return r->verdicts ? output_failed(lines_error(r->verdicts), err, errlen) : 0;
}
