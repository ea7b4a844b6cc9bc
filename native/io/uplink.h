/* SPDX-License-Identifier: Apache-2.0
 *
 * uplink.h - where frames of other hosts come from and go to. One uplink_queue for each worker; it decides what is read and
 * written with how many system calls, by the tier that this kernel has.
 */
#ifndef PAL_IO_UPLINK_H
#define PAL_IO_UPLINK_H

#include "coalesce.h"
#include "frames.h"
#include "tap.h"

typedef struct uplink_queue uplink_queue;

/* Opened by the tier asked for, or the first that there is. `queues`: one for each worker. */
typedef struct uplink {
    uint32_t tier; /* PAL_TIER_A, _B or _C */
    uint32_t queues;
    uplink_queue *queue[PAL_TAP_QUEUES];
} uplink;

/* -1 with a sentence. */
int uplink_open(uplink *u, const pal_uplink_options *o, uint32_t queues, char *err, size_t errlen);
void uplink_close(uplink *u);

#define UPLINK_FDS 2

/* What wakes a worker: readable when there may be frames. Those that there are, of UPLINK_FDS. */
uint32_t uplink_queue_fds(const uplink_queue *q, int *fd);
const io_counts *uplink_queue_counts(const uplink_queue *q);

/* The next frames that have arrived, at most `room` and not much more than BURST_BYTES: 0 means that there are none left, or that
 * what there is must be released first. They stay until uplink_release; a burst
 * may be put together by several calls. */
uint32_t uplink_receive(uplink_queue *q, host_frame *frame, uint32_t room);
/* Something has been read that is no frame yet: uplink_receive gives it, and no descriptor says so. */
bool uplink_waits(const uplink_queue *q);
void uplink_release(uplink_queue *q);

/* A frame for another host: it leaves at uplink_flush at the latest, and its memory is the caller's again after that. */
void uplink_send(uplink_queue *q, const host_out *out);
void uplink_flush(uplink_queue *q);

/* ---- between uplink.c and the tiers ------------------------------------------------------------------------------- */

/* Buffers: into the first `receive` the kernel writes, into the others goes what can't stay where it arrived. */
struct uplink_queue {
    const struct uplink_kind *kind;
    int fd, vxlan; /* vxlan: the socket at the port of VXLAN, or -1: what arrives at fd is all */
    frame_pool pool;
    uint32_t receive, received; /* of the first ones; those in use */
    uint32_t bytes;             /* in those */
    uint32_t spare;             /* the next of the others */
    io_counts counts;
    pal_address local;
    coalesce open;
    /* A received buffer with several datagrams, each of `size` bytes but the last, that are not all frames yet. */
    uint8_t *rest;
    uint32_t rest_bytes, rest_size;
    uint32_t unopened;          /* received buffers behind it of which nothing is a frame yet */
    pal_address rest_from;
    uint8_t rest_tos;           /* of their outer packet */
    uint8_t rest_encap;         /* PAL_ENCAP_* */
    bool gone;                  /* the interface is: nothing more will come */
    bool rest_first;            /* none of them is a frame yet: what stands before it is nobody's */
};

typedef struct uplink_kind {
    /* Queues made and opened; or -1 with a sentence, and whatever there is already in u->queue. */
    int (*open)(uplink *u, const pal_uplink_options *o, char *err, size_t errlen);
    void (*close)(uplink_queue *q); /* what uplink_queue_free does not know of */
    uint32_t (*receive)(uplink_queue *q, host_frame *frame, uint32_t room);
    void (*send)(uplink_queue *q, const host_out *out);
    void (*flush)(uplink_queue *q);
} uplink_kind;

extern const uplink_kind uplink_kind_tap, uplink_kind_udp;

/* A zeroed queue of `size` bytes, of which struct uplink_queue are the first, with buffers for frames. NULL: no memory. */
void *uplink_queue_new(const uplink_kind *kind, size_t size, uint32_t receive, uint32_t spare, const pal_address *local);
void uplink_queue_free(uplink_queue *q);

/* Datagrams of the rest become frames, or parts of one, as long as there is room and there are buffers. */
uint32_t uplink_split(uplink_queue *q, host_frame *frame, uint32_t n, uint32_t room);

#endif
