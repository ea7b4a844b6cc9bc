/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_fragment.c - fragments alone, beside a model that keeps a list of pieces and looks through all of it each time
 * (docs/packet-path.md, section 3).
 *
 * Input: operations. Byte 0: bits 6-7 0: time passes, the next two bytes are ticks; else a fragment: bit 0 IPv6, bits 1-2
 * source, bit 3 identification's low bit, bit 4 M, bit 5 another protocol; then identification, offset / 8 (2 bytes), length
 * (2 bytes), a byte of which bits 0-1 are the content, bits 2-3 the header's options, bits 4-7 how much is present.
 * What must hold: the same answer as the model's to each fragment, the same bytes when a datagram is whole, what each list
 * and counter says of the others (native/tests/support/invariants.h).
 */
#include <stdio.h>
#include <stdlib.h>

#include "../engine/engine.h"
#include "../tests/support/invariants.h"
#include "../tests/support/packets.h"

#include "must.h"

#define OPERATIONS 500u
#define SNAP 2000u /* bytes of a frame that are ever present */

typedef struct piece {
    uint32_t off, len, present;
    uint8_t content;
    bool more;
} piece;

typedef struct datagram { /* the model's */
    bool six, dead;
    uint32_t src, id, proto, header_len, count;
    uint64_t deadline;
    uint8_t header[120];
    piece piece[FRAG_PER_DATAGRAM];
} datagram;

static datagram model[OPERATIONS];
static uint32_t models;
static frag_table *table;
static const uint64_t seed[HASH_KEY_WORDS] = {3, 1, 4, 1, 5, 9};

static uint8_t content_at(uint32_t off, uint8_t content) { return (uint8_t)(off * 7 + (off >> 8) + content); }
static uint8_t piece_at(const piece *p, uint32_t i) { return i < p->present ? content_at(p->off + i, p->content) : 0; }

/* All of it runs OUT at one filter: a side has 128 datagrams and 32 blocks for each, a source 64. */
static const pal_limits limits = {.fragments = {128, 128}, .fragments_prefix = 96, .fragments_source = 64};

static uint32_t blocks_in_use(const datagram *of)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < models; i++)
        for (uint32_t k = 0; k < model[i].count && (!of || (model[i].src == of->src && model[i].six == of->six)); k++)
            n += (model[i].piece[k].len + 255) / 256;
    return n;
}

static bool is_equal(const piece *a, const piece *b)
{
    if (a->off != b->off || a->len != b->len || a->more != b->more)
        return false;
    for (uint32_t i = 0; i < a->len; i++)
        if (piece_at(a, i) != piece_at(b, i))
            return false;
    return true;
}

static void model_forget(uint32_t i) { model[i] = model[--models]; }

