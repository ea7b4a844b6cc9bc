/* SPDX-License-Identifier: Apache-2.0
 *
 * classifier_ports.c - one entry of a rule set changed: what that means for ports, protocol, flags, family and direction.
 *
 * The rows of a version are its own, so bits are written in place. A port at which no entry began or ended splits the
 * classes that it cuts: the part inside the new entry becomes a class of its own, whose row begins as a copy.
 */
#include "classifier_internal.h"

/* in[class] |= what, of cls[from .. to-1]: neighbours are mostly of one class. */
static void ports_mark(uint8_t *in, const uint16_t *cls, uint32_t from, uint32_t to, uint8_t what)
{
    while (from < to) {
        uint64_t four = cls[from] * 0x0001000100010001ull;
        in[cls[from]] |= what;
        if (from + 4 <= to && load_u64(cls + from) == four)
            from += 4;
        else
            from++;
    }
}

/* in[i]: 2 class i lies inside lo .. hi, 1 outside, 3 both. */
static bool ports_in(const cls_ports *t, uint32_t n_cls, uint32_t lo, uint32_t hi, uint8_t *in)
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
        const uint16_t *cls = t->cls + page * 256;
        b = b < a ? a : b;
        ports_mark(in, cls, 0, a, 1);
        ports_mark(in, cls, a, b, 2);
        ports_mark(in, cls, b, 256, 1);
    }
    for (uint32_t i = 0; i < n_cls; i++)
        if (in[i] == 3)
            return false;
    return true;
}

static bool meta_in(const cls_rules *r, const pal_rule *e, uint8_t *in)
{
    const pal_ruleset *pub = &r->pub;
    uint8_t proto[256] = {0}, flags[256] = {0};
    for (uint32_t v = 0; v < 256; v++) {
        proto[pub->proto_class[v]] |= e->proto == PAL_PROTO_ANY || e->proto == v ? 2 : 1;
        flags[pub->flag_class[v]] |= (v & e->tcp_mask) == e->tcp_value ? 2 : 1;
    }
    memset(in, 0, pub->meta.n);
    for (uint32_t i = 0; i < r->n_meta_index; i++) {
        uint32_t x = i & 15, f = i / 16 % pub->n_flags, p = i / 16 / pub->n_flags;
        if (proto[p] == 3 || flags[f] == 3)
            return false;
        uint32_t family = x >> 2, dir = x & 3;
        bool yes = proto[p] == 2 && flags[f] == 2 && (family == 1 || family == 2) && (e->family & family) && (e->dir & dir);
        in[pub->meta_at[i]] |= yes ? 2 : 1;
    }
    for (uint32_t i = 0; i < pub->meta.n; i++)
        if (in[i] == 3)
            return false;
    return true;
}

bool cls_meta_fits(const cls_rules *r, const pal_rule *e)
{
    uint8_t *in = cls_get(r->c, r->pub.meta.n);
    bool fits = meta_in(r, e, in);
    cls_put(r->c, in, r->pub.meta.n);
    return fits;
}

/* ---- classes of ports cut in two ---- */

/* Two levels; equal pages once. */
uint32_t cls_ports_table(pal_cls *c, cls_ports *t, const uint16_t *at)
{
    uint16_t *cls = cls_get(c, 65536 * sizeof *cls);
    uint32_t n = 0;
    for (uint32_t i = 0; i < 256; i++) {
        const uint16_t *page = at + 256 * i;
        uint32_t k = 0;
        while (k < n && memcmp(cls + 256 * k, page, 512))
            k++;
        if (k == n)
            memcpy(cls + 256 * n++, page, 512);
        t->page[i] = (uint16_t)k;
    }
    uint16_t *kept = cls_get(c, CLS_PORTS_BYTES(n));
    memcpy(kept, cls, n * 512);
    cls_put(c, cls, 65536 * sizeof *cls);
    t->cls = kept;
    return n;
}

/* The rows of the field with those of more classes behind them: class n + i like class like[i]. */
static void field_extend(pal_cls *c, const cls_rules *q, cls_field *f, const uint32_t *like, uint32_t more)
{
    size_t row = (size_t)q->pub.blocks * CLS_UNIT, mask = (size_t)q->pub.supers * 8;
    uint8_t *rows = cls_grow(c, (void *)(uintptr_t)f->row, f->n * row, (f->n + more) * row);
    uint8_t *masks = cls_grow(c, (void *)(uintptr_t)f->mask, f->n * mask, (f->n + more) * mask);
    for (uint32_t i = 0; i < more; i++) {
        memcpy(rows + (f->n + i) * row, rows + like[i] * row, row);
        memcpy(masks + (f->n + i) * mask, masks + like[i] * mask, mask);
    }
    *f = (cls_field){f->n + more, (const uint64_t *)(const void *)rows, (const uint64_t *)(const void *)masks};
}

