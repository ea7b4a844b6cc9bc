/* SPDX-License-Identifier: Apache-2.0
 *
 * classifier_edit.c - one entry of a rule set changed: a new version that shares what stays.
 *
 * Bits need not stand in the order of the entries except within a word, so an entry can take any free bit between
 * neighbours of its kind, or begin a new word; nothing else moves. Only the rows of classes that the old or the new entry
 * concerns are made anew. What this can't express (a service with a boundary that no entry had, negated lists, too many
 * words begun) is a build from nothing.
 */
#include "classifier_internal.h"

/* ---- what an entry says of services, in terms of the classes that exist ---- */

static bool accepts_ports(const cls_ports *t, uint32_t n_cls, uint32_t lo, uint32_t hi, uint8_t *in)
{
    uint8_t whole[256] = {0}; /* by page: 1 it stands wholly outside somewhere, 2 inside */
    memset(in, 0, n_cls);
    for (uint32_t p = 0; p < 65536; p += 256) {
        uint32_t page = t->page[p >> 8];
        uint32_t a = lo > p ? min_u32(lo - p, 256) : 0, b = hi < p ? 0 : min_u32(hi - p + 1, 256); /* inside: a .. b-1 */
        uint8_t all = b <= a ? 1 : a == 0 && b == 256 ? 2 : 0;
        if (all && whole[page] & all)
            continue;
        whole[page] |= all;
        for (uint32_t i = 0; i < 256; i++)
            in[t->cls[page * 256 + i]] |= i >= a && i < b ? 2 : 1;
    }
    for (uint32_t i = 0; i < n_cls; i++)
        if (in[i] == 3)
            return false;
    return true;
}

static bool accepts_meta(const cls_rules *r, const pal_rule *e, uint8_t *in, uint32_t n_meta)
{
    const pal_ruleset *pub = &r->pub;
    uint8_t proto[256] = {0}, flags[256] = {0};
    for (uint32_t v = 0; v < 256; v++) {
        proto[pub->proto_class[v]] |= e->proto == PAL_PROTO_ANY || e->proto == v ? 2 : 1;
        flags[pub->flag_class[v]] |= (v & e->tcp_mask) == e->tcp_value ? 2 : 1;
    }
    memset(in, 0, n_meta);
    for (uint32_t i = 0; i < r->n_meta_index; i++) {
        uint32_t x = i & 15, f = i / 16 % pub->n_flags, p = i / 16 / pub->n_flags;
        if (proto[p] == 3 || flags[f] == 3)
            return false;
        uint32_t family = x >> 2, dir = x & 3;
        bool yes = proto[p] == 2 && flags[f] == 2 && (family == 1 || family == 2) && (e->family & family) && (e->dir & dir);
        in[pub->meta[i]] |= yes ? 2 : 1;
    }
    for (uint32_t i = 0; i < n_meta; i++)
        if (in[i] == 3)
            return false;
    return true;
}

/* yes[i]: service row i accepts e. False where no set of rows does exactly that. */
static bool services_of(pal_cls *c, const cls_rules *r, const pal_rule *e, uint8_t *yes)
{
    const pal_ruleset *pub = &r->pub;
    uint32_t per = pub->n_dport * pub->n_sport, n_meta = r->n_cells / per;
    uint8_t *dport = cls_get(c, pub->n_dport), *sport = cls_get(c, pub->n_sport), *meta = cls_get(c, n_meta);
    bool fits = accepts_ports(&pub->dport, pub->n_dport, e->dport_lo, e->dport_hi, dport) &&
                accepts_ports(&pub->sport, pub->n_sport, e->sport_lo, e->sport_hi, sport) && accepts_meta(r, e, meta, n_meta);
    if (fits) {
        memset(yes, 0, r->n_service);
        for (uint32_t m = 0, k = 0; m < n_meta; m++)
            for (uint32_t d = 0; d < pub->n_dport; d++)
                for (uint32_t s = 0; s < pub->n_sport; s++, k++)
                    yes[pub->service_of[k]] |= meta[m] == 2 && dport[d] == 2 && sport[s] == 2 ? 2 : 1;
        for (uint32_t i = 0; i < r->n_service; i++)
            fits &= yes[i] != 3;
        for (uint32_t i = 0; i < r->n_service; i++)
            yes[i] = yes[i] == 2;
    }
    cls_put(c, dport, pub->n_dport);
    cls_put(c, sport, pub->n_sport);
    cls_put(c, meta, n_meta);
    return fits;
}

/* ---- rows ---- */

