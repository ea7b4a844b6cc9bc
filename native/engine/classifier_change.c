/* SPDX-License-Identifier: Apache-2.0
 *
 * classifier_change.c - the calls that change one entry of a rule set: a version that shares what stays where that can be
 * made (classifier_edit.c), else a build from nothing.
 */
#include "classifier_internal.h"

static int changed(pal_cls *c, const pal_ruleset *pub, uint32_t at, bool drop, const pal_rule *rule, const uint32_t *refs,
                   uint32_t n_refs, pal_ruleset **out)
{
    const cls_rules *r = (const cls_rules *)(const void *)pub;
    *out = NULL;
    if (at > pub->n || (drop && at == pub->n) || (rule && !cls_rule_valid(rule, n_refs)))
        return PAL_CLS_BAD_RULE;
    uint32_t n = pub->n - drop + (rule != NULL);
    if (n > PAL_CLS_MAX_ENTRIES)
        return PAL_CLS_TOO_LARGE;
    cls_keep(c, true);
    cls_rules *q = cls_get(c, sizeof *q);
    q->c = c;
    cls_content_splice(c, q, r, at, drop, rule, refs);
    cls_content content = cls_content_of(q);
    cls_rules *same = cls_ruleset_equal(c, &content, q->n_refs, q->hash);
    int rc = PAL_CLS_OK;
    if (same) {
        same->refs++;
        *out = &same->pub;
        cls_content_free(c, q);
        cls_put(c, q, sizeof *q);
    } else if ((rc = cls_later_build(c, q)) != PAL_CLS_OK) {
        cls_content_free(c, q);
        cls_put(c, q, sizeof *q);
    } else if (cls_version_make(c, r, q, at, drop ? &pub->rules[at] : NULL, rule)) {
        q->refs = 1;
        cls_ruleset_list(c, q);
        *out = &q->pub;
    } else {
        rc = pal_cls_ruleset_build(c, q->pub.rules, n, q->set_ref, q->n_refs, out);
        cls_later_release(c, q);
        if (q->use) { /* begun and given up */
            q->listed = 0;
            cls_ruleset_list(c, q);
            cls_rules_unlist(c, q);
            cls_rules_free(c, q);
        } else {
            cls_content_free(c, q);
            cls_put(c, q, sizeof *q);
        }
    }
    return rc;
}

int pal_cls_ruleset_replace(pal_cls *c, const pal_ruleset *r, uint32_t at, const pal_rule *rule, const uint32_t *set_refs,
                            uint32_t n_refs, pal_ruleset **out)
{
    return changed(c, r, at, true, rule, set_refs, n_refs, out);
}

int pal_cls_ruleset_insert(pal_cls *c, const pal_ruleset *r, uint32_t at, const pal_rule *rule, const uint32_t *set_refs,
                           uint32_t n_refs, pal_ruleset **out)
{
    return changed(c, r, at, false, rule, set_refs, n_refs, out);
}

int pal_cls_ruleset_delete(pal_cls *c, const pal_ruleset *r, uint32_t at, pal_ruleset **out)
{
    return changed(c, r, at, true, NULL, NULL, 0, out);
}
