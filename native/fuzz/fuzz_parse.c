/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_parse.c - the parser alone, on packets from IP up that are put behind each link layer.
 *
 * Input: byte 0: bits 0-1 the sums (enum pal_sum_mode), bit 2 tunnels are opened, bit 3 addresses are looked at; byte 1:
 * how much of the packet is present in the cut run; the rest is the packet. What must hold, beside no read outside the
 * bytes present (each run has a copy of just their length):
 *  - what is accepted lies inside itself: header, transport and payload inside the length that the IP header states;
 *  - behind Ethernet with none, one and two tags, cooked, loopback and raw headers the packet is the same packet;
 *  - padding changes nothing; with less of it present it is the same packet, or refused for want of bytes;
 *  - sums are what a byte-by-byte sum of RFC 1071 says.
 */
#include <stdio.h>
#include <stdlib.h>

#include "../core/parse.h"

#include "must.h"

#define PACKET_MAX 4096u

static parse_options options;

/* Parses `head` and then `len` bytes of the packet, of which `cap` are there. The copy is the caller's to free. */
static pal_packet parsed(uint32_t link, const uint8_t *head, uint32_t head_len, const uint8_t *ip, uint32_t cap, uint32_t len,
                         uint8_t **copy)
{
    uint8_t *own = malloc(head_len + cap ? head_len + cap : 1);
    memcpy(own, head, head_len);
    if (cap)
        memcpy(own + head_len, ip, cap);
    pal_packet p = {.data = own, .cap = head_len + cap, .wire = head_len + len, .reason = 0xee, .l4 = 0xeeee, .proto = 0xee};
    parse_frame(&p, link, &options);
    *copy = own;
    return p;
}

static void is_inside(const pal_packet *p)
{
    if (p->reason != PAL_REASON_MATCH || (p->marks & MARK_NON_IP))
        return;
    uint32_t least = p->family == PAL_FAMILY_V4 ? 20 : 40;
    MUST(p->family == PAL_FAMILY_V4 || p->family == PAL_FAMILY_V6);
    MUST(p->l3 + least <= p->cap && p->cap <= p->wire);
    MUST(p->l3 + p->ip_len <= p->wire);
    MUST(p->l4 >= p->l3 + least && p->l4 + p->l4_len == p->l3 + p->ip_len);
    MUST(p->l4 <= p->cap && p->payload_len <= p->l4_len);
    MUST(packet_present(p) <= p->ip_len && p->l3 + packet_present(p) <= p->cap);
    if (p->marks & MARK_FRAGMENT) {
        MUST(p->ack % 8 == 0 && p->tcp_flags <= 1);
        MUST(p->ack || p->tcp_flags); /* an atomic fragment is a whole packet */
        MUST(p->family == PAL_FAMILY_V4 || (p->window >= 40 && p->l3 + p->window + 8 == p->l4));
        return;
    }
    if (p->proto == PROTO_TCP) {
        MUST(p->l4_hdr >= 20 && p->l4 + p->l4_hdr <= p->cap && p->l4_hdr + p->payload_len == p->l4_len);
        MUST(p->sport == load_be16(p->data + p->l4) && p->dport == load_be16(p->data + p->l4 + 2));
        MUST(tcp_flags_are_valid(p->tcp_flags));
    }
    if (p->proto == PROTO_UDP)
        MUST(p->payload_len + 8 == load_be16(p->data + p->l4 + 4) && p->payload_len + 8 <= p->l4_len);
}

/* Do a and b say the same of the packet, wherever its header stands? Sums: where both could know them. */
static bool is_same(const pal_packet *a, const pal_packet *b, bool sums)
{
    if (a->reason != b->reason || a->family != b->family || a->vrf != b->vrf)
        return false;
    if (a->reason || (a->marks & MARK_NON_IP))
        return (a->marks & MARK_NON_IP) == (b->marks & MARK_NON_IP);
    if (sums && (a->ip_sum != b->ip_sum || a->l4_sum != b->l4_sum))
        return false;
    return a->ip_len == b->ip_len && a->l4 - a->l3 == b->l4 - b->l3 && a->l4_len == b->l4_len &&
           a->payload_len == b->payload_len && a->seq == b->seq && a->ack == b->ack && a->sport == b->sport &&
           a->dport == b->dport && a->window == b->window && a->proto == b->proto && a->tcp_flags == b->tcp_flags &&
           a->l4_hdr == b->l4_hdr && a->marks == b->marks && a->odd == b->odd && a->wire_bytes == b->wire_bytes &&
           (a->family != PAL_FAMILY_V4 || (a->addr4[0] == b->addr4[0] && a->addr4[1] == b->addr4[1]));
}

