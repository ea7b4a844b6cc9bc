/* SPDX-License-Identifier: Apache-2.0
 *
 * geneve.h - the Geneve header (RFC 8926 section 3.4), its options, and the one option of ours (docs/geneve-options.md).
 */
#ifndef PAL_CORE_GENEVE_H
#define PAL_CORE_GENEVE_H

#include "base.h"

#define GENEVE_PORT 6081
#define GENEVE_HEADER 8
#define GENEVE_OPTIONS_MAX 252 /* 63 words */
#define GENEVE_ETHERNET 0x6558 /* protocol type: an Ethernet frame follows */

enum { /* geneve_header.flags: the header's second byte */
    GENEVE_OAM = 0x80,      /* a control packet: for the tunnel endpoint itself */
    GENEVE_CRITICAL = 0x40, /* some option has its critical bit set */
};

/* Our option: of an experimental class, not critical, two words of data. Whoever does not know it passes over it. */
#define GENEVE_OURS_CLASS 0xff5a
#define GENEVE_OURS_TYPE 0x01
#define GENEVE_OURS_BYTES 12

enum { /* geneve_header.marks */
    GENEVE_REPLICATE = 1, /* for the segment's vNICs at the receiving host, and for no other host */
    GENEVE_ONWARD = 2,    /* sent on by a host that the destination has left: not to be sent on again */
};

/* What a header says. `ours`: our option is there, and with it vnic, marks and trace. */
typedef struct geneve_header {
    uint32_t vni;
    uint32_t vnic;      /* filter number of the sending vNIC at its host */
    uint32_t trace;     /* 24 bits; 0: not traced */
    uint16_t protocol;
    uint16_t len;       /* bytes of header and options */
    uint8_t flags;      /* GENEVE_OAM, GENEVE_CRITICAL */
    uint8_t marks;      /* GENEVE_REPLICATE, GENEVE_ONWARD */
    bool ours;
} geneve_header;

/* Each option is four bytes and (length & 31) words; one with its C bit set that we do not know, and we know none, must be
 * refused (section 3.5). Others are passed over. g may be NULL. */
static inline bool geneve_options_read(const uint8_t *opt, uint32_t len, geneve_header *g)
{
    for (uint32_t at = 0; at < len;) {
        if (at + 4 > len)
            return false;
        uint32_t size = 4 + (opt[at + 3] & 31u) * 4;
        if (at + size > len || (opt[at + 2] & 0x80))
            return false;
        if (g && !g->ours && load_be16(opt + at) == GENEVE_OURS_CLASS && opt[at + 2] == GENEVE_OURS_TYPE && size == GENEVE_OURS_BYTES) {
            g->ours = true;
            g->vnic = load_be32(opt + at + 4);
            g->marks = opt[at + 8];
            g->trace = load_be32(opt + at + 8) & 0xffffff;
        }
        at += size;
    }
    return true;
}

/* Of `there` bytes at h. False: version, length or an option does not fit; nothing of *g counts then. What protocol follows is
 * the caller's to judge. */
PAL_INLINE bool geneve_read(const uint8_t *h, uint32_t there, geneve_header *g)
{
    if (PAL_UNLIKELY(there < GENEVE_HEADER))
        return false;
    uint32_t options = (h[0] & 63u) * 4;
    g->ours = false;
    g->vnic = g->trace = 0;
    g->marks = 0;
    g->flags = h[1] & (GENEVE_OAM | GENEVE_CRITICAL);
    g->protocol = load_be16(h + 2);
    g->vni = load_be32(h + 4) >> 8;
    g->len = (uint16_t)(GENEVE_HEADER + options);
    if (PAL_UNLIKELY(h[0] >> 6 != 0) || PAL_UNLIKELY(there < g->len))
        return false;
    return PAL_LIKELY(options == 0) || geneve_options_read(h + GENEVE_HEADER, options, g);
}

PAL_INLINE uint32_t geneve_bytes(const geneve_header *g) { return g->ours ? GENEVE_HEADER + GENEVE_OURS_BYTES : GENEVE_HEADER; }

/* Writes geneve_bytes(g) bytes at h: g->len is not looked at, and the only option is ours. */
PAL_INLINE void geneve_write(uint8_t *h, const geneve_header *g)
{
    h[0] = g->ours ? GENEVE_OURS_BYTES / 4 : 0;
    h[1] = g->flags & GENEVE_OAM;
    store_be16(h + 2, g->protocol);
    store_be32(h + 4, g->vni << 8);
    if (PAL_LIKELY(!g->ours))
        return;
    store_be16(h + 8, GENEVE_OURS_CLASS);
    h[10] = GENEVE_OURS_TYPE;
    h[11] = (GENEVE_OURS_BYTES - 4) / 4;
    store_be32(h + 12, g->vnic);
    store_be32(h + 16, (uint32_t)g->marks << 24 | (g->trace & 0xffffff));
}

#endif
