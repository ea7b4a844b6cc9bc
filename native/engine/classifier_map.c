/* SPDX-License-Identifier: Apache-2.0
 *
 * classifier_map.c - the address maps: from an address to its class, for both families.
 *
 * Persistent: a change copies the path from the changed leaves to the root, so that readers of the published version are
 * not disturbed; what this transaction made itself is changed in place.
 */
#include "classifier_internal.h"

typedef struct change {
    pal_cls *c;
    uint32_t set;
    bool add;
    uint32_t from[16], to[16]; /* answers of cls_class_change, by the low bits of the class */
} change;

static uint32_t turn(change *x, uint32_t cls)
{
    uint32_t i = cls % 16;
    if (x->from[i] != cls) {
        x->to[i] = cls_class_change(x->c, cls, x->set, x->add);
        x->from[i] = cls;
    }
    return x->to[i];
}

/* ---- IPv4 ---- */

/* Intervals of one slot: interval i begins at `lo`. */
typedef struct piece {
    uint32_t lo, cls;
} piece;

/* Which bits of the address a slot's offset has: 24 in the snapshot's table, 16 in a page of it, 8 below that, 0 last. */
#define LEAF16_MAX 9
#define LEAF8_MAX 13
#define PIECES 264

static uint32_t leaf_read(pal_cls *c, uint32_t v, uint32_t bits, piece *out)
{
    if (!(v & CLS_NODE)) {
        out[0] = (piece){0, v};
        return 1;
    }
    const void *p = cls_lines_at(c, v);
    if (bits == 16) {
        const cls_leaf16 *l = p;
        for (uint32_t i = 0; i < l->n; i++)
            out[i] = (piece){i ? l->key[i - 1] : 0, l->cls[i]};
        return l->n;
    }
    uint32_t n = 0;
    if (v & CLS_PAGE) {
        const uint32_t *page = p;
        for (uint32_t i = 0; i < 256; i++)
            if (n == 0 || out[n - 1].cls != page[i])
                out[n++] = (piece){i, page[i]};
        return n;
    }
    const cls_leaf8 *l = p;
    for (uint32_t i = 0; i < LEAF8_MAX; i++) /* unused keys repeat the class before them */
        if (n == 0 || out[n - 1].cls != l->cls[i])
            out[n++] = (piece){i ? l->key[i - 1] : 0, l->cls[i]};
    return n;
}

/* A slot of `bits` for these pieces. */
static uint32_t leaf_write(pal_cls *c, const piece *p, uint32_t n, uint32_t bits)
{
    for (uint32_t i = 0; i < n; i++)
        cls_class_ref(c, p[i].cls);
    if (n == 1)
        return p[0].cls;
    if (bits == 16) {
        uint32_t ref = cls_lines_get(c, 1);
        cls_leaf16 *l = cls_lines_at(c, ref);
        l->n = n;
        for (uint32_t i = 0; i < LEAF16_MAX; i++) {
            l->cls[i] = p[min_u32(i, n - 1)].cls;
            if (i)
                l->key[i - 1] = i < n ? (uint16_t)p[i].lo : 0xffff;
        }
        return ref | CLS_NODE;
    }
    if (n <= LEAF8_MAX) {
        uint32_t ref = cls_lines_get(c, 1);
        cls_leaf8 *l = cls_lines_at(c, ref);
        for (uint32_t i = 0; i < LEAF8_MAX; i++) {
            l->cls[i] = p[min_u32(i, n - 1)].cls;
            if (i)
                l->key[i - 1] = i < n ? (uint8_t)p[i].lo : 0xff;
        }
        return ref | CLS_NODE;
    }
    uint32_t ref = cls_lines_get(c, CLS_PAGE_LINES);
    uint32_t *page = cls_lines_at(c, ref);
    for (uint32_t i = 0, k = 0; i < 256; i++) {
        if (k + 1 < n && p[k + 1].lo == i)
            k++;
        page[i] = p[k].cls;
    }
    return ref | CLS_NODE | CLS_PAGE;
}

static void leaf_drop(pal_cls *c, uint32_t v, const piece *p, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        cls_class_unref(c, p[i].cls);
    if (v & CLS_NODE)
        cls_lines_drop(c, v, v & CLS_PAGE ? CLS_PAGE_LINES : 1);
}

