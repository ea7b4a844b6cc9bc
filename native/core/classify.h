/* SPDX-License-Identifier: Apache-2.0
 *
 * classify.h - first match over a rule set, a burst at a time: the look-up side of the classifier.
 *
 * An address becomes a class: the class stands for the set of address-set numbers that contain it, one map for the
 * whole host. A rule set keeps, for each class, one row as source and one as destination: which of its entries the class
 * satisfies, as a sparse bit vector. Protocol, ports, flags, family and direction become a service class with a row of
 * its own. The entries that match are the AND of three rows. The order of the bits is not the order of the entries
 * (entry_at translates), only within one 64-bit word bits rise with entries; so the answer is the least entry over the
 * first bits of the words that remain. docs/decisions/0002-classifier.md has the bounds.
 *
 * Nothing here is written by a reader. The writer is native/engine/classifier.c.
 */
#ifndef PAL_CORE_CLASSIFY_H
#define PAL_CORE_CLASSIFY_H

#include "base.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define CLS_X86 1
#else
#define CLS_X86 0
#endif

#define CLS_BURST 32
#define CLS_MAX_BURST 256

/* ---- address map ------------------------------------------------------------------------------------------
 * A slot is a class, or a reference to lines of 64 bytes in an arena. IPv4: 256 slots of 2^24 addresses in the
 * snapshot, pages of 256 slots of 2^16, then either a leaf of up to 9 intervals or a page of 256 slots of 2^8, then
 * either a leaf of up to 13 intervals or a page of 256 classes: four loads at most. IPv6: a B+tree of 13 children. */
#define CLS_NODE 0x80000000u
#define CLS_PAGE 0x40000000u
#define CLS_REF 0x3fffffffu
#define CLS_CHUNK_SHIFT 15 /* lines in a chunk of the arena: 2 MiB, a huge page where the machine gives one */
#define CLS_CHUNK_LINES (1u << CLS_CHUNK_SHIFT)
#define CLS_PAGE_LINES 16

/* Intervals of a /16: interval i begins at key[i-1]; unused keys are 0xffff and unused classes repeat the last one. */
typedef struct PAL_ALIGNED(64) cls_leaf16 {
    uint16_t key[8];
    uint32_t cls[9];
    uint32_t n; /* intervals */
    uint32_t pad[2];
} cls_leaf16;
_Static_assert(sizeof(cls_leaf16) == 64, "one line");

typedef struct PAL_ALIGNED(64) cls_leaf8 {
    uint8_t key[12];
    uint32_t cls[13];
} cls_leaf8;
_Static_assert(sizeof(cls_leaf8) == 64, "one line");

#define CLS_FAN6 13
typedef struct PAL_ALIGNED(64) cls_node6 {
    uint64_t hi[CLS_FAN6 - 1], lo[CLS_FAN6 - 1]; /* child i begins at key i - 1 */
    uint32_t child[CLS_FAN6];                    /* classes in a leaf, references above */
    uint32_t n;
} cls_node6;
_Static_assert(sizeof(cls_node6) == 256, "four lines");

/* One version of the address maps. Immutable once published. */
typedef struct pal_snap {
    uint32_t root4[256];
    uint32_t root6, depth6; /* depth 0: root6 is a class */
    uint8_t *const *chunk;  /* the arena */
    uint32_t wide;          /* the machine has the instructions of the wide variant */
} pal_snap;

/* ---- a rule set ------------------------------------------------------------------------------------------- */
/* Rows by class. */
#define CLS_TAB 256
typedef struct cls_tab {
    const uint64_t *src[CLS_TAB], *dst[CLS_TAB];
    uint32_t refs; /* versions of a rule set that share the page; the writer's */
} cls_tab;

/* A row of a small rule set (supers == 0): CLS_DENSE words, bits in the order of the entries, "any" said by ones.
 * A row of a rule set with one superblock (up to 64 words, 4,096 bits): bit mask of the words that are not zero, then
 * those words. With more superblocks: mask of the superblocks present; for each the mask of its words and the index of
 * its first word in the row; then the words. Each row has a spare word at the end. */
