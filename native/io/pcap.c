/* SPDX-License-Identifier: Apache-2.0
 *
 * pcap.c - classic pcap files (draft-ietf-opsawg-pcap): a 24-byte file header, then records of a 16-byte header and
 * the packet. Also A. Kuznetsov's modified format (magic 0xa1b2cd34), whose record headers go on with interface index,
 * protocol and packet type.
 */
#include <stdio.h>

#include "capture_reader.h"

#define FILE_HEADER 24u
#define MAGIC_MICRO 0xa1b2c3d4u
#define MAGIC_NANO 0xa1b23c4du
#define MAGIC_MODIFIED 0xa1b2cd34u
#define PACKET_OUTGOING 4u /* Linux's PACKET_OUTGOING in a modified record header */

/* One burst of records. Inlined into one function for each format, so that `modified` costs nothing. */
PAL_INLINE uint32_t pcap_burst(pal_capture *c, pal_frame *out, uint32_t max, const bool modified)
{
    const uint32_t header = modified ? 24u : 16u;
    const uint8_t *p = c->map + c->pos;
    size_t left = c->len - c->pos;
    uint32_t n = 0;
    while (n < max) {
        if (PAL_UNLIKELY(left < header)) {
            c->done = true;
            if (left != 0)
                pal_capture_stop(c, "truncated at byte %zu inside the header of packet %llu", c->len,
                                 (unsigned long long)c->number + 1);
            break;
        }
        const uint32_t seconds = capture_u32(c, p), fraction = capture_u32(c, p + 4);
        uint32_t caplen = capture_u32(c, p + 8), wirelen = capture_u32(c, p + 12);
        if (PAL_UNLIKELY(c->lengths_swapped) || (PAL_UNLIKELY(c->lengths_may_swap) && caplen > wirelen)) {
            const uint32_t first = caplen;
            caplen = wirelen;
            wirelen = first;
        }
        if (PAL_UNLIKELY(caplen > c->packet_max)) {
            pal_capture_stop(c, "packet %llu at byte %zu claims %u captured bytes, more than the %u that are possible",
                             (unsigned long long)c->number + 1, c->len - left, caplen, c->packet_max);
            break;
        }
        if (PAL_UNLIKELY(caplen > left - header)) {
            pal_capture_stop(c, "truncated at byte %zu inside packet %llu", c->len, (unsigned long long)c->number + 1);
            break;
        }
        /* The next header lies right behind this packet, and traffic comes in runs of equal sizes. */
        prefetch_read((const void *)((uintptr_t)p + (size_t)4 * (header + caplen)));
        pal_frame *f = &out[n++];
        f->data = p + header;
        f->caplen = caplen;
        f->wirelen = max_u32(caplen, wirelen);
        f->ts_ns = seconds * UINT64_C(1000000000) + (uint64_t)fraction * c->fraction_ns;
        f->number = ++c->number;
        f->linktype = c->linktype;
        f->interface = 0;
        f->direction = modified && p[22] == PACKET_OUTGOING ? PAL_FRAME_OUTBOUND : PAL_FRAME_DIRECTION_UNKNOWN;
        f->reserved = 0;
        p += header + caplen;
        left -= header + caplen;
    }
    c->pos = c->len - left;
    return n;
}

static uint32_t pcap_next(pal_capture *c, pal_frame *out, uint32_t max) { return pcap_burst(c, out, max, false); }
static uint32_t pcap_next_modified(pal_capture *c, pal_frame *out, uint32_t max) { return pcap_burst(c, out, max, true); }

bool pal_pcap_open(pal_capture *c, char *err, size_t errlen)
{
    uint32_t magic = load_u32(c->map);
    if (magic != MAGIC_MICRO && magic != MAGIC_NANO && magic != MAGIC_MODIFIED) {
        magic = __builtin_bswap32(magic);
        c->swapped = true;
    }
    if (magic != MAGIC_MICRO && magic != MAGIC_NANO && magic != MAGIC_MODIFIED) {
        snprintf(err, errlen, "neither pcap nor pcapng: the file begins with %02x %02x %02x %02x", c->map[0], c->map[1],
                 c->map[2], c->map[3]);
        return false;
    }
    if (c->len < FILE_HEADER) {
        snprintf(err, errlen, "truncated at byte %zu inside the pcap file header", c->len);
        return false;
    }
    const uint16_t major = capture_u16(c, c->map + 4), minor = capture_u16(c, c->map + 6);
    if (major != 2 || minor > 4) {
        snprintf(err, errlen, "pcap version %u.%u is not read, only 2.0 to 2.4", major, minor);
        return false;
    }
    c->lengths_swapped = minor < 3;
    c->lengths_may_swap = minor == 3;
    c->fraction_ns = magic == MAGIC_NANO ? 1 : 1000;
    /* Above the link type: 0x04000000 says that frames end in a check sequence, the top four bits how long it is. */
    c->linktype = capture_u32(c, c->map + 20) & 0x03ffffffu;
    c->packet_max = capture_packet_max(c->linktype);
    c->pos = FILE_HEADER;
    c->next = magic == MAGIC_MODIFIED ? pcap_next_modified : pcap_next;
    return true;
}
