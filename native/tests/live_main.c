/* SPDX-License-Identifier: Apache-2.0
 *
 * live_main.c - real cards with a switch of a few lines between them: what native/io does without firewall and forwarding. A
 * learning-free switch for one segment: frames for a port's MAC address go there, all others to the peer's TEP.
 *
 * usage: live TIER LOCAL PEER HOST-NETNS WORKERS [NETNS,INTERFACE,MAC,QUEUES]...
 * It says `tier X` when it runs, then answers lines: `stats` (one line of JSON), `remove N`, `add N`, `stop`, `start`.
 */
#define _GNU_SOURCE
#include "../io/live.c"
#include "../io/live_worker.c"
#include "../io/netns.c"
#include "../io/tap.c"
#include "../io/uplink.c"
#include "../io/uplink_tap.c"
#include "../io/uplink_udp.c"

#include <arpa/inet.h>

#define PORTS 8u
#define VNI 4096u

typedef struct standin {
    pal_address peer;
    uint32_t ports;
    uint8_t mac[PORTS][6];
    uint8_t copy[2][HOST_BURST][2048]; /* replicas for the peer don't share memory */
} standin;

static uint32_t mac_port(const standin *s, const uint8_t *mac)
{
    for (uint32_t i = 0; i < s->ports; i++)
        if (memcmp(s->mac[i], mac, 6) == 0)
            return i;
    return PAL_UPLINK;
}

/* The same both ways, and good enough for a test. */
static uint16_t flow_port(const uint8_t *frame, uint32_t len)
{
    uint32_t sum = 0;
    for (uint32_t i = 26; i + 2 <= min_u32(len, 38); i += 2)
        sum += load_be16(frame + i);
    return (uint16_t)(OUTER_PORT_LEAST + sum % OUTER_PORTS);
}

static uint32_t to_peer(const standin *s, uint8_t *frame, uint32_t len, const host_offload *o, host_out *out)
{
    static const geneve_header h = {.vni = VNI, .protocol = GENEVE_ETHERNET, .ours = true, .vnic = 7};
    const uint32_t bytes = geneve_bytes(&h);
    geneve_write(frame - bytes, &h);
    *out = (host_out){.data = frame - bytes, .len = len + bytes, .vnic = PAL_UPLINK, .outer = s->peer, .port = flow_port(frame, len), .inner = (uint16_t)bytes, .offload = *o};
    return 1;
}

static void standin_burst(void *context, uint32_t worker, host_frame *frame, uint32_t n, uint64_t now_ns, host_sink *sink, void *sink_context)
{
    (void)now_ns;
    standin *s = context;
    host_out out[HOST_BURST * (PORTS + 1)];
    uint32_t outs = 0;
    for (uint32_t i = 0; i < n; i++) {
        host_frame *f = &frame[i];
        geneve_header h = {0};
        if (f->from == PAL_UPLINK && (!geneve_read(f->data, f->len, &h) || h.vni != VNI || h.vnic != 7 || f->len < h.len + 14u))
            continue;
        uint8_t *data = f->data + h.len;
        const uint32_t len = f->len - h.len;
        if (len < 14)
            continue;
        const uint32_t to = mac_port(s, data);
        if (to != PAL_UPLINK) {
            out[outs++] = (host_out){.data = data, .len = len, .vnic = to, .offload = f->offload};
            continue;
        }
        const bool flood = data[0] & 1;
        for (uint32_t k = 0; flood && k < s->ports; k++)
            if (k != f->from)
                out[outs++] = (host_out){.data = data, .len = len, .vnic = k, .offload = f->offload};
        if (f->from == PAL_UPLINK)
            continue;
        if (flood && len < 2048 - HOST_HEADROOM) {
            memcpy(s->copy[worker % 2][i] + HOST_HEADROOM, data, len);
            data = s->copy[worker % 2][i] + HOST_HEADROOM;
        }
        outs += to_peer(s, data, len, &f->offload, &out[outs]);
    }
    if (outs)
        sink(sink_context, out, outs);
}

/* ---- the program ---------------------------------------------------------------------------------------------------- */

static char failure[300];

static void must(int result, const char *what)
{
    if (result >= 0)
        return;
    fprintf(stderr, "%s: %s\n", what, failure);
    exit(2);
}

static pal_address address(const char *text)
{
    pal_address a = {.family = strchr(text, ':') ? PAL_FAMILY_V6 : PAL_FAMILY_V4};
    must(inet_pton(a.family == PAL_FAMILY_V4 ? AF_INET : AF_INET6, text, a.addr) - 1, text);
    return a;
}

