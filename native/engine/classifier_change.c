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
    uint32_t n = pub->n - drop + (rule != NULL), n_src = rule ? rule->src_n : 0, n_dst = rule ? rule->dst_n : 0;
    if (n > PAL_CLS_MAX_ENTRIES)
        return PAL_CLS_TOO_LARGE;
    pal_rule *e = cls_get(c, n * sizeof *e);
    uint32_t all = r->n_refs + n_src + n_dst;
    uint32_t *s = cls_get(c, all * sizeof *s);
    if (at)
        memcpy(e, pub->rules, at * sizeof *e);
    if (r->n_refs)
        memcpy(s, r->set_ref, r->n_refs * sizeof *s);
    if (rule) {
        e[at] = *rule;
        e[at].src_off = r->n_refs;
        e[at].dst_off = r->n_refs + n_src;
        if (n_src)
            memcpy(s + r->n_refs, refs + rule->src_off, n_src * sizeof *s);
        if (n_dst)
            memcpy(s + r->n_refs + n_src, refs + rule->dst_off, n_dst * sizeof *s);
    }
    if (pub->n - at - drop)
        memcpy(e + at + (rule != NULL), pub->rules + at + drop, (pub->n - at - drop) * sizeof *e);
    cls_rules *q = cls_get(c, sizeof *q);
    q->c = c;
    cls_content_copy(c, q, e, n, s);
    cls_rules *same = cls_ruleset_equal(c, q);
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
        rc = pal_cls_ruleset_build(c, e, n, s, all, out);
    }
    cls_put(c, e, n * sizeof *e);
    cls_put(c, s, all * sizeof *s);
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
