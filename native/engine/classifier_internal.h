/* SPDX-License-Identifier: Apache-2.0
 *
 * classifier_internal.h - what the parts of the classifier's writer share. Nobody else includes it.
 */
#ifndef PAL_ENGINE_CLASSIFIER_INTERNAL_H
#define PAL_ENGINE_CLASSIFIER_INTERNAL_H

#include "classifier.h"

typedef unsigned __int128 cls_addr; /* an IPv4 address is its value, 0 .. 2^32 - 1 */

/* ---- ranges of one set (classifier_sets.c) ---- */
typedef struct cls_span {
    cls_addr lo, hi;
} cls_span;

/* A multiset of ranges in the order of (lo, hi), in runs of bounded length so that one change moves little. */
#define CLS_RUN 128
typedef struct cls_run {
    cls_addr top; /* greatest hi of the run */
    uint32_t n, cap;
    cls_span *span;
} cls_run;
typedef struct cls_spans {
    cls_run *run;
    uint32_t n, cap;
    uint32_t count;
} cls_spans;

typedef struct cls_set {
    uint32_t id;
    uint32_t uses;       /* rule sets that name it */
    uint32_t next;       /* in the chain of its hash bucket, or in the free list */
    uint32_t alive;
    uint64_t key[2];     /* what it adds to the hash of a class */
    cls_spans span[2];   /* by family - 1 */
} cls_set;

/* ---- classes (classifier_class.c) ---- */
/* 4,096 set numbers of a class: the words that are not zero. Shared by classes. */
typedef struct cls_mid {
    uint32_t refs, no;
    uint64_t map;
    uint64_t word[];
} cls_mid;

typedef struct cls_class {
    uint64_t h[2];
    cls_mid **mid; /* ascending by no */
    uint32_t n_mid;
    uint32_t refs; /* intervals of the staged maps */
    uint32_t next; /* hash chain, or free list */
    uint32_t born; /* transaction; 0: never used */
    uint32_t waits; /* times that it stands in the list of what waits for readers */
    uint8_t idle;   /* in the idle list */
    uint8_t fresh;  /* in the list of this transaction's new classes */
} cls_class;

/* ---- rule sets (classifier_rules.c, classifier_service.c) ---- */
/* Positions of the entries that name one set, by role (source, destination) and sign. */
typedef struct cls_use {
    uint32_t set;
    uint32_t at[5]; /* list k of (src, src negated, dst, dst negated) is pos[at[k] .. at[k + 1]) */
} cls_use;

typedef struct cls_rules {
    pal_ruleset pub; /* first */
    uint32_t refs, words;
    uint64_t hash;
    uint32_t next;          /* hash chain of live rule sets */
    uint32_t index;         /* in pal_cls.ruleset */
    uint32_t listed;        /* found by content */
    uint32_t n_refs;
    uint32_t *set_ref;      /* the caller's numbers */
    uint32_t *use_hash;     /* set -> index in use + 1, open addressing */
    uint32_t use_mask, n_use, cap_use;
    uint32_t packed;        /* words that a build from nothing would have had */
    cls_use *use;
    uint32_t *pos;          /* lists of positions */
    uint32_t n_pos, cap_pos;
    uint64_t *neg[2];       /* by role: positions of negated entries, or NULL */
    const uint64_t *base[2]; /* row of a class that has none of our sets */
    cls_tab *base_tab;      /* page of such classes, shared */
    uint32_t n_tab, cap_tab;
    uint32_t n_service;     /* rows: joined, or meta */
    uint32_t n_meta_index, n_cells, n_dport_pages, n_sport_pages;
} cls_rules;

/* ---- what waits for readers ---- */
enum cls_waste_kind { WASTE_BLOCK, WASTE_LINES, WASTE_CLASS, WASTE_RULES, WASTE_TAB };
typedef struct cls_waste {
    uint64_t epoch;
    void *p;
    size_t n; /* bytes, or number of lines, or index */
    uint32_t kind, ref;
} cls_waste;
/* A page that one version has stopped using. */
typedef struct cls_oldtab {
    cls_tab *tab;
    const uint64_t *base[2];
    uint32_t supers;
} cls_oldtab;
typedef struct cls_heap {
    cls_waste *v;
    size_t head, n, cap;
} cls_heap;

typedef struct cls_u32s {
    uint32_t *v;
    uint32_t n, cap;
} cls_u32s;