#define CLS_SUPER_BITS 4096
#define CLS_SUPERS_MAX 64
#define CLS_DENSE 16

/* A service class. */
typedef struct cls_service {
    const uint64_t *row;
    uint32_t first; /* the first entry of any source and any destination that matches, or PAL_NONE */
    uint32_t pad;
} cls_service;

/* Class of a port: two levels, equal pages are shared. */
typedef struct cls_ports {
    uint16_t page[256]; /* index of a page of 256 classes */
    const uint16_t *cls;
} cls_ports;

typedef struct pal_ruleset {
    const pal_rule *rules; /* the entries, in order */
    uint32_t n;
    uint32_t supers;
    const uint64_t *any_src, *any_dst; /* by superblock: words whose entries don't look at that address */
    const uint32_t *entry_at;          /* position -> entry, PAL_NONE where free */
    cls_tab *const *tab;               /* class >> 8 -> rows [grows in place, see classifier.c] */
    uint32_t joined;                   /* 1: service_of gives the service class; 0: three rows, of meta, dport and sport */
    uint32_t n_dport, n_sport;
    uint32_t n_flags;
    uint32_t verify;                   /* ports and flags are coarse: the entry itself is asked */
    const uint32_t *meta;              /* (proto, flags, family, direction) -> meta class */
    const uint32_t *service_of;        /* (meta * n_dport + dport) * n_sport + sport */
    const cls_service *service;
    const uint64_t *const *dport_row, *const *sport_row; /* only where not joined; service[] are meta's rows then */
    uint8_t proto_class[256], flag_class[256];
    cls_ports dport, sport;
    const struct pal_ruleset *later[PAL_TIERS]; /* without the tiers below t, where an entry resumes at t; else NULL */
} pal_ruleset;

/* ---- address -> class ------------------------------------------------------------------------------------- */

PAL_INLINE const void *cls_line(const pal_snap *s, uint32_t v)
{
    uint32_t r = v & CLS_REF;
    return s->chunk[r >> CLS_CHUNK_SHIFT] + (size_t)(r & (CLS_CHUNK_LINES - 1)) * 64;
}

/* How many of the ascending keys are not above x. */
PAL_INLINE uint32_t cls_rank16(const uint16_t *key, uint32_t x)
{
#if CLS_X86
    __m128i k = _mm_load_si128((const __m128i *)(const void *)key);
    __m128i v = _mm_set1_epi16((short)x);
    uint32_t m = (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi16(_mm_subs_epu16(k, v), _mm_setzero_si128()));
    return (uint32_t)__builtin_ctz(~m) >> 1;
#else
    uint32_t r = 0;
    for (uint32_t i = 0; i < 8; i++)
        r += key[i] <= x;
    return r;
#endif
}
PAL_INLINE uint32_t cls_rank8(const uint8_t *key, uint32_t x)
{
#if CLS_X86
    __m128i k = _mm_load_si128((const __m128i *)(const void *)key);
    __m128i v = _mm_set1_epi8((char)x);
    uint32_t m = (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_subs_epu8(k, v), _mm_setzero_si128()));
    return (uint32_t)__builtin_ctz(~(m & 0xfffu));
#else
    uint32_t r = 0;
    for (uint32_t i = 0; i < 12; i++)
        r += key[i] <= x;
    return r;
#endif
}

/* Classes of n <= 2 * CLS_BURST addresses, level by level so that every load of a level is under way at once. What kind
 * of slot an address meets is not predictable, so nothing branches on it: each address is appended to the list of its
 * kind by advancing the list's length or not. */
