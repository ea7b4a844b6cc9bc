/* SPDX-License-Identifier: Apache-2.0
 *
 * test_table.c - the connection table from inside: keys and their hash against a slow one, the index while it fills and
 * empties, and the timer wheel, which must find what is past its deadline, all of it and nothing else.
 */
#include "support/rig.h"

#include "check.h"
#include "support/invariants.h"

static rig r;
static frame f;
static uint64_t rng_state;

static uint32_t rng(uint32_t below)
{
    rng_state += 0x9e3779b97f4a7c15ull;
    uint64_t z = rng_state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return (uint32_t)((z ^ z >> 31) % below);
}
static uint64_t rng64(void) { return (uint64_t)rng(0xffffffffu) << 32 | rng(0xffffffffu); }

/* ---- NH, with products made of 32-bit halves ------------------------------------------------------------------------ */

typedef struct wide {
    uint64_t low, high;
} wide;

static void wide_add(wide *sum, uint64_t low, uint64_t high)
{
    sum->low += low;
    sum->high += high + (sum->low < low);
}

static void wide_add_product(wide *sum, uint64_t a, uint64_t b)
{
    for (uint32_t i = 0; i < 64; i++)
        if (b >> i & 1)
            wide_add(sum, a << i, i ? a >> (64 - i) : 0);
}

static uint64_t slow_hash(const uint64_t *m, uint32_t words, const uint64_t *k)
{
    wide sum = {0, 0};
    for (uint32_t i = 0; i < words; i += 2)
        wide_add_product(&sum, m[i] + k[i], m[i + 1] + k[i + 1]);
    uint64_t h = sum.low ^ sum.high;
    h ^= h >> 32;
    h *= 0x9e3779b97f4a7c15ull;
    return h ^ (h >> 29);
}

static void test_hash(void)
{
    check_where = "hash";
    for (uint32_t i = 0; i < 500; i++) {
        uint64_t m[6], k[6];
        for (uint32_t n = 0; n < 6; n++) {
            m[n] = i < 64 ? 1ull << i : rng64();
            k[n] = rng64();
        }
        CHECK_U64(hash_words4(m, k), slow_hash(m, 4, k));
        CHECK_U64(hash_words6(m, k), slow_hash(m, 6, k));
    }
}

/* A connection's key: pairs of 32-bit words, spread. */
static uint64_t slow_key_hash(const uint64_t *m, uint32_t n, const uint64_t *k)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t low = ((m[i] & 0xffffffff) + (k[i] & 0xffffffff)) % 0x100000000, high = ((m[i] >> 32) + (k[i] >> 32)) % 0x100000000;
        sum += low * high;
    }
    uint64_t low = sum % 0x100000000, x = (low ^ sum / 0x100000000) * 0x9e3779b1 % 0x100000000;
    x ^= x / 32768;
    low ^= x;
    return x * 0x85ebca77 % 0x100000000 * 0x100000000 + (low ^ low / 0x1000000);
}

/* Buckets and tags of keys that differ in few bits are spread as of keys drawn at random. */
static void test_key_hash(void)
{
    check_where = "key hash";
    const uint64_t seed[6] = {rng64(), rng64(), rng64(), rng64(), rng64(), rng64()};
    for (uint32_t family = PAL_FAMILY_V4; family <= PAL_FAMILY_V6; family++) {
        static uint32_t bucket[1024], tag[256];
        memset(bucket, 0, sizeof bucket);
        memset(tag, 0, sizeof tag);
        ct_key k = {.kind = KIND_TCP, .family = (uint8_t)family, .zone = 0x10000};
        uint32_t words = family == PAL_FAMILY_V4 ? 1 : 4;
        for (uint32_t i = 0; i < 1024 * 16; i++) { /* a few clients and servers, all ports */
            k.addr[0] = words == 1 ? 0x0000000a | (uint64_t)(i % 16) << 24 | 0x0100000bull << 32 : 0xb80d0120;
            k.addr[1] = words == 1 ? 0 : (uint64_t)(i % 16) << 56;
            k.port[0] = (uint16_t)(i / 16);
            uint64_t h = key_hash(&k, seed);
            bucket[(h >> 32) * 1024 >> 32]++;
            tag[h & 0xff]++;
        }
        uint32_t worst = 0, same = 0;
        for (uint32_t i = 0; i < 1024; i++)
            worst = max_u32(worst, bucket[i]);
        for (uint32_t i = 0; i < 256; i++)
            same = max_u32(same, tag[i]);
        CHECK(worst < 16 * 4);
        CHECK(same < 64 * 4);
    }
}

