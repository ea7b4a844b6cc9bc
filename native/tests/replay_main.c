/* SPDX-License-Identifier: Apache-2.0
 *
 * replay_main.c - captures through the whole core without Python, for runs under sanitizers (a target of the Makefile).
 *
 * replay_main FILE...: each file is judged at a tap, at vNICs (its first sources'), with tunnels opened, with sums
 * verified, by one and two workers, in bursts of 1 and 256. Checked beside the sanitizers' own eyes: every packet that
 * was given is accounted for, and both bursts give the same verdicts. Not a capture is no failure. Prints packets judged.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../core/pipeline.h"
#include "../engine/engine.h"

#define NAMES 16u

static const uint32_t timeouts[PAL_TIMERS] = {120, 30, 43200, 120, 45, 20, 60, 30, 60, 20, 10};

static pal_rule rule(uint32_t number, uint8_t action, uint8_t flags, uint16_t proto, uint16_t low, uint16_t high)
{
    return (pal_rule){.rule = number, .sport_hi = 65535, .dport_lo = low, .dport_hi = high, .proto = proto, .action = action,
                      .dir = PAL_DIR_IN | PAL_DIR_OUT, .family = PAL_FAMILY_V4 | PAL_FAMILY_V6, .flags = flags};
}

/* Rules `kind` at a filter. */
static void commit_as(pal_engine *e, uint32_t filter, uint32_t kind, bool tap)
{
    pal_rule x[6] = {rule(0, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL, 6, 21, 21), rule(1, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL, 17, 69, 69),
                     rule(2, PAL_ACTION_REJECT, 0, PAL_PROTO_ANY, 1000, 5000), rule(3, PAL_ACTION_DROP, 0, 17, 53, 53),
                     rule(4, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL | (kind & 1 ? PAL_RULE_TCP_STRICT : 0), PAL_PROTO_ANY, 0, 32767),
                     rule(5, PAL_ACTION_ALLOW, PAL_RULE_STATEFUL, PAL_PROTO_ANY, 0, 65535)};
    x[0].alg = PAL_ALG_FTP;
    x[1].alg = PAL_ALG_TFTP;
    pal_ruleset *set = NULL;
    if (pal_cls_ruleset_build(pal_engine_classifier(e), x, 6, NULL, 0, &set) != 0 || pal_engine_stage(e, filter, set, timeouts, tap) != 0)
        exit(2);
}

static void commit(pal_engine *e, uint32_t filter, bool tap) { commit_as(e, filter, filter, tap); }

/* The first few sources of the file, as vNICs. */
static uint32_t sources(const uint8_t *map, size_t len, pal_binding *b)
{
    char err[256];
    pal_capture *c = pal_capture_open(map, len, err, sizeof err);
    pal_frame f;
    uint32_t n = 0;
    while (c && n < NAMES && pal_capture_next(c, &f, 1) == 1) {
        if (f.linktype != LINKTYPE_ETHERNET || f.caplen < 54)
            continue;
        uint32_t type = load_be16(f.data + 12);
        pal_binding x = {.family = type == 0x0800 ? PAL_FAMILY_V4 : type == 0x86dd ? PAL_FAMILY_V6 : 0, .filter = n};
        if (!x.family)
            continue;
        memcpy(x.addr, f.data + 14 + (x.family == PAL_FAMILY_V4 ? 12 : 8), x.family == PAL_FAMILY_V4 ? 4 : 16);
        uint32_t i = 0;
        while (i < n && (b[i].family != x.family || memcmp(b[i].addr, x.addr, 16) != 0))
            i++;
        if (i == n)
            b[n++] = x;
    }
    if (c)
        pal_capture_close(c);
    return n;
}

typedef struct setting {
    bool vnics, decap, verify, staged;
    uint32_t batch, workers;
} setting;

