/* SPDX-License-Identifier: Apache-2.0
 *
 * classifier_service.c - everything that an entry says beside addresses: protocol, ports, flags, family, direction.
 *
 * Entries that say the same form one spec. Each value of a field has a bit vector over the specs that accept it; values
 * with equal vectors form a class, and a class has a row: three fields, three rows. Where a field has too many classes
 * for its memory bound, its classes become coarser (a superset of the specs) and the look-up asks the entry itself.
 * Entries that look at no address stand in no row where the classes of all fields can be multiplied out within a bound: a
 * table of cells says which is the first of them.
 */
#include "classifier_internal.h"

#include <stdlib.h>

#define CELL_WORDS_MAX (16u << 20) /* words looked at while it is made */

typedef struct spec {
    uint16_t sport_lo, sport_hi, dport_lo, dport_hi;
    uint16_t proto;
    uint8_t mask, value, dir, family;
} spec;

/* Bit vectors, each content once. */
typedef struct pool {
    pal_cls *c;
    uint64_t *v;
    uint32_t words, n, cap;
    uint32_t *hash, hash_mask;
} pool;

/* Entries of each spec. */
struct cls_plan {
    pal_cls *c;
    const pal_rule *rules;
    uint32_t n, n_spec, ns;
    spec *s;
    uint32_t *spec_of; /* entry -> spec */
    pool meta, dport, sport;
    uint32_t n_proto, n_flags;
    uint8_t proto_class[256], flag_class[256];
    uint32_t *meta_at;           /* index as in cls_meta -> meta class */
    uint16_t *dport_at, *sport_at; /* 65,536 classes each */
    bool verify;
};

static void pool_init(pal_cls *c, pool *p, uint32_t words)
{
    *p = (pool){.c = c, .words = words, .hash_mask = 63};
    p->hash = cls_get(c, 64 * sizeof(uint32_t));
}

static void pool_free(pool *p)
{
    if (!p->c)
        return;
    cls_put(p->c, p->v, (size_t)p->cap * p->words * 8);
    cls_put(p->c, p->hash, (p->hash_mask + 1ull) * sizeof(uint32_t));
}

static uint32_t pool_add(pool *p, const uint64_t *bits)
{
    uint64_t h = cls_hash_words(p->c, bits, p->words);
    uint32_t i = (uint32_t)h & p->hash_mask;
    for (; p->hash[i]; i = (i + 1) & p->hash_mask)
        if (!memcmp(p->v + (size_t)(p->hash[i] - 1) * p->words, bits, p->words * 8))
            return p->hash[i] - 1;
    if (p->n == p->cap) {
        uint32_t cap = p->cap ? 2 * p->cap : 16;
        p->v = cls_grow(p->c, p->v, (size_t)p->cap * p->words * 8, (size_t)cap * p->words * 8);
        p->cap = cap;
    }
    memcpy(p->v + (size_t)p->n * p->words, bits, p->words * 8);
    p->hash[i] = ++p->n;
    if (p->n > p->hash_mask / 2) {
        cls_put(p->c, p->hash, (p->hash_mask + 1ull) * sizeof(uint32_t));
        p->hash_mask = 4 * p->hash_mask + 3;
        p->hash = cls_get(p->c, (p->hash_mask + 1ull) * sizeof(uint32_t));
        for (uint32_t k = 0; k < p->n; k++) {
            i = (uint32_t)cls_hash_words(p->c, p->v + (size_t)k * p->words, p->words) & p->hash_mask;
            while (p->hash[i])
                i = (i + 1) & p->hash_mask;
            p->hash[i] = k + 1;
        }
    }
    return p->n - 1;
}

static const uint64_t *pool_at(const pool *p, uint32_t i) { return p->v + (size_t)i * p->words; }

/* ---- specs ---- */

