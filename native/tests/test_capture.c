/* SPDX-License-Identifier: Apache-2.0
 *
 * test_capture.c - the capture readers on files built here, byte by byte.
 */
#include "../io/capture.c"
#include "../io/pcap.c"
#include "../io/pcapng_read.c"
#include "check.h"

#define FRAMES_MAX 64u

/* ---- building files -------------------------------------------------------------------------------------- */

typedef struct file {
    bool big; /* byte order */
    size_t len;
    uint8_t bytes[1 << 20];
} file;

static void put(file *f, const void *bytes, size_t len)
{
    memcpy(f->bytes + f->len, bytes, len);
    f->len += len;
}

static void put_number(file *f, uint64_t v, unsigned size)
{
    for (unsigned i = 0; i < size; i++)
        f->bytes[f->len++] = (uint8_t)(v >> 8 * (f->big ? size - 1 - i : i));
}

static void put16(file *f, uint32_t v) { put_number(f, v, 2); }
static void put32(file *f, uint32_t v) { put_number(f, v, 4); }

/* `len` bytes that say which packet they belong to. */
static void put_packet(file *f, uint8_t tag, size_t len)
{
    memset(f->bytes + f->len, tag, len);
    f->len += len;
}

static void put_padding(file *f, size_t len) { put(f, "\0\0\0", -len & 3u); }

static void pcap_header(file *f, uint32_t magic, uint16_t minor, uint32_t linktype)
{
    put32(f, magic);
    put16(f, 2);
    put16(f, minor);
    put(f, "\0\0\0\0\0\0\0\0", 8);
    put32(f, 65535);
    put32(f, linktype);
}

static void pcap_record(file *f, uint32_t seconds, uint32_t fraction, uint32_t caplen, uint32_t wirelen)
{
    put32(f, seconds);
    put32(f, fraction);
    put32(f, caplen);
    put32(f, wirelen);
}

/* A block of any kind around `body`; the lengths lie by the last two. */
static void block(file *f, uint32_t type, const void *body, size_t len, int lie, int trailer_lie)
{
    const uint32_t total = 12 + (uint32_t)((len + 3) & ~(size_t)3);
    put32(f, type);
    put32(f, total + (uint32_t)lie);
    put(f, body, len);
    put_padding(f, len);
    put32(f, total + (uint32_t)lie + (uint32_t)trailer_lie);
}

static void section(file *f)
{
    put32(f, 0x0a0d0d0a);
    put32(f, 28);
    put32(f, 0x1a2b3c4d);
    put16(f, 1);
    put16(f, 0);
    put_number(f, UINT64_MAX, 8);
    put32(f, 28);
}

/* resolution < 0: no option */
static void interface(file *f, uint16_t linktype, uint32_t snaplen, int resolution, int64_t offset)
{
    const uint32_t total = 20 + (resolution >= 0 ? 8 : 0) + (offset != 0 ? 12 : 0) + (resolution >= 0 || offset != 0 ? 4 : 0);
    put32(f, 1);
    put32(f, total);
    put16(f, linktype);
    put16(f, 0);
    put32(f, snaplen);
    if (offset != 0) {
        put16(f, 14);
        put16(f, 8);
        put_number(f, (uint64_t)offset, 8);
    }
    if (resolution >= 0) {
        put16(f, 9);
        put16(f, 1);
        put_number(f, (uint64_t)resolution, 1);
        put(f, "\0\0\0", 3);
    }
    if (resolution >= 0 || offset != 0)
        put32(f, 0);
    put32(f, total);
}

/* flags < 0: no options */
static void enhanced(file *f, uint32_t number, uint64_t ts, uint8_t tag, uint32_t caplen, uint32_t wirelen, int flags)
{
    const uint32_t total = 32 + ((caplen + 3) & ~3u) + (flags >= 0 ? 8 + 12 : 0);
    put32(f, 6);
    put32(f, total);
    put32(f, number);
    put32(f, (uint32_t)(ts >> 32));
    put32(f, (uint32_t)ts);
    put32(f, caplen);
    put32(f, wirelen);
    put_packet(f, tag, caplen);
    put_padding(f, caplen);
    if (flags >= 0) {
        put16(f, 1); /* a comment first */
        put16(f, 5);
        put(f, "hello\0\0\0", 8);
        put16(f, 2);
        put16(f, 4);
        put32(f, (uint32_t)flags);
    }
    put32(f, total);
}

/* ---- reading --------------------------------------------------------------------------------------------- */

typedef struct result {
    bool opened;
    uint32_t n;
    pal_frame frame[FRAMES_MAX];
    char text[256]; /* the error or the warning, "" for none */
} result;

