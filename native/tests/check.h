/* SPDX-License-Identifier: Apache-2.0
 *
 * check.h - the few words of our C unit tests. A test is a plain program: it says every check that failed and ends
 * with status 1, or with status 2 when it made no check at all.
 */
#ifndef PAL_TESTS_CHECK_H
#define PAL_TESTS_CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static unsigned long check_made, check_failed;
static const char *check_where = ""; /* the case at hand */

static inline void check_report(int good, const char *file, int line, const char *what)
{
    check_made++;
    if (!good) {
        check_failed++;
        fprintf(stderr, "%s:%d: %s: not so: %s\n", file, line, check_where, what);
    }
}

#define CHECK(condition) check_report(!!(condition), __FILE__, __LINE__, #condition)

#define CHECK_U64(got, expected)                                                                                           \
    do {                                                                                                                   \
        const unsigned long long got_ = (got), expected_ = (expected);                                                     \
        check_report(got_ == expected_, __FILE__, __LINE__, #got " == " #expected);                                        \
        if (got_ != expected_)                                                                                             \
            fprintf(stderr, "    got %llu, expected %llu\n", got_, expected_);                                             \
    } while (0)

#define CHECK_TEXT(got, expected)                                                                                          \
    do {                                                                                                                   \
        const char *got_ = (got), *expected_ = (expected);                                                                 \
        check_report(strcmp(got_, expected_) == 0, __FILE__, __LINE__, #got);                                              \
        if (strcmp(got_, expected_) != 0)                                                                                  \
            fprintf(stderr, "    got      %s\n    expected %s\n", got_, expected_);                                        \
    } while (0)

static inline int check_end(const char *name)
{
    if (check_made == 0)
        fprintf(stderr, "%s: no check was made\n", name);
    printf("%s: %lu checks, %lu failed\n", name, check_made, check_failed);
    return check_made == 0 ? 2 : check_failed != 0;
}

/* A copy of the bytes that ends where an unreadable page begins, so that a read past the end dies even without ASan. */
typedef struct fenced {
    uint8_t *data;
    void *map;
    size_t map_len;
} fenced;

static inline fenced fence(const void *bytes, size_t len)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), body = (len + page) / page * page;
    fenced f = {.map_len = body + page};
    f.map = mmap(NULL, f.map_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (f.map == MAP_FAILED || mprotect((uint8_t *)f.map + body, page, PROT_NONE) != 0) {
        perror("fence");
        exit(2);
    }
    f.data = (uint8_t *)f.map + body - len;
    if (len > 0)
        memcpy(f.data, bytes, len);
    return f;
}

static inline void unfence(fenced f) { munmap(f.map, f.map_len); }

#endif
