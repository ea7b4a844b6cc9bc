/* SPDX-License-Identifier: Apache-2.0
 *
 * host_rig.h - a host with one worker over rig.h's engine: four vNICs (filters 0 to 3) of two segments on one gateway, two TEPs.
 * Addresses and MAC addresses are packets.h's: host n is 10.0.0.n, fd00::n, 02:00:00:00:00:n. vNIC i is host i + 1; host 5 is
 * behind TEP 0 on segment 0, host 6 behind TEP 1 on segment 1. Hosts 1, 2, 5 are on segment 0; 3, 4, 6 on segment 1: their
 * addresses are routes of length 32 and 128, so that every host has one subnet. The gateway is 10.0.0.254, fd00::fe.
 */
#ifndef PAL_TESTS_HOST_RIG_H
#define PAL_TESTS_HOST_RIG_H

#include "rig.h"

#ifdef RIG_LINKED
#include "../../engine/host_internal.h"
#else
#include "../../engine/host.c"
#include "../../engine/host_capture.c"
#include "../../engine/host_fragment.c"
#include "../../engine/host_life.c"
#include "../../engine/host_log.c"
#include "../../engine/host_look.c"
#include "../../engine/host_send.c"
#include "../../engine/host_trace.c"
#endif

#define HOSTS 6u
#define LEFT_MAX 1024u

static uint32_t host_rig_encap; /* of TEP 0 */
static const uint8_t gateway_mac[6] = {2, 0x50, 0x6c, 0, 0, 1};

typedef struct left { /* a frame that left; bytes in host_rig.bytes */
    host_out out;
    uint32_t at;
} left;

typedef struct host_rig {
    rig r;
    pal_host *host;
    host_worker *w;
    uint32_t lefts, bytes_n;
    left left[LEFT_MAX];
    uint8_t bytes[1u << 21];
} host_rig;

static inline void mac_of(uint8_t *mac, uint32_t n)
{
    memset(mac, 0, 6);
    mac[0] = 2;
    mac[5] = (uint8_t)n;
}

static inline uint32_t segment_of(uint32_t n) { return n == 3 || n == 4 || n == 6; }

/* `away`: a host that is behind TEP 0 instead of here, or 0. */
static inline int host_rig_stage(host_rig *x, uint32_t away, uint32_t guards, char *err, size_t errlen)
{
    pal_vnic vnic[4];
    pal_address address[8];
    pal_segment segment[2] = {{.vni = 5001, .tep_n = 2}, {.vni = 5002, .tep_n = 2, .learn = 1}};
    pal_neighbour neighbour[2 * HOSTS];
    pal_fabric_route route[2 * HOSTS + 1];
    pal_interface interface[4];
    pal_tep tep[2] = {{.addr = {172, 16, 0, 2}, .family = PAL_FAMILY_V4, .encap = (uint16_t)host_rig_encap}, {.addr = {0xfd, 1, [15] = 3}, .family = PAL_FAMILY_V6}};
    static const uint32_t replica[2] = {0, 1};
    memset(vnic, 0, sizeof vnic);
    memset(address, 0, sizeof address);
    memset(neighbour, 0, sizeof neighbour);
    memset(route, 0, sizeof route);
    memset(interface, 0, sizeof interface);
    uint32_t vnics = 0, routes = 0;
    for (uint32_t n = 1; n <= HOSTS; n++) {
        const bool here = n <= 4 && n != away;
        for (uint32_t family = PAL_FAMILY_V4; family <= PAL_FAMILY_V6; family++) {
            pal_neighbour *q = &neighbour[2 * (n - 1) + family - 1];
            *q = (pal_neighbour){.family = family, .segment = segment_of(n), .vnic = here ? n - 1 : PAL_UPLINK, .tep = n == 6};
            host_addr(q->addr, family, (uint8_t)n);
            mac_of(q->mac, n);
            route[routes] = (pal_fabric_route){.family = family, .length = family == PAL_FAMILY_V4 ? 32 : 128, .target = segment_of(n)};
            host_addr(route[routes++].addr, family, (uint8_t)n);
            if (here) {
                address[2 * vnics + family - 1].family = family;
                host_addr(address[2 * vnics + family - 1].addr, family, (uint8_t)n);
            }
        }
        if (!here)
            continue;
        vnic[vnics] = (pal_vnic){.filter = n - 1, .segment = segment_of(n), .addr_off = 2 * vnics, .addr_n = 2, .guards = guards, .mtu = 1400};
        mac_of(vnic[vnics++].mac, n);
    }
    for (uint32_t i = 0; i < 4; i++) {
        interface[i] = (pal_interface){.family = 1 + i % 2, .segment = i / 2};
        host_addr(interface[i].addr, 1 + i % 2, 254);
    }
    pal_fabric f = {.vnic = vnic, .segment = segment, .neighbour = neighbour, .interface = interface, .route = route, .tep = tep,
                    .address = address, .replica = replica, .vnics = vnics, .segments = 2, .neighbours = 2 * HOSTS, .interfaces = 4,
                    .routes = routes, .teps = 2, .addresses = 2 * vnics, .replicas = 2, .gateways = 1, .underlay_mtu = 1500};
    memcpy(f.gateway_mac, gateway_mac, 6);
    return pal_host_stage(x->host, &f, err, errlen);
}

