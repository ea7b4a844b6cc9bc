/* SPDX-License-Identifier: Apache-2.0
 *
 * fabric_routes.c - prefixes become ranges that do not overlap, so that the longest prefix is found by one binary search. At most
 * two ranges a prefix, and one more.
 */
#include "fabric_internal.h"

#include <stdlib.h>

#define ROUTE_DEPTH 130 /* prefixes that contain each other have different lengths */

typedef unsigned __int128 route_address; /* IPv4 in the upper 32 bits, as in fabric_range */

typedef struct route_prefix {
    route_address first, last;
    uint32_t table, length, route;
} route_prefix;

static route_address route_address_of(const uint8_t *a, uint32_t family)
{
    if (family == PAL_FAMILY_V4)
        return (route_address)load_be32(a) << 96;
    return (route_address)be64(load_u64(a)) << 64 | be64(load_u64(a + 8));
}

static int route_compare(const void *a, const void *b)
{
    const route_prefix *x = a, *y = b;
    if (x->table != y->table)
        return x->table < y->table ? -1 : 1;
    if (x->first != y->first)
        return x->first < y->first ? -1 : 1;
    return x->length < y->length ? -1 : x->length > y->length;
}

static void range_add(fabric *f, fabric_table *t, route_address from, uint32_t route)
{
    fabric_range *r = f->range + t->off + t->n;
    const fabric_range next = {.high = (uint64_t)(from >> 64), .low = (uint64_t)from, .route = route};
    if (t->n && r[-1].high == next.high && r[-1].low == next.low)
        r[-1].route = route;
    else if (t->n == 0 || r[-1].route != route)
        f->range[t->off + t->n++] = next;
}

/* The ranges of one table's prefixes, which are in order: outer ones before inner ones. */
static void routes_spread(fabric *f, fabric_table *t, const route_prefix *p, uint32_t n)
{
    const route_prefix *open[ROUTE_DEPTH];
    uint32_t depth = 0;
    range_add(f, t, 0, PAL_NO_INDEX);
    for (uint32_t i = 0; i <= n; i++) {
        while (depth && (i == n || open[depth - 1]->last < p[i].first)) {
            const route_address last = open[--depth]->last;
            if (last != ~(route_address)0)
                range_add(f, t, last + 1, depth ? open[depth - 1]->route : PAL_NO_INDEX);
        }
        if (i == n)
            return;
        range_add(f, t, p[i].first, p[i].route);
        open[depth++] = &p[i];
    }
}

bool fabric_routes(fabric *f, const pal_fabric *from, fabric_error *err)
{
    const uint32_t tables = 2 * from->gateways, n = from->routes;
    route_prefix *p = calloc(n + 1, sizeof *p);
    f->table = calloc(tables + 1, sizeof *f->table);
    f->range = calloc(2 * (size_t)n + tables + 1, sizeof *f->range);
    if (!p || !f->table || !f->range) {
        free(p);
        return fabric_bad(err, "no memory for a fabric");
    }
    bool good = true;
    for (uint32_t i = 0; i < n && good; i++) {
        const pal_fabric_route *r = &from->route[i];
        const uint32_t bits = r->length;
        const route_address host = bits == 128 ? 0 : ~(route_address)0 >> bits, at = route_address_of(r->addr, r->family);
        p[i] = (route_prefix){.first = at, .last = at | host, .table = r->gateway * 2 + (r->family == PAL_FAMILY_V6), .length = bits, .route = i};
        if (at & (r->family == PAL_FAMILY_V4 ? host >> 96 << 96 : host))
            good = fabric_bad(err, "route %u: bits beyond the prefix's length are set", i);
    }
    qsort(p, n, sizeof *p, route_compare);
    for (uint32_t i = 1; i < n && good; i++)
        if (route_compare(&p[i - 1], &p[i]) == 0)
            good = fabric_bad(err, "route %u: its prefix is given twice in gateway %u", p[i].route, p[i].table / 2);
    uint32_t off = 0;
    for (uint32_t table = 0, i = 0; table < tables && good; table++) {
        uint32_t end = i;
        while (end < n && p[end].table == table)
            end++;
        f->table[table].off = off;
        routes_spread(f, &f->table[table], p + i, end - i);
        off += f->table[table].n;
        i = end;
    }
    free(p);
    return good;
}
