/* SPDX-License-Identifier: Apache-2.0
 *
 * classifier_uses.c - which entries of a rule set name which address sets.
 */
#include "classifier_internal.h"

static uint32_t use_slot(const pal_cls *c, const cls_rules *r, uint32_t set)
{
    return (uint32_t)cls_mix(set ^ c->secret[1], c->secret[0] | 1) & r->use_mask;
}

const cls_use *cls_use_find(const pal_cls *c, const cls_rules *r, uint32_t set)
{
    for (uint32_t h = use_slot(c, r, set); r->use_hash[h]; h = (h + 1) & r->use_mask)
        if (r->use[r->use_hash[h] - 1].set == set)
            return &r->use[r->use_hash[h] - 1];
    return NULL;
}

uint32_t cls_use_make(pal_cls *c, cls_rules *r, uint32_t set)
{
    uint32_t h = use_slot(c, r, set);
    for (; r->use_hash[h]; h = (h + 1) & r->use_mask)
        if (r->use[r->use_hash[h] - 1].set == set)
            return r->use_hash[h] - 1;
    r->use[r->n_use].set = set;
    c->set[set].uses++;
    r->use_hash[h] = ++r->n_use;
    return r->n_use - 1;
}

uint32_t *cls_uses_name(pal_cls *c, cls_rules *r)
{
    r->use_mask = 15;
    while (r->use_mask < 2 * r->n_refs)
        r->use_mask = 2 * r->use_mask + 1;
    r->use_hash = cls_get(c, (r->use_mask + 1ull) * sizeof(uint32_t));
    r->cap_use = r->n_refs;
    r->use = cls_get(c, r->cap_use * sizeof *r->use);
    uint32_t *of = cls_get(c, r->n_refs * sizeof *of);
    for (uint32_t i = 0; i < r->n_refs; i++)
        of[i] = cls_use_make(c, r, cls_set_find(c, r->set_ref[i], true));
    return of;
}

/* Lists of positions by set: 0 source, 1 source negated, 2 destination, 3 that negated. */
void cls_uses_list(pal_cls *c, cls_rules *r, const uint32_t *of, const uint32_t *position)
{
    const pal_ruleset *pub = &r->pub;
    r->pos = cls_get(c, r->n_refs * sizeof *r->pos);
    r->n_pos = r->cap_pos = r->n_refs;
    for (int fill = 0; fill < 2; fill++) {
        for (uint32_t i = 0; i < pub->n; i++) {
            const pal_rule *e = &pub->rules[i];
            for (uint32_t role = 0; role < 2; role++) {
                uint32_t off = role ? e->dst_off : e->src_off, n = role ? e->dst_n : e->src_n;
                bool neg = e->flags & (role ? PAL_RULE_DST_NEGATED : PAL_RULE_SRC_NEGATED);
                for (uint32_t j = off; j < off + n; j++) {
                    uint32_t *at = r->use[of[j]].at;
                    if (fill)
                        r->pos[at[2 * role + neg]++] = position[i];
                    else
                        at[2 * role + neg + 1]++;
                }
            }
        }
        uint32_t sum = 0;
        for (uint32_t u = 0; u < r->n_use; u++) {
            uint32_t *at = r->use[u].at;
            if (fill) { /* each at[k] has moved to the end of its list, which is the start of the next */
                for (uint32_t k = 4; k > 0; k--)
                    at[k] = at[k - 1];
                at[0] = sum;
                sum = at[4];
            } else {
                for (uint32_t k = 0; k <= 4; k++) {
                    sum += at[k];
                    at[k] = sum;
                }
            }
        }
    }
}

void cls_uses_free(pal_cls *c, cls_rules *r)
{
    for (uint32_t i = 0; i < r->n_use; i++)
        cls_set_unuse(c, r->use[i].set);
    cls_put(c, r->use_hash, (r->use_mask + 1ull) * sizeof(uint32_t));
    cls_put(c, r->use, r->cap_use * sizeof *r->use);
    cls_put(c, r->pos, r->cap_pos * sizeof *r->pos);
}

/* The lists of positions with those of one entry taken out or put in. */
bool cls_uses_edit(pal_cls *c, cls_rules *r, const uint32_t *set_ref, uint32_t n, uint32_t role, uint32_t pos, bool put)
{
    for (uint32_t j = 0; j < n; j++) {
        uint32_t set = cls_set_find(c, set_ref[j], true), u;
        const cls_use *found = cls_use_find(c, r, set);
        if (!found && (!put || r->n_use == r->cap_use || 2 * (r->n_use + 1) > r->use_mask))
            return false;
        if (found) {
            u = (uint32_t)(found - r->use);
        } else {
            u = cls_use_make(c, r, set);
            for (uint32_t k = 0; k <= 4; k++)
                r->use[u].at[k] = r->n_pos;
        }
        uint32_t at = r->use[u].at[2 * role], end = r->use[u].at[2 * role + 1];
        if (put) {
            memmove(r->pos + at + 1, r->pos + at, (r->n_pos - at) * sizeof *r->pos);
            r->pos[at] = pos;
            r->n_pos++;
        } else {
            while (at < end && r->pos[at] != pos)
                at++;
            if (at == end)
                return false;
            memmove(r->pos + at, r->pos + at + 1, (r->n_pos - at - 1) * sizeof *r->pos);
            r->n_pos--;
        }
        uint32_t by = put ? 1 : 0xffffffffu;
        for (uint32_t k = 2 * role + 1; k <= 4; k++)
            r->use[u].at[k] += by;
        for (uint32_t v = u + 1; v < r->n_use; v++)
            for (uint32_t k = 0; k <= 4; k++)
                r->use[v].at[k] += by;
    }
    return true;
}
