/* SPDX-License-Identifier: Apache-2.0
 *
 * table.c - the region's layout, and how indexes are rebuilt when a table is taken over from a file: entries validate
 * themselves, index, wheel and lists are made anew by one scan (DESIGN, section 4).
 */
#include "table.h"

#include "../core/tcp.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define TABLE_MAGIC 0x31544c4150ull /* "PALT1" */
#define TABLE_VERSION 4u

typedef struct table_header {
    uint64_t magic;
    uint32_t version;
    uint32_t layout; /* of the structs, as compiled */
    uint32_t cap4, cap6, buckets, nat;
    uint64_t state_at, hot_at, cold_at, addr6_at, nat_at, nat6_at, bucket_at, end;
} table_header;

static uint32_t layout_hash(void)
{
    const uint32_t parts[] = {sizeof(table_header), sizeof(ct_state_block), sizeof(ct_hot), sizeof(ct_cold), sizeof(ct_addr6),
                              sizeof(ct_nat), sizeof(ct_bucket), CT_SLOTS, WHEEL_LEVELS, WHEEL_SLOTS, offsetof(ct_hot, half),
                              offsetof(ct_hot, deadline), offsetof(ct_cold, spill_packets), __BYTE_ORDER__};
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        h = (h ^ parts[i]) * 16777619u;
    return h;
}

static uint64_t page_up(uint64_t n) { return (n + 4095) & ~4095ull; }

static table_header header_make(uint32_t cap4, uint32_t cap6, bool nat)
{
    table_header h = {.magic = TABLE_MAGIC, .version = TABLE_VERSION, .layout = layout_hash(), .cap4 = cap4, .cap6 = cap6, .nat = nat};
    uint64_t tuples = ((uint64_t)cap4 + cap6) * (nat ? 2 : 1);
    h.buckets = (uint32_t)(tuples / CT_A_BUCKET + 1); /* of 12 slots */
    h.state_at = 4096;
    h.hot_at = h.state_at + page_up(sizeof(ct_state_block));
    h.cold_at = h.hot_at + page_up((uint64_t)(cap4 + cap6) * sizeof(ct_hot));
    h.addr6_at = h.cold_at + page_up((uint64_t)(cap4 + cap6) * sizeof(ct_cold));
    h.nat_at = h.addr6_at + page_up((uint64_t)cap6 * sizeof(ct_addr6));
    h.nat6_at = h.nat_at + (nat ? page_up((uint64_t)(cap4 + cap6) * sizeof(ct_nat)) : 0);
    h.bucket_at = h.nat6_at + (nat ? page_up((uint64_t)cap6 * sizeof(ct_addr6)) : 0);
    h.end = h.bucket_at + page_up((uint64_t)h.buckets * sizeof(ct_bucket));
    return h;
}

static void table_view(ct_table *t, uint8_t *base, const table_header *h)
{
    t->s = (ct_state_block *)(void *)(base + h->state_at);
    t->hot = (ct_hot *)(void *)(base + h->hot_at);
    t->cold = (ct_cold *)(void *)(base + h->cold_at);
    t->addr6 = (ct_addr6 *)(void *)(base + h->addr6_at);
    t->nat = h->nat ? (ct_nat *)(void *)(base + h->nat_at) : NULL;
    t->nat6 = h->nat ? (ct_addr6 *)(void *)(base + h->nat6_at) : NULL;
    t->bucket = (ct_bucket *)(void *)(base + h->bucket_at);
    t->buckets = h->buckets;
    t->cap4 = h->cap4;
    t->cap6 = h->cap6;
}

/* Lists, wheel and index of a table without connections; seed, clock and entries stay, and `fresh`, which says how many of those
 * there are: whoever is killed while it takes a table over leaves it to the next one. */
static void indexes_clear(ct_table *t)
{
    ct_state_block *s = t->s;
    memset(t->bucket, 0, (size_t)t->buckets * sizeof(ct_bucket));
    memset(s->wheel_head, 0xff, sizeof s->wheel_head);
    memset(s->wheel_map, 0, sizeof s->wheel_map);
    for (uint32_t w = 0; w < CT_WAYS; w++) {
        s->free_head[w] = s->oldest[w] = s->newest[w] = PAL_NONE;
        s->free_count[w] = s->used[w] = 0;
    }
    s->wheel_at = s->now;
}

