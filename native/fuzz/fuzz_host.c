/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_host.c - bytes as frames from vNICs and the underlay, pauses and commits, through two hosts: one takes them one at a time,
 * and has no path cache, the other the same in bursts. Must hold: received = passed + consumed + dropped + held after every burst; what left is the
 * same for both, byte for byte and in the same order; so are counters and connections. Seeds: host_seeds.py.
 */
#include "../tests/support/host_rig.h"

#include "../tests/support/invariants.h"

#include "must.h"

#define FRAMES_MAX 96u
#define BYTES_MAX 1600u
#define POLICIES 16u /* of rules; in the byte that chooses one, the bit above them: none */

typedef struct input {
    const uint8_t *at, *end;
} input;

static uint32_t take(input *in) { return in->at < in->end ? *in->at++ : 0; }

/* Building rules is the dearest of all that is done here: each policy's rule set is built once, and held. */
static void rules_commit(host_rig *x, uint32_t filter, uint32_t policy, pal_ruleset *built[POLICIES])
{
    pal_ruleset **set = &built[policy % POLICIES];
    if (!*set) {
        const uint8_t flags = PAL_RULE_STATEFUL;
        const pal_rule rule[3] = {
            rig_rule_port(0, policy & 1 ? PAL_ACTION_REJECT : PAL_ACTION_ALLOW, flags, PROTO_TCP, 22),
            rig_rule_port(1, policy & 2 ? PAL_ACTION_REJECT : PAL_ACTION_DROP, 0, PROTO_UDP, 53),
            rig_rule(2, policy & 4 ? PAL_ACTION_REJECT : PAL_ACTION_ALLOW, policy & 8 ? 0 : flags)};
        *set = rig_build(&x->r, rule, 3);
    }
    const bool none = policy & POLICIES;
    if (!none)
        pal_cls_ruleset_hold(*set);
    rig_commit_set(&x->r, filter, none ? NULL : *set, false);
}

/* Who: hosts 1 to 6, the gateway, or everybody. */
static void address(frame *f, uint32_t from, uint32_t to)
{
    mac_of(f->b + 6, from);
    if (to == 7)
        memcpy(f->b, gateway_mac, 6);
    else if (to == 0)
        memset(f->b, 0xff, 6);
    else
        mac_of(f->b, to);
}

static void frame_build(input *in, frame *f)
{
    static uint8_t bytes[1600];
    const uint32_t kind = take(in), who = take(in), how = take(in);
    const uint32_t family = kind & 1 ? PAL_FAMILY_V6 : PAL_FAMILY_V4;
    const uint8_t from = (uint8_t)(1 + who % HOSTS), to = (uint8_t)((who >> 3) % 8), ip = how & 0x80 ? 254 : to == 7 ? 1 + how % HOSTS : to;
    const uint16_t port = how & 1 ? 22 : how & 2 ? 53 : 80;
    switch (kind >> 1 & 7) {
    case 0:
        frame_tcp(f, family, from, ip, 1000, port, (tcp_say){.flags = how & 4 ? TCP_SYN : how & 8 ? TCP_SYN | TCP_ACK : TCP_ACK, .seq = how >> 4, .ack = 1});
        break;
    case 1:
        frame_udp(f, family, from, ip, how & 4 ? 67 : 1000, port, bytes, how * 6u);
        break;
    case 2:
        frame_ping(f, family, from, ip, how & 1, 7);
        break;
    case 3: { /* pieces of 24 bytes, the fourth is the last */
        const uint32_t part = how & 3;
        frame_fragment(f, family, from, ip, PROTO_UDP, how >> 2 & 1, part * 24, part != 3, bytes, 24);
        break;
    }
    case 4: { /* ARP */
        memset(f->b, 0, 14 + ARP_BYTES);
        store_be16(f->b + 12, ETHERTYPE_ARP);
        static const uint8_t head[8] = {0, 1, 8, 0, 6, 4, 0, 1};
        memcpy(f->b + 14, head, 8);
        f->b[21] = how & 1 ? ARP_REPLY : ARP_REQUEST;
        mac_of(f->b + 22, from);
        host_addr(f->b + 28, PAL_FAMILY_V4, from);
        host_addr(f->b + 38, PAL_FAMILY_V4, ip);
        f->len = 14 + ARP_BYTES;
        f->l3 = 14;
        f->l4 = 14;
        break;
    }
    case 5: { /* neighbour discovery */
        uint8_t rest[28] = {0};
        host_addr(rest + 4, PAL_FAMILY_V6, ip);
        rest[20] = how & 2 ? ND_TARGET_MAC : ND_SOURCE_MAC;
        rest[21] = 1;
        mac_of(rest + 22, from);
        frame_icmp(f, PAL_FAMILY_V6, from, ip, how & 1 ? ND_ADVERTISE : how & 4 ? ND_ROUTER_ADVERTISE : ND_SOLICIT, 0, rest, 28);
        f->b[f->l3 + 7] = 255;
        break;
    }
    case 6: { /* an ICMP error about something */
        frame inner;
        frame_udp(&inner, family, ip, from, 1000, port, bytes, 8);
        uint8_t rest[64] = {0};
        memcpy(rest + 4, inner.b + inner.l3, 56);
        frame_icmp(f, family, from, ip, family == PAL_FAMILY_V4 ? 3 : 1, 3, rest, 60);
        break;
    }
    default: /* long: over somebody's MTU */
        frame_udp(f, family, from, ip, 1000, port, bytes, 1360 + how % 128);
        break;
    }
    if (how & 0x40 && (kind & 16) && f->l4 > f->l3) { /* TTL */
        f->b[f->l3 + (family == PAL_FAMILY_V4 ? 8 : 7)] = (uint8_t)(how >> 4 & 3);
        frame_ip_sum(f);
    }
    address(f, from, to);
}

