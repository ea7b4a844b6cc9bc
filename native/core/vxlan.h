/* SPDX-License-Identifier: Apache-2.0
 *
 * vxlan.h - the VXLAN header (RFC 7348 section 5): eight bytes, a network identifier, and nothing else. It has no place for our
 * option, so what that would say goes without being said.
 */
#ifndef PAL_CORE_VXLAN_H
#define PAL_CORE_VXLAN_H

#include "geneve.h"

#define VXLAN_PORT 4789
#define VXLAN_HEADER 8
#define VXLAN_VNI 0x08 /* the I flag: the identifier is valid */

/* Of `there` bytes at h, as a Geneve header would say it. False: cut short, or without an identifier. Reserved bits are ignored
 * on receipt. */
PAL_INLINE bool vxlan_read(const uint8_t *h, uint32_t there, geneve_header *g)
{
    if (PAL_UNLIKELY(there < VXLAN_HEADER) || PAL_UNLIKELY(!(h[0] & VXLAN_VNI)))
        return false;
    *g = (geneve_header){.vni = load_be32(h + 4) >> 8, .protocol = GENEVE_ETHERNET, .len = VXLAN_HEADER};
    return true;
}

/* Writes VXLAN_HEADER bytes at h. */
PAL_INLINE void vxlan_write(uint8_t *h, uint32_t vni)
{
    store_be32(h, (uint32_t)VXLAN_VNI << 24);
    store_be32(h + 4, vni << 8);
}

#endif
