/* SPDX-License-Identifier: Apache-2.0
 *
 * icmp_error.h - an ICMP error belongs to the connection whose packet it quotes (RFC 5927), or to none.
 * docs/packet-path.md, section 8.
 */
#ifndef PAL_CORE_ICMP_ERROR_H
#define PAL_CORE_ICMP_ERROR_H

#include "burst.h"

typedef struct icmp_quote {
    ct_key key;
    uint32_t seq;
} icmp_quote;

/* Reads the quoted packet; false when it cannot be read. */
static inline bool icmp_quote_read(const pal_packet *p, uint32_t zone, icmp_quote *q)
{
    const uint8_t *h = p->data + p->l4 + 8;
    uint32_t there = min_u32(p->cap - p->l4, p->l4_len) - 8, at;
    uint8_t proto;
    const uint8_t *src_dst;
    if (p->family == PAL_FAMILY_V4) {
        if (there < 20 || h[0] >> 4 != 4 || (h[0] & 15) < 5 || (load_be16(h + 6) & 0x1fff))
            return false;
        at = (h[0] & 15u) * 4;
        proto = h[9];
        src_dst = h + 12;
    } else {
        ip6_walk_result walk;
        if (there < 40 || h[0] >> 4 != 6 || ip6_walk(h, there, there, true, &walk) != PAL_REASON_MATCH || walk.fragment)
            return false;
        at = walk.offset;
        proto = walk.proto;
        src_dst = h + 8;
    }
    if (there < at + 8)
        return false;
    const uint8_t *l4 = h + at;
    ct_key *k = &q->key;
    q->seq = load_be32(l4 + 4);
    if (proto == PROTO_TCP || proto == PROTO_UDP || proto == PROTO_SCTP) {
        uint32_t kind = proto == PROTO_TCP ? KIND_TCP : proto == PROTO_UDP ? KIND_UDP : KIND_SCTP;
        uint16_t port[2] = {load_be16(l4), load_be16(l4 + 2)};
        key_make(k, kind, p->family, zone, src_dst, port);
        return true;
    }
    if (proto == (p->family == PAL_FAMILY_V4 ? PROTO_ICMP : PROTO_ICMP6)) {
        uint32_t type = l4[0];
        bool query = p->family == PAL_FAMILY_V4 ? type == 8 || type == 13 || type == 15 || type == 17 : type == 128 || type == 139;
        bool answer = p->family == PAL_FAMILY_V4 ? type == 0 || type == 14 || type == 16 || type == 18 : type == 129 || type == 140;
        if (query || answer)
            key_make_icmp(k, p->family, zone, src_dst, load_be16(l4 + 4), type, answer);
        return query || answer;
    }
    key_make(k, KIND_OTHER, p->family, zone, src_dst, l4);
    k->ports_zone = pair_u32(pair_u16(proto, 0), zone);
    return true;
}

/* RFC 5927 section 4.1: the quoted sequence number must be of data in flight. */
static inline bool icmp_quote_fits(const ct_hot *h, uint32_t S, uint32_t seq)
{
    if (ct_kind_of(h) != KIND_TCP || (h->marks & CT_LIBERAL))
        return true;
    uint32_t R = !S, end = h->half[S].end;
    if (PAL_UNLIKELY(h->state & CT_RESYNC))
        return !resync_is_far(seq, end, resync_reach(h, R));
    if (!end_has(h, S, END_SEEN) || seq_after(seq, end))
        return false;
    return !seq_before(seq, end_has(h, R, END_ACKED) ? h->half[R].ack : end - TCP_SLACK);
}

/* Look-up ahead of the verdict, as for other packets: the quote is read, its index line fetched. False: it can't be read. */
PAL_OUTLINE bool icmp_error_key(pal_worker *w, pal_burst *b, uint32_t v)
{
    const pal_packet *p = b->packet[v];
    icmp_quote q;
    if (!icmp_quote_read(p, filter_zone(w, b->filter[v], p->vrf), &q))
        return false;
    b->key[v] = q.key;
    b->quote_seq[v] = q.seq;
    b->hash[v] = key_hash(&q.key, w->table.s->seed);
    b->entry[v] = HINT_QUOTED;
    return true;
}

/* Inlined: a function that only prefetches has no effect that a compiler must keep. */
PAL_INLINE void icmp_error_prefetch(const ct_table *t, pal_burst *b, uint32_t v)
{
    const ct_bucket *bucket = &t->bucket[b->bucket[v]];
    uint32_t m = bucket_match(bucket, hash_tag(b->hash[v]));
    if (m == 0)
        return;
    uint32_t ref = bucket->ref[__builtin_ctz(m)];
    if (PAL_UNLIKELY(ref & CT_REPLY_TUPLE))
        return;
    b->ref[v] = ref;
    prefetch_read(&t->hot[ref]);
    prefetch_read(&t->cold[ref]);
    if (ref >= t->cap4)
        prefetch_read(&t->addr6[ref - t->cap4]);
}

PAL_OUTLINE void judge_icmp_error(judge_case *c)
{
    ct_table *t = &c->w->table;
    icmp_quote q;
    bool ahead = c->hint && c->hint->entry == HINT_QUOTED;
    uint64_t hash;
    if (ahead) {
        q.key = *c->hint->key;
        q.seq = c->hint->seq;
        hash = c->hint->hash;
    } else {
        /* Errors fit into every link (RFC 1812 section 4.3.2.3, RFC 4443 section 2.4 c): fragments of one are no router's. */
        if (c->p->fragments > 1 || !icmp_quote_read(c->p, filter_zone(c->w, c->f, c->p->vrf), &q)) {
            judge_verdict(c, PAL_DROP, PAL_REASON_ICMP_QUOTE, PAL_CT_INVALID);
            return;
        }
        hash = key_hash(&q.key, t->s->seed);
    }
    uint32_t quoted = 0, ref = ct_find_direction(t, &q.key, hash, &quoted);
    if (ref != PAL_NONE && wheel_is_past(t, t->hot[ref].deadline)) {
        ct_end(t, ref, CT_END_TIMEOUT);
        ref = PAL_NONE;
    }
    if (ref != PAL_NONE) {
        ct_hot *h = &t->hot[ref];
        if (h->epoch != c->f->epoch && rejudge_connection(c, ref, !quoted) != REJUDGE_KEPT)
            ref = PAL_NONE;
        else if ((h->marks & CT_CHILD) && child_parent(t, ref) == PAL_NONE) {
            ct_end(t, ref, CT_END_PARENT);
            ref = PAL_NONE;
        } else {
            if (PAL_UNLIKELY(h->state & CT_RESYNC))
                resync_time(t->s, h);
            if (!icmp_quote_fits(h, quoted, q.seq)) {
                judge_verdict(c, PAL_DROP, PAL_REASON_ICMP_UNRELATED, PAL_CT_INVALID);
                return;
            }
            c->j->rule = t->cold[ref].rule;
            c->j->reply = !quoted;
            judge_verdict(c, PAL_ALLOW, PAL_REASON_RELATED, PAL_CT_RELATED);
            rule_count_direct(c->w, c->j, c->p);
            return;
        }
    }
    c->j->rule = PAL_NONE;
    c->misfit = true;
    judge_rules(c);
}

#endif
