/* SPDX-License-Identifier: Apache-2.0
 *
 * test_resume.c - rules that leave their tier (PASS, JUMP_TO_APPLICATION): the rule sets that the search goes on in,
 * through builds, edits and releases, against a walk over the list of entries.
 */
#include "support/rig.h"
#include "../engine/classifier_internal.h"

#include "check.h"

#define ENTRIES 60
#define RULES 16

static uint64_t state = 1;
static uint32_t rng(uint32_t below)
{
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(state >> 33) % below;
}

/* Entries look at ports only, so that many of them match a key. */
static pal_rule entry_random(uint8_t tier)
{
    uint16_t low = (uint16_t)rng(8);
    pal_rule e = {.rule = rng(RULES), .sport_hi = 65535, .dport_lo = low, .dport_hi = (uint16_t)(low + rng(4)), .proto = PAL_PROTO_ANY,
                  .dir = 3, .family = 3, .tier = tier, .action = (uint8_t)rng(4)};
    if (e.action == PAL_ACTION_RESUME && tier == PAL_TIERS - 1)
        e.action = PAL_ACTION_DROP;
    if (e.action == PAL_ACTION_RESUME)
        e.resume = (uint8_t)(tier + 1 + rng(PAL_TIERS - 1 - tier));
    return e;
}

static uint32_t list_random(pal_rule *e)
{
    uint32_t n = 0;
    for (uint8_t tier = 0; tier < PAL_TIERS; tier++)
        for (uint32_t i = rng(5); i > 0 && n < ENTRIES; i--)
            e[n++] = entry_random(tier);
    return n;
}

/* What packet-path.md says: the first match at or after the tier at hand. Counts the rules passed by. */
static const pal_rule *walk(const pal_rule *e, uint32_t n, const pal_key *k, uint64_t *hits)
{
    uint8_t from = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (e[i].tier < from || k->dport < e[i].dport_lo || k->dport > e[i].dport_hi)
            continue;
        if (e[i].action != PAL_ACTION_RESUME)
            return &e[i];
        hits[e[i].rule]++;
        from = e[i].resume;
    }
    return NULL;
}

static void compare(pal_worker *w, const pal_ruleset *r, const pal_rule *e, uint32_t n)
{
    rule_count counted[RULES] = {{0}};
    uint64_t hits[RULES] = {0};
    w->rule = counted;
    w->rules = RULES;
    for (uint16_t port = 0; port < 12; port++) {
        pal_key k = {.proto = 6, .family = PAL_FAMILY_V4, .dir = PAL_DIR_IN, .dport = port};
        const pal_rule *want = walk(e, n, &k, hits);
        const pal_rule *found = judge_resume(w, r, classify_one(w->snap, r, &k), &k, true);
        CHECK(!want == !found);
        if (want && found) {
            CHECK_U64(found->rule, want->rule);
            CHECK_U64(found->action, want->action);
            CHECK_U64(found->tier, want->tier);
        }
        CHECK(judge_resume(w, r, classify_one(w->snap, r, &k), &k, false) == found);
    }
    for (uint32_t i = 0; i < RULES; i++)
        CHECK_U64(counted[i].hits, hits[i]);
}

static void edits(void)
{
    static pal_worker w;
    pal_cls *c = pal_cls_new();
    pal_cls_commit(c);
    for (uint32_t round = 0; round < 25; round++) {
        char name[32];
        snprintf(name, sizeof name, "round %u", round);
        check_where = name;
        pal_rule e[ENTRIES + 1];
        uint32_t n = list_random(e);
        pal_ruleset *r, *next;
        CHECK_U64((uint64_t)pal_cls_ruleset_build(c, e, n, NULL, 0, &r), PAL_CLS_OK);
        w.snap = pal_cls_snapshot(c);
        compare(&w, r, e, n);
        for (uint32_t change = 0; change < 4 && n > 0; change++) {
            uint32_t at = rng(n);
            pal_rule come = entry_random(e[at].tier);
            int rc;
            switch (rng(3)) {
            case 0:
                rc = pal_cls_ruleset_replace(c, r, at, &come, NULL, 0, &next);
                e[at] = come;
                break;
            case 1:
                if (n == ENTRIES)
                    continue;
                rc = pal_cls_ruleset_insert(c, r, at, &come, NULL, 0, &next);
                memmove(e + at + 1, e + at, (n++ - at) * sizeof *e);
                e[at] = come;
                break;
            default:
                rc = pal_cls_ruleset_delete(c, r, at, &next);
                memmove(e + at, e + at + 1, (--n - at) * sizeof *e);
            }
            CHECK_U64((uint64_t)rc, PAL_CLS_OK);
            pal_cls_ruleset_release(c, r);
            r = next;
            compare(&w, r, e, n);
        }
        pal_ruleset *again; /* by content, its later ones with it */
        CHECK_U64((uint64_t)pal_cls_ruleset_build(c, e, n, NULL, 0, &again), PAL_CLS_OK);
        CHECK(again == r);
        pal_cls_ruleset_release(c, again);
        compare(&w, r, e, n);
        pal_cls_ruleset_release(c, r);
        pal_cls_reclaim(c);
        CHECK_U64(c->n_ruleset, 0);
    }
    pal_cls_free(c);
}