PAL_INLINE void cls_classes4(const pal_snap *s, const uint32_t *addr, uint32_t n, uint32_t *out)
{
    const uint32_t *slot[2 * CLS_BURST];
    uint8_t leaf[2 * CLS_BURST + 1], page[2 * CLS_BURST + 1];
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t *root = &s->root4[addr[i] >> 24];
        uint32_t node = 0 - (*root >> 31); /* all ones: a page; else look at line 0 and use the root's slot */
        const uint32_t *p = (const uint32_t *)cls_line(s, *root & node) + (addr[i] >> 16 & 255);
        slot[i] = node ? p : root;
        prefetch_read(slot[i]);
    }
    uint32_t leaves = 0, pages = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t v = *slot[i];
        out[i] = v;
        leaf[leaves] = page[pages] = (uint8_t)i;
        leaves += v >> 30 == 2;
        pages += v >> 30 == 3;
    }
    for (uint32_t j = 0; j < pages; j++) {
        uint32_t i = page[j];
        slot[i] = (const uint32_t *)cls_line(s, out[i]) + (addr[i] >> 8 & 255);
        prefetch_read(slot[i]);
    }
    for (uint32_t j = 0; j < leaves; j++)
        prefetch_read(cls_line(s, out[leaf[j]]));
    uint32_t leaves8 = 0, pages8 = 0;
    uint8_t leaf8[2 * CLS_BURST + 1];
    for (uint32_t j = 0; j < pages; j++) {
        uint32_t i = page[j], v = *slot[i];
        out[i] = v;
        leaf8[leaves8] = page[pages8] = (uint8_t)i; /* pages8 <= j: nothing unread is overwritten */
        leaves8 += v >> 30 == 2;
        pages8 += v >> 30 == 3;
    }
    for (uint32_t j = 0; j < leaves8; j++)
        prefetch_read(cls_line(s, out[leaf8[j]]));
    for (uint32_t j = 0; j < pages8; j++) {
        slot[page[j]] = (const uint32_t *)cls_line(s, out[page[j]]) + (addr[page[j]] & 255);
        prefetch_read(slot[page[j]]);
    }
    for (uint32_t j = 0; j < leaves; j++) {
        uint32_t i = leaf[j];
        const cls_leaf16 *l = cls_line(s, out[i]);
        out[i] = l->cls[cls_rank16(l->key, addr[i] & 0xffff)];
    }
    for (uint32_t j = 0; j < leaves8; j++) {
        uint32_t i = leaf8[j];
        const cls_leaf8 *l = cls_line(s, out[i]);
        out[i] = l->cls[cls_rank8(l->key, addr[i] & 0xff)];
    }
    for (uint32_t j = 0; j < pages8; j++)
        out[page[j]] = *slot[page[j]];
}

PAL_INLINE uint32_t cls_rank6(const cls_node6 *e, uint64_t hi, uint64_t lo)
{
    uint32_t a = 0, b = e->n - 1; /* keys a .. b-1 undecided */
    while (a < b) {
        uint32_t m = (a + b) / 2;
        if (e->hi[m] < hi || (e->hi[m] == hi && e->lo[m] <= lo))
            a = m + 1;
        else
            b = m;
    }
    return a;
}

PAL_INLINE void cls_classes6(const pal_snap *s, const uint64_t (*addr)[2], uint32_t n, uint32_t *out)
{
    for (uint32_t i = 0; i < n; i++)
        out[i] = s->root6;
    for (uint32_t d = 0; d < s->depth6; d++) {
        for (uint32_t i = 0; i < n; i++) {
            const uint8_t *e = cls_line(s, out[i]);
            for (uint32_t l = 0; l < 4; l++)
                prefetch_read(e + 64 * l);
        }
        for (uint32_t i = 0; i < n; i++) {
            const cls_node6 *e = cls_line(s, out[i]);
            out[i] = e->child[cls_rank6(e, addr[i][0], addr[i][1])];
        }
    }
}

/* ---- rows ------------------------------------------------------------------------------------------------- */

PAL_INLINE uint32_t cls_below(uint64_t mask, uint32_t bit)
{
    return (uint32_t)__builtin_popcountll(mask & ((1ull << bit) - 1));
}

/* The words of a row in one superblock. */
typedef struct cls_part {
    uint64_t mask;
    const uint64_t *word;
} cls_part;

PAL_INLINE cls_part cls_part_of(const uint64_t *row, uint32_t super)
{
    cls_part p = {0, row};
    uint64_t bit = 1ull << super;
    if (row[0] & bit) {
        uint32_t i = 1 + 2 * cls_below(row[0], super);
        p.mask = row[i];
        p.word = row + row[i + 1];
    }
    return p;
}

