/* SPDX-License-Identifier: Apache-2.0
 *
 * fragment.h - holding fragments until their datagram is whole (docs/packet-path.md, section 3; RFC 791, 5722, 8200).
 *
 * Everything is bounded and allocated beforehand: datagrams, fragments for each, blocks of payload. A datagram with an
 * overlap is dead: it gives its blocks back and stays, refusing what still comes, until its deadline.
 */
#ifndef PAL_CORE_FRAGMENT_H
#define PAL_CORE_FRAGMENT_H

#include "checksum.h"
#include "hash.h"
#include "limit.h"

#define FRAG_DATAGRAMS 1024
#define FRAG_PER_DATAGRAM 64
#define FRAG_BLOCK 256
#define FRAG_BLOCKS 16384
#define FRAG_SHARE 32 /* blocks that a budget has for each of its datagrams: 8 KB */
#define FRAG_TICKS 3000 /* 30 s */
#define FRAG_HEADER 360 /* link header with tags (22), IPv6 header and 256 bytes of extensions, fragment header */
#define FRAG_BUCKETS 1024
#define FRAG_NONE 0xffffu

typedef struct frag_piece {
    uint64_t cookie;  /* the caller's name for the packet */
    uint32_t offset, len;
    uint32_t ip_len;  /* wire bytes of this fragment from its IP header */
    uint16_t block;   /* first of a chain */
    uint8_t more, cut; /* M flag; payload snapped off */
} frag_piece;

/* Who holds how much: a side of a filter; in others' a prefix; a source. A datagram is on two or three accounts, so that
 * there are always records enough. */
enum frag_scope { FRAG_SIDE, FRAG_PREFIX, FRAG_SOURCE, FRAG_SCOPES };

typedef struct frag_account {
    uint8_t addr[16]; /* of the side: zero */
    uint16_t filter;
    uint8_t family, side, scope, spare;
    uint16_t datagrams;
    uint16_t next;    /* same bucket; free records */
    uint16_t reserved;
    uint32_t blocks;
} frag_account;

#define FRAG_ACCOUNTS (FRAG_SCOPES * FRAG_DATAGRAMS)

typedef struct frag_datagram {
    uint8_t src[16], dst[16];
    uint32_t id, zone;
    uint64_t deadline;          /* tick */
    uint8_t family, proto, dead, cut;
    uint16_t count;             /* pieces held, by offset */
    uint16_t next, older, newer; /* bucket chain; all datagrams by time of their first fragment */
    uint16_t header_len;        /* bytes of header[] from the IP header, 0 until the first fragment is here */
    uint16_t frag_at;           /* IPv6: where the fragment header stood */
    uint16_t filter;
    uint8_t next_header;        /* IPv6: of the fragment header */
    uint8_t dir;
    uint32_t end;               /* bytes, once the last fragment is here; 0 before */
    uint32_t held;              /* bytes of all pieces */
    uint32_t vrf;
    uint16_t account[FRAG_SCOPES]; /* FRAG_NONE: has none */
    uint8_t side, tap;
    uint8_t header[FRAG_HEADER];
    frag_piece piece[FRAG_PER_DATAGRAM];
} frag_datagram;

typedef struct frag_table {
    uint16_t free_datagram, free_block, oldest, newest;
    uint32_t datagrams, blocks; /* in use */
    uint16_t bucket[FRAG_BUCKETS];
    uint16_t account_bucket[FRAG_BUCKETS], free_account, spare[3];
    frag_account account[FRAG_ACCOUNTS];
    uint16_t block_next[FRAG_BLOCKS];
    frag_datagram datagram[FRAG_DATAGRAMS];
    uint8_t block[FRAG_BLOCKS][FRAG_BLOCK];
} frag_table;