/* A reader that is in the rule set while it is given back goes on in its later ones. */
static void readers(void)
{
    check_where = "readers";
    static pal_worker w;
    pal_cls *c = pal_cls_new();
    pal_cls_commit(c);
    pal_reader *reader = pal_cls_reader_new(c);
    pal_rule pass = {.sport_hi = 65535, .dport_hi = 65535, .proto = PAL_PROTO_ANY, .dir = 3, .family = 3, .tier = 3,
                     .action = PAL_ACTION_RESUME, .resume = 4};
    pal_rule drop = pass;
    drop.action = PAL_ACTION_DROP;
    drop.tier = 4;
    drop.resume = 0;
    pal_rule e[2] = {pass, drop};
    pal_ruleset *r;
    CHECK_U64((uint64_t)pal_cls_ruleset_build(c, e, 2, NULL, 0, &r), PAL_CLS_OK);
    pal_cls_reader_online(reader);
    w.snap = pal_cls_snapshot(c);
    pal_cls_ruleset_release(c, r);
    CHECK_U64(c->n_ruleset, 2);
    pal_key k = {.proto = 6, .family = PAL_FAMILY_V4, .dir = PAL_DIR_IN, .dport = 1};
    const pal_rule *found = judge_resume(&w, r, classify_one(w.snap, r, &k), &k, false);
    CHECK(found && found->action == PAL_ACTION_DROP);
    pal_cls_reader_offline(reader);
    pal_cls_reclaim(c);
    CHECK_U64(c->n_ruleset, 0);
    pal_cls_reader_free(c, reader);
    pal_cls_free(c);
}

static void refusals(void)
{
    check_where = "refusals";
    pal_cls *c = pal_cls_new();
    pal_rule e[2] = {entry_random(4), entry_random(4)};
    e[0].action = PAL_ACTION_RESUME;
    pal_ruleset *r;
    e[0].resume = 4; /* not a later tier: it would never end */
    CHECK_U64((uint64_t)pal_cls_ruleset_build(c, e, 2, NULL, 0, &r), (uint64_t)PAL_CLS_BAD_RULE);
    e[0].resume = PAL_TIERS;
    CHECK_U64((uint64_t)pal_cls_ruleset_build(c, e, 2, NULL, 0, &r), (uint64_t)PAL_CLS_BAD_RULE);
    e[0].resume = 5;
    e[1].tier = 3; /* tiers descend */
    CHECK_U64((uint64_t)pal_cls_ruleset_build(c, e, 2, NULL, 0, &r), (uint64_t)PAL_CLS_BAD_RULE);
    e[1].tier = 4;
    CHECK_U64((uint64_t)pal_cls_ruleset_build(c, e, 2, NULL, 0, &r), PAL_CLS_OK);
    pal_rule earlier = entry_random(2);
    pal_ruleset *next;
    CHECK_U64((uint64_t)pal_cls_ruleset_insert(c, r, 2, &earlier, NULL, 0, &next), (uint64_t)PAL_CLS_BAD_RULE);
    pal_cls_ruleset_release(c, r);
    CHECK_U64(c->n_ruleset, 0);
    pal_cls_free(c);
}

int main(void)
{
    edits();
    readers();
    refusals();
    return check_end("test_resume");
}
