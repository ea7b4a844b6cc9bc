/* SPDX-License-Identifier: Apache-2.0
 *
 * invariants.h - what is true of a worker between any two packets: every list, index and counter says the same.
 * invariant_broken names the first thing that is not so, or returns NULL.
 */
#ifndef PAL_TESTS_INVARIANTS_H
#define PAL_TESTS_INVARIANTS_H

#include "../../core/pipeline.h"

#include <stdlib.h>

#define HOLDS(x) do { if (!(x)) return #x; } while (0)

/* A fuzzer that counted these loops as ways through the core would spend its time on them. */
#if defined(__clang__)
#define INVARIANT __attribute__((no_sanitize("coverage"))) static inline
#else
#define INVARIANT static inline
#endif

/* What lies behind the entries that have been used is nobody's (a damaged file has something there). */
INVARIANT bool invariant_is_live(const ct_table *t, uint32_t ref)
{
    const uint32_t way = ct_way(t, ref);
    return t->hot[ref].state != CT_FREE && ref - (way ? t->cap4 : 0) < t->s->fresh[way];
}

/* Does `entry` stand in a bucket where a look-up of `hash` comes? Buckets before that are passed. */
INVARIANT bool invariant_stands(const ct_table *t, uint64_t hash, uint32_t entry, uint32_t *passed)
{
    uint32_t at = hash_bucket(t, hash);
    for (uint32_t probe = 0; probe < CT_PROBES; probe++, at = bucket_next(t, at)) {
        for (uint32_t i = 0; i < CT_SLOTS; i++)
            if (t->bucket[at].tag[i] && t->bucket[at].ref[i] == entry)
                return true;
        passed[at]++;
    }
    return false;
}

INVARIANT const char *invariant_index_counted(const ct_table *t, uint32_t *passed)
{
    uint32_t live = t->s->used[0] + t->s->used[1], stands = 0;
    for (uint32_t ref = 0; ref < t->cap4 + t->cap6; ref++) {
        if (!invariant_is_live(t, ref))
            continue;
        ct_key k;
        ct_key_of(t, ref, &k);
        HOLDS(invariant_stands(t, key_hash(&k, t->s->seed), ref, passed));
        if (!nat_is_translated(t, ref))
            continue;
        live++;
        nat_key_of(t, ref, &k);
        HOLDS(invariant_stands(t, key_hash(&k, t->s->seed), ref | CT_REPLY_TUPLE, passed));
    }
    for (uint32_t b = 0; b < t->buckets; b++) {
        for (uint32_t i = 0; i < CT_SLOTS; i++) {
            if (!t->bucket[b].tag[i])
                continue;
            uint32_t entry = t->bucket[b].ref[i], ref = entry & ~CT_REPLY_TUPLE;
            stands++;
            HOLDS(ref < t->cap4 + t->cap6 && t->hot[ref].state != CT_FREE && (entry == ref || nat_is_translated(t, ref)));
        }
        HOLDS(t->bucket[b].overflow == passed[b]); /* connections that belong here or before and stand after this bucket */
    }
    HOLDS(stands == live);
    return NULL;
}

INVARIANT const char *invariant_index(const ct_table *t)
{
    uint32_t *passed = calloc(t->buckets, sizeof *passed);
    const char *broken = passed ? invariant_index_counted(t, passed) : "memory";
    free(passed);
    return broken;
}

INVARIANT const char *invariant_wheel(const ct_table *t)
{
    const ct_state_block *s = t->s;
    uint32_t stands = 0, total = t->cap4 + t->cap6;
    HOLDS(s->wheel_at <= s->now);
    for (uint32_t level = 0; level < WHEEL_LEVELS; level++)
        for (uint32_t i = 0; i < WHEEL_SLOTS; i++) {
            uint32_t prev = WHEEL_HEAD | (level * WHEEL_SLOTS + i), ref = s->wheel_head[level][i];
            HOLDS((ref != PAL_NONE) == (s->wheel_map[level][i / 64] >> (i % 64) & 1));
            for (; ref != PAL_NONE; prev = ref, ref = t->cold[ref].wheel_next) {
                HOLDS(ref < total && t->hot[ref].state != CT_FREE && t->cold[ref].wheel_prev == prev && stands++ < total);
                /* Its slot begins no later than its deadline. */
                uint64_t unit = s->wheel_at >> 8 * level, ahead = (i + WHEEL_SLOTS - unit % WHEEL_SLOTS) % WHEEL_SLOTS;
                uint64_t begins = ahead ? (unit + ahead) << 8 * level : s->wheel_at;
                HOLDS(begins == s->wheel_at || (int32_t)(t->hot[ref].deadline - (uint32_t)begins) >= 0);
            }
        }
    HOLDS(stands == s->used[0] + s->used[1]);
    return NULL;
}