static void specs_find(cls_plan *p)
{
    pal_cls *c = p->c;
    uint32_t mask = 63;
    while (mask < 2 * p->n)
        mask = 2 * mask + 1;
    uint32_t *hash = cls_get(c, (mask + 1ull) * sizeof *hash);
    p->s = cls_get(c, p->n * sizeof *p->s);
    p->spec_of = cls_get(c, p->n * sizeof *p->spec_of);
    for (uint32_t i = 0; i < p->n; i++) {
        const pal_rule *e = &p->rules[i];
        spec s;
        memset(&s, 0, sizeof s);
        s.sport_lo = e->sport_lo, s.sport_hi = e->sport_hi, s.dport_lo = e->dport_lo, s.dport_hi = e->dport_hi;
        s.proto = e->proto;
        s.mask = e->tcp_mask, s.value = e->tcp_value, s.dir = e->dir & 3, s.family = e->family & 3;
        uint32_t h = (uint32_t)cls_hash_bytes(c, &s, sizeof s, 1) & mask;
        while (hash[h] && memcmp(&p->s[hash[h] - 1], &s, sizeof s))
            h = (h + 1) & mask;
        if (!hash[h]) {
            p->s[p->n_spec++] = s;
            hash[h] = p->n_spec;
        }
        p->spec_of[i] = hash[h] - 1;
    }
    cls_put(c, hash, (mask + 1ull) * sizeof *hash);
    p->ns = (p->n_spec + 63) / 64;
    if (p->ns == 0)
        p->ns = 1;
}

/* ---- ports ---- */

/* Where a new class of ports may begin: everywhere that a spec begins or has just ended, or, when that would be too many,
 * at a choice of places between which few specs begin or end. */
static uint32_t ports_cut(const cls_plan *p, bool source, uint32_t most, uint16_t *cut, bool *coarse)
{
    pal_cls *c = p->c;
    uint32_t *weight = cls_get(c, 65537 * sizeof *weight);
    for (uint32_t i = 0; i < p->n_spec; i++) {
        weight[source ? p->s[i].sport_lo : p->s[i].dport_lo]++;
        weight[(source ? p->s[i].sport_hi : p->s[i].dport_hi) + 1u]++;
    }
    uint32_t distinct = 1, n = 0, share = 0;
    for (uint32_t v = 1; v < 65536; v++)
        distinct += weight[v] != 0;
    if (distinct > most) {
        *coarse = true;
        share = 2 * p->n_spec / (most / 2) + 1;
    }
    cut[n++] = 0;
    for (uint32_t v = 1, sum = 0; v < 65536; v++) {
        if (weight[v] && sum + weight[v] >= share) {
            cut[n++] = (uint16_t)v;
            sum = 0;
        } else {
            sum += weight[v];
        }
    }
    cls_put(c, weight, 65537 * sizeof *weight);
    return n;
}

typedef struct edge {
    uint16_t port;
    uint32_t spec;
} edge;
static int edge_order(const void *a, const void *b) { return (int)((const edge *)a)->port - (int)((const edge *)b)->port; }

static void ports_classes(cls_plan *p, bool source, pool *out, uint16_t *at)
{
    pal_cls *c = p->c;
    uint32_t words = p->ns > (p->n + 63) / 64 ? p->ns : (p->n + 63) / 64;
    uint32_t most = CLS_FIELD_WORDS_MAX / words < 16 ? 16 : CLS_FIELD_WORDS_MAX / words;
    uint16_t *cut = cls_get(c, 65536 * sizeof *cut);
    bool coarse = false;
    uint32_t n = ports_cut(p, source, most, cut, &coarse), a = 0, b = 0;
    p->verify |= coarse;
    edge *begin = cls_get(c, p->n_spec * sizeof *begin), *end = cls_get(c, p->n_spec * sizeof *end);
    for (uint32_t i = 0; i < p->n_spec; i++) {
        begin[i] = (edge){source ? p->s[i].sport_lo : p->s[i].dport_lo, i};
        end[i] = (edge){source ? p->s[i].sport_hi : p->s[i].dport_hi, i};
    }
    qsort(begin, p->n_spec, sizeof *begin, edge_order);
    qsort(end, p->n_spec, sizeof *end, edge_order);
    uint64_t *bits = cls_get(c, p->ns * 8);
    pool_init(c, out, p->ns);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t last = i + 1 < n ? cut[i + 1] - 1u : 65535;
        for (; a < p->n_spec && begin[a].port <= last; a++)
            cls_bit_set(bits, begin[a].spec);
        for (; b < p->n_spec && end[b].port < cut[i]; b++)
            cls_bit_clear(bits, end[b].spec);
        uint16_t cls = (uint16_t)pool_add(out, bits);
        for (uint32_t v = cut[i]; v <= last; v++)
            at[v] = cls;
    }
    cls_put(c, bits, p->ns * 8);
    cls_put(c, begin, p->n_spec * sizeof *begin);
    cls_put(c, end, p->n_spec * sizeof *end);
    cls_put(c, cut, 65536 * sizeof *cut);
}

