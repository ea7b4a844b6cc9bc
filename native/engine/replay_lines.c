/* SPDX-License-Identifier: Apache-2.0
 *
 * replay_lines.c - one JSON line a judgement.
 *
 * A line is two numbers between pieces of text that are known beforehand: one for each rule, filter and direction, verdict
 * and reason, ct and reply. They are made once, each followed by room, so that a piece is copied in whole steps of 32 bytes
 * by inlined moves: the bytes that a step copies too many are overwritten by the next piece, or are behind the end.
 */
#include <stdlib.h>

#include "../io/decimal.h"
#include "../io/sink.h"
#include "replay.h"

#define STEP 32u
#define DIRS 4u /* PAL_DIR_IN, PAL_DIR_OUT, both; 0 is never used */

typedef struct line_piece {
    const char *text;
    size_t len;
} line_piece;

struct replay_lines {
    char *memory;            /* where the pieces' text is */
    line_piece *rule;        /* by number; the last: no rule */
    line_piece *staged_rule; /* the same of the staged engine; NULL: there is none */
    line_piece *place;       /* by filter and direction; the last: no filter */
    uint32_t rules, staged_rules, filters;
    line_piece decision[PAL_VERDICT_COUNT][PAL_REASON_COUNT], end[PAL_CT_COUNT][2];
    line_piece file;         /* of the lines that are being written */
    char *file_memory;
    uint32_t file_number;
    sink out;
};

/* Text that pieces are cut from; with `to` NULL it is only measured. */
typedef struct piece_maker {
    char *to;
    size_t at;
} piece_maker;

static line_piece piece_make(piece_maker *m, const char *a, const char *b, const char *c, const char *d, const char *e)
{
    const char *const part[] = {a, b, c, d, e};
    line_piece piece = {.text = m->to ? m->to + m->at : NULL};
    for (size_t i = 0; i < sizeof part / sizeof part[0]; i++) {
        const size_t n = strlen(part[i]);
        if (m->to)
            memcpy(m->to + m->at + piece.len, part[i], n);
        piece.len += n;
    }
    m->at += piece.len + STEP;
    return piece;
}

static void pieces_make(replay_lines *l, const pal_replay_options *o, piece_maker *m)
{
    for (uint32_t i = 0; i < l->rules; i++)
        l->rule[i] = piece_make(m, o->rule_json[i], "", "", "", "");
    l->rule[l->rules] = piece_make(m, "\"rule\": null, \"rule_path\": null", "", "", "", "");
    for (uint32_t i = 0; o->staged && i < l->staged_rules; i++)
        l->staged_rule[i] = piece_make(m, o->staged_rule_json[i], "", "", "", "");
    if (o->staged)
        l->staged_rule[l->staged_rules] = piece_make(m, "\"rule\": null, \"rule_path\": null", "", "", "", "");
    for (uint32_t i = 0; i < l->filters; i++)
        for (uint8_t dir = 0; dir < DIRS; dir++)
            l->place[i * DIRS + dir] = piece_make(m, o->filter_json[i], ", \"dir\": \"", replay_word_dir(dir), "\"", "");
    l->place[l->filters * DIRS] = piece_make(m, "\"vnic\": null, \"dir\": null", "", "", "", "");
    for (uint32_t v = 0; v < PAL_VERDICT_COUNT; v++)
        for (uint32_t r = 0; r < PAL_REASON_COUNT; r++)
            l->decision[v][r] = piece_make(m, ", \"verdict\": \"", pal_word_verdict(v), "\", \"reason\": \"", pal_word_reason(r), "\", ");
    for (uint32_t c = 0; c < PAL_CT_COUNT; c++)
        for (uint32_t reply = 0; reply < 2; reply++)
            l->end[c][reply] = piece_make(m, ", \"ct\": \"", pal_word_ct(c), "\", \"reply\": ", reply ? "true" : "false", o->staged ? "" : "}\n");
}

replay_lines *lines_open(const pal_replay_options *o)
{
    replay_lines *l = calloc(1, sizeof *l);
    if (!l)
        return NULL;
    l->rules = o->rules;
    l->staged_rules = o->staged_rules;
    l->filters = o->filters;
    l->out.fd = o->verdict_fd;
    l->file_number = PAL_NONE;
    l->rule = calloc(l->rules + 1, sizeof *l->rule);
    l->place = calloc((size_t)l->filters * DIRS + 1, sizeof *l->place);
    if (o->staged)
        l->staged_rule = calloc((size_t)l->staged_rules + 1, sizeof *l->staged_rule);
    piece_maker maker = {0};
    if (l->rule && l->place && (l->staged_rule || !o->staged)) {
        pieces_make(l, o, &maker);
        l->memory = calloc(1, maker.at);
    }
    if (!l->memory) {
        lines_close(l);
        return NULL;
    }
    maker = (piece_maker){.to = l->memory};
    pieces_make(l, o, &maker);
    return l;
}

