/* SPDX-License-Identifier: Apache-2.0
 *
 * replay.h - captured frames through the engine's workers, and what comes out of it in the frames' order.
 *
 * Frames are taken in chunks. Each worker looks at every frame of a chunk, in order, and judges those that it owns (by
 * the addresses' pair, so that a connection, its fragments, the errors about it and the connections that an ALG announces
 * between the same two hosts have one owner and nothing crosses between workers); then the chunk's records are merged by
 * frame number. A held fragment's verdict comes later than its frame's turn: its place is kept, and what is behind the
 * first such place waits, so that what is written is sorted.
 *
 *     replay.c          the chunks
 *     replay_lane.c     one worker's part of a chunk
 *     replay_order.c    the workers' records, put in the frames' order
 *     replay_output.c   what is written of a frame's records
 *     replay_lines.c        a JSON line each
 *     replay_packets.c      the packet, with its verdicts as a comment; packets that we would have sent
 *     replay_flows.c    flow records
 *     replay_staged.c   the staged policies' judgements beside those of the rules in force, and where they differ
 *
 * With staged policies there is another engine, whose rules are as those policies would have them. Its workers judge the same
 * bursts right after the ones in force, by their own connections, and write nothing that these read.
 */
#ifndef PAL_ENGINE_REPLAY_H
#define PAL_ENGINE_REPLAY_H

#include <pthread.h>

#include "../io/jsonl.h"
#include "../core/group.h"
#include "binding.h"
#include "engine.h"

/* Frames of a chunk. For one worker they and what their bytes touch stay in the second-level cache between the reader, which
 * steps from header to header, and the worker; several workers are started for each chunk, which has to be worth it. */
#define REPLAY_CHUNK_MAX 16384u
#define REPLAY_CHUNK_MIN 256u
#define REPLAY_CHUNK_BYTES (256u << 10)

/* A growing array. */
typedef struct replay_list {
    void *item;
    size_t count, room, size;
} replay_list;

/* Room for n more; false: no memory. */
bool replay_list_reserve(replay_list *l, size_t n);
/* NULL when there is no memory. The item is not cleared. */
void *replay_list_add(replay_list *l);
bool replay_list_append(replay_list *l, const void *items, size_t n);

/* One worker's side of a replay. */
typedef struct replay_lane {
    struct pal_replay *replay;
    engine_worker *ew;
    struct replay_lane *beside; /* the staged engine's, of the same number; NULL: there is none, or it is this one */
    const pal_filter **receiver; /* of a packet for many: room for all filters, twice with staged policies */
    uint64_t *flow;        /* with staged policies: of each of ew->w.out the first packet of its connection, 0: none */
    uint32_t flows_known;  /* how many of them */
    void (*ended)(void *context, uint32_t ref, enum ct_end why); /* the engine's own */
    replay_list records;   /* pal_record, of this chunk, without their times; held ones of frames before it too */
    replay_list generated; /* pal_generated */
    replay_list bytes;     /* uint8_t: of generated packets */
    uint64_t clock_ns;     /* of the latest frame, whoever judged it */
    uint64_t unfiltered, generated_count;
    char problem[256];     /* why the frame after the last that was judged could not be */
    uint32_t stopped_at;   /* that frame's place in the chunk */
    bool failed;
    pthread_t thread;
} replay_lane;

/* What pal_record.reserved says of a record that is not written yet. */
enum {
    RECORD_DECIDED = 0,
    RECORD_WAITING = 1, /* the place of a held fragment */
    RECORD_CHAINED = 2, /* decided now: `rule` is the first of its records in pal_replay.late */
};

typedef struct replay_late {
    pal_record record;
    uint32_t next; /* PAL_NONE: the last */
} replay_late;

/* Records in the frames' order. */
typedef struct replay_order {
    replay_list pending;   /* pal_record by frame; those below `written` are out */
    replay_list pending_frame; /* pal_frame of each, where packets are written */
    size_t written;
    replay_list late;      /* replay_late: records of RECORD_CHAINED places */
    uint32_t late_free;    /* the first of the unused ones, chained too */
    replay_list group;     /* pal_record: all of one frame */
} replay_order;

