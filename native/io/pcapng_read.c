/* SPDX-License-Identifier: Apache-2.0
 *
 * pcapng_read.c - pcapng files (draft-ietf-opsawg-pcapng): a chain of blocks, each with its type, its total length, a
 * body and the total length again. A section header sets the byte order; interface descriptions give link type and
 * clock; packets come in three kinds of blocks. Blocks that we do not know are stepped over.
 */
#include <stdio.h>

#include "capture_reader.h"

#define BLOCK_SECTION 0x0a0d0d0au
#define BLOCK_INTERFACE 1u
#define BLOCK_PACKET 2u /* obsolete, still met */
#define BLOCK_SIMPLE_PACKET 3u
#define BLOCK_ENHANCED_PACKET 6u
#define BLOCK_SYSTEMD_JOURNAL 9u
#define BLOCK_SYSDIG_EVENT 0x204u
#define BLOCK_SYSDIG_EVENT_V2 0x216u
#define BLOCK_CUSTOM 0x00000badu
#define BLOCK_CUSTOM_NO_COPY 0x40000badu

#define ORDER_MAGIC 0x1a2b3c4du
#define BLOCK_OVERHEAD 12u /* type, length, length again */
#define SECTION_FIXED 28u
#define INTERFACE_FIXED 20u
#define PACKET_FIXED 32u /* both the enhanced and the obsolete one */
#define SIMPLE_FIXED 16u

#define OPTION_END 0u
#define OPTION_PACKET_FLAGS 2u
#define OPTION_IF_TSRESOL 9u
#define OPTION_IF_TSOFFSET 14u

typedef enum step { STEP_ON, STEP_FRAME, STEP_STOP } step;

/* The next multiple of four; 0 past 2^32 - 4. */
PAL_INLINE uint32_t padded(uint32_t length) { return (length + 3u) & ~3u; }

/* ---- time ------------------------------------------------------------------------------------------------ */

/* factor and shift for if_tsresol: the top bit says powers of two, else powers of ten, of a second. */
static void interface_clock(capture_interface *i, uint8_t resolution)
{
    uint32_t exponent = resolution & 0x7fu;
    if (resolution & 0x80u) {
        i->unit = TS_BINARY;
        i->shift = (uint8_t)exponent;
        return;
    }
    i->unit = exponent <= 9 ? TS_MULTIPLY : TS_DIVIDE;
    uint32_t power = exponent <= 9 ? 9 - exponent : exponent - 9;
    i->factor = 1;
    /* From 10^20 on every 64-bit time stamp is 0 ns; a factor of 0 says so. */
    if (power > 19) {
        i->factor = 0;
        return;
    }
    while (power-- > 0)
        i->factor *= 10;
}

static uint64_t saturate(unsigned __int128 v) { return v > UINT64_MAX ? UINT64_MAX : (uint64_t)v; }

static uint64_t interface_time_odd(const capture_interface *i, uint64_t ts)
{
    unsigned __int128 ns;
    switch ((ts_unit)i->unit) {
    case TS_MULTIPLY: ns = (unsigned __int128)ts * i->factor; break;
    case TS_DIVIDE: ns = i->factor == 0 ? 0 : ts / i->factor; break;
    default: ns = ((unsigned __int128)ts * 1000000000u) >> i->shift; break;
    }
    if (i->offset >= 0)
        return saturate(ns + (unsigned __int128)i->offset * 1000000000u);
    const unsigned __int128 back = (unsigned __int128)(-(__int128)i->offset) * 1000000000u;
    return ns < back ? 0 : saturate(ns - back);
}

/* Nanoseconds since the epoch, saturated at both ends. */
PAL_INLINE uint64_t interface_time(const capture_interface *i, uint64_t ts)
{
    uint64_t ns;
    if (PAL_LIKELY(i->unit == TS_MULTIPLY && i->offset == 0 && !__builtin_mul_overflow(ts, i->factor, &ns)))
        return ns;
    return interface_time_odd(i, ts);
}

/* ---- options --------------------------------------------------------------------------------------------- */

/* Finds option `code` in the options [p, p + left). Its value, or NULL: not there. *bad: they do not fit the block. */
static const uint8_t *option_find(const pal_capture *c, const uint8_t *p, uint32_t left, uint16_t code, uint32_t least,
                                  bool *bad)
{
    const uint8_t *found = NULL;
    *bad = false;
    while (left >= 4) {
        const uint16_t this_code = capture_u16(c, p);
        const uint32_t length = capture_u16(c, p + 2);
        if (this_code == OPTION_END)
            return found;
        if (padded(length) > left - 4) {
            *bad = true;
            return found;
        }
        if (this_code == code && found == NULL && length >= least)
            found = p + 4;
        p += 4 + padded(length);
        left -= 4 + padded(length);
    }
    *bad = left != 0;
    return found;
}

