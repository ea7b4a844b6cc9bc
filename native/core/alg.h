/* SPDX-License-Identifier: Apache-2.0
 *
 * alg.h - FTP (RFC 959, 2428) and TFTP (RFC 1350): which connection an application has announced, and the table of
 * such expectations. docs/packet-path.md, section 9.
 */
#ifndef PAL_CORE_ALG_H
#define PAL_CORE_ALG_H

#include <arpa/inet.h>

#include "tcp.h"

#define EXPECT_MAX 1024
#define EXPECT_PER_PARENT 8
#define EXPECT_TICKS 6000 /* 60 s */
#define EXPECT_BUCKETS 512
#define EXPECT_NONE 0xffffu
#define ALG_LINE 128      /* no command of RFC 959 or 2428 is longer than 60; an attacker can make us read no more */
#define ALG_PARENTHESES 8 /* that are tried in a reply 229 */

typedef struct expectation {
    uint8_t src[16], dst[16];
    uint32_t zone, parent, parent_generation;
    uint16_t dport;
    uint8_t kind, family;
    uint64_t deadline;
    uint16_t next, older, newer; /* bucket chain or free list; all by age */
    uint16_t brother;            /* chain of its parent's bucket, the newest first */
} expectation;

_Static_assert(sizeof(expectation) == 64, "one line");

/* Two indexes: by tuple, and by parent, so that neither a new one nor a connection's end looks through all of them. */
typedef struct expect_table {
    uint16_t bucket[EXPECT_BUCKETS], of_parent[EXPECT_BUCKETS];
    uint16_t free, oldest, newest, count;
    expectation e[EXPECT_MAX];
} expect_table;

static inline void expect_init(expect_table *x)
{
    memset(x->bucket, 0xff, sizeof x->bucket);
    memset(x->of_parent, 0xff, sizeof x->of_parent);
    for (uint32_t i = 0; i < EXPECT_MAX; i++)
        x->e[i].next = (uint16_t)(i + 1 < EXPECT_MAX ? i + 1 : EXPECT_NONE);
    x->free = 0;
    x->oldest = x->newest = EXPECT_NONE;
    x->count = 0;
}

static inline uint32_t expect_bucket(const expectation *e, const uint64_t seed[HASH_KEY_WORDS])
{
    uint64_t m[6] = {load_u64(e->src), load_u64(e->src + 8), load_u64(e->dst), load_u64(e->dst + 8),
                     (uint64_t)e->dport | (uint64_t)e->zone << 32, (uint64_t)e->kind | (uint64_t)e->family << 8};
    return (uint32_t)(hash_words6(m, seed) % EXPECT_BUCKETS);
}

static inline uint32_t expect_parent_bucket(uint32_t parent, const uint64_t seed[HASH_KEY_WORDS])
{
    return (uint32_t)(hash_finish((unsigned __int128)(parent + seed[0]) * (seed[1] | 1)) % EXPECT_BUCKETS);
}

static inline void expect_remove(expect_table *x, uint16_t i, const uint64_t seed[HASH_KEY_WORDS])
{
    expectation *e = &x->e[i];
    uint16_t *at = &x->bucket[expect_bucket(e, seed)];
    while (*at != i)
        at = &x->e[*at].next;
    *at = e->next;
    at = &x->of_parent[expect_parent_bucket(e->parent, seed)];
    while (*at != i)
        at = &x->e[*at].brother;
    *at = e->brother;
    if (e->older == EXPECT_NONE)
        x->oldest = e->newer;
    else
        x->e[e->older].newer = e->newer;
    if (e->newer == EXPECT_NONE)
        x->newest = e->older;
    else
        x->e[e->newer].older = e->older;
    e->next = x->free;
    x->free = i;
    x->count--;
}

static inline void expect_expire(expect_table *x, uint64_t now, const uint64_t seed[HASH_KEY_WORDS])
{
    while (x->oldest != EXPECT_NONE && now > x->e[x->oldest].deadline)
        expect_remove(x, x->oldest, seed);
}

static inline uint16_t expect_find(const expect_table *x, const expectation *want, const uint64_t seed[HASH_KEY_WORDS])
{
    for (uint16_t i = x->bucket[expect_bucket(want, seed)]; i != EXPECT_NONE; i = x->e[i].next) {
        const expectation *e = &x->e[i];
        if (memcmp(e->src, want->src, 32) == 0 && e->zone == want->zone && e->dport == want->dport &&
            e->kind == want->kind && e->family == want->family)
            return i;
    }
    return EXPECT_NONE;
}

/* Every expectation of a connection that ends goes with it. */
static inline void expect_forget(expect_table *x, uint32_t parent, const uint64_t seed[HASH_KEY_WORDS])
{
    for (uint16_t i = x->of_parent[expect_parent_bucket(parent, seed)], next; i != EXPECT_NONE; i = next) {
        next = x->e[i].brother;
        if (x->e[i].parent == parent)
            expect_remove(x, i, seed);
    }
}

