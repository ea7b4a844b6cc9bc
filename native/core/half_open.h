/* SPDX-License-Identifier: Apache-2.0
 *
 * half_open.h - budgets of unanswered connections: for each filter one of its own workload, one of others, and in the
 * latter one for each source prefix. Under pressure the oldest unanswered connection of the same budget goes; when others'
 * is used up, their prefixes lose one each in turn. Included by conntrack.h.
 *
 * An account is exact and lives while it has connections. When all records are taken, what comes from a new prefix is put
 * on the filter's common account. Connections of an account are linked by words that count nothing before a reply.
 */
#ifndef PAL_CORE_HALF_OPEN_H
#define PAL_CORE_HALF_OPEN_H

typedef struct half_open_account {
    uint8_t prefix[16];
    uint32_t filter;
    uint8_t family, side;
    uint16_t reserved;
    uint32_t count;                /* unanswered connections, ALGs' children included */
    uint32_t oldest, newest;       /* of those that may be given up */
    uint32_t next;                 /* same bucket; free records */
    uint32_t ring_next, ring_prev; /* prefixes of this filter that have one to give up, in turn */
} half_open_account;

typedef struct half_open_others {
    uint32_t count;
    uint32_t first, last; /* whose turn it is, and who was last */
} half_open_others;

struct half_open_table {
    const pal_limits *limits;
    half_open_account *account; /* own and common one of each filter, then `records` for prefixes */
    half_open_others *others;   /* by filter */
    uint32_t *bucket;           /* `records` of them */
    uint32_t filters, records;
    uint32_t free;
};

/* Whose budget a new connection needs. */
typedef struct half_open_claim {
    uint8_t prefix[16];
    uint32_t filter;
    uint8_t family, side;
    bool tap;
} half_open_claim;

static inline void half_open_init(half_open_table *o)
{
    uint32_t fixed = o->filters * 2, total = fixed + o->records;
    memset(o->account, 0, (size_t)total * sizeof *o->account);
    memset(o->bucket, 0xff, (size_t)o->records * sizeof *o->bucket);
    for (uint32_t i = 0; i < total; i++) {
        half_open_account *a = &o->account[i];
        a->oldest = a->newest = a->ring_next = a->ring_prev = PAL_NONE;
        a->next = i >= fixed && i + 1 < total ? i + 1 : PAL_NONE;
        a->filter = i / 2;
        a->side = i % 2 ? SIDE_OTHERS : SIDE_OWN;
    }
    for (uint32_t i = 0; i < o->filters; i++)
        o->others[i] = (half_open_others){.first = PAL_NONE, .last = PAL_NONE};
    o->free = fixed;
}

static inline uint32_t *half_open_bucket(const half_open_table *o, const uint8_t prefix[16], uint32_t filter, uint8_t family,
                                         const uint64_t seed[HASH_KEY_WORDS])
{
    uint64_t m[4] = {load_u64(prefix), load_u64(prefix + 8), filter, family};
    return &o->bucket[hash_words4(m, seed) % o->records];
}

/* The account that a claim falls to; PAL_NONE: a fresh one. */
static inline uint32_t half_open_find(const half_open_table *o, const half_open_claim *c, const uint64_t seed[HASH_KEY_WORDS])
{
    if (c->side == SIDE_OWN)
        return c->filter * 2;
    uint32_t i = *half_open_bucket(o, c->prefix, c->filter, c->family, seed);
    for (; i != PAL_NONE; i = o->account[i].next) {
        const half_open_account *a = &o->account[i];
        if (a->filter == c->filter && a->family == c->family && memcmp(a->prefix, c->prefix, 16) == 0)
            return i;
    }
    return o->free == PAL_NONE ? c->filter * 2 + 1 : PAL_NONE;
}

static inline uint32_t half_open_take(half_open_table *o, const half_open_claim *c, const uint64_t seed[HASH_KEY_WORDS])
{
    uint32_t i = half_open_find(o, c, seed);
    if (i != PAL_NONE)
        return i;
    i = o->free;
    half_open_account *a = &o->account[i];
    o->free = a->next;
    uint32_t *bucket = half_open_bucket(o, c->prefix, c->filter, c->family, seed);
    *a = (half_open_account){.filter = c->filter, .family = c->family, .side = SIDE_OTHERS, .oldest = PAL_NONE, .newest = PAL_NONE,
                             .next = *bucket, .ring_next = PAL_NONE, .ring_prev = PAL_NONE};
    memcpy(a->prefix, c->prefix, 16);
    *bucket = i;
    return i;
}