/* Both directions have one key, and one hash; anything else that differs gives another key. */
static void test_keys(void)
{
    static const uint64_t seed[6] = {11, 22, 33, 44, 55, 66};
    for (uint32_t i = 0; i < 4000; i++) {
        check_where = "keys";
        uint32_t family = 1 + (i & 1), n = family == PAL_FAMILY_V4 ? 4 : 16, kind = i / 2 % 4;
        uint8_t a[64], b[64];
        for (uint32_t k = 0; k < 2 * n; k++)
            a[k] = (uint8_t)(rng(3) ? 0 : rng(256));
        if (rng(8) == 0)
            memcpy(a + n, a, n);
        memcpy(b, a + n, n);
        memcpy(b + n, a, n);
        uint16_t sport = (uint16_t)rng(4), dport = (uint16_t)rng(4), id = (uint16_t)rng(3);
        static const uint8_t asks[2][4][2] = {{{8, 0}, {13, 14}, {15, 16}, {17, 18}}, {{128, 129}, {139, 140}, {128, 129}, {139, 140}}};
        uint32_t which = rng(4);
        ct_key x = {.tail = 0}, y = {.tail = 0};
        if (kind == KIND_ICMP) {
            CHECK_U64(icmp_query_type(family, asks[family - 1][which][1]), asks[family - 1][which][0]);
            key_make_icmp(&x, family, 7, a, id, asks[family - 1][which][0], false);
            key_make_icmp(&y, family, 7, b, id, asks[family - 1][which][1], true);
        } else {
            const uint16_t ports[2] = {sport, dport}, turned[2] = {dport, sport};
            key_make(&x, kind, family, 7, a, ports);
            key_make(&y, kind, family, 7, b, turned);
        }
        uint32_t words = family == PAL_FAMILY_V4 ? 1 : 4;
        CHECK(memcmp(x.addr, y.addr, words * 8) == 0 && x.ports_zone == y.ports_zone && x.kind == y.kind && x.family == y.family);
        CHECK_U64(key_hash(&x, seed), key_hash(&y, seed));
        uint64_t tail = (uint64_t)kind | (uint64_t)family << 8, m[6] = {x.addr[0], x.addr[1], x.addr[2], x.addr[3], x.ports_zone, tail};
        uint64_t m4[3] = {x.addr[0], x.ports_zone, tail};
        CHECK_U64(key_hash(&x, seed), family == PAL_FAMILY_V4 ? slow_key_hash(m4, 3, seed) : slow_key_hash(m, 6, seed));
        if (kind == KIND_TCP) { /* what the short way works out ahead */
            hash_tcp ahead = hash_tcp_of(seed);
            CHECK_U64(key_hash(&x, seed), family == PAL_FAMILY_V4 ? key_hash_tcp4(x.addr[0], x.ports_zone, &ahead) : key_hash_tcp6(&x, &ahead));
        }
        CHECK(memcmp(key_addr(&x, 0), x.high ? a + n : a, n) == 0 && memcmp(key_addr(&x, 1), x.high ? a : a + n, n) == 0);
        bool one_end = memcmp(a, a + n, n) == 0;
        if (kind == KIND_ICMP) {
            ct_key other = {.tail = 0};
            key_make_icmp(&other, family, 7, b, id, asks[family - 1][which][0], false);
            CHECK(one_end == (other.ports_zone == x.ports_zone)); /* the other end asks: another connection */
            CHECK(x.answer == 0 && y.answer == 1);
        } else if (!one_end || sport != dport) {
            CHECK(x.high != y.high);
        }
    }
}