INVARIANT const char *invariant_lists(const ct_table *t)
{
    const ct_state_block *s = t->s;
    for (uint32_t w = 0; w < CT_WAYS; w++) {
        uint32_t first = w ? t->cap4 : 0, cap = w ? t->cap6 : t->cap4, live = 0, listed = 0, n = 0;
        for (uint32_t ref = first; ref < first + cap; ref++) {
            live += invariant_is_live(t, ref);
            listed += invariant_is_live(t, ref) && ct_is_listed(&t->hot[ref]);
        }
        HOLDS(live == s->used[w] && s->fresh[w] <= cap && s->used[w] + s->free_count[w] == s->fresh[w]);
        for (uint32_t ref = s->free_head[w]; ref != PAL_NONE; ref = t->cold[ref].wheel_next) {
            HOLDS(ref >= first && ref < first + s->fresh[w] && t->hot[ref].state == CT_FREE && n < cap);
            n++;
        }
        HOLDS(n == s->free_count[w]);
        uint32_t prev = PAL_NONE;
        n = 0;
        for (uint32_t ref = s->oldest[w]; ref != PAL_NONE; prev = ref, ref = t->cold[ref].link[1]) {
            HOLDS(ref >= first && ref < first + cap && t->hot[ref].state != CT_FREE && ct_is_listed(&t->hot[ref]));
            HOLDS(t->cold[ref].link[0] == prev && n < cap);
            n++;
        }
        HOLDS(prev == s->newest[w] && n == listed);
    }
    return NULL;
}

INVARIANT const char *invariant_fragments(const frag_table *f, const uint64_t *seed)
{
    uint32_t n = 0, blocks = 0;
    uint16_t prev = FRAG_NONE;
    for (uint16_t i = f->oldest; i != FRAG_NONE; prev = i, i = f->datagram[i].newer) {
        const frag_datagram *d = &f->datagram[i];
        HOLDS(d->older == prev && n++ < FRAG_DATAGRAMS && d->count <= FRAG_PER_DATAGRAM);
        HOLDS(frag_find(f, d, frag_hash(d, seed)) == i);
        HOLDS(prev == FRAG_NONE || f->datagram[prev].deadline <= d->deadline);
        HOLDS(!d->dead || d->count == 0);
        for (uint32_t k = 0; k < d->count; k++) {
            HOLDS(k == 0 || d->piece[k].offset >= d->piece[k - 1].offset + d->piece[k - 1].len);
            HOLDS(d->end == 0 || d->piece[k].offset + d->piece[k].len <= d->end);
            uint32_t of_piece = 0;
            for (uint16_t b = d->piece[k].block; b != FRAG_NONE; b = f->block_next[b])
                HOLDS(of_piece++ < FRAG_BLOCKS);
            HOLDS(of_piece == frag_blocks_for(d->piece[k].len));
            blocks += of_piece;
        }
    }
    HOLDS(prev == f->newest && n == f->datagrams && blocks == f->blocks);
    uint32_t accounts = 0, free = 0, on = 0;
    for (uint16_t i = f->free_account; i != FRAG_NONE; i = f->account[i].next)
        HOLDS(free++ < FRAG_ACCOUNTS);
    for (uint32_t b = 0; b < FRAG_BUCKETS; b++)
        for (uint16_t i = f->account_bucket[b]; i != FRAG_NONE; i = f->account[i].next) {
            uint32_t datagrams = 0, held = 0;
            for (uint16_t k = f->oldest; k != FRAG_NONE; k = f->datagram[k].newer) {
                const frag_datagram *d = &f->datagram[k];
                for (uint32_t scope = 0; scope < FRAG_SCOPES; scope++) {
                    if (d->account[scope] != i)
                        continue;
                    datagrams++;
                    for (uint32_t p = 0; p < d->count; p++)
                        held += frag_blocks_for(d->piece[p].len);
                }
            }
            HOLDS(datagrams && datagrams == f->account[i].datagrams && held == f->account[i].blocks && accounts++ < FRAG_ACCOUNTS);
            on += datagrams;
        }
    HOLDS(accounts + free == FRAG_ACCOUNTS && on <= FRAG_SCOPES * n);
    return NULL;
}

/* Taking every connection off its count leaves nothing. Nobody stays behind at incarnations that tests use either. */
static const char *invariant_flood(const ct_table *t)
{
    const char *broken = NULL;
    for (uint32_t pass = 0; pass < 3; pass++) {
        for (uint32_t ref = 0; ref < t->cap4 + t->cap6; ref++) {
            const ct_hot *h = &t->hot[ref];
            uint32_t kind = flood_kind_of(ct_kind_of(h), ct_state_of(h));
            if (!invariant_is_live(t, ref) || kind == FLOOD_KINDS)
                continue;
            if (pass != 1)
                flood_add((ct_table *)(uintptr_t)t, h, pass - 1);
            else if (t->flood[h->zone >> ZONE_VRF_BITS].n[kind] != 0)
                broken = "a flood count that a scan does not find";
        }
        for (uint32_t i = 0; pass == 1 && i < 64; i++)
            for (uint32_t kind = 0; kind < FLOOD_KINDS; kind++)
                if (t->flood[i].n[kind] != 0)
                    broken = "flood counts of no connection";
    }
    return broken;
}

