/* SPDX-License-Identifier: Apache-2.0
 *
 * test_plain.c - what nearly every frame is goes a short way (host_look_plain) and eight at a time (pipeline_groups): two hosts get
 * the same frames of established connections, and some with something odd about them, one host in bursts, the other one at a time
 * and without its path cache, so that each takes the long way. What leaves is the same, byte for byte and in the same order, and
 * so are counters and connections.
 */
#include "support/host_rig.h"

#include "check.h"

#define FLOWS 40u
#define ROUNDS 3000u

static host_rig one, many;
static uint64_t seed = 88172645463325252ull;

static uint32_t below(uint32_t n)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 33) % n;
}

/* A connection of a host here: with one behind a TEP if its number is even. */
static void flow_of(uint32_t i, uint32_t *from, uint32_t *to)
{
    const uint32_t here = i / 2 % 4, more = i / 8;
    *from = 1 + here;
    *to = i % 2 ? 1 + (here + 1 + more % 3) % 4 : 5 + more % 2;
}

static uint8_t memory[HOST_BURST][256 + 1600];
static host_frame burst[HOST_BURST];

/* Frame k of the burst: a segment of flow i, from whom it began or (`back`) to. */
static frame *built(uint32_t k, uint32_t i, bool back, uint32_t family, tcp_say say)
{
    static frame f;
    uint32_t from, to;
    flow_of(i, &from, &to);
    frame_tcp(&f, family, (uint8_t)(back ? to : from), (uint8_t)(back ? from : to), (uint16_t)(back ? 443 : 1000 + i), (uint16_t)(back ? 1000 + i : 443), say);
    burst[k] = (host_frame){.data = memory[k], .from = (back ? to : from) - 1};
    mac_of(f.b, back ? from : to);
    mac_of(f.b + 6, back ? to : from);
    if (segment_of(from) != segment_of(to) && burst[k].from < 4) /* by the gateway of its own host */
        memcpy(f.b, gateway_mac, 6);
    return &f;
}

/* Into memory; hosts 5 and 6 are behind TEPs. */
static void put(uint32_t k, const frame *f, uint32_t away)
{
    uint32_t head = 0;
    const uint32_t n = burst[k].from + 1;
    if (n > 4 || n == away) {
        static const pal_address tep[2] = {{.addr = {172, 16, 0, 2}, .family = PAL_FAMILY_V4}, {.addr = {0xfd, 1, [15] = 3}, .family = PAL_FAMILY_V6}};
        /* A routed frame comes in on its destination's segment, whose MAC address its own host's gateway has set. */
        const uint32_t to = f->b[f->l4 - 1];
        const geneve_header g = {.vni = 5001 + segment_of(to <= HOSTS ? to : n), .protocol = GENEVE_ETHERNET};
        geneve_write(memory[k], &g);
        head = geneve_bytes(&g);
        burst[k].from = PAL_UPLINK;
        burst[k].outer = tep[n == 6];
    }
    memcpy(memory[k] + head, f->b, f->len);
    burst[k].len = head + f->len;
}

/* Something about a frame that the short way must leave to the long one, or must treat as that does. */
static void odd(uint32_t k, frame *f)
{
    uint8_t *ip = f->b + 14;
    const bool four = f->l4 == 34;
    switch (below(21)) {
    case 0: ip[four ? 8 : 7] = (uint8_t)below(3); break;
    case 1: f->b[11] = (uint8_t)below(8); break;
    case 2: f->b[5] = (uint8_t)below(8); break;
    case 3: memcpy(f->b, gateway_mac, 6); break;
    case 4: memcpy(f->b + 6, gateway_mac, 6); break;
    case 5: memset(f->b, 0xff, 6); break;
    case 6: burst[k].tos = (uint8_t)below(4); break;
    case 7: ip[1] |= (uint8_t)below(4); break;
    case 8: ip[12] = (uint8_t)(below(2) ? 127 : 0); break;
    case 9: memcpy(ip + 12, ip + 16, 4); break;
    case 10: memset(ip + 12, 0, 4); break;
    case 11: ip[12] = 169, ip[13] = 254; break;
    case 12: ip[15] = (uint8_t)below(8); break;
    case 13: ip[19] = (uint8_t)below(9); break;
    case 14: burst[k].offload = (host_offload){.csum_start = (uint16_t)(f->l4 + below(8) / 7), .csum_offset = (uint16_t)(16 + below(8) / 7), .flags = (uint8_t)(1 + below(4)), .hdr_len = 9}; break;
    case 15: burst[k].offload = (host_offload){.csum_start = (uint16_t)f->l4, .csum_offset = 16, .flags = 1, .gso_size = (uint16_t)(100 * below(3)), .gso_type = (uint8_t)below(5)}; break;
    case 16: f->b[f->l4 + 13] = (uint8_t)(TCP_ACK | below(8)); break;
    case 17: /* a tag */
        memmove(f->b + 16, f->b + 12, f->len - 12);
        store_be32(f->b + 12, 0x81000005);
        f->l3 += 4, f->l4 += 4, f->len += 4;
        break;
    case 18: f->len -= below(f->len); break;
    case 19: f->b[f->l4 + 7] = (uint8_t)below(3); break;
    default: burst[k].offload.hdr_len = burst[k].offload.csum_start = 7; break;
    }
    if (four)
        frame_ip_sum(f);
}

