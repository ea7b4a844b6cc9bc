/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_pipeline.c - bytes as a run of packets, pauses and commits through a table so small that it is full at once.
 * One engine takes the packets one at a time, another the same packets in bursts. Must hold: after every packet each
 * list, index and counter agrees with the others (invariants.h); both engines give the same verdicts and end with the
 * same connections. Operations: operations_read below. Seeds: pipeline_seeds.py.
 */
#include "../tests/support/rig.h"

#include "../tests/support/invariants.h"

#include "must.h"

#define PACKETS_MAX 160u
#define BURSTS 32u
#define POLICIES 7u /* of rules; the eighth is none */

typedef struct input {
    const uint8_t *at, *end;
} input;

static uint32_t take(input *in) { return in->at < in->end ? *in->at++ : 0; }
static uint32_t take16(input *in)
{
    uint32_t high = take(in);
    return high << 8 | take(in);
}

static pal_ruleset *rules_build(rig *r, uint32_t policy)
{
    pal_rule x[12];
    uint32_t n = 0;
    const uint8_t flags = PAL_RULE_STATEFUL;
    x[n] = rig_rule_port(n, PAL_ACTION_ALLOW, flags | (policy & 1 ? PAL_RULE_TCP_STRICT : 0), PROTO_TCP, 21);
    x[n++].alg = policy & 2 ? PAL_ALG_NONE : PAL_ALG_FTP;
    x[n] = rig_rule_port(n, PAL_ACTION_ALLOW, flags, PROTO_UDP, 69);
    x[n++].alg = policy & 2 ? PAL_ALG_NONE : PAL_ALG_TFTP;
    x[n] = rig_rule_port(n, policy & 1 ? PAL_ACTION_REJECT : PAL_ACTION_ALLOW, flags, PROTO_TCP, 22), n++;
    x[n] = rig_rule_port(n, PAL_ACTION_REJECT, 0, PROTO_TCP, 23), n++;
    x[n] = rig_rule_port(n, PAL_ACTION_ALLOW, flags | PAL_RULE_PERSIST, PROTO_TCP, 80), n++;
    x[n] = rig_rule_port(n, PAL_ACTION_ALLOW, policy & 1 ? 0 : flags, PROTO_UDP, 53), n++;
    if ((policy & 4) == 0)
        x[n] = rig_rule(n, PAL_ACTION_ALLOW, flags), n++;
    else
        x[n] = rig_rule(n, policy & 1 ? PAL_ACTION_REJECT : PAL_ACTION_DROP, 0), n++;
    return rig_build(r, x, n);
}

/* Building rules is the dearest of all that is done here: each policy's rule set is built once, and held. */
static void rules_commit(rig *r, uint32_t filter, uint32_t policy, pal_ruleset *built[POLICIES])
{
    const uint32_t which = policy % (POLICIES + 1);
    if (which < POLICIES && !built[which])
        built[which] = rules_build(r, which);
    if (which < POLICIES)
        pal_cls_ruleset_hold(built[which]);
    rig_commit_set(r, filter, which < POLICIES ? built[which] : NULL, filter == 3);
}

