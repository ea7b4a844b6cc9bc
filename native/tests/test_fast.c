/* SPDX-License-Identifier: Apache-2.0
 *
 * test_fast.c - the short way for established TCP (fast.h) says and changes what the long way does. Two engines get the
 * same packets; one of them is never offered the short way. Numbers stand at the edges of windows, of scales, of counters
 * and of deadlines, and everything that excludes the short way is met.
 */
#include "support/rig.h"

#include "check.h"
#include "support/invariants.h"

static rig quick, slow;
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

/* The long way, with what a burst looks up beforehand. */
static void judge_slowly(rig *r, pal_packet *p)
{
    const engine_config *config = engine_enter(r->e, 0);
    const pal_filter *filter = &config->filter[0];
    pipeline_clock(r->w, p->clock_ns);
    pal_judgement *j = worker_next(r->w);
    r->w->received++;
    pipeline_judge_whole(r->w, filter, PAL_DIR_OUT, p, NULL, j);
    worker_emit(r->w, j);
    rig_flush(r->w);
    engine_leave(r->e, 0);
}

static void both_judge(uint32_t cut)
{
    pal_packet p;
    rig_parse(&quick, &p, f.b, f.len - cut, f.len, LINKTYPE_ETHERNET);
    rig_burst(&quick, &p, 1, 0, 4);
    rig_parse(&slow, &p, f.b, f.len - cut, f.len, LINKTYPE_ETHERNET);
    judge_slowly(&slow, &p);
    const pal_judgement *a = &quick.out[quick.outs - 1], *b = &slow.out[slow.outs - 1];
    CHECK(memcmp(a, b, sizeof *a) == 0);
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t ref = i ? quick.w->table.cap4 : 0;
        CHECK(memcmp(&quick.w->table.hot[ref], &slow.w->table.hot[ref], sizeof(ct_hot)) == 0);
        CHECK_U64(quick.w->table.cold[ref].rule, slow.w->table.cold[ref].rule);
        CHECK_U64(ct_packets(&quick.w->table, ref, 0), ct_packets(&slow.w->table, ref, 0));
        CHECK_U64(ct_bytes(&quick.w->table, ref, 0), ct_bytes(&slow.w->table, ref, 0));
        CHECK_U64(ct_packets(&quick.w->table, ref, 1), ct_packets(&slow.w->table, ref, 1));
        if (quick.w->table.flow && quick.w->table.hot[ref].state != CT_FREE)
            CHECK(memcmp(&quick.w->table.flow[ref], &slow.w->table.flow[ref], offsetof(ct_flow, proto) + 1) == 0);
    }
    CHECK(memcmp(quick.w->count, slow.w->count, sizeof quick.w->count) == 0);
    rig_forget(&quick);
    rig_forget(&slow);
}

static void segment(uint32_t family, uint32_t dir, uint32_t seq, uint32_t ack, uint8_t flags, uint16_t window, uint8_t scale, uint32_t len)
{
    static const uint8_t zeros[1500];
    frame_tcp(&f, family, dir ? 2 : 1, dir ? 1 : 2, dir ? 80 : 1000, dir ? 1000 : 80,
              (tcp_say){.seq = seq, .ack = ack, .flags = flags, .window = window, .scale = scale, .payload = zeros, .len = len});
}

static void commit(const pal_rule *rule)
{
    rig_commit(&quick, 0, rule, 1, false);
    rig_commit(&slow, 0, rule, 1, false);
}

static void begin(bool flows)
{
    pal_engine_options o = rig_options(20, 20);
    o.flows = flows;
    o.name_rules = flows;
    char err[256];
    CHECK(rig_open_at(&quick, &o, NULL, err, sizeof err) && rig_open_at(&slow, &o, NULL, err, sizeof err));
    pal_rule all = rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    commit(&all);
}