/* Reads the first `len` bytes in bursts of `burst`, off a fence, and checks what must hold for every file. */
static result read_all(const uint8_t *bytes, size_t len, uint32_t burst)
{
    static result r;
    memset(&r, 0, sizeof r);
    fenced map = fence(bytes, len);
    pal_capture *c = pal_capture_open(map.data, len, r.text, sizeof r.text);
    r.opened = c != NULL;
    CHECK(r.opened == (r.text[0] == '\0'));
    if (c != NULL) {
        pal_frame frames[FRAMES_MAX];
        uint32_t n;
        while ((n = pal_capture_next(c, frames, burst)) != 0) {
            for (uint32_t i = 0; i < n; i++) {
                const pal_frame *f = &frames[i];
                CHECK(f->data >= map.data && f->data + f->caplen <= map.data + len);
                CHECK(f->wirelen >= f->caplen);
                CHECK(r.n == 0 || f->number > r.frame[r.n - 1].number);
                if (r.n < FRAMES_MAX)
                    r.frame[r.n++] = *f;
            }
        }
        CHECK_U64(pal_capture_next(c, frames, burst), 0);
        if (pal_capture_warning(c) != NULL) {
            snprintf(r.text, sizeof r.text, "%s", pal_capture_warning(c));
            CHECK(r.text[0] != '\0');
        }
        pal_capture_close(c);
    }
    unfence(map);
    return r;
}

static result read_file(const file *f) { return read_all(f->bytes, f->len, FRAMES_MAX); }

static void check_frame(const pal_frame *f, uint64_t number, uint64_t ts_ns, uint32_t caplen, uint32_t wirelen,
                        uint32_t linktype)
{
    CHECK_U64(f->number, number);
    CHECK_U64(f->ts_ns, ts_ns);
    CHECK_U64(f->caplen, caplen);
    CHECK_U64(f->wirelen, wirelen);
    CHECK_U64(f->linktype, linktype);
}

/* ---- cases ----------------------------------------------------------------------------------------------- */

static file f; /* large: not on the stack */

static void start(const char *name, bool big)
{
    check_where = name;
    memset(&f, 0, offsetof(file, bytes));
    f.big = big;
}

/* Every cut and every changed byte of the file at hand: no read outside, the frames before the place stay the same. */
static void test_damage(const char *name)
{
    check_where = name;
    static file whole;
    whole = f;
    const result good = read_file(&whole);
    CHECK(good.n >= 2);
    for (size_t len = 0; len < whole.len; len++) {
        const result r = read_all(whole.bytes, len, 7);
        CHECK(r.n <= good.n);
        for (uint32_t i = 0; i < r.n; i++)
            CHECK(r.frame[i].number == good.frame[i].number && r.frame[i].ts_ns == good.frame[i].ts_ns &&
                  r.frame[i].caplen == good.frame[i].caplen);
    }
    for (size_t at = 0; at < whole.len; at++) {
        const uint8_t values[] = {0, 1, 0x7f, 0x80, 0xff, (uint8_t)(whole.bytes[at] ^ 4)};
        const uint8_t before = whole.bytes[at];
        for (unsigned i = 0; i < sizeof values; i++) {
            whole.bytes[at] = values[i];
            (void)read_all(whole.bytes, whole.len, 7);
        }
        whole.bytes[at] = before;
    }
}

static void test_pcap(bool big)
{
    for (uint16_t minor = 2; minor <= 3; minor++) {
        start("old versions state the wire's length first", big);
        pcap_header(&f, MAGIC_MICRO, minor, 1);
        pcap_record(&f, 1, 0, 1514, 60);
        put_packet(&f, 1, 60);
        result r = read_file(&f);
        CHECK_U64(r.n, 1);
        check_frame(&r.frame[0], 1, 1000000000, 60, 1514, 1);
    }
    const struct { const char *name; uint32_t magic, unit; } kinds[] = {
        {"micro", MAGIC_MICRO, 1000}, {"nano", MAGIC_NANO, 1}, {"modified", MAGIC_MODIFIED, 1000}};
    for (unsigned k = 0; k < 3; k++) {
        start(kinds[k].name, big);
        pcap_header(&f, kinds[k].magic, 4, 0x24000000 | 113); /* the high bits: a check sequence of two bytes */
        const uint32_t caplen[3] = {60, 0, 33}, wirelen[3] = {60, 1514, 7};
        for (uint32_t i = 0; i < 3; i++) {
            pcap_record(&f, 0xffffffff, 999 + i, caplen[i], wirelen[i]);
            if (kinds[k].magic == MAGIC_MODIFIED) {
                put32(&f, 2);
                put16(&f, 0x0800);
                put(&f, i == 1 ? "\4\0" : "\0\0", 2);
            }
            put_packet(&f, (uint8_t)(i + 1), caplen[i]);
        }
        result r = read_file(&f);
        CHECK_TEXT(r.text, "");
        CHECK_U64(r.n, 3);
        for (uint32_t i = 0; i < r.n; i++) {
            check_frame(&r.frame[i], i + 1, 0xffffffff * UINT64_C(1000000000) + (999 + i) * (uint64_t)kinds[k].unit, caplen[i],
                        wirelen[i] > caplen[i] ? wirelen[i] : caplen[i], 113);
            const bool out = kinds[k].magic == MAGIC_MODIFIED && i == 1;
            CHECK_U64(r.frame[i].direction, out ? PAL_FRAME_OUTBOUND : PAL_FRAME_DIRECTION_UNKNOWN);
        }
        test_damage("damaged pcap");
    }
}