void table_clear(ct_table *t)
{
    uint64_t seed[HASH_KEY_WORDS];
    memcpy(seed, t->s->seed, sizeof seed);
    for (uint32_t w = 0; w < CT_WAYS; w++)
        for (uint32_t i = 0; i < t->s->fresh[w]; i++)
            t->hot[i + (w ? t->cap4 : 0)].state = CT_FREE;
    memset(t->s, 0, sizeof *t->s);
    memcpy(t->s->seed, seed, sizeof seed);
    indexes_clear(t);
}

static bool entry_is_sound(const ct_hot *h)
{
    uint32_t state = ct_state_of(h), kind = ct_kind_of(h);
    uint32_t last = kind == KIND_TCP ? CT_CLOSED : kind == KIND_SCTP ? CT_SCTP_CLOSED : CT_MULTIPLE;
    return kind <= KIND_OTHER && state != CT_FREE && state <= last && h->zone != 0;
}

/* No reference to it is good any more. */
static void entry_free(ct_table *t, uint32_t ref)
{
    t->hot[ref].state = CT_FREE;
    t->cold[ref].generation++;
}

/* Into the index by its tuples. False: it can't be, and is in none of them. */
static bool entry_index(ct_table *t, uint32_t ref)
{
    ct_key k;
    ct_key_of(t, ref, &k);
    const uint64_t hash = key_hash(&k, t->s->seed);
    if (!index_insert(t, hash, ref))
        return false;
    if (!nat_is_translated(t, ref))
        return true;
    ct_key reply;
    nat_key_of(t, ref, &reply);
    t->nat[ref].marks = 0;
    if (nat_begin(t, ref, &reply))
        return true;
    index_remove(t, hash, ref); /* half of a translation is worse than none */
    return false;
}

static bool child_is_sound(const ct_table *t, uint32_t ref, const uint32_t used[CT_WAYS])
{
    uint32_t parent = t->cold[ref].link[0];
    if (parent >= t->cap4 ? parent - t->cap4 >= used[1] : parent >= used[0])
        return false;
    const ct_hot *h = &t->hot[parent]; /* one that has ended is told by its generation */
    return (h->state && !(h->marks & CT_CHILD)) || t->cold[parent].generation != t->cold[ref].link[1];
}

/* Entries that have ever been used: `fresh` grows before such an entry is touched, so that a process which is killed leaves none
 * behind it. What lies there in a damaged file is nobody's, and cleared when it is taken. */
static uint32_t used_once(const ct_table *t, uint32_t way, uint32_t fresh) { return min_u32(fresh, way ? t->cap6 : t->cap4); }

/* The unanswered list's order is that of creation; what a scan can know of it is the deadline. The scan keeps the order
 * that the file's own links give, as far as they are sound, and appends the rest. */
static void table_rebuild(ct_table *t)
{
    ct_state_block *s = t->s;
    uint32_t oldest[CT_WAYS] = {s->oldest[0], s->oldest[1]};
    const uint32_t used[CT_WAYS] = {used_once(t, 0, s->fresh[0]), used_once(t, 1, s->fresh[1])};
    uint64_t now = s->now;
    for (uint32_t w = 0; w < CT_WAYS; w++)
        for (uint32_t ref = w ? t->cap4 : 0, end = ref + used[w]; ref < end; ref++) {
            t->hot[ref].state &= (uint8_t)~CT_RESYNC; /* of an earlier taking over; below it says "listed" */
            if (t->hot[ref].state && !entry_is_sound(&t->hot[ref]))
                entry_free(t, ref);
        }
    for (uint32_t w = 0; w < CT_WAYS; w++) /* whoever follows a child's link must find a connection, or another generation */
        for (uint32_t ref = w ? t->cap4 : 0, end = ref + used[w]; ref < end; ref++)
            if (t->hot[ref].state && (t->hot[ref].marks & CT_CHILD) && !child_is_sound(t, ref, used))
                entry_free(t, ref);
    indexes_clear(t);
    s->now = now;
    s->resync_until = 0;
    for (uint32_t w = 0; w < CT_WAYS; w++) {
        uint32_t first = w ? t->cap4 : 0, count = used[w];
        uint32_t ref = oldest[w];
        for (uint32_t steps = 0; ref != PAL_NONE && steps < count; steps++) {
            if (ref < first || ref >= first + count || !t->hot[ref].state || !ct_is_listed(&t->hot[ref]) || (t->hot[ref].state & CT_RESYNC))
                break;
            uint32_t newer = t->cold[ref].link[1];
            t->hot[ref].state |= CT_RESYNC;
            unanswered_append(t, ref);
            ref = newer;
        }
        s->fresh[w] = count; /* in bounds */
        for (uint32_t i = count; i-- > 0;) {
            ref = first + i;
            ct_hot *h = &t->hot[ref];
            if (h->state && !entry_index(t, ref)) {
                if (h->state & CT_RESYNC)
                    unanswered_remove(t, ref);
                entry_free(t, ref);
            }
            if (!h->state) {
                t->cold[ref].wheel_next = s->free_head[w];
                s->free_head[w] = ref;
                s->free_count[w]++;
                continue;
            }
            if (ct_is_listed(h) && !(h->state & CT_RESYNC))
                unanswered_append(t, ref);
            if (!(h->marks & CT_REPLIED)) /* accounts were the old process's: what is taken over is on none */
                h->bytes[1] = t->cold[ref].spill_packets[1] = t->cold[ref].spill_bytes[1] = 0;
            h->state &= (uint8_t)~CT_RESYNC;
            if (resync_applies(h))
                resync_begin(h, &t->cold[ref]);
            h->epoch = 0; /* epochs are the old process's: the rules in force now have not been asked */
            wheel_insert(t, ref);
            s->used[w]++;
        }
    }
}

