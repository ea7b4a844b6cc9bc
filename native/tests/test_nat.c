/* SPDX-License-Identifier: Apache-2.0
 *
 * test_nat.c - connections with two tuples (core/nat.h): found from both sides, by packets and by ICMP errors about them, ended
 * with both, mapped from a file with both; and tables without room for them.
 */
#include "support/rig.h"

#include "check.h"
#include "support/invariants.h"

/* Hosts: a client, the name that it calls, the server that answers, and the name that the server sees. */
enum { CLIENT = 1, NAME = 2, SERVER = 3, SHOWN = 4 };

static char path[64];
static rig r;
static frame f, first;

static void open_at(const char *at, uint32_t cap4, uint32_t cap6, bool nat, bool flows)
{
    pal_engine_options o = rig_options(cap4, cap6);
    char err[256] = "";
    o.nat = nat;
    o.flows = o.name_rules = flows; /* without them the shortest path is taken */
    if (!rig_open_at(&r, &o, at, err, sizeof err))
        abort();
    pal_rule all = rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL | PAL_RULE_TCP_STRICT);
    rig_commit(&r, 0, &all, 1, true);
}

static void unbroken(const char *where)
{
    const char *broken = invariant_broken(r.w);
    check_where = broken ? broken : where;
    CHECK(broken == NULL);
}

/* A packet between two hosts, of one kind of connection; `back`: an answer. */
static void talk(uint8_t kind, uint32_t family, uint8_t src, uint8_t dst, uint16_t sport, uint16_t dport, bool back, uint8_t flags)
{
    switch (kind) {
    case KIND_TCP:
        frame_tcp(&f, family, src, dst, sport, dport,
                  (tcp_say){.seq = (back ? 5000 : 1000) + !(flags & TCP_SYN), .ack = flags & TCP_ACK ? (back ? 1001 : 5001) : 0,
                            .flags = flags, .window = 1000});
        break;
    case KIND_UDP:
        frame_udp(&f, family, src, dst, sport, dport, "x", 1);
        break;
    case KIND_ICMP:
        frame_ping(&f, family, src, dst, back, sport);
        break;
    default:
        frame_ip(&f, family, src, dst, 47, "gre", 3);
    }
}

static void key_of(const frame *frame, ct_key *k)
{
    pal_packet p;
    rig_parse(&r, &p, frame->b, frame->len, frame->len, LINKTYPE_ETHERNET);
    key_from_packet(k, &p, r.e->current->filter[0].zone);
}

static uint32_t found(uint32_t *dir)
{
    ct_key k;
    key_of(&f, &k);
    return ct_find_direction(&r.w->table, &k, key_hash(&k, r.w->table.s->seed), dir);
}

static uint16_t port_back(uint8_t kind, uint16_t port) { return kind == KIND_ICMP ? (uint16_t)(port + 100) : 8080; } /* ICMP: identifier */

/* The first packet of a connection from port `port`, and its reply tuple: SERVER:8080 to SHOWN:port + 100. */
static uint32_t begin(uint8_t kind, uint32_t family, uint16_t port)
{
    talk(kind, family, CLIENT, NAME, port, 80, false, TCP_SYN);
    first = f;
    pal_judgement j = rig_judge(&r, &f);
    CHECK_U64(j.ct, PAL_CT_NEW);
    ct_key reply;
    talk(kind, family, SERVER, SHOWN, port_back(kind, port), (uint16_t)(port + 100), true, TCP_SYN | TCP_ACK);
    key_of(&f, &reply);
    CHECK(nat_begin(&r.w->table, j.ref, &reply));
    return j.ref;
}

static void is(pal_judgement j, uint32_t ref, uint32_t reply, uint8_t ct)
{
    CHECK_U64(j.verdict, PAL_ALLOW);
    CHECK_U64(j.ref, ref);
    CHECK_U64(j.reply, reply);
    CHECK_U64(j.ct, ct);
}

/* What a packet becomes has the ends of the frame that stands in f. */
static void becomes(uint32_t ref, uint32_t dir)
{
    ct_key k, want;
    nat_target(&r.w->table, ref, dir, &k);
    key_of(&f, &want);
    CHECK(memcmp(k.addr, want.addr, k.family == PAL_FAMILY_V4 ? 8 : 32) == 0);
    CHECK_U64(k.ports_zone, want.ports_zone);
    CHECK_U64(k.tail, want.tail);
}

static const uint8_t kinds[] = {KIND_TCP, KIND_UDP, KIND_ICMP, KIND_OTHER};

