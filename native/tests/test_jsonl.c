/* SPDX-License-Identifier: Apache-2.0
 *
 * test_jsonl.c - the text writer: numbers, seconds, strings of any bytes, errors.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>

#include "../io/jsonl.c"
#include "check.h"

static int file_new(void)
{
    const int fd = memfd_create("jsonl", MFD_CLOEXEC);
    if (fd < 0) {
        perror("memfd_create");
        exit(2);
    }
    return fd;
}

/* Closes the writer and its file, and gives what it wrote. */
static char *finish(pal_text *t, int fd)
{
    CHECK_U64(pal_text_close(t), 0);
    const size_t len = (size_t)lseek(fd, 0, SEEK_END);
    char *text = malloc(len + 1);
    if (text == NULL || pread(fd, text, len, 0) != (ssize_t)len) {
        perror("pread");
        exit(2);
    }
    text[len] = '\0';
    close(fd);
    return text;
}

static void test_numbers(void)
{
    const struct { uint64_t v; const char *number, *seconds; } rows[] = {
        {0, "0", "0.0"}, {9, "9", "0.000000009"}, {10, "10", "0.00000001"}, {99, "99", "0.000000099"},
        {100, "100", "0.0000001"}, {1250000000, "1250000000", "1.25"}, {1000000000, "1000000000", "1.0"},
        {999999999, "999999999", "0.999999999"}, {UINT64_C(1700000000100000000), "1700000000100000000", "1700000000.1"},
        {UINT64_MAX, "18446744073709551615", "18446744073.709551615"}};
    for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        check_where = rows[i].number;
        int fd = file_new();
        pal_text *t = pal_text_open(fd);
        pal_text_u64(t, rows[i].v);
        pal_text_literal(t, " ");
        pal_text_seconds(t, rows[i].v);
        char expected[64];
        snprintf(expected, sizeof expected, "%s %s", rows[i].number, rows[i].seconds);
        char *text = finish(t, fd);
        CHECK_TEXT(text, expected);
        free(text);
    }
    check_where = "signed and words";
    int fd = file_new();
    pal_text *t = pal_text_open(fd);
    pal_text_i64(t, INT64_MIN);
    pal_text_literal(t, ",");
    pal_text_i64(t, -1);
    pal_text_literal(t, ",");
    pal_text_i64(t, INT64_MAX);
    pal_text_literal(t, ",");
    pal_text_bool(t, true);
    pal_text_bool(t, false);
    pal_text_null(t);
    char *text = finish(t, fd);
    CHECK_TEXT(text, "-9223372036854775808,-1,9223372036854775807,truefalsenull");
    free(text);
}

static void test_strings(void)
{
    const struct { const char *bytes; size_t len; const char *json; } rows[] = {
        {NULL, 0, "\"\""}, {"web-1", 5, "\"web-1\""}, {"a\"b\\c/", 6, "\"a\\\"b\\\\c/\""},
        {"\b\f\n\r\t\0\x1f\x7f", 8, "\"\\b\\f\\n\\r\\t\\u0000\\u001f\\u007f\""},
        {"caf\xc3\xa9", 5, "\"caf\xc3\xa9\""}, {"\xe2\x82\xac", 3, "\"\xe2\x82\xac\""},
        {"\xf0\x9f\x90\x9f", 4, "\"\xf0\x9f\x90\x9f\""}, {"\xf4\x8f\xbf\xbf", 4, "\"\xf4\x8f\xbf\xbf\""},
        {"\x80", 1, "\"\\ufffd\""}, {"\xc0\xaf", 2, "\"\\ufffd\\ufffd\""},                /* overlong */
        {"\xe0\x80\xaf", 3, "\"\\ufffd\\ufffd\\ufffd\""},                                   /* overlong */
        {"\xed\xa0\x80", 3, "\"\\ufffd\\ufffd\\ufffd\""},                                   /* a surrogate */
        {"\xf4\x90\x80\x80", 4, "\"\\ufffd\\ufffd\\ufffd\\ufffd\""},                        /* past U+10FFFF */
        {"\xe2\x82", 2, "\"\\ufffd\""}, {"\xf0\x9f\x90", 3, "\"\\ufffd\""},                 /* cut at the end: one */
        {"\xf0\x9f\x90z", 4, "\"\\ufffdz\""}, {"\xe2\x82\xe2\x82\xac", 5, "\"\\ufffd\xe2\x82\xac\""},
        /* Unicode's own example, table 3-11 */
        {"\x61\xf1\x80\x80\xe1\x80\xc2\x62\x80\x63\x80\xbf\x64", 13, "\"a\\ufffd\\ufffd\\ufffdb\\ufffdc\\ufffd\\ufffdd\""}};
    for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        check_where = rows[i].json;
        fenced bytes = fence(rows[i].bytes, rows[i].len);
        int fd = file_new();
        pal_text *t = pal_text_open(fd);
        pal_text_string(t, rows[i].bytes == NULL ? NULL : (const char *)bytes.data, rows[i].len);
        char *text = finish(t, fd);
        CHECK_TEXT(text, rows[i].json);
        free(text);
        unfence(bytes);
    }
}

/* The buffer's end must fall into every kind of piece, and a piece may be larger than the buffer. */
static void test_buffer(void)
{
    check_where = "the buffer's end";
    static char filler[PAL_SINK_BYTES + 100];
    memset(filler, 'x', sizeof filler);
    for (size_t before = PAL_SINK_BYTES - 70; before <= PAL_SINK_BYTES + 1; before++) {
        int fd = file_new();
        pal_text *t = pal_text_open(fd);
        pal_text_bytes(t, filler, before);
        pal_text_seconds(t, UINT64_MAX);
        pal_text_string(t, "\n\x01\xff\xc3\xa9", 5);
        pal_text_i64(t, INT64_MIN);
        char *text = finish(t, fd);
        CHECK(strspn(text, "x") == before);
        CHECK_TEXT(text + before, "18446744073.709551615\"\\n\\u0001\\ufffd\xc3\xa9\"-9223372036854775808");
        free(text);
    }
}

static void test_errors(void)
{
    check_where = "nobody reads";
    int ends[2];
    if (pipe(ends) != 0) {
        perror("pipe");
        exit(2);
    }
    signal(SIGPIPE, SIG_IGN);
    close(ends[0]);
    pal_text *t = pal_text_open(ends[1]);
    pal_text_literal(t, "lost");
    CHECK_U64(pal_text_error(t), 0); /* still in the buffer */
    static char filler[PAL_SINK_BYTES];
    pal_text_bytes(t, filler, sizeof filler);
    CHECK(pal_text_error(t) == -EPIPE);
    pal_text_u64(t, 1);
    CHECK(pal_text_close(t) == -EPIPE);
    close(ends[1]);
    check_where = "a closed descriptor";
    t = pal_text_open(ends[1]);
    pal_text_literal(t, "lost");
    CHECK(pal_text_close(t) == -EBADF);
    CHECK_U64(pal_text_close(NULL), 0);
}

int main(void)
{
    test_numbers();
    test_strings();
    test_buffer();
    test_errors();
    return check_end("test_jsonl");
}
