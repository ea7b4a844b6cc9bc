/* SPDX-License-Identifier: Apache-2.0
 *
 * classifier_tree.c - the IPv6 address map: a B+tree of intervals, persistent as classifier_map.c says.
 */
#include "classifier_internal.h"

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
static uint32_t intervals_turn(cls_turn *x, const branch *b, uint32_t n, cls_addr end, cls_addr lo, cls_addr hi, branch *out)
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
            part[k++] = (branch){a < lo ? lo : a, cls_turned(x, b[i].child)};
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
static uint32_t node_turn(cls_turn *x, uint32_t ref, uint32_t depth, cls_addr first, cls_addr end, cls_addr lo, cls_addr hi,
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

void cls_tree_turn(cls_turn *x, cls_addr lo, cls_addr hi)
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

/* ---- which classes lie in a range ---- */

static void node_mark(pal_cls *c, uint32_t v, uint32_t depth, cls_addr first, cls_addr end, cls_addr lo, cls_addr hi, uint8_t bit,
                      uint8_t *mark)
{
    if (depth == 0) {
        mark[v] |= bit;
        return;
    }
    branch b[BRANCHES];
    uint32_t n = node_read(c, v, first, b);
    for (uint32_t i = 0; i < n; i++) {
        cls_addr z = i + 1 < n ? b[i + 1].key - 1 : end;
        if (b[i].key <= hi && z >= lo)
            node_mark(c, b[i].child, depth - 1, b[i].key, z, lo, hi, bit, mark);
    }
}

void cls_tree_mark(pal_cls *c, cls_addr lo, cls_addr hi, uint8_t bit, uint8_t *mark)
{
    node_mark(c, c->stage.root6, c->stage.depth6, 0, ~(cls_addr)0, lo, hi, bit, mark);
}
