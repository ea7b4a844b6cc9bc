/* SPDX-License-Identifier: Apache-2.0
 *
 * test_pcapng.c - what the pcapng writer writes, read back byte by byte and by our reader.
 */
#define _GNU_SOURCE
#include <fcntl.h>

#include "../io/capture.c"
#include "../io/pcap.c"
#include "../io/pcapng_read.c"

#include "../io/pcapng.c"
#include "check.h"

typedef struct written {
    uint8_t *data;
    size_t len;
} written;

static int file_new(void)
{
    const int fd = memfd_create("pcapng", MFD_CLOEXEC);
    if (fd < 0) {
        perror("memfd_create");
        exit(2);
    }
    return fd;
}

static written file_read(int fd)
{
    written w = {.len = (size_t)lseek(fd, 0, SEEK_END)};
    w.data = malloc(w.len + 1);
    if (w.data == NULL || pread(fd, w.data, w.len, 0) != (ssize_t)w.len) {
        perror("pread");
        exit(2);
    }
    close(fd);
    return w;
}

/* The n-th block of a type: a pointer to it, or NULL. Checks that the chain of blocks is whole. */
static const uint8_t *block_of(written w, uint32_t type, unsigned n)
{
    const uint8_t *found = NULL;
    size_t at = 0;
    while (at + 12 <= w.len) {
        const uint32_t total = load_u32(w.data + at + 4);
        CHECK(total % 4 == 0 && total >= 12 && total <= w.len - at);
        if (total % 4 != 0 || total < 12 || total > w.len - at)
            return NULL;
        CHECK_U64(load_u32(w.data + at + total - 4), total);
        if (load_u32(w.data + at) == type && n-- == 0)
            found = w.data + at;
        at += total;
    }
    CHECK_U64(at, w.len);
    return found;
}

static void test_round_trip(void)
{
    check_where = "round trip";
    static uint8_t big[300000]; /* larger than the writer's buffer */
    memset(big, 0xb1, sizeof big);
    const pal_frame frames[] = {
        {.data = (const uint8_t *)"abcde", .caplen = 5, .wirelen = 1514, .ts_ns = UINT64_C(1700000000123456789), .linktype = 1,
         .direction = PAL_FRAME_OUTBOUND},
        {.data = (const uint8_t *)"abcd", .caplen = 4, .wirelen = 4, .ts_ns = UINT64_MAX, .linktype = 276},
        {.data = NULL, .caplen = 0, .wirelen = 60, .ts_ns = 0, .linktype = 1, .direction = PAL_FRAME_INBOUND},
        {.data = big, .caplen = sizeof big, .wirelen = sizeof big, .ts_ns = 5, .linktype = 220},
        {.data = (const uint8_t *)"ab", .caplen = 2, .wirelen = 2, .ts_ns = 7, .linktype = 276}};
    const char *const comments[] = {"DROP tcp-state by shop/rules/caf\xc3\xa9", "", "x", "four", NULL};
    const uint32_t count = sizeof frames / sizeof frames[0];
    const int fd = file_new();
    pal_pcapng *w = pal_pcapng_open(fd);
    for (uint32_t i = 0; i < count; i++)
        CHECK_U64(pal_pcapng_write(w, &frames[i], comments[i], comments[i] == NULL ? 0 : strlen(comments[i])), 0);
    CHECK_U64(pal_pcapng_close(w), 0);
    const written file = file_read(fd);

    CHECK(block_of(file, BLOCK_INTERFACE, 2) != NULL && block_of(file, BLOCK_INTERFACE, 3) == NULL);
    char err[100];
    pal_capture *c = pal_capture_open(file.data, file.len, err, sizeof err);
    pal_frame got[8];
    CHECK_U64(pal_capture_next(c, got, 8), count);
    CHECK(pal_capture_warning(c) == NULL);
    for (uint32_t i = 0; i < count; i++) {
        CHECK_U64(got[i].number, i + 1);
        CHECK_U64(got[i].caplen, frames[i].caplen);
        CHECK_U64(got[i].wirelen, frames[i].wirelen);
        CHECK_U64(got[i].ts_ns, frames[i].ts_ns);
        CHECK_U64(got[i].linktype, frames[i].linktype);
        CHECK_U64(got[i].direction, frames[i].direction);
        CHECK(got[i].caplen == 0 || memcmp(got[i].data, frames[i].data, got[i].caplen) == 0);

        const uint8_t *packet = block_of(file, BLOCK_ENHANCED_PACKET, i);
        const uint8_t *options = packet + 28 + ((frames[i].caplen + 3) & ~3u);
        const uint32_t left = load_u32(packet + 4) - (uint32_t)(options - packet) - 4;
        bool bad;
        const uint8_t *comment = option_find(c, options, left, 1, 1, &bad);
        CHECK(!bad);
        const size_t expected = comments[i] == NULL ? 0 : strlen(comments[i]);
        CHECK((comment != NULL) == (expected != 0));
        if (comment != NULL && expected != 0) {
            CHECK_U64(load_u16(comment - 2), expected);
            CHECK(memcmp(comment, comments[i], expected) == 0);
        }
    }
    pal_capture_close(c);
    free(file.data);
}

