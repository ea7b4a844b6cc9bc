/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_ruleset.c - libFuzzer target: any bytes as address sets, rules, changes of both, and headers; the classifier must
 * answer what a linear scan over what was said answers.
 */
#include <stdlib.h>

#include "../engine/classifier.c"
#include "../engine/classifier_arena.c"
#include "../engine/classifier_change.c"
#include "../engine/classifier_class.c"
#include "../engine/classifier_edit.c"
#include "../engine/classifier_later.c"
#include "../engine/classifier_map.c"
#include "../engine/classifier_memory.c"
#include "../engine/classifier_place.c"
#include "../engine/classifier_ports.c"
#include "../engine/classifier_rows.c"
#include "../engine/classifier_rules.c"
#include "../engine/classifier_service.c"
#include "../engine/classifier_sets.c"
#include "../engine/classifier_tabs.c"
#include "../engine/classifier_tree.c"
#include "../engine/classifier_uses.c"

#define SETS 8
#define MEMBERS 32
#define RULES 80

typedef struct input {
    const uint8_t *p;
    size_t left;
} input;

static uint8_t take(input *in)
{
    if (in->left == 0)
        return 0;
    in->left--;
    return *in->p++;
}
static uint16_t take16(input *in)
{
    uint8_t hi = take(in);
    return (uint16_t)(hi << 8 | take(in));
}

typedef struct said {
    pal_range member[SETS][MEMBERS];
    uint32_t members[SETS];
    pal_rule rule[RULES];
    uint32_t rules;
    uint32_t ref[RULES * 4];
    uint32_t refs;
} said;

/* Addresses that differ in few bytes, so that short inputs make ranges that meet. */
static void take_address(input *in, uint8_t *a, uint32_t family)
{
    memset(a, 0, 16);
    a[0] = 10;
    uint32_t n = family == PAL_FAMILY_V4 ? 4 : 16;
    uint8_t form = take(in);
    a[n - 1] = take(in);
    if (form & 1)
        a[n - 2] = take(in);
    if (form & 2)
        a[n / 2] = take(in);
    if (form & 4)
        a[0] = take(in);
}

static void take_range(input *in, pal_range *r)
{
    memset(r, 0, sizeof *r);
    uint8_t form = take(in);
    r->family = form & 1 ? PAL_FAMILY_V6 : PAL_FAMILY_V4;
    take_address(in, r->lo, r->family);
    memcpy(r->hi, r->lo, 16);
    if (form & 2)
        take_address(in, r->hi, r->family);
    if (form & 4)
        memset(r->hi + (form >> 4 & 3), 255, (r->family == PAL_FAMILY_V4 ? 4u : 16u) - (form >> 4 & 3));
    if (!(form & 8) && memcmp(r->lo, r->hi, 16) > 0) { /* with bit 8 a bad range may reach the classifier */
        uint8_t t[16];
        memcpy(t, r->lo, 16);
        memcpy(r->lo, r->hi, 16);
        memcpy(r->hi, t, 16);
    }
}

static bool good_range(const pal_range *r) { return memcmp(r->lo, r->hi, 16) <= 0; }

static void take_rule(input *in, said *s, pal_rule *e)
{
    memset(e, 0, sizeof *e);
    uint8_t lists = take(in), what = take(in);
    e->src_n = lists & 3 ? (lists & 3) - 1u : 0;
    e->dst_n = lists >> 2 & 3 ? (lists >> 2 & 3) - 1u : 0;
    e->src_off = s->refs;
    for (uint32_t i = 0; i < e->src_n; i++)
        s->ref[s->refs++] = take(in) % (SETS + 1);
    e->dst_off = s->refs;
    for (uint32_t i = 0; i < e->dst_n; i++)
        s->ref[s->refs++] = take(in) % (SETS + 1);
    e->flags = (uint8_t)((lists & 16 ? PAL_RULE_SRC_NEGATED : 0) | (lists & 32 ? PAL_RULE_DST_NEGATED : 0));
    e->dir = what & 3;
    e->family = what >> 2 & 3;
    e->proto = what & 16 ? take(in) : PAL_PROTO_ANY;
    e->sport_hi = e->dport_hi = 65535;
    if (what & 32)
        e->dport_lo = take16(in), e->dport_hi = what & 64 ? take16(in) : e->dport_lo;
    if (what & 128)
        e->sport_lo = take16(in), e->sport_hi = take16(in), e->tcp_mask = take(in), e->tcp_value = take(in);
}

static bool good_rule(const pal_rule *e) { return e->sport_lo <= e->sport_hi && e->dport_lo <= e->dport_hi; }

static bool in_list(const said *s, uint32_t off, uint32_t n, bool negated, const uint8_t *a, uint32_t family)
{
    bool any = false;
    for (uint32_t i = off; i < off + n; i++)
        for (uint32_t k = 0; s->ref[i] < SETS && k < s->members[s->ref[i]]; k++) {
            const pal_range *r = &s->member[s->ref[i]][k];
            any |= r->family == family && memcmp(r->lo, a, 16) <= 0 && memcmp(a, r->hi, 16) <= 0;
        }
    return n == 0 || any != negated;
}

