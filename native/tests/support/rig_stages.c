/* SPDX-License-Identifier: Apache-2.0
 *
 * rig_stages.c - rig_stages.h's calls, each the production stage and nothing else.
 */
#include "rig_stages.h"

void rig_stage_parse(pal_packet *p, uint32_t linktype, const parse_options *o) { parse_frame(p, linktype, o); }
void rig_stage_clock(pal_worker *w, uint64_t clock_ns) { pipeline_clock(w, clock_ns); }
void rig_stage_burst(pal_worker *w, const pal_route *route, pal_packet *p, uint32_t n) { pipeline_burst(w, route, p, n); }
void rig_stage_finish(pal_worker *w) { datagram_finish(w); }
