/* SPDX-License-Identifier: Apache-2.0
 *
 * capture_reader.h - the inside of a pal_capture, shared by the two readers (pcap.c, pcapng_read.c).
 *
 * A reader is one object of fixed size. It holds offsets into the caller's map and never writes there. Every file
 * length is compared with what is left of the map before it is used, always as `length > left`, so no sum can wrap.
 */
#ifndef PAL_IO_CAPTURE_READER_H
#define PAL_IO_CAPTURE_READER_H

#include "../core/base.h"
#include "capture.h"

/* Interfaces remembered for one pcapng section. A file can describe one in 20 bytes; without a bound it would choose
 * how much memory we spend. Packets on interfaces past this end the reading with a warning. */
#define PAL_CAPTURE_INTERFACES 4096u

/* No link layer has longer packets (libpcap's MAXIMUM_SNAPLEN, Wireshark's WTAP_MAX_PACKET_SIZE_STANDARD), but for
 * those in capture_packet_max(). */
#define PAL_CAPTURE_PACKET_MAX 262144u

/* How a pcapng time stamp becomes nanoseconds (option if_tsresol). */
typedef enum ts_unit { TS_MULTIPLY, TS_DIVIDE, TS_BINARY } ts_unit;

typedef struct capture_interface {
    uint64_t factor;    /* TS_MULTIPLY, TS_DIVIDE: ns per unit, or units per ns */
    int64_t offset;     /* seconds to add (option if_tsoffset) */
    uint32_t linktype;
    uint32_t snaplen;   /* 0: no limit */
    uint8_t unit;       /* ts_unit */
    uint8_t shift;      /* TS_BINARY: the unit is 2^-shift s */
    uint8_t reserved[6];
} capture_interface;
_Static_assert(sizeof(capture_interface) == 32, "two interfaces a cache line");

struct pal_capture {
    const uint8_t *map;
    size_t len;
    size_t pos;                     /* of the next record or block */
    uint64_t number;                /* of the last record counted */
    uint32_t (*next)(pal_capture *, pal_frame *, uint32_t);
    bool done;
    bool swapped;                   /* the file's byte order is not ours */
    /* classic pcap */
    bool lengths_may_swap;          /* version 2.3: either order of the two lengths */
    bool lengths_swapped;           /* before version 2.3: the wire's length comes first */
    uint32_t fraction_ns;           /* 1000 or 1: what the second half of a time stamp counts */
    uint32_t linktype;
    uint32_t packet_max;
    /* pcapng */
    uint32_t interfaces;            /* described by this section so far */
    char warning[192];
    capture_interface interface[PAL_CAPTURE_INTERFACES];
};

PAL_INLINE uint16_t capture_u16(const pal_capture *c, const uint8_t *p)
{
    uint16_t v = load_u16(p);
    return c->swapped ? __builtin_bswap16(v) : v;
}

PAL_INLINE uint32_t capture_u32(const pal_capture *c, const uint8_t *p)
{
    uint32_t v = load_u32(p);
    return c->swapped ? __builtin_bswap32(v) : v;
}

/* The most bytes that a packet of this link type can have. */
static inline uint32_t capture_packet_max(uint32_t linktype)
{
    switch (linktype) {
    case 189: case 220: case 231: case 249: return 128u << 20; /* USB (three sorts), D-Bus */
    case 279: return 8u << 20;                                 /* Elektrobit high-speed capture */
    default: return PAL_CAPTURE_PACKET_MAX;
    }
}

/* Ends the reading with a warning; what was read before stands. */
__attribute__((format(printf, 2, 3), cold)) void pal_capture_stop(pal_capture *c, const char *format, ...);

/* Both read a file header at the start of the map: true, or false with a sentence in err. */
bool pal_pcap_open(pal_capture *c, char *err, size_t errlen);
bool pal_pcapng_read_open(pal_capture *c, char *err, size_t errlen);

#endif
