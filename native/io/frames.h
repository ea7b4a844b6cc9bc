/* SPDX-License-Identifier: Apache-2.0
 *
 * frames.h - a worker's buffers for frames, and what it counts of a card.
 */
#ifndef PAL_IO_FRAMES_H
#define PAL_IO_FRAMES_H

#include "virtio.h"

#define FRAME_HEADROOM 192u /* HOST_HEADROOM, and a virtio header before it */
#define FRAME_ROOM 66560u   /* the longest frame: 65,535 bytes of IP in Geneve, Ethernet and tags */
/* Not a multiple of 4,096: the first lines of all buffers, which every frame touches, stand in different cache sets. */
#define FRAME_STRIDE (FRAME_HEADROOM + FRAME_ROOM + 8 * PAL_CACHE_LINE)

_Static_assert(FRAME_HEADROOM >= HOST_HEADROOM + VIRTIO_TUNNEL_BYTES, "headers go before a frame");
_Static_assert(FRAME_STRIDE % PAL_CACHE_LINE == 0 && FRAME_STRIDE % 4096 != 0, "buffers begin lines, in different sets");

/* A burst ends at this many bytes too, and the same buffers are used again: what was read is still in the second-level cache when
 * it is written. */
#define BURST_BYTES (192u << 10)

/* `n` buffers, one after the other. */
typedef struct frame_pool {
    uint8_t *base;
    uint32_t n, reserved;
} frame_pool;

PAL_INLINE uint8_t *frame_at(const frame_pool *p, uint32_t i) { return p->base + (size_t)i * FRAME_STRIDE + FRAME_HEADROOM; }

/* What went through a card, or did not. One worker writes, anybody reads. */
typedef pal_live_counts io_counts;

PAL_INLINE void io_add(uint64_t *count, uint64_t n)
{
    __atomic_store_n(count, *count + n, __ATOMIC_RELAXED); /* one writer: no locked instruction */
}

/* Packets on the wire that a frame stands for. */
PAL_INLINE uint32_t offload_segments(const host_offload *o, uint32_t len)
{
    if (o->gso_type == VIRTIO_GSO_NONE || o->gso_size == 0 || len <= o->hdr_len)
        return 1;
    return (len - o->hdr_len + o->gso_size - 1) / o->gso_size;
}

#endif