static const char *invariant_half_open(const ct_table *t)
{
    const half_open_table *o = t->half_open;
    if (!o)
        return NULL;
    uint32_t total = o->filters * 2 + o->records, free = 0, used = 0;
    for (uint32_t i = o->free; i != PAL_NONE; i = o->account[i].next)
        HOLDS(i >= o->filters * 2 && free++ < o->records);
    for (uint32_t i = 0; i < total; i++) {
        const half_open_account *a = &o->account[i];
        uint32_t count = 0, n = 0, prev = PAL_NONE, movable = 0;
        for (uint32_t ref = 0; ref < t->cap4 + t->cap6; ref++) {
            bool on = invariant_is_live(t, ref) && !(t->hot[ref].marks & CT_REPLIED) && t->hot[ref].bytes[1] == i + 1;
            count += on;
            movable += on && ct_is_listed(&t->hot[ref]);
        }
        if (i >= o->filters * 2)
            used += count != 0;
        if (count == 0 && i >= o->filters * 2)
            continue;
        HOLDS(count == a->count);
        for (uint32_t ref = a->oldest; ref != PAL_NONE; prev = ref, ref = t->cold[ref].spill_bytes[1])
            HOLDS(t->cold[ref].spill_packets[1] == prev && t->hot[ref].bytes[1] == i + 1 && n++ < movable);
        HOLDS(prev == a->newest && n == movable);
        bool in_ring = false;
        for (uint32_t k = o->others[a->filter].first, left = total; k != PAL_NONE && left; left--, k = o->account[k].ring_next)
            in_ring |= k == i;
        HOLDS(in_ring == (a->side == SIDE_OTHERS && movable != 0));
    }
    HOLDS(used + free == o->records);
    for (uint32_t f = 0; f < o->filters; f++) {
        uint32_t count = 0;
        for (uint32_t i = 0; i < total; i++)
            count += o->account[i].filter == f && o->account[i].side == SIDE_OTHERS ? o->account[i].count : 0;
        HOLDS(count == o->others[f].count);
    }
    return NULL;
}

INVARIANT const char *invariant_expected(const expect_table *x, const ct_table *t)
{
    uint32_t n = 0;
    uint16_t prev = EXPECT_NONE;
    for (uint16_t i = x->oldest; i != EXPECT_NONE; prev = i, i = x->e[i].newer) {
        const expectation *e = &x->e[i];
        HOLDS(e->older == prev && n++ < EXPECT_MAX && e->parent < t->cap4 + t->cap6);
        HOLDS(t->hot[e->parent].state != CT_FREE && t->cold[e->parent].generation == e->parent_generation);
        HOLDS(expect_find(x, e, t->s->seed) == i && e->dport != 0);
        uint32_t of_parent = 0;
        for (uint16_t k = x->oldest; k != EXPECT_NONE; k = x->e[k].newer)
            of_parent += x->e[k].parent == e->parent;
        HOLDS(of_parent <= EXPECT_PER_PARENT);
    }
    HOLDS(prev == x->newest && n == x->count);
    return NULL;
}

/* passed + consumed + dropped by reason + held = received */
INVARIANT const char *invariant_counts(const pal_worker *w)
{
    uint64_t decided = 0, waiting = 0;
    for (uint32_t v = 0; v < PAL_VERDICT_COUNT; v++)
        for (uint32_t r = 0; r < PAL_REASON_COUNT; r++)
            decided += v == PAL_HELD ? 0 : w->count[v][r];
    for (uint16_t i = w->fragments->oldest; i != FRAG_NONE; i = w->fragments->datagram[i].newer)
        waiting += w->fragments->datagram[i].count;
    HOLDS(w->count[PAL_HELD][PAL_REASON_HELD] - w->released == waiting);
    HOLDS(decided + waiting == w->received);
    return NULL;
}

INVARIANT const char *invariant_broken(const pal_worker *w)
{
    const char *broken = invariant_lists(&w->table);
    broken = broken ? broken : invariant_wheel(&w->table);
    broken = broken ? broken : invariant_index(&w->table);
    broken = broken ? broken : invariant_half_open(&w->table);
    broken = broken ? broken : invariant_flood(&w->table);
    broken = broken ? broken : invariant_fragments(w->fragments, w->table.s->seed);
    broken = broken ? broken : invariant_expected(w->expected, &w->table);
    return broken ? broken : invariant_counts(w);
}

#endif
