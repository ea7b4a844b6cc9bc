/* SPDX-License-Identifier: Apache-2.0
 *
 * palisade_live.h - what Python sees of a live host: the fabric that it forwards by, its cards, its workers. Like
 * palisade_core.h, and read by cffi after it.
 */
#ifndef PALISADE_LIVE_H
#define PALISADE_LIVE_H

#include "palisade_core.h"

/* cffi: begin */

/* ---- filters that outlive a process (native/engine/configuration.c) --------------------------------------------- */

/* A filter's connections are those of its incarnation, a number that it gets when it is staged for the first time and that
 * stands in the connection table's file. A new process that opens that file says, before it stages anything, which
 * incarnation each filter had. -1: a number out of bounds, one that another filter has, no memory. */
int pal_engine_adopt(pal_engine *e, uint32_t number, uint32_t incarnation);
uint32_t pal_engine_incarnation(const pal_engine *e, uint32_t number); /* 0: never staged */

/* ---- fabric (native/engine/fabric.c): what a host knows of segments, gateways and other hosts ---------------- */

#define PAL_NO_INDEX 0xffffffff
#define PAL_UPLINK 0xfffffffe      /* where a vNIC's number stands: from, or to, another host */

typedef struct pal_address {
    uint8_t addr[16];              /* as in pal_range */
    uint32_t family;               /* PAL_FAMILY_* */
} pal_address;

#define PAL_GUARD_SPOOF 1          /* sends only from its MAC address and its addresses, in ARP and ND too */
#define PAL_GUARD_DHCP 2           /* is no DHCP server */
#define PAL_GUARD_RA 4             /* is no router: no router advertisements, no redirects */

/* A vNIC of this host. It is known everywhere by the number of its filter. */
typedef struct pal_vnic {
    uint32_t filter;
    uint32_t segment;              /* index in pal_fabric.segment */
    uint32_t addr_off, addr_n;     /* its addresses, in pal_fabric.address */
    uint32_t guards;               /* PAL_GUARD_* */
    uint8_t mac[6];
    uint16_t mtu;                  /* of its interface */
} pal_vnic;

typedef struct pal_segment {
    uint32_t vni;
    uint32_t gateway;              /* number of the gateway that routes for it (a routing domain), or PAL_NO_INDEX */
    uint32_t tep_off, tep_n;       /* where broadcast, multicast and unknown unicast go besides the vNICs here: indexes of
                                      TEPs, in pal_fabric.replica */
    uint32_t learn;                /* MAC addresses are learned from what arrives */
} pal_segment;

/* A MAC address on a segment, and (family not 0) an address that it has: one row for each address. */
typedef struct pal_neighbour {
    uint8_t addr[16];
    uint32_t family;
    uint32_t segment;
    uint32_t vnic;                 /* filter number of a vNIC here, or PAL_UPLINK */
    uint32_t tep;                  /* PAL_UPLINK: index of the TEP behind which it is */
    uint8_t mac[6];
    uint16_t reserved;
} pal_neighbour;

/* A gateway's interface on a segment: every host answers for it, with the gateways' MAC address. */
typedef struct pal_interface {
    uint8_t addr[16];
    uint32_t family;
    uint32_t gateway, segment;
} pal_interface;

#define PAL_ROUTE_CONNECTED 0      /* the destination is on segment `target` */
#define PAL_ROUTE_VIA 1            /* next_hop, on segment `target` */
#define PAL_ROUTE_GATEWAY 2        /* goes on in the table of gateway `target` (Tier-1 to Tier-0 and down again), at most 4 times */
#define PAL_ROUTE_BLACKHOLE 3

typedef struct pal_fabric_route {
    uint8_t addr[16], next_hop[16];
    uint32_t family, length;       /* of the prefix, bits */
    uint32_t gateway;              /* whose table: longest prefix first */
    uint32_t kind, target;         /* PAL_ROUTE_* */
} pal_fabric_route;

typedef struct pal_tep {
    uint8_t addr[16];
    uint32_t family;
    uint32_t dead;                 /* out of replication (BFD) */
} pal_tep;

/* All of it; arrays are copied. */
typedef struct pal_fabric {
    const pal_vnic *vnic;
    const pal_segment *segment;
    const pal_neighbour *neighbour;
    const pal_interface *interface;
    const pal_fabric_route *route;
    const pal_tep *tep;            /* other hosts' */
    const pal_address *address;
    const uint32_t *replica;
    uint32_t vnics, segments, neighbours, interfaces, routes, teps, addresses, replicas;
    uint32_t gateways;             /* numbers below this are used */
    uint32_t underlay_mtu;         /* bytes of an outer IP packet */
    uint8_t gateway_mac[6];        /* of every gateway interface, the same on every host */
    uint16_t reserved;
} pal_fabric;

/* cffi: end */

/* ---- host (native/engine/host.c): an engine and a fabric ------------------------------------------------------- */

typedef struct pal_host pal_host;

/* The engine stays the caller's, and must outlive the host. NULL with a sentence in err. */
pal_host *pal_host_new(pal_engine *e, char *err, size_t errlen);
void pal_host_free(pal_host *h);
/* Stages a fabric. In force, together with whatever is staged in the engine, after pal_engine_commit: one step. -1 with a
 * sentence: an index out of bounds, an address twice, no memory; then nothing is staged. */
int pal_host_stage(pal_host *h, const pal_fabric *fabric, char *err, size_t errlen);

_Static_assert(sizeof(pal_address) == 20, "part of the contract with overlay/layout.py");
_Static_assert(sizeof(pal_vnic) == 28, "part of the contract with overlay/layout.py");
_Static_assert(sizeof(pal_segment) == 20, "part of the contract with overlay/layout.py");
_Static_assert(sizeof(pal_neighbour) == 40, "part of the contract with overlay/layout.py");
_Static_assert(sizeof(pal_interface) == 28, "part of the contract with overlay/layout.py");
_Static_assert(sizeof(pal_fabric_route) == 52, "part of the contract with overlay/layout.py");
_Static_assert(sizeof(pal_tep) == 24, "part of the contract with overlay/layout.py");

#endif
