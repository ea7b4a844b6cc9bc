/* SPDX-License-Identifier: Apache-2.0
 *
 * test_classify_grid.c - rule sets of every form of rows, dense of one to four blocks and sparse of one and two superblocks, in
 * which each entry is the only match of one header: no bit of a row may be lost, and none stand elsewhere. And large rule sets
 * in which each header has many matches, in many blocks: the first must be found, by every variant of the look-up.
 */
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
#include "check.h"
#include "classify_variants.h"

enum { ENTRIES_MOST = 20000 };
static uint32_t ports; /* that entries of one set name; 1: there are two classes of ports */

/* Header number h: of entry h; from n on, in the set of entry h - n, at a port that none names. */
static void grid_key(pal_key *k, uint32_t h, uint32_t n, bool source, bool sport)
{
    uint32_t set = h % n / ports;
    memset(k, 0, sizeof *k);
    k->family = PAL_FAMILY_V4;
    k->proto = 6;
    k->dir = PAL_DIR_IN;
    store_be32(source ? k->src : k->dst, 0x0a000000u + (set << 8) + h % 251);
    *(sport ? &k->sport : &k->dport) = (uint16_t)(h < n ? 1000 + h % ports : 999);
}

/* Answers of all variants that are not as wanted. */
static uint32_t variants_wrong(const pal_cls *c, const pal_ruleset *r, const pal_key *key, const uint32_t *want)
{
    classify_variant variant[CLASSIFY_VARIANTS];
    uint32_t got[CLS_MAX_BURST], wrong = 0;
    classify_variants(variant);
    for (uint32_t v = 0; v < CLASSIFY_VARIANTS; v++) {
        if (!variant[v].possible)
            continue;
        variant[v].look_up(pal_cls_snapshot(c), r, key, CLS_MAX_BURST, got);
        for (uint32_t i = 0; i < CLS_MAX_BURST; i++)
            wrong += got[i] != want[i];
    }
    classify_burst(pal_cls_snapshot(c), r, key, CLS_MAX_BURST, got);
    for (uint32_t i = 0; i < CLS_MAX_BURST; i++)
        wrong += got[i] != want[i];
    return wrong;
}

/* `n` entries; by source or destination, source port or destination port. Every header, and as many that none has. */
static void grid_try(uint32_t n, bool source, bool sport)
{
    static pal_rule rule[ENTRIES_MOST];
    static uint32_t ref[ENTRIES_MOST];
    pal_cls *c = pal_cls_new();
    pal_ruleset *r;
    memset(rule, 0, sizeof rule);
    for (uint32_t i = 0; i < n; i++) {
        pal_rule *e = &rule[i];
        uint16_t port = (uint16_t)(1000 + i % ports);
        *e = (pal_rule){.rule = i, .proto = 6, .dir = 3, .family = 3, .sport_hi = 65535, .dport_hi = 65535};
        *(source ? &e->src_n : &e->dst_n) = 1;
        *(source ? &e->src_off : &e->dst_off) = i;
        *(sport ? &e->sport_lo : &e->dport_lo) = *(sport ? &e->sport_hi : &e->dport_hi) = port;
        ref[i] = i / ports;
        if (i % ports == 0) {
            pal_range range = {.family = PAL_FAMILY_V4};
            store_be32(range.lo, 0x0a000000u + (i / ports << 8));
            store_be32(range.hi, 0x0a0000ffu + (i / ports << 8));
            CHECK(pal_cls_set_put(c, i / ports, &range, 1) == PAL_CLS_OK);
        }
    }
    CHECK(pal_cls_ruleset_build(c, rule, n, ref, n, &r) == PAL_CLS_OK);
    CHECK_U64(r->supers, n > 16384 ? 2 : n > 1024);
    CHECK(!r->verify && (r->supers || r->blocks == (n > 512 ? 4 : n > 256 ? 2 : 1)));
    pal_cls_commit(c);
    pal_key key[CLS_MAX_BURST];
    uint32_t want[CLS_MAX_BURST], wrong = 0;
    for (uint32_t h = 0; h < 2 * n; h += CLS_MAX_BURST) {
        for (uint32_t i = 0; i < CLS_MAX_BURST; i++) {
            grid_key(&key[i], h + i, n, source, sport);
            want[i] = h + i < n ? h + i : PAL_NONE;
        }
        wrong += variants_wrong(c, r, key, want);
    }
    CHECK_U64(wrong, 0);
    pal_cls_ruleset_release(c, r);
    pal_cls_free(c);
}

/* ---- many matches ---- */

static uint64_t seed;
static uint32_t draw(uint32_t below)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(seed >> 33) % below;
}

enum { NESTED = 3 * 4 * 4 * 4 }; /* sets: prefixes of 8, 16 and 24 bits of addresses of which each byte has four values */
static uint32_t nested_address(void) { return draw(4) << 24 | draw(4) << 16 | draw(4) << 8 | draw(4); }

static bool nested_has(uint32_t set, uint32_t address)
{
    uint32_t bits = 8 * (1 + set / 64), first = (set & 3) << 24 | (set >> 2 & 3) << 16 | (set >> 4 & 3) << 8;
    return (address ^ first) >> (32 - bits) == 0;
}

