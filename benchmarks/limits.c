// SPDX-License-Identifier: Apache-2.0
/*
 * limits.c - what the machine can do at best: what a packet core's figures are held against.
 *
 * Random cache lines of memory of several sizes, each address from the one before (all of the latency) and known
 * 32 ahead (as the core's bursts know them); memcpy; a system call, the clock, a TAP's write and read; dependent
 * additions. Prints a line of JSON for each figure; status 1 where what was read or written was not what it had to be.
 * Times are the thread's own (CLOCK_THREAD_CPUTIME_ID). The TAP is in a network namespace of its own, which ends with
 * the process.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "timing.h"

#define LINE 64
#define AHEAD 32
#define COPY_BYTES ((size_t)256 << 20)
#define CACHED_BYTES ((size_t)16 << 10)
#define FRAME_BYTES 60
#define TAP_QUEUE 400 /* frames; a TAP holds 500 */
#define TEST_PROTOCOL 0x88b5 /* IEEE 802: local experiments */

static volatile uint64_t sink;
static void *memory(size_t bytes, int advice)
{
    const size_t huge = (size_t)2 << 20;
    char *p = mmap(NULL, bytes + huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED) {
        perror("mmap");
        exit(3);
    }
    p = (char *)(((uintptr_t)p + huge - 1) & ~(huge - 1));
    madvise(p, bytes, advice);
    memset(p, 0, bytes);
    return p;
}

static void print_run(const char *figure, const char *of, double value)
{
    printf("{\"figure\": \"%s\", \"of\": \"%s\", \"value\": %.6g}\n", figure, of, value);
}

/* Each line of `bytes` holds the offset of the next, one cycle through all of them (Sattolo). True: after one round it was back. */
static bool lines_chase(size_t bytes, int advice, const char *of)
{
    size_t n = bytes / LINE, reads = n < 4000000 ? 4000000 / n * n : n;
    char *p = memory(bytes, advice);
    uint32_t *order = malloc(n * sizeof *order);
    uint64_t at = 0, sum = 0, ring[AHEAD];

    for (size_t i = 0; i < n; i++)
        order[i] = (uint32_t)i;
    for (size_t i = n - 1; i > 0; i--) {
        size_t j = random_next() % i;
        uint32_t other = order[i];

        order[i] = order[j];
        order[j] = other;
    }
    for (size_t i = 0; i < n; i++)
        *(uint64_t *)(p + i * LINE) = (uint64_t)order[i] * LINE;
    free(order);

    double begun = now();
    for (size_t i = 0; i < reads; i++)
        at = *(uint64_t *)(p + at);
    print_run("random_dependent_ns", of, (now() - begun) / (double)reads * 1e9);

    for (int i = 0; i < AHEAD; i++) {
        ring[i] = (random_next() & (n - 1)) * LINE;
        __builtin_prefetch(p + ring[i]);
    }
    begun = now();
    for (size_t i = 0; i < reads; i++) {
        sum += *(uint64_t *)(p + ring[i % AHEAD]);
        ring[i % AHEAD] = (random_next() & (n - 1)) * LINE;
        __builtin_prefetch(p + ring[i % AHEAD]);
    }
    print_run("random_ahead_ns", of, (now() - begun) / (double)reads * 1e9);
    sink += sum;
    munmap(p, bytes);
    return at == 0;
}

static bool copies(void)
{
    char *from = memory(COPY_BYTES, MADV_HUGEPAGE), *to = memory(COPY_BYTES, MADV_HUGEPAGE);
    double begun;

    for (size_t i = 0; i < COPY_BYTES; i += 8)
        *(uint64_t *)(from + i) = i;
    begun = now();
    memcpy(to, from, COPY_BYTES);
    print_run("memcpy_gbytes_per_s", "256 MiB", (double)COPY_BYTES / (now() - begun) / 1e9);
    bool same = memcmp(from, to, COPY_BYTES) == 0;

    const int times = 100000;
    begun = now();
    for (int i = 0; i < times; i++) {
        memcpy(to, from, CACHED_BYTES);
        __asm__ volatile("" ::: "memory");
    }
    print_run("memcpy_gbytes_per_s", "16 KiB", (double)CACHED_BYTES * times / (now() - begun) / 1e9);
    munmap(from, COPY_BYTES);
    munmap(to, COPY_BYTES);
    return same;
}

