/* SPDX-License-Identifier: Apache-2.0
 *
 * import.c - a vNIC's connections as another host told them: looked at as a whole, then taken in one by one (export.h).
 */
#include "export.h"

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

/* Are these the ends of a key? */
static bool ends_are_sound(const uint8_t *src, const uint8_t *dst, uint16_t sport, uint16_t dport, uint8_t family, uint8_t kind)
{
    static const uint8_t zero[12];
    if (family == PAL_FAMILY_V4 && (memcmp(src + 4, zero, 12) != 0 || memcmp(dst + 4, zero, 12) != 0))
        return false;
    return kind == KIND_ICMP ? dport <= 255 : kind == KIND_OTHER ? sport <= 255 && !dport : true;
}

static bool translation_is_sound(const export_entry *x)
{
    static const uint8_t zero[32];
    if (x->translated)
        return x->translated == 1 && ends_are_sound(x->onward_src, x->onward_dst, x->onward_sport, x->onward_dport, x->family, x->kind);
    return memcmp(x->onward_src, zero, 32) == 0 && !x->onward_sport && !x->onward_dport;
}

static bool told_is_sound(const export_entry *x)
{
    const bool child = x->marks & CT_CHILD, expected = x->what == EXPORT_EXPECTATION;
    if (x->what > EXPORT_EXPECTATION || (x->family != PAL_FAMILY_V4 && x->family != PAL_FAMILY_V6) || x->kind > KIND_OTHER)
        return false;
    if (!ends_are_sound(x->src, x->dst, x->sport, x->dport, x->family, x->kind) || !translation_is_sound(x))
        return false;
    if (x->what == EXPORT_ENDED)
        return true;
    if ((child || expected) != (x->parent != PARENT_NONE) || x->parent > PARENT_TURNED)
        return false;
    if ((child || expected || (x->marks & CT_ALG)) && x->kind > KIND_UDP)
        return false;
    if (expected)
        return x->sport == 0 && !x->translated;
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
    if (h.layout != export_layout())
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

/* False: there is no room for its second tuple, or that is another's. */
static bool import_translation(ct_table *t, const import_order *o, uint32_t ref, const export_entry *x)
{
    nat_end(t, ref);
    if (!x->translated)
        return true;
    export_entry onward = {.family = x->family, .kind = x->kind};
    memcpy(onward.src, x->onward_src, 16);
    memcpy(onward.dst, x->onward_dst, 16);
    ct_key k;
    key_of_ends(&k, &onward, o->zone, x->onward_sport, x->onward_dport, false);
    nat_turn(&k);
    return nat_begin(t, ref, &k);
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
    if (!import_translation(t, o, ref, x)) { /* one half of it would reach nobody */
        ct_end(t, ref, CT_END_CLEARED);
        return false;
    }
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
