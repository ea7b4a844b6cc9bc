/* SPDX-License-Identifier: Apache-2.0 */
#include "support/host_rig.h"

#include "../engine/host_flows.c"
#include "check.h"

#define MARK 0xabcdefu

static const uint8_t any[16];

/* A UDP frame from host `from`, vNIC from - 1, to host `to`. */
static void udp(frame *f, uint32_t family, uint8_t from, uint8_t to, uint16_t sport)
{
    frame_udp(f, family, from, to, sport, 53, "what?", 5);
    mac_of(f->b, to);
    mac_of(f->b + 6, from);
    if (segment_of(from) != segment_of(to))
        memcpy(f->b, gateway_mac, 6);
}

static host_rig x;

static void open_allowing(void)
{
    const pal_rule rule = rig_rule(0, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    host_rig_open(&x, PAL_GUARD_SPOOF);
    for (uint32_t i = 0; i < 4; i++)
        rig_commit(&x.r, i, &rule, 1, false);
}

static uint32_t seen_count(struct host_capture *c, pal_seen *last)
{
    static uint8_t out[1 << 16];
    uint32_t n = 0;
    for (uint64_t got; (got = capture_read(c, out, sizeof out)) > 0;)
        for (uint64_t at = 0; at < got; n++) {
            memcpy(last, out + at, sizeof *last);
            CHECK(last->len <= last->wire);
            at += (sizeof *last + last->len + 7) & ~7ull;
        }
    return n;
}

/* The ring goes round, of every size of packet, and nothing is read beyond it. */
static void test_capture(void)
{
    check_where = "captures";
    open_allowing();
    frame f;
    pal_seen s;
    for (uint32_t snap = 1; snap <= PAL_SNAP_MAX; snap = snap * 7 + 1) {
        const pal_capture_options o[2] = {{.vnic = 0, .snap = snap, .proto = PAL_PROTO_ANY}, {.vnic = PAL_UPLINK, .snap = snap, .proto = PROTO_UDP}};
        for (uint32_t i = 0; i < 2; i++)
            host_capture_set(x.w, i, capture_new(&o[i]));
        for (uint32_t i = 0; i < 200; i++) {
            udp(&f, 1 + i % 2, 1, i % 3 ? 2 : 5, (uint16_t)(1000 + i));
            host_rig_send(&x, 0, &f);
            host_rig_forget(&x);
        }
        CHECK_U64(seen_count(host_capture_get(x.w, 0), &s), 200);
        CHECK(s.filter == 0 && s.dir == PAL_DIR_OUT && s.verdict == PAL_ALLOW && s.judged);
        CHECK_U64(seen_count(host_capture_get(x.w, 1), &s), 67);
        CHECK(s.filter == PAL_NO_FILTER && s.outer.family == PAL_FAMILY_V4);
        for (uint32_t i = 0; i < 2; i++) {
            struct host_capture *c = host_capture_get(x.w, i);
            host_capture_set(x.w, i, NULL);
            CHECK_U64(capture_lost(c), 0);
            capture_free(c);
        }
        CHECK(x.w->told == NULL);
    }
    CHECK(host_rig_balanced(&x));
    host_rig_close(&x);
}

/* A trace leaves what it met and nothing else; any bytes may come as one. */
static void test_trace(void)
{
    pal_trace_seen seen[64];
    frame f;
    check_where = "traces";
    open_allowing();
    static const uint8_t stages[2][5] = {{PAL_TRACE_SENT, PAL_TRACE_FILTER, PAL_TRACE_FORWARD, PAL_TRACE_FILTER, PAL_TRACE_DELIVERED},
                                         {PAL_TRACE_SENT, PAL_TRACE_FILTER, PAL_TRACE_ROUTE, PAL_TRACE_FORWARD, PAL_TRACE_ENCAP}};
    for (uint32_t i = 0; i < 2; i++) {
        uint8_t room[HOST_HEADROOM + 256];
        udp(&f, PAL_FAMILY_V4 + i, 1, i ? 6 : 2, 9);
        memcpy(room + HOST_HEADROOM, f.b, f.len);
        host_trace_send(x.w, room + HOST_HEADROOM, f.len, 0, MARK, x.r.now, host_rig_sink, &x);
        CHECK_U64(host_trace_read(x.w, seen, 64), 5);
        for (uint32_t k = 0; k < 5; k++)
            CHECK(seen[k].mark == MARK && seen[k].stage == stages[i][k]);
        CHECK_U64(x.lefts, i);
    }
    CHECK_U64(x.r.w->table.s->created, 0);
    CHECK_U64(x.r.w->received, 0);
    check_where = "a trace to a filter without rules";
    rig_commit(&x.r, 1, NULL, 0, false);
    uint8_t room[HOST_HEADROOM + 256];
    udp(&f, PAL_FAMILY_V4, 1, 2, 9);
    memcpy(room + HOST_HEADROOM, f.b, f.len);
    host_trace_send(x.w, room + HOST_HEADROOM, f.len, 0, MARK, x.r.now, host_rig_sink, &x);
    CHECK_U64(host_trace_read(x.w, seen, 64), 4);
    CHECK(seen[1].verdict == PAL_ALLOW && seen[3].stage == PAL_TRACE_FILTER && seen[3].verdict == PAL_DROP && seen[3].reason == PAL_REASON_NO_RULESET);
    check_where = "what comes marked";
    geneve_header g;
    CHECK(geneve_read(left_bytes(&x, 0), x.left[0].out.len, &g) && g.trace == MARK && g.vnic == 0 && g.vni == 5002);
    check_where = "a trace that comes among others leaves in its turn";
    uint8_t marked[512];
    memcpy(marked, left_bytes(&x, 0), x.left[0].out.len);
    memcpy(marked + g.len, gateway_mac, 6);
    udp(&f, PAL_FAMILY_V4, 1, 6, 9);
    const host_frame vnic = {.data = f.b, .len = f.len, .from = 0};
    const host_frame traced = {.data = marked, .len = x.left[0].out.len, .from = PAL_UPLINK, .outer = {.addr = {172, 16, 0, 2}, .family = PAL_FAMILY_V4}};
    const host_frame among[4] = {vnic, traced, traced, vnic};
    const uint32_t before = x.lefts;
    host_rig_burst(&x, among, 4);
    CHECK_U64(x.lefts, before + 4);
    for (uint32_t i = 0; i < 4; i++)
        CHECK(geneve_read(left_bytes(&x, before + i), x.left[before + i].out.len, &g) && (g.trace == MARK) == (i == 1 || i == 2));
    CHECK(host_rig_balanced(&x));
    CHECK(host_trace_read(x.w, seen, 64) > 0);
    for (uint32_t len = 0; len <= x.left[0].out.len; len++) {
        uint8_t b[512];
        memcpy(b, left_bytes(&x, 0), len);
        const host_frame h = {.data = b, .len = len, .from = PAL_UPLINK, .outer = {.addr = {172, 16, 0, 2}, .family = PAL_FAMILY_V4}};
        host_rig_burst(&x, &h, 1);
    }
    CHECK(host_trace_read(x.w, seen, 64) > 0);
    CHECK(host_rig_balanced(&x));
    host_rig_close(&x);
}

/* Records of the log are bounded, and connections listed in pages. */
static void test_log_and_flows(void)
{
    static pal_log_record out[8192];
    static pal_flow flow[64];
    static uint64_t handle[64];
    frame f;
    pal_log_counts counts = {0};
    check_where = "log and connections";
    open_allowing();
    const uint32_t rule = 0;
    CHECK(pal_engine_stage_logged(x.r.e, &rule, 1) == 0 && pal_engine_commit(x.r.e, 0) != 0);
    for (uint32_t i = 0; i < 40; i++) {
        udp(&f, PAL_FAMILY_V4 + i % 2, 1, 5, (uint16_t)i);
        host_rig_send(&x, 0, &f);
    }
    CHECK_U64(host_log_read(x.w, out, 8192), 40);
    CHECK(out[0].event == PAL_LOG_PACKET && out[0].flow.proto == PROTO_UDP && memcmp(out[0].flow.src, any, 4) != 0);
    uint32_t n, all = 0;
    for (int64_t at = 0; at >= 0; all += n) {
        at = host_flows_read(x.w, (uint32_t)at, flow, 7, &n);
        for (uint32_t i = 0; i < n; i++)
            handle[all + i] = flow[i].number;
    }
    CHECK_U64(all, 40);
    CHECK_U64(host_flows_end(x.w, handle, all), 40);
    CHECK_U64(host_flows_end(x.w, handle, all), 0);
    CHECK_U64(host_log_read(x.w, out, 8192), 40);
    CHECK(out[39].event == PAL_LOG_END && out[39].flow.end_reason == CT_END_CLEARED);
    host_log_counts(x.w, &counts);
    CHECK_U64(counts.lost + counts.refused, 0);
    host_rig_close(&x);
}

/* Of rules whose bits stand in one word of the bitmap, only the logged ones tell. */
static void test_logged_rules(void)
{
    static pal_log_record out[8];
    static const uint32_t logged[] = {1, 6}, asked[] = {0, 1, 2, 5, 6, 7};
    frame f;
    check_where = "which rules are logged";
    open_allowing();
    CHECK(pal_engine_stage_logged(x.r.e, logged, 2) == 0 && pal_engine_commit(x.r.e, 0) != 0);
    for (uint32_t i = 0; i < sizeof asked / sizeof asked[0]; i++) {
        const pal_rule rule = rig_rule(asked[i], PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
        rig_commit(&x.r, 0, &rule, 1, false);
        udp(&f, PAL_FAMILY_V4, 1, 5, (uint16_t)(100 + i));
        host_rig_send(&x, 0, &f);
        CHECK_U64(host_log_read(x.w, out, 8), asked[i] == 1 || asked[i] == 6);
    }
    host_rig_close(&x);
}

int main(void)
{
    test_capture();
    test_trace();
    test_log_and_flows();
    test_logged_rules();
    return check_end("test_watch");
}
