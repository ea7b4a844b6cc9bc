/* SPDX-License-Identifier: Apache-2.0
 *
 * engine.h - filters and their configuration, workers and their memory.
 *
 * Configuration is an immutable array of filters, swapped whole: pal_engine_stage changes a copy, pal_engine_commit
 * publishes it. A worker reads the pointer once a burst and says afterwards which one it has used; the old array is freed
 * when every worker has moved on. Workers never stop and never lock.
 */
#ifndef PAL_ENGINE_ENGINE_H
#define PAL_ENGINE_ENGINE_H

#include "../core/pipeline.h"
#include "classifier.h"
#include "fabric.h"
#include "table.h"

/* Which rules are logged; of all configurations that refer to it. */
typedef struct rule_bits {
    uint32_t holds, reserved;
    uint64_t bit[];
} rule_bits;

typedef struct engine_config {
    struct engine_config *older; /* retired before this one */
    uint64_t number;
    const fabric *fabric;        /* NULL: none was staged */
    const pal_snap *snap;        /* members of sets, as of this configuration */
    const rule_bits *logged;     /* NULL: no rule is */
    uint32_t filters;
    uint32_t reserved;
    pal_filter filter[];
} engine_config;

/* What a worker publishes for the engine, on a line of its own. */
typedef struct PAL_ALIGNED(PAL_CACHE_LINE) worker_seat {
    uint64_t config_seen; /* number of the configuration that the current burst works with, or CONFIG_* */
    uint64_t pad[7];
} worker_seat;

typedef struct flow_list {
    pal_flow *flow;
    size_t count, room;
    bool lost; /* memory ran out: records are missing */
} flow_list;

#define CONFIG_BETWEEN_BURSTS (~0ull)
#define CONFIG_ENTERING (~0ull - 1) /* a burst begins: which one it will work with is not known */

/* configuration.c */
engine_config *config_new(uint32_t filters);
void config_free(engine_config *c);
/* Forgets the rule set staged for a filter, if any. */
void config_rules_drop(struct pal_engine *e, uint32_t number);
/* Stages a fabric, whose hold is the configuration's then. -1: no memory; it stays the caller's. */
int config_fabric_stage(struct pal_engine *e, const fabric *f);

#define ENGINE_WORKERS_MAX 64

/* Begins a line, as does all that a worker writes: no two workers write, or one reads what the other writes, in one line
 * (native/tests/test_workers.c). */
typedef struct PAL_ALIGNED(PAL_CACHE_LINE) engine_worker {
    pal_worker w;
    pal_region region;
    flow_list flows;
    struct pal_engine *engine;
    pal_reader *reader; /* of the classifier */
    uint32_t number;
    void *user; /* whoever drives the worker: replay, benchmark */
} engine_worker;

struct pal_engine {
    pal_engine_options options;
    pal_cls *cls;
    engine_config *current; /* [C] atomic */
    engine_config *staged;
    uint64_t epoch;
    uint64_t committed;     /* [C] atomic: number of the current configuration */
    uint32_t incarnation;
    worker_seat *seat;
    engine_worker *worker;
    pal_ruleset **held;     /* by filter: the engine's own hold on its rule set */
    pal_ruleset **staged_rules;
};

/* All of a flow record that a connection knows of itself; the rest is 0. */
void flow_describe(const ct_table *t, uint32_t ref, pal_flow *f);

/* The snapshot for one burst, its members of sets in pal_worker.snap, its logged rules in .logged; engine_leave when it is over. */
const engine_config *engine_enter(pal_engine *e, uint32_t worker);
void engine_leave(pal_engine *e, uint32_t worker);

#endif
