/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PAL_ENGINE_LIMITS_H
#define PAL_ENGINE_LIMITS_H

#include "../core/filter.h"

/* Fills in what was left open; false, with a sentence, for what cannot be. */
bool limits_settle(pal_limits *limits, char *err, size_t errlen);

/* Accounts of unanswered connections, not yet initialised; NULL without memory. */
half_open_table *half_open_new(const pal_limits *limits, uint32_t filters);
void half_open_free(half_open_table *h);

#endif
