/* SPDX-License-Identifier: Apache-2.0
 *
 * test_table_file.c - a connection table in a file: made, filled, closed, taken over again and again; files that are
 * damaged or of another shape.
 */
#include "support/rig.h"

#include <fcntl.h>
#include <sys/wait.h>

#include "check.h"
#include "support/invariants.h"

static char path[64];
static rig r;
static frame f;

static void reopen(uint32_t cap4, uint32_t cap6)
{
    pal_engine_options o = rig_options(cap4, cap6);
    char err[256] = "";
    if (!rig_open_at(&r, &o, path, err, sizeof err)) {
        fprintf(stderr, "reopen: %s\n", err);
        exit(1);
    }
    /* The file's connections are those of filter 0 under epoch 1: the same rules make them live on. */
    pal_rule all = rig_rule_port(0, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL, PROTO_TCP, 21), rest = rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    all.alg = PAL_ALG_FTP;
    rig_commit(&r, 0, (pal_rule[]){all, rest}, 2, true);
}

static bool refused(uint32_t cap4, uint32_t cap6, const char *why)
{
    pal_engine_options o = rig_options(cap4, cap6);
    char err[256] = "";
    static rig x;
    bool opened = rig_open_at(&x, &o, path, err, sizeof err);
    if (opened)
        rig_close(&x);
    return !opened && strstr(err, why);
}

static void broken_is(const char *where)
{
    const char *broken = invariant_broken(r.w);
    check_where = where;
    if (broken)
        fprintf(stderr, "%s: not so: %s\n", where, broken);
    CHECK(broken == NULL);
}

static void udp(uint32_t family, uint8_t src, uint8_t dst, uint16_t sport) { frame_udp(&f, family, src, dst, sport, 53, "x", 1); }

static void test_again_and_again(void)
{
    check_where = "again and again";
    (void)unlink(path);
    reopen(40, 20);
    for (uint32_t i = 0; i < 30; i++) {
        udp(i % 3 ? PAL_FAMILY_V4 : PAL_FAMILY_V6, 1, 2, (uint16_t)(1000 + i));
        CHECK_U64(rig_judge(&r, &f).ct, PAL_CT_NEW);
        r.now += 10 * RIG_MS;
    }
    frame_udp(&f, PAL_FAMILY_V4, 2, 1, 53, 1001, "x", 1);
    CHECK_U64(rig_judge(&r, &f).ct, PAL_CT_ESTABLISHED);
    uint64_t now = r.now;
    for (uint32_t round = 0; round < 4; round++) {
        rig_close(&r);
        reopen(40, 20);
        r.now = now += 10 * RIG_MS;
        CHECK(r.ew->region.attached);
        CHECK_U64(r.w->table.s->used[0], 20);
        CHECK_U64(r.w->table.s->used[1], 10);
        broken_is("taken over");
        /* The oldest unanswered IPv4 connection is still the oldest. */
        CHECK_U64(r.w->table.hot[r.w->table.s->oldest[0]].port[0] + r.w->table.hot[r.w->table.s->oldest[0]].port[1], 53 + (round ? 1000 + 1 + 1 : 1002));
        for (uint32_t i = 0; i < 30; i++) {
            ct_key k;
            pal_packet p;
            udp(i % 3 ? PAL_FAMILY_V4 : PAL_FAMILY_V6, 1, 2, (uint16_t)(1000 + i));
            rig_parse(&r, &p, f.b, f.len, f.len, LINKTYPE_ETHERNET);
            key_from_packet(&k, &p, 1u << ZONE_VRF_BITS);
            CHECK(ct_find(&r.w->table, &k, key_hash(&k, r.w->table.s->seed)) != PAL_NONE);
        }
    }
    /* Answers find them, new ones come and go, and all runs out in the end. */
    frame_udp(&f, PAL_FAMILY_V4, 2, 1, 53, 1002, "x", 1);
    CHECK_U64(rig_judge(&r, &f).ct, PAL_CT_ESTABLISHED);
    for (uint32_t i = 0; i < 60; i++) {
        udp(PAL_FAMILY_V4, 3, 4, (uint16_t)(2000 + i));
        CHECK_U64(rig_judge(&r, &f).verdict, PAL_ALLOW);
        broken_is("full");
    }
    r.now += 3600 * RIG_S;
    for (uint32_t i = 0; i < 80; i++) {
        udp(PAL_FAMILY_V4, 3, 4, 9999);
        (void)rig_judge(&r, &f);
    }
    CHECK_U64(r.w->table.s->used[0] + r.w->table.s->used[1], 1);
    broken_is("run out");
    rig_close(&r);
}

