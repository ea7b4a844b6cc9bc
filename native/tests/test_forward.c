/* SPDX-License-Identifier: Apache-2.0 */
#include "support/host_rig.h"

#include "check.h"

/* ---- the fabric is looked over -------------------------------------------------------------------------------------- */

typedef struct given {
    pal_vnic vnic[2];
    pal_segment segment[2];
    pal_neighbour neighbour[2];
    pal_interface interface[2];
    pal_fabric_route route[2];
    pal_tep tep[2];
    pal_address address[2];
    uint32_t replica[2];
    pal_fabric f;
} given;

static void given_good(given *g)
{
    memset(g, 0, sizeof *g);
    for (uint32_t i = 0; i < 2; i++) {
        g->vnic[i] = (pal_vnic){.filter = i, .segment = i, .addr_off = i, .addr_n = 1};
        mac_of(g->vnic[i].mac, i + 1);
        g->address[i] = (pal_address){.addr = {10, 0, 0, (uint8_t)(i + 1)}, .family = PAL_FAMILY_V4};
        g->segment[i] = (pal_segment){.vni = i + 1, .tep_n = 2};
        g->neighbour[i] = (pal_neighbour){.addr = {10, 0, 0, (uint8_t)(i + 11)}, .family = PAL_FAMILY_V4, .segment = i, .vnic = PAL_UPLINK, .tep = i};
        mac_of(g->neighbour[i].mac, i + 11);
        g->interface[i] = (pal_interface){.addr = {10, 0, (uint8_t)i, 254}, .family = PAL_FAMILY_V4, .segment = i};
        g->route[i] = (pal_fabric_route){.addr = {10, 0, (uint8_t)i}, .family = PAL_FAMILY_V4, .length = 24, .target = i};
        g->tep[i] = (pal_tep){.addr = {172, 16, 0, (uint8_t)(i + 1)}, .family = PAL_FAMILY_V4};
        g->replica[i] = i;
    }
    g->f = (pal_fabric){.vnic = g->vnic, .segment = g->segment, .neighbour = g->neighbour, .interface = g->interface, .route = g->route,
                        .tep = g->tep, .address = g->address, .replica = g->replica, .vnics = 2, .segments = 2, .neighbours = 2, .interfaces = 2,
                        .routes = 2, .teps = 2, .addresses = 2, .replicas = 2, .gateways = 1, .underlay_mtu = 1500};
    memcpy(g->f.gateway_mac, gateway_mac, 6);
}

static bool given_fits(given *g, char *err, size_t errlen)
{
    static const uint64_t seed[HASH_KEY_WORDS] = {1, 2, 3, 4, 5, 6};
    err[0] = 0;
    fabric *f = fabric_new(&g->f, 4, seed, err, errlen);
    fabric_drop(f);
    return f != NULL;
}

