/* SPDX-License-Identifier: Apache-2.0
 *
 * configuration.c - filters as they are staged, committed under an epoch and, when no worker can be using them, freed.
 */
#include "engine.h"
#include "limits.h"
#include "palisade_watch.h"

#include <stdlib.h>

engine_config *config_new(uint32_t filters)
{
    engine_config *c = calloc(1, sizeof *c + filters * sizeof c->filter[0]);
    if (c) {
        c->filters = filters;
        for (uint32_t i = 0; i < filters; i++)
            c->filter[i].number = (uint16_t)i;
    }
    return c;
}

/* Layer-2 rules belong to the configurations that refer to them; the last one to go takes them along. */
static void ether_hold(const ether_rules *rules)
{
    if (rules)
        ((ether_rules *)(uintptr_t)rules)->holds++;
}

static void ether_drop(const ether_rules *rules)
{
    ether_rules *r = (ether_rules *)(uintptr_t)rules;
    if (r && --r->holds == 0)
        free(r);
}

static void bits_hold(const rule_bits *bits)
{
    if (bits)
        ((rule_bits *)(uintptr_t)bits)->holds++;
}

static void bits_drop(const rule_bits *bits)
{
    rule_bits *b = (rule_bits *)(uintptr_t)bits;
    if (b && --b->holds == 0)
        free(b);
}

void config_free(engine_config *c)
{
    for (uint32_t i = 0; c && i < c->filters; i++)
        ether_drop(c->filter[i].ether);
    if (c) {
        fabric_drop(c->fabric);
        bits_drop(c->logged);
    }
    free(c);
}

/* The copy that the next commit will publish. */
static engine_config *config_staged(pal_engine *e)
{
    if (!e->staged) {
        e->staged = config_new(e->options.filters);
        if (e->staged)
            memcpy(e->staged->filter, e->current->filter, e->options.filters * sizeof(pal_filter));
        for (uint32_t i = 0; e->staged && i < e->options.filters; i++)
            ether_hold(e->staged->filter[i].ether);
        if (e->staged) {
            e->staged->fabric = e->current->fabric;
            fabric_hold(e->staged->fabric);
            e->staged->logged = e->current->logged;
            bits_hold(e->staged->logged);
        }
    }
    return e->staged;
}

int config_fabric_stage(pal_engine *e, const fabric *f)
{
    if (!config_staged(e))
        return -1;
    fabric_drop(e->staged->fabric);
    e->staged->fabric = f;
    return 0;
}

int pal_engine_stage_logged(pal_engine *e, const uint32_t *rules, uint32_t n)
{
    rule_bits *made = NULL;
    if (!config_staged(e))
        return -1;
    if (n) {
        made = calloc(1, sizeof *made + ((size_t)e->options.rules / 64 + 1) * sizeof made->bit[0]);
        if (!made)
            return -1;
        made->holds = 1;
        for (uint32_t i = 0; i < n; i++)
            if (rules[i] < e->options.rules)
                made->bit[rules[i] / 64] |= 1ull << (rules[i] % 64);
    }
    bits_drop(e->staged->logged);
    e->staged->logged = made;
    return 0;
}

/* Frees configurations that no worker can still be using. */
static void config_reclaim(pal_engine *e)
{
    uint64_t oldest = e->current->number;
    for (uint32_t i = 0; i < e->options.workers; i++) {
        uint64_t seen = __atomic_load_n(&e->seat[i].config_seen, __ATOMIC_SEQ_CST);
        if (seen == CONFIG_ENTERING) /* it may have any of them in its hand: the next commit looks again */
            return;
        if (seen < oldest)
            oldest = seen;
    }
    for (engine_config **at = &e->current->older; *at;) {
        engine_config *c = *at;
        if (c->number >= oldest) {
            at = &c->older;
            continue;
        }
        *at = c->older;
        config_free(c);
    }
}

const engine_config *engine_enter(pal_engine *e, uint32_t worker)
{
    worker_seat *seat = &e->seat[worker];
    pal_cls_reader_online(e->worker[worker].reader);
    /* Said before we look: from here on nothing is freed. What was freed before is not what we find, for a commit publishes
     * the next one before it looks at us. */
    __atomic_store_n(&seat->config_seen, CONFIG_ENTERING, __ATOMIC_SEQ_CST);
    const engine_config *c = __atomic_load_n(&e->current, __ATOMIC_SEQ_CST);
    __atomic_store_n(&seat->config_seen, c->number, __ATOMIC_RELEASE);
    e->worker[worker].w.snap = c->snap;
    e->worker[worker].w.logged = c->logged ? c->logged->bit : NULL;
    return c;
}

void engine_leave(pal_engine *e, uint32_t worker)
{
    e->worker[worker].w.logged = NULL; /* it is the configuration's */
    __atomic_store_n(&e->seat[worker].config_seen, CONFIG_BETWEEN_BURSTS, __ATOMIC_RELEASE);
    pal_cls_reader_offline(e->worker[worker].reader);
}

void config_rules_drop(pal_engine *e, uint32_t number)
{
    if (e->staged_rules[number])
        pal_cls_ruleset_release(e->cls, e->staged_rules[number]);
    e->staged_rules[number] = NULL;
}

int pal_engine_adopt(pal_engine *e, uint32_t number, uint32_t incarnation)
{
    if (number >= e->options.filters || incarnation == 0 || incarnation >= INCARNATIONS || !config_staged(e))
        return -1;
    for (uint32_t i = 0; i < e->staged->filters; i++)
        if (i != number && e->staged->filter[i].zone >> ZONE_VRF_BITS == incarnation)
            return -1;
    e->staged->filter[number].zone = incarnation << ZONE_VRF_BITS;
    e->staged->filter[number].epoch = 0;
    if (incarnation > e->incarnation)
        e->incarnation = incarnation;
    return 0;
}