static void test_limits(void)
{
    const int fd = file_new();
    pal_pcapng *w = pal_pcapng_open(fd);
    pal_frame frame = {.data = (const uint8_t *)"abcd", .caplen = 4, .wirelen = 4, .linktype = 1};

    check_where = "a comment of 65,536 bytes, cut before a character of two";
    static char comment[70000];
    memset(comment, 'x', sizeof comment);
    memcpy(comment + 65534, "\xc3\xa9", 2);
    CHECK_U64(pal_pcapng_write(w, &frame, comment, 65536), 0);
    check_where = "a comment of 65,535 bytes, whole";
    memset(comment, 'x', sizeof comment);
    CHECK_U64(pal_pcapng_write(w, &frame, comment, 65535), 0);
    check_where = "a comment that is no UTF-8 at all is cut all the same";
    memset(comment, 0x80, sizeof comment);
    CHECK_U64(pal_pcapng_write(w, &frame, comment, sizeof comment), 0);

    check_where = "what cannot be said";
    frame.linktype = 65536;
    CHECK(pal_pcapng_write(w, &frame, NULL, 0) == -EINVAL);
    frame.linktype = 1;
    frame.caplen = 0x80000000u;
    CHECK(pal_pcapng_write(w, &frame, NULL, 0) == -EINVAL);
    frame.caplen = 4;
    for (uint32_t i = 1; i <= LINKTYPES + 1; i++) {
        frame.linktype = i;
        CHECK(pal_pcapng_write(w, &frame, NULL, 0) == (i <= LINKTYPES ? 0 : -EINVAL));
    }
    CHECK_U64(pal_pcapng_close(w), 0);
    const written file = file_read(fd);
    CHECK(block_of(file, BLOCK_ENHANCED_PACKET, 3 + LINKTYPES - 1) != NULL);
    CHECK(block_of(file, BLOCK_ENHANCED_PACKET, 3 + LINKTYPES) == NULL);
    CHECK_U64(load_u16(block_of(file, BLOCK_ENHANCED_PACKET, 0) + 34), 65534);
    CHECK_U64(load_u16(block_of(file, BLOCK_ENHANCED_PACKET, 1) + 34), 65535);
    CHECK_U64(load_u16(block_of(file, BLOCK_ENHANCED_PACKET, 2) + 34), 65531);
    free(file.data);
}

static void test_errors(void)
{
    check_where = "no packet at all is a file";
    const int fd = file_new();
    CHECK_U64(pal_pcapng_close(pal_pcapng_open(fd)), 0);
    const written file = file_read(fd);
    CHECK_U64(file.len, 28);
    free(file.data);
    CHECK_U64(pal_pcapng_close(NULL), 0);

    check_where = "a full disk";
    const int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
    if (full < 0) {
        printf("test_pcapng: no /dev/full here, the full disk is not tested\n");
        return;
    }
    pal_pcapng *w = pal_pcapng_open(full);
    static uint8_t bytes[100000];
    const pal_frame frame = {.data = bytes, .caplen = sizeof bytes, .wirelen = sizeof bytes, .linktype = 1};
    CHECK_U64(pal_pcapng_write(w, &frame, "buffered", 8), 0);
    for (int i = 0; i < 3; i++)
        (void)pal_pcapng_write(w, &frame, NULL, 0);
    CHECK(pal_pcapng_write(w, &frame, NULL, 0) == -ENOSPC);
    CHECK(pal_pcapng_close(w) == -ENOSPC);
    w = pal_pcapng_open(full);
    CHECK_U64(pal_pcapng_write(w, &frame, NULL, 0), 0);
    CHECK(pal_pcapng_close(w) == -ENOSPC); /* seen only by the last flush */
    close(full);
}

int main(void)
{
    test_round_trip();
    test_limits();
    test_errors();
    return check_end("test_pcapng");
}