static inline void host_rig_open(host_rig *x, uint32_t guards)
{
    char err[256] = "";
    memset(x, 0, sizeof *x);
    rig_open(&x->r, 64, 64);
    x->host = pal_host_new(x->r.e, err, sizeof err);
    if (!x->host || host_rig_stage(x, 0, guards, err, sizeof err) != 0) {
        fprintf(stderr, "host_rig: %s\n", err);
        exit(2);
    }
    x->w = host_worker_of(x->host, 0);
}

static inline void host_rig_close(host_rig *x)
{
    pal_host_free(x->host);
    rig_close(&x->r);
}

static inline void host_rig_sink(void *context, const host_out *out, uint32_t n)
{
    host_rig *x = context;
    for (uint32_t i = 0; i < n; i++) {
        /* All that the sink may write is written: nobody may miss it. */
        memset(out[i].data - (HOST_HEADROOM - out[i].inner), 0xa5, HOST_HEADROOM - out[i].inner);
        if (x->lefts == LEFT_MAX || x->bytes_n + out[i].len > sizeof x->bytes)
            continue;
        x->left[x->lefts++] = (left){.out = out[i], .at = x->bytes_n};
        memcpy(x->bytes + x->bytes_n, out[i].data, out[i].len);
        x->bytes_n += out[i].len;
    }
}

static inline void host_rig_forget(host_rig *x) { x->lefts = x->bytes_n = 0; }

static inline const uint8_t *left_bytes(const host_rig *x, uint32_t i) { return x->bytes + x->left[i].at; }

/* A burst of frames in memory of their own: exactly HOST_HEADROOM before each, nothing behind. */
static inline void host_rig_burst(host_rig *x, const host_frame *frame, uint32_t n)
{
    host_frame own[HOST_BURST];
    uint8_t *memory[HOST_BURST];
    for (uint32_t i = 0; i < n; i++) {
        own[i] = frame[i];
        memory[i] = malloc(HOST_HEADROOM + (size_t)frame[i].len);
        own[i].data = memory[i] + HOST_HEADROOM;
        if (frame[i].len)
            memcpy(own[i].data, frame[i].data, frame[i].len);
    }
    host_burst(x->w, own, n, x->r.now, host_rig_sink, x);
    for (uint32_t i = 0; i < n; i++)
        free(memory[i]);
}

static inline void host_rig_send(host_rig *x, uint32_t vnic, frame *f)
{
    const host_frame h = {.data = f->b, .len = f->len, .from = vnic};
    host_rig_burst(x, &h, 1);
}

/* received = passed + consumed + dropped + held, and the same of verdicts. */
static inline bool host_rig_balanced(const host_rig *x)
{
    pal_host_stats s;
    pal_host_stats_read(x->host, &s);
    uint64_t out = s.passed + s.consumed + s.held, verdicts = 0;
    for (uint32_t i = 0; i < 128; i++)
        out += s.dropped[i];
    const pal_worker *w = x->r.w;
    for (uint32_t v = 0; v < PAL_VERDICT_COUNT; v++)
        for (uint32_t r = 0; r < PAL_REASON_COUNT; r++)
            verdicts += w->count[v][r];
    return s.received[0] + s.received[1] == out && w->received == verdicts - w->released;
}

#endif