static int say(char *err, size_t errlen, const char *what, const char *path)
{
    snprintf(err, errlen, "%s: %s", path ? path : "connection table", what);
    return -1;
}

static int file_open(pal_region *r, const table_config *c, const table_header *want, char *err, size_t errlen)
{
    struct stat st;
    r->fd = open(c->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (r->fd < 0)
        return say(err, errlen, strerror(errno), c->path);
    /* Held until the region is closed, or the process is gone however it went. Two writers would tear every list. */
    if (flock(r->fd, LOCK_EX | LOCK_NB) < 0)
        return say(err, errlen, errno == EWOULDBLOCK ? "a connection table that another process is using" : strerror(errno), c->path);
    if (fstat(r->fd, &st) < 0)
        return say(err, errlen, strerror(errno), c->path);
    if (st.st_size == 0)
        return ftruncate(r->fd, (off_t)want->end) < 0 ? say(err, errlen, strerror(errno), c->path) : 0;
    table_header have;
    if (pread(r->fd, &have, sizeof have, 0) != (ssize_t)sizeof have || have.magic != TABLE_MAGIC)
        return say(err, errlen, "not a connection table", c->path);
    if (memcmp(&have, want, sizeof have) != 0 || (uint64_t)st.st_size != want->end)
        return say(err, errlen, "a connection table of another version, layout or capacity", c->path);
    r->attached = true;
    return 0;
}

int table_open(ct_table *t, pal_region *r, const table_config *c, char *err, size_t errlen)
{
    *r = (pal_region){.fd = -1};
    if ((uint64_t)c->cap4 + c->cap6 == 0 || (uint64_t)c->cap4 + c->cap6 >= WHEEL_HEAD)
        return say(err, errlen, "capacity must be between 1 and 2^31 - 1 connections", c->path);
    table_header h = header_make(c->cap4, c->cap6, c->nat);
    if (c->path && file_open(r, c, &h, err, errlen) < 0) {
        table_close(r);
        return -1;
    }
    int flags = c->path ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *base = mmap(NULL, h.end, PROT_READ | PROT_WRITE, flags, r->fd, 0);
    if (base == MAP_FAILED) {
        say(err, errlen, strerror(errno), c->path);
        table_close(r);
        return -1;
    }
    r->base = base;
    r->len = h.end;
    r->charged = h.end;
    (void)madvise(base, h.end, c->huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    table_view(t, base, &h);
    if (r->attached) {
        table_rebuild(t);
    } else {
        memcpy(t->s->seed, c->seed, sizeof c->seed);
        indexes_clear(t);
        memcpy(base, &h, sizeof h); /* last: a header says that the rest is there */
    }
    return 0;
}

void table_close(pal_region *r)
{
    if (r->base)
        munmap(r->base, r->len);
    if (r->fd >= 0)
        close(r->fd);
    *r = (pal_region){.fd = -1};
}
