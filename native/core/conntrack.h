/* SPDX-License-Identifier: Apache-2.0
 *
 * conntrack.h - the connection table of one worker: look up, create, end.
 *
 * Index: 64-byte buckets of 12 (tag, reference) pairs, one line for most look-ups. A bucket that is full sends what
 * comes to the next one and counts it in `overflow`, so that a look-up goes on exactly while it must, at most
 * CT_PROBES buckets. Capacity is chosen so that buckets are 2/3 full when the table is (engine.c), and the hash is
 * keyed, so that nobody outside can aim at a bucket.
 */
#ifndef PAL_CORE_CONNTRACK_H
#define PAL_CORE_CONNTRACK_H

#include "connection.h"
#include "limit.h"
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define TICK_NS 10000000u /* every timer counts in these */
#define CT_SLOTS 12
#define CT_PROBES 16
#define CT_REPLY_TUPLE 0x80000000u /* in an index entry: the key is the connection's second (nat.h). References end at 2^31 - 2 */
#define CT_EXPIRE_FULL 4096 /* steps that a packet may spend on finding room in a full table */
#define CT_EXPIRE_STEPS 2   /* steps that every packet spends on expiry; what stays behind costs nothing but room */
#define CT_LAG_MAX (1u << 26)  /* ticks (8 days) that expiry may lag behind the clock */
#define CT_JUMP_MAX (1u << 29) /* ticks (62 days) that the clock may go on in one step: above the longest timer */
#define CT_WAYS 2 /* address families, each with its own free list and list of unanswered connections */

typedef struct ct_bucket {
    uint8_t tag[CT_SLOTS]; /* 0: empty */
    uint16_t overflow;     /* connections that belong here and stand in a later bucket */
    uint16_t reserved;
    uint32_t ref[CT_SLOTS];
} ct_bucket;

_Static_assert(sizeof(ct_bucket) == 64, "one line a look-up");

/* Bytes a connection: its entry, and its part of the index, a bucket for every CT_A_BUCKET of its tuples (table.c). */
#define CT_A_BUCKET 8
#define CT_BYTES4 (sizeof(ct_hot) + sizeof(ct_cold) + sizeof(ct_bucket) / CT_A_BUCKET)
#define CT_BYTES_NAT (sizeof(ct_nat) + sizeof(ct_bucket) / CT_A_BUCKET)
_Static_assert(CT_BYTES4 <= 128 && CT_BYTES4 + sizeof(ct_addr6) <= 160, "IPv4, IPv6");
_Static_assert(CT_BYTES4 + CT_BYTES_NAT <= 192 && CT_BYTES4 + CT_BYTES_NAT + 2 * sizeof(ct_addr6) <= 256, "with two tuples");

#define WHEEL_LEVELS 4
#define WHEEL_SLOTS 256
#define WHEEL_HEAD 0x80000000u

/* What must survive the process beside the entries; stands at the start of the mapped table. */
typedef struct ct_state_block {
    uint64_t seed[HASH_KEY_WORDS]; /* [I] */
    uint64_t now;                  /* [W] tick, never goes back */
    uint64_t wheel_at;             /* [W] wheel position, a tick: all before it is done */
    uint64_t created;              /* [W] connections ever made */
    uint64_t resync_until;         /* [W] tick; 0: no connection in RESYNC was met yet (resync.h) */
    uint32_t free_head[CT_WAYS];   /* [W] linked through cold.wheel_next */
    uint32_t free_count[CT_WAYS];
    uint32_t fresh[CT_WAYS];       /* [W] entries below this number have been used once */
    uint32_t used[CT_WAYS];
    uint32_t oldest[CT_WAYS];      /* [W] unanswered connections, by time of creation */
    uint32_t newest[CT_WAYS];
    uint32_t wheel_head[WHEEL_LEVELS][WHEEL_SLOTS];
    uint64_t wheel_map[WHEEL_LEVELS][WHEEL_SLOTS / 64];
} ct_state_block;

typedef struct half_open_table half_open_table;
typedef struct flood_count flood_count;

