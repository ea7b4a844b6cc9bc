/* SPDX-License-Identifier: Apache-2.0
 *
 * arp.h - ARP (RFC 826) over Ethernet and IPv4: what a packet says, and an answer to it. The parser has seen to its lengths.
 */
#ifndef PAL_CORE_ARP_H
#define PAL_CORE_ARP_H

#include "fabric.h"
#include "parse_link.h"

enum { ARP_REQUEST = 1, ARP_REPLY = 2, ARP_BYTES = 28 };

/* Whole, untagged, and accepted by the parser. */
PAL_INLINE bool packet_is_arp(const pal_packet *p)
{
    return (p->marks & MARK_NON_IP) && !p->reason && p->l2_len == 14 && p->cap >= 14 + ARP_BYTES && load_be16(p->data + 12) == ETHERTYPE_ARP;
}

PAL_INLINE const uint8_t *arp_of(const pal_packet *p) { return p->data + p->l3; }
PAL_INLINE uint32_t arp_operation(const uint8_t *a) { return load_be16(a + 6); }
PAL_INLINE const uint8_t *arp_sender_mac(const uint8_t *a) { return a + 8; }
PAL_INLINE const uint8_t *arp_sender(const uint8_t *a) { return a + 14; }
PAL_INLINE const uint8_t *arp_target(const uint8_t *a) { return a + 24; }

/* The answer to request `a`: its target is at `mac`. Writes a frame of 14 + ARP_BYTES bytes, to the one who asked. */
static inline uint32_t arp_answer(uint8_t *out, const uint8_t *a, const uint8_t mac[6])
{
    memcpy(out, arp_sender_mac(a), 6);
    memcpy(out + 6, mac, 6);
    store_be16(out + 12, ETHERTYPE_ARP);
    uint8_t *b = out + 14;
    memcpy(b, a, 6);
    store_be16(b + 6, ARP_REPLY);
    memcpy(b + 8, mac, 6);
    memcpy(b + 14, arp_target(a), 4);
    memcpy(b + 18, arp_sender_mac(a), 6);
    memcpy(b + 24, arp_sender(a), 4);
    return 14 + ARP_BYTES;
}

#endif