static inline void frag_init(frag_table *f)
{
    memset(f->bucket, 0xff, sizeof f->bucket);
    for (uint32_t i = 0; i < FRAG_DATAGRAMS; i++)
        f->datagram[i].next = (uint16_t)(i + 1 < FRAG_DATAGRAMS ? i + 1 : FRAG_NONE);
    for (uint32_t i = 0; i < FRAG_BLOCKS; i++)
        f->block_next[i] = (uint16_t)(i + 1 < FRAG_BLOCKS ? i + 1 : FRAG_NONE);
    memset(f->account_bucket, 0xff, sizeof f->account_bucket);
    for (uint32_t i = 0; i < FRAG_ACCOUNTS; i++)
        f->account[i].next = (uint16_t)(i + 1 < FRAG_ACCOUNTS ? i + 1 : FRAG_NONE);
    f->free_account = 0;
    f->free_datagram = f->free_block = 0;
    f->oldest = f->newest = FRAG_NONE;
    f->datagrams = f->blocks = 0;
}

PAL_INLINE uint32_t frag_blocks_for(uint32_t len) { return (len + FRAG_BLOCK - 1) / FRAG_BLOCK; }

static inline uint64_t frag_hash(const frag_datagram *key, const uint64_t seed[HASH_KEY_WORDS])
{
    uint64_t m[6] = {load_u64(key->src), load_u64(key->src + 8), load_u64(key->dst), load_u64(key->dst + 8),
                     (uint64_t)key->id | (uint64_t)key->zone << 32, (uint64_t)key->proto | (uint64_t)key->family << 8 | (uint64_t)key->side << 16};
    return hash_words6(m, seed);
}

static inline bool frag_same(const frag_datagram *a, const frag_datagram *b)
{
    return memcmp(a->src, b->src, 32) == 0 && a->id == b->id && a->zone == b->zone && a->family == b->family &&
           a->proto == b->proto && a->side == b->side;
}

static inline uint16_t frag_find(const frag_table *f, const frag_datagram *key, uint64_t hash)
{
    uint16_t i = f->bucket[hash % FRAG_BUCKETS];
    while (i != FRAG_NONE && !frag_same(&f->datagram[i], key))
        i = f->datagram[i].next;
    return i;
}

#include "fragment_account.h"

static inline void frag_blocks_free(frag_table *f, frag_datagram *d)
{
    uint32_t before = f->blocks;
    for (uint32_t i = 0; i < d->count; i++) {
        uint16_t b = d->piece[i].block;
        while (b != FRAG_NONE) {
            uint16_t next = f->block_next[b];
            f->block_next[b] = f->free_block;
            f->free_block = b;
            f->blocks--;
            b = next;
        }
        d->piece[i].block = FRAG_NONE;
    }
    frag_accounts_add(f, d, f->blocks - before);
}

/* Forgets a datagram; what its fragments' verdicts are is the caller's business. */
static inline void frag_free(frag_table *f, uint16_t i, const uint64_t seed[HASH_KEY_WORDS])
{
    frag_datagram *d = &f->datagram[i];
    uint16_t *at = &f->bucket[frag_hash(d, seed) % FRAG_BUCKETS];
    while (*at != i)
        at = &f->datagram[*at].next;
    *at = d->next;
    if (d->older == FRAG_NONE)
        f->oldest = d->newer;
    else
        f->datagram[d->older].newer = d->newer;
    if (d->newer == FRAG_NONE)
        f->newest = d->older;
    else
        f->datagram[d->newer].older = d->older;
    frag_blocks_free(f, d);
    frag_accounts_close(f, d, seed);
    d->next = f->free_datagram;
    f->free_datagram = i;
    f->datagrams--;
}

/* FRAG_NONE: there is no room for a datagram that begins with so many blocks. */
static inline uint16_t frag_new(frag_table *f, const frag_datagram *key, const pal_limits *limits, uint32_t blocks, uint64_t hash,
                                const uint64_t seed[HASH_KEY_WORDS])
{
    if (f->free_datagram == FRAG_NONE || f->blocks + blocks > FRAG_BLOCKS || !frag_accounts_would(f, key, limits, blocks, seed))
        return FRAG_NONE;
    uint16_t i = f->free_datagram;
    frag_datagram *d = &f->datagram[i];
    f->free_datagram = d->next;
    f->datagrams++;
    memcpy(d, key, offsetof(frag_datagram, header));
    frag_accounts_open(f, d, seed);
    d->next = f->bucket[hash % FRAG_BUCKETS];
    f->bucket[hash % FRAG_BUCKETS] = i;
    d->older = f->newest;
    d->newer = FRAG_NONE;
    if (f->newest == FRAG_NONE)
        f->oldest = i;
    else
        f->datagram[f->newest].newer = i;
    f->newest = i;
    return i;
}