/* A process's view of the table: pointers into the mapping, never stored in it. */
typedef struct ct_table {
    ct_hot *hot;
    ct_cold *cold;
    ct_addr6 *addr6;     /* indexed by reference - cap4 */
    ct_bucket *bucket;
    ct_flow *flow;       /* NULL unless flow records are wanted */
    ct_nat *nat;         /* NULL unless connections may be translated (nat.h) */
    ct_addr6 *nat6;      /* then: indexed as addr6 */
    half_open_table *half_open; /* NULL: unanswered connections have no budgets */
    flood_count *flood;         /* by incarnation of the filter (flood.h) */
    ct_state_block *s;
    uint32_t buckets, cap4, cap6;
    void (*ended)(void *context, uint32_t ref, enum ct_end why); /* called before an entry is freed; may be NULL */
    void *context;
    void (*gone)(void *context, uint32_t ref); /* a connection with ALG expectations ends; may be NULL */
} ct_table;

PAL_INLINE uint32_t ct_way(const ct_table *t, uint32_t ref) { return ref >= t->cap4; }
PAL_INLINE uint8_t hash_tag(uint64_t h) { return (uint8_t)((h & 0xff) ? (h & 0xff) : 1); }
PAL_INLINE uint32_t hash_bucket(const ct_table *t, uint64_t h) { return (uint32_t)(((h >> 32) * t->buckets) >> 32); }

/* Bit i is set where slot i holds the tag. */
PAL_INLINE uint32_t bucket_match(const ct_bucket *b, uint8_t tag)
{
#ifdef __SSE2__
    __m128i tags = _mm_load_si128((const __m128i *)(const void *)b);
    return (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(tags, _mm_set1_epi8((char)tag))) & ((1u << CT_SLOTS) - 1);
#else
    uint32_t m = 0;
    for (uint32_t i = 0; i < CT_SLOTS; i++)
        m |= (uint32_t)(b->tag[i] == tag) << i;
    return m;
#endif
}

PAL_INLINE uint32_t bucket_next(const ct_table *t, uint32_t i) { return i + 1 == t->buckets ? 0 : i + 1; }

/* What ct_hot.addr holds for this key. */
PAL_INLINE uint64_t key_addr_word(const ct_key *k, uint64_t hash)
{
    if (PAL_LIKELY(k->family == PAL_FAMILY_V4))
        return k->addr[0];
    return hash;
}

/* The whole key is compared, IPv6 addresses in their own line. */
PAL_INLINE bool ct_is(const ct_table *t, uint32_t ref, const ct_key *k, uint64_t addr_word)
{
    const ct_hot *h = &t->hot[ref];
    if (load_u64(h->addr) != addr_word || load_u64(h->port) != k->ports_zone || (h->marks & CT_KIND_MASK) != k->kind)
        return false;
    bool v4 = k->family == PAL_FAMILY_V4;
    if (v4 != (ref < t->cap4))
        return false;
    return PAL_LIKELY(v4) || memcmp(t->addr6[ref - t->cap4].addr, k->addr, 32) == 0;
}

static inline bool nat_is(const ct_table *t, uint32_t ref, const ct_key *k);

/* The index entry of the connection with this key, or PAL_NONE. */
PAL_OUTLINE uint32_t index_find(const ct_table *t, const ct_key *k, uint64_t hash)
{
    uint8_t tag = hash_tag(hash);
    uint64_t addr_word = key_addr_word(k, hash);
    uint32_t i = hash_bucket(t, hash);
    for (uint32_t probe = 0; probe < CT_PROBES; probe++, i = bucket_next(t, i)) {
        const ct_bucket *b = &t->bucket[i];
        for (uint32_t m = bucket_match(b, tag); m; m &= m - 1) {
            uint32_t entry = b->ref[__builtin_ctz(m)];
            if (PAL_UNLIKELY(entry & CT_REPLY_TUPLE) ? nat_is(t, entry & ~CT_REPLY_TUPLE, k) : ct_is(t, entry, k, addr_word))
                return entry;
        }
        if (PAL_LIKELY(b->overflow == 0))
            break;
    }
    return PAL_NONE;
}