static bool row_has(const uint64_t *row, uint32_t supers, uint32_t pos)
{
    uint32_t w = pos / 64;
    if (supers == 0)
        return row[w] >> (pos % 64) & 1;
    cls_part p = supers == 1 ? cls_part_one(row) : cls_part_of(row, w / 64);
    return p.mask >> (w % 64) & 1 && p.word[__builtin_popcountll(p.mask & ((1ull << (w % 64)) - 1))] >> (pos % 64) & 1;
}

/* The row without bit `off` and with bit `on` (PAL_NONE: neither). */
static const uint64_t *row_edit(pal_cls *c, const cls_rules *r, const uint64_t *row, uint32_t off, uint32_t on)
{
    uint32_t supers = r->pub.supers;
    if (supers == 0)
        memcpy(c->bits, row, CLS_DENSE * 8);
    for (uint32_t s = 0; s < supers; s++) {
        cls_part p = supers == 1 ? cls_part_one(row) : cls_part_of(row, s);
        uint32_t n = 0;
        for (uint64_t m = p.mask; m; m &= m - 1)
            c->bits[64 * s + (uint32_t)__builtin_ctzll(m)] = p.word[n++];
    }
    if (off != PAL_NONE)
        cls_bit_clear(c->bits, off);
    if (on != PAL_NONE)
        cls_bit_set(c->bits, on);
    return cls_row_make(c, r->words, supers);
}

/* ---- positions ---- */

static enum cls_looks word_looks(const pal_ruleset *pub, uint32_t w)
{
    uint32_t s = pub->any_src[w / 64] >> (w % 64) & 1, d = pub->any_dst[w / 64] >> (w % 64) & 1;
    return s ? (d ? CLS_LOOKS_NEITHER : CLS_LOOKS_DST) : d ? CLS_LOOKS_SRC : CLS_LOOKS_BOTH;
}

/* A free bit in a word of this kind where `at` keeps the word ascending; PAL_NONE when there is none. */
static uint32_t bit_between(const pal_ruleset *pub, uint32_t words, enum cls_looks looks, uint32_t at)
{
    for (uint32_t w = words; w-- > 0;) { /* words begun by changes are the last ones */
        if (word_looks(pub, w) != looks)
            continue;
        const uint32_t *e = pub->entry_at + 64 * w;
        uint32_t lo = 0, hi = 64; /* free bits between the last entry before `at` and the first one after it */
        for (uint32_t b = 0; b < 64; b++)
            if (e[b] != PAL_NONE) {
                if (e[b] < at) {
                    lo = b + 1;
                } else {
                    hi = b;
                    break;
                }
            }
        if (lo < hi)
            return 64 * w + (lo + hi) / 2;
    }
    return PAL_NONE;
}

/* ---- the new version ---- */

/* The lists of positions with those of one entry taken out or put in. */
static bool uses_edit(pal_cls *c, cls_rules *r, const uint32_t *set_ref, uint32_t n, uint32_t role, uint32_t pos, bool put)
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

static void *copy_of(pal_cls *c, const void *p, size_t bytes, size_t room)
{
    void *q = cls_get(c, room);
    if (bytes)
        memcpy(q, p, bytes);
    return q;
}

/* Everything of r but its content, with references taken. */
static void version_copy(pal_cls *c, const cls_rules *r, cls_rules *q, bool word_more)
{
    const pal_ruleset *pub = &r->pub;
    pal_ruleset *to = &q->pub;
    q->words = r->words + word_more;
    q->packed = r->packed;
    to->supers = pub->supers;
    uint32_t *entry_at = copy_of(c, pub->entry_at, r->words * 64 * sizeof(uint32_t), q->words * 64 * sizeof(uint32_t));
    if (word_more)
        memset(entry_at + r->words * 64, 0xff, 64 * sizeof(uint32_t));
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
    for (uint32_t role = 0; role < 2; role++) {
        q->base[role] = r->base[role];
        cls_row_ref(c, q->base[role], pub->supers);
        q->neg[role] = r->neg[role] ? copy_of(c, r->neg[role], r->words * 8, q->words * 8) : NULL;
    }
    q->base_tab = r->base_tab;
    q->base_tab->refs++;
    cls_tabs_reserve(c, q, r->n_tab);
    for (uint32_t i = 0; i < r->n_tab; i++) {
        ((cls_tab **)(uintptr_t)q->pub.tab)[i] = pub->tab[i];
        if (pub->tab[i] != r->base_tab)
            ((cls_tab *)pub->tab[i])->refs++;
    }
    q->n_service = r->n_service;
    q->n_meta_index = r->n_meta_index;
    q->n_cells = r->n_cells;
    q->n_dport_pages = r->n_dport_pages;
    q->n_sport_pages = r->n_sport_pages;
    to->joined = 1;
    to->n_dport = pub->n_dport;
    to->n_sport = pub->n_sport;
    to->n_flags = pub->n_flags;
    memcpy(to->proto_class, pub->proto_class, 256);
    memcpy(to->flag_class, pub->flag_class, 256);
    to->dport = pub->dport;
    to->sport = pub->sport;
    to->meta = copy_of(c, pub->meta, r->n_meta_index * 4ull, r->n_meta_index * 4ull);
    to->service_of = copy_of(c, pub->service_of, r->n_cells * 4ull, r->n_cells * 4ull);
    to->dport.cls = copy_of(c, pub->dport.cls, r->n_dport_pages * 512, r->n_dport_pages * 512);
    to->sport.cls = copy_of(c, pub->sport.cls, r->n_sport_pages * 512, r->n_sport_pages * 512);
    cls_service *v = copy_of(c, pub->service, r->n_service * sizeof *v, r->n_service * sizeof *v);
    for (uint32_t i = 0; i < r->n_service; i++)
        cls_row_ref(c, v[i].row, pub->supers);
    to->service = v;
}