/* The table of cells for more classes of ports; like as above, of the destination's or the source's. */
static void cells_extend(pal_cls *c, cls_rules *q, bool source, const uint32_t *like, uint32_t more)
{
    uint32_t n_meta = q->pub.meta.n, n_d = q->pub.dport.n, n_s = q->pub.sport.n, d_now = n_d + (source ? 0 : more), s_now = n_s + (source ? more : 0);
    uint32_t *first = cls_get(c, (size_t)n_meta * d_now * s_now * 4), k = 0;
    for (uint32_t m = 0; m < n_meta; m++)
        for (uint32_t d = 0; d < d_now; d++)
            for (uint32_t s = 0; s < s_now; s++)
                first[k++] = q->pub.first[(m * n_d + (d < n_d ? d : like[d - n_d])) * n_s + (s < n_s ? s : like[s - n_s])];
    cls_put(c, (void *)(uintptr_t)q->pub.first, q->n_cells * 4ull);
    q->pub.first = first;
    q->n_cells = k;
}

static bool ports_split(pal_cls *c, cls_rules *q, bool source, uint32_t lo, uint32_t hi, uint8_t *in)
{
    cls_field *f = source ? &q->pub.sport : &q->pub.dport;
    cls_ports *t = source ? &q->pub.sport_at : &q->pub.dport_at;
    cls_sample **sample = &q->sample[source ? 2 : 1];
    uint32_t more = 0, n = f->n;
    for (uint32_t i = 0; i < n; i++)
        more += in[i] == 3;
    uint64_t cells = (uint64_t)q->n_cells / n * (n + more);
    if (cells > CLS_CELLS_MAX || (uint64_t)(n + more) * q->pub.blocks * CLS_BLOCK_WORDS > CLS_FIELD_WORDS_MAX)
        return false;
    uint32_t *like = cls_get(c, more * sizeof *like), *to = cls_get(c, n * sizeof *to);
    for (uint32_t i = 0, k = 0; i < n; i++) {
        to[i] = i;
        if (in[i] == 3) {
            like[k] = i;
            to[i] = n + k++;
        }
    }
    if (q->n_cells)
        cells_extend(c, q, source, like, more);
    field_extend(c, q, f, like, more);
    uint16_t *at = cls_get(c, 65536 * sizeof *at);
    cls_put(c, *sample, n * sizeof **sample);
    *sample = cls_get(c, (n + more) * sizeof **sample);
    for (uint32_t v = 65536; v-- > 0;) {
        uint32_t cls = cls_port(t, v);
        at[v] = (uint16_t)(v >= lo && v <= hi ? to[cls] : cls);
        (*sample)[at[v]].port = (uint16_t)v;
    }
    uint32_t *pages = source ? &q->n_sport_pages : &q->n_dport_pages;
    cls_put(c, (void *)(uintptr_t)t->cls, CLS_PORTS_BYTES(*pages));
    *pages = cls_ports_table(c, t, at);
    cls_put(c, at, 65536 * sizeof *at);
    cls_put(c, like, more * sizeof *like);
    cls_put(c, to, n * sizeof *to);
    return true;
}

/* ---- the edit ---- */

/* Which classes of the three fields an entry accepts. */
typedef struct accepted {
    uint8_t *in[3];
    uint32_t n[3];
} accepted;

static void accepted_free(pal_cls *c, accepted *a)
{
    for (uint32_t i = 0; i < 3; i++)
        cls_put(c, a->in[i], a->n[i]);
}

static bool accepted_make(pal_cls *c, cls_rules *q, const pal_rule *e, accepted *a)
{
    const pal_ruleset *pub = &q->pub;
    *a = (accepted){.n = {pub->meta.n, pub->dport.n, pub->sport.n}};
    for (uint32_t i = 0; i < 3; i++)
        a->in[i] = cls_get(c, a->n[i]);
    return meta_in(q, e, a->in[0]) && ports_in(&pub->dport_at, a->n[1], e->dport_lo, e->dport_hi, a->in[1]) &&
           ports_in(&pub->sport_at, a->n[2], e->sport_lo, e->sport_hi, a->in[2]);
}