/* One packet of the builder: few hosts, few ports, so that most meet a connection. */
static void packet_build(input *in, frame *f)
{
    static const uint16_t ports[8] = {21, 22, 23, 80, 53, 69, 40000, 40001};
    static const char *const said[8] = {"", "PORT 10,0,0,1,156,64\r\n", "EPRT |2|fd00::1|40001|\r\n", "227 ok (10,0,0,2,156,65)\r\n",
                                        "229 ok (|||40000|)\r\n", "\0\1file\0", "x", "PORT 10,0,0,1,156"};
    uint32_t a = take(in), b = take(in), family = a & 1 ? PAL_FAMILY_V6 : PAL_FAMILY_V4;
    uint8_t src = (uint8_t)(1 + (a >> 1 & 3)), dst = (uint8_t)(1 + (a >> 3 & 3));
    uint16_t sport = ports[b & 7], dport = ports[b >> 3 & 7];
    const char *text = said[take(in) & 7];
    uint32_t len = text[0] ? (uint32_t)strlen(text) : text == said[5] ? 7 : 0;
    uint32_t c = take(in);
    switch (a >> 5) {
    default: { /* most are TCP */
        static const uint8_t flags[8] = {TCP_SYN, TCP_SYN | TCP_ACK, TCP_ACK, TCP_ACK | TCP_PSH, TCP_FIN | TCP_ACK, TCP_RST, TCP_RST | TCP_ACK, 0};
        uint32_t base = c & 8 ? 0xfffffff0u : 1000;
        tcp_say s = {.seq = base + (int8_t)take(in), .ack = base + (int8_t)take(in), .flags = flags[c & 7],
                     .window = (uint16_t)take16(in), .scale = c >> 4, .payload = text, .len = c & 3 ? len : 0};
        frame_tcp(f, family, src, dst, sport, dport, s);
        break;
    }
    case 4:
        frame_udp(f, family, src, (c & 0x70) == 0x70 && family == PAL_FAMILY_V4 ? 255 : dst, sport, dport, text, len);
        break;
    case 5:
        frame_ping(f, family, src, dst, c & 1, c >> 1 & 3);
        break;
    case 6: {
        frame quoted = {0};
        static const uint8_t chunk[8] = {1, 2, 6, 7, 8, 10, 11, 14};
        if (c & 0x80) {
            frame_sctp(f, src, dst, take(in) & 3, chunk[c & 7], c >> 3 & 1, take(in) & 3);
            break;
        }
        frame_tcp(&quoted, family, dst, src, dport, sport, (tcp_say){.seq = 1000 + (int8_t)take(in), .flags = TCP_ACK});
        uint8_t rest[4 + 60] = {0};
        uint32_t quote = min_u32(quoted.len - quoted.l3, take(in) % 64);
        memcpy(rest + 4, quoted.b + quoted.l3, min_u32(quote, 60));
        frame_icmp(f, family, src, dst, family == PAL_FAMILY_V4 ? 3 : 1, 1, rest, 4 + min_u32(quote, 60));
        break;
    }
    case 7: { /* a fragment of a datagram of which every byte is known */
        uint8_t whole[800];
        memset(whole, 0, sizeof whole);
        frame_udp(f, family, src, dst, sport, dport, NULL, 600);
        memcpy(whole, f->b + f->l4, 608);
        uint32_t off = (c & 7) * 152, size = take(in) * 8 % 616;
        frame_fragment(f, family, src, dst, PROTO_UDP, c >> 3 & 3, off % 608, off + size < 608, whole, size);
        if (off % 608 + size <= sizeof whole)
            memcpy(f->b + f->l4, whole + off % 608, size);
        break;
    }
    }
}

static bool same_tables(const ct_table *a, const ct_table *b)
{
    uint32_t n = a->cap4 + a->cap6;
    for (uint32_t ref = 0; ref < n; ref++) {
        if (a->hot[ref].state == CT_FREE && b->hot[ref].state == CT_FREE)
            continue;
        if (memcmp(&a->hot[ref], &b->hot[ref], sizeof(ct_hot)) != 0 || a->cold[ref].rule != b->cold[ref].rule ||
            a->cold[ref].generation != b->cold[ref].generation)
            return false;
    }
    return a->s->created == b->s->created;
}

static rig one, many;
static pal_ruleset *built[2][POLICIES]; /* of `one` and of `many` */
static frame work;
static uint8_t bytes_of[PACKETS_MAX][2100];
static pal_packet waiting[BURSTS];

static void burst_out(uint32_t *n, uint32_t out, uint32_t in)
{
    if (*n)
        rig_burst(&many, waiting, *n, out, in);
    *n = 0;
}