/* Whether the class satisfies the entry's list of this role. The list is not negated. */
static bool class_in(pal_cls *c, uint32_t cls, const uint32_t *set, uint32_t n)
{
    for (uint32_t j = 0; j < n; j++)
        if (cls_class_has(c, cls, set[j]))
            return true;
    return false;
}

#define EDIT_MEMO 1024
static void classes_edit(pal_cls *c, cls_rules *q, uint32_t role, uint32_t off, uint32_t on, const uint32_t *set_ref, uint32_t n)
{
    const uint64_t *(*memo)[2] = cls_get(c, 3 * EDIT_MEMO * sizeof *memo); /* many classes share a row: each once */
    uint32_t *set = cls_get(c, n * sizeof *set);
    for (uint32_t j = 0; j < n; j++)
        set[j] = cls_set_find(c, set_ref[j], true);
    for (uint32_t k = 0; k < c->n_cls; k++) {
        if (!c->cls[k].born)
            continue;
        const uint64_t *row = q->base[role];
        if (k / CLS_TAB < q->n_tab)
            row = (role ? q->pub.tab[k / CLS_TAB]->dst : q->pub.tab[k / CLS_TAB]->src)[k % CLS_TAB];
        bool was = off != PAL_NONE && row != q->base[role] && row_has(row, q->pub.supers, off);
        bool now = on != PAL_NONE && class_in(c, k, set, n);
        if ((!was && !now) || (was && now && off == on))
            continue;
        const uint64_t **m = memo[((uintptr_t)row >> 6 ^ (uintptr_t)row >> 16) % EDIT_MEMO + (was + 2u * now - 1) * EDIT_MEMO];
        const uint64_t *to = m[1];
        if (m[0] != row) {
            to = row_edit(c, q, row, was ? off : PAL_NONE, now ? on : PAL_NONE);
            m[0] = row;
            m[1] = to;
            if (to == q->base[role])
                cls_row_unref(c, to, q->pub.supers);
        } else if (to != q->base[role]) {
            cls_row_ref(c, to, q->pub.supers);
        }
        cls_tabs_reserve(c, q, k / CLS_TAB + 1);
        cls_slot_set(c, q, k, role, to);
    }
    cls_put(c, set, n * sizeof *set);
    cls_put(c, memo, 3 * EDIT_MEMO * sizeof *memo);
}

static bool negated(const pal_rule *e)
{
    return (e->src_n && e->flags & PAL_RULE_SRC_NEGATED) || (e->dst_n && e->flags & PAL_RULE_DST_NEGATED);
}