/* The pieces with lo .. hi turned; equal neighbours join. */
static uint32_t pieces_turn(change *x, const piece *p, uint32_t n, uint32_t lo, uint32_t hi, uint32_t end, piece *out)
{
    uint32_t m = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t a = p[i].lo, b = i + 1 < n ? p[i + 1].lo - 1 : end;
        piece part[3];
        uint32_t k = 0;
        if (b < lo || a > hi) {
            part[k++] = p[i];
        } else {
            if (a < lo)
                part[k++] = p[i];
            part[k++] = (piece){a < lo ? lo : a, turn(x, p[i].cls)};
            if (b > hi)
                part[k++] = (piece){hi + 1, p[i].cls};
        }
        for (uint32_t j = 0; j < k; j++)
            if (m == 0 || out[m - 1].cls != part[j].cls)
                out[m++] = part[j];
    }
    return m;
}

static uint32_t page_make(pal_cls *c, uint32_t cls)
{
    uint32_t ref = cls_lines_get(c, CLS_PAGE_LINES);
    uint32_t *page = cls_lines_at(c, ref);
    for (uint32_t i = 0; i < 256; i++) {
        page[i] = cls;
        cls_class_ref(c, cls);
    }
    return ref | CLS_NODE | CLS_PAGE;
}

/* The page, ours to write. */
static uint32_t page_own(pal_cls *c, uint32_t v)
{
    if (cls_lines_own(c, v))
        return v;
    uint32_t ref = cls_lines_get(c, CLS_PAGE_LINES);
    memcpy(cls_lines_at(c, ref), cls_lines_at(c, v), CLS_PAGE_LINES * 64);
    cls_lines_drop(c, v, CLS_PAGE_LINES);
    return ref | CLS_NODE | CLS_PAGE;
}

/* A page of /24s for more pieces of a /16 than a leaf holds. */
static uint32_t page_split(pal_cls *c, const piece *p, uint32_t n)
{
    uint32_t ref = cls_lines_get(c, CLS_PAGE_LINES), k = 0;
    for (uint32_t i = 0; i < 256; i++) {
        piece part[PIECES];
        uint32_t m = 0, lo = i << 8;
        while (k + 1 < n && p[k + 1].lo <= lo)
            k++;
        part[m++] = (piece){0, p[k].cls};
        for (uint32_t j = k + 1; j < n && p[j].lo <= (lo | 255); j++)
            part[m++] = (piece){p[j].lo & 255, p[j].cls};
        uint32_t v = leaf_write(c, part, m, 8);
        ((uint32_t *)cls_lines_at(c, ref))[i] = v;
    }
    return ref | CLS_NODE | CLS_PAGE;
}

/* A page of /24s as pieces of the /16, or 0 when there are more than `max`. */
static uint32_t page_pieces(pal_cls *c, uint32_t v, piece *out, uint32_t max)
{
    const uint32_t *page = cls_lines_at(c, v);
    uint32_t n = 0;
    for (uint32_t i = 0; i < 256; i++) {
        if (page[i] & CLS_NODE)
            return 0;
        if (n && out[n - 1].cls == page[i])
            continue;
        if (n == max)
            return 0;
        out[n++] = (piece){i << 8, page[i]};
    }
    return n;
}

