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

#define PAL_ENCAP_GENEVE 0
#define PAL_ENCAP_VXLAN 1   /* RFC 7348: a host whose kernel forwards and enforces */

typedef struct pal_tep {
    uint8_t addr[16];
    uint32_t family;
    uint16_t dead;                 /* out of replication (BFD) */
    uint16_t encap;                /* PAL_ENCAP_* */
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

/* ---- host (native/engine/host.c): an engine and a fabric ------------------------------------------------------- */

/* Frames, each counted once, whatever it stands for: received = passed + consumed + dropped + held. What we generate and copies
 * are counted apart. */
typedef struct pal_host_stats {
    uint64_t received[2];          /* from vNICs, from the uplink */
    uint64_t passed;               /* to a vNIC or a TEP; for many: to one of them at least */
    uint64_t consumed;             /* answered here, or for the host itself */
    uint64_t held;                 /* fragments, now */
    uint64_t dropped[128];         /* by reason */
    uint64_t copies, copies_refused; /* of frames for many; not made, since too long for the receiver */
    uint64_t generated, generated_dropped; /* ARP, ND, ICMP, RST; of them those that a filter or forwarding refused */
} pal_host_stats;

typedef struct pal_host pal_host;

/* The engine stays the caller's, and must outlive the host. NULL with a sentence in err. */
pal_host *pal_host_new(pal_engine *e, char *err, size_t errlen);
void pal_host_free(pal_host *h);
/* Stages a fabric. In force, together with whatever is staged in the engine, after pal_engine_commit: one step. -1 with a
 * sentence: an index out of bounds, an address twice, no memory; then nothing is staged. */
int pal_host_stage(pal_host *h, const pal_fabric *fabric, char *err, size_t errlen);
void pal_host_stats_read(const pal_host *h, pal_host_stats *out);

/* Frames in memory, for tests and benchmarks (native/engine/host_run.c). Offsets are of their first byte among `bytes`. */
typedef struct pal_host_frame {
    uint64_t at, now_ns;
    uint32_t len;
    uint32_t vnic;                 /* from or to: a filter number, PAL_UPLINK, or (to) 0xfffffffd: for the host itself */
    pal_address outer;             /* PAL_UPLINK: the TEP; what is at `at` begins with its tunnel header */
    uint16_t port, inner;          /* out, PAL_UPLINK: outer source port; bytes of tunnel header */
    uint16_t hdr_len, gso_size, csum_start, csum_offset; /* virtio, host byte order, of the inner frame */
    uint8_t gso_type, flags;
    uint8_t tos;                   /* in, PAL_UPLINK: of the outer packet */
    uint8_t encap;                 /* PAL_UPLINK: PAL_ENCAP_* */
    uint32_t burst;                /* out: number of the burst in which it left */
} pal_host_frame;

typedef struct pal_host_run pal_host_run;

/* n frames through the first worker, `batch` (1 .. 64) a burst; frames of one burst have one time, the last's. They are copied.
 * NULL without memory, or for a batch out of bounds. */
pal_host_run *pal_host_run_new(pal_host *h, const uint8_t *bytes, const pal_host_frame *frames, uint64_t n, uint32_t batch);
void pal_host_run_free(pal_host_run *r);
/* What left, in order, its bytes, and every verdict (its `number`: that of the frame in this run, from 1). */
const pal_host_frame *pal_host_run_frames(const pal_host_run *r, uint64_t *n);
const uint8_t *pal_host_run_bytes(const pal_host_run *r, uint64_t *n);
const pal_record *pal_host_run_records(const pal_host_run *r, uint64_t *n);

/* ---- TAPs (native/io/tap.c) --------------------------------------------------------------------------------------- */

#define PAL_TAP_QUEUES 16

/* An open TAP: a file descriptor for each queue; what the kernel leaves for us to do (TUN_F_*); the interface's MAC address. */
typedef struct pal_tap {
    int32_t fd[PAL_TAP_QUEUES];
    uint32_t queues, offloads;
    uint8_t mac[6];
    uint16_t reserved;
} pal_tap;

/* Opens the TAP `name` in the network namespace that the file `netns` stands for (NULL: here), which may be there already;
 * with that MAC address unless it is NULL. tunnel: with the virtio header that UDP tunnels need. -1 with a sentence. */
int pal_tap_open(const char *netns, const char *name, const uint8_t *mac, uint32_t queues, int tunnel, pal_tap *out, char *err,
                 size_t errlen);
void pal_tap_close(pal_tap *tap);

/* ---- uplink (native/io/uplink.c) ----------------------------------------------------------------------------------- */

#define PAL_TIER_AUTO 0 /* the first of the others that this kernel has */
#define PAL_TIER_A 1    /* a TAP with UDP-tunnel GSO: super-packets leave whole */
#define PAL_TIER_B 2    /* a UDP socket with UDP_SEGMENT and UDP_GRO */
#define PAL_TIER_C 3    /* a UDP socket with neither */

typedef struct pal_uplink_options {
    const char *netns;             /* file of the host's network namespace; NULL: here */
    const char *name;              /* tier A: of the TAP */
    pal_address local;             /* this host's TEP */
    uint32_t tier;                 /* PAL_TIER_* */
    uint32_t mtu;                  /* of the underlay */
    uint8_t mac[6], peer_mac[6];   /* tier A: ours, for the kernel's neighbour entry; the TAP's own, which is the kernel's */
    uint32_t zero_sums;            /* tier A: outer UDP checksums are 0 */
    uint32_t vxlan;                /* tiers B and C: receive at the port of VXLAN too; A always does */
    uint32_t fds, offloads;        /* tier A: queues of the TAP that are open already, as from pal_tap_open; 0: it is opened */
    int32_t fd[PAL_TAP_QUEUES];
} pal_uplink_options;

/* ---- live (native/io/live.c): cards, and threads that carry packets between them ------------------------------------ */

/* Frames: a super-packet is one; segments: the packets that it stands for. Bytes are of frames. drop: by reason. */
typedef struct pal_live_counts {
    uint64_t rx_frames, rx_segments, rx_bytes;
    uint64_t tx_frames, tx_segments, tx_bytes;
    uint64_t drop[128];
} pal_live_counts;

typedef struct pal_live_worker {
    uint64_t bursts, frames;       /* bursts in which there were frames; those frames */
    uint64_t sleeps;               /* times that it waited for something to do */
    uint64_t handed, taken;        /* frames that were another worker's, given to it; those got from others */
    uint64_t cpu_ns;               /* time on a processor */
} pal_live_worker;

/* Before a control packet (Geneve header with the O bit, and what follows; RFC 9521: BFD) on pal_live_control_fd. */
typedef struct pal_live_control {
    pal_address outer;             /* the TEP that sent it, or that it goes to */
    uint16_t port;                 /* outer source port of what goes out */
    uint16_t inner;                /* bytes of Geneve header */
} pal_live_control;

typedef struct pal_live pal_live;

/* Frames go through `host`, which must outlive it, at as many workers as its engine has at least. NULL with a sentence. */
pal_live *pal_live_new(pal_host *host, uint32_t workers, char *err, size_t errlen);
void pal_live_free(pal_live *l);

/* All of these may be called while it runs, by one thread or several; 0, or -1 with a sentence. What a worker must know of it
 * knows when they return. File descriptors stay the caller's: they are duplicated. */
int pal_live_start(pal_live *l, char *err, size_t errlen);
void pal_live_stop(pal_live *l);
int pal_live_port_add(pal_live *l, uint32_t filter, const int32_t *fd, uint32_t queues, uint32_t offloads, char *err, size_t errlen);
int pal_live_port_remove(pal_live *l, uint32_t filter, char *err, size_t errlen);
/* The tier in force, or -1 with a sentence: then the uplink is as it was. options NULL: no uplink from here on, PAL_TIER_AUTO. */
int pal_live_uplink_set(pal_live *l, const pal_uplink_options *options, char *err, size_t errlen);

/* A socket of packets, non-blocking, closed by pal_live_free: what other hosts say to this one arrives here, what is written here
 * leaves by the uplink; a pal_live_control and the packet each. */
int pal_live_control_fd(const pal_live *l);

/* Counters, without stopping anything. -1: there is no such port, uplink, worker. */
int pal_live_port_read(pal_live *l, uint32_t filter, pal_live_counts *out);
int pal_live_uplink_read(pal_live *l, pal_live_counts *out);
/* drop only: frames that were to leave by a port or an uplink that is not there, or that no worker had room for. */
void pal_live_lost_read(pal_live *l, pal_live_counts *out);
int pal_live_worker_read(pal_live *l, uint32_t number, pal_live_worker *out);

/* ---- connections that move (native/io/live_move.c, native/engine/export.c): one vNIC's, from host to host ------------ */

typedef struct pal_export pal_export;

/* The connections of filter `number`, while packets run. since NULL: all of them; else what has become of them since that export.
 * last: and what FTP and TFTP have announced, which is told once, when the vNIC's port has been removed. NULL with a sentence: no
 * such filter, no memory. */
pal_export *pal_live_export(pal_live *l, uint32_t number, const pal_export *since, int last, char *err, size_t errlen);
void pal_export_free(pal_export *x);
uint64_t pal_export_count(const pal_export *x);
/* Bytes for pal_live_import on any host: the entries from `from` on, at most n. Returns how many bytes; out NULL: only that. */
uint64_t pal_export_write(const pal_export *x, uint64_t from, uint64_t n, uint8_t *out);
/* Takes connections in, as filter `number`'s. `rule`: our numbers by the source's, `rules` of them; 0xffffffff: none here. All of it
 * is checked before any is taken: -1 with a sentence, and nothing has changed. *refused: those for which there was no room. */
int64_t pal_live_import(pal_live *l, uint32_t number, const uint8_t *bytes, uint64_t n, const uint32_t *rule, uint32_t rules,
                        uint64_t *refused, char *err, size_t errlen);

/* cffi: end */

_Static_assert(sizeof(pal_address) == 20, "part of the contract with overlay/layout.py");
_Static_assert(sizeof(pal_vnic) == 28, "part of the contract with overlay/layout.py");
_Static_assert(sizeof(pal_segment) == 20, "part of the contract with overlay/layout.py");
_Static_assert(sizeof(pal_neighbour) == 40, "part of the contract with overlay/layout.py");
_Static_assert(sizeof(pal_interface) == 28, "part of the contract with overlay/layout.py");
_Static_assert(sizeof(pal_fabric_route) == 52, "part of the contract with overlay/layout.py");
_Static_assert(sizeof(pal_tep) == 24, "part of the contract with overlay/layout.py");
_Static_assert(sizeof(pal_live_control) == 24, "part of the contract with dfw/core/live.py");
_Static_assert(sizeof(pal_live_counts) == 1072, "part of the contract with dfw/layout.py");
_Static_assert(sizeof(pal_host_frame) == 64, "part of the contract with overlay/layout.py");

#endif