static void test_given(void)
{
    given g;
    char err[256];
    check_where = "a sound fabric";
    given_good(&g);
    CHECK(given_fits(&g, err, sizeof err));
    check_where = "nothing at all is a fabric";
    g.f = (pal_fabric){.underlay_mtu = 1500};
    CHECK(given_fits(&g, err, sizeof err));

#define REFUSED(change, sentence)                                                                                                  \
    do {                                                                                                                           \
        given_good(&g);                                                                                                            \
        change;                                                                                                                    \
        check_where = #change;                                                                                                     \
        CHECK(!given_fits(&g, err, sizeof err));                                                                                   \
        CHECK_TEXT(err, sentence);                                                                                                 \
    } while (0)
    REFUSED(g.f.underlay_mtu = 100, "the underlay's MTU must be 576 to 65535, not 100");
    REFUSED(g.vnic[1].filter = 4, "vNIC 1: there is no filter 4");
    REFUSED(g.vnic[1].filter = 0, "vNIC 1: filter 0 is another vNIC's too");
    REFUSED(g.vnic[1].segment = 2, "vNIC 1: there is no segment 2");
    REFUSED(g.vnic[1].addr_n = 2, "vNIC 1: its addresses go beyond those given");
    REFUSED(g.vnic[1].addr_off = 3, "vNIC 1: its addresses go beyond those given");
    REFUSED(g.vnic[1].mac[0] = 3, "vNIC 1: its MAC address is a group's, zero, or the gateways'");
    REFUSED(memcpy(g.vnic[1].mac, gateway_mac, 6), "vNIC 1: its MAC address is a group's, zero, or the gateways'");
    REFUSED(g.vnic[1].guards = 8, "vNIC 1: unknown guards");
    REFUSED(g.address[1].family = 3, "address 1: of no family, or IPv4 with more than four bytes");
    REFUSED(g.address[1].addr[4] = 1, "address 1: of no family, or IPv4 with more than four bytes");
    REFUSED((g.vnic[1].addr_off = 0, g.vnic[1].addr_n = 2, g.address[1] = g.address[0]), "vNIC 1: an address is given twice");
    REFUSED(g.segment[1].vni = 1u << 24, "segment 1: VNI 16777216 does not fit into 24 bits");
    REFUSED(g.segment[1].vni = 1, "segment 1: VNI 1 is another segment's too");
    REFUSED(g.segment[1].gateway = 1, "segment 1: there is no gateway 1");
    REFUSED(g.segment[1].tep_n = 3, "segment 1: its TEPs go beyond those given");
    REFUSED(g.replica[1] = 2, "replica 1: there is no TEP 2");
    REFUSED(g.tep[1].family = 0, "TEP 1: of no family, or IPv4 with more than four bytes");
    REFUSED(g.tep[1].addr[3] = 1, "TEP 1: its address is another TEP's too");
    REFUSED(g.neighbour[1].segment = 2, "neighbour 1: there is no segment 2");
    REFUSED(g.neighbour[1].tep = 2, "neighbour 1: there is no TEP 2");
    REFUSED(g.neighbour[1].vnic = 0, "neighbour 1: vNIC 0 is not on segment 1");
    REFUSED((g.neighbour[1].segment = 0, mac_of(g.neighbour[1].mac, 11)), "neighbour 1: its MAC address is in two places on segment 0");
    REFUSED((g.neighbour[1].segment = 0, g.neighbour[1].addr[3] = 11), "neighbour 1: its address is that of another one on segment 0");
    REFUSED(mac_of(g.neighbour[0].mac, 1), "vNIC 0: its MAC address is in two places on segment 0");
    REFUSED(g.interface[1].segment = 2, "interface 1: there is no gateway 0 or no segment 2");
    REFUSED(g.segment[1].gateway = PAL_NO_INDEX, "interface 1: gateway 0 does not route for segment 1");
    REFUSED((g.interface[1].segment = 0, g.interface[1].addr[2] = 0), "interface 1: its address is given twice on segment 0");
    REFUSED(memcpy(g.interface[0].addr, g.address[0].addr, 4), "interface 0: its address is a neighbour's on segment 0");
    REFUSED(g.route[1].gateway = 1, "route 1: there is no gateway 1");
    REFUSED(g.route[1].length = 33, "route 1: prefix of no family, or too long");
    REFUSED(g.route[1].length = 20, "route 1: bits beyond the prefix's length are set");
    REFUSED(g.route[1].kind = 4, "route 1: unknown kind 4");
    REFUSED(g.route[1].target = 2, "route 1: there is no segment 2");
    REFUSED(g.route[1].addr[2] = 0, "route 1: its prefix is given twice in gateway 0");
#undef REFUSED
}

/* ---- the longest prefix ----------------------------------------------------------------------------------------------- */

static uint64_t random_next(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    return *s ^= *s << 17;
}

/* The obvious way. */
static uint32_t route_by_hand(const pal_fabric_route *r, uint32_t n, const uint8_t *addr, uint32_t family)
{
    uint32_t best = PAL_NO_INDEX;
    for (uint32_t i = 0; i < n; i++) {
        bool inside = r[i].family == family;
        for (uint32_t bit = 0; inside && bit < r[i].length; bit++)
            inside = ((addr[bit / 8] ^ r[i].addr[bit / 8]) >> (7 - bit % 8) & 1) == 0;
        if (inside && (best == PAL_NO_INDEX || r[i].length > r[best].length))
            best = i;
    }
    return best;
}