/* Every kind, both families: the first packet, the reply as the server sends it, the next one. */
static void test_both_sides(void)
{
    for (uint32_t family = PAL_FAMILY_V4; family <= PAL_FAMILY_V6; family++)
        for (uint32_t i = 0; i < sizeof kinds; i++) {
            check_where = "both sides";
            uint8_t kind = kinds[i];
            open_at(NULL, 40, 20, true, true);
            uint32_t ref = begin(kind, family, 4000), dir = 2;
            unbroken("begun");
            talk(kind, family, SERVER, SHOWN, port_back(kind, 4000), 4100, true, TCP_SYN | TCP_ACK);
            is(rig_judge(&r, &f), ref, 1, PAL_CT_ESTABLISHED);
            talk(kind, family, CLIENT, NAME, 4000, 80, false, TCP_ACK);
            is(rig_judge(&r, &f), ref, 0, PAL_CT_ESTABLISHED);
            CHECK_U64(r.w->table.s->used[family - 1], 1);
            CHECK_U64(ct_packets(&r.w->table, ref, 0), 2);
            CHECK_U64(ct_packets(&r.w->table, ref, 1), 1);
            /* As they are on the other side of the translation. */
            talk(kind, family, SHOWN, SERVER, 4100, 8080, false, TCP_ACK);
            CHECK(found(&dir) == ref && dir == 0);
            becomes(ref, 0);
            talk(kind, family, NAME, CLIENT, kind == KIND_ICMP ? 4000 : 80, 4000, true, TCP_ACK);
            CHECK(found(&dir) == ref && dir == 1);
            becomes(ref, 1);
            unbroken("talking");
            rig_close(&r);
        }
}

/* A router on either side says that it could not deliver: it quotes what it has seen. */
static void test_errors(void)
{
    uint8_t rest[4 + 100];
    for (uint32_t family = PAL_FAMILY_V4; family <= PAL_FAMILY_V6; family++)
        for (uint32_t side = 0; side < 2; side++) {
            check_where = "errors";
            open_at(NULL, 40, 20, true, true);
            (void)begin(KIND_UDP, family, 4000);
            talk(KIND_UDP, family, side ? SHOWN : CLIENT, side ? SERVER : NAME, side ? 4100 : 4000, side ? 8080 : 80, false, 0);
            memset(rest, 0, 4);
            memcpy(rest + 4, f.b + f.l3, f.len - f.l3);
            const uint32_t n = 4 + f.len - f.l3;
            frame_tcp(&f, family, 7, 8, 1, 2, (tcp_say){.flags = TCP_SYN}); /* a burst that changes a state: the next is looked at ahead */
            (void)rig_judge(&r, &f);
            frame_tcp(&f, family, 8, 7, 2, 1, (tcp_say){.ack = 1, .flags = TCP_SYN | TCP_ACK});
            (void)rig_judge(&r, &f);
            CHECK(r.w->astray != 0);
            frame_icmp(&f, family, 9, side ? SHOWN : CLIENT, family == PAL_FAMILY_V4 ? 3 : 1, 1, rest, n);
            pal_judgement j = rig_judge(&r, &f);
            CHECK_U64(j.reason, PAL_REASON_RELATED);
            CHECK_U64(j.reply, 1);
            rig_close(&r);
        }
}

/* A tuple is one connection's, and its kind, family and zone are that connection's. */
static void test_one_owner(void)
{
    check_where = "one owner";
    open_at(NULL, 40, 20, true, true);
    uint32_t ref = begin(KIND_UDP, PAL_FAMILY_V4, 4000);
    ct_key own, reply, k;
    ct_table *t = &r.w->table;
    nat_key_of(t, ref, &reply);
    talk(KIND_UDP, PAL_FAMILY_V4, CLIENT, NAME, 4001, 80, false, 0);
    pal_judgement other = rig_judge(&r, &f);
    CHECK(!nat_begin(t, other.ref, &reply)); /* another's reply tuple */
    ct_key_of(t, ref, &own);
    CHECK(!nat_begin(t, other.ref, &own)); /* another's first */
    ct_key_of(t, other.ref, &own);
    CHECK(!nat_begin(t, other.ref, &own)); /* its own: nothing would be translated */
    k = reply;
    k.port[0]++;
    CHECK(!nat_begin(t, ref, &k)); /* it has one */
    ct_key odd[3] = {k, k, k};
    odd[0].kind = KIND_TCP;
    odd[1].zone++;
    odd[2].family = PAL_FAMILY_V6;
    for (uint32_t i = 0; i < 3; i++)
        CHECK(!nat_begin(t, other.ref, &odd[i]));
    unbroken("refused");
    CHECK(nat_begin(t, other.ref, &k));
    unbroken("taken");
    nat_end(t, other.ref); /* and without one it goes on as what it was */
    unbroken("given back");
    CHECK_U64(ct_find(t, &k, key_hash(&k, t->s->seed)), PAL_NONE);
    f = first;
    is(rig_judge(&r, &f), ref, 0, PAL_CT_NEW);
    rig_close(&r);
    open_at(NULL, 40, 20, false, true); /* a table that has not asked for it */
    talk(KIND_UDP, PAL_FAMILY_V4, CLIENT, NAME, 4000, 80, false, 0);
    ref = rig_judge(&r, &f).ref;
    CHECK(r.w->table.nat == NULL && !nat_begin(&r.w->table, ref, &reply));
    rig_close(&r);
}