static void test_pcap_refused(void)
{
    start("pcap that is refused", false);
    pcap_header(&f, MAGIC_MICRO, 4, 1);
    CHECK_U64(read_file(&f).n, 0);
    CHECK_TEXT(read_file(&f).text, "");
    CHECK_TEXT(read_all(f.bytes, 23, 1).text, "truncated at byte 23 inside the pcap file header");
    CHECK_TEXT(read_all(f.bytes, 3, 1).text, "the file has only 3 bytes, too few for a capture");
    CHECK_TEXT(read_all(f.bytes, 0, 1).text, "the file is empty");
    CHECK_TEXT(read_all((const uint8_t *)"text", 4, 1).text, "neither pcap nor pcapng: the file begins with 74 65 78 74");
    f.bytes[6] = 5;
    CHECK_TEXT(read_file(&f).text, "pcap version 2.5 is not read, only 2.0 to 2.4");

    start("packets too long", false);
    pcap_header(&f, MAGIC_MICRO, 4, 1);
    pcap_record(&f, 1, 0, 4, 4);
    put32(&f, 0);
    pcap_record(&f, 1, 0, UINT32_MAX, UINT32_MAX);
    CHECK_TEXT(read_file(&f).text,
               "packet 2 at byte 44 claims 4294967295 captured bytes, more than the 262144 that are possible");
    CHECK_U64(read_file(&f).n, 1);
    f.bytes[44 + 8] = 1; /* 1 byte, and none is there */
    memset(f.bytes + 44 + 9, 0, 3);
    CHECK_TEXT(read_file(&f).text, "truncated at byte 60 inside packet 2");
    CHECK_TEXT(read_all(f.bytes, 59, 4).text, "truncated at byte 59 inside the header of packet 2");
}

static void test_pcapng(bool big)
{
    start("pcapng", big);
    section(&f);
    interface(&f, 1, 0, -1, 0);
    interface(&f, 113, 40, 9, 0);
    enhanced(&f, 0, 1250000, 1, 60, 60, -1);
    block(&f, 0x4242, "unknown", 7, 0, 0);
    enhanced(&f, 1, 1250000000, 2, 33, 1514, 2);
    f.big = !big; /* a second section in the other byte order forgets the first's interfaces */
    section(&f);
    interface(&f, 101, 20, 3, 100);
    enhanced(&f, 0, 1500, 3, 0, 0, 1);
    block(&f, BLOCK_CUSTOM, "\0\0\0\1data", 8, 0, 0); /* counted, gives no frame */
    put32(&f, BLOCK_SIMPLE_PACKET);
    put32(&f, 16 + 20);
    put32(&f, 64); /* on the wire; the snap length leaves 20 */
    put_packet(&f, 4, 20);
    put32(&f, 16 + 20);
    put32(&f, BLOCK_PACKET);
    put32(&f, 32 + 8);
    put16(&f, 0);
    put16(&f, 7);
    put32(&f, 0); /* the time's high word comes first, in either order */
    put32(&f, 2000);
    put32(&f, 5);
    put32(&f, 5);
    put_packet(&f, 5, 5);
    put_padding(&f, 5);
    put32(&f, 32 + 8);
    for (uint32_t burst = 1; burst <= FRAMES_MAX; burst += 3) {
        result r = read_all(f.bytes, f.len, burst);
        CHECK_TEXT(r.text, "");
        CHECK_U64(r.n, 5);
        check_frame(&r.frame[0], 1, 1250000000, 60, 60, 1);
        check_frame(&r.frame[1], 2, 1250000000, 33, 1514, 113);
        check_frame(&r.frame[2], 3, 101500000000, 0, 0, 101);
        check_frame(&r.frame[3], 5, 0, 20, 64, 101);
        check_frame(&r.frame[4], 6, 102000000000, 5, 5, 101);
        CHECK_U64(r.frame[0].direction, PAL_FRAME_DIRECTION_UNKNOWN);
        CHECK_U64(r.frame[1].direction, PAL_FRAME_OUTBOUND);
        CHECK_U64(r.frame[2].direction, PAL_FRAME_INBOUND);
        CHECK_U64(r.frame[1].interface, 1);
    }
}