/* The reference of the connection with this key, by either of its tuples, deadline not looked at, or PAL_NONE. */
PAL_INLINE uint32_t ct_find(const ct_table *t, const ct_key *k, uint64_t hash)
{
    uint32_t entry = index_find(t, k, hash);
    return PAL_UNLIKELY(entry == PAL_NONE) ? PAL_NONE : entry & ~CT_REPLY_TUPLE;
}

static inline bool index_insert(ct_table *t, uint64_t hash, uint32_t ref)
{
    uint32_t home = hash_bucket(t, hash), i = home;
    for (uint32_t probe = 0; probe < CT_PROBES; probe++, i = bucket_next(t, i)) {
        ct_bucket *b = &t->bucket[i];
        uint32_t empty = bucket_match(b, 0);
        if (!empty)
            continue;
        uint32_t slot = (uint32_t)__builtin_ctz(empty);
        b->tag[slot] = hash_tag(hash);
        b->ref[slot] = ref;
        for (; home != i; home = bucket_next(t, home))
            t->bucket[home].overflow++;
        return true;
    }
    return false;
}

static inline void index_remove(ct_table *t, uint64_t hash, uint32_t ref)
{
    uint32_t home = hash_bucket(t, hash), i = home;
    uint8_t tag = hash_tag(hash);
    for (uint32_t probe = 0; probe < CT_PROBES; probe++, i = bucket_next(t, i)) {
        ct_bucket *b = &t->bucket[i];
        for (uint32_t m = bucket_match(b, tag); m; m &= m - 1) {
            uint32_t slot = (uint32_t)__builtin_ctz(m);
            if (b->ref[slot] != ref)
                continue;
            b->tag[slot] = 0;
            for (; home != i; home = bucket_next(t, home))
                t->bucket[home].overflow--;
            return;
        }
    }
}

/* The key of a connection, as if made by a packet in its original direction. */
static inline void ct_key_of(const ct_table *t, uint32_t ref, ct_key *k)
{
    const ct_hot *h = &t->hot[ref];
    bool v4 = ref < t->cap4;
    memset(k, 0, sizeof *k);
    if (v4)
        k->addr[0] = load_u64(h->addr);
    else
        memcpy(k->addr, t->addr6[ref - t->cap4].addr, 32);
    k->ports_zone = load_u64(h->port);
    k->tail = bytes_u64(ct_kind_of(h), v4 ? PAL_FAMILY_V4 : PAL_FAMILY_V6, (h->marks & CT_ORIG_HIGH) != 0, 0);
}

#include "nat.h"

/* As ct_find; *dir: whether a packet with this key runs in the original direction, 0, or the other, if there is a connection. */
PAL_INLINE uint32_t ct_find_direction(const ct_table *t, const ct_key *k, uint64_t hash, uint32_t *dir)
{
    uint32_t entry = index_find(t, k, hash);
    if (entry == PAL_NONE)
        return PAL_NONE;
    uint32_t ref = entry & ~CT_REPLY_TUPLE;
    *dir = PAL_UNLIKELY(entry != ref) ? nat_direction(t, ref, k) : ct_direction(&t->hot[ref], k);
    return ref;
}

/* ---- unanswered connections, oldest first ---------------------------------------------------------------- */

static inline void unanswered_append(ct_table *t, uint32_t ref)
{
    uint32_t w = ct_way(t, ref), last = t->s->newest[w];
    t->cold[ref].link[0] = last;
    t->cold[ref].link[1] = PAL_NONE;
    if (last == PAL_NONE)
        t->s->oldest[w] = ref;
    else
        t->cold[last].link[1] = ref;
    t->s->newest[w] = ref;
}

static inline void unanswered_remove(ct_table *t, uint32_t ref)
{
    uint32_t w = ct_way(t, ref), older = t->cold[ref].link[0], newer = t->cold[ref].link[1];
    if (older == PAL_NONE)
        t->s->oldest[w] = newer;
    else
        t->cold[older].link[1] = newer;
    if (newer == PAL_NONE)
        t->s->newest[w] = older;
    else
        t->cold[newer].link[0] = older;
}