/* Runs out, is closed and begun again, makes room for others: no tuple stays behind. */
static void test_ends(void)
{
    for (uint32_t family = PAL_FAMILY_V4; family <= PAL_FAMILY_V6; family++) {
        check_where = "ends";
        uint32_t dir;
        open_at(NULL, 4, 4, true, true);
        (void)begin(KIND_UDP, family, 4000);
        r.now += 61 * RIG_S;
        rig_stage_clock(r.w, r.now);
        ct_expire(&r.w->table, 1000);
        CHECK_U64(r.w->table.s->used[family - 1], 0);
        talk(KIND_UDP, family, SERVER, SHOWN, 8080, 4100, true, 0);
        CHECK_U64(found(&dir), PAL_NONE);
        f = first;
        CHECK_U64(found(&dir), PAL_NONE);
        unbroken("run out");
        (void)begin(KIND_UDP, family, 4000); /* the same tuples again */
        unbroken("again");
        for (uint16_t port = 5000; port < 5004; port++) { /* nobody answered it: the oldest goes */
            talk(KIND_UDP, family, CLIENT, NAME, port, 80, false, 0);
            CHECK_U64(rig_judge(&r, &f).ct, PAL_CT_NEW);
        }
        talk(KIND_UDP, family, SERVER, SHOWN, 8080, 4100, true, 0);
        CHECK_U64(found(&dir), PAL_NONE);
        unbroken("evicted");
        pal_engine_clear(r.e);
        CHECK_U64(found(&dir), PAL_NONE);
        rig_commit(&r, 0, (pal_rule[]){rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL)}, 1, true);
        (void)begin(KIND_UDP, family, 4000);
        unbroken("cleared and begun");
        rig_close(&r);
    }
}

/* Of connection i of a burst: a packet from the client, or one that answers it, as it is seen on the server's side if translated. */
static void segment(uint32_t family, uint16_t i, bool plain, bool back, uint8_t flags)
{
    if (!back)
        talk(KIND_TCP, family, CLIENT, NAME, (uint16_t)(4000 + i), 80, false, flags);
    else
        talk(KIND_TCP, family, plain ? NAME : SERVER, plain ? CLIENT : SHOWN, plain ? 80 : 8080, (uint16_t)(plain ? 4000 + i : 4100 + i), true, flags);
}

/* Bursts of established packets from both sides, connections without a second tuple among them. */
static void test_bursts(void)
{
    static frame frames[32];
    for (uint32_t family = PAL_FAMILY_V4; family <= PAL_FAMILY_V6; family++) {
        check_where = "bursts";
        uint32_t ref[16];
        pal_packet p[32];
        open_at(NULL, 40, 40, true, false);
        for (uint16_t i = 0; i < 16; i++) {
            bool plain = i % 3 == 0;
            segment(family, i, plain, false, TCP_SYN);
            ref[i] = plain ? rig_judge(&r, &f).ref : begin(KIND_TCP, family, (uint16_t)(4000 + i));
            segment(family, i, plain, true, TCP_SYN | TCP_ACK);
            is(rig_judge(&r, &f), ref[i], 1, PAL_CT_ESTABLISHED);
            segment(family, i, plain, false, TCP_ACK);
            is(rig_judge(&r, &f), ref[i], 0, PAL_CT_ESTABLISHED);
            frames[2 * i] = f;
            segment(family, i, plain, true, TCP_ACK);
            frames[2 * i + 1] = f;
        }
        for (uint32_t round = 0; round < 3; round++) {
            r.now += RIG_S;
            for (uint32_t i = 0; i < 32; i++) {
                const frame *x = &frames[round == 1 ? i / 16 + i % 16 * 2 : i]; /* in turn; then all of one side, and of the other */
                rig_parse(&r, &p[i], x->b, x->len, x->len, LINKTYPE_ETHERNET);
            }
            rig_forget(&r);
            rig_burst(&r, p, 32, 0, 4);
            CHECK_U64(r.outs, 32);
            for (uint32_t i = 0; i < 32; i++)
                is(r.out[i], ref[round == 1 ? i % 16 : i / 2], round == 1 ? i / 16 : i % 2, PAL_CT_ESTABLISHED);
            unbroken("bursts");
        }
        rig_close(&r);
    }
}

