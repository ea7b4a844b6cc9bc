/* SPDX-License-Identifier: Apache-2.0
 *
 * classifier_rows.c - rows: sparse bit vectors, each content kept once for the whole host.
 *
 * A row's reference count and hash stand behind its words, out of the line that a look-up reads first.
 */
#include "classifier_internal.h"

typedef struct cls_rowrec {
    struct cls_rowrec *next;
    uint64_t hash;
    const uint64_t *row;
    uint32_t refs, len;
    uint32_t form; /* dense, one superblock, several: read differently */
} cls_rowrec;

/* Words of the row with its spare word. */
size_t cls_row_len(const uint64_t *row, uint32_t supers)
{
    if (supers == 0)
        return CLS_DENSE + 1;
    if (supers == 1)
        return 2 + (size_t)__builtin_popcountll(row[0]);
    size_t parts = (size_t)__builtin_popcountll(row[0]), n = 2 + 2 * parts;
    for (size_t i = 0; i < parts; i++)
        n += (size_t)__builtin_popcountll(row[1 + 2 * i]);
    return n;
}

size_t cls_row_bytes(const uint64_t *row, uint32_t supers)
{
    return (cls_row_len(row, supers) * 8 + sizeof(cls_rowrec) + 63) & ~(size_t)63;
}

static cls_rowrec *record(const uint64_t *row, uint32_t supers)
{
    uint64_t *end = (uint64_t *)(uintptr_t)row + cls_row_len(row, supers);
    return (cls_rowrec *)(void *)end;
}

void cls_row_ref(pal_cls *c, const uint64_t *row, uint32_t supers)
{
    (void)c;
    record(row, supers)->refs++;
}

void cls_row_unref(pal_cls *c, const uint64_t *row, uint32_t supers)
{
    cls_rowrec *r = record(row, supers);
    if (--r->refs)
        return;
    cls_rowrec **p = &c->row_hash[r->hash & c->row_mask];
    while (*p != r)
        p = &(*p)->next;
    *p = r->next;
    c->n_row--;
    cls_put(c, (void *)(uintptr_t)row, r->len * 8 + sizeof *r);
}

static void grow_hash(pal_cls *c)
{
    uint32_t mask = c->row_mask * 2 + 1;
    cls_rowrec **h = cls_get(c, (mask + 1ull) * sizeof *h);
    for (uint32_t i = 0; i <= c->row_mask; i++)
        for (cls_rowrec *r = c->row_hash[i], *next; r; r = next) {
            next = r->next;
            r->next = h[r->hash & mask];
            h[r->hash & mask] = r;
        }
    cls_put(c, c->row_hash, (c->row_mask + 1ull) * sizeof *h);
    c->row_hash = h;
    c->row_mask = mask;
}

const uint64_t *cls_row_make(pal_cls *c, uint32_t words, uint32_t supers)
{
    uint64_t buf[2 + 3 * CLS_SUPERS_MAX + 64 * CLS_SUPERS_MAX];
    uint64_t *bits = c->bits;
    size_t len;
    if (supers == 0) {
        memcpy(buf, bits, CLS_DENSE * 8);
        memset(bits, 0, CLS_DENSE * 8);
        len = CLS_DENSE;
    } else if (supers == 1) {
        uint64_t mask = 0;
        len = 1;
        for (uint32_t w = 0; w < words; w++)
            if (bits[w]) {
                mask |= 1ull << w;
                buf[len++] = bits[w];
                bits[w] = 0;
            }
        buf[0] = mask;
    } else {
        uint64_t present = 0, sum[CLS_SUPERS_MAX];
        for (uint32_t s = 0; s < supers; s++) {
            sum[s] = 0;
            uint32_t end = min_u32(words - 64 * s, 64);
            for (uint32_t w = 0; w < end; w++)
                sum[s] |= (uint64_t)(bits[64 * s + w] != 0) << w;
            if (sum[s])
                present |= 1ull << s;
        }
        buf[0] = present;
        size_t head = 1;
        len = 1 + 2 * (size_t)__builtin_popcountll(present);
        for (uint64_t left = present; left; left &= left - 1) {
            uint32_t s = (uint32_t)__builtin_ctzll(left);
            buf[head++] = sum[s];
            buf[head++] = len;
            for (uint64_t m = sum[s]; m; m &= m - 1) {
                uint32_t w = 64 * s + (uint32_t)__builtin_ctzll(m);
                buf[len++] = bits[w];
                bits[w] = 0;
            }
        }
    }
    buf[len++] = 0;
    uint64_t hash = cls_hash_words(c, buf, len);
    for (cls_rowrec *r = c->row_hash[hash & c->row_mask]; r; r = r->next)
        if (r->hash == hash && r->len == len && r->form == min_u32(supers, 2) && !memcmp(r->row, buf, len * 8)) {
            r->refs++;
            return r->row;
        }
    if (c->n_row > c->row_mask)
        grow_hash(c);
    uint64_t *row = cls_get(c, len * 8 + sizeof(cls_rowrec));
    memcpy(row, buf, len * 8);
    cls_rowrec *r = (cls_rowrec *)(void *)(row + len);
    *r = (cls_rowrec){.next = c->row_hash[hash & c->row_mask], .hash = hash, .row = row, .refs = 1, .len = (uint32_t)len,
                      .form = min_u32(supers, 2)};
    c->row_hash[hash & c->row_mask] = r;
    c->n_row++;
    return row;
}

/* What one of the row's users pays for it. */
size_t cls_row_share(const uint64_t *row, uint32_t supers)
{
    return cls_row_bytes(row, supers) / record(row, supers)->refs;
}
