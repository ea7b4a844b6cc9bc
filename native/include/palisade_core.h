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
#define PAL_ACTION_RESUME 3 /* decides nothing: the search goes on in the tier `resume` (PASS, JUMP_TO_APPLICATION) */

#define PAL_TIERS 8
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
 * Entries are in priority order, so their tiers ascend: the first that matches decides; or, with PAL_ACTION_RESUME, the
 * first that matches of those in the tier `resume` (a later one than its own) and after. Ranges are inclusive.
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
    uint8_t tier;                  /* below PAL_TIERS */
    uint8_t resume;                /* PAL_ACTION_RESUME: a tier above its own; else zero */
    uint8_t reserved;              /* zero */
} pal_rule;

/* One layer-2 rule. MAC addresses are 48-bit numbers in sorted arrays: the entry matches when the frame's is one of
 * macs[src_off .. src_off + src_n); src_n == 0 means any; SRC_NEGATED inverts a non-empty array. */
typedef struct pal_ether_rule {
    uint32_t rule;                 /* number of the model's rule */
    uint32_t src_off, src_n;
    uint32_t dst_off, dst_n;
    uint16_t ether_type;           /* 0: any */
    uint8_t action;                /* PAL_ACTION_ALLOW or PAL_ACTION_DROP */
    uint8_t dir;                   /* PAL_DIR_IN | PAL_DIR_OUT */
    uint8_t flags;                 /* PAL_RULE_SRC_NEGATED, PAL_RULE_DST_NEGATED */
    uint8_t reserved[3];           /* zero */
} pal_ether_rule;

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

/* ---- classifier (native/engine/classifier.c; promises in classifier.h) ------------------------------------- */

typedef struct pal_cls pal_cls;
typedef struct pal_ruleset pal_ruleset;
pal_cls *pal_cls_new(void);
void pal_cls_free(pal_cls *c);
int pal_cls_set_put(pal_cls *c, uint32_t set_id, const pal_range *r, uint32_t n);
int pal_cls_set_change(pal_cls *c, uint32_t set_id, const pal_range *add, uint32_t n_add, const pal_range *del, uint32_t n_del);
void pal_cls_commit(pal_cls *c);
int pal_cls_ruleset_build(pal_cls *c, const pal_rule *rules, uint32_t n, const uint32_t *set_refs, uint32_t n_refs,
                          pal_ruleset **out);
int pal_cls_ruleset_replace(pal_cls *c, const pal_ruleset *r, uint32_t at, const pal_rule *rule, const uint32_t *set_refs,
                            uint32_t n_refs, pal_ruleset **out);
void pal_cls_ruleset_hold(pal_ruleset *r);
void pal_cls_ruleset_release(pal_cls *c, pal_ruleset *r);
size_t pal_cls_bytes(const pal_cls *c);
size_t pal_cls_ruleset_bytes(const pal_ruleset *r);
uint32_t pal_cls_classes(const pal_cls *c);
/* The first matching entry of each key, `batch` at a time; returns the nanoseconds it took. For tests and benchmarks: no
 * reader may be needed, so nothing else may change the classifier meanwhile. */
uint64_t pal_cls_lookup(const pal_cls *c, const pal_ruleset *r, const pal_key *keys, uint64_t n, uint32_t batch, uint32_t *entry);

/* ---- engine (native/engine/engine.c) --------------------------------------------------------------------- */

#define PAL_TIMERS 11 /* tcp_first_packet, tcp_opening, tcp_established, tcp_closing, tcp_finwait, tcp_closed,
                         udp_first_packet, udp_single, udp_multiple, icmp_first_packet, icmp_error_reply */
#define PAL_NO_RULE 0xffffffff
#define PAL_NO_FILTER 0xffff

#define PAL_SUMS_OFF 0
#define PAL_SUMS_COUNT 1
#define PAL_SUMS_VERIFY 2

/* Budgets at each filter, of a worker: {the vNIC's own workload, others}; a tap has both together. docs/packet-path.md,
 * section 11. */