/* ---- protocol, flags, family, direction ---- */

static void meta_classes(cls_plan *p)
{
    pal_cls *c = p->c;
    pool proto, flags;
    uint64_t *bits = cls_get(c, p->ns * 8), *side = cls_get(c, 16 * (size_t)p->ns * 8);
    pool_init(c, &proto, p->ns);
    for (uint32_t v = 0; v < 256; v++) {
        memset(bits, 0, p->ns * 8);
        for (uint32_t i = 0; i < p->n_spec; i++)
            if (p->s[i].proto == v || p->s[i].proto == PAL_PROTO_ANY)
                cls_bit_set(bits, i);
        p->proto_class[v] = (uint8_t)pool_add(&proto, bits);
    }
    pool_init(c, &flags, p->ns);
    for (uint32_t v = 0; v < 256; v++) {
        memset(bits, 0, p->ns * 8);
        for (uint32_t i = 0; i < p->n_spec; i++)
            if ((v & p->s[i].mask) == p->s[i].value)
                cls_bit_set(bits, i);
        p->flag_class[v] = (uint8_t)pool_add(&flags, bits);
    }
    p->n_proto = proto.n;
    p->n_flags = flags.n;
    if ((uint64_t)proto.n * flags.n * 6 * p->ns > CLS_FIELD_WORDS_MAX) { /* flags are left to the entry */
        p->verify = true;
        p->n_flags = 1;
        memset(p->flag_class, 0, sizeof p->flag_class);
    }
    for (uint32_t x = 0; x < 16; x++) /* family << 2 | direction */
        for (uint32_t i = 0; i < p->n_spec; i++) {
            uint32_t family = x >> 2, dir = x & 3;
            if ((family == PAL_FAMILY_V4 || family == PAL_FAMILY_V6) && (p->s[i].family & family) && (p->s[i].dir & dir))
                cls_bit_set(side + (size_t)x * p->ns, i);
        }
    pool_init(c, &p->meta, p->ns);
    p->meta_at = cls_get(c, (size_t)p->n_proto * p->n_flags * 16 * sizeof *p->meta_at);
    for (uint32_t a = 0; a < p->n_proto; a++)
        for (uint32_t b = 0; b < p->n_flags; b++)
            for (uint32_t x = 0; x < 16; x++) {
                for (uint32_t w = 0; w < p->ns; w++)
                    bits[w] = pool_at(&proto, a)[w] & side[(size_t)x * p->ns + w] &
                              (p->n_flags > 1 || flags.n == 1 ? pool_at(&flags, b)[w] : ~0ull);
                p->meta_at[(a * p->n_flags + b) * 16 + x] = pool_add(&p->meta, bits);
            }
    pool_free(&proto);
    pool_free(&flags);
    cls_put(c, bits, p->ns * 8);
    cls_put(c, side, 16 * (size_t)p->ns * 8);
}

uint32_t cls_plan_cells(const cls_plan *p)
{
    uint64_t cells = (uint64_t)p->meta.n * p->dport.n * p->sport.n;
    return p->verify || cells > CLS_CELLS_MAX || cells * p->ns > CELL_WORDS_MAX ? 0 : (uint32_t)cells;
}

cls_plan *cls_plan_new(pal_cls *c, const pal_rule *rules, uint32_t n)
{
    cls_plan *p = cls_get(c, sizeof *p);
    p->c = c;
    p->rules = rules;
    p->n = n;
    specs_find(p);
    meta_classes(p);
    p->dport_at = cls_get(c, 65536 * sizeof *p->dport_at);
    p->sport_at = cls_get(c, 65536 * sizeof *p->sport_at);
    ports_classes(p, false, &p->dport, p->dport_at);
    ports_classes(p, true, &p->sport, p->sport_at);
    return p;
}

