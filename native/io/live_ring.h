/* SPDX-License-Identifier: Apache-2.0
 *
 * live_ring.h - frames on their way from one worker to another: which worker a frame belongs to, and a bounded ring of bytes
 * with one writer and one reader.
 */
#ifndef PAL_IO_LIVE_RING_H
#define PAL_IO_LIVE_RING_H

#include "../core/parse.h"
#include "frames.h"

#define RING_BYTES (4u << 20) /* a power of two; memory only where it has been used */

/* ---- whose it is ---------------------------------------------------------------------------------------------------- */

PAL_INLINE uint32_t owner_mix(const uint8_t *a, uint32_t bytes)
{
    uint64_t h = bytes == 4 ? load_u32(a) : load_u64(a) ^ rotate_u64(load_u64(a + 8), 29);
    h *= 0x9e3779b97f4a7c15ull;
    return (uint32_t)(h >> 32);
}
PAL_INLINE uint32_t owner_pair(const uint8_t *ip, bool v4)
{
    const uint32_t bytes = v4 ? 4 : 16;
    const uint8_t *a = ip + (v4 ? 12 : 8);
    uint32_t h = owner_mix(a, bytes) + owner_mix(a + bytes, bytes); /* the same both ways */
    h *= 0x85ebca77u;
    return h ^ h >> 16;
}

/* The owner of packets between these two, as owner_of has it. */
static inline uint32_t owner_of_pair(const uint8_t *src, const uint8_t *dst, uint32_t family, uint32_t workers)
{
    const uint32_t bytes = family == PAL_FAMILY_V4 ? 4 : 16;
    uint8_t ip[40] = {0}, *at = ip + (family == PAL_FAMILY_V4 ? 12 : 8);
    memcpy(at, src, bytes);
    memcpy(at + bytes, dst, bytes);
    return owner_pair(ip, family == PAL_FAMILY_V4) % workers;
}

/* Which of `workers` an Ethernet frame belongs to: by its two addresses, so that a connection, its fragments, what an ALG expects
 * of it (the same two hosts) and errors about it (by the addresses that they quote) are one worker's. The first one's: what is not
 * IP. Everything that a frame may be, hostile ones too, has an owner. */
static inline uint32_t owner_of(const uint8_t *frame, uint32_t len, uint32_t workers)
{
    uint32_t at = 12;
    while (at + 6 <= len && at < 20 && (load_be16(frame + at) == 0x8100 || load_be16(frame + at) == 0x88a8 || load_be16(frame + at) == 0x9100))
        at += 4;
    if (at + 2 > len)
        return 0;
    const uint32_t type = load_be16(frame + at), l3 = at + 2;
    const uint8_t *ip = frame + l3;
    if (type == 0x0800 && len >= l3 + 20) {
        const uint32_t l4 = l3 + (ip[0] & 15u) * 4;
        if (ip[9] == PROTO_ICMP && !(load_be16(ip + 6) & 0x1fff) && l4 + 28 <= len) {
            const uint8_t kind = frame[l4];
            if (kind == 3 || kind == 4 || kind == 5 || kind == 11 || kind == 12)
                return owner_pair(frame + l4 + 8, true) % workers;
        }
        return owner_pair(ip, true) % workers;
    }
    if (type == 0x86dd && len >= l3 + 40) {
        ip6_walk_result w = {0};
        const uint32_t there = len - l3;
        if (ip6_walk(ip, there, there, true, &w) == PAL_REASON_MATCH && w.proto == PROTO_ICMP6 && w.offset + 48 <= there && ip[w.offset] < 128)
            return owner_pair(ip + w.offset + 8, false) % workers;
        return owner_pair(ip, false) % workers;
    }
    return 0;
}

/* ---- the ring -------------------------------------------------------------------------------------------------------- */

/* A frame as it lies in the ring, before its bytes; padded to eight. */
typedef struct ring_record {
    uint32_t len, from;
    host_offload offload;
    pal_address outer;
    uint16_t tos, encap;
} ring_record;

typedef struct ring {
    PAL_ALIGNED(PAL_CACHE_LINE) uint64_t head; /* bytes ever written: the writer's */
    uint64_t tail_seen;                        /* the writer's last look at tail */
    PAL_ALIGNED(PAL_CACHE_LINE) uint64_t tail; /* bytes ever read: the reader's */
    uint8_t *bytes;
} ring;

PAL_INLINE uint32_t ring_size(uint32_t len) { return ((uint32_t)sizeof(ring_record) + len + 7) & ~7u; }

static inline void ring_copy_in(ring *r, uint64_t at, const void *from, uint32_t len)
{
    const uint32_t place = (uint32_t)at & (RING_BYTES - 1), first = min_u32(len, RING_BYTES - place);
    memcpy(r->bytes + place, from, first);
    memcpy(r->bytes, (const uint8_t *)from + first, len - first);
}
static inline void ring_copy_out(const ring *r, uint64_t at, void *to, uint32_t len)
{
    const uint32_t place = (uint32_t)at & (RING_BYTES - 1), first = min_u32(len, RING_BYTES - place);
    memcpy(to, r->bytes + place, first);
    memcpy((uint8_t *)to + first, r->bytes, len - first);
}

/* False: there is no room. */
static inline bool ring_put(ring *r, const host_frame *f)
{
    const uint32_t size = ring_size(f->len);
    const uint64_t head = r->head;
    if (head + size - r->tail_seen > RING_BYTES) {
        r->tail_seen = __atomic_load_n(&r->tail, __ATOMIC_ACQUIRE);
        if (head + size - r->tail_seen > RING_BYTES)
            return false;
    }
    const ring_record record = {.len = f->len, .from = f->from, .offload = f->offload, .outer = f->outer, .tos = f->tos, .encap = f->encap};
    ring_copy_in(r, head, &record, sizeof record);
    ring_copy_in(r, head + sizeof record, f->data, f->len);
    __atomic_store_n(&r->head, head + size, __ATOMIC_RELEASE);
    return true;
}

PAL_INLINE bool ring_empty(const ring *r) { return __atomic_load_n(&r->head, __ATOMIC_ACQUIRE) == r->tail; }

/* The next frame, its bytes at `data`, which has room for FRAME_ROOM. False: there is none. */
static inline bool ring_take(ring *r, uint8_t *data, host_frame *f)
{
    if (ring_empty(r))
        return false;
    ring_record record;
    const uint64_t tail = r->tail;
    ring_copy_out(r, tail, &record, sizeof record);
    ring_copy_out(r, tail + sizeof record, data, record.len);
    *f = (host_frame){.data = data, .len = record.len, .from = record.from, .offload = record.offload, .outer = record.outer,
                      .tos = (uint8_t)record.tos, .encap = (uint8_t)record.encap};
    __atomic_store_n(&r->tail, tail + ring_size(record.len), __ATOMIC_RELEASE);
    return true;
}

#endif
