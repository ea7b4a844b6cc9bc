/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_jsonl.c - any bytes as a JSON string: what comes out is a well-formed JSON string of well-formed UTF-8 on one
 * line, at most six times as long, and the bytes that were plain ASCII are in it in order.
 */
#define _GNU_SOURCE
#include "../io/jsonl.c"

#include <stdio.h>
#include <sys/mman.h>

#include "must.h"

/* The code point at p, decoded by arithmetic alone (RFC 3629), so not by the tables under test. Its length, or 0. */
static size_t decode(const uint8_t *p, size_t left, uint32_t *point)
{
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    const size_t n = p[0] < 0x80 ? 1 : p[0] >> 5 == 6 ? 2 : p[0] >> 4 == 14 ? 3 : p[0] >> 3 == 30 ? 4 : 0;
    if (n == 0 || n > left)
        return 0;
    *point = n == 1 ? p[0] : p[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if (p[i] >> 6 != 2)
            return 0;
        *point = *point << 6 | (p[i] & 0x3fu);
    }
    return *point < least[n] || *point > 0x10ffff || *point >> 11 == 27 ? 0 : n;
}

/* The length of the maximal part at p that one U+FFFD stands for: as long as some bytes after it would make a character. */
static size_t bad_run(const uint8_t *p, size_t left)
{
    size_t run = 1;
    for (size_t k = 1; k <= 3 && k <= left; k++) {
        uint8_t low[4] = {0x80, 0x80, 0x80, 0x80}, high[4] = {0xbf, 0xbf, 0xbf, 0xbf};
        uint32_t ignored;
        memcpy(low, p, k);
        memcpy(high, p, k);
        if (decode(low, 4, &ignored) > k || decode(high, 4, &ignored) > k)
            run = k;
    }
    return run;
}

static unsigned hex_digit(uint8_t c)
{
    MUST((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'));
    return c <= '9' ? c - '0' : c - 'a' + 10u;
}

/* Walks the JSON string and the input together: each good character stands for itself, each bad byte run for U+FFFD. */
static void verify(const uint8_t *in, size_t in_len, const uint8_t *out, size_t out_len)
{
    MUST(out_len >= 2 && out_len <= 6 * in_len + 2 && out[0] == '"' && out[out_len - 1] == '"');
    const uint8_t *p = out + 1, *end = out + out_len - 1;
    while (p < end) {
        MUST(in_len > 0);
        uint32_t got, expected;
        const size_t n = decode(p, (size_t)(end - p), &got);
        MUST(n != 0 && got >= 0x20 && got != '"');
        p += n;
        if (got == '\\') {
            static const char letters[] = "\"\\bfnrt", meanings[] = "\"\\\b\f\n\r\t";
            MUST(p < end);
            const char *letter = *p == '\0' ? NULL : strchr(letters, *p);
            if (letter != NULL) {
                got = (uint8_t)meanings[letter - letters];
                p++;
            } else {
                MUST(*p == 'u' && end - p >= 5);
                got = 0;
                for (int i = 1; i <= 4; i++)
                    got = got << 4 | hex_digit(p[i]);
                MUST(got == 0xfffd || got < 0x80);
                p += 5;
            }
        }
        size_t used = decode(in, in_len, &expected);
        if (used == 0) { /* one replacement for at least one byte; no good character is swallowed */
            MUST(got == 0xfffd);
            used = bad_run(in, in_len);
        } else {
            MUST(got == expected);
        }
        in += used;
        in_len -= used;
    }
    MUST(in_len == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const int fd = memfd_create("fuzz", MFD_CLOEXEC);
    pal_text *t = pal_text_open(fd);
    MUST(fd >= 0 && t != NULL);
    pal_text_string(t, (const char *)data, size);
    MUST(pal_text_close(t) == 0);
    const size_t len = (size_t)lseek(fd, 0, SEEK_END);
    uint8_t *out = malloc(len);
    MUST(out != NULL && pread(fd, out, len, 0) == (ssize_t)len);
    verify(data, size, out, len);
    free(out);
    close(fd);
    return 0;
}