static void field_edit(const cls_rules *q, const cls_field *f, const uint8_t *in, uint32_t position, bool on)
{
    uint32_t words = q->pub.blocks * CLS_BLOCK_WORDS, block = position / CLS_BLOCK;
    for (uint32_t i = 0; i < f->n; i++) {
        uint64_t *row = (uint64_t *)(uintptr_t)f->row + (size_t)i * words, *mask = (uint64_t *)(uintptr_t)f->mask + (size_t)i * q->pub.supers;
        if (on && in[i] == 2)
            cls_bit_set(row, position);
        else
            cls_bit_clear(row, position);
        const uint64_t *w = row + block * CLS_BLOCK_WORDS;
        if (q->pub.supers && (w[0] | w[1] | w[2] | w[3]))
            cls_bit_set(mask, block);
        else if (q->pub.supers)
            cls_bit_clear(mask, block);
    }
}

/* Whether the entry accepts what the samples say of one cell. */
static bool sample_accepts(const cls_rules *r, const pal_rule *e, uint32_t meta, uint32_t dport, uint32_t sport)
{
    const cls_sample *m = &r->sample[0][meta];
    uint32_t d = r->sample[1][dport].port, s = r->sample[2][sport].port;
    return (e->proto == PAL_PROTO_ANY || e->proto == m->proto) && (m->flags & e->tcp_mask) == e->tcp_value &&
           (m->family == PAL_FAMILY_V4 || m->family == PAL_FAMILY_V6) && (e->family & m->family) && (e->dir & m->dir) &&
           d >= e->dport_lo && d <= e->dport_hi && s >= e->sport_lo && s <= e->sport_hi;
}

/* The first of the entries from `at` on that stands in the cell. */
static uint32_t cell_first(const cls_rules *q, uint32_t at, uint32_t m, uint32_t d, uint32_t s)
{
    for (; at < q->pub.n; at++)
        if (cls_looks_of(&q->pub.rules[at]) == CLS_LOOKS_NEITHER && sample_accepts(q, &q->pub.rules[at], m, d, s))
            return at;
    return PAL_NONE;
}

static void cells_edit(cls_rules *q, uint32_t at, const pal_rule *gone, const pal_rule *come)
{
    uint32_t *first = (uint32_t *)(uintptr_t)q->pub.first, k = 0, shift = (come != NULL) - (gone != NULL);
    bool comes = come && cls_looks_of(come) == CLS_LOOKS_NEITHER;
    for (uint32_t m = 0; m < q->pub.meta.n; m++)
        for (uint32_t d = 0; d < q->pub.dport.n; d++)
            for (uint32_t s = 0; s < q->pub.sport.n; s++, k++) {
                if (gone && first[k] == at)
                    first[k] = cell_first(q, at, m, d, s);
                else if (first[k] != PAL_NONE && first[k] >= at)
                    first[k] += shift;
                if (comes && first[k] > at && sample_accepts(q, come, m, d, s))
                    first[k] = at;
            }
}

bool cls_services_edit(pal_cls *c, const cls_rules *r, cls_rules *q, uint32_t at, const pal_rule *gone, const pal_rule *come,
                       uint32_t off, uint32_t on)
{
    (void)r;
    if (come) {
        accepted cut;
        bool fits = accepted_make(c, q, come, &cut);
        if (!fits)
            for (uint32_t i = 1; i < 3 && (fits || i == 1); i++) {
                const cls_ports *t = i == 2 ? &q->pub.sport_at : &q->pub.dport_at;
                uint32_t lo = i == 2 ? come->sport_lo : come->dport_lo, hi = i == 2 ? come->sport_hi : come->dport_hi;
                fits = ports_in(t, cut.n[i], lo, hi, cut.in[i]) || ports_split(c, q, i == 2, lo, hi, cut.in[i]);
            }
        accepted_free(c, &cut);
        if (!fits)
            return false;
    }
    const cls_field *f[3] = {&q->pub.meta, &q->pub.dport, &q->pub.sport};
    accepted a = {.n = {0}};
    if (come && !accepted_make(c, q, come, &a)) {
        accepted_free(c, &a);
        return false;
    }
    for (uint32_t i = 0; i < 3; i++) {
        if (off != PAL_NONE && off != on)
            field_edit(q, f[i], NULL, off, false);
        if (on != PAL_NONE)
            field_edit(q, f[i], a.in[i], on, true);
    }
    accepted_free(c, &a);
    if (q->n_cells)
        cells_edit(q, at, gone, come);
    return true;
}
