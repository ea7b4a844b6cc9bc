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

/* What one class of a field looks like to a rule: some value that is in it. */
typedef struct cls_sample {
    uint16_t port;
    uint8_t proto, flags, family, dir;
} cls_sample;

typedef struct cls_rules {
    pal_ruleset pub; /* first */
    pal_cls *c;
    uint32_t refs;
    uint64_t hash;
    uint32_t next;          /* hash chain of live rule sets */
    uint32_t index;         /* in pal_cls.ruleset */
    uint32_t listed;        /* found by content */
    uint32_t n_refs;
    uint32_t *set_ref;      /* the caller's numbers */
    uint32_t *use_hash;     /* set -> index in use + 1, open addressing */
    uint32_t use_mask, n_use, cap_use;
    uint32_t packed;        /* blocks that a build from nothing would have had */
    cls_use *use;
    uint32_t *pos;          /* lists of positions */
    uint32_t n_pos, cap_pos;
    uint64_t *neg[2];       /* by role: positions that a class has without any of our sets, or NULL */
    uint32_t base[2][CLS_SUPERS_MAX]; /* row of a class that has none of our sets */
    uint32_t base_tab[CLS_SUPERS_MAX]; /* page of such classes, shared */
    uint32_t n_tab, cap_tab; /* groups of 256 classes; each has a page a superblock */
    cls_sample *sample[3];  /* of the classes of meta, dport, sport */
    uint32_t n_meta_index, n_cells, n_dport_pages, n_sport_pages;
} cls_rules;

/* Pages that a group of classes has, and what rows are made of: 0 nodes, else dense rows of so many blocks. */
PAL_INLINE uint32_t cls_rules_supers(const cls_rules *r) { return max_u32(r->pub.supers, 1); }
PAL_INLINE uint32_t cls_rules_dense(const cls_rules *r) { return r->pub.supers ? 0 : r->pub.blocks; }

/* ---- what waits for readers ---- */
enum cls_waste_kind { WASTE_BLOCK, WASTE_LINES, WASTE_CLASS, WASTE_RULES, WASTE_TAB };
typedef struct cls_waste {
    uint64_t epoch;
    void *p;
    size_t n; /* bytes, or number of lines, or index */
    uint32_t kind, ref;
} cls_waste;
typedef struct cls_heap {
    cls_waste *v;
    size_t head, n, cap;
} cls_heap;

typedef struct cls_u32s {
    uint32_t *v;
    uint32_t n, cap;
} cls_u32s;

/* ---- arena (classifier_arena.c) ---- */
#define CLS_UNITS_LISTED 65 /* sizes of one to 64 units */
typedef struct cls_arena {
    void *map;
    size_t mapped;
    uint8_t *base;
    uint32_t *side;            /* by unit: who made it, or how many refer to it */
    uint32_t used, taken, limit; /* units */
    cls_u32s free[CLS_UNITS_LISTED];
} cls_arena;

/* Objects in the arena by content (classifier_rows.c). */
typedef struct cls_pooled {
    uint32_t ref, hash;
} cls_pooled;
typedef struct cls_pool {
    cls_pooled *slot;
    uint32_t mask, n;
} cls_pool;

struct PAL_ALIGNED(PAL_CACHE_LINE) pal_reader {
    uint64_t seen; /* 0: offline */
    const uint64_t *epoch;
    struct pal_reader *next;
};

#define CLS_BITS_WORDS (CLS_SUPERS_MAX * CLS_SUPER * CLS_BLOCK_WORDS)

#define CLS_KEPT 32
#define CLS_KEPT_BYTES ((size_t)8 << 20)
typedef struct cls_kept {
    void *p;
    size_t n;
} cls_kept;

struct pal_cls {
    pal_snap *now;   /* published */
    pal_snap stage;
    uint64_t epoch PAL_ALIGNED(PAL_CACHE_LINE);
    uint64_t secret[6] PAL_ALIGNED(PAL_CACHE_LINE);
    uint32_t txn;
    bool engines;    /* pal_cls_own */
    uint32_t dense_max; /* entries up to which rows are dense: CLS_DENSE * CLS_BLOCK; tests lower it */
    size_t bytes;          /* taken from the system */
    void *block[129];      /* freed blocks by number of lines; 0: half a line */
    void *slabs;
    uint8_t *slab_at;
    size_t slab_left;
    cls_kept kept[CLS_KEPT]; /* freed blocks larger than those of slabs, for the next version of a rule set */
    size_t kept_bytes;
    uint32_t kept_next; /* whose turn it is to go */
    bool keeps;
    cls_arena arena;
    cls_set *set;
    uint32_t n_set, cap_set;
    uint32_t *set_hash, set_mask, live_sets;
    uint32_t free_set;
    cls_class *cls;
    uint32_t n_cls, cap_cls, live_cls;
    uint32_t *cls_hash, cls_mask;
    uint32_t free_cls;
    uint32_t loose; /* classes that no interval has */
    cls_u32s idle, fresh;
    cls_pool node, dense[3];
    cls_rules **ruleset;
    uint32_t n_ruleset, cap_ruleset;
    uint32_t *rules_hash, rules_mask;
    cls_heap pending, limbo;
    pal_reader *readers;
    uint64_t *bits; /* scratch: CLS_BITS_WORDS */
};

