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
    text_string(t, s);
}

/* What stands before each value. Our own values need no quoting in CSV; the caller's have it already. */
static const struct {
    const char *file, *filter, *dir, *proto, *src, *sport, *dst, *dport, *packets, *bytes, *reply_packets, *reply_bytes;
    const char *dropped, *state, *history, *start, *end, *end_reason, *rule, *last;
} between[2] = {
    {"{\"file\": ", ", ", ", \"dir\": \"", "\", \"proto\": ", ", \"src\": \"", "\", \"sport\": ", ", \"dst\": \"",
     "\", \"dport\": ", ", \"packets\": ", ", \"bytes\": ", ", \"reply_packets\": ", ", \"reply_bytes\": ", ", \"dropped\": ",
     ", \"state\": \"", "\", \"history\": \"", "\", \"start\": ", ", \"end\": ", ", \"end_reason\": \"", "\", ", "}\n"},
    {"", ",", ",", ",", ",", ",", ",", ",", ",", ",", ",", ",", ",", ",", ",", ",", ",", ",", ",", "\r\n"},
};

#define FLOW_TEXT(name, value) (text_string(t, between[csv].name), text_string(t, (value)))
#define FLOW_NUMBER(name) (text_string(t, between[csv].name), pal_text_u64(t, f->name))

/* What the staged policies would do to it. A verdict that is not there is null, and nothing in CSV. */
static void text_staged(pal_text *t, const pal_staged_flow *s, bool csv, const char *const *rule, uint32_t none)
{
    const bool judged = s->verdict != PAL_NO_VERDICT;
    const char *const word[2] = {judged ? pal_word_verdict(s->verdict) : NULL, judged ? pal_word_reason(s->reason) : NULL};
    static const char *const name[2] = {", \"staged_verdict\": ", ", \"staged_reason\": "};
    for (int i = 0; i < 2; i++) {
        text_string(t, csv ? "," : name[i]);
        if (word[i] && !csv)
            text_string(t, "\"");
        text_string(t, word[i] ? word[i] : csv ? "" : "null");
        if (word[i] && !csv)
            text_string(t, "\"");
    }
    text_string(t, csv ? "," : ", ");
    text_string(t, rule[s->rule == PAL_NO_RULE ? none : s->rule]);
    text_string(t, csv ? "," : ", \"staged_cut_packets\": ");
    pal_text_u64(t, s->packets);
    text_string(t, csv ? "," : ", \"staged_pass_packets\": ");
    pal_text_u64(t, s->passes);
}

int pal_replay_flows_write(pal_replay *r, int fd, int csv, const char *const *file, const char *const *filter,
                           const char *const *rule, const pal_staged_flow *staged, const char *const *staged_rule)
{
    uint64_t n;
    const pal_flow *f = pal_replay_flows(r, &n);
    pal_text *t = pal_text_open(fd);
    if (!t)
        return -ENOMEM;
    csv = csv != 0;
    for (; n > 0; n--, f++) {
        FLOW_TEXT(file, file[f->file]);
        FLOW_TEXT(filter, filter[f->filter]);
        FLOW_TEXT(dir, replay_word_dir(r->options.vnics ? f->dir : PAL_DIR_IN | PAL_DIR_OUT));
        FLOW_NUMBER(proto);
        text_string(t, between[csv].src);
        text_address(t, f->src, f->family);
        FLOW_NUMBER(sport);
        text_string(t, between[csv].dst);
        text_address(t, f->dst, f->family);
        FLOW_NUMBER(dport);
        FLOW_NUMBER(packets);
        FLOW_NUMBER(bytes);
        FLOW_NUMBER(reply_packets);
        FLOW_NUMBER(reply_bytes);
        FLOW_NUMBER(dropped);
        FLOW_TEXT(state, pal_word_state(f->kind, f->state));
        text_string(t, between[csv].history);
        pal_text_bytes(t, f->history, strnlen(f->history, sizeof f->history));
        text_string(t, between[csv].start);
        pal_text_seconds(t, f->start_ns);
        text_string(t, between[csv].end);
        pal_text_seconds(t, f->end_ns);
        FLOW_TEXT(end_reason, pal_word_end(f));
        FLOW_TEXT(rule, rule[f->rule]);
        if (staged)
            text_staged(t, staged++, csv, staged_rule, r->options.staged_rules);
        text_string(t, between[csv].last);
    }
    return pal_text_close(t);
}