void cls_plan_free(cls_plan *p)
{
    pal_cls *c = p->c;
    pool_free(&p->meta);
    pool_free(&p->dport);
    pool_free(&p->sport);
    cls_put(c, p->s, p->n * sizeof *p->s);
    cls_put(c, p->spec_of, p->n * sizeof *p->spec_of);
    cls_put(c, p->meta_at, (size_t)p->n_proto * p->n_flags * 16 * sizeof *p->meta_at);
    cls_put(c, p->dport_at, 65536 * sizeof *p->dport_at);
    cls_put(c, p->sport_at, 65536 * sizeof *p->sport_at);
    cls_put(c, p, sizeof *p);
}

/* ---- rows ---- */

/* Positions of the entries of each spec, and its first entry without one. */
typedef struct spec_list {
    uint32_t *at, *pos, *first;
} spec_list;

static void list_make(const cls_plan *p, spec_list *l, const uint32_t *position)
{
    pal_cls *c = p->c;
    *l = (spec_list){.at = cls_get(c, (p->n_spec + 1) * sizeof(uint32_t)), .pos = cls_get(c, p->n * sizeof(uint32_t)),
                     .first = cls_get(c, (p->n_spec + 1) * sizeof(uint32_t))};
    memset(l->first, 0xff, (p->n_spec + 1) * sizeof(uint32_t));
    for (uint32_t i = 0; i < p->n; i++)
        if (position[i] != PAL_NONE)
            l->at[p->spec_of[i] + 1]++;
        else
            l->first[p->spec_of[i]] = min_u32(l->first[p->spec_of[i]], i);
    for (uint32_t s = 0; s < p->n_spec; s++)
        l->at[s + 1] += l->at[s];
    uint32_t total = l->at[p->n_spec];
    for (uint32_t i = p->n; i-- > 0;) /* fills each list from its end, leaving at[s + 1] at the start of list s */
        if (position[i] != PAL_NONE)
            l->pos[--l->at[p->spec_of[i] + 1]] = position[i];
    for (uint32_t s = 0; s < p->n_spec; s++)
        l->at[s] = l->at[s + 1];
    l->at[p->n_spec] = total;
}

static void list_free(const cls_plan *p, spec_list *l)
{
    cls_put(p->c, l->at, (p->n_spec + 1) * sizeof(uint32_t));
    cls_put(p->c, l->pos, p->n * sizeof(uint32_t));
    cls_put(p->c, l->first, (p->n_spec + 1) * sizeof(uint32_t));
}

/* The rows of a field's classes and their masks. */
static void field_rows(pal_cls *c, const cls_rules *r, cls_field *f, const pool *p, const spec_list *l)
{
    uint32_t words = r->pub.blocks * CLS_BLOCK_WORDS, supers = r->pub.supers;
    uint64_t *row = cls_get(c, (size_t)p->n * words * 8), *mask = cls_get(c, (size_t)p->n * supers * 8);
    *f = (cls_field){p->n, row, mask};
    for (uint32_t i = 0; i < p->n; i++, row += words, mask += supers) {
        const uint64_t *specs = pool_at(p, i);
        for (uint32_t w = 0; w < p->words; w++)
            for (uint64_t left = specs[w]; left; left &= left - 1) {
                uint32_t s = w * 64 + (uint32_t)__builtin_ctzll(left);
                for (uint32_t k = l->at[s]; k < l->at[s + 1]; k++)
                    cls_bit_set(row, l->pos[k]);
            }
        for (uint32_t w = 0; supers && w < words; w++)
            if (row[w])
                cls_bit_set(mask, w / CLS_BLOCK_WORDS);
    }
}

