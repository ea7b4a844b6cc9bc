/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PAL_ENGINE_LIMITS_H
#define PAL_ENGINE_LIMITS_H

#include "../core/filter.h"

/* Fills in what was left open; false, with a sentence, for what cannot be. */
bool limits_settle(pal_limits *limits, char *err, size_t errlen);

#define INCARNATIONS (1u << (32 - ZONE_VRF_BITS))

/* A worker's memory for the budgets that were given; false when there is none. limits_forget before the first packet, and
 * where all that packets left behind is forgotten: filters below `incarnations` have been. */
bool limits_open(pal_worker *w, const pal_limits *limits, uint32_t filters);
void limits_forget(pal_worker *w, uint32_t filters, uint32_t incarnations);
void limits_close(pal_worker *w);

#endif
