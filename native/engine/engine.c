/* SPDX-License-Identifier: Apache-2.0 */
#include "engine.h"
#include "limits.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

pal_cls *pal_engine_classifier(pal_engine *e) { return e->cls; }

/* ---- workers ------------------------------------------------------------------------------------------------ */

void flow_describe(const ct_table *t, uint32_t ref, pal_flow *f)
{
    static const uint8_t proto[] = {[KIND_TCP] = PROTO_TCP, [KIND_UDP] = PROTO_UDP, [KIND_SCTP] = PROTO_SCTP};
    ct_key k;
    ct_key_of(t, ref, &k);
    memset(f, 0, sizeof *f);
    memcpy(f->src, key_addr(&k, k.high), k.family == PAL_FAMILY_V4 ? 4 : 16);
    memcpy(f->dst, key_addr(&k, !k.high), k.family == PAL_FAMILY_V4 ? 4 : 16);
    f->family = k.family;
    f->kind = k.kind;
    if (k.kind == KIND_ICMP) {
        f->proto = k.family == PAL_FAMILY_V4 ? PROTO_ICMP : PROTO_ICMP6;
        f->sport = k.port[0];
        f->dport = (uint16_t)(k.port[1] >> 1 << 8);
    } else if (k.kind == KIND_OTHER) {
        f->proto = (uint8_t)k.port[0];
    } else {
        f->proto = proto[k.kind];
        f->sport = k.port[k.high];
        f->dport = k.port[!k.high];
    }
    f->packets = ct_packets(t, ref, 0);
    f->bytes = ct_bytes(t, ref, 0);
    f->reply_packets = ct_packets(t, ref, 1);
    f->reply_bytes = ct_bytes(t, ref, 1);
    f->rule = t->cold[ref].rule;
    f->dir = t->cold[ref].memo & MEMO_INWARD ? PAL_DIR_IN : PAL_DIR_OUT;
    f->state = ct_state_of(&t->hot[ref]);
}

static void flow_fill(const ct_table *t, uint32_t ref, enum ct_end why, pal_flow *f)
{
    const ct_flow *x = &t->flow[ref];
    flow_describe(t, ref, f);
    f->proto = x->proto;
    f->number = x->cookie & COOKIE_NUMBER;
    f->file = (uint32_t)(x->cookie >> COOKIE_FILE_SHIFT);
    f->start_ns = x->start_ns;
    f->end_ns = x->last_ns;
    f->dropped = x->dropped;
    f->filter = x->filter;
    f->dir = x->dir;
    f->end_reason = (uint8_t)why;
    memcpy(f->history, x->history, sizeof f->history);
}

static void flow_append(flow_list *l, const ct_table *t, uint32_t ref, enum ct_end why)
{
    if (l->count == l->room) {
        size_t room = l->room ? l->room * 2 : 1024;
        pal_flow *bigger = realloc(l->flow, room * sizeof *bigger);
        if (!bigger) {
            l->lost = true;
            return;
        }
        l->flow = bigger;
        l->room = room;
    }
    flow_fill(t, ref, why, &l->flow[l->count++]);
}

static void worker_ended(void *context, uint32_t ref, enum ct_end why)
{
    engine_worker *ew = context;
    rule_settle(&ew->w, ew->w.table.cold[ref].rule, ref, true);
    if (rule_is_logged(&ew->w, ew->w.table.cold[ref].rule))
        ew->w.log_end(&ew->w, ref, why);
    if (ew->w.table.flow && ew->engine->options.flows == PAL_FLOWS_KEPT)
        flow_append(&ew->flows, &ew->w.table, ref, why);
}

static void worker_gone(void *context, uint32_t ref)
{
    engine_worker *ew = context;
    expect_forget(ew->w.expected, ref, ew->w.table.s->seed);
}

static void worker_close(engine_worker *ew)
{
    if (ew->reader)
        pal_cls_reader_free(ew->engine->cls, ew->reader);
    free(ew->w.fragments);
    free(ew->w.expected);
    free(ew->w.rejects);
    limits_close(&ew->w);
    free(ew->w.rule);
    free(ew->w.vrf);
    free(ew->w.scratch);
    free(ew->w.table.flow);
    free(ew->flows.flow);
    if (ew->region.base)
        table_close(&ew->region);
}

static void worker_forget(engine_worker *ew)
{
    pal_worker *w = &ew->w;
    const pal_engine_options *o = &ew->engine->options;
    frag_init(w->fragments);
    expect_init(w->expected);
    memset(w->rejects, 0, o->filters * sizeof *w->rejects);
    limits_forget(w, o->filters, ew->engine->incarnation + 1);
    memset(w->rule, 0, o->rules * sizeof *w->rule);
    memset(w->count, 0, sizeof w->count);
    w->bad_ip_sum = w->bad_l4_sum = w->odd = w->received = w->released = 0;
    w->out_count = 0;
    w->clock_due = 0;
    if (w->vrf)
        memset(w->vrf, 0, VRF_SLOTS * sizeof *w->vrf);
    w->vrf_count = 0;
    ew->flows.count = 0;
}

/* Memory that one worker writes: whole lines. */
static void *worker_memory(size_t size)
{
    return aligned_alloc(PAL_CACHE_LINE, (size + PAL_CACHE_LINE - 1) & ~(size_t)(PAL_CACHE_LINE - 1));
}