static uint32_t slot_turn(change *x, uint32_t v, uint32_t bits, uint32_t lo, uint32_t hi)
{
    pal_cls *c = x->c;
    uint32_t end = (1u << bits) - 1;
    piece p[PIECES], q[PIECES];
    q[0] = (piece){0, 0};
    if (!(v & CLS_NODE) && lo == 0 && hi == end) {
        uint32_t to = turn(x, v);
        cls_class_ref(c, to);
        cls_class_unref(c, v);
        return to;
    }
    if (bits == 8 || (bits == 16 && (v & (CLS_NODE | CLS_PAGE)) != (CLS_NODE | CLS_PAGE))) {
        uint32_t n = leaf_read(c, v, bits, p);
        uint32_t m = pieces_turn(x, p, n, lo, hi, end, q);
        uint32_t to = bits == 16 && m > LEAF16_MAX ? page_split(c, q, m) : leaf_write(c, q, m, bits);
        leaf_drop(c, v, p, n);
        return to;
    }
    if (!(v & CLS_NODE)) {
        uint32_t cls = v;
        v = page_make(c, cls);
        cls_class_unref(c, cls);
    } else {
        v = page_own(c, v);
    }
    uint32_t sub = bits - 8, mask = (1u << sub) - 1;
    for (uint32_t i = lo >> sub; i <= hi >> sub; i++) {
        uint32_t a = i == lo >> sub ? lo & mask : 0, b = i == hi >> sub ? hi & mask : mask;
        uint32_t to = slot_turn(x, ((uint32_t *)cls_lines_at(c, v))[i], sub, a, b);
        ((uint32_t *)cls_lines_at(c, v))[i] = to;
    }
    /* Pages that are no longer needed go: at once when uniform; below a /16 when well under what a leaf holds. */
    uint32_t m = page_pieces(c, v, q, bits == 16 ? LEAF16_MAX - 3 : 1);
    if (m) {
        uint32_t to = leaf_write(c, q, m, bits);
        for (uint32_t i = 0; i < 256; i++)
            cls_class_unref(c, ((uint32_t *)cls_lines_at(c, v))[i]);
        cls_lines_drop(c, v, CLS_PAGE_LINES);
        return to;
    }
    return v;
}

static void change4(change *x, uint32_t lo, uint32_t hi)
{
    uint32_t mask = (1u << 24) - 1;
    for (uint32_t i = lo >> 24; i <= hi >> 24; i++)
        x->c->stage.root4[i] = slot_turn(x, x->c->stage.root4[i], 24, i == lo >> 24 ? lo & mask : 0, i == hi >> 24 ? hi & mask : mask);
}

/* ---- IPv6: a B+tree ---- */

typedef struct branch {
    cls_addr key; /* first address */
    uint32_t child;
} branch;

#define BRANCHES (2 * CLS_FAN6 + 4)

static uint32_t node_read(pal_cls *c, uint32_t ref, cls_addr first, branch *out)
{
    const cls_node6 *e = cls_lines_at(c, ref);
    for (uint32_t i = 0; i < e->n; i++)
        out[i] = (branch){i ? (cls_addr)e->hi[i - 1] << 64 | e->lo[i - 1] : first, e->child[i]};
    return e->n;
}

static uint32_t node_write(pal_cls *c, const branch *b, uint32_t n)
{
    uint32_t ref = cls_lines_get(c, 4);
    cls_node6 *e = cls_lines_at(c, ref);
    memset(e, 0, sizeof *e);
    e->n = n;
    for (uint32_t i = 0; i < n; i++) {
        e->child[i] = b[i].child;
        if (i) {
            e->hi[i - 1] = (uint64_t)(b[i].key >> 64);
            e->lo[i - 1] = (uint64_t)b[i].key;
        }
    }
    return ref | CLS_NODE;
}

/* Packs n branches into as few nodes as hold them, evenly filled. */
static uint32_t nodes_pack(pal_cls *c, const branch *b, uint32_t n, branch *out)
{
    uint32_t m = (n + CLS_FAN6 - 1) / CLS_FAN6, at = 0;
    for (uint32_t i = 0; i < m; i++) {
        uint32_t k = (n - at) / (m - i);
        out[i] = (branch){b[at].key, node_write(c, b + at, k)};
        at += k;
    }
    return m;
}

/* Intervals of a leaf with lo .. hi turned. */
static uint32_t intervals_turn(change *x, const branch *b, uint32_t n, cls_addr end, cls_addr lo, cls_addr hi, branch *out)
{
    uint32_t m = 0;
    for (uint32_t i = 0; i < n; i++) {
        cls_addr a = b[i].key, z = i + 1 < n ? b[i + 1].key - 1 : end;
        branch part[3];
        uint32_t k = 0;
        if (z < lo || a > hi) {
            part[k++] = b[i];
        } else {
            if (a < lo)
                part[k++] = b[i];
            part[k++] = (branch){a < lo ? lo : a, turn(x, b[i].child)};
            if (z > hi)
                part[k++] = (branch){hi + 1, b[i].child};
        }
        for (uint32_t j = 0; j < k; j++)
            if (m == 0 || out[m - 1].child != part[j].child)
                out[m++] = part[j];
    }
    return m;
}