typedef struct pal_limits {
    uint32_t half_open[2];         /* unanswered connections; 0: no limit */
    uint32_t half_open_prefix;     /* of others, from one source prefix; 0: no limit */
    uint32_t half_open_prefixes;   /* prefixes that a worker keeps account of; 0: 65,536 */
    uint32_t misses[2];            /* packets a second for which the rules are asked; 0: no limit */
    uint32_t rejects[2];           /* answers a second, together at most 100; 0: 50 */
    uint32_t rejects_prefix, rejects_peer; /* 0: 25, 10 */
    uint32_t fragments[2];         /* datagrams that wait for fragments; 0: 128 */
    uint32_t fragments_prefix, fragments_source; /* 0: 96, 64 */
} pal_limits;

#define PAL_FLOWS_NONE 0
#define PAL_FLOWS_KEPT 1  /* each connection leaves a record */
#define PAL_FLOWS_NAMED 2 /* the packet that began a connection is known, no record is kept */

typedef struct pal_engine_options {
    uint32_t capacity4, capacity6; /* connections of each family, a worker */
    uint32_t filters, rules;       /* numbers below these may be used */
    uint32_t workers;
    uint8_t sums;                  /* PAL_SUMS_* */
    uint8_t decap;                 /* judge inside Geneve and VXLAN */
    uint8_t sanity;                /* 0: source addresses are not looked at, 1: odd ones counted, 2: refused */
    uint8_t flows;                 /* PAL_FLOWS_* */
    uint8_t name_rules;            /* judgements of connections name their rule */
    uint8_t huge_pages;
    uint8_t nat, reserved[5];      /* nat: connections may have a second tuple, in a table with room for it */
    uint64_t seed[6];              /* secret; all zero: drawn from the kernel */
    pal_limits limits;
} pal_engine_options;

/* One verdict as it leaves the core. */
typedef struct pal_record {
    uint64_t number, ts_ns;        /* the packet's */
    uint32_t file, rule;           /* rule: PAL_NO_RULE when none was concerned */
    uint16_t filter;               /* PAL_NO_FILTER: neither end is known */
    uint8_t dir;                   /* PAL_DIR_*, or both for a tap */
    uint8_t verdict, reason, ct;   /* indexes of pal_word_* */
    uint8_t reply, reserved;
} pal_record;

typedef struct pal_flow {
    uint8_t src[16], dst[16];      /* of the connection's first packet */
    uint64_t number;               /* of its first packet */
    uint64_t start_ns, end_ns;
    uint64_t packets, bytes, reply_packets, reply_bytes;
    uint32_t file, rule, dropped;
    uint16_t sport, dport, filter;
    uint8_t proto, family, dir, state, end_reason, kind;
    char history[12];              /* zero-padded */
} pal_flow;

typedef struct pal_rule_count {
    uint64_t hits, packets, bytes;
} pal_rule_count;

typedef struct pal_engine_stats {
    uint64_t count[512];           /* verdict * 128 + reason */
    uint64_t received, released;   /* wire packets judged (twice on two filters); held fragments decided later */
    uint64_t bad_ip_sums, bad_l4_sums, odd;
    uint64_t created, connections4, connections6;
    uint64_t table_bytes, table_capacity;
} pal_engine_stats;

typedef struct pal_engine pal_engine;

/* NULL with a sentence in err: options out of bounds, no memory, a table file that does not fit. path: NULL, or where the
 * first worker's table lives (the others' have ".N" appended). */
pal_engine *pal_engine_new(const pal_engine_options *options, const char *path, char *err, size_t errlen);
void pal_engine_free(pal_engine *e);
pal_cls *pal_engine_classifier(pal_engine *e);

/* Stages filter `number`: rules NULL means nothing committed. timeouts are seconds. both: a tap. With 0 the
 * caller's reference to the rule set is the engine's. Nothing is in force before pal_engine_commit. -1: a number out of
 * bounds, or no memory. */
int pal_engine_stage(pal_engine *e, uint32_t number, pal_ruleset *rules, const uint32_t *timeouts, int both);
#define PAL_FLOODS 4 /* TCP before its handshake is done, UDP, ICMP queries, others */
/* Stages how many connections of each kind the filter may have at a time, in each worker; 0: no limit. They stay until
 * staged again; the filter's epoch does not change by them. -1: a number out of bounds, or no memory. */