static void rig_begin(rig *r)
{
    pal_engine_options o = rig_options(10, 6);
    o.decap = 1;
    o.sums = PAL_SUMS_COUNT;
    char err[256];
    MUST(rig_open_at(r, &o, NULL, err, sizeof err));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!one.e) {
        rig_begin(&one);
        rig_begin(&many);
    }
    rig *const both[2] = {&one, &many};
    for (uint32_t i = 0; i < 2; i++) {
        pal_engine_clear(both[i]->e);
        rig_forget(both[i]);
        both[i]->now = 1000 * RIG_S;
        both[i]->number = 0;
        pal_engine_epoch_set(both[i]->e, size & 1 ? 0xfffffff0u : 1);
        rules_commit(both[i], 0, 0, built[i]);
        rules_commit(both[i], 1, 4, built[i]);
        rules_commit(both[i], 3, 0, built[i]);
    }
    input in = {.at = data, .end = data + size};
    uint32_t n = 0, packets = 0, out = 0, second = 4;
    while (in.at < in.end && packets < PACKETS_MAX && one.outs < RIG_OUT - 600) {
        uint32_t op = take(&in), len, wire;
        switch (op >> 5) {
        case 0: { /* time goes by, or leaps */
            uint64_t by = op & 16 ? (uint64_t)take16(&in) << (op & 15) : take(&in);
            one.now += by * RIG_MS * 10;
            many.now = one.now;
            continue;
        }
        case 1: { /* another policy, or other filters */
            burst_out(&n, out, second);
            uint32_t what = take(&in);
            if (op & 16) {
                out = what & 3;
                second = (what >> 2 & 7) < 4 && (what >> 2 & 7) != out ? what >> 2 & 7 : 4;
            } else {
                rules_commit(&one, op & 3, what, built[0]);
                rules_commit(&many, op & 3, what, built[1]);
            }
            continue;
        }
        case 2: /* bytes as they are */
            len = min_u32(take(&in), (uint32_t)(in.end - in.at));
            memcpy(work.b, in.at, len);
            in.at += len;
            work.len = len;
            break;
        default:
            packet_build(&in, &work);
        }
        len = wire = work.len;
        if ((op & 31) == 31)
            len = len * take(&in) / 255; /* snapped */
        else if ((op & 31) == 30 && len > 14) /* one byte is another */
            work.b[14 + take(&in) % (len - 14)] = (uint8_t)take(&in);
        memcpy(bytes_of[packets], work.b, len);
        /* Exactly as long as it says: the sanitizer sees a read past the end. */
        uint8_t *own = malloc(len ? len : 1);
        memcpy(own, work.b, len);
        pal_packet p;
        rig_parse(&one, &p, own, len, wire, LINKTYPE_ETHERNET);
        rig_burst(&one, &p, 1, out, second);
        free(own);
        const char *broken = invariant_broken(one.w);
        if (broken)
            fprintf(stderr, "after packet %u: not so: %s\n", packets, broken);
        MUST(broken == NULL);
        rig_parse(&many, &waiting[n++], bytes_of[packets], len, wire, LINKTYPE_ETHERNET);
        packets++;
        if (n == BURSTS)
            burst_out(&n, out, second);
    }
    burst_out(&n, out, second);
    rig_finish(&one);
    rig_finish(&many);
    MUST(invariant_broken(one.w) == NULL && invariant_broken(many.w) == NULL);
    MUST(one.outs == many.outs && one.sent == many.sent && one.w->received == one.outs);
    for (uint32_t i = 0; i < one.outs; i++)
        MUST(memcmp(&one.out[i], &many.out[i], sizeof one.out[i]) == 0);
    MUST(same_tables(&one.w->table, &many.w->table));
    pal_rule_count x[16], y[16];
    pal_engine_rules_read(one.e, x, 16);
    pal_engine_rules_read(many.e, y, 16);
    MUST(memcmp(x, y, sizeof x) == 0);
    return 0;
}
