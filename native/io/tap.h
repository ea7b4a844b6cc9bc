/* SPDX-License-Identifier: Apache-2.0
 *
 * tap.h - TAP interfaces: how they are opened, and a frame in or out.
 */
#ifndef PAL_IO_TAP_H
#define PAL_IO_TAP_H

#include "frames.h"

/* TUNSETOFFLOAD's bits: what the kernel may leave for us to do. Older headers don't have the last four. */
enum {
    TAP_CSUM = 0x01, TAP_TSO4 = 0x02, TAP_TSO6 = 0x04, TAP_TSO_ECN = 0x08, TAP_USO4 = 0x20, TAP_USO6 = 0x40,
    TAP_TUNNEL = 0x80, TAP_TUNNEL_CSUM = 0x100
};
/* Among them, and none of the kernel's: the descriptor is a packet socket on somebody else's TAP (a virtual machine's). */
#define TAP_PACKET_SOCKET 0x10000u

/* Where a card's EAGAIN, EIO and the like are counted. */
uint8_t io_error_reason(int error);

/* One frame into the buffer at `frame`, whose virtio header of `header` bytes is left before it. Its length; 0: none is there;
 * or a negative errno. */
int32_t tap_read(int fd, uint8_t *frame, uint32_t header);
/* One frame to a vNIC: what stands before it in memory is left alone. Counted. `header`: bytes of the
 * virtio header. `uso`: the kernel knows UDP super-packets. */
void tap_send(int fd, const host_out *out, uint32_t header, bool uso, io_counts *counts);

#endif
