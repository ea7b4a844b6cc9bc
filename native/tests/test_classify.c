/* SPDX-License-Identifier: Apache-2.0
 *
 * test_classify.c - the classifier against a linear scan: random rule sets, sets and changes of both, with headers drawn
 * around every boundary; and a build from nothing after each sequence of changes.
 *
 * Usage: test_classify [rounds [seed]]. Prints the first difference and exits 1.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "../engine/classifier.c"
#include "../engine/classifier_arena.c"
#include "../engine/classifier_change.c"
#include "../engine/classifier_class.c"
#include "../engine/classifier_edit.c"
#include "../engine/classifier_later.c"
#include "../engine/classifier_map.c"
#include "../engine/classifier_memory.c"
#include "../engine/classifier_place.c"
#include "../engine/classifier_ports.c"
#include "../engine/classifier_rows.c"
#include "../engine/classifier_rules.c"
#include "../engine/classifier_service.c"
#include "../engine/classifier_sets.c"
#include "../engine/classifier_tabs.c"
#include "../engine/classifier_tree.c"
#include "../engine/classifier_uses.c"
#include "classify_variants.h"

static uint64_t rng_state;
static uint32_t rng(uint32_t below)
{
    rng_state += 0x9e3779b97f4a7c15ull;
    uint64_t z = rng_state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    return below ? (uint32_t)(z % below) : (uint32_t)z;
}

#define CHECK(x, ...)                                                                                                  \
    do {                                                                                                               \
        if (!(x)) {                                                                                                    \
            fprintf(stderr, "test_classify: %s:%d: %s: ", __FILE__, __LINE__, #x);                                     \
            fprintf(stderr, __VA_ARGS__);                                                                              \
            fputc('\n', stderr);                                                                                       \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

/* ---- the model: what was said, kept as it was said ---- */

#define SETS 24
#define MEMBERS 400
#define RULES 700
#define REFS (RULES * 4)

typedef struct model_set {
    pal_range r[MEMBERS];
    uint32_t n;
} model_set;
typedef struct model_rules {
    pal_rule e[RULES];
    uint32_t n;
    uint32_t ref[REFS];
    uint32_t n_ref;
} model_rules;

static model_set set_model[SETS];

static bool in_set(uint32_t id, const uint8_t *a, uint32_t family)
{
    const model_set *s = &set_model[id % SETS];
    if (id >= SETS)
        return false;
    for (uint32_t i = 0; i < s->n; i++)
        if (s->r[i].family == family && memcmp(s->r[i].lo, a, 16) <= 0 && memcmp(a, s->r[i].hi, 16) <= 0)
            return true;
    return false;
}

static bool in_list(const model_rules *m, uint32_t off, uint32_t n, bool negated, const uint8_t *a, uint32_t family)
{
    if (n == 0)
        return true;
    bool any = false;
    for (uint32_t i = off; i < off + n; i++)
        any |= in_set(m->ref[i], a, family);
    return any != negated;
}

static uint32_t scan(const model_rules *m, const pal_key *k)
{
    for (uint32_t i = 0; i < m->n; i++) {
        const pal_rule *e = &m->e[i];
        if ((e->family & k->family) && (e->dir & k->dir) && (e->proto == PAL_PROTO_ANY || e->proto == k->proto) &&
            k->sport >= e->sport_lo && k->sport <= e->sport_hi && k->dport >= e->dport_lo && k->dport <= e->dport_hi &&
            (k->tcp_flags & e->tcp_mask) == e->tcp_value &&
            in_list(m, e->src_off, e->src_n, e->flags & PAL_RULE_SRC_NEGATED, k->src, k->family) &&
            in_list(m, e->dst_off, e->dst_n, e->flags & PAL_RULE_DST_NEGATED, k->dst, k->family))
            return i;
    }
    return PAL_NONE;
}

/* ---- random input ---- */

