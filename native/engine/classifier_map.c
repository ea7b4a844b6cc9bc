/* SPDX-License-Identifier: Apache-2.0
 *
 * classifier_map.c - the address maps: from an address to its class. Here IPv4; classifier_tree.c has IPv6.
 *
 * Persistent: a change copies the path from the changed leaves to the root, so that readers of the published version are
 * not disturbed; what this transaction made itself is changed in place.
 */
#include "classifier_internal.h"

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
static uint32_t pieces_turn(cls_turn *x, const piece *p, uint32_t n, uint32_t lo, uint32_t hi, uint32_t end, piece *out)
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
            part[k++] = (piece){a < lo ? lo : a, cls_turned(x, p[i].cls)};
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

static uint32_t slot_turn(cls_turn *x, uint32_t v, uint32_t bits, uint32_t lo, uint32_t hi)
{
    pal_cls *c = x->c;
    uint32_t end = (1u << bits) - 1;
    piece p[PIECES], q[PIECES];
    q[0] = (piece){0, 0};
    if (!(v & CLS_NODE) && lo == 0 && hi == end) {
        uint32_t to = cls_turned(x, v);
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

static void change4(cls_turn *x, uint32_t lo, uint32_t hi)
{
    uint32_t mask = (1u << 24) - 1;
    for (uint32_t i = lo >> 24; i <= hi >> 24; i++)
        x->c->stage.root4[i] = slot_turn(x, x->c->stage.root4[i], 24, i == lo >> 24 ? lo & mask : 0, i == hi >> 24 ? hi & mask : mask);
}

void cls_map_change(pal_cls *c, uint32_t family, cls_addr lo, cls_addr hi, uint32_t set, bool add)
{
    cls_turn x = {.c = c, .set = set, .add = add};
    memset(x.from, 0xff, sizeof x.from);
    if (family == PAL_FAMILY_V4)
        change4(&x, (uint32_t)lo, (uint32_t)hi);
    else
        cls_tree_turn(&x, lo, hi);
}

/* ---- which classes lie in a range ---- */

static void slot_mark(pal_cls *c, uint32_t v, uint32_t bits, uint32_t lo, uint32_t hi, uint8_t bit, uint8_t *mark)
{
    if (!(v & CLS_NODE)) {
        mark[v] |= bit;
        return;
    }
    if (bits == 8 || !(v & CLS_PAGE)) {
        piece p[PIECES];
        uint32_t n = leaf_read(c, v, bits, p), end = (1u << bits) - 1;
        for (uint32_t i = 0; i < n; i++)
            if (p[i].lo <= hi && (i + 1 < n ? p[i + 1].lo - 1 : end) >= lo)
                mark[p[i].cls] |= bit;
        return;
    }
    uint32_t sub = bits - 8, mask = (1u << sub) - 1;
    for (uint32_t i = lo >> sub; i <= hi >> sub; i++)
        slot_mark(c, ((const uint32_t *)cls_lines_at(c, v))[i], sub, i == lo >> sub ? lo & mask : 0, i == hi >> sub ? hi & mask : mask,
                  bit, mark);
}

void cls_map_mark(pal_cls *c, uint32_t family, cls_addr lo, cls_addr hi, uint8_t bit, uint8_t *mark)
{
    uint32_t mask = (1u << 24) - 1, a = (uint32_t)lo, b = (uint32_t)hi;
    if (family == PAL_FAMILY_V6) {
        cls_tree_mark(c, lo, hi, bit, mark);
        return;
    }
    for (uint32_t i = a >> 24; i <= b >> 24; i++)
        slot_mark(c, c->stage.root4[i], 24, i == a >> 24 ? a & mask : 0, i == b >> 24 ? b & mask : mask, bit, mark);
}
