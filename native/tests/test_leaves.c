/* SPDX-License-Identifier: Apache-2.0
 *
 * test_leaves.c - bursts of which every address meets a leaf of the same level: the lists of those are full.
 */
#include <string.h>

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

#define SETS 4u
#define KEYS 64u

/* Address i of a level: alone in its /24, or in its /16. Those whose number leaves n by SETS are members of set n. */
static void address(uint8_t *a, uint32_t level, uint32_t i)
{
    memset(a, 0, 16);
    a[0] = (uint8_t)(10 + level);
    a[level ? 1 : 2] = (uint8_t)i;
    a[3] = 7;
}

/* Rule s * SETS + d: from set s to set d. */
static pal_ruleset *rules_build(pal_cls *c)
{
    static pal_rule e[SETS * SETS];
    static uint32_t ref[2 * SETS * SETS];
    pal_ruleset *r;
    for (uint32_t k = 0; k < SETS * SETS; k++) {
        ref[2 * k] = k / SETS;
        ref[2 * k + 1] = k % SETS;
        e[k] = (pal_rule){.rule = k, .src_off = 2 * k, .src_n = 1, .dst_off = 2 * k + 1, .dst_n = 1, .proto = PAL_PROTO_ANY, .sport_hi = 65535,
                          .dport_hi = 65535, .dir = 3, .family = 3, .action = PAL_ACTION_ALLOW};
    }
    CHECK_U64(pal_cls_ruleset_build(c, e, SETS * SETS, ref, 2 * SETS * SETS, &r), PAL_CLS_OK);
    return r;
}

static void test_full(uint32_t level, uint32_t n)
{
    static pal_range member[SETS][256 / SETS];
    classify_variant variant[CLASSIFY_VARIANTS];
    classify_variants(variant);
    pal_cls *c = pal_cls_new();
    for (uint32_t i = 0; i < 256; i++) {
        pal_range *m = &member[i % SETS][i / SETS];
        memset(m, 0, sizeof *m);
        m->family = PAL_FAMILY_V4;
        address(m->lo, level, i);
        memcpy(m->hi, m->lo, 16);
    }
    for (uint32_t s = 0; s < SETS; s++)
        CHECK_U64(pal_cls_set_put(c, s, member[s], 256 / SETS), PAL_CLS_OK);
    pal_ruleset *r = rules_build(c);
    pal_cls_commit(c);
    pal_key key[KEYS];
    uint32_t got[KEYS];
    memset(key, 0, sizeof key);
    for (uint32_t i = 0; i < n; i++) {
        key[i].family = PAL_FAMILY_V4;
        key[i].dir = PAL_DIR_OUT;
        key[i].proto = 17;
        address(key[i].src, level, i);
        address(key[i].dst, level, 255 - 2 * i);
    }
    for (uint32_t v = 0; v < CLASSIFY_VARIANTS; v++) {
        if (!variant[v].possible)
            continue;
        check_where = variant[v].name;
        variant[v].look_up(pal_cls_snapshot(c), r, key, n, got);
        for (uint32_t i = 0; i < n; i++)
            CHECK_U64(got[i], i % SETS * SETS + (255 - 2 * i) % SETS);
    }
    pal_cls_ruleset_release(c, r);
    pal_cls_free(c);
}

int main(void)
{
    for (uint32_t level = 0; level < 2; level++)
        for (uint32_t n = 1; n <= KEYS; n++)
            test_full(level, n);
    classify_variants_skipped("test_leaves");
    return check_end("test_leaves");
}
