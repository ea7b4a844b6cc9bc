/* SPDX-License-Identifier: Apache-2.0
 *
 * rig.h - an engine with one worker, driven packet by packet or in bursts, its verdicts at hand. Includes the
 * production sources, or is linked with them: what is tested is what ships.
 */
#ifndef PAL_TESTS_RIG_H
#define PAL_TESTS_RIG_H

#include <stdio.h>
#include <stdlib.h>

#ifdef RIG_LINKED /* with an archive of the engine: the Makefile compiles it once for all programs */
#define RIG_LINKED_CLASSIFIER
#include "../../engine/engine.h"
#endif
#ifndef RIG_LINKED_CLASSIFIER /* scripts/mutants.py compiles it once, not with each change of another header */
#include "../../engine/classifier.c"
#include "../../engine/classifier_arena.c"
#include "../../engine/classifier_change.c"
#include "../../engine/classifier_class.c"
#include "../../engine/classifier_edit.c"
#include "../../engine/classifier_later.c"
#include "../../engine/classifier_lookup.c"
#include "../../engine/classifier_map.c"
#include "../../engine/classifier_memory.c"
#include "../../engine/classifier_place.c"
#include "../../engine/classifier_ports.c"
#include "../../engine/classifier_rows.c"
#include "../../engine/classifier_rules.c"
#include "../../engine/classifier_service.c"
#include "../../engine/classifier_sets.c"
#include "../../engine/classifier_tabs.c"
#include "../../engine/classifier_tree.c"
#include "../../engine/classifier_uses.c"
#endif
#ifndef RIG_LINKED
#include "../../engine/configuration.c"
#include "../../engine/engine.c"
#include "../../engine/fabric.c"
#include "../../engine/fabric_check.c"
#include "../../engine/fabric_routes.c"
#include "../../engine/limits.c"
#include "../../engine/statistics.c"
#include "rig_stages.c"
#endif
#include "../../engine/table.c" /* tests look into it */

#include "packets.h"
#include "rig_stages.h"

#define RIG_OUT 4096u
#define RIG_BURST 256u
#define RIG_MS 1000000ull
#define RIG_S 1000000000ull

typedef struct rig {
    pal_engine *e;
    engine_worker *ew;
    pal_worker *w;
    uint64_t now;       /* ns: the clock of the next packet */
    uint64_t number;    /* of the last packet */
    uint32_t outs;      /* verdicts since rig_forget */
    uint32_t sent;      /* generated packets since rig_forget */
    pal_judgement out[RIG_OUT];
    uint8_t answer[REJECT_MAX_BYTES + 80]; /* the last generated packet */
    uint32_t answer_len;
    uint8_t generated[16][64];
    uint32_t generated_len[16];
} rig;

static void rig_flush(pal_worker *w)
{
    rig *r = w->context;
    for (uint32_t i = 0; i < w->out_count && r->outs < RIG_OUT; i++)
        r->out[r->outs++] = w->out[i];
    w->out_count = 0;
}

static void rig_generated(pal_worker *w, const uint8_t *ip, uint32_t len, const pal_packet *cause, uint16_t filter, uint8_t dir)
{
    rig *r = w->context;
    (void)cause, (void)filter, (void)dir;
    if (r->sent < 16) {
        r->generated_len[r->sent] = len;
        memcpy(r->generated[r->sent], ip, len < 64 ? len : 64);
    }
    r->sent++;
    r->answer_len = len;
    memcpy(r->answer, ip, len);
}

/* Seconds; the defaults of NSX's session timers. */
static const uint32_t rig_timeouts[TIMER_COUNT] = {120, 30, 43200, 120, 45, 20, 60, 30, 60, 20, 10};

static inline pal_engine_options rig_options(uint32_t cap4, uint32_t cap6)
{
    return (pal_engine_options){.capacity4 = cap4, .capacity6 = cap6, .filters = 4, .rules = 64, .workers = 1, .flows = 1,
                                .name_rules = 1, .seed = {1, 2, 3, 4, 5, 6}};
}

static inline bool rig_open_at(rig *r, const pal_engine_options *o, const char *path, char *err, size_t errlen)
{
    memset(r, 0, sizeof *r);
    r->e = pal_engine_new(o, path, err, errlen);
    if (!r->e)
        return false;
    r->ew = &r->e->worker[0];
    r->w = &r->ew->w;
    r->w->context = r;
    r->w->flush = rig_flush;
    r->w->generated = rig_generated;
    r->now = 1000 * RIG_S;
    return true;
}