/* Few different values, so that ranges meet, nest and touch. */
static void random_address(uint8_t *a, uint32_t family, uint32_t style)
{
    static const uint8_t edge[] = {0, 1, 2, 127, 128, 254, 255};
    memset(a, 0, 16);
    uint32_t n = family == PAL_FAMILY_V4 ? 4 : 16;
    for (uint32_t i = 0; i < n; i++)
        a[i] = style == 0 ? edge[rng(sizeof edge)] : style == 1 ? (i + 1 == n ? (uint8_t)rng(256) : 10) : (uint8_t)rng(256);
    if (style == 3)
        for (uint32_t i = 0; i + 2 < n; i++)
            a[i] = 10;
}

static void random_range(pal_range *r, uint32_t style)
{
    memset(r, 0, sizeof *r);
    r->family = rng(3) ? PAL_FAMILY_V4 : PAL_FAMILY_V6;
    random_address(r->lo, r->family, style);
    uint32_t n = r->family == PAL_FAMILY_V4 ? 4 : 16, kind = rng(10);
    memcpy(r->hi, r->lo, 16);
    if (kind < 4) {
        return;
    } else if (kind < 8) { /* a prefix */
        uint32_t len = rng(8) ? n * 8 - rng(13) : rng(n * 8 + 1);
        for (uint32_t b = len; b < n * 8; b++) {
            r->lo[b / 8] &= (uint8_t)~(0x80 >> b % 8);
            r->hi[b / 8] |= (uint8_t)(0x80 >> b % 8);
        }
    } else {
        random_address(r->hi, r->family, style);
        if (memcmp(r->lo, r->hi, 16) > 0) {
            uint8_t t[16];
            memcpy(t, r->lo, 16);
            memcpy(r->lo, r->hi, 16);
            memcpy(r->hi, t, 16);
        }
    }
}

static uint16_t random_port(void)
{
    static const uint16_t some[] = {0, 1, 22, 53, 80, 443, 1023, 1024, 8080, 32768, 65534, 65535};
    return rng(4) ? some[rng(12)] : (uint16_t)rng(65536);
}

static void random_rule(model_rules *m, pal_rule *e, uint32_t number, bool many_services)
{
    static const uint16_t proto[] = {6, 6, 6, 17, 17, 1, 58, 132, 0, 255};
    memset(e, 0, sizeof *e);
    e->rule = number;
    e->src_n = rng(3) ? rng(3) : 0;
    e->dst_n = rng(3) ? rng(3) : 0;
    e->src_off = m->n_ref;
    for (uint32_t i = 0; i < e->src_n; i++)
        m->ref[m->n_ref++] = rng(SETS + 2);
    e->dst_off = m->n_ref;
    for (uint32_t i = 0; i < e->dst_n; i++)
        m->ref[m->n_ref++] = rng(SETS + 2);
    e->flags = (rng(6) ? 0 : PAL_RULE_SRC_NEGATED) | (rng(6) ? 0 : PAL_RULE_DST_NEGATED);
    e->proto = rng(5) ? proto[rng(10)] : many_services ? (uint16_t)rng(257) : PAL_PROTO_ANY;
    uint32_t kind = rng(4);
    e->sport_hi = e->dport_hi = 65535;
    if (kind != 0) {
        uint16_t a = many_services ? (uint16_t)rng(0x10000) : random_port(), b = kind == 1 ? a : random_port();
        e->dport_lo = a < b ? a : b;
        e->dport_hi = a < b ? b : a;
    }
    if (rng(many_services ? 2 : 5) == 0) {
        uint16_t a = many_services ? (uint16_t)rng(0x10000) : random_port(), b = random_port();
        e->sport_lo = a < b ? a : b;
        e->sport_hi = a < b ? b : a;
    }
    if (rng(6) == 0 || (many_services && rng(2))) {
        e->tcp_mask = many_services ? (uint8_t)rng(256) : 0x12;
        e->tcp_value = rng(8) ? (uint8_t)rng(256) & e->tcp_mask : 0xff;
    }
    e->dir = rng(2) ? 3 : (uint8_t)(1 + rng(2));
    e->family = rng(2) ? 3 : (uint8_t)(1 + rng(2));
    e->action = (uint8_t)rng(3);
}

