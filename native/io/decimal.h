/* SPDX-License-Identifier: Apache-2.0
 *
 * decimal.h - numbers as text, for the writers of records.
 */
#ifndef PAL_IO_DECIMAL_H
#define PAL_IO_DECIMAL_H

#include "../core/base.h"

#define DECIMAL_U64_MAX 20u                       /* digits of a uint64_t */
#define DECIMAL_SECONDS_MAX (DECIMAL_U64_MAX + 10u) /* and a point, and nine more */

/* Two digits at a time: half the divisions. */
PAL_INLINE void decimal_pair(char *to, uint32_t v)
{
    static const char pairs[201] = "00010203040506070809101112131415161718192021222324252627282930313233343536373839"
                                   "40414243444546474849505152535455565758596061626364656667686970717273747576777879"
                                   "8081828384858687888990919293949596979899";
    memcpy(to, pairs + 2 * v, 2);
}

/* Writes v's digits and returns how many. */
PAL_INLINE size_t decimal_u64(char *to, uint64_t v)
{
    char reversed[DECIMAL_U64_MAX];
    char *p = reversed + DECIMAL_U64_MAX;
    while (v >= 100) {
        p -= 2;
        decimal_pair(p, (uint32_t)(v % 100));
        v /= 100;
    }
    if (v >= 10) {
        p -= 2;
        decimal_pair(p, (uint32_t)v);
    } else {
        *--p = (char)('0' + v);
    }
    const size_t n = (size_t)(reversed + DECIMAL_U64_MAX - p);
    memcpy(to, p, n);
    return n;
}

/* A point and the decimals of `fraction` billionths, zeros at the end left out but for the first: ".25", ".0". Nothing is
 * rounded: the text is the number. Writes up to ten characters and returns how many count. */
PAL_INLINE size_t decimal_fraction(char *to, uint32_t fraction)
{
    const uint32_t high = fraction / 10000u, low = fraction % 10000u; /* five digits, four digits */
    to[0] = '.';
    to[1] = (char)('0' + high / 10000u);
    decimal_pair(to + 2, high / 100u % 100u);
    decimal_pair(to + 4, high % 100u);
    decimal_pair(to + 6, low / 100u);
    decimal_pair(to + 8, low % 100u);
    size_t n = 10;
    while (n > 2 && to[n - 1] == '0')
        n--;
    return n;
}

/* Nanoseconds as seconds: 1.25, 1.0, 0.000000001. */
PAL_INLINE size_t decimal_seconds(char *to, uint64_t ns)
{
    const size_t n = decimal_u64(to, ns / 1000000000u);
    return n + decimal_fraction(to + n, (uint32_t)(ns % 1000000000u));
}

#endif
