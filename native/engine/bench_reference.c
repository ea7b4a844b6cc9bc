/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_reference.c - what several cores of this machine can do with the same memory accesses and no firewall: a loop that
 * reads a packet's line and an index line and writes two entry lines, each thread in memory of its own. Against its scaling
 * the workers' scaling is held.
 */
#include "bench.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>

#define REFERENCE_BATCH 32

typedef struct reference_thread {
    const bench_access *access;
    uint64_t *index, *first, *second;
    size_t index_len, entry_len;
    int *gate; /* 0: wait, 1: go, 2: there will be no run */
    uint64_t ns;
} reference_thread;

static void reference_steps(reference_thread *t)
{
    const bench_access *a = t->access;
    for (uint64_t i = 0; i + REFERENCE_BATCH <= a->n; i += REFERENCE_BATCH) {
        uint32_t at[REFERENCE_BATCH];
        uint64_t entry[REFERENCE_BATCH];
        for (uint32_t k = 0; k < REFERENCE_BATCH; k++) {
            uint64_t word = *(const uint64_t *)(const void *)(a->bytes + (i + k) * a->stride); /* 0: nothing is added */
            prefetch_read(a->bytes + (i + k + REFERENCE_BATCH) * a->stride);
            at[k] = (uint32_t)((((a->order[i + k] + (word & 1)) * 0x9e3779b97f4a7c15ull >> 32) * a->buckets) >> 32);
            prefetch_read(&t->index[(size_t)at[k] * 8]);
        }
        for (uint32_t k = 0; k < REFERENCE_BATCH; k++) {
            entry[k] = a->order[i + k] + t->index[(size_t)at[k] * 8];
            prefetch_write(&t->first[entry[k] * 8]);
            prefetch_write(&t->second[entry[k] * 8]);
        }
        for (uint32_t k = 0; k < REFERENCE_BATCH; k++) {
            t->first[entry[k] * 8] += i;
            t->second[entry[k] * 8] += i;
        }
    }
}

static void *reference_run(void *arg)
{
    reference_thread *t = arg;
    int gate;
    while ((gate = __atomic_load_n(t->gate, __ATOMIC_ACQUIRE)) == 0)
        sched_yield();
    uint64_t begun = bench_now();
    if (gate == 1)
        reference_steps(t);
    t->ns = bench_now() - begun;
    return NULL;
}

static uint64_t *reference_map(size_t len, bool huge)
{
    void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    (void)madvise(p, len, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    memset(p, 0, len);
    return p;
}

static void reference_unmap(uint64_t *p, size_t len)
{
    if (p)
        munmap(p, len);
}

double bench_reference(const bench_access *access, uint32_t threads)
{
    reference_thread *t = calloc(threads, sizeof *t);
    pthread_t *thread = calloc(threads, sizeof *thread);
    int gate = 0;
    double result = -1;
    bool ok = t && thread;
    for (uint32_t i = 0; ok && i < threads; i++) {
        const bench_access *a = &access[i];
        t[i] = (reference_thread){.access = a, .gate = &gate};
        t[i].index_len = (size_t)a->buckets * 64;
        t[i].entry_len = (size_t)a->capacity * 64;
        t[i].index = reference_map(t[i].index_len, a->huge);
        t[i].first = reference_map(t[i].entry_len, a->huge);
        t[i].second = reference_map(t[i].entry_len, a->huge);
        ok = t[i].index && t[i].first && t[i].second;
    }
    if (ok) {
        uint32_t started = 0;
        while (started + 1 < threads && pthread_create(&thread[started], NULL, reference_run, &t[started + 1]) == 0)
            started++;
        __atomic_store_n(&gate, started + 1 == threads ? 1 : 2, __ATOMIC_RELEASE);
        reference_run(&t[0]);
        result = started + 1 == threads ? 0 : -1;
        for (uint32_t i = 0; i < started; i++)
            pthread_join(thread[i], NULL);
        for (uint32_t i = 0; result >= 0 && i < threads; i++) {
            double ns = (double)t[i].ns / (double)(t[i].access->n / REFERENCE_BATCH * REFERENCE_BATCH);
            result = ns > result ? ns : result;
        }
    }
    for (uint32_t i = 0; t && i < threads; i++) {
        reference_unmap(t[i].index, t[i].index_len);
        reference_unmap(t[i].first, t[i].entry_len);
        reference_unmap(t[i].second, t[i].entry_len);
    }
    free(t);
    free(thread);
    return result;
}