static inline bool frag_bytes_equal(const frag_table *f, const frag_piece *q, const uint8_t *bytes, uint32_t present)
{
    uint16_t b = q->block;
    for (uint32_t at = 0; at < q->len; at += FRAG_BLOCK, b = f->block_next[b]) {
        uint32_t n = min_u32(FRAG_BLOCK, q->len - at);
        uint32_t have = at < present ? min_u32(n, present - at) : 0;
        if (memcmp(f->block[b], bytes + at, have) != 0)
            return false;
        for (uint32_t i = have; i < n; i++)
            if (f->block[b][i])
                return false;
    }
    return true;
}

static inline uint16_t frag_store(frag_table *f, const uint8_t *bytes, uint32_t present, uint32_t len)
{
    uint16_t first = FRAG_NONE, *link = &first;
    for (uint32_t at = 0; at < len; at += FRAG_BLOCK) {
        uint16_t b = f->free_block;
        f->free_block = f->block_next[b];
        f->blocks++;
        uint32_t n = min_u32(FRAG_BLOCK, len - at), have = at < present ? min_u32(n, present - at) : 0;
        memcpy(f->block[b], bytes + at, have);
        memset(f->block[b] + have, 0, n - have);
        *link = b;
        link = &f->block_next[b];
    }
    *link = FRAG_NONE;
    return first;
}

/* Kills the datagram: PAL_REASON_FRAG_OVERLAP for all its fragments, held and to come. */
static inline uint8_t frag_kill(frag_table *f, frag_datagram *d)
{
    frag_blocks_free(f, d);
    d->dead = 1;
    return PAL_REASON_FRAG_OVERLAP;
}

static inline void frag_key(frag_datagram *key, const pal_packet *p, uint32_t zone, uint16_t filter, uint8_t dir, bool tap)
{
    memset(key, 0, offsetof(frag_datagram, header));
    memcpy(key->src, packet_src(p), addr_bytes(p));
    memcpy(key->dst, packet_dst(p), addr_bytes(p));
    key->id = p->seq;
    key->zone = zone;
    key->family = p->family;
    key->proto = p->family == PAL_FAMILY_V4 ? p->proto : 0;
    key->filter = filter;
    key->dir = dir;
    key->side = (uint8_t)side_of(tap, dir);
    key->tap = tap;
    key->vrf = p->vrf;
}

/* Pieces never overlap: when their bytes are as many as the datagram has, none is missing. */
static inline bool frag_is_whole(const frag_datagram *d) { return d->end && d->header_len && d->held == d->end; }

/* Takes one fragment. PAL_REASON_HELD; PAL_REASON_MATCH: held, and now *which is whole; else why it is refused
 * (for FRAG_OVERLAP *which names the datagram that has died just now, FRAG_NONE when it was dead before). */