static inline void expect_add(expect_table *x, const expectation *want, uint64_t now, const uint64_t seed[HASH_KEY_WORDS])
{
    expect_expire(x, now, seed);
    uint16_t same = expect_find(x, want, seed);
    if (same != EXPECT_NONE)
        expect_remove(x, same, seed);
    uint32_t of_parent = 0, brothers = expect_parent_bucket(want->parent, seed);
    uint16_t oldest = EXPECT_NONE;
    for (uint16_t i = x->of_parent[brothers]; i != EXPECT_NONE; i = x->e[i].brother) {
        if (x->e[i].parent != want->parent)
            continue;
        of_parent++;
        oldest = i;
    }
    if (of_parent >= EXPECT_PER_PARENT)
        expect_remove(x, oldest, seed);
    if (x->free == EXPECT_NONE)
        return;
    uint16_t i = x->free;
    expectation *e = &x->e[i];
    x->free = e->next;
    uint32_t b = expect_bucket(want, seed);
    *e = *want;
    e->deadline = now + EXPECT_TICKS;
    e->next = x->bucket[b];
    x->bucket[b] = i;
    e->brother = x->of_parent[brothers];
    x->of_parent[brothers] = i;
    e->older = x->newest;
    e->newer = EXPECT_NONE;
    if (x->newest == EXPECT_NONE)
        x->oldest = i;
    else
        x->e[x->newest].newer = i;
    x->newest = i;
    x->count++;
}

/* ---- reading FTP lines ----------------------------------------------------------------------------------- */

typedef struct ftp_target {
    uint8_t addr[16];
    bool has_addr;
    uint8_t family;
    uint16_t port;
} ftp_target;

static inline bool is_digit(uint8_t c) { return c >= '0' && c <= '9'; }

/* At most `max` digits at *at; the value, or -1 when there is none or it is above `limit`. */
static inline int32_t ftp_number(const uint8_t *s, uint32_t len, uint32_t *at, uint32_t max, int32_t limit)
{
    int32_t v = 0;
    uint32_t n = 0;
    for (; *at < len && is_digit(s[*at]); (*at)++, n++) {
        if (n == max)
            return -1;
        v = v * 10 + (s[*at] - '0');
    }
    return n == 0 || v > limit ? -1 : v;
}

/* The first h1,h2,h3,h4,p1,p2 from `at` on, not behind or before another digit; only exactly there unless `search`. One
 * pass over the numbers, whatever they are. */
static inline bool ftp_six(const uint8_t *s, uint32_t len, uint32_t at, bool search, ftp_target *out)
{
    uint8_t six[6];
    uint32_t run = 0; /* numbers so far, one comma between each two */
    while (run < 6) {
        bool digit = at < len && is_digit(s[at]);
        int32_t v = digit ? ftp_number(s, len, &at, 3, 255) : -1;
        bool goes_on = v >= 0 && (run == 5 || (at < len && s[at] == ','));
        if (goes_on) {
            six[run++] = (uint8_t)v;
            at++;
            continue;
        }
        if (!search || at >= len)
            return false;
        run = 0;
        at += !digit;
        while (digit && at < len && is_digit(s[at])) /* the rest of one that is too long */
            at++;
    }
    memset(out->addr, 0, 16);
    memcpy(out->addr, six, 4);
    out->has_addr = true;
    out->family = PAL_FAMILY_V4;
    out->port = (uint16_t)(six[4] << 8 | six[5]);
    return true;
}

/* |1|address|port| */
static inline bool ftp_eprt(const uint8_t *s, uint32_t len, uint32_t at, ftp_target *out)
{
    if (at + 4 > len || s[at] < 33 || s[at] > 126 || (s[at + 1] != '1' && s[at + 1] != '2') || s[at + 2] != s[at])
        return false;
    uint8_t d = s[at];
    out->family = s[at + 1] == '1' ? PAL_FAMILY_V4 : PAL_FAMILY_V6;
    at += 3;
    char text[INET6_ADDRSTRLEN + 1];
    uint32_t n = 0;
    for (; at < len && s[at] != d; at++) {
        if (n == INET6_ADDRSTRLEN)
            return false;
        text[n++] = (char)s[at];
    }
    text[n] = 0;
    memset(out->addr, 0, 16);
    if (at >= len || memchr(text, 0, n) || inet_pton(out->family == PAL_FAMILY_V4 ? AF_INET : AF_INET6, text, out->addr) != 1)
        return false;
    at++;
    int32_t port = ftp_number(s, len, &at, 5, 65535);
    if (port < 0 || at >= len || s[at] != d)
        return false;
    out->has_addr = true;
    out->port = (uint16_t)port;
    return true;
}