PAL_INLINE bool ct_is_listed(const ct_hot *h) { return !(h->marks & (CT_REPLIED | CT_CHILD)); }

PAL_OUTLINE void ct_end(ct_table *t, uint32_t ref, enum ct_end why);
PAL_OUTLINE void ct_expire(ct_table *t, uint32_t budget);

#include "wheel.h"
#include "half_open.h"
#include "flood.h"

/* ---- the end of a connection ----------------------------------------------------------------------------- */

PAL_OUTLINE void ct_end(ct_table *t, uint32_t ref, enum ct_end why)
{
    ct_hot *h = &t->hot[ref];
    ct_key k;
    ct_key_of(t, ref, &k);
    if (t->ended)
        t->ended(t->context, ref, why);
    if ((h->marks & CT_ALG) && t->gone)
        t->gone(t->context, ref);
    if (ct_is_listed(h))
        unanswered_remove(t, ref);
    if (PAL_UNLIKELY(t->half_open != NULL) && !(h->marks & CT_REPLIED))
        half_open_leave(t, ref);
    flood_leave(t, ref);
    wheel_remove(t, ref);
    index_remove(t, key_hash(&k, t->s->seed), ref);
    if (PAL_UNLIKELY(t->nat != NULL))
        nat_end(t, ref);
    h->state = CT_FREE;
    h->zone = 0;
    uint32_t w = ct_way(t, ref);
    t->cold[ref].generation++;
    t->cold[ref].wheel_next = t->s->free_head[w];
    t->s->free_head[w] = ref;
    t->s->free_count[w]++;
    t->s->used[w]--;
}

/* Whoever clears away after `ref` will need these lines: its neighbour's in the slot, and the index line of the neighbour
 * before, whose key has arrived by then. Hints. */
PAL_INLINE void expire_prefetch(const ct_table *t, uint32_t ref)
{
    uint32_t next = t->cold[ref].wheel_next;
    if (next == PAL_NONE)
        return;
    ct_key k;
    ct_key_of(t, next, &k);
    prefetch_write(&t->bucket[hash_bucket(t, key_hash(&k, t->s->seed))]);
    uint32_t after = t->cold[next].wheel_next;
    if (after == PAL_NONE)
        return;
    prefetch_write(&t->hot[after]);
    prefetch_write(&t->cold[after]);
}

/* Ends what is past its deadline, at most `budget` steps of work: called for every packet, so that no packet pays
 * for more than a bounded number of others. */
PAL_OUTLINE void ct_expire(ct_table *t, uint32_t budget)
{
    while (budget--) {
        uint32_t ref = wheel_due(t);
        if (PAL_LIKELY(ref == PAL_NONE))
            return;
        expire_prefetch(t, ref);
        if (wheel_is_past(t, t->hot[ref].deadline))
            ct_end(t, ref, CT_END_TIMEOUT);
        else
            wheel_move(t, ref);
    }
}

/* A clock that leaps by days (captures do; live ones don't): all that has run out is ended before deadlines, kept modulo
 * 2^32, could be taken for later ones. */
PAL_OUTLINE void ct_catch_up(ct_table *t)
{
    while (t->s->wheel_at < t->s->now)
        ct_expire(t, CT_EXPIRE_FULL);
}

/* An entry for a new connection of the given way, or PAL_NONE when all are answered and alive. What has expired goes
 * first, then the oldest that nobody answered. */
