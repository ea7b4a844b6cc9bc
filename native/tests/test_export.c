/* SPDX-License-Identifier: Apache-2.0
 *
 * test_export.c - a vNIC's connections out of one engine and into another: they go on there, and only because they have been
 * told; differences; bytes that are anything at all.
 */
#include "support/rig.h"

#include "../engine/export.c"
#include "../engine/import.c"

#include "check.h"
#include "support/invariants.h"

static rig here, there;
static frame f;

#define HERE 0u
#define THERE 2u

static void commit(rig *r, uint32_t filter, uint32_t first_rule)
{
    pal_rule ftp = rig_rule_port(first_rule, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL | PAL_RULE_TCP_STRICT, PROTO_TCP, 21);
    pal_rule rest = rig_rule(first_rule + 1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL | PAL_RULE_TCP_STRICT);
    pal_rule data = rig_rule_port(first_rule + 2, PAL_ACTION_DROP, 0, PROTO_TCP, 9 * 256 + 9);
    ftp.alg = PAL_ALG_FTP;
    rig_commit(r, filter, (pal_rule[]){ftp, data, rest}, 3, false);
}

static void open_both(void)
{
    pal_engine_options o = rig_options(64, 32);
    char err[256];
    o.flows = PAL_FLOWS_NONE;
    o.nat = 1;
    o.limits.half_open[0] = o.limits.half_open[1] = 1000;
    o.limits.half_open_prefixes = 64;
    CHECK(rig_open_at(&here, &o, NULL, err, sizeof err));
    o.seed[0] = 77;
    CHECK(rig_open_at(&there, &o, NULL, err, sizeof err));
    there.now = here.now + 5000 * RIG_S; /* another machine's clock */
    commit(&here, HERE, 0);
    rig_commit(&there, 0, NULL, 0, false);
    rig_commit(&there, 1, NULL, 0, false);
    commit(&there, THERE, 10);
    CHECK(pal_engine_incarnation(here.e, HERE) != pal_engine_incarnation(there.e, THERE));
}

static void close_both(void)
{
    rig_close(&here);
    rig_close(&there);
}

static pal_judgement judge(rig *r, uint32_t filter)
{
    pal_packet p;
    rig_forget(r);
    rig_parse(r, &p, f.b, f.len, f.len, LINKTYPE_ETHERNET);
    rig_burst(r, &p, 1, filter, 4);
    CHECK(r->outs == 1);
    return r->out[0];
}

static pal_judgement tcp(rig *r, uint32_t filter, uint32_t family, bool back, uint16_t port, uint32_t seq, uint32_t ack, uint8_t flags, const char *text)
{
    frame_tcp(&f, family, back ? 2 : 1, back ? 1 : 2, back ? port : 4000, back ? 4000 : port,
              (tcp_say){.seq = seq, .ack = ack, .flags = flags, .window = 1000, .payload = (const void *)text, .len = (uint32_t)strlen(text)});
    return judge(r, filter);
}

static void establish(uint32_t family, uint16_t port)
{
    CHECK_U64(tcp(&here, HERE, family, false, port, 1000, 0, TCP_SYN, "").ct, PAL_CT_NEW);
    CHECK_U64(tcp(&here, HERE, family, true, port, 5000, 1001, TCP_SYN | TCP_ACK, "").verdict, PAL_ALLOW);
    CHECK_U64(tcp(&here, HERE, family, false, port, 1001, 5001, TCP_ACK, "hello").verdict, PAL_ALLOW);
    CHECK_U64(tcp(&here, HERE, family, true, port, 5001, 1006, TCP_ACK, "hi").verdict, PAL_ALLOW);
}

/* The connection of a UDP packet from port `port` is answered from 10.0.0.3, which sees it come from host 4, port + 100. */
static void translate(rig *r, uint32_t ref, uint32_t family, uint16_t port)
{
    pal_packet p;
    ct_key k;
    frame_udp(&f, family, 3, 4, 5353, (uint16_t)(port + 100), "y", 1);
    rig_parse(r, &p, f.b, f.len, f.len, LINKTYPE_ETHERNET);
    key_from_packet(&k, &p, r->w->table.hot[ref].zone);
    CHECK(nat_begin(&r->w->table, ref, &k));
}

