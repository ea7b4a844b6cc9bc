/* SPDX-License-Identifier: Apache-2.0
 *
 * tracker.h - what a protocol's tracker may answer, and NSX's session timers.
 */
#ifndef PAL_CORE_TRACKER_H
#define PAL_CORE_TRACKER_H

#include "conntrack.h"

enum pal_timer {
    TIMER_TCP_FIRST_PACKET, TIMER_TCP_OPENING, TIMER_TCP_ESTABLISHED, TIMER_TCP_CLOSING, TIMER_TCP_FINWAIT,
    TIMER_TCP_CLOSED, TIMER_UDP_FIRST_PACKET, TIMER_UDP_SINGLE, TIMER_UDP_MULTIPLE, TIMER_ICMP_FIRST_PACKET,
    TIMER_ICMP_ERROR_REPLY, TIMER_COUNT
};

/* A tracker returns PAL_REASON_STATE (accepted), a reason to drop, or one of these. */
enum track_special {
    TRACK_OVER = 0xfe,   /* passed over: let it go by, nothing is learned from it and the deadline stays */
    TRACK_REOPEN = 0xff, /* the connection is over and this packet begins another */
};
_Static_assert((int)PAL_REASON_COUNT < (int)TRACK_OVER, "reasons and specials share a byte");

#endif