static inline void rig_open(rig *r, uint32_t cap4, uint32_t cap6)
{
    pal_engine_options o = rig_options(cap4, cap6);
    char err[256];
    if (!rig_open_at(r, &o, NULL, err, sizeof err)) {
        fprintf(stderr, "rig: %s\n", err);
        exit(2);
    }
}

static inline void rig_close(rig *r) { pal_engine_free(r->e); }

/* A rule that matches all of both families; narrow it by hand. */
static inline pal_rule rig_rule(uint32_t number, uint8_t action, uint8_t flags)
{
    return (pal_rule){.rule = number, .sport_hi = 65535, .dport_hi = 65535, .proto = PAL_PROTO_ANY, .action = action,
                      .dir = PAL_DIR_IN | PAL_DIR_OUT, .family = PAL_FAMILY_V4 | PAL_FAMILY_V6, .flags = flags};
}

static inline pal_rule rig_rule_port(uint32_t number, uint8_t action, uint8_t flags, uint8_t proto, uint16_t port)
{
    pal_rule x = rig_rule(number, action, flags);
    x.proto = proto;
    x.dport_lo = x.dport_hi = port;
    return x;
}

/* The rule set of these rules, the caller's; n 0: none. */
static inline pal_ruleset *rig_build(rig *r, const pal_rule *rules, uint32_t n)
{
    pal_ruleset *set = NULL;
    if (n && pal_cls_ruleset_build(pal_engine_classifier(r->e), rules, n, NULL, 0, &set) != PAL_CLS_OK)
        abort();
    return set;
}

/* Stages and commits a filter's rule set, which is the engine's then. */
static inline void rig_commit_set(rig *r, uint32_t filter, pal_ruleset *set, bool both)
{
    if (pal_engine_stage(r->e, filter, set, rig_timeouts, both) != 0 || pal_engine_commit(r->e, 0) == 0)
        abort();
}

/* Stages and commits the rules of a filter; n 0: takes its rule set away. */
static inline void rig_commit(rig *r, uint32_t filter, const pal_rule *rules, uint32_t n, bool both)
{
    rig_commit_set(r, filter, rig_build(r, rules, n), both);
}

static inline void rig_forget(rig *r) { r->outs = r->sent = 0; }

static inline void rig_parse(rig *r, pal_packet *p, const uint8_t *bytes, uint32_t cap, uint32_t wire, uint32_t linktype)
{
    *p = (pal_packet){.data = bytes, .cap = cap, .wire = wire, .ts_ns = r->now, .clock_ns = r->now, .cookie = ++r->number};
    rig_stage_parse(p, linktype, &r->w->parse);
}

/* Judges parsed packets, at most RIG_BURST, in one call OUT at filter `out`, then IN at `in` (4: none, of either). */
static inline void rig_burst(rig *r, pal_packet *p, uint32_t n, uint32_t out, uint32_t in)
{
    const engine_config *config = engine_enter(r->e, 0);
    pal_route route[RIG_BURST];
    for (uint32_t i = 0; i < n; i++)
        route[i] = out < 4 ? (pal_route){.first = &config->filter[out], .second = in < 4 ? &config->filter[in] : NULL, .dir = PAL_DIR_OUT}
                           : (pal_route){.first = &config->filter[in], .dir = PAL_DIR_IN};
    rig_stage_burst(r->w, route, p, n);
    rig_flush(r->w);
    engine_leave(r->e, 0);
}

/* One frame at filter 0. Its (last) verdict; a held fragment has none, then verdict is PAL_HELD. */
static inline pal_judgement rig_judge_cut(rig *r, const frame *f, uint32_t cap)
{
    pal_packet p;
    uint32_t before = r->outs;
    rig_parse(r, &p, f->b, cap, f->len, LINKTYPE_ETHERNET);
    rig_burst(r, &p, 1, 0, 4);
    return r->outs == before ? (pal_judgement){.verdict = PAL_HELD, .reason = PAL_REASON_HELD, .rule = PAL_NONE, .ref = PAL_NONE}
                             : r->out[r->outs - 1];
}
static inline pal_judgement rig_judge(rig *r, const frame *f)
{
    if (r->outs > RIG_OUT / 2)
        rig_forget(r);
    return rig_judge_cut(r, f, f->len);
}

static inline void rig_finish(rig *r)
{
    rig_stage_finish(r->w);
    rig_flush(r->w);
}

#endif