/* (|||port|) exactly at `at`. */
static inline bool ftp_epsv(const uint8_t *s, uint32_t len, uint32_t at, ftp_target *out)
{
    if (at + 4 > len || s[at] != '(' || s[at + 1] < 33 || s[at + 1] > 126 || s[at + 2] != s[at + 1] || s[at + 3] != s[at + 1])
        return false;
    uint8_t d = s[at + 1];
    at += 4;
    int32_t port = ftp_number(s, len, &at, 5, 65535);
    if (port < 0 || at + 2 > len || s[at] != d || s[at + 1] != ')')
        return false;
    out->has_addr = false;
    out->port = (uint16_t)port;
    return true;
}

static inline bool ftp_word(const uint8_t *s, uint32_t len, const char *word)
{
    uint32_t n = (uint32_t)strlen(word);
    if (len < n)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        uint8_t c = s[i] >= 'a' && s[i] <= 'z' ? (uint8_t)(s[i] - 32) : s[i];
        if (c != (uint8_t)word[i])
            return false;
    }
    return true;
}

/* The first line of a control segment; true when it announces a data connection. What is no command or reply of ours is
 * not looked at any further. */
static inline bool ftp_line(const uint8_t *s, uint32_t len, uint32_t dir, ftp_target *out)
{
    bool plain = ftp_word(s, len, dir == 0 ? "PORT " : "227 ");
    if (!plain && !ftp_word(s, len, dir == 0 ? "EPRT " : "229 "))
        return false;
    const uint8_t *cr = memchr(s, '\r', len), *lf = memchr(s, '\n', cr ? (size_t)(cr - s) : len);
    if (!cr && !lf)
        return false;
    uint32_t end = (uint32_t)((lf ? lf : cr) - s);
    if (plain)
        return ftp_six(s, end, dir == 0 ? 5 : 4, dir != 0, out);
    if (dir == 0)
        return ftp_eprt(s, end, 5, out);
    const uint8_t *at = s + 4;
    for (uint32_t tried = 0; tried < ALG_PARENTHESES; tried++, at++) {
        at = memchr(at, '(', (size_t)(s + end - at));
        if (!at || ftp_epsv(s, end, (uint32_t)(at - s), out))
            return at != NULL;
    }
    return false;
}

/* ---- what a packet announces ------------------------------------------------------------------------------ */

/* `fresh`: the segment began where the sender's last one ended. `parent` is the packet's own connection. */
PAL_OUTLINE void alg_look(expect_table *x, const ct_table *t, uint32_t parent, uint32_t dir, const pal_packet *p, bool fresh)
{
    expectation want = {.zone = t->hot[parent].zone, .parent = parent, .parent_generation = t->cold[parent].generation,
                        .family = p->family};
    uint32_t n = addr_bytes(p), there = p->cap > p->l4 + p->l4_hdr ? p->cap - p->l4 - p->l4_hdr : 0;
    const uint8_t *payload = p->data + p->l4 + p->l4_hdr;
    uint32_t len = min_u32(p->payload_len, there);
    if (ct_kind_of(&t->hot[parent]) == KIND_UDP) {
        if (dir != 0 || len < 2 || (load_be16(payload) != 1 && load_be16(payload) != 2))
            return;
        want.kind = KIND_UDP;
        memcpy(want.src, packet_dst(p), n);
        memcpy(want.dst, packet_src(p), n);
        want.dport = p->sport;
        expect_add(x, &want, t->s->now, t->s->seed);
        return;
    }
    ftp_target target = {.family = 0};
    if (!fresh || len == 0 || (p->tcp_flags & (TCP_SYN | TCP_RST)))
        return;
    if (!ftp_line(payload, min_u32(len, ALG_LINE), dir, &target) || target.port == 0)
        return;
    /* The announcer listens: only on its own address, or it would open a door for others (the FTP bounce). */
    if (target.has_addr && (target.family != p->family || memcmp(target.addr, packet_src(p), n) != 0))
        return;
    want.kind = KIND_TCP;
    memcpy(want.src, packet_dst(p), n);
    memcpy(want.dst, packet_src(p), n);
    want.dport = target.port;
    expect_add(x, &want, t->s->now, t->s->seed);
}

/* The parent that expects the connection this packet would begin, and the expectation is used up; PAL_NONE: nobody. */
static inline uint32_t expect_take(expect_table *x, const ct_table *t, const pal_packet *p, uint32_t zone, uint8_t kind)
{
    if (PAL_LIKELY(x->count == 0) || (kind != KIND_TCP && kind != KIND_UDP))
        return PAL_NONE;
    expect_expire(x, t->s->now, t->s->seed);
    expectation want = {.zone = zone, .kind = kind, .family = p->family, .dport = p->dport};
    memcpy(want.src, packet_src(p), addr_bytes(p));
    memcpy(want.dst, packet_dst(p), addr_bytes(p));
    uint16_t i = expect_find(x, &want, t->s->seed);
    if (i == EXPECT_NONE)
        return PAL_NONE;
    uint32_t parent = x->e[i].parent, generation = x->e[i].parent_generation;
    if (t->cold[parent].generation != generation || wheel_is_past(t, t->hot[parent].deadline))
        return PAL_NONE;
    expect_remove(x, i, t->s->seed);
    return parent;
}

#endif
