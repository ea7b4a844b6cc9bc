/* SPDX-License-Identifier: Apache-2.0
 *
 * packet.h - one packet on its way through the pipeline: where its bytes are and what the parser found in them.
 */
#ifndef PAL_CORE_PACKET_H
#define PAL_CORE_PACKET_H

#include "base.h"
#include "reasons.h"

enum {
    PROTO_ICMP = 1, PROTO_IGMP = 2, PROTO_TCP = 6, PROTO_UDP = 17, PROTO_IP6_ROUTING = 43, PROTO_IP6_FRAGMENT = 44,
    PROTO_AH = 51, PROTO_ICMP6 = 58, PROTO_NONE = 59, PROTO_IP6_DSTOPTS = 60, PROTO_IP6_HOPOPTS = 0, PROTO_SCTP = 132
};

enum { TCP_FIN = 0x01, TCP_SYN = 0x02, TCP_RST = 0x04, TCP_PSH = 0x08, TCP_ACK = 0x10, TCP_URG = 0x20 };

/* How much of the sums was looked at, and what came of it. */
enum pal_sum { SUM_UNVERIFIED, SUM_GOOD, SUM_BAD };
enum pal_sum_mode { SUM_MODE_OFF, SUM_MODE_COUNT, SUM_MODE_VERIFY };

enum { /* pal_packet.marks */
    MARK_NON_IP = 1,      /* layer-3 rules do not apply */
    MARK_FRAGMENT = 2,
    MARK_ICMP_ERROR = 4,
    MARK_UNTRACKED = 8,   /* stateless by nature: ND, MLD, IGMP */
    MARK_ICMP_QUERY = 16,
    MARK_ICMP_ANSWER = 32,
    MARK_GROUP_DST = 64,  /* multicast or limited broadcast destination */
    MARK_WHOLE = 128,     /* put together from fragments */
};

#define L2_BARE 255 /* pal_packet.l2_len: it came out of a tunnel as an IP packet, with no Ethernet header */

enum { /* pal_packet.odd */
    ODD_SOURCE = 1, /* the source address is one that no live workload may send from */
    ODD_DOMAIN = 2, /* came out of a tunnel: vrf is set */
    ODD_MANY = 4,   /* put together from fragments that came to a group's MAC address */
};

/* Whoever hands in packets names them: the number within its file, and the file. */
#define COOKIE_FILE_SHIFT 40
#define COOKIE_NUMBER ((1ull << COOKIE_FILE_SHIFT) - 1)

/* [P] the parser writes it, nobody changes it afterwards. What is written or read together stands together, in pairs that
 * one wide access covers. */
typedef struct pal_packet {
    const uint8_t *data;   /* [P] the frame */
    uint64_t ts_ns;        /* [P] */
    uint64_t cookie;       /* the caller's: names the packet in what comes back */
    uint64_t clock_ns;     /* the caller's: the clock when it is judged */
    uint32_t cap, wire;    /* [P] bytes present, bytes on the wire */
    uint32_t l3, l4;       /* [P] offsets of the IP and transport headers */
    uint32_t l4_len;       /* [P] bytes from l4 to the end, by the IP header */
    uint32_t vrf;          /* [P] 0, or 1 + VNI after decapsulation */
    uint8_t family;        /* [P] PAL_FAMILY_*, 0 for non-IP; the eight bytes from here are packet_class */
    uint8_t proto;         /* [P] */
    uint8_t tcp_flags;     /* [P] TCP flags; SCTP: event; fragments: M */
    uint8_t reason;        /* [P] PAL_REASON_MATCH, or why the parser refused it */
    uint8_t marks;         /* [P] MARK_* */
    uint8_t ip_sum, l4_sum; /* [P] enum pal_sum */
    uint8_t odd;           /* [P] ODD_* */
    uint32_t addr4[2];     /* [P] IPv4: source and destination as in the header, so that look-ups need not go back to it */
    uint32_t seq, ack;     /* [P] TCP; SCTP: verification tag, initiate tag; fragments: identification, offset */
    uint32_t payload_len;  /* [P] TCP: bytes of data; others: l4_len less the header */
    uint32_t wire_bytes;   /* IP bytes of all the wire packets that this one stands for */
    uint32_t fragments;    /* how many wire packets this one stands for */
    uint32_t ip_len;       /* [P] bytes from the IP header to the packet's end, by the IP header */
    uint16_t window;       /* [P] TCP; ICMP query or answer: identifier; fragments: fragment header's own offset from l3 */
    uint8_t l4_hdr;        /* [P] TCP: bytes of header */
    uint8_t l2_len;        /* [P] bytes of the Ethernet header and its tags, which begin the frame; 0: none, or L2_BARE */
    uint16_t sport, dport; /* [P] as in pal_key */
} pal_packet;

