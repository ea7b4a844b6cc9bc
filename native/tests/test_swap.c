/* SPDX-License-Identifier: Apache-2.0
 *
 * test_swap.c - a change is one point in each worker's order of judgement. Workers judge flows without a pause while rules and
 * the sets that they refer to are swapped together, again and again: state 1 passes A and nothing else, state 2 passes the
 * reverse. Each verdict tells which state judged it. D is passed by neither; new rules with old sets would, and so would old
 * rules with new sets. That the test can fail is shown by a commit that is split on purpose.
 */
#include "check.h"
#include "support/rig.h"

#include <pthread.h>
#include <time.h>

#define WORKERS 2u
#define FILTERS 3u
#define FLOWS 503u /* A, D, C1 ... C501 */
#define FLOW_A 0u
#define FLOW_D 1u
#define BURSTS_A_STATE 2u /* at least, of each worker, before the next swap */
#define GROUP 7u

enum split { SPLIT_NOTHING, SPLIT_FILTERS, SPLIT_SETS };

typedef struct judge {
    pal_engine *e;
    uint32_t number, state; /* 1, 2; 0: nothing was judged */
    uint64_t random;
    uint64_t switches, wrong, packets; /* of its verdicts: where the state changed; those of no state */
    uint64_t bursts;        /* [C] atomic: done */
    bool *end;
} judge;

static frame flow[FLOWS];

static uint32_t pick(judge *g, uint32_t below)
{
    g->random = g->random * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)((g->random >> 33) % below);
}

/* A flow's packet always: a datagram, or a SYN again. Its place says at which filter it is judged. */
static void flows_make(void)
{
    for (uint32_t i = 0; i < FLOWS; i++) {
        const uint8_t host = i == FLOW_A ? 1 : i == FLOW_D ? 2 : (uint8_t)(3 + i % 200);
        const uint32_t family = i % 4 == 3 ? PAL_FAMILY_V6 : PAL_FAMILY_V4;
        const uint16_t port = (uint16_t)(1024 + i);
        if (i % 2)
            frame_udp(&flow[i], family, host, 250, port, 53, "x", 1);
        else
            frame_tcp(&flow[i], family, host, 250, port, 80, (tcp_say){.seq = 1, .flags = TCP_SYN, .window = 1000});
    }
}

static void judge_note(judge *g, const pal_judgement *j)
{
    const uint32_t which = (uint32_t)(j->cookie - 1);
    const bool passed = j->verdict == PAL_ALLOW;
    if (which == FLOW_D) {
        g->wrong += passed;
        return;
    }
    const uint32_t state = passed == (which == FLOW_A) ? 1 : 2;
    if (g->state && state != g->state)
        g->switches++;
    g->state = state;
    g->packets++;
}

static void judge_flush(pal_worker *w)
{
    judge *g = w->context;
    for (uint32_t i = 0; i < w->out_count; i++)
        judge_note(g, &w->out[i]);
    w->out_count = 0;
}

static void judge_generated(pal_worker *w, const uint8_t *ip, uint32_t len, const pal_packet *cause, uint16_t filter, uint8_t dir)
{
    (void)w, (void)ip, (void)len, (void)cause, (void)filter, (void)dir;
}

static void judge_burst(judge *g, uint64_t now)
{
    pal_worker *w = &g->e->worker[g->number].w;
    pal_packet p[64];
    pal_route route[64];
    const uint32_t n = 1 + pick(g, 64);
    const engine_config *config = engine_enter(g->e, g->number);
    for (uint32_t k = 0; k < n; k++) {
        const uint32_t i = pick(g, 8) ? pick(g, FLOWS) : pick(g, 2);
        p[k] = (pal_packet){.data = flow[i].b, .cap = flow[i].len, .wire = flow[i].len, .ts_ns = now, .clock_ns = now, .cookie = i + 1};
        rig_stage_parse(&p[k], LINKTYPE_ETHERNET, &w->parse);
        route[k] = (pal_route){.first = &config->filter[i % FILTERS], .dir = PAL_DIR_OUT};
    }
    rig_stage_burst(w, route, p, n);
    judge_flush(w);
    engine_leave(g->e, g->number);
    __atomic_add_fetch(&g->bursts, 1, __ATOMIC_RELEASE);
}