int lines_close(replay_lines *l)
{
    if (!l)
        return 0;
    sink_flush(&l->out);
    const int error = l->out.error;
    free(l->memory);
    free(l->rule);
    free(l->staged_rule);
    free(l->place);
    free(l->file_memory);
    free(l);
    return error;
}

int lines_error(const replay_lines *l) { return l->out.error; }

/* The lines that follow are of another file. */
static bool lines_file(replay_lines *l, uint32_t number, const char *json)
{
    piece_maker maker = {0};
    piece_make(&maker, ", \"file\": ", json, ", ", "", "");
    char *memory = realloc(l->file_memory, maker.at);
    if (!memory)
        return false;
    l->file_memory = memory;
    maker = (piece_maker){.to = memory};
    l->file = piece_make(&maker, ", \"file\": ", json, ", ", "", "");
    l->file_number = number;
    return true;
}

PAL_INLINE char *piece_put(char *to, const line_piece *p)
{
    for (size_t i = 0; i < p->len; i += STEP)
        memcpy(to + i, p->text + i, STEP);
    return to + p->len;
}

PAL_INLINE char *literal_put(char *to, const char *literal, size_t len)
{
    memcpy(to, literal, len);
    return to + len;
}

#define NUMBER_BEGIN "{\"n\": "
#define TIME_BEGIN ", \"ts\": "
#define NUMBERS_MAX (sizeof NUMBER_BEGIN + sizeof TIME_BEGIN + DECIMAL_U64_MAX + DECIMAL_SECONDS_MAX)

/* A line that does not fit into the buffer at once: paths can be long. */
static void line_write_long(replay_lines *l, const char *numbers, size_t len, const line_piece *const piece[5])
{
    sink_append(&l->out, numbers, len);
    for (int i = 0; i < 5; i++)
        sink_append(&l->out, piece[i]->text, piece[i]->len);
}

bool lines_write(replay_lines *l, const pal_record *v, const char *const *file_json)
{
    if (PAL_UNLIKELY(v->file != l->file_number) && !lines_file(l, v->file, file_json[v->file]))
        return false;
    const line_piece *const piece[5] = {
        &l->file,
        &l->place[v->filter == PAL_NO_FILTER ? (size_t)l->filters * DIRS : (size_t)v->filter * DIRS + v->dir],
        &l->decision[v->verdict][v->reason],
        &l->rule[v->rule == PAL_NO_RULE ? l->rules : v->rule],
        &l->end[v->ct][v->reply],
    };
    size_t most = NUMBERS_MAX + STEP;
    for (int i = 0; i < 5; i++)
        most += piece[i]->len;
    char elsewhere[NUMBERS_MAX];
    const bool fits = PAL_LIKELY(most <= PAL_SINK_BYTES);
    char *const begin = fits ? sink_room(&l->out, most) : elsewhere;
    char *to = literal_put(begin, NUMBER_BEGIN, sizeof NUMBER_BEGIN - 1);
    to += decimal_u64(to, v->number);
    to = literal_put(to, TIME_BEGIN, sizeof TIME_BEGIN - 1);
    to += decimal_seconds(to, v->ts_ns);
    if (PAL_UNLIKELY(!fits)) {
        line_write_long(l, elsewhere, (size_t)(to - elsewhere), piece);
        return true;
    }
    for (int i = 0; i < 5; i++)
        to = piece_put(to, piece[i]);
    l->out.used += (size_t)(to - begin);
    return true;
}

/* ---- what staged policies would have said ------------------------------------------------------------------------- */

static void line_text(replay_lines *l, const char *text) { sink_append(&l->out, text, strlen(text)); }

static void line_piece_put(replay_lines *l, const line_piece *p, size_t skipped)
{
    sink_append(&l->out, p->text + skipped, p->len - skipped);
}

/* `"verdict": ...` without the comma that a line has before it. */
static void line_judged(replay_lines *l, const pal_record *s)
{
    line_piece_put(l, &l->decision[s->verdict][s->reason], 2);
    line_piece_put(l, &l->staged_rule[s->rule == PAL_NO_RULE ? l->staged_rules : s->rule], 0);
    line_text(l, "}");
}

void lines_staged(replay_lines *l, const pal_record *s, const pal_record *then, size_t n)
{
    line_text(l, ", \"staged\": ");
    if (s) {
        line_text(l, "{");
        line_judged(l, s);
    } else {
        line_text(l, "null");
    }
    for (size_t i = 0; i < n; i++) {
        line_text(l, i == 0 ? ", \"staged_then\": [{" : ", {");
        line_piece_put(l, &l->place[(size_t)then[i].filter * DIRS + then[i].dir], 0);
        line_text(l, ", ");
        line_judged(l, &then[i]);
    }
    line_text(l, n ? "]}\n" : "}\n");
}
