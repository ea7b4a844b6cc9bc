/* SPDX-License-Identifier: Apache-2.0
 *
 * jsonl.c - the text writer of jsonl.h.
 */
#include <stdlib.h>

#include "decimal.h"
#include "jsonl.h"
#include "sink.h"

struct pal_text {
    sink out;
};

#define ESCAPE_MAX 6u /* \u001f */

pal_text *pal_text_open(int fd)
{
    pal_text *t = malloc(sizeof *t);
    if (t == NULL)
        return NULL;
    t->out.fd = fd;
    t->out.error = 0;
    t->out.used = 0;
    return t;
}

int pal_text_close(pal_text *t)
{
    if (t == NULL)
        return 0;
    sink_flush(&t->out);
    const int error = t->out.error;
    free(t);
    return error;
}

int pal_text_error(const pal_text *t) { return t->out.error; }

void pal_text_bytes(pal_text *t, const char *bytes, size_t len) { sink_append(&t->out, bytes, len); }

void pal_text_u64(pal_text *t, uint64_t v)
{
    char *to = sink_room(&t->out, DECIMAL_U64_MAX);
    t->out.used += decimal_u64(to, v);
}

void pal_text_i64(pal_text *t, int64_t v)
{
    if (v < 0)
        pal_text_bytes(t, "-", 1);
    pal_text_u64(t, v < 0 ? -(uint64_t)v : (uint64_t)v);
}

void pal_text_seconds(pal_text *t, uint64_t ns)
{
    char *to = sink_room(&t->out, DECIMAL_SECONDS_MAX);
    t->out.used += decimal_seconds(to, ns);
}

void pal_text_bool(pal_text *t, bool v)
{
    if (v)
        pal_text_literal(t, "true");
    else
        pal_text_literal(t, "false");
}

void pal_text_null(pal_text *t) { pal_text_literal(t, "null"); }

/* The well-formed character at p (left bytes follow; the first is 0x80 or more): its length, with *good. Else the length
 * of the maximal part that begins like one, at least 1 (Unicode, tables 3-7 and 3-8). */
static size_t character(const uint8_t *p, size_t left, bool *good)
{
    const uint8_t first = p[0];
    uint8_t lo = 0x80, hi = 0xbf; /* of the second byte */
    size_t length;
    *good = false;
    if (first >= 0xc2 && first <= 0xdf) {
        length = 2;
    } else if (first >= 0xe0 && first <= 0xef) {
        length = 3;
        lo = first == 0xe0 ? 0xa0 : 0x80; /* overlong */
        hi = first == 0xed ? 0x9f : 0xbf; /* surrogates */
    } else if (first >= 0xf0 && first <= 0xf4) {
        length = 4;
        lo = first == 0xf0 ? 0x90 : 0x80; /* overlong */
        hi = first == 0xf4 ? 0x8f : 0xbf; /* past U+10FFFF */
    } else {
        return 1;
    }
    for (size_t i = 1; i < length; i++) {
        if (i == left || p[i] < lo || p[i] > hi)
            return i;
        lo = 0x80;
        hi = 0xbf;
    }
    *good = true;
    return length;
}

static size_t escape(char *to, uint8_t byte)
{
    static const char hex[] = "0123456789abcdef";
    char letter;
    switch (byte) {
    case '"': letter = '"'; break;
    case '\\': letter = '\\'; break;
    case '\b': letter = 'b'; break;
    case '\f': letter = 'f'; break;
    case '\n': letter = 'n'; break;
    case '\r': letter = 'r'; break;
    case '\t': letter = 't'; break;
    default:
        memcpy(to, "\\u00", 4);
        to[4] = hex[byte >> 4];
        to[5] = hex[byte & 15];
        return ESCAPE_MAX;
    }
    to[0] = '\\';
    to[1] = letter;
    return 2;
}

PAL_INLINE bool is_plain(uint8_t byte) { return byte >= 0x20 && byte < 0x7f && byte != '"' && byte != '\\'; }

void pal_text_string(pal_text *t, const char *bytes, size_t len)
{
    sink *out = &t->out;
    if (len == 0) { /* bytes may be NULL */
        sink_append(out, "\"\"", 2);
        return;
    }
    const uint8_t *p = (const uint8_t *)bytes, *end = p + len;
    sink_append(out, "\"", 1);
    while (p < end) {
        const uint8_t *run = p;
        while (p < end && is_plain(*p))
            p++;
        sink_append(out, run, (size_t)(p - run));
        if (p == end)
            break;
        if (*p < 0x80) {
            char *to = sink_room(out, ESCAPE_MAX);
            out->used += escape(to, *p++);
            continue;
        }
        bool good;
        const size_t n = character(p, (size_t)(end - p), &good);
        if (good)
            sink_append(out, p, n);
        else
            sink_append(out, "\\ufffd", 6);
        p += n;
    }
    sink_append(out, "\"", 1);
}