static void *judge_run(void *context)
{
    judge *g = context;
    for (uint64_t now = RIG_S; !__atomic_load_n(g->end, __ATOMIC_ACQUIRE); now += 1000)
        judge_burst(g, now);
    return NULL;
}

/* Every worker has judged, in whole bursts that began after this. */
static void judges_wait(judge *g)
{
    for (uint32_t i = 0; i < WORKERS; i++) {
        const uint64_t from = __atomic_load_n(&g[i].bursts, __ATOMIC_ACQUIRE);
        while (__atomic_load_n(&g[i].bursts, __ATOMIC_ACQUIRE) < from + 1 + BURSTS_A_STATE)
            nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    }
}

static void sets_stage(pal_engine *e, uint32_t state)
{
    pal_range r[4];
    uint32_t n = 0;
    for (uint32_t host = 1; host <= state; host++)
        for (uint32_t family = PAL_FAMILY_V4; family <= PAL_FAMILY_V6; family++, n++) {
            r[n] = (pal_range){.family = family};
            host_addr(r[n].lo, family, (uint8_t)host);
            host_addr(r[n].hi, family, (uint8_t)host);
        }
    CHECK(pal_cls_set_put(pal_engine_classifier(e), GROUP, r, n) == PAL_CLS_OK); /* A; A and D */
}

static void rules_stage(pal_engine *e, uint32_t state, uint32_t filter)
{
    static const uint32_t group = GROUP;
    pal_rule rules[2] = {rig_rule(1, state == 1 ? PAL_ACTION_ALLOW : PAL_ACTION_DROP, 0),
                         rig_rule(2, state == 1 ? PAL_ACTION_DROP : PAL_ACTION_ALLOW, 0)};
    rules[0].src_n = 1;
    pal_ruleset *set = NULL;
    CHECK(pal_cls_ruleset_build(pal_engine_classifier(e), rules, 2, &group, 1, &set) == PAL_CLS_OK);
    CHECK(pal_engine_stage(e, filter, set, rig_timeouts, 0) == 0);
}

/* Puts a state in force; split: in two steps, and the workers see what is between them. */
static void swap(pal_engine *e, judge *g, uint32_t state, enum split split)
{
    sets_stage(e, state);
    if (split == SPLIT_SETS) {
        CHECK(pal_engine_commit(e, 0) != 0);
        judges_wait(g);
    }
    for (uint32_t i = 0; i < FILTERS; i++) {
        rules_stage(e, state, i);
        if (split == SPLIT_FILTERS && i == 0) {
            CHECK(pal_engine_commit(e, 0) != 0);
            judges_wait(g);
        }
    }
    CHECK(pal_engine_commit(e, 0) != 0);
}

