/* SPDX-License-Identifier: Apache-2.0
 *
 * bytes.h - a packet written field by field into one buffer, and what the parser makes of it.
 */
#ifndef PAL_TESTS_BYTES_H
#define PAL_TESTS_BYTES_H

#include "../../core/parse.h"

static uint8_t b[4000];
static uint32_t n; /* bytes in b */

static inline pal_packet parsed_with(uint32_t link, parse_options o, uint32_t cap, uint32_t wire)
{
    /* What the parser leaves is its own: it begins with rubbish. */
    pal_packet p = {.data = b, .cap = cap, .wire = wire, .wire_bytes = 99, .vrf = 99, .fragments = 99, .ip_len = 99, .l4_len = 99,
                    .payload_len = 99, .marks = 0xff, .ip_sum = 9, .l4_sum = 9, .odd = 9, .family = 9};
    parse_frame(&p, link, &o);
    return p;
}
static inline pal_packet parsed(uint32_t link) { return parsed_with(link, (parse_options){.sum_mode = SUM_MODE_OFF}, n, n); }

static inline void put(const void *bytes, uint32_t len)
{
    if (len)
        memcpy(b + n, bytes, len);
    n += len;
}
static inline void put16(uint32_t v) { put((uint8_t[]){(uint8_t)(v >> 8), (uint8_t)v}, 2); }
static inline void zeros(uint32_t len)
{
    memset(b + n, 0, len);
    n += len;
}

/* IPv4 header with `options` bytes of them, then a UDP header: 8 bytes and `len` more. */
static inline void put_ip4(uint8_t proto, const uint8_t *options, uint32_t olen, uint32_t len)
{
    uint32_t at = n;
    put((uint8_t[]){(uint8_t)(0x45 + olen / 4), 0}, 2);
    put16(20 + olen + len);
    put((uint8_t[]){0, 0, 0, 0, 64, proto, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}, 16);
    put(options, olen);
    uint16_t sum = sum_finish(sum_bytes(b + at, 20 + olen, 0));
    memcpy(b + at + 10, &sum, 2);
}
static inline void put_udp(uint16_t sport, uint16_t dport, uint32_t len)
{
    put16(sport), put16(dport), put16(8 + len), put16(0);
    zeros(len);
}
static inline void put_ip6(uint8_t next, uint32_t len)
{
    put((uint8_t[]){0x60, 0, 0, 0}, 4);
    put16(len);
    put((uint8_t[]){next, 64, 0xfd, 0}, 4);
    zeros(13);
    put((uint8_t[]){1, 0xfd}, 2);
    zeros(14);
    put((uint8_t[]){2}, 1);
}

#endif
