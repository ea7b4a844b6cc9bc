/* SPDX-License-Identifier: Apache-2.0
 *
 * reasons.h - the enum made from reasons.def. Names and counters are made from the same list, elsewhere.
 */
#ifndef PAL_CORE_REASONS_H
#define PAL_CORE_REASONS_H

enum pal_reason {
#define REASON(name, word, nsx, kind, text) PAL_REASON_##name,
#include "reasons.def"
#undef REASON
    PAL_REASON_COUNT
};

/* What Linux would call the packet's connection state (ct in our outputs). */
enum pal_ct { PAL_CT_NEW, PAL_CT_ESTABLISHED, PAL_CT_RELATED, PAL_CT_INVALID, PAL_CT_UNTRACKED, PAL_CT_COUNT };

enum pal_verdict_word { PAL_ALLOW, PAL_DROP, PAL_REJECT, PAL_HELD, PAL_VERDICT_COUNT };

#endif