/* What the text says of one more fragment; *at: its datagram, when it has one. */
static uint8_t model_take(const datagram *key, const piece *x, uint32_t head, uint64_t now, uint32_t *at)
{
    if (x->len == 0 || (x->more && x->len % 8) || x->off + x->len + (key->six ? 0 : head) > 65535)
        return PAL_REASON_FRAG_LENGTH;
    uint32_t i = 0, of_source = 0;
    while (i < models && (model[i].six != key->six || model[i].src != key->src || model[i].id != key->id ||
                          (!key->six && model[i].proto != key->proto)))
        i++;
    for (uint32_t k = 0; k < models; k++)
        of_source += model[k].src == key->src && model[k].six == key->six;
    uint32_t blocks = (x->len + 255) / 256;
    bool fits = blocks_in_use(NULL) + blocks <= 128 * 32 && blocks_in_use(key) + blocks <= 64 * 32;
    *at = i;
    if (i == models) {
        if (!fits || of_source >= 64 || models >= 128)
            return PAL_REASON_FRAG_LIMIT;
        model[i] = *key;
        model[i].count = model[i].header_len = 0;
        model[i].dead = false;
        model[i].deadline = now + 3000;
        models++;
    }
    datagram *d = &model[i];
    if (d->dead)
        return PAL_REASON_FRAG_OVERLAP;
    uint32_t end = 0, furthest = 0;
    bool overlap = false;
    for (uint32_t k = 0; k < d->count; k++) {
        const piece *p = &d->piece[k];
        if (is_equal(p, x))
            return PAL_REASON_FRAG_DUPLICATE;
        overlap |= p->off < x->off + x->len && x->off < p->off + p->len;
        end = p->more ? end : p->off + p->len;
        furthest = p->off + p->len > furthest ? p->off + p->len : furthest;
    }
    if (overlap || (end && (!x->more || x->off + x->len > end)) || (!x->more && furthest > x->off + x->len)) {
        d->dead = true;
        d->count = 0;
        return PAL_REASON_FRAG_OVERLAP;
    }
    if (d->count == 64 || !fits)
        return PAL_REASON_FRAG_LIMIT;
    d->piece[d->count++] = *x;
    if (x->off == 0) {
        d->header_len = head;
        memcpy(d->header, key->header, head);
        d->proto = key->proto;
    }
    uint32_t bytes = 0;
    for (uint32_t k = 0; k < d->count; k++) {
        bytes += d->piece[k].len;
        end = d->piece[k].more ? end : d->piece[k].off + d->piece[k].len;
    }
    return end && d->header_len && bytes == end ? PAL_REASON_MATCH : PAL_REASON_HELD;
}

/* The whole datagram: its first header, without what made it a fragment, and each byte where it belongs. */
static void whole_is_right(const datagram *d, const frag_datagram *got)
{
    static uint8_t out[65536 + 400];
    uint32_t end = 0;
    for (uint32_t k = 0; k < d->count; k++)
        end += d->piece[k].len;
    MUST(frag_is_too_long(got) == (d->header_len - (d->six ? 40 : 0) + end > 65535));
    if (frag_is_too_long(got))
        return;
    memset(out, 0xa5, sizeof out);
    MUST(frag_join(table, got, out) == d->header_len + end);
    uint8_t header[120];
    memcpy(header, d->header, d->header_len);
    if (d->six) {
        store_be16(header + 4, (uint16_t)(d->header_len - 40 + end));
        header[d->header_len > 40 ? 40 : 6] = (uint8_t)d->proto; /* at most one extension header in these */
    } else {
        store_be16(header + 2, (uint16_t)(d->header_len + end));
        store_be16(header + 6, 0);
        MUST(sum_is_good(sum_bytes(out, d->header_len, 0)));
        memcpy(header + 10, out + 10, 2);
    }
    MUST(memcmp(out, header, d->header_len) == 0);
    for (uint32_t k = 0; k < d->count; k++)
        for (uint32_t i = 0; i < d->piece[k].len; i++)
            MUST(out[d->header_len + d->piece[k].off + i] == piece_at(&d->piece[k], i));
    MUST(out[d->header_len + end] == 0xa5);
}

/* The frame from its IP header on; returns the bytes before the payload. */
static uint32_t frame_make(uint8_t *b, const datagram *key, const piece *x, uint32_t options, uint32_t *head)
{
    memset(b, 0, 120);
    if (!key->six) {
        *head = 20 + options * 4;
        b[0] = (uint8_t)(0x40 | (*head / 4));
        store_be16(b + 2, (uint16_t)(*head + x->len));
        store_be16(b + 4, (uint16_t)key->id);
        store_be16(b + 6, (uint16_t)(x->off / 8 | (x->more ? 0x2000u : 0)));
        b[9] = (uint8_t)key->proto;
        host_addr(b + 12, PAL_FAMILY_V4, (uint8_t)key->src);
        host_addr(b + 16, PAL_FAMILY_V4, 200);
        memset(b + 20, 1, *head - 20);
        return *head;
    }
    *head = options ? 40 + options * 8 : 40;
    store_be16(b + 4, (uint16_t)(*head - 40 + 8 + x->len));
    b[0] = 0x60;
    b[6] = options ? PROTO_IP6_DSTOPTS : PROTO_IP6_FRAGMENT;
    host_addr(b + 8, PAL_FAMILY_V6, (uint8_t)key->src);
    host_addr(b + 24, PAL_FAMILY_V6, 200);
    if (options) {
        b[40] = PROTO_IP6_FRAGMENT;
        b[41] = (uint8_t)(options - 1);
    }
    uint8_t *f = b + *head;
    f[0] = (uint8_t)key->proto;
    store_be16(f + 2, (uint16_t)(x->off | x->more));
    store_be32(f + 4, key->id);
    return *head + 8;
}

