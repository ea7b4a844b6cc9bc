/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_classify.c - ClassBench rules and headers through the classifier: checks, look-ups, updates.
 *
 * Usage: bench_classify RULES TRACE [--check N] [--mix M] [--out F]
 * RULES and TRACE as the ClassBench generators write them; five fields only. --mix M: time M headers, half of the trace
 * and half uniform; --out F: write those headers as a trace, to give them to a peer. Prints one line of JSON.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "../engine/classifier.h"

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); /* of this thread: a busy machine disturbs less */
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint64_t rng_state = 7;
static uint32_t rng(void)
{
    rng_state = rng_state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(rng_state >> 33 ^ rng_state >> 17);
}

typedef struct text_rule {
    uint32_t src, src_hi, dst, dst_hi;
    uint16_t sport, sport_hi, dport, dport_hi;
    uint32_t proto; /* PAL_PROTO_ANY */
} text_rule;

static text_rule *text;
static pal_rule *rules;
static uint32_t *refs, n_rules, n_sets;
static pal_range *set_range;

static uint32_t set_of(uint32_t lo, uint32_t hi)
{
    static uint32_t *hash, mask;
    if (!hash)
        hash = calloc((mask = (1u << 20) - 1) + 1ull, 4);
    uint32_t h = (lo * 2654435761u ^ hi * 40503u) & mask;
    pal_range r;
    memset(&r, 0, sizeof r);
    store_be32(r.lo, lo);
    store_be32(r.hi, hi);
    r.family = PAL_FAMILY_V4;
    for (; hash[h]; h = (h + 1) & mask)
        if (!memcmp(&set_range[hash[h] - 1], &r, sizeof r))
            return hash[h] - 1;
    set_range = realloc(set_range, (n_sets + 1) * sizeof *set_range);
    set_range[n_sets] = r;
    hash[h] = ++n_sets;
    return n_sets - 1;
}

static void rules_read(const char *name)
{
    FILE *f = fopen(name, "r");
    if (!f) {
        perror(name);
        exit(2);
    }
    char line[512];
    while (fgets(line, sizeof line, f)) {
        uint32_t a[4], al, b[4], bl, p, pm;
        unsigned sl, sh, dl, dh;
        if (sscanf(line, "@%u.%u.%u.%u/%u %u.%u.%u.%u/%u %u : %u %u : %u %x/%x", a, a + 1, a + 2, a + 3, &al, b, b + 1, b + 2,
                   b + 3, &bl, &sl, &sh, &dl, &dh, &p, &pm) != 16)
            continue;
        text = realloc(text, (n_rules + 1) * sizeof *text);
        uint32_t sm = al ? ~0u << (32 - al) : 0, dm = bl ? ~0u << (32 - bl) : 0;
        uint32_t s = (a[0] << 24 | a[1] << 16 | a[2] << 8 | a[3]) & sm, d = (b[0] << 24 | b[1] << 16 | b[2] << 8 | b[3]) & dm;
        text[n_rules++] = (text_rule){s, s | ~sm, d, d | ~dm, (uint16_t)sl, (uint16_t)sh, (uint16_t)dl, (uint16_t)dh,
                                      pm ? p : PAL_PROTO_ANY};
    }
    fclose(f);
    rules = calloc(n_rules, sizeof *rules);
    refs = calloc(2 * n_rules, sizeof *refs);
    for (uint32_t i = 0, k = 0; i < n_rules; i++) {
        const text_rule *t = &text[i];
        pal_rule *e = &rules[i];
        e->rule = i;
        e->src_off = k;
        if (t->src || t->src_hi != ~0u)
            refs[k++] = set_of(t->src, t->src_hi), e->src_n = 1;
        e->dst_off = k;
        if (t->dst || t->dst_hi != ~0u)
            refs[k++] = set_of(t->dst, t->dst_hi), e->dst_n = 1;
        e->sport_lo = t->sport, e->sport_hi = t->sport_hi, e->dport_lo = t->dport, e->dport_hi = t->dport_hi;
        e->proto = (uint16_t)t->proto;
        e->dir = 3;
        e->family = PAL_FAMILY_V4;
    }
}

static pal_key key_of(uint32_t s, uint32_t d, uint32_t sp, uint32_t dp, uint32_t p)
{
    pal_key k;
    memset(&k, 0, sizeof k);
    store_be32(k.src, s);
    store_be32(k.dst, d);
    k.sport = (uint16_t)sp, k.dport = (uint16_t)dp, k.proto = (uint8_t)p;
    k.family = PAL_FAMILY_V4;
    k.dir = PAL_DIR_IN;
    return k;
}

