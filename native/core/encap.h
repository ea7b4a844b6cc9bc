/* SPDX-License-Identifier: Apache-2.0
 *
 * encap.h - the tunnel that a TEP speaks: Geneve with every host whose packets this core judges, VXLAN with one whose kernel does.
 * What follows either header is an Ethernet frame, so that the difference ends here and at the UDP port.
 */
#ifndef PAL_CORE_ENCAP_H
#define PAL_CORE_ENCAP_H

#include "vxlan.h"
#include "../include/palisade_live.h"

PAL_INLINE uint16_t encap_port(uint32_t encap) { return PAL_LIKELY(encap == PAL_ENCAP_GENEVE) ? GENEVE_PORT : VXLAN_PORT; }

/* Bytes of the header at h, of which eight are there; they may be more than there are. */
PAL_INLINE uint32_t encap_len(uint32_t encap, const uint8_t *h)
{
    return PAL_LIKELY(encap == PAL_ENCAP_GENEVE) ? GENEVE_HEADER + (h[0] & 63u) * 4 : VXLAN_HEADER;
}

PAL_INLINE bool encap_read(uint32_t encap, const uint8_t *h, uint32_t there, geneve_header *g)
{
    return PAL_LIKELY(encap == PAL_ENCAP_GENEVE) ? geneve_read(h, there, g) : vxlan_read(h, there, g);
}

/* Bytes that encap_write writes. */
PAL_INLINE uint32_t encap_bytes(uint32_t encap, const geneve_header *g)
{
    return PAL_LIKELY(encap == PAL_ENCAP_GENEVE) ? geneve_bytes(g) : VXLAN_HEADER;
}

PAL_INLINE void encap_write(uint32_t encap, uint8_t *h, const geneve_header *g)
{
    if (PAL_LIKELY(encap == PAL_ENCAP_GENEVE))
        geneve_write(h, g);
    else
        vxlan_write(h, g->vni);
}

#endif