static uint32_t scan(const said *s, const pal_key *k)
{
    for (uint32_t i = 0; i < s->rules; i++) {
        const pal_rule *e = &s->rule[i];
        if ((e->family & k->family) && (e->dir & k->dir) && (e->proto == PAL_PROTO_ANY || e->proto == k->proto) &&
            k->sport >= e->sport_lo && k->sport <= e->sport_hi && k->dport >= e->dport_lo && k->dport <= e->dport_hi &&
            (k->tcp_flags & e->tcp_mask) == e->tcp_value &&
            in_list(s, e->src_off, e->src_n, e->flags & PAL_RULE_SRC_NEGATED, k->src, k->family) &&
            in_list(s, e->dst_off, e->dst_n, e->flags & PAL_RULE_DST_NEGATED, k->dst, k->family))
            return i;
    }
    return PAL_NONE;
}

static void require(bool x)
{
    if (!x)
        abort();
}

static void headers(input *in, const said *s, const pal_cls *c, const pal_ruleset *r)
{
    for (uint32_t n = 0; n < 24 && in->left; n++) {
        pal_key k;
        memset(&k, 0, sizeof k);
        uint8_t form = take(in);
        k.family = form & 1 ? PAL_FAMILY_V6 : PAL_FAMILY_V4;
        k.dir = form >> 1 & 3;
        take_address(in, k.src, k.family);
        take_address(in, k.dst, k.family);
        if (s->rules && form & 8) {
            const pal_rule *e = &s->rule[take(in) % s->rules];
            k.proto = (uint8_t)e->proto;
            k.sport = e->sport_hi;
            k.dport = form & 16 ? e->dport_lo : (uint16_t)(e->dport_hi + 1);
            k.tcp_flags = e->tcp_value;
        } else {
            k.proto = take(in);
            k.sport = take16(in);
            k.dport = take16(in);
            k.tcp_flags = take(in);
        }
        uint32_t got = classify_one(pal_cls_snapshot(c), r, &k), plain;
        classify_burst_plain(pal_cls_snapshot(c), r, &k, 1, &plain);
        require(got == scan(s, &k) && plain == got);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static said s;
    input in = {data, size};
    memset(&s, 0, sizeof s);
    pal_cls *c = pal_cls_new();
    pal_ruleset *r;
    if (take(&in) & 1)
        c->dense_max = 0; /* both forms of rows */
    for (uint32_t n = take(&in) % (RULES / 2); n > 0; n--) {
        take_rule(&in, &s, &s.rule[s.rules]);
        s.rules += good_rule(&s.rule[s.rules]);
    }
    require(pal_cls_ruleset_build(c, s.rule, s.rules, s.ref, s.refs, &r) == PAL_CLS_OK);
    while (in.left) {
        uint8_t what = take(&in), id = what >> 3 & (SETS - 1);
        pal_range range;
        switch (what & 7) {
        case 0:
        case 1:
        case 2:
            take_range(&in, &range);
            if (s.members[id] < MEMBERS) {
                int rc = pal_cls_set_change(c, id, &range, 1, NULL, 0);
                require(rc == (good_range(&range) ? PAL_CLS_OK : PAL_CLS_BAD_RANGE));
                if (rc == PAL_CLS_OK)
                    s.member[id][s.members[id]++] = range;
            }
            break;
        case 3:
            if (s.members[id]) {
                uint32_t at = take(&in) % s.members[id];
                require(pal_cls_set_change(c, id, NULL, 0, &s.member[id][at], 1) == PAL_CLS_OK);
                s.member[id][at] = s.member[id][--s.members[id]];
            }
            break;
        case 4:
            s.members[id] /= 2;
            require(pal_cls_set_put(c, id, s.member[id], s.members[id]) == PAL_CLS_OK);
            break;
        case 5:
        case 6: {
            pal_rule e;
            pal_ruleset *q = NULL;
            if (s.refs + 4 > RULES * 4)
                break;
            take_rule(&in, &s, &e);
            uint32_t at = s.rules ? take(&in) % s.rules : 0;
            if (s.rules == 0 || (s.rules < RULES && id & 1)) {
                int rc = pal_cls_ruleset_insert(c, r, at, &e, s.ref, s.refs, &q);
                require(rc == (good_rule(&e) ? PAL_CLS_OK : PAL_CLS_BAD_RULE));
                if (rc == PAL_CLS_OK) {
                    memmove(s.rule + at + 1, s.rule + at, (s.rules - at) * sizeof e);
                    s.rule[at] = e;
                    s.rules++;
                }
            } else if (id & 2) {
                require(pal_cls_ruleset_delete(c, r, at, &q) == PAL_CLS_OK);
                memmove(s.rule + at, s.rule + at + 1, (s.rules - at - 1) * sizeof e);
                s.rules--;
            } else {
                int rc = pal_cls_ruleset_replace(c, r, at, &e, s.ref, s.refs, &q);
                require(rc == (good_rule(&e) ? PAL_CLS_OK : PAL_CLS_BAD_RULE));
                if (rc == PAL_CLS_OK)
                    s.rule[at] = e;
            }
            if (q) {
                pal_cls_ruleset_release(c, r);
                r = q;
            }
            break;
        }
        case 7:
            pal_cls_commit(c);
            headers(&in, &s, c, r);
            break;
        }
    }
    pal_cls_ruleset_release(c, r);
    pal_cls_free(c);
    return 0;
}