/* A frame from a vNIC, or with a Geneve header from a TEP. */
static void frame_take(input *in, uint32_t op, uint8_t *bytes, host_frame *h)
{
    static frame work;
    *h = (host_frame){.data = bytes, .from = op & 3};
    frame_build(in, &work);
    uint32_t head = 0;
    if (op & 4) {
        geneve_header g = {.vni = 5001 + (op & 1), .protocol = GENEVE_ETHERNET, .ours = op & 8, .marks = op & 2};
        geneve_write(bytes, &g);
        head = geneve_bytes(&g);
        h->from = PAL_UPLINK;
        h->outer = (pal_address){.addr = {172, 16, 0, 2}, .family = PAL_FAMILY_V4};
        h->tos = (uint8_t)take(in);
    }
    work.len = min_u32(work.len, BYTES_MAX - head);
    memcpy(bytes + head, work.b, work.len);
    h->len = head + work.len;
    if (op & 16) {
        const uint32_t what = take(in);
        for (uint32_t i = 0; i < (what & 3); i++) {
            const uint32_t at = take(in);
            if (at < h->len)
                bytes[at] = (uint8_t)take(in);
        }
        if (what & 4)
            h->len = min_u32(h->len, take(in));
        if (what & 8)
            h->offload = (host_offload){.gso_size = (uint16_t)(take(in) * 8), .csum_start = (uint16_t)(work.l4 + (what >> 6)),
                                        .csum_offset = (uint16_t)(what & 16 ? 6 : 16), .gso_type = (uint8_t)take(in),
                                        .flags = (uint8_t)(what >> 5 & 3)};
    }
}

static host_rig one, many;
static pal_ruleset *built[2][POLICIES]; /* of `one` and of `many` */
static bool ready;
static uint8_t bytes_of[FRAMES_MAX][BYTES_MAX];
static host_frame waiting[HOST_BURST];

static void burst_out(uint32_t *n)
{
    host_rig_burst(&many, waiting, *n);
    *n = 0;
    MUST(host_rig_balanced(&many));
}

/* The next frame that left, from i on, for the host itself or for others. */
static uint32_t next_left(const host_rig *x, uint32_t i, bool control)
{
    while (i < x->lefts && (x->left[i].out.vnic == HOST_CONTROL) != control)
        i++;
    return i;
}