static void play(uint32_t n)
{
    host_rig_burst(&many, burst, n);
    for (uint32_t k = 0; k < n; k++)
        host_rig_burst(&one, &burst[k], 1);
    CHECK(host_rig_balanced(&many));
    CHECK(memcmp(&one.w->stats, &many.w->stats, sizeof one.w->stats) == 0);
    CHECK(memcmp(one.w->learned, many.w->learned, LEARN_SLOTS * sizeof *one.w->learned) == 0);
    CHECK(memcmp(one.r.w->count, many.r.w->count, sizeof one.r.w->count) == 0);
    CHECK_U64(many.lefts, one.lefts);
    CHECK_U64(many.bytes_n, one.bytes_n);
    for (uint32_t i = 0; i < one.lefts && i < many.lefts; i++) {
        host_out x = one.left[i].out, y = many.left[i].out;
        x.data = y.data = NULL;
        CHECK(memcmp(&x, &y, sizeof x) == 0);
    }
    CHECK(memcmp(one.bytes, many.bytes, min_u32(one.bytes_n, many.bytes_n)) == 0);
    host_rig_forget(&one);
    host_rig_forget(&many);
}

static void both(uint32_t away, uint32_t guards)
{
    char err[256];
    host_rig *x[2] = {&one, &many};
    for (uint32_t i = 0; i < 2; i++) {
        CHECK_U64(host_rig_stage(x[i], away, guards, err, sizeof err), 0);
        CHECK(pal_engine_commit(x[i]->r.e, 0) != 0);
    }
}

int main(void)
{
    const pal_rule rule = rig_rule(0, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    host_rig *x[2] = {&one, &many};
    uint64_t short_way = 0;
    check_where = "plain frames";
    for (uint32_t i = 0; i < 2; i++) {
        host_rig_open(x[i], PAL_GUARD_SPOOF);
        for (uint32_t filter = 0; filter < 4; filter++)
            rig_commit(&x[i]->r, filter, &rule, 1, false);
    }
    free(one.w->path);
    one.w->path = NULL;
    for (uint32_t step = 0; step < 3; step++)
        for (uint32_t i = 0; i < FLOWS; i++) {
            const tcp_say say[3] = {{.flags = TCP_SYN, .window = 60000}, {.flags = TCP_SYN | TCP_ACK, .ack = 1, .window = 60000}, {.flags = TCP_ACK, .seq = 1, .ack = 1, .window = 60000}};
            put(0, built(0, i, step == 1, PAL_FAMILY_V4, say[step]), 0);
            play(1);
        }
    uint32_t away = 0;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        if (below(12) == 0) {
            static const uint32_t guards[4] = {PAL_GUARD_SPOOF, 0, 7, PAL_GUARD_SPOOF};
            away = below(6) ? 0 : 1 + below(4);
            both(away, guards[below(4)]);
        }
        if (below(20) == 0)
            for (uint32_t i = 0; i < 2; i++)
                rig_commit(&x[i]->r, round % 4, &rule, 1, false);
        const uint32_t n = 1 + below(HOST_BURST), oddness = below(3) ? 0 : 1 + below(10);
        const bool far = below(3); /* nobody is judged twice */
        for (uint32_t k = 0; k < n; k++) {
            static const uint8_t bytes[1500];
            const tcp_say say = {.flags = TCP_ACK, .seq = 1 + below(2), .ack = 1, .window = 60000, .payload = bytes, .len = below(30) ? below(20) : 1300 + below(120)};
            const uint32_t i = below(FLOWS);
            frame *f = built(k, far ? i & ~1u : i, below(2), below(oddness ? 8 : 100) ? PAL_FAMILY_V4 : PAL_FAMILY_V6, say);
            if (oddness && below(oddness) == 0)
                odd(k, f);
            put(k, f, away);
        }
        play(n);
        short_way += many.w->plain;
        one.r.now += below(3) * RIG_S / 2;
        many.r.now = one.r.now;
    }
    CHECK(short_way > ROUNDS / 4);
    CHECK(many.w->stats.passed > 20 * ROUNDS / 2);
    CHECK(memcmp(many.r.w->table.hot, one.r.w->table.hot, 64 * sizeof(ct_hot)) == 0);
    for (uint32_t i = 0; i < 2; i++)
        host_rig_close(x[i]);
    return check_end("test_plain");
}
