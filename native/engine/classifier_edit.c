/* SPDX-License-Identifier: Apache-2.0
 *
 * classifier_edit.c - one entry of a rule set changed: a new version that shares what stays.
 *
 * Bits need not stand in the order of the entries except within a block, so an entry can take any free bit between
 * neighbours of its kind, or begin a new block; nothing else moves. Only the rows of classes that the old or the new entry
 * concerns are made anew. What this can't express (a protocol or flags that no entry told apart, negated lists, too many
 * blocks begun) is a build from nothing.
 */
#include "classifier_internal.h"

/* ---- positions ---- */

static enum cls_looks block_looks(const pal_ruleset *pub, uint32_t b)
{
    uint32_t s = pub->any_src[b / 64] >> (b % 64) & 1, d = pub->any_dst[b / 64] >> (b % 64) & 1;
    return s ? (d ? CLS_LOOKS_NEITHER : CLS_LOOKS_DST) : d ? CLS_LOOKS_SRC : CLS_LOOKS_BOTH;
}

/* A free bit in a block of this kind where `at` keeps the block ascending; PAL_NONE when there is none. */
static uint32_t bit_between(const pal_ruleset *pub, enum cls_looks looks, uint32_t at)
{
    for (uint32_t k = pub->blocks; k-- > 0;) { /* blocks begun by changes are the last ones */
        if (block_looks(pub, k) != looks)
            continue;
        const uint32_t *e = pub->entry_at + CLS_BLOCK * k;
        uint32_t lo = 0, hi = CLS_BLOCK; /* free bits between the last entry before `at` and the first one after it */
        for (uint32_t b = 0; b < CLS_BLOCK; b++)
            if (e[b] != PAL_NONE) {
                if (e[b] < at) {
                    lo = b + 1;
                } else {
                    hi = b;
                    break;
                }
            }
        if (lo < hi)
            return CLS_BLOCK * k + (lo + hi) / 2;
    }
    return PAL_NONE;
}

/* ---- a copy ---- */

static void *copy_of(pal_cls *c, const void *p, size_t bytes, size_t room)
{
    void *q = cls_take(c, room);
    if (bytes)
        memcpy(q, p, bytes);
    if (room > bytes)
        memset((uint8_t *)q + bytes, 0, room - bytes);
    return q;
}

static void field_copy(pal_cls *c, const cls_rules *r, const cls_rules *q, const cls_field *f, cls_field *to)
{
    size_t was = (size_t)r->pub.blocks * CLS_UNIT, now = (size_t)q->pub.blocks * CLS_UNIT, masks = (size_t)f->n * r->pub.supers * 8;
    uint8_t *row = cls_take(c, f->n * now);
    for (uint32_t i = 0; i < f->n && now != was; i++) {
        memcpy(row + i * now, (const uint8_t *)f->row + i * was, was);
        memset(row + i * now + was, 0, now - was);
    }
    if (now == was && f->n)
        memcpy(row, f->row, f->n * was);
    *to = (cls_field){f->n, (const uint64_t *)(const void *)row, copy_of(c, f->mask, masks, masks)};
}

/* Everything of r but its content, with references taken; q->pub.blocks is set, to as many or one more. */
static void version_copy(pal_cls *c, const cls_rules *r, cls_rules *q)
{
    const pal_ruleset *pub = &r->pub;
    pal_ruleset *to = &q->pub;
    uint32_t supers = cls_rules_supers(r);
    size_t was = (size_t)pub->blocks * CLS_BLOCK, now = (size_t)to->blocks * CLS_BLOCK;
    q->packed = r->packed;
    to->supers = pub->supers;
    uint32_t *entry_at = copy_of(c, pub->entry_at, was * 4, now * 4);
    memset(entry_at + was, 0xff, (now - was) * 4);
    to->entry_at = entry_at;
    to->any_src = copy_of(c, pub->any_src, pub->supers * 8, pub->supers * 8);
    to->any_dst = copy_of(c, pub->any_dst, pub->supers * 8, pub->supers * 8);
    q->use_mask = r->use_mask;
    q->n_use = r->n_use;
    q->cap_use = r->n_use + 16;
    q->use = copy_of(c, r->use, r->n_use * sizeof *r->use, q->cap_use * sizeof *r->use);
    q->use_hash = copy_of(c, r->use_hash, (r->use_mask + 1ull) * 4, (r->use_mask + 1ull) * 4);
    for (uint32_t i = 0; i < q->n_use; i++)
        c->set[q->use[i].set].uses++;
    q->n_pos = r->n_pos;
    q->cap_pos = r->n_pos + q->n_refs + 16;
    q->pos = copy_of(c, r->pos, r->n_pos * sizeof *r->pos, q->cap_pos * sizeof *r->pos);
    for (uint32_t role = 0; role < 2; role++)
        q->neg[role] = r->neg[role] ? copy_of(c, r->neg[role], was / 8, now / 8) : NULL;
    memcpy(q->base, r->base, sizeof q->base);
    memcpy(q->base_tab, r->base_tab, sizeof q->base_tab);
    for (uint32_t u = 0; u < supers; u++)
        c->arena.side[q->base_tab[u]]++;
    cls_tabs_reserve(c, q, r->n_tab);
    for (uint32_t i = 0; i < r->n_tab * supers; i++) {
        ((uint32_t *)(uintptr_t)to->tab)[i] = pub->tab[i];
        if (pub->tab[i] != r->base_tab[i % supers])
            c->arena.side[pub->tab[i]]++;
    }
    q->n_meta_index = r->n_meta_index;
    q->n_cells = r->n_cells;
    q->n_dport_pages = r->n_dport_pages;
    q->n_sport_pages = r->n_sport_pages;
    to->n_flags = pub->n_flags;
    memcpy(to->proto_class, pub->proto_class, 256);
    memcpy(to->flag_class, pub->flag_class, 256);
    to->meta_at = copy_of(c, pub->meta_at, r->n_meta_index * 4ull, r->n_meta_index * 4ull);
    to->first = pub->first ? copy_of(c, pub->first, r->n_cells * 4ull, r->n_cells * 4ull) : NULL;
    to->dport_at = pub->dport_at;
    to->sport_at = pub->sport_at;
    to->dport_at.cls = copy_of(c, pub->dport_at.cls, CLS_PORTS_BYTES(r->n_dport_pages), CLS_PORTS_BYTES(r->n_dport_pages));
    to->sport_at.cls = copy_of(c, pub->sport_at.cls, CLS_PORTS_BYTES(r->n_sport_pages), CLS_PORTS_BYTES(r->n_sport_pages));
    field_copy(c, r, q, &pub->meta, &to->meta);
    field_copy(c, r, q, &pub->dport, &to->dport);
    field_copy(c, r, q, &pub->sport, &to->sport);
    const uint32_t n[3] = {pub->meta.n, pub->dport.n, pub->sport.n};
    for (uint32_t i = 0; i < 3; i++)
        q->sample[i] = copy_of(c, r->sample[i], n[i] * sizeof(cls_sample), n[i] * sizeof(cls_sample));
}

