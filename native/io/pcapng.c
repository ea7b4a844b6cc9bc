/* SPDX-License-Identifier: Apache-2.0
 *
 * pcapng.c - the writer of pcapng.h. Blocks are in this machine's byte order, which their section header states.
 */
#include <stdlib.h>

#include "palisade_watch.h"
#include "pcapng.h"
#include "sink.h"

#define LINKTYPES 64u
#define COMMENT_MAX 65535u

struct pal_pcapng {
    uint32_t linktypes;
    uint16_t linktype[LINKTYPES]; /* by interface number */
    sink out;
};

typedef struct section_header {
    uint32_t type, total, magic;
    uint16_t major, minor;
    uint32_t length[2]; /* all ones: not said */
    uint32_t trailer;
} section_header;
_Static_assert(sizeof(section_header) == 28, "written as it lies in memory");

typedef struct interface_block {
    uint32_t type, total;
    uint16_t linktype, reserved;
    uint32_t snaplen;
    uint16_t tsresol, tsresol_len;
    uint8_t tsresol_value[4];
    uint32_t end_of_options, trailer;
} interface_block;
_Static_assert(sizeof(interface_block) == 32, "written as it lies in memory");

typedef struct packet_header {
    uint32_t type, total, interface, ts_high, ts_low, caplen, wirelen;
} packet_header;
_Static_assert(sizeof(packet_header) == 28, "written as it lies in memory");

pal_pcapng *pal_pcapng_open(int fd)
{
    pal_pcapng *w = malloc(sizeof *w);
    if (w == NULL)
        return NULL;
    w->linktypes = 0;
    w->out.fd = fd;
    w->out.error = 0;
    w->out.used = 0;
    const section_header header = {.type = 0x0a0d0d0a, .total = sizeof header, .magic = 0x1a2b3c4d, .major = 1,
                                   .length = {UINT32_MAX, UINT32_MAX}, .trailer = sizeof header};
    sink_append(&w->out, &header, sizeof header);
    return w;
}

/* The number of the interface with this link type, described now if need be; PAL_NONE: cannot be. */
static uint32_t interface_number(pal_pcapng *w, uint32_t linktype)
{
    for (uint32_t i = 0; i < w->linktypes; i++)
        if (w->linktype[i] == linktype)
            return i;
    if (w->linktypes == LINKTYPES || linktype > UINT16_MAX)
        return PAL_NONE;
    const interface_block block = {.type = 1, .total = sizeof block, .linktype = (uint16_t)linktype, .tsresol = 9,
                                   .tsresol_len = 1, .tsresol_value = {9}, .trailer = sizeof block};
    sink_append(&w->out, &block, sizeof block);
    w->linktype[w->linktypes] = (uint16_t)linktype;
    return w->linktypes++;
}

static void append_padded(sink *out, const void *data, uint32_t len)
{
    sink_append(out, data, len);
    sink_append(out, "\0\0\0", -len & 3u);
}

static void append_option_header(sink *out, uint16_t code, uint16_t len)
{
    const uint16_t header[2] = {code, len};
    sink_append(out, header, sizeof header);
}

/* At most COMMENT_MAX bytes, without cutting a UTF-8 character in two. */
static uint32_t comment_length(const char *comment, size_t len)
{
    if (len <= COMMENT_MAX)
        return (uint32_t)len;
    uint32_t cut = COMMENT_MAX;
    while (cut > COMMENT_MAX - 4 && ((uint8_t)comment[cut] & 0xc0u) == 0x80u)
        cut--;
    return cut;
}

int pal_pcapng_write(pal_pcapng *w, const pal_frame *frame, const char *comment, size_t comment_len)
{
    sink *out = &w->out;
    if (out->error != 0)
        return out->error;
    if (frame->caplen > INT32_MAX)
        return -EINVAL;
    const uint32_t number = interface_number(w, frame->linktype);
    if (number == PAL_NONE)
        return -EINVAL;
    const uint32_t words = comment_length(comment, comment_len);
    const bool directed = frame->direction == PAL_FRAME_INBOUND || frame->direction == PAL_FRAME_OUTBOUND;
    uint32_t total = (uint32_t)sizeof(packet_header) + ((frame->caplen + 3u) & ~3u) + 4u;
    if (words != 0)
        total += 4u + ((words + 3u) & ~3u);
    if (directed)
        total += 8u;
    if (words != 0 || directed)
        total += 4u;
    const packet_header header = {.type = 6, .total = total, .interface = number,
                                  .ts_high = (uint32_t)(frame->ts_ns >> 32), .ts_low = (uint32_t)frame->ts_ns,
                                  .caplen = frame->caplen, .wirelen = frame->wirelen};
    sink_append(out, &header, sizeof header);
    append_padded(out, frame->data, frame->caplen);
    if (words != 0) {
        append_option_header(out, 1, (uint16_t)words);
        append_padded(out, comment, words);
    }
    if (directed) {
        append_option_header(out, 2, 4);
        sink_append(out, &frame->direction, 4);
    }
    if (words != 0 || directed)
        append_option_header(out, 0, 0);
    sink_append(out, &total, sizeof total);
    return out->error;
}

int pal_pcapng_flush(pal_pcapng *w)
{
    sink_flush(&w->out);
    return w->out.error;
}

int pal_pcapng_close(pal_pcapng *w)
{
    if (w == NULL)
        return 0;
    sink_flush(&w->out);
    const int error = w->out.error;
    free(w);
    return error;
}