/* ---- blocks ---------------------------------------------------------------------------------------------- */

static step block_bad(pal_capture *c, const char *what)
{
    pal_capture_stop(c, "bad pcapng block at byte %zu, after packet %llu: %s", c->pos, (unsigned long long)c->number, what);
    return STEP_STOP;
}

static step block_interface(pal_capture *c, const uint8_t *block, uint32_t total)
{
    if (total < INTERFACE_FIXED)
        return block_bad(c, "the interface description is too short");
    bool bad_resolution, bad_offset;
    const uint8_t *options = block + 16;
    const uint32_t left = total - INTERFACE_FIXED;
    const uint8_t *resolution = option_find(c, options, left, OPTION_IF_TSRESOL, 1, &bad_resolution);
    const uint8_t *offset = option_find(c, options, left, OPTION_IF_TSOFFSET, 8, &bad_offset);
    if (bad_resolution || bad_offset)
        return block_bad(c, "an option of the interface description does not fit");
    if (c->interfaces < PAL_CAPTURE_INTERFACES) {
        capture_interface *i = &c->interface[c->interfaces];
        *i = (capture_interface){.linktype = capture_u16(c, block + 8), .snaplen = capture_u32(c, block + 12)};
        interface_clock(i, resolution != NULL ? *resolution : 6);
        if (offset != NULL) {
            uint64_t v = load_u64(offset);
            i->offset = (int64_t)(c->swapped ? __builtin_bswap64(v) : v);
        }
    }
    c->interfaces++;
    return STEP_ON;
}

static step interface_missing(pal_capture *c, uint32_t number)
{
    pal_capture_stop(c, "pcapng packet %llu at byte %zu is on interface %u, but %u are described%s",
                     (unsigned long long)c->number + 1, c->pos, number, c->interfaces,
                     number < c->interfaces ? " and only the first 4096 are read" : "");
    return STEP_STOP;
}

/* Enhanced and obsolete packet blocks: the same but for the interface's width. */
PAL_INLINE step block_packet(pal_capture *c, const uint8_t *block, uint32_t total, bool enhanced, pal_frame *f)
{
    if (PAL_UNLIKELY(total < PACKET_FIXED))
        return block_bad(c, "the packet block is too short");
    const uint32_t number = enhanced ? capture_u32(c, block + 8) : capture_u16(c, block + 8);
    if (PAL_UNLIKELY(number >= min_u32(c->interfaces, PAL_CAPTURE_INTERFACES)))
        return interface_missing(c, number);
    const capture_interface *i = &c->interface[number];
    const uint64_t ts = (uint64_t)capture_u32(c, block + 12) << 32 | capture_u32(c, block + 16);
    const uint32_t caplen = capture_u32(c, block + 20), wirelen = capture_u32(c, block + 24);
    const uint32_t room = total - PACKET_FIXED; /* a multiple of 4, as total is */
    if (PAL_UNLIKELY(caplen > room))
        return block_bad(c, "the packet is longer than its block");
    if (PAL_UNLIKELY(caplen > capture_packet_max(i->linktype)))
        return block_bad(c, "the packet is longer than its link type can carry");
    f->direction = PAL_FRAME_DIRECTION_UNKNOWN;
    if (PAL_UNLIKELY(room != padded(caplen))) {
        bool bad;
        const uint8_t *flags = option_find(c, block + 28 + padded(caplen), room - padded(caplen), OPTION_PACKET_FLAGS, 4,
                                           &bad);
        if (bad)
            return block_bad(c, "an option of the packet does not fit");
        const uint32_t direction = flags != NULL ? capture_u32(c, flags) & 3u : PAL_FRAME_DIRECTION_UNKNOWN;
        if (direction != 3) /* reserved */
            f->direction = direction;
    }
    f->data = block + 28;
    f->caplen = caplen;
    f->wirelen = max_u32(caplen, wirelen);
    f->ts_ns = interface_time(i, ts);
    f->number = ++c->number;
    f->linktype = i->linktype;
    f->interface = number;
    f->reserved = 0;
    return STEP_FRAME;
}

/* A simple packet has no time stamp, belongs to the section's first interface, and is as long as its block, the
 * interface's snap length and the wire allow. */
