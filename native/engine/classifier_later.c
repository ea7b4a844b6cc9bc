/* SPDX-License-Identifier: Apache-2.0
 *
 * classifier_later.c - the rest of a rule set, from a tier on: where the search resumes after PASS or JUMP_TO_APPLICATION.
 *
 * It is a rule set like any other, found by content, so vNICs that differ in their early tiers only share it, and a change
 * above it costs no more than finding it again. Tiers ascend, so it is the end of the list and shorter than the list:
 * the chain from rule set to rule set is at most PAL_TIERS long and never comes back.
 */
#include "classifier_internal.h"

static bool tiers_ascend(const pal_rule *rules, uint32_t n)
{
    for (uint32_t i = 1; i < n; i++)
        if (rules[i].tier < rules[i - 1].tier)
            return false;
    return true;
}

int cls_later_build(pal_cls *c, cls_rules *r)
{
    const pal_ruleset *pub = &r->pub;
    bool needed[PAL_TIERS] = {false}, any = false;
    for (uint32_t i = 0; i < pub->n; i++)
        if (pub->rules[i].action == PAL_ACTION_RESUME)
            needed[pub->rules[i].resume] = any = true;
    if (any && !tiers_ascend(pub->rules, pub->n))
        return PAL_CLS_BAD_RULE;
    for (uint32_t tier = 0; any && tier < PAL_TIERS; tier++) {
        if (!needed[tier])
            continue;
        uint32_t from = 0;
        while (from < pub->n && pub->rules[from].tier < tier)
            from++;
        pal_ruleset *later;
        int rc = pal_cls_ruleset_build(c, pub->rules + from, pub->n - from, r->set_ref, r->n_refs, &later);
        if (rc != PAL_CLS_OK) {
            cls_later_release(c, r);
            return rc;
        }
        r->pub.later[tier] = later;
    }
    return PAL_CLS_OK;
}

void cls_later_release(pal_cls *c, const cls_rules *r)
{
    const pal_ruleset *later[PAL_TIERS];
    memcpy(later, r->pub.later, sizeof later); /* the first release may free r, where it has been given back already */
    for (uint32_t tier = 0; tier < PAL_TIERS; tier++)
        if (later[tier])
            pal_cls_ruleset_release(c, (pal_ruleset *)(uintptr_t)later[tier]);
}
