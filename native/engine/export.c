/* SPDX-License-Identifier: Apache-2.0 */
#include "export.h"

#include <stdlib.h>

#define EXPORT_CHILD (1ull << 63) /* export_entry.source: after all parents */
#define EXPORT_EXPECTED (1ull << 62 | EXPORT_CHILD)
#define EXPORT_WORKER_SHIFT 32

static uint32_t entry_layout(void)
{
    const uint32_t parts[] = {sizeof(export_header), sizeof(export_entry), offsetof(export_entry, src), offsetof(export_entry, half),
                              offsetof(export_entry, memo), CT_STATE_TCP_END, CT_MULTIPLE, CT_ALG, CT_MEMO, TICK_NS, __BYTE_ORDER__};
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        h = (h ^ parts[i]) * 16777619u;
    return h;
}

/* ---- out -------------------------------------------------------------------------------------------------------------- */

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
    const export_header h = {.magic = EXPORT_MAGIC, .version = EXPORT_VERSION, .layout = entry_layout(), .now = l->now, .entries = n};
    if (out) {
        memcpy(out, &h, sizeof h);
        if (n)
            memcpy(out + sizeof h, &l->entry[from], n * sizeof *l->entry);
    }
    return sizeof h + n * sizeof *l->entry;
}

/* ---- in --------------------------------------------------------------------------------------------------------------- */

#define DEADLINE_MAX ((int32_t)CT_JUMP_MAX)

static bool state_is_sound(const export_entry *x)
{
    const uint32_t state = x->state & CT_STATE_MASK;
    const uint32_t last = x->kind == KIND_TCP ? CT_CLOSED : x->kind == KIND_SCTP ? CT_SCTP_CLOSED : CT_MULTIPLE;
    return state != CT_FREE && state <= last && !(x->state & CT_RESYNC) && (x->memo & MEMO_WORD) <= MEMO_ACK &&
           (x->scale & 15) <= TCP_SCALE_MAX && x->scale >> 4 <= TCP_SCALE_MAX;
}

/* A count fits the hot line's and the cold line's words. */
static bool counts_are_sound(const export_entry *x)
{
    for (uint32_t d = 0; d < 2; d++)
        if (x->packets[d] >> 47 || x->bytes[d] >> 63)
            return false;
    return (x->marks & CT_REPLIED) || (x->packets[1] == 0 && x->bytes[1] == 0);
}

static bool told_is_sound(const export_entry *x)
{
    static const uint8_t zero[12];
    const bool child = x->marks & CT_CHILD, expected = x->what == EXPORT_EXPECTATION;
    if (x->what > EXPORT_EXPECTATION || (x->family != PAL_FAMILY_V4 && x->family != PAL_FAMILY_V6) || x->kind > KIND_OTHER)
        return false;
    if (x->family == PAL_FAMILY_V4 && (memcmp(x->src + 4, zero, 12) != 0 || memcmp(x->dst + 4, zero, 12) != 0))
        return false;
    if ((x->kind == KIND_ICMP && x->dport > 255) || (x->kind == KIND_OTHER && (x->sport > 255 || x->dport)))
        return false;
    if (x->what == EXPORT_ENDED)
        return true;
    if ((child || expected) != (x->parent != PARENT_NONE) || x->parent > PARENT_TURNED)
        return false;
    if ((child || expected || (x->marks & CT_ALG)) && x->kind > KIND_UDP)
        return false;
    if (expected)
        return x->sport == 0;
    return !(x->marks & ~(CT_REPLIED | CT_LIBERAL | CT_CHILD | CT_ALG)) && !(child && (x->marks & CT_ALG)) && state_is_sound(x) &&
           counts_are_sound(x);
}

const char *import_check(const uint8_t *bytes, uint64_t n)
{
    export_header h;
    if (n < sizeof h)
        return "no export of connections: too short";
    memcpy(&h, bytes, sizeof h);
    if (h.magic != EXPORT_MAGIC)
        return "no export of connections";
    if (h.version != EXPORT_VERSION)
        return "an export of connections of another version";
    if (h.layout != entry_layout())
        return "an export of connections of another layout";
    if ((n - sizeof h) % sizeof(export_entry) || (n - sizeof h) / sizeof(export_entry) != h.entries)
        return "an export of connections that was cut";
    for (uint64_t i = 0; i < h.entries; i++) {
        export_entry x;
        memcpy(&x, bytes + sizeof h + i * sizeof x, sizeof x);
        if (!told_is_sound(&x))
            return "an export with a connection that cannot be";
    }
    return NULL;
}