static bool nested_accepts(const pal_rule *e, const uint32_t *ref, const pal_key *k)
{
    return (!e->src_n || nested_has(ref[e->src_off], load_be32(k->src))) && (!e->dst_n || nested_has(ref[e->dst_off], load_be32(k->dst))) &&
           e->sport_lo <= k->sport && k->sport <= e->sport_hi && e->dport_lo <= k->dport && k->dport <= e->dport_hi &&
           (e->proto == PAL_PROTO_ANY || e->proto == k->proto) && (k->tcp_flags & e->tcp_mask) == e->tcp_value;
}

static void nested_try(uint32_t n, bool dports, bool sports)
{
    static pal_rule rule[ENTRIES_MOST];
    static uint32_t ref[2 * ENTRIES_MOST];
    pal_cls *c = pal_cls_new();
    pal_ruleset *r;
    for (uint32_t set = 0; set < NESTED; set++) {
        uint32_t bits = 8 * (1 + set / 64), first = (set & 3) << 24 | (set >> 2 & 3) << 16 | (set >> 4 & 3) << 8;
        pal_range range = {.family = PAL_FAMILY_V4};
        store_be32(range.lo, first >> (32 - bits) << (32 - bits));
        store_be32(range.hi, first | ~0u >> bits);
        CHECK(pal_cls_set_put(c, set, &range, 1) == PAL_CLS_OK);
    }
    for (uint32_t i = 0; i < n; i++) {
        pal_rule *e = &rule[i];
        *e = (pal_rule){.rule = i, .dir = 3, .family = 3, .sport_hi = 65535, .dport_hi = 65535, .src_off = 2 * i, .dst_off = 2 * i + 1};
        e->proto = draw(3) ? (uint16_t)(draw(2) ? 6 : 17) : PAL_PROTO_ANY;
        e->src_n = draw(4) != 0;
        e->dst_n = draw(4) != 0;
        ref[2 * i] = draw(NESTED);
        ref[2 * i + 1] = draw(NESTED);
        if (e->proto == 6 && draw(8) == 0)
            e->tcp_mask = 0x12, e->tcp_value = draw(2) ? 0x02 : 0x10;
        if (dports && draw(8))
            e->dport_lo = (uint16_t)draw(200), e->dport_hi = (uint16_t)(e->dport_lo + draw(100));
        if (sports && draw(8))
            e->sport_lo = (uint16_t)draw(200), e->sport_hi = (uint16_t)(e->sport_lo + draw(100));
    }
    CHECK(pal_cls_ruleset_build(c, rule, n, ref, 2 * n, &r) == PAL_CLS_OK);
    CHECK(!r->verify && (r->dport.n > 1) == dports && (r->sport.n > 1) == sports);
    pal_cls_commit(c);
    uint32_t wrong = 0, found = 0, blocks = 0;
    for (uint32_t turn = 0; turn < (n > 5000 ? 1 : 4); turn++) {
        pal_key key[CLS_MAX_BURST];
        uint32_t want[CLS_MAX_BURST];
        for (uint32_t i = 0; i < CLS_MAX_BURST; i++) {
            pal_key *k = &key[i];
            memset(k, 0, sizeof *k);
            k->family = PAL_FAMILY_V4;
            k->dir = PAL_DIR_IN;
            k->proto = (uint8_t[]){6, 17, 50}[draw(3)];
            k->tcp_flags = k->proto == 6 ? (uint8_t[]){0x02, 0x10, 0x12}[draw(3)] : 0;
            k->sport = (uint16_t)draw(230);
            k->dport = (uint16_t)draw(230);
            store_be32(k->src, nested_address());
            store_be32(k->dst, nested_address());
            want[i] = PAL_NONE;
            for (uint32_t e = n; e-- > 0;)
                if (nested_accepts(&rule[e], ref, k)) {
                    blocks += want[i] != PAL_NONE;
                    want[i] = e;
                }
            found += want[i] != PAL_NONE;
        }
        wrong += variants_wrong(c, r, key, want);
    }
    CHECK_U64(wrong, 0);
    CHECK(found > 100 && blocks > found); /* more than one match a header */
    pal_cls_ruleset_release(c, r);
    pal_cls_free(c);
}

int main(void)
{
    static const uint32_t n[] = {200, 500, 1000, 1024, 1200, 4400, ENTRIES_MOST};
    for (uint32_t i = 0; i < sizeof n / sizeof *n; i++)
        for (uint32_t form = 0; form < 8; form++) {
            char where[40];
            snprintf(where, sizeof where, "%u entries, form %u", n[i], form);
            check_where = where;
            ports = form & 4 ? 1 : 100;
            grid_try(n[i], form & 1, form & 2);
        }
    static const uint32_t many[] = {240, 500, 1000, 1100, 5000, ENTRIES_MOST};
    for (uint32_t i = 0; i < sizeof many / sizeof *many; i++)
        for (uint32_t form = 0; form < 4; form++) {
            char where[40];
            snprintf(where, sizeof where, "%u entries with many matches, form %u", many[i], form);
            check_where = where;
            nested_try(many[i], form & 1, form & 2);
        }
    classify_variants_skipped("test_classify_grid");
    return check_end("test_classify_grid");
}