/* ---- arena of lines ---- */
typedef struct cls_arena {
    uint8_t **chunk;
    uint32_t **born; /* transaction that made the lines that begin here */
    uint32_t n, cap; /* chunks */
    uint32_t used;   /* lines handed out in the last chunk */
    cls_u32s free1, free4, free16;
} cls_arena;

struct PAL_ALIGNED(PAL_CACHE_LINE) pal_reader {
    uint64_t seen; /* 0: offline */
    const uint64_t *epoch;
    struct pal_reader *next;
};

struct pal_cls {
    pal_snap *now;   /* published */
    pal_snap stage;
    uint64_t epoch PAL_ALIGNED(PAL_CACHE_LINE);
    uint64_t secret[6] PAL_ALIGNED(PAL_CACHE_LINE);
    uint32_t txn;
    uint32_t dense_max; /* entries up to which rows are dense: CLS_DENSE * 64; tests lower it */
    size_t bytes;          /* taken from the system */
    void *block[129];      /* freed blocks by number of lines; 0: half a line */
    void *slabs;
    uint8_t *slab_at;
    size_t slab_left;
    cls_arena arena;
    cls_set *set;
    uint32_t n_set, cap_set;
    uint32_t *set_hash, set_mask, live_sets;
    uint32_t free_set;
    cls_class *cls;
    uint32_t n_cls, cap_cls, live_cls;
    uint32_t *cls_hash, cls_mask;
    uint32_t free_cls;
    cls_u32s idle, fresh;
    struct cls_rowrec **row_hash;
    uint32_t row_mask, n_row;
    cls_rules **ruleset;
    uint32_t n_ruleset, cap_ruleset;
    uint32_t *rules_hash, rules_mask;
    cls_heap pending, limbo;
    pal_reader *readers;
    uint64_t *bits; /* scratch: CLS_SUPERS_MAX * 64 words */
};

/* ---- memory (classifier_memory.c). Running out of memory ends the process: a firewall that goes on with half a rule
 * set would be worse. Sizes are given back on release, so that bytes in use are exact. ---- */
void *cls_get(pal_cls *c, size_t bytes);  /* zeroed */
void cls_put(pal_cls *c, void *p, size_t bytes);
void cls_slabs_free(pal_cls *c);
void *cls_grow(pal_cls *c, void *p, size_t old_bytes, size_t new_bytes);
void cls_push(pal_cls *c, cls_u32s *l, uint32_t v);
void cls_u32s_free(pal_cls *c, cls_u32s *l);
/* Waits for the readers of the published snapshot: staged (until commit and beyond) or at once. */
void cls_retire(pal_cls *c, cls_heap *h, uint32_t kind, void *p, size_t n, uint32_t ref);
uint32_t cls_lines_get(pal_cls *c, uint32_t lines);
void cls_lines_free(pal_cls *c, uint32_t ref, uint32_t lines);
void cls_lines_drop(pal_cls *c, uint32_t ref, uint32_t lines); /* at once when nobody has seen them, else retired */
void *cls_lines_at(const pal_cls *c, uint32_t ref);
void cls_arena_free(pal_cls *c);
bool cls_lines_own(const pal_cls *c, uint32_t ref);

PAL_INLINE uint64_t cls_mix(uint64_t a, uint64_t b)
{
    unsigned __int128 m = (unsigned __int128)a * b;
    return (uint64_t)m ^ (uint64_t)(m >> 64);
}
PAL_INLINE void cls_bit_set(uint64_t *v, uint32_t i) { v[i >> 6] |= 1ull << (i & 63); }
PAL_INLINE void cls_bit_clear(uint64_t *v, uint32_t i) { v[i >> 6] &= ~(1ull << (i & 63)); }
uint64_t cls_hash_words(const pal_cls *c, const uint64_t *w, size_t n);
uint64_t cls_hash_bytes(const pal_cls *c, const void *p, size_t bytes, uint64_t h);

/* ---- sets ---- */
uint32_t cls_set_find(pal_cls *c, uint32_t id, bool make);
void cls_set_unuse(pal_cls *c, uint32_t index);
void cls_spans_free(pal_cls *c, cls_spans *s);