static void fill(void)
{
    establish(PAL_FAMILY_V4, 80);
    establish(PAL_FAMILY_V6, 80);
    establish(PAL_FAMILY_V4, 21);
    for (uint32_t i = 0; i < 6; i++) {
        frame_udp(&f, i & 1 ? PAL_FAMILY_V6 : PAL_FAMILY_V4, 1, 2, (uint16_t)(1000 + i), 53, "x", 1);
        const pal_judgement j = judge(&here, HERE);
        CHECK_U64(j.ct, PAL_CT_NEW);
        if (i >= 4)
            translate(&here, j.ref, i & 1 ? PAL_FAMILY_V6 : PAL_FAMILY_V4, (uint16_t)(1000 + i));
        here.now += 20 * RIG_MS;
    }
    frame_udp(&f, PAL_FAMILY_V4, 2, 1, 53, 1000, "y", 1);
    CHECK_U64(judge(&here, HERE).ct, PAL_CT_ESTABLISHED);
    frame_ping(&f, PAL_FAMILY_V4, 1, 2, false, 7);
    CHECK_U64(judge(&here, HERE).ct, PAL_CT_NEW);
    frame_sctp(&f, 1, 2, 0, SCTP_INIT, 0, 99);
    CHECK_U64(judge(&here, HERE).ct, PAL_CT_NEW);
    frame_ip(&f, PAL_FAMILY_V4, 1, 2, 47, "gre", 3);
    CHECK_U64(judge(&here, HERE).ct, PAL_CT_NEW);
    /* A data connection that FTP has announced, and one more announcement that waits. */
    CHECK_U64(tcp(&here, HERE, PAL_FAMILY_V4, false, 21, 1006, 5003, TCP_ACK, "PORT 10,0,0,1,9,9\r\n").verdict, PAL_ALLOW);
    frame_tcp(&f, PAL_FAMILY_V4, 2, 1, 20, 9 * 256 + 9, (tcp_say){.seq = 1, .flags = TCP_SYN});
    CHECK_U64(judge(&here, HERE).ct, PAL_CT_RELATED);
    CHECK_U64(tcp(&here, HERE, PAL_FAMILY_V4, false, 21, 1025, 5003, TCP_ACK, "PORT 10,0,0,1,9,9\r\n").verdict, PAL_ALLOW);
}

static export_list out_of(rig *r, uint32_t filter, bool expected)
{
    export_list l = {0};
    const uint32_t zone = pal_engine_incarnation(r->e, filter) << ZONE_VRF_BITS;
    for (uint32_t from = 0; from != PAL_NONE;)
        from = export_slice(r->ew, zone, from, 5, &l);
    if (expected)
        export_expectations(r->ew, zone, &l);
    export_finish(&l);
    return l;
}

static const uint32_t rule_there[] = {10, 11, 12};

static uint64_t into(rig *r, uint32_t filter, const uint8_t *bytes, uint64_t n, uint64_t *refused)
{
    export_header h;
    uint64_t taken = 0;
    memcpy(&h, bytes, sizeof h);
    static export_entry entry[256];
    CHECK(n - sizeof h <= sizeof entry);
    memcpy(entry, bytes + sizeof h, n - sizeof h);
    const import_order o = {.header = &h, .entry = entry, .zone = pal_engine_incarnation(r->e, filter) << ZONE_VRF_BITS, .filter = (uint16_t)filter,
                            .rule = rule_there, .rules = 3, .workers = 1};
    rig_stage_clock(r->w, r->now);
    import_entries(r->ew, &o, &taken, refused);
    return taken;
}

static uint8_t bytes[sizeof(export_header) + 256 * sizeof(export_entry)];