static void intervals_refs(pal_cls *c, const branch *now, uint32_t n, const branch *was, uint32_t n_was)
{
    for (uint32_t i = 0; i < n; i++)
        cls_class_ref(c, now[i].child);
    for (uint32_t i = 0; i < n_was; i++)
        cls_class_unref(c, was[i].child);
}

/* What takes the place of a node that covers first .. end, at height `depth` (1: a leaf). */
static uint32_t node_turn(change *x, uint32_t ref, uint32_t depth, cls_addr first, cls_addr end, cls_addr lo, cls_addr hi,
                          branch *out)
{
    pal_cls *c = x->c;
    branch b[BRANCHES], q[BRANCHES];
    uint32_t n = node_read(c, ref, first, b), m = 0;
    if (depth == 1) {
        m = intervals_turn(x, b, n, end, lo, hi, q);
        intervals_refs(c, q, m, b, n);
        uint32_t k = nodes_pack(c, q, m, out);
        cls_lines_drop(c, ref, 4);
        return k;
    }
    for (uint32_t i = 0; i < n; i++) {
        cls_addr a = b[i].key, z = i + 1 < n ? b[i + 1].key - 1 : end;
        if (z < lo || a > hi)
            q[m++] = b[i];
        else
            m += node_turn(x, b[i].child, depth - 1, a, z, lo, hi, q + m);
    }
    /* Neighbours that have become small join: of any two side by side at least ten branches remain. */
    for (uint32_t i = 0; i + 1 < m;) {
        const cls_node6 *u = cls_lines_at(c, q[i].child), *w = cls_lines_at(c, q[i + 1].child);
        if (u->n + w->n > CLS_FAN6 - 3) {
            i++;
            continue;
        }
        branch both[BRANCHES];
        uint32_t k = node_read(c, q[i].child, q[i].key, both);
        k += node_read(c, q[i + 1].child, q[i + 1].key, both + k);
        if (depth == 2 && both[u->n - 1].child == both[u->n].child) { /* equal intervals met at the seam */
            uint32_t seam = u->n;
            cls_class_unref(c, both[seam].child);
            memmove(both + seam, both + seam + 1, (k - seam - 1) * sizeof *both);
            k--;
        }
        cls_lines_drop(c, q[i].child, 4);
        cls_lines_drop(c, q[i + 1].child, 4);
        q[i].child = node_write(c, both, k);
        memmove(q + i + 1, q + i + 2, (m - i - 2) * sizeof *q);
        m--;
    }
    cls_lines_drop(c, ref, 4);
    return nodes_pack(c, q, m, out);
}

static void change6(change *x, cls_addr lo, cls_addr hi)
{
    pal_cls *c = x->c;
    pal_snap *s = &c->stage;
    branch q[BRANCHES];
    uint32_t m;
    if (s->depth6 == 0) {
        branch b = {0, s->root6}, part[BRANCHES];
        uint32_t k = intervals_turn(x, &b, 1, ~(cls_addr)0, lo, hi, part);
        intervals_refs(c, part, k, &b, 1);
        if (k == 1) {
            s->root6 = part[0].child;
            return;
        }
        m = nodes_pack(c, part, k, q);
        s->depth6 = 1;
    } else {
        m = node_turn(x, s->root6, s->depth6, 0, ~(cls_addr)0, lo, hi, q);
    }
    while (m > 1) {
        branch up[BRANCHES];
        m = nodes_pack(c, q, m, up);
        memcpy(q, up, m * sizeof *q);
        s->depth6++;
    }
    s->root6 = q[0].child;
    while (s->depth6) { /* a root with one child is not needed */
        const cls_node6 *e = cls_lines_at(c, s->root6);
        if (e->n != 1)
            break;
        uint32_t child = e->child[0];
        cls_lines_drop(c, s->root6, 4);
        s->root6 = child;
        s->depth6--;
    }
}

void cls_map_change(pal_cls *c, uint32_t family, cls_addr lo, cls_addr hi, uint32_t set, bool add)
{
    change x = {.c = c, .set = set, .add = add};
    memset(x.from, 0xff, sizeof x.from);
    if (family == PAL_FAMILY_V4)
        change4(&x, (uint32_t)lo, (uint32_t)hi);
    else
        change6(&x, lo, hi);
}