static void test_time(bool big)
{
    const struct { int resolution; int64_t offset; uint64_t ts, ns; } rows[] = {
        {-1, 0, 7, 7000}, {0, 0, 7, 7000000000}, {9, 0, 7, 7}, {12, 0, 1999, 1}, {28, 0, UINT64_MAX, 1},
        {29, 0, UINT64_MAX, 0}, {0x7f, 0, UINT64_MAX, 0}, {0x80, 0, 3, 3000000000}, {0x8a, 0, 1536, 1500000000},
        {0x9e, 0, UINT64_C(3) << 29, 1500000000}, {0xc0, 0, UINT64_C(1) << 63, 500000000}, {0xff, 0, UINT64_MAX, 0},
        {6, 0, UINT64_MAX, UINT64_MAX}, {0, 0, UINT64_MAX, UINT64_MAX}, {0x80, 0, UINT64_MAX, UINT64_MAX},
        {9, 0, UINT64_MAX, UINT64_MAX}, {9, 1, UINT64_MAX - 5, UINT64_MAX}, {6, -1, 2500000, 1500000000}, {6, -3, 2500000, 0},
        {6, INT64_MIN, UINT64_MAX, 0}, {9, INT64_MAX, UINT64_MAX, UINT64_MAX}, {0, INT64_MAX, UINT64_MAX, UINT64_MAX},
        {9, -2, UINT64_C(2000000007), 7}};
    for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char name[64];
        snprintf(name, sizeof name, "time, row %u", i);
        start(name, big);
        section(&f);
        interface(&f, 1, 0, rows[i].resolution, rows[i].offset);
        enhanced(&f, 0, rows[i].ts, 1, 4, 4, -1);
        result r = read_file(&f);
        CHECK_U64(r.n, 1);
        CHECK_U64(r.frame[0].ts_ns, rows[i].ns);
    }
}

/* One bad block after one good packet: the packet stands, the sentence says where (byte 84). */
static void test_pcapng_bad(bool big)
{
    const struct { const char *what; uint32_t type; int lie, trailer_lie; const char *says; } rows[] = {
        {"lengths differ", 0x4242, 0, 4, "bad pcapng block at byte 84, after packet 1: the lengths at its two ends differ"},
        {"length 0", 0x4242, -28, 0, "bad pcapng block at byte 84, after packet 1: its length is impossible"},
        {"length 8", 0x4242, -20, 0, "bad pcapng block at byte 84, after packet 1: its length is impossible"},
        {"length near 2^32", 0x4242, -29, 0, "bad pcapng block at byte 84, after packet 1: its length is impossible"},
        {"length past the end", 0x4242, 4, 0, "truncated at byte 112 inside the block at byte 84, after packet 1"},
        {"packet too short", 6, 0, 0, "bad pcapng block at byte 84, after packet 1: the packet block is too short"},
        {"section without magic", 0x0a0d0d0a, 0, 0,
         "bad pcapng block at byte 84, after packet 1: the section header has no byte-order magic"}};
    for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        start(rows[i].what, big);
        section(&f);
        interface(&f, 1, 0, -1, 0);
        enhanced(&f, 0, 1, 1, 4, 4, -1);
        block(&f, rows[i].type, "0123456789abcdef", 16, rows[i].lie, rows[i].trailer_lie);
        result r = read_file(&f);
        CHECK_U64(r.n, 1);
        CHECK_TEXT(r.text, rows[i].says);
    }
    start("interfaces past the bound", big);
    section(&f);
    for (unsigned i = 0; i <= PAL_CAPTURE_INTERFACES; i++)
        interface(&f, 1, 0, -1, 0);
    enhanced(&f, PAL_CAPTURE_INTERFACES - 1, 1, 1, 4, 4, -1);
    enhanced(&f, PAL_CAPTURE_INTERFACES, 1, 1, 4, 4, -1);
    CHECK_U64(read_file(&f).n, 1);
    CHECK(strstr(read_file(&f).text, "is on interface 4096") != NULL);
}

int main(void)
{
    for (int big = 0; big <= 1; big++) {
        test_pcap(big);
        test_time(big);
        test_pcapng_bad(big);
        test_pcapng(big);
        test_damage("damaged pcapng");
    }
    test_pcap_refused();
    check_where = "names";
    CHECK_TEXT(pal_linktype_name(1), "ETHERNET");
    CHECK_TEXT(pal_linktype_name(276), "LINUX_SLL2");
    CHECK_TEXT(pal_linktype_name(65536), "unknown");
    return check_end("test_capture");
}
