/* SPDX-License-Identifier: Apache-2.0
 *
 * replay.h - captured frames through the engine's workers, and what comes out of it in the frames' order.
 *
 * Frames are taken in chunks. Each worker looks at every frame of a chunk, in order, and judges those that it owns (by
 * the addresses' pair, so that a connection, its fragments, the errors about it and the connections that an ALG announces
 * between the same two hosts have one owner and nothing crosses between workers); then the chunk's records are merged by
 * frame number. A verdict of a held fragment comes later than its frame's turn: records wait until nothing before them is
 * held, so that what is written is sorted.
 */
#ifndef PAL_ENGINE_REPLAY_H
#define PAL_ENGINE_REPLAY_H

#include <pthread.h>

#include "../io/jsonl.h"
#include "binding.h"
#include "engine.h"

#define REPLAY_CHUNK 16384 /* frames */

/* A growing array. */
typedef struct replay_list {
    void *item;
    size_t count, room, size;
} replay_list;

/* NULL when there is no memory. The item is not cleared. */
void *replay_list_add(replay_list *l);

/* A fragment that may be waiting: where its frame is. */
typedef struct replay_held {
    uint64_t cookie;
    pal_frame frame;
} replay_held;

/* One worker's side of a replay. */
typedef struct replay_lane {
    struct pal_replay *replay;
    engine_worker *ew;
    replay_list records;   /* pal_record, of this chunk */
    replay_list held;      /* replay_held, by cookie */
    replay_list generated; /* pal_generated */
    replay_list bytes;     /* uint8_t: of generated packets */
    uint64_t clock_ns;     /* of the latest frame, whoever judged it */
    uint64_t unfiltered, generated_count;
    char problem[256];     /* why the chunk could not be judged */
    bool failed;
    pthread_t thread;
} replay_lane;

struct pal_replay {
    pal_engine *engine;
    pal_replay_options options;
    binding_table binding;
    replay_lane *lane;
    uint32_t lanes;
    pal_frame *frame;      /* the chunk */
    uint32_t frames;
    uint64_t first_number; /* position of the chunk: frames given before */
    uint32_t file;
    replay_list file_json; /* const char *, by file number: the caller's */
    replay_list pending;   /* pal_record, sorted, not written yet */
    replay_list kept;      /* pal_record, where the caller collects */
    replay_list waiting;   /* replay_held: frames of pending records that have left the chunk */
    replay_list generated, generated_bytes;
    replay_list flows;     /* pal_flow, sorted on request */
    pal_replay_totals total;
    pal_text *verdicts;
    pal_pcapng *allowed, *dropped, *answers;
    uint64_t started_ns, first_ts_ns; /* realtime */
    bool timed;
};

/* replay_lane.c */
int lane_open(replay_lane *lane, struct pal_replay *r, uint32_t number);
void lane_close(replay_lane *lane);
void lane_run(replay_lane *lane);
void lane_finish(replay_lane *lane);

/* replay_output.c */
int output_open(struct pal_replay *r, char *err, size_t errlen);
int output_close(struct pal_replay *r);
/* Merges the lanes' records of the chunk and writes what may be written. 0, or -1 with a sentence. */
int output_chunk(struct pal_replay *r, bool last, char *err, size_t errlen);

#endif