/* The new process's first epoch is not the old one's, whatever its number. */
static void test_judged_again(void)
{
    check_where = "judged again";
    (void)unlink(path);
    reopen(40, 20);
    udp(PAL_FAMILY_V4, 1, 2, 1000);
    CHECK_U64(rig_judge(&r, &f).ct, PAL_CT_NEW);
    rig_close(&r);
    pal_engine_options o = rig_options(40, 20);
    char err[256];
    CHECK(rig_open_at(&r, &o, path, err, sizeof err));
    pal_rule drop = rig_rule(3, PAL_ACTION_DROP, 0);
    rig_commit(&r, 0, &drop, 1, true);
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_POLICY_CHANGE);
    rig_close(&r);
}

static void test_other_shapes(void)
{
    check_where = "other shapes";
    (void)unlink(path);
    reopen(40, 20);
    rig_close(&r);
    CHECK(refused(41, 20, "another version, layout or capacity"));
    CHECK(refused(40, 21, "another version, layout or capacity"));
    int fd = open(path, O_RDWR);
    uint32_t other = 0;
    CHECK(pread(fd, &other, 4, 12) == 4);
    other ^= 1;
    CHECK(pwrite(fd, &other, 4, 12) == 4);
    CHECK(refused(40, 20, "another version, layout or capacity"));
    other ^= 1;
    CHECK(pwrite(fd, &other, 4, 12) == 4 && ftruncate(fd, 8192) == 0);
    CHECK(refused(40, 20, "another version, layout or capacity"));
    CHECK(pwrite(fd, "text", 4, 0) == 4);
    CHECK(refused(40, 20, "not a connection table"));
    close(fd);
    (void)unlink(path);
    CHECK(symlink("/dev/null", path) == 0 && refused(40, 20, path));
    (void)unlink(path);
}

/* Bytes of entries are anything at all: taken over or not, lists agree and judging goes on. */
static void test_damaged(void)
{
    uint64_t rng = 88172645463325252ull;
    for (uint32_t round = 0; round < 60; round++) {
        check_where = "damaged";
        (void)unlink(path);
        reopen(24, 12);
        for (uint32_t i = 0; i < 12; i++) {
            udp(i & 1 ? PAL_FAMILY_V6 : PAL_FAMILY_V4, 1, 2, (uint16_t)(1000 + i));
            (void)rig_judge(&r, &f);
        }
        frame_tcp(&f, PAL_FAMILY_V4, 1, 2, 4000, 21, (tcp_say){.seq = 1, .flags = TCP_ACK, .payload = "PORT 10,0,0,1,9,9\r\n", .len = 19});
        CHECK_U64(rig_judge(&r, &f).verdict, PAL_ALLOW);
        frame_tcp(&f, PAL_FAMILY_V4, 2, 1, 20, 9 * 256 + 9, (tcp_say){.seq = 1, .flags = TCP_SYN});
        CHECK_U64(rig_judge(&r, &f).ct, PAL_CT_RELATED);
        table_header h = header_make(24, 12, false);
        rig_close(&r);
        int fd = open(path, O_RDWR);
        for (uint32_t i = 0; i <= round; i++) {
            rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
            /* Lists' heads, entries, cold parts: all but the seed. */
            uint64_t from = h.hot_at, span = h.addr6_at - h.hot_at;
            uint8_t byte = (uint8_t)(rng >> 56);
            uint64_t at = rng % 3 ? h.hot_at + rng % (16 * sizeof(ct_hot)) : rng % 7 ? h.cold_at + rng % (16 * sizeof(ct_cold)) : from + rng % span;
            CHECK(pwrite(fd, &byte, 1, (off_t)at) == 1);
        }
        close(fd);
        reopen(24, 12);
        r.now += RIG_S;
        broken_is("damaged, taken over");
        for (uint32_t i = 0; i < 60; i++) {
            if (i % 5 == 4)
                frame_tcp(&f, PAL_FAMILY_V4, 2, 1, 20, 9 * 256 + 9, (tcp_say){.seq = 1, .flags = TCP_SYN});
            else
                udp(i & 1 ? PAL_FAMILY_V6 : PAL_FAMILY_V4, 1, 2, (uint16_t)(1000 + i));
            (void)rig_judge(&r, &f);
            broken_is("damaged, in use");
        }
        rig_close(&r);
    }
    (void)unlink(path);
}