/* No rule looks at a port: all ports are of one class then. */
static void blind_to_ports(model_rules *m, bool sports, bool dports)
{
    for (uint32_t i = 0; i < m->n; i++) {
        if (sports) {
            m->e[i].sport_lo = 0;
            m->e[i].sport_hi = 65535;
        }
        if (dports) {
            m->e[i].dport_lo = 0;
            m->e[i].dport_hi = 65535;
        }
    }
}
static void step_address(uint8_t *a, uint32_t family, int by)
{
    for (uint32_t i = family == PAL_FAMILY_V4 ? 4 : 16; i-- > 0;) {
        uint8_t was = a[i];
        a[i] = (uint8_t)(a[i] + by);
        if (by > 0 ? a[i] > was : a[i] < was)
            return;
    }
}
static void random_key(pal_key *k, const model_rules *m, uint32_t style)
{
    memset(k, 0, sizeof *k);
    k->family = rng(3) ? PAL_FAMILY_V4 : PAL_FAMILY_V6;
    for (uint32_t role = 0; role < 2; role++) {
        uint8_t *a = role ? k->dst : k->src;
        random_address(a, k->family, style);
        const model_set *s = &set_model[rng(SETS)];
        if (s->n && rng(8)) { /* at, beside or within a member */
            const pal_range *r = &s->r[rng(s->n)];
            if (r->family == k->family) {
                memcpy(a, rng(2) ? r->lo : r->hi, 16);
                if (rng(3) == 0)
                    step_address(a, k->family, rng(2) ? 1 : -1);
            }
        }
    }
    static const uint8_t proto[] = {6, 6, 17, 1, 58, 132, 0, 255};
    k->proto = rng(6) ? proto[rng(8)] : (uint8_t)rng(256);
    k->sport = random_port();
    k->dport = random_port();
    k->tcp_flags = (uint8_t)rng(256);
    k->dir = (uint8_t)(1 + rng(3));
    if (m->n && rng(2)) { /* the service of some entry, or just outside of it */
        const pal_rule *e = &m->e[rng(m->n)];
        k->proto = e->proto == PAL_PROTO_ANY ? k->proto : (uint8_t)e->proto;
        k->sport = (uint16_t)((rng(2) ? e->sport_lo : e->sport_hi) + (rng(4) ? 0 : rng(3)) - 1 + 1);
        k->dport = (uint16_t)((rng(2) ? e->dport_lo : e->dport_hi) + (rng(4) ? 0 : rng(3) + 65535));
        if (rng(2))
            k->tcp_flags = e->tcp_value;
    }
}
static void compare(const pal_snap *s, const pal_ruleset *r, const model_rules *m, uint32_t keys, uint32_t style)
{
    uint32_t got[CLS_MAX_BURST], said[CLS_MAX_BURST + 1];
    classify_variant variant[CLASSIFY_VARIANTS];
    classify_variants(variant);
    for (uint32_t done = 0; done < keys;) {
        uint32_t n = 1 + rng(rng(4) ? 40 : CLS_MAX_BURST);
        pal_key *k = malloc(n * sizeof *k); /* of that length: nothing may be read behind it */
        for (uint32_t i = 0; i < n; i++)
            random_key(&k[i], m, style);
        classify_burst(s, r, k, n, got);
        for (uint32_t i = 0; i < n; i++) {
            uint32_t want = scan(m, &k[i]);
            CHECK(got[i] == want, "got %u want %u of %u rules", got[i], want, m->n);
        }
        for (uint32_t v = 0; v < CLASSIFY_VARIANTS; v++) {
            if (!variant[v].possible)
                continue;
            said[n] = 0xfeedu;
            variant[v].look_up(s, r, k, n, said);
            for (uint32_t i = 0; i < n; i++)
                CHECK(said[i] == got[i], "%s variant: got %u want %u", variant[v].name, said[i], got[i]);
            CHECK(said[n] == 0xfeedu, "%s variant: wrote behind the end", variant[v].name);
        }
        CHECK(classify_one(s, r, &k[0]) == got[0], "one differs from a burst");
        free(k);
        done += n;
    }
}
static pal_ruleset *build(pal_cls *c, const model_rules *m)
{
    pal_ruleset *r;
    int rc = pal_cls_ruleset_build(c, m->e, m->n, m->ref, m->n_ref, &r);
    CHECK(rc == PAL_CLS_OK, "rc %d", rc);
    return r;
}
static void sets_put(pal_cls *c)
{
    for (uint32_t i = 0; i < SETS; i++)
        CHECK(pal_cls_set_put(c, i, set_model[i].r, set_model[i].n) == PAL_CLS_OK, "put %u", i);
}
/* The entries with unused references gone. */
static void model_compact(model_rules *m)
{
    static model_rules t;
    t.n = m->n;
    t.n_ref = 0;
    for (uint32_t i = 0; i < m->n; i++) {
        t.e[i] = m->e[i];
        t.e[i].src_off = t.n_ref;
        for (uint32_t j = 0; j < m->e[i].src_n; j++)
            t.ref[t.n_ref++] = m->ref[m->e[i].src_off + j];
        t.e[i].dst_off = t.n_ref;
        for (uint32_t j = 0; j < m->e[i].dst_n; j++)
            t.ref[t.n_ref++] = m->ref[m->e[i].dst_off + j];
    }
    *m = t;
}