static int worker_open(pal_engine *e, uint32_t number, const char *path, char *err, size_t errlen)
{
    engine_worker *ew = &e->worker[number];
    const pal_engine_options *o = &e->options;
    char name[4096];
    table_config c = {.cap4 = o->capacity4, .cap6 = o->capacity6, .huge = o->huge_pages, .nat = o->nat};
    memcpy(c.seed, o->seed, sizeof c.seed);
    if (path) {
        int n = number ? snprintf(name, sizeof name, "%s.%u", path, number) : snprintf(name, sizeof name, "%s", path);
        if (n < 0 || (size_t)n >= sizeof name) {
            snprintf(err, errlen, "the table's path is too long");
            return -1;
        }
        c.path = name;
    }
    ew->engine = e;
    ew->number = number;
    ew->region.fd = -1;
    if (table_open(&ew->w.table, &ew->region, &c, err, errlen) < 0)
        return -1;
    ew->reader = pal_cls_reader_new(e->cls);
    pal_worker *w = &ew->w;
    w->fragments = worker_memory(sizeof *w->fragments);
    w->expected = worker_memory(sizeof *w->expected);
    w->rejects = worker_memory(o->filters * sizeof *w->rejects);
    bool limited = limits_open(w, &e->options.limits, o->filters);
    w->rule = worker_memory(((size_t)o->rules + 1) * sizeof *w->rule);
    w->vrf = o->decap ? worker_memory(VRF_SLOTS * sizeof *w->vrf) : NULL;
    w->scratch = worker_memory(65536 + 1024);
    if (o->flows)
        w->table.flow = calloc((size_t)o->capacity4 + o->capacity6, sizeof(ct_flow));
    if (!ew->reader || !w->fragments || !w->expected || !w->rejects || !w->rule || !w->scratch || (o->decap && !w->vrf) || (o->flows && !w->table.flow) ||
        !limited) {
        snprintf(err, errlen, "no memory for a worker");
        return -1;
    }
    w->rules = o->rules;
    w->name_rules = o->name_rules;
    w->observed = o->name_rules || o->flows;
    w->wide = wide_is_possible();
    w->parse = (parse_options){.sum_mode = o->sums, .decap = o->decap, .sanity = o->sanity};
    w->table.ended = worker_ended;
    w->table.gone = worker_gone;
    w->table.context = ew;
    worker_forget(ew);
    return 0;
}

void pal_engine_clear(pal_engine *e)
{
    for (uint32_t i = 0; i < e->options.workers; i++) {
        table_clear(&e->worker[i].w.table);
        worker_forget(&e->worker[i]);
    }
}

/* ---- life ---------------------------------------------------------------------------------------------------- */

void pal_engine_free(pal_engine *e)
{
    if (!e)
        return;
    for (uint32_t i = 0; e->worker && i < e->options.workers; i++)
        worker_close(&e->worker[i]);
    for (uint32_t i = 0; i < e->options.filters; i++) {
        if (e->staged_rules)
            config_rules_drop(e, i);
        if (e->held && e->held[i])
            pal_cls_ruleset_release(e->cls, e->held[i]);
    }
    while (e->current) {
        engine_config *older = e->current->older;
        config_free(e->current);
        e->current = older;
    }
    config_free(e->staged);
    free(e->held);
    free(e->staged_rules);
    free(e->seat);
    free(e->worker);
    if (e->cls)
        pal_cls_free(e->cls);
    free(e);
}

pal_engine *pal_engine_new(const pal_engine_options *options, const char *path, char *err, size_t errlen)
{
    const pal_engine_options *o = options;
    if (o->filters == 0 || o->filters >= PAL_NO_FILTER || o->workers == 0 || o->workers > ENGINE_WORKERS_MAX || o->rules >= PAL_NO_RULE) {
        snprintf(err, errlen, "filters must be 1 to 65534, workers 1 to 64");
        return NULL;
    }
    pal_engine *e = calloc(1, sizeof *e);
    if (!e) {
        snprintf(err, errlen, "no memory for an engine");
        return NULL;
    }
    e->options = *o;
    if (!limits_settle(&e->options.limits, err, errlen)) {
        free(e);
        return NULL;
    }
    uint64_t any = 0;
    for (uint32_t i = 0; i < HASH_KEY_WORDS; i++)
        any |= o->seed[i];
    if (!any && getrandom(e->options.seed, sizeof e->options.seed, 0) != (ssize_t)sizeof e->options.seed) {
        snprintf(err, errlen, "the kernel gives no random seed");
        free(e);
        return NULL;
    }
    e->cls = pal_cls_new();
    e->current = config_new(o->filters);
    e->held = calloc(o->filters, sizeof *e->held);
    e->staged_rules = calloc(o->filters, sizeof *e->staged_rules);
    e->worker = worker_memory(o->workers * sizeof *e->worker);
    if (e->worker)
        memset(e->worker, 0, o->workers * sizeof *e->worker);
    if (e->cls && e->current) {
        pal_cls_own(e->cls);
        e->current->snap = pal_cls_snapshot(e->cls);
    }
    e->seat = aligned_alloc(PAL_CACHE_LINE, o->workers * sizeof *e->seat);
    bool ok = e->cls && e->current && e->held && e->staged_rules && e->worker && e->seat;
    if (!ok)
        snprintf(err, errlen, "no memory for an engine");
    for (uint32_t i = 0; ok && i < o->workers; i++) {
        e->seat[i].config_seen = CONFIG_BETWEEN_BURSTS;
        ok = worker_open(e, i, path, err, errlen) == 0;
    }
    if (!ok) {
        pal_engine_free(e);
        return NULL;
    }
    return e;
}