static pal_judgement segment(uint8_t src, uint32_t seq, uint32_t ack, uint8_t flags, uint32_t len)
{
    frame_tcp(&f, PAL_FAMILY_V4, src, 3 - src, src == 1 ? 4000 : 80, src == 1 ? 80 : 4000,
              (tcp_say){.seq = seq, .ack = ack, .flags = flags, .window = 1000, .payload = f.b + 1000, .len = len, .scale = flags & TCP_SYN ? 3 : 0});
    return rig_judge(&r, &f);
}

/* An established connection, scale 2 both ways: one maximum window is 65,535 * 4. 1 has sent up to 1101, 2 up to 5201. */
static uint32_t established_then_taken_over(void)
{
    (void)unlink(path);
    reopen(40, 20);
    CHECK_U64(segment(1, 1000, 0, TCP_SYN, 0).ct, PAL_CT_NEW);
    CHECK_U64(segment(2, 5000, 1001, TCP_SYN | TCP_ACK, 0).reason, PAL_REASON_STATE);
    CHECK_U64(segment(1, 1001, 5001, TCP_ACK, 100).reason, PAL_REASON_STATE);
    CHECK_U64(segment(2, 5001, 1101, TCP_ACK, 200).reason, PAL_REASON_STATE);
    uint64_t now = r.now;
    rig_close(&r);
    reopen(40, 20);
    r.now = now;
    pal_packet p;
    ct_key k;
    rig_parse(&r, &p, f.b, f.len, f.len, LINKTYPE_ETHERNET);
    key_from_packet(&k, &p, 1u << ZONE_VRF_BITS);
    uint32_t ref = ct_find(&r.w->table, &k, key_hash(&k, r.w->table.s->seed));
    CHECK(ref != PAL_NONE && (r.w->table.hot[ref].state & CT_RESYNC));
    return ref;
}

