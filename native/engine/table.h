/* SPDX-License-Identifier: Apache-2.0
 *
 * table.h - the memory of a connection table: one region, anonymous or mapped from a file, no pointers in it.
 */
#ifndef PAL_ENGINE_TABLE_H
#define PAL_ENGINE_TABLE_H

#include "../core/conntrack.h"

typedef struct pal_region {
    void *base;
    size_t len;
    size_t charged; /* bytes that a connection's cost is counted from: entries, index, state */
    int fd;         /* -1: anonymous */
    bool attached;  /* the file held a table: its connections live on */
} pal_region;

typedef struct table_config {
    uint32_t cap4, cap6;
    bool huge;           /* ask for huge pages */
    bool nat;            /* connections may be translated: room for a second tuple each */
    const char *path;    /* NULL: anonymous memory */
    uint64_t seed[HASH_KEY_WORDS];
} table_config;

/* 0, or -1 with a sentence in err. A file of another layout, version or capacity is refused, not changed; so is one that
 * another process, or another engine of this one, has open: it is locked while it is mapped. */
int table_open(ct_table *t, pal_region *region, const table_config *config, char *err, size_t errlen);
void table_close(pal_region *region);

/* Forgets every connection. */
void table_clear(ct_table *t);

#endif
