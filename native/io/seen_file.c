/* SPDX-License-Identifier: Apache-2.0
 *
 * seen_file.c - captured packets to pcapng: those of a vNIC as Ethernet frames with their verdicts as comments, those of an uplink
 * with an outer IP and UDP header, which the workers never see and which is made here.
 */
#include "../core/outer.h"
#include "../core/parse.h"
#include "../engine/packet_comment.h"
#include "palisade_watch.h"
#include "pcapng.h"
#include "sink.h"

#include <errno.h>
#include <stdlib.h>

#define SEEN_OUTER 48u /* IPv6 and UDP */

/* The IP and UDP headers before what a tunnel carries; returns how many bytes they are. */
static uint32_t seen_outer(uint8_t *h, const pal_seen *s, const pal_address *local)
{
    const pal_address *from = s->dir == PAL_DIR_OUT ? local : &s->outer, *to = s->dir == PAL_DIR_OUT ? &s->outer : local;
    const uint32_t head = s->outer.family == PAL_FAMILY_V4 ? 20 : 40;
    const uint16_t udp = (uint16_t)min_u32(s->wire + 8, 65535 - 20);
    memset(h, 0, head);
    if (head == 20) {
        h[0] = 0x45;
        store_be16(h + 2, (uint16_t)(udp + 20));
        h[6] = 0x40; /* don't fragment */
        h[8] = 64;
        h[9] = PROTO_UDP;
        memcpy(h + 12, from->addr, 4);
        memcpy(h + 16, to->addr, 4);
        const uint16_t sum = sum_finish(sum_bytes(h, 20, 0));
        memcpy(h + 10, &sum, 2);
    } else {
        h[0] = 0x60;
        store_be16(h + 4, udp);
        h[6] = PROTO_UDP;
        h[7] = 64;
        memcpy(h + 8, from->addr, 16);
        memcpy(h + 24, to->addr, 16);
    }
    store_be16(h + head, s->port);
    store_be16(h + head + 2, encap_port(s->encap));
    store_be16(h + head + 4, udp);
    store_be16(h + head + 6, 0); /* no sum: it was made, or looked at, elsewhere */
    return head + 8;
}

static size_t seen_comment(char *out, size_t size, const pal_seen *s, const char *const *rule, uint32_t rules, const char *const *vnic,
                           uint32_t vnics)
{
    const pal_record v = {.rule = s->rule, .filter = s->filter, .dir = s->dir, .verdict = s->verdict, .reason = s->reason};
    const char *name = s->filter < vnics ? vnic[s->filter] : NULL;
    size_t n;
    if (s->filter == PAL_NO_FILTER)
        return 0;
    if (s->ours && !s->judged)
        n = (size_t)snprintf(out, size, "made by this host for %s", name ? name : "\"vnic\": null");
    else
        n = comment_add(out, 0, size, &v, s->rule < rules ? rule[s->rule] : NULL, name);
    if (s->ours && s->judged)
        n += (size_t)snprintf(out + n, size - n, " | made by this host");
    if (s->then)
        n += (size_t)snprintf(out + n, size - n, " | DROP %s by forwarding", pal_word_reason(s->then));
    return n;
}

int64_t pal_seen_write(pal_pcapng *to, const uint8_t *seen, uint64_t len, int64_t offset_ns, uint64_t most, const pal_address *local,
                       const char *const *rule, uint32_t rules, const char *const *vnic, uint32_t vnics)
{
    char *comment = malloc(COMMENT_BYTES + 512);
    uint8_t *whole = malloc(SEEN_OUTER + PAL_SNAP_MAX);
    int64_t written = comment && whole ? 0 : -ENOMEM;
    for (uint64_t at = 0; written >= 0 && (uint64_t)written < most && at + sizeof(pal_seen) <= len;) {
        pal_seen s;
        memcpy(&s, seen + at, sizeof s);
        const uint8_t *data = seen + at + sizeof s;
        at += (sizeof s + s.len + 7) & ~7ull;
        if (at > len || s.len > PAL_SNAP_MAX)
            break;
        pal_frame f = {.data = data, .caplen = s.len, .wirelen = s.wire, .ts_ns = s.ts_ns + (uint64_t)offset_ns, .linktype = LINKTYPE_ETHERNET,
                       .direction = s.dir == PAL_DIR_OUT ? PAL_FRAME_OUTBOUND : PAL_FRAME_INBOUND};
        if (s.outer.family) {
            const uint32_t head = seen_outer(whole, &s, local);
            memcpy(whole + head, data, s.len);
            f.data = whole;
            f.caplen += head;
            f.wirelen += head;
            f.linktype = LINKTYPE_RAW;
        }
        const size_t words = seen_comment(comment, COMMENT_BYTES, &s, rule, rules, vnic, vnics);
        const int failed = pal_pcapng_write(to, &f, comment, words < COMMENT_BYTES ? words : COMMENT_BYTES - 1);
        written = failed ? failed : written + 1;
    }
    free(comment);
    free(whole);
    return written;
}
