/* SPDX-License-Identifier: Apache-2.0
 *
 * host.h - a live host's packets, a burst at a time: from vNICs and the uplink, through firewall and forwarding, to vNICs
 * and the uplink. Whoever owns the cards (native/io, tests, benchmarks) brings frames in buffers and takes out what leaves.
 *
 *   vNIC A -> parse -> spoofguard -> DFW OUT @A -> forward -> DFW IN @B -> vNIC B      (B on this host)
 *                                                         `-> Geneve -> uplink         (B elsewhere)
 *   uplink -> Geneve -> forward -> DFW IN @B -> vNIC B
 *
 * A burst, stage by stage (host_burst, in host.c; docs/packet-path.md section 15):
 *
 *     take in           host_take          TEP, Geneve header, segment; control packets leave     (geneve.h)
 *     parse             host_parse         sums that nobody vouches for                           (parse.h)
 *     look              host_look          each frame: offload, spoofguard, congestion            (offload.h, spoof.h)
 *         where it goes     path_look_up       from the path cache, or                            (path.h)
 *                           forward_look_up    ARP, ND, copies, routes, a known MAC address       (forward.h, fabric.h, learn.h)
 *     judge             host_burst_judge   plain frames, many at once                             (pipeline.h)
 *                       host_special       one alone: answers, errors, copies, fragments          (group.h, host_fragment.c)
 *     carry out         host_settle        by verdict, in the frames' order
 *                           host_execute       MAC addresses, TTL, Geneve                         (rewrite.h, host_emit.h)
 *                           host_answer        ARP, ND, ping                                      (arp.h, nd.h, icmp_build.h)
 *                           host_error         ICMP of a gateway
 *                           host_generated     RST and ICMP of a filter
 *     give away         host_flush         to the sink
 */
#ifndef PAL_ENGINE_HOST_H
#define PAL_ENGINE_HOST_H

#include "../core/offload.h"
#include "engine.h"
#include "palisade_live.h"

#define HOST_HEADROOM 128 /* bytes before each frame that may be written: outer headers go there */
#define HOST_BURST 64
#define HOST_CONTROL 0xfffffffd /* host_out.vnic: for the host itself */

/* A frame that arrived. From a vNIC: an Ethernet frame. From the uplink: a tunnel header and what follows; outer Ethernet,
 * IP and UDP have been checked and taken off (outer.h), the offload is the inner frame's. */
typedef struct host_frame {
    uint8_t *data;
    uint32_t len;
    uint32_t from;                   /* a vNIC's filter number, or PAL_UPLINK */
    host_offload offload;
    pal_address outer;               /* PAL_UPLINK: the TEP that sent it */
    uint8_t tos;                     /* PAL_UPLINK: DSCP and ECN of the outer packet (outer_found.tos) */
    uint8_t encap;                   /* PAL_UPLINK: PAL_ENCAP_* */
    uint8_t reserved[2];
} host_frame;

/* A frame that leaves: an Ethernet frame for a vNIC, or a tunnel header and an inner frame for a TEP; or (HOST_CONTROL) a Geneve
 * header and a control packet (O bit, RFC 9521: BFD) from the known TEP `outer`, for the host itself. Its memory is that of a frame
 * that arrived in this burst, or the host's own, and is the sink's until the sink returns. HOST_HEADROOM less the tunnel header
 * bytes before it may be written; copies of one frame for several vNICs share their memory and have the same offload, those for
 * several TEPs do not share it. */
typedef struct host_out {
    uint8_t *data;
    uint32_t len;
    uint32_t vnic;                   /* filter number, or PAL_UPLINK */
    uint32_t tep;                    /* PAL_UPLINK: index in the fabric of this burst */
    pal_address outer;               /* PAL_UPLINK: that TEP's address */
    uint16_t port;                   /* PAL_UPLINK: outer source port, by the inner flow, the same for both directions */
    uint16_t inner;                  /* PAL_UPLINK, HOST_CONTROL: bytes of tunnel header before the inner frame */
    uint32_t encap;                  /* PAL_UPLINK: PAL_ENCAP_* */
    host_offload offload;            /* the inner frame's */
} host_out;

typedef struct host_worker host_worker;

host_worker *host_worker_of(pal_host *h, uint32_t number);
pal_engine *host_engine(const pal_host *h);
/* One burst of at most HOST_BURST frames at a worker; now_ns never goes back. What leaves is given to the sink, in the order in
 * which it leaves: all of it in one call at the end, or, when there is more than fits (replicas, released fragments), in several;
 * none when nothing leaves. Whatever the sink is given must be sent, or copied, when it returns. n 0: time passes. */
typedef void host_sink(void *context, const host_out *out, uint32_t n);
void host_burst(host_worker *w, host_frame *frame, uint32_t n, uint64_t now_ns, host_sink *sink, void *context);
/* For whoever knows the frames after the next burst's, as a card's ring does: lines of memory that will be touched then. They are
 * fetched one by one in between, while the next burst is worked on, since all at once have to wait for each other. `line` must stay
 * until host_burst has returned, and is forgotten then. */
void host_ahead(host_worker *w, const void *const *line, uint32_t n);

#endif
