/* SPDX-License-Identifier: Apache-2.0
 *
 * replay_staged.c - what staged policies would have said, beside what the rules in force say of the same frame.
 *
 * Two worlds judge each packet, and each has its connections, its held fragments, its records in the frames' order. One may
 * decide a frame before the other does (a fragment that layer-2 rules let through in one of them): what is decided waits for
 * the other's word, and then the frame is written, once, with both.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "replay.h"

/* Frames that one world has decided, in order; those below `taken` are written. */
typedef struct decided {
    replay_list record; /* pal_record; their ts_ns is the flow (replay_lane.c) */
    replay_list frame;  /* pal_frame of each, of the rules in force only */
    size_t taken;
} decided;

struct replay_staged {
    pal_engine *engine;
    replay_lane *lane;
    uint32_t lanes;
    replay_order order;
    decided now, then;   /* by the rules in force; by the staged ones */
    replay_list line;    /* pal_record: a frame's, with its time; behind it those of the staged world only */
    replay_list changes; /* pal_change */
};

replay_staged *staged_open(struct pal_replay *r)
{
    replay_staged *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->engine = r->options.staged;
    order_open(&s->order);
    s->now.record.size = s->then.record.size = s->line.size = sizeof(pal_record);
    s->now.frame.size = s->then.frame.size = sizeof(pal_frame);
    s->changes.size = sizeof(pal_change);
    s->lane = calloc(r->lanes, sizeof *s->lane);
    bool ok = s->lane != NULL;
    for (; ok && s->lanes < r->lanes; s->lanes++) {
        ok = lane_open(&s->lane[s->lanes], r, s->engine, s->lanes);
        r->lane[s->lanes].beside = &s->lane[s->lanes];
    }
    if (!ok) {
        staged_close(s);
        return NULL;
    }
    return s;
}

void staged_close(replay_staged *s)
{
    for (uint32_t i = 0; i < s->lanes; i++)
        lane_close(&s->lane[i]);
    order_close(&s->order);
    free(s->now.record.item);
    free(s->now.frame.item);
    free(s->then.record.item);
    free(s->line.item);
    free(s->changes.item);
    free(s->lane);
    free(s);
}

replay_lane *staged_lane(replay_staged *s, uint32_t number) { return &s->lane[number]; }

replay_order *staged_order(replay_staged *s) { return &s->order; }

static void decided_forget(decided *d) { d->record.count = d->frame.count = d->taken = 0; }

void staged_restart(replay_staged *s)
{
    pal_engine_clear(s->engine);
    for (uint32_t i = 0; i < s->lanes; i++)
        s->lane[i].records.count = s->lane[i].flows_known = 0;
    order_forget(&s->order);
    decided_forget(&s->now);
    decided_forget(&s->then);
}

void staged_finish(replay_staged *s)
{
    for (uint32_t i = 0; i < s->lanes; i++)
        lane_finish(&s->lane[i]);
}

const pal_change *pal_replay_changes(const pal_replay *r, uint64_t *n)
{
    *n = r->staged ? r->staged->changes.count : 0;
    return r->staged ? r->staged->changes.item : NULL;
}

void pal_replay_changes_forget(pal_replay *r)
{
    if (r->staged)
        r->staged->changes.count = 0;
}

/* ---- where the worlds differ -------------------------------------------------------------------------------------- */

static bool record_passes(const pal_record *v) { return v && v->verdict == PAL_ALLOW; }

static const pal_record *record_at(const pal_record *list, size_t n, const pal_record *place)
{
    for (size_t i = 0; i < n; i++)
        if (list[i].filter == place->filter && list[i].dir == place->dir)
            return &list[i];
    return NULL;
}

/* Does the packet come to its end by this one of n records? Where it goes on from OUT, that is for IN to say. */
static bool record_arrives(size_t n, const pal_record *v)
{
    return record_passes(v) && (n == 1 || v->dir == PAL_DIR_IN);
}