_Static_assert(sizeof(pal_packet) == 104, "a burst of 32 stays in the first-level cache");
_Static_assert(offsetof(pal_packet, family) % 8 == 0 && offsetof(pal_packet, odd) == offsetof(pal_packet, family) + 7,
               "what kind of packet it is can be asked in one comparison");
_Static_assert(offsetof(pal_packet, wire_bytes) == offsetof(pal_packet, seq) + 12 &&
                   offsetof(pal_packet, fragments) == offsetof(pal_packet, seq) + 16 &&
                   offsetof(pal_packet, sport) == offsetof(pal_packet, seq) + 28,
               "what the tracker reads are two blocks of four numbers (fast_wide.h)");

/* Eight bytes as they stand in memory, as a number. */
#define BYTES8(a, b, c, d, e, f, g, h)                                                                                            \
    (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__                                                                                    \
         ? ((uint64_t)(a) | (uint64_t)(b) << 8 | (uint64_t)(c) << 16 | (uint64_t)(d) << 24 | (uint64_t)(e) << 32 |                \
            (uint64_t)(f) << 40 | (uint64_t)(g) << 48 | (uint64_t)(h) << 56)                                                      \
         : ((uint64_t)(h) | (uint64_t)(g) << 8 | (uint64_t)(f) << 16 | (uint64_t)(e) << 24 | (uint64_t)(d) << 32 |                \
            (uint64_t)(c) << 40 | (uint64_t)(b) << 48 | (uint64_t)(a) << 56))

/* The packet that there are most of: TCP with ACK and without SYN, FIN, RST, nothing wrong or special about it. */
#define CLASS_MASK BYTES8(0xff, 0xff, TCP_SYN | TCP_FIN | TCP_RST | TCP_ACK, 0xff, 0xff, SUM_BAD, SUM_BAD, 0xff)
#define CLASS_ACK(family) BYTES8(family, PROTO_TCP, TCP_ACK, PAL_REASON_MATCH, 0, 0, 0, 0)
PAL_INLINE uint64_t packet_class(const pal_packet *p)
{
    uint64_t c;
    memcpy(&c, &p->family, sizeof c);
    return c & CLASS_MASK;
}

/* That, in IPv4 straight behind an Ethernet header without tags. */
PAL_INLINE bool packet_is_plain4(const pal_packet *p) { return packet_class(p) == CLASS_ACK(PAL_FAMILY_V4) && p->l2_len == 14; }

PAL_INLINE uint32_t addr_bytes(const pal_packet *p) { return p->family == PAL_FAMILY_V4 ? 4 : 16; }
PAL_INLINE const uint8_t *packet_src(const pal_packet *p)
{
    return p->data + p->l3 + (p->family == PAL_FAMILY_V4 ? 12 : 8);
}
PAL_INLINE const uint8_t *packet_dst(const pal_packet *p)
{
    return p->data + p->l3 + (p->family == PAL_FAMILY_V4 ? 16 : 24);
}
/* Whether it came to a group's MAC address, as directed broadcasts do, whose IP address does not say so. */
PAL_INLINE bool packet_to_group(const pal_packet *p)
{
    return (p->odd & ODD_MANY) || (p->l2_len && p->l2_len != L2_BARE && (p->data[0] & 1));
}
/* Bytes of the packet that are really there, counted from the IP header. */
PAL_INLINE uint32_t packet_present(const pal_packet *p) { return min_u32(p->cap - p->l3, p->ip_len); }

PAL_INLINE bool addr_is_group(const uint8_t *a, uint32_t family)
{
    return family == PAL_FAMILY_V4 ? (a[0] & 0xf0) == 0xe0 || load_u32(a) == 0xffffffffu : a[0] == 0xff;
}
PAL_INLINE bool addr4_is_odd(const uint8_t *src, const uint8_t *dst)
{
    return src[0] == 0 || src[0] == 127 || (src[0] & 0xf0) == 0xe0 || load_u32(src) == 0xffffffffu || load_u32(src) == load_u32(dst);
}
/* SEMANTICS, Odd packets: never from a live workload; captures have them. */
PAL_INLINE bool packet_is_odd(const pal_packet *p)
{
    const uint8_t *src = packet_src(p), *dst = packet_dst(p);
    if (p->family == PAL_FAMILY_V4)
        return addr4_is_odd(src, dst);
    return src[0] == 0xff || memcmp(src, dst, 16) == 0;
}
PAL_INLINE bool addr_is_zero(const uint8_t *a, uint32_t family)
{
    return family == PAL_FAMILY_V4 ? load_u32(a) == 0 : (load_u64(a) | load_u64(a + 8)) == 0;
}

#endif