static void key_of_ends(ct_key *k, const export_entry *x, uint32_t zone, uint16_t sport, uint16_t dport, bool turned)
{
    const uint32_t n = x->family == PAL_FAMILY_V4 ? 4 : 16;
    uint8_t ends[32];
    memset(k, 0, sizeof *k);
    memcpy(ends, turned ? x->dst : x->src, n);
    memcpy(ends + n, turned ? x->src : x->dst, n);
    if (x->kind == KIND_ICMP) {
        key_make_icmp(k, x->family, zone, ends, sport, dport, false);
        return;
    }
    const uint16_t ports[2] = {sport, x->kind == KIND_OTHER ? 0 : dport};
    key_make(k, x->kind, x->family, zone, ends, ports);
    if (x->kind == KIND_OTHER)
        k->ports_zone = pair_u32(pair_u16(sport, 0), zone);
}

static uint32_t import_parent(const ct_table *t, const export_entry *x, uint32_t zone)
{
    ct_key k;
    key_of_ends(&k, x, zone, x->parent_sport, x->parent_dport, x->parent == PARENT_TURNED);
    const uint32_t ref = ct_find(t, &k, key_hash(&k, t->s->seed));
    return ref == PAL_NONE || (t->hot[ref].marks & CT_CHILD) ? PAL_NONE : ref;
}

/* Off all lists and counts but index and wheel. */
static void import_detach(pal_worker *w, uint32_t ref)
{
    ct_table *t = &w->table;
    const ct_hot *h = &t->hot[ref];
    rule_settle(w, t->cold[ref].rule, ref, true);
    if (ct_is_listed(h))
        unanswered_remove(t, ref);
    if (t->half_open && !(h->marks & CT_REPLIED))
        half_open_leave(t, ref);
    flood_leave(t, ref);
}

static void import_fill(pal_worker *w, uint32_t ref, const export_entry *x, uint8_t high, uint32_t rule, uint32_t parent)
{
    ct_table *t = &w->table;
    ct_hot *h = &t->hot[ref];
    ct_cold *c = &t->cold[ref];
    h->marks = (uint8_t)(x->kind | (high ? CT_ORIG_HIGH : 0) | x->marks);
    h->state = x->state;
    h->scale = x->scale;
    h->ends = x->ends;
    h->epoch = 0; /* no rules of ours have been asked */
    memcpy(h->half, x->half, sizeof h->half);
    for (uint32_t d = 0; d < 2; d++) { /* without a reply its words say that it is on no account (half_open.h) */
        h->packets[d] = (uint16_t)(x->packets[d] & 0x7fff);
        h->bytes[d] = (uint32_t)(x->bytes[d] & 0x7fffffff);
        c->spill_packets[d] = (uint32_t)(x->packets[d] >> 15);
        c->spill_bytes[d] = (uint32_t)(x->bytes[d] >> 31);
    }
    c->rule = rule;
    c->memo_end = x->memo_end;
    c->memo_window = x->memo_window;
    c->memo = x->memo;
    c->offered = x->offered;
    if (parent != PAL_NONE) {
        c->link[0] = parent;
        c->link[1] = t->cold[parent].generation;
    } else if (ct_is_listed(h)) {
        unanswered_append(t, ref);
    }
    if (resync_applies(h))
        resync_begin(h, c);
    flood_enter(t, ref);
    rule_settle(w, rule, ref, false); /* what was counted for it was counted where it was */
}

static uint32_t import_deadline(const ct_table *t, const import_order *o, const export_entry *x)
{
    const int32_t left = (int32_t)(x->deadline - (uint32_t)o->header->now);
    return (uint32_t)t->s->now + (uint32_t)(left < 0 ? 0 : left > DEADLINE_MAX ? DEADLINE_MAX : left);
}