static uint32_t scan(const pal_key *k)
{
    uint32_t s = load_be32(k->src), d = load_be32(k->dst);
    for (uint32_t i = 0; i < n_rules; i++) {
        const text_rule *t = &text[i];
        if (s >= t->src && s <= t->src_hi && d >= t->dst && d <= t->dst_hi && k->sport >= t->sport && k->sport <= t->sport_hi &&
            k->dport >= t->dport && k->dport <= t->dport_hi && (t->proto == PAL_PROTO_ANY || t->proto == k->proto))
            return i;
    }
    return PAL_NONE;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

int main(int argc, char **argv)
{
    uint32_t check = 0, mix = 0;
    const char *out = NULL;
    if (argc < 3)
        return 2;
    for (int i = 3; i + 1 < argc; i += 2) {
        check = !strcmp(argv[i], "--check") ? (uint32_t)atoi(argv[i + 1]) : check;
        mix = !strcmp(argv[i], "--mix") ? (uint32_t)atoi(argv[i + 1]) : mix;
        out = !strcmp(argv[i], "--out") ? argv[i + 1] : out;
    }
    rules_read(argv[1]);
    FILE *f = fopen(argv[2], "r");
    if (!f)
        return 2;
    uint32_t n = 0, cap = 1 << 16;
    pal_key *trace = malloc(cap * sizeof *trace);
    unsigned s, d, sp, dp, p;
    char line[256];
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "%u %u %u %u %u", &s, &d, &sp, &dp, &p) == 5) {
            if (n == cap)
                trace = realloc(trace, (cap *= 2) * sizeof *trace);
            trace[n++] = key_of(s, d, sp, dp, p);
        }
    fclose(f);

    pal_cls *c = pal_cls_new();
    double t0 = seconds();
    for (uint32_t i = 0; i < n_sets; i++)
        pal_cls_set_put(c, i, &set_range[i], 1);
    pal_cls_commit(c);
    double t1 = seconds();
    pal_ruleset *r;
    if (pal_cls_ruleset_build(c, rules, n_rules, refs, 2 * n_rules, &r) != PAL_CLS_OK)
        return 1;
    double t2 = seconds();
    double mb = (double)pal_cls_bytes(c) / 1e6;
    const pal_snap *snap = pal_cls_snapshot(c);
    uint32_t m = mix ? mix : n;
    pal_key *keys = malloc(m * sizeof *keys);
    uint32_t *got = malloc(m * sizeof *got);
    for (uint32_t i = 0; i < m; i++)
        keys[i] = mix && (rng() & 1) ? key_of(rng(), rng(), rng(), rng(), (uint32_t[]){6, 17, 1, 50}[rng() % 4]) : trace[mix ? rng() % n : i];
    if (mix) /* distinct headers: of a rule drawn with the trace the ports and low address bits vary where they may */
        for (uint32_t i = 0; i < m; i++)
            if (!keys[i].sport || keys[i].sport > 1023)
                keys[i].sport = (uint16_t)(1024 + rng() % 64512);
    if (out) {
        FILE *o = fopen(out, "w");
        for (uint32_t i = 0; i < m; i++)
            fprintf(o, "%u %u %u %u %u 0 0\n", load_be32(keys[i].src), load_be32(keys[i].dst), keys[i].sport, keys[i].dport, keys[i].proto);
        fclose(o);
    }
    double ns[2];
    for (uint32_t b = 0; b < 2; b++) {
        uint32_t burst = b ? 256 : 32;
        double run[7];
        for (int k = 0; k < 7; k++) {
            double a = seconds();
            for (uint32_t i = 0; i < m; i += burst)
                classify_burst(snap, r, keys + i, min_u32(burst, m - i), got + i);
            run[k] = (seconds() - a) * 1e9 / m;
        }
        qsort(run, 7, sizeof *run, by_value);
        ns[b] = run[3];
    }
    uint32_t wrong = 0, hit = 0, checked = check ? min_u32(check, m) : min_u32(m, 20000);
    for (uint32_t i = 0; i < m; i++)
        hit += got[i] != PAL_NONE;
    for (uint32_t i = 0; i < checked; i++) {
        uint32_t at = check >= m ? i : rng() % m;
        wrong += got[at] != scan(&keys[at]);
    }
    /* One rule: another one's service and addresses in its place. One member: a host address into a set. */
    double change[41], member[201];
    for (int k = 0; k < 41; k++) {
        uint32_t at = rng() % n_rules;
        pal_rule e = rules[rng() % n_rules];
        pal_ruleset *q;
        double a = seconds();
        pal_cls_ruleset_replace(c, r, at, &e, refs, 2 * n_rules, &q);
        change[k] = (seconds() - a) * 1e6;
        pal_cls_ruleset_release(c, q);
    }
    for (int k = 0; k < 201; k++) {
        pal_range one;
        memset(&one, 0, sizeof one);
        store_be32(one.lo, rng());
        memcpy(one.hi, one.lo, 16);
        one.family = PAL_FAMILY_V4;
        double a = seconds();
        pal_cls_set_change(c, rng() % n_sets, &one, 1, NULL, 0);
        pal_cls_commit(c);
        member[k] = (seconds() - a) * 1e6;
    }
    qsort(change, 41, sizeof *change, by_value);
    qsort(member, 201, sizeof *member, by_value);
    printf("{\"rules\": \"%s\", \"n\": %u, \"sets_s\": %.3f, \"build_s\": %.3f, \"mb\": %.2f, \"ruleset_mb\": %.2f, \"classes\": %u, \"words\": %u, "
           "\"ns32\": %.1f, \"ns256\": %.1f, \"hit\": %.2f, \"checked\": %u, \"wrong\": %u, \"rule_us\": %.1f, \"rule_max_us\": %.1f, "
           "\"member_us\": %.1f, \"member_p99_us\": %.1f}\n",
           argv[1], n_rules, t1 - t0, t2 - t1, mb, (double)pal_cls_ruleset_bytes(r) / 1e6,
           pal_cls_classes(c), r->supers, ns[0], ns[1], (double)hit / m, checked, wrong, change[20], change[40], member[100], member[198]);
    pal_cls_ruleset_release(c, r);
    pal_cls_free(c);
    return wrong != 0;
}