/* All of a list, in parts of three. */
static uint64_t bring(const export_list *l)
{
    uint64_t taken = 0, refused = 0;
    for (uint64_t at = 0; at < l->count; at += 3) {
        const uint64_t n = export_write(l, at, 3, bytes);
        CHECK(import_check(bytes, n) == NULL);
        taken += into(&there, THERE, bytes, n, &refused);
    }
    CHECK_U64(refused, 0);
    CHECK(invariant_broken(there.w) == NULL);
    return taken;
}

/* The same connections in both, but for what each knows better. */
static void same_in_both(void)
{
    export_list a = out_of(&here, HERE, true), b = out_of(&there, THERE, true);
    CHECK_U64(a.count, b.count);
    for (uint64_t i = 0; i < a.count; i++) {
        bool found = false;
        for (uint64_t k = 0; k < b.count && !found; k++) {
            export_entry x = a.entry[i], y = b.entry[k];
            if (!entry_same_ends(&x, &y) || x.what != y.what)
                continue;
            found = true;
            CHECK_U64(y.rule, x.rule == PAL_NONE ? PAL_NONE : x.rule + 10);
            if (x.what == EXPORT_CONNECTION)
                CHECK_U64((uint32_t)(y.deadline - (uint32_t)b.now), (uint32_t)(x.deadline - (uint32_t)a.now));
            x.source = y.source, x.rule = y.rule, x.deadline = y.deadline, x.offered = y.offered;
            CHECK(memcmp(&x, &y, sizeof x) == 0);
        }
        CHECK(found);
    }
    free(a.entry);
    free(b.entry);
}

static void go_on(void)
{
    const uint64_t before = there.w->count[PAL_ALLOW][PAL_REASON_STATE];
    for (uint32_t family = PAL_FAMILY_V4; family <= PAL_FAMILY_V6; family++) {
        CHECK_U64(tcp(&there, THERE, family, false, 80, 1006, 5003, TCP_ACK, "more").ct, PAL_CT_ESTABLISHED);
        CHECK_U64(tcp(&there, THERE, family, true, 80, 5003, 1010, TCP_ACK, "yes").ct, PAL_CT_ESTABLISHED);
    }
    CHECK_U64(there.w->count[PAL_ALLOW][PAL_REASON_STATE], before + 4);
    /* Strict TCP, and out of any window: not everything goes on. */
    CHECK_U64(tcp(&there, THERE, PAL_FAMILY_V4, false, 81, 1006, 5003, TCP_ACK, "more").reason, PAL_REASON_TCP_STRICT);
    CHECK_U64(tcp(&there, THERE, PAL_FAMILY_V4, false, 80, 900000000, 5003, TCP_ACK, "far").reason, PAL_REASON_TCP_WINDOW);
    frame_udp(&f, PAL_FAMILY_V6, 2, 1, 53, 1001, "y", 1);
    CHECK_U64(judge(&there, THERE).ct, PAL_CT_ESTABLISHED);
    for (uint32_t family = PAL_FAMILY_V4; family <= PAL_FAMILY_V6; family++) { /* by the tuple of the side that answers */
        frame_udp(&f, family, 3, 4, 5353, family == PAL_FAMILY_V4 ? 1104 : 1105, "y", 1);
        const pal_judgement j = judge(&there, THERE);
        CHECK(j.ct == PAL_CT_ESTABLISHED && j.reply);
    }
    frame_ping(&f, PAL_FAMILY_V4, 2, 1, true, 7);
    CHECK_U64(judge(&there, THERE).ct, PAL_CT_ESTABLISHED);
    /* FTP's data: a packet of the connection that is there, and the one that was announced and not begun. */
    frame_tcp(&f, PAL_FAMILY_V4, 1, 2, 9 * 256 + 9, 20, (tcp_say){.seq = 9, .ack = 2, .flags = TCP_SYN | TCP_ACK});
    CHECK_U64(judge(&there, THERE).verdict, PAL_ALLOW);
    frame_tcp(&f, PAL_FAMILY_V4, 2, 1, 1020, 9 * 256 + 9, (tcp_say){.seq = 1, .flags = TCP_SYN});
    CHECK_U64(judge(&there, THERE).ct, PAL_CT_RELATED);
    frame_tcp(&f, PAL_FAMILY_V4, 2, 1, 1021, 9 * 256 + 9, (tcp_say){.seq = 1, .flags = TCP_SYN});
    CHECK_U64(judge(&there, THERE).verdict, PAL_DROP);
    CHECK(invariant_broken(there.w) == NULL);
}