static bool import_connection(engine_worker *ew, const import_order *o, const export_entry *x)
{
    pal_worker *w = &ew->w;
    ct_table *t = &w->table;
    ct_key k;
    key_of_ends(&k, x, o->zone, x->sport, x->dport, false);
    const uint64_t hash = key_hash(&k, t->s->seed);
    uint32_t ref = ct_find(t, &k, hash), parent = PAL_NONE;
    if (ref != PAL_NONE && (x->what == EXPORT_ENDED || !(t->hot[ref].marks & CT_CHILD) != !(x->marks & CT_CHILD))) {
        ct_end(t, ref, CT_END_CLEARED);
        ref = PAL_NONE;
    }
    if (x->what == EXPORT_ENDED)
        return true;
    if ((x->marks & CT_CHILD) && (parent = import_parent(t, x, o->zone)) == PAL_NONE)
        return false;
    const uint32_t rule = x->rule < o->rules ? o->rule[x->rule] : PAL_NONE;
    const bool known = ref != PAL_NONE;
    if (known) {
        import_detach(w, ref);
    } else {
        const uint32_t generation = parent == PAL_NONE ? 0 : t->cold[parent].generation;
        ref = ct_create(t, &k, hash, parent != PAL_NONE);
        if (ref == PAL_NONE)
            return false;
        t->s->created--; /* it began elsewhere, and was counted there */
        if (parent == PAL_NONE)
            unanswered_remove(t, ref); /* import_fill knows better */
        else if (t->cold[parent].generation != generation) /* gone to make room: its child never was */
            parent = PAL_NONE;
    }
    if ((x->marks & CT_CHILD) && parent == PAL_NONE) {
        t->hot[ref].state = CT_FIRST; /* what ct_end needs of a connection */
        flood_enter(t, ref);
        wheel_insert(t, ref);
        ct_end(t, ref, CT_END_PARENT);
        return false;
    }
    import_fill(w, ref, x, k.high, rule, parent);
    t->hot[ref].deadline = import_deadline(t, o, x);
    if (known)
        wheel_move(t, ref);
    else
        wheel_insert(t, ref);
    if (t->flow) {
        const uint64_t now_ns = t->s->now * TICK_NS;
        const uint8_t proto = x->kind == KIND_TCP ? PROTO_TCP : x->kind == KIND_UDP ? PROTO_UDP : x->kind == KIND_SCTP ? PROTO_SCTP
                              : x->kind == KIND_OTHER ? (uint8_t)x->sport : x->family == PAL_FAMILY_V4 ? PROTO_ICMP : PROTO_ICMP6;
        t->flow[ref] = (ct_flow){.start_ns = now_ns, .last_ns = now_ns, .filter = o->filter, .proto = proto,
                                 .dir = x->memo & MEMO_INWARD ? PAL_DIR_IN : PAL_DIR_OUT};
    }
    return true;
}

static bool import_expectation(engine_worker *ew, const import_order *o, const export_entry *x)
{
    const ct_table *t = &ew->w.table;
    const uint32_t parent = import_parent(t, x, o->zone);
    if (parent == PAL_NONE || !(t->hot[parent].marks & CT_ALG))
        return false;
    expectation want = {.zone = o->zone, .parent = parent, .parent_generation = t->cold[parent].generation, .dport = x->dport,
                        .kind = x->kind, .family = x->family};
    memcpy(want.src, x->src, 16);
    memcpy(want.dst, x->dst, 16);
    /* Its time begins anew: deadlines in that table are in the order of arrival. */
    expect_add(ew->w.expected, &want, t->s->now, t->s->seed);
    return true;
}

void import_entries(engine_worker *ew, const import_order *o, uint64_t *taken, uint64_t *refused)
{
    ew->w.clock_due = 0; /* what was to run out first need not be the first any more */
    ew->w.table.s->resync_until = 0;
    for (uint64_t i = 0; i < o->header->entries; i++) {
        const export_entry *x = &o->entry[i];
        if (o->owner && o->owner(x->src, x->dst, x->family, o->workers) != ew->number)
            continue;
        const bool good = x->what == EXPORT_EXPECTATION ? import_expectation(ew, o, x) : import_connection(ew, o, x);
        *(good ? taken : refused) += 1;
    }
}
