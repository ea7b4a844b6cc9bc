/* SPDX-License-Identifier: Apache-2.0
 *
 * classifier.h - the writer's side of the classifier: address sets, rule sets, publication, reclamation.
 *
 * One writer, any number of readers that never wait. Changes of sets are staged and become visible together, in a new
 * snapshot, by pal_cls_commit. A rule set never changes once built: changing a rule gives a new one that shares what
 * has not changed. A reader calls pal_cls_snapshot once a burst (an engine's worker has it from its configuration, together with
 * its rules), takes its rule sets from wherever the writer published them, and declares a quiescent point between bursts; any
 * snapshot and any rule set that it obtained since its last quiescent point fit together, whichever was obtained first, and stay
 * valid until its next one.
 */
#ifndef PAL_ENGINE_CLASSIFIER_H
#define PAL_ENGINE_CLASSIFIER_H

#include "../core/classify.h"

#define PAL_CLS_OK 0
#define PAL_CLS_BAD_RANGE (-1)  /* lo above hi, or an unknown family */
#define PAL_CLS_BAD_RULE (-2)   /* a field out of its bounds, a reference out of set_refs */
#define PAL_CLS_NO_MEMBER (-3)  /* a range to be removed was never given */
#define PAL_CLS_TOO_LARGE (-4)  /* more than PAL_CLS_MAX_ENTRIES entries, or a table beyond its bound */
#define PAL_CLS_MAX_ENTRIES 200000u

typedef struct pal_cls pal_cls;
typedef struct pal_reader pal_reader;

/* The machine's features are read here, once. NULL only when there is no memory. */
pal_cls *pal_cls_new(void);
/* Frees everything, published or not. No reader may be online. */
void pal_cls_free(pal_cls *c);

/* ---- address sets: staged until pal_cls_commit ---- */

/* Defines a set or replaces its members. A set is the union of its ranges; the same range may be given several times. */
int pal_cls_set_put(pal_cls *c, uint32_t set_id, const pal_range *r, uint32_t n);
/* Removes, then adds. Each range of del must be a member given before, exactly as it was given; one occurrence of it
 * goes. An address leaves the set when no remaining range covers it. All or nothing. */
int pal_cls_set_change(pal_cls *c, uint32_t set_id, const pal_range *add, uint32_t n_add, const pal_range *del,
                       uint32_t n_del);
/* Publishes what was staged. Readers see all of it or nothing. Not for a classifier of an engine (pal_cls_own). */
void pal_cls_commit(pal_cls *c);
/* The same in two steps, for an engine, whose readers find the snapshot where they find their rule sets, so that both change at
 * once: the new snapshot is made; it is published by whoever called; then what it replaces begins to wait for its readers. */
void pal_cls_publish(pal_cls *c);
void pal_cls_published(pal_cls *c);
void pal_cls_own(pal_cls *c);

/* ---- rule sets ---- */

/* The rule set of these entries; with equal content built before and not yet released, that one again. *out holds one
 * reference. A set number that was never put is an empty set. Rules are copied. */
int pal_cls_ruleset_build(pal_cls *c, const pal_rule *rules, uint32_t n, const uint32_t *set_refs, uint32_t n_refs,
                          pal_ruleset **out);
/* A new rule set that differs in one entry; r stays as it is and keeps its reference. rule->src_off and dst_off index
 * set_refs. insert: before the entry `at` (at == n: at the end). */
int pal_cls_ruleset_replace(pal_cls *c, const pal_ruleset *r, uint32_t at, const pal_rule *rule, const uint32_t *set_refs,
                            uint32_t n_refs, pal_ruleset **out);
int pal_cls_ruleset_insert(pal_cls *c, const pal_ruleset *r, uint32_t at, const pal_rule *rule, const uint32_t *set_refs,
                           uint32_t n_refs, pal_ruleset **out);
int pal_cls_ruleset_delete(pal_cls *c, const pal_ruleset *r, uint32_t at, pal_ruleset **out);
/* One reference more: a further filter of the same rules builds nothing. */
void pal_cls_ruleset_hold(pal_ruleset *r);
/* Gives one reference back. The caller has withdrawn r from where readers find it; it is freed after they have passed. */
void pal_cls_ruleset_release(pal_cls *c, pal_ruleset *r);

/* ---- readers ---- */

pal_reader *pal_cls_reader_new(pal_cls *c); /* offline at first */
void pal_cls_reader_free(pal_cls *c, pal_reader *r);
void pal_cls_reader_online(pal_reader *r);
void pal_cls_reader_offline(pal_reader *r); /* holds nothing from here on; nobody waits for it */
/* Between two bursts: nothing obtained before is used any more. */
void pal_cls_reader_quiescent(pal_reader *r);
const pal_snap *pal_cls_snapshot(const pal_cls *c);

/* Frees what all readers have passed. Called by commit and release too; returns how many things still wait. */
size_t pal_cls_reclaim(pal_cls *c);

/* Bytes in use: everything; one rule set with its share of the rows that it uses. */
size_t pal_cls_bytes(const pal_cls *c);
size_t pal_cls_ruleset_bytes(const pal_ruleset *r);
uint32_t pal_cls_classes(const pal_cls *c);

#endif
