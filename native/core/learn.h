/* SPDX-License-Identifier: Apache-2.0
 *
 * learn.h - MAC addresses that were seen behind a TEP, on segments that may learn: for peers that nobody programs. What the fabric
 * knows goes first. A worker's own; where two fall on one slot the later one has it, and the earlier is unknown again: then its
 * frames go to everybody.
 */
#ifndef PAL_CORE_LEARN_H
#define PAL_CORE_LEARN_H

#include "fabric.h"

#define LEARN_SLOTS 4096u
#define LEARN_TICKS 30000u /* 300 s (IEEE 802.1Q table 8-3) */

typedef struct learn_slot {
    uint64_t mac;         /* as a number */
    uint64_t until;       /* tick; 0: free */
    uint32_t vni, family; /* of the segment, of the TEP's address */
    uint8_t tep[16];      /* by address: indexes change with the fabric */
} learn_slot;

PAL_INLINE learn_slot *learn_at(learn_slot *slots, const fabric *f, uint32_t vni, uint64_t mac)
{
    return &slots[fabric_mac_hash(f, vni, mac) % LEARN_SLOTS];
}

/* A frame from TEP `tep` with this source. */
static inline void learn_source(learn_slot *slots, const fabric *f, uint32_t segment, const uint8_t *source, uint32_t tep, uint64_t tick)
{
    const uint64_t mac = mac_number(source);
    if ((source[0] & 1) || mac == 0 || mac == f->gateway_mac || fabric_mac_find(f, segment, mac))
        return;
    learn_slot *s = learn_at(slots, f, f->segment[segment].vni, mac);
    *s = (learn_slot){.mac = mac, .until = tick + LEARN_TICKS, .vni = f->segment[segment].vni, .family = f->tep[tep].family};
    memcpy(s->tep, f->tep[tep].addr, 16);
}

/* Index of the TEP, or PAL_NO_INDEX. */
static inline uint32_t learn_find(learn_slot *slots, const fabric *f, uint32_t segment, uint64_t mac, uint64_t tick)
{
    const learn_slot *s = learn_at(slots, f, f->segment[segment].vni, mac);
    if (s->until < tick || s->mac != mac || s->vni != f->segment[segment].vni)
        return PAL_NO_INDEX;
    return fabric_find(f, FABRIC_TEP, 0, s->tep, s->family);
}

#endif
