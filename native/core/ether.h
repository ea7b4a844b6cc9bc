/* SPDX-License-Identifier: Apache-2.0
 *
 * ether.h - layer-2 rules: a short list for each filter, asked for every frame, before state and before layer-3 rules.
 *
 * First match decides. ALLOW lets the frame go on to layer 3, DROP ends it there; no match is ALLOW. A frame that the
 * parser refused, or that has no Ethernet header, is not asked about. Work: ETHER_RULES_MAX entries, two searches each.
 */
#ifndef PAL_CORE_ETHER_H
#define PAL_CORE_ETHER_H

#include "packet.h"

#define ETHER_RULES_MAX 128

/* [I] `mac`: the sorted MAC addresses that rules refer to by src_off, src_n and dst_off, dst_n, as 48-bit numbers. */
typedef struct ether_rules {
    uint32_t holds; /* configurations that refer to it: the engine's alone */
    uint32_t n, macs;
    uint32_t reserved;
    const uint64_t *mac;
    pal_ether_rule rule[];
} ether_rules;

PAL_INLINE uint64_t ether_mac(const uint8_t *a) { return (uint64_t)load_be16(a) << 32 | load_be32(a + 2); }

static inline bool ether_has(const uint64_t *mac, uint32_t n, uint64_t wanted)
{
    uint32_t low = 0;
    while (low < n) {
        uint32_t middle = low + (n - low) / 2;
        if (mac[middle] == wanted)
            return true;
        if (mac[middle] < wanted)
            low = middle + 1;
        else
            n = middle;
    }
    return false;
}

PAL_INLINE bool ether_side(const ether_rules *e, uint32_t off, uint32_t n, uint64_t mac, bool negated)
{
    return n == 0 || ether_has(e->mac + off, n, mac) != negated;
}

/* The first rule that matches, or NULL. `dir`: PAL_DIR_*, or both on a tap. */
static inline const pal_ether_rule *ether_match(const ether_rules *e, const pal_packet *p, uint8_t dir)
{
    uint64_t dst = ether_mac(p->data), src = ether_mac(p->data + 6);
    uint32_t type = load_be16(p->data + p->l3 - 2);
    for (uint32_t i = 0; i < e->n; i++) {
        const pal_ether_rule *r = &e->rule[i];
        if ((r->dir & dir) && (r->ether_type == 0 || r->ether_type == type) &&
            ether_side(e, r->src_off, r->src_n, src, r->flags & PAL_RULE_SRC_NEGATED) &&
            ether_side(e, r->dst_off, r->dst_n, dst, r->flags & PAL_RULE_DST_NEGATED))
            return r;
    }
    return NULL;
}

#endif