static void change_set(pal_cls *c, uint32_t style)
{
    uint32_t id = rng(SETS), n_add = 0, n_del = 0;
    model_set *s = &set_model[id];
    pal_range add[8], del[8];
    if (rng(12) == 0) {
        s->n = rng(20);
        for (uint32_t i = 0; i < s->n; i++)
            random_range(&s->r[i], style);
        CHECK(pal_cls_set_put(c, id, s->r, s->n) == PAL_CLS_OK, "put");
        return;
    }
    for (uint32_t k = rng(4); k > 0 && s->n; k--) {
        uint32_t i = rng(s->n);
        del[n_del++] = s->r[i];
        s->r[i] = s->r[--s->n];
    }
    for (uint32_t k = rng(4); k > 0 && s->n < MEMBERS; k--) {
        random_range(&add[n_add], style);
        if (n_del && rng(4) == 0)
            add[n_add] = del[0];
        else if (s->n && rng(6) == 0)
            add[n_add] = s->r[rng(s->n)]; /* the same range twice */
        s->r[s->n++] = add[n_add++];
    }
    CHECK(pal_cls_set_change(c, id, add, n_add, del, n_del) == PAL_CLS_OK, "change");
    pal_range never = {.lo = {1, 2, 3, 4}, .hi = {1, 2, 3, 5}, .family = PAL_FAMILY_V4};
    bool has = false;
    for (uint32_t i = 0; i < s->n; i++)
        has |= !memcmp(&s->r[i], &never, sizeof never);
    if (!has) {
        pal_range two[2] = {s->n ? s->r[0] : never, never};
        CHECK(pal_cls_set_change(c, id, NULL, 0, two, 2) == PAL_CLS_NO_MEMBER, "a member that was never given");
    }
}

static void change_rule(pal_cls *c, model_rules *m, pal_ruleset **r, bool many)
{
    uint32_t kind = rng(3);
    pal_ruleset *now;
    int rc;
    if (m->n == 0 || (kind == 0 && m->n < RULES)) {
        uint32_t at = rng(m->n + 1);
        memmove(m->e + at + 1, m->e + at, (m->n - at) * sizeof *m->e);
        m->n++;
        random_rule(m, &m->e[at], rng(0), many);
        rc = pal_cls_ruleset_insert(c, *r, at, &m->e[at], m->ref, m->n_ref, &now);
    } else if (kind == 1) {
        uint32_t at = rng(m->n);
        memmove(m->e + at, m->e + at + 1, (m->n - at - 1) * sizeof *m->e);
        m->n--;
        rc = pal_cls_ruleset_delete(c, *r, at, &now);
    } else {
        uint32_t at = rng(m->n);
        random_rule(m, &m->e[at], rng(0), many);
        rc = pal_cls_ruleset_replace(c, *r, at, &m->e[at], m->ref, m->n_ref, &now);
    }
    CHECK(rc == PAL_CLS_OK, "rc %d", rc);
    pal_cls_ruleset_release(c, *r);
    *r = now;
    model_compact(m);
}

