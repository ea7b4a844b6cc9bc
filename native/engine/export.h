/* SPDX-License-Identifier: Apache-2.0
 *
 * export.h - one vNIC's connections as bytes that another host's table takes in (DESIGN section 4: bulk copy, freeze, difference,
 * switch). Nothing in them is a reference: a connection is named by its two ends, a child by its parent's ports.
 *
 *     export_slice        at the source's worker: some entries of its table
 *     export_finish       in order; what ALGs expect
 *     export_difference   what has changed since an earlier one: the frozen vNIC's last word
 *     import_check        at the target: is all of it sound? Nothing has been touched then
 *     import_entries      at the target's worker: what is its own
 *
 * What is imported stands in RESYNC (resync.h) under epoch 0: the rules in force where it is now are asked at its next packet.
 */
#ifndef PAL_ENGINE_EXPORT_H
#define PAL_ENGINE_EXPORT_H

#include "engine.h"

#define EXPORT_MAGIC 0x31584c4150ull /* "PALX1" */
#define EXPORT_VERSION 2u

typedef struct export_header {
    uint64_t magic;
    uint32_t version;
    uint32_t layout;   /* of the entries, as compiled */
    uint64_t now;      /* tick of the source's clock: deadlines count from it */
    uint64_t entries;
} export_header;

enum export_what { EXPORT_ENDED, EXPORT_CONNECTION, EXPORT_EXPECTATION };
enum export_parent { PARENT_NONE, PARENT_SAME, PARENT_TURNED }; /* which end its original sender is */

/* Ends in the original direction. Ports as in ct_key: ICMP: identifier and the query's type; KIND_OTHER: protocol, 0. An expectation
 * has the ends of the connection that it waits for, and no source port. */
typedef struct export_entry {
    uint64_t source;      /* who it is at the source: orders an export, parents before their children */
    uint8_t what, family, kind, marks;
    uint8_t state, scale, ends, offered;
    uint16_t sport, dport;
    uint16_t parent_sport, parent_dport;
    uint32_t rule;        /* the source's number */
    uint32_t deadline;    /* the source's tick, modulo 2^32 */
    uint8_t src[16], dst[16];
    ct_half half[2];
    uint64_t packets[2], bytes[2];
    uint32_t memo_end;
    uint16_t memo_window;
    uint8_t memo, parent; /* parent: enum export_parent */
    uint8_t onward_src[16], onward_dst[16]; /* translated (nat.h): the ends that the original sender's packets then have; else 0 */
    uint16_t onward_sport, onward_dport;
    uint8_t translated, spare[3];
} export_entry;

_Static_assert(sizeof(export_entry) == 168, "no padding: entries are compared as bytes");

/* A number of what the entries look like, as compiled. */
uint32_t export_layout(void);

typedef struct export_list {
    export_entry *entry;
    uint64_t count, room;
    uint64_t now;
    bool lost;            /* memory ran out */
} export_list;

/* At most `count` entries of the table from place `from` on, those of the filter with this zone. Returns the next place; PAL_NONE when
 * all have been seen. By the worker, or while it does not run. */
uint32_t export_slice(const engine_worker *ew, uint32_t zone, uint32_t from, uint32_t count, export_list *out);
void export_expectations(const engine_worker *ew, uint32_t zone, export_list *out);
/* In the order of `source`. */
void export_finish(export_list *l);
/* What makes `before` into `now`, both finished: the ended first. False without memory. */
bool export_difference(const export_list *before, const export_list *now, export_list *out);
/* The entries from `from` on, at most n of them, with a header. Returns the bytes; out NULL: only that. */
uint64_t export_write(const export_list *l, uint64_t from, uint64_t n, uint8_t *out);

typedef struct import_order {
    const export_header *header;
    const export_entry *entry;
    uint32_t zone;
    uint16_t filter;
    const uint32_t *rule; /* our numbers by the source's; PAL_NONE: none */
    uint32_t rules;
    uint32_t workers;
    uint32_t (*owner)(const uint8_t *src, const uint8_t *dst, uint32_t family, uint32_t workers);
} import_order;

/* The sentence why these bytes are not taken, or NULL. They need not be aligned to more than 8. */
const char *import_check(const uint8_t *bytes, uint64_t n);
/* Takes in what is this worker's. Adds to *taken and *refused (no room, no parent). By the worker, or while it does not run. */
void import_entries(engine_worker *ew, const import_order *o, uint64_t *taken, uint64_t *refused);

#endif