/* Where a packet that comes to an end by list v does not by list s; NULL: nowhere. What refuses it OUT is the place then. */
static const pal_record *record_missing(const pal_record *v, size_t n, const pal_record *s, size_t m)
{
    for (size_t i = 0; i < n; i++)
        if (record_arrives(n, &v[i]) && !record_arrives(m, record_at(s, m, &v[i])))
            return s[0].dir == PAL_DIR_OUT && !record_passes(&s[0]) ? &s[0] : &v[i];
    return NULL;
}

/* Ends and ports, as a flow record would have them for a packet in the original direction. */
static void change_ends(pal_change *c, const struct pal_replay *r, const pal_frame *f)
{
    pal_packet p = {.data = f->data, .cap = f->caplen, .wire = f->wirelen};
    const pal_worker *w = &r->lane[0].ew->w;
    parse_burst(&p, 1, f->linktype, &w->parse, false);
    if (p.reason || (p.marks & MARK_NON_IP))
        return;
    c->family = p.family;
    c->proto = p.proto;
    memcpy(c->src, packet_src(&p), addr_bytes(&p));
    memcpy(c->dst, packet_dst(&p), addr_bytes(&p));
    if (p.marks & MARK_FRAGMENT)
        return;
    c->marks |= PAL_CHANGE_PORTS;
    if (p.marks & (MARK_ICMP_QUERY | MARK_ICMP_ANSWER)) {
        c->sport = p.window;
        c->dport = (uint16_t)(icmp_query_type(p.family, p.dport >> 8) << 8);
    } else if (p.proto == PROTO_TCP || p.proto == PROTO_UDP || p.proto == PROTO_SCTP) {
        c->sport = p.sport;
        c->dport = p.dport;
    }
}

/* What is different at one filter: v by the rules in force, s by the staged ones, one of them NULL where the packet does not
 * come in that world. */
static bool change_add(struct pal_replay *r, const pal_record *v, const pal_record *s, const pal_frame *f, uint8_t change)
{
    const pal_record *any = v ? v : s, *passing = record_passes(v) ? v : s;
    const uint64_t flow = passing ? passing->ts_ns : 0;
    const bool here = record_passes(v) != record_passes(s);
    const bool opens = r->options.note_flows && v && record_passes(v) && v->ts_ns == record_cookie(v);
    if (!here && !opens && !change)
        return true;
    pal_change *c = replay_list_add(&r->staged->changes);
    if (!c)
        return false;
    *c = (pal_change){.number = any->number, .ts_ns = f->ts_ns, .flow = flow, .file = any->file, .bytes = f->wirelen,
                      .rule = v ? v->rule : PAL_NO_RULE, .staged_rule = s ? s->rule : PAL_NO_RULE, .filter = any->filter,
                      .dir = any->dir, .verdict = v ? v->verdict : PAL_NO_VERDICT, .reason = v ? v->reason : PAL_NO_VERDICT,
                      .staged_verdict = s ? s->verdict : PAL_NO_VERDICT, .staged_reason = s ? s->reason : PAL_NO_VERDICT,
                      .change = change};
    c->marks = (uint8_t)((here ? PAL_CHANGE_HERE : 0) | (opens ? PAL_CHANGE_OPENS : 0) |
                         (passing && passing->reply ? PAL_CHANGE_REPLY : 0));
    if (change)
        change_ends(c, r, f);
    return true;
}

/* A frame's records in both worlds. False: no memory. */
static bool frame_compare(struct pal_replay *r, const pal_record *v, size_t n, const pal_record *s, size_t m, const pal_frame *f)
{
    const pal_record *cut = record_missing(v, n, s, m), *place = cut ? cut : record_missing(s, m, v, n);
    const uint8_t change = cut ? PAL_CHANGE_CUT : PAL_CHANGE_PASS;
    bool ok = true;
    for (size_t i = 0; ok && i < n; i++) {
        const bool is_place = place && v[i].filter == place->filter && v[i].dir == place->dir;
        ok = change_add(r, &v[i], record_at(s, m, &v[i]), f, is_place ? change : 0);
    }
    for (size_t i = 0; ok && i < m; i++)
        if (!record_at(v, n, &s[i]))
            ok = change_add(r, NULL, &s[i], f, 0);
    return ok;
}