static void expire(uint64_t now)
{
    while (table->oldest != FRAG_NONE && now > table->datagram[table->oldest].deadline)
        frag_free(table, table->oldest, seed);
    for (uint32_t i = 0; i < models;)
        if (now > model[i].deadline)
            model_forget(i);
        else
            i++;
}

static void fragment_give(const uint8_t *b, uint64_t now)
{
    static uint8_t work[SNAP];
    const bool six = b[0] & 1;
    datagram key = {.six = six, .src = 1 + (b[0] >> 1 & 3), .id = b[1] << 1 | (b[0] >> 3 & 1), .proto = b[0] & 32 ? PROTO_UDP : 200};
    piece x = {.off = load_be16(b + 2) % 8192 * 8u, .len = load_be16(b + 4), .content = b[6] & 3, .more = b[0] >> 4 & 1};
    uint32_t head, options = b[6] >> 2 & 3, before = frame_make(work, &key, &x, options, &head), share = b[6] >> 4;
    if (before + x.len > 65535 + (six ? 40u : 0)) /* no header can say so */
        return;
    x.present = share == 15 ? x.len : x.len * share / 15;
    x.present = min_u32(x.present, SNAP - before);
    memcpy(key.header, work, head);
    for (uint32_t i = 0; i < x.present; i++)
        work[before + i] = content_at(x.off + i, x.content);
    uint8_t *own = malloc(before + x.present);
    memcpy(own, work, before + x.present);
    const parse_options o = {.sum_mode = SUM_MODE_OFF};
    pal_packet p = {.data = own, .cap = before + x.present, .wire = before + x.len};
    parse_frame(&p, LINKTYPE_RAW, &o);
    if (x.off == 0 && !x.more) { /* no fragment: a packet */
        MUST(!(p.marks & MARK_FRAGMENT));
        free(own);
        return;
    }
    MUST(p.reason == PAL_REASON_MATCH && (p.marks & MARK_FRAGMENT));
    frag_datagram ask;
    uint16_t which = 77;
    uint32_t at = models;
    frag_key(&ask, &p, 5, 0, PAL_DIR_OUT, false);
    uint8_t got = frag_take(table, &p, &ask, &limits, now, seed, &which), want = model_take(&key, &x, head, now, &at);
    free(own);
    MUST(got == want);
    if (got == PAL_REASON_MATCH) {
        whole_is_right(&model[at], &table->datagram[which]);
        frag_free(table, which, seed);
        model_forget(at);
    } else if (got == PAL_REASON_FRAG_OVERLAP && which != FRAG_NONE) { /* what held it lets go, as datagram_release does */
        table->datagram[which].count = 0;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!table)
        table = malloc(sizeof *table);
    frag_init(table);
    models = 0;
    uint64_t now = 100000;
    uint32_t operations = 0;
    for (size_t at = 0; at < size && operations < OPERATIONS; operations++) {
        const size_t takes = data[at] >> 6 ? 7 : 3;
        if (at + takes > size)
            break;
        if (data[at] >> 6) {
            fragment_give(data + at, now);
        } else {
            now += load_be16(data + at + 1);
            expire(now);
        }
        at += takes;
        if (operations % 8 && at < size) /* it looks at everything */
            continue;
        const char *broken = invariant_fragments(table, seed);
        if (broken)
            fprintf(stderr, "after operation %u: not so: %s\n", operations, broken);
        MUST(broken == NULL && table->datagrams == models && table->blocks == blocks_in_use(NULL));
    }
    return 0;
}