/* RFC 1071, two bytes at a time. */
static uint32_t slow_sum(const uint8_t *b, uint32_t len, uint32_t sum)
{
    for (uint32_t i = 0; i < len; i++) {
        sum += i % 2 ? b[i] : (uint32_t)b[i] << 8;
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return sum;
}

static void sums_are_right(const pal_packet *p)
{
    if (p->reason || (p->marks & (MARK_NON_IP | MARK_FRAGMENT)))
        return;
    const uint8_t *l4 = p->data + p->l4;
    if (p->family == PAL_FAMILY_V4)
        MUST(p->ip_sum == (slow_sum(p->data + p->l3, p->l4 - p->l3, 0) == 0xffff ? SUM_GOOD : SUM_BAD));
    bool icmp = (p->proto == PROTO_ICMP && p->family == PAL_FAMILY_V4) || (p->proto == PROTO_ICMP6 && p->family == PAL_FAMILY_V6);
    if (options.sum_mode == SUM_MODE_OFF || p->l4 + p->l4_len > p->cap ||
        (p->proto == PROTO_UDP && load_u16(l4 + 6) == 0) || (p->proto != PROTO_TCP && p->proto != PROTO_UDP && p->proto != PROTO_SCTP && !icmp)) {
        MUST(p->l4_sum == SUM_UNVERIFIED);
        return;
    }
    if (p->proto == PROTO_SCTP)
        return; /* its own vectors: test_parse.c */
    uint32_t len = p->proto == PROTO_UDP ? p->payload_len + 8 : p->l4_len, sum = 0;
    if (p->proto != PROTO_ICMP) {
        const uint8_t tail[4] = {0, p->proto, (uint8_t)(len >> 8), (uint8_t)len};
        MUST(len < 65536);
        sum = slow_sum(packet_src(p), 2 * addr_bytes(p), slow_sum(tail, 4, 0));
    }
    MUST(p->l4_sum == (slow_sum(l4, len, sum) == 0xffff ? SUM_GOOD : SUM_BAD));
}

/* What may be said of a packet of which less is present: the same, or that too little is there. */
static bool is_for_want_of_bytes(const pal_packet *whole, const pal_packet *less)
{
    /* Sums that nobody can know are not wrong: what comes after them, the inside of a tunnel too, has its say. */
    if (whole->reason == PAL_REASON_L4_CHECKSUM && options.decap)
        return true;
    switch (less->reason) {
    case PAL_REASON_SHORT:
        return true;
    case PAL_REASON_L4_OFFSET: /* chunks of SCTP are walked inside what is there */
        return less->proto == PROTO_SCTP;
    case PAL_REASON_TUNNEL_MALFORMED:
        return options.decap;
    case PAL_REASON_MATCH:
    case PAL_REASON_BAD_ADDRESS:
        return whole->reason == PAL_REASON_L4_CHECKSUM && less->l4_sum == SUM_UNVERIFIED;
    default:
        return false;
    }
}

typedef struct link_case {
    uint32_t link, head_len;
    uint8_t head4[22], head6[22];
} link_case;

static const link_case links[] = {
    {LINKTYPE_ETHERNET, 14, {[12] = 0x08}, {[12] = 0x86, 0xdd}},
    {LINKTYPE_ETHERNET, 18, {[12] = 0x81, 0, 0, 5, 0x08, 0}, {[12] = 0x81, 0, 0, 5, 0x86, 0xdd}},
    {LINKTYPE_ETHERNET, 22, {[12] = 0x88, 0xa8, 0, 1, 0x91, 0, 0, 5, 0x08, 0}, {[12] = 0x88, 0xa8, 0, 1, 0x81, 0, 0, 5, 0x86, 0xdd}},
    {LINKTYPE_LINUX_SLL, 16, {[14] = 0x08}, {[14] = 0x86, 0xdd}},
    {LINKTYPE_LINUX_SLL2, 20, {0x08}, {0x86, 0xdd}},
    {LINKTYPE_NULL, 4, {2}, {30}},
    {LINKTYPE_NULL, 4, {0, 0, 0, 2}, {0, 0, 0, 24}},
    {LINKTYPE_LOOP, 4, {0, 0, 0, 2}, {0, 0, 0, 28}},
    {LINKTYPE_RAW, 0, {0}, {0}},
    {LINKTYPE_RAW_BSD, 0, {0}, {0}},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3 || size > PACKET_MAX)
        return 0;
    uint32_t len = (uint32_t)size - 2, cut = len * data[1] / 255;
    options = (parse_options){.sum_mode = data[0] % 3, .decap = data[0] >> 2 & 1, .sanity = data[0] & 8 ? 2 : 0};
    const uint8_t *ip = data + 2;
    uint32_t version = ip[0] >> 4;
    if (version != 4 && version != 6) { /* bytes of any link layer */
        uint8_t *copy;
        static const uint32_t types[6] = {LINKTYPE_ETHERNET, LINKTYPE_NULL, LINKTYPE_RAW, LINKTYPE_LINUX_SLL, LINKTYPE_LINUX_SLL2, LINKTYPE_IPV4};
        pal_packet p = parsed(types[data[0] % 6], ip, 0, ip, cut, len, &copy);
        is_inside(&p);
        sums_are_right(&p);
        free(copy);
        return 0;
    }
    bool six = version == 6;
    uint8_t *first_copy, *copy;
    pal_packet first = parsed(six ? LINKTYPE_IPV6 : LINKTYPE_IPV4, ip, 0, ip, len, len, &first_copy);
    MUST(first.reason != PAL_REASON_IP_VERSION || options.decap);
    is_inside(&first);
    sums_are_right(&first);
    for (uint32_t i = 0; i < sizeof links / sizeof links[0]; i++) {
        pal_packet p = parsed(links[i].link, six ? links[i].head6 : links[i].head4, links[i].head_len, ip, len, len, &copy);
        is_inside(&p);
        MUST(is_same(&first, &p, true));
        free(copy);
    }
    pal_packet less = parsed(six ? LINKTYPE_IPV6 : LINKTYPE_IPV4, ip, 0, ip, cut, len, &copy);
    is_inside(&less);
    sums_are_right(&less);
    MUST(is_same(&first, &less, false) || is_for_want_of_bytes(&first, &less));
    free(copy);
    if (first.reason == PAL_REASON_MATCH && !first.vrf) { /* and padded */
        static uint8_t padded[PACKET_MAX + 46];
        memcpy(padded, ip, len);
        memset(padded + len, 0xa5, 46);
        pal_packet p = parsed(LINKTYPE_RAW, ip, 0, padded, len + 46, len + 46, &copy);
        MUST(is_same(&first, &p, true));
        free(copy);
    }
    free(first_copy);
    return 0;
}