/* ---- rows of the classes that an entry concerns ---- */

#define EDIT_MEMO 1024
typedef struct memo {
    uint32_t from, to;
} memo;

/* Bit `off` goes, bit `on` comes in the rows of the marked classes: 1 had it, 2 is to have it. */
static void classes_edit(pal_cls *c, cls_rules *q, uint32_t role, uint32_t off, uint32_t on, const uint8_t *mark)
{
    uint32_t same = off != PAL_NONE && on != PAL_NONE && off / (CLS_SUPER * CLS_BLOCK) == on / (CLS_SUPER * CLS_BLOCK) &&
                    (off / CLS_BLOCK == on / CLS_BLOCK || q->pub.supers == 0);
    memo *known = cls_get(c, 3 * EDIT_MEMO * sizeof *known); /* many classes share a row: each once */
    for (uint32_t pass = 0; pass < 2 - same; pass++) {
        uint32_t o = same || pass == 0 ? off : PAL_NONE, n = same || pass == 1 ? on : PAL_NONE;
        if (o == PAL_NONE && n == PAL_NONE)
            continue;
        uint32_t super = q->pub.supers ? (o != PAL_NONE ? o : n) / (CLS_SUPER * CLS_BLOCK) : 0;
        memset(known, 0, 3 * EDIT_MEMO * sizeof *known);
        for (uint32_t k = 0; k < c->n_cls; k++) {
            uint32_t was = o != PAL_NONE && mark[k] & 1, now = n != PAL_NONE && mark[k] & 2;
            if (!(was | now))
                continue;
            uint32_t row = cls_slot_get(c, q, k, super, role);
            memo *m = &known[(was + 2 * now - 1) * EDIT_MEMO + (row * 2654435761u >> 22)];
            if (m->from != row + 1) {
                m->from = row + 1;
                m->to = cls_row_edit(c, q, row, was ? o : PAL_NONE, now ? n : PAL_NONE);
            } else {
                cls_row_ref(c, m->to);
            }
            cls_tabs_reserve(c, q, k / CLS_TAB + 1);
            cls_slot_set(c, q, k, super, role, m->to);
        }
    }
    cls_put(c, known, 3 * EDIT_MEMO * sizeof *known);
}

/* Marks the classes that have one of the sets. The list is not negated. */
static void classes_mark(pal_cls *c, const uint32_t *set_ref, uint32_t n, uint8_t bit, uint8_t *mark)
{
    for (uint32_t j = 0; j < n; j++) {
        uint32_t set = cls_set_find(c, set_ref[j], true);
        const cls_set *s = &c->set[set];
        bool walk = 4ull * (s->span[0].count + s->span[1].count) < c->n_cls;
        if (walk)
            for (uint32_t f = 0; f < 2; f++)
                for (uint32_t k = 0; k < s->span[f].n; k++)
                    for (uint32_t i = 0; i < s->span[f].run[k].n; i++)
                        cls_map_mark(c, f + 1, s->span[f].run[k].span[i].lo, s->span[f].run[k].span[i].hi, bit, mark);
        for (uint32_t k = 0; k < c->n_cls && (!walk || c->loose); k++) /* those that only readers of the past still meet */
            if (c->cls[k].born && (!walk || !c->cls[k].refs) && cls_class_has(c, k, set))
                mark[k] |= bit;
    }
}