static void test_swaps(uint32_t swaps, enum split split)
{
    pal_engine_options o = rig_options(2048, 2048);
    o.workers = WORKERS;
    char err[200] = "";
    pal_engine *e = pal_engine_new(&o, NULL, err, sizeof err);
    CHECK(e != NULL);
    bool end = false;
    judge g[WORKERS];
    pthread_t thread[WORKERS];
    sets_stage(e, 1);
    for (uint32_t i = 0; i < FILTERS; i++)
        rules_stage(e, 1, i);
    CHECK(pal_engine_commit(e, 0) != 0);
    for (uint32_t i = 0; i < WORKERS; i++) {
        g[i] = (judge){.e = e, .number = i, .random = 77 + i, .end = &end};
        e->worker[i].w.context = &g[i];
        e->worker[i].w.flush = judge_flush;
        e->worker[i].w.generated = judge_generated;
        CHECK(pthread_create(&thread[i], NULL, judge_run, &g[i]) == 0);
    }
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    judges_wait(g);
    for (uint32_t n = 1; n <= swaps; n++) {
        swap(e, g, 1 + n % 2, split);
        judges_wait(g);
    }
    __atomic_store_n(&end, true, __ATOMIC_RELEASE);
    uint64_t wrong = 0, switches = 0, packets = 0;
    for (uint32_t i = 0; i < WORKERS; i++) {
        pthread_join(thread[i], NULL);
        packets += g[i].packets;
        wrong += g[i].wrong;
        switches += g[i].switches;
    }
    clock_gettime(CLOCK_MONOTONIC, &to);
    if (split == SPLIT_NOTHING) {
        CHECK_U64(wrong, 0);
        CHECK_U64(switches, (uint64_t)swaps * WORKERS);
        const double seconds = (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) / 1e9;
        printf("%u swaps, %u workers: %.0f packets a second over %u flows\n", swaps, WORKERS, (double)packets / seconds, FLOWS);
    } else {
        CHECK(wrong > 0 || switches > (uint64_t)swaps * WORKERS);
    }
    pal_engine_free(e);
}

/* Workers that do nothing but begin and end bursts, more of them than there are cores, so that they are often stopped in the
 * middle of it, while configurations come and go. */
#define HURRIED 6u

typedef struct hurry {
    pal_engine *e;
    uint32_t number;
    uint64_t bursts; /* [C] atomic: that saw all filters */
    const bool *end;
} hurry;

static void *hurry_run(void *context)
{
    hurry *h = context;
    while (!__atomic_load_n(h->end, __ATOMIC_ACQUIRE)) {
        const engine_config *config = engine_enter(h->e, h->number);
        __atomic_add_fetch(&h->bursts, config->filters == 4, __ATOMIC_RELAXED);
        engine_leave(h->e, h->number);
    }
    return NULL;
}

static void test_hurry(uint32_t commits)
{
    pal_engine_options o = rig_options(64, 64);
    o.workers = HURRIED;
    char err[200] = "";
    pal_engine *e = pal_engine_new(&o, NULL, err, sizeof err);
    CHECK(e != NULL);
    bool end = false;
    hurry h[HURRIED];
    pthread_t thread[HURRIED];
    for (uint32_t i = 0; i < HURRIED; i++) {
        h[i] = (hurry){.e = e, .number = i, .end = &end};
        CHECK(pthread_create(&thread[i], NULL, hurry_run, &h[i]) == 0);
    }
    for (uint32_t i = 0; i < HURRIED; i++) /* on a busy machine all commits are done before the last of them has run at all */
        while (__atomic_load_n(&h[i].bursts, __ATOMIC_RELAXED) == 0)
            nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    for (uint32_t n = 0; n < commits; n++)
        CHECK(pal_engine_stage(e, n % 4, NULL, rig_timeouts, false) == 0 && pal_engine_commit(e, 0) != 0);
    __atomic_store_n(&end, true, __ATOMIC_RELEASE);
    for (uint32_t i = 0; i < HURRIED; i++) {
        pthread_join(thread[i], NULL);
        CHECK(h[i].bursts > 0);
    }
    uint32_t kept = 0; /* once nobody is in a burst, one commit more leaves nothing of what was before */
    CHECK(pal_engine_stage(e, 0, NULL, rig_timeouts, false) == 0 && pal_engine_commit(e, 0) != 0);
    for (const engine_config *c = e->current->older; c; c = c->older)
        kept++;
    CHECK_U64(kept, 0);
    pal_engine_free(e);
}

int main(void)
{
    flows_make();
    check_where = "hurry";
    test_hurry(getenv("PALISADE_LONG") ? 100000 : 5000);
    check_where = "whole";
    test_swaps(getenv("PALISADE_LONG") ? 1000 : 100, SPLIT_NOTHING);
    check_where = "split between filters";
    test_swaps(3, SPLIT_FILTERS);
    check_where = "split between sets and rules";
    test_swaps(3, SPLIT_SETS);
    return check_end("test_swap");
}
