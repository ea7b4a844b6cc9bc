/* SPDX-License-Identifier: Apache-2.0
 *
 * fabric.h - a snapshot of the fabric, made from what Python gives, hung into a configuration, freed with the last that refers
 * to it.
 */
#ifndef PAL_ENGINE_FABRIC_H
#define PAL_ENGINE_FABRIC_H

#include "../core/fabric.h"

/* NULL with a sentence in err. `filters`: numbers below it may be vNICs. */
fabric *fabric_new(const pal_fabric *from, uint32_t filters, const uint64_t seed[HASH_KEY_WORDS], char *err, size_t errlen);

/* Configurations hold fabrics: only under whatever stages and commits. */
void fabric_hold(const fabric *f);
void fabric_drop(const fabric *f);

#endif