/* A connection's packet whose tag another's second tuple has too, in the same bucket. */
static void test_same_tag(void)
{
    check_where = "same tag";
    open_at(NULL, 40, 40, true, false);
    ct_table *t = &r.w->table;
    ct_key k;
    talk(KIND_TCP, PAL_FAMILY_V4, CLIENT, NAME, 4000, 80, false, TCP_SYN);
    const uint32_t ref = rig_judge(&r, &f).ref;
    talk(KIND_TCP, PAL_FAMILY_V4, NAME, CLIENT, 80, 4000, true, TCP_SYN | TCP_ACK);
    is(rig_judge(&r, &f), ref, 1, PAL_CT_ESTABLISHED);
    talk(KIND_TCP, PAL_FAMILY_V4, CLIENT, NAME, 4000, 80, false, TCP_ACK);
    is(rig_judge(&r, &f), ref, 0, PAL_CT_ESTABLISHED);
    first = f;
    key_of(&f, &k);
    const uint64_t hash = key_hash(&k, t->s->seed);
    talk(KIND_UDP, PAL_FAMILY_V4, CLIENT, NAME, 4001, 80, false, 0);
    const uint32_t other = rig_judge(&r, &f).ref;
    bool same = false;
    for (uint16_t port = 1; !same && port < 60000; port++) {
        talk(KIND_UDP, PAL_FAMILY_V4, SERVER, SHOWN, 8080, port, true, 0);
        key_of(&f, &k);
        const uint64_t h = key_hash(&k, t->s->seed);
        same = hash_tag(h) == hash_tag(hash) && hash_bucket(t, h) == hash_bucket(t, hash);
    }
    CHECK(same && nat_begin(t, other, &k));
    f = first;
    is(rig_judge(&r, &f), ref, 0, PAL_CT_ESTABLISHED);
    rig_close(&r);
}

/* A table that is full of translated connections, its buckets running over: both tuples of each are found as long as it lives. */
static void test_many(void)
{
    enum { MANY = 300 };
    static uint32_t of[MANY];
    uint64_t rng = 88172645463325252ull;
    check_where = "many";
    open_at(NULL, MANY / 2, MANY / 2, true, true);
    memset(of, 0xff, sizeof of);
    ct_table *t = &r.w->table;
    for (uint32_t round = 0; round < 1500; round++) {
        rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
        uint32_t i = (uint32_t)(rng >> 20) % MANY, family = 1 + i % 2;
        if (of[i] == PAL_NONE) {
            of[i] = begin(KIND_UDP, family, (uint16_t)(1000 + i));
        } else if (rng % 3 == 0) {
            ct_end(t, of[i], CT_END_CLEARED);
            of[i] = PAL_NONE;
        }
        for (uint32_t k = 0; k < MANY && round % 50 == 0; k++) {
            uint32_t dir = 0;
            talk(KIND_UDP, 1 + k % 2, SERVER, SHOWN, 8080, (uint16_t)(1100 + k), true, 0);
            CHECK(found(&dir) == of[k] && (of[k] == PAL_NONE || dir == 1));
            talk(KIND_UDP, 1 + k % 2, CLIENT, NAME, (uint16_t)(1000 + k), 80, false, 0);
            CHECK(found(&dir) == of[k] && (of[k] == PAL_NONE || dir == 0));
        }
        if (round % 50 == 0)
            unbroken("many");
    }
    rig_close(&r);
}

static bool refused(bool nat)
{
    pal_engine_options o = rig_options(40, 20);
    char err[256] = "";
    static rig x;
    o.nat = nat;
    if (rig_open_at(&x, &o, path, err, sizeof err))
        rig_close(&x);
    return strstr(err, "another version, layout or capacity");
}