/* ---- memory (classifier_memory.c). Running out of memory ends the process: a firewall that goes on with half a rule
 * set would be worse. Sizes are given back on release, so that bytes in use are exact. ---- */
void *cls_get(pal_cls *c, size_t bytes);
void *cls_take(pal_cls *c, size_t bytes); /* the same, with anything in it */  /* zeroed */
void cls_put(pal_cls *c, void *p, size_t bytes);
void cls_slabs_free(pal_cls *c);
/* From now on large blocks that are freed are kept for those of the same size that will be wanted, at most CLS_KEPT_BYTES of
 * them: while rule sets are changed one entry at a time. Or no more, and what was kept goes. */
void cls_keep(pal_cls *c, bool keeps);
void *cls_grow(pal_cls *c, void *p, size_t old_bytes, size_t new_bytes);
void cls_push(pal_cls *c, cls_u32s *l, uint32_t v);
void cls_u32s_free(pal_cls *c, cls_u32s *l);
/* Waits for the readers of the published snapshot: staged (until commit and beyond) or at once. */
void cls_retire(pal_cls *c, cls_heap *h, uint32_t kind, void *p, size_t n, uint32_t ref);
void cls_arena_init(pal_cls *c);
uint32_t cls_units_get(pal_cls *c, uint32_t units); /* not zeroed; even sizes begin at a cache line */
void cls_units_free(pal_cls *c, uint32_t ref, uint32_t units);
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

/* ---- address maps (classifier_map.c, classifier_tree.c) ---- */
/* One change of a set: what becomes of a class, with a memory of the last answers. */
typedef struct cls_turn {
    pal_cls *c;
    uint32_t set;
    bool add;
    uint32_t from[16], to[16]; /* answers of cls_class_change, by the low bits of the class */
} cls_turn;

PAL_INLINE uint32_t cls_turned(cls_turn *x, uint32_t cls)
{
    uint32_t i = cls % 16;
    if (x->from[i] != cls) {
        x->to[i] = cls_class_change(x->c, cls, x->set, x->add);
        x->from[i] = cls;
    }
    return x->to[i];
}
void cls_tree_turn(cls_turn *x, cls_addr lo, cls_addr hi); /* the IPv6 map */
void cls_tree_mark(pal_cls *c, cls_addr lo, cls_addr hi, uint8_t bit, uint8_t *mark);
/* Adds the set to, or removes it from, the classes of all addresses of the range. */
void cls_map_change(pal_cls *c, uint32_t family, cls_addr lo, cls_addr hi, uint32_t set, bool add);
/* Marks the classes of all addresses of the range, as staged. */
void cls_map_mark(pal_cls *c, uint32_t family, cls_addr lo, cls_addr hi, uint8_t bit, uint8_t *mark);

/* ---- rows (classifier_rows.c) ---- */
/* The row of the bits in c->bits, one part a superblock, with one more reference to each. Clears c->bits. */
void cls_row_make(pal_cls *c, const cls_rules *r, uint32_t *row);
uint32_t cls_row_edit(pal_cls *c, const cls_rules *r, uint32_t row, uint32_t off, uint32_t on);
bool cls_row_has(const pal_cls *c, const cls_rules *r, uint32_t row, uint32_t position);
void cls_row_ref(pal_cls *c, uint32_t row);
void cls_row_unref(pal_cls *c, uint32_t row, uint32_t dense);
size_t cls_row_share(const pal_cls *c, uint32_t row, uint32_t dense);
uint32_t cls_rows_live(const pal_cls *c);
void cls_pools_free(pal_cls *c);

/* ---- where entries with PAL_ACTION_RESUME go on (classifier_later.c) ---- */
/* Builds what r->pub.later needs; on an error nothing of it is left. */
int cls_later_build(pal_cls *c, cls_rules *r);
void cls_later_release(pal_cls *c, const cls_rules *r);

/* ---- services (classifier_service.c): first the classes of each field; then, when positions are known, rows ---- */
#define CLS_FIELD_WORDS_MAX (4u << 20) /* words of vectors or rows that one field may have: 32 MiB */
#define CLS_CELLS_MAX (1u << 19)       /* of the table of cells */
#define CLS_PORTS_BYTES(pages) ((pages) * (size_t)512 + 4) /* see cls_ports */
typedef struct cls_plan cls_plan;
cls_plan *cls_plan_new(pal_cls *c, const pal_rule *rules, uint32_t n);
/* The cells of a table of all fields' classes; 0 when there would be too many. */
uint32_t cls_plan_cells(const cls_plan *p);
/* position[i] of entry i; PAL_NONE: it looks at no address and stands in the table of cells. */
void cls_plan_rows(cls_plan *p, cls_rules *r, const uint32_t *position);
void cls_plan_free(cls_plan *p);
void cls_service_free(pal_cls *c, cls_rules *r);

