/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_capture.c - any bytes as a capture file. Whatever they are: frames lie inside the file, numbers grow, the size of
 * the burst makes no difference, and what the pcapng writer makes of the frames reads back the same.
 * Seeds: capture_seeds.py.
 */
#define _GNU_SOURCE
#include "../io/capture.c"
#include "../io/pcap.c"
#include "../io/pcapng_read.c"

#include "../io/pcapng.c"

#include <sys/mman.h>

#include "must.h"

#define BURST_MAX 64u

static bool same(const pal_frame *a, const pal_frame *b)
{
    return a->caplen == b->caplen && a->wirelen == b->wirelen && a->ts_ns == b->ts_ns && a->linktype == b->linktype &&
           a->direction == b->direction;
}

/* Reads `copy`, as written from the frames of `data`, beside it. Frames that pcapng cannot say were left out. */
static void read_back(const uint8_t *data, size_t size, const uint8_t *copy, size_t copy_size)
{
    char err[256];
    pal_capture *a = pal_capture_open(data, size, err, sizeof err);
    pal_capture *b = pal_capture_open(copy, copy_size, err, sizeof err);
    MUST(a != NULL && b != NULL);
    pal_frame x, y;
    while (pal_capture_next(a, &x, 1) == 1) {
        if (x.linktype > UINT16_MAX)
            continue;
        if (pal_capture_next(b, &y, 1) == 0)
            break; /* the writer refused a 65th link type */
        MUST(same(&x, &y));
        MUST(x.caplen == 0 || memcmp(x.data, y.data, x.caplen) == 0);
    }
    MUST(pal_capture_warning(b) == NULL);
    pal_capture_close(a);
    pal_capture_close(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char err[256] = "";
    pal_capture *c = pal_capture_open(data, size, err, sizeof err);
    MUST((c == NULL) == (err[0] != '\0'));
    if (c == NULL)
        return 0;
    pal_capture *other = pal_capture_open(data, size, err, sizeof err);
    const int fd = memfd_create("fuzz", MFD_CLOEXEC);
    pal_pcapng *w = pal_pcapng_open(fd);
    MUST(other != NULL && fd >= 0 && w != NULL);
    const uint32_t burst = 1 + data[size - 1] % BURST_MAX;
    pal_frame frames[BURST_MAX], one;
    uint64_t number = 0, bytes = 0;
    uint32_t n;
    bool refused = false;
    while ((n = pal_capture_next(c, frames, burst)) != 0) {
        MUST(n <= burst);
        for (uint32_t i = 0; i < n; i++) {
            const pal_frame *f = &frames[i];
            MUST(f->data >= data && f->data <= data + size && f->caplen <= (size_t)(data + size - f->data));
            MUST(f->wirelen >= f->caplen && f->number > number && f->direction <= 2 && f->reserved == 0);
            MUST(pal_linktype_name(f->linktype) != NULL);
            number = f->number;
            bytes += f->caplen + 12;
            MUST(pal_capture_next(other, &one, 1) == 1 && same(f, &one) && one.data == f->data && one.number == number);
            /* A comment of bytes at hand: it starts somewhere in the file and is as long as the packet. */
            if (!refused)
                refused = pal_pcapng_write(w, f, (const char *)data + (f->ts_ns % size) / 2, f->caplen % (size / 2 + 1)) != 0 &&
                          f->linktype <= UINT16_MAX;
        }
    }
    MUST(bytes <= size); /* no byte is in two packets */
    MUST(pal_capture_next(other, &one, 1) == 0 && pal_capture_next(c, frames, burst) == 0);
    const char *x = pal_capture_warning(c), *y = pal_capture_warning(other);
    MUST((x == NULL) == (y == NULL) && (x == NULL || strcmp(x, y) == 0));
    pal_capture_close(c);
    pal_capture_close(other);
    MUST(pal_pcapng_close(w) == 0);
    const off_t written = lseek(fd, 0, SEEK_END);
    void *copy = mmap(NULL, (size_t)written, PROT_READ, MAP_PRIVATE, fd, 0);
    MUST(copy != MAP_FAILED);
    read_back(data, size, copy, (size_t)written);
    munmap(copy, (size_t)written);
    close(fd);
    return 0;
}
