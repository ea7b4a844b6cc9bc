/* SPDX-License-Identifier: Apache-2.0
 *
 * pace.h - how a worker waits when no card has anything: decided from when and how much came, and from how long it did without
 * the processor. It asks no clock, so that tests can.
 *
 *     look again    something came in the last round
 *     yield         pauses have been short: awake, it answers soonest
 *     sleep         they have been long; or yielding took long, so that others need the processor: whoever yields is behind all
 *                   of them, while a sleeper is woken before those that have had more
 *     nap           many short frames: they cost least by the burst, and nobody has to wake us for the first of them
 */
#ifndef PAL_IO_PACE_H
#define PAL_IO_PACE_H

#include "../core/base.h"

#define PACE_PAUSE_NS 100000u    /* a pause shorter than this costs less awake than waking from it */
#define PACE_EAGER_MAX 16u
#define PACE_OTHERS_NS 1500000u  /* workloads and the other host's worker stop sooner, to wait for us; who computes has 2.8 ms or more */
#define PACE_HOLD_NS 20000000u   /* so long at least, and so long at most, we don't ask again whether others need the processor: */
#define PACE_HOLD_MAX_NS 160000000u /* asking takes the milliseconds that they then have it */
#define PACE_WINDOW_NS 250000u   /* over which frames are counted */
#define PACE_FRAME_NS 25000u     /* the mean distance of many */
#define PACE_FRAME_BYTES 2048u   /* the mean length of short ones: of super-packets a burst has enough in a few */
#define PACE_NAP_NS 40000u       /* a vNIC's queue, of 500 frames, is not full after that */

enum pace_wait { PACE_LOOK, PACE_YIELD, PACE_SLEEP, PACE_NAP };

typedef struct pace {
    uint64_t busy;          /* when something last came */
    uint64_t hold;          /* till then others need the processor */
    uint64_t since;         /* the window began; what had come by then: */
    uint64_t frames, bytes;
    uint32_t rounds;        /* in it, of those that had something */
    uint32_t eager;         /* how many of the latest pauses were short, about */
    uint32_t hold_ns;       /* so long did we not ask, the last time */
    bool dense;             /* many short frames came in the window before this one, more than one at a time */
} pace;

/* After a round, at `now`. some: a card had something. frames, bytes: all that have come so far. */
static inline enum pace_wait pace_next(pace *p, uint64_t now, bool some, uint64_t frames, uint64_t bytes)
{
    p->rounds += some;
    if (now - p->since > PACE_WINDOW_NS) {
        const uint64_t came = frames - p->frames;
        p->dense = came * PACE_FRAME_NS > now - p->since && came >= 2ull * p->rounds && bytes - p->bytes < came * PACE_FRAME_BYTES;
        p->since = now;
        p->frames = frames;
        p->bytes = bytes;
        p->rounds = 0;
    }
    if (some) {
        p->eager = now - p->busy < PACE_PAUSE_NS ? min_u32(p->eager + 1, PACE_EAGER_MAX) : p->eager / 2;
        p->busy = now;
        return PACE_LOOK;
    }
    if (p->eager == 0 || now - p->busy > PACE_PAUSE_NS)
        return PACE_SLEEP;
    if (p->dense)
        return PACE_NAP;
    return now < p->hold ? PACE_SLEEP : PACE_YIELD;
}

/* It yielded, from `before` to `now`. */
static inline void pace_yielded(pace *p, uint64_t before, uint64_t now)
{
    if (now - before <= PACE_OTHERS_NS) {
        p->hold_ns /= 2;
        return;
    }
    p->hold_ns = min_u32(max_u32(2 * p->hold_ns, PACE_HOLD_NS), PACE_HOLD_MAX_NS);
    p->hold = now + p->hold_ns;
}

#endif