PAL_INLINE bool cls_verify(const pal_rule *e, const pal_key *k)
{
    return e->sport_lo <= k->sport && k->sport <= e->sport_hi && e->dport_lo <= k->dport && k->dport <= e->dport_hi &&
           (k->tcp_flags & e->tcp_mask) == e->tcp_value;
}

/* The least entry below `best` among the words of one superblock that all of s, d and v have. any_s and any_d: words
 * whose entries don't look at that address (their bits stand in no row). v, v2, v3: service rows of a rule set
 * whose services are not joined. k: the key where the entry must be asked, or NULL. */
PAL_INLINE uint32_t cls_match(const pal_ruleset *r, uint32_t super, cls_part s, cls_part d, cls_part v, cls_part v2, cls_part v3,
                              const pal_key *k, uint32_t best)
{
    uint64_t any_s = r->any_src[super], any_d = r->any_dst[super];
    uint64_t left = (s.mask | any_s) & (d.mask | any_d) & v.mask & v2.mask & v3.mask;
    while (left) {
        uint32_t w = (uint32_t)__builtin_ctzll(left);
        left &= left - 1;
        uint64_t m = v.word[cls_below(v.mask, w)];
        m &= s.word[cls_below(s.mask, w)] | (0 - (any_s >> w & 1));
        m &= d.word[cls_below(d.mask, w)] | (0 - (any_d >> w & 1));
        m &= v2.word[cls_below(v2.mask, w)] & v3.word[cls_below(v3.mask, w)];
        while (m) {
            uint32_t e = r->entry_at[(super * 64 + w) * 64 + (uint32_t)__builtin_ctzll(m)];
            if (k && !cls_verify(&r->rules[e], k)) {
                m &= m - 1;
                continue;
            }
            best = min_u32(best, e);
            break;
        }
    }
    return best;
}

PAL_INLINE uint32_t cls_port(const cls_ports *t, uint32_t port) { return t->cls[t->page[port >> 8] * 256u + (port & 255)]; }

PAL_INLINE uint32_t cls_meta(const pal_ruleset *r, const pal_key *k)
{
    uint32_t i = r->proto_class[k->proto] * r->n_flags + r->flag_class[k->tcp_flags];
    return r->meta[i * 16 + (k->family & 3u) * 4 + (k->dir & 3u)];
}

/* One superblock row as parts. */
PAL_INLINE cls_part cls_part_one(const uint64_t *row) { return (cls_part){row[0], row + 1}; }

PAL_INLINE cls_part cls_row_part(const pal_ruleset *r, const uint64_t *row, uint32_t super)
{
    return r->supers == 1 ? cls_part_one(row) : cls_part_of(row, super);
}

/* Words still to be looked at, of all keys of a sub-burst: found first and fetched, then ANDed without a branch. */
#define CLS_LEFT_MAX 256
typedef struct cls_left {
    const uint64_t *s, *d, *v;
    const uint32_t *entry; /* of the word's first bit */
    uint32_t key;
    uint32_t pad;
} cls_left;

PAL_INLINE void cls_resolve(const cls_left *left, uint32_t n, uint32_t *entry)
{
    for (uint32_t j = 0; j < n; j++) {
        const cls_left *l = &left[j];
        uint64_t m = *l->s & *l->d & *l->v;
        uint32_t e = l->entry[__builtin_ctzll(m | 1ull << 63)];
        e |= 0u - (m == 0); /* PAL_NONE */
        entry[l->key] = min_u32(entry[l->key], e);
    }
}

