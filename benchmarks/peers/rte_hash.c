// SPDX-License-Identifier: Apache-2.0
/*
 * rte_hash.c - DPDK's hash table as a connection table would use it: keys of 16 bytes, bulk look-ups of 32.
 *
 * usage: rte_hash [EAL options] -- KEYS LOOKUPS RUNS. The keys are random and inserted in random order into a table for
 * 2^20; each look-up is of one of them, its key at a place of its own, as packets' are. Prints nanoseconds a look-up, a line
 * each run (CLOCK_THREAD_CPUTIME_ID); status 1 where a look-up did not find its own key's place.
 */
#include <rte_eal.h>
#include <rte_hash.h>
#include <rte_hash_crc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "timing.h"

#define TABLE (1u << 20)
#define BULK 32

typedef struct key {
    uint64_t half[2];
} key;

int main(int argc, char **argv)
{
    int used = rte_eal_init(argc, argv);

    if (used < 0 || argc - used < 4)
        return 2;
    uint32_t keys = (uint32_t)atol(argv[used + 1]), lookups = (uint32_t)atol(argv[used + 2]) / BULK * BULK;
    int runs = atoi(argv[used + 3]);
    struct rte_hash_parameters given = {
        .name = "connections",
        .entries = TABLE,
        .key_len = sizeof(key),
        .hash_func = rte_hash_crc,
        .extra_flag = RTE_HASH_EXTRA_FLAGS_EXT_TABLE,
    };
    struct rte_hash *table = rte_hash_create(&given);
    key *all = malloc(keys * sizeof *all), *asked = malloc(lookups * sizeof *asked);
    int32_t *place = malloc(keys * sizeof *place), *expected = malloc(lookups * sizeof *expected);
    int32_t *got = malloc(lookups * sizeof *got);

    if (!table || !all || !asked || !place || !expected || !got)
        return 3;
    for (uint32_t i = 0; i < keys; i++) {
        all[i] = (key){{random_next(), random_next()}};
        place[i] = rte_hash_add_key(table, &all[i]);
        if (place[i] < 0)
            return 3;
    }
    for (uint32_t i = 0; i < lookups; i++) {
        uint32_t which = (uint32_t)(random_next() % keys);

        asked[i] = all[which];
        expected[i] = place[which];
    }
    for (int run = 0; run < runs; run++) {
        memset(got, 0xff, lookups * sizeof *got);
        double begun = now();
        for (uint32_t at = 0; at < lookups; at += BULK) {
            const void *bulk[BULK];

            for (int i = 0; i < BULK; i++)
                bulk[i] = &asked[at + (uint32_t)i];
            rte_hash_lookup_bulk(table, bulk, BULK, &got[at]);
        }
        printf("%.3f\n", (now() - begun) / lookups * 1e9);
        if (memcmp(got, expected, lookups * sizeof *got) != 0)
            return 1;
    }
    return 0;
}