/* A version of r with the content of q, where entry `at` of r went (gone) and entry `at` of q came (come). */
static bool version_make(pal_cls *c, const cls_rules *r, cls_rules *q, uint32_t at, const pal_rule *gone, const pal_rule *come)
{
    const pal_ruleset *pub = &r->pub;
    if (!pub->joined || pub->n == 0 || q->pub.n == 0 || (gone && negated(gone)) || (come && negated(come)) ||
        r->words > r->packed + r->packed / 4 + 8)
        return false;
    if (gone && cls_looks_of(gone) == CLS_LOOKS_NEITHER && !(come && cls_looks_of(come) == CLS_LOOKS_NEITHER))
        return false; /* which entry is first now would have to be found for each service */
    if (pub->supers == 0 && !(gone && come && cls_looks_of(gone) == cls_looks_of(come)))
        return false; /* dense rows are in the order of the entries: small enough to build again */
    uint8_t *old_yes = cls_get(c, r->n_service), *yes = cls_get(c, r->n_service);
    bool fits = (!gone || services_of(c, r, gone, old_yes)) && (!come || services_of(c, r, come, yes));
    uint32_t off = PAL_NONE, on = PAL_NONE, n_word = r->words;
    if (gone && cls_looks_of(gone) == CLS_LOOKS_NEITHER)
        for (uint32_t i = 0; i < r->n_service; i++)
            fits &= !(old_yes[i] && !yes[i]);
    for (uint32_t i = 0; gone && i < r->words * 64 && off == PAL_NONE; i++)
        if (pub->entry_at[i] == at)
            off = i;
    bool word_more = false;
    if (fits && come && cls_looks_of(come) != CLS_LOOKS_NEITHER) {
        if (off != PAL_NONE && cls_looks_of(come) == cls_looks_of(gone))
            on = off;
        else
            on = bit_between(pub, r->words, cls_looks_of(come), at);
        if (on == PAL_NONE) {
            word_more = true;
            on = n_word * 64 + 32;
            fits = n_word % 64 != 0; /* else a superblock more, and rows of another form */
        }
    }
    if (!fits) {
        cls_put(c, old_yes, r->n_service);
        cls_put(c, yes, r->n_service);
        return false;
    }
    version_copy(c, r, q, word_more);
    uint32_t *entry_at = (uint32_t *)(uintptr_t)q->pub.entry_at;
    if (off != PAL_NONE)
        entry_at[off] = PAL_NONE;
    uint32_t shift = (come != NULL) - (gone != NULL);
    if (shift)
        for (uint32_t i = 0; i < q->words * 64; i++)
            if (entry_at[i] != PAL_NONE && entry_at[i] >= at)
                entry_at[i] += shift;
    if (on != PAL_NONE)
        entry_at[on] = at;
    if (word_more) {
        enum cls_looks looks = cls_looks_of(come);
        if (looks == CLS_LOOKS_DST)
            cls_bit_set((uint64_t *)(uintptr_t)q->pub.any_src, n_word);
        if (looks == CLS_LOOKS_SRC)
            cls_bit_set((uint64_t *)(uintptr_t)q->pub.any_dst, n_word);
    }
    cls_service *v = (cls_service *)(uintptr_t)q->pub.service;
    for (uint32_t i = 0; i < q->n_service; i++) {
        if (v[i].first != PAL_NONE && v[i].first >= at + (gone != NULL))
            v[i].first += shift;
        if (come && on == PAL_NONE && yes[i])
            v[i].first = min_u32(v[i].first, at);
        bool was = off != PAL_NONE && old_yes[i], now = on != PAL_NONE && yes[i];
        if ((was || now) && !(was && now && off == on)) {
            const uint64_t *row = row_edit(c, q, v[i].row, was ? off : PAL_NONE, now ? on : PAL_NONE);
            cls_row_unref(c, v[i].row, q->pub.supers);
            v[i].row = row;
        }
    }
    cls_put(c, old_yes, r->n_service);
    cls_put(c, yes, r->n_service);
    uint32_t room = r->n_pos + q->n_refs + 16;
    q->pos = copy_of(c, r->pos, r->n_pos * sizeof *r->pos, room * sizeof *r->pos);
    q->n_pos = r->n_pos;
    q->cap_pos = room;
    for (uint32_t role = 0; role < 2; role++) {
        const uint32_t *old_ref = gone ? r->set_ref + (role ? gone->dst_off : gone->src_off) : NULL;
        uint32_t n_old = gone ? (role ? gone->dst_n : gone->src_n) : 0;
        const pal_rule *e = come ? &q->pub.rules[at] : NULL;
        const uint32_t *ref = e ? q->set_ref + (role ? e->dst_off : e->src_off) : NULL;
        uint32_t n = e ? (role ? e->dst_n : e->src_n) : 0;
        if (off == on && n_old == n && (n == 0 || !memcmp(ref, old_ref, n * sizeof *ref)))
            continue;
        if (!uses_edit(c, q, old_ref, n_old, role, off, false) || !uses_edit(c, q, ref, n, role, on, true))
            return false; /* the caller gives back what was made */
        classes_edit(c, q, role, n_old ? off : PAL_NONE, n ? on : PAL_NONE, ref, n);
    }
    return true;
}

/* ---- the calls ---- */

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
    } else if (version_make(c, r, q, at, drop ? &pub->rules[at] : NULL, rule)) {
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