static void say_counts(const char *name, const pal_live_counts *c, const char *end)
{
    printf("\"%s\": {\"rx_frames\": %lu, \"rx_segments\": %lu, \"rx_bytes\": %lu, \"tx_frames\": %lu, \"tx_segments\": %lu, \"tx_bytes\": %lu, \"drops\": {",
           name, c->rx_frames, c->rx_segments, c->rx_bytes, c->tx_frames, c->tx_segments, c->tx_bytes);
    static const char *const words[] = {
#define REASON(name, word, nsx, kind, text) word,
#include "../core/reasons.def"
#undef REASON
    };
    const char *between = "";
    for (uint32_t i = 0; i < sizeof words / sizeof *words; i++)
        if (c->drop[i]) {
            printf("%s\"%s\": %lu", between, words[i], c->drop[i]);
            between = ", ";
        }
    printf("}}%s", end);
}

static void say_stats(pal_live *l, uint32_t ports)
{
    pal_live_counts c;
    printf("{");
    for (uint32_t i = 0; i < ports; i++) {
        char name[20];
        snprintf(name, sizeof name, "%u", i);
        if (pal_live_port_read(l, i, &c) == 0)
            say_counts(name, &c, ", ");
    }
    if (pal_live_uplink_read(l, &c) == 0)
        say_counts("uplink", &c, ", ");
    pal_live_lost_read(l, &c);
    say_counts("lost", &c, ", \"workers\": [");
    for (uint32_t i = 0; i < l->workers; i++) {
        pal_live_worker w;
        pal_live_worker_read(l, i, &w);
        printf("%s{\"bursts\": %lu, \"frames\": %lu, \"sleeps\": %lu, \"handed\": %lu, \"taken\": %lu, \"cpu_ns\": %lu}", i ? ", " : "",
               w.bursts, w.frames, w.sleeps, w.handed, w.taken, w.cpu_ns);
    }
    printf("]}\n");
}

int main(int argc, char **argv)
{
    static standin s;
    static pal_tap tap[PORTS];
    if (argc < 6 || argc - 6 > (int)PORTS) {
        fprintf(stderr, "usage: live TIER LOCAL PEER HOST-NETNS WORKERS [NETNS,INTERFACE,MAC,QUEUES]...\n");
        return 2;
    }
    s.peer = address(argv[3]);
    pal_live *l = live_new((live_switch){.burst = standin_burst, .context = &s}, (uint32_t)atoi(argv[5]), failure, sizeof failure);
    must(l ? 0 : -1, "live");
    for (int i = 6; i < argc; i++) {
        char netns[200], name[40];
        unsigned m[6], queues;
        must(sscanf(argv[i], "%199[^,],%39[^,],%x:%x:%x:%x:%x:%x,%u", netns, name, m, m + 1, m + 2, m + 3, m + 4, m + 5, &queues) - 9, argv[i]);
        for (int k = 0; k < 6; k++)
            s.mac[s.ports][k] = (uint8_t)m[k];
        must(pal_tap_open(netns, name, s.mac[s.ports], queues, 0, &tap[s.ports], failure, sizeof failure), name);
        must(pal_live_port_add(l, s.ports, tap[s.ports].fd, queues, tap[s.ports].offloads, failure, sizeof failure), name);
        s.ports++;
    }
    pal_uplink_options o = {.netns = argv[4], .name = "tep0", .local = address(argv[2]), .mtu = 1600,
                            .mac = {2, 0x50, 0x56, 0, 0, 1}, .peer_mac = {2, 0x50, 0x56, 0, 0, 2}};
    o.tier = argv[1][0] == 'a' ? PAL_TIER_AUTO : (uint32_t)(argv[1][0] - 'A' + 1);
    int tier = pal_live_uplink_set(l, &o, failure, sizeof failure);
    must(tier, "uplink");
    must(pal_live_start(l, failure, sizeof failure), "start");
    printf("tier %c\n", "?ABC"[tier]);
    fflush(stdout);
    char line[100];
    while (fgets(line, sizeof line, stdin)) {
        uint32_t n = 0;
        if (strncmp(line, "stats", 5) == 0)
            say_stats(l, s.ports);
        else if (sscanf(line, "remove %u", &n) == 1)
            printf("%d\n", pal_live_port_remove(l, n, failure, sizeof failure));
        else if (sscanf(line, "add %u", &n) == 1 && n < s.ports)
            printf("%d\n", pal_live_port_add(l, n, tap[n].fd, tap[n].queues, tap[n].offloads, failure, sizeof failure));
        else if (strncmp(line, "stop", 4) == 0)
            pal_live_stop(l), printf("0\n");
        else if (strncmp(line, "start", 5) == 0)
            printf("%d\n", pal_live_start(l, failure, sizeof failure));
        fflush(stdout);
    }
    pal_live_free(l);
    for (uint32_t i = 0; i < s.ports; i++)
        pal_tap_close(&tap[i]);
    return 0;
}