static inline void half_open_give_back(half_open_table *o, uint32_t i, const uint64_t seed[HASH_KEY_WORDS])
{
    half_open_account *a = &o->account[i];
    uint32_t *at = half_open_bucket(o, a->prefix, a->filter, a->family, seed);
    while (*at != i)
        at = &o->account[*at].next;
    *at = a->next;
    a->next = o->free;
    o->free = i;
}

static inline void ring_append(half_open_table *o, uint32_t i)
{
    half_open_account *a = &o->account[i];
    half_open_others *x = &o->others[a->filter];
    a->ring_prev = x->last;
    a->ring_next = PAL_NONE;
    if (x->last == PAL_NONE)
        x->first = i;
    else
        o->account[x->last].ring_next = i;
    x->last = i;
}

static inline void ring_remove(half_open_table *o, uint32_t i)
{
    half_open_account *a = &o->account[i];
    half_open_others *x = &o->others[a->filter];
    if (a->ring_prev == PAL_NONE)
        x->first = a->ring_next;
    else
        o->account[a->ring_prev].ring_next = a->ring_next;
    if (a->ring_next == PAL_NONE)
        x->last = a->ring_prev;
    else
        o->account[a->ring_next].ring_prev = a->ring_prev;
    a->ring_next = a->ring_prev = PAL_NONE;
}

/* ---- a connection's own words: they count the reply direction once there is one ---------------------------------- */

PAL_INLINE uint32_t *account_of(ct_hot *h) { return &h->bytes[1]; }         /* 1 + account, 0: on none */
PAL_INLINE uint32_t *account_older(ct_cold *c) { return &c->spill_packets[1]; }
PAL_INLINE uint32_t *account_newer(ct_cold *c) { return &c->spill_bytes[1]; }

/* A new connection is put on its account. */
static inline void half_open_enter(ct_table *t, uint32_t ref, const half_open_claim *claim)
{
    half_open_table *o = t->half_open;
    uint32_t i = half_open_take(o, claim, t->s->seed);
    half_open_account *a = &o->account[i];
    *account_of(&t->hot[ref]) = i + 1;
    a->count++;
    if (a->side == SIDE_OTHERS)
        o->others[a->filter].count++;
    if (t->hot[ref].marks & CT_CHILD)
        return;
    *account_older(&t->cold[ref]) = a->newest;
    *account_newer(&t->cold[ref]) = PAL_NONE;
    if (a->newest == PAL_NONE) {
        a->oldest = ref;
        if (a->side == SIDE_OTHERS)
            ring_append(o, i);
    } else {
        *account_newer(&t->cold[a->newest]) = ref;
    }
    a->newest = ref;
}

/* The connection is answered, or ends unanswered. */
static inline void half_open_leave(ct_table *t, uint32_t ref)
{
    half_open_table *o = t->half_open;
    ct_cold *c = &t->cold[ref];
    uint32_t i = *account_of(&t->hot[ref]);
    if (i-- == 0)
        return;
    half_open_account *a = &o->account[i];
    *account_of(&t->hot[ref]) = 0;
    if (!(t->hot[ref].marks & CT_CHILD)) {
        uint32_t older = *account_older(c), newer = *account_newer(c);
        *account_older(c) = *account_newer(c) = 0;
        *(older == PAL_NONE ? &a->oldest : account_newer(&t->cold[older])) = newer;
        *(newer == PAL_NONE ? &a->newest : account_older(&t->cold[newer])) = older;
        if (a->oldest == PAL_NONE && a->side == SIDE_OTHERS)
            ring_remove(o, i);
    }
    a->count--;
    if (a->side == SIDE_OTHERS)
        o->others[a->filter].count--;
    if (a->count == 0 && i >= o->filters * 2)
        half_open_give_back(o, i, t->s->seed);
}

/* Makes room in a new connection's budgets; false when they are used up by what may not be given up. */
PAL_OUTLINE bool half_open_room(ct_table *t, const half_open_claim *c)
{
    half_open_table *o = t->half_open;
    ct_expire(t, CT_EXPIRE_FULL); /* what has run out counts for nothing, and holds no place in a ring */
    uint32_t i = half_open_find(o, c, t->s->seed), side = limit_of(o->limits->half_open, c->tap, c->side);
    uint32_t limit = c->side == SIDE_OWN ? side : o->limits->half_open_prefix;
    if (limit && i != PAL_NONE && o->account[i].count >= limit) {
        if (o->account[i].oldest == PAL_NONE)
            return false;
        ct_end(t, o->account[i].oldest, CT_END_EVICTED);
    }
    if (c->side == SIDE_OTHERS && side && o->others[c->filter].count >= side) {
        uint32_t turn = o->others[c->filter].first;
        if (turn == PAL_NONE)
            return false;
        ring_remove(o, turn);
        ring_append(o, turn);
        ct_end(t, o->account[turn].oldest, CT_END_EVICTED);
    }
    return true;
}

#endif