static inline uint8_t frag_take(frag_table *f, const pal_packet *p, const frag_datagram *key, const pal_limits *limits, uint64_t now,
                                const uint64_t seed[HASH_KEY_WORDS], uint16_t *which)
{
    uint32_t off = p->ack, len = p->l4_len, head = p->family == PAL_FAMILY_V4 ? p->l4 - p->l3 : 0;
    bool more = p->tcp_flags;
    *which = FRAG_NONE;
    if (len == 0 || (more && len % 8) || head + off + len > 65535)
        return PAL_REASON_FRAG_LENGTH;
    uint64_t hash = frag_hash(key, seed);
    uint16_t i = frag_find(f, key, hash);
    if (i == FRAG_NONE) {
        i = frag_new(f, key, limits, frag_blocks_for(len), hash, seed);
        if (i == FRAG_NONE)
            return PAL_REASON_FRAG_LIMIT;
        f->datagram[i].deadline = now + FRAG_TICKS;
    }
    frag_datagram *d = &f->datagram[i];
    if (d->dead)
        return PAL_REASON_FRAG_OVERLAP;
    const uint8_t *bytes = p->data + p->l4;
    uint32_t present = min_u32(p->cap - p->l4, len), at = 0;
    while (at < d->count && d->piece[at].offset < off)
        at++;
    if (at < d->count && d->piece[at].offset == off && d->piece[at].len == len && d->piece[at].more == more &&
        frag_bytes_equal(f, &d->piece[at], bytes, present))
        return PAL_REASON_FRAG_DUPLICATE;
    *which = i;
    if ((at > 0 && d->piece[at - 1].offset + d->piece[at - 1].len > off) ||
        (at < d->count && d->piece[at].offset < off + len))
        return frag_kill(f, d);
    if (d->end && (!more || off + len > d->end))
        return frag_kill(f, d);
    if (!more && d->count && d->piece[d->count - 1].offset + d->piece[d->count - 1].len > off + len)
        return frag_kill(f, d);
    if (d->count == FRAG_PER_DATAGRAM || f->blocks + frag_blocks_for(len) > FRAG_BLOCKS || !frag_accounts_have(f, d, limits, frag_blocks_for(len))) {
        *which = FRAG_NONE;
        return PAL_REASON_FRAG_LIMIT;
    }
    memmove(&d->piece[at + 1], &d->piece[at], (d->count - at) * sizeof d->piece[0]);
    d->piece[at] = (frag_piece){.cookie = p->cookie, .offset = off, .len = len, .ip_len = p->ip_len,
                                .block = frag_store(f, bytes, present, len), .more = more, .cut = present < len};
    d->count++;
    d->held += len;
    frag_accounts_add(f, d, frag_blocks_for(len));
    d->cut |= present < len;
    if (!more)
        d->end = off + len;
    if (off == 0) {
        d->header_len = (uint16_t)(p->family == PAL_FAMILY_V4 ? p->l4 - p->l3 : p->window);
        d->frag_at = p->window;
        d->next_header = p->proto;
        memcpy(d->header, p->data + p->l3, d->header_len);
    }
    return frag_is_whole(d) ? PAL_REASON_MATCH : PAL_REASON_HELD;
}

/* With the first fragment's headers the whole may be longer than its length field can say. */
static inline bool frag_is_too_long(const frag_datagram *d)
{
    return (d->family == PAL_FAMILY_V4 ? d->header_len : d->header_len - 40u) + d->end > 65535;
}

/* Writes the whole datagram from its IP header on into `out` (65,535 + 40 bytes at least); returns its length. */
static inline uint32_t frag_join(const frag_table *f, const frag_datagram *d, uint8_t *out)
{
    uint32_t at = d->header_len;
    memcpy(out, d->header, at);
    for (uint32_t i = 0; i < d->count; i++) {
        uint16_t b = d->piece[i].block;
        for (uint32_t left = d->piece[i].len; left; b = f->block_next[b]) {
            uint32_t n = min_u32(FRAG_BLOCK, left);
            memcpy(out + at, f->block[b], n);
            at += n;
            left -= n;
        }
    }
    if (d->family == PAL_FAMILY_V4) {
        store_be16(out + 2, (uint16_t)at);
        store_be16(out + 6, 0);
        store_be16(out + 10, 0);
        uint16_t sum = sum_finish(sum_bytes(out, d->header_len, 0));
        memcpy(out + 10, &sum, 2);
        return at;
    }
    store_be16(out + 4, (uint16_t)(at - 40));
    /* The next-header field before the fragment header: walk to it. */
    uint32_t field = 6, next = 40;
    while (next < d->frag_at) {
        uint32_t size = out[field] == PROTO_AH ? (out[next + 1] + 2u) * 4 : out[field] == PROTO_IP6_FRAGMENT ? 8
                                                                                                          : (out[next + 1] + 1u) * 8;
        field = next;
        next += size;
    }
    out[field] = d->next_header;
    return at;
}

#endif
