/* SPDX-License-Identifier: Apache-2.0
 *
 * fragment_account.h - who holds how many datagrams and blocks: each side of a filter, each prefix of others, each source.
 * Exact, and found in one step however many there are. Included by fragment.h.
 */
#ifndef PAL_CORE_FRAGMENT_ACCOUNT_H
#define PAL_CORE_FRAGMENT_ACCOUNT_H

static inline void frag_account_key(frag_account *a, const frag_datagram *d, uint32_t scope)
{
    *a = (frag_account){.filter = d->filter, .side = d->side, .scope = (uint8_t)scope, .family = scope == FRAG_SIDE ? 0 : d->family};
    if (scope == FRAG_PREFIX)
        prefix_of(a->addr, d->src, d->family);
    else if (scope == FRAG_SOURCE)
        memcpy(a->addr, d->src, 16);
}

static inline uint16_t *frag_account_bucket(frag_table *f, const frag_account *a, const uint64_t seed[HASH_KEY_WORDS])
{
    uint64_t m[4] = {load_u64(a->addr), load_u64(a->addr + 8),
                     (uint64_t)a->filter | (uint64_t)a->family << 16 | (uint64_t)a->side << 24 | (uint64_t)a->scope << 32, 0};
    return &f->account_bucket[hash_words4(m, seed) % FRAG_BUCKETS];
}

static inline uint16_t frag_account_find(frag_table *f, const frag_account *key, const uint64_t seed[HASH_KEY_WORDS])
{
    uint16_t i = *frag_account_bucket(f, key, seed);
    while (i != FRAG_NONE && memcmp(&f->account[i], key, offsetof(frag_account, spare)) != 0)
        i = f->account[i].next;
    return i;
}

static inline uint32_t frag_account_limit(const pal_limits *l, const frag_account *a, bool tap)
{
    return a->scope == FRAG_SIDE ? limit_of(l->fragments, tap, a->side) : a->scope == FRAG_PREFIX ? l->fragments_prefix : l->fragments_source;
}

/* Is there room for `blocks` more on all accounts of a datagram that is held already? */
static inline bool frag_accounts_have(const frag_table *f, const frag_datagram *d, const pal_limits *l, uint32_t blocks)
{
    for (uint32_t scope = 0; scope < FRAG_SCOPES; scope++) {
        if (d->account[scope] == FRAG_NONE)
            continue;
        const frag_account *a = &f->account[d->account[scope]];
        if (a->blocks + blocks > frag_account_limit(l, a, d->tap) * FRAG_SHARE)
            return false;
    }
    return true;
}

/* Is there room for one more datagram, of `blocks` so far, on the accounts that it would be on? */
static inline bool frag_accounts_would(frag_table *f, const frag_datagram *d, const pal_limits *l, uint32_t blocks,
                                       const uint64_t seed[HASH_KEY_WORDS])
{
    for (uint32_t scope = 0; scope < FRAG_SCOPES; scope++) {
        frag_account key;
        if (scope == FRAG_PREFIX && d->side == SIDE_OWN)
            continue;
        frag_account_key(&key, d, scope);
        uint16_t i = frag_account_find(f, &key, seed);
        uint32_t limit = frag_account_limit(l, &key, d->tap), held = i == FRAG_NONE ? 0 : f->account[i].blocks;
        if ((i != FRAG_NONE && f->account[i].datagrams >= limit) || held + blocks > limit * FRAG_SHARE)
            return false;
    }
    return true;
}

static inline void frag_accounts_open(frag_table *f, frag_datagram *d, const uint64_t seed[HASH_KEY_WORDS])
{
    for (uint32_t scope = 0; scope < FRAG_SCOPES; scope++) {
        frag_account key;
        d->account[scope] = FRAG_NONE;
        if (scope == FRAG_PREFIX && d->side == SIDE_OWN)
            continue;
        frag_account_key(&key, d, scope);
        uint16_t i = frag_account_find(f, &key, seed);
        if (i == FRAG_NONE) {
            uint16_t *bucket = frag_account_bucket(f, &key, seed);
            i = f->free_account;
            f->free_account = f->account[i].next;
            key.next = *bucket;
            f->account[i] = key;
            *bucket = i;
        }
        f->account[i].datagrams++;
        d->account[scope] = i;
    }
}

static inline void frag_accounts_close(frag_table *f, frag_datagram *d, const uint64_t seed[HASH_KEY_WORDS])
{
    for (uint32_t scope = 0; scope < FRAG_SCOPES; scope++) {
        uint16_t i = d->account[scope];
        if (i == FRAG_NONE || --f->account[i].datagrams)
            continue;
        uint16_t *at = frag_account_bucket(f, &f->account[i], seed);
        while (*at != i)
            at = &f->account[*at].next;
        *at = f->account[i].next;
        f->account[i].next = f->free_account;
        f->free_account = i;
    }
}

static inline void frag_accounts_add(frag_table *f, const frag_datagram *d, uint32_t blocks)
{
    for (uint32_t scope = 0; scope < FRAG_SCOPES; scope++)
        if (d->account[scope] != FRAG_NONE)
            f->account[d->account[scope]].blocks += blocks; /* modulo 2^32: taken away too */
}

#endif
