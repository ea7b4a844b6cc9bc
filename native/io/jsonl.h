/* SPDX-License-Identifier: Apache-2.0
 *
 * jsonl.h - buffered text to a file descriptor, with the numbers and strings of JSON (RFC 8259): what the verdict and
 * flow records are written with. The record layer says the punctuation with pal_text_literal().
 *
 * pal_text_open   A writer onto fd, which stays the caller's. NULL: no memory.
 * pal_text_close  Writes what is buffered and frees the writer. 0, or the first -errno that occurred since open. NULL is
 *                 allowed and is 0.
 * Errors stick: after one nothing more is written. Nothing here allocates after open.
 */
#ifndef PAL_IO_JSONL_H
#define PAL_IO_JSONL_H

#include "../core/base.h"

/* Bytes as they are. */
void pal_text_bytes(pal_text *t, const char *bytes, size_t len);

/* A literal of the source: its length is known to the compiler. */
#define pal_text_literal(t, literal) pal_text_bytes((t), "" literal, sizeof(literal) - 1)

void pal_text_u64(pal_text *t, uint64_t v);
void pal_text_i64(pal_text *t, int64_t v);

/* Nanoseconds as seconds: up to nine decimals, zeros at the end left out but for the first: 1.25, 1.0, 0.000000001. */
void pal_text_seconds(pal_text *t, uint64_t ns);

/* A JSON string with its quotes, of any bytes. Control characters, quote and backslash are escaped; UTF-8 goes through
 * as it is; what is not UTF-8 becomes \ufffd, one for each maximal part of a character (Unicode 15, section 3.9). */
void pal_text_string(pal_text *t, const char *bytes, size_t len);

/* "true" or "false"; "null". */
void pal_text_bool(pal_text *t, bool v);
void pal_text_null(pal_text *t);

/* 0, or the -errno that made the writer stop: to end a long run early when the disk is full. */
int pal_text_error(const pal_text *t);

#endif
