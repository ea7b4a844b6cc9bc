/* SPDX-License-Identifier: Apache-2.0
 *
 * replay_flows.c - flow records as JSON lines, and the words in them.
 */
#include <arpa/inet.h>
#include <errno.h>

#include "replay.h"

const char *pal_word_state(uint32_t kind, uint32_t state)
{
    static const char *const tcp[] = {NULL, "SYN_SENT", "SYN_SENT2", "SYN_RECEIVED", "ESTABLISHED", "FIN_WAIT", "CLOSING",
                                      "TIME_WAIT", "CLOSED"};
    static const char *const sctp[] = {NULL, "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED", "SHUTDOWN", "SHUTDOWN_ACK", "CLOSED"};
    static const char *const icmp[] = {NULL, "FIRST", "FIRST", "REPLIED"};
    static const char *const other[] = {NULL, "FIRST", "SINGLE", "MULTIPLE"};
    switch (kind) {
    case KIND_TCP:
        return state < sizeof tcp / sizeof tcp[0] ? tcp[state] : NULL;
    case KIND_SCTP:
        return state < sizeof sctp / sizeof sctp[0] ? sctp[state] : NULL;
    case KIND_ICMP:
        return state < 4 ? icmp[state] : NULL;
    default:
        return state < 4 ? other[state] : NULL;
    }
}

const char *pal_word_end(const pal_flow *f)
{
    static const char *const word[] = {"open", "timeout", "reopened", "evicted", "policy", "parent", "cleared"};
    if (f->end_reason == CT_END_TIMEOUT) {
        if (f->kind == KIND_TCP && f->state == CT_TIME_WAIT)
            return "fin";
        if ((f->kind == KIND_TCP && f->state == CT_CLOSED) || (f->kind == KIND_SCTP && f->state == CT_SCTP_CLOSED))
            return "rst";
    }
    return f->end_reason < sizeof word / sizeof word[0] ? word[f->end_reason] : NULL;
}

static void text_string(pal_text *t, const char *s) { pal_text_bytes(t, s, strlen(s)); }

static void text_address(pal_text *t, const uint8_t *a, uint8_t family)
{
    char s[INET6_ADDRSTRLEN];
    inet_ntop(family == PAL_FAMILY_V4 ? AF_INET : AF_INET6, a, s, sizeof s);
    pal_text_literal(t, "\"");
    text_string(t, s);
    pal_text_literal(t, "\"");
}

static void flow_write(const struct pal_replay *r, pal_text *t, const pal_flow *f, const char *const *file_json)
{
    pal_text_literal(t, "{\"file\": ");
    text_string(t, file_json[f->file]);
    pal_text_literal(t, ", ");
    text_string(t, r->options.filter_json[f->filter]);
    pal_text_literal(t, ", \"dir\": \"");
    text_string(t, !r->options.vnics ? "IN_OUT" : f->dir == PAL_DIR_OUT ? "OUT" : "IN");
    pal_text_literal(t, "\", \"proto\": ");
    pal_text_u64(t, f->proto);
    pal_text_literal(t, ", \"src\": ");
    text_address(t, f->src, f->family);
    pal_text_literal(t, ", \"sport\": ");
    pal_text_u64(t, f->sport);
    pal_text_literal(t, ", \"dst\": ");
    text_address(t, f->dst, f->family);
    pal_text_literal(t, ", \"dport\": ");
    pal_text_u64(t, f->dport);
    pal_text_literal(t, ", \"packets\": ");
    pal_text_u64(t, f->packets);
    pal_text_literal(t, ", \"bytes\": ");
    pal_text_u64(t, f->bytes);
    pal_text_literal(t, ", \"reply_packets\": ");
    pal_text_u64(t, f->reply_packets);
    pal_text_literal(t, ", \"reply_bytes\": ");
    pal_text_u64(t, f->reply_bytes);
    pal_text_literal(t, ", \"dropped\": ");
    pal_text_u64(t, f->dropped);
    pal_text_literal(t, ", \"state\": \"");
    text_string(t, pal_word_state(f->kind, f->state));
    pal_text_literal(t, "\", \"history\": \"");
    pal_text_bytes(t, f->history, strnlen(f->history, sizeof f->history));
    pal_text_literal(t, "\", \"start\": ");
    pal_text_seconds(t, f->start_ns);
    pal_text_literal(t, ", \"end\": ");
    pal_text_seconds(t, f->end_ns);
    pal_text_literal(t, ", \"end_reason\": \"");
    text_string(t, pal_word_end(f));
    pal_text_literal(t, "\", ");
    text_string(t, r->options.rule_json[f->rule]);
    pal_text_literal(t, "}\n");
}

int pal_replay_flows_write(pal_replay *r, int fd, const char *const *file_json)
{
    uint64_t n;
    const pal_flow *f = pal_replay_flows(r, &n);
    pal_text *t = pal_text_open(fd);
    if (!t)
        return -ENOMEM;
    for (uint64_t i = 0; i < n; i++)
        flow_write(r, t, &f[i], file_json);
    return pal_text_close(t);
}