static step block_simple(pal_capture *c, const uint8_t *block, uint32_t total, pal_frame *f)
{
    if (total < SIMPLE_FIXED)
        return block_bad(c, "the packet block is too short");
    if (c->interfaces == 0)
        return interface_missing(c, 0);
    const capture_interface *i = &c->interface[0];
    const uint32_t wirelen = capture_u32(c, block + 8);
    const uint32_t caplen = i->snaplen != 0 ? min_u32(wirelen, i->snaplen) : wirelen;
    if (caplen > total - SIMPLE_FIXED)
        return block_bad(c, "the packet is longer than its block");
    if (caplen > capture_packet_max(i->linktype))
        return block_bad(c, "the packet is longer than its link type can carry");
    *f = (pal_frame){.data = block + 12, .caplen = caplen, .wirelen = wirelen, .number = ++c->number,
                     .linktype = i->linktype};
    return STEP_FRAME;
}

/* Sets the byte order. The block's own total length is only readable afterwards. */
static step block_section(pal_capture *c, const uint8_t *block, size_t left)
{
    if (left < SECTION_FIXED) {
        pal_capture_stop(c, "truncated at byte %zu inside a pcapng section header", c->len);
        return STEP_STOP;
    }
    const uint32_t magic = load_u32(block + 8);
    if (magic != ORDER_MAGIC && magic != __builtin_bswap32(ORDER_MAGIC))
        return block_bad(c, "the section header has no byte-order magic");
    c->swapped = magic != ORDER_MAGIC;
    if (capture_u32(c, block + 4) < SECTION_FIXED)
        return block_bad(c, "its length is impossible");
    const uint16_t major = capture_u16(c, block + 12), minor = capture_u16(c, block + 14);
    if (major != 1 || (minor != 0 && minor != 2)) /* 1.2 was written by some, and is 1.0 */
        return block_bad(c, "the section's version is not 1.0");
    c->interfaces = 0;
    return STEP_ON;
}

static uint32_t pcapng_next(pal_capture *c, pal_frame *out, uint32_t max)
{
    uint32_t n = 0;
    while (n < max) {
        const uint8_t *block = c->map + c->pos;
        const size_t left = c->len - c->pos;
        if (PAL_UNLIKELY(left < BLOCK_OVERHEAD)) {
            c->done = true;
            if (left != 0)
                pal_capture_stop(c, "truncated at byte %zu inside a block after packet %llu", c->len,
                                 (unsigned long long)c->number);
            break;
        }
        const uint32_t type = capture_u32(c, block);
        if (PAL_UNLIKELY(type == BLOCK_SECTION) && block_section(c, block, left) == STEP_STOP)
            break;
        /* Lengths are multiples of four; some writers forgot the padding, which is there all the same. */
        const uint32_t stated = capture_u32(c, block + 4), total = padded(stated);
        if (PAL_UNLIKELY(stated < BLOCK_OVERHEAD || total < stated)) {
            block_bad(c, "its length is impossible");
            break;
        }
        if (PAL_UNLIKELY(total > left)) {
            pal_capture_stop(c, "truncated at byte %zu inside the block at byte %zu, after packet %llu", c->len, c->pos,
                             (unsigned long long)c->number);
            break;
        }
        if (PAL_UNLIKELY(capture_u32(c, block + total - 4) != stated)) {
            block_bad(c, "the lengths at its two ends differ");
            break;
        }
        prefetch_read((const void *)((uintptr_t)block + (size_t)4 * total));
        step outcome = STEP_ON;
        if (PAL_LIKELY(type == BLOCK_ENHANCED_PACKET))
            outcome = block_packet(c, block, total, true, &out[n]);
        else if (type == BLOCK_PACKET)
            outcome = block_packet(c, block, total, false, &out[n]);
        else if (type == BLOCK_SIMPLE_PACKET)
            outcome = block_simple(c, block, total, &out[n]);
        else if (type == BLOCK_INTERFACE)
            outcome = block_interface(c, block, total);
        else if (type == BLOCK_SYSTEMD_JOURNAL || type == BLOCK_CUSTOM || type == BLOCK_CUSTOM_NO_COPY ||
                 type == BLOCK_SYSDIG_EVENT || type == BLOCK_SYSDIG_EVENT_V2)
            c->number++; /* tshark shows these as frames */
        if (outcome == STEP_STOP)
            break;
        n += outcome == STEP_FRAME;
        c->pos += total;
    }
    return n;
}

bool pal_pcapng_read_open(pal_capture *c, char *err, size_t errlen)
{
    c->next = pcapng_next;
    if (c->len >= SECTION_FIXED && block_section(c, c->map, c->len) == STEP_ON)
        return true;
    if (c->len < SECTION_FIXED)
        snprintf(err, errlen, "truncated at byte %zu inside the pcapng section header", c->len);
    else
        snprintf(err, errlen, "%s", c->warning);
    return false;
}
