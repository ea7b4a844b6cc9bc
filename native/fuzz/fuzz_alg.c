/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_alg.c - FTP and TFTP alone (docs/packet-path.md, section 9): lines beside a second reader, which works on words
 * where the first works on bytes, and the table of expectations beside a plain list.
 *
 * Input: the first byte even: its bit 1 is the direction, the rest a control segment's payload. Odd: operations on the
 * table, each of five bytes: what (bits 0-2), parent, source and destination, port, time. What must hold: the same
 * answer from both; every list and counter of the table agrees with the others.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include "../engine/engine.h"
#include "../tests/support/invariants.h"

#include "must.h"

/* ---- lines: a second reader ----------------------------------------------------------------------------------------- */

/* A decimal number that is all of `text`, of at most `digits`; -1 otherwise. */
static long number_read(const char *text, size_t digits, long most)
{
    size_t n = strspn(text, "0123456789");
    if (n == 0 || n > digits || text[n] != 0 || atol(text) > most)
        return -1;
    return atol(text);
}

/* Six numbers between commas, where `text` begins; what follows the last must be no digit. */
static bool six_read(const char *text, ftp_target *out)
{
    uint8_t value[6];
    for (int i = 0; i < 6; i++) {
        char word[8] = "";
        size_t n = strspn(text, "0123456789");
        if (n == 0 || n > 3 || (i < 5 && text[n] != ','))
            return false;
        memcpy(word, text, n);
        long v = number_read(word, 3, 255);
        if (v < 0)
            return false;
        value[i] = (uint8_t)v;
        text += n + 1;
    }
    memset(out->addr, 0, 16);
    memcpy(out->addr, value, 4);
    out->has_addr = true;
    out->family = PAL_FAMILY_V4;
    out->port = (uint16_t)(value[4] * 256 + value[5]);
    return true;
}

static bool printable(char c) { return c >= 33 && c <= 126; }

/* <d>1|2<d>address<d>port<d> */
static bool eprt_read(char *text, ftp_target *out)
{
    char d = text[0];
    if (!printable(d) || (text[1] != '1' && text[1] != '2') || text[2] != d)
        return false;
    char *address = text + 3, *port = strchr(address, d), *end = port ? strchr(port + 1, d) : NULL;
    if (!end)
        return false;
    *port++ = *end = 0;
    memset(out->addr, 0, 16);
    out->family = text[1] == '1' ? PAL_FAMILY_V4 : PAL_FAMILY_V6;
    if (inet_pton(text[1] == '1' ? AF_INET : AF_INET6, address, out->addr) != 1 || number_read(port, 5, 65535) < 0)
        return false;
    out->has_addr = true;
    out->port = (uint16_t)number_read(port, 5, 65535);
    return true;
}

/* (<d><d><d>port<d>) where `text` begins */
static bool epsv_read(const char *text, ftp_target *out)
{
    char d = text[1], word[16] = "";
    if (text[0] != '(' || !printable(d) || text[2] != d || text[3] != d)
        return false;
    size_t n = strspn(text + 4, "0123456789");
    if (n == 0 || n > 5 || text[4 + n] != d || text[5 + n] != ')')
        return false;
    memcpy(word, text + 4, n);
    if (number_read(word, 5, 65535) < 0)
        return false;
    out->has_addr = false;
    out->port = (uint16_t)number_read(word, 5, 65535);
    return true;
}

/* Does the line hold what announces a connection? Digits as delimiters and zero bytes make the two readers' text differ:
 * such lines are the first reader's alone. */
static bool line_read(const uint8_t *s, size_t len, uint32_t dir, ftp_target *out, bool *told)
{
    static char text[ALG_LINE + 8];
    size_t end = 0;
    while (end < len && s[end] != '\r' && s[end] != '\n')
        end++;
    *told = true;
    if (end == len)
        return false;
    memset(text, 0, sizeof text);
    memcpy(text, s, end);
    *told = memchr(text, 0, end) == NULL && !(end > 5 && isdigit((unsigned char)text[5]) && (text[0] | 32) == 'e');
    for (size_t i = 0; dir && i + 1 < end; i++)
        *told &= text[i] != '(' || !isdigit((unsigned char)text[i + 1]) || text[1] != '2' || text[2] != '9';
    if (dir == 0 && strncasecmp(text, "PORT ", 5) == 0)
        return six_read(text + 5, out);
    if (dir == 0 && strncasecmp(text, "EPRT ", 5) == 0)
        return eprt_read(text + 5, out);
    if (dir == 1 && strncmp(text, "227 ", 4) == 0) {
        for (size_t i = 4; i < end; i++)
            if (isdigit((unsigned char)text[i]) && !isdigit((unsigned char)text[i - 1]) && six_read(text + i, out))
                return true;
    } else if (dir == 1 && strncmp(text, "229 ", 4) == 0) {
        for (size_t i = 4, tried = 0; i < end && tried < ALG_PARENTHESES; tried += text[i++] == '(')
            if (epsv_read(text + i, out))
                return true;
    }
    return false;
}

static void line_try(const uint8_t *data, size_t size, uint32_t dir)
{
    uint32_t len = size > ALG_LINE ? ALG_LINE : (uint32_t)size;
    uint8_t *own = malloc(len ? len : 1); /* just as long: the sanitizer sees a read past the end */
    memcpy(own, data, len);
    ftp_target a, b;
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    bool told, want = line_read(own, len, dir, &b, &told), got = ftp_line(own, len, dir, &a);
    free(own);
    if (!told)
        return;
    MUST(got == want);
    if (got)
        MUST(a.port == b.port && a.has_addr == b.has_addr && (!a.has_addr || (a.family == b.family && memcmp(a.addr, b.addr, 16) == 0)));
}