/* The first entry that all three dense rows have. The words are looked at without a branch, last to first. */
PAL_INLINE uint32_t cls_dense(const pal_ruleset *r, const uint64_t *s, const uint64_t *d, const uint64_t *v)
{
    uint64_t m[CLS_DENSE];
    for (uint32_t w = 0; w < CLS_DENSE; w++)
        m[w] = s[w] & d[w] & v[w];
    uint64_t lo = 0, hi = 0;
    uint32_t at_lo = 0, at_hi = 0;
    for (uint32_t w = CLS_DENSE / 2; w-- > 0;) {
        uint64_t a = m[w], b = m[w + CLS_DENSE / 2];
        at_lo = a ? w : at_lo;
        lo = a ? a : lo;
        at_hi = b ? w + CLS_DENSE / 2 : at_hi;
        hi = b ? b : hi;
    }
    uint32_t at = lo ? at_lo : at_hi;
    uint64_t bits = lo ? lo : hi;
    uint32_t e = r->entry_at[at * 64 + (uint32_t)__builtin_ctzll(bits | 1ull << 63)];
    return e | (0u - (bits == 0));
}

PAL_INLINE void cls_sub_burst(const pal_snap *snap, const pal_ruleset *r, const pal_key *keys, uint32_t n, uint32_t *entry)
{
    uint32_t cls[2 * CLS_BURST];
    uint32_t addr4[2 * CLS_BURST];
    uint32_t n6 = 0;
    for (uint32_t i = 0; i < n; i++) {
        addr4[2 * i] = load_be32(keys[i].src);
        addr4[2 * i + 1] = load_be32(keys[i].dst);
        n6 += keys[i].family != PAL_FAMILY_V4;
    }
    cls_classes4(snap, addr4, 2 * n, cls);
    if (PAL_UNLIKELY(n6)) {
        uint64_t addr6[2 * CLS_BURST][2];
        uint32_t cls6[2 * CLS_BURST], j = 0;
        for (uint32_t i = 0; i < n; i++) {
            if (keys[i].family == PAL_FAMILY_V4)
                continue;
            addr6[j][0] = be64(load_u64(keys[i].src));
            addr6[j++][1] = be64(load_u64(keys[i].src + 8));
            addr6[j][0] = be64(load_u64(keys[i].dst));
            addr6[j++][1] = be64(load_u64(keys[i].dst + 8));
        }
        cls_classes6(snap, (const uint64_t (*)[2])addr6, j, cls6);
        j = 0;
        for (uint32_t i = 0; i < n; i++)
            if (keys[i].family != PAL_FAMILY_V4) {
                cls[2 * i] = cls6[j++];
                cls[2 * i + 1] = cls6[j++];
            }
    }

    cls_tab *const *tab = __atomic_load_n(&r->tab, __ATOMIC_ACQUIRE);
    const uint64_t *const *row[2 * CLS_BURST];
    for (uint32_t i = 0; i < n; i++) {
        row[2 * i] = &tab[cls[2 * i] / CLS_TAB]->src[cls[2 * i] % CLS_TAB];
        row[2 * i + 1] = &tab[cls[2 * i + 1] / CLS_TAB]->dst[cls[2 * i + 1] % CLS_TAB];
        prefetch_read(row[2 * i]);
        prefetch_read(row[2 * i + 1]);
    }
    const cls_service *service[CLS_BURST];
    uint32_t dport[CLS_BURST], sport[CLS_BURST];
    for (uint32_t i = 0; i < n; i++) {
        const pal_key *k = &keys[i];
        uint32_t m = cls_meta(r, k), dp = cls_port(&r->dport, k->dport), sp = cls_port(&r->sport, k->sport);
        if (PAL_LIKELY(r->joined))
            m = r->service_of[(m * r->n_dport + dp) * r->n_sport + sp];
        service[i] = &r->service[m];
        dport[i] = dp;
        sport[i] = sp;
        prefetch_read(service[i]);
    }
    const uint64_t *src[CLS_BURST], *dst[CLS_BURST];
    for (uint32_t i = 0; i < n; i++) {
        src[i] = *row[2 * i];
        dst[i] = *row[2 * i + 1];
        prefetch_read(src[i]);
        prefetch_read(dst[i]);
        prefetch_read(service[i]->row);
        if (r->supers == 0) {
            prefetch_read(src[i] + 8);
            prefetch_read(dst[i] + 8);
            prefetch_read(service[i]->row + 8);
        }
    }
    if (r->supers == 0) {
        for (uint32_t i = 0; i < n; i++)
            entry[i] = min_u32(service[i]->first, cls_dense(r, src[i], dst[i], service[i]->row));
        return;
    }
    if (PAL_LIKELY(r->joined)) {
        static const uint64_t ones = ~0ull;
        cls_left left[CLS_LEFT_MAX];
        uint32_t k = 0;
        for (uint32_t i = 0; i < n; i++)
            entry[i] = service[i]->first;
        for (uint32_t b = 0; b < r->supers; b++) {
            uint64_t any_s = r->any_src[b], any_d = r->any_dst[b];
            for (uint32_t i = 0; i < n; i++) {
                cls_part ps = cls_row_part(r, src[i], b), pd = cls_row_part(r, dst[i], b);
                cls_part pv = cls_row_part(r, service[i]->row, b);
                uint64_t m = (ps.mask | any_s) & (pd.mask | any_d) & pv.mask;
                if (PAL_UNLIKELY(k > CLS_LEFT_MAX - 64)) {
                    cls_resolve(left, k, entry);
                    k = 0;
                }
                for (; m; m &= m - 1) {
                    uint32_t w = (uint32_t)__builtin_ctzll(m);
                    cls_left *l = &left[k++];
                    l->s = any_s >> w & 1 ? &ones : ps.word + cls_below(ps.mask, w);
                    l->d = any_d >> w & 1 ? &ones : pd.word + cls_below(pd.mask, w);
                    l->v = pv.word + cls_below(pv.mask, w);
                    l->entry = r->entry_at + (b * 64 + w) * 64;
                    l->key = i;
                    prefetch_read(l->s);
                    prefetch_read(l->d);
                    prefetch_read(l->v);
                }
            }
        }
        cls_resolve(left, k, entry);
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        const uint64_t *s = src[i], *d = dst[i], *v = service[i]->row;
        uint32_t best = service[i]->first;
        const pal_key *k = r->verify ? &keys[i] : NULL;
        for (uint32_t b = 0; b < r->supers; b++) {
            cls_part ps = cls_row_part(r, s, b), pd = cls_row_part(r, d, b), pv = cls_row_part(r, v, b);
            cls_part v2 = cls_row_part(r, r->dport_row[dport[i]], b), v3 = cls_row_part(r, r->sport_row[sport[i]], b);
            best = cls_match(r, b, ps, pd, pv, v2, v3, k, best);
        }
        entry[i] = best;
    }
}

