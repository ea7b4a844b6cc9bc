/* SPDX-License-Identifier: Apache-2.0
 *
 * rig_stages.h - the stages that rig.h drives, as calls. What is linked with the engine (RIG_LINKED) takes them from its archive:
 * inlined into each test they were three quarters of what it compiled.
 */
#ifndef PAL_TESTS_RIG_STAGES_H
#define PAL_TESTS_RIG_STAGES_H

#include "../../core/pipeline.h"

/* parse_frame, pipeline_clock, pipeline_burst and datagram_finish. */
void rig_stage_parse(pal_packet *p, uint32_t linktype, const parse_options *o);
void rig_stage_clock(pal_worker *w, uint64_t clock_ns);
void rig_stage_burst(pal_worker *w, const pal_route *route, pal_packet *p, uint32_t n);
void rig_stage_finish(pal_worker *w);

#endif