static void test_they_go_on(void)
{
    check_where = "they go on";
    open_both();
    fill();
    export_list l = out_of(&here, HERE, true);
    CHECK_U64(l.count, 3 + 6 + 3 + 1 + 1);
    CHECK_U64(bring(&l), l.count);
    CHECK_U64(there.w->table.s->used[0] + there.w->table.s->used[1], l.count - 1);
    same_in_both();
    pal_rule_count counted[64] = {{0}};
    pal_engine_rules_read(there.e, counted, 64);
    for (uint32_t i = 0; i < 64; i++)
        CHECK(counted[i].packets == 0 && counted[i].bytes == 0); /* they were counted where they were */
    go_on();
    pal_engine_rules_read(there.e, counted, 64);
    CHECK_U64(counted[11].packets, 4 + 2 + 2 + 2); /* and from here on here: TCP, UDP and ICMP, and the two that it refused */
    free(l.entry);
    /* All of it runs out like any other. */
    there.now += 60 * 86400 * RIG_S;
    tcp(&there, THERE, PAL_FAMILY_V4, false, 99, 1, 0, TCP_SYN, "");
    CHECK_U64(there.w->table.s->used[0] + there.w->table.s->used[1], 1);
    CHECK(invariant_broken(there.w) == NULL);
    close_both();
}

static void test_difference(void)
{
    check_where = "difference";
    open_both();
    fill();
    export_list before = out_of(&here, HERE, false);
    for (uint32_t again = 0; again < 2; again++)
        CHECK_U64(bring(&before), before.count);
    /* One ends, one goes on, some begin, UDP that nobody answered runs out. */
    CHECK_U64(tcp(&here, HERE, PAL_FAMILY_V6, false, 80, 1006, 5003, TCP_ACK, "and more").verdict, PAL_ALLOW);
    CHECK_U64(tcp(&here, HERE, PAL_FAMILY_V4, true, 80, 5003, 1006, TCP_ACK | TCP_FIN, "").verdict, PAL_ALLOW);
    frame_tcp(&f, PAL_FAMILY_V4, 1, 2, 9 * 256 + 9, 20, (tcp_say){.seq = 9, .ack = 2, .flags = TCP_SYN | TCP_ACK});
    CHECK_U64(judge(&here, HERE).verdict, PAL_ALLOW);
    here.now += 62 * RIG_S;
    there.now += 62 * RIG_S;
    for (uint16_t port = 2000; port < 2010; port++) {
        frame_udp(&f, PAL_FAMILY_V4, 1, 2, port, 53, "x", 1);
        const pal_judgement j = judge(&here, HERE);
        CHECK_U64(j.ct, PAL_CT_NEW);
        if (port & 1)
            translate(&here, j.ref, PAL_FAMILY_V4, port);
    }
    CHECK_U64(tcp(&here, HERE, PAL_FAMILY_V4, false, 21, 1044, 5003, TCP_ACK, "PORT 10,0,0,1,9,9\r\n").verdict, PAL_ALLOW);
    export_list now = out_of(&here, HERE, true), difference;
    CHECK(export_difference(&before, &now, &difference));
    CHECK(difference.count > 0 && difference.count < before.count + now.count);
    CHECK_U64(bring(&difference), difference.count);
    same_in_both();
    export_list none;
    CHECK(export_difference(&now, &now, &none));
    CHECK_U64(none.count, 0);
    free(before.entry);
    free(now.entry);
    free(difference.entry);
    free(none.entry);
    close_both();
}