/* ---- the table: a plain list, oldest first -------------------------------------------------------------------------- */

#define PARENTS 200u
#define LISTED 1024u

typedef struct listed {
    uint32_t parent, generation;
    uint8_t ends;
    uint16_t port;
    uint64_t deadline;
} listed;

static listed list[LISTED + 1];
static uint32_t listeds;
static expect_table *table;
static ct_hot hot[PARENTS];
static ct_cold cold[PARENTS];
static ct_state_block state;
static ct_table connections;

static void unlist(uint32_t i)
{
    memmove(&list[i], &list[i + 1], (listeds - i - 1) * sizeof list[0]);
    listeds--;
}

static uint32_t list_find(uint8_t ends, uint16_t port)
{
    uint32_t i = 0;
    while (i < listeds && (list[i].ends != ends || list[i].port != port))
        i++;
    return i;
}

static void list_expire(void)
{
    while (listeds && state.now > list[0].deadline)
        unlist(0);
}

static void list_add(uint32_t parent, uint8_t ends, uint16_t port)
{
    list_expire();
    uint32_t same = list_find(ends, port), of_parent = 0, first = LISTED;
    if (same < listeds)
        unlist(same);
    for (uint32_t i = listeds; i-- > 0;)
        if (list[i].parent == parent) {
            of_parent++;
            first = i;
        }
    if (of_parent >= 8)
        unlist(first);
    if (listeds < LISTED)
        list[listeds++] = (listed){.parent = parent, .generation = cold[parent].generation, .ends = ends, .port = port,
                                   .deadline = state.now + 6000};
}

/* A bare packet between the ends that `ends` names: IPv4, 10.0.0.x to 10.0.1.y. */
static pal_packet packet_of(uint8_t *bytes, uint8_t ends, uint16_t port)
{
    memset(bytes, 0, 20);
    bytes[12] = bytes[16] = 10;
    bytes[15] = ends >> 4;
    bytes[18] = 1;
    bytes[19] = ends & 15;
    return (pal_packet){.data = bytes, .cap = 20, .wire = 20, .family = PAL_FAMILY_V4, .proto = PROTO_TCP, .dport = port};
}

static void operate(const uint8_t *b)
{
    uint32_t parent = b[1] % PARENTS, what = b[0] & 7;
    uint8_t ends = b[2], bytes[20];
    uint16_t port = (uint16_t)(1 + b[3]);
    state.now += (uint64_t)b[4] * b[4];
    if (what == 0) { /* a parent ends; its entry is another connection's */
        expect_forget(table, parent, state.seed);
        cold[parent].generation++;
        hot[parent].deadline = (uint32_t)state.now + 50000;
        for (uint32_t i = listeds; i-- > 0;)
            if (list[i].parent == parent)
                unlist(i);
    } else if (what == 1) { /* its time runs out sooner */
        hot[parent].deadline = (uint32_t)state.now + b[3];
    } else if (what < 5) {
        pal_packet p = packet_of(bytes, ends, port);
        expectation want = {.zone = 9, .parent = parent, .parent_generation = cold[parent].generation, .family = PAL_FAMILY_V4,
                            .kind = KIND_TCP, .dport = port};
        memcpy(want.src, packet_src(&p), 4);
        memcpy(want.dst, packet_dst(&p), 4);
        expect_add(table, &want, state.now, state.seed);
        list_add(parent, ends, port);
    } else {
        pal_packet p = packet_of(bytes, ends, port);
        bool elsewhere = what == 7 && (b[4] & 1); /* another zone or protocol: nobody expects it */
        uint32_t got = expect_take(table, &connections, &p, elsewhere && (b[4] & 2) ? 8 : 9, elsewhere && !(b[4] & 2) ? KIND_UDP : KIND_TCP);
        if (table->count || listeds)
            list_expire();
        uint32_t i = elsewhere ? listeds : list_find(ends, port), want = PAL_NONE;
        if (i < listeds && list[i].generation == cold[list[i].parent].generation &&
            (int32_t)(hot[list[i].parent].deadline - (uint32_t)state.now) >= 0) {
            want = list[i].parent;
            unlist(i);
        }
        MUST(got == want);
    }
}

static void table_try(const uint8_t *data, size_t size)
{
    if (!table)
        table = malloc(sizeof *table);
    expect_init(table);
    memset(&state, 0, sizeof state);
    memset(hot, 0, sizeof hot);
    memset(cold, 0, sizeof cold);
    listeds = 0;
    state.now = 0xfffff000u; /* deadlines are compared modulo 2^32 */
    for (uint32_t i = 0; i < HASH_KEY_WORDS; i++)
        state.seed[i] = i + 1;
    for (uint32_t i = 0; i < PARENTS; i++) {
        hot[i].state = CT_ESTABLISHED;
        hot[i].deadline = (uint32_t)state.now + 50000;
    }
    connections = (ct_table){.s = &state, .hot = hot, .cold = cold, .cap4 = PARENTS};
    for (size_t at = 0; at + 5 <= size; at += 5) {
        operate(data + at);
        MUST(table->count == listeds);
        uint16_t e = table->oldest;
        for (uint32_t i = 0; i < listeds; i++, e = table->e[e].newer)
            MUST(e != EXPECT_NONE && table->e[e].parent == list[i].parent && table->e[e].dport == list[i].port && table->e[e].deadline == list[i].deadline);
    }
    const char *broken = invariant_expected(table, &connections);
    if (broken)
        fprintf(stderr, "not so: %s\n", broken);
    MUST(broken == NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    if (data[0] & 1)
        table_try(data + 1, size - 1);
    else
        line_try(data + 1, size - 1, data[0] >> 1 & 1);
    return 0;
}