static void test_routes(uint32_t family)
{
    static const uint64_t seed[HASH_KEY_WORDS] = {1, 2, 3, 4, 5, 6};
    enum { ROUTES = 60 };
    uint64_t s = 88172645463325252ull + family;
    const uint32_t bits = family == PAL_FAMILY_V4 ? 32 : 128;
    for (uint32_t round = 0; round < 60; round++) {
        pal_fabric_route r[ROUTES];
        uint32_t n = 0;
        memset(r, 0, sizeof r);
        for (uint32_t i = 0; i < ROUTES; i++) {
            /* Few different bytes, so that prefixes contain each other, touch, and end at both ends of the space. */
            r[n] = (pal_fabric_route){.family = family, .length = (uint32_t)(random_next(&s) % (bits + 1)), .kind = PAL_ROUTE_BLACKHOLE};
            for (uint32_t k = 0; k < bits / 8; k++)
                r[n].addr[k] = (uint8_t[]){0, 255, 0x80, 0x7f, 1}[random_next(&s) % 5];
            for (uint32_t bit = r[n].length; bit < bits; bit++)
                r[n].addr[bit / 8] &= (uint8_t)~(0x80 >> bit % 8);
            bool twice = false;
            for (uint32_t k = 0; k < n; k++)
                twice |= r[k].length == r[n].length && memcmp(r[k].addr, r[n].addr, 16) == 0;
            n += !twice;
        }
        pal_fabric x = {.route = r, .routes = n, .gateways = 1, .underlay_mtu = 1500};
        memcpy(x.gateway_mac, gateway_mac, 6);
        char err[256] = "";
        fabric *f = fabric_new(&x, 1, seed, err, sizeof err);
        CHECK_TEXT(err, "");
        for (uint32_t i = 0; f && i < 300; i++) {
            uint8_t addr[16] = {0};
            for (uint32_t k = 0; k < bits / 8; k++)
                addr[k] = (uint8_t[]){0, 255, 0x80, 0x7f, 1, 2}[random_next(&s) % 6];
            CHECK_U64(fabric_route_find(f, 0, addr, family), route_by_hand(r, n, addr, family));
        }
        fabric_drop(f);
    }
}

/* ---- headers -------------------------------------------------------------------------------------------------------- */

static void test_hops(void)
{
    check_where = "one hop less keeps the sum right, whatever it was";
    for (uint32_t i = 0; i < 65536; i++) {
        uint8_t ip[20] = {0x45, 0, 0, 20, (uint8_t)(i >> 8), (uint8_t)i, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2};
        uint16_t sum = sum_finish(sum_bytes(ip, 20, 0));
        memcpy(ip + 10, &sum, 2);
        rewrite_hops4(ip);
        if (ip[8] != 63 || !sum_is_good(sum_bytes(ip, 20, 0)))
            CHECK(false);
    }
    CHECK(true);
}

static void test_eui64(void)
{
    static const uint8_t mac[6] = {2, 0, 0, 0xab, 0xcd, 0xef}, good[16] = {0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0xab, 0xcd, 0xef};
    check_where = "link-local address by MAC address";
    CHECK(addr_is_eui64(good, mac));
    for (uint32_t bit = 0; bit < 128; bit++) {
        uint8_t other[16];
        memcpy(other, good, 16);
        other[bit / 8] ^= (uint8_t)(1 << bit % 8);
        CHECK(!addr_is_eui64(other, mac));
    }
}

/* ---- a commit swaps rules and fabric at once, with fragments in flight -------------------------------------------------- */

static host_rig x;