static void round_random(void)
{
    static model_rules m[2];
    uint32_t style = rng(4);
    pal_cls *c = pal_cls_new();
    if (rng(2))
        c->dense_max = rng(300); /* both forms of rows */
    for (uint32_t i = 0; i < SETS; i++) {
        set_model[i].n = rng(4) ? rng(12) : rng(MEMBERS);
        for (uint32_t k = 0; k < set_model[i].n; k++)
            random_range(&set_model[i].r[k], style);
    }
    bool early = rng(2);
    if (early) {
        sets_put(c);
        if (rng(2))
            pal_cls_commit(c);
    }
    pal_ruleset *r[2];
    bool many = rng(3) == 0;
    for (uint32_t i = 0; i < 2; i++) {
        m[i].n_ref = 0;
        m[i].n = rng(4) ? rng(60) : rng(RULES);
        for (uint32_t k = 0; k < m[i].n; k++)
            random_rule(&m[i], &m[i].e[k], k, many);
        blind_to_ports(&m[i], rng(4) == 0, rng(4) == 0);
        r[i] = build(c, &m[i]);
        pal_ruleset *again = build(c, &m[i]);
        CHECK(again == r[i], "equal content was built twice");
        pal_cls_ruleset_release(c, again);
    }
    if (!early)
        sets_put(c);
    pal_cls_commit(c);
    for (uint32_t i = 0; i < 2; i++)
        compare(pal_cls_snapshot(c), r[i], &m[i], 300, style);
    for (uint32_t step = 0; step < 30; step++) {
        for (uint32_t k = 1 + rng(3); k > 0; k--) {
            change_set(c, style);
            if (rng(3) == 0) {
                uint32_t i = rng(2);
                change_rule(c, &m[i], &r[i], many);
            }
        }
        pal_cls_commit(c);
        for (uint32_t i = 0; i < 2; i++)
            compare(pal_cls_snapshot(c), r[i], &m[i], 60, style);
    }
    /* From nothing: the same answers, and the same number of classes, so that nothing of the past has stayed. */
    pal_cls *fresh = pal_cls_new();
    sets_put(fresh);
    pal_ruleset *q[2];
    for (uint32_t i = 0; i < 2; i++)
        q[i] = build(fresh, &m[i]);
    pal_cls_commit(fresh);
    for (uint32_t i = 0; i < 2; i++)
        compare(pal_cls_snapshot(fresh), q[i], &m[i], 100, style);
    CHECK(pal_cls_reclaim(c) == 0, "something waits for no reader");
    CHECK(pal_cls_classes(c) == pal_cls_classes(fresh), "%u classes, from nothing %u", pal_cls_classes(c),
          pal_cls_classes(fresh));
    for (uint32_t i = 0; i < 2; i++)
        pal_cls_ruleset_release(c, r[i]);
    for (uint32_t i = 0; i < SETS; i++)
        pal_cls_set_put(c, i, NULL, 0);
    pal_cls_commit(c);
    CHECK(pal_cls_classes(c) == 1 && c->live_sets == 0 && cls_rows_live(c) == 0 && c->n_ruleset == 0, "left over: %u classes, %u sets, %u rows",
          pal_cls_classes(c), c->live_sets, cls_rows_live(c));
    pal_cls_free(c);
    pal_cls_free(fresh);
}

int main(int argc, char **argv)
{
    uint32_t rounds = argc > 1 ? (uint32_t)atoi(argv[1]) : 40;
    uint32_t seed = argc > 2 ? (uint32_t)atoi(argv[2]) : 1;
    for (uint32_t i = 0; i < rounds; i++) {
        rng_state = (uint64_t)seed << 32 | i;
        round_random();
    }
    classify_variants_skipped("test_classify");
    printf("test_classify: %u rounds equal a linear scan\n", rounds);
    return 0;
}
