/* SPDX-License-Identifier: Apache-2.0
 *
 * wheel.h - the timer wheel of a connection table: four levels of 256 slots: 10 ms, 2.6 s, 11 minutes and 46 hours wide.
 *
 * A packet that renews a deadline writes the deadline only; the wheel finds out when the slot comes round and puts the
 * connection further on. A deadline that gets nearer moves the connection at once, so that an entry never stands in a
 * slot later than its deadline's. Included by conntrack.h, after the table's shape.
 */
#ifndef PAL_CORE_WHEEL_H
#define PAL_CORE_WHEEL_H

/* Deadlines are kept modulo 2^32 (497 days); the longest timer is 50 days. */
PAL_INLINE bool wheel_is_past(const ct_table *t, uint32_t deadline) { return (int32_t)((uint32_t)t->s->now - deadline) > 0; }

PAL_INLINE void wheel_remove(ct_table *t, uint32_t ref)
{
    ct_cold *c = &t->cold[ref];
    if (c->wheel_next != PAL_NONE)
        t->cold[c->wheel_next].wheel_prev = c->wheel_prev;
    if (c->wheel_prev & WHEEL_HEAD) {
        uint32_t slot = c->wheel_prev & ~WHEEL_HEAD, level = slot / WHEEL_SLOTS, i = slot % WHEEL_SLOTS;
        t->s->wheel_head[level][i] = c->wheel_next;
        if (c->wheel_next == PAL_NONE)
            t->s->wheel_map[level][i / 64] &= ~(1ull << (i % 64));
    } else {
        t->cold[c->wheel_prev].wheel_next = c->wheel_next;
    }
}

/* Into the slot of its deadline, counted from the wheel's position. */
static inline void wheel_insert(ct_table *t, uint32_t ref)
{
    ct_state_block *s = t->s;
    int32_t left = (int32_t)(t->hot[ref].deadline - (uint32_t)s->now);
    uint64_t at = s->now + (uint64_t)(left > 0 ? left : 0);
    if (at < s->wheel_at)
        at = s->wheel_at;
    uint32_t level = 0;
    /* A level's slot is right while the position's next turn of that level has not begun. */
    while (level < WHEEL_LEVELS - 1 && (at >> 8 * level) - (s->wheel_at >> 8 * level) >= WHEEL_SLOTS)
        level++;
    uint64_t unit = at >> 8 * level, limit = (s->wheel_at >> 8 * level) + WHEEL_SLOTS - 1;
    uint32_t i = (uint32_t)((unit < limit ? unit : limit) % WHEEL_SLOTS);
    ct_cold *c = &t->cold[ref];
    c->wheel_next = s->wheel_head[level][i];
    c->wheel_prev = WHEEL_HEAD | (level * WHEEL_SLOTS + i);
    if (c->wheel_next != PAL_NONE)
        t->cold[c->wheel_next].wheel_prev = ref;
    s->wheel_head[level][i] = ref;
    s->wheel_map[level][i / 64] |= 1ull << (i % 64);
}

PAL_INLINE void wheel_move(ct_table *t, uint32_t ref)
{
    wheel_remove(t, ref);
    wheel_insert(t, ref);
}

/* Distance from slot `from` to the next slot in use, going round; WHEEL_SLOTS when there is none. */
static inline uint32_t wheel_distance(const ct_table *t, uint32_t level, uint32_t from)
{
    const uint64_t *map = t->s->wheel_map[level];
    for (uint32_t step = 0; step <= WHEEL_SLOTS / 64; step++) {
        uint32_t word = (from / 64 + step) % (WHEEL_SLOTS / 64);
        uint64_t bits = map[word];
        if (step == 0)
            bits &= ~0ull << (from % 64);
        else if (step == WHEEL_SLOTS / 64)
            bits &= ~(~0ull << (from % 64));
        if (bits)
            return (word * 64 + (uint32_t)__builtin_ctzll(bits) + WHEEL_SLOTS - from) % WHEEL_SLOTS;
    }
    return WHEEL_SLOTS;
}

/* The next connection to look at: one whose slot lies wholly before now. The position follows. PAL_NONE: nothing due. */
PAL_OUTLINE uint32_t wheel_due(ct_table *t)
{
    ct_state_block *s = t->s;
    uint64_t now = s->now;
    while (s->wheel_at < now) {
        uint64_t next = now;
        for (uint32_t level = 0; level < WHEEL_LEVELS; level++) {
            uint64_t unit = s->wheel_at >> 8 * level;
            uint32_t d = wheel_distance(t, level, (uint32_t)(unit % WHEEL_SLOTS));
            if (d == WHEEL_SLOTS)
                continue;
            if (d == 0) {
                /* The slot that the position is in: at the first level due now, above it to be spread below. */
                uint32_t ref = s->wheel_head[level][unit % WHEEL_SLOTS];
                return ref;
            }
            uint64_t at = (unit + d) << 8 * level;
            if (at < next)
                next = at;
        }
        s->wheel_at = next;
    }
    return PAL_NONE;
}

#endif
