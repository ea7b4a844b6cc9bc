/* SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "palisade_bench.h"

uint32_t bench_frame(uint8_t *out, const bench_segment *s, uint32_t size)
{
    static const uint8_t mac[12] = {2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1};
    bool v4 = s->family == PAL_FAMILY_V4;
    uint32_t head = v4 ? 20 : 40, tcp = s->syn_options ? 24 : 20, l4 = tcp + s->payload, total = 14 + head + l4;
    uint32_t padded = total < size ? size : total;
    memset(out, 0, padded);
    memcpy(out, mac, 12);
    store_be16(out + 12, v4 ? 0x0800 : 0x86dd);
    uint8_t *ip = out + 14, *t = ip + head;
    if (v4) {
        ip[0] = 0x45;
        store_be16(ip + 2, (uint16_t)(head + l4));
        store_be16(ip + 4, s->id);
        ip[8] = 64;
        ip[9] = 6;
        memcpy(ip + 12, s->src, 4);
        memcpy(ip + 16, s->dst, 4);
        uint16_t sum = sum_finish(sum_bytes(ip, 20, 0));
        memcpy(ip + 10, &sum, 2);
    } else {
        ip[0] = 0x60;
        store_be16(ip + 2, s->id);
        store_be16(ip + 4, (uint16_t)l4);
        ip[6] = 6;
        ip[7] = 64;
        memcpy(ip + 8, s->src, 16);
        memcpy(ip + 24, s->dst, 16);
    }
    store_be16(t, s->sport);
    store_be16(t + 2, s->dport);
    store_be32(t + 4, s->seq);
    store_be32(t + 8, s->ack);
    t[12] = (uint8_t)(tcp / 4 << 4);
    t[13] = s->flags;
    store_be16(t + 14, s->window);
    if (s->syn_options) {
        t[20] = 1;
        t[21] = 3;
        t[22] = 3;
        t[23] = 7;
    }
    if (s->sums) {
        pal_packet view = {.data = out, .l3 = 14, .family = s->family};
        uint16_t sum = sum_finish(sum_bytes(t, l4, sum_pseudo(&view, 6, l4)));
        memcpy(t + 16, &sum, 2);
    }
    return padded;
}

double bench_core_ghz(void)
{
    uint64_t x = 1, start = bench_now();
    for (uint32_t i = 0; i < 2000000; i++) {
        /* Ten additions that each wait for the one before: one a cycle on any core of today. */
        __asm__ volatile("" : "+r"(x));
        x += i; __asm__ volatile("" : "+r"(x));
        x += i; __asm__ volatile("" : "+r"(x));
        x += i; __asm__ volatile("" : "+r"(x));
        x += i; __asm__ volatile("" : "+r"(x));
        x += i; __asm__ volatile("" : "+r"(x));
        x += i; __asm__ volatile("" : "+r"(x));
        x += i; __asm__ volatile("" : "+r"(x));
        x += i; __asm__ volatile("" : "+r"(x));
        x += i; __asm__ volatile("" : "+r"(x));
        x += i;
    }
    return 2000000.0 * 10 / (double)(bench_now() - start);
}

static void *floor_map(size_t len, bool huge)
{
    void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    (void)madvise(p, len, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    memset(p, 0, len);
    return p;
}

#define FLOOR_BATCH 32

double bench_floor(const uint32_t *order, uint64_t n, uint32_t capacity, uint32_t buckets, uint32_t lines, bool huge)
{
    size_t index_len = (size_t)buckets * 64, entry_len = (size_t)capacity * 64;
    uint64_t *index = floor_map(index_len, huge), *a = floor_map(entry_len, huge), *b = floor_map(entry_len, huge);
    double result = -1;
    if (index && a && b) {
        uint64_t start = bench_now();
        for (uint64_t i = 0; i + FLOOR_BATCH <= n; i += FLOOR_BATCH) {
            uint32_t at[FLOOR_BATCH];
            uint64_t entry[FLOOR_BATCH];
            for (uint32_t k = 0; k < FLOOR_BATCH; k++) {
                at[k] = (uint32_t)(((order[i + k] * 0x9e3779b97f4a7c15ull >> 32) * buckets) >> 32);
                prefetch_read(&index[(size_t)at[k] * 8]);
            }
            for (uint32_t k = 0; k < FLOOR_BATCH; k++) {
                entry[k] = order[i + k] + index[(size_t)at[k] * 8]; /* which entry is known when the line is here */
                prefetch_write(&a[entry[k] * 8]);
                if (lines == 2)
                    prefetch_write(&b[entry[k] * 8]);
            }
            for (uint32_t k = 0; k < FLOOR_BATCH; k++) {
                a[entry[k] * 8] += i;
                if (lines == 2)
                    b[entry[k] * 8] += i;
            }
        }
        result = (double)(bench_now() - start) / (double)(n / FLOOR_BATCH * FLOOR_BATCH);
    }
    if (index)
        munmap(index, index_len);
    if (a)
        munmap(a, entry_len);
    if (b)
        munmap(b, entry_len);
    return result;
}

double pal_bench_read_ns(uint64_t bytes, uint64_t reads)
{
    uint64_t lines = bytes / PAL_CACHE_LINE + 1, seed = 88172645463325252ull, sum = 0;
    const uint64_t *memory = lines < 1ull << 32 ? floor_map((size_t)lines * PAL_CACHE_LINE, false) : NULL;
    if (!memory)
        return -1;
    uint64_t start = bench_now(), done = 0;
    for (; done + FLOOR_BATCH <= reads; done += FLOOR_BATCH) {
        uint32_t at[FLOOR_BATCH];
        for (uint32_t k = 0; k < FLOOR_BATCH; k++) {
            at[k] = bench_below(&seed, (uint32_t)lines);
            prefetch_read(&memory[(size_t)at[k] * 8]);
        }
        for (uint32_t k = 0; k < FLOOR_BATCH; k++)
            sum += memory[(size_t)at[k] * 8];
    }
    __asm__ volatile("" : : "r"(sum)); /* the loads are what is measured */
    double ns = (double)(bench_now() - start) / (double)(done ? done : 1);
    munmap((void *)memory, (size_t)lines * PAL_CACHE_LINE);
    return ns;
}

double pal_bench_core_ghz(void) { return bench_core_ghz(); }

static void sink_flush(pal_worker *w) { w->out_count = 0; }

void bench_sink(engine_worker *ew)
{
    ew->w.context = NULL;
    ew->w.flush = sink_flush;
    ew->w.generated = NULL;
}