/* The same through a mapped file, again and again; then with bytes of it that are anything. */
static void test_file(void)
{
    uint64_t rng = 88172645463325252ull;
    (void)unlink(path);
    open_at(path, 40, 20, true, true);
    for (uint16_t i = 0; i < 12; i++)
        (void)begin(KIND_UDP, 1 + i % 2, (uint16_t)(4000 + i));
    uint64_t now = r.now;
    for (uint32_t round = 0; round < 3; round++) {
        check_where = "file";
        rig_close(&r);
        CHECK(refused(false)); /* without room for second tuples it is another layout */
        open_at(path, 40, 20, true, true);
        r.now = now += 10 * RIG_MS;
        CHECK(r.ew->region.attached);
        CHECK_U64(r.w->table.s->used[0] + r.w->table.s->used[1], 12);
        unbroken("taken over");
        for (uint16_t i = 0; i < 12; i++) {
            uint32_t dir = 2;
            talk(KIND_UDP, 1 + i % 2, CLIENT, NAME, (uint16_t)(4000 + i), 80, false, 0);
            const uint32_t ref = found(&dir);
            CHECK(ref != PAL_NONE && dir == 0);
            talk(KIND_UDP, 1 + i % 2, SERVER, SHOWN, 8080, (uint16_t)(4100 + i), true, 0);
            CHECK(found(&dir) == ref && dir == 1);
            if (round == 2)
                is(rig_judge(&r, &f), ref, 1, PAL_CT_ESTABLISHED);
        }
    }
    r.now += 3600 * RIG_S;
    rig_stage_clock(r.w, r.now);
    ct_expire(&r.w->table, 1000);
    CHECK_U64(r.w->table.s->used[0] + r.w->table.s->used[1], 0);
    unbroken("run out");
    rig_close(&r);
    table_header h = header_make(40, 20, true);
    /* What stands in the file where no connection is, is nobody's. */
    int fd = open(path, O_RDWR);
    for (uint32_t ref = 0; ref < 60; ref++)
        CHECK(pwrite(fd, &(uint8_t){NAT_USED}, 1, (off_t)(h.nat_at + ref * sizeof(ct_nat) + offsetof(ct_nat, marks))) == 1);
    close(fd);
    open_at(path, 40, 20, true, true);
    talk(KIND_UDP, PAL_FAMILY_V4, CLIENT, NAME, 4000, 80, false, 0);
    CHECK(!nat_is_translated(&r.w->table, rig_judge(&r, &f).ref));
    unbroken("left behind");
    rig_close(&r);
    for (uint32_t round = 0; round < 40; round++) {
        check_where = "damaged";
        (void)unlink(path);
        open_at(path, 40, 20, true, true);
        for (uint16_t i = 0; i < 12; i++)
            (void)begin(KIND_UDP, 1 + i % 2, (uint16_t)(4000 + i));
        rig_close(&r);
        fd = open(path, O_RDWR);
        for (uint32_t i = 0; i < 1 + round / 4; i++) {
            rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
            const uint32_t ref = (uint32_t)(rng >> 8) % 8 + (rng >> 16 & 1 ? 40 : 0);
            const uint64_t at = rng % 3 ? h.nat_at + ref * sizeof(ct_nat) + (rng >> 24) % sizeof(ct_nat)
                              : rng & 1 ? h.nat6_at + (rng >> 24) % (8 * sizeof(ct_addr6)) : h.hot_at + ref * sizeof(ct_hot) + (rng >> 24) % 24;
            const uint8_t byte = (uint8_t)(rng >> 56);
            CHECK(pwrite(fd, &byte, 1, (off_t)at) == 1);
        }
        close(fd);
        open_at(path, 40, 20, true, true);
        unbroken("damaged, taken over");
        for (uint16_t i = 0; i < 24; i++) {
            if (i & 1)
                talk(KIND_UDP, 1 + i / 2 % 2, SERVER, SHOWN, 8080, (uint16_t)(4100 + i / 2), true, 0);
            else
                talk(KIND_UDP, 1 + i / 2 % 2, CLIENT, NAME, (uint16_t)(4000 + i / 2), 80, false, 0);
            (void)rig_judge(&r, &f);
            unbroken("damaged, in use");
        }
        rig_close(&r);
    }
    (void)unlink(path);
}

int main(void)
{
    snprintf(path, sizeof path, "/tmp/pal-nat-%d", (int)getpid());
    test_both_sides();
    test_errors();
    test_one_owner();
    test_ends();
    test_bursts();
    test_same_tag();
    test_many();
    test_file();
    return check_end("test_nat");
}