/* Connections come and go at random; every list, index and counter agrees, and each is found as long as it lives. */
static void test_index(void)
{
    check_where = "index";
    rig_open(&r, 150, 150);
    pal_rule all = rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    rig_commit(&r, 0, &all, 1, false);
    static uint32_t of[300]; /* reference by port, PAL_NONE where none is */
    memset(of, 0xff, sizeof of);
    ct_table *t = &r.w->table;
    for (uint32_t round = 0; round < 3000; round++) {
        uint32_t port = rng(300), family = 1 + port % 2;
        if (of[port] == PAL_NONE && t->s->used[family - 1] < (family == 1 ? t->cap4 : t->cap6)) {
            frame_udp(&f, family, 1, 2, (uint16_t)(1000 + port), 53, "x", 1);
            of[port] = rig_judge(&r, &f).ref;
            CHECK(of[port] != PAL_NONE);
        } else if (of[port] != PAL_NONE) {
            ct_end(t, of[port], CT_END_CLEARED);
            of[port] = PAL_NONE;
        }
        if (round % 100 == 0) {
            const char *broken = invariant_broken(r.w);
            check_where = broken ? broken : check_where;
            CHECK(broken == NULL);
            for (uint32_t i = 0; i < 300; i++) {
                pal_packet p;
                ct_key k;
                frame_udp(&f, 1 + i % 2, 2, 1, 53, (uint16_t)(1000 + i), "x", 1);
                rig_parse(&r, &p, f.b, f.len, f.len, LINKTYPE_ETHERNET);
                key_from_packet(&k, &p, r.e->current->filter[0].zone);
                CHECK_U64(ct_find(t, &k, key_hash(&k, t->s->seed)), of[i]);
            }
        }
    }
    rig_close(&r);
}

/* Deadlines of every distance, renewed and brought forward, and a clock that steps, strides and leaps. */
static void test_wheel(uint64_t start)
{
    static uint64_t deadline[200];
    static uint32_t of[200];
    check_where = "wheel";
    rig_open(&r, 200, 10);
    pal_rule all = rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    rig_commit(&r, 0, &all, 1, false);
    ct_table *t = &r.w->table;
    memset(of, 0xff, sizeof of);
    r.now = start * 10 * RIG_MS;
    rig_stage_clock(r.w, r.now);
    for (uint32_t round = 0; round < 2500; round++) {
        uint32_t i = rng(200);
        static const uint32_t far[6] = {3, 300, 70000, 20000000, 260, 66000};
        uint64_t until = t->s->now + rng(far[rng(6)]);
        if (of[i] == PAL_NONE) {
            frame_udp(&f, 1, 1, 2, (uint16_t)(1000 + i), 53, "x", 1);
            of[i] = rig_judge(&r, &f).ref;
        }
        ct_renew(t, of[i], (uint32_t)until);
        deadline[i] = until;
        uint32_t chance = rng(20);
        if (chance < 10)
            r.now += (uint64_t)rng(chance < 6 ? 3 : chance < 8 ? 400 : chance < 9 ? 80000 : 30000000) * 10 * RIG_MS;
        rig_stage_clock(r.w, r.now);
        for (uint32_t budget = 0; budget < 4; budget++)
            ct_expire(t, 100000);
        CHECK_U64(t->s->wheel_at, t->s->now);
        uint32_t live = 0;
        for (uint32_t k = 0; k < 200; k++) {
            if (of[k] == PAL_NONE)
                continue;
            bool past = deadline[k] < t->s->now;
            CHECK_U64(t->hot[of[k]].state == CT_FREE, past);
            live += !past;
            if (past)
                of[k] = PAL_NONE;
        }
        CHECK_U64(t->s->used[0], live);
        if (round % 50 == 0) {
            const char *broken = invariant_wheel(t);
            check_where = broken ? broken : check_where;
            CHECK(broken == NULL);
        }
    }
    rig_close(&r);
}

