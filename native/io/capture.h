/* SPDX-License-Identifier: Apache-2.0
 *
 * capture.h - captured packets, read in place from a mapped file: classic pcap and pcapng.
 *
 * The formats: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng, https://www.tcpdump.org/linktypes.html.
 * The prototypes are in palisade_core.h, block "captures"; this is what they promise.
 *
 * pal_capture_open     Takes a whole file in memory (map, len), which must stay until pal_capture_close. NULL with a
 *                      sentence in err (always terminated) when the bytes are no capture that we read, or memory is out.
 * pal_capture_next     Fills at most max frames and returns how many; 0 at the end, and from then on. Frames point into
 *                      the map. Nothing is read outside [map, map + len) whatever the file says, and the work is linear
 *                      in len: every call moves forward.
 * pal_capture_warning  NULL, or a sentence with the byte offset: why the reading ended before the end of the file. All
 *                      frames handed out before are good. The text lives as long as the reader.
 * pal_capture_close    Frees the reader, not the map. NULL is allowed.
 *
 * A frame's number counts from 1 as tshark's frame.number does: records that tshark lists although they hold no packet
 * (pcapng: custom blocks, system log entries, system calls) take a number and give no frame, so numbers may skip.
 * `interface` is pcapng's number within its section, as tshark's frame.interface_id; 0 in classic pcap.
 *
 * The caller keeps the file from being cut while it is mapped (the kernel sends SIGBUS for such pages).
 */
#ifndef PAL_IO_CAPTURE_H
#define PAL_IO_CAPTURE_H

#include "../include/palisade_core.h"

#endif