/* What left, in order: control packets and frames each in theirs, since they go different ways. */
static void same_left(bool control)
{
    uint32_t i = next_left(&one, 0, control), j = next_left(&many, 0, control);
    for (; i < one.lefts && j < many.lefts; i = next_left(&one, i + 1, control), j = next_left(&many, j + 1, control)) {
        host_out x = one.left[i].out, y = many.left[j].out;
        x.data = y.data = NULL;
        MUST(memcmp(&x, &y, sizeof x) == 0);
        MUST(memcmp(left_bytes(&one, i), left_bytes(&many, j), x.len) == 0);
    }
    MUST(i == one.lefts && j == many.lefts);
}

static void same(void)
{
    const pal_host_stats *a = &one.w->stats, *b = &many.w->stats;
    MUST(memcmp(a, b, sizeof *a) == 0);
    MUST(one.lefts == many.lefts && one.bytes_n == many.bytes_n);
    same_left(false);
    same_left(true);
    MUST(memcmp(one.r.w->count, many.r.w->count, sizeof one.r.w->count) == 0);
}

static void begin(host_rig *x)
{
    if (!ready)
        host_rig_open(x, PAL_GUARD_SPOOF | PAL_GUARD_DHCP | PAL_GUARD_RA);
    pal_engine_clear(x->r.e);
    host_rig_forget(x);
    MUST(held_count(x->w->held) == 0); /* the run before has ended so */
    memset(x->w->budget, 0, 5 * sizeof *x->w->budget);
    memset(x->w->learned, 0, LEARN_SLOTS * sizeof *x->w->learned);
    memset(&x->w->stats, 0, sizeof x->w->stats);
    x->r.now = 1000 * RIG_S;
    x->w->now_ns = 0;
    x->w->number_next = 1;
    for (uint32_t i = 0; i < 4; i++)
        rules_commit(x, i, 0, built[x == &many]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char err[256];
    begin(&one);
    begin(&many);
    if (!ready) {
        free(one.w->path);
        one.w->path = NULL;
    }
    ready = true;
    input in = {.at = data, .end = data + size};
    uint32_t frames = 0, n = 0;
    while (in.at < in.end && frames < FRAMES_MAX) {
        const uint32_t op = take(&in);
        if (op >= 0xf8) { /* time goes by; all that waits has gone before: a burst has one time */
            burst_out(&n);
            one.r.now += (uint64_t)take(&in) * RIG_S / 4;
            many.r.now = one.r.now;
            continue;
        }
        if (op >= 0xf0) { /* other rules */
            burst_out(&n);
            const uint32_t policy = take(&in);
            rules_commit(&one, op & 3, policy, built[0]);
            rules_commit(&many, op & 3, policy, built[1]);
            continue;
        }
        if (op >= 0xe8) { /* another fabric */
            burst_out(&n);
            const uint32_t away = op & 3, guards = take(&in) & 7;
            MUST(host_rig_stage(&one, away, guards, err, sizeof err) == 0 && host_rig_stage(&many, away, guards, err, sizeof err) == 0);
            MUST(pal_engine_commit(one.r.e, 0) && pal_engine_commit(many.r.e, 0));
            continue;
        }
        host_frame h;
        frame_take(&in, op, bytes_of[frames], &h);
        frames++;
        host_rig_burst(&one, &h, 1);
        MUST(host_rig_balanced(&one));
        const char *broken = invariant_broken(one.r.w);
        if (broken)
            fprintf(stderr, "after frame %u: not so: %s\n", frames, broken);
        MUST(broken == NULL);
        waiting[n++] = h;
        if (n == HOST_BURST)
            burst_out(&n);
    }
    burst_out(&n);
    one.r.now += 100 * RIG_S;
    many.r.now = one.r.now;
    host_rig_burst(&one, NULL, 0);
    host_rig_burst(&many, NULL, 0);
    MUST(one.w->stats.held == 0 && many.w->stats.held == 0);
    same();
    host_rig_stage(&one, 0, 7, err, sizeof err);
    host_rig_stage(&many, 0, 7, err, sizeof err);
    return 0;
}
