/* SPDX-License-Identifier: Apache-2.0
 *
 * connection.h - the shape of a connection in memory.
 *
 * A connection is a 64-byte hot line that an established IPv4 packet reads and writes and nothing else, a 48-byte cold
 * part for what happens seldom, and for IPv6 32 bytes of addresses; where connections are translated, the same again for their
 * second tuple (nat.h). All references are 32-bit numbers, so that the table
 * can be mapped from a file at any address. Numbers below cap4 are IPv4 connections, from cap4 on IPv6.
 * Letters: [K] key, never changes while the connection lives; [W] written by the worker that owns the table.
 */
#ifndef PAL_CORE_CONNECTION_H
#define PAL_CORE_CONNECTION_H

#include "tuple.h"

enum ct_state { /* 0 is a free entry. TCP: RFC 9293 section 3.3.2, seen from the middle */
    CT_FREE,
    CT_SYN_SENT, CT_SYN_SENT2, CT_SYN_RECEIVED, CT_ESTABLISHED, CT_FIN_WAIT, CT_CLOSING, CT_TIME_WAIT, CT_CLOSED,
    CT_STATE_TCP_END,
    CT_COOKIE_WAIT = 1, CT_COOKIE_ECHOED, CT_SCTP_ESTABLISHED, CT_SHUTDOWN, CT_SHUTDOWN_ACK, CT_SCTP_CLOSED,
    CT_FIRST = 1, CT_SINGLE, CT_MULTIPLE, /* UDP and the rest; ICMP: FIRST, then MULTIPLE once answered */
};

enum { /* ct_hot.marks: low three bits hold enum ct_kind */
    CT_KIND_MASK = 7,
    CT_ORIG_HIGH = 8,   /* the original sender is the higher end of the key */
    CT_REPLIED = 16,
    CT_LIBERAL = 32,    /* picked up in mid-stream: no window tests */
    CT_CHILD = 64,      /* expected by an ALG; cold.link names the parent */
    CT_ALG = 128,       /* the rule's ALG wants to see the payload */
};
enum { /* ct_hot.state: low four bits hold enum ct_state */
    CT_STATE_MASK = 15,
    CT_PERSIST = 16,    /* the rule lets the connection outlive policy changes */
    CT_ONEWAY = 32,     /* group destination: nothing comes back */
    CT_RESYNC = 64,     /* taken over from another process: windows are being relearned */
    CT_MEMO = 128,      /* cold.memo remembers a packet that was passed over */
};
enum { /* four bits for each end in ct_hot.ends */
    END_SEEN = 1, END_ACKED = 2, END_FIN = 4, END_FIN_ACKED = 8
};

typedef struct ct_half { /* [W] what one end has sent and accepts; SCTP: end is the verification tag */
    uint32_t end;    /* sequence number after the last byte seen */
    uint32_t ack;    /* highest acknowledgement sent */
    uint16_t window; /* largest window advertised, in units of 2^scale */
    uint16_t edge;   /* right edge of what this end accepts, counted from ack, in units of 2^scale */
} ct_half;

typedef struct ct_hot {
    uint32_t addr[2];     /* [K] IPv4: the addresses, network order; IPv6: 64 bits of the hash */
    uint16_t port[2];     /* [K] */
    uint32_t zone;        /* [K] */
    uint8_t marks;        /* [W] CT_KIND_MASK and the flags above */
    uint8_t state;        /* [W] */
    uint8_t scale;        /* [W] window scale in force: original end in the low nibble */
    uint8_t ends;         /* [W] END_*: original end in the low nibble */
    uint32_t epoch;       /* [W] the filter's epoch when the rules last allowed it */
    uint32_t deadline;    /* [W] tick after which it does not exist, modulo 2^32 */
    uint16_t packets[2];  /* [W] original, reply; the excess goes to cold.spill */
    uint32_t bytes[2];    /* [W] the reply's, until there is one: the account that it is on (half_open.h) */
    ct_half half[2];      /* [W] original, reply */
} ct_hot;

_Static_assert(sizeof(ct_hot) == 64, "an established packet touches one line of the connection");
_Static_assert(offsetof(ct_hot, zone) == offsetof(ct_hot, port) + 4, "compared as one word with ct_key.ports_zone");