/* A packet pays for a few expiries only: the rest is done by those that follow, and nothing shows meanwhile. */
static void test_budget(void)
{
    check_where = "budget";
    rig_open(&r, 200, 10);
    pal_rule all = rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    rig_commit(&r, 0, &all, 1, false);
    for (uint32_t i = 0; i < 100; i++) {
        frame_udp(&f, 1, 1, 2, (uint16_t)(1000 + i), 53, "x", 1);
        rig_judge(&r, &f);
    }
    r.now += 61 * RIG_S;
    frame_udp(&f, 1, 1, 2, 1050, 53, "x", 1); /* the wheel begins at the other end */
    const pal_judgement j = rig_judge(&r, &f); /* gone, whether or not the wheel has come there */
    CHECK(j.reason == PAL_REASON_MATCH && j.ct == PAL_CT_NEW && j.reply == 0);
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_STATE); /* and the one that took its place is there */
    CHECK(invariant_broken(r.w) == NULL);
    uint32_t before = r.w->table.s->used[0];
    CHECK(before > 80);
    frame_udp(&f, 1, 3, 4, 1, 53, "x", 1);
    for (uint32_t i = 0; i < 160; i++) {
        rig_judge(&r, &f);
        CHECK(before - r.w->table.s->used[0] <= CT_EXPIRE_STEPS || r.w->table.s->used[0] > before);
        before = r.w->table.s->used[0];
    }
    CHECK_U64(before, 2);
    rig_close(&r);
}

/* Who needs room in a full table gets the first that has run out, however many renewed ones the wheel shows before; what else
 * has run out is left to those that follow. */
static void test_room(void)
{
    check_where = "room";
    rig_open(&r, 40, 10);
    pal_rule all = rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    rig_commit(&r, 0, &all, 1, false);
    const uint64_t start = r.now;
    for (uint32_t i = 0; i < 40; i++) {
        r.now = start + (i < 20 ? 0 : 10 * RIG_S); /* the first twenty stand in an earlier slot */
        for (uint32_t reply = 0; reply < 2; reply++) {
            frame_udp(&f, 1, 1 + (uint8_t)reply, 2 - (uint8_t)reply, (uint16_t)(reply ? 53 : 1000 + i), (uint16_t)(reply ? 1000 + i : 53), "x", 1);
            CHECK_U64(rig_judge(&r, &f).verdict, PAL_ALLOW);
        }
    }
    r.now = start + 30 * RIG_S;
    for (uint32_t i = 0; i < 20; i++) {
        frame_udp(&f, 1, 1, 2, (uint16_t)(1000 + i), 53, "x", 1);
        CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_STATE);
    }
    r.now = start + 72 * RIG_S;
    frame_udp(&f, 1, 3, 4, 1, 53, "x", 1);
    CHECK_U64(rig_judge(&r, &f).ct, PAL_CT_NEW);
    CHECK_U64(r.w->table.s->used[0], 40);
    for (uint32_t i = 0; i < 20; i++) { /* none that lives had to go for it */
        frame_udp(&f, 1, 1, 2, (uint16_t)(1000 + i), 53, "x", 1);
        CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_STATE);
    }
    rig_close(&r);
}

int main(void)
{
    test_hash();
    test_key_hash();
    test_keys();
    test_index();
    test_wheel(1000);
    test_wheel(0xfffffff0u);
    test_wheel(0xfffffull);
    test_budget();
    test_room();
    return check_end("test_table");
}