uint32_t pal_engine_incarnation(const pal_engine *e, uint32_t number)
{
    const engine_config *c = e->staged ? e->staged : e->current;
    return number < c->filters ? c->filter[number].zone >> ZONE_VRF_BITS : 0;
}

static int filter_stage(pal_engine *e, uint32_t number, pal_ruleset *rules, const uint32_t *timeouts, int both, bool fresh)
{
    if (number >= e->options.filters || !config_staged(e))
        return -1;
    pal_filter *f = &e->staged->filter[number];
    bool reborn = fresh || f->zone == 0;
    if (reborn && e->incarnation + 1 >= INCARNATIONS) /* before anything is taken: on -1 the rule set stays the caller's */
        return -1;
    config_rules_drop(e, number);
    e->staged_rules[number] = rules;
    f->rules = rules;
    f->epoch = 0; /* the commit gives the new one */
    f->both = both != 0;
    for (uint32_t i = 0; timeouts && i < TIMER_COUNT; i++)
        f->timeout[i] = timeouts[i] * 100;
    f->established = f->timeout[TIMER_TCP_ESTABLISHED];
    if (reborn)
        f->zone = ++e->incarnation << ZONE_VRF_BITS;
    return 0;
}

int pal_engine_stage(pal_engine *e, uint32_t number, pal_ruleset *rules, const uint32_t *timeouts, int both)
{
    return filter_stage(e, number, rules, timeouts, both, false);
}

int pal_engine_stage_flood(pal_engine *e, uint32_t number, const uint32_t *limits)
{
    if (number >= e->options.filters || !config_staged(e))
        return -1;
    memcpy(e->staged->filter[number].flood, limits, sizeof e->staged->filter[number].flood);
    return 0;
}

static bool ether_is_sound(const pal_ether_rule *r, uint32_t macs)
{
    return r->dir >= PAL_DIR_IN && r->dir <= (PAL_DIR_IN | PAL_DIR_OUT) && r->action <= PAL_ACTION_DROP && r->src_off <= macs &&
           r->src_n <= macs - r->src_off && r->dst_off <= macs && r->dst_n <= macs - r->dst_off;
}

int pal_engine_stage_ether(pal_engine *e, uint32_t number, const pal_ether_rule *rules, uint32_t n, const uint64_t *macs,
                           uint32_t n_macs)
{
    if (number >= e->options.filters || n > ETHER_RULES_MAX || !config_staged(e))
        return -1;
    ether_rules *made = NULL;
    if (n != 0) {
        for (uint32_t i = 0; i < n; i++)
            if (!ether_is_sound(&rules[i], n_macs))
                return -1;
        size_t head = (sizeof *made + n * sizeof *rules + 7) & ~(size_t)7;
        made = malloc(head + n_macs * sizeof *macs);
        if (!made)
            return -1;
        uint64_t *mac = (uint64_t *)(void *)((uint8_t *)made + head);
        *made = (ether_rules){.holds = 1, .n = n, .macs = n_macs, .mac = mac};
        memcpy(made->rule, rules, n * sizeof *rules);
        if (n_macs)
            memcpy(mac, macs, n_macs * sizeof *macs);
    }
    pal_filter *f = &e->staged->filter[number];
    ether_drop(f->ether);
    f->ether = made;
    f->layer2 = made != NULL;
    f->epoch = 0;
    return 0;
}

int pal_engine_remove(pal_engine *e, uint32_t number)
{
    if (pal_engine_stage_ether(e, number, NULL, 0, NULL, 0) != 0)
        return -1;
    memset(e->staged->filter[number].flood, 0, sizeof e->staged->filter[number].flood);
    return filter_stage(e, number, NULL, NULL, 0, true);
}

uint64_t pal_engine_commit(pal_engine *e, int all)
{
    engine_config *next = config_staged(e);
    if (!next)
        return 0;
    e->epoch++;
    for (uint32_t i = 0; i < next->filters; i++) {
        if (!all && next->filter[i].epoch != 0)
            continue;
        /* 32 bits of the epoch stand in a connection; 0 says "staged", and only equality counts. */
        if ((uint32_t)e->epoch == 0)
            e->epoch++;
        next->filter[i].epoch = (uint32_t)e->epoch;
    }
    next->number = e->current->number + 1;
    next->older = e->current;
    e->staged = NULL;
    pal_cls_publish(e->cls);
    next->snap = pal_cls_snapshot(e->cls);
    __atomic_store_n(&e->current, next, __ATOMIC_SEQ_CST); /* rules, members of sets, fabric: all at once */
    __atomic_store_n(&e->committed, next->number, __ATOMIC_RELEASE);
    pal_cls_published(e->cls); /* whoever reads the new epoch reads the new configuration */
    for (uint32_t i = 0; i < next->filters; i++) {
        if (next->filter[i].rules == e->held[i] && !e->staged_rules[i])
            continue;
        if (e->held[i])
            pal_cls_ruleset_release(e->cls, e->held[i]);
        e->held[i] = e->staged_rules[i];
        e->staged_rules[i] = NULL;
    }
    config_reclaim(e);
    return e->epoch;
}

void pal_engine_epoch_set(pal_engine *e, uint64_t epoch) { e->epoch = epoch; }
