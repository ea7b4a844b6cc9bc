/* SPDX-License-Identifier: Apache-2.0
 *
 * checksum.h - the Internet checksum (RFC 1071) and SCTP's CRC32c (RFC 9260 appendix A).
 */
#ifndef PAL_CORE_CHECKSUM_H
#define PAL_CORE_CHECKSUM_H

#include "packet.h"

/* Ones'-complement sum of `len` bytes in the machine's byte order, not yet folded. */
PAL_INLINE uint64_t sum_bytes(const uint8_t *p, uint32_t len, uint64_t sum)
{
    uint64_t even = 0, odd = 0;
    for (; len >= 16; p += 16, len -= 16) {
        uint64_t a = load_u64(p), b = load_u64(p + 8);
        even += (a & 0xffffffffu) + (a >> 32);
        odd += (b & 0xffffffffu) + (b >> 32);
    }
    sum += even;
    sum += odd;
    for (; len >= 4; p += 4, len -= 4)
        sum += load_u32(p);
    uint8_t tail[4] = {0};
    for (uint32_t i = 0; i < len; i++)
        tail[i] = p[i];
    return sum + load_u32(tail);
}

PAL_INLINE uint16_t sum_fold(uint64_t sum)
{
    sum = (sum & 0xffffffffu) + (sum >> 32);
    sum = (sum & 0xffffffffu) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

/* A header or packet that contains its own checksum sums to ffff. */
PAL_INLINE bool sum_is_good(uint64_t sum) { return sum_fold(sum) == 0xffff; }
PAL_INLINE uint16_t sum_finish(uint64_t sum) { return (uint16_t)~sum_fold(sum); }

/* Pseudo-header of RFC 9293 section 3.1 and RFC 8200 section 8.1. */
PAL_INLINE uint64_t sum_pseudo(const pal_packet *p, uint8_t proto, uint32_t l4_len)
{
    uint8_t tail[8] = {(uint8_t)(l4_len >> 24), (uint8_t)(l4_len >> 16), (uint8_t)(l4_len >> 8), (uint8_t)l4_len,
                       0, 0, 0, proto};
    return sum_bytes(packet_src(p), 2 * addr_bytes(p), sum_bytes(tail, 8, 0));
}

/* CRC32c, the low bit first, a nibble at a time: small tables, and SCTP is not on the hot path. */
static inline uint32_t crc32c(const uint8_t *p, uint32_t len, uint32_t crc)
{
    static const uint32_t nibble[16] = {
        0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
        0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75};
    for (uint32_t i = 0; i < len; i++) {
        crc ^= p[i];
        crc = (crc >> 4) ^ nibble[crc & 15];
        crc = (crc >> 4) ^ nibble[crc & 15];
    }
    return crc;
}

static inline bool sctp_sum_is_good(const uint8_t *l4, uint32_t len)
{
    static const uint8_t zero[4] = {0};
    uint32_t crc = crc32c(l4, 8, 0xffffffffu);
    crc = crc32c(zero, 4, crc);
    crc = ~crc32c(l4 + 12, len - 12, crc);
    return load_u32(l4 + 8) == be32(__builtin_bswap32(crc));
}

/* The transport checksum of a whole packet. */
static inline enum pal_sum l4_checksum(const pal_packet *p)
{
    if (p->cap < p->l4 + p->l4_len)
        return SUM_UNVERIFIED; /* snapped off: nobody can know */
    const uint8_t *l4 = p->data + p->l4;
    uint64_t start;
    switch (p->proto) {
    case PROTO_TCP:
        start = sum_pseudo(p, PROTO_TCP, p->l4_len);
        break;
    case PROTO_UDP: {
        uint32_t ulen = load_be16(l4 + 4);
        if (load_u16(l4 + 6) == 0)
            return SUM_UNVERIFIED;
        return sum_is_good(sum_bytes(l4, ulen, sum_pseudo(p, PROTO_UDP, ulen))) ? SUM_GOOD : SUM_BAD;
    }
    case PROTO_ICMP:
        if (p->family != PAL_FAMILY_V4)
            return SUM_UNVERIFIED;
        start = 0;
        break;
    case PROTO_ICMP6:
        if (p->family != PAL_FAMILY_V6)
            return SUM_UNVERIFIED;
        start = sum_pseudo(p, PROTO_ICMP6, p->l4_len);
        break;
    case PROTO_SCTP:
        return sctp_sum_is_good(l4, p->l4_len) ? SUM_GOOD : SUM_BAD;
    default:
        return SUM_UNVERIFIED;
    }
    return sum_is_good(sum_bytes(l4, p->l4_len, start)) ? SUM_GOOD : SUM_BAD;
}

#endif
