/* SPDX-License-Identifier: Apache-2.0
 *
 * palisade_core.h - the only thing Python sees of the packet core.
 *
 * The region between "cffi: begin" and "cffi: end" is read by cffi (no attributes, no asserts, no macros but
 * integer #defines); gcc reads the whole file. Everything here is plain data: fixed-width integers, arrays owned
 * by the caller, opaque handles owned by the core. A call crosses once a batch, never once a packet.
 */
#ifndef PALISADE_CORE_H
#define PALISADE_CORE_H

#include <stddef.h>
#include <stdint.h>

/* cffi: begin */

/* ---- rules and address sets (native/engine/classifier.c) ------------------------------------------------- */

#define PAL_ACTION_ALLOW 0
#define PAL_ACTION_DROP 1
#define PAL_ACTION_REJECT 2

#define PAL_DIR_IN 1
#define PAL_DIR_OUT 2

#define PAL_FAMILY_V4 1
#define PAL_FAMILY_V6 2

#define PAL_RULE_STATEFUL 1
#define PAL_RULE_TCP_STRICT 2
#define PAL_RULE_LOGGED 4
#define PAL_RULE_SRC_NEGATED 8
#define PAL_RULE_DST_NEGATED 16
#define PAL_RULE_PERSIST 32

#define PAL_ALG_NONE 0
#define PAL_ALG_FTP 1
#define PAL_ALG_TFTP 2

#define PAL_PROTO_ANY 256

/* One classifier entry. A model rule with several services becomes several entries that share `rule`.
 * Entries are in priority order: the first that matches decides. Ranges are inclusive.
 * For ICMP and ICMPv6 the destination port is (type << 8 | code) and the source port is 0; for protocols without
 * ports both are 0. Addresses: the entry matches when the packet's address is a member of any of the sets
 * set_refs[src_off .. src_off + src_n); src_n == 0 means any address; SRC_NEGATED inverts a non-empty list. */
typedef struct pal_rule {
    uint32_t rule;                 /* number of the model's rule, given by the caller */
    uint32_t src_off, src_n;
    uint32_t dst_off, dst_n;
    uint16_t sport_lo, sport_hi;
    uint16_t dport_lo, dport_hi;
    uint16_t proto;                /* 0..255, or PAL_PROTO_ANY */
    uint8_t tcp_mask, tcp_value;   /* matches when (flags & mask) == value; mask 0: any */
    uint8_t action;                /* PAL_ACTION_* */
    uint8_t dir;                   /* PAL_DIR_IN | PAL_DIR_OUT */
    uint8_t family;                /* PAL_FAMILY_V4 | PAL_FAMILY_V6 */
    uint8_t flags;                 /* PAL_RULE_* */
    uint8_t alg;                   /* PAL_ALG_* */
    uint8_t reserved[3];           /* zero */
} pal_rule;

/* An inclusive range of addresses in network byte order. IPv4 addresses stand in the first four bytes, the rest zero. */
typedef struct pal_range {
    uint8_t lo[16], hi[16];
    uint32_t family;               /* PAL_FAMILY_V4 or PAL_FAMILY_V6 */
} pal_range;

/* What the classifier looks at. Addresses as in pal_range; ports in host byte order. */
typedef struct pal_key {
    uint8_t src[16], dst[16];
    uint16_t sport, dport;
    uint8_t proto;
    uint8_t tcp_flags;
    uint8_t family;                /* PAL_FAMILY_V4 or PAL_FAMILY_V6 */
    uint8_t dir;                   /* PAL_DIR_IN or PAL_DIR_OUT (both: a tap, any direction matches) */
} pal_key;

/* ---- captures (native/io/capture.c, pcapng.c, jsonl.c; promises in capture.h, pcapng.h, jsonl.h) ----------- */

#define PAL_FRAME_DIRECTION_UNKNOWN 0
#define PAL_FRAME_INBOUND 1
#define PAL_FRAME_OUTBOUND 2

/* One captured frame, in place in the mapped file. */
typedef struct pal_frame {
    const uint8_t *data;           /* into the map */
    uint32_t caplen;               /* bytes present */
    uint32_t wirelen;              /* bytes on the wire, at least caplen */
    uint64_t ts_ns;                /* since the epoch, saturated */
    uint64_t number;               /* from 1, as tshark's frame.number */
    uint32_t linktype;             /* LINKTYPE_* of the packet's interface */
    uint32_t interface;            /* pcapng: number within its section; 0 for pcap */
    uint32_t direction;            /* PAL_FRAME_*, as in pcapng's epb_flags */
    uint32_t reserved;             /* zero */
} pal_frame;

typedef struct pal_capture pal_capture;

pal_capture *pal_capture_open(const uint8_t *map, size_t len, char *err, size_t errlen);
uint32_t pal_capture_next(pal_capture *capture, pal_frame *out, uint32_t max);
const char *pal_capture_warning(const pal_capture *capture);
void pal_capture_close(pal_capture *capture);
const char *pal_linktype_name(uint32_t linktype);

typedef struct pal_pcapng pal_pcapng;

pal_pcapng *pal_pcapng_open(int fd);
int pal_pcapng_write(pal_pcapng *writer, const pal_frame *frame, const char *comment, size_t comment_len);
int pal_pcapng_close(pal_pcapng *writer);

typedef struct pal_text pal_text;

pal_text *pal_text_open(int fd);
int pal_text_close(pal_text *text);

/* cffi: end */

_Static_assert(sizeof(pal_rule) == 40, "pal_rule is part of the contract with dfw/core.py");
_Static_assert(sizeof(pal_range) == 36, "pal_range is part of the contract with dfw/core.py");
_Static_assert(sizeof(pal_key) == 40, "pal_key is part of the contract with dfw/core.py");
_Static_assert(sizeof(pal_frame) == 48, "pal_frame is part of the contract with dfw/core.py");

#endif