static void test_commit(void)
{
    pal_rule rule = rig_rule(0, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    static const uint8_t bytes[48] = {0, 7, 0, 8, 0, 48}; /* of fragments: a UDP header first */
    frame f;
    char err[256];
    host_rig_open(&x, PAL_GUARD_SPOOF);
    check_where = "no rules: nothing passes";
    frame_udp(&f, PAL_FAMILY_V4, 1, 2, 7, 8, bytes, 8);
    mac_of(f.b, 2);
    mac_of(f.b + 6, 1);
    CHECK(pal_engine_commit(x.r.e, 0) != 0);
    host_rig_send(&x, 0, &f);
    CHECK_U64(x.lefts, 0);
    CHECK_U64(x.w->stats.dropped[PAL_REASON_NO_RULESET], 1);
    check_where = "rules";
    for (uint32_t i = 0; i < 4; i++)
        rig_commit(&x.r, i, &rule, 1, false);
    host_rig_send(&x, 0, &f);
    CHECK_U64(x.lefts, 1);
    CHECK_U64(x.left[0].out.vnic, 1);
    check_where = "a datagram that is completed when its receiver has gone to another host goes there";
    host_rig_forget(&x);
    frame_fragment(&f, PAL_FAMILY_V4, 1, 2, PROTO_UDP, 9, 0, true, bytes, 24);
    host_rig_send(&x, 0, &f);
    CHECK_U64(x.lefts, 0);
    CHECK(host_rig_stage(&x, 2, PAL_GUARD_SPOOF, err, sizeof err) == 0 && pal_engine_commit(x.r.e, 0) != 0);
    frame_fragment(&f, PAL_FAMILY_V4, 1, 2, PROTO_UDP, 9, 24, false, bytes, 24);
    host_rig_send(&x, 0, &f);
    CHECK_U64(x.lefts, 2);
    CHECK(x.left[0].out.vnic == PAL_UPLINK && x.left[1].out.vnic == PAL_UPLINK);
    CHECK(host_rig_balanced(&x));
    check_where = "a fabric that does not fit changes nothing";
    pal_fabric bad = {.underlay_mtu = 1};
    CHECK(pal_host_stage(x.host, &bad, err, sizeof err) == -1);
    CHECK(pal_engine_commit(x.r.e, 0) != 0);
    host_rig_forget(&x);
    frame_udp(&f, PAL_FAMILY_V4, 1, 2, 7, 8, bytes, 8);
    host_rig_send(&x, 0, &f);
    CHECK_U64(x.lefts, 1);
    host_rig_close(&x);
}

/* A datagram for all: a piece that comes through a tunnel with a vNIC's address as its source waits at the receivers; the vNIC's
 * own piece waits for its own filter, and is let go when its time is over. */
static void test_spoofed_pieces(void)
{
    static const uint8_t bytes[24] = {0, 7, 0, 8, 0, 48};
    pal_rule rule = rig_rule(0, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    uint8_t tunnelled[256];
    frame f;
    for (uint32_t family = PAL_FAMILY_V4; family <= PAL_FAMILY_V6; family++) {
        check_where = "pieces of a vNIC, and pieces that say they are its";
        host_rig_open(&x, PAL_GUARD_SPOOF);
        for (uint32_t i = 0; i < 4; i++)
            rig_commit(&x.r, i, &rule, 1, false);
        const geneve_header g = {.vni = 5001, .protocol = GENEVE_ETHERNET};
        const uint32_t head = geneve_bytes(&g);
        geneve_write(tunnelled, &g);
        frame_fragment(&f, family, 1, 9, PROTO_UDP, 9, 0, true, bytes, 24);
        memset(f.b, 0xff, 6);
        mac_of(f.b + 6, 5);
        memcpy(tunnelled + head, f.b, f.len);
        const host_frame from_tep = {.data = tunnelled, .len = head + f.len, .from = PAL_UPLINK, .outer = {.addr = {172, 16, 0, 2}, .family = PAL_FAMILY_V4}};
        host_rig_burst(&x, &from_tep, 1);
        CHECK_U64(x.w->stats.held, 1);
        frame_fragment(&f, family, 1, 9, PROTO_UDP, 9, 24, false, bytes, 24);
        memset(f.b, 0xff, 6);
        mac_of(f.b + 6, 1);
        host_rig_send(&x, 0, &f);
        CHECK_U64(x.lefts, 0); /* neither is whole */
        CHECK_U64(x.w->stats.held, 2);
        x.r.now += 100000000000;
        host_rig_burst(&x, NULL, 0);
        CHECK_U64(x.w->stats.held, 0);
        CHECK_U64(x.w->stats.dropped[PAL_REASON_FRAG_TIMEOUT], 2);
        CHECK(host_rig_balanced(&x));
        host_rig_close(&x);
    }
}

/* A TEP that speaks VXLAN is sent VXLAN, our option left out, and heard by VXLAN alone; others by Geneve alone. */
static void test_vxlan(void)
{
    static const uint8_t bytes[8] = {0, 7, 0, 8, 0, 8};
    pal_rule rule = rig_rule(0, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL);
    uint8_t tunnelled[256];
    frame f;
    check_where = "VXLAN";
    host_rig_encap = PAL_ENCAP_VXLAN;
    host_rig_open(&x, 0);
    host_rig_encap = PAL_ENCAP_GENEVE;
    for (uint32_t i = 0; i < 4; i++)
        rig_commit(&x.r, i, &rule, 1, false);
    frame_ip(&f, PAL_FAMILY_V4, 1, 5, PROTO_UDP, bytes, 8);
    mac_of(f.b, 5);
    mac_of(f.b + 6, 1);
    host_rig_send(&x, 0, &f);
    CHECK_U64(x.lefts, 1);
    CHECK(x.left[0].out.encap == PAL_ENCAP_VXLAN && x.left[0].out.inner == VXLAN_HEADER && x.left[0].out.tep == 0);
    geneve_header g;
    CHECK(vxlan_read(left_bytes(&x, 0), x.left[0].out.len, &g) && g.vni == 5001);
    CHECK(memcmp(left_bytes(&x, 0) + VXLAN_HEADER, f.b, f.len) == 0);
    host_rig_forget(&x);
    frame_ip(&f, PAL_FAMILY_V4, 5, 1, PROTO_UDP, bytes, 8);
    mac_of(f.b, 1);
    mac_of(f.b + 6, 5);
    uint64_t unknown = 0;
    for (uint32_t tep = 0; tep < 2; tep++)
        for (uint32_t encap = PAL_ENCAP_GENEVE; encap <= PAL_ENCAP_VXLAN; encap++) {
            const bool its_own = encap == (tep == 0 ? PAL_ENCAP_VXLAN : PAL_ENCAP_GENEVE);
            g = (geneve_header){.vni = 5001, .protocol = GENEVE_ETHERNET};
            encap_write(encap, tunnelled, &g);
            memcpy(tunnelled + 8, f.b, f.len);
            host_frame from_tep = {.data = tunnelled, .len = 8 + f.len, .from = PAL_UPLINK, .encap = (uint8_t)encap,
                                   .outer = {.addr = {172, 16, 0, 2}, .family = PAL_FAMILY_V4}};
            if (tep)
                from_tep.outer = (pal_address){.addr = {0xfd, 1, [15] = 3}, .family = PAL_FAMILY_V6};
            host_rig_burst(&x, &from_tep, 1);
            unknown += !its_own;
            CHECK_U64(x.lefts, its_own);
            CHECK_U64(x.w->stats.dropped[PAL_REASON_UNKNOWN_TEP], unknown);
            CHECK(!its_own || (x.left[0].out.vnic == 0 && memcmp(left_bytes(&x, 0), f.b, f.len) == 0));
            host_rig_forget(&x);
        }
    CHECK(host_rig_balanced(&x));
    host_rig_close(&x);
}

int main(void)
{
    test_given();
    for (uint32_t family = PAL_FAMILY_V4; family <= PAL_FAMILY_V6; family++) {
        check_where = family == PAL_FAMILY_V4 ? "longest prefix, IPv4" : "longest prefix, IPv6";
        test_routes(family);
    }
    test_hops();
    test_eui64();
    test_commit();
    test_spoofed_pieces();
    test_vxlan();
    return check_end("test_forward");
}