/* Sums up what the verdicts say; 0 is no capture. */
static uint64_t run(const char *name, const uint8_t *map, size_t len, setting s, uint64_t *packets)
{
    pal_binding bindings[NAMES];
    uint32_t n = s.vnics ? sources(map, len, bindings) : 0;
    pal_engine_options o = {.capacity4 = 200, .capacity6 = 100, .filters = NAMES, .rules = 8, .workers = s.workers,
                            .sums = s.verify ? PAL_SUMS_VERIFY : PAL_SUMS_COUNT, .decap = s.decap, .sanity = s.verify ? 2 : 0,
                            .flows = 1, .name_rules = 1, .seed = {7, 8, 9, 10, 11, 12}};
    if (s.workers > 1) /* no limit may be reached, or the workers' shares would show */
        o.capacity4 = o.capacity6 = 100000;
    char err[256] = "";
    pal_capture *c = pal_capture_open(map, len, err, sizeof err);
    if (!c)
        return 0;
    pal_engine *e = pal_engine_new(&o, NULL, err, sizeof err);
    pal_engine *staged = s.staged ? pal_engine_new(&o, NULL, err, sizeof err) : NULL;
    pal_replay_options ro = {.staged = staged, .note_flows = 1, .vnics = s.vnics, .collect = 1, .batch = s.batch, .verdict_fd = -1, .allowed_fd = -1, .dropped_fd = -1,
                             .generated_fd = -1};
    pal_replay *r = e && (staged || !s.staged) ? pal_replay_new(e, &ro, bindings, n, err, sizeof err) : NULL;
    if (!r) {
        fprintf(stderr, "%s: %s\n", name, err);
        exit(2);
    }
    for (uint32_t i = 0; i < NAMES; i++) {
        commit(e, i, !s.vnics);
        if (staged) /* strict where the other is not */
            commit_as(staged, i, i + 1, !s.vnics);
    }
    pal_engine_commit(e, 0);
    if (staged)
        pal_engine_commit(staged, 0);
    int done = 0, failed = 0;
    while (!done && !failed) {
        failed = pal_replay_capture(r, c, 97, 0, "\"x\"", &done, err, sizeof err);
        commit(e, 0, !s.vnics); /* every 97 packets all are judged again */
        pal_engine_commit(e, s.batch & 1);
    }
    pal_replay_finish(r, 1, err, sizeof err);
    uint64_t count, flows, sum = 0x811c9dc5, decided = 0;
    const pal_record *record = pal_replay_records(r, &count);
    for (uint64_t i = 0; i < count; i++) {
        const uint64_t word[3] = {record[i].number, record[i].rule | (uint64_t)record[i].filter << 32 | (uint64_t)record[i].dir << 48,
                                  record[i].verdict | record[i].reason << 8 | record[i].ct << 16 | (uint64_t)record[i].reply << 24};
        for (uint32_t k = 0; k < 3; k++)
            sum = (sum ^ word[k]) * 0x9e3779b97f4a7c15ull, sum ^= sum >> 31;
    }
    pal_engine_stats stats;
    pal_replay_totals totals;
    pal_engine_stats_read(e, &stats);
    pal_replay_totals_read(r, &totals);
    for (uint32_t i = 0; i < 384; i++)
        decided += stats.count[i];
    if (!failed && (decided != stats.received || count != stats.received + totals.unfiltered)) {
        fprintf(stderr, "%s: %llu verdicts, %llu decided, %llu received\n", name, (unsigned long long)count,
                (unsigned long long)decided, (unsigned long long)stats.received);
        exit(1);
    }
    (void)pal_replay_flows(r, &flows);
    *packets += totals.packets;
    if (pal_replay_close(r) != 0)
        exit(1);
    pal_engine_free(e);
    pal_engine_free(staged);
    pal_capture_close(c);
    return failed ? 1 : sum;
}

int main(int argc, char **argv)
{
    uint64_t packets = 0;
    for (int i = 1; i < argc; i++) {
        struct stat st;
        int fd = open(argv[i], O_RDONLY | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st) < 0) {
            perror(argv[i]);
            return 2;
        }
        /* A copy of just its length: the sanitizer sees a read past the end. */
        uint8_t *map = malloc((size_t)st.st_size + !st.st_size);
        if (!map || read(fd, map, (size_t)st.st_size) != st.st_size)
            return 2;
        close(fd);
        for (uint32_t mode = 0; mode < 4; mode++) {
            setting s = {.vnics = mode & 1, .decap = mode >= 2, .verify = mode == 3, .batch = 256, .workers = 1};
            uint64_t a = run(argv[i], map, (size_t)st.st_size, s, &packets);
            s.batch = 7;
            s.staged = mode & 1; /* nothing follows from that either */
            if (a != run(argv[i], map, (size_t)st.st_size, s, &packets)) {
                fprintf(stderr, "%s: mode %u: the size of the bursts makes a difference\n", argv[i], mode);
                return 1;
            }
            s.workers = 2;
            s.batch = 31;
            (void)run(argv[i], map, (size_t)st.st_size, s, &packets);
        }
        free(map);
    }
    printf("%llu\n", (unsigned long long)packets);
    return 0;
}