/* ---- classes ---- */
uint32_t cls_class_change(pal_cls *c, uint32_t cls, uint32_t set, bool add); /* the class with or without the set */
bool cls_class_has(const pal_cls *c, uint32_t cls, uint32_t set);
void cls_class_ref(pal_cls *c, uint32_t cls);
void cls_class_unref(pal_cls *c, uint32_t cls);
void cls_class_idle(pal_cls *c, bool commit);
void cls_class_free(pal_cls *c, uint32_t cls);
void cls_classes_free(pal_cls *c);
PAL_INLINE uint64_t cls_mid_word(const cls_mid *m, uint32_t w)
{
    return m->map >> w & 1 ? m->word[__builtin_popcountll(m->map & ((1ull << w) - 1))] : 0;
}

/* ---- address maps (classifier_map.c) ---- */
/* Adds the set to, or removes it from, the classes of all addresses of the range. */
void cls_map_change(pal_cls *c, uint32_t family, cls_addr lo, cls_addr hi, uint32_t set, bool add);

/* ---- rows (classifier_rows.c) ---- */
/* The row of the bits in c->bits (words of them), with one more reference. Clears c->bits. */
const uint64_t *cls_row_make(pal_cls *c, uint32_t words, uint32_t supers);
void cls_row_ref(pal_cls *c, const uint64_t *row, uint32_t supers);
void cls_row_unref(pal_cls *c, const uint64_t *row, uint32_t supers);
size_t cls_row_len(const uint64_t *row, uint32_t supers);
size_t cls_row_bytes(const uint64_t *row, uint32_t supers);
size_t cls_row_share(const uint64_t *row, uint32_t supers);

/* ---- rule sets ---- */
/* Where entries with PAL_ACTION_RESUME go on (classifier_later.c). Builds what r->pub.later needs; on an error nothing of it
 * is left. */
int cls_later_build(pal_cls *c, cls_rules *r);
void cls_later_release(pal_cls *c, const cls_rules *r);

/* Services: first the plan, which decides whether one table joins all of them; then, when positions are known, rows. */
typedef struct cls_plan cls_plan;
cls_plan *cls_plan_new(pal_cls *c, const pal_rule *rules, uint32_t n);
bool cls_plan_joined(const cls_plan *p);
/* position[i] of entry i; PAL_NONE: it looks at no address and stands in no row. */
void cls_plan_rows(cls_plan *p, cls_rules *r, const uint32_t *position);
void cls_plan_free(cls_plan *p);
void cls_service_free(pal_cls *c, cls_rules *r);
/* ---- rule sets, continued ---- */
void cls_rules_class(pal_cls *c, cls_rules *r, uint32_t cls);  /* gives the class its rows */
void cls_rules_forget(pal_cls *c, cls_rules *r, uint32_t cls); /* takes them back */
void cls_rules_free(pal_cls *c, cls_rules *r);
void cls_rules_unlist(pal_cls *c, cls_rules *r);

void cls_slot_set(pal_cls *c, cls_rules *r, uint32_t cls, uint32_t role, const uint64_t *row); /* takes over row's reference */
void cls_tab_unref(pal_cls *c, cls_tab *t, const uint64_t *const base[2], uint32_t supers);
void cls_tabs_reserve(pal_cls *c, cls_rules *r, uint32_t n);
bool cls_rule_valid(const pal_rule *e, uint32_t n_refs);
void cls_content_copy(pal_cls *c, cls_rules *r, const pal_rule *rules, uint32_t n, const uint32_t *refs);
void cls_content_free(pal_cls *c, cls_rules *r);
cls_rules *cls_ruleset_equal(pal_cls *c, const cls_rules *r);
void cls_ruleset_list(pal_cls *c, cls_rules *r);
const cls_use *cls_use_find(const pal_cls *c, const cls_rules *r, uint32_t set);
uint32_t cls_use_make(pal_cls *c, cls_rules *r, uint32_t set);

/* ---- positions (classifier_place.c) ---- */
enum cls_looks { CLS_LOOKS_BOTH, CLS_LOOKS_SRC, CLS_LOOKS_DST, CLS_LOOKS_NEITHER, CLS_LOOKS }; /* which addresses an entry looks at */

PAL_INLINE enum cls_looks cls_looks_of(const pal_rule *e) { return e->src_n ? (e->dst_n ? CLS_LOOKS_BOTH : CLS_LOOKS_SRC) : e->dst_n ? CLS_LOOKS_DST : CLS_LOOKS_NEITHER; }
/* Gives each entry a bit. A word holds entries of one kind only, ascending. ref[i]: index in `use` of set_ref[i]. */
int cls_positions_assign(pal_cls *c, cls_rules *r, bool joined, const uint32_t *ref, uint32_t *position);

#endif