static void calls(void)
{
    const int times = 1000000;
    struct timespec t;
    double begun = now();

    for (int i = 0; i < times; i++)
        syscall(SYS_getppid);
    print_run("system_call_ns", "getppid", (now() - begun) / times * 1e9);
    begun = now();
    for (int i = 0; i < times; i++)
        clock_gettime(CLOCK_MONOTONIC, &t);
    print_run("clock_ns", "CLOCK_MONOTONIC", (now() - begun) / times * 1e9);
}

static void additions(void)
{
    const uint64_t times = 100000000;
    uint64_t x = 1;
    double begun = now();

    for (uint64_t i = 0; i < times; i += 10)
        /* Of a variable: today's cores add constants without waiting. */
#pragma GCC unroll 10
        for (int j = 0; j < 10; j++) {
            x += i;
            __asm__ volatile("" : "+r"(x));
        }
    print_run("core_ghz", "dependent additions", (double)times / (now() - begun) / 1e9);
    sink += x;
}

/* What the kernel counts as received from the TAP (0) or sent into it (1): /proc/net/dev. */
static uint64_t tap_counted(int sent)
{
    char line[512];
    unsigned long long in = 0, out = 0, skip;
    FILE *f = fopen("/proc/thread-self/net/dev", "r");

    while (f && fgets(line, sizeof line, f)) {
        char *at = strstr(line, "pal-limits:");

        if (at)
            sscanf(at + sizeof "pal-limits:" - 1, "%llu %llu %llu %llu %llu %llu %llu %llu %llu %llu", &skip, &in, &skip, &skip,
                   &skip, &skip, &skip, &skip, &skip, &out);
    }
    if (f)
        fclose(f);
    return sent ? out : in;
}

/* False: it did not carry what it was given. Says why on stderr where there can be none. */
static bool taps(void)
{
    struct ifreq r = {.ifr_flags = IFF_TAP | IFF_NO_PI, .ifr_name = "pal-limits"};
    uint8_t frame[FRAME_BYTES] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, TEST_PROTOCOL >> 8, TEST_PROTOCOL & 255};
    uint8_t got[2048];
    uint64_t written = 0, read_back = 0, queued = 0;
    double begun, spent = 0;
    int tap, raw;

    if (unshare(CLONE_NEWNET) != 0 || (tap = open("/dev/net/tun", O_RDWR | O_NONBLOCK)) < 0 || ioctl(tap, TUNSETIFF, &r) != 0 ||
        (raw = socket(AF_PACKET, SOCK_RAW, 0)) < 0) {
        fprintf(stderr, "no TAP: %s\n", strerror(errno));
        return true;
    }
    r.ifr_flags = IFF_UP | IFF_NOARP;
    ioctl(raw, SIOCSIFFLAGS, &r);
    ioctl(raw, SIOCGIFINDEX, &r);
    struct sockaddr_ll where = {.sll_family = AF_PACKET, .sll_ifindex = r.ifr_ifindex, .sll_protocol = htons(TEST_PROTOCOL)};
    uint64_t before = tap_counted(0), times = 200000;

    bind(raw, (struct sockaddr *)&where, sizeof where);
    begun = now();
    for (uint64_t i = 0; i < times; i++)
        written += write(tap, frame, sizeof frame) == sizeof frame;
    print_run("tap_write_ns", "60 bytes", (now() - begun) / (double)times * 1e9);
    bool arrived = tap_counted(0) - before == written && written == times;

    while (read(tap, got, sizeof got) > 0)
        ; /* what the kernel itself has sent: neighbour discovery */
    for (int round = 0; round < 200; round++) {
        for (int i = 0; i < TAP_QUEUE; i++)
            queued += send(raw, frame, sizeof frame, 0) == sizeof frame;
        begun = now();
        while (read(tap, got, sizeof got) > 0)
            read_back += got[12] == TEST_PROTOCOL >> 8 && got[13] == (TEST_PROTOCOL & 255);
        spent += now() - begun;
    }
    print_run("tap_read_ns", "60 bytes", spent / (double)read_back * 1e9);
    close(raw);
    close(tap);
    return arrived && read_back == queued;
}

int main(void)
{
    static const struct {
        size_t bytes;
        const char *of;
    } sizes[] = {{32 << 10, "32 KiB"}, {1 << 20, "1 MiB"}, {64 << 20, "64 MiB"}, {1024ul << 20, "1 GiB"}};
    bool right = true;
    char of[64];

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int huge = 0; huge < 2; huge++) {
            snprintf(of, sizeof of, "%s, %s pages", sizes[i].of, huge ? "2 MiB" : "4 KiB");
            right &= lines_chase(sizes[i].bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE, of);
        }
    right &= copies();
    calls();
    additions();
    right &= taps();
    return right ? 0 : 1;
}