uint32_t cls_ports_table(pal_cls *c, cls_ports *t, const uint16_t *at); /* of 65,536 classes; returns its pages */

/* ---- one entry changed (classifier_edit.c, classifier_ports.c): all give false where a build from nothing is needed ---- */
/* A version of r with the content of q, where entry `at` of r went (gone) and entry `at` of q came (come). */
bool cls_version_make(pal_cls *c, const cls_rules *r, cls_rules *q, uint32_t at, const pal_rule *gone, const pal_rule *come);
bool cls_meta_fits(const cls_rules *r, const pal_rule *e);
bool cls_services_edit(pal_cls *c, const cls_rules *r, cls_rules *q, uint32_t at, const pal_rule *gone, const pal_rule *come,
                       uint32_t off, uint32_t on);

/* ---- rows of classes (classifier_tabs.c) ---- */
void cls_base_build(pal_cls *c, cls_rules *r, const uint32_t *position);
void cls_rules_class(pal_cls *c, cls_rules *r, uint32_t cls);  /* gives the class its rows */
void cls_rules_forget(pal_cls *c, cls_rules *r, uint32_t cls); /* takes them back */
/* Takes over row's reference. */
void cls_slot_set(pal_cls *c, cls_rules *r, uint32_t cls, uint32_t super, uint32_t role, uint32_t row);
uint32_t cls_slot_get(const pal_cls *c, const cls_rules *r, uint32_t cls, uint32_t super, uint32_t role);
void cls_tab_unref(pal_cls *c, uint32_t tab, uint32_t dense);
void cls_tabs_reserve(pal_cls *c, cls_rules *r, uint32_t n);
void cls_tabs_free(pal_cls *c, cls_rules *r);

/* ---- which entries name a set (classifier_uses.c) ---- */
uint32_t *cls_uses_name(pal_cls *c, cls_rules *r); /* of[i]: index in `use` of set_ref[i] */
void cls_uses_list(pal_cls *c, cls_rules *r, const uint32_t *of, const uint32_t *position);
void cls_uses_free(pal_cls *c, cls_rules *r);
const cls_use *cls_use_find(const pal_cls *c, const cls_rules *r, uint32_t set);
uint32_t cls_use_make(pal_cls *c, cls_rules *r, uint32_t set);
bool cls_uses_edit(pal_cls *c, cls_rules *r, const uint32_t *set_ref, uint32_t n, uint32_t role, uint32_t pos, bool put);

/* ---- rule sets (classifier_rules.c) ---- */
void cls_rules_free(pal_cls *c, cls_rules *r);
void cls_rules_unlist(pal_cls *c, cls_rules *r);
bool cls_rule_valid(const pal_rule *e, uint32_t n_refs);
/* Entries as a caller gives them, or as a rule set keeps them: there the lists of sets stand one after the other, in the
 * entries' order. Where a list stands is no part of the content. */
typedef struct cls_content {
    const pal_rule *rules;
    const uint32_t *refs;
    uint32_t n;
} cls_content;
cls_content cls_content_of(const cls_rules *r);
/* Equal content has equal hashes. The entries are valid. */
uint64_t cls_content_hash(const pal_cls *c, const cls_content *a, uint32_t n_refs);
void cls_content_copy(pal_cls *c, cls_rules *r, const cls_content *from, uint64_t hash);
/* The content of r with the entry `at` left out (drop), and `rule` in its place or before it. */
void cls_content_splice(pal_cls *c, cls_rules *q, const cls_rules *r, uint32_t at, bool drop, const pal_rule *rule, const uint32_t *refs);
void cls_content_free(pal_cls *c, cls_rules *r);
cls_rules *cls_ruleset_equal(pal_cls *c, const cls_content *a, uint32_t n_refs, uint64_t hash);
void cls_ruleset_list(pal_cls *c, cls_rules *r);

/* ---- positions (classifier_place.c) ---- */
enum cls_looks { CLS_LOOKS_BOTH, CLS_LOOKS_SRC, CLS_LOOKS_DST, CLS_LOOKS_NEITHER, CLS_LOOKS }; /* which addresses an entry looks at */

PAL_INLINE enum cls_looks cls_looks_of(const pal_rule *e) { return e->src_n ? (e->dst_n ? CLS_LOOKS_BOTH : CLS_LOOKS_SRC) : e->dst_n ? CLS_LOOKS_DST : CLS_LOOKS_NEITHER; }
/* Gives each entry a bit. A block holds entries of one kind only, ascending. ref[i]: index in `use` of set_ref[i]. r->n_cells
 * not 0: entries that look at no address get none. */
/* pub->early, of entry_at. */
void cls_early_make(pal_cls *c, pal_ruleset *pub);
size_t cls_early_bytes(const pal_ruleset *pub);
int cls_positions_assign(pal_cls *c, cls_rules *r, const uint32_t *ref, uint32_t *position);

#endif
