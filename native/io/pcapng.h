/* SPDX-License-Identifier: Apache-2.0
 *
 * pcapng.h - writing packets with comments (draft-ietf-opsawg-pcapng). The prototypes are in palisade_core.h, block
 * "captures"; this is what they promise.
 *
 * pal_pcapng_open   A writer onto fd, which stays the caller's. NULL: no memory. The section header is written at the
 *                   first flush, so a file without packets is valid too.
 * pal_pcapng_write  One enhanced packet block: the frame with its time in ns, its direction (epb_flags) where known, and
 *                   the comment (UTF-8; cut at 65,535 bytes on a character's boundary; none when comment_len is 0).
 *                   An interface is described when its link type is first met. 0, or -errno.
 * pal_pcapng_close  Writes what is buffered and frees the writer. 0, or the first -errno that occurred since open.
 *                   NULL is allowed and is 0.
 *
 * Errors stick: after one nothing more is written, so a file ends at a whole or a cut block and never has a hole.
 * A link type past 65,535 cannot be said in pcapng: -EINVAL for that frame, which does not stick; the same for more than 64
 * link types in one file, and packets of 2^31 bytes or more.
 */
#ifndef PAL_IO_PCAPNG_H
#define PAL_IO_PCAPNG_H

#include "../include/palisade_core.h"

#endif
