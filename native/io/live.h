/* SPDX-License-Identifier: Apache-2.0
 *
 * live.h - cards, and the threads that carry packets between them: live.c is what the agent calls, live_worker.c the path.
 *
 * A worker sleeps in epoll until a card has something, reads a burst of what all ready cards have, lets the switch decide and
 * writes what leaves. It takes no lock: ports and the uplink come and go by a command that it finds in its mailbox between two
 * bursts, and answers for with a semaphore.
 */
#ifndef PAL_IO_LIVE_H
#define PAL_IO_LIVE_H

#include <pthread.h>
#include <semaphore.h>

#include "gather.h"
#include "live_ring.h"
#include "uplink.h"

#define LIVE_WORKERS PAL_TAP_QUEUES
#define LIVE_PORTS 65536u
#define LIVE_BUFFERS (HOST_BURST + 1) /* of a worker: the last one for what is being cut */
#define LIVE_CONTROL_BYTES 2048u /* of a control packet */

/* epoll_data of what is no port. */
#define EVENT_WAKE (1ull << 32)
#define EVENT_UPLINK (2ull << 32)
#define EVENT_CONTROL (3ull << 32) /* the first worker's */

/* What decides where frames go: host_burst; in tests something small. `worker`: its number. */
typedef struct live_switch {
    void (*burst)(void *context, uint32_t worker, host_frame *frame, uint32_t n, uint64_t now_ns, host_sink *sink, void *sink_context);
    void *context;
} live_switch;

typedef struct PAL_ALIGNED(PAL_CACHE_LINE) live_counts {
    io_counts c;
} live_counts;

/* A vNIC's TAP. A worker reads the queue of its number, if there is one, and writes to any. */
typedef struct live_port {
    uint32_t filter, queues;
    int fd[PAL_TAP_QUEUES];
    uint32_t header;        /* bytes of the virtio header before each frame */
    bool uso;               /* the kernel knows UDP super-packets */
    live_counts *counts;    /* of each worker */
} live_port;

typedef struct live_command {
    enum { LIVE_PORT_ADD, LIVE_PORT_REMOVE, LIVE_UPLINK, LIVE_CALL } kind;
    live_port *port;
    uplink *uplink;         /* LIVE_UPLINK: NULL takes it away */
    void (*call)(void *context, uint32_t worker); /* LIVE_CALL: for what only the worker may touch */
    void *context;
    sem_t done;             /* once for each worker */
} live_command;

typedef struct live_worker {
    struct pal_live *live;
    uint32_t number;
    int epoll, wake;
    live_command *mail;     /* atomic */
    uint32_t asleep;        /* atomic: an eventfd must be written for it to look into its rings */
    live_port **port;       /* by filter number */
    uplink_queue *uplink;
    frame_pool pool;        /* buffer i is frame i's, unless that came from the uplink; and one more */
    host_frame frame[HOST_BURST];
    uint32_t frames, bytes; /* of the burst so far */
    uint64_t carried;       /* bytes of all bursts before it */
    gather out;             /* for vNICs */
    ring *in;               /* from each worker */
    uint32_t handed_to;     /* bits of workers that were given frames in this round */
    PAL_ALIGNED(PAL_CACHE_LINE) pal_live_worker seen;
    io_counts lost;         /* what had no card to leave by */
    pthread_t thread;
} live_worker;

typedef struct pal_live {
    live_switch what;
    uint32_t workers;
    uint32_t stop;          /* atomic */
    bool running;
    int said[2];             /* control packets: the workers' end, the caller's */
    pthread_mutex_t control; /* among callers; no worker ever takes it */
    live_port **port;        /* by filter number */
    uplink *uplink;
    live_worker *worker;
} pal_live;

pal_live *live_new(live_switch what, uint32_t workers, char *err, size_t errlen);
/* Has every worker call it between two bursts; they have when this returns. */
void live_call(pal_live *l, void (*call)(void *context, uint32_t worker), void *context);
/* The same for worker `number` alone. */
void live_ask(pal_live *l, uint32_t number, void (*call)(void *context, uint32_t worker), void *context);

/* live_worker.c */
/* What leaves the switch, to the cards. context: the live_worker. */
void live_sink(void *context, const host_out *out, uint32_t n);
void *live_worker_run(void *worker);
/* Carries out a command; 0, or an errno, and then nothing is done. */
int live_worker_obey(live_worker *w, const live_command *c);

#endif
