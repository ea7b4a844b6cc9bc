/* SPDX-License-Identifier: Apache-2.0
 *
 * virtio.h - the header that stands before each frame of a TAP (virtio 1.3, section 5.1.6: struct virtio_net_hdr, with the
 * fields for UDP tunnels behind it), and what we believe of it. Little-endian: TUNSETVNETLE is set on every TAP.
 */
#ifndef PAL_IO_VIRTIO_H
#define PAL_IO_VIRTIO_H

#include "../core/checksum.h"
#include "../engine/host.h"

#define VIRTIO_BYTES 12         /* vNICs */
#define VIRTIO_SHORT_BYTES 10   /* vNICs that are packet sockets (packet(7), PACKET_VNET_HDR): without num_buffers */
#define VIRTIO_TUNNEL_BYTES 24  /* uplinks of tier A */

enum { VIRTIO_NEEDS_CSUM = 1, VIRTIO_DATA_VALID = 2, VIRTIO_TUNNEL_CSUM = 8 };
enum {
    VIRTIO_GSO_NONE = 0, VIRTIO_GSO_TCPV4 = 1, VIRTIO_GSO_TCPV6 = 4, VIRTIO_GSO_UDP_L4 = 5,
    VIRTIO_GSO_TUNNEL_V4 = 0x20, VIRTIO_GSO_TUNNEL_V6 = 0x40, VIRTIO_GSO_TUNNEL = 0x60, VIRTIO_GSO_ECN = 0x80
};

/* In the machine's byte order; all of it, whichever part stands before a frame. */
typedef struct virtio_header {
    uint8_t flags, gso_type;
    uint16_t hdr_len, gso_size, csum_start, csum_offset;
    uint16_t outer_th, inner_nh; /* tunnels: offsets of the outer UDP header and of the inner IP header */
} virtio_header;

PAL_INLINE uint16_t load_le16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
PAL_INLINE void store_le16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

PAL_INLINE virtio_header virtio_load(const uint8_t *p, uint32_t bytes)
{
    virtio_header h = {.flags = p[0], .gso_type = p[1], .hdr_len = load_le16(p + 2), .gso_size = load_le16(p + 4),
                       .csum_start = load_le16(p + 6), .csum_offset = load_le16(p + 8)};
    if (bytes == VIRTIO_TUNNEL_BYTES) {
        h.outer_th = load_le16(p + 20);
        h.inner_nh = load_le16(p + 22);
    }
    return h;
}

/* num_buffers and the hash of the packet, between the two parts, are zero. */
PAL_INLINE void virtio_store(uint8_t *p, uint32_t bytes, const virtio_header *h)
{
    memset(p, 0, bytes);
    p[0] = h->flags;
    p[1] = h->gso_type;
    store_le16(p + 2, h->hdr_len);
    store_le16(p + 4, h->gso_size);
    store_le16(p + 6, h->csum_start);
    store_le16(p + 8, h->csum_offset);
    if (bytes == VIRTIO_TUNNEL_BYTES) {
        store_le16(p + 20, h->outer_th);
        store_le16(p + 22, h->inner_nh);
    }
}

/* What a header says of the frame of `len` bytes behind it, `at` bytes of which are not the (inner) frame's. False: it
 * points outside the frame, or says what no header says. hdr_len, which is a hint, is made from the frame itself. Whether
 * the offsets are those of the frame's own headers is host_offload_check's to find out. */
static inline bool virtio_offload(const virtio_header *h, const uint8_t *frame, uint32_t len, uint32_t at, host_offload *out)
{
    uint32_t type = h->gso_type & ~(uint32_t)VIRTIO_GSO_ECN, start = h->csum_start;
    *out = (host_offload){.flags = h->flags & VIRTIO_DATA_VALID};
    if (h->flags & VIRTIO_NEEDS_CSUM) {
        if (start < at + 14 || start + h->csum_offset + 2u > len)
            return false;
        out->flags = VIRTIO_NEEDS_CSUM;
        out->csum_start = (uint16_t)(start - at);
        out->csum_offset = h->csum_offset;
    }
    if (h->gso_type == VIRTIO_GSO_NONE)
        return true;
    if (!(h->flags & VIRTIO_NEEDS_CSUM) || h->gso_size == 0)
        return false;
    uint32_t headers;
    if (type == VIRTIO_GSO_UDP_L4 && h->gso_type == type && h->csum_offset == 6) {
        headers = start + 8;
    } else if ((type == VIRTIO_GSO_TCPV4 || type == VIRTIO_GSO_TCPV6) && h->csum_offset == 16) {
        if (start + 20 > len || frame[start + 12] >> 4 < 5)
            return false;
        headers = start + (frame[start + 12] >> 4) * 4u;
    } else {
        return false;
    }
    if (headers > len)
        return false;
    out->gso_type = h->gso_type;
    out->gso_size = h->gso_size;
    out->hdr_len = (uint16_t)(headers - at);
    return true;
}

/* The header of a frame that goes to a vNIC. */
PAL_INLINE virtio_header virtio_of(const host_offload *o)
{
    return (virtio_header){.flags = o->flags, .gso_type = o->gso_type, .hdr_len = o->hdr_len, .gso_size = o->gso_size,
                           .csum_start = o->csum_start, .csum_offset = o->csum_offset};
}

#endif