static const uint32_t *cells_make(const cls_plan *p, const spec_list *l)
{
    pal_cls *c = p->c;
    uint32_t *first = cls_get(c, cls_plan_cells(p) * sizeof *first), k = 0;
    uint64_t *some = cls_get(c, p->ns * 8); /* specs that have such an entry */
    for (uint32_t s = 0; s < p->n_spec; s++)
        if (l->first[s] != PAL_NONE)
            cls_bit_set(some, s);
    for (uint32_t m = 0; m < p->meta.n; m++)
        for (uint32_t d = 0; d < p->dport.n; d++)
            for (uint32_t s = 0; s < p->sport.n; s++, k++) {
                const uint64_t *x = pool_at(&p->meta, m), *y = pool_at(&p->dport, d), *z = pool_at(&p->sport, s);
                first[k] = PAL_NONE;
                for (uint32_t w = 0; w < p->ns; w++)
                    for (uint64_t left = x[w] & y[w] & z[w] & some[w]; left; left &= left - 1)
                        first[k] = min_u32(first[k], l->first[w * 64 + (uint32_t)__builtin_ctzll(left)]);
            }
    cls_put(c, some, p->ns * 8);
    return first;
}

/* ---- samples ---- */

static cls_sample *ports_sample(const cls_plan *p, const pool *o, const uint16_t *at)
{
    cls_sample *s = cls_get(p->c, o->n * sizeof *s);
    for (uint32_t v = 65536; v-- > 0;)
        s[at[v]].port = (uint16_t)v;
    return s;
}

static cls_sample *meta_sample(const cls_plan *p)
{
    cls_sample *s = cls_get(p->c, p->meta.n * sizeof *s);
    uint8_t proto[256], flags[256];
    for (uint32_t v = 256; v-- > 0;) {
        proto[p->proto_class[v]] = (uint8_t)v;
        flags[p->flag_class[v]] = (uint8_t)v;
    }
    for (uint32_t i = 0; i < p->n_proto * p->n_flags * 16; i++)
        s[p->meta_at[i]] = (cls_sample){0, proto[i / 16 / p->n_flags], flags[i / 16 % p->n_flags], i >> 2 & 3, i & 3};
    return s;
}

/* ---- everything ---- */

void cls_plan_rows(cls_plan *p, cls_rules *r, const uint32_t *position)
{
    pal_cls *c = p->c;
    pal_ruleset *pub = &r->pub;
    spec_list l;
    list_make(p, &l, position);
    pub->verify = p->verify;
    pub->n_flags = p->n_flags;
    memcpy(pub->proto_class, p->proto_class, 256);
    memcpy(pub->flag_class, p->flag_class, 256);
    r->n_meta_index = p->n_proto * p->n_flags * 16;
    r->sample[0] = meta_sample(p);
    r->sample[1] = ports_sample(p, &p->dport, p->dport_at);
    r->sample[2] = ports_sample(p, &p->sport, p->sport_at);
    pub->meta_at = p->meta_at;
    p->meta_at = NULL;
    r->n_dport_pages = cls_ports_table(c, &pub->dport_at, p->dport_at);
    r->n_sport_pages = cls_ports_table(c, &pub->sport_at, p->sport_at);
    field_rows(c, r, &pub->meta, &p->meta, &l);
    field_rows(c, r, &pub->dport, &p->dport, &l);
    field_rows(c, r, &pub->sport, &p->sport, &l);
    if (r->n_cells)
        pub->first = cells_make(p, &l);
    list_free(p, &l);
}

static void field_free(pal_cls *c, const cls_rules *r, const cls_field *f)
{
    cls_put(c, (void *)(uintptr_t)f->row, (size_t)f->n * r->pub.blocks * CLS_UNIT);
    cls_put(c, (void *)(uintptr_t)f->mask, (size_t)f->n * r->pub.supers * 8);
}

void cls_service_free(pal_cls *c, cls_rules *r)
{
    pal_ruleset *pub = &r->pub;
    const cls_field *f[3] = {&pub->meta, &pub->dport, &pub->sport};
    for (uint32_t i = 0; i < 3; i++) {
        cls_put(c, r->sample[i], f[i]->n * sizeof *r->sample[i]);
        field_free(c, r, f[i]);
    }
    if (pub->first)
        cls_put(c, (void *)(uintptr_t)pub->first, r->n_cells * sizeof(uint32_t));
    cls_put(c, (void *)(uintptr_t)pub->meta_at, r->n_meta_index * sizeof(uint32_t));
    cls_put(c, (void *)(uintptr_t)pub->dport_at.cls, CLS_PORTS_BYTES(r->n_dport_pages));
    cls_put(c, (void *)(uintptr_t)pub->sport_at.cls, CLS_PORTS_BYTES(r->n_sport_pages));
}
