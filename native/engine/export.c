/* SPDX-License-Identifier: Apache-2.0 */
#include "export.h"

#include <stdlib.h>

#define EXPORT_CHILD (1ull << 63) /* export_entry.source: after all parents */
#define EXPORT_EXPECTED (1ull << 62 | EXPORT_CHILD)
#define EXPORT_WORKER_SHIFT 32

uint32_t export_layout(void)
{
    const uint32_t parts[] = {sizeof(export_header), sizeof(export_entry), offsetof(export_entry, src), offsetof(export_entry, half),
                              offsetof(export_entry, memo), offsetof(export_entry, translated), CT_STATE_TCP_END, CT_MULTIPLE, CT_ALG, CT_MEMO, TICK_NS, __BYTE_ORDER__};
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        h = (h ^ parts[i]) * 16777619u;
    return h;
}

static export_entry *list_next(export_list *l)
{
    if (l->count == l->room) {
        const uint64_t room = l->room ? l->room * 2 : 1024;
        export_entry *bigger = realloc(l->entry, room * sizeof *bigger);
        if (!bigger) {
            l->lost = true;
            return NULL;
        }
        l->entry = bigger;
        l->room = room;
    }
    export_entry *x = &l->entry[l->count++];
    memset(x, 0, sizeof *x);
    return x;
}

static void entry_ends(export_entry *x, const ct_key *k)
{
    const uint32_t n = k->family == PAL_FAMILY_V4 ? 4 : 16;
    memcpy(x->src, key_addr(k, k->high), n);
    memcpy(x->dst, key_addr(k, !k->high), n);
    x->family = k->family;
    x->kind = k->kind;
    x->sport = k->port[k->high];
    x->dport = k->port[!k->high];
    if (k->kind == KIND_ICMP) {
        x->sport = k->port[0];
        x->dport = (uint16_t)(k->port[1] >> 1);
    } else if (k->kind == KIND_OTHER) {
        x->sport = k->port[0];
        x->dport = 0;
    }
}

/* Names the parent by its ports: what an ALG expects runs between the two hosts that talk already. */
static bool entry_parent(export_entry *x, const ct_table *t, uint32_t parent)
{
    export_entry p = {0};
    ct_key k;
    ct_key_of(t, parent, &k);
    entry_ends(&p, &k);
    const bool same = memcmp(p.src, x->src, 16) == 0 && memcmp(p.dst, x->dst, 16) == 0;
    if (p.family != x->family || p.kind != x->kind || (!same && (memcmp(p.src, x->dst, 16) != 0 || memcmp(p.dst, x->src, 16) != 0)))
        return false;
    x->parent = same ? PARENT_SAME : PARENT_TURNED;
    x->parent_sport = p.sport;
    x->parent_dport = p.dport;
    return true;
}

static void entry_translation(export_entry *x, const ct_table *t, uint32_t ref)
{
    export_entry onward = {0};
    ct_key k;
    if (!nat_is_translated(t, ref))
        return;
    nat_target(t, ref, 0, &k);
    entry_ends(&onward, &k);
    memcpy(x->onward_src, onward.src, 16);
    memcpy(x->onward_dst, onward.dst, 16);
    x->onward_sport = onward.sport;
    x->onward_dport = onward.dport;
    x->translated = 1;
}

static void export_one(const engine_worker *ew, uint32_t ref, export_list *out)
{
    const ct_table *t = &ew->w.table;
    const ct_hot *h = &t->hot[ref];
    const ct_cold *c = &t->cold[ref];
    const bool child = h->marks & CT_CHILD;
    ct_key k;
    if (wheel_is_past(t, h->deadline) || (child && child_parent(t, ref) == PAL_NONE))
        return;
    export_entry *x = list_next(out);
    if (!x)
        return;
    ct_key_of(t, ref, &k);
    entry_ends(x, &k);
    if (child && !entry_parent(x, t, c->link[0])) {
        out->count--;
        return;
    }
    x->source = (child ? EXPORT_CHILD : 0) | (uint64_t)ew->number << EXPORT_WORKER_SHIFT | ref;
    x->what = EXPORT_CONNECTION;
    x->marks = h->marks & (CT_REPLIED | CT_LIBERAL | CT_CHILD | CT_ALG);
    x->state = h->state & (CT_STATE_MASK | CT_PERSIST | CT_ONEWAY | CT_MEMO);
    x->scale = h->scale;
    x->ends = h->ends;
    x->offered = h->state & CT_RESYNC ? c->offered & 15 : c->offered;
    x->rule = c->rule;
    x->deadline = h->deadline;
    memcpy(x->half, h->half, sizeof x->half);
    for (uint32_t d = 0; d < 2; d++) {
        x->packets[d] = ct_packets(t, ref, d);
        x->bytes[d] = ct_bytes(t, ref, d);
    }
    x->memo_end = c->memo_end;
    x->memo_window = c->memo_window;
    x->memo = c->memo;
    entry_translation(x, t, ref);
}