static void test_resync(void)
{
    const uint32_t reach = 65535u << 2;
    check_where = "resync";
    /* Within one maximum window of what was known, both ways; farther is refused. */
    uint32_t ref = established_then_taken_over();
    CHECK_U64(segment(1, 1101 + reach + 1, 5201, TCP_ACK, 0).reason, PAL_REASON_TCP_WINDOW);
    CHECK_U64(segment(1, 1101 + reach, 5201, TCP_ACK, 1).reason, PAL_REASON_TCP_WINDOW);
    CHECK_U64(segment(1, 1101 - reach - 1, 5201, TCP_ACK, 0).reason, PAL_REASON_TCP_WINDOW);
    CHECK_U64(segment(1, 1101, 5001 + reach + 1, TCP_ACK, 0).reason, PAL_REASON_TCP_ACK);
    CHECK_U64(segment(1, 1101, 5001 - reach - 1, TCP_ACK, 0).reason, PAL_REASON_TCP_ACK);
    CHECK_U64(segment(1, 1101 + reach, 5001 + reach, TCP_ACK, 0).reason, PAL_REASON_STATE);
    const ct_hot *h = &r.w->table.hot[ref];
    CHECK_U64(h->half[0].end, 1101 + reach);
    CHECK_U64(h->half[1].end, 5001 + reach); /* acknowledged, so it was sent */
    CHECK_U64(segment(1, 1101 + reach, 5001 + reach, TCP_ACK, 0).reason, PAL_REASON_STATE);
    CHECK(h->state & CT_RESYNC); /* two of one end are not enough */
    CHECK_U64(segment(2, 5001 + reach, 1101 + reach, TCP_ACK, 10).reason, PAL_REASON_STATE);
    CHECK_U64(segment(2, 5011 + reach, 1101 + reach, TCP_ACK, 10).reason, PAL_REASON_STATE);
    CHECK_U64(h->state, CT_ESTABLISHED);
    CHECK_U64(segment(2, 5021 + 2 * reach, 1101 + reach, TCP_ACK, 10).reason, PAL_REASON_TCP_WINDOW);
    CHECK_U64(segment(2, 5021 + reach, 1102 + reach, TCP_ACK, 10).reason, PAL_REASON_TCP_ACK);
    broken_is("resync");
    rig_close(&r);
    /* Two of each end, however many the other has sent before. */
    ref = established_then_taken_over();
    for (uint32_t i = 0; i < 5; i++) {
        CHECK_U64(segment(1, 1101, 5201, TCP_ACK, 0).reason, PAL_REASON_STATE);
        CHECK(r.w->table.hot[ref].state & CT_RESYNC);
    }
    (void)segment(2, 5201, 1101, TCP_ACK, 0);
    CHECK(r.w->table.hot[ref].state & CT_RESYNC);
    (void)segment(2, 5201, 1101, TCP_ACK, 0);
    CHECK_U64(segment(2, 5201 + reach, 1101, TCP_ACK, 0).reason, PAL_REASON_TCP_WINDOW);
    rig_close(&r);
    /* Ten seconds from the first packet that meets one, to the tick. */
    for (uint32_t late = 0; late < 2; late++) {
        ref = established_then_taken_over();
        r.now += 3600 * RIG_S;
        CHECK_U64(segment(1, 1101, 5201, TCP_ACK, 0).reason, PAL_REASON_STATE);
        r.now += 10 * RIG_S + late * 10 * RIG_MS;
        CHECK_U64(segment(1, 1101 + 9000, 5201, TCP_ACK, 0).reason, late ? PAL_REASON_TCP_WINDOW : PAL_REASON_STATE);
        CHECK(late == !(r.w->table.hot[ref].state & CT_RESYNC));
        rig_close(&r);
    }
    /* They begin with a packet of such a connection: an ICMP error about another is none. */
    (void)established_then_taken_over();
    udp(PAL_FAMILY_V4, 1, 2, 1000);
    CHECK_U64(rig_judge(&r, &f).ct, PAL_CT_NEW);
    uint8_t rest[4 + 28] = {0};
    memcpy(rest + 4, f.b + f.l3, 28);
    frame_icmp(&f, PAL_FAMILY_V4, 2, 1, 3, 3, rest, sizeof rest);
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_RELATED);
    r.now += 11 * RIG_S;
    CHECK_U64(segment(1, 1101 + 9000, 5201, TCP_ACK, 0).reason, PAL_REASON_STATE);
    rig_close(&r);
    /* An RST is believed where its receiver's or its sender's number is known exactly, else it is for the receiver to challenge. */
    ref = established_then_taken_over();
    CHECK_U64(segment(2, 5201 + reach + 1, 0, TCP_RST, 0).reason, PAL_REASON_TCP_RST);
    CHECK_U64(segment(2, 5201 + 500, 0, TCP_RST, 0).reason, PAL_REASON_STATE);
    CHECK_U64(ct_state_of(&r.w->table.hot[ref]), CT_ESTABLISHED);
    CHECK_U64(segment(2, 5201, 0, TCP_RST, 0).reason, PAL_REASON_STATE);
    CHECK_U64(ct_state_of(&r.w->table.hot[ref]), CT_CLOSED);
    rig_close(&r);
    /* Two SYNs that met, each acknowledged: windows are known before either end has said more. */
    (void)unlink(path);
    reopen(40, 20);
    CHECK_U64(segment(1, 1000, 0, TCP_SYN, 0).ct, PAL_CT_NEW);
    CHECK_U64(segment(2, 5000, 0, TCP_SYN, 0).reason, PAL_REASON_STATE);
    CHECK_U64(segment(2, 5000, 1001, TCP_SYN | TCP_ACK, 0).reason, PAL_REASON_STATE);
    CHECK_U64(segment(1, 1000, 5001, TCP_SYN | TCP_ACK, 0).reason, PAL_REASON_STATE);
    CHECK_U64(r.w->table.hot[0].state, CT_SYN_RECEIVED);
    rig_close(&r);
    reopen(40, 20);
    CHECK_U64(r.w->table.hot[0].state, CT_SYN_RECEIVED | CT_RESYNC);
    rig_close(&r);
    /* What has no windows is in no RESYNC: picked up in mid-stream, a SYN alone, UDP. */
    (void)unlink(path);
    reopen(40, 20);
    (void)segment(1, 1000, 1, TCP_ACK, 0);
    (void)segment(2, 1, 1000, TCP_ACK, 0);
    frame_tcp(&f, PAL_FAMILY_V4, 1, 2, 4001, 80, (tcp_say){.seq = 1, .flags = TCP_SYN});
    (void)rig_judge(&r, &f);
    udp(PAL_FAMILY_V4, 1, 2, 1000);
    (void)rig_judge(&r, &f);
    CHECK_U64(r.w->table.s->used[0], 3);
    rig_close(&r);
    reopen(40, 20);
    for (uint32_t i = 0; i < 40; i++)
        CHECK(!(r.w->table.hot[i].state & CT_RESYNC));
    rig_close(&r);
    (void)unlink(path);
}

