/* SPDX-License-Identifier: Apache-2.0
 *
 * test_classify_grid.c - rule sets of every form of rows, dense of one to four blocks and sparse of one and two superblocks, in
 * which each entry is the only match of one header: no bit of a row may be lost, and none stand elsewhere.
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
    uint32_t wide[CLS_MAX_BURST], plain[CLS_MAX_BURST], wrong = 0;
    for (uint32_t h = 0; h < 2 * n; h += CLS_MAX_BURST) {
        for (uint32_t i = 0; i < CLS_MAX_BURST; i++)
            grid_key(&key[i], h + i, n, source, sport);
        classify_burst(pal_cls_snapshot(c), r, key, CLS_MAX_BURST, wide);
        classify_burst_plain(pal_cls_snapshot(c), r, key, CLS_MAX_BURST, plain);
        for (uint32_t i = 0; i < CLS_MAX_BURST; i++) {
            uint32_t want = h + i < n ? h + i : PAL_NONE;
            wrong += (wide[i] != want) + (plain[i] != want);
        }
    }
    CHECK_U64(wrong, 0);
    pal_cls_ruleset_release(c, r);
    pal_cls_free(c);
}

int main(void)
{
    static const uint32_t n[] = {200, 500, 1000, 1024, 1200, ENTRIES_MOST};
    for (uint32_t i = 0; i < sizeof n / sizeof *n; i++)
        for (uint32_t form = 0; form < 8; form++) {
            char where[40];
            snprintf(where, sizeof where, "%u entries, form %u", n[i], form);
            check_where = where;
            ports = form & 4 ? 1 : 100;
            grid_try(n[i], form & 1, form & 2);
        }
    return check_end("test_classify_grid");
}
