/* SPDX-License-Identifier: Apache-2.0
 *
 * statistics.c - counters summed over workers, and the words for what they count.
 */
#include "engine.h"

_Static_assert(PAL_REASON_COUNT <= 128 && PAL_VERDICT_COUNT == 4, "pal_engine_stats.count has room");

void pal_engine_stats_read(const pal_engine *e, pal_engine_stats *out)
{
    memset(out, 0, sizeof *out);
    for (uint32_t i = 0; i < e->options.workers; i++) {
        const pal_worker *w = &e->worker[i].w;
        for (uint32_t v = 0; v < PAL_VERDICT_COUNT; v++)
            for (uint32_t r = 0; r < PAL_REASON_COUNT; r++)
                out->count[v * 128 + r] += w->count[v][r];
        out->received += w->received;
        out->released += w->released;
        out->bad_ip_sums += w->bad_ip_sum;
        out->bad_l4_sums += w->bad_l4_sum;
        out->odd += w->odd;
        out->created += w->table.s->created;
        out->connections4 += w->table.s->used[0];
        out->connections6 += w->table.s->used[1];
        out->table_bytes += e->worker[i].region.charged;
        out->table_capacity += (uint64_t)w->table.cap4 + w->table.cap6;
    }
}

void pal_engine_rules_read(const pal_engine *e, pal_rule_count *out, uint32_t n)
{
    memset(out, 0, n * sizeof *out);
    for (uint32_t i = 0; i < e->options.workers; i++) {
        const pal_worker *w = &e->worker[i].w;
        const ct_table *t = &w->table;
        for (uint32_t r = 0; r < n && r < w->rules; r++) {
            out[r].hits += w->rule[r].hits;
            out[r].packets += w->rule[r].packets;
            out[r].bytes += w->rule[r].bytes;
        }
        for (uint32_t ref = 0; ref < t->cap4 + t->cap6; ref++) {
            if (ref == t->s->fresh[0] && ref < t->cap4)
                ref = t->cap4;
            if (ref >= t->cap4 + t->s->fresh[1])
                break;
            uint32_t r = t->cold[ref].rule;
            if (t->hot[ref].state == CT_FREE || r >= n)
                continue;
            out[r].packets += ct_packets(t, ref, 0) + ct_packets(t, ref, 1);
            out[r].bytes += ct_bytes(t, ref, 0) + ct_bytes(t, ref, 1);
        }
    }
}

static const char *const reason_word[][3] = {
#define REASON(name, word, nsx, kind, text) {word, nsx, text},
#include "../core/reasons.def"
#undef REASON
};

const char *pal_word_reason(uint32_t r) { return r < PAL_REASON_COUNT ? reason_word[r][0] : NULL; }
const char *pal_word_reason_nsx(uint32_t r) { return r < PAL_REASON_COUNT ? reason_word[r][1] : NULL; }
const char *pal_word_reason_text(uint32_t r) { return r < PAL_REASON_COUNT ? reason_word[r][2] : NULL; }

const char *pal_word_verdict(uint32_t v)
{
    static const char *const word[] = {"ALLOW", "DROP", "REJECT", "HELD"};
    return v < PAL_VERDICT_COUNT ? word[v] : NULL;
}

const char *pal_word_ct(uint32_t c)
{
    static const char *const word[] = {"new", "established", "related", "invalid", "untracked"};
    return c < PAL_CT_COUNT ? word[c] : NULL;
}