enum ct_memo { MEMO_NONE, MEMO_SYN, MEMO_ACK };
enum {
    MEMO_WORD = 3,
    MEMO_INWARD = 0x20,       /* nothing to do with the memo: the connection's first packet ran IN at its filter */
    MEMO_SIMULTANEOUS = 0x40, /* nor this: both ends sent a SYN */
    MEMO_REPLY = 0x80,        /* the remembered packet came from the reply end */
};

typedef struct ct_cold {
    uint32_t rule;              /* [W] number of the rule that allows it */
    uint32_t generation;        /* [W] grows each time the entry is taken: makes a reference a handle */
    uint32_t wheel_next;        /* [W] timer wheel, doubly linked */
    uint32_t wheel_prev;        /* [W] a reference, or WHEEL_HEAD | slot */
    uint32_t link[2];           /* [W] unanswered: older, newer. Child: parent, parent's generation */
    uint32_t memo_end;          /* [W] passed-over SYN: its end; ACK: its ack */
    uint16_t memo_window;       /* [W] */
    uint8_t memo;               /* [W] enum ct_memo, and the flags below it */
    uint8_t offered;            /* [W] scales offered: nibble each, 15 none; until both SYNs were seen */
    uint32_t spill_packets[2];  /* [W] in units of 2^15; the reply's, until there is one: older of its account */
    uint32_t spill_bytes[2];    /* [W] in units of 2^31; the reply's: newer */
} ct_cold;

_Static_assert(sizeof(ct_cold) == 48, "IPv4: 64 + 48 + index within 128 bytes a connection");

typedef struct ct_addr6 {
    uint8_t addr[2][16]; /* [K] lower, higher end */
} ct_addr6;

/* Only in tables for translated connections; IPv6 addresses of the tuple in a ct_addr6 of their own. */
enum { NAT_USED = 1, NAT_REPLY_HIGH = 2 }; /* ct_nat.marks; HIGH: who replies is the higher end of its tuple */
typedef struct ct_nat {
    uint32_t addr[2];     /* [W] IPv4: the reply tuple's addresses, as in ct_hot; IPv6: 0 */
    uint16_t port[2];     /* [W] */
    uint8_t marks;        /* [W] 0: the connection has one tuple */
    uint8_t pad[3];
} ct_nat;

_Static_assert(sizeof(ct_nat) == 16, "four to a line");

/* Only where flow records are asked for: what nobody needs for a verdict. */
typedef struct ct_flow {
    uint64_t start_ns, last_ns;
    uint64_t cookie;      /* of the first packet */
    uint32_t dropped;
    uint16_t seen;        /* letters already in history */
    uint8_t history_len;
    uint8_t spare;
    uint32_t pad[3];
    char history[12];
    uint16_t filter;
    uint8_t dir;
    uint8_t proto;        /* IP protocol number */
} ct_flow;

_Static_assert(sizeof(ct_flow) == 64, "one line");

enum ct_end { CT_END_OPEN, CT_END_TIMEOUT, CT_END_REOPENED, CT_END_EVICTED, CT_END_POLICY, CT_END_PARENT, CT_END_CLEARED };

PAL_INLINE uint8_t ct_kind_of(const ct_hot *h) { return h->marks & CT_KIND_MASK; }
PAL_INLINE uint8_t ct_state_of(const ct_hot *h) { return h->state & CT_STATE_MASK; }
PAL_INLINE void ct_state_set(ct_hot *h, uint32_t s) { h->state = (uint8_t)((h->state & ~CT_STATE_MASK) | s); }
PAL_INLINE bool end_has(const ct_hot *h, uint32_t end, uint32_t flag) { return h->ends >> (end * 4) & flag; }
PAL_INLINE void end_set(ct_hot *h, uint32_t end, uint32_t flag) { h->ends |= (uint8_t)(flag << (end * 4)); }
PAL_INLINE uint32_t scale_of(const ct_hot *h, uint32_t end) { return h->scale >> (end * 4) & 15; }
/* 0: the key's packet runs in the original direction, 1: in the reply direction. */
PAL_INLINE uint32_t ct_direction(const ct_hot *h, const ct_key *k)
{
    if (ct_kind_of(h) == KIND_ICMP)
        return k->answer;
    return (uint32_t)k->high ^ (h->marks >> 3 & 1);
}

#endif