/* Places: the IPv4 entries that have ever been used, then the IPv6 ones. */
uint32_t export_slice(const engine_worker *ew, uint32_t zone, uint32_t from, uint32_t count, export_list *out)
{
    const ct_table *t = &ew->w.table;
    const uint32_t four = t->s->fresh[0], all = four + t->s->fresh[1];
    out->now = t->s->now > out->now ? t->s->now : out->now;
    for (; from < all && count > 0; from++, count--) {
        const uint32_t ref = from < four ? from : from - four + t->cap4;
        if (t->hot[ref].zone == zone && t->hot[ref].state)
            export_one(ew, ref, out);
    }
    return from < all ? from : PAL_NONE;
}

void export_expectations(const engine_worker *ew, uint32_t zone, export_list *out)
{
    const ct_table *t = &ew->w.table;
    const expect_table *e = ew->w.expected;
    uint64_t number = EXPORT_EXPECTED;
    for (uint16_t i = e->oldest; i != EXPECT_NONE; i = e->e[i].newer) {
        const expectation *w = &e->e[i];
        if (w->zone != zone || t->s->now > w->deadline || t->cold[w->parent].generation != w->parent_generation)
            continue;
        export_entry *x = list_next(out);
        if (!x)
            return;
        *x = (export_entry){.what = EXPORT_EXPECTATION, .family = w->family, .kind = w->kind, .dport = w->dport, .rule = PAL_NONE,
                            .deadline = (uint32_t)w->deadline, .source = number++ | (uint64_t)ew->number << EXPORT_WORKER_SHIFT};
        memcpy(x->src, w->src, 16);
        memcpy(x->dst, w->dst, 16);
        if (!entry_parent(x, t, w->parent))
            out->count--;
    }
}

static int by_source(const void *a, const void *b)
{
    const uint64_t x = ((const export_entry *)a)->source, y = ((const export_entry *)b)->source;
    return (x > y) - (x < y);
}

void export_finish(export_list *l)
{
    if (l->count)
        qsort(l->entry, l->count, sizeof *l->entry, by_source);
}

static bool entry_same_ends(const export_entry *a, const export_entry *b)
{
    return a->family == b->family && a->kind == b->kind && a->sport == b->sport && a->dport == b->dport && memcmp(a->src, b->src, 32) == 0;
}

static void list_add(export_list *l, const export_entry *x, uint8_t what)
{
    export_entry *y = list_next(l);
    if (y) {
        *y = *x;
        y->what = what;
    }
}

bool export_difference(const export_list *before, const export_list *now, export_list *out)
{
    *out = (export_list){.now = now->now};
    for (uint32_t pass = 0; pass < 2; pass++) /* what has ended, then what is new or has changed */
        for (uint64_t i = 0, k = 0; i < before->count || k < now->count;) {
            const export_entry *a = i < before->count ? &before->entry[i] : NULL, *b = k < now->count ? &now->entry[k] : NULL;
            const bool gone = a && (!b || a->source < b->source), fresh = b && (!a || b->source < a->source);
            const bool other = !gone && !fresh && !entry_same_ends(a, b);
            if (pass == 0 && (gone || other) && a->what == EXPORT_CONNECTION)
                list_add(out, a, EXPORT_ENDED);
            if (pass == 1 && !gone && (fresh || other || memcmp(a, b, sizeof *a) != 0))
                list_add(out, b, b->what);
            i += !fresh;
            k += !gone;
        }
    return !out->lost;
}

uint64_t export_write(const export_list *l, uint64_t from, uint64_t n, uint8_t *out)
{
    n = from > l->count ? 0 : n < l->count - from ? n : l->count - from;
    const export_header h = {.magic = EXPORT_MAGIC, .version = EXPORT_VERSION, .layout = export_layout(), .now = l->now, .entries = n};
    if (out) {
        memcpy(out, &h, sizeof h);
        if (n)
            memcpy(out + sizeof h, &l->entry[from], n * sizeof *l->entry);
    }
    return sizeof h + n * sizeof *l->entry;
}