typedef struct replay_lines replay_lines;
typedef struct replay_staged replay_staged;

struct pal_replay {
    pal_engine *engine;
    pal_replay_options options;
    binding_table binding;
    uint32_t *segment;     /* by filter: 1 + VNI */
    replay_lane *lane;
    uint32_t lanes;
    pal_frame *frame;      /* the chunk */
    uint32_t frames;
    uint64_t chunk_bytes;  /* of the last one, as captured */
    uint32_t file;
    replay_list file_json; /* const char *, by file number: the caller's */
    replay_order order;
    replay_staged *staged; /* NULL: nothing is staged */
    replay_list kept;      /* pal_record, where the caller collects */
    replay_list generated, generated_bytes;
    replay_list flows;     /* pal_flow, sorted on request */
    pal_replay_totals total;
    replay_lines *verdicts;
    pal_pcapng *allowed, *dropped, *answers;
    uint64_t started_ns, first_ts_ns; /* realtime */
    bool timed;
    bool cut;              /* a file ended at a frame that could not be judged: frames behind it may be held, without places */
};

PAL_INLINE uint64_t record_cookie(const pal_record *r) { return r->number | (uint64_t)r->file << COOKIE_FILE_SHIFT; }

/* replay_lane.c */
/* A lane of worker `number` of an engine. False: no memory. */
bool lane_open(replay_lane *lane, struct pal_replay *r, pal_engine *e, uint32_t number);
void lane_close(replay_lane *lane);
void lane_run(replay_lane *lane);
void lane_finish(replay_lane *lane);

/* replay_order.c */
void order_open(replay_order *o);
void order_close(replay_order *o);
/* Whether anybody wants the records. */
bool order_is_wanted(const pal_replay_options *o);
/* Takes the lanes' records of the chunk, and writes those before which nothing is held. 0, or -errno with a sentence. */
int order_chunk(struct pal_replay *r, char *err, size_t errlen);
void order_forget(replay_order *o);

/* replay_staged.c */
/* NULL: no memory. */
replay_staged *staged_open(struct pal_replay *r);
void staged_close(replay_staged *s);
replay_lane *staged_lane(replay_staged *s, uint32_t number);
replay_order *staged_order(replay_staged *s);
/* Takes a frame's records of the rules in force, or (is_staged) of the staged ones; each world's come in the frames' order. frame: as
 * output_frame. 0, or -errno with a sentence. */
int staged_frame(struct pal_replay *r, bool is_staged, const pal_record *v, size_t n, const pal_frame *frame, char *err, size_t errlen);
/* Writes the frames of which both worlds have said all. 0, or -errno with a sentence. */
int staged_join(struct pal_replay *r, char *err, size_t errlen);
void staged_restart(replay_staged *s);
void staged_finish(replay_staged *s);

/* replay_output.c */
int output_open(struct pal_replay *r, char *err, size_t errlen);
int output_close(struct pal_replay *r);
/* A frame's records, OUT before IN. frame: NULL where no packets are written. */
int output_frame(struct pal_replay *r, const pal_record *v, size_t n, const pal_frame *frame, char *err, size_t errlen);
/* After a chunk's: an output may have failed. */
int output_checked(const struct pal_replay *r, char *err, size_t errlen);

/* replay_packets.c */
int packet_write(struct pal_replay *r, const pal_record *v, size_t n, const pal_frame *frame);
/* Takes the lanes' generated packets of the chunk. 0, or -errno with a sentence. */
int generated_collect(struct pal_replay *r, char *err, size_t errlen);

/* replay_lines.c */
replay_lines *lines_open(const pal_replay_options *o);
/* 0, or the first -errno that occurred. */
int lines_close(replay_lines *lines);
int lines_error(const replay_lines *lines);
/* file_json: by file number. False: no memory. With staged policies the line is not ended: lines_staged follows. */
bool lines_write(replay_lines *lines, const pal_record *v, const char *const *file_json);
/* The staged judgement at the same filter, NULL: none, and `n` that follow at filters which the packet did not come to. */
void lines_staged(replay_lines *lines, const pal_record *s, const pal_record *then, size_t n);

const char *replay_word_dir(uint8_t dir);

#endif