/* ---- both worlds' words about a frame ------------------------------------------------------------------------------ */

/* The first n of `line` are the frame's. */
static bool frame_lines(struct pal_replay *r, size_t n, const pal_record *s, size_t m)
{
    replay_list *l = &r->staged->line;
    for (size_t i = 0; i < m; i++)
        if (!record_at(l->item, n, &s[i]) && !replay_list_append(l, &s[i], 1))
            return false;
    const pal_record *line = l->item;
    for (size_t i = 0; i < n; i++) {
        if (!lines_write(r->verdicts, &line[i], r->file_json.item))
            return false;
        lines_staged(r->verdicts, record_at(s, m, &line[i]), line + n, i + 1 == n ? l->count - n : 0);
    }
    return true;
}

static size_t decided_group(const decided *d)
{
    const pal_record *v = d->record.item;
    size_t n = 0;
    while (d->taken + n < d->record.count && record_cookie(&v[d->taken + n]) == record_cookie(&v[d->taken]))
        n++;
    return n;
}

static void decided_shrink(decided *d)
{
    const size_t left = d->record.count - d->taken;
    if (d->taken < left)
        return;
    if (left) {
        memmove(d->record.item, (pal_record *)d->record.item + d->taken, left * sizeof(pal_record));
        if (d->frame.count)
            memmove(d->frame.item, (pal_frame *)d->frame.item + d->taken, left * sizeof(pal_frame));
    }
    d->frame.count = d->frame.count ? left : 0;
    d->record.count = left;
    d->taken = 0;
}

int staged_join(struct pal_replay *r, char *err, size_t errlen)
{
    replay_staged *st = r->staged;
    int result = 0;
    while (result == 0 && st->now.taken < st->now.record.count && st->then.taken < st->then.record.count) {
        const size_t n = decided_group(&st->now), m = decided_group(&st->then);
        const pal_record *v = (const pal_record *)st->now.record.item + st->now.taken;
        const pal_record *s = (const pal_record *)st->then.record.item + st->then.taken;
        const pal_frame frame = ((const pal_frame *)st->now.frame.item)[st->now.taken];
        st->line.count = 0;
        bool ok = record_cookie(v) == record_cookie(s) && replay_list_append(&st->line, v, n);
        for (size_t i = 0; ok && i < n; i++)
            ((pal_record *)st->line.item)[i].ts_ns = frame.ts_ns;
        ok = ok && frame_compare(r, v, n, s, m, &frame);
        if (ok && r->verdicts && r->options.verdict_fd >= 0)
            ok = frame_lines(r, n, s, m);
        if (!ok) {
            snprintf(err, errlen, "no memory for verdicts");
            result = -ENOMEM;
        } else {
            result = output_frame(r, st->line.item, n, &frame, err, errlen);
        }
        st->now.taken += n;
        st->then.taken += m;
    }
    decided_shrink(&st->now);
    decided_shrink(&st->then);
    return result;
}

int staged_frame(struct pal_replay *r, bool is_staged, const pal_record *v, size_t n, const pal_frame *frame, char *err, size_t errlen)
{
    decided *d = is_staged ? &r->staged->then : &r->staged->now;
    bool room = replay_list_append(&d->record, v, n);
    for (size_t i = 0; i < n && frame; i++)
        room = room && replay_list_append(&d->frame, frame, 1);
    if (!room) {
        snprintf(err, errlen, "no memory for verdicts");
        return -ENOMEM;
    }
    return 0;
}
