/* SPDX-License-Identifier: Apache-2.0
 *
 * packet_comment.h - a verdict as it stands in a packet's comment in pcapng files.
 */
#ifndef PAL_ENGINE_PACKET_COMMENT_H
#define PAL_ENGINE_PACKET_COMMENT_H

#include <stdio.h>

#include "palisade_core.h"

#define COMMENT_BYTES 65535u /* of a pcapng option */

static inline const char *comment_dir(uint8_t dir)
{
    static const char *const word[] = {"", "IN", "OUT", "IN_OUT"};
    return word[dir & 3];
}

/* Adds a verdict behind the `at` bytes that are there; returns how many there would be. rule: as pal_replay_options.rule_json, NULL
 * where none was concerned; vnic: as filter_json, NULL: neither end is known. */
static inline size_t comment_add(char *out, size_t at, size_t size, const pal_record *v, const char *rule, const char *vnic)
{
    if (at >= size)
        return at;
    int n = snprintf(out + at, size - at, "%s%s %s by %s, %s%s%s", at ? " | " : "", pal_word_verdict(v->verdict),
                     pal_word_reason(v->reason), rule ? rule : "\"rule\": null, \"rule_path\": null", vnic ? vnic : "\"vnic\": null",
                     vnic ? ", " : "", vnic ? comment_dir(v->dir) : "");
    return n < 0 ? at : at + (size_t)n;
}

#endif
