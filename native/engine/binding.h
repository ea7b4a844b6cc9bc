/* SPDX-License-Identifier: Apache-2.0
 *
 * binding.h - which vNIC's filter a MAC address or an IP address belongs to.
 */
#ifndef PAL_ENGINE_BINDING_H
#define PAL_ENGINE_BINDING_H

#include "../core/packet.h"

typedef struct binding_table {
    pal_binding *slot;
    uint32_t size; /* a power of two, at least twice the number of bindings */
    uint64_t seed;
} binding_table;

int binding_table_make(binding_table *t, const pal_binding *b, uint32_t n, uint64_t seed);
void binding_table_free(binding_table *t);

#define BINDING_UNKNOWN 0xffffffffu

/* The number of each filter's segment, 1 + VNI, or 0: `segment` has room for `filters`. */
void binding_segments(uint32_t *segment, uint32_t filters, const pal_binding *b, uint32_t n);

/* The filter's number, PAL_NO_FILTER when it is ambiguous, or BINDING_UNKNOWN. family 0: addr is a MAC address. */
uint32_t binding_find(const binding_table *t, const uint8_t *addr, uint32_t family, uint32_t vrf);

#endif