int pal_engine_stage_flood(pal_engine *e, uint32_t number, const uint32_t *limits);
/* Stages a filter's layer-2 rules, at most 128, in order; both arrays are copied. n 0: every frame passes. They stay until
 * staged again. -1: a number out of bounds, or no memory. */
int pal_engine_stage_ether(pal_engine *e, uint32_t number, const pal_ether_rule *rules, uint32_t n, const uint64_t *macs,
                           uint32_t n_macs);
/* Forgets a filter and with it, at once, all of its connections. */
int pal_engine_remove(pal_engine *e, uint32_t number);
/* Puts what is staged, and the address sets' changes, in force: one step for every packet. Every filter that was staged
 * since the last commit gets a new epoch; all of them do when `all` is set (a group they use has changed). Returns the
 * epoch, or 0 without memory. */
uint64_t pal_engine_commit(pal_engine *e, int all);
/* Tests wind the epoch on to see it wrap. */
void pal_engine_epoch_set(pal_engine *e, uint64_t epoch);

/* Ends every connection and forgets counters and clock; configuration stays. */
void pal_engine_clear(pal_engine *e);
void pal_engine_stats_read(const pal_engine *e, pal_engine_stats *out);
/* Rule statistics of the first n rules, live connections included. */
void pal_engine_rules_read(const pal_engine *e, pal_rule_count *out, uint32_t n);

const char *pal_word_reason(uint32_t reason);      /* NULL beyond the last */
const char *pal_word_reason_nsx(uint32_t reason);
const char *pal_word_reason_text(uint32_t reason);
const char *pal_word_verdict(uint32_t verdict);
const char *pal_word_ct(uint32_t ct);

/* ---- replay (native/engine/replay.c) ---------------------------------------------------------------------- */

/* Which filter a MAC address or an address belongs to, and (PAL_SEGMENT) which segment a filter is on. family 0: a MAC address in
 * the first six bytes. */
#define PAL_SEGMENT 255
typedef struct pal_binding {
    uint8_t addr[16];
    uint32_t family;
    uint32_t vrf;                  /* 0: outside tunnels; 1 + VNI inside */
    uint32_t filter;               /* PAL_NO_FILTER: ambiguous */
} pal_binding;

typedef struct pal_replay_options {
    uint8_t vnics;                 /* 0: one filter, number 0, judges every packet once; 1: OUT at the sender, IN at the receiver */
    uint8_t stopped;               /* the clock stands still */
    uint8_t collect;               /* keep records and generated packets in memory for pal_replay_records */
    uint8_t realtime;              /* wait as the capture did */
    uint32_t batch;                /* packets a burst, 1 .. 256 */
    int verdict_fd, allowed_fd, dropped_fd, generated_fd; /* -1: not wanted */
    const char *const *rule_json;  /* by rule number: '"rule": 1000, "rule_path": "..."' */
    const char *const *filter_json; /* by filter number: '"vnic": "web-1"' */
    uint32_t rules, filters;       /* how many of them */
    pal_engine *staged;            /* NULL, or one of as many filters and workers, with the rules as staged policies have them: it
                                      judges the same packets, and nothing follows. Neither engine's flows are PAL_FLOWS_NONE */
    const char *const *staged_rule_json; /* as rule_json, of that engine's rules */
    uint32_t staged_rules, note_flows; /* how many; changes tell of every connection's first packet too */
} pal_replay_options;

#define PAL_CHANGE_CUT 1   /* pal_change.change: the packet passes, and would not */
#define PAL_CHANGE_PASS 2  /* it does not, and would */
#define PAL_CHANGE_HERE 1  /* pal_change.marks: the two judgements at this filter differ in what passes */
#define PAL_CHANGE_OPENS 2 /* the packet began the connection, by the rules in force */
#define PAL_CHANGE_REPLY 4 /* it runs in the reply direction of `flow` */
#define PAL_CHANGE_PORTS 8 /* ports are known: not in fragments */
#define PAL_NO_VERDICT 0xff /* the packet did not come so far, or would not */

