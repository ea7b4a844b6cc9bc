/* SPDX-License-Identifier: Apache-2.0
 *
 * fabric_internal.h - what fabric.c, fabric_check.c and fabric_routes.c share.
 */
#ifndef PAL_ENGINE_FABRIC_INTERNAL_H
#define PAL_ENGINE_FABRIC_INTERNAL_H

#include "fabric.h"

typedef struct fabric_error {
    char *text;
    size_t len;
} fabric_error;

/* Says why, and is false. */
__attribute__((format(printf, 2, 3))) bool fabric_bad(fabric_error *e, const char *format, ...);

/* fabric_check.c: are all numbers inside their bounds? */
bool fabric_check(const pal_fabric *from, uint32_t filters, fabric_error *err);

/* fabric_routes.c: range and table. */
bool fabric_routes(fabric *f, const pal_fabric *from, fabric_error *err);

/* fabric.c: the value that is there already, or PAL_NO_INDEX and it has been put there. */
uint32_t fabric_slot_put(fabric *f, uint32_t word, uint32_t where, const uint8_t addr[16], uint32_t family, uint32_t value);

#endif