/* A host whose tables have no room for second tuples takes none that needs one, and takes the others. */
static void test_no_nat(void)
{
    check_where = "no room for second tuples";
    open_both();
    fill();
    export_list l = out_of(&here, HERE, false);
    uint64_t translated = 0, refused = 0, n = export_write(&l, 0, l.count, bytes);
    for (uint64_t i = 0; i < l.count; i++)
        translated += l.entry[i].translated;
    CHECK_U64(translated, 2);
    rig_close(&there);
    pal_engine_options o = rig_options(64, 32);
    char err[256];
    CHECK(rig_open_at(&there, &o, NULL, err, sizeof err));
    commit(&there, THERE, 10);
    CHECK_U64(into(&there, THERE, bytes, n, &refused), l.count - 2);
    CHECK_U64(refused, 2);
    CHECK(invariant_broken(there.w) == NULL);
    free(l.entry);
    close_both();
}

/* No room: the answered ones stay, and what finds none is counted. */
static void test_full(void)
{
    check_where = "full";
    open_both();
    fill();
    export_list l = out_of(&here, HERE, true);
    rig_close(&there);
    pal_engine_options o = rig_options(2, 1);
    char err[256];
    CHECK(rig_open_at(&there, &o, NULL, err, sizeof err));
    commit(&there, THERE, 10);
    uint64_t refused = 0, n = export_write(&l, 0, l.count, bytes), taken = into(&there, THERE, bytes, n, &refused);
    CHECK_U64(taken + refused, l.count);
    CHECK(refused > 0);
    CHECK(invariant_broken(there.w) == NULL);
    free(l.entry);
    close_both();
}

/* Bytes that are anything: taken as a whole or not at all, and judging goes on. */
static void test_hostile(void)
{
    check_where = "hostile";
    open_both();
    fill();
    export_list l = out_of(&here, HERE, true);
    static uint8_t good[sizeof bytes], first[sizeof bytes];
    const uint64_t n = export_write(&l, 0, l.count, good);
    uint64_t rng = 88172645463325252ull, refused = 0;
    uint32_t sound = 0;
    CHECK(import_check(good, n - 1) && import_check(good, sizeof(export_header) - 1) && import_check(good, n - sizeof(export_entry)));
    for (uint32_t i = 0; i < offsetof(export_header, now); i++) { /* magic, version, layout */
        memcpy(first, good, n);
        first[i] ^= 1;
        CHECK(import_check(first, n) != NULL);
    }
    for (uint32_t round = 0; round < 3000; round++) {
        memcpy(bytes, good, n);
        for (uint32_t i = 0; i <= round % 5; i++) {
            rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
            bytes[sizeof(export_header) - 16 + rng % (n - sizeof(export_header) + 16)] = (uint8_t)(rng >> 40);
        }
        fenced held = fence(bytes, n);
        const char *why = import_check(held.data, n);
        unfence(held);
        if (why)
            continue;
        sound++;
        (void)into(&there, THERE, bytes, n, &refused);
        if (round % 8 == 0) {
            const char *broken = invariant_broken(there.w);
            if (broken)
                fprintf(stderr, "round %u: %s\n", round, broken);
            CHECK(broken == NULL);
        }
        const uint32_t family = round & 1 ? PAL_FAMILY_V6 : PAL_FAMILY_V4;
        (void)tcp(&there, THERE, family, round & 2, 80, 1006, 5003, (uint8_t)(rng >> 8 & (TCP_SYN | TCP_ACK | TCP_FIN | TCP_RST)), "x");
        frame_tcp(&f, PAL_FAMILY_V4, 2, 1, 20, 9 * 256 + 9, (tcp_say){.seq = 1, .flags = TCP_SYN});
        (void)judge(&there, THERE);
        there.now += rng % 64 * RIG_S;
    }
    CHECK(sound > 300 && sound < 3000);
    CHECK(invariant_broken(there.w) == NULL);
    free(l.entry);
    close_both();
}

int main(void)
{
    test_they_go_on();
    test_difference();
    test_no_nat();
    test_full();
    test_hostile();
    return check_end("test_export");
}