/* What staged policies would change about one packet at one filter, or in all. */
typedef struct pal_change {
    uint64_t number, ts_ns;        /* the packet's */
    uint64_t flow;                 /* where it passes: number and file (<< 40) of the packet that began its connection; 0: none */
    uint32_t file, bytes;          /* bytes on the wire */
    uint32_t rule, staged_rule;    /* PAL_NO_RULE when none was concerned */
    uint16_t filter;               /* PAL_NO_FILTER: none */
    uint16_t sport, dport;         /* as in pal_flow */
    uint8_t dir;
    uint8_t verdict, reason, staged_verdict, staged_reason; /* PAL_NO_VERDICT: not judged here */
    uint8_t change;                /* PAL_CHANGE_*, on one of a packet's: where the one that refuses it does so; else 0 */
    uint8_t marks, proto, family, reserved; /* PAL_CHANGE_*; family 0: not IP */
    uint8_t src[16], dst[16];      /* of the packet */
} pal_change;

/* What staged policies would do to one connection. */
typedef struct pal_staged_flow {
    uint64_t packets, passes;      /* that it let pass at its filter, and would not have; that were refused, and would pass */
    uint32_t rule;                 /* of the staged judgement of its first packet: PAL_NO_RULE, PAL_NO_VERDICT where there is none */
    uint8_t verdict, reason, reserved[2];
} pal_staged_flow;

typedef struct pal_generated {
    uint64_t number;               /* of the packet that it answers */
    uint64_t ts_ns;
    uint32_t file, len;
    uint64_t at;                   /* offset of its bytes, from the IP header */
    uint16_t filter;
    uint8_t dir;
    uint8_t reserved[5];
} pal_generated;

typedef struct pal_replay_totals {
    uint64_t packets, bytes;       /* frames given, their bytes on the wire */
    uint64_t core_ns;              /* time in the packet core */
    uint64_t unfiltered;           /* packets that concern no filter */
    uint64_t generated;
} pal_replay_totals;

typedef struct pal_replay pal_replay;

pal_replay *pal_replay_new(pal_engine *e, const pal_replay_options *options, const pal_binding *bindings, uint32_t n, char *err,
                           size_t errlen);
/* 0, or a negative errno of an output file. */
int pal_replay_close(pal_replay *r);
/* Judges a burst or more of frames of input file `file`. 0; or, with a sentence in err, 1: the next frame cannot be judged
 * (an ambiguous address, an unknown link type), those before it are; or -errno: an output cannot be written, no memory. */
int pal_replay_frames(pal_replay *r, const pal_frame *frames, uint64_t n, uint32_t file, const char *file_json, char *err,
                      size_t errlen);
/* Judges the next `max` frames of an open capture; *done is set at its end. */
int pal_replay_capture(pal_replay *r, pal_capture *capture, uint64_t max, uint32_t file, const char *file_json, int *done,
                       char *err, size_t errlen);
/* From here on nothing is written: for repetitions. */
void pal_replay_mute(pal_replay *r);
/* The input has ended: fragments still held are decided. flush: connections still open become flow records, once. */
int pal_replay_finish(pal_replay *r, int flush, char *err, size_t errlen);
void pal_replay_totals_read(const pal_replay *r, pal_replay_totals *out);
/* What was collected, in order; valid until the next call. */
const pal_record *pal_replay_records(const pal_replay *r, uint64_t *n);
const pal_generated *pal_replay_generated(const pal_replay *r, uint64_t *n, const uint8_t **bytes);
const pal_change *pal_replay_changes(const pal_replay *r, uint64_t *n);
void pal_replay_changes_forget(pal_replay *r);
void pal_replay_forget(pal_replay *r);
/* Ends every connection and begins the clock anew, as pal_engine_clear; what was collected stays, flow records too. */
void pal_replay_restart(pal_replay *r);
/* Flow records of ended connections, in order of their first packets. */
const pal_flow *pal_replay_flows(pal_replay *r, uint64_t *n);
const char *pal_word_state(uint32_t kind, uint32_t state);
const char *pal_word_end(const pal_flow *flow);
/* The same as lines of JSON, or of CSV (RFC 4180): `file`, `filter` and `rule` are what a line says of each, by number, as
 * in pal_replay_options, or values with commas between them. staged: NULL, or one for each of pal_replay_flows, and the texts of
 * the staged engine's rules, the last of them for none. 0 or a negative errno. */