static inline uint32_t ct_take(ct_table *t, uint32_t way)
{
    ct_state_block *s = t->s;
    if (PAL_UNLIKELY(s->free_count[way] == 0 && s->fresh[way] == (way ? t->cap6 : t->cap4))) {
        for (uint32_t step = 0; step < CT_EXPIRE_FULL && s->free_count[way] == 0 && s->wheel_at < s->now; step++)
            ct_expire(t, 1);
        if (s->free_count[way] == 0) {
            uint32_t oldest = s->oldest[way];
            if (oldest == PAL_NONE)
                return PAL_NONE;
            ct_end(t, oldest, wheel_is_past(t, t->hot[oldest].deadline) ? CT_END_TIMEOUT : CT_END_EVICTED);
        }
    }
    uint32_t ref;
    if (s->free_count[way]) {
        ref = s->free_head[way];
        s->free_head[way] = t->cold[ref].wheel_next;
        s->free_count[way]--;
    } else {
        ref = s->fresh[way]++ + (way ? t->cap4 : 0);
    }
    s->used[way]++;
    return ref;
}

/* A new connection for the packet that made key `k`: indexed, unanswered (or a child). The caller fills in what the
 * protocol needs, and the deadline, and puts it into the wheel. PAL_NONE when there is no room. */
static inline uint32_t ct_create(ct_table *t, const ct_key *k, uint64_t hash, bool child)
{
    uint32_t way = k->family != PAL_FAMILY_V4;
    uint32_t ref = ct_take(t, way);
    if (ref == PAL_NONE)
        return PAL_NONE;
    if (!index_insert(t, hash, ref)) {
        t->cold[ref].wheel_next = t->s->free_head[way];
        t->s->free_head[way] = ref;
        t->s->free_count[way]++;
        t->s->used[way]--;
        return PAL_NONE;
    }
    ct_hot *h = &t->hot[ref];
    ct_cold *c = &t->cold[ref];
    uint64_t addr_word = key_addr_word(k, hash);
    memset(h, 0, sizeof *h);
    memcpy(h->addr, &addr_word, 8);
    memcpy(h->port, k->port, sizeof h->port);
    h->zone = k->zone;
    h->marks = (uint8_t)(k->kind | (k->high ? CT_ORIG_HIGH : 0) | (child ? CT_CHILD : 0));
    if (way)
        memcpy(t->addr6[ref - t->cap4].addr, k->addr, 32);
    if (PAL_UNLIKELY(t->nat != NULL)) /* a damaged file may have left something there */
        t->nat[ref].marks = 0;
    uint32_t generation = c->generation + 1;
    memset(c, 0, sizeof *c);
    c->generation = generation;
    c->offered = 0xff;
    if (!child)
        unanswered_append(t, ref);
    t->s->created++;
    return ref;
}

/* ---- counters -------------------------------------------------------------------------------------------- */

PAL_INLINE void ct_count(ct_table *t, uint32_t ref, uint32_t dir, uint32_t packets, uint32_t bytes)
{
    ct_hot *h = &t->hot[ref];
    uint32_t p = h->packets[dir] + packets;
    uint64_t b = (uint64_t)h->bytes[dir] + bytes;
    if (PAL_UNLIKELY((p | b >> 16) >> 15)) { /* half full: carry the upper part over to the cold line */
        t->cold[ref].spill_packets[dir] += p >> 15;
        t->cold[ref].spill_bytes[dir] += (uint32_t)(b >> 31);
        p &= 0x7fff;
        b &= 0x7fffffff;
    }
    h->packets[dir] = (uint16_t)p;
    h->bytes[dir] = (uint32_t)b;
}

/* Before a reply its counters' words link the connection into its account (half_open.h). */
PAL_INLINE bool ct_counts(const ct_table *t, uint32_t ref, uint32_t dir) { return dir == 0 || (t->hot[ref].marks & CT_REPLIED); }
PAL_INLINE uint64_t ct_packets(const ct_table *t, uint32_t ref, uint32_t dir)
{
    if (!ct_counts(t, ref, dir))
        return 0;
    return t->hot[ref].packets[dir] + ((uint64_t)t->cold[ref].spill_packets[dir] << 15);
}
PAL_INLINE uint64_t ct_bytes(const ct_table *t, uint32_t ref, uint32_t dir)
{
    if (!ct_counts(t, ref, dir))
        return 0;
    return t->hot[ref].bytes[dir] + ((uint64_t)t->cold[ref].spill_bytes[dir] << 31);
}

#endif