static bool negated(const pal_rule *e)
{
    return (e->src_n && e->flags & PAL_RULE_SRC_NEGATED) || (e->dst_n && e->flags & PAL_RULE_DST_NEGATED);
}

static bool addresses_edit(pal_cls *c, const cls_rules *r, cls_rules *q, uint32_t at, const pal_rule *gone, const pal_rule *come,
                           uint32_t off, uint32_t on)
{
    for (uint32_t role = 0; role < 2; role++) {
        const uint32_t *old_ref = gone ? r->set_ref + (role ? gone->dst_off : gone->src_off) : NULL;
        uint32_t n_old = gone ? (role ? gone->dst_n : gone->src_n) : 0;
        const pal_rule *e = come ? &q->pub.rules[at] : NULL;
        const uint32_t *ref = e ? q->set_ref + (role ? e->dst_off : e->src_off) : NULL;
        uint32_t n = e ? (role ? e->dst_n : e->src_n) : 0;
        if (off == on && n_old == n && (n == 0 || !memcmp(ref, old_ref, n * sizeof *ref)))
            continue;
        if (!cls_uses_edit(c, q, old_ref, n_old, role, off, false) || !cls_uses_edit(c, q, ref, n, role, on, true))
            return false;
        uint8_t *mark = cls_get(c, c->cap_cls);
        classes_mark(c, old_ref, n_old, 1, mark);
        classes_mark(c, ref, n, 2, mark);
        classes_edit(c, q, role, n_old ? off : PAL_NONE, n ? on : PAL_NONE, mark);
        cls_put(c, mark, c->cap_cls);
    }
    return true;
}

/* Which position each entry has now. */
static void positions_edit(cls_rules *q, uint32_t at, uint32_t off, uint32_t on, uint32_t shift, bool begun, const pal_rule *come)
{
    uint32_t *entry_at = (uint32_t *)(uintptr_t)q->pub.entry_at, block = q->pub.blocks - 1;
    if (off != PAL_NONE)
        entry_at[off] = PAL_NONE;
    for (uint32_t i = 0; shift && i < q->pub.blocks * CLS_BLOCK; i++)
        if (entry_at[i] != PAL_NONE && entry_at[i] >= at)
            entry_at[i] += shift;
    if (on != PAL_NONE)
        entry_at[on] = at;
    if (!begun)
        return;
    enum cls_looks looks = cls_looks_of(come);
    if (looks == CLS_LOOKS_DST || looks == CLS_LOOKS_NEITHER)
        cls_bit_set((uint64_t *)(uintptr_t)q->pub.any_src, block);
    if (looks == CLS_LOOKS_SRC || looks == CLS_LOOKS_NEITHER)
        cls_bit_set((uint64_t *)(uintptr_t)q->pub.any_dst, block);
}

/* Whether the entry's place is the table of cells. */
static bool in_cells(const cls_rules *r, const pal_rule *e) { return r->n_cells && cls_looks_of(e) == CLS_LOOKS_NEITHER; }

bool cls_version_make(pal_cls *c, const cls_rules *r, cls_rules *q, uint32_t at, const pal_rule *gone, const pal_rule *come)
{
    const pal_ruleset *pub = &r->pub;
    if (pub->verify || pub->n == 0 || q->pub.n == 0 || (gone && negated(gone)) || (come && negated(come)) ||
        pub->blocks > r->packed + r->packed / 4 + 4 || (come && !cls_meta_fits(r, come)))
        return false;
    if (pub->supers == 0 && !(gone && come))
        return false; /* dense rows are in the order of the entries: small enough to build again */
    if (pub->supers == 0 && cls_looks_of(gone) != cls_looks_of(come))
        return false; /* and "any" stands in every class of them */
    uint32_t off = PAL_NONE, on = PAL_NONE;
    if (pub->supers == 0)
        off = on = at;
    for (uint32_t i = 0; gone && pub->supers && i < pub->blocks * CLS_BLOCK && off == PAL_NONE; i++)
        if (pub->entry_at[i] == at)
            off = i;
    bool begun = false;
    if (come && pub->supers && !in_cells(r, come)) {
        if (off != PAL_NONE && cls_looks_of(come) == cls_looks_of(gone))
            on = off;
        else
            on = bit_between(pub, cls_looks_of(come), at);
        if (on == PAL_NONE) {
            begun = true;
            on = pub->blocks * CLS_BLOCK + CLS_BLOCK / 2;
            if (pub->blocks % CLS_SUPER == 0)
                return false; /* a superblock more, and pages for it */
        }
    }
    q->pub.blocks = pub->blocks + begun;
    version_copy(c, r, q);
    if (pub->supers) {
        positions_edit(q, at, off, on, (come != NULL) - (gone != NULL), begun, come);
        cls_early_make(c, &q->pub);
    }
    return cls_services_edit(c, r, q, at, gone, come, off, on) && addresses_edit(c, r, q, at, gone, come, off, on);
}