int pal_replay_flows_write(pal_replay *r, int fd, int csv, const char *const *file, const char *const *filter,
                           const char *const *rule, const pal_staged_flow *staged, const char *const *staged_rule);

/* ---- benchmarks (native/engine/bench_*.c) --------------------------------------------------------------------- */

typedef struct pal_bench_conntrack {
    uint32_t connections;          /* each worker */
    uint64_t packets;              /* each worker */
    uint32_t bytes, family, batch; /* frame length; 4 or 6; packets a burst, at most 256 */
    uint8_t grid, checksum;
    uint8_t both;                  /* judged at two filters, two connections a packet */
    uint8_t reserved;
} pal_bench_conntrack;

typedef struct pal_bench_run {
    double ns, pre_parsed_ns;      /* a packet, a connection, ... of this run */
    double floor_ns[2];
    double core_ghz;
    double single_ns;              /* several workers: a packet of the first one alone */
    double reference_ns[2];        /* the same accesses without a firewall: one thread, as many as there are workers */
    int verified;
} pal_bench_run;

typedef struct pal_bench_setup {
    uint32_t rules;                /* rule r matches destination 10.1.r/256.r%256 port 1000 + r and nothing else */
    uint32_t connections;          /* a run */
    uint32_t batch;
    uint8_t syn_only, reserved[3]; /* half-open connections, SYN after SYN */
} pal_bench_setup;

/* The engine has one tap filter. The table is filled to 80 % first, and from then on each new connection expires one;
 * ns is for a connection (three packets, or one SYN). */
int pal_bench_setup_run(pal_engine *e, const pal_bench_setup *o, pal_bench_run *out, uint32_t runs, char *err, size_t errlen);

/* The engine has 16 filters in force whose rules allow everything, statefully. 0, or -1 with a sentence. */
int pal_bench_conntrack_run(pal_engine *e, const pal_bench_conntrack *o, pal_bench_run *out, uint32_t runs, char *err,
                            size_t errlen);

/* One frame of a stream. */
typedef struct pal_bench_frame {
    uint64_t at, clock_ns;         /* offset of its bytes; the clock when it is judged */
    uint32_t len;
    uint16_t filter;
    uint8_t dir;                   /* PAL_DIR_* */
    uint8_t reserved;
} pal_bench_frame;

/* Parses and judges n Ethernet frames at the first worker, `batch` (at most 256) a burst; returns the nanoseconds it took, 0
 * for a batch or a filter out of bounds. `answers`, unless NULL, has n places: rule << 32 | reply << 24 | ct << 16 |
 * reason << 8 | verdict; the place of a fragment that is still held is left alone. */
uint64_t pal_bench_stream_run(pal_engine *e, const uint8_t *bytes, const pal_bench_frame *frames, uint64_t n, uint32_t batch,
                              uint64_t *answers);

/* The first worker's connections and clock, to begin from again: counters, held fragments and expectations are not kept. */
typedef struct pal_bench_state pal_bench_state;

pal_bench_state *pal_bench_state_save(const pal_engine *e); /* NULL without memory */
void pal_bench_state_load(pal_engine *e, const pal_bench_state *state);
void pal_bench_state_free(pal_bench_state *state);

/* cffi: end */

_Static_assert(sizeof(pal_rule) == 40, "pal_rule is part of the contract with dfw/layout.py");
_Static_assert(sizeof(pal_ether_rule) == 28, "pal_ether_rule is part of the contract with dfw/layout.py");
_Static_assert(sizeof(pal_range) == 36, "pal_range is part of the contract with dfw/layout.py");
_Static_assert(sizeof(pal_key) == 40, "pal_key is part of the contract with dfw/layout.py");
_Static_assert(sizeof(pal_bench_frame) == 24, "pal_bench_frame is part of the contract with dfw/layout.py");
_Static_assert(sizeof(pal_change) == 88, "pal_change is part of the contract with dfw/layout.py");
_Static_assert(sizeof(pal_staged_flow) == 24, "pal_staged_flow is part of the contract with dfw/layout.py");
_Static_assert(sizeof(pal_frame) == 48, "pal_frame is part of the contract with dfw/layout.py");

#endif