PAL_INLINE void cls_burst_body(const pal_snap *snap, const pal_ruleset *r, const pal_key *keys, uint32_t n, uint32_t *entry)
{
    for (uint32_t i = 0; i < n; i += CLS_BURST)
        cls_sub_burst(snap, r, keys + i, min_u32(n - i, CLS_BURST), entry + i);
}

static __attribute__((noinline, unused)) void classify_burst_plain(const pal_snap *snap, const pal_ruleset *r,
                                                                   const pal_key *keys, uint32_t n, uint32_t *entry)
{
    cls_burst_body(snap, r, keys, n, entry);
}

#if CLS_X86
/* The same with bit counting in hardware, which the x86-64 baseline lacks. */
static __attribute__((noinline, unused, target("popcnt,bmi,bmi2,avx2"))) void
classify_burst_wide(const pal_snap *snap, const pal_ruleset *r, const pal_key *keys, uint32_t n, uint32_t *entry)
{
    cls_burst_body(snap, r, keys, n, entry);
}
#endif

/* entry[i] = index of the first entry of r that matches keys[i], or PAL_NONE. The snapshot and the rule set must both
 * have been obtained since the calling thread's last quiescent point. */
static inline void classify_burst(const pal_snap *snap, const pal_ruleset *r, const pal_key *keys, uint32_t n,
                                  uint32_t *entry)
{
#if CLS_X86
    if (PAL_LIKELY(snap->wide)) {
        classify_burst_wide(snap, r, keys, n, entry);
        return;
    }
#endif
    classify_burst_plain(snap, r, keys, n, entry);
}

static inline uint32_t classify_one(const pal_snap *snap, const pal_ruleset *r, const pal_key *key)
{
    uint32_t e;
    classify_burst(snap, r, key, 1, &e);
    return e;
}

#endif