/* A table has one owner: neither another process nor another engine may map it, and the owner is not disturbed. */
static void test_one_owner(void)
{
    check_where = "one owner";
    (void)unlink(path);
    reopen(40, 20);
    udp(PAL_FAMILY_V4, 1, 2, 1000);
    CHECK_U64(rig_judge(&r, &f).ct, PAL_CT_NEW);
    CHECK(refused(40, 20, "another process is using"));
    pid_t child = fork();
    if (child == 0)
        _exit(refused(40, 20, "another process is using") ? 0 : 1);
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK_U64(rig_judge(&r, &f).reason, PAL_REASON_STATE);
    broken_is("one owner");
    rig_close(&r);
    reopen(40, 20); /* closing gave it back */
    CHECK(r.ew->region.attached);
    rig_close(&r);
    (void)unlink(path);
}

/* A parent whose entry is unsound takes its child's link with it. */
static void test_child_of_unsound(void)
{
    for (uint32_t damage = 0; damage < 3; damage++) {
        check_where = "child of an unsound parent";
        (void)unlink(path);
        reopen(24, 12);
        frame_tcp(&f, PAL_FAMILY_V4, 1, 2, 4000, 21, (tcp_say){.seq = 1, .flags = TCP_ACK, .payload = "PORT 10,0,0,1,9,9\r\n", .len = 19});
        uint32_t parent = rig_judge(&r, &f).ref;
        frame_tcp(&f, PAL_FAMILY_V4, 2, 1, 20, 9 * 256 + 9, (tcp_say){.seq = 1, .flags = TCP_SYN});
        uint32_t child = rig_judge(&r, &f).ref;
        CHECK(parent != PAL_NONE && child != PAL_NONE && parent != child);
        if (damage == 0)
            r.w->table.hot[parent].zone = 0;
        else if (damage == 1)
            r.w->table.cold[child].link[0] = 0x70000000;
        else
            r.w->table.cold[child].link[0] = child;
        r.w->table.cold[child].link[1] += damage == 2 ? r.w->table.cold[child].generation - r.w->table.cold[child].link[1] : 0;
        rig_close(&r);
        reopen(24, 12);
        broken_is("child of an unsound parent, taken over");
        r.now += RIG_S;
        for (uint32_t i = 0; i < 8; i++) {
            frame_tcp(&f, PAL_FAMILY_V4, i & 1 ? 3 : 2, 1, (uint16_t)(20 + i / 2), 9 * 256 + 9, (tcp_say){.seq = 1, .flags = TCP_SYN});
            CHECK_U64(rig_judge(&r, &f).ct, PAL_CT_NEW);
            broken_is("child of an unsound parent, in use");
        }
        rig_close(&r);
    }
    (void)unlink(path);
}

int main(void)
{
    snprintf(path, sizeof path, "/tmp/pal-table-%d", (int)getpid());
    test_again_and_again();
    test_judged_again();
    test_other_shapes();
    test_one_owner();
    test_resync();
    test_child_of_unsound();
    test_damaged();
    return check_end("test_table_file");
}