/* An established connection, then numbers around every limit of it. */
static void test_numbers(uint32_t round)
{
    static const uint8_t scales[5] = {0, 1, 2, 8, 15};
    static const int32_t near[] = {-66001, -66000, -65999, -1461, -2, -1, 0, 1, 2, 1460, 65999, 66000, 66001};
    uint32_t family = 1 + (round & 1), c = rng(2) ? 0xfffff000u + rng(8192) : rng(1u << 31), s = rng(2) ? 0x7ffff000u + rng(8192) : rng(1u << 31);
    uint8_t scale_c = scales[rng(5)], scale_s = scales[rng(5)];
    begin(rng(2));
    segment(family, 0, c, 0, TCP_SYN, (uint16_t)(1 + rng(65535)), scale_c, 0);
    both_judge(0);
    segment(family, 1, s, c + 1, TCP_SYN | TCP_ACK, (uint16_t)rng(65536), scale_s, 0);
    both_judge(0);
    segment(family, 0, c + 1, s + 1, TCP_ACK, (uint16_t)rng(65536), 0, 0);
    both_judge(0);
    uint32_t ref = family == 1 ? 0 : quick.w->table.cap4;
    const ct_hot *h = &quick.w->table.hot[ref];
    for (uint32_t i = 0; i < 60 && ct_state_of(h) == CT_ESTABLISHED; i++) {
        uint32_t dir = rng(2), end = h->half[dir].end, other = h->half[!dir].end;
        uint32_t right = h->half[!dir].ack + ((uint32_t)h->half[!dir].edge << scale_of(h, !dir));
        uint32_t behind = end - ((uint32_t)h->half[!dir].window << scale_of(h, !dir));
        uint32_t seq = end, ack = other, len = rng(3) ? rng(1461) : 0;
        switch (rng(6)) {
        case 0:
            seq = right + (uint32_t)near[rng(13)] - (rng(2) ? len : 0);
            break;
        case 1:
            seq = behind + (uint32_t)near[rng(13)] - (rng(2) ? len : 0);
            break;
        case 2:
            ack = other + (uint32_t)near[rng(13)];
            break;
        case 3:
            ack = other - ((uint32_t)h->half[dir].window << scale_of(h, dir)) + (uint32_t)near[rng(13)];
            break;
        case 4:
            seq = end + (uint32_t)near[rng(13)];
            ack = h->half[dir].ack + (uint32_t)near[rng(13)];
            break;
        default:
            break;
        }
        static const uint8_t flags[8] = {TCP_ACK, TCP_ACK, TCP_ACK | TCP_PSH, TCP_ACK | TCP_URG, TCP_ACK | 0xc0, TCP_RST, TCP_SYN, TCP_ACK | TCP_RST};
        uint32_t which = rng(40);
        segment(family, dir, seq, ack, flags[which < 8 ? which : which % 3], (uint16_t)(rng(4) ? rng(65536) : rng(2)), 0, len);
        quick.now += rng(5) ? RIG_MS : 3000 * RIG_MS;
        slow.now = quick.now;
        if (rng(12) == 0) { /* counters about to be carried over */
            uint16_t packets = (uint16_t)(0x7ffe + rng(2));
            uint32_t bytes = 0x7fffffffu - rng(3000);
            for (uint32_t k = 0; k < 2; k++) {
                ct_hot *x = &(k ? &slow : &quick)->w->table.hot[ref];
                x->packets[dir] = packets;
                x->bytes[dir] = bytes;
            }
        }
        both_judge(0);
    }
    rig_close(&quick);
    rig_close(&slow);
}

/* What excludes the short way: another epoch, a deadline reached or nearer, an ALG, FIN, a connection that is picked up. */
static void test_exclusions(void)
{
    for (uint32_t family = 1; family <= 2; family++)
        for (uint32_t what = 0; what < 8; what++) {
            check_where = "exclusions";
            begin(what & 1);
            pal_rule all = rig_rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL), other = rig_rule(2, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
            all.alg = what == 4 ? PAL_ALG_FTP : PAL_ALG_NONE;
            commit(&all);
            if (what == 5) {
                segment(family, 0, 100, 900, TCP_ACK, 500, 0, 0);
            } else {
                segment(family, 0, 99, 0, TCP_SYN, 500, 0, 0);
                both_judge(0);
                segment(family, 1, 899, 100, TCP_SYN | TCP_ACK, 500, 0, 0);
            }
            both_judge(0);
            segment(family, 0, 100, 900, TCP_ACK, 500, 0, 0);
            both_judge(0);
            segment(family, 1, 900, 100, TCP_ACK, 500, 0, 10);
            both_judge(0);
            if (what == 1)
                commit(&other);
            if (what == 2 || what == 3)
                slow.now = quick.now += 43200 * RIG_S + (what == 3 ? 10 * RIG_MS : 0);
            if (what == 6) {
                segment(family, 1, 910, 100, TCP_FIN | TCP_ACK, 500, 0, 0);
                both_judge(0);
            }
            if (what == 7) { /* the timer is shorter now: the deadline comes nearer */
                uint32_t times[TIMER_COUNT];
                memcpy(times, rig_timeouts, sizeof times);
                times[TIMER_TCP_ESTABLISHED] = 100;
                for (uint32_t i = 0; i < 2; i++) {
                    rig *r = i ? &slow : &quick;
                    pal_ruleset *set = NULL;
                    CHECK(pal_cls_ruleset_build(r->e->cls, &all, 1, NULL, 0, &set) == PAL_CLS_OK);
                    CHECK(pal_engine_stage(r->e, 0, set, times, 0) == 0 && pal_engine_commit(r->e, 0) != 0);
                }
                segment(family, 0, 100, 910, TCP_ACK, 500, 0, 0);
                both_judge(0);
            }
            for (uint32_t dir = 0; dir < 2; dir++) {
                segment(family, dir, dir ? 910 : 100, dir ? 100 : 910, TCP_ACK, 500, 0, 4);
                both_judge(dir ? 2 : 0);
            }
            CHECK(invariant_broken(quick.w) == NULL && invariant_broken(slow.w) == NULL);
            rig_close(&quick);
            rig_close(&slow);
        }
}

int main(void)
{
    test_exclusions();
    for (uint32_t round = 0; round < 300; round++) {
        static char where[32];
        snprintf(where, sizeof where, "round %u", round);
        check_where = where;
        rng_state = round;
        test_numbers(round);
    }
    return check_end("test_fast");
}
